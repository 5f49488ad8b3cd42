//! The neighbours of a swarm: what each has, and how well it delivers.
//!
//! Invariant: while copies are counted, the count is the sum over the neighbouring hosts' sets.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::chunk_set::ChunkSet;
use crate::contact::{Contact, PeerRole};
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::pick::Availability;
use crate::time::Instant;

/// Longest time that a busy seeder is left alone: long enough for a crowd, short enough to take a
/// place in its queue that became free.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Requests in flight to a seeder that has delivered nothing yet. One would leave a link of some
/// length idle between its first two chunks.
const FIRST_REQUESTS_MAX: u16 = 2;

/// Doublings that reach it from the shortest wait.
const BUSY_DOUBLINGS_MAX: u8 = 8;

/// One neighbour.
#[derive(Debug)]
pub(super) struct Peer {
    /// What its `Join` said; `None` until that came.
    pub(super) contact: Option<Contact>,
    /// What it has; `None` until it told, or while it does not know the manifest.
    pub(super) have: Option<ChunkSet>,
    /// How many of our chunks, in the order in which they came, it was told of.
    pub(super) offers_sent: usize,
    /// Requests in flight to it.
    pub(super) requests: u16,
    /// It is not asked before this moment: it said that it is busy.
    pub(super) busy_until: Instant,
    /// How often in a row it was busy, each counted when it was asked again.
    busy_streak: u8,
    /// What a request to it usually takes, waiting included; `None` before its first chunk.
    pub(super) service: Option<Duration>,
    /// It has a request that is late, or had one and delivered nothing in time since.
    pub(super) is_slow: bool,
    /// It said that it lacks the manifest, or broke off sending it; not asked again before this.
    pub(super) manifest_after: Instant,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self {
            contact: None,
            have: None,
            offers_sent: 0,
            requests: 0,
            busy_until: now,
            busy_streak: 0,
            service: None,
            is_slow: false,
            manifest_after: now,
        }
    }

    pub(super) fn is_seeder(&self) -> bool {
        self.contact.is_some_and(|contact| contact.role == PeerRole::Seeder)
    }

    /// Whether it may be asked for one more chunk.
    pub(super) fn has_slot(&self, now: Instant, window: u16) -> bool {
        let window = if self.is_slow || self.busy_streak > 0 {
            1
        } else if self.is_seeder() && self.service.is_none() {
            // Everybody who is new asks a seeder, and nobody knows yet how many they are.
            window.min(FIRST_REQUESTS_MAX)
        } else {
            window
        };
        self.requests < window && self.busy_until <= now
    }

    /// The chunks that count as copies: those of hosts.
    fn counted_have(&self) -> Option<&ChunkSet> {
        self.have.as_ref().filter(|_| !self.is_seeder())
    }

    /// It has no place for a request. A seeder, whom everybody asks at once when a build is new, is
    /// asked half as often each time; hosts are not, because their queues are short and turn over.
    pub(super) fn note_busy(&mut self, now: Instant, wait: Duration) {
        if !self.is_seeder() {
            self.busy_until = now.after(wait);
        } else if self.busy_until <= now {
            // Several requests refused at once are one refusal.
            let doubled = wait.saturating_mul(1 << self.busy_streak.min(BUSY_DOUBLINGS_MAX));
            self.busy_until = now.after(doubled.min(BUSY_WAIT_MAX));
            self.busy_streak = self.busy_streak.saturating_add(1);
        }
    }

    /// Folds the time that a request took into the average; an eighth of the weight to the newest.
    fn note_delivery(&mut self, took: Duration) {
        self.busy_streak = 0;
        self.service = Some(match self.service {
            Some(average) => (average * 7 + took) / 8,
            None => took,
        });
    }
}

/// All neighbours, by name.
#[derive(Debug, Default)]
pub(super) struct PeerTable {
    peers: BTreeMap<NodeId, Peer>,
    /// What neighbouring hosts have; counted only while chunks are missing.
    copies: Option<Availability>,
}

impl PeerTable {
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn contains(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    pub(super) fn add(&mut self, now: Instant, node: NodeId) {
        self.peers.insert(node, Peer::new(now));
    }

    /// Forgets a neighbour; whether it was one.
    pub(super) fn remove(&mut self, node: NodeId) -> bool {
        let Some(peer) = self.peers.remove(&node) else { return false };
        if let (Some(copies), Some(have)) = (&mut self.copies, peer.counted_have()) {
            copies.remove_host(have);
        }
        true
    }

    /// A neighbour told what it is and what it has; replaces what it told before.
    pub(super) fn set_have(&mut self, node: NodeId, contact: Contact, have: Option<ChunkSet>) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if let (Some(copies), Some(old)) = (&mut self.copies, peer.counted_have()) {
            copies.remove_host(old);
        }
        (peer.contact, peer.have) = (Some(contact), have);
        if let (Some(copies), Some(new)) = (&mut self.copies, peer.counted_have()) {
            copies.add_host(new);
        }
    }

    /// A neighbour has a chunk; ignored if its build has no such chunk.
    pub(super) fn note_has(&mut self, node: NodeId, chunk: ChunkIndex) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let is_counted = !peer.is_seeder();
        let Some(have) = peer.have.as_mut().filter(|have| chunk.get() < have.capacity()) else {
            return;
        };
        if !have.contains(chunk) {
            if let Some(copies) = self.copies.as_mut().filter(|_| is_counted) {
                copies.note_offer(have, chunk);
            }
            have.insert(chunk);
        }
    }

    /// Counts from here on which of `chunk_count` chunks the neighbouring hosts have.
    pub(super) fn start_counting(&mut self, chunk_count: u32) {
        let mut copies = Availability::new(chunk_count);
        for have in self.peers.values().filter_map(Peer::counted_have) {
            // Sets of another size are about to be found out as lies.
            if have.capacity() == chunk_count {
                copies.add_host(have);
            }
        }
        self.copies = Some(copies);
    }

    pub(super) fn stop_counting(&mut self) {
        self.copies = None;
    }

    /// The copies at neighbouring hosts; `None` while they are not counted.
    pub(super) const fn copies(&self) -> Option<&Availability> {
        self.copies.as_ref()
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    pub(super) fn get_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.peers.get_mut(&node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.peers.iter().map(|(node, peer)| (*node, peer))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Peer)> {
        self.peers.iter_mut().map(|(node, peer)| (*node, peer))
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.peers.keys().copied().collect()
    }

    /// Whom to ask for a chunk that those who were `asked` are late with: a host if one has it, the
    /// one with the least to do.
    pub(super) fn second_source(
        &self,
        now: Instant,
        chunk: ChunkIndex,
        asked: &[NodeId],
        window: u16,
    ) -> Option<NodeId> {
        let can_send = |peer: &Peer| {
            let has = peer.have.as_ref().is_some_and(|have| have.contains(chunk));
            has && !peer.is_slow && peer.has_slot(now, window)
        };
        self.iter()
            .filter(|(node, peer)| !asked.contains(node) && can_send(peer))
            .min_by_key(|(_, peer)| (peer.is_seeder(), peer.requests))
            .map(|(node, _)| node)
    }

    /// Whether a neighbour has a chunk that is not in `have`, or knows the manifest while `have` is
    /// of a build whose manifest is not known here.
    pub(super) fn has_something_beyond(&self, have: &ChunkSet) -> bool {
        let mut theirs = self.peers.values().filter_map(|peer| peer.have.as_ref());
        theirs.any(|theirs| {
            let is_other = theirs.capacity() != have.capacity();
            is_other || theirs.iter_without(have).next().is_some()
        })
    }

    /// Neighbours that have chunks to give.
    pub(super) fn source_count(&self) -> usize {
        let gives = |peer: &&Peer| peer.have.as_ref().is_some_and(|have| !have.is_empty());
        self.peers.values().filter(gives).count()
    }

    /// A neighbour delivered a chunk after `took`.
    pub(super) fn note_delivery(&mut self, node: NodeId, took: Duration, was_late: bool) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.note_delivery(took);
            peer.is_slow = was_late;
        }
    }

    /// What a request usually takes, over all neighbours that delivered; `None` before the first.
    pub(super) fn usual_service(&self) -> Option<Duration> {
        let times: Vec<Duration> = self.peers.values().filter_map(|peer| peer.service).collect();
        let count = u32::try_from(times.len()).ok().filter(|count| *count > 0)?;
        Some(times.iter().sum::<Duration>() / count)
    }
}
