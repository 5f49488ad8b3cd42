//! A set of chunks of one build, packed.
//!
//! Most of the time, most peers that a node knows have nothing or everything, so both are kept
//! without an allocation: neighbours times chunks is the dominant memory of a simulated fleet.
//! What a peer says is taken in by words of 64 chunks, so that it costs no more than its bytes and
//! one pass over the words.

use crate::layout::ChunkIndex;

const WORD_BITS: u32 = u64::BITS;

/// Which chunks of a build somebody has.
///
/// The capacity is the build's chunk count and never changes.
#[derive(Clone, Eq, PartialEq)]
pub struct ChunkSet {
    capacity: u32,
    count: u32,
    form: Form,
}

/// `Bits` only while the set is neither empty nor full, so that equal sets have equal forms.
#[derive(Clone, Eq, PartialEq)]
enum Form {
    Empty,
    Full,
    Bits(Box<[u64]>),
}

impl ChunkSet {
    /// No chunk of a build of `capacity` chunks.
    pub fn empty(capacity: u32) -> Self {
        Self { capacity, count: 0, form: if capacity == 0 { Form::Full } else { Form::Empty } }
    }

    /// Every chunk of a build of `capacity` chunks.
    pub fn full(capacity: u32) -> Self {
        Self { capacity, count: capacity, form: Form::Full }
    }

    /// Reads the packed form: bit `i % 8` of byte `i / 8` stands for chunk `i`.
    ///
    /// `None` if the length does not fit `capacity` or a bit past the last chunk is set.
    pub fn from_bytes(capacity: u32, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::byte_count(capacity) {
            return None;
        }
        let mut words = Self::empty_words(capacity);
        for (word, part) in words.iter_mut().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..part.len()].copy_from_slice(part);
            *word = u64::from_le_bytes(padded);
        }
        let spare = capacity % WORD_BITS;
        if spare != 0 && words.last().is_some_and(|last| last >> spare != 0) {
            return None;
        }
        let count = words.iter().map(|word| word.count_ones()).sum();
        let mut set = Self { capacity, count, form: Form::Bits(words) };
        set.normalise();
        Some(set)
    }

    /// The packed form that [`Self::from_bytes`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = (0..self.word_count()).flat_map(|i| self.word(i).to_le_bytes());
        words.take(Self::byte_count(self.capacity)).collect()
    }

    /// Chunks of the build, in or out of the set.
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Chunks in the set.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether no chunk is in the set. Also true for a build without chunks.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every chunk is in the set. Also true for a build without chunks.
    pub const fn is_full(&self) -> bool {
        self.count == self.capacity
    }

    /// Whether the chunk is in the set.
    pub fn contains(&self, chunk: ChunkIndex) -> bool {
        work::count();
        self.assert_ours(chunk);
        let (word, bit) = position_of(chunk);
        self.word(word) & bit != 0
    }

    /// Adds the chunk. Returns whether it is new.
    pub fn insert(&mut self, chunk: ChunkIndex) -> bool {
        self.assert_ours(chunk);
        let (word, bit) = position_of(chunk);
        self.insert_word(word, bit) != 0
    }

    /// Adds the chunks that the bits of `mask` stand for in word `i`. Returns those that are new.
    ///
    /// # Panics
    ///
    /// If a bit stands for no chunk of the build.
    pub(crate) fn insert_word(&mut self, i: usize, mask: u64) -> u64 {
        work::count();
        let is_ours = i < self.word_count() && mask & !full_word(self.capacity, i) == 0;
        assert!(is_ours, "chunks {mask:#x} of word {i} belong to another build");
        let new = mask & !self.word(i);
        if new != 0 {
            self.words_mut()[i] |= new;
            self.count += new.count_ones();
            self.normalise();
        }
        new
    }

    /// Takes the chunk out. Returns whether it was there.
    pub fn remove(&mut self, chunk: ChunkIndex) -> bool {
        self.assert_ours(chunk);
        let (word, bit) = position_of(chunk);
        if self.word(word) & bit == 0 {
            return false;
        }
        self.words_mut()[word] &= !bit;
        self.count -= 1;
        self.normalise();
        true
    }

    /// The chunks of the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        (0..self.word_count()).flat_map(|i| bits_of(i, self.word(i)))
    }

    /// The chunks of this set that `other` lacks, in order.
    ///
    /// # Panics
    ///
    /// If the sets belong to builds of different chunk counts.
    pub fn iter_without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = ChunkIndex> + 'a {
        assert_eq!(self.capacity, other.capacity, "sets of different builds");
        (0..self.word_count()).flat_map(|i| bits_of(i, self.word(i) & !other.word(i)))
    }

    /// How many 64-bit words [`Self::word`] answers for.
    pub(crate) const fn word_count(&self) -> usize {
        self.capacity.div_ceil(WORD_BITS) as usize
    }

    /// Chunks `64 * i` to `64 * i + 63`, lowest bit first, for callers that combine several sets.
    ///
    /// # Panics
    ///
    /// If `i` is not below [`Self::word_count`] and the set is packed.
    pub(crate) fn word(&self, i: usize) -> u64 {
        work::count();
        match &self.form {
            Form::Empty => 0,
            Form::Full => full_word(self.capacity, i),
            Form::Bits(words) => words[i],
        }
    }

    fn byte_count(capacity: u32) -> usize {
        capacity.div_ceil(8) as usize
    }

    fn empty_words(capacity: u32) -> Box<[u64]> {
        vec![0; capacity.div_ceil(WORD_BITS) as usize].into_boxed_slice()
    }

    fn assert_ours(&self, chunk: ChunkIndex) {
        assert!(chunk.get() < self.capacity, "{chunk:?} belongs to another build");
    }

    fn words_mut(&mut self) -> &mut [u64] {
        if !matches!(self.form, Form::Bits(_)) {
            let words = (0..self.word_count()).map(|i| self.word(i)).collect();
            self.form = Form::Bits(words);
        }
        match &mut self.form {
            Form::Bits(words) => words,
            Form::Empty | Form::Full => unreachable!("unpacked above"),
        }
    }

    fn normalise(&mut self) {
        if self.is_full() {
            self.form = Form::Full;
        } else if self.is_empty() {
            self.form = Form::Empty;
        }
    }
}

impl core::fmt::Debug for ChunkSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ChunkSet({}/{})", self.count, self.capacity)
    }
}

fn position_of(chunk: ChunkIndex) -> (usize, u64) {
    ((chunk.get() / WORD_BITS) as usize, 1 << (chunk.get() % WORD_BITS))
}

/// The bits of word `i` that stand for chunks of a build of `capacity`.
pub(crate) const fn full_word(capacity: u32, i: usize) -> u64 {
    let spare = capacity % WORD_BITS;
    if spare != 0 && i == (capacity / WORD_BITS) as usize { (1 << spare) - 1 } else { u64::MAX }
}

/// The words of a run of consecutive chunks, which must have one: places, and the bits there.
///
/// # Cost
///
/// One step for each 64 chunks, and up to two more.
pub(crate) fn words_of_run((start, length): (u32, u32)) -> impl Iterator<Item = (usize, u64)> {
    let last_chunk = start + (length - 1);
    let (first, last) = (start / WORD_BITS, last_chunk / WORD_BITS);
    (first..=last).map(move |i| {
        let low = if i == first { u64::MAX << (start % WORD_BITS) } else { u64::MAX };
        let high =
            if i == last { u64::MAX >> (WORD_BITS - 1 - last_chunk % WORD_BITS) } else { u64::MAX };
        (i as usize, low & high)
    })
}

/// The chunks that the set bits of word `i` stand for.
pub(crate) fn bits_of(i: usize, mut word: u64) -> impl Iterator<Item = ChunkIndex> {
    let base = u32::try_from(i).expect("a set has far fewer words than 2^32") * WORD_BITS;
    core::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(ChunkIndex::new_unchecked(base + bit))
    })
}

/// Counts looks at words of sets, for tests that show what a message costs.
#[cfg(test)]
pub(crate) mod work {
    use core::cell::Cell;

    std::thread_local! {
        static WORDS: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        WORDS.with(|words| words.set(words.get() + 1));
    }

    /// How many words this thread has looked at.
    pub(crate) fn words() -> u64 {
        WORDS.with(Cell::get)
    }
}

#[cfg(not(test))]
mod work {
    pub(super) const fn count() {}
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    // A `ChunkSet` is a `BTreeSet` packed into words, so a `BTreeSet` is its oracle. The chunk
    // count is rarely a multiple of 64, because the bugs live in the last word.
    #[derive(Clone, Debug)]
    enum Op {
        Insert(u32),
        Remove(u32),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![any::<u32>().prop_map(Op::Insert), any::<u32>().prop_map(Op::Remove)]
    }

    proptest! {
        #[test]
        fn chunk_set_agrees_with_btree_set(
            capacity in 1_u32..200,
            starts_full in any::<bool>(),
            ops in prop::collection::vec(any_op(), 0..200),
        ) {
            let mut set =
                if starts_full { ChunkSet::full(capacity) } else { ChunkSet::empty(capacity) };
            let mut oracle: BTreeSet<u32> = if starts_full { (0..capacity).collect() } else { BTreeSet::new() };
            for op in ops {
                match op {
                    Op::Insert(raw) => {
                        let raw = raw % capacity;
                        prop_assert_eq!(set.insert(ChunkIndex::new_unchecked(raw)), oracle.insert(raw));
                    }
                    Op::Remove(raw) => {
                        let raw = raw % capacity;
                        prop_assert_eq!(set.remove(ChunkIndex::new_unchecked(raw)), oracle.remove(&raw));
                    }
                }
                prop_assert_eq!(set.count() as usize, oracle.len());
            }
            let found: BTreeSet<u32> = set.iter().map(ChunkIndex::get).collect();
            prop_assert_eq!(&found, &oracle);
            let lacking: Vec<u32> =
                ChunkSet::full(capacity).iter_without(&set).map(ChunkIndex::get).collect();
            let expected: Vec<u32> = (0..capacity).filter(|raw| !oracle.contains(raw)).collect();
            prop_assert_eq!(lacking, expected);
            prop_assert_eq!(ChunkSet::from_bytes(capacity, &set.to_bytes()), Some(set));
        }

        #[test]
        fn foreign_bytes_never_panic(capacity in 0_u32..200, bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            if let Some(set) = ChunkSet::from_bytes(capacity, &bytes) {
                prop_assert_eq!(set.to_bytes(), bytes);
            }
        }
    }

    proptest! {
        /// Goal: a run put in by words is the run put in chunk by chunk.
        #[test]
        fn words_of_a_run_are_its_chunks(
            capacity in 1_u32..400,
            before in prop::collection::btree_set(0_u32..400, 0..100),
            start in any::<u32>(),
            length in any::<u32>(),
        ) {
            let start = start % capacity;
            let length = 1 + length % (capacity - start);
            let mut by_words = ChunkSet::empty(capacity);
            for raw in before.into_iter().filter(|raw| *raw < capacity) {
                by_words.insert(ChunkIndex::new_unchecked(raw));
            }
            let mut by_chunks = by_words.clone();
            let mut new = 0;
            for (i, mask) in words_of_run((start, length)) {
                new += by_words.insert_word(i, mask).count_ones();
            }
            let chunks = (start..start + length).map(ChunkIndex::new_unchecked);
            let expected = chunks.filter(|chunk| by_chunks.insert(*chunk)).count();
            prop_assert_eq!(new as usize, expected);
            prop_assert_eq!(by_words, by_chunks);
        }
    }

    #[test]
    #[should_panic(expected = "belong to another build")]
    fn word_past_the_last_chunk_is_not_put_in() {
        ChunkSet::empty(65).insert_word(1, 0b10);
    }

    #[test]
    fn bits_past_the_last_chunk_are_refused() {
        assert_eq!(ChunkSet::from_bytes(9, &[0xFF, 0x01]), Some(ChunkSet::full(9)));
        assert_eq!(ChunkSet::from_bytes(9, &[0xFF, 0x03]), None);
        assert_eq!(ChunkSet::from_bytes(9, &[0xFF]), None);
    }

    #[test]
    fn build_without_chunks_is_complete() {
        let set = ChunkSet::empty(0);
        assert!(set.is_full() && set.is_empty());
        assert_eq!(set, ChunkSet::full(0));
        assert_eq!(ChunkSet::from_bytes(0, &[]), Some(set));
    }
}
