//! The loop of one app on this host: asks the brain for a step, carries it out, waits for what
//! happens next.
//!
//! Invariant: the loop never waits while it acts, except for the short durable writes of a switch,
//! which is why it runs on a thread of its own. Downloads, hooks, stops and removals go on beside
//! it, so a new goal is followed at once whatever is under way. All decisions are in `reconcile`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use command_line::causes;
use goal_state::{AppName, Applicant, HostLimit, HostPhase, HostStatus, NotYet, SwitchTime};
use p2p_core::BuildId;
use p2p_net::{BuildStore, Progress, StoreError, StoredBuild};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::preflight::Looked;
use crate::app::setback::Setback;
use crate::app::told::ToldTroubles;
use crate::brain::model::{
    Actual, Drained, HookKind, Permission, Policy, Step, Swap, Token, Transfer, Wanted,
};
use crate::brain::reconcile;
use crate::fleet::source::BuildSource;
use crate::fleet::tokens::{TokenDesk, TokenHold, TokenState, TokenWish};
use crate::host::Host;
use crate::host::hook::HookOrder;
use crate::host::watch_files::{FileWatch, OnChange};
use crate::programs::hook_runner::{HookError, HookRunner};
use crate::programs::supervisor::{RestartCounts, Supervisor, SupervisorWake, Told};
use crate::report::counts::AppCounts;
use crate::report::service::Pulse;
use crate::report::status::StatusBoard;
use crate::self_update::own_agent::OwnAgent;
use crate::state::app_dir::{AppDir, AskedBy, Journal, JournalPhase, Paused, Place};
use crate::state::durable::ReadError;

mod downloading;
mod facts;
mod itself;
mod preflight;
mod rate;
mod recover;
mod row;
pub(crate) mod setback;
pub(crate) mod settings;
mod step_error;
mod switching;
mod told;
mod upkeep;

use downloading::{ActiveDownload, next_progress};
use itself::own_agent_change;
use recover::{open_builds, parts_of_builds, recover_current, recover_journal, recover_paused};
use step_error::StepError;
use upkeep::audit_end;

pub use settings::{AppOrder, AppParts, AppSettings, AppTimings, GoalView};

/// Why an app's files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenAppError {
    /// Its build store cannot be used.
    #[error("cannot open the build store {}", path.display())]
    Store {
        /// The store's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// Something is where the agent's files are, and it cannot be moved away.
    #[error("cannot move {} away", path.display())]
    SetAside {
        /// What is in the way.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// One app on this host. See the head of this file.
#[derive(Debug)]
pub struct App<S: BuildSource, H: Host, T: TokenDesk> {
    settings: AppSettings,
    directory: AppDir,
    store: BuildStore,
    source: S,
    tokens: T,
    board: StatusBoard,
    goal: watch::Receiver<GoalView>,
    orders: mpsc::Receiver<AppOrder>,
    pulse: Option<Pulse>,
    own_agent: Option<OwnAgent>,
    files: FileWatch,
    supervisor: Supervisor<H>,
    hooks: HookRunner,
    token: Option<T::Hold>,
    builds: BTreeMap<BuildId, StoredBuild>,
    staged: BTreeSet<BuildId>,
    current: Option<BuildId>,
    journal: Option<Journal>,
    paused: Option<Paused>,
    download: Option<ActiveDownload<S::Download>>,
    download_trouble: Setback<BuildId>,
    disk_trouble: Setback<()>,
    /// What this host lacks to start a build.
    host_trouble: Setback<BuildId>,
    looked: Option<Looked>,
    removal: Option<(BuildId, JoinHandle<Result<(), StoreError>>)>,
    /// What was found wrong with a build that is being fetched again, for people.
    damage: Option<(BuildId, String)>,
    audit: Option<(BuildId, JoinHandle<Option<String>>)>,
    progress: (Option<BuildId>, Progress),
    /// When the bytes of the download changed last.
    progress_since: Instant,
    refresh_at: Instant,
    audit_at: Instant,
    /// The troubles that the log has told.
    told: ToldTroubles,
    /// Restarts that are in the metrics.
    restarts_counted: RestartCounts,
}

/// What wakes the loop.
#[derive(Debug)]
enum Wake {
    Stop,
    Goal,
    Order(AppOrder),
    File(PathBuf),
    Progress(Option<Progress>),
    Program(SupervisorWake),
    Hook(Result<(), HookError>),
    Token,
    Removed(Result<(), StepError>),
    Audited(BuildId, Option<String>),
    Retry,
    OwnAgent,
    /// The moment that the rollout set for the switch has come.
    Opened,
    Refresh,
}

#[expect(clippy::multiple_inherent_impl, reason = "the loop is cut by concern")]
impl<S: BuildSource, H: Host, T: TokenDesk> App<S, H, T> {
    /// Reads what an earlier agent left of the app in `directory`, and takes over its programs.
    ///
    /// Blocks on the disk. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the app's files cannot be used. What is damaged is passed over or set aside: a build can
    /// be downloaded again, and a journal is reconstructed from what is there.
    pub fn open(
        settings: AppSettings,
        directory: AppDir,
        parts: AppParts<S, H, T>,
    ) -> Result<Self, OpenAppError> {
        let path = directory.path().to_path_buf();
        let failed = |source| OpenAppError::Store { path: path.clone(), source };
        let store = BuildStore::open(&path).map_err(failed)?;
        let (builds, damage) = open_builds(&store).map_err(failed)?;
        let staged = parts_of_builds(&store).map_err(failed)?;
        let current = recover_current(&directory)?;
        let journal = recover_journal(&directory)?;
        let paused = recover_paused(&directory)?;
        let timings = settings.timings;
        let supervisor = Supervisor::recover(&directory, parts.host, settings.program());
        let current = current.filter(|build| builds.contains_key(build));
        Ok(Self {
            supervisor,
            current,
            // A lost journal is reconstructed from what is there.
            journal: journal.or_else(|| {
                let current = current?;
                Some(Journal::switching(0, current, None, 0, None).settled(0, None))
            }),
            paused,
            pulse: None,
            own_agent: None,
            files: FileWatch::start(&settings.app.watch.files),
            hooks: HookRunner::default(),
            token: None,
            download_trouble: Setback::new(timings.retry_first, timings.retry_max),
            disk_trouble: Setback::new(timings.retry_first, timings.retry_max),
            host_trouble: Setback::new(timings.retry_first, timings.retry_max),
            looked: None,
            download: None,
            removal: None,
            damage,
            audit: None,
            progress: (None, Progress::default()),
            progress_since: Instant::now(),
            refresh_at: Instant::now() + timings.refresh,
            audit_at: Instant::now() + timings.audit,
            told: ToldTroubles::default(),
            restarts_counted: RestartCounts::default(),
            settings,
            directory,
            store,
            source: parts.source,
            tokens: parts.tokens,
            board: parts.board,
            goal: parts.goal,
            orders: parts.orders,
            builds,
            staged,
        })
    }

    /// The same, whose loop reports in to `pulse`.
    #[must_use]
    pub(crate) fn with_pulse(self, pulse: Pulse) -> Self {
        Self { pulse: Some(pulse), ..self }
    }

    /// The same, as the app that is this agent itself.
    #[must_use]
    pub(crate) fn with_own_agent(self, own_agent: Option<OwnAgent>) -> Self {
        Self { own_agent, ..self }
    }

    /// The app.
    pub const fn name(&self) -> &AppName {
        &self.settings.name
    }

    /// Follows the goal until `stop`, then stops the programs and returns when they are gone; or
    /// until it is told to let go of them.
    ///
    /// Blocks its thread for the length of a file sync now and then.
    pub async fn run(mut self, stop: CancellationToken) {
        for build in self.builds.values() {
            self.source.serve(build);
        }
        loop {
            if let Some(pulse) = &self.pulse {
                pulse.beat();
            }
            self.observe_own_agent();
            self.take_steps();
            self.count_restarts();
            let row = row::row(&self);
            self.told.tell(Instant::now(), &row.troubles());
            self.board.show(row);
            self.board.set_halted(&self.settings.name, self.is_rollout_halted());
            match self.next_wake(&stop).await {
                Wake::Stop => break,
                Wake::Order(AppOrder::LetGo) => return self.let_go().await,
                wake => self.on_wake(wake).await,
            }
        }
        self.end().await;
    }

    /// Stops the programs. The host is taken out of its load balancer first.
    async fn end(mut self) {
        self.download = None;
        self.hooks.cancel();
        if self.settings.app.systemd.is_some() {
            // systemd's, which goes on running it.
            return self.show_stopped();
        }
        if let Some(build) = self.current
            && self.hooks.view().drained != Drained::Yes
            && self.settings.app.hooks.drain.is_some()
        {
            self.start_hook(HookKind::Drain, build);
            let result = self.hooks.next_end().await;
            self.hooks.on_ended(result);
        }
        self.supervisor.stop(Place::Candidate);
        self.supervisor.stop(Place::Serving);
        while !self.supervisor.is_idle() {
            let wake = self.supervisor.next_wake().await;
            self.supervisor.on_wake(wake);
        }
        self.show_stopped();
    }

    fn show_stopped(&self) {
        let row = HostStatus { phase: HostPhase::Stopped, ..row::row(self) };
        self.board.show(row.with_troubles(&[]));
    }

    fn take_steps(&mut self) {
        loop {
            self.supervisor.set_restart(self.restart_order());
            self.supervisor.set_told(self.told_programs());
            let (wanted, policy) = (self.wanted(), self.policy());
            self.look_at_due_build(wanted.as_ref());
            let step = reconcile::next_step(wanted.as_ref(), &self.actual(), &policy);
            if step == Step::Rest {
                return;
            }
            if let Err(error) = self.carry_out(step) {
                self.disk_trouble.note((), &causes(error));
                self.look_again();
            }
        }
    }

    fn carry_out(&mut self, step: Step) -> Result<(), StepError> {
        match step {
            Step::Rest => {}
            Step::CancelDownload => drop(self.take_download()),
            Step::Download { build } => self.start_download(build),
            Step::AskToken => self.ask_token(),
            Step::ReturnToken => self.return_token(),
            Step::RunHook { kind, build } => self.start_hook(kind, build),
            Step::CancelHook => self.hooks.cancel(),
            Step::Switch { build } => return self.switch(build),
            Step::Repoint { build } => return self.point_to(build),
            Step::Quarantine { failed } => return self.quarantine(failed),
            Step::GiveUp { failed } => return self.give_up(failed),
            Step::RollBack { build } => return self.roll_back(build),
            Step::Stop => self.supervisor.stop(Place::Serving),
            Step::Revive => self.supervisor.revive(),
            Step::Start { build } => self.start(Place::Serving, build),
            Step::StartCandidate { build } => self.start(Place::Candidate, build),
            Step::StopCandidate => self.supervisor.stop(Place::Candidate),
            Step::Promote => self.supervisor.promote(),
            Step::RestartAgent => self.restart_agent(),
            Step::Settle => return self.settle(),
            Step::Remove { build } => self.start_removal(build),
        }
        Ok(())
    }

    fn actual(&self) -> Actual {
        let download = match (&self.download, self.download_trouble.resting()) {
            (Some(active), _) => Transfer::Active { build: active.build },
            (None, Some(build)) => Transfer::Resting { build: *build },
            (None, None) => Transfer::Idle,
        };
        let token = match self.token.as_ref().map(TokenHold::state) {
            None => Token::None,
            Some(TokenState::Waiting { .. }) => Token::Asked,
            Some(TokenState::Held) => Token::Held,
        };
        let size = |stored: &StoredBuild| stored.manifest().build_size();
        let failed = self.supervisor.failed().map(|(build, _)| build);
        Actual {
            complete: self.builds.iter().map(|(build, stored)| (*build, size(stored))).collect(),
            staged: self.staged.clone(),
            current: self.current.filter(|build| self.builds.contains_key(build)),
            journal: self.journal.clone(),
            programs: self.supervisor.programs(),
            vitals: self.supervisor.vitals(),
            agent: self.own_agent.as_ref().map(OwnAgent::view),
            failed: self.hooks.failed().map(|(build, _)| build).or(failed),
            hooks: self.hooks.view(),
            token,
            download,
            unready: self.host_trouble.last().copied(),
            unstartable: self.unstartable().map(|(build, _)| build),
            removing: self.removal.as_ref().map(|(build, _)| *build),
            is_disk_resting: self.disk_trouble.resting().is_some(),
        }
    }

    fn policy(&self) -> Policy {
        let app = &self.settings.app;
        Policy {
            has_program: app.has_program(),
            swap: app.swap,
            keep_builds: app.keep_builds.get(),
            keep_bytes: app.keep_bytes,
            hooks: app.hooks.kinds(),
            permission: self.permission(),
            needs_token: self.token_wish().is_some(),
        }
    }

    /// Whether a switch may start.
    fn permission(&self) -> Permission {
        if self.paused.is_some() || self.settings.app.hold {
            return Permission::Refused;
        }
        match self.not_yet() {
            Some(not_yet) if not_yet.is_for_all() => Permission::Withheld,
            Some(_) => Permission::Later,
            None => Permission::Granted,
        }
    }

    /// Why the rollout of the goal leaves this host out for now. A pinned app has none.
    fn not_yet(&self) -> Option<NotYet> {
        let goal = self.goal.borrow();
        let goal = goal.followed.as_ref().filter(|_| self.settings.app.pin.is_none())?;
        let AppSettings { host, name, labels, .. } = &self.settings;
        let now_ms = self.supervisor.host().now_ms();
        let applicant = Applicant { host, app: name, labels, now_ms };
        goal.rollout.admits(goal.generation, &applicant).err()
    }

    /// Time until the moment that the rollout set for the switch, by this host's clock; `None` if
    /// none is to come.
    fn opens_in(&self) -> Option<Duration> {
        let goal = self.goal.borrow();
        let SwitchTime::At(at_ms) = goal.followed.as_ref()?.rollout.switch else { return None };
        let left_ms = at_ms.checked_sub(self.supervisor.host().now_ms())?;
        (left_ms > 0).then(|| Duration::from_millis(left_ms))
    }

    /// What to ask for a token; `None` if none is needed. Where the old program serves until the
    /// new one is good, nothing is ever away, so that only a limit that somebody asked for counts.
    fn token_wish(&self) -> Option<TokenWish> {
        let goal = self.goal.borrow();
        let followed = goal.followed.as_ref()?;
        let rollout = &followed.rollout;
        if rollout.max_unavailable == HostLimit::Unset && self.settings.app.swap == Swap::Overlap {
            return None;
        }
        let max_unavailable = rollout.unavailable_max()?;
        let app = self.settings.name.clone();
        Some(TokenWish { app, generation: followed.generation, max_unavailable })
    }

    /// Whoever grants tokens is told of a failure with it: the report of it may be on its way for
    /// longer than the next host takes to begin.
    fn return_token(&mut self) {
        if let Some(token) = self.token.take()
            && row::quarantined(self).is_some()
        {
            token.note_failure();
        }
    }

    fn ask_token(&mut self) {
        self.count(|counts| counts.token_waits += 1);
        self.token = self.token_wish().map(|wish| self.tokens.ask(wish));
    }

    fn is_rollout_halted(&self) -> bool {
        let goal = self.goal.borrow();
        goal.followed.as_ref().is_some_and(|followed| followed.rollout.halted.is_some())
    }

    /// Of whose programs the row tells. Whoever grants tokens counts this host as away by its row,
    /// but not while a switch or a token says that it is.
    fn told_programs(&self) -> Told {
        let is_over = |journal: &Journal| journal.phase == JournalPhase::Good;
        let is_switching = !self.journal.as_ref().is_none_or(is_over);
        let has_token = matches!(self.token.as_ref().map(T::Hold::state), Some(TokenState::Held));
        Told { build: self.current, is_awaited: is_switching || has_token }
    }

    fn restart_order(&self) -> u64 {
        self.goal.borrow().followed.as_ref().map_or(0, |followed| followed.rollout.restart)
    }

    /// Counts something for the metrics.
    fn count(&self, change: impl FnOnce(&mut AppCounts)) {
        self.board.counts().update(&self.settings.name, change);
    }

    fn start_hook(&mut self, kind: HookKind, build: BuildId) {
        let Some(hook) = self.settings.app.hooks.of(kind) else {
            return self.hooks.skip(kind, build);
        };
        // A build that is damaged may still serve: its host is drained by the commands of the
        // current one. With neither, the app's own folder is searched: the command is not found,
        // and that is reported.
        let stored = self.builds.get(&build).or_else(|| self.builds.get(&self.current?));
        let root = stored.map_or_else(|| self.directory.path(), StoredBuild::root);
        let variables = BTreeMap::from([
            ("SHOAL_APP".to_owned(), self.settings.name.to_string()),
            ("SHOAL_BUILD".to_owned(), build.to_string()),
            ("SHOAL_HOST".to_owned(), self.settings.host.clone()),
            ("SHOAL_HOOK".to_owned(), kind.name().to_owned()),
        ]);
        let order = HookOrder {
            hook: hook.clone(),
            root: root.to_owned(),
            variables,
            default_user: self.settings.app.user.clone(),
        };
        self.hooks.start(self.supervisor.host(), kind, build, order);
    }

    /// Starts the program of `build`. While a switch is under way, the tries that are left are
    /// lowered first: a build that takes the machine down with it must not do so for ever.
    fn start(&mut self, place: Place, build: BuildId) {
        if let Some(journal) = &mut self.journal
            && journal.phase == JournalPhase::Switching
            && journal.to == build
            && journal.tries_left > 0
        {
            journal.tries_left -= 1;
            if let Err(error) = self.directory.write_journal(journal) {
                // Perhaps nothing is serving; running the program matters more than an exact count.
                warn!("the count of tries was not stored: {}", causes(error));
            }
        }
        if self.settings.app.hooks.undrain.is_none() {
            // Without a hook for it, the start of the program counts as bringing the host back.
            self.hooks.on_drain_over();
        }
        self.supervisor.start(place, build, self.builds[&build].root());
    }

    fn start_removal(&mut self, build: BuildId) {
        // Someone may have pointed `current` at the build being removed.
        self.keep_current();
        info!(build = build.short(), "removing");
        let store = self.store.clone();
        self.start_leaving(build, move || store.remove(build));
    }

    /// Stops serving `build`, then lets `change` do something to its files.
    fn start_leaving(
        &mut self,
        build: BuildId,
        change: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
    ) {
        self.builds.remove(&build);
        let source = self.source.clone();
        let removal = tokio::spawn(async move {
            source.leave(build).await;
            let changed = tokio::task::spawn_blocking(change).await;
            changed.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
        });
        self.removal = Some((build, removal));
    }

    async fn next_wake(&mut self, stop: &CancellationToken) -> Wake {
        let opens_in = self.opens_in();
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            // An error means that the agent dropped the sender, which it does only when it stops.
            Ok(()) = self.goal.changed() => Wake::Goal,
            Some(order) = self.orders.recv() => Wake::Order(order),
            path = self.files.changed() => Wake::File(path),
            wake = self.supervisor.next_wake() => Wake::Program(wake),
            result = self.hooks.next_end() => Wake::Hook(result),
            () = token_change(&mut self.token) => Wake::Token,
            result = removal_end(&mut self.removal) => Wake::Removed(result),
            (build, damage) = audit_end(&mut self.audit) => Wake::Audited(build, damage),
            () = self.disk_trouble.next_try() => Wake::Retry,
            () = self.download_trouble.next_try() => Wake::Retry,
            () = self.host_trouble.next_try() => Wake::Retry,
            progress = next_progress(&mut self.download) => Wake::Progress(progress),
            () = own_agent_change(self.own_agent.as_ref(), &self.settings) => Wake::OwnAgent,
            () = moment_in(opens_in) => Wake::Opened,
            () = sleep_until(self.refresh_at) => Wake::Refresh,
        }
    }

    async fn on_wake(&mut self, wake: Wake) {
        match wake {
            Wake::Progress(Some(progress)) => self.on_progress(progress),
            Wake::Progress(None) => self.on_download_ended().await,
            Wake::Program(wake) => self.on_program(wake),
            Wake::Hook(result) => self.on_hook_ended(result),
            Wake::Removed(result) => self.on_removed(result),
            Wake::Audited(build, damage) => self.on_audited(build, damage),
            Wake::Goal => self.on_goal_changed(),
            Wake::Order(order) => self.on_order(order),
            Wake::File(path) => self.on_file_changed(&path),
            Wake::Retry => {
                self.disk_trouble.on_due();
                self.download_trouble.on_due();
                self.host_trouble.on_due();
            }
            Wake::Refresh => self.on_refresh(),
            Wake::Token | Wake::OwnAgent | Wake::Opened | Wake::Stop => {}
        }
    }

    /// Counts for the metrics what programs printed. The supervisor decides what happens to
    /// programs, the brain what follows.
    fn on_program(&mut self, wake: SupervisorWake) {
        let output = self.supervisor.output_counts();
        self.supervisor.on_wake(wake);
        let now = self.supervisor.output_counts();
        let (bytes, floods) = (now.bytes - output.bytes, now.floods - output.floods);
        if bytes > 0 {
            self.count(|counts| {
                counts.output_bytes += bytes;
                counts.output_floods += floods;
            });
        }
    }

    /// Counts for the metrics how often programs had to be started again.
    fn count_restarts(&mut self) {
        let (before, now) = (self.restarts_counted, self.supervisor.restart_counts());
        if before != now {
            self.restarts_counted = now;
            self.count(|counts| {
                counts.restarts_ended += now.ended - before.ended;
                counts.restarts_unhealthy += now.unhealthy - before.unhealthy;
            });
        }
    }

    fn on_order(&mut self, order: AppOrder) {
        match order {
            AppOrder::Settings(settings) => {
                if settings.app.watch.files != self.settings.app.watch.files {
                    self.files = FileWatch::start(&settings.app.watch.files);
                }
                self.supervisor.set_settings(settings.program());
                self.forget_look();
                self.settings = *settings;
            }
            AppOrder::Pause { reason } => {
                let since_ms = self.supervisor.host().now_ms();
                self.set_paused(Some(Paused { since_ms, reason }));
            }
            AppOrder::Resume => self.set_paused(None),
            AppOrder::Restart => self.supervisor.make_stale(),
            AppOrder::Reload => self.supervisor.reload(),
            // The loop ends instead.
            AppOrder::LetGo => {}
            // If the asker is gone, nobody misses the answer.
            AppOrder::Explain { answer } => drop(answer.send(facts::explanation(self))),
        }
    }

    fn on_file_changed(&mut self, path: &Path) {
        let on_change = self.settings.app.watch.on_change;
        info!(path = %path.display(), ?on_change, "a watched file changed");
        match on_change {
            OnChange::Restart => self.supervisor.make_stale(),
            OnChange::Reload => self.supervisor.reload(),
        }
    }

    fn set_paused(&mut self, paused: Option<Paused>) {
        // It takes effect at once. If it could not be stored, the next agent does not know it.
        if let Err(error) = self.directory.write_paused(paused.as_ref()) {
            warn!("holds only until the agent is restarted: {}", causes(error));
        }
        self.paused = paused;
    }

    fn on_hook_ended(&mut self, result: Result<(), HookError>) {
        if result.is_err() {
            self.count(|counts| counts.hook_failures += 1);
        }
        self.hooks.on_ended(result);
    }

    fn on_goal_changed(&mut self) {
        let wanted = self.wanted().map(|wanted| wanted.build);
        if self.download_trouble.last().is_some_and(|last| Some(*last) != wanted) {
            self.download_trouble.clear();
        }
        if self.download.is_none() && self.progress.0 != wanted {
            // Should that build be wanted again, it is one that was kept.
            self.progress = (None, Progress::default());
        }
    }

    fn on_removed(&mut self, result: Result<(), StepError>) {
        let Some((build, _)) = self.removal.take() else { return };
        // What is left of it counts as a partial build, so that its removal is tried again.
        let is_gone =
            result.is_ok() && self.store.list_distrusted().is_ok_and(|left| !left.contains(&build));
        if is_gone {
            self.staged.remove(&build);
            self.damage.take_if(|(damaged, _)| *damaged == build);
        } else {
            self.staged.insert(build);
        }
        match result {
            Ok(()) => self.disk_trouble.clear(),
            Err(error) => self.disk_trouble.note((), &causes(error)),
        }
    }

    fn wanted(&self) -> Option<Wanted> {
        let goal = self.goal.borrow();
        let followed = goal.followed.as_ref();
        if let Some(build) = self.settings.app.pin {
            let generation = followed.map_or(0, |followed| followed.generation);
            return Some(Wanted { generation, asked_by: AskedBy::Pin, build });
        }
        let followed = followed?;
        let generation = followed.generation;
        let asked_by = AskedBy::Deploy(followed.rollout.deployed_of(generation));
        Some(Wanted { generation, asked_by, build: followed.build })
    }
}

/// Waits for so long, or for ever. Cancel safe.
async fn moment_in(wait: Option<Duration>) {
    match wait {
        Some(wait) => sleep(wait).await,
        None => std::future::pending().await,
    }
}

async fn token_change<T: TokenHold>(token: &mut Option<T>) {
    match token {
        Some(token) => token.changed().await,
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
