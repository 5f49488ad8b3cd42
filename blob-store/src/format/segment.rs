//! A segment: a run of chunks that lies in a pack as one payload.
//!
//! Packs and indices describe segments alike. A description keeps room for what a patch needs: a
//! coder that expands against parts of another build, and the list of these parts, which is empty
//! in a pack without a base. Invariant: a [`Segment`] that was read has at least one run of chunks,
//! no empty run, and a payload that lies within a pack of the largest size.

use p2p_core::CHUNK_SIZE_MAX;

use super::bytes::{Cursor, put_number};
use super::error::FormatError;

/// Most bytes of a segment's chunks laid end to end, and what segments are filled to. A reader that
/// wants one chunk reads the segment that holds it; the largest chunk has to fit.
pub(crate) const SEGMENT_BYTES_MAX: u32 = CHUNK_SIZE_MAX;

/// How a payload becomes the chunks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Coder {
    /// The payload is the chunks: compressing wins nothing.
    Raw,
    /// The payload is one zstd frame.
    Zstd,
}

/// What lies next to each other in a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Run {
    /// Consecutive chunks of the build that the description belongs to.
    Chunks {
        /// Index of the first.
        first: u32,
        /// How many, at least one.
        count: u32,
    },
    /// Bytes of chunks that are another build's.
    Other {
        /// How many, at least one.
        bytes: u32,
    },
}

/// Where a run of chunks lies in a pack.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Segment {
    /// Where the payload begins, in bytes from the start of the pack.
    pub(crate) offset: u64,
    /// Bytes of the payload.
    pub(crate) stored: u32,
    /// Bytes of the chunks.
    pub(crate) plain: u32,
    pub(crate) coder: Coder,
    pub(crate) runs: Vec<Run>,
}

impl Segment {
    /// Where the payload ends, in bytes from the start of the pack.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.stored.into())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, self.offset);
        put_number(out, self.stored.into());
        put_number(out, self.plain.into());
        out.push(match self.coder {
            Coder::Raw => 0,
            Coder::Zstd => 1,
        });
        // The parts of a base that the payload expands against.
        put_number(out, 0);
        put_number(out, self.runs.len() as u64);
        for run in &self.runs {
            match *run {
                Run::Other { bytes } => put_number(out, u64::from(bytes) << 1),
                Run::Chunks { first, count } => {
                    put_number(out, u64::from(first) << 1 | 1);
                    put_number(out, count.into());
                }
            }
        }
    }

    /// Reads a description and checks what can be checked without the pack and the manifest.
    ///
    /// # Arguments
    ///
    /// - `chunks_left`: chunks that may still be named; less what this segment names afterwards.
    pub(crate) fn decode(
        cursor: &mut Cursor<'_>,
        chunks_left: &mut u32,
    ) -> Result<Self, FormatError> {
        const CUT: FormatError = FormatError::Undecodable { what: "segment" };
        let offset = cursor.number().ok_or(CUT)?;
        let stored = cursor.small().ok_or(CUT)?;
        let plain = cursor.small().ok_or(CUT)?;
        let coder = match cursor.byte().ok_or(CUT)? {
            0 => Coder::Raw,
            1 => Coder::Zstd,
            _ => {
                return Err(FormatError::Unsupported { what: "segment", feature: "another coder" });
            }
        };
        if cursor.number().ok_or(CUT)? != 0 {
            return Err(FormatError::Unsupported { what: "segment", feature: "a base" });
        }
        let mut runs = vec![];
        for _ in 0..cursor.number().ok_or(CUT)? {
            let number = cursor.number().ok_or(CUT)?;
            let value = u32::try_from(number >> 1).ok().ok_or(CUT)?;
            let run = if number & 1 == 0 {
                Run::Other { bytes: value }
            } else {
                Run::Chunks { first: value, count: cursor.small().ok_or(CUT)? }
            };
            check_run(run, runs.last(), chunks_left)?;
            runs.push(run);
        }
        let segment = Self { offset, stored, plain, coder, runs };
        segment.check()?;
        Ok(segment)
    }

    fn check(&self) -> Result<(), FormatError> {
        let refused = |reason| Err(FormatError::Segment { reason });
        if !self.runs.iter().any(|run| matches!(run, Run::Chunks { .. })) {
            return refused("it has no chunk");
        }
        if self.plain == 0 || self.plain > SEGMENT_BYTES_MAX {
            return refused("its length is impossible");
        }
        let fits = match self.coder {
            Coder::Raw => self.stored == self.plain,
            Coder::Zstd => self.stored > 0 && self.stored < self.plain,
        };
        if fits { Ok(()) } else { refused("its payload's length is impossible") }
    }
}

/// Two runs of other bytes next to each other could be one; without that rule, a description could
/// have more runs than its build has chunks to part them.
fn check_run(run: Run, before: Option<&Run>, chunks_left: &mut u32) -> Result<(), FormatError> {
    let refused = |reason| Err(FormatError::Segment { reason });
    match (run, before) {
        (Run::Other { bytes: 0 } | Run::Chunks { count: 0, .. }, _) => refused("a run is empty"),
        (Run::Other { .. }, Some(Run::Other { .. })) => refused("two runs should be one"),
        (Run::Other { .. }, _) => Ok(()),
        (Run::Chunks { count, .. }, _) => match chunks_left.checked_sub(count) {
            Some(left) => {
                *chunks_left = left;
                Ok(())
            }
            None => refused("it names more chunks than there are"),
        },
    }
}
