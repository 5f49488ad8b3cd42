//! What the tests stand on: builds, stores, and how they are looked at.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blob_store::{
    Access, BlobStore, Files, OpenOptions, Patience, PublishError, PublishOptions, Published,
    StoreError, open_build, publish,
};
use futures::StreamExt as _;
use p2p_net::{BuildId, ChunkIndex};
use tempfile::TempDir;

pub(crate) mod proxy;
pub(crate) mod s3;

/// Short enough for tests, long enough for a busy machine.
pub(crate) fn patience() -> Patience {
    let mut patience = Patience::default();
    patience.stall = Duration::from_secs(2);
    patience.give_up = Duration::from_secs(20);
    patience.pause_min = Duration::from_millis(5);
    patience.pause_max = Duration::from_millis(100);
    patience
}

pub(crate) fn options(access: Access) -> OpenOptions {
    OpenOptions { access, patience: patience(), ..OpenOptions::default() }
}

/// Bytes that nothing compresses, the same for the same seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

/// A folder with builds and publishers' states, and perhaps a store.
pub(crate) struct Rig {
    pub(crate) folder: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A build of one file.
    pub(crate) fn build(&self, name: &str, bytes: &[u8]) -> Files {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        files_of(&path)
    }

    /// A store in a folder.
    pub(crate) async fn folder_store(&self) -> BlobStore {
        let url = self.path("store");
        BlobStore::open(url.to_str().unwrap(), &options(Access::Write)).await.unwrap()
    }

    pub(crate) fn publish_options(&self, state: &str) -> PublishOptions {
        PublishOptions {
            app: "web".into(),
            earlier: vec![],
            state: self.path(state),
            now_ms: 1_700_000_000_000,
            watcher: None,
        }
    }

    pub(crate) async fn publish(
        &self,
        store: &BlobStore,
        files: &Files,
    ) -> Result<Published, PublishError> {
        publish(store, files, self.publish_options("state")).await
    }

    /// Makes everything in the folder store look older.
    pub(crate) fn age(&self, by: Duration) {
        age(&self.path("store"), by);
    }
}

pub(crate) fn files_of(path: &Path) -> Files {
    let manifest = p2p_net::manifest_of(path, None).unwrap();
    Files::new(Arc::new(manifest), path).unwrap()
}

fn age(folder: &Path, by: Duration) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path, by);
            continue;
        }
        let file = std::fs::File::open(&path).unwrap();
        let modified: SystemTime = file.metadata().unwrap().modified().unwrap();
        file.set_modified(modified - by).unwrap();
    }
}

/// How a build stands in a store.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    Invisible,
    Complete,
}

/// Reads all of a build. Fails the test if it is there and not whole.
pub(crate) async fn standing(store: &BlobStore, build: BuildId) -> Standing {
    let remote = match open_build(store, build).await {
        Ok(remote) => remote,
        Err(StoreError::NotFound { .. }) => return Standing::Invisible,
        Err(error) => panic!("build {build} is visible and cannot be read: {error:?}"),
    };
    let chunks: Vec<ChunkIndex> = remote.manifest().layout().indices().collect();
    let found: Vec<_> = remote.read(&chunks).collect().await;
    assert_eq!(found.len(), chunks.len());
    for read in found {
        let bytes =
            read.outcome.unwrap_or_else(|error| panic!("chunk {:?}: {error:?}", read.chunk));
        let expected = remote.manifest().chunks()[read.chunk.as_usize()];
        assert_eq!(p2p_net::Digest::from_bytes(*blake3::hash(&bytes).as_bytes()), expected.digest);
    }
    Standing::Complete
}

/// Names below a part of a folder store.
pub(crate) fn names(rig: &Rig, part: &str) -> Vec<String> {
    let Ok(listed) = std::fs::read_dir(rig.path("store").join(part)) else { return vec![] };
    let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// The error and all its causes, as a person would read them.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
