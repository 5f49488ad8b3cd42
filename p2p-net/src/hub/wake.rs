//! What can wake the hub, and the way to it.
//!
//! The way is bounded: whoever sends more waits, or gets the wake back if it must not wait. Nothing
//! here acts on a wake.

use p2p_core::wire::RequestId;
use p2p_core::{BuildId, ChunkIndex, Contact, NodeId};
use tokio::sync::{mpsc, oneshot, watch};

use crate::control::{ControlEvent, Pace};
use crate::data::DataEvent;
use crate::data::buffers::Room;
use crate::data::limiter::SharedLimits;
use crate::data::receiving::ExpectationKey;
use crate::error::{AskError, FetchError};
use crate::progress::Progress;
use crate::store::{BuildStore, Copied, Reuse, StagedBuild, StoreError, StoredBuild};

/// Wakes that may wait for the hub. Those who send more wait themselves.
const WAKES_MAX: usize = 4_096;

/// What can wake the hub.
#[derive(Debug)]
pub(crate) enum Wake {
    Command(Command),
    Control(ControlEvent),
    Data(DataEvent),
    /// What an earlier attempt left was looked at.
    Prepared {
        build: BuildId,
        outcome: Result<Prepared, StoreError>,
    },
    /// Chunks that other builds on this host have.
    Reuse {
        /// What they are copied into; an earlier attempt at the build has another.
        staged: StagedBuild,
        news: ReuseNews,
    },
    Checkpointed {
        build: BuildId,
        chunks: u32,
        outcome: Result<(), StoreError>,
    },
    ReadBack {
        build: BuildId,
        outcome: Result<Result<StoredBuild, Vec<ChunkIndex>>, StoreError>,
    },
    Served {
        build: BuildId,
        node: NodeId,
        request: RequestId,
        outcome: Result<bool, StoreError>,
    },
    /// A manifest was sent, or cannot be.
    ManifestServed {
        build: BuildId,
        node: NodeId,
        /// The swarm's name for it.
        serve: u64,
    },
    /// There is memory for a chunk that is to be asked for.
    RoomMade {
        fetch: Fetch,
        room: Room,
    },
    Deadline,
    Tick,
}

/// What the disk reports of the reuse of chunks on this host.
#[derive(Debug)]
pub(crate) enum ReuseNews {
    /// The builds were looked through.
    Found(Option<Reuse>),
    /// Some chunks are done with.
    Copied(Copied),
    /// All are, or the new build cannot be written.
    Ended(Result<(), StoreError>),
}

/// What a download starts from.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) on_disk: OnDisk,
    /// Whom earlier downloads knew.
    pub(crate) contacts: Vec<Contact>,
    /// What other builds on this host have of it, if its manifest is here.
    pub(crate) reuse: Option<Reuse>,
}

/// A chunk to ask a peer for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    pub(crate) build: BuildId,
    pub(crate) peer: NodeId,
    pub(crate) request: RequestId,
    pub(crate) chunk: ChunkIndex,
}

impl Fetch {
    /// What it is expected under.
    pub(crate) const fn key(&self) -> ExpectationKey {
        (self.peer, self.build, Some(self.request))
    }
}

/// What a store has of a build.
#[derive(Debug)]
pub(crate) enum OnDisk {
    Nothing,
    Part(StagedBuild),
    Whole(StoredBuild),
}

/// What the handle asks.
#[derive(Debug)]
pub(crate) enum Command {
    Fetch {
        build: BuildId,
        store: BuildStore,
        limits: SharedLimits,
        reply: oneshot::Sender<Watches>,
    },
    Cancel {
        build: BuildId,
        store: BuildStore,
    },
    Serve {
        stored: StoredBuild,
        limits: SharedLimits,
    },
    Leave {
        build: BuildId,
        reply: oneshot::Sender<()>,
    },
    Ask(AskOrder),
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}

/// A question to a seeder.
#[derive(Debug)]
pub(crate) struct AskOrder {
    /// `None`: each in turn until one answers, at once.
    pub(crate) seeder: Option<NodeId>,
    pub(crate) topic: String,
    pub(crate) body: Vec<u8>,
    /// How soon an answer is expected.
    pub(crate) pace: Pace,
    pub(crate) reply: oneshot::Sender<Result<Vec<u8>, AskError>>,
}

/// How a download ended; `None` while it runs.
pub(crate) type DownloadOutcome = Option<Result<StoredBuild, FetchError>>;

/// How a download is followed.
#[derive(Clone, Debug)]
pub(crate) struct Watches {
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) outcome: watch::Receiver<DownloadOutcome>,
}

/// Takes wakes to the hub.
#[derive(Clone, Debug)]
pub(crate) struct HubSender {
    wakes: mpsc::Sender<Wake>,
}

impl HubSender {
    /// Sends without waiting; the wake comes back if there is no room.
    pub(crate) fn send_now(&self, wake: Wake) -> Result<(), Box<Wake>> {
        self.wakes.try_send(wake).map_err(|error| Box::new(error.into_inner()))
    }

    /// Waits for room. Once the hub is gone, nobody is left to care.
    pub(crate) async fn send(&self, wake: Wake) {
        drop(self.wakes.send(wake).await);
    }

    /// As [`Self::send`], from a thread that may block. Returns whether the hub is still there.
    pub(crate) fn send_blocking(&self, wake: Wake) -> bool {
        self.wakes.blocking_send(wake).is_ok()
    }

    /// As [`Self::send`]. Returns whether the hub is still there.
    pub(crate) async fn try_reach(&self, wake: Wake) -> bool {
        self.wakes.send(wake).await.is_ok()
    }
}

/// The way to the hub, and its end of it.
pub(crate) fn channel() -> (HubSender, mpsc::Receiver<Wake>) {
    let (wakes, inbox) = mpsc::channel(WAKES_MAX);
    (HubSender { wakes }, inbox)
}
