//! Why the store could not do something, and how a system error becomes such a reason.
//!
//! Each message is one line that names the path and, where the cause does not say it already, what
//! to do next. Paths are quoted, so that a name with a line break cannot split a message.

use std::io;
use std::path::{Path, PathBuf};

use p2p_core::{BuildId, ChunkIndex, ManifestError};

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system refused a call on a file or a directory.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The disk or the quota is full, or will be before the build is complete.
    #[error(
        "not enough space in {path:?}: {needed} bytes are needed, {available} are free: \
         free some or use another disk"
    )]
    NoSpace {
        /// A directory on the full disk.
        path: PathBuf,
        /// Bytes still to be reserved when the disk was found too small.
        needed: u64,
        /// Bytes that were free then.
        available: u64,
    },
    /// The file system holds as many files as it can.
    #[error("the disk of {path:?} has no room for more files: remove some or use another disk")]
    NoFilesLeft {
        /// A directory on that file system.
        path: PathBuf,
    },
    /// A stored manifest is not the one that its name says.
    #[error("manifest {path:?} is damaged: remove it and fetch or publish the build again")]
    DamagedManifest {
        /// The manifest's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        reason: ManifestError,
    },
    /// The manifest handed over describes another build.
    #[error("the manifest describes build {actual}, expected {expected}")]
    WrongManifest {
        /// The build it describes.
        actual: BuildId,
        /// The build it was handed over for.
        expected: BuildId,
    },
    /// A file of a build was cut short behind the store's back.
    #[error("{path:?} ends before byte {expected}: remove the build and fetch it again")]
    ShortFile {
        /// The file.
        path: PathBuf,
        /// The length it should have, in bytes.
        expected: u64,
    },
    /// The disk did not take what was written. The files concerned were thrown away, and their
    /// chunks have left [`StagedBuild::have`](crate::StagedBuild::have): fetch them again.
    #[error(
        "cannot sync {path:?}: {} chunks were thrown away and have to be fetched again, \
         check the disk if this repeats",
        chunks.len()
    )]
    SyncFailed {
        /// The file, or the tree if the whole of it was synced at once.
        path: PathBuf,
        /// The chunks that were thrown away, in order.
        chunks: Vec<ChunkIndex>,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A chunk was read that is not staged, or not any more.
    #[error("chunk {} is not here yet", chunk.get())]
    ChunkMissing {
        /// The chunk.
        chunk: ChunkIndex,
    },
    /// A build was completed that lacks chunks.
    #[error("the build lacks {missing} chunks: fetch them first")]
    Incomplete {
        /// How many.
        missing: u32,
    },
    /// Something lies where a build's entry should go.
    #[error("{path:?} already exists: remove it or choose another directory")]
    AlreadyExists {
        /// What is in the way.
        path: PathBuf,
    },
    /// The build's files were moved out of the store before, to another directory.
    #[error("the build's files were already moved to {path:?}: use them there")]
    AlreadyMoved {
        /// Where they are.
        path: PathBuf,
    },
}

/// Why a tree is not durable.
#[derive(Debug)]
pub(crate) enum SyncFault {
    /// What was written may be lost: the file's, or the whole tree's if `file` is `None`.
    Lost {
        /// The file's position in the tree's map.
        file: Option<usize>,
        /// The system's reason.
        source: io::Error,
    },
    /// Anything else; what was written is as safe as before.
    Store(StoreError),
}

impl From<StoreError> for SyncFault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl StoreError {
    /// For `map_err`: a system call that does not need space.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// For `map_err`: a system call that takes up to `needed` bytes of the disk that holds
    /// `directory`, which must exist.
    pub(crate) fn write(
        action: &'static str,
        path: &Path,
        directory: &Path,
        needed: u64,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let is_full =
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            match rustix::fs::statvfs(directory) {
                Ok(disk) if is_full && disk.f_files > 0 && disk.f_favail == 0 => {
                    Self::NoFilesLeft { path: directory.to_owned() }
                }
                Ok(disk) if is_full => Self::NoSpace {
                    path: directory.to_owned(),
                    needed,
                    available: disk.f_bavail.saturating_mul(disk.f_frsize),
                },
                Ok(_) | Err(_) => Self::io(action, path)(source),
            }
        }
    }
}
