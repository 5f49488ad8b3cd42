//! A source of builds without a network: downloads publish a local directory into the store, when
//! the test lets them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use node_agent::fleet::{BuildSource, RunningDownload};
use p2p_core::BuildId;
use p2p_net::{BuildStore, FetchError, Phase, Progress, StoredBuild, publish};
use tokio::sync::Semaphore;

/// Downloads wait for a permit; what happens is noted in order.
#[derive(Clone)]
pub(crate) struct LocalSource {
    shared: Arc<Shared>,
}

struct Shared {
    trees: Mutex<BTreeMap<BuildId, PathBuf>>,
    permits: Semaphore,
    failures_left: Mutex<u32>,
    events: Mutex<Vec<String>>,
}

impl LocalSource {
    pub(crate) fn new() -> Self {
        let shared = Shared {
            trees: Mutex::default(),
            permits: Semaphore::new(0),
            failures_left: Mutex::new(0),
            events: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn add(&self, build: BuildId, tree: PathBuf) {
        self.shared.trees.lock().unwrap().insert(build, tree);
    }

    /// Lets so many downloads end.
    pub(crate) fn permit(&self, downloads: usize) {
        self.shared.permits.add_permits(downloads);
    }

    /// Lets so many downloads fail as on a broken disk.
    pub(crate) fn fail(&self, downloads: u32) {
        *self.shared.failures_left.lock().unwrap() = downloads;
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.shared.events.lock().unwrap().clone()
    }

    fn note(&self, what: &str, build: BuildId) {
        self.shared.events.lock().unwrap().push(format!("{what} {}", build.short()));
    }
}

pub(crate) struct LocalDownload {
    source: LocalSource,
    build: BuildId,
    store: BuildStore,
    has_shown_progress: bool,
    has_ended: bool,
}

impl BuildSource for LocalSource {
    type Download = LocalDownload;

    fn fetch(&self, build: BuildId, store: &BuildStore) -> LocalDownload {
        self.note("fetch", build);
        LocalDownload {
            source: self.clone(),
            build,
            store: store.clone(),
            has_shown_progress: false,
            has_ended: false,
        }
    }

    fn serve(&self, build: &StoredBuild) {
        self.note("serve", build.id());
    }

    async fn leave(&self, build: BuildId) {
        self.note("leave", build);
    }

    fn progress(&self, _build: BuildId) -> Option<Progress> {
        None
    }
}

impl RunningDownload for LocalDownload {
    async fn next_progress(&mut self) -> Option<Progress> {
        if !self.has_shown_progress {
            self.has_shown_progress = true;
            let mut progress = Progress::default();
            progress.phase = Phase::Downloading;
            progress.bytes_done = 7;
            return Some(progress);
        }
        self.source.shared.permits.acquire().await.unwrap().forget();
        self.has_ended = true;
        None
    }

    async fn finish(self) -> Result<StoredBuild, FetchError> {
        {
            let mut failures_left = self.source.shared.failures_left.lock().unwrap();
            if let Some(left) = failures_left.checked_sub(1) {
                *failures_left = left;
                let error = BuildStore::open("/dev/null/no-directory").unwrap_err();
                return Err(FetchError::Store(Arc::new(error)));
            }
        }
        let tree = self.source.shared.trees.lock().unwrap()[&self.build].clone();
        Ok(publish(&tree, &self.store, None).unwrap().build)
    }
}

impl Drop for LocalDownload {
    fn drop(&mut self) {
        if !self.has_ended {
            self.source.note("cancel", self.build);
        }
    }
}
