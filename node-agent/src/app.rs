//! The loop of one app on this host: asks the brain for a step, carries it out, waits for what
//! happens next.
//!
//! Invariant: the loop never waits while it acts, except for the short durable writes of a switch,
//! which is why it runs on a thread of its own. Downloads, stops and removals go on beside it, so a
//! new goal is followed at once whatever is under way. All decisions are in `reconcile`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use goal_state::{AppName, HostPhase, HostStatus};
use p2p_core::{BuildId, ByteRate};
use p2p_net::{BuildStore, Phase, Progress, StoreError, StoredBuild};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app_dir::{AppDir, Journal, JournalPhase};
use crate::backoff::Backoff;
use crate::durable::{ReadError, WriteError};
use crate::goals::AcceptedGoal;
use crate::launch::Launch;
use crate::reconcile::{self, Actual, Policy, Program, Step, Transfer, Wanted};
use crate::source::{BuildSource, RunningDownload};
use crate::status::{StatusBoard, now_ms};
use crate::supervisor::{self, Supervisor, SupervisorTimings};

/// What the loop of an app needs to know.
#[derive(Clone, Debug)]
pub struct AppSettings {
    /// The app.
    pub name: AppName,
    /// Name of this host in statuses.
    pub host: String,
    /// Its program; `None` if its builds are only switched.
    pub launch: Option<Launch>,
    /// Builds to keep, the current one included.
    pub keep_builds: usize,
    /// When the loop acts by itself.
    pub timings: AppTimings,
}

/// When the loop of an app acts by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AppTimings {
    /// Those of its program.
    pub supervisor: SupervisorTimings,
    /// Wait after a disk that failed or is full; doubles with each time in a row.
    pub retry_first: Duration,
    /// Longest such wait.
    pub retry_max: Duration,
    /// How often the status row is renewed and everything looked after without a reason.
    pub refresh: Duration,
}

impl AppTimings {
    /// Servers of a fleet. A full disk is looked after by people, so trying often helps nobody.
    pub const fn fleet() -> Self {
        Self {
            supervisor: SupervisorTimings::fleet(),
            retry_first: Duration::from_secs(5),
            retry_max: Duration::from_mins(1),
            refresh: Duration::from_secs(10),
        }
    }
}

/// What the agent knows of an app's goal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GoalView {
    /// The goal followed; `None` if none was ever accepted.
    pub followed: Option<AcceptedGoal>,
    /// What is wrong with the goal store or with what it offers, for people.
    pub note: Option<String>,
}

/// Why an app's files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenAppError {
    /// Its build store cannot be used.
    #[error("cannot open the build store {}", path.display())]
    Store {
        /// The store's directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// `current` is not what the agent makes.
    #[error("cannot use the symlink {}/current; move it away to start over", path.display())]
    Current {
        /// The app's directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] ReadError),
}

/// Why a step on disk failed; it is tried again later.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("cannot switch to build {}", build.short())]
    Switch {
        build: BuildId,
        #[source]
        source: WriteError,
    },
    #[error("cannot note that the build runs")]
    Settle(#[source] WriteError),
    #[error("cannot remove build {}", build.short())]
    Remove {
        build: BuildId,
        #[source]
        source: Box<StoreError>,
    },
    #[error("the removal of build {} was interrupted", build.short())]
    RemoveInterrupted { build: BuildId },
}

/// One app on this host. See the head of this file.
#[derive(Debug)]
pub struct App<S: BuildSource> {
    settings: AppSettings,
    directory: AppDir,
    store: BuildStore,
    source: S,
    board: StatusBoard,
    goal: watch::Receiver<GoalView>,
    supervisor: Supervisor,
    builds: BTreeMap<BuildId, StoredBuild>,
    staged: BTreeSet<BuildId>,
    current: Option<BuildId>,
    journal: Option<Journal>,
    download: Option<ActiveDownload<S::Download>>,
    download_trouble: Trouble<BuildId>,
    disk_trouble: Trouble<()>,
    removal: Option<(BuildId, JoinHandle<Result<(), StoreError>>)>,
    progress: (Option<BuildId>, Progress),
    refresh_at: Instant,
    stall: Stall,
}

/// Where the download stood when it was last looked at, to tell in the log that it hangs.
#[derive(Debug, Default)]
struct Stall {
    /// Build, bytes here, and what is waited for; `None` while nothing is.
    seen: Option<(BuildId, u64, String)>,
    is_told: bool,
}

impl Stall {
    /// Takes in a new look; whether it shows, for the first time, the same as the one before.
    fn is_new(&mut self, look: Option<(BuildId, u64, String)>) -> bool {
        let is_same = look.is_some() && look == self.seen;
        let is_new = is_same && !self.is_told;
        self.seen = look;
        self.is_told = is_same;
        is_new
    }
}

#[derive(Debug)]
struct ActiveDownload<D> {
    build: BuildId,
    download: D,
}

/// Something that failed and is tried again later.
#[derive(Debug)]
struct Trouble<T> {
    backoff: Backoff,
    /// The failure; `None` while all is well.
    last: Option<Failure<T>>,
}

#[derive(Debug)]
struct Failure<T> {
    what: T,
    message: String,
    /// When to try again; `None` once that moment has come.
    rests_until: Option<Instant>,
}

/// What wakes the loop.
#[derive(Debug)]
enum Wake {
    Stop,
    Goal,
    Progress(Option<Progress>),
    Program(supervisor::Wake),
    Removed(Result<(), StepError>),
    Retry,
    Refresh,
}

impl<T> Trouble<T> {
    fn new(timings: &AppTimings) -> Self {
        Self { backoff: Backoff::new(timings.retry_first, timings.retry_max), last: None }
    }

    fn note(&mut self, what: T, reason: &str) {
        let wait = self.backoff.after_failure();
        let message = format!("{reason}; next try in {}", humantime::format_duration(wait));
        warn!("{message}");
        self.last = Some(Failure { what, message, rests_until: Some(Instant::now() + wait) });
    }

    fn clear(&mut self) {
        self.backoff.reset();
        self.last = None;
    }

    fn message(&self) -> Option<&str> {
        self.last.as_ref().map(|failure| failure.message.as_str())
    }

    /// What failed too recently to be tried again.
    fn resting(&self) -> Option<&T> {
        self.last.as_ref().filter(|failure| failure.rests_until.is_some()).map(|last| &last.what)
    }

    /// Waits until it is time to try again, if something rests.
    async fn next_try(&self) {
        match self.last.as_ref().and_then(|failure| failure.rests_until) {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    fn on_due(&mut self) {
        if let Some(failure) = &mut self.last {
            failure.rests_until = failure.rests_until.filter(|until| *until > Instant::now());
        }
    }
}

impl<S: BuildSource> App<S> {
    /// Reads what an earlier agent left of the app in `directory`, and takes over its program.
    ///
    /// Blocks on the disk. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the app's files cannot be used. A single build that cannot be is only passed over: it can
    /// be downloaded again.
    pub fn open(
        settings: AppSettings,
        directory: AppDir,
        source: S,
        goal: watch::Receiver<GoalView>,
        board: StatusBoard,
    ) -> Result<Self, OpenAppError> {
        let path = directory.path().to_path_buf();
        let failed = |source| OpenAppError::Store { path: path.clone(), source };
        let store = BuildStore::open(&path).map_err(failed)?;
        let mut builds = BTreeMap::new();
        for build in store.list().map_err(failed)? {
            match store.build(build) {
                Ok(stored) => builds.extend(stored.map(|stored| (build, stored))),
                Err(error) => warn!("passing over build {}: {}", build.short(), causes(error)),
            }
        }
        let staged = store.list_staged().map_err(failed)?.into_iter().collect();
        let current = directory
            .current()
            .map_err(|source| OpenAppError::Current { path: path.clone(), source })?;
        let journal = directory.journal()?;
        let timings = settings.timings;
        let supervisor =
            Supervisor::recover(&directory, settings.launch.clone(), timings.supervisor);
        Ok(Self {
            supervisor,
            current: current.filter(|build| builds.contains_key(build)),
            download_trouble: Trouble::new(&timings),
            disk_trouble: Trouble::new(&timings),
            download: None,
            removal: None,
            progress: (None, Progress::default()),
            refresh_at: Instant::now() + timings.refresh,
            stall: Stall::default(),
            settings,
            directory,
            store,
            source,
            board,
            goal,
            builds,
            staged,
            journal,
        })
    }

    /// The app.
    pub const fn name(&self) -> &AppName {
        &self.settings.name
    }

    /// Follows the goal until `stop`, then stops the program and returns when it is gone.
    ///
    /// Blocks its thread for the length of a file sync now and then.
    pub async fn run(mut self, stop: CancellationToken) {
        for build in self.builds.values() {
            self.source.serve(build);
        }
        loop {
            self.take_steps();
            let row = self.row();
            self.board.show(row);
            match self.next_wake(&stop).await {
                Wake::Stop => break,
                wake => self.on_wake(wake).await,
            }
        }
        self.download = None;
        self.supervisor.stop();
        while self.supervisor.program() == Program::Ending {
            let wake = self.supervisor.next_wake().await;
            self.supervisor.on_wake(wake);
        }
        let row = HostStatus { phase: HostPhase::Stopped, message: None, ..self.row() };
        self.board.show(row);
    }

    fn take_steps(&mut self) {
        let policy = Policy {
            has_program: self.settings.launch.is_some(),
            keep_builds: self.settings.keep_builds,
        };
        loop {
            let wanted = self.wanted();
            let result = match reconcile::next_step(wanted.as_ref(), &self.actual(), policy) {
                Step::Rest => return,
                Step::CancelDownload => {
                    self.download = None;
                    Ok(())
                }
                Step::Download { build } => {
                    self.start_download(build);
                    Ok(())
                }
                Step::Switch { build } => self.switch(build),
                Step::Stop => {
                    self.supervisor.stop();
                    Ok(())
                }
                Step::Start { build } => {
                    self.supervisor.start(build, self.builds[&build].root());
                    Ok(())
                }
                Step::Settle => self.settle(),
                Step::Remove { build } => {
                    self.start_removal(build);
                    Ok(())
                }
            };
            if let Err(error) = result {
                self.disk_trouble.note((), &causes(error));
            }
        }
    }

    fn actual(&self) -> Actual {
        let download = match (&self.download, self.download_trouble.resting()) {
            (Some(active), _) => Transfer::Active { build: active.build },
            (None, Some(build)) => Transfer::Resting { build: *build },
            (None, None) => Transfer::Idle,
        };
        Actual {
            complete: self.builds.keys().copied().collect(),
            staged: self.staged.clone(),
            current: self.current,
            journal: self.journal.clone(),
            program: self.supervisor.program(),
            download,
            removing: self.removal.as_ref().map(|(build, _)| *build),
            is_disk_resting: self.disk_trouble.resting().is_some(),
        }
    }

    fn start_download(&mut self, build: BuildId) {
        info!(build = build.short(), "downloading");
        // Dropped first, so that the node is never asked for two downloads of the app at once.
        self.download = None;
        self.progress = (Some(build), Progress::default());
        self.staged.insert(build);
        let download = self.source.fetch(build, &self.store);
        self.download = Some(ActiveDownload { build, download });
    }

    fn switch(&mut self, build: BuildId) -> Result<(), StepError> {
        let failed = |source| StepError::Switch { build, source };
        let generation = self.wanted().map(|wanted| wanted.generation);
        let journal = match &self.journal {
            // A switch that a crash interrupted keeps where it came from.
            Some(begun) if begun.phase == JournalPhase::Switching && begun.to == build => {
                Journal { generation: generation.unwrap_or(begun.generation), ..begun.clone() }
            }
            Some(before) => {
                let generation = generation.unwrap_or(before.generation);
                Journal::switching(generation, build, self.current, before)
            }
            None => Journal::first(generation.unwrap_or_default(), build),
        };
        self.directory.write_journal(&journal).map_err(failed)?;
        self.journal = Some(journal);
        self.directory.set_current(self.builds[&build].root()).map_err(failed)?;
        info!(build = build.short(), "switched");
        self.current = Some(build);
        self.disk_trouble.clear();
        Ok(())
    }

    fn settle(&mut self) -> Result<(), StepError> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let followed = self.goal.borrow().followed.clone();
        let elapsed_ms = followed.as_ref().map(|goal| now_ms().saturating_sub(goal.accepted_at_ms));
        let generation = followed.map_or(journal.generation, |goal| goal.generation);
        let settled = journal.settled(generation, elapsed_ms);
        self.directory.write_journal(&settled).map_err(StepError::Settle)?;
        info!(build = settled.to.short(), elapsed_ms, "at the goal");
        self.journal = Some(settled);
        self.disk_trouble.clear();
        Ok(())
    }

    fn start_removal(&mut self, build: BuildId) {
        info!(build = build.short(), "removing");
        self.builds.remove(&build);
        let (source, store) = (self.source.clone(), self.store.clone());
        let removal = tokio::spawn(async move {
            source.leave(build).await;
            let removed = tokio::task::spawn_blocking(move || store.remove(build)).await;
            removed.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
        });
        self.removal = Some((build, removal));
    }

    async fn next_wake(&mut self, stop: &CancellationToken) -> Wake {
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            // An error means that the agent dropped the sender, which it does only when it stops.
            Ok(()) = self.goal.changed() => Wake::Goal,
            wake = self.supervisor.next_wake() => Wake::Program(wake),
            result = removal_end(&mut self.removal) => Wake::Removed(result),
            () = self.disk_trouble.next_try() => Wake::Retry,
            () = self.download_trouble.next_try() => Wake::Retry,
            progress = next_progress(&mut self.download) => Wake::Progress(progress),
            () = sleep_until(self.refresh_at) => Wake::Refresh,
        }
    }

    async fn on_wake(&mut self, wake: Wake) {
        match wake {
            Wake::Progress(Some(progress)) => self.progress.1 = progress,
            Wake::Progress(None) => self.on_download_ended().await,
            Wake::Program(wake) => self.supervisor.on_wake(wake),
            Wake::Removed(result) => self.on_removed(result),
            Wake::Goal => self.on_goal_changed(),
            Wake::Retry => {
                self.disk_trouble.on_due();
                self.download_trouble.on_due();
            }
            Wake::Refresh => {
                self.refresh_at = Instant::now() + self.settings.timings.refresh;
                self.keep_current();
                self.tell_stall();
            }
            Wake::Stop => {}
        }
    }

    /// Repairs `current` after a person removed or changed it: programs and people look there.
    fn keep_current(&mut self) {
        let Some(stored) = self.current.and_then(|build| self.builds.get(&build)) else { return };
        if self.directory.current().is_ok_and(|found| found == self.current) {
            return;
        }
        let path = self.directory.path().join("current");
        match self.directory.set_current(stored.root()) {
            Ok(()) => warn!("{} was changed by somebody else; set it again", path.display()),
            Err(error) => self.disk_trouble.note((), &causes(error)),
        }
    }

    /// Logs a download that hangs once, not with every look.
    fn tell_stall(&mut self) {
        let progress = &self.progress.1;
        let look = self.download.as_ref().and_then(|active| {
            Some((active.build, progress.bytes_done, progress.waiting_for.clone()?))
        });
        if self.stall.is_new(look)
            && let Some((build, bytes_done, reason)) = &self.stall.seen
        {
            warn!(build = build.short(), bytes_done, "the download waits: {reason}");
        }
    }

    fn on_goal_changed(&mut self) {
        let wanted = self.wanted().map(|wanted| wanted.build);
        if self.download_trouble.last.as_ref().is_some_and(|last| Some(last.what) != wanted) {
            self.download_trouble.clear();
        }
    }

    async fn on_download_ended(&mut self) {
        let Some(ActiveDownload { build, download }) = self.download.take() else { return };
        match download.finish().await {
            Ok(stored) => {
                info!(build = build.short(), "downloaded and verified");
                self.staged.remove(&build);
                self.builds.insert(build, stored);
                self.download_trouble.clear();
            }
            Err(error) => {
                let reason = format!("cannot download build {}: {}", build.short(), causes(error));
                self.download_trouble.note(build, &reason);
            }
        }
    }

    fn on_removed(&mut self, result: Result<(), StepError>) {
        let Some((build, _)) = self.removal.take() else { return };
        self.staged.remove(&build);
        match result {
            Ok(()) => self.disk_trouble.clear(),
            Err(error) => {
                // Whatever is left of it counts as parts, so that the removal is tried again.
                self.staged.insert(build);
                self.disk_trouble.note((), &causes(error));
            }
        }
    }

    fn wanted(&self) -> Option<Wanted> {
        let goal = self.goal.borrow();
        let followed = goal.followed.as_ref()?;
        Some(Wanted { generation: followed.generation, build: followed.build })
    }

    fn row(&mut self) -> HostStatus {
        let GoalView { followed, note } = self.goal.borrow().clone();
        let target = followed.as_ref().map(|goal| goal.build);
        if self.progress.0 != target {
            self.progress = (target, Progress::default());
        }
        if self.download.is_none()
            && let Some(progress) = target.and_then(|build| self.source.progress(build))
        {
            self.progress.1 = progress;
        }
        let is_good = |journal: &&Journal| {
            journal.phase == JournalPhase::Good
                && followed.as_ref().is_some_and(|goal| {
                    (goal.generation, goal.build) == (journal.generation, journal.to)
                })
        };
        let progress = &self.progress.1;
        let limits = self.source.limits();
        HostStatus {
            generation: followed.as_ref().map(|goal| goal.generation),
            target,
            current: self.current,
            phase: self.phase(target),
            pid: self.supervisor.pid(),
            bytes_total: progress.bytes_total,
            bytes_done: progress.bytes_done,
            bytes_resumed: progress.bytes_resumed,
            bytes_reused: progress.bytes_reused,
            bytes_from_seeders: progress.bytes_from_seeders,
            bytes_from_peers: progress.bytes_from_peers,
            bytes_served: progress.bytes_served,
            upload_limit: limits.upload.map(ByteRate::get),
            download_limit: limits.download.map(ByteRate::get),
            links_quic: progress.links.quic,
            links_tcp: progress.links.tcp,
            elapsed_ms: self.journal.as_ref().filter(is_good).and_then(|good| good.elapsed_ms),
            message: self.message(target, note),
            updated_at_ms: now_ms(),
            ..HostStatus::new(self.settings.host.clone(), self.settings.name.clone())
        }
    }

    fn phase(&self, target: Option<BuildId>) -> HostPhase {
        let Some(target) = target else { return HostPhase::NoGoal };
        if self.download.is_some() {
            return match self.progress.1.phase {
                Phase::Locating => HostPhase::Locating,
                Phase::Verifying | Phase::Serving => HostPhase::Verifying,
                _ => HostPhase::Downloading,
            };
        }
        if self.disk_trouble.last.is_some() || self.download_trouble.last.is_some() {
            return HostPhase::Failed;
        }
        match self.supervisor.program() {
            _ if self.current != Some(target) => HostPhase::Switching,
            Program::Stopped if self.settings.launch.is_none() => HostPhase::Running,
            Program::Running { build, is_settled: true, .. } if build == target => {
                HostPhase::Running
            }
            Program::Resting { .. } => HostPhase::Failed,
            // A program that ends again and again is not switching, whatever it does just now.
            Program::Stopped | Program::Running { .. } | Program::Ending => {
                if self.supervisor.message().is_some() {
                    HostPhase::Failed
                } else {
                    HostPhase::Switching
                }
            }
        }
    }

    fn message(&self, target: Option<BuildId>, note: Option<String>) -> Option<String> {
        let progress = &self.progress.1;
        let mut parts: Vec<String> = vec![];
        if target.is_none() && note.is_none() {
            let name = &self.settings.name;
            parts.push(format!(
                "no goal is set for {name}; set one with: shoal deploy {name} BUILD --goal URL"
            ));
        }
        parts.extend(note);
        parts.extend(self.disk_trouble.message().map(String::from));
        parts.extend(self.download_trouble.message().map(String::from));
        parts.extend(self.supervisor.message());
        if self.download.is_some() {
            parts.extend(progress.waiting_for.clone());
        }
        parts.extend(
            progress.faults.last().map(|fault| {
                format!("{} peers banned, the last one: {fault}", progress.faults.len())
            }),
        );
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

async fn next_progress<D: RunningDownload>(
    download: &mut Option<ActiveDownload<D>>,
) -> Option<Progress> {
    match download {
        Some(active) => active.download.next_progress().await,
        None => std::future::pending().await,
    }
}

async fn removal_end(
    removal: &mut Option<(BuildId, JoinHandle<Result<(), StoreError>>)>,
) -> Result<(), StepError> {
    let Some((build, removal)) = removal else { return std::future::pending().await };
    let build = *build;
    match removal.await {
        Ok(result) => {
            result.map_err(|source| StepError::Remove { build, source: Box::new(source) })
        }
        Err(_ended) => Err(StepError::RemoveInterrupted { build }),
    }
}

/// An error with its causes, on one line.
fn causes(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stall_is_told_once_until_something_changes() {
        let look =
            |bytes: u64, reason: &str| Some((BuildId::of_manifest(b"x"), bytes, reason.to_owned()));
        let cases = [
            (look(1, "a"), false),
            (look(1, "a"), true),
            (look(1, "a"), false),
            (look(1, "b"), false),
            (look(1, "b"), true),
            (look(2, "b"), false),
            (None, false),
            (None, false),
            (look(2, "b"), false),
            (look(2, "b"), true),
        ];
        let mut stall = Stall::default();
        for (number, (look, expected)) in cases.into_iter().enumerate() {
            assert_eq!(stall.is_new(look), expected, "case {number}");
        }
    }
}
