//! Serving neighbours: which requests are refused, which is answered next, and with which chunk.
//!
//! A host serves whoever needs it most; a seeder sends what its ledger allows, which may be another
//! chunk than was asked for. Invariant: only chunks that are here are sent, and no more of them at
//! once than [`Swarm::uploads_max`]. Nothing here asks for anything.

use core::time::Duration;

use crate::action::Action;
use crate::chunk_set::{ChunkSet, words_of_run};
use crate::fault::PeerFault;
use crate::node_id::NodeId;
use crate::wire::{Message, RequestId};

use super::Swarm;
use super::ledger::{Asker, Ledger, Ruling};
use super::peers::Peer;
use super::uploads::Upload;

#[expect(clippy::multiple_inherent_impl, reason = "serving is a concern of its own")]
impl Swarm {
    pub(super) fn on_request(&mut self, peer: NodeId, request: RequestId, raw: u32) {
        let Some(layout) = &self.layout else {
            return self.refuse(peer, request, self.config.busy_named_max);
        };
        let Some(chunk) = layout.index(raw) else {
            let chunk_count = layout.chunk_count();
            return self.ban(peer, PeerFault::NoSuchChunk { raw, chunk_count });
        };
        let waiting = self.uploads.count_of(peer);
        if waiting >= self.config.upload_flood {
            return self.ban(peer, PeerFault::RequestFlood { waiting });
        }
        if !self.have.contains(chunk) {
            return self.refuse(peer, request, self.config.busy_named_max);
        }
        if self.uploads.waiting_count() >= self.config.upload_queue_max {
            return self.refuse(peer, request, self.queue_wait());
        }
        let is_near = self.peers.get(peer).is_some_and(Peer::is_near);
        self.uploads.enqueue(Upload { peer, request, chunk, is_near, since: self.now });
    }

    pub(super) fn on_cancel(&mut self, peer: NodeId, request: RequestId) {
        if self.uploads.cancel(peer, request) {
            self.actions.push_back(Action::CancelServe { peer, request });
        }
    }

    /// When a peer turned away by a full queue should ask again. A host, whose neighbours have
    /// other sources, names the time of half a chunk; a seeder, whom everybody asks, the time that
    /// it takes to empty the queue.
    fn queue_wait(&self) -> Duration {
        let usual = self.peers.usual_service().unwrap_or(self.config.service_unknown) / 2;
        let queued = u32::try_from(self.uploads.waiting_count()).unwrap_or(u32::MAX);
        let at_once = u32::try_from(self.uploads_max()).unwrap_or(1).max(1);
        let drained = |ledger: &Ledger| ledger.send_time().saturating_mul(queued) / at_once;
        self.ledger.as_ref().map_or(usual, |ledger| drained(ledger).max(usual))
    }

    /// Answers a request with "not now": the peer may ask again after `wait`.
    fn refuse(&mut self, peer: NodeId, request: RequestId, wait: Duration) {
        let wait = wait.max(self.config.busy_min).min(self.config.busy_named_max);
        let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        self.send(peer, Message::Busy { request, retry_after_ms });
    }

    pub(super) fn on_serve_ended(&mut self, peer: NodeId, request: RequestId, is_delivered: bool) {
        let Some(upload) = self.uploads.finish(peer, request) else { return };
        self.is_readiness_news = true;
        if let Some(ledger) = &mut self.ledger {
            if is_delivered {
                ledger.note_delivered(self.now.since(upload.since));
            } else {
                ledger.note_failed(upload.chunk);
            }
        }
        if is_delivered {
            let run = (upload.chunk.get(), 1);
            self.peers.note_has(peer, words_of_run(run));
        }
    }

    /// Answers waiting requests until as many chunks are being sent as may be.
    pub(super) fn start_uploads(&mut self) {
        while self.uploads.active_count() < self.uploads_max() {
            let Some(upload) = self.next_upload() else { return };
            let Upload { peer, request, .. } = upload;
            let chunk = match self.rule_on(&upload) {
                Ruling::Send(chunk) => chunk,
                Ruling::Wait(wait) => {
                    // It does not go back into the queue: the peer asks again, and whom it asks
                    // depends on what it has learnt by then. The slot is for the next request.
                    self.refuse(peer, request, wait);
                    continue;
                }
            };
            if let Some(ledger) = &mut self.ledger {
                // Before the next ruling, so that two requests at once get two different chunks.
                ledger.note_start(self.now, chunk);
            }
            let number = self.uploads.start(Upload { chunk, since: self.now, ..upload });
            if let Some(entry) = self.peers.get_mut(peer) {
                entry.served_at = number;
            }
            self.actions.push_back(Action::Serve { peer, request, chunk });
        }
    }

    /// What a request is answered with: the chunk that was asked for, unless the ledger of a seeder
    /// says otherwise.
    fn rule_on(&mut self, upload: &Upload) -> Ruling {
        let Some(ledger) = &self.ledger else { return Ruling::Send(upload.chunk) };
        let asker = self.peers.get(upload.peer);
        let theirs = asker.and_then(|asker| asker.have.as_ref());
        if theirs.is_some_and(|have| have.contains(upload.chunk)) {
            // It came in answer to another request meanwhile.
            return Ruling::Wait(Duration::ZERO);
        }
        let fed_at = asker.map_or(self.now, |asker| asker.fed_at);
        let is_starving = fed_at.after(self.config.starve_time) <= self.now;
        let asker = Asker { has: theirs, is_starving };
        ledger.rule(self.now, upload.chunk, asker, &mut self.prng)
    }

    /// The request to answer next. A seeder goes round its neighbours, so that what it gives out
    /// spreads from many places; a host serves first whoever has the least.
    fn next_upload(&mut self) -> Option<Upload> {
        let (peers, is_seeder) = (&self.peers, self.ledger.is_some());
        self.uploads.dequeue(|peer| {
            let entry = peers.get(peer)?;
            let chunks = entry.have.as_ref().map_or(0, |have| u64::from(have.count()));
            Some(if is_seeder { entry.served_at } else { chunks })
        })
    }

    /// Whether one more upload could begin at once, and nobody waits for it.
    pub(super) fn is_upload_slot_free(&self) -> bool {
        self.uploads.active_count() + self.uploads.waiting_count() < self.uploads_max()
    }

    /// Says `Ready` to some neighbours that lack chunks of ours, if there is nothing to send. Done
    /// after an upload ended or a chunk came, because only then is it news.
    pub(super) fn hint_readiness(&mut self) {
        let is_news = core::mem::take(&mut self.is_readiness_news);
        if !is_news || !self.is_upload_slot_free() || self.have.is_empty() {
            return;
        }
        for _ in 0..self.config.ready_hints {
            if let Some(peer) = self.peers.draw_lacking(&self.have, &mut self.prng) {
                self.send(peer, Message::Ready);
            }
        }
    }

    /// Stops whatever is being sent to a peer that is gone.
    pub(super) fn stop_uploads_to(&mut self, peer: NodeId) {
        for upload in self.uploads.forget_peer(peer) {
            // The peer may have left with its connection still open: what is being sent to it must
            // not go on beside what takes its place.
            let request = upload.request;
            self.actions.push_back(Action::CancelServe { peer, request });
            if let Some(ledger) = &mut self.ledger {
                ledger.note_failed(upload.chunk);
                self.is_readiness_news = true;
            }
        }
    }

    /// Chunks of a seeder that are gone with a peer, and that no other neighbour has, may be
    /// nowhere else: they may be given out again at once.
    pub(super) fn take_back_chunks_of(&mut self, peer: NodeId) {
        let Some(ledger) = &mut self.ledger else { return };
        let Some(gone) = self.peers.get(peer).and_then(|entry| entry.have.as_ref()) else { return };
        let others = self.peers.iter().filter(|other| other.node != peer);
        let others: Vec<&ChunkSet> = others.filter_map(|other| other.have.as_ref()).collect();
        for i in 0..gone.word_count() {
            let mut only_there = gone.word(i);
            for other in &others {
                if only_there == 0 {
                    break;
                }
                only_there &= !other.word(i);
            }
            ledger.note_gone(i, only_there);
        }
    }

    /// Most chunks that are sent at once.
    pub(super) fn uploads_max(&self) -> usize {
        let config = &self.config;
        if self.is_of_small_chunks() { config.uploads_max_small } else { config.uploads_max }
    }

    /// Whether the build is one of small chunks, of which more have to be under way at once.
    pub(super) fn is_of_small_chunks(&self) -> bool {
        let average = self.layout.as_ref().map(|layout| layout.average_size());
        average.is_some_and(|average| average < self.config.small_chunk_bytes)
    }
}
