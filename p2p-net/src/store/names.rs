//! A directory of the store whose names are not believed before they are durable.
//!
//! A name that was renamed into place is seen by everybody at once, also by a process that starts
//! after the one that put it there was killed, or whose sync failed. Invariant: whoever acts on a
//! name has synced the directory after that name was made, so what is built on it does not outlive
//! it in a power cut. All calls block.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::durable;
use super::error::StoreError;

/// The directory, and whether names in it may not be durable.
#[derive(Debug)]
pub(super) struct Names {
    path: PathBuf,
    /// Held while the directory is synced: whoever comes meanwhile waits for the outcome.
    is_in_doubt: Mutex<bool>,
}

impl Names {
    /// At first in doubt: nobody knows how the last process ended.
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, is_in_doubt: Mutex::new(true) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// To be called before a name is changed.
    pub(super) fn doubt(&self) {
        *self.is_in_doubt.lock() = true;
    }

    /// Makes all names durable. Costs nothing if they are.
    ///
    /// # Errors
    ///
    /// The system's reason; they stay in doubt.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        let mut is_in_doubt = self.is_in_doubt.lock();
        if *is_in_doubt {
            durable::sync_directory(&self.path)?;
            *is_in_doubt = false;
        }
        Ok(())
    }
}
