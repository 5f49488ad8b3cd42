//! Small files and directories that survive a power cut, and how much space is left.
//!
//! Owns the order "write, sync, rename, sync the directory" and nothing else. All calls block.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};

use super::error::StoreError;

/// Replaces `path` by a file of `bytes`: after a crash it is the old file or the new one.
///
/// `scratch` is written first and renamed; it must lie on the same file system.
///
/// # Errors
///
/// The system's reason. `path` is as before, `scratch` may be left behind.
pub(crate) fn replace_file(path: &Path, scratch: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let directory = parent_of(path);
    let write = || {
        let mut file = File::create(scratch)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(StoreError::write("write", scratch, directory, bytes.len() as u64))?;
    std::fs::rename(scratch, path).map_err(StoreError::io("rename a file to", path))?;
    sync_directory(directory)
}

/// Makes the names in a directory durable.
///
/// # Errors
///
/// The system's reason.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(StoreError::io("sync", path))
}

/// Renames `from` to `to` unless there is something already, then by an error of the kind
/// [`io::ErrorKind::AlreadyExists`]. Not durable before both directories are synced.
///
/// # Errors
///
/// The system's reason.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some network and stacked file systems do not know the flag. Looking first leaves a gap
        // for a second process, which then loses the race to a build with the same bytes.
        Err(rustix::io::Errno::INVAL) => match std::fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => std::fs::rename(from, to),
        },
        outcome => Ok(outcome?),
    }
}

/// Bytes that this process may still take of the disk that holds `path`.
///
/// # Errors
///
/// The system's reason.
pub(crate) fn available_space(path: &Path) -> Result<u64, StoreError> {
    let disk = rustix::fs::statvfs(path)
        .map_err(|errno| StoreError::io("measure the disk of", path)(errno.into()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().expect("the store names files inside its directory")
}
