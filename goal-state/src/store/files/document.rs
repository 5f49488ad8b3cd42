//! One small document in one file: read whole, replaced in one step.
//!
//! Invariant: a reader sees the old or the new document, never a part of one, also after a power
//! cut. Blocking; knows nothing of what the documents say. Two processes must not replace one file
//! at the same time (the caller's lock, or the rule that a document has one writer).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(crate) use disk::Durability;

use crate::store::error::{FileAction, GoalStoreError};

/// What distinguishes a changed file from an unchanged one without reading it. Replacing a file
/// gives it another inode; the rest is for editors that write in place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The present state of a file; `None` if it cannot be looked at, for whatever reason.
pub(crate) fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let metadata = fs::metadata(path).ok()?;
    Some(Fingerprint {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// The bytes of a document; `None` if there is no such file.
///
/// # Errors
///
/// The file cannot be read, is larger than `bytes_max`, or is no regular file (reading a named pipe
/// would never end).
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, GoalStoreError> {
    let failed = |source| GoalStoreError::file(FileAction::Read, path, source);
    let malformed =
        |reason: String| GoalStoreError::Malformed { place: path.display().to_string(), reason };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(malformed("it is not a regular file; move it away".into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > bytes_max {
        return Err(malformed(format!("it has more than {bytes_max} bytes; move it away")));
    }
    Ok(Some(bytes))
}

/// Puts `bytes` in place of the document, or leaves it as it is.
///
/// # Errors
///
/// A file operation failed; nothing is left behind. The old document is still there, unless only
/// the sync of the directory failed.
pub(crate) fn replace(
    path: &Path,
    bytes: &[u8],
    durability: Durability,
) -> Result<(), GoalStoreError> {
    disk::replace_file(path, &temporary(path), bytes, durability)
        .map_err(|source| GoalStoreError::file(FileAction::Write, path, source))
}

/// Beside the document and with a dot in front, which no document's name has.
fn temporary(path: &Path) -> PathBuf {
    disk::scratch_beside(path, ".tmp")
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates a directory with those above it, each entry synced.
pub(crate) fn create_directories(path: &Path) -> Result<(), GoalStoreError> {
    let failed = |source| GoalStoreError::file(FileAction::Create, path, source);
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(GoalStoreError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    create_directories(parent(path))?;
    match disk::create_dir(path) {
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        created => created.map_err(failed)?,
    }
    disk::sync_dir(parent(path)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn document_is_replaced_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.json");
        assert_eq!(read(&path, 10).unwrap(), None);
        for (bytes, durability) in [(b"one", Durability::Synced), (b"two", Durability::SoftState)] {
            let before = fingerprint(&path);
            replace(&path, bytes, durability).unwrap();
            assert_eq!(read(&path, 10).unwrap().unwrap(), bytes);
            assert_ne!(fingerprint(&path), before);
            assert_eq!(fingerprint(&path), fingerprint(&path));
        }
        assert_eq!(names(directory.path()), ["web.json"]);
    }

    #[test]
    fn leftover_of_a_killed_writer_is_replaced_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.json");
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, directory.path().join(".web.json.tmp")).unwrap();
        replace(&path, b"new", Durability::Synced).unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
        assert_eq!(names(directory.path()), ["elsewhere", "web.json"]);
    }

    #[test]
    fn failed_rename_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.json");
        // A directory stands where the document should go, so the last step fails.
        fs::create_dir_all(path.join("full")).unwrap();
        let error = replace(&path, b"new", Durability::Synced).unwrap_err().to_string();
        assert!(error.contains("write") && error.contains("web.json"), "{error}");
        assert_eq!(names(directory.path()), ["web.json"]);
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.json");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap().unwrap(), b"12345");
        let error = read(&path, 4).unwrap_err().to_string();
        assert!(error.contains("web.json") && error.contains("more than 4 bytes"), "{error}");
        let error = read(directory.path(), 5).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        let error = read(Path::new("/dev/zero"), 5).unwrap_err().to_string();
        assert!(error.contains("/dev/zero") && error.contains("not a regular file"), "{error}");
        let error = read(&path.join("below"), 5).unwrap_err().to_string();
        assert!(error.contains("a part of the path is a file"), "{error}");
    }

    #[test]
    fn directories_are_created_once_and_not_over_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/c");
        create_directories(&path).unwrap();
        create_directories(&path).unwrap();
        assert!(path.is_dir());
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        for wrong in [file.clone(), file.join("below")] {
            let error = create_directories(&wrong).unwrap_err().to_string();
            assert!(error.contains("a part of the path is a file"), "{error}");
        }
    }
}
