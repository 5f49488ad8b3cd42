//! The bare pipeline over quinn: one stream, one thread per end for the network.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, RecvStream, TransportConfig};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Runtime;

use crate::files::{Destination, Source, offsets, request_size};
use crate::{REQUEST_BYTES, REQUESTS_IN_FLIGHT, announce, destination};

/// As in the node: the default loses packets even on loopback.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Bytes under way, as in the node.
const WINDOW_BYTES: u32 = 8 << 20;

/// Packets' worth of bytes taken from the stream at once.
const PIECES: usize = 32;

/// The end that waits for the other to close says goodbye by itself after this.
const GOODBYE_TIME: Duration = Duration::from_secs(5);

/// Serves one receiver to the end of its requests.
pub(crate) fn send(source: &Source, config: rustls::ServerConfig, mtu: u16) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let crypto = QuicServerConfig::try_from(config)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(transport(mtu));
        let endpoint = endpoint(Some(server), mtu)?;
        announce(endpoint.local_addr()?)?;
        let incoming = endpoint.accept().await.context("the endpoint was closed")?;
        let connection = incoming.await?;
        let (mut answers, mut requests) = connection.accept_bi().await?;
        answers.write_all(&source.size().to_le_bytes()).await?;
        let mut buffers = Buffers::default();
        for _ in offsets(source.size()) {
            let mut offset = [0; 8];
            requests.read_exact(&mut offset).await?;
            let mut buffer = buffers.take();
            let count = source.read(u64::from_le_bytes(offset), &mut buffer)?;
            answers.write_chunk(buffers.keep(buffer).slice(..count)).await?;
        }
        answers.finish()?;
        drop(tokio::time::timeout(GOODBYE_TIME, connection.closed()).await);
        Ok(())
    })
}

/// Asks for the whole file, a few requests at a time.
pub(crate) fn receive(
    address: SocketAddr,
    out: &Path,
    config: rustls::ClientConfig,
    mtu: u16,
) -> anyhow::Result<Destination> {
    runtime()?.block_on(async {
        let crypto = QuicClientConfig::try_from(config)?;
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        client.transport_config(transport(mtu));
        let endpoint = endpoint(None, mtu)?;
        let connection = endpoint.connect_with(client, address, "shoal")?.await?;
        let (mut requests, mut answers) = connection.open_bi().await?;
        let first = offsets(u64::MAX).take(usize::try_from(REQUESTS_IN_FLIGHT)?);
        // The sender looks at the stream once there is something on it.
        requests.write_all(&first.flat_map(u64::to_le_bytes).collect::<Vec<u8>>()).await?;
        let mut size = [0; 8];
        answers.read_exact(&mut size).await?;
        let size = u64::from_le_bytes(size);
        let mut destination = destination(out, size)?;
        let mut asked = offsets(size).skip(usize::try_from(REQUESTS_IN_FLIGHT)?);
        let mut pieces = Pieces::default();
        let mut bytes = Vec::with_capacity(REQUEST_BYTES);
        for offset in offsets(size) {
            bytes.clear();
            pieces.fill(&mut answers, &mut bytes, request_size(size, offset)).await?;
            destination.write(offset, &bytes)?;
            if let Some(next) = asked.next() {
                requests.write_all(&next.to_le_bytes()).await?;
            }
        }
        connection.close(0_u8.into(), b"");
        drop(tokio::time::timeout(GOODBYE_TIME, endpoint.wait_idle()).await);
        Ok(destination)
    })
}

/// Buffers that were sent and may be free again, oldest first.
#[derive(Debug, Default)]
struct Buffers {
    sent: VecDeque<Bytes>,
}

impl Buffers {
    /// The oldest buffer if quinn has no more use for it, or a fresh one.
    fn take(&mut self) -> BytesMut {
        let oldest = self.sent.pop_front().map(Bytes::try_into_mut);
        match oldest {
            Some(Ok(buffer)) => buffer,
            Some(Err(busy)) => {
                self.sent.push_front(busy);
                BytesMut::zeroed(REQUEST_BYTES)
            }
            None => BytesMut::zeroed(REQUEST_BYTES),
        }
    }

    /// Notes a buffer that is about to be sent.
    fn keep(&mut self, buffer: BytesMut) -> Bytes {
        let bytes = buffer.freeze();
        self.sent.push_back(bytes.clone());
        bytes
    }
}

/// What was taken from the stream and not copied yet: the last piece of one request may hold the
/// beginning of the next.
#[derive(Debug, Default)]
struct Pieces {
    taken: VecDeque<Bytes>,
}

impl Pieces {
    /// Copies the next `size` bytes of the stream.
    async fn fill(
        &mut self,
        stream: &mut RecvStream,
        bytes: &mut Vec<u8>,
        size: usize,
    ) -> anyhow::Result<()> {
        let mut pieces: [Bytes; PIECES] = std::array::from_fn(|_| Bytes::new());
        while bytes.len() < size {
            if let Some(mut piece) = self.taken.pop_front() {
                let ours = piece.split_to(piece.len().min(size - bytes.len()));
                bytes.extend_from_slice(&ours);
                if !piece.is_empty() {
                    self.taken.push_front(piece);
                }
            } else {
                let count = stream.read_chunks(&mut pieces).await?;
                let count = count.context("the sender stopped early")?;
                self.taken.extend(pieces[..count].iter_mut().map(std::mem::take));
            }
        }
        Ok(())
    }
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn endpoint(server: Option<quinn::ServerConfig>, mtu: u16) -> anyhow::Result<Endpoint> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(mtu)?;
    let socket = UdpSocket::from(socket);
    Ok(Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))?)
}

fn transport(mtu: u16) -> Arc<TransportConfig> {
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(WINDOW_BYTES.into())
        .receive_window(WINDOW_BYTES.into())
        .send_window(WINDOW_BYTES.into())
        .mtu_discovery_config(Some(discovery))
        .datagram_receive_buffer_size(None);
    transport.into()
}
