//! A source of builds without a network: chunks come one by one, in the thread of the loop, through
//! the real store.

use std::sync::Arc;
use std::time::Duration;

use node_agent::fleet::{
    BuildSource, RunningDownload, TokenDesk, TokenHold, TokenState, TokenWish,
};
use p2p_core::{BuildId, ChunkIndex};
use p2p_net::{BuildStore, FetchError, Phase, Progress, StagedBuild, StoreError, StoredBuild};
use tokio::time::sleep;

use super::builds::Sample;
use super::machine::Machine;

/// Time for a chunk to come over the network.
const CHUNK_TIME: Duration = Duration::from_millis(100);

/// How often a build is completed once more before it is given up for a while.
const TRIES: u32 = 5;

#[derive(Clone)]
pub(crate) struct SimulatedSource(pub(crate) Machine);

pub(crate) struct SimulatedDownload {
    source: SimulatedSource,
    build: BuildId,
    store: BuildStore,
    staged: Option<StagedBuild>,
    ended: Option<Result<StoredBuild, StoreError>>,
    tries: u32,
}

impl BuildSource for SimulatedSource {
    type Download = SimulatedDownload;

    fn fetch(&self, build: BuildId, store: &BuildStore) -> SimulatedDownload {
        self.0.note(format!("fetch of build {}", self.0.index_of(build)));
        SimulatedDownload {
            source: self.clone(),
            build,
            store: store.clone(),
            staged: None,
            ended: None,
            tries: 0,
        }
    }

    fn serve(&self, _build: &StoredBuild) {}

    async fn leave(&self, _build: BuildId) {}

    fn progress(&self, _build: BuildId) -> Option<Progress> {
        None
    }
}

impl SimulatedDownload {
    fn sample(&self) -> &Sample {
        self.source.0.sample(self.build)
    }

    /// One chunk more, or the end.
    fn advance(&mut self) -> Result<(), StoreError> {
        let staged = match self.staged.take() {
            Some(staged) => staged,
            None => match self.store.build(self.build) {
                Ok(Some(build)) => {
                    self.ended = Some(Ok(build));
                    return Ok(());
                }
                _ => self.store.stage(self.build, Arc::clone(&self.sample().manifest))?,
            },
        };
        if let Some(chunk) = missing(&staged) {
            staged.write_chunk(chunk, self.sample().chunk(chunk))?;
            if chunk.as_usize() % 2 == 1 {
                staged.checkpoint()?;
            }
        } else {
            match staged.complete() {
                Ok(Ok(build)) => self.ended = Some(Ok(build)),
                Ok(Err(_wrong)) => {}
                Err(StoreError::SyncFailed { .. } | StoreError::Incomplete { .. })
                    if self.tries < TRIES =>
                {
                    self.tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
        self.staged = Some(staged);
        Ok(())
    }
}

impl RunningDownload for SimulatedDownload {
    async fn next_progress(&mut self) -> Option<Progress> {
        if self.ended.is_some() {
            return None;
        }
        sleep(CHUNK_TIME).await;
        if let Err(error) = self.advance() {
            self.staged = None;
            self.ended = Some(Err(error));
        }
        let mut progress = Progress::default();
        progress.phase = Phase::Downloading;
        progress.bytes_done = self.staged.as_ref().map_or(0, |staged| staged.have().count().into());
        Some(progress)
    }

    async fn finish(mut self) -> Result<StoredBuild, FetchError> {
        match self.ended.take().expect("it has ended") {
            Ok(build) => {
                self.source.0.forget_damage(self.build);
                Ok(build)
            }
            Err(error) => Err(FetchError::Store(Arc::new(error))),
        }
    }
}

fn missing(staged: &StagedBuild) -> Option<ChunkIndex> {
    let have = staged.have();
    staged.manifest().layout().indices().find(|chunk| !have.contains(*chunk))
}

/// Tokens for whoever asks, after a while.
#[derive(Clone)]
pub(crate) struct FreeTokens;

#[derive(Default)]
pub(crate) struct FreeToken {
    is_held: bool,
}

impl TokenDesk for FreeTokens {
    type Hold = FreeToken;

    fn ask(&self, _wish: TokenWish) -> FreeToken {
        FreeToken::default()
    }
}

impl TokenHold for FreeToken {
    fn state(&self) -> TokenState {
        if self.is_held { TokenState::Held } else { TokenState::Waiting { reason: "asked".into() } }
    }

    async fn changed(&mut self) {
        if self.is_held {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(300)).await;
        self.is_held = true;
    }

    fn note_failure(&self) {}
}
