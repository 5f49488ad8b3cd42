//! Builds on disk: complete ones in `builds/`, those in the making in `staging/`.
//!
//! ```text
//! <store>/builds/<id>            the tree of a complete build, or a link to where it was moved
//!         builds/<id>.manifest   its manifest; a tree without one is not a build
//!         staging/<id>/          manifest, bitmap, tree/: a download that can be resumed
//!         staging/contacts       whom the last downloads knew; soft state
//!         staging/<work>-*       work of a running process; swept once the process is gone
//! ```
//!
//! Invariant: what is under `builds/` with its manifest is complete and was verified, because both
//! get there by renames that come last. There is no lock: several processes may use one store,
//! except that one build is to be staged by one process at a time. All calls block: async callers
//! use `spawn_blocking`. Nothing here knows about networks or apps.

mod audit;
mod bitmap;
mod contacts;
mod drop_behind;
mod durable;
mod error;
mod names;
mod open_files;
mod place;
mod read_back;
mod reuse;
mod staged;
mod stored;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tree;
mod work_dir;

use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_core::{BuildId, Contact, Entry, MANIFEST_BYTES_MAX, Manifest, ManifestError};

use crate::disk_priority::DiskPriority;

pub use audit::BuildDamage;
pub use error::StoreError;
pub(crate) use error::SyncFault;
use names::Names;
use open_files::OpenFiles;
use place::remove_any;
pub(crate) use place::{reserve, seal};
pub(crate) use read_back::find_wrong;
pub(crate) use reuse::{Copied, Reuse};
pub use staged::StagedBuild;
pub use stored::StoredBuild;
pub(crate) use tree::{Access, FileMap, TreeFiles};
pub(crate) use work_dir::{Work, WorkDir};

/// A directory with `builds/`, `staging/` and the manifests of both. Cheap to clone.
///
/// All its methods block.
#[derive(Clone, Debug)]
pub struct BuildStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    builds: Names,
    staging: Names,
    open_files: Arc<OpenFiles>,
}

impl BuildStore {
    /// Opens or creates the store in `directory` and removes what dead processes left in it.
    ///
    /// # Errors
    ///
    /// The system's reason.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, StoreError> {
        let directory = directory.as_ref();
        // A later change of the working directory must not move the store.
        let directory =
            std::path::absolute(directory).map_err(StoreError::io("find", directory))?;
        let builds = directory.join("builds");
        let staging = directory.join("staging");
        for path in [&builds, &staging] {
            disk::create_dir_all_synced(path).map_err(StoreError::io("create", path))?;
        }
        let (builds, staging) = (Names::new(builds), Names::new(staging));
        let shared = Shared { directory, builds, staging, open_files: Arc::default() };
        let store = Self { shared: Arc::new(shared) };
        sweep::sweep(&store)?;
        Ok(store)
    }

    /// The store's directory, absolute.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// How this process treats the disk for the builds of this store, from now on.
    pub(crate) fn set_disk_priority(&self, priority: DiskPriority) {
        self.shared.open_files.set_disk_priority(priority);
    }

    /// The complete builds, in no particular order.
    ///
    /// # Errors
    ///
    /// The system's reason.
    pub fn list(&self) -> Result<Vec<BuildId>, StoreError> {
        let id_of = |entry: &DirEntry| {
            entry.file_name().to_str()?.strip_suffix(".manifest")?.parse::<BuildId>().ok()
        };
        self.shared.builds.settle()?;
        let mut builds = ids_in(self.builds(), id_of)?;
        builds.retain(|build| self.tree_of(*build).is_dir());
        Ok(builds)
    }

    /// Builds in the making, in no particular order.
    ///
    /// # Errors
    ///
    /// The system's reason.
    pub fn list_staged(&self) -> Result<Vec<BuildId>, StoreError> {
        ids_in(self.staging(), |entry| entry.file_name().to_str()?.parse().ok())
    }

    /// Builds that were distrusted and whose files are still here, in no particular order.
    ///
    /// # Errors
    ///
    /// The system's reason.
    pub fn list_distrusted(&self) -> Result<Vec<BuildId>, StoreError> {
        let id_of = |entry: &DirEntry| {
            entry.file_name().to_str()?.strip_suffix(".distrusted")?.parse().ok()
        };
        ids_in(self.builds(), id_of)
    }

    /// The build if it is here complete.
    ///
    /// # Errors
    ///
    /// [`StoreError::DamagedManifest`] if its tree is there but its manifest is not what it was,
    /// else the system's reason.
    pub fn build(&self, build: BuildId) -> Result<Option<StoredBuild>, StoreError> {
        let root = self.tree_of(build);
        if !root.is_dir() {
            return Ok(None);
        }
        self.shared.builds.settle()?;
        let manifest = read_manifest(&self.manifest_of(build), build)?;
        Ok(manifest.map(|manifest| StoredBuild::in_store(build, manifest, root, self)))
    }

    /// The manifest of a build that is here, complete or in the making, or whose files were moved
    /// out of the store.
    ///
    /// # Errors
    ///
    /// [`StoreError::DamagedManifest`] or the system's reason.
    pub fn manifest(&self, build: BuildId) -> Result<Option<Arc<Manifest>>, StoreError> {
        match read_manifest(&self.manifest_of(build), build)? {
            Some(manifest) => Ok(Some(manifest)),
            None => read_manifest(&self.home_of(build).join("manifest"), build),
        }
    }

    /// What an earlier attempt staged, if its manifest is there and right. Hashes the chunks that
    /// its bitmap claims; those that are wrong are not in [`StagedBuild::have`].
    ///
    /// # Errors
    ///
    /// Those of [`Self::stage`].
    pub fn staged(&self, build: BuildId) -> Result<Option<StagedBuild>, StoreError> {
        let home = self.home_of(build);
        match read_manifest(&home.join("manifest"), build) {
            Ok(Some(manifest)) => self.resume(build, manifest, home).map(Some),
            Ok(None) | Err(StoreError::DamagedManifest { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts staging `build`: reserves its space and stores its manifest. Resumes an earlier
    /// attempt like [`Self::staged`].
    ///
    /// # Errors
    ///
    /// [`StoreError::WrongManifest`]; [`StoreError::NoSpace`] or [`StoreError::NoFilesLeft`] if the
    /// build does not fit on the disk; else the system's reason. Then there is nothing new on disk,
    /// and an earlier attempt is as before.
    ///
    /// # Panics
    ///
    /// If the manifest is too large to be encoded, so that no build has it.
    pub fn stage(
        &self,
        build: BuildId,
        manifest: Arc<Manifest>,
    ) -> Result<StagedBuild, StoreError> {
        let home = self.home_of(build);
        let stored = home.join("manifest");
        let encoded = manifest.encode().expect("a build's name is computed from this encoding");
        let actual = BuildId::of_manifest(&encoded);
        if actual != build {
            return Err(StoreError::WrongManifest { actual, expected: build });
        }
        if !home.is_dir() {
            self.reserve_home(&home, &encoded, manifest.entries())?;
        } else if !std::fs::read(&stored).is_ok_and(|found| found == encoded) {
            durable::replace_file(&stored, &home.join("manifest.new"), &encoded)?;
        }
        self.resume(build, manifest, home)
    }

    /// Removes a complete build, a staged one, or both; files that were moved out of the store
    /// stay. Chunks that are being read meanwhile fail or are read to the end.
    ///
    /// # Errors
    ///
    /// The system's reason. The build may be gone all the same, with its space freed later.
    pub fn remove(&self, build: BuildId) -> Result<(), StoreError> {
        // What was renamed away is no build any more, however little of it has been removed when
        // the process dies. Its manifest goes last: without a tree it means nothing.
        let work = match WorkDir::new(self.staging(), Work::Remove) {
            Err(StoreError::NoSpace { .. } | StoreError::NoFilesLeft { .. }) => {
                return self.remove_in_place(build);
            }
            made => made?,
        };
        self.shared.builds.doubt();
        self.shared.staging.doubt();
        let doomed = [
            (self.tree_of(build), "tree"),
            (self.home_of(build), "staging"),
            (self.manifest_of(build), "manifest"),
            (self.distrusted_of(build), "distrusted"),
        ];
        for (path, name) in doomed {
            match disk::rename(&path, &work.path().join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome.map_err(StoreError::io("remove", &path))?,
            }
        }
        self.shared.builds.settle()
    }

    /// [`Self::remove`] where there is not even room for a directory to work in.
    fn remove_in_place(&self, build: BuildId) -> Result<(), StoreError> {
        // From here on the tree no longer belongs to a build, and is swept if the process dies. A
        // link to files that were moved out of the store is removed, and not followed.
        self.shared.builds.doubt();
        remove_any(&self.manifest_of(build))?;
        remove_any(&self.distrusted_of(build))?;
        self.shared.builds.settle()?;
        self.shared.builds.doubt();
        self.shared.staging.doubt();
        remove_any(&self.tree_of(build))?;
        remove_any(&self.home_of(build))?;
        self.shared.builds.settle()
    }

    /// Takes a build whose files are not what they were out of the list of complete builds. The
    /// files stay where they are, for programs that run from them, until the build is stored anew
    /// or removed.
    ///
    /// # Errors
    ///
    /// The system's reason.
    pub fn distrust(&self, build: BuildId) -> Result<(), StoreError> {
        let path = self.manifest_of(build);
        self.shared.builds.doubt();
        // Kept, so that the tree does not pass for what is left of a removal.
        match disk::rename(&path, &self.distrusted_of(build)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome.map_err(StoreError::io("remove", &path))?,
        }
        self.shared.builds.settle()
    }

    /// Makes the synced tree at `tree` the build `id`; `scratch` is a directory to work in, on the
    /// same file system. Returns where the build lies. If another process was faster, `tree` stays
    /// where it is and the other's is returned.
    pub(crate) fn adopt(
        &self,
        id: BuildId,
        encoded: &[u8],
        tree: &Path,
        scratch: &Path,
    ) -> Result<PathBuf, StoreError> {
        let root = self.tree_of(id);
        let is_there = || match self.build(id) {
            Ok(found) => Ok(found.is_some()),
            Err(StoreError::DamagedManifest { .. }) => Ok(false),
            Err(error) => Err(error),
        };
        // In this order: a tree comes after its manifest, so a tree that another process is just
        // putting there is not taken for one without a manifest.
        if std::fs::symlink_metadata(&root).is_ok() {
            if is_there()? {
                return Ok(root);
            }
            // A tree without a right manifest: nobody knows what it is. It is there until the new
            // one takes its place: a program may run from it.
            return self.replace_tree(id, encoded, (tree, &root), scratch);
        }
        self.shared.builds.doubt();
        durable::replace_file(&self.manifest_of(id), &scratch.join("manifest.new"), encoded)?;
        match disk::rename_new(tree, &root) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_there()? => {}
            outcome => outcome.map_err(StoreError::io("rename a build to", &root))?,
        }
        self.shared.builds.settle()?;
        Ok(root)
    }

    /// Exchanges the tree at `root`, which is no build, for `tree`, and removes it.
    fn replace_tree(
        &self,
        id: BuildId,
        encoded: &[u8],
        (tree, root): (&Path, &Path),
        scratch: &Path,
    ) -> Result<PathBuf, StoreError> {
        let work = WorkDir::new(self.staging(), Work::Remove)?;
        let doomed = work.path().join("tree");
        let mark = self.distrusted_of(id);
        if !mark.exists() && !self.manifest_of(id).exists() {
            // Without either, the new tree would pass for what is left of a removal.
            durable::replace_file(&mark, &scratch.join("manifest.new"), encoded)?;
        }
        self.shared.builds.doubt();
        let failed = StoreError::io("rename a build to", root);
        match disk::exchange(tree, root) {
            Ok(()) => disk::rename(tree, &doomed).map_err(failed)?,
            // The file system cannot exchange: there is a moment without a tree.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                disk::rename(root, &doomed)
                    .and_then(|()| disk::rename(tree, root))
                    .map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        self.shared.builds.settle()?;
        self.shared.builds.doubt();
        durable::replace_file(&self.manifest_of(id), &scratch.join("manifest.new"), encoded)?;
        remove_any(&mark)?;
        self.shared.builds.settle()?;
        Ok(root.to_owned())
    }

    /// The contacts that the last downloads into this store knew; empty if that is not known.
    pub(crate) fn contacts(&self) -> Vec<Contact> {
        contacts::read(&self.staging().join("contacts"))
    }

    /// Keeps whom a download knows.
    ///
    /// # Errors
    ///
    /// The system's reason; what was kept before is still there.
    pub(crate) fn write_contacts(&self, contacts: &[Contact]) -> Result<(), StoreError> {
        let scratch = self.staging().join("contacts.new");
        contacts::write(&self.staging().join("contacts"), &scratch, contacts)
    }

    pub(crate) fn staging(&self) -> &Path {
        self.shared.staging.path()
    }

    pub(crate) fn open_files(&self) -> &Arc<OpenFiles> {
        &self.shared.open_files
    }

    fn builds(&self) -> &Path {
        self.shared.builds.path()
    }

    /// To be called before a name in `builds/` is changed from outside of this file.
    fn doubt_builds(&self) {
        self.shared.builds.doubt();
    }

    fn settle_builds(&self) -> Result<(), StoreError> {
        self.shared.builds.settle()
    }

    /// Whether `root`, canonical, is a tree of this store and not one moved out of it.
    fn holds(&self, root: &Path) -> bool {
        std::fs::canonicalize(self.builds()).is_ok_and(|builds| root.parent() == Some(&*builds))
    }

    fn tree_of(&self, build: BuildId) -> PathBuf {
        self.builds().join(build.to_string())
    }

    fn manifest_of(&self, build: BuildId) -> PathBuf {
        self.builds().join(format!("{build}.manifest"))
    }

    /// The manifest of a build that is not believed any more.
    fn distrusted_of(&self, build: BuildId) -> PathBuf {
        self.builds().join(format!("{build}.distrusted"))
    }

    fn home_of(&self, build: BuildId) -> PathBuf {
        self.staging().join(build.to_string())
    }

    /// Makes `home` with everything that a staging consists of, or nothing.
    fn reserve_home(
        &self,
        home: &Path,
        encoded: &[u8],
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        let work = WorkDir::new(self.staging(), Work::Stage)?;
        let half = work.path().join("staging");
        let tree = half.join("tree");
        disk::create_dir_all(&tree).map_err(StoreError::write("create", &tree, home, 0))?;
        reserve(&tree, entries)?;
        place::sync_directories(&tree, entries)?;
        durable::replace_file(&half.join("manifest"), &half.join("manifest.new"), encoded)?;
        self.shared.staging.doubt();
        match disk::rename_new(&half, home) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            outcome => outcome.map_err(StoreError::io("rename a staging to", home))?,
        }
        Ok(())
    }

    fn resume(
        &self,
        build: BuildId,
        manifest: Arc<Manifest>,
        home: PathBuf,
    ) -> Result<StagedBuild, StoreError> {
        let tree = home.join("tree");
        self.shared.staging.settle()?;
        disk::create_dir_all_synced(&tree).map_err(StoreError::io("create", &tree))?;
        reserve(&tree, manifest.entries())?;
        // Also if nothing was made: an earlier call may have failed, or been killed, before this.
        place::sync_directories(&tree, manifest.entries())?;
        StagedBuild::resume(self, build, manifest, home)
    }
}

fn ids_in(
    directory: &Path,
    id_of: impl Fn(&DirEntry) -> Option<BuildId>,
) -> Result<Vec<BuildId>, StoreError> {
    let read = || {
        let mut ids = vec![];
        for entry in std::fs::read_dir(directory)? {
            ids.extend(id_of(&entry?));
        }
        Ok(ids)
    };
    read().map_err(StoreError::io("read", directory))
}

/// Reads and checks a manifest; `None` if there is no such file.
fn read_manifest(path: &Path, build: BuildId) -> Result<Option<Arc<Manifest>>, StoreError> {
    let damaged = |reason| StoreError::DamagedManifest { path: path.to_owned(), reason };
    let size = match std::fs::metadata(path) {
        Ok(found) => usize::try_from(found.len()).unwrap_or(usize::MAX),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    if size > MANIFEST_BYTES_MAX {
        // Not worth reading.
        return Err(damaged(ManifestError::TooLarge { actual: size, limit: MANIFEST_BYTES_MAX }));
    }
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        outcome => outcome.map_err(StoreError::io("read", path))?,
    };
    Manifest::decode(build, &bytes).map(Arc::new).map(Some).map_err(damaged)
}
