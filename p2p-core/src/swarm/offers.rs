//! The chunks that came, in order, and which of them each neighbour was told of.

use core::time::Duration;

use crate::chunk_set::ChunkSet;
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::wire::Message;

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
    /// How many chunks wait to be offered: what a peer that learns the whole set now was told of.
    pub(super) fn arrival_count(&self) -> usize {
        self.arrivals.len()
    }

    /// When the collected chunks are to be offered; `None` if there are none.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A chunk came, and is to be offered after `wait` at the latest, with all that come until then.
    pub(super) fn note_arrival(&mut self, now: Instant, chunk: ChunkIndex, wait: Duration) {
        self.arrivals.push(chunk);
        let due = now.after(wait);
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// What to tell whom now. A complete host is told nothing, because it wants nothing; a seeder
    /// is told everything, because it gives us what we lack.
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
