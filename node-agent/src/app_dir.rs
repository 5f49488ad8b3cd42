//! The files of one app on this host, beside its build store.
//!
//! ```text
//! <app>/builds/  <app>/staging/    the build store (p2p-net)
//! <app>/current                    symlink into builds/: the build that should run
//! <app>/journal                    the switch under way or done last, and what ran before
//! <app>/running.json               the program that was started last
//! <app>/output.log, output.log.1   what the program printed
//! ```
//!
//! Invariant: `journal` says `switching` before `current` is touched, and `good` only after the
//! program of the new build runs. This file knows formats and paths; it decides nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use p2p_core::{BuildId, Digest};
use serde::{Deserialize, Serialize};

use crate::durable::{self, ReadError, WriteError};
use crate::process::ProcessIdentity;

/// Most builds whose order the journal remembers. More than any sensible number of kept builds, few
/// enough that the journal stays one disk sector or so.
pub const SWITCHES_REMEMBERED_MAX: usize = 32;

/// The directory of one app. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AppDir {
    directory: PathBuf,
}

/// The switch under way or done last.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// Generation of the goal that asked for `to`.
    pub generation: u64,
    /// What `current` pointed to before; `None` for the first build.
    pub from: Option<BuildId>,
    /// What `current` is to point to.
    pub to: BuildId,
    /// How far the switch is.
    pub phase: JournalPhase,
    /// Builds that ran well here, newest first, at most [`SWITCHES_REMEMBERED_MAX`].
    pub good: Vec<BuildId>,
    /// Milliseconds from learning the goal to running it; `None` while switching.
    pub elapsed_ms: Option<u64>,
}

/// How far a switch is. `Switching` becomes `Good`; the next switch starts with `Switching`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalPhase {
    /// `current` points to `from` or to `to`, and either program may run.
    Switching,
    /// `current` points to `to`, and its program ran.
    Good,
}

impl Journal {
    /// The journal of a switch to `to` that begins now.
    pub fn switching(generation: u64, to: BuildId, from: Option<BuildId>, before: &Self) -> Self {
        let good = before.good.clone();
        Self { generation, from, to, phase: JournalPhase::Switching, good, elapsed_ms: None }
    }

    /// An empty past: nothing ever ran here.
    pub fn first(generation: u64, to: BuildId) -> Self {
        let phase = JournalPhase::Switching;
        Self { generation, from: None, to, phase, good: vec![], elapsed_ms: None }
    }

    /// The journal once `to` runs, for the goal of `generation`.
    #[must_use]
    pub fn settled(&self, generation: u64, elapsed_ms: Option<u64>) -> Self {
        let older = self.good.iter().copied().filter(|build| *build != self.to);
        let good = std::iter::once(self.to).chain(older).take(SWITCHES_REMEMBERED_MAX).collect();
        Self { generation, phase: JournalPhase::Good, good, elapsed_ms, ..self.clone() }
    }
}

/// The program that was started last, as the next agent needs it to find that program again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningRecord {
    /// The build it was started from.
    pub build: BuildId,
    /// Digest of the command, its environment and its directory.
    pub command: Digest,
    /// Which process it is; `None` if the agent died between announcing the start and noting who
    /// was started.
    pub process: Option<ProcessIdentity>,
}

impl AppDir {
    /// The app whose files are in `directory`.
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The directory, which is also that of the app's build store.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Where the program's output goes.
    pub fn output_path(&self) -> PathBuf {
        self.directory.join("output.log")
    }

    /// The build that `current` names, whether it is here or not; `None` without `current`.
    ///
    /// # Errors
    ///
    /// If `current` is not a symlink, or not one that the agent made.
    pub fn current(&self) -> io::Result<Option<BuildId>> {
        let target = match fs::read_link(self.directory.join("current")) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut names = target.components().filter_map(|part| part.as_os_str().to_str());
        let build = names.find_map(|name| name.parse().ok());
        build.map(Some).ok_or_else(|| {
            io::Error::other(format!("it points to {}, which is no build", target.display()))
        })
    }

    /// Lets `current` point to the build whose files are in `root`.
    ///
    /// # Errors
    ///
    /// If the system refuses; `current` then points where it did.
    pub fn set_current(&self, root: &Path) -> Result<(), WriteError> {
        // Relative, so that the state directory can be moved.
        let target = root.strip_prefix(&self.directory).unwrap_or(root);
        durable::write_symlink(&self.directory.join("current"), target)
    }

    /// The journal; `None` before the first switch.
    ///
    /// # Errors
    ///
    /// If it is there but cannot be read.
    pub fn journal(&self) -> Result<Option<Journal>, ReadError> {
        durable::read_json(&self.journal_path())
    }

    /// Replaces the journal.
    ///
    /// # Errors
    ///
    /// If the system refuses; the journal then says what it said.
    pub fn write_journal(&self, journal: &Journal) -> Result<(), WriteError> {
        durable::write_json(&self.journal_path(), journal)
    }

    /// The program that was started last; `None` if it was stopped in good order.
    ///
    /// # Errors
    ///
    /// If the record is there but cannot be read.
    pub fn running(&self) -> Result<Option<RunningRecord>, ReadError> {
        durable::read_json(&self.running_path())
    }

    /// Replaces the record of the running program.
    ///
    /// # Errors
    ///
    /// If the system refuses; the old record then stays.
    pub fn write_running(&self, record: &RunningRecord) -> Result<(), WriteError> {
        durable::write_json(&self.running_path(), record)
    }

    /// Removes the record of the running program, if there is one.
    ///
    /// # Errors
    ///
    /// If the system refuses. Not harmful: a record names its process so exactly that a stale one
    /// fits no other.
    pub fn remove_running(&self) -> io::Result<()> {
        match disk::remove_file(&self.running_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn journal_path(&self) -> PathBuf {
        self.directory.join("journal")
    }

    fn running_path(&self) -> PathBuf {
        self.directory.join("running.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(seed: u8) -> BuildId {
        BuildId::of_manifest(&[seed])
    }

    #[test]
    fn current_names_the_build_wherever_its_files_are() {
        let folder = tempfile::tempdir().unwrap();
        let app = AppDir::new(folder.path().into());
        assert_eq!(app.current().unwrap(), None);
        let roots = [
            folder.path().join(format!("builds/{}", build(1))),
            folder.path().join(format!("builds/{}/files", build(2))),
        ];
        for (root, expected) in roots.iter().zip([build(1), build(2)]) {
            app.set_current(root).unwrap();
            assert_eq!(app.current().unwrap(), Some(expected));
            let target = fs::read_link(folder.path().join("current")).unwrap();
            assert!(target.is_relative(), "{}", target.display());
        }
    }

    #[test]
    fn current_that_is_not_ours_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let app = AppDir::new(folder.path().into());
        std::os::unix::fs::symlink("/etc", folder.path().join("current")).unwrap();
        assert!(app.current().unwrap_err().to_string().contains("/etc"));
        fs::remove_file(folder.path().join("current")).unwrap();
        fs::create_dir(folder.path().join("current")).unwrap();
        app.current().unwrap_err();
    }

    #[test]
    fn journal_keeps_the_order_in_which_builds_ran() {
        let mut journal = Journal::first(1, build(1)).settled(1, Some(5));
        for (generation, to) in [(2, build(2)), (3, build(1)), (4, build(3))] {
            let from = Some(journal.to);
            journal = Journal::switching(generation, to, from, &journal);
            assert_eq!(journal.elapsed_ms, None);
            journal = journal.settled(generation, None);
        }
        assert_eq!(journal.good, [build(3), build(1), build(2)]);

        let folder = tempfile::tempdir().unwrap();
        let app = AppDir::new(folder.path().into());
        app.write_journal(&journal).unwrap();
        assert_eq!(app.journal().unwrap(), Some(journal));
    }
}
