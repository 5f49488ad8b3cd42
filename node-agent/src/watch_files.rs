//! Files outside the build whose change an app wants to be told of, such as its configuration.
//!
//! Owns the settings and the watch (inotify). A change counts once the file is quiet and differs in
//! content: editors write a file in several steps.

use std::path::PathBuf;

/// What follows a change of a watched file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnChange {
    /// The program is replaced, as for a new build.
    #[default]
    Restart,
    /// The program is told to read its configuration again: SIGHUP, or `systemctl reload`.
    Reload,
}

/// The watched files of one app.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WatchedFiles {
    /// Absolute paths; a file may be missing.
    pub files: Vec<PathBuf>,
    /// What follows a change.
    pub on_change: OnChange,
}
