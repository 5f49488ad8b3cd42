//! What this host's own disk gives and loses, and what neighbours are told that we have.
//!
//! Chunks that are copied out of other builds on this host are asked of nobody, and offered to hosts
//! only once they are verified and stored, like any other chunk. Seeders are told of them at once: a
//! seeder sends what nobody was given yet rather than what it was asked for, and those chunks would
//! come for nothing. What turns out not to be here after all is taken back by joining again, because
//! nobody sends a chunk to a node that has offered it.

use std::borrow::Cow;

use crate::chunk_set::ChunkSet;
use crate::event::LocalCopy;
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::wire::{Have, Message};

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
        self.peers.forget_dryness();
        // They were told that these need not be sent.
        self.join_seeders();
    }

    /// What a neighbour is told that we have.
    fn told_to(&self, node: NodeId) -> Cow<'_, ChunkSet> {
        let local = self.requests.local();
        if local.is_empty() || !self.peers.get(node).is_some_and(Peer::is_seeder) {
            return Cow::Borrowed(&self.have);
        }
        let mut told = self.have.clone();
        for chunk in local.iter() {
            told.insert(chunk);
        }
        Cow::Owned(told)
    }

    /// A neighbour turned out to be a seeder, after it was told what hosts are told.
    pub(super) fn tell_seeder_of_local_chunks(&mut self, node: NodeId) {
        let is_seeder = self.peers.get(node).is_some_and(Peer::is_seeder);
        if is_seeder && !self.requests.local().is_empty() {
            self.join(node);
        }
    }

    fn join_seeders(&mut self) {
        let seeders = self.peers.iter().filter(|peer| peer.is_seeder());
        let seeders: Vec<NodeId> = seeders.map(|peer| peer.node).collect();
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
        self.peers.forget_dryness();
        self.progress_at = self.now;
        self.join_all();
    }

    pub(super) fn join(&mut self, node: NodeId) {
        let have = self.layout.as_ref().map(|_| Have::of(&self.told_to(node)));
        if let Some(peer) = self.peers.get_mut(node) {
            peer.offers_sent = self.offers.arrival_count();
            let contact = Box::new(self.contact);
            self.send(node, Message::Join { contact, have });
        }
    }

    pub(super) fn join_all(&mut self) {
        self.peers.nodes().into_iter().for_each(|peer| self.join(peer));
    }
}
