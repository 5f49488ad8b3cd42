//! Receiving chunks and manifests: matched with what was asked for, hashed as they arrive, stored.
//!
//! Invariant: bytes reach the disk only after their digest was found right. What nobody asked for
//! is not read at all: each transfer must match an entry of the [`Expectations`]. Decides nothing:
//! what came of a transfer is an event for the owner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use p2p_core::wire::RequestId;
use p2p_core::{
    BuildId, Digest, Event, MANIFEST_BYTES_MAX, Manifest, ManifestOutcome, NodeId, Verdict,
};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{BuildStore, StagedBuild, StoreError};

use super::buffers::{Buffers, Room, Segment};
use super::event::{DataEvent, DataSender};
use super::frame::{TransferHeader, TransferKind};
use super::limiter::TransferLimits;
use super::sending::Counters;
use super::transport::{Lost, TransferRx};

/// How often a transfer that moves is reported to the swarm.
const ADVANCE_TIME: Duration = Duration::from_secs(1);

/// Something that a peer was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) what: ExpectedBytes,
    pub(crate) counters: Arc<Counters>,
    pub(crate) limits: TransferLimits,
    pub(crate) is_from_seeder: bool,
    /// Ends the transfer, whether it has begun or not.
    pub(crate) cancel: CancellationToken,
    /// Memory set aside for it; `None` for a manifest.
    pub(crate) room: Option<Arc<Room>>,
}

/// Where expected bytes belong.
#[derive(Clone, Debug)]
pub(crate) enum ExpectedBytes {
    Chunk(StagedBuild),
    Manifest(BuildStore),
}

/// What identifies something that was asked for: the peer, the build, and the request (`None`: the
/// manifest).
pub(crate) type ExpectationKey = (NodeId, BuildId, Option<RequestId>);

/// What was asked for and has not come. The owner adds, transfers take.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    table: Mutex<BTreeMap<ExpectationKey, Expected>>,
}

impl Expectations {
    pub(crate) fn add(&self, key: ExpectationKey, expected: Expected) {
        self.table.lock().insert(key, expected);
    }

    /// Forgets what was asked for; a transfer that has begun is ended.
    pub(crate) fn cancel(&self, key: &ExpectationKey) {
        if let Some(expected) = self.table.lock().remove(key) {
            expected.cancel.cancel();
        }
    }

    /// Forgets everything asked of `node` for `build`.
    pub(crate) fn cancel_peer(&self, node: NodeId, build: BuildId) {
        let is_theirs = |key: &ExpectationKey| key.0 == node && key.1 == build;
        let keys: Vec<_> = self.table.lock().keys().filter(|key| is_theirs(key)).copied().collect();
        for key in &keys {
            self.cancel(key);
        }
    }

    /// Sets memory aside for something that is still wanted. Returns whether it is.
    pub(crate) fn give_room(&self, key: &ExpectationKey, room: Room) -> bool {
        let mut table = self.table.lock();
        let Some(expected) = table.get_mut(key) else { return false };
        expected.room = Some(Arc::new(room));
        true
    }

    /// The entry stays until the transfer ends, so that it can be cancelled meanwhile.
    fn get(&self, key: &ExpectationKey) -> Option<Expected> {
        self.table.lock().get(key).cloned()
    }

    fn remove(&self, key: &ExpectationKey) {
        self.table.lock().remove(key);
    }
}

/// Everything a receiving task needs.
#[derive(Clone, Debug)]
pub(crate) struct Receiving {
    pub(crate) events: DataSender,
    pub(crate) expectations: Arc<Expectations>,
    pub(crate) buffers: Arc<Buffers>,
}

/// Takes one transfer from `node`.
pub(super) async fn receive(node: NodeId, mut rx: impl TransferRx, receiving: &Receiving) {
    let Receiving { events, expectations, .. } = receiving;
    let Ok(header) = rx.header().await else { return };
    let Some(TransferHeader { build, kind }) = TransferHeader::decode(&header) else {
        return events.send(DataEvent::Nonsense { node, build: None }).await;
    };
    let request = match kind {
        TransferKind::Chunk { request, .. } => Some(request),
        TransferKind::Manifest => None,
        // Measurements have connections of their own.
        TransferKind::Measure { .. } => {
            return events.send(DataEvent::Nonsense { node, build: None }).await;
        }
    };
    let key = (node, build, request);
    // If there is none it was cancelled on its way, or never asked for: dropping it refuses it.
    let Some(expected) = expectations.get(&key) else { return };
    let cancel = expected.cancel.clone();
    let is_whole = AtomicBool::new(false);
    let received = async {
        match (kind, expected.what.clone()) {
            (TransferKind::Chunk { request, chunk }, ExpectedBytes::Chunk(staged)) => {
                let transfer = ChunkTransfer { build, node, request, chunk, staged, expected };
                receive_chunk(transfer, &mut rx, receiving, &is_whole).await
            }
            (TransferKind::Manifest, ExpectedBytes::Manifest(store)) => {
                receive_manifest((build, node), store, &mut rx, receiving).await
            }
            // A key with a request belongs to a chunk, one without to a manifest.
            _ => None,
        }
    };
    // The sender has the receipt for a whole chunk. It may be another chunk than was asked for; the
    // sender then believes that it is here and need not be given to anybody else. So it is kept,
    // although nobody waits any more for the one that was asked for.
    let cancelled = async {
        cancel.cancelled().await;
        if is_whole.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // What has come is taken before anything is thrown away.
        biased;
        event = received => {
            expectations.remove(&key);
            if let Some(event) = event {
                events.send(event).await;
            }
        }
        () = cancelled => {}
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
    rx: &mut impl TransferRx,
    receiving: &Receiving,
    is_whole: &AtomicBool,
) -> Option<DataEvent> {
    let events = &receiving.events;
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
    let intake = Intake { counted, limits: &expected.limits };
    let read = read_to_end(rx, limit, &receiving.buffers, Some(intake));
    let read = tokio::select! {
        read = read => read,
        () = keep_reporting(events, advanced) => return None,
    };
    is_whole.store(matches!(read, Read::Whole { .. }), Ordering::Relaxed);
    let verdict = match read {
        Read::Whole { segments, size, digest } if size == limit && digest == info.digest => {
            let room = expected.room;
            let gate = staged.writing().acquire_owned().await;
            let write = spawn_blocking(move || {
                let written = staged.write_parts(chunk, &segments);
                // Only now is the memory free again.
                drop((segments, room, gate));
                written
            });
            let write = write.await;
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

/// Reports every [`ADVANCE_TIME`] that a transfer is under way, for as long as it is polled.
///
/// Never ends by itself: the transport gives up when nothing arrives for a while.
async fn keep_reporting(events: &DataSender, event: impl Fn() -> DataEvent) {
    let mut ticks = tokio::time::interval_at(Instant::now() + ADVANCE_TIME, ADVANCE_TIME);
    loop {
        ticks.tick().await;
        events.send(event()).await;
    }
}

async fn receive_manifest(
    (build, node): (BuildId, NodeId),
    store: BuildStore,
    rx: &mut impl TransferRx,
    receiving: &Receiving,
) -> Option<DataEvent> {
    let Receiving { events, buffers, .. } = receiving;
    let outcome = match read_to_end(rx, MANIFEST_BYTES_MAX, buffers, None).await {
        Read::Whole { segments, .. } => {
            let bytes: Vec<u8> = segments.iter().flat_map(Segment::as_ref).copied().collect();
            drop(segments);
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
    Whole { segments: Vec<Segment>, size: usize, digest: Digest },
    TooLong,
    Broken,
}

/// What the bytes of a chunk go through as they arrive.
struct Intake<'a> {
    counted: &'a AtomicU64,
    limits: &'a TransferLimits,
}

/// Reads and hashes a transfer to its end, but no more than `limit` bytes of it.
async fn read_to_end(
    rx: &mut impl TransferRx,
    limit: usize,
    buffers: &Arc<Buffers>,
    intake: Option<Intake<'_>>,
) -> Read {
    let mut segments: Vec<Segment> = Vec::new();
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    loop {
        match rx.next_segment(buffers).await {
            Ok(Some(segment)) => {
                let arrived = segment.as_ref();
                if let Some(Intake { counted, limits }) = &intake {
                    counted.fetch_add(arrived.len() as u64, Ordering::Relaxed);
                    limits.admit_download(arrived.len()).await;
                }
                size += arrived.len();
                if size > limit {
                    return Read::TooLong;
                }
                hasher.update(arrived);
                match segments.last_mut() {
                    // A peer with a capped upload sends small pieces, and so may a malicious one:
                    // each of them in a segment of its own would fill our memory.
                    Some(last) if last.room() >= arrived.len() => {
                        last.extend_from_slice(arrived);
                    }
                    _ => segments.push(segment),
                }
            }
            Ok(None) => {
                let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
                return Read::Whole { segments, size, digest };
            }
            Err(Lost) => return Read::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::buffers::SEGMENT_BYTES;
    use super::super::limiter::SharedLimits;
    use super::*;
    use crate::store::testing::Rig;

    /// Sends its bytes one segment for each.
    struct DribblingRx {
        bytes: std::vec::IntoIter<u8>,
    }

    impl TransferRx for DribblingRx {
        async fn header(&mut self) -> Result<[u8; TransferHeader::BYTES], Lost> {
            Err(Lost)
        }

        async fn next_segment(&mut self, buffers: &Arc<Buffers>) -> Result<Option<Segment>, Lost> {
            Ok(self.bytes.next().map(|byte| {
                let mut segment = buffers.segment_to_fill();
                segment.extend_from_slice(&[byte]);
                segment
            }))
        }
    }

    /// Goal: a peer that sends little bits cannot make us hold a segment for each of them.
    #[tokio::test]
    async fn bits_are_put_together() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        let buffers = Buffers::new(crate::budget::BufferBudget::MIN);
        let mut rx = DribblingRx { bytes: bytes.clone().into_iter() };
        let read = read_to_end(&mut rx, bytes.len(), &buffers, None).await;
        let Read::Whole { segments, size, digest } = read else { panic!("not whole") };
        assert_eq!((segments.len(), size, digest), (1, bytes.len(), Digest::of(&bytes)));
        assert_eq!(segments[0].as_ref(), bytes);

        let mut rx = DribblingRx { bytes: bytes.clone().into_iter() };
        let read = read_to_end(&mut rx, bytes.len() - 1, &buffers, None).await;
        assert!(matches!(read, Read::TooLong));
    }

    /// A chunk that comes at once, and notes when its end was taken.
    struct WholeRx {
        header: TransferHeader,
        rest: Vec<u8>,
        end: Option<oneshot::Sender<()>>,
    }

    impl TransferRx for WholeRx {
        async fn header(&mut self) -> Result<[u8; TransferHeader::BYTES], Lost> {
            Ok(self.header.encode())
        }

        async fn next_segment(&mut self, buffers: &Arc<Buffers>) -> Result<Option<Segment>, Lost> {
            if self.rest.is_empty() {
                if let Some(end) = self.end.take() {
                    end.send(()).unwrap();
                }
                return Ok(None);
            }
            let later = self.rest.split_off(self.rest.len().min(SEGMENT_BYTES as usize));
            let mut segment = buffers.segment_to_fill();
            segment.extend_from_slice(&std::mem::replace(&mut self.rest, later));
            Ok(Some(segment))
        }
    }

    /// Goal: a chunk whose sender has its receipt is kept, also if it is cancelled before it is on
    /// disk: a seeder that sends another one than was asked for gives it to nobody else for a
    /// while.
    /// Method: the build's writer is held until the transfer is cancelled.
    #[tokio::test]
    async fn chunk_that_came_is_kept_although_it_is_cancelled() {
        let rig = Rig::new();
        let staged = rig.stage();
        let (build, node, request) =
            (rig.published.id(), NodeId::from_bytes([1; 32]), RequestId(1));
        let chunk = rig.manifest().layout().index(0).unwrap();
        let (events, mut inbox) = super::super::event::channel();
        let receiving = Receiving {
            events,
            expectations: Arc::default(),
            buffers: Buffers::new(crate::budget::BufferBudget::MIN),
        };
        let key = (node, build, Some(request));
        receiving.expectations.add(
            key,
            Expected {
                what: ExpectedBytes::Chunk(staged.clone()),
                counters: Arc::default(),
                limits: TransferLimits::new(SharedLimits::default(), SharedLimits::default()),
                is_from_seeder: true,
                cancel: CancellationToken::new(),
                room: None,
            },
        );
        let gate = staged.writing().acquire_owned().await.unwrap();
        let (end, came) = oneshot::channel();
        let header =
            TransferHeader { build, kind: TransferKind::Chunk { request, chunk: chunk.get() } };
        let rest = rig.published.read_chunk(chunk).unwrap().to_vec();
        let rx = WholeRx { header, rest, end: Some(end) };
        let meanwhile = async {
            came.await.unwrap();
            receiving.expectations.cancel(&key);
            // The transfer has its turn with the cancellation alone.
            tokio::task::yield_now().await;
            drop(gate);
        };
        tokio::join!(receive(node, rx, &receiving), meanwhile);

        let event = inbox.try_recv().unwrap();
        let is_kept = matches!(
            event,
            DataEvent::Transferred {
                event: Event::ChunkHashed { verdict: Verdict::Matches, .. },
                ..
            }
        );
        assert!(is_kept, "{event:?}");
        assert!(staged.have().contains(chunk));
    }
}
