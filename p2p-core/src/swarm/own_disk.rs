//! What this host's own disk gives and loses.
//!
//! Chunks that are copied out of other builds on this host are asked of nobody, and offered to
//! hosts only once they are verified and stored, like any other chunk. Seeders hear of them at
//! once: a seeder sends what nobody was given yet rather than what it was asked for, and would
//! otherwise send these chunks in vain. What turns out not to be here after all is taken back by
//! joining again, because nobody sends a chunk to a node that has offered it.

use std::borrow::Cow;

use crate::chunk_set::ChunkSet;
use crate::event::LocalCopy;
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;

use super::Swarm;
use super::peers::Peer;

#[expect(clippy::multiple_inherent_impl, reason = "the disk is a concern of its own")]
impl Swarm {
    pub(super) fn on_local_copy(&mut self, copy: LocalCopy) {
        match copy {
            LocalCopy::Begun { layout, chunks } => {
                let is_new = self.layout.is_none();
                if is_new {
                    self.learn_layout(layout);
                }
                for chunk in chunks.iter().filter(|chunk| !self.have.contains(*chunk)) {
                    self.requests.note_local(chunk);
                }
                self.progress_at = self.now;
                self.join_seeders();
            }
            LocalCopy::Stored { chunks } => {
                for chunk in chunks {
                    self.keep_chunk(chunk);
                }
            }
            LocalCopy::Failed { chunks } => self.on_copies_failed(&chunks),
        }
    }

    fn on_copies_failed(&mut self, chunks: &[ChunkIndex]) {
        for chunk in chunks {
            self.requests.end_local(*chunk);
        }
        self.peers.renew_interest();
        // Their `Join` from us said that these need not be sent.
        self.join_seeders();
    }

    /// What our `Join` shows a peer: the chunks that are here, and to a seeder those that are being
    /// copied as well.
    pub(super) fn shown_to(&self, peer: NodeId) -> Cow<'_, ChunkSet> {
        let local = self.requests.local();
        if local.is_empty() || !self.peers.get(peer).is_some_and(Peer::is_seeder) {
            return Cow::Borrowed(&self.have);
        }
        let mut shown = self.have.clone();
        for chunk in local.iter() {
            shown.insert(chunk);
        }
        Cow::Owned(shown)
    }

    /// Sends another `Join` to a neighbour that turned out to be a seeder: the first one showed it
    /// only what hosts are shown.
    pub(super) fn rejoin_seeder_with_local_chunks(&mut self, peer: NodeId) {
        let is_seeder = self.peers.get(peer).is_some_and(Peer::is_seeder);
        if is_seeder && !self.requests.local().is_empty() {
            self.join(peer);
        }
    }

    fn join_seeders(&mut self) {
        let seeders = self.peers.iter().filter(|entry| entry.is_seeder());
        let seeders: Vec<NodeId> = seeders.map(|entry| entry.node).collect();
        for seeder in seeders {
            self.join(seeder);
        }
    }

    pub(super) fn on_chunks_lost(&mut self, chunks: &[ChunkIndex]) {
        if self.is_complete() {
            self.peers.start_counting(self.have.capacity());
        }
        for chunk in chunks {
            self.have.remove(*chunk);
        }
        self.peers.renew_interest();
        self.progress_at = self.now;
        self.join_all();
    }
}
