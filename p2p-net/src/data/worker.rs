//! A thread's share of the data plane: listens and dials on its runtime, and turns what comes of it
//! into links.
//!
//! A dial tries [`PREFERRED`] first, and the other transport when that fails or is slow to answer, so
//! that a blocked one costs a moment and not the connection.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use p2p_core::{Contact, NodeId};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::event::DataEvent;
use super::link::{self, LinkId};
use super::quic::{self, QuicEndpoint};
use super::transfer::Receiving;
use super::transport::{Connection, Transport, TransportKind};
use super::{Callee, DataConfig, tcp};
use crate::tls::{TlsIdentity, remote_node, remote_node_of};

/// A dial that takes longer has failed.
pub(crate) const DIAL_TIME: Duration = Duration::from_secs(5);

/// What `auto` tries first, whatever the way to the peer. The kernel moves a stream of bytes at a
/// third of the processor time that QUIC takes, and on every way measured, long and lossy ones
/// included, it was no slower (`benches/long-link`, `benches/pair`). QUIC is for where TCP is blocked.
const PREFERRED: TransportKind = TransportKind::Tcp;

/// How long the first transport has before the other one is tried beside it: several round trips of
/// the longest ways, and little against what a blocked port would cost.
const HEAD_START: Duration = Duration::from_millis(750);

/// Ports tried until one is free for both transports.
const PORTS_TRIED_MAX: usize = 64;

/// Connections that wait to be accepted.
const TCP_BACKLOG: i32 = 1_024;

/// The sockets of a node, bound to one port number.
#[derive(Debug)]
pub(super) struct Ports {
    address: SocketAddr,
    /// One per worker, sharing the port if there are several.
    udp: Vec<UdpSocket>,
    tcp: Option<StdTcpListener>,
}

impl Ports {
    /// Binds what the transport needs. If any port will do, one that is free for both is looked for.
    pub(super) fn bind(config: &DataConfig) -> io::Result<Self> {
        let mut tries = 1;
        loop {
            match Self::bind_once(config) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && config.address.port() == 0
                        && tries < PORTS_TRIED_MAX =>
                {
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn bind_once(config: &DataConfig) -> io::Result<Self> {
        let mut address = config.address;
        let mut udp = Vec::new();
        if config.transport.allows(TransportKind::Quic) {
            let is_shared = config.threads.get() > 1;
            for _ in 0..config.threads.get() {
                let socket = quic::bind_socket(address, is_shared)?;
                address = socket.local_addr()?;
                udp.push(socket);
            }
        }
        let tcp = if config.transport.allows(TransportKind::Tcp) {
            let listener = tcp::listen(address, TCP_BACKLOG)?;
            address = listener.local_addr()?;
            Some(listener)
        } else {
            None
        };
        Ok(Self { address, udp, tcp })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Starts a worker on the current runtime and the others on threads of their own.
pub(super) fn start(
    ports: Ports,
    tls: &TlsIdentity,
    config: &DataConfig,
    receiving: &Receiving,
) -> io::Result<Vec<Worker>> {
    let Ports { address, udp, tcp } = ports;
    let count = config.threads.get();
    let mut udp = udp.into_iter();
    let core = Core {
        tls: tls.clone(),
        transport: config.transport,
        receiving: receiving.clone(),
        next_link: Arc::default(),
        closed: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let mut workers = Vec::with_capacity(count);
    for index in 0..count {
        let socket = udp.next();
        let sockets = Sockets { socket, address, is_shared: count > 1 };
        if index == 0 {
            workers.push(Worker::on_this_runtime(core.clone(), sockets)?);
        } else {
            workers.push(Worker::on_a_thread(core.clone(), sockets, index)?);
        }
    }
    if let Some(listener) = tcp {
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(accept_tcp(listener, workers.clone(), core.closed.clone()));
    }
    Ok(workers)
}

/// What the workers of a node share.
#[derive(Clone, Debug)]
struct Core {
    tls: TlsIdentity,
    transport: Transport,
    receiving: Receiving,
    next_link: Arc<AtomicU64>,
    closed: CancellationToken,
    /// Links that are running.
    tasks: TaskTracker,
}

/// The socket of a worker.
#[derive(Debug)]
struct Sockets {
    socket: Option<UdpSocket>,
    address: SocketAddr,
    is_shared: bool,
}

/// A thread's share of the data plane.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    core: Core,
    runtime: Handle,
    /// Accepts, and dials too if it has its port for itself.
    listening: Option<QuicEndpoint>,
    /// Dials. An answer to a shared port may go to another worker, so this one is not shared.
    dialling: Option<QuicEndpoint>,
    /// The worker's own thread ends when all of these are gone; `None` on the caller's thread.
    lifeline: Option<Arc<DropGuard>>,
}

impl Worker {
    fn on_this_runtime(core: Core, sockets: Sockets) -> io::Result<Self> {
        let (listening, dialling) = endpoints(&core.tls, sockets)?;
        let worker = Self { core, runtime: Handle::current(), listening, dialling, lifeline: None };
        if let Some(endpoint) = worker.listening.clone() {
            tokio::spawn(accept_quic(endpoint, worker.clone()));
        }
        Ok(worker)
    }

    fn on_a_thread(core: Core, sockets: Sockets, index: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let is_over = CancellationToken::new();
        let mut worker = {
            let _entered = runtime.enter();
            Self::on_this_runtime(core, sockets)?
        };
        worker.lifeline = Some(Arc::new(is_over.clone().drop_guard()));
        std::thread::Builder::new().name(format!("shoal-data-{index}")).spawn(move || {
            runtime.block_on(is_over.cancelled());
            // Reads and writes of files that are still under way end by themselves.
            runtime.shutdown_timeout(Duration::from_secs(5));
        })?;
        Ok(worker)
    }

    /// Connects to a node; the outcome is a [`DataEvent::Linked`].
    pub(super) fn dial(&self, contact: Contact) {
        let worker = self.clone();
        self.runtime.spawn(async move {
            let callee = Callee { node: contact.node, address: contact.data };
            let events = worker.core.receiving.events.clone();
            if let Err(reason) = worker.connect(callee).await {
                let outcome = Err(reason);
                events.send(DataEvent::Linked { node: callee.node, outcome }).await;
            }
        });
    }

    /// Connects over one transport or the other, and runs the link to its end.
    async fn connect(self, callee: Callee) -> Result<(), String> {
        let first = PREFERRED;
        let policy = self.core.transport;
        let connected = match (policy.allows(first), policy.allows(first.other())) {
            (true, true) => self.connect_over_either(first, callee).await,
            (true, false) => self.connect_over(first, callee).await,
            (false, _) => self.connect_over(first.other(), callee).await,
        }?;
        self.run_connected(callee.node, connected).await;
        Ok(())
    }

    /// Tries the second transport when the first has failed, or beside it when it is slow to answer.
    async fn connect_over_either(
        &self,
        first: TransportKind,
        callee: Callee,
    ) -> Result<Connected, String> {
        let second = first.other();
        let mut early = std::pin::pin!(self.connect_over(first, callee));
        let late = async {
            sleep(HEAD_START).await;
            self.connect_over(second, callee).await
        };
        let mut late = std::pin::pin!(late);
        let failed = |first_reason: String, second_reason: String| {
            format!("over {first}: {first_reason}; over {second}: {second_reason}")
        };
        tokio::select! {
            outcome = &mut early => match outcome {
                Ok(connected) => Ok(connected),
                Err(reason) => {
                    debug!(node = %callee.node, %first, reason, "trying the other transport");
                    let other = self.connect_over(second, callee).await;
                    other.map_err(|other| failed(reason, other))
                }
            },
            outcome = &mut late => match outcome {
                Ok(connected) => Ok(connected),
                Err(other) => early.await.map_err(|reason| failed(reason, other)),
            },
        }
    }

    async fn connect_over(&self, kind: TransportKind, callee: Callee) -> Result<Connected, String> {
        let connect = async {
            match kind {
                TransportKind::Quic => {
                    let endpoint = self.dialling.as_ref().ok_or("QUIC is off")?;
                    endpoint.dial(callee.node, callee.address).await.map(Connected::Quic)
                }
                TransportKind::Tcp => {
                    let stream = tcp::dial(&self.core.tls, callee.node, callee.address).await?;
                    Ok(Connected::Tcp(Box::new(stream)))
                }
            }
        };
        match timeout(DIAL_TIME, connect).await {
            Ok(outcome) => outcome,
            Err(_) => Err("it does not answer in time".to_owned()),
        }
    }

    async fn run_connected(self, node: NodeId, connected: Connected) {
        match connected {
            Connected::Quic(connection) => self.run(node, connection, true).await,
            Connected::Tcp(stream) => self.run_tcp(node, *stream, true).await,
        }
    }

    async fn run_tcp(self, node: NodeId, stream: tcp::Stream, is_ours: bool) {
        let Ok(remote) = tcp::remote(&stream) else { return };
        let buffers = self.core.receiving.buffers.clone();
        let (connection, pump) = tcp::make(stream, remote, buffers);
        let closed = self.core.closed.clone();
        let closing = connection.clone();
        let run = self.run(node, connection, is_ours);
        let pump = async {
            tokio::select! {
                () = pump.run() => {}
                () = async {
                    closed.cancelled().await;
                    closing.close("shutdown");
                    std::future::pending::<()>().await;
                } => {}
            }
        };
        tokio::join!(run, pump);
    }

    /// Makes a link and runs it to its end. The owner must know the link before it hears of
    /// messages on it.
    async fn run(&self, node: NodeId, connection: impl Connection, is_ours: bool) {
        let id = LinkId(self.core.next_link.fetch_add(1, Ordering::Relaxed));
        let receiving = self.core.receiving.clone();
        let events = receiving.events.clone();
        let (link, tasks) = link::make((id, node), connection, is_ours, receiving);
        events.send(DataEvent::Linked { node, outcome: Ok(link) }).await;
        self.core.tasks.track_future(tasks.run()).await;
    }

    /// Closes every connection, and waits a moment for the far ends to hear of it.
    pub(super) async fn close(&self) {
        self.core.closed.cancel();
        self.core.tasks.close();
        let endpoints = [&self.listening, &self.dialling].into_iter().flatten();
        let closing = futures::future::join_all(endpoints.map(QuicEndpoint::close));
        let links = timeout(Duration::from_millis(500), self.core.tasks.wait());
        // Who does not hear of it finds out when the connection falls silent.
        drop(tokio::join!(closing, links).1);
    }
}

/// A connection whose handshake is done.
enum Connected {
    Quic(quinn::Connection),
    Tcp(Box<tcp::Stream>),
}

fn endpoints(
    tls: &TlsIdentity,
    sockets: Sockets,
) -> io::Result<(Option<QuicEndpoint>, Option<QuicEndpoint>)> {
    let Some(socket) = sockets.socket else { return Ok((None, None)) };
    let listening = QuicEndpoint::new(tls, socket, true)?;
    let dialling = if sockets.is_shared {
        let own = SocketAddr::new(sockets.address.ip(), 0);
        QuicEndpoint::new(tls, quic::bind_socket(own, false)?, false)?
    } else {
        listening.clone()
    };
    Ok((Some(listening), Some(dialling)))
}

async fn accept_quic(endpoint: QuicEndpoint, worker: Worker) {
    while let Some(incoming) = endpoint.accept().await {
        let worker = worker.clone();
        tokio::spawn(async move {
            // A handshake that fails is the dialler's problem.
            let Ok(connection) = incoming.await else { return };
            if let Some(node) = remote_node(&connection) {
                quic::fit_windows(&connection);
                worker.run(node, connection, false).await;
            }
        });
    }
}

async fn accept_tcp(listener: TcpListener, workers: Vec<Worker>, closed: CancellationToken) {
    let turn = AtomicUsize::new(0);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let turn = turn.fetch_add(1, Ordering::Relaxed);
                let worker = workers[turn % workers.len()].clone();
                // A socket belongs to the runtime that registered it.
                let Ok(stream) = stream.into_std() else { continue };
                let runtime = worker.runtime.clone();
                runtime.spawn(greet_tcp(worker, stream));
            }
            Err(error) => {
                // Out of file descriptors, for example: others are closed meanwhile.
                warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Shakes hands with who called.
async fn greet_tcp(worker: Worker, stream: StdTcpStream) {
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    // A handshake that fails, or that does not go on, is the dialler's problem.
    let greeted = timeout(DIAL_TIME, tcp::accept(&worker.core.tls, stream)).await;
    let Ok(Ok(stream)) = greeted else { return };
    if let Some(node) = remote_node_of(tcp::certificates(&stream)) {
        worker.run_tcp(node, stream, false).await;
    }
}
