//! Who may use the directory that `--state` names.
//!
//! Invariant: at most one process uses a state directory. The lock dies with its process, however
//! that ends, so nothing has to be cleaned up after a crash. The file `lock` in it contains the
//! process id of its holder.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// A state directory that this process holds locked.
#[derive(Debug)]
pub struct StateLock {
    directory: PathBuf,
    _file: File,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateLockError {
    /// It cannot be created or written.
    #[error(
        "cannot use the state directory {}; choose one that this user may write with --state",
        path.display()
    )]
    Unusable {
        /// The directory or the file in it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the state directory {} is in use by {}; stop that one or choose another directory with \
         --state",
        path.display(),
        holder_text(*holder)
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it; `None` if it has not written its id yet.
        holder: Option<u32>,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(
        || "another process".into(),
        |process_id| format!("the process with id {process_id}"),
    )
}

impl StateLock {
    /// Opens or creates `directory` and locks it for the life of this value.
    ///
    /// # Errors
    ///
    /// If another process holds the directory or the system refuses; nothing was changed then.
    pub fn take(directory: &Path) -> Result<Self, StateLockError> {
        let unusable = |source| StateLockError::Unusable { path: directory.into(), source };
        disk::create_dir_all_synced(directory).map_err(unusable)?;
        // What the last process put here may not be durable, if it was killed before its sync.
        disk::sync_dir(directory).map_err(unusable)?;
        // The real path, so that what is started in it is found again from any working directory.
        let directory = fs::canonicalize(directory).map_err(unusable)?;
        let path = directory.join("lock");
        let unusable = |source| StateLockError::Unusable { path: path.clone(), source };

        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let holder = file.read_to_string(&mut text).ok();
                let holder = holder.and_then(|_| text.trim().parse().ok());
                return Err(StateLockError::InUse { path: directory, holder });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        file.set_len(0).map_err(unusable)?;
        file.rewind().map_err(unusable)?;
        writeln!(file, "{}", std::process::id()).map_err(unusable)?;
        Ok(Self { directory, _file: file })
    }

    /// The directory's real path.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_process_learns_who_holds_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/state");
        let first = StateLock::take(&path).unwrap();
        let error = StateLock::take(&path).unwrap_err();
        let own = std::process::id();
        assert!(matches!(error, StateLockError::InUse { holder: Some(pid), .. } if pid == own));
        assert!(error.to_string().contains(&format!("process with id {own}")), "{error}");
        drop(first);
        StateLock::take(&path).unwrap();
    }

    #[test]
    fn file_in_the_way_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = StateLock::take(file.path()).unwrap_err();
        assert!(matches!(error, StateLockError::Unusable { .. }), "{error}");
        let path = file.path().display().to_string();
        assert!(error.to_string().contains(&path), "{error}");
        assert!(error.to_string().contains("--state"), "{error}");
    }
}
