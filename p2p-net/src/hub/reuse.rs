//! Chunks of a download that other builds on this host have: found when the manifest is here,
//! copied beside the network, reported to the swarm as they are verified.
//!
//! The manifest is kept from the swarm until it is known what can be copied, so that nobody is
//! asked for those chunks. What cannot be copied is given back to the swarm to fetch.

use std::path::PathBuf;
use std::sync::Arc;

use p2p_core::{BuildId, ChunkIndex, ChunkLayout, Event, LocalCopy, ManifestOutcome};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::data::sending::Source;
use crate::progress::Phase;
use crate::store::{BuildStore, Copied, Reuse, StagedBuild, StoreError};

use super::Hub;
use super::member::{Member, bytes_of};
use super::wake::{OnDisk, Prepared, ReuseNews, Wake};

/// How far the reuse of chunks on this host is, for one download.
#[derive(Debug, Default)]
pub(crate) struct ReuseState {
    /// Ends the copying.
    pub(crate) cancel: CancellationToken,
    /// Bytes copied.
    pub(crate) bytes: u64,
    /// Whether builds are being looked through.
    is_looking: bool,
    /// The arrival of the manifest, kept back meanwhile.
    manifest: Option<Event>,
}

#[expect(clippy::multiple_inherent_impl, reason = "the hub is cut by concern")]
impl Hub {
    /// A store whose builds may have chunks of others.
    pub(super) fn know_store(&mut self, store: &BuildStore) {
        self.stores.insert(store.directory().to_owned(), store.clone());
    }

    pub(super) fn known_stores(&self) -> Vec<BuildStore> {
        self.stores.values().cloned().collect::<Vec<_>>()
    }

    /// The store was looked at: the download enters its swarm with what is there.
    pub(super) fn on_prepared(&mut self, build: BuildId, outcome: Result<Prepared, StoreError>) {
        let Some(member) = self.members.get_mut(&build) else { return };
        match outcome {
            Ok(Prepared { on_disk, contacts, reuse }) => {
                member.remembered.contacts = contacts;
                let holdings = member.adopt(on_disk);
                self.enter_swarm(build, holdings);
                if let Some(reuse) = reuse {
                    self.begin_reuse(build, reuse);
                }
            }
            Err(error) => self.fail(build, Arc::new(error)),
        }
    }

    /// Room was made for a download: looks for what is on this host already.
    pub(super) fn on_staged(&mut self, build: BuildId, staged: StagedBuild) {
        let stores = self.known_stores();
        // A second manifest that was on its way must not bring a second view of the same files.
        let Some(member) = self.members.get_mut(&build).filter(|m| m.source.is_none()) else {
            return;
        };
        member.source = Some(Source::Staged(staged.clone()));
        member.set_phase(Phase::Downloading);
        member.reuse.is_looking = true;
        let sender = self.sender.clone();
        member.tasks.spawn(async move {
            let into = staged.clone();
            if let Ok(found) = spawn_blocking(move || Reuse::find(&into, &stores)).await {
                sender.send(Wake::Reuse { staged, news: ReuseNews::Found(found) }).await;
            }
        });
    }

    pub(super) fn on_reuse(&mut self, staged: &StagedBuild, news: ReuseNews) {
        let build = staged.id();
        let Some(member) = self.members.get_mut(&build) else { return };
        if !member.staged().is_some_and(|own| own.is_same(staged)) {
            // An earlier attempt that was left, or the build is complete.
            return;
        }
        match news {
            ReuseNews::Found(found) => {
                member.reuse.is_looking = false;
                let manifest = member.reuse.manifest.take();
                if let Some(reuse) = found {
                    self.begin_reuse(build, reuse);
                }
                self.pending.extend(manifest.map(|event| (build, event)));
            }
            ReuseNews::Copied(Copied { stored, failed }) => {
                member.note_copied(&stored);
                let news = [
                    (!stored.is_empty()).then_some(LocalCopy::Stored { chunks: stored }),
                    (!failed.is_empty()).then_some(LocalCopy::Failed { chunks: failed }),
                ];
                let news = news.into_iter().flatten();
                self.pending.extend(news.map(|copy| (build, Event::LocalCopy(copy))));
            }
            ReuseNews::Ended(Ok(())) => {
                let bytes = member.reuse.bytes;
                info!(%build, bytes, "took chunks from other builds on this host");
            }
            ReuseNews::Ended(Err(error)) => self.fail(build, Arc::new(error)),
        }
    }

    /// Starts to copy, beside the network.
    pub(super) fn begin_reuse(&mut self, build: BuildId, reuse: Reuse) {
        let Some(member) = self.members.get_mut(&build) else { return };
        let chunks = reuse.chunks().clone();
        debug!(%build, chunks = chunks.count(), "chunks are on this host already");
        let layout: Arc<ChunkLayout> = Arc::new(reuse.staged().manifest().layout().clone());
        let begun = LocalCopy::Begun { layout, chunks };
        self.pending.push_back((build, Event::LocalCopy(begun)));
        let (sender, cancel) = (self.sender.clone(), member.reuse.cancel.clone());
        member.tasks.spawn(async move {
            let (wakes, staged) = (sender.clone(), reuse.staged().clone());
            let copy = move || {
                reuse.copy(&|copied| {
                    let news = ReuseNews::Copied(copied);
                    let staged = reuse.staged().clone();
                    wakes.send_blocking(Wake::Reuse { staged, news }) && !cancel.is_cancelled()
                })
            };
            if let Ok(outcome) = spawn_blocking(copy).await {
                sender.send(Wake::Reuse { staged, news: ReuseNews::Ended(outcome) }).await;
            }
        });
    }
}

#[expect(clippy::multiple_inherent_impl, reason = "the member is cut by concern")]
impl Member {
    /// Keeps the manifest from the swarm while builds are looked through. Returns any other event,
    /// and the manifest too if nothing is being looked through.
    pub(super) fn keep_back(&mut self, event: Event) -> Option<Event> {
        let is_manifest =
            matches!(event, Event::ManifestArrived { outcome: ManifestOutcome::Valid(_), .. });
        if is_manifest && self.reuse.is_looking && self.reuse.manifest.is_none() {
            self.reuse.manifest = Some(event);
            return None;
        }
        Some(event)
    }

    /// Counts chunks that were copied, before the swarm learns of them.
    fn note_copied(&mut self, chunks: &[ChunkIndex]) {
        let (Some(swarm), Some(staged)) = (&self.swarm, self.staged()) else { return };
        let has = |chunk: &ChunkIndex| {
            chunk.get() < swarm.have().capacity() && swarm.have().contains(*chunk)
        };
        let new = chunks.iter().copied().filter(|chunk| !has(chunk));
        let bytes = bytes_of(staged.manifest().layout(), new);
        self.bytes_done += bytes;
        self.reuse.bytes += bytes;
        self.is_dirty = true;
    }
}

/// What the store has of a build, and what others have of it.
///
/// # Errors
///
/// Those of the build's own store.
pub(super) fn look_at_disk(
    build: BuildId,
    store: &BuildStore,
    stores: &[BuildStore],
) -> Result<Prepared, StoreError> {
    if let Some(stored) = store.build(build)? {
        let (on_disk, contacts) = (OnDisk::Whole(stored), Vec::new());
        return Ok(Prepared { on_disk, contacts, reuse: None });
    }
    let staged = store.staged(build)?;
    let reuse = staged.as_ref().and_then(|staged| Reuse::find(staged, stores));
    let on_disk = staged.map_or(OnDisk::Nothing, OnDisk::Part);
    Ok(Prepared { on_disk, contacts: store.contacts(), reuse })
}

/// The stores of a node, by directory.
pub(super) type Stores = std::collections::BTreeMap<PathBuf, BuildStore>;
