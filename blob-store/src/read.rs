//! Chunks out of a store, by ranges that hold many of them.
//!
//! Segments that lie close to each other in a pack are read in one range, and each is expanded once
//! however many of its chunks are wanted. Invariant: a chunk that is handed out has the digest that
//! the manifest says. What is damaged is named chunk by chunk, with its pack, and does not keep
//! other chunks back. The memory is a range and its chunks for each of
//! [`RANGES_AT_ONCE`] ranges.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use p2p_core::{BuildId, ChunkIndex, Digest, Manifest};

use crate::builds;
use crate::format::build::{BuildObject, Notes};
use crate::format::codec;
use crate::format::error::FormatError;
use crate::format::index::PackRef;
use crate::format::keys;
use crate::store::error::StoreError;
use crate::store::{BlobStore, RANGE_BYTES};

/// Ranges on their way at a time. One alone leaves a far store's round trips empty; more than a few
/// only cost memory.
const RANGES_AT_ONCE: usize = 4;

/// Bytes that nobody wants and that are read all the same, rather than asking twice.
const GAP_MAX: u64 = 256 << 10;

/// A build in a store.
#[derive(Clone, Debug)]
pub struct RemoteBuild {
    store: BlobStore,
    build: BuildId,
    object: Arc<BuildObject>,
}

/// What came of a chunk.
#[derive(Debug)]
pub struct ChunkRead {
    /// The chunk.
    pub chunk: ChunkIndex,
    /// Its bytes, verified.
    pub outcome: Result<Bytes, StoreError>,
}

/// Reads manifest and index of a build.
///
/// # Errors
///
/// [`StoreError::NotFound`] if the store does not have it, [`StoreError::Damaged`], or the store's.
pub async fn open_build(store: &BlobStore, build: BuildId) -> Result<RemoteBuild, StoreError> {
    let object = Arc::new(builds::read(store, build).await?);
    Ok(RemoteBuild { store: store.clone(), build, object })
}

/// Part of a pack, and what is wanted of it.
#[derive(Debug)]
struct Span {
    pack: PackRef,
    range: Range<u64>,
    /// Segments, by their positions in the index, each with the chunks wanted of it.
    segments: Vec<(u32, Vec<ChunkIndex>)>,
}

impl RemoteBuild {
    /// The build.
    pub const fn build(&self) -> BuildId {
        self.build
    }

    /// What the build consists of.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.object.manifest
    }

    /// What its publisher noted.
    pub fn notes(&self) -> &Notes {
        &self.object.notes
    }

    /// The packs that hold its chunks.
    pub fn packs(&self) -> Vec<PackRef> {
        self.object.index.parts().iter().map(|part| part.pack).collect()
    }

    /// The pack that holds the chunk.
    pub(crate) fn pack_of(&self, chunk: ChunkIndex) -> PackRef {
        let place = self.object.index.place(chunk);
        self.object.index.segment(place.segment).0.pack
    }

    /// Bytes that reading these chunks takes out of the store.
    pub fn bytes_to_read(&self, chunks: &[ChunkIndex]) -> u64 {
        self.spans(chunks).iter().map(|span| span.range.end - span.range.start).sum()
    }

    /// Reads chunks, in the order in which they lie in the store. Chunks of one range come one
    /// after the other; dropping the stream stops the reading.
    pub fn read(&self, chunks: &[ChunkIndex]) -> impl Stream<Item = ChunkRead> + Send + use<> {
        let spans = self.spans(chunks);
        let (store, object) = (self.store.clone(), Arc::clone(&self.object));
        stream::iter(spans)
            .map(move |span| read_span(store.clone(), Arc::clone(&object), span))
            .buffered(RANGES_AT_ONCE)
            .flat_map(stream::iter)
    }

    /// The ranges to read for these chunks.
    fn spans(&self, chunks: &[ChunkIndex]) -> Vec<Span> {
        let index = &self.object.index;
        let mut places: Vec<(u32, u32, ChunkIndex)> = chunks
            .iter()
            .map(|chunk| {
                let place = index.place(*chunk);
                (place.segment, place.offset, *chunk)
            })
            .collect();
        places.sort_unstable_by_key(|(segment, offset, chunk)| (*segment, *offset, chunk.get()));
        places.dedup();
        let mut spans: Vec<Span> = vec![];
        for (position, _, chunk) in places {
            let (part, segment) = index.segment(position);
            let end = segment.end();
            if let Some(span) = spans.last_mut() {
                if let Some((_, wanted)) =
                    span.segments.last_mut().filter(|(last, _)| *last == position)
                {
                    wanted.push(chunk);
                    continue;
                }
                let is_near = span.pack == part.pack
                    && segment.offset >= span.range.start
                    && segment.offset <= span.range.end + GAP_MAX
                    && end - span.range.start <= RANGE_BYTES;
                if is_near {
                    span.range.end = span.range.end.max(end);
                    span.segments.push((position, vec![chunk]));
                    continue;
                }
            }
            let segments = vec![(position, vec![chunk])];
            spans.push(Span { pack: part.pack, range: segment.offset..end, segments });
        }
        spans
    }
}

async fn read_span(store: BlobStore, object: Arc<BuildObject>, span: Span) -> Vec<ChunkRead> {
    let key = keys::pack(&span.pack.digest);
    match store.read_range(&key, span.range.clone()).await {
        Ok(bytes) => {
            let expanded =
                tokio::task::spawn_blocking(move || expand(&store, &object, &span, &bytes));
            match expanded.await {
                Ok(chunks) => chunks,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            let chunks = span.segments.into_iter().flat_map(|(_, chunks)| chunks);
            let failed = |chunk| ChunkRead {
                chunk,
                outcome: Err(StoreError::Pack {
                    store: store.to_string(),
                    pack: span.pack.digest,
                    source: Arc::clone(&error),
                }),
            };
            chunks.map(failed).collect()
        }
    }
}

/// The chunks that are wanted of a range.
fn expand(store: &BlobStore, object: &BuildObject, span: &Span, bytes: &Bytes) -> Vec<ChunkRead> {
    let mut found = vec![];
    for (position, chunks) in &span.segments {
        let (_, segment) = object.index.segment(*position);
        let place = |offset: u64| {
            usize::try_from(offset - span.range.start).expect("the range fits into memory")
        };
        let stored = &bytes[place(segment.offset)..place(segment.end())];
        let plain = codec::expand(segment.coder, stored, segment.plain).map(Bytes::from);
        for chunk in chunks {
            let outcome = plain.clone().and_then(|plain| cut(object, *chunk, &plain));
            let damaged = |source| builds::damaged(store, keys::pack(&span.pack.digest), source);
            found.push(ChunkRead { chunk: *chunk, outcome: outcome.map_err(damaged) });
        }
    }
    found
}

/// The chunk, out of its segment.
fn cut(object: &BuildObject, chunk: ChunkIndex, plain: &Bytes) -> Result<Bytes, FormatError> {
    let info = object.manifest.chunks()[chunk.as_usize()];
    let start = object.index.place(chunk).offset as usize;
    let bytes = plain.slice(start..start + info.size as usize);
    if Digest::of(&bytes) == info.digest {
        Ok(bytes)
    } else {
        Err(FormatError::WrongChecksum { what: "chunk" })
    }
}
