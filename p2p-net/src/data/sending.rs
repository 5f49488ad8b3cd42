//! Sending chunks and manifests: read from disk into segments, held back by the caps, written to a
//! transfer.
//!
//! Invariant: no more of a chunk is in memory than the budget's segments hold, and none of it
//! before the transfer is open. Bytes are not verified on their way out: the receiver does that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use p2p_core::wire::RequestId;
use p2p_core::{BuildId, ChunkIndex};
use tokio::task::spawn_blocking;

use crate::store::{StagedBuild, StoreError, StoredBuild};

use super::buffers::{Buffers, SEGMENT_BYTES, Segment};
use super::frame::{TransferHeader, TransferKind};
use super::limiter::TransferLimits;
use super::transport::{Connection, TransferTx};

/// Segments read from the disk at once.
const READ_AHEAD_MAX: u32 = 8;

/// Chunk bytes moved for one build in both directions, counted where they move.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) from_seeders: AtomicU64,
    pub(crate) from_peers: AtomicU64,
    pub(crate) served: AtomicU64,
}

/// Where the bytes of a build that others ask for are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Staged(StagedBuild),
    Stored(StoredBuild),
}

impl Source {
    /// Reads bytes of a chunk, from an offset in it, into all of `buffer`.
    fn read_part(&self, at: (ChunkIndex, u32), buffer: &mut [u8]) -> Result<(), StoreError> {
        match self {
            Self::Staged(staged) => staged.read_part(at, buffer),
            Self::Stored(stored) => stored.read_part(at, buffer),
        }
    }

    /// The same, but only from memory: `false` if that would wait for the disk.
    fn read_cached(&self, at: (ChunkIndex, u32), buffer: &mut [u8]) -> bool {
        match self {
            Self::Staged(staged) => staged.read_cached(at, buffer),
            Self::Stored(stored) => stored.read_cached(at, buffer),
        }
    }

    fn size_of(&self, chunk: ChunkIndex) -> u32 {
        match self {
            Self::Staged(staged) => staged.manifest().layout().size_of(chunk),
            Self::Stored(stored) => stored.manifest().layout().size_of(chunk),
        }
    }

    fn manifest_bytes(&self) -> Bytes {
        match self {
            Self::Staged(staged) => staged.manifest_bytes(),
            Self::Stored(stored) => stored.manifest_bytes(),
        }
    }
}

/// Something to send to a peer.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) build: BuildId,
    pub(crate) source: Source,
    /// The chunk and the request that it answers; `None`: the manifest.
    pub(crate) chunk: Option<(ChunkIndex, RequestId)>,
    pub(crate) limits: TransferLimits,
    pub(crate) counters: Arc<Counters>,
}

/// Sends it. Returns whether the peer received all of it; an error is one of the disk.
pub(super) async fn send(
    connection: &impl Connection,
    outgoing: Outgoing,
    buffers: &Arc<Buffers>,
) -> Result<bool, StoreError> {
    match outgoing.chunk {
        Some(chunk) => send_chunk(connection, outgoing, chunk, buffers).await,
        None => Ok(send_manifest(connection, outgoing).await.unwrap_or(false)),
    }
}

async fn send_chunk(
    connection: &impl Connection,
    outgoing: Outgoing,
    (chunk, request): (ChunkIndex, RequestId),
    buffers: &Arc<Buffers>,
) -> Result<bool, StoreError> {
    let Outgoing { build, source, limits, counters, .. } = outgoing;
    let header =
        TransferHeader { build, kind: TransferKind::Chunk { request, chunk: chunk.get() } };
    let Ok(mut tx) = connection.open_transfer(header).await else { return Ok(false) };
    let size = source.size_of(chunk);
    let mut read = 0;
    while read < size {
        let first = buffers.segment_to_send().await;
        let Some(filled) = fill(&source, (chunk, read), first, buffers).await? else {
            return Ok(false);
        };
        for segment in filled {
            let mut bytes = segment.into_bytes();
            read += u32::try_from(bytes.len()).expect("a segment is smaller than a chunk may be");
            while !bytes.is_empty() {
                let part = bytes.split_to(limits.admit_upload(bytes.len()).await);
                if tx.write(part).await.is_err() {
                    return Ok(false);
                }
            }
        }
    }
    let is_delivered = tx.finish().await == Ok(true);
    if is_delivered {
        counters.served.fetch_add(u64::from(size), Ordering::Relaxed);
    }
    Ok(is_delivered)
}

/// Fills a segment with bytes of a chunk, or several if that needs the disk; `None` if the runtime
/// is being shut down.
async fn fill(
    source: &Source,
    (chunk, offset): (ChunkIndex, u32),
    mut first: Segment,
    buffers: &Arc<Buffers>,
) -> Result<Option<Vec<Segment>>, StoreError> {
    let rest = source.size_of(chunk) - offset;
    let length = rest.min(SEGMENT_BYTES) as usize;
    // What is in the page cache costs less than handing the work to another thread.
    if source.read_cached((chunk, offset), &mut first.space()[..length]) {
        first.advance(length);
        return Ok(Some(vec![first]));
    }
    let mut segments = vec![first];
    // As many as there is memory for now: a disk likes large reads.
    let wanted = rest.div_ceil(SEGMENT_BYTES).min(READ_AHEAD_MAX);
    while segments.len() < wanted as usize
        && let Some(next) = buffers.try_segment_to_send()
    {
        segments.push(next);
    }
    let source = source.clone();
    let read = spawn_blocking(move || {
        let mut at = offset;
        for segment in &mut segments {
            let length = (rest - (at - offset)).min(SEGMENT_BYTES);
            source.read_part((chunk, at), &mut segment.space()[..length as usize])?;
            segment.advance(length as usize);
            at += length;
        }
        Ok(Some(segments))
    });
    read.await.unwrap_or(Ok(None))
}

async fn send_manifest(connection: &impl Connection, outgoing: Outgoing) -> Option<bool> {
    let Outgoing { build, source, .. } = outgoing;
    let mut bytes = spawn_blocking(move || source.manifest_bytes()).await.ok()?;
    let header = TransferHeader { build, kind: TransferKind::Manifest };
    let mut tx = connection.open_transfer(header).await.ok()?;
    // Manifests are not held back by the cap on chunks: without one, nothing moves.
    while !bytes.is_empty() {
        tx.write(bytes.split_to(bytes.len().min(SEGMENT_BYTES as usize))).await.ok()?;
    }
    tx.finish().await.ok()
}
