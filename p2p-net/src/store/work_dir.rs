//! Directories for work in progress, and the removal of those whose process is gone.
//!
//! A work directory lies in `staging/` and is locked by its process for as long as it is in use.
//! The lock ends with the process, however that ends, so a directory that can be locked is dead.
//! Process ids would not do: they are reused, and they differ between containers that share a
//! store. All calls block.

use std::fs::{DirEntry, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;

use super::error::StoreError;

/// What a work directory is for; the first part of its name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Work {
    /// The copy of a build that is being published.
    Publish,
    /// A staging that is not ready to be resumed yet.
    Stage,
    /// Something that is being removed.
    Remove,
    /// A link to a build whose files were moved out of the store.
    Move,
}

impl Work {
    const ALL: [Self; 4] = [Self::Publish, Self::Stage, Self::Remove, Self::Move];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Publish => "publish-",
            Self::Stage => "stage-",
            Self::Remove => ".gc-",
            Self::Move => "move-",
        }
    }
}

/// A locked directory of this process, removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Makes a new one in `staging`.
    ///
    /// # Errors
    ///
    /// The system's reason; nothing is left behind.
    pub(crate) fn new(staging: &Path, work: Work) -> Result<Self, StoreError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = staging.join(format!("{}{}-{number}", work.prefix(), std::process::id()));
            match disk::create_dir(&path) {
                Ok(()) => {}
                // Left by an earlier process with our id, or by a process of another container.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(StoreError::write("create", &path, staging, 0)(error)),
            }
            if let Some(lock) = lock_new(&path)? {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(error) = disk::remove_dir_all(&self.path) {
            tracing::warn!(path = ?self.path, %error, "cannot remove a work directory");
        }
    }
}

/// Locks a directory just made; `None` if a sweep came between and took it for a dead one.
fn lock_new(path: &Path) -> Result<Option<File>, StoreError> {
    let lock = match File::open(path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", path)(error)),
    };
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|errno| StoreError::io("lock", path)(errno.into()))?;
    let ours = lock.metadata().map_err(StoreError::io("examine", path))?;
    let is_there = std::fs::symlink_metadata(path).is_ok_and(|there| there.ino() == ours.ino());
    Ok(is_there.then_some(lock))
}

/// Removes the work directories in `staging` whose process is gone. What cannot be removed is
/// logged and left for the next time: leftovers cost space, not correctness.
///
/// # Errors
///
/// If `staging` cannot be read.
pub(crate) fn sweep(staging: &Path) -> Result<(), StoreError> {
    let entries = std::fs::read_dir(staging).map_err(StoreError::io("read", staging))?;
    for entry in entries {
        let entry = entry.map_err(StoreError::io("read", staging))?;
        let name = entry.file_name();
        let is_work = Work::ALL
            .iter()
            .any(|work| name.as_encoded_bytes().starts_with(work.prefix().as_bytes()));
        if is_work && let Err(error) = sweep_one(&entry.path()) {
            tracing::warn!(path = ?entry.path(), %error, "cannot remove a leftover");
        }
    }
    Ok(())
}

/// Whether there is a work directory of this kind in `staging`.
///
/// # Errors
///
/// If `staging` cannot be read.
pub(crate) fn is_any(staging: &Path, work: Work) -> Result<bool, StoreError> {
    let is_such = |entry: &DirEntry| {
        entry.file_name().as_encoded_bytes().starts_with(work.prefix().as_bytes())
    };
    let entries = std::fs::read_dir(staging).map_err(StoreError::io("read", staging))?;
    for entry in entries {
        if is_such(&entry.map_err(StoreError::io("read", staging))?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn sweep_one(path: &Path) -> io::Result<()> {
    let lock = File::open(path)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    match disk::remove_dir_all(path) {
        // Another process sweeps the same store.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
