//! What the data plane reports to its owner, and the way there.
//!
//! Invariant: the way is bounded. A connection with more to report waits, and with it the peer
//! behind it; the owner never does.

use std::sync::Arc;

use p2p_core::wire::Message;
use p2p_core::{BuildId, Event, NodeId};
use tokio::sync::mpsc;

use crate::store::{StagedBuild, StoreError};

use super::link::{Link, LinkId};

/// Events that may wait. Connections that have more to report wait themselves, and with them the
/// peers behind them.
const EVENTS_MAX: usize = 4_096;

/// Something that happened on a connection.
#[derive(Debug)]
pub(crate) enum DataEvent {
    /// A connection is ready, or a dial of ours failed. Comes before anything else of the link.
    Linked { node: NodeId, outcome: Result<Link, String> },
    /// A connection ended.
    LinkLost { id: LinkId, node: NodeId },
    /// A peer said something.
    Message { id: LinkId, node: NodeId, build: BuildId, message: Message },
    /// A peer sent bytes that are no message, about this build if it named one.
    Malformed { id: LinkId, node: NodeId, build: Option<BuildId> },
    /// A peer opened a transfer that makes no sense, about this build if it named one.
    Nonsense { node: NodeId, build: Option<BuildId> },
    /// A transfer came to something, for the swarm of the build.
    Transferred { build: BuildId, event: Event },
    /// The manifest is here and room was made. Comes before its event.
    Staged { build: BuildId, staged: StagedBuild },
    /// The disk did not take what arrived.
    StoreFailed { build: BuildId, error: Arc<StoreError> },
}

/// Takes events to the owner.
#[derive(Clone, Debug)]
pub(crate) struct DataSender {
    events: mpsc::Sender<DataEvent>,
}

impl DataSender {
    /// Waits for room. Once the owner is gone, nobody is left to care.
    pub(crate) async fn send(&self, event: DataEvent) {
        drop(self.events.send(event).await);
    }
}

/// The way to the owner, and its end of it.
pub(super) fn channel() -> (DataSender, mpsc::Receiver<DataEvent>) {
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    (DataSender { events }, inbox)
}
