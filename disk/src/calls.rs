//! Changes of names: one system call each.
//!
//! Invariant: under a watched directory each is asked for before it is carried out and kept in the
//! record. Which calls belong together, and in which order, is the caller's business; the usual
//! order for replacing is in `replace.rs`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::file::DiskFile;
use crate::operation::{Open, Operation};
use crate::watch::root_of;

/// Makes a directory.
///
/// # Errors
///
/// The system's reason.
pub fn create_dir(path: &Path) -> io::Result<()> {
    create_dir_with(path, 0o777)
}

/// Makes a directory with these permissions, less those that the umask takes away.
///
/// # Errors
///
/// The system's reason.
pub fn create_dir_with(path: &Path, mode: u32) -> io::Result<()> {
    let act = || DirBuilder::new().mode(mode).create(path);
    carry_out(path, |path| Operation::CreateDirectory { path }, act)
}

/// Makes a directory and those above it that are missing. That alone makes none of them durable.
///
/// # Errors
///
/// The system's reason. Some of them may be there then.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    make_directories(path, false)
}

/// Makes a directory and those above it that are missing, and the names of all that were made
/// durable. An empty directory counts as just made: its maker may have been killed before it synced
/// the name, and whatever is put into it would be lost with that.
///
/// # Errors
///
/// The system's reason. Some of them may be there then.
pub fn create_dir_all_synced(path: &Path) -> io::Result<()> {
    make_directories(path, true)
}

fn make_directories(path: &Path, is_synced: bool) -> io::Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            let is_fresh = is_synced && fs::read_dir(path).is_ok_and(|mut it| it.next().is_none());
            return if is_fresh { sync_dir(parent_of(path)) } else { Ok(()) };
        }
        Ok(_) => return Err(Errno::NOTDIR.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    make_directories(parent_of(path), is_synced)?;
    match create_dir(path) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    if is_synced { sync_dir(parent_of(path)) } else { Ok(()) }
}

/// Removes the name of a file or of a symlink.
///
/// # Errors
///
/// The system's reason.
pub fn remove_file(path: &Path) -> io::Result<()> {
    carry_out(path, |path| Operation::RemoveFile { path }, || fs::remove_file(path))
}

/// Removes an empty directory.
///
/// # Errors
///
/// The system's reason.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    carry_out(path, |path| Operation::RemoveDirectory { path }, || fs::remove_dir(path))
}

/// Removes a directory with everything in it. Links are removed, not followed.
///
/// # Errors
///
/// The system's reason. Part of it may be gone.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    if root_of(path).is_none() {
        return fs::remove_dir_all(path);
    }
    if !fs::symlink_metadata(path)?.is_dir() {
        return remove_file(path);
    }
    let mut below: Vec<PathBuf> =
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    // The system's order differs from run to run.
    below.sort();
    for path in below {
        remove_dir_all(&path)?;
    }
    remove_dir(path)
}

/// Renames, over what is at `to`.
///
/// # Errors
///
/// The system's reason.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    carry_out_rename(from, to, || fs::rename(from, to))
}

/// Renames `from` to `to`, unless something is there already: that is an error of the kind
/// [`io::ErrorKind::AlreadyExists`].
///
/// # Errors
///
/// The system's reason.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let act = || match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some network and stacked file systems do not know the flag. Looking first leaves a gap
        // for a second process.
        Err(Errno::INVAL) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        outcome => Ok(outcome?),
    };
    carry_out_rename(from, to, act)
}

fn carry_out_rename(
    from: &Path,
    to: &Path,
    act: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    match root_of(from) {
        // What comes from outside is not in the record.
        None if root_of(to).is_some() => Err(io::ErrorKind::Unsupported.into()),
        None => act(),
        Some((root, from)) => {
            let operation = Operation::Rename { from, to: root.relative(to) };
            root.carry_out(operation, act)
        }
    }
}

/// Lets two names change places in one step.
///
/// # Errors
///
/// The system's reason; [`io::ErrorKind::InvalidInput`] if the file system cannot.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let act = || Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?);
    let Some((root, relative)) = root_of(one) else { return act() };
    let other = root.relative(other).ok_or(io::ErrorKind::Unsupported)?;
    root.carry_out(Operation::Exchange { one: relative, other }, act)
}

/// Makes a symlink at `path`.
///
/// # Errors
///
/// The system's reason.
pub fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    let act = || std::os::unix::fs::symlink(target, path);
    carry_out(path, |path| Operation::Symlink { path, target: target.to_owned() }, act)
}

/// Gives the file `from` a second name, `to`, where nothing is yet.
///
/// # Errors
///
/// The system's reason.
pub fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    let Some((root, relative)) = root_of(from) else { return fs::hard_link(from, to) };
    let target = root.relative(to).ok_or(io::ErrorKind::Unsupported)?;
    let operation = Operation::HardLink { from: relative, to: target };
    root.carry_out(operation, || fs::hard_link(from, to))
}

/// Sets the permissions of a file or a directory, which may not be a symlink.
///
/// # Errors
///
/// The system's reason.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    DiskFile::open(path, Open::Read)?.set_mode(mode)
}

/// Makes the names in a directory durable.
///
/// # Errors
///
/// The system's reason.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    // The directory of a plain file name.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let Some((root, relative)) = root_of(path) else { return File::open(path)?.sync_all() };
    root.carry_out(Operation::SyncDirectory { path: relative }, || File::open(path).map(drop))
}

/// Makes everything on the file system that holds `path` durable.
///
/// # Errors
///
/// The system's reason.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    let Some((root, relative)) = root_of(path) else {
        return Ok(rustix::fs::syncfs(File::open(path)?)?);
    };
    root.carry_out(Operation::SyncFileSystem { path: relative }, || File::open(path).map(drop))
}

/// The directory that holds `path`; empty for a plain name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn carry_out<T>(
    path: &Path,
    operation: impl FnOnce(PathBuf) -> Operation,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    match root_of(path) {
        None => act(),
        Some((root, relative)) => root.carry_out(operation(relative), act),
    }
}
