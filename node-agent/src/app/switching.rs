//! The steps of a switch and of the way back: journal, `current`, and what is known of a build that
//! failed.
//!
//! Invariant: the journal says what is about to happen before `current` changes, and each write is
//! durable before the next. A step that fails half way leaves what the next step starts from;
//! `reconcile` decides which step that is.

use p2p_core::BuildId;
use tracing::{info, warn};

use crate::app::App;
use crate::app::step_error::StepError;
use crate::fleet::source::BuildSource;
use crate::fleet::tokens::TokenDesk;
use crate::host::Host;
use crate::state::app_dir::{FailedBuild, Journal, JournalPhase};
use crate::state::durable::WriteError;

#[expect(clippy::multiple_inherent_impl, reason = "the loop is cut by concern")]
impl<S: BuildSource, H: Host, T: TokenDesk> App<S, H, T> {
    /// Begins the switch to `build`: the journal first, then `current`.
    pub(super) fn switch(&mut self, build: BuildId) -> Result<(), StepError> {
        if !self.check_before_use(build)? {
            return Ok(());
        }
        let generation = self.wanted().map_or(0, |wanted| wanted.generation);
        let tries = self.settings.app.health.tries.get();
        let journal =
            Journal::switching(generation, build, self.current, tries, self.journal.as_ref());
        info!(build = build.short(), generation, "switching");
        self.write_journal(journal).map_err(|source| StepError::Switch { build, source })?;
        if self.current == Some(build) {
            // It failed, and is deployed again: its next try is a new start.
            self.supervisor.make_stale();
        }
        self.supervisor.begin_switch();
        self.hooks.on_switch_begun();
        self.count(|counts| counts.switches += 1);
        self.point_to(build)
    }

    /// Lets `current` point to `build`.
    pub(super) fn point_to(&mut self, build: BuildId) -> Result<(), StepError> {
        let failed = |source| StepError::Switch { build, source };
        self.directory.set_current(self.builds[&build].root()).map_err(failed)?;
        info!(build = build.short(), "`current` points to the build");
        self.current = Some(build);
        self.disk_trouble.clear();
        Ok(())
    }

    fn write_journal(&mut self, journal: Journal) -> Result<(), WriteError> {
        self.directory.write_journal(&journal)?;
        self.journal = Some(journal);
        Ok(())
    }

    /// What is known of the failure of `build`.
    fn failure(&self, build: BuildId) -> FailedBuild {
        let unstartable = self.unstartable().filter(|(lacking, _)| *lacking == build);
        let known = [self.hooks.failed(), unstartable, self.supervisor.failed()];
        let mut known = known.into_iter().flatten();
        let reason = match known.find(|(failed, _)| *failed == build) {
            Some((_, reason)) => reason.to_owned(),
            None => self.supervisor.last_crash(build).map_or_else(
                || "the agent or the machine stopped whenever it was started".into(),
                ToOwned::to_owned,
            ),
        };
        FailedBuild {
            build,
            since: self.newest_generation(),
            reason,
            // Nothing was started that could have printed anything.
            output: unstartable
                .map_or_else(|| self.supervisor.output_tail(build), |_| String::new()),
            at_ms: self.supervisor.host().now_ms(),
            pinned: self.settings.app.pin == Some(build),
        }
    }

    /// The highest generation that this host knows of the app. What fails now failed under it:
    /// only a deploy that comes later can be meant to try again.
    fn newest_generation(&self) -> u64 {
        let followed = self.goal.borrow().followed.as_ref().map_or(0, |goal| goal.generation);
        followed.max(self.journal.as_ref().map_or(0, |journal| journal.generation))
    }

    /// Notes that `build` failed, where nothing has to be switched back: before anything was
    /// switched, or because there is nothing to go back to.
    pub(super) fn quarantine(&mut self, build: BuildId) -> Result<(), StepError> {
        let failed = self.failure(build);
        let is_tried_on = self.current == Some(build);
        if is_tried_on {
            let reason = failed.reason.as_str();
            warn!(
                build = build.short(),
                reason, "the build failed, and there is none to go back to"
            );
        } else {
            warn!(build = build.short(), reason = failed.reason, "the build is not used here");
        }
        let current = self.current;
        let journal = match &self.journal {
            Some(journal) if !journal.is_given_up(current) => journal.with_failure(failed),
            // Nothing ran here yet; the failure is all there is to note.
            other => Journal::switching(0, build, None, 0, other.as_ref()).with_failure(failed),
        };
        self.write_journal(journal).map_err(|source| StepError::Quarantine { build, source })?;
        self.hooks.on_switch_over();
        if !is_tried_on {
            self.supervisor.forget_failure();
        }
        self.disk_trouble.clear();
        Ok(())
    }

    /// Takes `current` away from `build`, whose hook failed: there is nothing to go back to, and a
    /// program of it must not be started, neither by this agent nor by the next.
    pub(super) fn give_up(&mut self, build: BuildId) -> Result<(), StepError> {
        let failed = self.failure(build);
        let Some(journal) = &self.journal else { return Ok(()) };
        warn!(build = build.short(), reason = failed.reason, "the build is not started here");
        // First: without it the journal of a build that failed would be that of one that is tried
        // on. If the rest is lost, the switch is made again, hooks included.
        let journal = journal.with_failure(failed);
        let noted = |source| StepError::Quarantine { build, source };
        self.directory.remove_current().map_err(noted)?;
        self.current = None;
        self.write_journal(journal).map_err(noted)?;
        self.hooks.on_switch_over();
        self.supervisor.forget_failure();
        self.disk_trouble.clear();
        Ok(())
    }

    /// Begins the way back to `build`, and notes what failed.
    pub(super) fn roll_back(&mut self, build: BuildId) -> Result<(), StepError> {
        let Some(journal) = self.journal.clone() else { return Ok(()) };
        if !self.check_before_use(build)? {
            return Ok(());
        }
        let failed = (journal.phase == JournalPhase::Switching).then(|| self.failure(journal.to));
        let reason = failed.as_ref().map_or("its files are damaged", |failed| &failed.reason);
        warn!(from = journal.to.short(), to = build.short(), reason, "rolling back");
        let journal = journal.rolling_back(build, failed);
        self.write_journal(journal).map_err(|source| StepError::Switch { build, source })?;
        self.hooks.on_switch_over();
        self.supervisor.begin_switch();
        self.count(|counts| counts.rollbacks += 1);
        self.point_to(build)
    }

    /// Notes that the build that the journal is about is good, which ends its switch.
    pub(super) fn settle(&mut self) -> Result<(), StepError> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let followed = self.goal.borrow().followed.clone();
        let is_goal = followed.as_ref().is_some_and(|goal| goal.build == journal.to);
        let now_ms = self.supervisor.host().now_ms();
        let accepted_at = followed.as_ref().map(|goal| goal.accepted_at_ms);
        let elapsed_ms =
            accepted_at.filter(|_| is_goal).map(|accepted| now_ms.saturating_sub(accepted));
        let generation = followed.map_or(journal.generation, |goal| goal.generation);
        let was_good = journal.phase == JournalPhase::Good;
        let settled = journal.settled(generation, elapsed_ms);
        let build = settled.to.short();
        if was_good {
            info!(build, generation, "the goal asks for the build that runs and is good");
        } else {
            info!(build, elapsed_ms, "the build is good");
        }
        self.write_journal(settled).map_err(StepError::Settle)?;
        self.hooks.on_switch_over();
        self.supervisor.forget_verdict();
        self.disk_trouble.clear();
        Ok(())
    }
}
