//! A build that is wanted in a second store of the same node: taken from the first by copying.
//!
//! A node takes part in a build's swarm once, whatever the number of stores. Whoever asks for the
//! build in another store waits for the first copy and gets one of its own, hashed chunk by chunk.

use std::sync::Arc;

use p2p_core::{BuildId, Digest};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::error::FetchError;
use crate::progress::{Phase, Progress};
use crate::store::{BuildStore, Reuse, StoreError, StoredBuild};

use super::wake::{DownloadOutcome, Watches};

/// Starts such a download behind the one that `first` follows.
pub(super) fn start(build: BuildId, store: BuildStore, first: Watches) -> Watches {
    let progress = watch::Sender::new(first.progress.borrow().clone());
    let outcome = watch::Sender::new(None);
    let watches = Watches { progress: progress.subscribe(), outcome: outcome.subscribe() };
    tokio::spawn(async move {
        let result = tokio::select! {
            result = follow(build, store, first, &progress) => result,
            // Nobody waits any more.
            () = outcome.closed() => return,
        };
        if let Ok(stored) = &result {
            let size = stored.manifest().build_size();
            let (bytes_total, bytes_done) = (Some(size), size);
            let phase = Phase::Serving;
            progress.send_replace(Progress {
                phase,
                bytes_total,
                bytes_done,
                ..Progress::default()
            });
        }
        outcome.send_replace(Some(result));
    });
    watches
}

async fn follow(
    build: BuildId,
    store: BuildStore,
    mut first: Watches,
    progress: &watch::Sender<Progress>,
) -> Result<StoredBuild, FetchError> {
    let known = store.clone();
    if let Some(stored) = blocking(move || known.build(build)).await? {
        return Ok(stored);
    }
    let original = loop {
        let outcome: DownloadOutcome = first.outcome.borrow_and_update().clone();
        if let Some(outcome) = outcome {
            break outcome?;
        }
        tokio::select! {
            changed = first.progress.changed() => {
                if changed.is_ok() {
                    progress.send_replace(first.progress.borrow_and_update().clone());
                }
            }
            changed = first.outcome.changed() => {
                if changed.is_err() {
                    return Err(FetchError::Cancelled);
                }
            }
        }
    };
    progress.send_modify(|progress| progress.phase = Phase::Verifying);
    let path = original.root().to_path_buf();
    let copied = blocking(move || copy(&original, &store)).await?;
    copied.ok_or(FetchError::DamagedCopy { build, path })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, FetchError> {
    match spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(FetchError::Store(Arc::new(error))),
        // The runtime is being shut down.
        Err(_) => Err(FetchError::Cancelled),
    }
}

/// Copies a build into `store`; `None` if the original is damaged.
fn copy(original: &StoredBuild, store: &BuildStore) -> Result<Option<StoredBuild>, StoreError> {
    let manifest = original.manifest().clone();
    let staged = store.stage(original.id(), manifest.clone())?;
    // Shares blocks where it can. What that leaves, a build outside of any store too, is below.
    let stores: Vec<BuildStore> = original.store().cloned().into_iter().collect();
    if let Some(reuse) = Reuse::find(&staged, &stores) {
        reuse.copy(&|_| true)?;
    }
    let have = staged.have();
    for chunk in manifest.layout().indices().filter(|chunk| !have.contains(*chunk)) {
        let bytes = original.read_chunk(chunk)?;
        if Digest::of(&bytes) != manifest.chunks()[chunk.as_usize()].digest {
            return Ok(None);
        }
        staged.write_chunk(chunk, &bytes)?;
    }
    Ok(staged.complete()?.ok())
}
