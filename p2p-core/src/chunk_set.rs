//! A set of chunks of one build, packed.
//!
//! Most of the time, most peers that a node knows have nothing or everything, so both are kept
//! without an allocation: neighbours times chunks is the dominant memory of a simulated fleet.

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
        self.assert_ours(chunk);
        let (word, bit) = position_of(chunk);
        self.word(word) & bit != 0
    }

    /// Adds the chunk. Returns whether it is new.
    pub fn insert(&mut self, chunk: ChunkIndex) -> bool {
        self.assert_ours(chunk);
        let (word, bit) = position_of(chunk);
        if self.word(word) & bit != 0 {
            return false;
        }
        self.words_mut()[word] |= bit;
        self.count += 1;
        self.normalise();
        true
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

fn full_word(capacity: u32, i: usize) -> u64 {
    let spare = capacity % WORD_BITS;
    if spare != 0 && i == (capacity / WORD_BITS) as usize { (1 << spare) - 1 } else { u64::MAX }
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
