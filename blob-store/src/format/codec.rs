//! Compressing and expanding one segment.
//!
//! Invariant: expanding needs as much memory as the index says that the chunks have, at most
//! [`SEGMENT_BYTES_MAX`](super::segment::SEGMENT_BYTES_MAX), whatever the payload claims.

use super::error::FormatError;
use super::segment::{Coder, SEGMENT_BYTES_MAX};

/// Level 1 leaves 3 % more of a build, level 9 takes five times as long for 2 %.
const LEVEL: i32 = 3;

/// What compressing has to win, in hundredths, for the reader to be made to expand.
const GAIN_MIN: usize = 3;

/// The payload for these bytes, and how to expand it.
pub(crate) fn compress(plain: Vec<u8>) -> (Coder, Vec<u8>) {
    let worthwhile = plain.len() - plain.len() * GAIN_MIN / 100;
    match zstd::bulk::compress(&plain, LEVEL) {
        Ok(stored) if stored.len() < worthwhile => (Coder::Zstd, stored),
        // Too little won, or zstd has no memory: the bytes as they are always do.
        Ok(_) | Err(_) => (Coder::Raw, plain),
    }
}

/// The bytes of a segment's chunks.
///
/// # Errors
///
/// If the payload does not expand to exactly `plain` bytes.
pub(crate) fn expand(coder: Coder, stored: &[u8], plain: u32) -> Result<Vec<u8>, FormatError> {
    let refused = FormatError::Segment { reason: "its payload does not expand to its chunks" };
    if plain > SEGMENT_BYTES_MAX {
        return Err(refused);
    }
    let bytes = match coder {
        Coder::Raw => stored.to_vec(),
        Coder::Zstd => {
            zstd::bulk::decompress(stored, plain as usize).ok().ok_or_else(|| refused.clone())?
        }
    };
    if bytes.len() == plain as usize { Ok(bytes) } else { Err(refused) }
}
