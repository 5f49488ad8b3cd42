//! Where the bytes of a build are cut into chunks.
//!
//! The parameters and the algorithm are part of the format: with others, equal files would make
//! another build, and two versions of a program would share no chunk. Where a cut lies depends on
//! the bytes alone, never on how they arrived.

use std::ops::Range;

use fastcdc::v2020::FastCDC;

/// Smaller chunks would make the manifest long and the requests many.
const SIZE_MIN: usize = 256 << 10;

/// Half would double the table of every node; twice as much would delay the first chunk that a
/// host can serve on.
const SIZE_AVERAGE: usize = 1 << 20;

/// Most bytes of a chunk, and so the bytes that must be in view for a cut.
pub(super) const SIZE_MAX: usize = p2p_core::CHUNK_SIZE_MAX as usize;

/// The chunks at the start of `window`, in order: as many as can be told. The rest, always less
/// than [`SIZE_MAX`], belongs to a chunk that ends in bytes not seen yet; if `is_end`, there are
/// none and all of `window` is cut.
pub(super) fn cut(window: &[u8], is_end: bool) -> impl Iterator<Item = Range<usize>> {
    let chunker = FastCDC::new(window, SIZE_MIN, SIZE_AVERAGE, SIZE_MAX);
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = window.len() - start;
        if left == 0 || (left < SIZE_MAX && !is_end) {
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

    #[test]
    fn chunks_have_the_sizes_of_the_format() {
        let bytes = sample(1, 64 << 20);
        let chunks: Vec<_> = cut(&bytes, true).collect();
        let (last, others) = chunks.split_last().unwrap();
        assert!(others.iter().all(|chunk| (SIZE_MIN..=SIZE_MAX).contains(&chunk.len())));
        assert!(last.len() <= SIZE_MAX && last.end == bytes.len());
        let average = bytes.len() / chunks.len();
        assert!((SIZE_AVERAGE / 2..SIZE_AVERAGE * 2).contains(&average), "{average}");
    }

    // A change here makes every published build unknown to the fleet, and shares no chunk with it.
    #[test]
    fn cuts_are_those_of_version_one() {
        let bytes = sample(1, 5 << 20);
        let ends: Vec<usize> = cut(&bytes, true).map(|chunk| chunk.end).collect();
        assert_eq!(ends, [491_952, 1_541_586, 2_193_165, 2_725_819, 5_242_880]);
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
        ) {
            let bytes = sample(seed, size);
            let oracle: Vec<_> = FastCDC::new(&bytes, SIZE_MIN, SIZE_AVERAGE, SIZE_MAX)
                .map(|chunk| chunk.offset..chunk.offset + chunk.length)
                .collect();
            let mut found = vec![];
            let mut start = 0;
            let mut end = 0;
            for step in steps.iter().cycle() {
                end = (end + step).min(size);
                let is_end = end == size;
                let base = start;
                for chunk in cut(&bytes[base..end], is_end) {
                    found.push(base + chunk.start..base + chunk.end);
                    start = base + chunk.end;
                }
                prop_assert!(end - start < SIZE_MAX);
                if is_end {
                    break;
                }
            }
            prop_assert_eq!(found, oracle);
        }
    }
}
