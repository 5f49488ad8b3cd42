//! The index of a build: which segment of which pack holds each of its chunks.
//!
//! Invariant: an [`Index`] has passed every check against the manifest that it was read with. Each
//! chunk has exactly one place, equal chunks the same, and each segment lies within its pack. What
//! it does not say is that the packs are there.

use std::collections::BTreeMap;

use p2p_core::{ChunkIndex, Digest, Manifest};

use super::bytes::{Cursor, put_digest, put_number};
use super::error::FormatError;
use super::pack::{PACK_BYTES_MAX, PACK_HEADER_BYTES};
use super::segment::{Run, Segment};

/// A pack that holds chunks of a build.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PackRef {
    /// BLAKE3-256 of the pack's bytes, which is also its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A pack, and what of it belongs to a build.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PackPart {
    pub(crate) pack: PackRef,
    pub(crate) segments: Vec<Segment>,
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// Position among [`Index::segments`].
    pub(crate) segment: u32,
    /// Bytes before the chunk once the segment is expanded.
    pub(crate) offset: u32,
}

/// Where each chunk of a build lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Index {
    parts: Vec<PackPart>,
    /// Position of the part, and of the segment in it, for each segment in order.
    segments: Vec<(u32, u32)>,
    /// One for each chunk of the manifest.
    places: Vec<Place>,
}

impl Index {
    /// The index that these parts are, if they hold every chunk once.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub(crate) fn new(manifest: &Manifest, parts: Vec<PackPart>) -> Result<Self, FormatError> {
        let mut placing = Placing::new(manifest);
        let mut segments = vec![];
        for (position, part) in parts.iter().enumerate() {
            if part.segments.is_empty() {
                return Err(FormatError::Index { reason: "a pack has no chunk of the build" });
            }
            if part.pack.bytes > PACK_BYTES_MAX {
                return Err(FormatError::Index { reason: "a pack is too large" });
            }
            for (within, segment) in part.segments.iter().enumerate() {
                let starts_well = segment.offset >= PACK_HEADER_BYTES as u64;
                if !starts_well || segment.end() > part.pack.bytes {
                    return Err(FormatError::Segment { reason: "it lies outside of its pack" });
                }
                placing.add(small(segments.len())?, segment)?;
                segments.push((small(position)?, small(within)?));
            }
        }
        let places = placing.finish()?;
        Ok(Self { parts, segments, places })
    }

    pub(crate) fn encode_segments(&self, out: &mut Vec<u8>) {
        for part in &self.parts {
            put_number(out, part.segments.len() as u64);
            for segment in &part.segments {
                segment.encode(out);
            }
        }
    }

    /// Reads the segments of these packs.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub(crate) fn decode(
        manifest: &Manifest,
        packs: &[PackRef],
        bytes: &[u8],
    ) -> Result<Self, FormatError> {
        const CUT: FormatError = FormatError::Undecodable { what: "index" };
        let mut cursor = Cursor::new(bytes);
        let mut chunks_left = manifest.layout().chunk_count();
        let mut parts = Vec::with_capacity(packs.len());
        for pack in packs {
            let mut segments = vec![];
            for _ in 0..cursor.number().ok_or(CUT)? {
                segments.push(Segment::decode(&mut cursor, &mut chunks_left)?);
            }
            parts.push(PackPart { pack: *pack, segments });
        }
        if !cursor.rest().is_empty() {
            return Err(CUT);
        }
        Self::new(manifest, parts)
    }

    /// The packs, and what of each belongs to the build.
    pub(crate) fn parts(&self) -> &[PackPart] {
        &self.parts
    }

    /// Where the chunk lies.
    pub(crate) fn place(&self, chunk: ChunkIndex) -> Place {
        self.places[chunk.as_usize()]
    }

    /// The segment at this position, and its pack.
    pub(crate) fn segment(&self, position: u32) -> (&PackPart, &Segment) {
        let (part, within) = self.segments[position as usize];
        let part = &self.parts[part as usize];
        (part, &part.segments[within as usize])
    }
}

fn small(position: usize) -> Result<u32, FormatError> {
    u32::try_from(position).ok().ok_or(FormatError::Index { reason: "it has too many segments" })
}

/// Reads a list of packs, each named once.
pub(crate) fn decode_packs(cursor: &mut Cursor<'_>) -> Option<Vec<PackRef>> {
    let mut packs: Vec<PackRef> = vec![];
    for _ in 0..cursor.number()? {
        packs.push(PackRef { digest: cursor.digest()?, bytes: cursor.number()? });
    }
    Some(packs)
}

pub(crate) fn encode_packs(out: &mut Vec<u8>, packs: impl ExactSizeIterator<Item = PackRef>) {
    put_number(out, packs.len() as u64);
    for pack in packs {
        put_digest(out, &pack.digest);
        put_number(out, pack.bytes);
    }
}

/// Gives each chunk its place.
struct Placing<'a> {
    manifest: &'a Manifest,
    places: Vec<Option<Place>>,
    by_digest: BTreeMap<Digest, Place>,
}

impl<'a> Placing<'a> {
    fn new(manifest: &'a Manifest) -> Self {
        let places = vec![None; manifest.chunks().len()];
        Self { manifest, places, by_digest: BTreeMap::new() }
    }

    fn add(&mut self, position: u32, segment: &Segment) -> Result<(), FormatError> {
        let refused = |reason| FormatError::Index { reason };
        let too_long = || refused("a segment is shorter than its chunks");
        let mut offset = 0_u32;
        for run in &segment.runs {
            let (first, count) = match *run {
                Run::Other { bytes } => {
                    offset = offset.checked_add(bytes).ok_or_else(too_long)?;
                    continue;
                }
                Run::Chunks { first, count } => (first, count),
            };
            let end = first.checked_add(count).ok_or_else(|| refused("no such chunk"))?;
            for raw in first..end {
                let chunks = self.manifest.chunks();
                let chunk = chunks.get(raw as usize).ok_or_else(|| refused("no such chunk"))?;
                let place = Place { segment: position, offset };
                if self.by_digest.insert(chunk.digest, place).is_some() {
                    return Err(refused("a chunk lies in two places"));
                }
                self.places[raw as usize] = Some(place);
                offset = offset.checked_add(chunk.size).ok_or_else(too_long)?;
            }
        }
        if offset == segment.plain { Ok(()) } else { Err(too_long()) }
    }

    fn finish(self) -> Result<Vec<Place>, FormatError> {
        let chunks = self.manifest.chunks().iter();
        let placed = chunks.zip(self.places).map(|(chunk, place)| {
            // Equal chunks are stored once.
            let place = place.or_else(|| self.by_digest.get(&chunk.digest).copied());
            place.ok_or(FormatError::Index { reason: "a chunk has no place" })
        });
        placed.collect()
    }
}
