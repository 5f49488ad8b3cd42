//! What comes of the requests in flight: chunks that arrive, refusals, answers that break off.
//!
//! Invariant: a chunk is kept only after its verdict was [`Verdict::Matches`], and once it is kept
//! nobody owes it any more. Whom to ask next is decided in `asking.rs`.

use core::time::Duration;

use crate::action::Action;
use crate::config::SwarmConfig;
use crate::event::Verdict;
use crate::fault::PeerFault;
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::wire::RequestId;

use super::Swarm;
use super::asking::Scope;
use super::requests::Request;

#[expect(clippy::multiple_inherent_impl, reason = "what arrives is a concern of its own")]
impl Swarm {
    pub(super) fn on_busy(&mut self, peer: NodeId, request: RequestId, retry_after_ms: u32) {
        if self.requests.get(request).is_none_or(|request| request.peer != peer) {
            return;
        }
        self.give_up_request(request);
        // A peer can ask for patience, not for silence.
        let SwarmConfig { busy_min, busy_wait_max, .. } = *self.config;
        let wait = Duration::from_millis(retry_after_ms.into()).max(busy_min).min(busy_wait_max);
        self.peers.note_busy(self.now, peer, wait, &self.config);
        self.scope = Scope::All;
    }

    pub(super) fn on_chunk_hashed(&mut self, id: RequestId, chunk: ChunkIndex, verdict: Verdict) {
        self.scope = Scope::All;
        let request = self.drop_request(id);
        match (verdict, request) {
            (Verdict::Matches, request) => {
                if let Some(Request { peer, asked_at, is_late, .. }) = request {
                    self.peers.note_delivery(peer, self.now.since(asked_at), is_late);
                }
                // Kept even if the request was given up meanwhile: the bytes are right and stored.
                self.keep_chunk(chunk);
            }
            (Verdict::Differs, Some(Request { peer, .. })) => {
                self.ban(peer, PeerFault::WrongBytes { chunk: chunk.get() });
            }
            // Given up meanwhile, and nobody is left to blame.
            (Verdict::Differs, None) => {}
        }
    }

    pub(super) fn on_fetch_failed(&mut self, id: RequestId) {
        if let Some(request) = self.give_up_request(id) {
            // Not asked again at once.
            self.peers.note_failed(self.now, request.peer, &self.config);
        }
    }

    /// A chunk is verified and stored: it is counted, and whoever else owes it need not send it.
    pub(super) fn keep_chunk(&mut self, chunk: ChunkIndex) {
        if self.layout.is_none() || !self.have.insert(chunk) {
            return;
        }
        self.requests.end_local(chunk);
        self.progress_at = self.now;
        self.claims.note_kept(chunk);
        self.is_readiness_news = true;
        let wait = self.offer_wait();
        self.offers.note_arrival(self.now, chunk, wait);
        let losers: Vec<_> = self.requests.of_chunk(chunk).collect();
        for (request, _) in losers {
            self.cancel_request(request);
        }
        if self.is_complete() {
            self.peers.stop_counting();
            let rest: Vec<_> = self.requests.iter().map(|(id, _)| id).collect();
            for id in rest {
                self.cancel_request(id);
            }
            self.actions.push_back(Action::Complete);
        }
    }

    pub(super) fn cancel_request(&mut self, request: RequestId) {
        if let Some(Request { peer, .. }) = self.drop_request(request) {
            self.actions.push_back(Action::CancelFetch { request, peer });
        }
    }

    /// Forgets a request whose chunk is here, or is no longer to come from this peer.
    pub(super) fn drop_request(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(id)?;
        if let Some(entry) = self.peers.get_mut(request.peer) {
            entry.requests -= 1;
        }
        Some(request)
    }

    /// Forgets a request whose chunk is still wanted.
    pub(super) fn give_up_request(&mut self, id: RequestId) -> Option<Request> {
        let request = self.drop_request(id)?;
        self.peers.note_wanted(request.chunk);
        Some(request)
    }
}
