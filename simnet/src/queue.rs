//! The event queue: what happens next, and ties broken by who was put in first.
//!
//! Entries are small and plain, because a large fleet keeps hundreds of thousands of them: whatever
//! is larger than two numbers waits in a slab and is named here by its slot.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use p2p_core::Instant;

use crate::slab::SlabKey;

/// Position of a node in the fleet's table; seeders come first.
pub type NodeIndex = u32;

/// Something that will happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// A node enters the swarm for the first time.
    Start { node: NodeIndex },
    /// A message, a question or an answer arrives.
    Parcel { parcel: SlabKey },
    /// A dial of `from` to `to` ends, one way or the other.
    DialEnded { from: NodeIndex, to: NodeIndex },
    /// The last byte of a chunk left the sender.
    UplinkFree { transfer: SlabKey },
    /// The last byte of a chunk reached the receiver.
    Arrived { transfer: SlabKey },
    /// The sender knows how sending a chunk ended.
    Served { transfer: SlabKey },
    /// A chunk has been on its way for another second.
    Advanced { transfer: SlabKey },
    /// A node's alarm, unless it was set anew since.
    Wake { node: NodeIndex, generation: u32 },
    /// `node` notices that nothing comes from `peer` any more.
    PeerSilent { node: NodeIndex, peer: NodeIndex },
    /// A node dies without a word.
    Crash { node: NodeIndex },
    /// A node that died is back, with the chunks that it had stored.
    Return { node: NodeIndex },
    /// A node dies for good.
    Vanish { node: NodeIndex },
    /// A part of the fleet is cut off from the rest.
    CutBegins { cut: u32 },
    /// Connections across a cut that still lasts are given up.
    CutIsNoticed { cut: u32 },
    /// The cut is mended.
    CutEnds { cut: u32 },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    at: Instant,
    sequence: u64,
    step: Step,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Everything that will happen, earliest first.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    next_sequence: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Instant, step: Step) {
        self.heap.push(Reverse(Entry { at, sequence: self.next_sequence, step }));
        self.next_sequence += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<(Instant, Step)> {
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_by_time_and_then_in_the_order_they_were_put_in() {
        let mut queue = Queue::default();
        let at = Instant::from_nanos;
        for (nanos, node) in [(5, 1), (3, 2), (5, 3), (3, 4)] {
            queue.push(at(nanos), Step::Crash { node });
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        let expected = [(3, 2), (3, 4), (5, 1), (5, 3)];
        assert_eq!(order, expected.map(|(nanos, node)| (at(nanos), Step::Crash { node })));
    }

    #[test]
    fn an_entry_stays_small() {
        assert!(size_of::<Entry>() <= 32, "{}", size_of::<Entry>());
    }
}
