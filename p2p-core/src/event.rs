//! Everything outside that can influence a swarm.
//!
//! Plain values, closed and without chunk bytes. What they mean for a swarm is decided in `swarm/`;
//! what leads to them is up to the driver.

use std::sync::Arc;

use crate::chunk_set::ChunkSet;
use crate::contact::Contact;
use crate::layout::{ChunkIndex, ChunkLayout};
use crate::node_id::NodeId;
use crate::wire::{AnnounceAnswer, Message, RequestId};

/// A report of what has happened, handed to [`Swarm::handle_event`](crate::Swarm::handle_event).
///
/// The list is closed: what is not here cannot change the protocol's state. Chunk bytes are not
/// here either; the driver stores and hashes them, and reports a [`Verdict`].
#[derive(Clone, Debug)]
pub enum Event {
    /// The node takes part from now on. First event of every swarm.
    Started,
    /// A connection is ready for messages of this build: one that was ordered, or one on which the
    /// peer spoke of this build first.
    PeerConnected {
        /// The node at the other end, as its certificate proves.
        peer: NodeId,
    },
    /// A dial that was ordered did not lead to a connection.
    DialFailed {
        /// The node that was dialled.
        peer: NodeId,
    },
    /// A connection is gone. Requests in flight to `peer` will not be answered.
    PeerLost {
        /// The node at the other end.
        peer: NodeId,
    },
    /// A well-formed message arrived. Its content is a claim of `peer`, not a fact.
    MessageReceived {
        /// The sender.
        peer: NodeId,
        /// What it says.
        message: Message,
    },
    /// Bytes arrived that are no message.
    MalformedReceived {
        /// The sender.
        peer: NodeId,
    },
    /// A manifest that was asked for arrived and was checked, or did not arrive.
    ManifestArrived {
        /// The sender.
        peer: NodeId,
        /// What came of it.
        outcome: ManifestOutcome,
    },
    /// Some bytes of a chunk arrived. Shows a slow peer to be alive, so it is reported now and then
    /// while they arrive, at least several times within
    /// [`SwarmConfig::stall_time`](crate::SwarmConfig::stall_time).
    FetchAdvanced {
        /// The request that is being answered.
        request: RequestId,
    },
    /// A chunk arrived whole, was hashed and, if right, stored.
    ChunkHashed {
        /// The request that it answers.
        request: RequestId,
        /// The chunk that arrived: a seeder may send another than the one asked for.
        chunk: ChunkIndex,
        /// Whether the bytes are right.
        verdict: Verdict,
    },
    /// The answer to a request broke off.
    FetchFailed {
        /// The request.
        request: RequestId,
    },
    /// Sending a chunk ended.
    ServeEnded {
        /// The asker.
        peer: NodeId,
        /// Its name for the request.
        request: RequestId,
        /// Whether the asker received all of it.
        is_delivered: bool,
    },
    /// Sending the manifest ended, well or not.
    ManifestServeEnded {
        /// The asker.
        peer: NodeId,
        /// Our name for the answer.
        serve: u64,
    },
    /// A tracker answered.
    AnnounceAnswered {
        /// The tracker.
        tracker: NodeId,
        /// What it said.
        answer: Box<AnnounceAnswer>,
    },
    /// A tracker did not answer.
    AnnounceFailed {
        /// The tracker.
        tracker: NodeId,
    },
    /// This node is asking a tracker something for another build just now. An announce that is due
    /// soon goes along: waking two machines costs as much for one question as for several. Drivers
    /// may leave this event out.
    TrackerAsked {
        /// The tracker.
        tracker: NodeId,
    },
    /// A neighbour answered an exchange; empty if it failed.
    ContactsLearned {
        /// Nodes that take part, by its account.
        contacts: Vec<Contact>,
    },
    /// Chunks that were stored read back wrong. They must be fetched again.
    ChunksLost {
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// Chunks come from this host's own disk.
    LocalCopy(LocalCopy),
    /// The node is about to leave the swarm. Last event of a swarm that ends in good order.
    Leaving,
    /// The deadline last reported by
    /// [`Swarm::next_deadline`](crate::Swarm::next_deadline) has come.
    DeadlineReached,
}

/// What came of asking for a manifest.
#[derive(Clone, Debug)]
pub enum ManifestOutcome {
    /// It is the build's, and stored. This is how the build is cut.
    Valid(Arc<ChunkLayout>),
    /// The bytes are not the build's manifest.
    Wrong,
    /// The connection broke, or the peer did not have it after all.
    Missing,
}

/// How the copying of chunks from other builds on this host goes. Each chunk of `Begun` is named
/// once more, by `Stored` or by `Failed`, unless the node leaves before.
#[derive(Clone, Debug)]
pub enum LocalCopy {
    /// These chunks are being copied, so nobody is asked for them. If the manifest is not known
    /// yet, it is from now on, and its `ManifestArrived` may follow.
    Begun {
        /// How the build is cut.
        layout: Arc<ChunkLayout>,
        /// The chunks.
        chunks: ChunkSet,
    },
    /// These were copied, hash to their digests and are stored.
    Stored {
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// These could not be copied, or are damaged where they are. They must be fetched.
    Failed {
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
}

/// Whether the bytes of a chunk are right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// They hash to the chunk's digest and are stored.
    Matches,
    /// They do not. They were thrown away.
    Differs,
}
