//! A build in the making: chunks are written into their final files, and a bitmap follows them.
//!
//! Invariant: the bitmap on disk never claims a chunk whose bytes were not synced before. Does not
//! hash what it is given to write: the caller has done that. All calls block: async callers use
//! `spawn_blocking`.
//!
//! `<store>/staging/<id>/` holds `manifest`, `bitmap` and `tree/`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use p2p_core::{BuildId, ChunkIndex, ChunkSet, Digest, Manifest};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Semaphore;

use super::bitmap::{self, Claim};
use super::durable;
use super::error::{StoreError, SyncFault};
use super::place;
use super::stored::{self, StoredBuild};
use super::tree::{Access, FileMap, TreeFiles};
use super::{BuildStore, read_back};

/// A build in the making. Cheap to clone; clones share the same staging.
///
/// All its methods that touch the disk block. What is written is safe from a crash of the process
/// at once, and counted as there after a restart from the next [`Self::checkpoint`] on: call that
/// about once a second, and a process that is killed loses about a second of downloading.
#[derive(Clone, Debug)]
pub struct StagedBuild {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: BuildStore,
    id: BuildId,
    manifest: Arc<Manifest>,
    home: PathBuf,
    encoded: OnceLock<Bytes>,
    /// Held for reading while chunks are read or written, for writing while files are replaced or
    /// moved. Taken before `state`.
    tree: RwLock<TreeFiles>,
    state: Mutex<State>,
    /// Woken when chunks are no longer busy.
    is_free: Condvar,
    writing: Arc<Semaphore>,
    /// Held by whoever syncs, so that bitmaps are renamed into place in the order of their making.
    /// Taken before `tree`.
    sync: Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// Chunks whose bytes are written.
    have: ChunkSet,
    /// Chunks that the bitmap on disk claims.
    claimed: ChunkSet,
    /// Files with bytes that may not be synced, by position in the map.
    dirty: BTreeSet<usize>,
    /// Chunks that somebody is writing. Taken before `tree`, and by one writer at a time: of two
    /// sources of a chunk, the one that is damaged must not write over what the other has stored.
    busy: BTreeSet<ChunkIndex>,
}

/// The right to write some chunks; ends when dropped.
#[derive(Debug)]
struct Busy<'a> {
    shared: &'a Shared,
    chunks: &'a [ChunkIndex],
}

impl<'a> Busy<'a> {
    fn new(shared: &'a Shared, chunks: &'a [ChunkIndex]) -> Self {
        let is_taken = |state: &mut State| chunks.iter().any(|chunk| state.busy.contains(chunk));
        let mut state = shared.state.lock();
        shared.is_free.wait_while(&mut state, is_taken);
        state.busy.extend(chunks);
        Self { shared, chunks }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        for chunk in self.chunks {
            state.busy.remove(chunk);
        }
        drop(state);
        self.shared.is_free.notify_all();
    }
}

impl StagedBuild {
    /// Takes over `home`, in which the tree is reserved, and hashes what its bitmap claims.
    pub(super) fn resume(
        store: &BuildStore,
        id: BuildId,
        manifest: Arc<Manifest>,
        home: PathBuf,
    ) -> Result<Self, StoreError> {
        let map = Arc::new(FileMap::new(manifest.entries()));
        let root = home.join("tree");
        let tree = TreeFiles::new(root, map, Access::ReadWrite, store.open_files());
        let chunk_count = manifest.layout().chunk_count();
        let claim = bitmap::read(&home.join("bitmap"), id, chunk_count)?;
        if claim != Claim::Nothing {
            // Its process may have been killed before it synced the bitmap's name.
            durable::sync_directory(&home)?;
        }
        // Without a bitmap to go by, what is right on disk was not necessarily synced.
        let dirty = match &claim {
            Claim::Unknown => (0..tree.map().files().len()).collect(),
            Claim::Nothing | Claim::Chunks(_) => BTreeSet::new(),
        };
        let (claimed, suspects) = match claim {
            Claim::Nothing => (ChunkSet::empty(chunk_count), ChunkSet::empty(chunk_count)),
            Claim::Chunks(chunks) => (chunks.clone(), chunks),
            Claim::Unknown => (ChunkSet::empty(chunk_count), ChunkSet::full(chunk_count)),
        };
        let mut have = suspects.clone();
        for chunk in read_back::find_wrong(&tree, &manifest, suspects.iter())? {
            have.remove(chunk);
        }
        let state = Mutex::new(State { have, claimed, dirty, busy: BTreeSet::new() });
        let shared = Shared {
            store: store.clone(),
            id,
            manifest,
            home,
            encoded: OnceLock::new(),
            tree: RwLock::new(tree),
            state,
            is_free: Condvar::new(),
            writing: Arc::new(Semaphore::new(1)),
            sync: Mutex::new(()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The build's name.
    pub fn id(&self) -> BuildId {
        self.shared.id
    }

    /// What it consists of.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.shared.manifest
    }

    /// The manifest as it is sent to others. Encoded at the first call and kept.
    pub(crate) fn manifest_bytes(&self) -> Bytes {
        stored::encoded(&self.shared.encoded, &self.shared.manifest)
    }

    /// The chunks that are written; a copy.
    pub fn have(&self) -> ChunkSet {
        self.state().have.clone()
    }

    /// A gate for one writer: more of them only wait for each other in the kernel, and spin there,
    /// because most of the bytes of a build lie in one file.
    pub(crate) fn writing(&self) -> Arc<Semaphore> {
        Arc::clone(&self.shared.writing)
    }

    /// Writes a chunk whose digest the caller has checked. A chunk that is here already is not
    /// written again.
    ///
    /// # Errors
    ///
    /// The system's reason; the chunk is then not in [`Self::have`].
    ///
    /// # Panics
    ///
    /// If the index belongs to another build or `bytes` is not as long as the chunk.
    pub fn write_chunk(&self, chunk: ChunkIndex, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_parts(chunk, &[bytes])
    }

    /// [`Self::write_chunk`] of bytes that lie in several places.
    pub(crate) fn write_parts(
        &self,
        chunk: ChunkIndex,
        parts: &[impl AsRef<[u8]>],
    ) -> Result<(), StoreError> {
        let layout = self.manifest().layout();
        let size: usize = parts.iter().map(|part| part.as_ref().len()).sum();
        assert_eq!(size, layout.size_of(chunk) as usize, "bytes of another chunk");
        let _busy = Busy::new(&self.shared, std::slice::from_ref(&chunk));
        let tree = self.tree();
        if self.state().have.contains(chunk) {
            return Ok(());
        }
        let mut position = layout.offset_of(chunk);
        for part in parts {
            tree.write_at(position, part.as_ref())?;
            position += part.as_ref().len() as u64;
        }
        self.note_written(&tree, chunk);
        Ok(())
    }

    /// Lets `copy` fill the places of these chunks, reads them back, and keeps those that are
    /// right.
    ///
    /// # Returns
    ///
    /// Those that are not; `None` if some of them were here already, and nothing was copied.
    ///
    /// # Errors
    ///
    /// Those of `copy`, or the system's reason. None of the chunks counts as written then.
    pub(super) fn copy_chunks(
        &self,
        chunks: &[ChunkIndex],
        copy: impl FnOnce(&TreeFiles) -> Result<(), StoreError>,
    ) -> Result<Option<Vec<ChunkIndex>>, StoreError> {
        let _busy = Busy::new(&self.shared, chunks);
        let tree = self.tree();
        if chunks.iter().any(|chunk| self.state().have.contains(*chunk)) {
            return Ok(None);
        }
        copy(&tree)?;
        let mut wrong = vec![];
        for chunk in chunks {
            let bytes = stored::read_chunk(&tree, self.manifest(), *chunk)?;
            if Digest::of(&bytes) == self.manifest().chunks()[chunk.as_usize()].digest {
                self.note_written(&tree, *chunk);
            } else {
                wrong.push(*chunk);
            }
        }
        Ok(Some(wrong))
    }

    fn note_written(&self, tree: &TreeFiles, chunk: ChunkIndex) {
        let layout = self.manifest().layout();
        let (offset, size) = (layout.offset_of(chunk), layout.size_of(chunk) as usize);
        let touched = tree.map().extents(offset, size).map(|extent| extent.file);
        let mut state = self.state();
        state.dirty.extend(touched);
        state.have.insert(chunk);
    }

    /// Whether both are the same staging, and not a later one of the same build.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The directory in which the build is staged.
    pub(super) fn home(&self) -> &Path {
        &self.shared.home
    }

    /// Reads a chunk that is in [`Self::have`], unverified. Goes on working once the build is
    /// complete and moved into place.
    ///
    /// # Errors
    ///
    /// [`StoreError::ChunkMissing`] if it is not there, [`StoreError::ShortFile`] if a file was
    /// cut short, else the system's reason.
    ///
    /// # Panics
    ///
    /// If the index belongs to another build.
    pub fn read_chunk(&self, chunk: ChunkIndex) -> Result<Bytes, StoreError> {
        let tree = self.tree();
        if !self.state().have.contains(chunk) {
            return Err(StoreError::ChunkMissing { chunk });
        }
        stored::read_chunk(&tree, self.manifest(), chunk)
    }

    /// Reads bytes of a chunk that is in [`Self::have`], from an offset in it, into all of
    /// `buffer`.
    pub(crate) fn read_part(
        &self,
        (chunk, offset): (ChunkIndex, u32),
        buffer: &mut [u8],
    ) -> Result<(), StoreError> {
        let tree = self.tree();
        if !self.state().have.contains(chunk) {
            return Err(StoreError::ChunkMissing { chunk });
        }
        tree.read_at(self.manifest().layout().offset_of(chunk) + u64::from(offset), buffer)
    }

    /// The same, but never waits: `false` if the bytes are not in memory.
    pub(crate) fn read_cached(
        &self,
        (chunk, offset): (ChunkIndex, u32),
        buffer: &mut [u8],
    ) -> bool {
        let Some(tree) = self.shared.tree.try_read() else { return false };
        if !self.state().have.contains(chunk) {
            return false;
        }
        let start = self.manifest().layout().offset_of(chunk) + u64::from(offset);
        tree.read_cached_at(start, buffer)
    }

    /// Makes what is written durable: data first, then the bitmap. Cheap if nothing was written.
    ///
    /// # Errors
    ///
    /// [`StoreError::SyncFailed`] if chunks had to be thrown away, else the system's reason; the
    /// bitmap then claims what it claimed before.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let _sync = self.lock_sync();
        self.sync_data()
    }

    /// Reads the whole build back, checks it, syncs it and moves it into place.
    /// Chunks that read back wrong are taken out of [`Self::have`] and returned: fetch them again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Incomplete`] if chunks are missing, [`StoreError::SyncFailed`] if chunks had
    /// to be thrown away, else the system's reason. Calling it again is always allowed.
    ///
    /// # Cost
    ///
    /// Reads and hashes the whole build on several threads.
    pub fn complete(&self) -> Result<Result<StoredBuild, Vec<ChunkIndex>>, StoreError> {
        let _sync = self.lock_sync();
        let have = self.have();
        if !have.is_full() {
            return Err(StoreError::Incomplete { missing: have.capacity() - have.count() });
        }
        if self.tree().access() == Access::Read {
            // Completed before, by way of another clone.
            return Ok(Ok(self.stored(self.tree().root())));
        }
        // Before the long read, so that a crash during it costs no chunk.
        self.sync_data()?;
        // Handles may lead to files that were deleted since; what counts is what the paths lead to.
        self.tree().close();
        let wrong = read_back::find_wrong(&self.tree(), self.manifest(), have.iter())?;
        self.fit_files()?;
        if !wrong.is_empty() {
            self.forget(&wrong)?;
            self.tree().close();
            return Ok(Err(wrong));
        }
        let sealed = place::seal(&self.tree(), self.manifest().entries());
        self.settle(sealed, &BTreeSet::new())?;
        let root = self.move_into_place()?;
        Ok(Ok(self.stored(&root)))
    }

    /// Makes the next access open the files by their paths again.
    #[cfg(test)]
    pub(super) fn forget_handles(&self) {
        self.tree().close();
    }

    /// Gives each file its length again if it was cut, deleted or appended to behind our back.
    fn fit_files(&self) -> Result<(), StoreError> {
        let tree = self.tree();
        for (file, mapped) in tree.map().files().iter().enumerate() {
            let size = mapped.range.end - mapped.range.start;
            let path = tree.path_of(file);
            match std::fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() && found.len() == size => {}
                Ok(found) if found.is_file() => {
                    tree.open(file)?.set_len(size).map_err(StoreError::io("trim", &path))?;
                }
                Ok(_) | Err(_) => place::make_file(tree.root(), &mapped.path, size, size)?,
            }
        }
        Ok(())
    }

    fn move_into_place(&self) -> Result<PathBuf, StoreError> {
        let Shared { store, id, home, .. } = &*self.shared;
        let mut tree = self.tree_mut();
        let root = store.adopt(*id, &self.manifest_bytes(), tree.root(), home)?;
        let map = Arc::clone(tree.map());
        // Closes what was open for writing, too: the system does not run such a file.
        *tree = TreeFiles::new(root.clone(), map, Access::Read, store.open_files());
        if let Err(error) = disk::remove_dir_all(home) {
            tracing::warn!(path = ?home, %error, "cannot remove what is left of a staging");
        }
        Ok(root)
    }

    fn stored(&self, root: &Path) -> StoredBuild {
        let manifest = Arc::clone(self.manifest());
        StoredBuild::in_store(self.id(), manifest, root.to_owned(), &self.shared.store)
    }

    fn sync_data(&self) -> Result<(), StoreError> {
        let (have, dirty) = {
            let mut state = self.state();
            (state.have.clone(), std::mem::take(&mut state.dirty))
        };
        let synced = self.tree().sync(&dirty);
        self.settle(synced, &dirty)?;
        if self.state().claimed != have {
            self.write_bitmap(&have)?;
        }
        Ok(())
    }

    /// Draws the conclusions from the outcome of a sync of `dirty`: throws away what it lost.
    fn settle(
        &self,
        outcome: Result<(), SyncFault>,
        dirty: &BTreeSet<usize>,
    ) -> Result<(), StoreError> {
        let fault = match outcome {
            Ok(()) => return Ok(()),
            Err(fault) => fault,
        };
        // Which of them are synced is not known.
        self.state().dirty.extend(dirty);
        match fault {
            SyncFault::Store(error) => Err(error),
            SyncFault::Lost { file, source } => {
                let path = match file {
                    Some(file) => self.tree().path_of(file),
                    None => self.tree().root().to_owned(),
                };
                let chunks = self.throw_away(file)?;
                Err(StoreError::SyncFailed { path, chunks, source })
            }
        }
    }

    /// Replaces one file, or all, by empty ones; returns the chunks lost by that.
    fn throw_away(&self, file: Option<usize>) -> Result<Vec<ChunkIndex>, StoreError> {
        // From here on no chunk is written until the new files are there: one that went into an old
        // file would be counted as written and be gone.
        let tree = self.tree_mut();
        let files = match file {
            Some(file) => file..file + 1,
            None => 0..tree.map().files().len(),
        };
        let thrown = &tree.map().files()[files];
        let (Some(first), Some(last)) = (thrown.first(), thrown.last()) else {
            return Ok(vec![]);
        };
        let layout = self.manifest().layout();
        let is_touched = |chunk: &ChunkIndex| {
            let start = layout.offset_of(*chunk);
            start < last.range.end && start + u64::from(layout.size_of(*chunk)) > first.range.start
        };
        let touched: Vec<ChunkIndex> = layout.indices().filter(is_touched).collect();
        let lost = self.forget(&touched)?;
        tree.close();
        for file in thrown {
            let size = file.range.end - file.range.start;
            place::make_file(tree.root(), &file.path, size, size)?;
        }
        // Or the old files may be back after a power cut, under a bitmap for the new ones.
        place::sync_directories(tree.root(), self.manifest().entries())?;
        Ok(lost)
    }

    /// Takes the chunks out of `have`, and out of the bitmap on disk before anything else happens.
    /// Returns those that were in `have`.
    fn forget(&self, chunks: &[ChunkIndex]) -> Result<Vec<ChunkIndex>, StoreError> {
        let (lost, claimed) = {
            let mut state = self.state();
            let lost: Vec<ChunkIndex> =
                chunks.iter().copied().filter(|chunk| state.have.remove(*chunk)).collect();
            let mut claimed = state.claimed.clone();
            for chunk in chunks {
                claimed.remove(*chunk);
            }
            (lost, claimed)
        };
        self.write_bitmap(&claimed)?;
        Ok(lost)
    }

    fn write_bitmap(&self, chunks: &ChunkSet) -> Result<(), StoreError> {
        let Shared { home, id, .. } = &*self.shared;
        bitmap::write(&home.join("bitmap"), &home.join("bitmap.new"), *id, chunks)?;
        self.state().claimed = chunks.clone();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    fn tree(&self) -> RwLockReadGuard<'_, TreeFiles> {
        self.shared.tree.read()
    }

    fn tree_mut(&self) -> RwLockWriteGuard<'_, TreeFiles> {
        self.shared.tree.write()
    }

    fn lock_sync(&self) -> MutexGuard<'_, ()> {
        self.shared.sync.lock()
    }
}
