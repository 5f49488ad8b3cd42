//! The directory that a build is fetched into, with its hidden `.shoal`.
//!
//! Owns what `.shoal` holds: the store with the staged build, the node's key, and a lock against a
//! second fetch. Invariant: nothing of the person's own is overwritten or removed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use p2p_core::{BuildId, ChunkIndex, Digest, Manifest};
use p2p_net::{BuildStore, StoredBuild};

/// The directory for what is not complete yet.
const HIDDEN: &str = ".shoal";

/// An opened directory. Cheap to clone; the lock is held until the last clone is gone.
#[derive(Clone, Debug)]
pub(super) struct Place {
    directory: PathBuf,
    store: BuildStore,
    /// Whether the directory did not exist before.
    is_new: bool,
    _lock: Arc<File>,
}

/// Whether `directory` holds exactly the files of `build` and nothing of an interrupted run.
pub(super) fn holds(directory: &Path, build: BuildId) -> bool {
    let is_empty = fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none());
    if is_empty || directory.join(HIDDEN).exists() {
        return false;
    }
    // What cannot be verified are other files, which do no harm as long as the names differ.
    let verified = p2p_net::verify(directory, None, None);
    verified.is_ok_and(|verified| verified.actual == build)
}

impl Place {
    /// Opens the directory, and takes the lock against a second fetch into it.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made or written, or another fetch uses it.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        let named = || format!("cannot use {} for --out", directory.display());
        let is_new = !directory.exists();
        let hidden = directory.join(HIDDEN);
        fs::create_dir_all(&hidden).with_context(named)?;
        let path = hidden.join("lock");
        let lock = File::options().create(true).append(true).open(path).with_context(named)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "another shoal fetch is using {}; wait for it, stop it, or choose another --out",
                directory.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).with_context(named),
        }
        let store = BuildStore::open(&hidden).with_context(named)?;
        Ok(Self { directory: directory.into(), store, is_new, _lock: Arc::new(lock) })
    }

    /// Where the build's files go.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where they are until they are complete.
    pub(super) fn hidden(&self) -> PathBuf {
        self.directory.join(HIDDEN)
    }

    /// The node's key file.
    pub(super) fn key(&self) -> PathBuf {
        self.hidden().join("node.key")
    }

    /// The store in which the build is staged.
    pub(super) const fn store(&self) -> &BuildStore {
        &self.store
    }

    /// If an earlier run moved the build out and was killed while it served it, checks that the
    /// files are still the build. Blocks for as long as it takes to read them.
    ///
    /// # Errors
    ///
    /// If they are not.
    pub(super) fn check_moved_out(&self, build: BuildId) -> anyhow::Result<()> {
        let Some(stored) = self.store.build(build).context("cannot read the earlier download")?
        else {
            return Ok(());
        };
        let real = |path: &Path| fs::canonicalize(path).ok();
        let is_moved_out = real(stored.root()) == real(&self.directory);
        anyhow::ensure!(
            !is_moved_out || is_intact(&stored),
            "files of build {} in {} were changed since they were fetched; remove them and {}, then fetch again",
            build.short(),
            self.directory.display(),
            self.hidden().display()
        );
        Ok(())
    }

    /// Checks that no file of the person's own lies where the build's files go.
    ///
    /// # Returns
    ///
    /// Whether the names are known; `false` means ask again later.
    ///
    /// # Errors
    ///
    /// If a name is taken.
    pub(super) fn check_names(&self, build: BuildId) -> anyhow::Result<bool> {
        if self.store.build(build).context("cannot read the store")?.is_some() {
            // The build is complete, so its files may already be on their way out; the move makes
            // its own check.
            return Ok(true);
        }
        let Some(staged) = self.store.staged(build).context("cannot read what is staged")? else {
            return Ok(false);
        };
        match taken_name(&self.directory, staged.manifest()) {
            Some(name) => anyhow::bail!(
                "{} exists already; move it away or choose another --out",
                self.directory.join(name).display()
            ),
            None => Ok(true),
        }
    }

    /// Removes what was only needed for the download.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        let hidden = self.hidden();
        let removed = fs::remove_dir_all(&hidden);
        removed
            .with_context(|| format!("the build is in place; cannot remove {}", hidden.display()))
    }

    /// Removes `.shoal` unless it holds something that the next run can use, and the directory if
    /// this run made it. A failure is not reported: it would hide the error that led here.
    pub(super) fn remove_if_useless(self) {
        let is_empty = |builds: Result<Vec<BuildId>, _>| builds.is_ok_and(|list| list.is_empty());
        if !is_empty(self.store.list()) || !is_empty(self.store.list_staged()) {
            return;
        }
        let removed = fs::remove_dir_all(self.hidden()).and_then(|()| {
            // Fails if it is not empty, which is as it should be.
            if self.is_new { fs::remove_dir(&self.directory) } else { Ok(()) }
        });
        if let Err(error) = removed {
            tracing::debug!(%error, "cannot tidy up");
        }
    }
}

/// The first top-level name of the build that exists in `directory`.
fn taken_name<'a>(directory: &Path, manifest: &'a Manifest) -> Option<&'a str> {
    let names = manifest.entries().iter().map(|entry| entry.path.as_str());
    let exists = |name: &&str| match fs::symlink_metadata(directory.join(name)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    names.filter(|path| !path.contains('/')).find(exists)
}

fn is_intact(stored: &StoredBuild) -> bool {
    let manifest = stored.manifest();
    let indices = (0..).map_while(|raw| manifest.layout().index(raw));
    let is_right = |(index, digest): (ChunkIndex, &Digest)| {
        stored.read_chunk(index).is_ok_and(|bytes| Digest::of(&bytes) == *digest)
    };
    indices.zip(manifest.chunks().iter().map(|chunk| &chunk.digest)).all(is_right)
}

#[cfg(test)]
mod tests {
    use p2p_core::{ChunkInfo, Entry, EntryKind};

    use super::*;

    fn manifest_of(names: &[&str]) -> Manifest {
        let file = EntryKind::File { size: 1, executable: false };
        let entries = names.iter().map(|name| Entry { path: (*name).into(), kind: file.clone() });
        let chunks = names.iter().map(|_| ChunkInfo { digest: Digest::of(b"x"), size: 1 });
        Manifest::new(entries.collect(), chunks.collect()).unwrap()
    }

    #[test]
    fn taken_names_are_found_and_others_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "x").unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("dangling")).unwrap();
        assert_eq!(taken_name(folder.path(), &manifest_of(&["a", "b"])), None);
        assert_eq!(taken_name(folder.path(), &manifest_of(&["a", "mine"])), Some("mine"));
        assert_eq!(taken_name(folder.path(), &manifest_of(&["dangling"])), Some("dangling"));
    }

    #[test]
    fn empty_missing_or_interrupted_directories_are_not_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let build = BuildId::of_manifest(b"x");
        assert!(!holds(&folder.path().join("missing"), build));
        assert!(!holds(folder.path(), build));
        fs::create_dir(folder.path().join(HIDDEN)).unwrap();
        assert!(!holds(folder.path(), build));
    }
}
