//! The handle of a node: starts its threads, passes orders to its hub, shows what it does.
//!
//! A node runs on two threads of its own, one for the control plane and one for the data plane and
//! the hub, so that a program's own runtime neither starves it nor is starved by it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;
use std::thread::JoinHandle;

use p2p_core::{
    BuildId, ByteRate, Contact, Location, NodeId, PeerRole, Seed, TrackerConfig, TrackerTable,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::address::SeederAddress;
use crate::ask::{Ask, AskSorter, Asks, Audience};
use crate::budget::BufferBudget;
use crate::control::{self, ControlCommand, Listening, Pace};
use crate::data::dscp::TrafficClass;
use crate::data::limiter::{Limits, SharedLimits};
use crate::data::transport::Transport;
use crate::data::{DataConfig, DataPlane};
use crate::disk_priority::DiskPriority;
use crate::error::{AskError, StartError};
use crate::hub::board::Board;
use crate::hub::{self, AskOrder, Command, Hub, HubParts, HubSender, Wake};
use crate::identity::Identity;
use crate::progress::{NodeStats, Progress};
use crate::store::{BuildStore, StoredBuild};

pub use self::download::{Download, FetchOptions};

mod download;
mod patience;

/// Orders that may wait for the control plane, which drains them all the time.
const CONTROL_COMMANDS_MAX: usize = 1_024;

/// Threads for chunks beyond which none is started unasked: the programs of the host come first.
const DATA_THREADS_MAX: usize = 4;

/// How a node is configured.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's key.
    pub identity: Identity,
    /// UDP address of the control plane; port 0 takes any free one. The data plane takes another
    /// free port of the same address.
    pub listen: SocketAddr,
    /// Whether the node is a seeder: tracker for its swarms and careful with its uplink.
    pub is_seeder: bool,
    /// Whether somebody reads the status reports that hosts send to this seeder, from
    /// [`Node::next_ask`]. Reports that nobody reads are refused, and the host hears why. Without
    /// effect on a node that is no seeder.
    pub takes_reports: bool,
    /// Seeders of the region, each also a tracker. Empty for a seeder on its own.
    pub seeders: Vec<SeederAddress>,
    /// The name of the zone that the node is in, for locality. `None` if unknown.
    pub zone: Option<String>,
    /// The name of its rack within the zone. `None` if unknown.
    pub rack: Option<String>,
    /// Cap on chunk bytes sent, over all builds and peers. `None`: no cap. [`Node::set_limits`]
    /// changes it.
    pub upload_limit: Option<ByteRate>,
    /// Cap on chunk bytes received, over all builds and peers. `None`: no cap.
    pub download_limit: Option<ByteRate>,
    /// How chunk traffic asks to be treated by the network.
    pub traffic_class: TrafficClass,
    /// How the node treats the disk. The stores of its builds follow it.
    pub disk_priority: DiskPriority,
    /// How chunks travel.
    pub transport: Transport,
    /// Memory for chunks.
    pub buffer_budget: BufferBudget,
    /// Threads that carry connections for chunks. `None`: one for every two processors, up to a
    /// bound that leaves the others to the programs of the host.
    pub data_threads: Option<NonZero<usize>>,
}

impl NodeConfig {
    /// A host with default settings.
    pub const fn host(identity: Identity, listen: SocketAddr) -> Self {
        Self {
            identity,
            listen,
            is_seeder: false,
            takes_reports: false,
            seeders: Vec::new(),
            zone: None,
            rack: None,
            upload_limit: None,
            download_limit: None,
            traffic_class: TrafficClass::Default,
            disk_priority: DiskPriority::Normal,
            transport: Transport::Auto,
            buffer_budget: BufferBudget::DEFAULT,
            data_threads: None,
        }
    }

    /// A seeder with default settings, which takes no status reports.
    pub const fn seeder(identity: Identity, listen: SocketAddr) -> Self {
        let mut config = Self::host(identity, listen);
        config.is_seeder = true;
        config
    }

    const fn audience(&self) -> Audience {
        match (self.is_seeder, self.takes_reports) {
            (false, _) => Audience::Nobody,
            (true, false) => Audience::Asks,
            (true, true) => Audience::AsksAndReports,
        }
    }

    fn data(&self, address: SocketAddr, limits: SharedLimits) -> DataConfig {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let usual = NonZero::new((cores / 2).min(DATA_THREADS_MAX));
        DataConfig {
            address,
            transport: self.transport,
            traffic_class: self.traffic_class,
            disk_priority: self.disk_priority,
            buffer_budget: self.buffer_budget,
            threads: self.data_threads.or(usual).unwrap_or(NonZero::<usize>::MIN),
            limits,
        }
    }

    fn contact(&self, control: SocketAddr, data: SocketAddr) -> Contact {
        // The core has no name for what is unknown.
        let [zone, rack] = [&self.zone, &self.rack].map(|name| name.as_deref().unwrap_or_default());
        Contact {
            node: self.identity.node(),
            control,
            data,
            role: if self.is_seeder { PeerRole::Seeder } else { PeerRole::Host },
            location: Location::named(zone, rack),
        }
    }
}

/// One process's place in the swarms. Cheap to clone; all clones are the same node. When the last
/// clone is dropped the node stops, but only [`Node::shutdown`] waits for that.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    contact: Contact,
    address: SeederAddress,
    hub: HubSender,
    runtime: tokio::runtime::Handle,
    board: Arc<Board>,
    asks: Asks,
    limits: SharedLimits,
    disk_priority: DiskPriority,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Node {
    /// Binds the sockets and starts the node's threads.
    ///
    /// # Errors
    ///
    /// If an address cannot be bound or a thread not started. Nothing is left running then.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        let (hub, inbox) = hub::channel();
        let (control, orders) = mpsc::channel(CONTROL_COMMANDS_MAX);
        let (sorter, asks) = AskSorter::new(config.audience(), control.downgrade());
        let (listening, control_thread) =
            start_control(&config, orders, sorter, hub.clone()).await?;
        let control_address = listening.socket;
        let address = SeederAddress {
            socket: SocketAddr::new(reachable_ip(&listening), control_address.port()),
            node: config.identity.node(),
        };

        let limits = SharedLimits::new(Limits {
            upload: config.upload_limit,
            download: config.download_limit,
        });
        let node_limits = limits.clone();
        let disk_priority = config.disk_priority;
        let board = Arc::new(Board::default());
        let (ready, is_ready) = oneshot::channel();
        let (sender, node_board) = (hub.clone(), board.clone());
        let data_thread = spawn_thread("shoal-data", disk_priority, async move || {
            let data = SocketAddr::new(control_address.ip(), 0);
            let data_config = config.data(data, node_limits.clone());
            let (plane, data_events) = match DataPlane::start(&config.identity, &data_config) {
                Ok(started) => started,
                Err(source) => {
                    // Nobody waits any more if the start was given up.
                    return drop(ready.send(Err(StartError::Listen { address: data, source })));
                }
            };
            let contact = config.contact(control_address, plane.local_address());
            let hub = Hub::new(HubParts {
                contact,
                tracker: config.is_seeder.then(tracker_table),
                seeders: config.seeders,
                data: plane,
                data_events,
                control,
                limits: node_limits,
                board: node_board,
                sender,
                inbox,
            });
            let runtime = tokio::runtime::Handle::current();
            if ready.send(Ok((contact, runtime))).is_ok() {
                hub.run().await;
            }
        })?;
        let (contact, runtime) = is_ready.await.unwrap_or_else(|died| Err(thread_died(died)))?;
        let threads = Mutex::new(vec![data_thread, control_thread]);
        let inner =
            Inner { contact, address, hub, runtime, board, asks, limits, disk_priority, threads };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The node's name.
    pub fn id(&self) -> NodeId {
        self.inner.contact.node
    }

    /// Where the control plane listens, as `--seeder` takes it. If the node listens on all
    /// addresses, the one by which the machine reaches others stands in, or the first that is not
    /// loopback if it has no route to anywhere, or loopback if there is no other.
    pub fn address(&self) -> SeederAddress {
        self.inner.address
    }

    /// Joins the swarm of `build` and downloads it into `store`; returns at once. Resumes what an
    /// earlier attempt staged there. If the store has the build, the download is complete at once;
    /// if another store of this node has it or is getting it, it is copied from there.
    ///
    /// A build that nobody serves may be published at any moment, so without
    /// [`FetchOptions::give_up_after`] the download waits for ever; [`Progress::waiting_for`] says
    /// for what.
    pub fn fetch(&self, build: BuildId, store: &BuildStore, options: FetchOptions) -> Download {
        let (reply, watches) = oneshot::channel();
        let FetchOptions { limits, give_up_after } = options;
        if self.inner.disk_priority != DiskPriority::Normal {
            store.set_disk_priority(self.inner.disk_priority);
        }
        self.order(Command::Fetch { build, store: store.clone(), limits, reply });
        Download::new((build, store.clone()), self.inner.hub.clone(), watches, give_up_after)
    }

    /// Serves a complete build to others until [`Self::leave`]. What moves has to pass `limits` and
    /// the caps of the node.
    pub fn serve(&self, build: &StoredBuild, limits: &SharedLimits) {
        if self.inner.disk_priority != DiskPriority::Normal {
            build.set_disk_priority(self.inner.disk_priority);
        }
        self.order(Command::Serve { stored: build.clone(), limits: limits.clone() });
    }

    /// Replaces the caps on what the node moves over all builds. Transfers under way follow at
    /// once.
    pub fn set_limits(&self, limits: Limits) {
        self.inner.limits.set(limits);
    }

    /// The caps in force over all builds.
    pub fn limits(&self) -> Limits {
        self.inner.limits.get()
    }

    /// Leaves the swarm of `build`: stops serving and cancels its download, if any. Returns when no
    /// file of the build is open any more.
    pub async fn leave(&self, build: BuildId) {
        let (reply, is_done) = oneshot::channel();
        self.inner.hub.send(Wake::Command(Command::Leave { build, reply })).await;
        // An error means that the node has shut down, and with it left every swarm.
        drop(is_done.await);
    }

    /// The progress of a build in a swarm of this node, complete ones included; `None` if it is in
    /// none. Up to a moment old.
    pub fn progress(&self, build: BuildId) -> Option<Progress> {
        self.inner.board.progress(build)
    }

    /// Asks one seeder of the node's list about `topic`, which has up to [`Ask::TOPIC_BYTES_MAX`]
    /// bytes. Topic and body together have less than [`Ask::ANSWER_BYTES_MAX`]; what they mean is a
    /// matter between those who ask and those who answer.
    ///
    /// # Errors
    ///
    /// If that seeder does not answer within a few seconds, or does not answer questions on this
    /// topic. It may have got the question all the same.
    pub async fn ask(
        &self,
        seeder: NodeId,
        topic: &str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, AskError> {
        self.ask_about(Some(seeder), topic, body, Pace::Prompt).await
    }

    /// As [`Self::ask`], but for news: that seeder answers when it has something to say, at the
    /// latest after [`Ask::KEEP_TIME_MAX`], with up to [`Ask::NEWS_BYTES_MAX`] bytes. A seeder that
    /// dies meanwhile is noticed within seconds. A node has one such question at a time with each
    /// seeder, or few; dropping the future does not take the question back.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`]. A seeder of a version that does not tell news is
    /// [`NoAnswer::TellsNoNews`](crate::NoAnswer::TellsNoNews).
    pub async fn ask_for_news(
        &self,
        seeder: NodeId,
        topic: &str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, AskError> {
        self.ask_about(Some(seeder), topic, body, Pace::News).await
    }

    /// As [`Self::ask`], but asks the seeders of the list in turn until one answers.
    ///
    /// # Errors
    ///
    /// If none does.
    pub async fn ask_any(&self, topic: &str, body: Vec<u8>) -> Result<Vec<u8>, AskError> {
        self.ask_about(None, topic, body, Pace::Prompt).await
    }

    async fn ask_about(
        &self,
        seeder: Option<NodeId>,
        topic: &str,
        body: Vec<u8>,
        pace: Pace,
    ) -> Result<Vec<u8>, AskError> {
        let (topic_bytes, body_bytes) = (topic.len(), body.len());
        // One byte says how long the topic is.
        let is_short = 1 + topic_bytes + body_bytes <= Ask::ANSWER_BYTES_MAX;
        if topic_bytes > Ask::TOPIC_BYTES_MAX || !is_short {
            return Err(AskError::TooLong { topic_bytes, body_bytes });
        }
        let (reply, outcome) = oneshot::channel();
        let order = AskOrder { seeder, topic: topic.to_owned(), body, pace, reply };
        self.inner.hub.send(Wake::Command(Command::Ask(order))).await;
        outcome.await.unwrap_or(Err(AskError::Shutdown))
    }

    /// The next question of a host to this seeder; `None` after shutdown. Questions that nobody
    /// picks up are refused once too many wait. Those about [`STATUS_TOPIC`](crate::STATUS_TOPIC)
    /// were answered when they arrived, or refused if [`NodeConfig::takes_reports`] is false; of
    /// them the oldest are dropped.
    pub async fn next_ask(&self) -> Option<Ask> {
        self.inner.asks.next().await
    }

    /// The next question for news, by [`Self::ask_for_news`], to this seeder; `None` after
    /// shutdown. Whoever picks it up may keep it ([`Ask::keep`]) for [`Ask::KEEP_TIME_MAX`], and
    /// then owes an answer. Those that nobody picks up are refused once too many wait.
    pub async fn next_ask_for_news(&self) -> Option<Ask> {
        self.inner.asks.next_for_news().await
    }

    /// What the node moved since its start; up to a moment old.
    pub fn stats(&self) -> NodeStats {
        self.inner.board.stats()
    }

    /// Closes every connection and stops the node's threads. Downloads end as cancelled.
    pub async fn shutdown(&self) {
        let (reply, is_done) = oneshot::channel();
        self.inner.hub.send(Wake::Command(Command::Shutdown { reply })).await;
        // An error means that another clone was first.
        drop(is_done.await);
        let threads = std::mem::take(&mut *self.inner.threads.lock());
        let joined = tokio::task::spawn_blocking(|| {
            for thread in threads {
                // A thread that panicked has printed why.
                drop(thread.join());
            }
        });
        drop(joined.await);
    }

    /// Sends an order without waiting, in order with those before it unless the hub is swamped.
    fn order(&self, command: Command) {
        if let Err(wake) = self.inner.hub.send_now(Wake::Command(command)) {
            let hub = self.inner.hub.clone();
            self.inner.runtime.spawn(async move { hub.send(*wake).await });
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let (reply, _) = oneshot::channel();
        if let Err(wake) = self.hub.send_now(Wake::Command(Command::Shutdown { reply })) {
            let hub = self.hub.clone();
            self.runtime.spawn(async move { hub.send(*wake).await });
        }
    }
}

fn tracker_table() -> TrackerTable {
    use std::hash::BuildHasher as _;
    // The order of what is handed out must not be known to strangers, so the system draws the seed.
    let seed = std::hash::RandomState::new().hash_one("tracker");
    TrackerTable::new(TrackerConfig::region(), Seed::from_u64(seed))
}

async fn start_control(
    config: &NodeConfig,
    orders: mpsc::Receiver<ControlCommand>,
    sorter: AskSorter,
    hub: HubSender,
) -> Result<(Listening, JoinHandle<()>), StartError> {
    let (identity, listen) = (config.identity.clone(), config.listen);
    let (ready, is_ready) = oneshot::channel();
    let thread = spawn_thread("shoal-control", DiskPriority::Normal, async move || {
        let sink = |event| {
            let (hub, event) = (hub.clone(), sorter.sort(event));
            async move {
                match event {
                    Some(event) => hub.try_reach(Wake::Control(event)).await,
                    None => true,
                }
            }
        };
        match control::listen(&identity, listen, orders, sink).await {
            Ok((control, listening)) => {
                if ready.send(Ok(listening)).is_ok() {
                    control.run().await;
                }
            }
            Err(source) => {
                // Nobody waits any more if the start was given up.
                drop(ready.send(Err(StartError::Listen { address: listen, source })));
            }
        }
    })?;
    let listening = is_ready.await.unwrap_or_else(|died| Err(thread_died(died)))?;
    Ok((listening, thread))
}

/// Runs `body` on a thread with a runtime of its own, whose blocking threads have this priority.
fn spawn_thread(
    name: &str,
    disk_priority: DiskPriority,
    body: impl AsyncFnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let threads = |source| StartError::Threads { source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_start(move || disk_priority.apply_to_this_thread())
        .build()
        .map_err(threads)?;
    let run = move || {
        runtime.block_on(body());
        // Reads and writes of files that are still under way end by themselves.
        runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(threads)
}

/// The sender was dropped unused: the thread ended before it was ready.
fn thread_died(died: oneshot::error::RecvError) -> StartError {
    StartError::Threads { source: io::Error::other(died) }
}

/// An address by which others reach what listens. Connecting a UDP socket sends nothing; it only
/// asks the routing table. The targets are documentation addresses (RFC 5737, RFC 3849).
fn reachable_ip(listening: &Listening) -> IpAddr {
    let any = listening.socket.ip();
    if !any.is_unspecified() {
        return any;
    }
    let target = if any.is_ipv4() { "192.0.2.1:9" } else { "[2001:db8::1]:9" };
    let routed = || {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        Ok::<_, io::Error>(socket.local_addr()?.ip())
    };
    let mut own = listening.own.iter().copied();
    let fallback = || own.find(|ip| !ip.is_loopback()).or(listening.own.first().copied());
    routed().ok().or_else(fallback).unwrap_or(any)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use p2p_core::wire::Message;

    use super::*;
    use crate::data::DataEvent;
    use crate::data::link::Link;
    use crate::publish::publish;

    /// Asks for the manifest as fast as the connection takes it, until that is closed.
    async fn ask_until_closed(link: &Link, build: BuildId, mut look: impl FnMut()) {
        while !link.is_closed() {
            // When the queue is full the connection gets its turn.
            if link.send(build, &Message::RequestManifest).is_err() {
                tokio::task::yield_now().await;
            }
            look();
        }
    }

    /// Goal: a peer that asks for the manifest without end costs a task, not a task for each
    /// message, and is banned for it; a host is served beside it and after it.
    /// Method: the peer is a data plane of the test's own over a real connection. It takes no
    /// manifest, so each that is begun waits for it.
    #[tokio::test]
    async fn flood_of_questions_for_the_manifest_starts_no_flood_of_tasks() {
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("file"), vec![7; 100_000]).unwrap();
        let open = |name: &str| BuildStore::open(folder.path().join(name)).unwrap();
        let build = publish(&tree, &open("store"), None).unwrap().build;
        let one_thread = NonZero::new(1);
        let config = NodeConfig {
            data_threads: one_thread,
            ..NodeConfig::seeder(Identity::generate(), listen)
        };
        let seeder = Node::start(config).await.unwrap();
        seeder.serve(&build, &SharedLimits::default());
        let tasks = || seeder.inner.runtime.metrics().num_alive_tasks();

        let identity = Identity::generate();
        let hostile = NodeConfig::host(identity.clone(), listen);
        let data = hostile.data(listen, SharedLimits::default());
        let (plane, mut events) = DataPlane::start(&identity, &data).unwrap();
        plane.dial(seeder.inner.contact);
        let link = match events.recv().await.unwrap() {
            DataEvent::Linked { outcome, .. } => outcome.unwrap(),
            other => panic!("{other:?}"),
        };
        let contact = Box::new(hostile.contact(listen, plane.local_address()));
        link.send(build.id(), &Message::Join { contact, have: None }).unwrap();
        // The seeder's own `Join` says that it is a neighbour now.
        while !matches!(events.recv().await.unwrap(), DataEvent::Message { .. }) {}

        let (before, mut most) = (tasks(), 0);
        let flood = ask_until_closed(&link, build.id(), || most = most.max(tasks()));
        let draining = async { while events.recv().await.is_some() {} };
        tokio::select! {
            () = draining => panic!("the data plane ended"),
            outcome = tokio::time::timeout(Duration::from_mins(1), flood) => outcome.unwrap(),
        }
        assert!(most <= before + 4, "{most} tasks, {before} before the flood");

        let config = NodeConfig {
            seeders: vec![seeder.address()],
            ..NodeConfig::host(Identity::generate(), listen)
        };
        let host = Node::start(config).await.unwrap();
        let download = host.fetch(build.id(), &open("host"), FetchOptions::default());
        let fetched = tokio::time::timeout(Duration::from_mins(1), download.finish()).await;
        fetched.expect("the seeder serves nobody else").unwrap();
        host.shutdown().await;
        seeder.shutdown().await;
    }

    /// Goal: a place without a name is on the wire what it always was, and one with a name too.
    #[test]
    fn places_keep_their_form_on_the_wire() {
        let socket = "127.0.0.1:1".parse().unwrap();
        let location = |zone: Option<&str>, rack: Option<&str>| {
            let config = NodeConfig {
                zone: zone.map(str::to_owned),
                rack: rack.map(str::to_owned),
                ..NodeConfig::host(Identity::generate(), socket)
            };
            config.contact(socket, socket).location
        };
        assert_eq!(location(None, None), Location::default());
        assert_eq!(location(Some("z"), None), Location::named("z", ""));
        assert_eq!(location(None, Some("r")), Location::named("", "r"));
        assert_eq!(location(Some("z"), Some("r")), Location::named("z", "r"));
    }

    #[test]
    fn address_for_others_is_not_loopback_if_there_is_another() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let fixed = Listening { socket: socket("10.0.0.7:1"), own: vec![ip("10.0.0.7")] };
        assert_eq!(reachable_ip(&fixed), ip("10.0.0.7"));
        let own = vec![ip("127.0.0.1"), ip("10.77.0.1")];
        let all = Listening { socket: socket("0.0.0.0:1"), own };
        // With a route, the system's answer; without one, the address that is not loopback.
        assert!(!reachable_ip(&all).is_loopback());
        let alone = Listening { socket: socket("0.0.0.0:1"), own: vec![ip("127.0.0.1")] };
        assert!(!reachable_ip(&alone).is_unspecified());
    }
}
