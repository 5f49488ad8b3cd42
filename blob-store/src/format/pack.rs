//! Packs: many compressed chunks in one object, named by the digest of its bytes.
//!
//! ```text
//! magic, version        8 bytes
//! build                 32 bytes: whose chunks the table names
//! base                  1 byte, 0: none. A patch will have 1 here, and the base's id behind it
//! salt                  8 bytes: any; another salt gives equal chunks another name
//! payloads              one after the other
//! table                 number of segments, then each segment
//! length of the table   4 bytes, little endian
//! ```
//!
//! Readers of a build need none of this but the payloads, since the build's index says where they
//! lie. The table makes a pack complete in itself. Invariant: a [`PackTable`] that was read lies in
//! a pack of [`PACK_BYTES_MAX`] at most, and its payloads lie between header and table, in order.

use p2p_core::BuildId;

use super::bytes::{Cursor, put_digest, put_number};
use super::error::FormatError;
use super::segment::{Run, SEGMENT_BYTES_MAX, Segment};

const WHAT: &str = "pack";
const MAGIC: &[u8; 7] = b"shoalpk";
const VERSION: u8 = 1;

/// Bytes before the first payload.
pub(crate) const PACK_HEADER_BYTES: usize = 8 + 32 + 1 + 8;

/// Bytes of the table's length, at the end.
const FOOTER_BYTES: usize = 4;

/// A pack is full once its payloads have so many bytes. Half of it would mean twice as many
/// requests to publish and to sweep; twice as much is more to send again where a store cannot
/// resume an upload.
pub(crate) const PACK_BYTES: u64 = 64 << 20;

/// Most bytes of a table: a full pack has a few dozen segments, unless its chunks are tiny.
const TABLE_BYTES_MAX: usize = 16 << 20;

/// Most bytes of a pack: a full one, its last segment, and the longest table.
pub(crate) const PACK_BYTES_MAX: u64 = PACK_BYTES
    + SEGMENT_BYTES_MAX as u64
    + TABLE_BYTES_MAX as u64
    + (PACK_HEADER_BYTES + FOOTER_BYTES) as u64;

/// What a pack holds, by the indices that the chunks have in one build. So far only tests read a
/// pack by its own table: builds have their index.
#[cfg(test)]
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PackTable {
    pub(crate) build: BuildId,
    pub(crate) segments: Vec<Segment>,
}

/// The bytes before the first payload.
pub(crate) fn header(build: BuildId, salt: u64) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    put_digest(&mut out, build.digest());
    out.push(0);
    out.extend_from_slice(&salt.to_le_bytes());
    out
}

/// The bytes behind the last payload.
///
/// # Errors
///
/// If the table has too many segments.
pub(crate) fn footer(segments: &[Segment]) -> Result<Vec<u8>, FormatError> {
    let mut out = vec![];
    put_number(&mut out, segments.len() as u64);
    for segment in segments {
        segment.encode(&mut out);
    }
    let length = u32::try_from(out.len()).ok().filter(|_| out.len() <= TABLE_BYTES_MAX);
    let limit = TABLE_BYTES_MAX as u64;
    let actual = out.len() as u64;
    let length = length.ok_or(FormatError::TooLarge { what: "table of a pack", actual, limit })?;
    out.extend_from_slice(&length.to_le_bytes());
    Ok(out)
}

#[cfg(test)]
impl PackTable {
    /// Reads the table of a whole pack.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub(crate) fn decode(pack: &[u8]) -> Result<Self, FormatError> {
        const CUT: FormatError = FormatError::Undecodable { what: WHAT };
        if pack.len() as u64 > PACK_BYTES_MAX {
            let actual = pack.len() as u64;
            return Err(FormatError::TooLarge { what: WHAT, actual, limit: PACK_BYTES_MAX });
        }
        let build = read_header(pack)?;
        let (rest, length) = pack.split_last_chunk::<FOOTER_BYTES>().ok_or(CUT)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok().ok_or(CUT)?;
        let start = rest.len().checked_sub(length).ok_or(CUT)?;
        Ok(Self { build, segments: decode_table(&rest[start..], start as u64)? })
    }
}

/// Reads a footer that was kept apart from its pack.
///
/// # Arguments
///
/// - `end`: where the payloads end, in bytes from the start of the pack.
///
/// # Errors
///
/// The first rule that is broken.
pub(crate) fn decode_footer(footer: &[u8], end: u64) -> Result<Vec<Segment>, FormatError> {
    const CUT: FormatError = FormatError::Undecodable { what: WHAT };
    let (table, length) = footer.split_last_chunk::<FOOTER_BYTES>().ok_or(CUT)?;
    if table.len() != u32::from_le_bytes(*length) as usize {
        return Err(CUT);
    }
    decode_table(table, end)
}

fn decode_table(table: &[u8], end: u64) -> Result<Vec<Segment>, FormatError> {
    const CUT: FormatError = FormatError::Undecodable { what: WHAT };
    let mut cursor = Cursor::new(table);
    // A table has no chunk table beside it. Each chunk that it names has a byte at least.
    let mut chunks_left = u32::try_from(PACK_BYTES_MAX).unwrap_or(u32::MAX);
    let mut segments = vec![];
    let mut position = PACK_HEADER_BYTES as u64;
    for _ in 0..cursor.number().ok_or(CUT)? {
        let segment = Segment::decode(&mut cursor, &mut chunks_left)?;
        if segment.offset != position || segment.end() > end {
            return Err(FormatError::Segment { reason: "it lies outside of its place" });
        }
        if segment.runs.iter().any(|run| matches!(run, Run::Other { .. })) {
            return Err(FormatError::Segment { reason: "a pack has no foreign bytes" });
        }
        position = segment.end();
        segments.push(segment);
    }
    if position != end || !cursor.rest().is_empty() {
        return Err(CUT);
    }
    Ok(segments)
}

#[cfg(test)]
fn read_header(pack: &[u8]) -> Result<BuildId, FormatError> {
    const CUT: FormatError = FormatError::Undecodable { what: WHAT };
    let rest = pack.strip_prefix(MAGIC).ok_or(FormatError::NoMagic { what: WHAT })?;
    let mut cursor = Cursor::new(rest);
    let actual = cursor.byte().ok_or(CUT)?;
    if actual != VERSION {
        return Err(FormatError::UnknownVersion { what: WHAT, actual, expected: VERSION });
    }
    let build = cursor.digest().ok_or(CUT)?;
    match cursor.byte().ok_or(CUT)? {
        0 => {}
        1 => return Err(FormatError::Unsupported { what: WHAT, feature: "a base" }),
        _ => return Err(CUT),
    }
    cursor.take(8).ok_or(CUT)?;
    Ok(BuildId::from_digest(build))
}
