//! Everything that a swarm can order its driver to do.
//!
//! The list is closed and holds no chunk bytes. Invariant: an order that has an outcome names what
//! the event that answers it will name again.

use crate::contact::Contact;
use crate::fault::PeerFault;
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::wire::{Announce, Message, RequestId};

/// Something the driver must now do. An action is an order, never a question: its outcome, if
/// there is one, comes back as an [`Event`](crate::Event) that names the same peer or request.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Action {
    /// Open a connection, or use the one that is open. Answered by `PeerConnected` or `DialFailed`.
    Connect {
        /// Whom to reach, and where.
        contact: Box<Contact>,
    },
    /// This swarm no longer needs the connection. Not answered.
    Disconnect {
        /// The node at the other end.
        peer: NodeId,
    },
    /// Close the connection for every build and refuse `peer` until the given moment.
    Ban {
        /// The culprit.
        peer: NodeId,
        /// What it did.
        fault: PeerFault,
        /// End of the ban.
        until: Instant,
    },
    /// Queue `message` for `peer`. If the queue is full, drop the peer rather than the message.
    Send {
        /// The receiver.
        peer: NodeId,
        /// What to say.
        message: Message,
    },
    /// Ask `peer` for the manifest; answered by `ManifestArrived`.
    FetchManifest {
        /// Whom to ask.
        peer: NodeId,
    },
    /// Send the manifest; answered by `ManifestServeEnded`, unless the peer is lost.
    ServeManifest {
        /// The asker.
        peer: NodeId,
        /// Our name for this answer.
        serve: u64,
    },
    /// Ask `peer` for a chunk; answered by `ChunkHashed` or `FetchFailed`, unless the peer is lost,
    /// answers "busy", or the fetch is cancelled.
    Fetch {
        /// Our name for the request.
        request: RequestId,
        /// Whom to ask.
        peer: NodeId,
        /// What to ask for.
        chunk: ChunkIndex,
    },
    /// Forget a fetch: say so to the peer, and drop what arrives.
    CancelFetch {
        /// Our name for the request.
        request: RequestId,
        /// Whom we asked.
        peer: NodeId,
    },
    /// Send a chunk that we have; answered by `ServeEnded`.
    Serve {
        /// The asker.
        peer: NodeId,
        /// Its name for the request.
        request: RequestId,
        /// The chunk to send.
        chunk: ChunkIndex,
    },
    /// Stop sending the answer to this request. `ServeEnded` still comes.
    CancelServe {
        /// The asker.
        peer: NodeId,
        /// Its name for the request.
        request: RequestId,
    },
    /// Announce to a tracker; answered by `AnnounceAnswered` or `AnnounceFailed`.
    Announce {
        /// The tracker, one of those the swarm was made with.
        tracker: NodeId,
        /// What to say.
        announce: Box<Announce>,
    },
    /// Ask a neighbour whom it knows; answered by `ContactsLearned`.
    Exchange {
        /// The neighbour.
        contact: Box<Contact>,
    },
    /// Every chunk is stored and verified. Sent once each time the last chunk arrives.
    Complete,
}
