//! The seeder at work: serves what is in the store, and carries hosts' reports to the goal store.
//!
//! Owns the state directory's lock and the loop that follows the store. All decisions are made in
//! [`crate::catalog`], [`crate::status_relay`], [`crate::tokens`] and [`crate::judge`]; this file
//! only does what they say, with reports by way of [`crate::relay`]. It must never end because of
//! one build, one report or a goal store that is down: those are logged and tried again, while
//! everything else goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use command_line::{StateLock, StateLockError, describe};
use goal_state::{AppName, GoalStore, GoalUrl, HostStatus, NOTES_TOPIC, TOKEN_TOPIC};
use p2p_core::{BuildId, ByteRate};
use p2p_net::{
    Ask, BufferBudget, BuildStore, DiskPriority, Identity, IdentityError, Node, NodeConfig,
    STATUS_TOPIC, SeederAddress, SharedLimits, StartError, StoreError, StoredBuild, TrafficClass,
    Transport,
};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::inventory_disk::InventoryDisk;
use crate::judging::{Judging, OwnRows};
use crate::relay::Relay;
use crate::token_server::{Desk, TokenServer};
use crate::tokens::{AskedApps, TokenRules};

/// How often the store is asked whether something changed: one `stat` of one directory. A fraction
/// of what a person would notice, and nothing next to the poll of the goal.
const STORE_POLL: Duration = Duration::from_millis(500);

/// Every this many polls the store is listed even if its directory looks untouched: its time stamps
/// are coarse, and some network file systems show a new entry before a new time.
const POLLS_PER_RESCAN: u32 = 20;

/// Requests for tokens that may wait. More come from a region that asks faster than the table is
/// stored; they are refused and come again.
const TOKEN_REQUESTS_MAX: usize = 1_024;

/// How long the node may take to say goodbye to its peers: shorter than service managers wait
/// before they kill.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a seeder works and whom it serves.
#[derive(Clone, Debug)]
pub struct SeederConfig {
    /// The build store to serve; created if missing.
    pub store: PathBuf,
    /// UDP address of the control plane; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Directory for the key and the lock; created if missing. One seeder at a time.
    pub state: PathBuf,
    /// The other seeders of the region. This one announces every build that it serves to each of
    /// them.
    pub seeders: Vec<SeederAddress>,
    /// Goal store that hosts' reports are relayed to. `None`: reports are refused.
    pub goal: Option<GoalUrl>,
    /// The name of the zone that the seeder is in, for locality. `None` if unknown.
    pub zone: Option<String>,
    /// The name of its rack within the zone. `None` if unknown.
    pub rack: Option<String>,
    /// Cap on chunk bytes sent. `None`: no cap. [`Node::set_limits`] changes it.
    pub upload_limit: Option<ByteRate>,
    /// How chunk traffic asks to be treated by the network.
    pub dscp: TrafficClass,
    /// How serving treats the disk.
    pub disk_priority: DiskPriority,
    /// How chunks travel.
    pub transport: Transport,
    /// Memory for chunks.
    pub buffer_budget: BufferBudget,
}

/// Why a seeder did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeederError {
    /// The state directory is in use or cannot be used.
    #[error(transparent)]
    State(#[from] StateLockError),
    /// The table of tokens cannot be written.
    #[error("cannot store the table of tokens in {}; check its permissions and free space", path.display())]
    Tokens {
        /// The state directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store cannot be opened or listed.
    #[error("cannot serve the store {}", path.display())]
    Store {
        /// The store's directory.
        path: PathBuf,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// The node did not start, such as on a port in use.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A thread of the seeder ended early.
    #[error("a task of the seeder ended early; please report this with the log")]
    Task(#[from] JoinError),
}

/// A running seeder.
#[derive(Debug)]
pub struct Seeder {
    node: Node,
    store: BuildStore,
    catalog: Catalog,
    goal: Option<GoalStore>,
    /// The name under which documents are written to the goal store.
    writer: String,
    /// Taken when the seeder runs.
    tokens: Option<TokenServer>,
    /// Whether the region has other seeders, which take reports, too.
    has_others: bool,
    lock: StateLock,
}

impl Seeder {
    /// Opens state and store, starts the node and serves every build that is in the store now.
    ///
    /// # Errors
    ///
    /// If state, store, key or address cannot be used. A damaged build in the store is no error.
    pub async fn start(config: SeederConfig) -> Result<Self, SeederError> {
        let lock = StateLock::take(&config.state)?;
        let key = lock.directory().join("node.key");
        let mut tokens = TokenServer::open(lock.directory(), &key)
            .map_err(|source| SeederError::Tokens { path: config.state.clone(), source })?;
        let identity = Identity::load_or_create(&key)?;
        let writer = identity.peer_id().to_string();
        let path = config.store.clone();
        let opened = spawn_blocking(move || BuildStore::open(path)).await?;
        let store =
            opened.map_err(|source| SeederError::Store { path: config.store.clone(), source })?;
        // One list for all seeders of a region names this one, too.
        let others = config.seeders.into_iter().filter(|seeder| seeder.node != identity.node());
        let others: Vec<_> = others.collect();
        let has_others = !others.is_empty();
        tokens.set_seeders(others.iter().map(|other| other.node).chain([identity.node()]));
        let node_config = NodeConfig {
            seeders: others,
            zone: config.zone,
            rack: config.rack,
            upload_limit: config.upload_limit,
            traffic_class: config.dscp,
            disk_priority: config.disk_priority,
            transport: config.transport,
            buffer_budget: config.buffer_budget,
            // From the start: reports that come while the store is still being opened are kept.
            takes_reports: config.goal.is_some(),
            ..NodeConfig::seeder(identity, config.listen)
        };
        let node = Node::start(node_config).await?;
        let goal = config.goal.as_ref().map(GoalStore::new);
        let catalog = Catalog::default();
        let tokens = Some(tokens);
        let mut seeder = Self { node, store, catalog, goal, writer, tokens, has_others, lock };
        match seeder.rescan().await {
            Ok(()) => Ok(seeder),
            Err(source) => {
                seeder.node.shutdown().await;
                Err(SeederError::Store { path: config.store, source })
            }
        }
    }

    /// Where hosts reach the seeder, as `--seeder` takes it.
    pub fn address(&self) -> SeederAddress {
        self.node.address()
    }

    /// The seeder's node.
    pub(crate) const fn node(&self) -> &Node {
        &self.node
    }

    /// How many builds are served.
    pub(crate) fn build_count(&self) -> usize {
        self.catalog.served_count()
    }

    /// Follows the store and relays reports until `stop` is cancelled, then shuts the node down.
    pub async fn run(mut self, stop: CancellationToken) {
        let relay = match self.goal.clone() {
            Some(goal) => {
                let disk = InventoryDisk::in_state(self.lock.directory());
                Some(Relay::open(goal, self.writer.clone(), disk).await)
            }
            None => None,
        };
        let relaying = async {
            match &relay {
                Some(relay) => Box::pin(relay.run()).await,
                None => std::future::pending().await,
            }
        };
        let node = self.node.clone();
        let (requests, requested) = mpsc::channel(TOKEN_REQUESTS_MAX);
        let (asked, asked_for) = watch::channel(AskedApps::new());
        let known = relay.is_some().then(BTreeMap::new);
        let (rules_shown, rules) = watch::channel(TokenRules { known, ..TokenRules::default() });
        let tokens = self.tokens.take();
        let granting = async {
            match tokens {
                Some(tokens) => tokens.run(node.id(), requested, Desk { asked, rules }).await,
                None => std::future::pending().await,
            }
        };
        let (goal, has_others) = (self.goal.clone(), self.has_others);
        let judging = async {
            match relay.as_ref().zip(goal) {
                Some((relay, goal)) => {
                    Judging::new(goal, relay, has_others).run(asked_for, rules_shown).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = sort_asks(&node, relay.as_ref(), requests) => {
                tracing::warn!("the node ended; the seeder stops");
            }
            () = granting => tracing::warn!("the node ended; the seeder stops"),
            () = relaying => {}
            () = judging => {}
            () = self.follow_store() => {}
        }
        if let Some(relay) = &relay {
            relay.flush_last().await;
        }
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, node.shutdown()).await.is_err() {
            tracing::warn!("the node did not shut down in time");
        }
    }

    /// Polls instead of watching with inotify: the store may lie on a network or overlay file
    /// system, where a watch does not see what another machine writes, and one `stat` per
    /// [`STORE_POLL`] costs less than the code that would have to doubt the watch.
    async fn follow_store(&mut self) {
        let directory = self.store.directory().join("builds");
        let mut seen = modified_at(directory.clone()).await;
        let mut polls = 0;
        let mut ticks = tokio::time::interval(STORE_POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Taken before the scan: what changes during the scan is seen by the next one.
            let modified = modified_at(directory.clone()).await;
            polls += 1;
            if modified == seen && polls < POLLS_PER_RESCAN {
                continue;
            }
            polls = 0;
            seen = modified;
            if let Err(error) = self.rescan().await {
                tracing::warn!(
                    error = describe(&error.into()),
                    "cannot list the store, trying again"
                );
            }
        }
    }

    async fn rescan(&mut self) -> Result<(), StoreError> {
        let store = self.store.clone();
        let listed = on_disk(move || store.list()).await?;
        let changes = self.catalog.on_scan(&listed);
        for build in changes.stop {
            self.node.leave(build).await;
            tracing::info!(%build, "no longer in the store, no longer served");
        }
        for build in changes.start {
            self.start_serving(build).await;
        }
        Ok(())
    }

    async fn start_serving(&mut self, build: BuildId) {
        let store = self.store.clone();
        let opened: Result<Option<StoredBuild>, _> = on_disk(move || store.build(build)).await;
        match opened {
            Ok(Some(stored)) => {
                self.node.serve(&stored, &SharedLimits::default());
                self.catalog.on_started(build);
                tracing::info!(%build, bytes = stored.manifest().build_size(), "serving");
            }
            // Removed between listing and opening.
            Ok(None) => {}
            Err(error) => {
                let reason = describe(&error.into());
                if self.catalog.on_damaged(build, &reason) {
                    tracing::warn!(%build, reason, "build not served; publish it again to repair");
                }
            }
        }
    }
}

/// Hands each question of a host to whoever it is for, until the node ends. Never waits for an
/// answer: reports must not queue behind requests for tokens that wait for a disk.
async fn sort_asks(node: &Node, relay: Option<&Relay>, requests: mpsc::Sender<Ask>) {
    while let Some(ask) = node.next_ask().await {
        match ask.topic.as_str() {
            // Answered when it arrived.
            STATUS_TOPIC => {
                if let Some(relay) = relay {
                    relay.take(&ask);
                }
            }
            // Refused as it is dropped by a seeder that refuses reports, too.
            NOTES_TOPIC => {
                if let Some(relay) = relay {
                    relay.answer(ask);
                }
            }
            // Refused as it is dropped if there is no room.
            TOKEN_TOPIC => drop(requests.try_send(ask)),
            // Of a newer version, perhaps: refused as it is dropped.
            _ => {}
        }
    }
}

impl OwnRows for Relay {
    fn apps_with(&self, is_wanted: &dyn Fn(&HostStatus) -> bool) -> BTreeSet<AppName> {
        self.with_table(|table| table.apps_with(is_wanted))
    }

    fn rows_of(&self, apps: &BTreeSet<AppName>) -> Vec<HostStatus> {
        self.with_table(|table| table.rows_of(apps))
    }

    fn node_heard_at_ms(&self, node: &str) -> Option<u64> {
        self.with_table(|table| table.node_heard_at_ms(node))
    }
}

/// The directory's time stamp; `None` if it cannot be read, which the rescan will report.
async fn modified_at(directory: PathBuf) -> Option<SystemTime> {
    let metadata = tokio::fs::metadata(directory).await.ok()?;
    metadata.modified().ok()
}

/// Runs work that may wait for a disk where it does not hold up the network.
async fn on_disk<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    spawn_blocking(work).await.expect("store calls do not panic and the runtime outlives them")
}

#[cfg(test)]
mod tests {
    use p2p_net::{AskError, Refusal};

    use super::*;

    /// Goal: each question reaches whom it is for. A report is refused because no goal store takes
    /// it on, a request for a token is answered, and what nobody knows is refused.
    #[tokio::test]
    async fn questions_are_sorted_by_topic() {
        let folder = tempfile::tempdir().unwrap();
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let seeder = Seeder::start(SeederConfig {
            store: folder.path().join("store"),
            listen,
            state: folder.path().join("state"),
            seeders: vec![],
            goal: None,
            zone: None,
            rack: None,
            upload_limit: None,
            dscp: TrafficClass::default(),
            disk_priority: DiskPriority::default(),
            transport: Transport::default(),
            buffer_budget: BufferBudget::default(),
        })
        .await
        .unwrap();
        let address = seeder.address();
        let stop = CancellationToken::new();
        let asking = async {
            let host = Node::start(NodeConfig {
                seeders: vec![address],
                ..NodeConfig::host(Identity::generate(), listen)
            })
            .await
            .unwrap();
            let report = host.ask_any(STATUS_TOPIC, b"[]".to_vec()).await;
            assert_eq!(report, Err(AskError::Refused { refusal: Refusal::KeepsNoReports }));
            let answer = host.ask(address.node, TOKEN_TOPIC, b"no request".to_vec()).await.unwrap();
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.contains("the request for a token is not valid"), "{answer}");
            let unknown = host.ask(address.node, "tea/1", vec![]).await;
            assert_eq!(unknown, Err(AskError::Refused { refusal: Refusal::Unanswered }));
            host.shutdown().await;
            stop.cancel();
        };
        tokio::join!(seeder.run(stop.clone()), asking);
    }
}
