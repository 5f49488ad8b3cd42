//! Makes a build's entries on disk: first with their space reserved, at the end with their final
//! modes and synced.
//!
//! Invariant: between the two there are only directories and regular files under the root, no
//! link, so nothing written in between can land outside of it. All calls block.

use std::io;
use std::path::Path;

use disk::{DiskFile, Open};
use p2p_core::{Entry, EntryKind};

use super::durable;
use super::error::{StoreError, SyncFault};
use super::tree::{SYNCED_SINGLY_MAX, TreeFiles};

/// Makes the directories and files of `entries` under `root` with all their space, so that a full
/// disk is found before the first byte. What is there with the right kind and size is kept.
/// Names that are made are not durable by that.
///
/// # Errors
///
/// [`StoreError::NoSpace`] or the system's reason. What was made until then stays.
pub(crate) fn reserve(root: &Path, entries: &[Entry]) -> Result<(), StoreError> {
    let is_missing = |path: &str, size: u64| match std::fs::symlink_metadata(root.join(path)) {
        Ok(found) => !found.is_file() || found.len() != size,
        Err(_) => true,
    };
    let mut missing_files = vec![];
    let mut needed = 0_u64;
    for Entry { path, kind } in entries {
        match kind {
            EntryKind::File { size, .. } if is_missing(path, *size) => {
                missing_files.push((path, *size));
                needed = needed.saturating_add(*size);
            }
            EntryKind::Directory | EntryKind::File { .. } | EntryKind::Symlink { .. } => {}
        }
    }
    let available = durable::available_space(root)?;
    if available < needed {
        return Err(StoreError::NoSpace { path: root.to_owned(), needed, available });
    }
    for Entry { path, kind } in entries {
        if *kind == EntryKind::Directory {
            make_directory(root, path)?;
        }
    }
    for (path, size) in missing_files {
        make_file(root, path, size, needed)?;
    }
    Ok(())
}

fn make_directory(root: &Path, path: &str) -> Result<(), StoreError> {
    let path = root.join(path);
    match std::fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => remove_any(&path)?,
        Err(_) => {}
    }
    disk::create_dir_with(&path, 0o755).map_err(StoreError::write("create", &path, root, 0))
}

/// Makes an empty place of `size` bytes at `path`, instead of what is there.
///
/// # Errors
///
/// The system's reason; then there is no such file.
pub(crate) fn make_file(root: &Path, path: &str, size: u64, needed: u64) -> Result<(), StoreError> {
    let path = root.join(path);
    remove_any(&path)?;
    let file = DiskFile::open(&path, Open::New(0o600))
        .map_err(StoreError::write("create", &path, root, needed))?;
    if let Err(error) = reserve_file(&file, size) {
        // A file with its final size passes for reserved when the download is resumed.
        drop(file);
        remove_any(&path)?;
        return Err(StoreError::write("reserve space for", &path, root, needed)(error));
    }
    Ok(())
}

fn reserve_file(file: &DiskFile, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    match file.allocate(size) {
        // The file system cannot reserve. A full disk is then found while writing.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => file.set_len(size),
        outcome => outcome,
    }
}

/// Removes a file, a link or a directory with all that is in it, if it is there.
///
/// # Errors
///
/// The system's reason.
pub(super) fn remove_any(path: &Path) -> Result<(), StoreError> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => disk::remove_dir_all(path),
        Ok(_) => disk::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(StoreError::io("remove", path))
}

/// Makes the names of all directories of `entries` durable, `root`'s included.
///
/// # Errors
///
/// The system's reason.
pub(crate) fn sync_directories(root: &Path, entries: &[Entry]) -> Result<(), StoreError> {
    let directories: Vec<&Entry> =
        entries.iter().filter(|entry| entry.kind == EntryKind::Directory).collect();
    if directories.len() > SYNCED_SINGLY_MAX {
        return disk::sync_file_system(root).map_err(StoreError::io("sync", root));
    }
    // A directory is listed before what it holds, so this goes from the leaves to the root.
    for directory in directories.iter().rev() {
        durable::sync_directory(&root.join(&directory.path))?;
    }
    durable::sync_directory(root)
}

/// Gives the entries their links and modes and makes all of the tree durable.
///
/// # Errors
///
/// See [`SyncFault`].
pub(crate) fn seal(tree: &TreeFiles, entries: &[Entry]) -> Result<(), SyncFault> {
    let is_few = entries.len() <= SYNCED_SINGLY_MAX;
    for Entry { path, kind } in entries {
        let place = tree.root().join(path);
        match kind {
            EntryKind::Symlink { target } => make_link(tree.root(), &place, target)?,
            EntryKind::Directory => set_mode(&place, 0o755).map(drop)?,
            EntryKind::File { executable, .. } => {
                let file = set_mode(&place, if *executable { 0o755 } else { 0o644 })?;
                if is_few {
                    file.sync_all().map_err(|source| lost(tree, path, source))?;
                }
            }
        }
    }
    if is_few {
        return Ok(sync_directories(tree.root(), entries)?);
    }
    disk::sync_file_system(tree.root()).map_err(|source| SyncFault::Lost { file: None, source })
}

fn lost(tree: &TreeFiles, path: &str, source: io::Error) -> SyncFault {
    match tree.map().files().iter().position(|file| *file.path == *path) {
        Some(file) => SyncFault::Lost { file: Some(file), source },
        // An empty file: it has nothing to lose.
        None => SyncFault::Store(StoreError::io("sync", &tree.root().join(path))(source)),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<DiskFile, StoreError> {
    let set = || {
        let file = DiskFile::open(path, Open::Read)?;
        file.set_mode(mode)?;
        Ok(file)
    };
    set().map_err(StoreError::io("set the mode of", path))
}

fn make_link(root: &Path, path: &Path, target: &str) -> Result<(), StoreError> {
    if std::fs::read_link(path).is_ok_and(|found| found.as_os_str() == target) {
        return Ok(());
    }
    remove_any(path)?;
    disk::symlink(Path::new(target), path).map_err(StoreError::write(
        "create the link",
        path,
        root,
        0,
    ))
}
