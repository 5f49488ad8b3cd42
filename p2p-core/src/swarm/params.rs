//! What a swarm is created from, and what it shows of its timers and of what it waits for.
//!
//! Plain values for the driver. Nothing here decides anything.

use std::sync::Arc;

use crate::chunk_set::ChunkSet;
use crate::config::SwarmConfig;
use crate::contact::Contact;
use crate::digest::BuildId;
use crate::layout::ChunkLayout;
use crate::node_id::NodeId;
use crate::prng::Seed;
use crate::time::Instant;

/// Who takes part, in which build, and whom it may ask for others.
#[derive(Clone, Debug)]
pub struct SwarmParams {
    /// Limits and timings. Shared by the swarms of a process.
    pub config: Arc<SwarmConfig>,
    /// The build.
    pub build: BuildId,
    /// How others reach this node, and whether it is a seeder.
    pub contact: Contact,
    /// Nodes that answer announces, in order of preference.
    pub trackers: Vec<NodeId>,
    /// What [`Swarm::lasting_contacts`](crate::Swarm::lasting_contacts) returned before this node
    /// was last stopped; empty if nothing was kept. Dialled if no tracker answers. Not trusted: a
    /// contact that is wrong costs a failed dial.
    pub remembered: Vec<Contact>,
    /// Where all of the swarm's random choices come from.
    pub seed: Seed,
}

/// What a node has when it enters a swarm.
#[derive(Clone, Debug)]
pub enum Holdings {
    /// Only the build's name.
    Name,
    /// The manifest, and these chunks, all verified.
    Chunks {
        /// How the build is cut.
        layout: Arc<ChunkLayout>,
        /// The chunks.
        have: ChunkSet,
    },
}

/// When to send [`Event::DeadlineReached`](crate::Event::DeadlineReached), and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Deadline {
    /// The moment.
    pub at: Instant,
    /// What will be done then.
    pub kind: TimerKind,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum TimerKind {
    /// Offer new chunks to the neighbours.
    Offer,
    /// Announce to a tracker.
    Announce,
    /// Ask a neighbour for contacts.
    Exchange,
    /// Look for requests that are late or stalled.
    Requests,
    /// Stop waiting for a chunk that a rack mate claimed.
    Claims,
    /// Ask again for the manifest.
    Manifest,
    /// Ask a peer that was busy.
    Busy,
    /// Dial again, or go to the seeder of last resort.
    Members,
}

/// Why a swarm that is not complete makes no progress, to show to people.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Waiting {
    /// No tracker has answered since the last announce.
    Tracker,
    /// A tracker answers, but it knows no seeder that has the build, and no neighbour has any of
    /// it.
    Source,
    /// The seeder has the build, but nobody who has anything of it is connected yet.
    Neighbours,
    /// The seeder that has the build turned us away, and nobody else who has anything of it is
    /// connected.
    Room,
    /// Neighbours are connected, but none has sent the manifest yet.
    Manifest,
    /// Neighbours have nothing new for us, or are busy.
    Chunks,
}
