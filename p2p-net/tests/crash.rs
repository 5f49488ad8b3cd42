//! The store of builds on a disk that fails: what a host finds after a crash at any operation.
//!
//! A small host drives the real [`BuildStore`] as an agent does: it fetches builds, lets a link
//! `current` point to one, removes the old ones. `disk` watches it. What each call promised when it
//! returned is written down beside the number of the operation, and is asked for after a crash.

mod matrix;
mod random;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_core::{
    BuildId, ChunkIndex, ChunkInfo, ChunkSet, Digest, Entry, EntryKind, Manifest, Prng, Seed,
};
use p2p_net::{BuildStore, StagedBuild, StoreError, StoredBuild};

/// What went wrong, of whatever kind.
pub(crate) type Fault = Box<dyn Error>;

/// A directory in memory where there is one: the tests are about order, not about a real disk.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A small build: chunks span files and files span chunks, and no edge lies on a block of the disk.
pub(crate) struct Sample {
    pub(crate) id: BuildId,
    manifest: Arc<Manifest>,
    bytes: Vec<u8>,
}

impl Sample {
    pub(crate) fn new(number: u64) -> Self {
        let file = |size, executable| EntryKind::File { size, executable };
        let entries = [
            ("bin", EntryKind::Directory),
            ("bin/run", file(1_700, true)),
            ("data", file(2_600 + number, false)),
            ("empty", file(0, false)),
            ("link", EntryKind::Symlink { target: "bin/run".into() }),
        ];
        let mut prng = Prng::from_seed(Seed::from_u64(number));
        let size = usize::try_from(4_300 + number).unwrap();
        let bytes: Vec<u8> = (0..size).map(|_| prng.next_u64().to_le_bytes()[0]).collect();
        let chunks = bytes.chunks(777).map(|chunk| ChunkInfo {
            digest: Digest::of(chunk),
            size: u32::try_from(chunk.len()).unwrap(),
        });
        let entries = entries.map(|(path, kind)| Entry { path: path.to_owned(), kind }).into_iter();
        let manifest = Manifest::new(entries.collect(), chunks.collect()).unwrap();
        let id = BuildId::of_manifest(&manifest.encode().unwrap());
        Self { id, manifest: Arc::new(manifest), bytes }
    }

    /// The samples of these tests, by index.
    pub(crate) fn all() -> [Self; 3] {
        [0, 1, 2].map(Self::new)
    }

    fn chunk(&self, chunk: ChunkIndex) -> &[u8] {
        let layout = self.manifest.layout();
        let start = usize::try_from(layout.offset_of(chunk)).unwrap();
        &self.bytes[start..start + layout.size_of(chunk) as usize]
    }

    /// Whether all of the build is at `root`, and nothing else.
    fn is_at(&self, root: &Path) -> bool {
        let mut start = 0;
        let mut is_right = |entry: &Entry| {
            let path = root.join(&entry.path);
            let metadata = fs::symlink_metadata(&path).ok()?;
            Some(match &entry.kind {
                EntryKind::Directory => metadata.is_dir(),
                EntryKind::Symlink { target } => fs::read_link(&path).ok()? == Path::new(target),
                EntryKind::File { size, executable } => {
                    let end = start + usize::try_from(*size).unwrap();
                    let expected = &self.bytes[start..end];
                    start = end;
                    let mode = if *executable { 0o755 } else { 0o644 };
                    fs::read(&path).ok()? == expected
                        && metadata.permissions().mode() & 0o7777 == mode
                }
            })
        };
        let are_right = self.manifest.entries().iter().all(|entry| is_right(entry) == Some(true));
        let count = fs::read_dir(root).into_iter().flatten().count()
            + fs::read_dir(root.join("bin")).into_iter().flatten().count();
        are_right && count == self.manifest.entries().len()
    }
}

/// What a call that returned stands for; samples by their index.
#[derive(Clone, Debug)]
pub(crate) enum Promise {
    /// These chunks of a staging need not be fetched again.
    Checkpoint(usize, ChunkSet),
    /// From now on the build may be complete.
    CompletionBegins(usize),
    /// The build is here whole.
    Complete(usize),
    /// From now on the build may be gone, with its staging.
    RemovalBegins(usize),
    /// The build is gone.
    Removed(usize),
    /// From now on `current` may lead to the build.
    SwitchBegins(usize),
    /// `current` leads to the build.
    Switched(usize),
}

/// All promises, with the number of operations at which each was made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promises {
    made: Vec<(usize, Promise)>,
}

/// What must hold after a crash.
#[derive(Clone, Debug, Default)]
struct Expected {
    complete: BTreeSet<usize>,
    /// What must not be complete.
    removed: BTreeSet<usize>,
    checkpoints: Vec<Option<ChunkSet>>,
    /// Where `current` may lead; empty: it need not be there.
    current: BTreeSet<usize>,
}

impl Promises {
    /// What holds if the first `count` operations took place, and perhaps no more.
    fn after(&self, count: usize) -> Expected {
        let mut expected = Expected { checkpoints: vec![None; 3], ..Expected::default() };
        let mut begun = BTreeSet::new();
        for (at, promise) in self.made.iter().filter(|(at, _)| *at <= count) {
            match promise {
                Promise::Checkpoint(sample, chunks) => {
                    expected.checkpoints[*sample] = Some(chunks.clone());
                }
                Promise::Complete(sample) => {
                    expected.complete.insert(*sample);
                    expected.removed.remove(sample);
                    expected.checkpoints[*sample] = None;
                }
                // No operation of it took place yet.
                Promise::CompletionBegins(_)
                | Promise::RemovalBegins(_)
                | Promise::SwitchBegins(_)
                    if *at == count => {}
                Promise::CompletionBegins(sample) => {
                    expected.removed.remove(sample);
                }
                Promise::RemovalBegins(sample) => {
                    expected.complete.remove(sample);
                    expected.checkpoints[*sample] = None;
                }
                Promise::Removed(sample) => {
                    expected.removed.insert(*sample);
                }
                Promise::SwitchBegins(sample) => {
                    begun.insert(*sample);
                    if !expected.current.is_empty() {
                        expected.current.insert(*sample);
                    }
                }
                Promise::Switched(sample) => expected.current = [*sample].into(),
            }
        }
        expected
    }
}

/// A host that fetches builds into a store; its directory may end up on another disk.
pub(crate) struct Host<'a> {
    root: PathBuf,
    samples: &'a [Sample],
    store: BuildStore,
    /// Whether `current` may be other than it seems after a power loss: an earlier process may have
    /// ended before it synced it.
    is_in_doubt: bool,
    /// How many operations were done so far, if somebody counts.
    count: &'a dyn Fn() -> usize,
    pub(crate) promises: Promises,
}

impl<'a> Host<'a> {
    pub(crate) fn open(
        root: &Path,
        samples: &'a [Sample],
        count: &'a dyn Fn() -> usize,
    ) -> Result<Self, StoreError> {
        let root = root.join("state/apps/web");
        let store = BuildStore::open(&root)?;
        Ok(Self { root, samples, store, is_in_doubt: true, count, promises: Promises::default() })
    }

    fn promise(&mut self, promise: Promise) {
        self.promises.made.push(((self.count)(), promise));
    }

    fn checkpoint(&mut self, sample: usize, staged: &StagedBuild) -> Result<(), StoreError> {
        staged.checkpoint()?;
        self.promise(Promise::Checkpoint(sample, staged.have()));
        Ok(())
    }

    /// Fetches `chunks_max` chunks of what is missing. Returns whether all are there then.
    pub(crate) fn fetch_some(
        &mut self,
        sample: usize,
        chunks_max: usize,
    ) -> Result<bool, StoreError> {
        let Sample { id, manifest, .. } = &self.samples[sample];
        if self.store.build(*id)?.is_some() {
            return Ok(true);
        }
        let staged = self.store.stage(*id, Arc::clone(manifest))?;
        for (number, chunk) in missing(&staged).into_iter().take(chunks_max).enumerate() {
            staged.write_chunk(chunk, self.samples[sample].chunk(chunk))?;
            if number % 2 == 1 {
                self.checkpoint(sample, &staged)?;
            }
        }
        let is_full = staged.have().is_full();
        self.checkpoint(sample, &staged)?;
        Ok(is_full)
    }

    /// Fetches all of a build that is not here and makes it complete.
    pub(crate) fn fetch(&mut self, sample: usize) -> Result<StoredBuild, StoreError> {
        let Sample { id, manifest, .. } = &self.samples[sample];
        if let Some(build) = self.store.build(*id)? {
            return Ok(build);
        }
        self.fetch_some(sample, usize::MAX)?;
        self.promise(Promise::CompletionBegins(sample));
        let staged = self.store.stage(*id, Arc::clone(manifest))?;
        // As often as anything could be wrong.
        for _ in 0..10 {
            for chunk in missing(&staged) {
                staged.write_chunk(chunk, self.samples[sample].chunk(chunk))?;
            }
            match staged.complete() {
                Ok(Ok(build)) => {
                    self.promise(Promise::Complete(sample));
                    return Ok(build);
                }
                Ok(Err(_)) | Err(StoreError::SyncFailed { .. } | StoreError::Incomplete { .. }) => {
                }
                Err(error) => return Err(error),
            }
        }
        panic!("a build is never complete");
    }

    /// Lets `current` lead to a build that is here; then the journal says so.
    fn switch(&mut self, sample: usize) -> Result<(), Fault> {
        self.promise(Promise::SwitchBegins(sample));
        let current = self.root.join("current");
        let name = self.samples[sample].id.to_string();
        let target = Path::new("builds").join(&name);
        self.is_in_doubt = true;
        disk::replace_symlink(&current, &disk::scratch_beside(&current, ".new"), &target)?;
        self.is_in_doubt = false;
        self.promise(Promise::Switched(sample));
        Ok(())
    }

    pub(crate) fn remove(&mut self, sample: usize) -> Result<(), StoreError> {
        self.promise(Promise::RemovalBegins(sample));
        self.store.remove(self.samples[sample].id)?;
        self.promise(Promise::Removed(sample));
        Ok(())
    }

    /// What an agent does until its host is at the goal: the build is here, `current` leads to it,
    /// and nothing else is kept.
    pub(crate) fn reach(&mut self, goal: usize) -> Result<(), Fault> {
        self.fetch(goal)?;
        if self.current() != Some(goal) || self.is_in_doubt {
            self.switch(goal)?;
        }
        let wanted = self.samples[goal].id;
        for id in self.store.list()?.into_iter().chain(self.store.list_staged()?) {
            if id != wanted {
                self.remove(self.index_of(id))?;
            }
        }
        Ok(())
    }

    /// Fetches a build and lets `current` lead to it, and keeps what else there is.
    pub(crate) fn reach_beside(&mut self, goal: usize) -> Result<(), Fault> {
        self.fetch(goal)?;
        self.switch(goal)
    }

    fn index_of(&self, id: BuildId) -> usize {
        self.samples.iter().position(|sample| sample.id == id).expect("there are no others")
    }

    /// The build that `current` names.
    fn current(&self) -> Option<usize> {
        let target = fs::read_link(self.root.join("current")).ok()?;
        let name = target.file_name()?.to_str()?.parse().ok()?;
        Some(self.index_of(name))
    }

    /// Asserts what a host must find after a crash.
    fn check(&self, expected: &Expected, context: &str) {
        let listed: BTreeSet<usize> =
            self.store.list().unwrap().into_iter().map(|id| self.index_of(id)).collect();
        for &index in &listed {
            let sample = &self.samples[index];
            let build = self.store.build(sample.id).unwrap().expect("it is listed");
            assert!(sample.is_at(build.root()), "{context}: build {index} is wrong");
        }
        for index in &expected.complete {
            assert!(listed.contains(index), "{context}: build {index} is lost");
        }
        for index in &expected.removed {
            assert!(!listed.contains(index), "{context}: build {index} is back");
        }
        if let Some(current) = self.current() {
            assert!(listed.contains(&current), "{context}: current leads to nothing");
        }
        if !expected.current.is_empty() {
            let current = self.current();
            let is_expected = current.is_some_and(|current| expected.current.contains(&current));
            assert!(is_expected, "{context}: current is {current:?}, not {:?}", expected.current);
        }
        for (index, chunks) in expected.checkpoints.iter().enumerate() {
            let Some(chunks) = chunks.as_ref().filter(|_| !listed.contains(&index)) else {
                continue;
            };
            let staged = self.store.staged(self.samples[index].id).unwrap();
            let have = staged.map(|staged| staged.have());
            let is_kept = |have: &ChunkSet| chunks.iter().all(|chunk| have.contains(chunk));
            assert!(have.as_ref().is_some_and(is_kept), "{context}: chunks of {index} are lost");
        }
    }

    /// Asserts that the goal is here and nothing else.
    fn check_settled(&self, goal: usize, context: &str) {
        let id = self.samples[goal].id;
        let tree = disk::Tree::read(&self.root).unwrap();
        let found: Vec<&Path> =
            tree.nodes.keys().filter(|path| path.iter().count() <= 2).map(|p| &**p).collect();
        let expected = [
            PathBuf::from("builds"),
            Path::new("builds").join(id.to_string()),
            Path::new("builds").join(format!("{id}.manifest")),
            PathBuf::from("current"),
            PathBuf::from("staging"),
        ];
        assert_eq!(found, expected, "{context}: something is left over or missing");
        let expected = Expected { complete: [goal].into(), ..Expected::default() };
        self.check(&expected, context);
        assert_eq!(self.current(), Some(goal), "{context}");
    }
}

fn missing(staged: &StagedBuild) -> Vec<ChunkIndex> {
    let have = staged.have();
    staged.manifest().layout().indices().filter(|chunk| !have.contains(*chunk)).collect()
}
