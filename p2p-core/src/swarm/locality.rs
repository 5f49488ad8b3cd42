//! What keeps bytes within a rack: a chunk crosses the rack's uplink once, and its hosts pass it on.
//!
//! Rack mates know each other, as far as [`SwarmConfig::near_max`] allows. Whoever asks a host elsewhere
//! for a chunk claims it, and tells its mates; they wait until it is offered in the rack. A claim is a
//! promise without a guarantee: it ends with the claimant's connection, when it is given up, or after
//! a time. Invariant: what is `claimed` are exactly the chunks with a claim in the table.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::chunk_set::ChunkSet;
use crate::config::SwarmConfig;
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::pick::KeptBack;
use crate::time::Instant;
use crate::wire::Message;

use super::Swarm;
use super::peers::PeerTable;

/// Who brings which chunk into the rack.
#[derive(Debug)]
pub(super) struct Claims {
    theirs: BTreeMap<ChunkIndex, Claim>,
    claimed: ChunkSet,
    /// What we told our mates that we bring, and when to tell them what became of it.
    ours: Vec<(ChunkIndex, Instant)>,
    /// No claim ends by itself before this.
    check_at: Option<Instant>,
}

/// A mate's word that it brings a chunk.
#[derive(Clone, Copy, Debug)]
struct Claim {
    by: NodeId,
    until: Instant,
}

impl Claims {
    pub(super) fn new(chunk_count: u32) -> Self {
        Self {
            theirs: BTreeMap::new(),
            claimed: ChunkSet::empty(chunk_count),
            ours: Vec::new(),
            check_at: None,
        }
    }

    /// The chunks that are not asked of a node outside the rack; `None` if any may be.
    pub(super) fn kept_back<'a>(&'a self, peers: &'a PeerTable) -> Option<KeptBack<'a>> {
        Some(KeptBack { near: peers.near_copies()?, claimed: &self.claimed })
    }

    /// A mate claims a chunk. The first claim of a chunk counts, and no more of one mate than it may
    /// have requests in flight.
    pub(super) fn note_claim(
        &mut self,
        by: NodeId,
        chunk: ChunkIndex,
        until: Instant,
        config: &SwarmConfig,
    ) {
        if let Some(claim) = self.theirs.get_mut(&chunk).filter(|claim| claim.by == by) {
            claim.until = until;
            return;
        }
        let count = self.theirs.values().filter(|claim| claim.by == by).count();
        if count >= usize::from(config.requests_max) || self.claimed.contains(chunk) {
            return;
        }
        self.theirs.insert(chunk, Claim { by, until });
        self.claimed.insert(chunk);
        self.check_at = Some(self.check_at.map_or(until, |at| at.min(until)));
    }

    /// A mate gave up a chunk.
    pub(super) fn note_disclaim(&mut self, by: NodeId, chunk: ChunkIndex) {
        if self.theirs.get(&chunk).is_some_and(|claim| claim.by == by) {
            self.end(chunk);
        }
    }

    /// The chunk is in the rack, or nobody brings it any more.
    pub(super) fn end(&mut self, chunk: ChunkIndex) {
        if self.theirs.remove(&chunk).is_some() {
            self.claimed.remove(chunk);
        }
    }

    /// A mate is gone, and its claims with it.
    pub(super) fn forget_peer(&mut self, node: NodeId) {
        let gone = self.theirs.iter().filter(|(_, claim)| claim.by == node);
        let gone: Vec<ChunkIndex> = gone.map(|(chunk, _)| *chunk).collect();
        gone.into_iter().for_each(|chunk| self.end(chunk));
    }

    /// Ends the claims that lasted too long.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.check_at.is_none_or(|at| at > now) {
            return;
        }
        let late = self.theirs.iter().filter(|(_, claim)| claim.until <= now);
        let late: Vec<ChunkIndex> = late.map(|(chunk, _)| *chunk).collect();
        late.into_iter().for_each(|chunk| self.end(chunk));
        self.check_at = self.theirs.values().map(|claim| claim.until).min();
    }

    /// When to look for claims that lasted too long; `None` if there are none.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.check_at
    }
}

#[expect(clippy::multiple_inherent_impl, reason = "the dispatcher is cut by concern")]
impl Swarm {
    /// Tells the mates that we bring `chunk`, unless they know.
    pub(super) fn claim(&mut self, chunk: ChunkIndex) {
        if self.peers.near_count() == 0 || self.claims.ours.iter().any(|(ours, _)| *ours == chunk) {
            return;
        }
        self.claims.ours.push((chunk, self.now.after(self.claim_time() / 2)));
        self.tell_mates(&Message::Claim { chunk: chunk.get() });
    }

    /// Renews the claims of chunks that are on their way, and gives up those of chunks for which no
    /// source had time.
    pub(super) fn tend_claims(&mut self) {
        let now = self.now;
        if self.claims.ours.iter().all(|(_, tend_at)| *tend_at > now) {
            return;
        }
        let tend_at = now.after(self.claim_time() / 2);
        let (due, kept) = self.claims.ours.iter().partition(|(_, tend_at)| *tend_at <= now);
        let due: Vec<(ChunkIndex, Instant)> = due;
        self.claims.ours = kept;
        for (chunk, _) in due {
            let chunk_raw = chunk.get();
            if self.requests.asked().contains(chunk) {
                self.claims.ours.push((chunk, tend_at));
                self.tell_mates(&Message::Claim { chunk: chunk_raw });
            } else if !self.have.contains(chunk) {
                self.tell_mates(&Message::Disclaim { chunk: chunk_raw });
            }
        }
    }

    /// A peer says that it has a chunk now.
    pub(super) fn on_offered(&mut self, node: NodeId, chunk: ChunkIndex) {
        let is_new = self.peers.note_has(node, chunk);
        let Some(peer) = self.peers.get_mut(node).filter(|_| is_new) else { return };
        peer.fed_at = self.now;
        if peer.is_near {
            self.claims.end(chunk);
        }
    }

    /// Peers that may be asked for one more chunk, in random order, rack mates last: what can come
    /// from outside the rack is what the rack lacks.
    pub(super) fn peers_with_slots(&mut self, window: u16) -> Vec<NodeId> {
        let free = self.peers.iter().filter(|(_, peer)| peer.has_slot(self.now, window));
        let mut free: Vec<(NodeId, bool)> = free.map(|(node, peer)| (node, peer.is_near)).collect();
        self.prng.shuffle(&mut free);
        let (near, mut far): (Vec<_>, Vec<_>) = free.into_iter().partition(|(_, is_near)| *is_near);
        far.extend(near);
        far.into_iter().map(|(node, _)| node).collect()
    }

    /// How many neighbours outside the rack to look for: a node with few rack mates needs more.
    pub(super) fn far_missing(&self) -> usize {
        let near = self.peers.near_count();
        let target = usize::from(self.config.neighbours_target).saturating_sub(near);
        let target = if near > 0 { target.max(self.config.far_target.into()) } else { target };
        target.saturating_sub(self.peers.len() - near)
    }

    /// Whether a neighbour that told where it stands is one too many of its kind.
    pub(super) fn is_crowded_by(&self, node: NodeId) -> bool {
        if self.contact.location.rack == 0 {
            return false;
        }
        let near = self.peers.near_count();
        if self.peers.get(node).is_some_and(|peer| peer.is_near) {
            near > usize::from(self.config.near_max)
        } else {
            self.peers.len() - near > usize::from(self.config.neighbours_max)
        }
    }

    fn tell_mates(&mut self, message: &Message) {
        let mates: Vec<NodeId> =
            self.peers.iter().filter(|(_, peer)| peer.is_near).map(|(node, _)| node).collect();
        for mate in mates {
            self.send(mate, message.clone());
        }
    }

    pub(super) fn on_claim(&mut self, node: NodeId, raw: u32) {
        let Some(chunk) = self.layout.as_ref().and_then(|layout| layout.index(raw)) else { return };
        let is_near = self.peers.get(node).is_some_and(|peer| peer.is_near);
        if !is_near || self.have.contains(chunk) {
            return;
        }
        if self.claims.ours.iter().any(|(ours, _)| *ours == chunk) && !self.yields_to(node, chunk) {
            return;
        }
        let until = self.now.after(self.claim_time());
        self.claims.note_claim(node, chunk, until, &self.config);
    }

    /// Whether a mate that claims what we claimed as well is to bring it: of two, the one with the
    /// lower key goes on. If it is the mate, our request is cancelled.
    fn yields_to(&mut self, node: NodeId, chunk: ChunkIndex) -> bool {
        if self.contact.node < node {
            return false;
        }
        self.claims.ours.retain(|(ours, _)| *ours != chunk);
        let asked: Vec<_> = self.requests.of_chunk(chunk).collect();
        for (request, peer) in asked {
            if self.peers.get(peer).is_some_and(|peer| !peer.is_near && !peer.is_seeder()) {
                self.cancel_request(request);
            }
        }
        true
    }

    pub(super) fn on_disclaim(&mut self, node: NodeId, raw: u32) {
        if let Some(chunk) = self.layout.as_ref().and_then(|layout| layout.index(raw)) {
            self.claims.note_disclaim(node, chunk);
        }
    }

    /// How long a mate gets to bring a chunk.
    fn claim_time(&self) -> Duration {
        let usual = self.peers.usual_service().unwrap_or(Duration::ZERO);
        self.config.claim_time_min.max(usual * self.config.late_factor)
    }
}
