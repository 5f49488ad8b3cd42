//! Which chunk to ask for: pure choices over sets.
//!
//! Nothing here knows of peers, requests or time, only of sets that are all of one build.
//! Invariant: equal sets and an equal generator give an equal choice.

use crate::chunk_set::{ChunkSet, bits_of, full_word};
use crate::layout::ChunkIndex;
use crate::prng::Prng;

/// How many hosts among the neighbours have each chunk.
///
/// Seeders do not count: a chunk that only a seeder has is as rare as a chunk can be.
#[derive(Clone, Debug)]
pub struct Availability {
    chunk_count: u32,
    /// Hosts that have a chunk, of those that do not have everything; one entry for 64 chunks.
    copies: Box<[Counters]>,
    /// Hosts that have everything, counted apart so that one of them costs no walk over the chunks.
    complete_hosts: u16,
}

/// The counts of 64 chunks, lowest digit first: bit `i` of digit `k` is binary digit `k` of the
/// count of chunk `i`. So 64 counts change in a few operations, and a `Join` of a few bytes never
/// costs a step for each chunk of the build.
#[derive(Clone, Copy, Debug)]
struct Counters([u64; Self::DIGITS]);

impl Counters {
    /// Twice as many hosts as a node has neighbours can be counted with one digit more than its
    /// neighbours need; more digits would cost memory for each chunk.
    const DIGITS: usize = 8;

    /// One host more has the chunks of `mask`. A count that is full stays.
    fn add(&mut self, mask: u64) {
        let mut carry = mask;
        for digit in &mut self.0 {
            (*digit, carry) = (*digit ^ carry, *digit & carry);
            if carry == 0 {
                return;
            }
        }
        self.0.iter_mut().for_each(|digit| *digit |= carry);
    }

    /// One host fewer has them. A count of zero stays.
    fn subtract(&mut self, mask: u64) {
        let mut borrow = mask & self.any();
        for digit in &mut self.0 {
            (*digit, borrow) = (*digit ^ borrow, !*digit & borrow);
            if borrow == 0 {
                return;
            }
        }
    }

    /// The chunks that some host has.
    fn any(&self) -> u64 {
        self.0.iter().fold(0, |any, digit| any | digit)
    }

    fn of(&self, bit: u32) -> u16 {
        let digits = self.0.iter().rev();
        digits.fold(0, |count, digit| count << 1 | u16::from(digit >> bit & 1 == 1))
    }
}

impl Availability {
    /// No host has any chunk of a build of `chunk_count`.
    pub fn new(chunk_count: u32) -> Self {
        let words = chunk_count.div_ceil(u64::BITS) as usize;
        let copies = vec![Counters([0; Counters::DIGITS]); words].into_boxed_slice();
        Self { chunk_count, copies, complete_hosts: 0 }
    }

    /// A host with these chunks came.
    ///
    /// # Cost
    ///
    /// A step for each 64 chunks of the build.
    pub fn add_host(&mut self, have: &ChunkSet) {
        assert_eq!(have.capacity(), self.chunk_count, "a set of another build");
        if have.is_full() {
            self.complete_hosts = self.complete_hosts.saturating_add(1);
        } else if !have.is_empty() {
            self.copies.iter_mut().enumerate().for_each(|(i, copies)| copies.add(have.word(i)));
        }
    }

    /// A host with these chunks went.
    pub(crate) fn remove_host(&mut self, have: &ChunkSet) {
        assert_eq!(have.capacity(), self.chunk_count, "a set of another build");
        if have.is_full() {
            self.complete_hosts = self.complete_hosts.saturating_sub(1);
        } else if !have.is_empty() {
            self.copies
                .iter_mut()
                .enumerate()
                .for_each(|(i, copies)| copies.subtract(have.word(i)));
        }
    }

    /// Copies of the chunk among the neighbouring hosts.
    pub(crate) fn copies_of(&self, chunk: ChunkIndex) -> u16 {
        let copies = &self.copies[chunk.as_usize() / u64::BITS as usize];
        copies.of(chunk.get() % u64::BITS).saturating_add(self.complete_hosts)
    }

    /// A host that is counted has these chunks of word `i` as well.
    pub(crate) fn note_offer(&mut self, i: usize, new: u64) {
        self.copies[i].add(new);
    }

    /// A host whose every chunk is counted has them all: it moves to the number of complete hosts.
    pub(crate) fn note_complete(&mut self) {
        for (i, copies) in self.copies.iter_mut().enumerate() {
            copies.subtract(full_word(self.chunk_count, i));
        }
        self.complete_hosts = self.complete_hosts.saturating_add(1);
    }

    /// Chunks `64 * i` to `64 * i + 63` of which some neighbouring host has a copy.
    fn word_of_seen(&self, i: usize) -> u64 {
        if self.complete_hosts > 0 { u64::MAX } else { self.copies[i].any() }
    }
}

/// The chunks that may be asked of one peer. All sets are of the same build.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// What the peer has.
    pub offered: &'a ChunkSet,
    /// What we have.
    pub have: &'a ChunkSet,
    /// What we have asked of anybody.
    pub asked: &'a ChunkSet,
    /// What the neighbouring hosts have.
    pub availability: &'a Availability,
    /// What is not asked of this peer because it is in our rack already, or on its way there.
    pub kept_back: Option<KeptBack<'a>>,
}

/// What is not asked of nodes outside the rack.
#[derive(Clone, Copy, Debug)]
pub struct KeptBack<'a> {
    /// What the hosts of the rack have.
    pub near: &'a Availability,
    /// What they say that they bring.
    pub claimed: &'a ChunkSet,
}

impl Choice<'_> {
    fn word(&self, i: usize) -> u64 {
        let kept_back =
            self.kept_back.map_or(0, |kept| kept.near.word_of_seen(i) | kept.claimed.word(i));
        self.offered.word(i) & !self.have.word(i) & !self.asked.word(i) & !kept_back
    }

    /// The rarest chunk of a sample of at most `sample_max` candidates that start at a random
    /// place; equally rare ones are equally likely. `None` if the peer has nothing for us.
    ///
    /// Nodes that start together would otherwise all ask for the same chunk.
    ///
    /// # Cost
    ///
    /// One pass over the bit sets at most, until the sample is full.
    pub fn pick_rarest(&self, sample_max: u32, prng: &mut Prng) -> Option<ChunkIndex> {
        let mut best = None;
        let mut best_copies = u16::MAX;
        let mut ties = 0;
        let mut sampled = 0;
        for chunk in rotated(self.offered.word_count(), prng, |i| self.word(i)) {
            let copies = self.availability.copies_of(chunk);
            if copies < best_copies || best.is_none() {
                (best, best_copies, ties) = (Some(chunk), copies, 1);
            } else if copies == best_copies {
                ties += 1;
                if prng.below(ties) == 0 {
                    best = Some(chunk);
                }
            }
            sampled += 1;
            if sampled == sample_max {
                break;
            }
        }
        best
    }

    /// A random chunk that no neighbouring host has: what a seeder is for.
    pub(crate) fn pick_unseen(&self, prng: &mut Prng) -> Option<ChunkIndex> {
        rotated(self.offered.word_count(), prng, |i| {
            self.word(i) & !self.availability.word_of_seen(i)
        })
        .next()
    }
}

/// The members of a set that is given by its words, in order from a random member on, and round to
/// it again.
fn rotated<F: Fn(usize) -> u64>(
    word_count: usize,
    prng: &mut Prng,
    word: F,
) -> impl Iterator<Item = ChunkIndex> + use<F> {
    let start = if word_count == 0 { 0 } else { prng.index_below(word_count) };
    // The first word is cut in two at a random bit: builds of less than a word would otherwise
    // always start with their first chunk.
    let high = u64::MAX << prng.below(64);
    let pass = |i: usize, mask: u64| bits_of(i, word(i) & mask);
    let first = (word_count > 0).then(|| pass(start, high));
    let last = (word_count > 0).then(|| pass(start, !high));
    let middle = (1..word_count)
        .map(move |step| (start + step) % word_count)
        .map(move |i| (i, word(i)))
        .filter(|(_, word)| *word != 0)
        .flat_map(|(i, word)| bits_of(i, word));
    first.into_iter().flatten().chain(middle).chain(last.into_iter().flatten())
}

/// A random member of the set given by its words; `None` if it is empty.
pub(crate) fn pick_any(
    word_count: usize,
    prng: &mut Prng,
    word: impl Fn(usize) -> u64,
) -> Option<ChunkIndex> {
    rotated(word_count, prng, word).next()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::prng::Seed;

    fn set_of(capacity: u32, raws: &BTreeSet<u32>) -> ChunkSet {
        let mut set = ChunkSet::empty(capacity);
        for raw in raws.iter().filter(|raw| **raw < capacity) {
            set.insert(ChunkIndex::new_unchecked(*raw));
        }
        set
    }

    proptest! {
        /// Goal: with a sample as large as the build, the choice is exactly the rarest chunk.
        /// Method: a slow oracle over plain sets.
        #[test]
        fn rarest_agrees_with_a_plain_search(
            capacity in 1_u32..200,
            offered in prop::collection::btree_set(0_u32..200, 0..150),
            have in prop::collection::btree_set(0_u32..200, 0..50),
            asked in prop::collection::btree_set(0_u32..200, 0..20),
            others in prop::collection::vec(prop::collection::btree_set(0_u32..200, 0..200), 0..5),
            mate in prop::collection::btree_set(0_u32..200, 0..100),
            mate_is_full in any::<bool>(),
            claimed in prop::collection::btree_set(0_u32..200, 0..20),
            stays_near in any::<bool>(),
            seed in any::<u64>(),
        ) {
            let mut availability = Availability::new(capacity);
            let others: Vec<_> = others.iter().map(|other| set_of(capacity, other)).collect();
            for other in &others {
                availability.add_host(other);
            }
            let offered = set_of(capacity, &offered);
            let have = set_of(capacity, &have);
            let asked = set_of(capacity, &asked);
            let copies = |chunk| others.iter().filter(|other| other.contains(chunk)).count();
            let mut near = Availability::new(capacity);
            near.add_host(&set_of(capacity, &mate));
            let claimed = set_of(capacity, &claimed);
            let is_kept_back = |chunk: ChunkIndex| {
                stays_near && (mate.contains(&chunk.get()) || claimed.contains(chunk) || mate_is_full)
            };
            if mate_is_full {
                near.add_host(&ChunkSet::full(capacity));
            }
            let candidates: Vec<_> = offered
                .iter()
                .filter(|chunk| !have.contains(*chunk) && !asked.contains(*chunk))
                .filter(|chunk| !is_kept_back(*chunk))
                .collect();

            let kept_back = stays_near.then_some(KeptBack { near: &near, claimed: &claimed });
            let choice = Choice { offered: &offered, have: &have, asked: &asked, availability: &availability, kept_back };
            let mut prng = Prng::from_seed(Seed::from_u64(seed));
            let picked = choice.pick_rarest(capacity, &mut prng);
            prop_assert_eq!(picked.map(copies), candidates.iter().map(|chunk| copies(*chunk)).min());
            prop_assert!(picked.is_none_or(|chunk| candidates.contains(&chunk)));

            let unseen = choice.pick_unseen(&mut prng);
            let expected = candidates.iter().any(|chunk| copies(*chunk) == 0);
            prop_assert_eq!(unseen.is_some(), expected);
            prop_assert!(unseen.is_none_or(|chunk| copies(chunk) == 0 && candidates.contains(&chunk)));
        }

        /// Goal: counting chunk by chunk ends where counting whole sets ends, also when a host
        /// becomes complete on the way.
        #[test]
        fn offers_count_like_whole_sets(
            capacity in 1_u32..80,
            order in Just(()).prop_perturb(|(), mut rng| (0..80).map(|_| rng.random::<u32>()).collect::<Vec<_>>()),
        ) {
            let mut gradual = Availability::new(capacity);
            let mut have = ChunkSet::empty(capacity);
            gradual.add_host(&have);
            for raw in order {
                let (word, bit) = ((raw % capacity) / u64::BITS, 1 << (raw % capacity % u64::BITS));
                let new = have.insert_word(word as usize, bit);
                gradual.note_offer(word as usize, new);
                if new != 0 && have.is_full() {
                    gradual.note_complete();
                }
            }
            let mut whole = Availability::new(capacity);
            whole.add_host(&have);
            for raw in 0..capacity {
                let chunk = ChunkIndex::new_unchecked(raw);
                prop_assert_eq!(gradual.copies_of(chunk), whole.copies_of(chunk));
            }
        }
    }

    proptest! {
        /// Goal: hosts that come and go leave the counts of those that stay.
        #[test]
        fn counts_follow_hosts_that_come_and_go(
            capacity in 1_u32..140,
            stay in prop::collection::vec(prop::collection::btree_set(0_u32..140, 0..140), 0..20),
            go in prop::collection::vec(prop::collection::btree_set(0_u32..140, 0..140), 0..20),
        ) {
            let sets = |all: &[BTreeSet<u32>]| {
                all.iter().map(|raws| set_of(capacity, raws)).collect::<Vec<_>>()
            };
            let (stay, go) = (sets(&stay), sets(&go));
            let mut availability = Availability::new(capacity);
            stay.iter().chain(&go).for_each(|have| availability.add_host(have));
            for have in &go {
                availability.remove_host(have);
            }
            for chunk in (0..capacity).map(ChunkIndex::new_unchecked) {
                let expected = stay.iter().filter(|have| have.contains(chunk)).count();
                prop_assert_eq!(usize::from(availability.copies_of(chunk)), expected);
            }
        }
    }

    #[test]
    fn counts_end_at_their_limits() {
        let mut one = ChunkSet::empty(2);
        one.insert(ChunkIndex::new_unchecked(0));
        let [first, second] = [0, 1].map(ChunkIndex::new_unchecked);
        let mut availability = Availability::new(2);
        availability.remove_host(&one);
        assert_eq!(availability.copies_of(first), 0);
        let most = (1 << Counters::DIGITS) - 1;
        for _ in 0..=most {
            availability.add_host(&one);
        }
        assert_eq!([first, second].map(|chunk| availability.copies_of(chunk)), [most, 0]);
        let limits = crate::config::SwarmConfig::seeder();
        assert!(limits.neighbours_max + limits.near_max < most, "every neighbour can be counted");
    }

    #[test]
    fn equally_rare_chunks_are_equally_likely() {
        let offered = ChunkSet::full(8);
        let (have, asked) = (ChunkSet::empty(8), ChunkSet::empty(8));
        let availability = Availability::new(8);
        let choice = Choice {
            offered: &offered,
            have: &have,
            asked: &asked,
            availability: &availability,
            kept_back: None,
        };
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let mut drawn = [0_u32; 8];
        for _ in 0..8_000 {
            drawn[choice.pick_rarest(64, &mut prng).unwrap().as_usize()] += 1;
        }
        assert!(drawn.iter().all(|count| (800..1_200).contains(count)), "{drawn:?}");
    }
}
