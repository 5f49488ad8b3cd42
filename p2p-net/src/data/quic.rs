//! QUIC: quinn endpoints tuned for bulk, and quinn's connections as the data plane uses them.
//!
//! Owns the sizes of windows, buffers and packets. Invariant: a transfer that is dropped before its
//! end is reset, although quinn would finish it. Knows nothing of builds.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use p2p_core::{CHUNK_SIZE_MAX, NodeId};
use quinn::{Connection as QuicConnection, ReadExactError, RecvStream, SendStream};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::timeout;
use tracing::warn;

use super::buffers::{Buffers, Segment};
use super::dscp::{self, TrafficClass};
use super::frame::{FRAME_BYTES_MAX, TransferHeader};
use super::transport::{
    Connection, IDLE_TIME, KEEP_ALIVE, Lost, MessageFault, MessageRx, MessageTx, STALL_TIME,
    TRANSFERS_MAX, TransferRx, TransferTx, TransportKind,
};
use crate::tls::TlsIdentity;

/// Socket buffer asked of the system. The default of Linux loses packets even on loopback; half of
/// this still does now and then, and no gain was measured beyond.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Bytes of one connection under way on a way without latency. Less leaves gaps while one end waits
/// for its turn on the processor; more falls out of the processor's cache before it is sent.
const WINDOW_MIN: u64 = 4 << 20;

/// Bytes of one connection under way on the longest ways: half of the default memory budget.
const WINDOW_MAX: u64 = 32 << 20;

/// What the windows are made for: 10 Gbit/s, in bytes per millisecond.
const LINE_RATE: u64 = 1_250_000;

/// Bytes of one stream under way: a chunk of the largest size.
const STREAM_WINDOW: u32 = CHUNK_SIZE_MAX;

/// Largest UDP payload tried. Ten of them in one system call must stay below 64 KiB, or the call
/// fails and path MTU discovery takes the path for broken.
const PAYLOAD_MAX: u16 = 6_500;

/// Parts taken from a stream at once: a deadline per packet would cost more than the packet.
const PARTS_AT_ONCE: usize = 32;

/// An endpoint on one runtime, and how to dial with it.
#[derive(Clone, Debug)]
pub(super) struct QuicEndpoint {
    endpoint: quinn::Endpoint,
    tls: TlsIdentity,
    transport: Arc<quinn::TransportConfig>,
}

impl QuicEndpoint {
    /// On the current runtime. Accepts connections if `is_listening`.
    pub(super) fn new(
        tls: &TlsIdentity,
        (socket, class): (UdpSocket, TrafficClass),
        is_listening: bool,
    ) -> io::Result<Self> {
        let transport = Arc::new(transport_config());
        let server = if is_listening {
            let crypto = tls.quic_server_config().map_err(io::Error::other)?;
            let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
            server.transport_config(transport.clone()).migration(false);
            Some(server)
        } else {
            None
        };
        let mut config = quinn::EndpointConfig::default();
        config.max_udp_payload_size(PAYLOAD_MAX).map_err(io::Error::other)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            config,
            server,
            dscp::udp_socket(socket, class)?,
            runtime,
        )?;
        Ok(Self { endpoint, tls: tls.clone(), transport })
    }

    /// Connects to `node` and nobody else.
    pub(super) async fn dial(
        &self,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<QuicConnection, String> {
        let crypto = self.tls.quic_client_config(node).map_err(|error| error.to_string())?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        // The name is never looked at: the certificate proves a key, not a name.
        let connecting = self.endpoint.connect_with(config, address, "shoal");
        let connecting = connecting.map_err(|error| error.to_string())?;
        let connection = connecting.await.map_err(|error| error.to_string())?;
        fit_windows(&connection);
        Ok(connection)
    }

    /// The next connection whose handshake is still to be awaited; `None` once closed.
    pub(super) async fn accept(&self) -> Option<quinn::Incoming> {
        self.endpoint.accept().await
    }

    /// Closes every connection, and waits a moment for the far ends to hear of it.
    pub(super) async fn close(&self) {
        self.endpoint.close(0_u8.into(), b"shutdown");
        // A far end that does not hear of it finds out when the connection falls silent.
        drop(timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await);
    }
}

/// Lets as many bytes be under way as fill a fast line of this length.
pub(super) fn fit_windows(connection: &QuicConnection) {
    let microseconds = u64::try_from(connection.rtt().as_micros()).unwrap_or(u64::MAX);
    let product = microseconds.saturating_mul(LINE_RATE) / 1_000;
    let window = product.clamp(WINDOW_MIN, WINDOW_MAX);
    connection.set_send_window(window);
    connection.set_receive_window(u32::try_from(window).unwrap_or(u32::MAX).into());
}

fn transport_config() -> quinn::TransportConfig {
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(PAYLOAD_MAX);
    let window = u32::try_from(WINDOW_MIN).unwrap_or(u32::MAX);
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_uni_streams(TRANSFERS_MAX.into())
        .max_concurrent_bidi_streams(1_u8.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(window.into())
        .send_window(WINDOW_MIN)
        .mtu_discovery_config(Some(discovery))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE_TIME).ok())
        .datagram_receive_buffer_size(None);
    transport
}

/// A UDP socket with large buffers. `is_shared`: several sockets of this process share the port,
/// and the system deals incoming connections out to them.
pub(super) fn bind_socket(address: SocketAddr, is_shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    if is_shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    let granted = granted_bytes(socket.recv_buffer_size()?);
    if granted < SOCKET_BUFFER_BYTES {
        warn!(
            "the system grants a socket buffer of {granted} bytes, which loses packets at high \
             rates; run: sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES} \
             net.core.wmem_max={SOCKET_BUFFER_BYTES}"
        );
    }
    Ok(socket.into())
}

/// Linux doubles what it grants, for its own bookkeeping, and reports the double.
const fn granted_bytes(reported: usize) -> usize {
    reported / 2
}

/// What is asked of the system for a socket, and what it grants for receiving and for sending.
pub(crate) fn socket_buffers() -> io::Result<[u64; 3]> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    let receive = granted_bytes(socket.recv_buffer_size()?);
    let send = granted_bytes(socket.send_buffer_size()?);
    Ok([SOCKET_BUFFER_BYTES as u64, receive as u64, send as u64])
}

impl Connection for QuicConnection {
    const KIND: TransportKind = TransportKind::Quic;
    type MessageTx = SendStream;
    type MessageRx = RecvStream;
    type Tx = QuicTx;
    type Rx = QuicRx;

    fn remote_address(&self) -> SocketAddr {
        Self::remote_address(self)
    }

    fn close(&self, reason: &str) {
        Self::close(self, 0_u8.into(), reason.as_bytes());
    }

    fn close_reason(&self) -> Option<String> {
        Self::close_reason(self).map(|reason| reason.to_string())
    }

    async fn open_messages(&self, is_ours: bool) -> Result<(SendStream, RecvStream), Lost> {
        // The stream reaches the far end with its first bytes: the dialler's join.
        let opened = if is_ours { self.open_bi().await } else { self.accept_bi().await };
        opened.or(Err(Lost))
    }

    async fn open_transfer(&self, header: TransferHeader) -> Result<QuicTx, Lost> {
        let stream = lost(timeout(STALL_TIME, self.open_uni()).await)?;
        let mut stream = QuicTx { stream, is_done: false };
        stream.stream.write_all(&header.encode()).await.or(Err(Lost))?;
        Ok(stream)
    }

    async fn accept_transfer(&self) -> Result<QuicRx, Lost> {
        let stream = self.accept_uni().await.or(Err(Lost))?;
        Ok(QuicRx { stream, parts: VecDeque::new() })
    }
}

/// What came in time and well.
fn lost<T, E, F>(outcome: Result<Result<T, E>, F>) -> Result<T, Lost> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) | Err(_) => Err(Lost),
    }
}

impl MessageTx for SendStream {
    async fn send(&mut self, frame: Vec<u8>) -> Result<(), Lost> {
        self.write_all(&frame).await.or(Err(Lost))
    }

    async fn finish(mut self) {
        // Errors mean that the connection has ended already.
        drop(Self::finish(&mut self));
        drop(self.stopped().await);
    }
}

impl MessageRx for RecvStream {
    async fn next(&mut self, frame: &mut Vec<u8>) -> Result<(), MessageFault> {
        let mut length = [0; 4];
        match self.read_exact(&mut length).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_)) => {
                return Err(MessageFault::Lost);
            }
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(MessageFault::TooLong);
        }
        frame.resize(length, 0);
        self.read_exact(frame).await.or(Err(MessageFault::Lost))
    }
}

/// The sending end of a chunk. quinn finishes a stream that is dropped, which would make half a
/// chunk look whole, so this resets it.
#[derive(Debug)]
pub(crate) struct QuicTx {
    stream: SendStream,
    is_done: bool,
}

impl Drop for QuicTx {
    fn drop(&mut self) {
        if !self.is_done {
            // An error means that the stream has ended already.
            drop(self.stream.reset(0_u8.into()));
        }
    }
}

impl TransferTx for QuicTx {
    async fn write(&mut self, bytes: Bytes) -> Result<(), Lost> {
        lost(timeout(STALL_TIME, self.stream.write_chunk(bytes)).await)
    }

    async fn finish(mut self) -> Result<bool, Lost> {
        SendStream::finish(&mut self.stream).or(Err(Lost))?;
        // `Some` code: the peer stopped reading before the end.
        let stopped = lost(timeout(STALL_TIME, self.stream.stopped()).await)?;
        self.is_done = true;
        Ok(stopped.is_none())
    }
}

/// The receiving end of a chunk. Dropping it stops the stream, as quinn does.
#[derive(Debug)]
pub(crate) struct QuicRx {
    stream: RecvStream,
    /// What was taken from the stream at once and is not in a segment yet.
    parts: VecDeque<Bytes>,
}

impl TransferRx for QuicRx {
    async fn header(&mut self) -> Result<[u8; TransferHeader::BYTES], Lost> {
        let mut header = [0; TransferHeader::BYTES];
        lost(timeout(STALL_TIME, self.stream.read_exact(&mut header)).await)?;
        Ok(header)
    }

    async fn next_segment(&mut self, buffers: &Arc<Buffers>) -> Result<Option<Segment>, Lost> {
        let mut segment = buffers.segment_to_fill();
        while segment.room() > 0 {
            let Some(first) = self.parts.front_mut() else {
                let mut parts: [Bytes; PARTS_AT_ONCE] = std::array::from_fn(|_| Bytes::new());
                let read = self.stream.read_chunks(&mut parts);
                let Some(count) = lost(timeout(STALL_TIME, read).await)? else { break };
                self.parts.extend(parts.into_iter().take(count));
                continue;
            };
            let part = first.split_to(first.len().min(segment.room()));
            segment.extend_from_slice(&part);
            if first.is_empty() {
                self.parts.pop_front();
            }
        }
        Ok((!segment.as_ref().is_empty()).then_some(segment))
    }
}
