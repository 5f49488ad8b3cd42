//! The state directory of one agent: who may use it, and where things are in it.
//!
//! ```text
//! <state>/lock              held by the agent that uses the directory; contains its process id
//! <state>/node.key          the node's key
//! <state>/goal.json         highest goal accepted of each app (see `goals`)
//! <state>/apps/<app>/       one app (see `app_dir`)
//! ```
//!
//! Invariant: at most one agent uses a state directory, see [`StateLock`].

use std::fs;
use std::path::{Path, PathBuf};

use command_line::{StateLock, StateLockError};
use goal_state::AppName;

pub(crate) mod app_dir;
pub(crate) mod durable;
pub(crate) mod goals;

pub use app_dir::{AppDir, FailedBuild, Journal, JournalPhase, Paused, Place, RunningRecord};
pub use durable::{ReadError, WriteError};
pub use goals::{AcceptError, AcceptedGoal, AcceptedGoals, GoalRefusal};

/// A state directory that this process holds locked.
#[derive(Debug)]
pub struct StateDir {
    lock: StateLock,
}

impl StateDir {
    /// Opens or creates `directory` and locks it for the life of this value.
    ///
    /// # Errors
    ///
    /// If another process holds the directory or the system refuses; nothing was changed then.
    pub fn open(directory: &Path) -> Result<Self, StateLockError> {
        StateLock::take(directory).map(|lock| Self { lock })
    }

    /// The directory's real path.
    pub fn path(&self) -> &Path {
        self.lock.directory()
    }

    /// The file with the node's key.
    pub fn key_path(&self) -> PathBuf {
        self.path().join("node.key")
    }

    /// The file with the highest goal accepted of each app.
    pub fn goals_path(&self) -> PathBuf {
        self.path().join("goal.json")
    }

    /// The directory of one app, created if missing.
    ///
    /// # Errors
    ///
    /// If the system refuses to create it.
    pub fn app(&self, app: &AppName) -> Result<AppDir, StateLockError> {
        let path = self.path().join("apps").join(app.as_str());
        disk::create_dir_all_synced(&path)
            // What the last agent put there may not be durable, if it was killed before its sync.
            .and_then(|()| disk::sync_dir(&path))
            .map_err(|source| StateLockError::Unusable { path: path.clone(), source })?;
        Ok(AppDir::new(path))
    }

    /// Names of the apps that have a directory, in order. What cannot be read is left out.
    pub fn apps(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path().join("apps")).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }
}
