//! The file that says which chunks of a staged build are on disk.
//!
//! Layout: `shoalbm`, one byte of version, the build's name (32 bytes), the chunk count (u32,
//! little endian), the packed [`ChunkSet`], and the BLAKE3 digest of all before it (32 bytes). It
//! is replaced as a whole and only after the data it speaks of is synced. All calls block.

use std::io;
use std::path::Path;

use p2p_core::{BuildId, ChunkSet, Digest};

use super::durable;
use super::error::StoreError;

const MAGIC: &[u8; 7] = b"shoalbm";

/// Raised whenever an older Shoal would misread the file.
const VERSION: u8 = 1;

/// What an earlier attempt left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Claim {
    /// No bitmap: the attempt ended before its first checkpoint.
    Nothing,
    /// These chunks were synced.
    Chunks(ChunkSet),
    /// Torn, damaged, or of another build: nobody knows what is there.
    Unknown,
}

/// Replaces the bitmap at `path`, by way of `scratch`.
///
/// # Errors
///
/// The system's reason; the old bitmap is still there.
pub(super) fn write(
    path: &Path,
    scratch: &Path,
    build: BuildId,
    chunks: &ChunkSet,
) -> Result<(), StoreError> {
    durable::replace_file(path, scratch, &encode(build, chunks))
}

/// Reads the bitmap at `path`.
///
/// # Errors
///
/// The system's reason, if the file is there but cannot be read.
pub(super) fn read(path: &Path, build: BuildId, chunk_count: u32) -> Result<Claim, StoreError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(decode(build, chunk_count, &bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Claim::Nothing),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

fn encode(build: BuildId, chunks: &ChunkSet) -> Vec<u8> {
    let mut bytes = header(build, chunks.capacity());
    bytes.extend(chunks.to_bytes());
    let digest = Digest::of(&bytes);
    bytes.extend(digest.as_bytes());
    bytes
}

fn decode(build: BuildId, chunk_count: u32, bytes: &[u8]) -> Claim {
    let decode = || {
        let (body, digest) = bytes.split_last_chunk::<32>()?;
        let is_whole = Digest::of(body) == Digest::from_bytes(*digest);
        let packed = body.strip_prefix(header(build, chunk_count).as_slice())?;
        ChunkSet::from_bytes(chunk_count, packed).filter(|_| is_whole)
    };
    decode().map_or(Claim::Unknown, Claim::Chunks)
}

fn header(build: BuildId, chunk_count: u32) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.push(VERSION);
    bytes.extend(build.digest().as_bytes());
    bytes.extend(chunk_count.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (BuildId, ChunkSet) {
        let chunks = ChunkSet::from_bytes(11, &[0b1010_0110, 0b101]).unwrap();
        (BuildId::of_manifest(b"some build"), chunks)
    }

    #[test]
    fn bitmap_round_trips() {
        let (build, chunks) = sample();
        assert_eq!(decode(build, 11, &encode(build, &chunks)), Claim::Chunks(chunks));
    }

    #[test]
    fn torn_damaged_or_foreign_bitmap_claims_nothing() {
        let (build, chunks) = sample();
        let good = encode(build, &chunks);
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            assert_eq!(decode(build, 11, &bad), Claim::Unknown, "byte {position} flipped");
            assert_eq!(decode(build, 11, &good[..position]), Claim::Unknown, "cut at {position}");
        }
        assert_eq!(decode(BuildId::of_manifest(b"another"), 11, &good), Claim::Unknown);
        assert_eq!(decode(build, 12, &good), Claim::Unknown);
    }
}
