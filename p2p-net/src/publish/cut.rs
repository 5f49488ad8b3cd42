//! Where the bytes of a build are cut into chunks.
//!
//! The sizes and the algorithm, that of the crate `fastcdc`, are part of the format: with others,
//! equal files would make another build, and two versions of a program would share no chunk. Where a
//! cut lies depends on the bytes and on the step of the build's size alone, never on how the bytes
//! arrived.
//!
//! Invariant: the cuts are those of the crate, which is the oracle of the tests and gives the table.
//! Its loop waits for one byte's hash before it can begin the next. The loop here looks at several
//! places at once, which is twice as fast: a hash holds nothing of bytes that are more than
//! [`WINDOW`] back, so it can begin anywhere.

use std::ops::Range;

use fastcdc::v2020::{Normalization, get_gear_with_seed, select_masks};

/// Bytes that a hash depends on: each byte shifts the one before by a bit, out of 64 bits in the
/// end.
const WINDOW: usize = 64;

/// Places looked at in turn. Half as many leave the processor waiting; with twice as many their
/// hashes do not fit its registers.
const LANES: usize = 8;

/// Bytes of a lane. With half of it, what is hashed before each lane would show; twice as much would
/// be looked at in vain after a cut.
const LANE_SIZE: usize = 2048;

const GROUP_SIZE: usize = LANES * LANE_SIZE;

/// Most chunks of average size, beyond which the next larger size is taken. A fleet loses the time
/// of some ten chunks until every host has something to give, so there should be a thousand or more;
/// each costs a request, a few offers and a row of the manifest, so there should not be many more.
const AVERAGES_MAX: u64 = 4096;

/// Smallest average: half of it would cost as many messages again for builds that are there within
/// seconds anyway.
const AVERAGE_MIN: usize = 64 << 10;

/// Largest average: twice as much would delay the first chunk that a host can serve on.
const AVERAGE_MAX: usize = 1 << 20;

/// From one average to the next. Large, because builds on two sides of a step share no chunk.
const STEP: usize = 4;

/// The lengths that the chunks of a build have, in bytes; even, as the algorithm takes two at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ChunkSizes {
    /// Only the last chunk of a build may be shorter.
    pub(super) min: usize,
    /// What most chunks are close to.
    pub(super) average: usize,
    /// Most bytes of a chunk.
    pub(super) max: usize,
}

impl ChunkSizes {
    /// Those of a build of so many bytes in all files together.
    pub(super) const fn for_build(bytes: u64) -> Self {
        let mut average = AVERAGE_MIN;
        while average < AVERAGE_MAX && bytes > average as u64 * AVERAGES_MAX {
            average *= STEP;
        }
        Self { min: average / 4, average, max: average * 4 }
    }
}

const _: () = assert!(AVERAGE_MAX * 4 == p2p_core::CHUNK_SIZE_MAX as usize);

/// Finds the ends of chunks.
#[derive(Debug)]
pub(super) struct Cutter {
    sizes: ChunkSizes,
    /// A random number for each value of a byte.
    gear: [u64; 256],
    /// Bits that are all zero in the hash at a cut before the average size.
    mask_before: u64,
    /// Those at a cut after it: fewer, so that sizes stay near the average.
    mask_after: u64,
}

impl Cutter {
    pub(super) fn new(sizes: ChunkSizes) -> Self {
        let (mask_before, mask_after) = select_masks(sizes.average, Normalization::Level1);
        let (gear, _) = get_gear_with_seed(0);
        let gear = (*gear).try_into().expect("the table has a number for each value of a byte");
        Self { sizes, gear, mask_before, mask_after }
    }

    /// The size of the chunk at the start of `bytes`, or `None` if that takes more bytes to tell.
    ///
    /// # Arguments
    ///
    /// - `tested`: how many of `bytes` an earlier call for this chunk was given.
    /// - `is_end`: the build ends with `bytes`.
    pub(super) fn cut(&self, bytes: &[u8], tested: usize, is_end: bool) -> Option<usize> {
        let ChunkSizes { min, average, max } = self.sizes;
        let size = bytes.len().min(max);
        // An odd byte waits for the next one; the last one of a build is not tested at all.
        let (start, end) = ((tested & !1).max(min), size & !1);
        self.find(bytes, start..end.min(average), self.mask_before)
            .or_else(|| self.find(bytes, start.max(average)..end, self.mask_after))
            .or_else(|| (is_end || bytes.len() >= max).then_some(size))
    }

    /// The first position of `range` with a hash that is zero under `mask`.
    fn find(&self, bytes: &[u8], range: Range<usize>, mask: u64) -> Option<usize> {
        if range.is_empty() {
            return None;
        }
        let mut start = range.start;
        while let Some(group) = bytes[..range.end].get(start..start + GROUP_SIZE) {
            let group = group.try_into().expect("the slice has the array's size");
            let hashes = std::array::from_fn(|lane| self.hash(bytes, start + lane * LANE_SIZE));
            if self.has_cut(group, hashes, mask) {
                return self.find_singly(bytes, start..start + GROUP_SIZE, mask);
            }
            start += GROUP_SIZE;
        }
        self.find_singly(bytes, start..range.end, mask)
    }

    /// Whether any position of `group` has a hash that is zero under `mask`, given the hashes
    /// before each lane.
    fn has_cut(&self, group: &[u8; GROUP_SIZE], mut hashes: [u64; LANES], mask: u64) -> bool {
        for position in 0..LANE_SIZE {
            for (lane, hash) in hashes.iter_mut().enumerate() {
                *hash = self.roll(*hash, group[lane * LANE_SIZE + position]);
                if *hash & mask == 0 {
                    return true;
                }
            }
        }
        false
    }

    fn find_singly(&self, bytes: &[u8], range: Range<usize>, mask: u64) -> Option<usize> {
        let mut hash = self.hash(bytes, range.start);
        let mut ends = range.clone().zip(&bytes[range]);
        let cut = ends.find(|(_, byte)| {
            hash = self.roll(hash, **byte);
            hash & mask == 0
        });
        cut.map(|(position, _)| position)
    }

    /// The hash of the bytes before `position`. Those below the least size do not count.
    fn hash(&self, bytes: &[u8], position: usize) -> u64 {
        let start = position.saturating_sub(WINDOW).max(self.sizes.min);
        bytes[start..position].iter().fold(0, |hash, byte| self.roll(hash, *byte))
    }

    const fn roll(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.gear[byte as usize])
    }
}

#[cfg(test)]
mod tests {
    use fastcdc::v2020::FastCDC;
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Small enough that a test sees thousands of cuts, large enough for several groups.
    const SMALL: ChunkSizes = ChunkSizes { min: 1 << 10, average: 64 << 10, max: 256 << 10 };

    /// Random bytes with runs of zeros, which have no cut of their own.
    fn sample(seed: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        if size > 12 << 20 {
            bytes[2 << 20..7 << 20].fill(0);
        }
        bytes
    }

    /// The ends of all chunks of `bytes`, each found at once.
    fn ends_of(bytes: &[u8], sizes: ChunkSizes) -> Vec<usize> {
        let cutter = Cutter::new(sizes);
        let mut ends = vec![];
        let mut start = 0;
        while start < bytes.len() {
            start += cutter.cut(&bytes[start..], 0, true).unwrap();
            ends.push(start);
        }
        ends
    }

    fn oracle(bytes: &[u8], sizes: ChunkSizes) -> Vec<usize> {
        let ChunkSizes { min, average, max } = sizes;
        let chunks = FastCDC::new(bytes, min, average, max);
        chunks.map(|chunk| chunk.offset + chunk.length).collect()
    }

    // A change here makes every published build unknown to the fleet, and shares no chunk with it.
    #[test]
    fn averages_by_size_are_those_of_the_format() {
        let cases = [
            (0, 64 << 10),
            (256 * MIB, 64 << 10),
            (256 * MIB + 1, 256 << 10),
            (1024 * MIB, 256 << 10),
            (1024 * MIB + 1, 1 << 20),
            (u64::MAX, 1 << 20),
        ];
        for (bytes, average) in cases {
            let sizes = ChunkSizes { min: average / 4, average, max: average * 4 };
            assert_eq!(ChunkSizes::for_build(bytes), sizes, "{bytes}");
        }
    }

    #[test]
    fn chunks_have_the_sizes_of_the_format() {
        let bytes = sample(1, 64 << 20);
        for sizes in [64 * MIB, 2048 * MIB].map(ChunkSizes::for_build) {
            let ends = ends_of(&bytes, sizes);
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let found: Vec<usize> = starts.zip(&ends).map(|(start, end)| end - start).collect();
            let (last, others) = found.split_last().unwrap();
            assert!(others.iter().all(|size| (sizes.min..=sizes.max).contains(size)));
            assert!(*last <= sizes.max && *ends.last().unwrap() == bytes.len());
            let average = bytes.len() / found.len();
            assert!((sizes.average / 2..sizes.average * 2).contains(&average), "{average}");
        }
    }

    // A change here makes every published build unknown to the fleet, and shares no chunk with it.
    #[test]
    fn cuts_are_those_of_version_one() {
        let large = ends_of(&sample(1, 5 << 20), ChunkSizes::for_build(u64::MAX));
        assert_eq!(large, [491_952, 1_541_586, 2_193_165, 2_725_819, 5_242_880]);
        let small = ends_of(&sample(1, 300_000), ChunkSizes::for_build(0));
        assert_eq!(small, [76_660, 236_593, 300_000]);
    }

    #[test]
    fn hash_depends_on_no_byte_before_its_window() {
        let cutter = Cutter::new(SMALL);
        let mut bytes = sample(2, 8 << 10);
        let hash = cutter.hash(&bytes, 4096);
        let from_far = bytes[..4096].iter().fold(1, |hash, byte| cutter.roll(hash, *byte));
        assert_eq!(hash, from_far);
        // The window cannot be shorter: the last byte that counts is the first one in it.
        bytes[4096 - WINDOW] ^= 1;
        assert_ne!(hash, cutter.hash(&bytes, 4096));
    }

    /// Bytes of which each has few cuts, many cuts, or the same ones again and again.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let size = 0_usize..1 << 20;
        prop_oneof![
            (any::<u64>(), size.clone()).prop_map(|(seed, size)| sample(seed, size)),
            (any::<u8>(), size.clone()).prop_map(|(byte, size)| vec![byte; size]),
            (any::<u64>(), 1_usize..5000, size.clone()).prop_map(|(seed, period, size)| {
                sample(seed, period).into_iter().cycle().take(size).collect()
            }),
            (any::<u64>(), size.clone(), 0_usize..1 << 20, size).prop_map(
                |(seed, before, run, after)| {
                    let zeros = std::iter::repeat_n(0, run);
                    sample(seed, before)
                        .into_iter()
                        .chain(zeros)
                        .chain(sample(!seed, after))
                        .collect()
                }
            ),
        ]
    }

    fn sizes() -> impl Strategy<Value = ChunkSizes> {
        // Down to the least sizes that the algorithm takes, and those of the format.
        let small = (32_usize..8 << 10, 7_u32..18, 0_usize..99).prop_map(|(min, bits, more)| {
            let average = (2 * min).max(1 << bits) + 2 * more;
            ChunkSizes { min: 2 * min, average, max: (2 * average).max(1024) + 2 * more }
        });
        let format = prop::sample::select(vec![0, 512 * MIB, u64::MAX]);
        prop_oneof![4 => small, 1 => Just(SMALL), 2 => format.prop_map(ChunkSizes::for_build)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Goal: cuts are those of FastCDC, whatever the content and however the bytes arrive.
        /// Method: the crate's own loop is the oracle; the same bytes come in steps of random sizes.
        #[test]
        fn cuts_are_those_of_the_crate(
            bytes in content(),
            sizes in sizes(),
            steps in prop::collection::vec(1_usize..200 << 10, 1..8),
        ) {
            let expected = oracle(&bytes, sizes);
            prop_assert_eq!(&ends_of(&bytes, sizes), &expected);

            let cutter = Cutter::new(sizes);
            let mut found = vec![];
            let (mut start, mut tested, mut seen) = (0, 0, 0);
            let mut steps = steps.iter().cycle();
            while start < bytes.len() {
                let cut = cutter.cut(&bytes[start..seen], tested, seen == bytes.len());
                tested = if cut.is_some() { 0 } else { seen - start };
                if let Some(size) = cut {
                    start += size;
                    found.push(start);
                } else {
                    seen = bytes.len().min(seen + steps.next().unwrap());
                }
            }
            prop_assert_eq!(&found, &expected);
        }
    }
}
