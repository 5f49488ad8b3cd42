//! The neighbours of a swarm: what each has, and how well it delivers.
//!
//! Invariant: while copies are counted, the count is the sum over the neighbouring hosts' sets.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::chunk_set::ChunkSet;
use crate::contact::{Contact, Location, PeerRole};
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::pick::Availability;
use crate::time::Instant;

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
    /// What a request to it usually takes, waiting included; `None` before its first chunk.
    pub(super) service: Option<Duration>,
    /// It has a request that is late, or had one and delivered nothing in time since.
    pub(super) is_slow: bool,
    /// It said that it lacks the manifest, or broke off sending it; not asked again before this.
    pub(super) manifest_after: Instant,
    /// When it last told of a chunk that we did not send it; the start before that.
    pub(super) fed_at: Instant,
    /// It is a host of our rack.
    pub(super) is_near: bool,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self {
            contact: None,
            have: None,
            offers_sent: 0,
            requests: 0,
            busy_until: now,
            service: None,
            is_slow: false,
            manifest_after: now,
            fed_at: now,
            is_near: false,
        }
    }

    pub(super) fn is_seeder(&self) -> bool {
        self.contact.is_some_and(|contact| contact.role == PeerRole::Seeder)
    }

    /// Whether it may be asked for one more chunk.
    pub(super) fn has_slot(&self, now: Instant, window: u16) -> bool {
        let window = if self.is_slow { 1 } else { window };
        self.requests < window && self.busy_until <= now
    }

    /// The chunks that count as copies: those of hosts.
    fn counted_have(&self) -> Option<&ChunkSet> {
        self.have.as_ref().filter(|_| !self.is_seeder())
    }

    /// The chunks that count as copies in our rack.
    fn near_have(&self) -> Option<&ChunkSet> {
        self.have.as_ref().filter(|_| self.is_near)
    }

    /// Folds the time that a request took into the average; an eighth of the weight to the newest.
    fn note_delivery(&mut self, took: Duration) {
        self.service = Some(match self.service {
            Some(average) => (average * 7 + took) / 8,
            None => took,
        });
    }
}

/// All neighbours, by name.
#[derive(Debug)]
pub(super) struct PeerTable {
    peers: BTreeMap<NodeId, Peer>,
    /// What neighbouring hosts have; counted only while chunks are missing.
    copies: Option<Availability>,
    /// The same for hosts of our rack; never counted if we do not know our rack.
    near_copies: Option<Availability>,
    /// Where we stand.
    location: Location,
    /// Hosts of our rack among the peers.
    near_count: usize,
}

impl PeerTable {
    pub(super) const fn new(location: Location) -> Self {
        Self { peers: BTreeMap::new(), copies: None, near_copies: None, location, near_count: 0 }
    }

    /// Neighbours that are hosts of our rack.
    pub(super) fn near_count(&self) -> usize {
        self.near_count
    }

    /// The copies at hosts of our rack; `None` while they are not counted, or without a rack.
    pub(super) const fn near_copies(&self) -> Option<&Availability> {
        self.near_copies.as_ref()
    }

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
        self.near_count -= usize::from(peer.is_near);
        if let (Some(copies), Some(have)) = (&mut self.copies, peer.counted_have()) {
            copies.remove_host(have);
        }
        if let (Some(copies), Some(have)) = (&mut self.near_copies, peer.near_have()) {
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
        if let (Some(copies), Some(old)) = (&mut self.near_copies, peer.near_have()) {
            copies.remove_host(old);
        }
        (peer.contact, peer.have) = (Some(contact), have);
        let shares_rack = self.location.shares_rack_with(contact.location);
        self.near_count -= usize::from(peer.is_near);
        peer.is_near = shares_rack && contact.role == PeerRole::Host;
        self.near_count += usize::from(peer.is_near);
        if let (Some(copies), Some(new)) = (&mut self.copies, peer.counted_have()) {
            copies.add_host(new);
        }
        if let (Some(copies), Some(new)) = (&mut self.near_copies, peer.near_have()) {
            copies.add_host(new);
        }
    }

    /// A neighbour has a chunk; whether that is new. Ignored if its build has no such chunk.
    pub(super) fn note_has(&mut self, node: NodeId, chunk: ChunkIndex) -> bool {
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        let (is_counted, is_near) = (!peer.is_seeder(), peer.is_near);
        let Some(have) = peer.have.as_mut().filter(|have| chunk.get() < have.capacity()) else {
            return false;
        };
        let is_new = !have.contains(chunk);
        if is_new {
            if let Some(copies) = self.copies.as_mut().filter(|_| is_counted) {
                copies.note_offer(have, chunk);
            }
            if let Some(copies) = self.near_copies.as_mut().filter(|_| is_near) {
                copies.note_offer(have, chunk);
            }
            have.insert(chunk);
        }
        is_new
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
        self.near_copies = (self.location.rack != 0).then(|| {
            let mut copies = Availability::new(chunk_count);
            let near = self.peers.values().filter_map(Peer::near_have);
            near.filter(|have| have.capacity() == chunk_count).for_each(|have| copies.add_host(have));
            copies
        });
    }

    pub(super) fn stop_counting(&mut self) {
        self.copies = None;
        self.near_copies = None;
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
            .min_by_key(|(_, peer)| (peer.is_seeder(), !peer.is_near, peer.requests))
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
