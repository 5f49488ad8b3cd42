//! The only place that writes the agent's state files.
//!
//! Invariant: after a crash at any moment a path holds its old content or its new content, whole,
//! and once a function has returned the new content survives a power cut. Each path has one writer
//! (the state directory is locked), so the temporary name beside it is fixed: a crash leaves at
//! most one stray file per path, and the next write takes it over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use disk::Durability;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a state file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Why a state file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what the agent writes there.
    #[error("{} is not a valid state file; move it away to go on without it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

/// Replaces the content of `path` by `document` as JSON.
///
/// # Errors
///
/// If the system refuses, such as on a full disk; `path` then keeps its old content, unless only
/// the sync of its directory failed: it then has the new content and may lose that in a power cut.
pub(crate) fn write_json<T: Serialize>(path: &Path, document: &T) -> Result<(), WriteError> {
    let failed = |source| WriteError { path: path.into(), source };
    let mut bytes = serde_json::to_vec_pretty(document).map_err(|e| failed(e.into()))?;
    bytes.push(b'\n');
    disk::replace_file(path, &temporary_beside(path), &bytes, Durability::Synced).map_err(failed)
}

/// Lets the symlink `path` point to `target`, whether it existed before or not.
///
/// # Errors
///
/// If the system refuses; the symlink then points where it did, with the exception described at
/// [`write_json`].
pub(crate) fn write_symlink(path: &Path, target: &Path) -> Result<(), WriteError> {
    disk::replace_symlink(path, &temporary_beside(path), target)
        .map_err(|source| WriteError { path: path.into(), source })
}

/// Removes `path`, if it is there.
///
/// # Errors
///
/// If the system refuses.
pub(crate) fn remove_file(path: &Path) -> Result<(), WriteError> {
    let failed = |source| WriteError { path: path.into(), source };
    match disk::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome
            .and_then(|()| disk::sync_dir(path.parent().unwrap_or(Path::new("."))))
            .map_err(failed),
    }
}

/// The document in `path`; `None` if there is no such file.
///
/// # Errors
///
/// If the file cannot be read or does not hold a `T`.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ReadError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ReadError::Io { path: path.into(), source }),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| ReadError::Malformed { path: path.into(), source })
}

fn temporary_beside(path: &Path) -> PathBuf {
    disk::scratch_beside(path, ".new")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink as make_symlink;

    use super::*;

    #[test]
    fn document_is_replaced_whole_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("goal.json");
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), None);
        write_json(&path, &vec![1, 2, 3]).unwrap();
        write_json(&path, &vec![4]).unwrap();
        assert_eq!(read_json(&path).unwrap(), Some(vec![4]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftover_of_a_crash_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("current");
        make_symlink("torn", temporary_beside(&path)).unwrap();
        write_symlink(&path, Path::new("builds/a")).unwrap();
        write_symlink(&path, Path::new("builds/b")).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("builds/b"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn failed_write_keeps_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        write_json(&path, &1).unwrap();
        // A directory in the way of the temporary file stands for any failure to create it.
        fs::create_dir(temporary_beside(&path)).unwrap();
        let error = write_json(&path, &2).unwrap_err();
        assert_eq!(error.path, path);
        assert_eq!(read_json(&path).unwrap(), Some(1));
    }

    #[test]
    fn cut_off_document_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("goal.json");
        fs::write(&path, "[1, 2").unwrap();
        let error = read_json::<Vec<u32>>(&path).unwrap_err();
        assert!(matches!(error, ReadError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("goal.json"), "{error}");
    }
}
