//! The files of one app on this host, beside its build store.
//!
//! ```text
//! <app>/builds/  <app>/staging/    the build store (p2p-net)
//! <app>/current                    symlink into builds/: the build that should run
//! <app>/journal                    the switch under way or done last, and what ran before
//! <app>/running.json               the program that serves
//! <app>/candidate.json             the program that is to take its place
//! <app>/leaving.json               the program that was replaced and is ending
//! <app>/output.log, output.log.1   what the program printed
//! <app>/output.next.log            what the candidate printed
//! ```
//!
//! Invariant: `journal` says `switching` before `current` is touched, and `good` only after the
//! program of the new build runs. This file knows formats and paths; it decides nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use p2p_core::{BuildId, Digest};
use serde::{Deserialize, Serialize};

use crate::process::ProcessIdentity;
use crate::state::durable::{self, ReadError, WriteError};

/// Most builds whose order the journal remembers. More than any sensible number of kept builds, few
/// enough that the journal stays one disk sector or so.
pub(crate) const SWITCHES_REMEMBERED_MAX: usize = 32;

/// Most failed builds that the journal remembers: more than people deploy before they mend one.
pub(crate) const FAILURES_REMEMBERED_MAX: usize = 16;

/// The directory of one app. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AppDir {
    directory: PathBuf,
}

/// The switch under way or done last.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// Generation of the goal that asked for `to`, or that it was last found to agree with.
    pub generation: u64,
    /// What `current` pointed to before; `None` for the first build.
    pub from: Option<BuildId>,
    /// What `current` is to point to.
    pub to: BuildId,
    /// How far the switch is.
    pub phase: JournalPhase,
    /// Builds that ran well here, newest first, at most `SWITCHES_REMEMBERED_MAX`.
    pub good: Vec<BuildId>,
    /// Milliseconds from learning the goal to running it; `None` while switching.
    pub elapsed_ms: Option<u64>,
    /// Starts of the program of `to` that are left before the switch is given up. Lowered before
    /// each start, so that a build that takes the machine down with it is given up too.
    #[serde(default)]
    pub tries_left: u32,
    /// The build that failed here last.
    #[serde(default)]
    pub failed: Option<FailedBuild>,
    /// Other builds that failed here, the last first, without their output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_before: Vec<FailedBuild>,
}

/// Who wants a build to run here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AskedBy {
    /// The configuration of this host (`pin`).
    Pin,
    /// The deploy of this generation. A rollback names that of the build that it goes back to.
    Deploy(u64),
}

/// A build that failed on this host. It is not tried again before somebody deploys it again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedBuild {
    /// The build.
    pub build: BuildId,
    /// Generation of the goal that the host followed when it failed. Only a deploy after it tries
    /// the build again.
    pub since: u64,
    /// What went wrong, in words for people.
    pub reason: String,
    /// The last lines that it printed; empty if it printed nothing.
    pub output: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether it ran because the configuration of this host named it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
}

/// How far a switch is. `Switching` becomes `Good` or, if the build fails, `RollingBack`, which
/// becomes `Good`. The next switch starts with `Switching` from any of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalPhase {
    /// `current` points to `from` or to `to`, and either program may run.
    Switching,
    /// As above, and `to` is a build that ran well before.
    RollingBack,
    /// `current` points to `to`, and its program ran.
    Good,
}

/// A pause that a person ordered on this host, kept in `paused.json`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Paused {
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Why, in the words of that person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Journal {
    /// The journal of a switch to `to` that begins now; `tries` are the starts that it has.
    pub fn switching(
        generation: u64,
        to: BuildId,
        from: Option<BuildId>,
        tries: u32,
        before: Option<&Self>,
    ) -> Self {
        Self {
            generation,
            from,
            to,
            phase: JournalPhase::Switching,
            good: before.map_or_else(Vec::new, |before| before.good.clone()),
            elapsed_ms: None,
            tries_left: tries,
            failed: before.and_then(|before| before.failed.clone()),
            failed_before: before.map_or_else(Vec::new, |before| before.failed_before.clone()),
        }
        .without_failure_of(to)
    }

    /// The journal of the way back to `to` after `failed`, or without it if what was there is lost.
    #[must_use]
    pub fn rolling_back(&self, to: BuildId, failed: Option<FailedBuild>) -> Self {
        let journal = match failed {
            Some(failed) => self.with_failure(failed),
            None => self.clone(),
        };
        Self {
            from: Some(self.to),
            to,
            phase: JournalPhase::RollingBack,
            elapsed_ms: None,
            tries_left: 0,
            ..journal
        }
    }

    /// The journal once `to` runs, for the goal of `generation`. A failure of it is over.
    #[must_use]
    pub fn settled(&self, generation: u64, elapsed_ms: Option<u64>) -> Self {
        let older = self.good.iter().copied().filter(|build| *build != self.to);
        let good = std::iter::once(self.to).chain(older).take(SWITCHES_REMEMBERED_MAX).collect();
        let journal = self.clone().without_failure_of(self.to);
        Self { generation, phase: JournalPhase::Good, good, elapsed_ms, ..journal }
    }

    /// The journal with the last failure of a build. It does not count as one that ran well any
    /// more, so that no way back leads to it; unless none other ever did, because a host is not
    /// left with nothing.
    #[must_use]
    pub fn with_failure(&self, failed: FailedBuild) -> Self {
        let mut journal = self.clone().without_failure_of(failed.build);
        if journal.good != [failed.build] {
            journal.good.retain(|build| *build != failed.build);
        }
        if let Some(older) = journal.failed.replace(failed) {
            // A journal stays small: people are shown the output of the last one only.
            let older = FailedBuild { output: String::new(), ..older };
            journal.failed_before.insert(0, older);
            journal.failed_before.truncate(FAILURES_REMEMBERED_MAX - 1);
        }
        journal
    }

    fn without_failure_of(mut self, build: BuildId) -> Self {
        self.failed_before.retain(|failed| failed.build != build);
        if self.failed.take_if(|failed| failed.build == build).is_some()
            && !self.failed_before.is_empty()
        {
            self.failed = Some(self.failed_before.remove(0));
        }
        self
    }

    /// What is known of the failure of `build`, if it failed here and neither was tried again nor
    /// ran well since.
    pub fn failure_of(&self, build: BuildId) -> Option<&FailedBuild> {
        self.failed.iter().chain(&self.failed_before).find(|failed| failed.build == build)
    }

    /// The failure because of which `build` is not to be tried for whoever wants it now; `None` if
    /// it may be. Only a deploy after the failure makes up for it; a pin counts as an order of its
    /// own until the build fails under it.
    pub(crate) fn quarantine_of(&self, build: BuildId, asked_by: AskedBy) -> Option<&FailedBuild> {
        self.failure_of(build).filter(|failed| match asked_by {
            // Earlier versions noted a failure under a pin as one under the goal of generation 0.
            AskedBy::Pin => failed.pinned || failed.since == 0,
            AskedBy::Deploy(generation) => generation <= failed.since,
        })
    }

    /// Whether the build of the journal failed before its program was started, where no build ran
    /// well: nothing is to run then, so `current` points nowhere.
    pub(crate) fn is_given_up(&self, current: Option<BuildId>) -> bool {
        self.phase == JournalPhase::Switching
            && self.good.is_empty()
            && current != Some(self.to)
            && self.failure_of(self.to).is_some()
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
    /// The order to restart ([`restart`](goal_state::Rollout::restart)) that this start fulfils.
    #[serde(default)]
    pub restart: u64,
    /// Distinguishes this start from every other of the app. Empty in records of older agents.
    #[serde(default)]
    pub instance: String,
    /// The systemd unit that runs it; `None` for a process of the agent's.
    #[serde(default)]
    pub unit: Option<String>,
    /// Which process it is; `None` if the agent died between announcing the start and noting who
    /// was started.
    pub process: Option<ProcessIdentity>,
}

/// The places that a program of an app can have.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// It serves.
    Serving,
    /// It is to serve once it is ready.
    Candidate,
    /// It served and was told to stop.
    Leaving,
}

impl Place {
    /// All of them, in the order in which a program passes through them, backwards: of two records
    /// of one program the first found is the newer.
    pub const ALL: [Self; 3] = [Self::Leaving, Self::Serving, Self::Candidate];

    const fn record_name(self) -> &'static str {
        match self {
            Self::Serving => "running.json",
            Self::Candidate => "candidate.json",
            Self::Leaving => "leaving.json",
        }
    }

    const fn output_name(self) -> &'static str {
        match self {
            Self::Serving => "output.log",
            Self::Candidate => "output.next.log",
            Self::Leaving => "output.log.1",
        }
    }
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

    /// Where the output of the program in `place` goes.
    pub fn output_path(&self, place: Place) -> PathBuf {
        self.directory.join(place.output_name())
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
        let path = self.directory.join("current");
        // A rename does not replace a directory, which only a person can have put there.
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
            let failed = |source| WriteError { path: path.clone(), source };
            self.set_aside("current").map_err(failed)?;
        }
        durable::write_symlink(&path, target)
    }

    /// Lets `current` point nowhere: no build is to run.
    ///
    /// # Errors
    ///
    /// If the system refuses; `current` then points where it did.
    pub fn remove_current(&self) -> Result<(), WriteError> {
        durable::remove_file(&self.directory.join("current"))
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

    /// The program in `place`; `None` if there is none or it was stopped in good order.
    ///
    /// # Errors
    ///
    /// If the record is there but cannot be read.
    pub fn running(&self, place: Place) -> Result<Option<RunningRecord>, ReadError> {
        durable::read_json(&self.directory.join(place.record_name()))
    }

    /// Replaces the record of the program in `place`.
    ///
    /// # Errors
    ///
    /// If the system refuses; the old record then stays.
    pub fn write_running(&self, place: Place, record: &RunningRecord) -> Result<(), WriteError> {
        durable::write_json(&self.directory.join(place.record_name()), record)
    }

    /// Removes the record of the program in `place`, if there is one.
    ///
    /// # Errors
    ///
    /// If the system refuses. Not harmful: a record names its process so exactly that a stale one
    /// fits no other.
    pub fn remove_running(&self, place: Place) -> io::Result<()> {
        match disk::remove_file(&self.directory.join(place.record_name())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether an operator paused the app; `None` if not.
    ///
    /// # Errors
    ///
    /// If the note is there but cannot be read.
    pub fn paused(&self) -> Result<Option<Paused>, ReadError> {
        durable::read_json(&self.directory.join("paused.json"))
    }

    /// Notes or forgets that the app is paused.
    ///
    /// # Errors
    ///
    /// If the system refuses; the old note then stays.
    pub fn write_paused(&self, paused: Option<&Paused>) -> Result<(), WriteError> {
        let path = self.directory.join("paused.json");
        match paused {
            Some(paused) => durable::write_json(&path, paused),
            None => durable::remove_file(&path),
        }
    }

    /// Moves what is under `name` out of the way, so that a person can look at it.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn set_aside(&self, name: &str) -> io::Result<()> {
        let path = self.directory.join(name);
        let free = (1_u32..).map(|number| self.directory.join(format!("{name}.aside-{number}")));
        let mut free = free.skip_while(|aside| fs::symlink_metadata(aside).is_ok());
        let aside = free.next().ok_or(io::ErrorKind::AlreadyExists)?;
        disk::rename(&path, &aside)
    }

    fn journal_path(&self) -> PathBuf {
        self.directory.join("journal")
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
        let mut journal = Journal::switching(1, build(1), None, 3, None).settled(1, Some(5));
        for (generation, to) in [(2, build(2)), (3, build(1)), (4, build(3))] {
            let from = Some(journal.to);
            journal = Journal::switching(generation, to, from, 3, Some(&journal));
            assert_eq!(journal.elapsed_ms, None);
            journal = journal.settled(generation, None);
        }
        assert_eq!(journal.good, [build(3), build(1), build(2)]);

        let folder = tempfile::tempdir().unwrap();
        let app = AppDir::new(folder.path().into());
        app.write_journal(&journal).unwrap();
        assert_eq!(app.journal().unwrap(), Some(journal));
    }

    fn failure(seed: u8, since: u64) -> FailedBuild {
        FailedBuild {
            build: build(seed),
            since,
            reason: "it crashed".into(),
            output: "no disk".into(),
            at_ms: 7,
            pinned: false,
        }
    }

    fn good() -> Journal {
        Journal::switching(1, build(1), None, 3, None).settled(1, None)
    }

    #[test]
    fn failed_builds_are_remembered_until_they_are_tried_again_or_run_well() {
        let mut journal = good();
        for seed in 2..30 {
            journal = journal.with_failure(failure(seed, u64::from(seed)));
        }
        assert_eq!(journal.failed, Some(failure(29, 29)));
        let known: Vec<u8> =
            (2..30).filter(|it| journal.failure_of(build(*it)).is_some()).collect();
        assert_eq!(known, (14..30).collect::<Vec<_>>(), "the newest sixteen");
        assert_eq!(journal.failure_of(build(28)).unwrap().output, "");

        let folder = tempfile::tempdir().unwrap();
        let app = AppDir::new(folder.path().into());
        app.write_journal(&journal).unwrap();
        assert_eq!(app.journal().unwrap().as_ref(), Some(&journal));

        let again = Journal::switching(31, build(28), Some(build(1)), 3, Some(&journal));
        assert_eq!(again.failure_of(build(28)), None);
        assert_eq!(again.failed, Some(failure(29, 29)));
        let again = Journal::switching(31, build(29), Some(build(1)), 3, Some(&journal));
        assert_eq!(again.failed.as_ref().map(|failed| failed.build), Some(build(28)));
        let stuck = Journal::switching(1, build(2), None, 3, None).with_failure(failure(2, 1));
        assert_eq!(stuck.settled(1, None).failed, None);
    }

    #[test]
    fn build_that_failed_did_not_run_well_whatever_was_before() {
        let second = Journal::switching(2, build(2), Some(build(1)), 3, Some(&good()));
        let second = second.settled(2, None);
        let again = Journal::switching(3, build(1), Some(build(2)), 3, Some(&second));
        let back = again.rolling_back(build(2), Some(failure(1, 3)));
        assert_eq!((&back.good, back.from), (&vec![build(2)], Some(build(1))));
        let last = back.with_failure(failure(2, 4));
        assert_eq!(last.good, [build(2)], "there is none other to go back to");
    }

    #[test]
    fn quarantine_ends_with_a_deploy_after_the_failure() {
        let pinned = FailedBuild { pinned: true, ..failure(2, 5) };
        let cases = [
            (failure(2, 5), AskedBy::Deploy(5), true),
            (failure(2, 5), AskedBy::Deploy(3), true),
            (failure(2, 5), AskedBy::Deploy(6), false),
            (failure(2, 5), AskedBy::Pin, false),
            (failure(3, 5), AskedBy::Deploy(5), false),
            (pinned.clone(), AskedBy::Pin, true),
            (pinned, AskedBy::Deploy(5), true),
            (failure(2, 0), AskedBy::Pin, true),
        ];
        for (failed, asked_by, expected) in cases {
            let journal = good().with_failure(failed.clone());
            let is_quarantined = journal.quarantine_of(build(2), asked_by).is_some();
            assert_eq!(is_quarantined, expected, "{failed:?} {asked_by:?}");
        }
    }

    /// Goal: a journal of an earlier version is read.
    #[test]
    fn journal_with_one_failure_of_an_earlier_version_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let (runs, bad) = (build(1), build(2));
        let text = format!(
            r#"{{"generation":5,"from":"{bad}","to":"{runs}","phase":"good","good":["{runs}"],
            "elapsed_ms":3,
            "failed":{{"build":"{bad}","since":4,"reason":"x","output":"","at_ms":9}}}}"#
        );
        fs::write(folder.path().join("journal"), text).unwrap();
        let journal = AppDir::new(folder.path().into()).journal().unwrap().unwrap();
        assert!(journal.quarantine_of(build(2), AskedBy::Deploy(4)).is_some());
        assert!(journal.failed_before.is_empty());
    }
}
