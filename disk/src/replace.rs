//! Files and symlinks that are replaced in one step.
//!
//! Invariant: at every moment, and after a crash at any moment, the path holds the old content or
//! the new, whole. The order is: write beside it, sync, rename, sync the directory.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::calls::{parent_of, remove_file, rename, symlink, sync_dir};
use crate::file::DiskFile;
use crate::operation::Open;

/// Permissions of replaced files before the umask.
const MODE: u32 = 0o666;

/// Whether what was replaced must survive a power cut at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// Data, then the name are on disk before the call returns.
    Synced,
    /// For what is written anew every few seconds: syncing it would take the disk from others.
    /// After a power cut the file may be empty or torn, which readers of soft state expect.
    SoftState,
}

/// Replaces the content of `path` by `bytes`, by way of `scratch`, which lies on the same file
/// system and has one writer. Whatever is at `scratch`, a leftover or a link, is removed first.
///
/// # Errors
///
/// The system's reason; nothing is left at `scratch`. `path` is as before, unless the last step
/// failed, the sync of its directory: then it holds the new content and may hold the old one again
/// after a power cut.
pub fn replace_file(
    path: &Path,
    scratch: &Path,
    bytes: &[u8],
    durability: Durability,
) -> io::Result<()> {
    let write = || {
        let mut file = DiskFile::open(scratch, Open::New(MODE))?;
        file.write_all(bytes)?;
        if durability == Durability::Synced { file.sync_all() } else { Ok(()) }
    };
    replace(path, scratch, write)?;
    if durability == Durability::Synced { sync_dir(parent_of(path)) } else { Ok(()) }
}

/// Lets the symlink `path` point to `target`, whether it was there before or not, by way of
/// `scratch` as in [`replace_file`].
///
/// # Errors
///
/// Those of [`replace_file`].
pub fn replace_symlink(path: &Path, scratch: &Path, target: &Path) -> io::Result<()> {
    // A symlink cannot be synced by itself; the sync of its directory covers it.
    replace(path, scratch, || symlink(target, scratch))?;
    sync_dir(parent_of(path))
}

fn replace(path: &Path, scratch: &Path, create: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // One that a killed process left, or a link that somebody put there, is not written through.
    match remove_file(scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let replaced = create().and_then(|()| rename(scratch, path));
    if replaced.is_err() {
        // The first error is the one to report; what cannot be removed is replaced by the next
        // call.
        drop(remove_file(scratch));
    }
    replaced
}

/// The usual place for the scratch of [`replace_file`]: beside `path`, with a dot in front and
/// `suffix` behind its name.
pub fn scratch_beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(suffix);
    path.with_file_name(name)
}
