//! Where the bytes of a build are cut into chunks.
//!
//! The sizes and the algorithm, that of the crate `fastcdc`, are part of the format: with others,
//! equal files would make another build, and two versions of a program would share no chunk. Where
//! a cut lies depends on the bytes and on the step of the build's size alone, never on how the
//! bytes were read.
//!
//! Invariant: the cuts are those of the crate, which is the oracle of the tests and gives the
//! table. Its loop begins at the cut before and waits for one byte's hash before it begins the
//! next. But a hash does not depend on bytes that are [`WINDOW`] or more back. So here threads look
//! for [`Candidate`]s in different parts of a build, each at several places at once, and only the
//! choice among these needs the cut before.

use std::ops::Range;

use fastcdc::v2020::{Normalization, get_gear_with_seed, select_masks};

/// Bytes that a hash depends on: each byte shifts those before it by one of the hash's bits.
pub(super) const WINDOW: usize = 64;

/// Places looked at in turn. Half as many leave the processor waiting; with twice as many their
/// hashes do not fit its registers.
const LANES: usize = 8;

/// Bytes of a lane. With half of it, what is hashed before each lane would show; twice as much is
/// hashed once more where there is a candidate.
const LANE_SIZE: usize = 1024;

const GROUP_SIZE: usize = LANES * LANE_SIZE;

/// Most chunks of average size, beyond which the next larger size is taken. A fleet loses the time
/// of about ten chunks until every host has something to give, so there should be a thousand or
/// more; each costs a request, a few offers and a row of the manifest, so there should not be many
/// more.
const AVERAGES_MAX: u64 = 4096;

/// Smallest average: half of it would cost as many messages again for builds that are there within
/// seconds anyway.
const AVERAGE_MIN: usize = 64 << 10;

/// Largest average: twice as much would delay the first chunk that a host can serve on.
const AVERAGE_MAX: usize = 1 << 20;

/// From one average to the next. Large, because builds on two sides of a step share no chunk.
const STEP: usize = 4;

/// The lengths that the chunks of a build have, in bytes; even, as the algorithm takes two at a
/// time.
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

/// A place where a chunk may end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Candidate {
    /// Bytes of the build before it.
    position: u64,
    /// The hash of the bytes up to the one behind it.
    hash: u64,
}

/// Consecutive bytes of a build, with up to [`WINDOW`] of those before them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    /// The bytes, with those before them.
    pub(super) bytes: &'a [u8],
    /// How many bytes of the build are before `bytes`.
    pub(super) base: u64,
    /// How many bytes of the build are before the section.
    pub(super) start: u64,
    /// Bytes of the whole build.
    pub(super) build_size: u64,
}

impl Section<'_> {
    /// How many bytes of the build end with the section.
    pub(super) const fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// The bytes of this part of the build, which lies in the section.
    pub(super) fn slice(&self, range: Range<u64>) -> &[u8] {
        let index = |position: u64| {
            usize::try_from(position - self.base).expect("the position lies in the section")
        };
        &self.bytes[index(range.start)..index(range.end)]
    }
}

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

    /// Adds the candidates of `bytes[range]` to `found`, by order; needs [`WINDOW`] bytes before
    /// them, or all that the build has there.
    ///
    /// # Arguments
    ///
    /// - `base`: how many bytes of the build are before `bytes`.
    pub(super) fn scan(
        &self,
        bytes: &[u8],
        range: Range<usize>,
        base: u64,
        found: &mut Vec<Candidate>,
    ) {
        let mut start = range.start;
        while let Some(group) = bytes[..range.end].get(start..start + GROUP_SIZE) {
            let group = group.try_into().expect("the slice has the array's size");
            let hashes = std::array::from_fn(|lane| self.hash(bytes, start + lane * LANE_SIZE));
            if self.has_candidate(group, hashes) {
                self.scan_singly(bytes, start..start + GROUP_SIZE, base, found);
            }
            start += GROUP_SIZE;
        }
        self.scan_singly(bytes, start..range.end, base, found);
    }

    /// Whether there is any candidate in `group`, given the hashes before each lane.
    fn has_candidate(&self, group: &[u8; GROUP_SIZE], mut hashes: [u64; LANES]) -> bool {
        let mask = self.mask_of_all();
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

    fn scan_singly(
        &self,
        bytes: &[u8],
        range: Range<usize>,
        base: u64,
        found: &mut Vec<Candidate>,
    ) {
        let mask = self.mask_of_all();
        let mut hash = self.hash(bytes, range.start);
        for position in range {
            hash = self.roll(hash, bytes[position]);
            if hash & mask == 0 {
                found.push(Candidate { position: base + position as u64, hash });
            }
        }
    }

    /// Bits that are zero at every cut.
    const fn mask_of_all(&self) -> u64 {
        self.mask_before & self.mask_after
    }

    /// The hash of the bytes before `position`.
    fn hash(&self, bytes: &[u8], position: usize) -> u64 {
        let window = &bytes[position.saturating_sub(WINDOW)..position];
        window.iter().fold(0, |hash, byte| self.roll(hash, *byte))
    }

    const fn roll(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.gear[byte as usize])
    }

    /// The end of the chunk from `start`, or `None` if it lies behind the section. The chunk may
    /// begin before the section but does not end before it.
    ///
    /// # Arguments
    ///
    /// - `candidates`: those of the section by order, from which those before the end are removed.
    pub(super) fn end(
        &self,
        section: &Section<'_>,
        start: u64,
        candidates: &mut &[Candidate],
    ) -> Option<u64> {
        let ChunkSizes { min, max, .. } = self.sizes;
        let last = section.build_size.min(start + max as u64);
        // The algorithm takes two bytes at a time and does not look at an odd one at the end.
        let tested = start + ((last - start) & !1);
        let first = start + min as u64;
        if let Some(end) = self.end_near(section, start, first..tested) {
            return Some(end);
        }
        while let Some((candidate, others)) = candidates.split_first() {
            if candidate.position >= tested {
                break;
            }
            let is_whole = candidate.position + 1 >= first + WINDOW as u64;
            if is_whole && self.is_end(start, candidate.position, candidate.hash) {
                return Some(candidate.position);
            }
            *candidates = others;
        }
        (last <= section.end()).then_some(last)
    }

    /// The first end in `range` that lies so near to its start that hashes depend on it, as they do
    /// not hold what is before.
    fn end_near(&self, section: &Section<'_>, start: u64, range: Range<u64>) -> Option<u64> {
        let end = range.end.min(section.end()).min(range.start + WINDOW as u64);
        // Before the section, it was looked at with the section before.
        if range.start < section.base || range.start >= end {
            return None;
        }
        let mut hash = 0;
        let ends = range.start..end;
        let mut hashed = ends.clone().zip(section.slice(ends)).map(|(position, byte)| {
            hash = self.roll(hash, *byte);
            (position, hash)
        });
        hashed.find(|(position, hash)| self.is_end(start, *position, *hash)).map(|found| found.0)
    }

    /// Whether the chunk from `start` ends at `position`, where the hash is this one.
    const fn is_end(&self, start: u64, position: u64, hash: u64) -> bool {
        let is_before = position - start < self.sizes.average as u64;
        let mask = if is_before { self.mask_before } else { self.mask_after };
        hash & mask == 0
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

    /// The ends of all chunks of `bytes`, found in sections of `section_size`, each scanned in
    /// steps of `step`.
    fn ends_by(bytes: &[u8], sizes: ChunkSizes, section_size: usize, step: usize) -> Vec<usize> {
        let cutter = Cutter::new(sizes);
        let (mut ends, mut start) = (vec![], 0);
        for section_start in (0..bytes.len()).step_by(section_size) {
            let base = section_start.saturating_sub(WINDOW);
            let section_end = bytes.len().min(section_start + section_size);
            let seen = &bytes[base..section_end];
            let mut candidates = vec![];
            for step_start in (section_start - base..seen.len()).step_by(step) {
                let step_end = seen.len().min(step_start + step);
                cutter.scan(seen, step_start..step_end, base as u64, &mut candidates);
            }
            let build_size = bytes.len() as u64;
            let section =
                Section { bytes: seen, base: base as u64, start: section_start as u64, build_size };
            let mut left = &candidates[..];
            while start < build_size
                && let Some(end) = cutter.end(&section, start, &mut left)
            {
                assert!((section_start..=section_end).contains(&usize::try_from(end).unwrap()));
                start = end;
                ends.push(usize::try_from(end).unwrap());
            }
        }
        ends
    }

    fn ends_of(bytes: &[u8], sizes: ChunkSizes) -> Vec<usize> {
        ends_by(bytes, sizes, bytes.len(), bytes.len())
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
        // The window cannot be shorter.
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
        let small = (32_usize..8 << 10, 8_u32..18, 0_usize..99).prop_map(|(min, bits, more)| {
            let average = (2 * min).max(1 << bits) + 2 * more;
            ChunkSizes { min: 2 * min, average, max: (2 * average).max(1024) + 2 * more }
        });
        let format = prop::sample::select(vec![0, 512 * MIB, u64::MAX]);
        prop_oneof![4 => small, 1 => Just(SMALL), 2 => format.prop_map(ChunkSizes::for_build)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Goal: cuts are those of `FastCDC`, whatever the content and however the bytes are read.
        /// Method: the crate's own loop is the oracle; the same bytes are cut at once, and in
        /// sections and steps of random sizes.
        #[test]
        fn cuts_are_those_of_the_crate(
            bytes in content(),
            sizes in sizes(),
            section_size in 1_usize..600 << 10,
            step in 1_usize..100 << 10,
        ) {
            let expected = oracle(&bytes, sizes);
            if !bytes.is_empty() {
                prop_assert_eq!(&ends_of(&bytes, sizes), &expected);
            }
            prop_assert_eq!(&ends_by(&bytes, sizes, section_size, step), &expected);
        }
    }
}
