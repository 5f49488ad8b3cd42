//! A complete build: its chunks are read from its files, wherever these lie.
//!
//! Never writes to a file of the build. All calls block: async callers use `spawn_blocking`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use p2p_core::{BuildId, ChunkIndex, Manifest};

use crate::disk_priority::DiskPriority;

use super::BuildStore;
use super::audit::{self, BuildDamage};
use super::durable;
use super::error::StoreError;
use super::open_files::OpenFiles;
use super::tree::{Access, FileMap, TreeFiles};
use super::work_dir::{Work, WorkDir};

/// A complete, verified build on disk. Cheap to clone; clones share their open files, which are
/// closed when the last clone is dropped.
///
/// All its methods that touch the disk block.
#[derive(Clone, Debug)]
pub struct StoredBuild {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: BuildId,
    manifest: Arc<Manifest>,
    tree: TreeFiles,
    encoded: OnceLock<Bytes>,
    /// `None` if the build was opened in a directory of its own.
    store: Option<BuildStore>,
}

impl StoredBuild {
    /// A build whose files lie in `root`, outside of any store, such as where
    /// [`Self::move_into`] left them. Reads nothing: see [`verify`](crate::verify()) to check it.
    pub fn at(id: BuildId, manifest: Arc<Manifest>, root: impl Into<PathBuf>) -> Self {
        Self::new(id, manifest, root.into(), &Arc::default(), None)
    }

    pub(crate) fn in_store(
        id: BuildId,
        manifest: Arc<Manifest>,
        root: PathBuf,
        store: &BuildStore,
    ) -> Self {
        Self::new(id, manifest, root, store.open_files(), Some(store.clone()))
    }

    fn new(
        id: BuildId,
        manifest: Arc<Manifest>,
        root: PathBuf,
        open_files: &Arc<OpenFiles>,
        store: Option<BuildStore>,
    ) -> Self {
        let map = Arc::new(FileMap::new(manifest.entries()));
        let tree = TreeFiles::new(root, map, Access::Read, open_files);
        Self { shared: Arc::new(Shared { id, manifest, tree, encoded: OnceLock::new(), store }) }
    }

    /// The build's name.
    pub fn id(&self) -> BuildId {
        self.shared.id
    }

    /// The directory with the build's files.
    pub fn root(&self) -> &Path {
        self.shared.tree.root()
    }

    pub(crate) fn set_disk_priority(&self, priority: DiskPriority) {
        self.shared.tree.set_disk_priority(priority);
    }

    /// The store that it belongs to; `None` if it was opened in a directory of its own.
    pub(crate) fn store(&self) -> Option<&BuildStore> {
        self.shared.store.as_ref()
    }

    pub(crate) fn tree(&self) -> &TreeFiles {
        &self.shared.tree
    }

    /// What it consists of.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.shared.manifest
    }

    /// The manifest as it is sent to others. Encoded at the first call and kept.
    pub(crate) fn manifest_bytes(&self) -> Bytes {
        encoded(&self.shared.encoded, &self.shared.manifest)
    }

    /// Reads one chunk. The bytes are not verified: the receiver does that.
    ///
    /// # Errors
    ///
    /// [`StoreError::ShortFile`] if a file was cut short, else the system's reason.
    ///
    /// # Panics
    ///
    /// If the index belongs to another build.
    pub fn read_chunk(&self, chunk: ChunkIndex) -> Result<Bytes, StoreError> {
        read_chunk(&self.shared.tree, &self.shared.manifest, chunk)
    }

    /// Reads bytes of a chunk, from an offset in it, into all of `buffer`.
    pub(crate) fn read_part(
        &self,
        (chunk, offset): (ChunkIndex, u32),
        buffer: &mut [u8],
    ) -> Result<(), StoreError> {
        let start = self.manifest().layout().offset_of(chunk) + u64::from(offset);
        self.shared.tree.read_at(start, buffer)
    }

    /// The same, but never waits: `false` if the bytes are not in memory.
    pub(crate) fn read_cached(
        &self,
        (chunk, offset): (ChunkIndex, u32),
        buffer: &mut [u8],
    ) -> bool {
        let start = self.manifest().layout().offset_of(chunk) + u64::from(offset);
        self.shared.tree.read_cached_at(start, buffer)
    }

    /// Compares the entries of the build with its manifest, and reads all of its bytes if a file
    /// was written to since it was stored. Files that are not in the manifest do not count.
    ///
    /// # Errors
    ///
    /// The first thing found wrong.
    ///
    /// # Cost
    ///
    /// A system call per entry; if a file was written to, a pass over all bytes.
    pub fn audit(&self) -> Result<(), BuildDamage> {
        audit::audit(self)
    }

    /// Moves the build's entries into `directory`, which must be on the same file system, under
    /// their own names. Returns the build as it lies there. The store keeps the manifest and a
    /// link to `directory`, so [`BuildStore::build`] still finds the build.
    ///
    /// If the process dies on the way, calling this again completes the move. Stop serving the
    /// build meanwhile: its files are between two places.
    ///
    /// # Errors
    ///
    /// [`StoreError::AlreadyExists`] if something lies where an entry should go: nothing was moved.
    /// [`StoreError::AlreadyMoved`] if the files are in another directory. Else the system's
    /// reason: some entries may have been moved.
    pub fn move_into(&self, directory: &Path) -> Result<Self, StoreError> {
        let canonical =
            |path: &Path| std::fs::canonicalize(path).map_err(StoreError::io("find", path));
        let directory = canonical(directory)?;
        let root = canonical(self.root())?;
        let there = Self::new(
            self.id(),
            Arc::clone(self.manifest()),
            directory.clone(),
            self.shared.store.as_ref().map_or(&Arc::default(), BuildStore::open_files),
            self.shared.store.clone(),
        );
        if root == directory {
            return Ok(there);
        }
        let Some(store) = self.shared.store.as_ref().filter(|store| store.holds(&root)) else {
            return Err(StoreError::AlreadyMoved { path: root });
        };
        self.move_entries(&root, &directory)?;
        durable::sync_directory(&directory)?;
        leave_link(store, &root, &directory)?;
        Ok(there)
    }

    fn move_entries(&self, root: &Path, directory: &Path) -> Result<(), StoreError> {
        let entries = self.manifest().entries().iter();
        let names = entries.filter(|entry| !entry.path.contains('/')).map(|entry| &entry.path);
        // The build was complete here, so what is missing was moved by a call that was cut off.
        let is_at =
            |directory: &Path, name: &str| std::fs::symlink_metadata(directory.join(name)).is_ok();
        let left: Vec<&String> = names.filter(|name| is_at(root, name)).collect();
        if let Some(name) = left.iter().find(|name| is_at(directory, name)) {
            return Err(StoreError::AlreadyExists { path: directory.join(name) });
        }
        for name in left {
            let to = directory.join(name);
            disk::rename_new(&root.join(name), &to).map_err(|error| {
                if error.kind() == io::ErrorKind::AlreadyExists {
                    StoreError::AlreadyExists { path: to }
                } else {
                    StoreError::io("move a file to", &to)(error)
                }
            })?;
        }
        Ok(())
    }
}

/// Puts a link to `directory` in the place of the empty directory `root`.
fn leave_link(store: &BuildStore, root: &Path, directory: &Path) -> Result<(), StoreError> {
    let work = WorkDir::new(store.staging(), Work::Move)?;
    let link = work.path().join("link");
    store.doubt_builds();
    disk::symlink(directory, &link).map_err(StoreError::write(
        "create the link",
        &link,
        work.path(),
        0,
    ))?;
    match disk::exchange(&link, root) {
        Ok(()) => {}
        // The file system does not know the flag: a crash between these two loses the link.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            disk::remove_dir(root).map_err(StoreError::io("remove", root))?;
            disk::rename(&link, root).map_err(StoreError::io("rename a link to", root))?;
        }
        Err(error) => return Err(StoreError::io("rename a link to", root)(error)),
    }
    store.settle_builds()
}

/// Reads exactly the chunk, unverified.
pub(super) fn read_chunk(
    tree: &TreeFiles,
    manifest: &Manifest,
    chunk: ChunkIndex,
) -> Result<Bytes, StoreError> {
    let layout = manifest.layout();
    let mut bytes = vec![0; layout.size_of(chunk) as usize];
    tree.read_at(layout.offset_of(chunk), &mut bytes)?;
    Ok(bytes.into())
}

/// The encoded manifest, made at most once.
pub(super) fn encoded(cell: &OnceLock<Bytes>, manifest: &Manifest) -> Bytes {
    let encode = || {
        let bytes = manifest.encode().expect("the build's name was computed from its encoding");
        Bytes::from(bytes)
    };
    cell.get_or_init(encode).clone()
}
