//! Audits a complete build: finds out whether its files are still what they were, without reading
//! them if nobody wrote to them.
//!
//! Invariant: the manifest of a build is written after all of its files and their times are not
//! changed later, so a file with a later time stamp than the manifest was changed by somebody else.
//! Only such builds are read back (`store/read_back.rs`). All calls block.

use std::fs::{File, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use p2p_core::EntryKind;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::StoredBuild;
use super::error::StoreError;
use super::read_back::find_wrong;

/// What is wrong with a complete build.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildDamage {
    /// An entry is not what the manifest says.
    #[error("{} {reason}", path.display())]
    Entry {
        /// The file, directory or link.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Files were changed, and their bytes are wrong.
    #[error("{} was changed; {chunks} chunks of the build are wrong", path.display())]
    Bytes {
        /// The first file whose time stamp gives it away.
        path: PathBuf,
        /// How many chunks.
        chunks: usize,
    },
    /// It could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A time stamp: seconds, and nanoseconds within them.
type Stamp = (i64, i64);

/// What [`StoredBuild::audit`] does.
pub(super) fn audit(build: &StoredBuild) -> Result<(), BuildDamage> {
    let Some(stamped) = build.store().map(|store| store.manifest_of(build.id())) else {
        return Ok(());
    };
    let stored_at = std::fs::metadata(&stamped).map_or((i64::MAX, 0), |found| stamp(&found));
    let mut changed = None;
    for entry in build.manifest().entries() {
        let modified = audit_entry(&build.root().join(&entry.path), &entry.kind)?;
        if changed.is_none() && modified.is_some_and(|modified| modified > stored_at) {
            changed = Some(build.root().join(&entry.path));
        }
    }
    let Some(path) = changed else { return Ok(()) };
    let all = build.manifest().layout().indices();
    let wrong = find_wrong(build.tree(), build.manifest(), all)?;
    if !wrong.is_empty() {
        return Err(BuildDamage::Bytes { path, chunks: wrong.len() });
    }
    // Not read again for the same reason. If that fails it is read again.
    drop(touch(&stamped));
    Ok(())
}

/// When the entry's file was written to last; `None` for what has no bytes.
fn audit_entry(path: &Path, kind: &EntryKind) -> Result<Option<Stamp>, BuildDamage> {
    let damage = |reason: String| BuildDamage::Entry { path: path.to_owned(), reason };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(damage("is gone".into()));
        }
        Err(error) => return Err(StoreError::io("look at", path)(error).into()),
    };
    match kind {
        EntryKind::Directory if found.is_dir() => Ok(None),
        EntryKind::Directory => Err(damage("is no directory any more".into())),
        EntryKind::Symlink { target } => match std::fs::read_link(path) {
            Ok(points_to) if points_to == Path::new(target) => Ok(None),
            _ => Err(damage(format!("is no link to {target} any more"))),
        },
        EntryKind::File { .. } if !found.is_file() => {
            Err(damage("is no regular file any more".into()))
        }
        EntryKind::File { size, .. } if found.len() != *size => {
            Err(damage(format!("has {} bytes, expected {size}", found.len())))
        }
        EntryKind::File { executable, .. } => {
            let is_executable = found.permissions().mode() & 0o111 != 0;
            if is_executable == *executable {
                Ok(Some(stamp(&found)))
            } else {
                Err(damage("has another executable bit".into()))
            }
        }
    }
}

fn stamp(found: &Metadata) -> Stamp {
    (found.mtime(), found.mtime_nsec())
}

fn touch(path: &Path) -> std::io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: keep, last_modification: now };
    Ok(rustix::fs::futimens(File::open(path)?, &times)?)
}
