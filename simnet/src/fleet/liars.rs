//! Hosts that lie: their machines are honest, what leaves them is not.
//!
//! What a liar's own swarm does is what any swarm does; its messages and bytes are changed on their
//! way out. Nothing here chooses when anything is sent.

use std::collections::BTreeMap;

use p2p_core::wire::{Have, Message};
use p2p_core::{ChunkSet, Prng, Verdict};

use crate::queue::NodeIndex;

use super::Fleet;

/// How a host lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lie {
    /// Every chunk that it sends has wrong bytes.
    WrongBytes,
    /// It says that it has every chunk, and says nothing when it is asked for one that it lacks.
    FalseOffers,
}

/// The liars.
#[derive(Debug, Default)]
pub(super) struct Lies(BTreeMap<NodeIndex, Lie>);

impl Lies {
    pub(super) fn is_liar(&self, node: NodeIndex) -> bool {
        self.0.contains_key(&node)
    }
}

#[expect(clippy::multiple_inherent_impl, reason = "the driver is cut by concern")]
impl Fleet {
    pub(super) fn plan_lies(&mut self, prng: &mut Prng) {
        let liars = self.draw_hosts(self.scenario.faults.liars_percent, prng);
        let lies = [Lie::WrongBytes, Lie::FalseOffers].into_iter().cycle();
        self.fate.lies = Lies(liars.into_iter().zip(lies).collect());
        self.incomplete -= u32::try_from(self.fate.lies.0.len()).unwrap_or(self.incomplete);
    }

    /// What the receiver finds when it hashes a chunk of `server`.
    pub(super) fn verdict_on(&self, server: NodeIndex) -> Verdict {
        match self.fate.lies.0.get(&server) {
            Some(Lie::WrongBytes) => Verdict::Differs,
            Some(Lie::FalseOffers) | None => Verdict::Matches,
        }
    }

    /// What a node says instead of `message`; `None` if it says nothing.
    pub(super) fn twist(&self, from: NodeIndex, message: Message) -> Option<Message> {
        if self.fate.lies.0.get(&from) != Some(&Lie::FalseOffers) {
            return Some(message);
        }
        match message {
            Message::Join { contact, .. } => {
                let everything = ChunkSet::full(self.layout.chunk_count());
                Some(Message::Join { contact, have: Some(Have::of(&everything)) })
            }
            Message::Busy { .. } => None,
            honest => Some(honest),
        }
    }
}
