//! Offers: what neighbours say that they have now, and what we say to them.
//!
//! New chunks are collected for a while, so that one message names several. Invariant: only chunks
//! that are here are offered, and none to a host that is known to have it.

use core::time::Duration;

use crate::chunk_set::ChunkSet;
use crate::config::SwarmConfig;
use crate::fault::PeerFault;
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::wire::Message;

use super::Swarm;
use super::peers::PeerTable;

/// New chunks on their way to the neighbours, collected for a while.
#[derive(Debug, Default)]
pub(super) struct Offers {
    /// Chunks in the order in which they came since the last batch; a peer's `offers_sent` is a
    /// place in it.
    arrivals: Vec<ChunkIndex>,
    due: Option<Instant>,
}

impl Offers {
    /// How many chunks wait to be offered. A peer that is sent the whole set now
    /// has no need of them.
    pub(super) fn arrival_count(&self) -> usize {
        self.arrivals.len()
    }

    /// When the collected chunks are to be offered; `None` if there are none.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A chunk came: it is offered within `wait`, together with all that come until then.
    pub(super) fn note_arrival(&mut self, now: Instant, chunk: ChunkIndex, wait: Duration) {
        self.arrivals.push(chunk);
        let due = now.after(wait);
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// What is now offered to whom. A complete host is offered nothing, because it wants nothing; a
    /// seeder is offered everything, because it gives us what we lack.
    pub(super) fn collect(
        &mut self,
        now: Instant,
        peers: &mut PeerTable,
        have: &ChunkSet,
    ) -> Vec<(NodeId, Message)> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let mut offers = Vec::with_capacity(peers.len());
        let mut new: Vec<ChunkIndex> = Vec::with_capacity(self.arrivals.len());
        for peer in peers.iter_mut() {
            new.clear();
            let sent = core::mem::take(&mut peer.offers_sent).min(self.arrivals.len());
            new.extend(self.arrivals[sent..].iter().filter(|chunk| have.contains(**chunk)));
            if !peer.is_seeder() {
                let theirs = peer.have.as_ref();
                new.retain(|chunk| {
                    !theirs
                        .is_some_and(|have| chunk.get() < have.capacity() && have.contains(*chunk))
                });
            }
            new.sort_unstable();
            new.dedup();
            if !new.is_empty() {
                offers.push((peer.node, Message::offer(&new)));
            }
        }
        self.arrivals.clear();
        offers
    }
}

#[expect(clippy::multiple_inherent_impl, reason = "offers are a concern of their own")]
impl Swarm {
    pub(super) fn on_offer(&mut self, peer: NodeId, runs: &[(u32, u32)]) {
        let theirs = self.peers.get(peer).and_then(|entry| entry.have.as_ref());
        let Some(capacity) = theirs.map(ChunkSet::capacity) else {
            // A peer that does not know the manifest has no chunks to offer.
            return self.ban(peer, PeerFault::WrongLayout);
        };
        for (start, length) in runs {
            let end = u64::from(*start) + u64::from(*length);
            if end > u64::from(capacity) {
                let raw = u32::try_from(end - 1).unwrap_or(u32::MAX);
                return self.ban(peer, PeerFault::NoSuchChunk { raw, chunk_count: capacity });
            }
            let chunks = (*start..start + length).map(ChunkIndex::new_unchecked);
            self.note_offered(peer, chunks.clone());
            let has_late = self.requests.has_late();
            let is_useful = |chunk| {
                let is_asked = || !has_late && self.requests.asked().contains(chunk);
                self.layout.is_some() && !self.have.contains(chunk) && !is_asked()
            };
            if chunks.into_iter().any(is_useful) {
                self.look_at(peer);
            }
        }
    }

    /// How long a new chunk may wait to be offered together with others: on links so fast that a
    /// chunk takes less than the longest interval, half of what it takes. A node with nothing to
    /// send gains nothing from waiting.
    pub(super) fn offer_wait(&self) -> Duration {
        if self.is_upload_slot_free() {
            return Duration::ZERO;
        }
        let SwarmConfig { offer_interval_min, offer_interval_max, .. } = *self.config;
        let half = self.peers.usual_service().unwrap_or(offer_interval_max) / 2;
        half.clamp(offer_interval_min, offer_interval_max)
    }

    pub(super) fn offer_new_chunks(&mut self) {
        for (peer, offer) in self.offers.collect(self.now, &mut self.peers, &self.have) {
            self.send(peer, offer);
        }
    }

    /// A peer says that it has chunks now.
    fn note_offered(&mut self, peer: NodeId, chunks: impl Iterator<Item = ChunkIndex> + Clone) {
        let is_new = self.peers.note_has(peer, chunks.clone());
        let Some(entry) = self.peers.get_mut(peer).filter(|_| is_new) else { return };
        entry.fed_at = self.now;
        if entry.is_near() {
            for chunk in chunks {
                self.claims.end(chunk);
            }
        }
    }
}
