//! Where the bytes of a build are cut into chunks.
//!
//! The sizes and the algorithm are part of the format: with others, equal files would make
//! another build, and two versions of a program would share no chunk. Where a cut lies depends on
//! the bytes and on the step of the build's size alone, never on how the bytes arrived.

use std::ops::Range;

use fastcdc::v2020::FastCDC;

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

/// The lengths that the chunks of a build have, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ChunkSizes {
    /// Only the last chunk of a build may be shorter.
    pub(super) min: usize,
    /// What most chunks are close to.
    pub(super) average: usize,
    /// Most bytes of a chunk, and so the bytes that must be in view for a cut.
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

/// The chunks at the start of `window`, in order: as many as can be told. The rest, always less
/// than `sizes.max`, belongs to a chunk that ends in bytes not seen yet; if `is_end`, there are
/// none and all of `window` is cut.
pub(super) fn cut(
    window: &[u8],
    sizes: ChunkSizes,
    is_end: bool,
) -> impl Iterator<Item = Range<usize>> {
    let chunker = FastCDC::new(window, sizes.min, sizes.average, sizes.max);
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = window.len() - start;
        if left == 0 || (left < sizes.max && !is_end) {
            return None;
        }
        let (_, end) = chunker.cut(start, left);
        let chunk = start..end;
        start = end;
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

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
            let chunks: Vec<_> = cut(&bytes, sizes, true).collect();
            let (last, others) = chunks.split_last().unwrap();
            assert!(others.iter().all(|chunk| (sizes.min..=sizes.max).contains(&chunk.len())));
            assert!(last.len() <= sizes.max && last.end == bytes.len());
            let average = bytes.len() / chunks.len();
            assert!((sizes.average / 2..sizes.average * 2).contains(&average), "{average}");
        }
    }

    // A change here makes every published build unknown to the fleet, and shares no chunk with it.
    #[test]
    fn cuts_are_those_of_version_one() {
        let bytes = sample(1, 5 << 20);
        let large = ChunkSizes::for_build(u64::MAX);
        let ends: Vec<usize> = cut(&bytes, large, true).map(|chunk| chunk.end).collect();
        assert_eq!(ends, [491_952, 1_541_586, 2_193_165, 2_725_819, 5_242_880]);
        let bytes = sample(1, 300_000);
        let small = ChunkSizes::for_build(0);
        let ends: Vec<usize> = cut(&bytes, small, true).map(|chunk| chunk.end).collect();
        assert_eq!(ends, [76_660, 236_593, 300_000]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// Goal: a cut does not depend on how the bytes arrive.
        /// Method: one-shot chunking is the oracle; the same bytes come through windows of random
        /// sizes, with the rest of each carried over to the next.
        #[test]
        fn windows_do_not_move_the_cuts(
            seed in any::<u64>(),
            size in 0_usize..24 << 20,
            steps in prop::collection::vec(1_usize..6 << 20, 1..8),
            sizes in prop::sample::select(vec![0, 512 * MIB, u64::MAX]).prop_map(ChunkSizes::for_build),
        ) {
            let bytes = sample(seed, size);
            let oracle: Vec<_> = FastCDC::new(&bytes, sizes.min, sizes.average, sizes.max)
                .map(|chunk| chunk.offset..chunk.offset + chunk.length)
                .collect();
            let mut found = vec![];
            let mut start = 0;
            let mut end = 0;
            for step in steps.iter().cycle() {
                end = (end + step).min(size);
                let is_end = end == size;
                let base = start;
                for chunk in cut(&bytes[base..end], sizes, is_end) {
                    found.push(base + chunk.start..base + chunk.end);
                    start = base + chunk.end;
                }
                prop_assert!(end - start < sizes.max);
                if is_end {
                    break;
                }
            }
            prop_assert_eq!(found, oracle);
        }
    }
}
