//! Which chunk to ask for: pure choices over sets.
//!
//! Nothing here knows of peers, requests or time, only of sets that are all of one build.
//! Invariant: equal sets and an equal generator give an equal choice.

use crate::chunk_set::{ChunkSet, bits_of};
use crate::layout::ChunkIndex;
use crate::prng::Prng;

/// How many hosts among the neighbours have each chunk.
///
/// Seeders do not count: a chunk that only a seeder has is as rare as a chunk can be.
#[derive(Clone, Debug)]
pub struct Availability {
    /// Hosts that have the chunk, of those that do not have everything.
    copies: Box<[u16]>,
    /// Hosts that have everything, counted apart so that one of them costs no walk over the chunks.
    complete_hosts: u16,
    /// Chunks with a copy at a host that does not have everything.
    seen: ChunkSet,
}

impl Availability {
    /// No host has any chunk of a build of `chunk_count`.
    pub fn new(chunk_count: u32) -> Self {
        Self {
            copies: vec![0; chunk_count as usize].into_boxed_slice(),
            complete_hosts: 0,
            seen: ChunkSet::empty(chunk_count),
        }
    }

    /// A host with these chunks came.
    pub fn add_host(&mut self, have: &ChunkSet) {
        if have.is_full() {
            self.complete_hosts = self.complete_hosts.saturating_add(1);
        } else {
            have.iter().for_each(|chunk| self.add_copy(chunk));
        }
    }

    /// A host with these chunks went.
    pub(crate) fn remove_host(&mut self, have: &ChunkSet) {
        if have.is_full() {
            self.complete_hosts = self.complete_hosts.saturating_sub(1);
        } else {
            have.iter().for_each(|chunk| self.remove_copy(chunk));
        }
    }

    /// Copies of the chunk among the neighbouring hosts.
    pub(crate) fn copies_of(&self, chunk: ChunkIndex) -> u16 {
        self.copies[chunk.as_usize()].saturating_add(self.complete_hosts)
    }

    fn add_copy(&mut self, chunk: ChunkIndex) {
        let copies = &mut self.copies[chunk.as_usize()];
        *copies = copies.saturating_add(1);
        self.seen.insert(chunk);
    }

    fn remove_copy(&mut self, chunk: ChunkIndex) {
        let copies = &mut self.copies[chunk.as_usize()];
        *copies = copies.saturating_sub(1);
        if *copies == 0 {
            self.seen.remove(chunk);
        }
    }

    /// A host that had `had` now also has `chunk`.
    pub(crate) fn note_offer(&mut self, had: &ChunkSet, chunk: ChunkIndex) {
        if had.count() + 1 == had.capacity() {
            // It becomes complete and moves from the counters to the number of complete hosts.
            had.iter().for_each(|held| self.remove_copy(held));
            self.complete_hosts = self.complete_hosts.saturating_add(1);
        } else {
            self.add_copy(chunk);
        }
    }

    /// Chunks `64 * i` to `64 * i + 63` of which some neighbouring host has a copy.
    fn word_of_seen(&self, i: usize) -> u64 {
        if self.complete_hosts > 0 { u64::MAX } else { self.seen.word(i) }
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
                let chunk = ChunkIndex::new_unchecked(raw % capacity);
                if !have.contains(chunk) {
                    gradual.note_offer(&have, chunk);
                    have.insert(chunk);
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
