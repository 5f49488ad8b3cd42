//! Small files and directories that survive a power cut, and how much space is left.
//!
//! Does what `disk` does, with the errors of the store. All calls block.

use std::path::Path;

use disk::Durability;

use super::error::StoreError;

/// Replaces `path` by a file of `bytes`: after a crash it is the old file or the new one.
///
/// `scratch` is written first and renamed; it must lie on the same file system.
///
/// # Errors
///
/// The system's reason. `path` is as before, or the new file that may not be durable.
pub(crate) fn replace_file(path: &Path, scratch: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let size = bytes.len() as u64;
    disk::replace_file(path, scratch, bytes, Durability::Synced).map_err(StoreError::write(
        "write",
        path,
        parent_of(path),
        size,
    ))
}

/// Makes the names in a directory durable.
///
/// # Errors
///
/// The system's reason.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    disk::sync_dir(path).map_err(StoreError::io("sync", path))
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
