//! The data plane: a quinn endpoint of its own, on which neighbours exchange messages and chunks.
//!
//! One connection per pair of nodes serves every build they share. It carries messages of both
//! directions on one stream ([`link`]) and each chunk or manifest on a stream of its own
//! ([`transfer`]). Every connection is pinned to the far end's key; nothing here decides anything.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2p_core::NodeId;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

use crate::identity::Identity;
use crate::tls::{TlsIdentity, remote_node};

use self::dscp::TrafficClass;
pub(crate) use self::event::DataEvent;
use self::link::{LinkContext, LinkId};
use self::transfer::Expectations;

pub(crate) mod dscp;
mod event;
pub(crate) mod frame;
pub(crate) mod limiter;
pub(crate) mod link;
pub(crate) mod transfer;

/// Socket buffer asked of the system. The default of Linux loses packets even on loopback; half of
/// this still does now and then, and no gain was measured beyond.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Bytes of one connection under way. Enough for 1 GB/s at 8 ms; memory grows with it.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Bytes of one stream under way: a chunk of the largest size.
const STREAM_WINDOW: u32 = 4 << 20;

/// Chunk and manifest streams that one peer may have open towards us at once.
const UNI_STREAMS_MAX: u32 = 64;

/// A connection that is silent for so long is gone. Half of it would end connections in a short
/// outage of a switch, twice as much would hold up a download whose only peer died.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// Keeps idle connections open: well below half of [`IDLE_TIME`], so that one packet may be lost.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// A dial that takes longer has failed.
pub(crate) const DIAL_TIME: Duration = Duration::from_secs(5);

/// The node's socket for chunks, and the connections on it.
#[derive(Debug)]
pub(crate) struct DataPlane {
    endpoint: quinn::Endpoint,
    tls: TlsIdentity,
    transport: Arc<quinn::TransportConfig>,
    links: LinkMaker,
}

/// Turns connections into links.
#[derive(Clone, Debug)]
struct LinkMaker {
    context: LinkContext,
    next: Arc<AtomicU64>,
}

impl DataPlane {
    /// Binds `address` (port 0: any free one) on the current runtime and accepts connections from
    /// then on. What happens on them comes out of the receiver.
    pub(crate) fn start(
        identity: &Identity,
        address: SocketAddr,
        class: TrafficClass,
    ) -> io::Result<(Self, mpsc::Receiver<DataEvent>)> {
        let tls = TlsIdentity::new(identity).map_err(io::Error::other)?;
        let transport = Arc::new(transport_config());
        let server = tls.server_config().map_err(io::Error::other)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(transport.clone()).migration(false);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            quinn::EndpointConfig::default(),
            Some(server),
            dscp::udp_socket(bind_socket(address)?, class)?,
            Arc::new(quinn::TokioRuntime),
        )?;
        let (events, inbox) = event::channel();
        let context = LinkContext { events, expectations: Arc::default() };
        let links = LinkMaker { context, next: Arc::default() };
        tokio::spawn(accept(endpoint.clone(), links.clone()));
        Ok((Self { endpoint, tls, transport, links }, inbox))
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// What transfers are matched against.
    pub(crate) fn expectations(&self) -> &Expectations {
        &self.links.context.expectations
    }

    /// Connects to `node` at `address`; the outcome is a [`DataEvent::Linked`].
    pub(crate) fn dial(&self, node: NodeId, address: SocketAddr) {
        let connecting = self.connect(node, address);
        let links = self.links.clone();
        tokio::spawn(async move {
            let connected = match connecting {
                Ok(connecting) => match timeout(DIAL_TIME, connecting).await {
                    Ok(connected) => connected.map_err(|error| error.to_string()),
                    Err(_) => Err("it does not answer in time".to_owned()),
                },
                Err(reason) => Err(reason),
            };
            match connected {
                Ok(connection) => links.run(node, connection, true).await,
                Err(reason) => links.report_failure(node, reason).await,
            }
        });
    }

    fn connect(&self, node: NodeId, address: SocketAddr) -> Result<quinn::Connecting, String> {
        let crypto = self.tls.client_config(node).map_err(|error| error.to_string())?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        // The name is never looked at: the certificate proves a key, not a name.
        let connecting = self.endpoint.connect_with(config, address, "shoal");
        connecting.map_err(|error| error.to_string())
    }

    /// Closes every connection, and waits a moment for the far ends to hear of it.
    pub(crate) async fn close(&self) {
        self.endpoint.close(0_u8.into(), b"shutdown");
        // Who does not hear of it finds out when the connection falls silent.
        drop(timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await);
    }
}

async fn accept(endpoint: quinn::Endpoint, links: LinkMaker) {
    while let Some(incoming) = endpoint.accept().await {
        let links = links.clone();
        tokio::spawn(async move {
            // A handshake that fails is the dialler's problem.
            let Ok(connection) = incoming.await else { return };
            if let Some(node) = remote_node(&connection) {
                links.run(node, connection, false).await;
            }
        });
    }
}

impl LinkMaker {
    /// Makes a link and runs it to its end. The owner must know the link before it hears of
    /// messages on it.
    async fn run(self, node: NodeId, connection: quinn::Connection, is_ours: bool) {
        let id = LinkId(self.next.fetch_add(1, Ordering::Relaxed));
        let events = self.context.events.clone();
        let (link, tasks) = link::make((id, node), connection, is_ours, self.context);
        events.send(DataEvent::Linked { node, outcome: Ok(link) }).await;
        tasks.run().await;
    }

    async fn report_failure(self, node: NodeId, reason: String) {
        self.context.events.send(DataEvent::Linked { node, outcome: Err(reason) }).await;
    }
}

fn transport_config() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
        .max_concurrent_bidi_streams(1_u8.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(CONNECTION_WINDOW.into())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE_TIME).ok())
        .datagram_receive_buffer_size(None);
    transport
}

fn bind_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Linux doubles what it grants, for its own bookkeeping, and reports the double.
    let granted = socket.recv_buffer_size()? / 2;
    if granted < SOCKET_BUFFER_BYTES {
        warn!(
            "the system grants a socket buffer of {granted} bytes, which loses packets at high \
             rates; run: sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES} \
             net.core.wmem_max={SOCKET_BUFFER_BYTES}"
        );
    }
    Ok(socket.into())
}
