//! Cuts a file or a directory tree into a build, and verifies which build a tree is.
//!
//! Owns the rules for what can be published, the pass over the bytes, and their comparison with a
//! manifest. Whatever goes wrong, the store is as before and the source is never written to. All
//! calls block, for as long as reading the source takes: async callers use `spawn_blocking`.

mod cut;
mod pipeline;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_core::{BuildId, ChunkInfo, Manifest};

use crate::store::{
    self, Access, BuildStore, FileMap, StoreError, StoredBuild, SyncFault, TreeFiles, Work, WorkDir,
};

use self::pipeline::PassError;
pub use self::verify::{Difference, EntryDifference, Verification, VerifyError, verify};
pub use self::walk::SourceError;
use self::walk::{Source, StateDirectory};

/// What publishing or verifying has done so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct PublishProgress {
    /// Bytes of all files, known from the first report on.
    pub bytes_total: u64,
    /// Bytes read, hashed and, if a copy is made, written.
    pub bytes_done: u64,
}

/// A published build.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Published {
    /// The build, complete in the store.
    pub build: StoredBuild,
    /// Whether the store had it before.
    pub is_known: bool,
}

/// Why nothing was published. The store is as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// What is at the path is no build, cannot be read, or changed meanwhile.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store failed or is full.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The copy would be part of what is copied, or the other way round.
    #[error(
        "the store {store:?} and {path:?} lie one in the other: \
         choose a store outside of what is published"
    )]
    StoreWithin {
        /// The path given.
        path: PathBuf,
        /// The store's directory.
        store: PathBuf,
    },
}

impl From<PassError> for PublishError {
    fn from(error: PassError) -> Self {
        match error {
            PassError::Source(error) => Self::Source(error),
            PassError::Copy(error) => Self::Store(error),
        }
    }
}

/// Publishes `path`, a file or a directory tree, into `store`, as a complete copy.
///
/// A file becomes a build with one entry under its file name. Owners, times and modes are not part
/// of a build, except whether a file may be executed.
///
/// # Arguments
///
/// - `progress`: called on the calling thread, once at the start, a few times a second, and when
///   all bytes are read. After that the copy is synced, which may take a while. `None` if nobody
///   is watching.
///
/// # Errors
///
/// [`SourceError`] for what is wrong with the source, [`StoreError::NoSpace`] before anything is
/// read if the copy does not fit, else the system's reason. The store is then as before.
///
/// # Cost
///
/// Reads each byte once, on all cores, with a fixed amount of memory.
pub fn publish(
    path: &Path,
    store: &BuildStore,
    progress: Option<&mut dyn FnMut(PublishProgress)>,
) -> Result<Published, PublishError> {
    check_apart(path, store)?;
    let source = Source::walk(path, StateDirectory::Refuse)?;
    let work = WorkDir::new(store.staging(), Work::Publish)?;
    let root = work.path().join("tree");
    disk::create_dir(&root).map_err(StoreError::write("create", &root, work.path(), 0))?;
    store::reserve(&root, source.entries())?;
    let map = Arc::new(FileMap::new(source.entries()));
    let copy = TreeFiles::new(root, map, Access::ReadWrite, store.open_files());

    let chunks = pipeline::run(&source, Some(&copy), progress)?;
    source.check_unchanged()?;
    let (manifest, encoded) = describe(&source, chunks)?;
    let id = BuildId::of_manifest(&encoded);

    match store.build(id) {
        Ok(Some(build)) => return Ok(Published { build, is_known: true }),
        // A damaged manifest is replaced together with its tree.
        Ok(None) | Err(StoreError::DamagedManifest { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    store::seal(&copy, manifest.entries()).map_err(|fault| match fault {
        SyncFault::Lost { source, .. } => StoreError::io("sync", copy.root())(source),
        SyncFault::Store(error) => error,
    })?;
    // Nothing may be open for writing once somebody can run it.
    copy.close();
    let root = store.adopt(id, &encoded, copy.root(), work.path())?;
    let build = StoredBuild::in_store(id, Arc::new(manifest), root, store);
    Ok(Published { build, is_known: false })
}

/// Computes the manifest that `path`, a file or a directory tree, has as a build. Copies nothing:
/// for a publisher into a store of another kind.
///
/// # Arguments
///
/// - `progress`: like that of [`publish`].
///
/// # Errors
///
/// [`SourceError`] for what is wrong with the source.
pub fn manifest_of(
    path: &Path,
    progress: Option<&mut dyn FnMut(PublishProgress)>,
) -> Result<Manifest, PublishError> {
    let source = Source::walk(path, StateDirectory::Refuse)?;
    let chunks = pipeline::run(&source, None, progress)?;
    source.check_unchanged()?;
    let (manifest, _) = describe(&source, chunks)?;
    Ok(manifest)
}

/// The source's manifest and its encoding.
fn describe(source: &Source, chunks: Vec<ChunkInfo>) -> Result<(Manifest, Vec<u8>), SourceError> {
    let describe = || {
        let manifest = Manifest::new(source.entries().to_vec(), chunks)?;
        let encoded = manifest.encode()?;
        Ok((manifest, encoded))
    };
    describe().map_err(|reason| source.refused(reason))
}

/// Refuses to copy a tree into itself.
fn check_apart(path: &Path, store: &BuildStore) -> Result<(), PublishError> {
    let base = walk::resolve(path)?;
    let directory = std::fs::canonicalize(store.directory())
        .map_err(StoreError::io("find", store.directory()))?;
    if base.starts_with(&directory) || directory.starts_with(&base) {
        let store = store.directory().to_owned();
        return Err(PublishError::StoreWithin { path: path.to_owned(), store });
    }
    Ok(())
}
