//! The hub's part in the life of a build: it enters its swarm, is made durable, is read back, and
//! is left.
//!
//! Invariant: a build that was left is out of every table before anybody waits for its tasks. What
//! the disk found wrong goes back to the swarm as lost chunks; any other failure of the disk ends
//! the download.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use p2p_core::{
    BuildId, ChunkIndex, Event, Holdings, PeerRole, Seed, Swarm, SwarmConfig, SwarmParams,
};
use tokio::task::spawn_blocking;
use tracing::{debug, warn};

use crate::data::limiter::{SharedLimits, TransferLimits};
use crate::error::FetchError;
use crate::progress::Phase;
use crate::store::{BuildStore, StoreError, StoredBuild};

use super::member::Member;
use super::reuse::look_at_disk;
use super::wake::{OnDisk, Wake, Watches};
use super::{Hub, copy};

#[expect(clippy::multiple_inherent_impl, reason = "the hub is cut by concern")]
impl Hub {
    pub(super) fn on_checkpointed(
        &mut self,
        build: BuildId,
        chunks: u32,
        outcome: Result<(), StoreError>,
    ) {
        let Some(member) = self.members.get_mut(&build) else { return };
        member.checkpoint.is_running = false;
        match outcome {
            Ok(()) => member.checkpoint.chunks = chunks,
            Err(error) => self.on_store_error(build, error),
        }
    }

    /// A sync that failed costs the chunks that it was for; anything else ends the download.
    pub(super) fn on_store_error(&mut self, build: BuildId, error: StoreError) {
        match error {
            StoreError::SyncFailed { ref chunks, .. } => {
                warn!(%build, %error, "the disk did not keep chunks; they are fetched again");
                self.lose_chunks(build, chunks.clone());
            }
            error => self.fail(build, Arc::new(error)),
        }
    }

    pub(super) fn lose_chunks(&mut self, build: BuildId, chunks: Vec<ChunkIndex>) {
        let Some(member) = self.members.get_mut(&build) else { return };
        member.note_lost(&chunks);
        self.pending.push_back((build, Event::ChunksLost { chunks }));
    }

    pub(super) fn on_read_back(
        &mut self,
        build: BuildId,
        outcome: Result<Result<StoredBuild, Vec<ChunkIndex>>, StoreError>,
    ) {
        let Some(member) = self.members.get_mut(&build) else { return };
        match outcome {
            Ok(Ok(stored)) => {
                member.links = self.links.counts_of(build);
                debug!(%build, bytes = member.bytes_done, "build is complete and verified");
                member.succeed(stored);
            }
            Ok(Err(chunks)) => {
                warn!(%build, chunks = chunks.len(), "chunks read back wrong from the disk");
                self.lose_chunks(build, chunks);
            }
            Err(error) => self.on_store_error(build, error),
        }
    }

    pub(super) fn start_download(
        &mut self,
        build: BuildId,
        store: BuildStore,
        limits: SharedLimits,
    ) -> Watches {
        self.know_store(&store);
        let failed = |member: &Member| matches!(&*member.outcome.borrow(), Some(Err(_)));
        if self.members.get(&build).is_some_and(failed) {
            self.leave(build);
        }
        if let Some(member) = self.members.get(&build)
            && !member.is_in(&store)
        {
            return copy::start(build, store, member.watches());
        }
        let (sender, stores) = (self.sender.clone(), self.known_stores());
        let limits = TransferLimits::new(limits, self.limits.clone());
        let member = self.members.entry(build).or_insert_with(|| {
            let member = Member::new(build, Phase::Resuming, Some(store.clone()), limits);
            let prepare = move || look_at_disk(build, &store, &stores);
            member.tasks.spawn(async move {
                if let Ok(outcome) = spawn_blocking(prepare).await {
                    sender.send(Wake::Prepared { build, outcome }).await;
                }
            });
            self.board.add(build, member.progress.subscribe());
            member
        });
        member.watches()
    }

    pub(super) fn serve_stored(&mut self, stored: StoredBuild, limits: SharedLimits) {
        let build = stored.id();
        if let Some(store) = stored.store() {
            self.know_store(store);
        }
        if self.members.contains_key(&build) {
            return;
        }
        let limits = TransferLimits::new(limits, self.limits.clone());
        let mut member = Member::new(build, Phase::Serving, None, limits);
        let holdings = member.adopt(OnDisk::Whole(stored));
        self.board.add(build, member.progress.subscribe());
        self.members.insert(build, member);
        self.enter_swarm(build, holdings);
    }

    pub(super) fn enter_swarm(&mut self, build: BuildId, holdings: Holdings) {
        let is_seeder = self.contact.role == PeerRole::Seeder;
        // A seeder is its own first tracker.
        let own = is_seeder.then_some(self.contact.node);
        let trackers = own.into_iter().chain(self.seeders.iter().map(|seeder| seeder.node));
        let Some(member) = self.members.get_mut(&build) else { return };
        let params = SwarmParams {
            config: if is_seeder { SwarmConfig::seeder() } else { SwarmConfig::host() }.into(),
            build,
            contact: self.contact,
            trackers: trackers.collect(),
            remembered: std::mem::take(&mut member.remembered.contacts),
            seed: Seed::from_u64(self.entropy.hash_one(build)),
        };
        let swarm = Swarm::new(params, holdings, self.clock.now());
        // If an attempt ended after its last chunk, only reading back is left to do.
        if swarm.is_complete() {
            member.read_back(&self.sender);
        }
        member.swarm = Some(swarm);
        self.pending.push_back((build, Event::Started));
    }

    pub(super) fn leave(&mut self, build: BuildId) -> Option<Member> {
        self.pending.push_back((build, Event::Leaving));
        self.feed_swarms();
        let mut member = self.members.remove(&build)?;
        self.alarms.set(build, None);
        member.reuse.cancel.cancel();
        for token in member.serving.values() {
            token.cancel();
        }
        member.publish(&self.seeders);
        member.fail(FetchError::Cancelled);
        self.board.forget(build);
        if let Some(staged) = member.staged().cloned() {
            // What is written is made durable, so that the next attempt resumes all of it.
            let save = member.tasks.track_future(self.saving.track_future(async move {
                if let Ok(Err(error)) = spawn_blocking(move || staged.checkpoint()).await {
                    warn!(%build, %error, "cannot save how far the download came");
                }
            }));
            tokio::spawn(save);
        }
        Some(member)
    }

    /// The disk failed a download: nothing more can be stored, so the build is left.
    pub(super) fn fail(&mut self, build: BuildId, error: Arc<StoreError>) {
        debug!(%build, %error, "the download failed");
        if let Some(member) = self.members.get_mut(&build) {
            member.fail_store(error);
            self.leave(build);
        }
    }
}
