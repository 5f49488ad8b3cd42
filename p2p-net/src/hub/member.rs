//! One build that the node takes part in: its state machine, its bytes, and what people are shown.
//!
//! Owns the tasks that use files of the build, so that whoever leaves it can wait for them. Decides
//! nothing about the protocol. What concerns the reuse of chunks is in `hub/reuse.rs`, with the
//! state of it here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use p2p_core::wire::RequestId;
use p2p_core::{
    BuildId, ChunkIndex, ChunkLayout, ChunkSet, Event, Holdings, NodeId, PeerFault, Swarm, Verdict,
    Waiting,
};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::address::SeederAddress;
use crate::control::NoAnswer;
use crate::data::limiter::TransferLimits;
use crate::data::link::Uplink;
use crate::data::sending::{Counters, Outgoing, Source};
use crate::error::FetchError;
use crate::progress::{BannedPeer, LinkCounts, Phase, Progress, WaitingFor};
use crate::store::{BuildStore, StagedBuild, StoreError, StoredBuild};

use super::remembered::Remembered;
use super::reuse::ReuseState;
use super::wake::{DownloadOutcome, HubSender, OnDisk, Wake, Watches};

/// Faults that are kept to be shown. The first ones say the most.
const FAULTS_MAX: usize = 100;

/// How often new chunks are made durable: what the death of the process may cost.
const CHECKPOINT_TIME: Duration = Duration::from_secs(1);

/// A chunk to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upload {
    pub(crate) peer: NodeId,
    pub(crate) request: RequestId,
    pub(crate) chunk: ChunkIndex,
}

/// A build of this node.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) build: BuildId,
    /// `None` while what is on disk is being looked at.
    pub(crate) swarm: Option<Swarm>,
    pub(crate) source: Option<Source>,
    /// Where the download goes; `None` for a build that was complete from the start.
    pub(crate) store: Option<BuildStore>,
    pub(crate) counters: Arc<Counters>,
    /// What the build's bytes have to pass.
    pub(crate) limits: TransferLimits,
    /// Chunks being sent, to end them.
    pub(crate) serving: BTreeMap<(NodeId, RequestId), CancellationToken>,
    /// Tasks that use files of the build.
    pub(crate) tasks: TaskTracker,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) outcome: watch::Sender<DownloadOutcome>,
    pub(crate) phase: Phase,
    pub(crate) bytes_done: u64,
    pub(crate) bytes_resumed: u64,
    pub(crate) chunks_served_early: u64,
    pub(crate) faults: Vec<BannedPeer>,
    /// Why the last announce failed.
    pub(crate) announce_error: Option<NoAnswer>,
    /// Whom earlier downloads knew, and what of this one's is kept.
    pub(crate) remembered: Remembered,
    /// What other builds on this host have of this one.
    pub(crate) reuse: ReuseState,
    /// When chunks were last made durable, and whether that is under way.
    pub(crate) checkpoint: Checkpoint,
    /// Its connections by transport, when they were last counted.
    pub(crate) links: LinkCounts,
    /// Something changed since the last publish.
    pub(crate) is_dirty: bool,
}

/// Where the bookkeeping of durable chunks stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checkpoint {
    pub(crate) last_at: Instant,
    pub(crate) chunks: u32,
    pub(crate) is_running: bool,
}

impl Member {
    pub(crate) fn new(
        build: BuildId,
        phase: Phase,
        store: Option<BuildStore>,
        limits: TransferLimits,
    ) -> Self {
        Self {
            build,
            swarm: None,
            source: None,
            store,
            counters: Arc::default(),
            limits,
            serving: BTreeMap::new(),
            tasks: TaskTracker::new(),
            progress: watch::Sender::new(Progress { phase, ..Progress::default() }),
            outcome: watch::Sender::new(None),
            phase,
            bytes_done: 0,
            bytes_resumed: 0,
            chunks_served_early: 0,
            faults: Vec::new(),
            announce_error: None,
            remembered: Remembered::default(),
            reuse: ReuseState::default(),
            checkpoint: Checkpoint { last_at: Instant::now(), chunks: 0, is_running: false },
            links: LinkCounts::default(),
            is_dirty: true,
        }
    }

    /// The download's files while it is not complete.
    pub(crate) fn staged(&self) -> Option<&StagedBuild> {
        match &self.source {
            Some(Source::Staged(staged)) => Some(staged),
            Some(Source::Stored(_)) | None => None,
        }
    }

    /// Whether the build's files are, or will be, in `store`.
    pub(crate) fn is_in(&self, store: &BuildStore) -> bool {
        match (&self.store, &self.source) {
            (Some(own), _) => own.directory() == store.directory(),
            (None, Some(Source::Stored(stored))) => stored.root().starts_with(store.directory()),
            (None, _) => false,
        }
    }

    pub(crate) fn watches(&self) -> Watches {
        let (progress, outcome) = (self.progress.subscribe(), self.outcome.subscribe());
        Watches { progress, outcome }
    }

    pub(crate) fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.is_dirty = true;
    }

    /// Takes over what the store has of the build; returns what the swarm starts from.
    pub(crate) fn adopt(&mut self, on_disk: OnDisk) -> Holdings {
        let (manifest, have) = match on_disk {
            OnDisk::Nothing => {
                self.set_phase(Phase::Locating);
                return Holdings::Name;
            }
            OnDisk::Part(staged) => {
                let (manifest, have) = (staged.manifest().clone(), staged.have());
                self.bytes_resumed = bytes_of(manifest.layout(), have.iter());
                self.bytes_done = self.bytes_resumed;
                self.checkpoint.chunks = have.count();
                self.source = Some(Source::Staged(staged));
                self.set_phase(Phase::Downloading);
                (manifest, have)
            }
            OnDisk::Whole(stored) => {
                let manifest = stored.manifest().clone();
                self.succeed(stored);
                let have = ChunkSet::full(manifest.layout().chunk_count());
                (manifest, have)
            }
        };
        Holdings::Chunks { layout: Arc::new(manifest.layout().clone()), have }
    }

    /// Counts a chunk that arrived, before the swarm learns of it.
    pub(crate) fn note_transfer(&mut self, event: &Event) {
        self.is_dirty = true;
        if let Event::ChunkHashed { chunk, verdict: Verdict::Matches, .. } = event
            && let (Some(swarm), Some(staged)) = (&self.swarm, self.staged())
            && chunk.get() < swarm.have().capacity()
            && !swarm.have().contains(*chunk)
        {
            self.bytes_done += u64::from(staged.manifest().layout().size_of(*chunk));
        }
    }

    /// Chunks turned out not to be on disk after all.
    pub(crate) fn note_lost(&mut self, chunks: &[ChunkIndex]) {
        if let Some(staged) = self.staged() {
            let lost = bytes_of(staged.manifest().layout(), chunks.iter().copied());
            self.bytes_done = self.bytes_done.saturating_sub(lost);
        }
        self.set_phase(Phase::Downloading);
    }

    /// The download ended well: the build is complete and goes on being served.
    pub(crate) fn succeed(&mut self, stored: StoredBuild) {
        self.bytes_done = stored.manifest().build_size();
        self.source = Some(Source::Stored(stored.clone()));
        self.set_phase(Phase::Serving);
        self.publish(&[]);
        self.outcome.send_replace(Some(Ok(stored)));
    }

    /// The download ended without the build, unless it had ended before.
    pub(crate) fn fail(&mut self, error: FetchError) {
        if self.outcome.borrow().is_none() {
            self.outcome.send_replace(Some(Err(error)));
        }
    }

    pub(crate) fn fail_store(&mut self, error: Arc<StoreError>) {
        self.fail(FetchError::Store(error));
    }

    pub(crate) fn note_fault(&mut self, node: NodeId, fault: PeerFault) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(BannedPeer { node, fault });
            self.is_dirty = true;
        }
    }

    /// Makes new chunks durable, if it is time and not being done.
    pub(crate) fn checkpoint(&mut self, hub: &HubSender) {
        let is_idle = !self.checkpoint.is_running && self.phase == Phase::Downloading;
        let is_due = self.checkpoint.last_at.elapsed() >= CHECKPOINT_TIME;
        let Some(staged) = self.staged().cloned().filter(|_| is_idle && is_due) else { return };
        let chunks = staged.have().count();
        if chunks == self.checkpoint.chunks {
            return;
        }
        self.checkpoint.is_running = true;
        self.checkpoint.last_at = Instant::now();
        let (build, hub) = (self.build, hub.clone());
        self.tasks.spawn(async move {
            if let Ok(outcome) = spawn_blocking(move || staged.checkpoint()).await {
                hub.send(Wake::Checkpointed { build, chunks, outcome }).await;
            }
        });
    }

    /// Writes the contacts of the swarm, if it is time and they changed. A failure is logged; all
    /// that is lost is the hint.
    pub(crate) fn save_contacts(&mut self) {
        let is_under_way = matches!(self.phase, Phase::Locating | Phase::Downloading);
        let is_due = is_under_way && self.remembered.is_due();
        let Some(swarm) = self.swarm.as_ref().filter(|_| is_due) else { return };
        let contacts = swarm.lasting_contacts();
        let Some(store) = self.store.clone() else { return };
        if !self.remembered.note(&contacts) {
            return;
        }
        let build = self.build;
        self.tasks.spawn(async move {
            if let Ok(Err(error)) = spawn_blocking(move || store.write_contacts(&contacts)).await {
                warn!(%build, %error, "cannot keep the contacts of neighbours");
            }
        });
    }

    /// Every chunk is here: reads the whole build back and moves it into place.
    pub(crate) fn read_back(&mut self, hub: &HubSender) {
        let Some(staged) = self.staged().cloned() else { return };
        self.set_phase(Phase::Verifying);
        // At once, because the time that the transfer took is measured by it.
        self.publish(&[]);
        let (build, hub) = (self.build, hub.clone());
        self.tasks.spawn(async move {
            if let Ok(outcome) = spawn_blocking(move || staged.complete()).await {
                hub.send(Wake::ReadBack { build, outcome }).await;
            }
        });
    }

    /// Starts sending the manifest to a peer that asked for it; `serve` is the swarm's name for
    /// that. Returns whether there is anything to send from.
    pub(crate) fn send_manifest(
        &self,
        uplink: &Arc<dyn Uplink>,
        (node, serve): (NodeId, u64),
        hub: &HubSender,
    ) -> bool {
        let Some(outgoing) = self.outgoing(None) else { return false };
        let (build, hub) = (self.build, hub.clone());
        let sending = uplink.send(outgoing);
        let send = async move {
            if let Err(error) = sending.await {
                warn!(%build, %error, "cannot read the manifest that another node asked for");
            }
            hub.send(Wake::ManifestServed { build, node, serve }).await;
        };
        self.tasks.spawn_on(send, uplink.runtime());
        true
    }

    /// Starts sending a chunk. Returns whether there is anything to send from.
    pub(crate) fn send_chunk(
        &mut self,
        uplink: &Arc<dyn Uplink>,
        upload: Upload,
        hub: &HubSender,
    ) -> bool {
        let Upload { peer, request, chunk } = upload;
        let Some(outgoing) = self.outgoing(Some((chunk, request))) else { return false };
        let token = CancellationToken::new();
        self.serving.insert((peer, request), token.clone());
        let (build, hub) = (self.build, hub.clone());
        let sending = uplink.send(outgoing);
        let send = async move {
            let outcome = tokio::select! {
                () = token.cancelled() => Ok(false),
                outcome = sending => outcome,
            };
            hub.send(Wake::Served { build, node: peer, request, outcome }).await;
        };
        self.tasks.spawn_on(send, uplink.runtime());
        true
    }

    fn outgoing(&self, chunk: Option<(ChunkIndex, RequestId)>) -> Option<Outgoing> {
        Some(Outgoing {
            build: self.build,
            source: self.source.clone()?,
            chunk,
            limits: self.limits.clone(),
            counters: self.counters.clone(),
        })
    }

    /// Shows the state to those who watch. Cheap enough for a few times a second.
    pub(crate) fn publish(&mut self, seeders: &[SeederAddress]) {
        self.is_dirty = false;
        let progress = self.describe(seeders);
        self.progress.send_if_modified(|last| {
            let is_new = *last != progress;
            *last = progress;
            is_new
        });
    }

    fn describe(&self, seeders: &[SeederAddress]) -> Progress {
        let total = match &self.source {
            Some(Source::Staged(staged)) => Some(staged.manifest().build_size()),
            Some(Source::Stored(stored)) => Some(stored.manifest().build_size()),
            None => None,
        };
        let neighbours = self.swarm.as_ref().map_or(0, Swarm::neighbour_count);
        let counted = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            phase: self.phase,
            bytes_total: total,
            bytes_done: self.bytes_done,
            bytes_resumed: self.bytes_resumed,
            bytes_reused: self.reuse.bytes,
            bytes_from_seeders: counted(&self.counters.from_seeders),
            bytes_from_peers: counted(&self.counters.from_peers),
            bytes_served: counted(&self.counters.served),
            chunks_served_early: self.chunks_served_early,
            neighbours: u32::try_from(neighbours).unwrap_or(u32::MAX),
            links: self.links,
            faults: self.faults.clone(),
            waiting_for: self.waiting_for(seeders),
        }
    }

    fn waiting_for(&self, seeders: &[SeederAddress]) -> Option<WaitingFor> {
        let waiting = match self.phase {
            Phase::Locating | Phase::Downloading => self.swarm.as_ref()?.waiting()?,
            Phase::Resuming | Phase::Verifying | Phase::Serving => return None,
        };
        let asked = || seeders.to_vec();
        Some(match waiting {
            Waiting::Tracker if seeders.is_empty() => WaitingFor::SeederAddress,
            Waiting::Tracker => match self.announce_error.clone() {
                Some(reason) => WaitingFor::Seeder { asked: asked(), reason },
                None => WaitingFor::Answer { asked: asked() },
            },
            Waiting::Source => WaitingFor::Source { build: self.build, asked: asked() },
            Waiting::Neighbours => WaitingFor::Neighbours,
            Waiting::Room => WaitingFor::Room,
            Waiting::Manifest => WaitingFor::Manifest,
            Waiting::Chunks => WaitingFor::Chunks,
            _ => return None,
        })
    }
}

pub(super) fn bytes_of(layout: &ChunkLayout, chunks: impl Iterator<Item = ChunkIndex>) -> u64 {
    chunks.map(|chunk| u64::from(layout.size_of(chunk))).sum()
}
