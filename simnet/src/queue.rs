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
    Parcel { to: NodeIndex, parcel: SlabKey },
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
    /// The cut heals.
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

/// Nanoseconds that share a bucket, as a power of two. A fraction of the time of a message, so that
/// a bucket of a large fleet holds few enough steps to be sorted within the cache; with less, empty
/// buckets would cost more than sorting.
const BUCKET_BITS: u32 = 16;

/// Buckets of the near future, which together cover a time longer than nearly everything takes.
const BUCKETS: u64 = 1 << 14;

/// Everything that will happen, earliest first: a calendar of buckets for the near future, and a
/// heap for what is further away. A heap alone misses the cache at every level, twice per step.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The steps of the bucket at hand, the next one last.
    current: Vec<Entry>,
    /// Number of the bucket at hand, counted from the start of time.
    day: u64,
    /// Bucket `day` is at `day % BUCKETS`; steps in the order they were put in.
    calendar: Vec<Vec<Entry>>,
    /// Steps in the calendar.
    near: usize,
    /// Steps beyond the calendar.
    far: BinaryHeap<Reverse<Entry>>,
    next_sequence: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            current: Vec::new(),
            day: 0,
            calendar: (0..BUCKETS).map(|_| Vec::new()).collect(),
            near: 0,
            far: BinaryHeap::new(),
            next_sequence: 0,
        }
    }
}

const fn day_of(at: Instant) -> u64 {
    at.as_nanos() >> BUCKET_BITS
}

fn slot_of(day: u64) -> usize {
    usize::try_from(day % BUCKETS).expect("the calendar fits the memory")
}

impl Queue {
    pub(crate) fn push(&mut self, at: Instant, step: Step) {
        let entry = Entry { at, sequence: self.next_sequence, step };
        self.next_sequence += 1;
        let day = day_of(at);
        if day <= self.day {
            // Rare: something that happens at once, or within the bucket at hand.
            let place = self.current.partition_point(|other| *other > entry);
            self.current.insert(place, entry);
        } else if day - self.day < BUCKETS {
            self.calendar[slot_of(day)].push(entry);
            self.near += 1;
        } else {
            self.far.push(Reverse(entry));
        }
    }

    pub(crate) fn pop(&mut self) -> Option<(Instant, Step)> {
        while self.current.is_empty() {
            self.turn_page()?;
        }
        self.current.pop().map(|entry| (entry.at, entry.step))
    }

    /// The step that comes after `after` others, as far as it is known already.
    pub(crate) fn upcoming(&self, after: usize) -> Option<Step> {
        let place = self.current.len().checked_sub(after + 1)?;
        Some(self.current[place].step)
    }

    /// Goes on to the next bucket; `None` if nothing will happen any more.
    fn turn_page(&mut self) -> Option<()> {
        self.day = match self.far.peek() {
            _ if self.near > 0 => self.day + 1,
            Some(Reverse(next)) => day_of(next.at),
            None => return None,
        };
        let bucket = &mut self.calendar[slot_of(self.day)];
        self.near -= bucket.len();
        // Gives the memory back: otherwise each bucket would keep that of its fullest day.
        self.current.append(bucket);
        *bucket = Vec::new();
        while let Some(Reverse(next)) = self.far.peek()
            && day_of(next.at) <= self.day
        {
            self.current.extend(self.far.pop().map(|Reverse(entry)| entry));
        }
        self.current.sort_unstable_by(|one, other| other.cmp(one));
        Some(())
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

    /// Goal: the calendar gives what a plain heap gives, over buckets, their limits and beyond.
    #[test]
    fn calendar_agrees_with_a_heap() {
        let mut prng = p2p_core::Prng::from_seed(p2p_core::Seed::from_u64(7));
        let (mut queue, mut heap) = (Queue::default(), BinaryHeap::new());
        let mut now = 0;
        for number in 0..20_000 {
            let span = [1, 1 << 10, 1 << 17, 1 << 24, 1 << 30, 1 << 32][prng.index_below(6)];
            let at = Instant::from_nanos(now + prng.below(span));
            queue.push(at, Step::Crash { node: number });
            heap.push(Reverse((at, number)));
            if prng.below(3) > 0 {
                let Some(Reverse((at, node))) = heap.pop() else { continue };
                assert_eq!(queue.pop(), Some((at, Step::Crash { node })));
                now = at.as_nanos();
            }
        }
        while let Some(Reverse((at, node))) = heap.pop() {
            assert_eq!(queue.pop(), Some((at, Step::Crash { node })));
        }
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn an_entry_stays_small() {
        assert!(size_of::<Entry>() <= 32, "{}", size_of::<Entry>());
    }
}
