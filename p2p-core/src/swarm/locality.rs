//! Claims: a chunk crosses the uplink of a rack about once, and the hosts of the rack pass it on.
//!
//! Rack mates know each other, as far as `near_max` of the configuration allows. Whoever asks a
//! host elsewhere for a chunk claims it before its mates; they wait until it is offered in the
//! rack. A claim is a promise, not a lock: it ends when it is given up, with the claimant's
//! connection, or after a time. A node that does not know its rack has no mates, and nothing here
//! happens. Invariant: `claimed` holds exactly the chunks with a claim in the table.

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
use super::asking::Scope;
use super::peers::PeerTable;

/// Who brings which chunk into the rack.
#[derive(Debug)]
pub(super) struct Claims {
    theirs: BTreeMap<ChunkIndex, Claim>,
    claimed: ChunkSet,
    /// What we claimed before our mates, and when to renew that or give it up. A few.
    ours: Vec<(ChunkIndex, Instant)>,
    /// No later than the first moment at which something is to be done about a claim.
    check_at: Option<Instant>,
    /// Most claims of one mate: as many as it may have requests in flight.
    each_max: u16,
    /// How often a claim may be renewed.
    renewals_max: u8,
}

/// A mate's word that it brings a chunk.
#[derive(Clone, Copy, Debug)]
struct Claim {
    by: NodeId,
    until: Instant,
    renewals: u8,
}

impl Claims {
    pub(super) fn new(chunk_count: u32, config: &SwarmConfig) -> Self {
        Self {
            theirs: BTreeMap::new(),
            claimed: ChunkSet::empty(chunk_count),
            ours: Vec::new(),
            check_at: None,
            each_max: config.requests_max,
            renewals_max: config.claim_renewals_max,
        }
    }

    /// The chunks that are not asked of a node outside the rack; `None` if any may be.
    pub(super) fn kept_back<'a>(&'a self, peers: &'a PeerTable) -> Option<KeptBack<'a>> {
        Some(KeptBack { near: peers.near_copies()?, claimed: &self.claimed })
    }

    /// When to look at the claims, ours and theirs; `None` if there are none.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.check_at
    }

    /// Whether a mate says that it brings the chunk.
    pub(super) fn is_theirs(&self, chunk: ChunkIndex) -> bool {
        self.claimed.capacity() > 0 && self.claimed.contains(chunk)
    }

    /// Chunks `64 * i` to `64 * i + 63` that mates say that they bring.
    pub(super) fn claimed_word(&self, i: usize) -> u64 {
        self.claimed.word(i)
    }

    fn is_ours(&self, chunk: ChunkIndex) -> bool {
        self.ours.iter().any(|(ours, _)| *ours == chunk)
    }

    /// A mate claims a chunk, or says that it is still at it. The first claim of a chunk counts,
    /// and a mate may have no more claims than it may have requests in flight. Returns whether we
    /// wait for it now.
    fn note_claim(&mut self, by: NodeId, chunk: ChunkIndex, until: Instant) -> bool {
        match self.theirs.get_mut(&chunk) {
            Some(claim) if claim.by == by && claim.renewals < self.renewals_max => {
                (claim.until, claim.renewals) = (until, claim.renewals + 1);
            }
            Some(_) => return false,
            None => {
                let count = self.theirs.values().filter(|claim| claim.by == by).count();
                if count >= usize::from(self.each_max) {
                    return false;
                }
                self.theirs.insert(chunk, Claim { by, until, renewals: 0 });
                self.claimed.insert(chunk);
            }
        }
        self.plan_check(until);
        true
    }

    /// A mate gives a claim up. Returns whether it was in force.
    fn note_disclaim(&mut self, by: NodeId, chunk: ChunkIndex) -> bool {
        self.theirs.get(&chunk).is_some_and(|claim| claim.by == by) && self.end(chunk)
    }

    /// The chunk is in the rack, or nobody brings it any more. Returns whether it was claimed.
    pub(super) fn end(&mut self, chunk: ChunkIndex) -> bool {
        self.theirs.remove(&chunk).is_some() && self.claimed.remove(chunk)
    }

    /// A chunk is here: nobody needs to bring it.
    pub(super) fn note_kept(&mut self, chunk: ChunkIndex) {
        self.ours.retain(|(ours, _)| *ours != chunk);
        self.end(chunk);
    }

    /// A mate is gone or does not deliver: its claims are over.
    pub(super) fn forget_peer(&mut self, peer: NodeId) {
        self.end_all(|claim| claim.by == peer);
    }

    /// Ends the claims that are over, and returns their chunks.
    fn end_all(&mut self, is_over: impl Fn(&Claim) -> bool) -> Vec<ChunkIndex> {
        let over = self.theirs.iter().filter(|(_, claim)| is_over(claim));
        let over: Vec<ChunkIndex> = over.map(|(chunk, _)| *chunk).collect();
        for chunk in &over {
            self.end(*chunk);
        }
        over
    }

    fn plan_check(&mut self, at: Instant) {
        self.check_at = Some(self.check_at.map_or(at, |first| first.min(at)));
    }
}

#[expect(clippy::multiple_inherent_impl, reason = "the dispatcher is cut by concern")]
impl Swarm {
    /// We ask a host outside the rack for `chunk`: the rack mates hear of it, unless they know.
    pub(super) fn claim(&mut self, chunk: ChunkIndex) {
        if self.peers.near_count() == 0 || self.claims.is_ours(chunk) {
            return;
        }
        let tend_at = self.now.after(self.claim_time() / 2);
        self.claims.ours.push((chunk, tend_at));
        self.claims.plan_check(tend_at);
        self.send_to_mates(&Message::Claim { chunk: chunk.get() });
    }

    /// Ends claims of mates whose time is up, renews ours of chunks that are on their way, and
    /// gives up ours of chunks for which no source had time.
    pub(super) fn check_claims(&mut self) {
        let now = self.now;
        if self.claims.check_at.is_none_or(|at| at > now) {
            return;
        }
        for chunk in self.claims.end_all(|claim| claim.until <= now) {
            self.peers.note_wanted(chunk);
        }
        let tend_at = now.after(self.claim_time() / 2);
        for (chunk, due) in core::mem::take(&mut self.claims.ours) {
            if due > now {
                self.claims.ours.push((chunk, due));
            } else if self.requests.asked().contains(chunk) {
                self.claims.ours.push((chunk, tend_at));
                self.send_to_mates(&Message::Claim { chunk: chunk.get() });
            } else {
                self.send_to_mates(&Message::Disclaim { chunk: chunk.get() });
            }
        }
        let theirs = self.claims.theirs.values().map(|claim| claim.until);
        let ours = self.claims.ours.iter().map(|(_, tend_at)| *tend_at);
        self.claims.check_at = theirs.chain(ours).min();
    }

    fn send_to_mates(&mut self, message: &Message) {
        let mates = self.peers.iter().filter(|entry| entry.is_near());
        let mates: Vec<NodeId> = mates.map(|entry| entry.node).collect();
        for mate in mates {
            self.send(mate, message.clone());
        }
    }

    pub(super) fn on_claim(&mut self, peer: NodeId, raw: u32) {
        let Some(chunk) = self.layout.as_ref().and_then(|layout| layout.index(raw)) else { return };
        // A mate that does not deliver would only keep us waiting.
        let entry = self.peers.get(peer);
        let is_trusted = entry.is_some_and(|entry| entry.is_near() && !entry.is_slow());
        if !is_trusted || self.have.contains(chunk) {
            return;
        }
        // Of two that claim a chunk at the same time the one with the lower key goes on.
        let is_ours = self.claims.is_ours(chunk);
        if is_ours && self.contact.node < peer {
            return;
        }
        let until = self.now.after(self.claim_time());
        let is_taken = self.claims.note_claim(peer, chunk, until);
        if is_ours && is_taken {
            self.yield_claim(chunk);
        }
    }

    fn yield_claim(&mut self, chunk: ChunkIndex) {
        self.claims.ours.retain(|(ours, _)| *ours != chunk);
        let asked: Vec<_> = self.requests.of_chunk(chunk).collect();
        for (request, peer) in asked {
            let entry = self.peers.get(peer);
            if entry.is_some_and(|entry| !entry.is_near() && !entry.is_seeder()) {
                self.cancel_request(request);
            }
        }
        self.peers.note_wanted(chunk);
        self.scope = Scope::All;
    }

    pub(super) fn on_disclaim(&mut self, peer: NodeId, raw: u32) {
        let Some(chunk) = self.layout.as_ref().and_then(|layout| layout.index(raw)) else { return };
        if self.claims.note_disclaim(peer, chunk) {
            self.peers.note_wanted(chunk);
            self.scope = Scope::All;
        }
    }

    /// How long a mate gets to bring a chunk that it claims.
    fn claim_time(&self) -> Duration {
        let usual = self.peers.usual_service().unwrap_or(Duration::ZERO);
        self.config.claim_time_min.max(usual * self.config.late_factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATE: NodeId = NodeId::from_bytes([1; 32]);
    const OTHER: NodeId = NodeId::from_bytes([2; 32]);

    const RENEWALS_MAX: u8 = 2;

    fn claims() -> Claims {
        let config = SwarmConfig {
            requests_max: 3,
            claim_renewals_max: RENEWALS_MAX,
            ..SwarmConfig::host()
        };
        Claims::new(10, &config)
    }

    fn chunk(raw: u32) -> ChunkIndex {
        ChunkIndex::new_unchecked(raw)
    }

    fn at(second: u64) -> Instant {
        Instant::from_start(Duration::from_secs(second))
    }

    #[test]
    fn one_mate_claims_no_more_than_the_limit() {
        let mut claims = claims();
        let taken = (0..4).map(|raw| claims.note_claim(MATE, chunk(raw), at(1)));
        assert_eq!(taken.collect::<Vec<_>>(), [true, true, true, false]);
        assert!(claims.note_claim(OTHER, chunk(3), at(1)));
        assert_eq!(claims.claimed.count(), 4);
        claims.forget_peer(MATE);
        assert_eq!(claims.claimed.iter().collect::<Vec<_>>(), [chunk(3)]);
    }

    #[test]
    fn first_claim_counts_until_it_is_over() {
        let mut claims = claims();
        assert!(claims.note_claim(MATE, chunk(0), at(1)));
        assert!(!claims.note_claim(OTHER, chunk(0), at(1)));
        assert!(!claims.note_disclaim(OTHER, chunk(0)));
        assert!(claims.is_theirs(chunk(0)));
        assert!(claims.note_disclaim(MATE, chunk(0)));
        assert!(claims.note_claim(OTHER, chunk(0), at(1)));
    }

    /// Goal: nobody waits for a mate that says again and again that the chunk is on its way.
    #[test]
    fn claim_is_renewed_a_few_times_only() {
        let mut claims = claims();
        assert!(claims.note_claim(MATE, chunk(0), at(1)));
        for renewal in 1..=u64::from(RENEWALS_MAX) {
            assert!(claims.note_claim(MATE, chunk(0), at(1 + renewal)));
        }
        let end = at(1 + u64::from(RENEWALS_MAX));
        assert!(!claims.note_claim(MATE, chunk(0), at(100)));
        assert_eq!(claims.end_all(|claim| claim.until <= end), [chunk(0)]);
    }

    #[test]
    fn next_check_is_no_later_than_the_first_end() {
        let mut claims = claims();
        assert_eq!(claims.due(), None);
        claims.note_claim(MATE, chunk(0), at(5));
        claims.note_claim(MATE, chunk(1), at(3));
        claims.note_claim(MATE, chunk(2), at(4));
        assert_eq!(claims.due(), Some(at(3)));
    }
}
