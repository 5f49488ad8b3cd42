//! A build as it lies in the store: notes, the packs that it needs, its manifest and its index.
//!
//! ```text
//! magic, version          8 bytes
//! length of the head      4 bytes, little endian
//! head                    notes, packs
//! checksum                32 bytes: BLAKE3 of everything before it
//! body                    manifest, segments of each pack
//! checksum                32 bytes: BLAKE3 of the body
//! ```
//!
//! The head can be read alone: sweeping and listing need no more. Invariant: a [`BuildObject`] has
//! the manifest that its name says, and an index that fits it. Notes are for people, and what
//! counts builds; nothing that is installed depends on them.

use std::sync::Arc;

use p2p_core::{BuildId, CHUNKS_MAX, Digest, MANIFEST_BYTES_MAX, Manifest};

use super::bytes::{Cursor, DIGEST_BYTES, put_counted, put_number};
use super::error::FormatError;
use super::index::{Index, PackPart, PackRef, decode_packs, encode_packs};

const WHAT: &str = "build";
const MAGIC: &[u8; 7] = b"shoalbd";
const VERSION: u8 = 1;

/// Magic, version and the head's length.
const PREFIX_BYTES: usize = 8 + 4;

/// Most bytes of a head: one pack for each chunk would be three times as many, but a pack holds as
/// many chunks as there are, up to 64 MiB.
const HEAD_BYTES_MAX: usize = 16 << 20;

/// Most bytes of the segments: a few for each chunk.
const SEGMENTS_BYTES_MAX: usize = CHUNKS_MAX as usize * 32;

/// Most bytes of a build in the store.
pub(crate) const BUILD_BYTES_MAX: u64 =
    (PREFIX_BYTES + HEAD_BYTES_MAX + 2 * DIGEST_BYTES + MANIFEST_BYTES_MAX + SEGMENTS_BYTES_MAX)
        as u64
        + 64;

/// Longest name of an app.
const APP_BYTES_MAX: usize = 255;

/// What people want to know of a build before they read it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Notes {
    /// The app that it was first published as a build of.
    pub app: String,
    /// When that was, in milliseconds since 1970, by the publisher's clock.
    pub published_ms: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// How many chunks it has.
    pub chunk_count: u64,
}

/// The beginning of a build in the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Head {
    pub(crate) notes: Notes,
    pub(crate) packs: Vec<PackRef>,
}

/// A build as it lies in the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BuildObject {
    pub(crate) notes: Notes,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) index: Index,
}

/// What the beginning of a build shows.
pub(crate) enum Beginning {
    /// The head is whole.
    Head(Head),
    /// So many bytes from the start are needed.
    Needs(usize),
}

impl Head {
    /// Reads the head from the first bytes of a build.
    ///
    /// # Errors
    ///
    /// If these bytes cannot be the beginning of a build.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Beginning, FormatError> {
        let end = match head_end(bytes)? {
            Some(end) if bytes.len() >= end + DIGEST_BYTES => end,
            Some(end) => return Ok(Beginning::Needs(end + DIGEST_BYTES)),
            None => return Ok(Beginning::Needs(PREFIX_BYTES)),
        };
        check_sum(&bytes[..end], &bytes[end..end + DIGEST_BYTES])?;
        let head = decode_head(&bytes[PREFIX_BYTES..end]);
        head.map(Beginning::Head).ok_or(FormatError::Undecodable { what: WHAT })
    }
}

/// Where the head ends; `None` if not even that can be seen yet.
fn head_end(bytes: &[u8]) -> Result<Option<usize>, FormatError> {
    let shown = bytes.len().min(MAGIC.len());
    if bytes[..shown] != MAGIC[..shown] {
        return Err(FormatError::NoMagic { what: WHAT });
    }
    let Some(&actual) = bytes.get(MAGIC.len()) else { return Ok(None) };
    if actual != VERSION {
        return Err(FormatError::UnknownVersion { what: WHAT, actual, expected: VERSION });
    }
    let Some(length) = bytes[MAGIC.len() + 1..].first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > HEAD_BYTES_MAX {
        let (actual, limit) = (length as u64, HEAD_BYTES_MAX as u64);
        return Err(FormatError::TooLarge { what: "head of a build", actual, limit });
    }
    Ok(Some(PREFIX_BYTES + length))
}

fn decode_head(bytes: &[u8]) -> Option<Head> {
    let mut cursor = Cursor::new(bytes);
    let app = cursor.counted().filter(|app| app.len() <= APP_BYTES_MAX)?;
    let app = std::str::from_utf8(app).ok()?.to_owned();
    let (published_ms, bytes, chunk_count) = (cursor.number()?, cursor.number()?, cursor.number()?);
    let packs = decode_packs(&mut cursor)?;
    let notes = Notes { app, published_ms, bytes, chunk_count };
    cursor.rest().is_empty().then_some(Head { notes, packs })
}

fn check_sum(bytes: &[u8], expected: &[u8]) -> Result<(), FormatError> {
    if Digest::of(bytes).as_bytes() == expected {
        Ok(())
    } else {
        Err(FormatError::WrongChecksum { what: WHAT })
    }
}

impl BuildObject {
    /// The build's bytes in the store.
    ///
    /// # Errors
    ///
    /// If one of its parts is too long.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut head = vec![];
        put_counted(&mut head, self.notes.app.as_bytes());
        put_number(&mut head, self.notes.published_ms);
        put_number(&mut head, self.notes.bytes);
        put_number(&mut head, self.notes.chunk_count);
        encode_packs(&mut head, self.index.parts().iter().map(|part: &PackPart| part.pack));
        check_length("head of a build", head.len(), HEAD_BYTES_MAX)?;
        let mut segments = vec![];
        self.index.encode_segments(&mut segments);
        check_length("index", segments.len(), SEGMENTS_BYTES_MAX)?;

        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        let length = u32::try_from(head.len()).expect("just checked against a smaller limit");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(Digest::of(&out).as_bytes());
        let body = out.len();
        put_counted(&mut out, &self.manifest.encode()?);
        put_counted(&mut out, &segments);
        out.extend_from_slice(Digest::of(&out[body..]).as_bytes());
        Ok(out)
    }

    /// Reads a build that lay under this name.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub(crate) fn decode(expected: BuildId, bytes: &[u8]) -> Result<Self, FormatError> {
        const CUT: FormatError = FormatError::Undecodable { what: WHAT };
        let Beginning::Head(head) = Head::decode(bytes)? else { return Err(CUT) };
        let start = head_end(bytes)?.ok_or(CUT)? + DIGEST_BYTES;
        let (body, sum) = bytes[start..].split_last_chunk::<DIGEST_BYTES>().ok_or(CUT)?;
        check_sum(body, sum)?;
        let mut cursor = Cursor::new(body);
        let manifest = cursor.counted().ok_or(CUT)?;
        let manifest = Manifest::decode(expected, manifest)?;
        let segments = cursor.counted().ok_or(CUT)?;
        check_length("index", segments.len(), SEGMENTS_BYTES_MAX)?;
        if !cursor.rest().is_empty() {
            return Err(CUT);
        }
        let index = Index::decode(&manifest, &head.packs, segments)?;
        Ok(Self { notes: head.notes, manifest: Arc::new(manifest), index })
    }
}

fn check_length(what: &'static str, actual: usize, limit: usize) -> Result<(), FormatError> {
    if actual <= limit {
        return Ok(());
    }
    Err(FormatError::TooLarge { what, actual: actual as u64, limit: limit as u64 })
}
