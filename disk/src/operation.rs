//! What can be done to a disk, as watchers see it and as records keep it.
//!
//! Values only: nothing here touches a file. Every operation of `calls.rs` and `file.rs` is one of
//! these, so that a disk that plays a record back knows all that can have happened to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a file is opened. Symbolic links in its place are never followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Open {
    /// One that is there, to be read, synced or given another mode.
    Read,
    /// One that is there, to be read and written.
    ReadWrite,
    /// One that is not there yet, to be written; with this mode.
    New(u32),
    /// Made with this mode if it is not there, emptied if it is; to be written.
    Empty(u32),
}

impl Open {
    /// Whether there may be a file afterwards where there was none.
    pub const fn creates(self) -> bool {
        matches!(self, Self::New(_) | Self::Empty(_))
    }
}

/// One change of the file system. Paths are relative to the watched root.
///
/// Operations on an open file name the file by the `handle` that [`Operation::Open`] gave it; their
/// `path` is where it was opened, and may lead elsewhere by now.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields of one enum share their meaning, given above")]
pub enum Operation {
    /// A file is opened in order to change it, and created or emptied if `how` says so.
    Open { path: PathBuf, handle: u64, how: Open },
    /// Bytes go to an offset. A copy within the kernel is recorded as the equivalent write.
    Write { path: PathBuf, handle: u64, offset: u64, bytes: Arc<[u8]> },
    /// The file is cut or grown to `length` bytes.
    SetLength { path: PathBuf, handle: u64, length: u64 },
    /// Space is reserved for the first `length` bytes; a shorter file grows to that.
    Allocate { path: PathBuf, handle: u64, length: u64 },
    /// The permissions of an open file are set.
    SetMode { path: PathBuf, handle: u64, mode: u32 },
    /// `fdatasync`.
    SyncData { path: PathBuf, handle: u64 },
    /// `fsync`.
    SyncAll { path: PathBuf, handle: u64 },
    /// The names in a directory are synced.
    SyncDirectory { path: PathBuf },
    /// Everything on the file system is synced.
    SyncFileSystem { path: PathBuf },
    /// A directory is made.
    CreateDirectory { path: PathBuf },
    /// An empty directory is removed.
    RemoveDirectory { path: PathBuf },
    /// A name of a file or of a symlink is removed.
    RemoveFile { path: PathBuf },
    /// `to` is replaced, unless the caller forbids it and something is there. `None`: a place
    /// outside of the root.
    Rename { from: PathBuf, to: Option<PathBuf> },
    /// Two names change places.
    Exchange { one: PathBuf, other: PathBuf },
    /// A symlink is made.
    Symlink { path: PathBuf, target: PathBuf },
    /// A second name for a file.
    HardLink { from: PathBuf, to: PathBuf },
}

impl Operation {
    /// The path that it changes; of a rename, the old one.
    pub fn path(&self) -> &Path {
        match self {
            Self::Open { path, .. }
            | Self::Write { path, .. }
            | Self::SetLength { path, .. }
            | Self::Allocate { path, .. }
            | Self::SetMode { path, .. }
            | Self::SyncData { path, .. }
            | Self::SyncAll { path, .. }
            | Self::SyncDirectory { path }
            | Self::SyncFileSystem { path }
            | Self::CreateDirectory { path }
            | Self::RemoveDirectory { path }
            | Self::RemoveFile { path }
            | Self::Symlink { path, .. } => path,
            Self::Rename { from, .. } | Self::HardLink { from, .. } => from,
            Self::Exchange { one, .. } => one,
        }
    }

    /// Whether it makes something durable.
    pub const fn is_sync(&self) -> bool {
        matches!(
            self,
            Self::SyncData { .. }
                | Self::SyncAll { .. }
                | Self::SyncDirectory { .. }
                | Self::SyncFileSystem { .. }
        )
    }

    /// Whether a full disk can refuse it: it needs space that was not there before. Writing over
    /// reserved space does too on file systems that never write in place.
    pub const fn takes_space(&self) -> bool {
        match self {
            Self::Open { how, .. } => how.creates(),
            Self::Write { .. }
            | Self::Allocate { .. }
            | Self::CreateDirectory { .. }
            | Self::Symlink { .. }
            | Self::HardLink { .. } => true,
            _ => false,
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It took place.
    Done,
    /// It failed; of a write, this many of its bytes were written.
    Failed {
        /// Zero for all but torn writes.
        written: usize,
    },
}

/// An operation and how it ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recorded {
    /// What was asked for.
    pub operation: Operation,
    /// What happened.
    pub outcome: Outcome,
}
