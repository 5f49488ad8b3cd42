//! What a neighbour says that it has before the manifest is here.
//!
//! How many chunks the build has is then the peer's word alone, so nothing with an entry per chunk
//! is made for it: the claim is kept as it came, and weighed against the manifest when that is
//! here. Invariant: a claim takes no more memory than a `Join` with a packed set of as many chunks
//! and an entry for each of its words; taking in a message costs no more than its bytes.

use crate::chunk_set::{ChunkSet, words_of_run};
use crate::wire::{Have, Runs};

/// A claim that nobody can check yet.
#[derive(Debug)]
pub(super) struct Hearsay {
    /// As the peer's `Join` said it, with the offers that were folded into it.
    have: Have,
    /// Offered since, as it came.
    runs: Vec<(u32, u32)>,
}

impl Hearsay {
    /// A claim of a `Join`; `None` if no build could be like that.
    pub(super) fn new(have: Have) -> Option<Self> {
        have.to_set()?;
        Some(Self { have, runs: Vec::new() })
    }

    /// Chunks of the build, by the peer's account.
    pub(super) const fn chunk_count(&self) -> u32 {
        self.have.chunk_count()
    }

    /// Takes in an offer, whose chunks must be below the claimed number.
    ///
    /// # Cost
    ///
    /// The runs of the offer; folding costs a pass over the claimed words, but only after as many
    /// runs as there are words.
    pub(super) fn note_offer(&mut self, runs: &Runs) {
        self.runs.extend(runs.iter());
        if self.runs.len() > self.chunk_count().div_ceil(u64::BITS) as usize {
            let set = self.to_set().expect("the claim was possible, and offers were within it");
            (self.have, self.runs) = (Have::of(&set), Vec::new());
        }
    }

    /// The set that is claimed. Runs of different offers may overlap, so they are put in order
    /// first, and each chunk is put in once.
    pub(super) fn to_set(&self) -> Option<ChunkSet> {
        let mut set = self.have.to_set()?;
        let mut runs = self.runs.clone();
        runs.sort_unstable();
        let mut done = 0;
        for (start, length) in runs {
            let (start, end) = (start.max(done), start + length);
            if start < end {
                for (i, mask) in words_of_run((start, end - start)) {
                    set.insert_word(i, mask);
                }
                done = end;
            }
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::layout::{CHUNKS_MAX, ChunkIndex};

    fn runs_of(chunks: &BTreeSet<u32>) -> Runs {
        let chunks: Vec<_> = chunks.iter().copied().map(ChunkIndex::new_unchecked).collect();
        Runs::of(&chunks)
    }

    proptest! {
        /// Goal: what was said before the manifest came counts in full, however often it was
        /// folded.
        #[test]
        fn hearsay_is_the_join_and_all_offers(
            capacity in 1_u32..300,
            joined in prop::collection::btree_set(0_u32..300, 0..100),
            offers in prop::collection::vec(prop::collection::btree_set(0_u32..300, 0..20), 0..40),
        ) {
            let within = |chunks: &BTreeSet<u32>| -> BTreeSet<u32> {
                chunks.iter().copied().filter(|raw| *raw < capacity).collect()
            };
            let mut expected = ChunkSet::empty(capacity);
            for raw in within(&joined) {
                expected.insert(ChunkIndex::new_unchecked(raw));
            }
            let mut hearsay = Hearsay::new(Have::of(&expected)).unwrap();
            for offer in &offers {
                hearsay.note_offer(&runs_of(&within(offer)));
                prop_assert!(hearsay.runs.len() <= capacity.div_ceil(64) as usize);
                for raw in within(offer) {
                    expected.insert(ChunkIndex::new_unchecked(raw));
                }
            }
            prop_assert_eq!(hearsay.to_set(), Some(expected));
        }
    }

    /// Goal: a peer cannot fill memory with offers of a build that it made up.
    /// Method: the largest build, and many times the runs that the claim keeps.
    #[test]
    fn hearsay_keeps_no_more_than_a_large_join() {
        let mut hearsay = Hearsay::new(Have::of(&ChunkSet::empty(CHUNKS_MAX))).unwrap();
        let words = (CHUNKS_MAX / 64) as usize;
        for offer in 0..(3 * words) {
            let start = u32::try_from(offer).unwrap() * 2;
            hearsay.note_offer(&vec![(start % CHUNKS_MAX, 1)].try_into().unwrap());
            assert!(hearsay.runs.len() <= words);
        }
        let bytes = crate::wire::encode(&hearsay.have).len();
        assert!(bytes < crate::wire::MESSAGE_BYTES_MAX, "{bytes}");
    }
}
