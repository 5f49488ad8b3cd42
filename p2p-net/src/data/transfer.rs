//! Chunks and manifests on the wire: sending from disk, receiving, checking, storing.
//!
//! Invariant: bytes reach the disk only after their digest was found right. What nobody asked for is
//! not read at all: each transfer must match an entry of the [`Expectations`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use p2p_core::wire::RequestId;
use p2p_core::{
    BuildId, ChunkIndex, Digest, Event, MANIFEST_BYTES_MAX, Manifest, ManifestOutcome, NodeId,
    Verdict,
};
use quinn::{Connection, RecvStream, SendStream};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::event::{DataEvent, DataSender};
use super::frame::{TransferHeader, TransferKind};
use super::limiter::TransferLimits;
use crate::store::{BuildStore, StagedBuild, StoreError, StoredBuild};

/// A transfer that does not move for so long is given up.
const STALL_TIME: Duration = Duration::from_secs(30);

/// How often a transfer that moves says so.
const ADVANCE_TIME: Duration = Duration::from_secs(1);

/// Chunk bytes moved for one build, counted where they move.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) from_seeders: AtomicU64,
    pub(crate) from_peers: AtomicU64,
    pub(crate) served: AtomicU64,
}

/// Something that a peer was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) what: ExpectedBytes,
    pub(crate) counters: Arc<Counters>,
    pub(crate) limits: TransferLimits,
    pub(crate) is_from_seeder: bool,
    /// Ends the transfer, whether it has begun or not.
    pub(crate) cancel: CancellationToken,
}

/// Where expected bytes belong.
#[derive(Clone, Debug)]
pub(crate) enum ExpectedBytes {
    Chunk(StagedBuild),
    Manifest(BuildStore),
}

/// Names something asked for: the peer, the build, and the request (`None`: the manifest).
pub(crate) type ExpectationKey = (NodeId, BuildId, Option<RequestId>);

/// What was asked for and has not come. The owner adds, transfers take.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    table: Mutex<BTreeMap<ExpectationKey, Expected>>,
}

impl Expectations {
    pub(crate) fn add(&self, key: ExpectationKey, expected: Expected) {
        self.lock().insert(key, expected);
    }

    /// Forgets what was asked for; a transfer that has begun is ended.
    pub(crate) fn cancel(&self, key: &ExpectationKey) {
        if let Some(expected) = self.lock().remove(key) {
            expected.cancel.cancel();
        }
    }

    /// Forgets everything asked of `node` for `build`.
    pub(crate) fn cancel_peer(&self, node: NodeId, build: BuildId) {
        let is_theirs = |key: &ExpectationKey| key.0 == node && key.1 == build;
        let keys: Vec<_> = self.lock().keys().filter(|key| is_theirs(key)).copied().collect();
        for key in &keys {
            self.cancel(key);
        }
    }

    /// The entry stays until the transfer ends, so that it can be cancelled meanwhile.
    fn get(&self, key: &ExpectationKey) -> Option<Expected> {
        self.lock().get(key).cloned()
    }

    fn remove(&self, key: &ExpectationKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ExpectationKey, Expected>> {
        self.table.lock().expect("no code panics while it holds the lock")
    }
}

/// Takes one transfer stream from `node`.
pub(super) async fn receive(
    node: NodeId,
    mut stream: RecvStream,
    expectations: &Expectations,
    events: &DataSender,
) {
    let mut header = [0; TransferHeader::BYTES];
    let Ok(Ok(())) = timeout(STALL_TIME, stream.read_exact(&mut header)).await else { return };
    let Some(TransferHeader { build, kind }) = TransferHeader::decode(&header) else {
        return events.send(DataEvent::Nonsense { node, build: None }).await;
    };
    let request = match kind {
        TransferKind::Chunk { request, .. } => Some(request),
        TransferKind::Manifest => None,
    };
    let key = (node, build, request);
    let Some(expected) = expectations.get(&key) else {
        // Cancelled while it was on its way, or never asked for.
        drop(stream.stop(0_u8.into()));
        return;
    };
    let cancel = expected.cancel.clone();
    let received = async {
        match (kind, expected.what.clone()) {
            (TransferKind::Chunk { request, chunk }, ExpectedBytes::Chunk(staged)) => {
                let transfer = ChunkTransfer { build, node, request, chunk, staged, expected };
                receive_chunk(transfer, &mut stream, events).await
            }
            (TransferKind::Manifest, ExpectedBytes::Manifest(store)) => {
                receive_manifest((build, node), store, &mut stream, events).await
            }
            // A key with a request belongs to a chunk, one without to a manifest.
            _ => None,
        }
    };
    // An error to stop a stream means that it has ended already.
    tokio::select! {
        () = cancel.cancelled() => drop(stream.stop(0_u8.into())),
        event = received => {
            expectations.remove(&key);
            if let Some(event) = event {
                events.send(event).await;
            }
        }
    }
}

struct ChunkTransfer {
    build: BuildId,
    node: NodeId,
    request: RequestId,
    chunk: u32,
    staged: StagedBuild,
    expected: Expected,
}

async fn receive_chunk(
    transfer: ChunkTransfer,
    stream: &mut RecvStream,
    events: &DataSender,
) -> Option<DataEvent> {
    let ChunkTransfer { build, node, request, chunk, staged, expected } = transfer;
    let event = |event| Some(DataEvent::Transferred { build, event });
    let manifest = staged.manifest().clone();
    let Some(chunk) = manifest.layout().index(chunk) else {
        return Some(DataEvent::Nonsense { node, build: Some(build) });
    };
    let info = manifest.chunks()[chunk.as_usize()];
    let counted = if expected.is_from_seeder {
        &expected.counters.from_seeders
    } else {
        &expected.counters.from_peers
    };
    let advanced = || DataEvent::Transferred { build, event: Event::FetchAdvanced { request } };
    let limit = info.size as usize;
    let limits = &expected.limits;
    let read = read_to_end(stream, limit, Some(Intake { counted, limits }));
    let read = tokio::select! {
        read = read => read,
        () = keep_telling(events, advanced) => return None,
    };
    let verdict = match read {
        Read::Whole { bytes, digest } if bytes.len() == limit && digest == info.digest => {
            let write = spawn_blocking(move || staged.write_chunk(chunk, &bytes)).await;
            match write {
                Ok(Ok(())) => Verdict::Matches,
                Ok(Err(error)) => {
                    return Some(DataEvent::StoreFailed { build, error: Arc::new(error) });
                }
                // The runtime is being shut down.
                Err(_) => return None,
            }
        }
        Read::Whole { .. } | Read::TooLong => Verdict::Differs,
        Read::Broken => return event(Event::FetchFailed { request }),
    };
    event(Event::ChunkHashed { request, chunk, verdict })
}

/// Says once a second that a transfer is under way, for as long as it is polled.
///
/// The transfer itself gives up when nothing arrives for [`STALL_TIME`].
async fn keep_telling(events: &DataSender, event: impl Fn() -> DataEvent) {
    let mut ticks = tokio::time::interval_at(Instant::now() + ADVANCE_TIME, ADVANCE_TIME);
    loop {
        ticks.tick().await;
        events.send(event()).await;
    }
}

async fn receive_manifest(
    (build, node): (BuildId, NodeId),
    store: BuildStore,
    stream: &mut RecvStream,
    events: &DataSender,
) -> Option<DataEvent> {
    let outcome = match read_to_end(stream, MANIFEST_BYTES_MAX, None).await {
        Read::Whole { bytes, .. } => {
            let staged = spawn_blocking(move || stage(build, &bytes, &store)).await.ok()?;
            match staged {
                Ok(Some(staged)) => {
                    let layout = Arc::new(staged.manifest().layout().clone());
                    events.send(DataEvent::Staged { build, staged }).await;
                    ManifestOutcome::Valid(layout)
                }
                Ok(None) => ManifestOutcome::Wrong,
                Err(error) => {
                    return Some(DataEvent::StoreFailed { build, error: Arc::new(error) });
                }
            }
        }
        Read::TooLong => ManifestOutcome::Wrong,
        Read::Broken => ManifestOutcome::Missing,
    };
    let event = Event::ManifestArrived { peer: node, outcome };
    Some(DataEvent::Transferred { build, event })
}

/// Checks a manifest and makes room for its build; `None` if it is not the build's manifest.
fn stage(
    build: BuildId,
    bytes: &[u8],
    store: &BuildStore,
) -> Result<Option<StagedBuild>, StoreError> {
    let Ok(manifest) = Manifest::decode(build, bytes) else { return Ok(None) };
    store.stage(build, Arc::new(manifest)).map(Some)
}

enum Read {
    Whole { bytes: Vec<u8>, digest: Digest },
    TooLong,
    Broken,
}

/// Bytes hashed at once while more arrive. BLAKE3 works on many leaves side by side, which pieces of
/// the size of a packet would prevent; half of it is measurably slower, twice as much no faster.
const HASH_BYTES: usize = 128 << 10;

/// Packets' worth of bytes taken from a stream at once.
const PIECES: usize = 32;

/// What the bytes of a chunk go through as they arrive.
struct Intake<'a> {
    counted: &'a AtomicU64,
    limits: &'a TransferLimits,
}

/// Reads and hashes a stream to its end, but no more than `limit` bytes of it.
async fn read_to_end(stream: &mut RecvStream, limit: usize, intake: Option<Intake<'_>>) -> Read {
    let mut bytes = Vec::new();
    let mut hasher = blake3::Hasher::new();
    let mut hashed = 0;
    // What arrived meanwhile is taken at once: a deadline per packet would cost more than the packet.
    let mut pieces: [Bytes; PIECES] = std::array::from_fn(|_| Bytes::new());
    loop {
        match timeout(STALL_TIME, stream.read_chunks(&mut pieces)).await {
            Ok(Ok(Some(count))) => {
                let arrived: usize = pieces[..count].iter().map(Bytes::len).sum();
                if let Some(Intake { counted, limits }) = &intake {
                    counted.fetch_add(arrived as u64, Ordering::Relaxed);
                    limits.admit_download(arrived).await;
                }
                if bytes.len() + arrived > limit {
                    return Read::TooLong;
                }
                if bytes.is_empty() {
                    // A chunk's buffer is asked for once; a manifest's limit is far above its size.
                    bytes.reserve_exact(limit.min(4 << 20));
                }
                for piece in &mut pieces[..count] {
                    bytes.extend_from_slice(&std::mem::take(piece));
                }
                if bytes.len() - hashed >= HASH_BYTES {
                    hasher.update(&bytes[hashed..]);
                    hashed = bytes.len();
                }
            }
            Ok(Ok(None)) => {
                hasher.update(&bytes[hashed..]);
                let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
                return Read::Whole { bytes, digest };
            }
            Ok(Err(_)) | Err(_) => return Read::Broken,
        }
    }
}

/// Where the bytes of a build that others ask for are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Staged(StagedBuild),
    Stored(StoredBuild),
}

impl Source {
    fn read_chunk(&self, chunk: ChunkIndex) -> Result<Bytes, StoreError> {
        match self {
            Self::Staged(staged) => staged.read_chunk(chunk),
            Self::Stored(stored) => stored.read_chunk(chunk),
        }
    }

    fn read_manifest(&self) -> Bytes {
        match self {
            Self::Staged(staged) => staged.manifest_bytes(),
            Self::Stored(stored) => stored.manifest_bytes(),
        }
    }
}

/// Sends one chunk; whether the peer received all of it. An error of the disk is returned as such.
pub(crate) async fn send_chunk(
    connection: &Connection,
    header: TransferHeader,
    (source, chunk): (Source, ChunkIndex),
    limits: &TransferLimits,
    counters: &Counters,
) -> Result<bool, StoreError> {
    let Ok(read) = spawn_blocking(move || source.read_chunk(chunk)).await else { return Ok(false) };
    let bytes = read?;
    let size = bytes.len() as u64;
    let is_delivered = send(connection, header, bytes, Some(limits)).await.is_some();
    if is_delivered {
        counters.served.fetch_add(size, Ordering::Relaxed);
    }
    Ok(is_delivered)
}

/// Sends the manifest, if the peer still wants it.
pub(crate) async fn send_manifest(connection: &Connection, build: BuildId, source: Source) {
    let encoded = spawn_blocking(move || source.read_manifest()).await;
    let Ok(bytes) = encoded else { return };
    let header = TransferHeader { build, kind: TransferKind::Manifest };
    // Manifests are not held back by the cap on chunks: without one, nothing moves.
    send(connection, header, bytes, None).await;
}

/// `None` if the peer did not receive all of it. Dropping this resets the stream.
async fn send(
    connection: &Connection,
    header: TransferHeader,
    bytes: Bytes,
    limits: Option<&TransferLimits>,
) -> Option<()> {
    let mut stream = timeout(STALL_TIME, connection.open_uni()).await.ok()?.ok()?;
    let mut stream = ResetOnDrop { stream: &mut stream, is_done: false };
    stream.stream.write_all(&header.encode()).await.ok()?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let admitted = match limits {
            Some(limits) => limits.admit_upload(rest.len()).await,
            None => rest.len(),
        };
        let piece = rest.split_to(admitted);
        timeout(STALL_TIME, stream.stream.write_chunk(piece)).await.ok()?.ok()?;
    }
    stream.stream.finish().ok()?;
    // `Some` code: the peer stopped reading before the end.
    let stopped = timeout(STALL_TIME, stream.stream.stopped()).await.ok()?.ok()?;
    stream.is_done = true;
    stopped.is_none().then_some(())
}

/// quinn finishes a stream that is dropped, which would make half a chunk look whole.
struct ResetOnDrop<'a> {
    stream: &'a mut SendStream,
    is_done: bool,
}

impl Drop for ResetOnDrop<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            // An error means that the stream has ended already.
            drop(self.stream.reset(0_u8.into()));
        }
    }
}
