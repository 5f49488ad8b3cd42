//! A thread's share of the data plane: listens and dials on its runtime, and turns what comes of it
//! into links.
//!
//! A dial tries [`PREFERRED`] first, and the other transport when that fails or is slow to answer,
//! so that a blocked one costs a moment and not the connection.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use p2p_core::{Contact, NodeId};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::dscp::TrafficClass;
use super::event::DataEvent;
use super::first::all_of;
use super::link::LinkId;
use super::linking;
use super::measure::{self, Measuring};
use super::quic::{self, QuicEndpoint};
use super::receiving::Receiving;
use super::transport::{Connection, Transport, TransportKind};
use super::{Callee, DataConfig, tcp};
use crate::disk_priority::DiskPriority;
use crate::tls::{TlsIdentity, is_measuring, is_measuring_by, remote_node, remote_node_of};

/// A dial that takes longer has failed.
pub(crate) const DIAL_TIME: Duration = Duration::from_secs(5);

/// What `auto` tries first, whatever the way to the peer. With packets of Ethernet's size the
/// kernel takes less processor time than QUIC does in this process (`benches/pair.py`,
/// `benches/fleet.py`), and long and lossy ways are no reason against it (`benches/long-link.py`).
/// QUIC is for where TCP is blocked.
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
    /// Binds what the transport needs. If any port will do, one that is free for both is looked
    /// for.
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
        traffic_class: config.traffic_class,
        receiving: receiving.clone(),
        next_link: Arc::default(),
        measuring: Measuring::new(config.limits.clone()),
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
            let name = format!("shoal-data-{index}");
            let thread = (name, config.disk_priority);
            workers.push(Worker::on_a_thread(core.clone(), sockets, thread)?);
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
    traffic_class: TrafficClass,
    receiving: Receiving,
    next_link: Arc<AtomicU64>,
    measuring: Measuring,
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
        let (listening, dialling) = endpoints(&core, sockets)?;
        let worker = Self { core, runtime: Handle::current(), listening, dialling, lifeline: None };
        if let Some(endpoint) = worker.listening.clone() {
            tokio::spawn(accept_quic(endpoint, worker.clone()));
        }
        Ok(worker)
    }

    fn on_a_thread(
        core: Core,
        sockets: Sockets,
        (name, disk_priority): (String, DiskPriority),
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_start(move || disk_priority.apply_to_this_thread())
            .build()?;
        let is_over = CancellationToken::new();
        let mut worker = {
            let _entered = runtime.enter();
            Self::on_this_runtime(core, sockets)?
        };
        worker.lifeline = Some(Arc::new(is_over.clone().drop_guard()));
        std::thread::Builder::new().name(name).spawn(move || {
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

    /// Tries the second transport when the first has failed, or beside it when it is slow to
    /// answer.
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
                    let stream = tcp::dial(&self.core.tls, callee, self.core.traffic_class).await?;
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
        let carried = tcp::carry(stream, self.core.receiving.buffers.clone());
        let Ok((connection, pump)) = carried else { return };
        let closed = self.core.closed.clone();
        let closing = connection.clone();
        let run = self.run(node, connection, is_ours);
        let ended = CancellationToken::new();
        let close = async {
            tokio::select! {
                () = closed.cancelled() => closing.close("shutdown"),
                () = ended.cancelled() => {}
            }
        };
        let pump = async {
            pump.run().await;
            ended.cancel();
        };
        all_of([run.boxed(), pump.boxed(), close.boxed()]).await;
    }

    /// Serves a node that opened the connection to measure it.
    async fn measure_tcp(&self, stream: tcp::Stream) {
        let carried = tcp::carry(stream, self.core.receiving.buffers.clone());
        let Ok((connection, pump)) = carried else { return };
        let served = async {
            tokio::select! {
                () = measure::serve(&connection, &self.core.measuring) => {}
                () = self.core.closed.cancelled() => connection.close("shutdown"),
            }
        };
        tokio::join!(pump.run(), served);
    }

    /// Makes a link and runs it to its end. The owner must know the link before it hears of
    /// messages on it.
    async fn run(&self, node: NodeId, connection: impl Connection, is_ours: bool) {
        let id = LinkId(self.core.next_link.fetch_add(1, Ordering::Relaxed));
        let receiving = self.core.receiving.clone();
        let events = receiving.events.clone();
        let (link, tasks) = linking::make((id, node), connection, is_ours, receiving);
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
        // A far end that does not hear of it finds out when the connection falls silent.
        drop(tokio::join!(closing, links).1);
    }
}

/// A connection whose handshake is done.
enum Connected {
    Quic(quinn::Connection),
    Tcp(Box<tcp::Stream>),
}

fn endpoints(
    core: &Core,
    sockets: Sockets,
) -> io::Result<(Option<QuicEndpoint>, Option<QuicEndpoint>)> {
    let Some(socket) = sockets.socket else { return Ok((None, None)) };
    let class = core.traffic_class;
    let listening = QuicEndpoint::new(&core.tls, (socket, class), true)?;
    let dialling = if sockets.is_shared {
        let own = SocketAddr::new(sockets.address.ip(), 0);
        QuicEndpoint::new(&core.tls, (quic::bind_socket(own, false)?, class), false)?
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
                if is_measuring(&connection) {
                    return measure::serve(&connection, &worker.core.measuring).await;
                }
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

/// Shakes hands with a node that called.
async fn greet_tcp(worker: Worker, stream: StdTcpStream) {
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    // A handshake that fails, or that does not go on, is the dialler's problem.
    let greeted =
        timeout(DIAL_TIME, tcp::accept(&worker.core.tls, stream, worker.core.traffic_class)).await;
    let Ok(Ok(stream)) = greeted else { return };
    if let Some(node) = remote_node_of(tcp::certificates(&stream)) {
        if is_measuring_by(stream.get_ref().1.alpn_protocol()) {
            return worker.measure_tcp(stream).await;
        }
        worker.run_tcp(node, stream, false).await;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use p2p_core::{Location, PeerRole};
    use tokio::sync::mpsc;

    use super::*;
    use crate::data::DataPlane;
    use crate::data::limiter::SharedLimits;
    use crate::identity::Identity;

    struct Started {
        data: DataPlane,
        events: mpsc::Receiver<DataEvent>,
        contact: Contact,
    }

    fn start(transport: Transport, threads: usize) -> Started {
        let identity = Identity::generate();
        let config = DataConfig {
            address: "127.0.0.1:0".parse().unwrap(),
            transport,
            traffic_class: TrafficClass::Default,
            disk_priority: DiskPriority::Normal,
            buffer_budget: crate::budget::BufferBudget::MIN,
            threads: NonZero::new(threads).unwrap(),
            limits: SharedLimits::default(),
        };
        let (data, events) = DataPlane::start(&identity, &config).unwrap();
        let contact = Contact {
            node: identity.node(),
            control: config.address,
            data: data.local_address(),
            role: PeerRole::Host,
            location: Location::default(),
        };
        Started { data, events, contact }
    }

    async fn linked(started: &mut Started) -> Result<TransportKind, String> {
        match started.events.recv().await.unwrap() {
            DataEvent::Linked { outcome, .. } => outcome.map(|link| link.transport),
            other => panic!("{other:?}"),
        }
    }

    /// Goal: two nodes meet whenever one transport is allowed on both ends, over the preferred one
    /// if both are; and if none is, the reason names what was tried.
    #[tokio::test]
    async fn dial_finds_the_transport_that_both_ends_allow() {
        use Transport::{Auto, Quic, Tcp};
        let cases = [
            (Auto, Auto, Some(TransportKind::Tcp)),
            (Auto, Quic, Some(TransportKind::Quic)),
            (Auto, Tcp, Some(TransportKind::Tcp)),
            (Quic, Auto, Some(TransportKind::Quic)),
            (Tcp, Auto, Some(TransportKind::Tcp)),
            (Tcp, Quic, None),
        ];
        for (near, far, expected) in cases {
            let (mut near_node, far_node) = (start(near, 1), start(far, 1));
            near_node.data.dial(far_node.contact);
            let found = linked(&mut near_node).await;
            assert_eq!(found.clone().ok(), expected, "{near} dials {far}: {found:?}");
        }
    }

    /// Goal: a port that swallows what is sent to it costs a moment, not the connection.
    /// Method: a listener that never answers stands where the peer's TCP port would be.
    #[tokio::test]
    async fn blocked_transport_is_passed_by() {
        let (mut near, far) = (start(Transport::Auto, 1), start(Transport::Quic, 1));
        let _swallowing = StdTcpListener::bind(far.contact.data).unwrap();
        near.data.dial(far.contact);
        assert_eq!(linked(&mut near).await, Ok(TransportKind::Quic));
    }

    /// Goal: nobody is linked under a name that it cannot prove, whatever the transport.
    #[tokio::test]
    async fn dial_of_another_key_fails_over_both_transports() {
        let (mut near, far) = (start(Transport::Auto, 1), start(Transport::Auto, 1));
        near.data.dial(Contact { node: Identity::generate().node(), ..far.contact });
        let reason = linked(&mut near).await.unwrap_err();
        assert!(reason.contains("over tcp: ") && reason.contains("over quic: "), "{reason}");
    }

    /// Goal: with several threads on one port every dial still arrives, over both transports.
    #[tokio::test]
    async fn threads_share_the_port() {
        for transport in [Transport::Quic, Transport::Tcp] {
            let far = start(transport, 3);
            for _ in 0..8 {
                let mut near = start(transport, 2);
                near.data.dial(far.contact);
                linked(&mut near).await.unwrap();
            }
            far.data.close().await;
        }
    }
}
