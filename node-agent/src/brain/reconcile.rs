//! The agent's brain: which one step brings an app on this host closer to its goal.
//!
//! Pure: no IO, no clock, no memory. Because a step depends only on what is wanted and what is, a
//! crash at any point is repaired by asking again after the restart, and no step needs an undo. A
//! switch is therefore not a procedure but several steps: the hook before it, journal and symlink
//! ([`Step::Switch`]), the hook after it, the new program beside or after the old one, and the
//! journal's word that it is good ([`Step::Settle`]), or [`Step::RollBack`].
//!
//! Invariant: no step takes away a working program unless a complete build stands ready, and a
//! build that failed is abandoned for one that ran well here without asking anybody. Nothing but a
//! new deploy of it, or a pin on this host, brings it back; except that a host where no other build
//! ever ran well is not left with nothing.

use std::collections::BTreeSet;

use p2p_core::BuildId;

use crate::brain::model::{
    Actual, AgentView, Drained, Gate, HookKind, Permission, Policy, Program, Programs, Step, Swap,
    Token, Transfer, Vitals, Wanted,
};
use crate::state::app_dir::{Journal, JournalPhase};

#[cfg(test)]
mod tests;

/// The one step that brings an app closer to its goal, or [`Step::Rest`] if there is none now.
///
/// Programs come before downloads: a host keeps running what it has, whatever else fails. Without a
/// goal, a switch that was begun is still finished.
pub(crate) fn next_step(wanted: Option<&Wanted>, actual: &Actual, policy: &Policy) -> Step {
    let brain = Brain { wanted, actual, policy };
    brain
        .pick_stale_hook_step()
        .or_else(|| brain.pick_failure_step())
        .or_else(|| brain.pick_begin_step())
        .or_else(|| brain.pick_current_step())
        .or_else(|| brain.pick_program_step())
        .or_else(|| brain.pick_settle_step())
        .or_else(|| brain.pick_token_step())
        .or_else(|| brain.pick_download_step())
        .or_else(|| brain.pick_removal_step())
        .unwrap_or(Step::Rest)
}

/// The switch that may begin now, but for the token and for what the host lacks.
pub(crate) fn permitted_switch(
    wanted: Option<&Wanted>,
    actual: &Actual,
    policy: &Policy,
) -> Option<BuildId> {
    Brain { wanted, actual, policy }.permitted()
}

struct Brain<'a> {
    wanted: Option<&'a Wanted>,
    actual: &'a Actual,
    policy: &'a Policy,
}

/// What has to happen about a hook before what depends on it.
enum HookNeed {
    /// Nothing: it has run, or there is none.
    Nothing,
    Run(Step),
    /// One runs.
    Wait,
}

impl Brain<'_> {
    /// The goal's build, unless it failed here since somebody deployed it.
    fn target(&self) -> Option<BuildId> {
        let wanted = self.wanted?;
        let journal = self.actual.journal.as_ref();
        let failure =
            journal.and_then(|journal| journal.quarantine_of(wanted.build, wanted.asked_by));
        failure.is_none().then_some(wanted.build)
    }

    fn is_complete(&self, build: BuildId) -> bool {
        self.actual.complete.contains_key(&build)
    }

    /// The journal of a switch or rollback that is not over.
    fn begun(&self) -> Option<&Journal> {
        let is_over = |journal: &Journal| {
            journal.phase == JournalPhase::Good || journal.is_given_up(self.actual.current)
        };
        self.actual.journal.as_ref().filter(|journal| !is_over(journal))
    }

    /// The newest build that ran well here, is complete, and is not `failed`.
    fn way_back(&self, failed: Option<BuildId>) -> Option<BuildId> {
        let journal = self.actual.journal.as_ref()?;
        let mut good = journal.good.iter().copied();
        good.find(|build| Some(*build) != failed && self.is_complete(*build))
    }

    /// The switch that the goal asks for and that has not begun.
    fn due(&self) -> Option<BuildId> {
        let target = self.target().filter(|build| self.is_complete(*build))?;
        let journal = self.actual.journal.as_ref();
        // One that failed and was deployed again has its next try before it.
        let is_begun = journal
            .is_some_and(|journal| journal.to == target && journal.failure_of(target).is_none());
        let is_there = journal.is_none() && self.actual.current == Some(target);
        (!is_begun && !is_there).then_some(target)
    }

    /// Whether no build ran well here and none could be run.
    fn has_nothing_to_run(&self) -> bool {
        self.actual.current.is_none() && self.way_back(None).is_none()
    }

    /// The switch that the goal asks for and that this host may begin, but for the token.
    fn allowed(&self) -> Option<BuildId> {
        let is_out = [self.actual.unready, self.actual.unstartable];
        self.permitted().filter(|build| !is_out.contains(&Some(*build)))
    }

    fn permitted(&self) -> Option<BuildId> {
        let due = self.due()?;
        match self.policy.permission {
            Permission::Granted => Some(due),
            Permission::Later => self.has_nothing_to_run().then_some(due),
            Permission::Withheld | Permission::Refused => None,
        }
    }

    fn has_token(&self) -> bool {
        !self.policy.needs_token || self.actual.token == Token::Held
    }

    fn hook_need(&self, kind: HookKind, build: BuildId) -> HookNeed {
        if !self.policy.hooks.contains(&kind) || self.actual.hooks.done.contains(&(kind, build)) {
            return HookNeed::Nothing;
        }
        match self.actual.hooks.running {
            Some(_) => HookNeed::Wait,
            None => HookNeed::Run(Step::RunHook { kind, build }),
        }
    }

    /// A hook of a switch that is not wanted any more must not hold up the next one.
    fn pick_stale_hook_step(&self) -> Option<Step> {
        let (kind, build) = self.actual.hooks.running?;
        let journal = self.actual.journal.as_ref();
        let is_wanted = match kind {
            HookKind::BeforeSwitch => self.due() == Some(build),
            HookKind::AfterSwitch | HookKind::AfterRollback => {
                journal.is_some_and(|journal| journal.to == build)
            }
            HookKind::Drain | HookKind::Undrain => true,
        };
        (!is_wanted).then_some(Step::CancelHook)
    }

    fn pick_failure_step(&self) -> Option<Step> {
        if self.actual.is_disk_resting {
            return None;
        }
        let journal = self.actual.journal.as_ref();
        if let Some(journal) = journal.filter(|journal| journal.phase == JournalPhase::Switching) {
            let has_failed = self.has_failed(journal);
            let is_lost = !self.is_complete(journal.to) && self.target() != Some(journal.to);
            if (has_failed || is_lost)
                && let Some(build) = self.way_back(Some(journal.to))
            {
                return Some(Step::RollBack { build });
            }
            if has_failed && let Some(step) = self.pick_dead_end_step(journal) {
                return Some(step);
            }
        }
        // A hook failed, or the build was found wanting, before anything was switched.
        let failed = [self.actual.hooks.failed, self.actual.unstartable];
        self.due()
            .filter(|due| failed.contains(&Some(*due)))
            .map(|failed| Step::Quarantine { failed })
    }

    /// What becomes of a build that failed where no other ever ran well. Its program goes on being
    /// tried, with pauses: what it needs may come. If a hook of it failed and it never ran here, it
    /// is not even started.
    fn pick_dead_end_step(&self, journal: &Journal) -> Option<Step> {
        let failed = journal.to;
        if journal.good.iter().any(|build| *build != failed) {
            // It is damaged; `fallback` has it fetched again.
            return None;
        }
        let runs_as_agent = self.actual.agent.is_some_and(|agent| agent.runs == Some(failed));
        if self.has_failed_hook(failed) && journal.good.is_empty() && !runs_as_agent {
            return Some(Step::GiveUp { failed });
        }
        journal.failure_of(failed).is_none().then_some(Step::Quarantine { failed })
    }

    /// Whether a hook of the switch to `build` failed.
    fn has_failed_hook(&self, build: BuildId) -> bool {
        self.actual.hooks.failed == Some(build)
    }

    fn has_failed(&self, journal: &Journal) -> bool {
        self.actual.failed == Some(journal.to) || self.is_out_of_tries(journal)
    }

    /// The build whose program should run: that of `current`, unless the way back has been decided
    /// and the disk cannot record it yet. A program that works does not wait for the disk. `None`
    /// if there is none, or its hook failed and the way back from it is not here yet.
    fn to_run(&self) -> Option<BuildId> {
        let way_back = match self.begun() {
            Some(journal) if journal.phase == JournalPhase::RollingBack => {
                Some(journal.to).filter(|to| self.is_complete(*to))
            }
            Some(journal) if self.has_failed(journal) => {
                let way_back = self.way_back(Some(journal.to));
                let ran_well = journal.good.contains(&journal.to);
                if way_back.is_none() && self.has_failed_hook(journal.to) && !ran_well {
                    return None;
                }
                way_back
            }
            _ => None,
        };
        way_back.or(self.actual.current)
    }

    /// Whether the program of the new build was started as often as it may be, and does not run.
    fn is_out_of_tries(&self, journal: &Journal) -> bool {
        let runs = |program| match program {
            Program::Running { build, .. } => build == journal.to,
            Program::Ending => true,
            Program::Stopped | Program::Resting { .. } => false,
        };
        let Programs { serving, candidate, .. } = self.actual.programs;
        if let Some(agent) = self.actual.agent {
            return journal.tries_left == 0
                && self.actual.current == Some(journal.to)
                && agent.runs != Some(journal.to);
        }
        self.policy.has_program
            && journal.tries_left == 0
            && self.actual.current == Some(journal.to)
            && !runs(serving)
            && !runs(candidate)
    }

    fn pick_begin_step(&self) -> Option<Step> {
        let build = self.allowed()?;
        if !self.has_token() && !self.has_nothing_to_run() {
            return None;
        }
        match self.hook_need(HookKind::BeforeSwitch, build) {
            HookNeed::Run(step) => Some(step),
            HookNeed::Wait => None,
            HookNeed::Nothing => (!self.actual.is_disk_resting).then_some(Step::Switch { build }),
        }
    }

    /// Repairs `current`, which a crash after the write of the journal left behind or somebody
    /// removed.
    fn pick_current_step(&self) -> Option<Step> {
        let journal = self.actual.journal.as_ref()?;
        let current = self.actual.current;
        if self.actual.is_disk_resting
            || current == Some(journal.to)
            || journal.is_given_up(current)
        {
            return None;
        }
        if self.is_complete(journal.to) {
            return Some(Step::Repoint { build: journal.to });
        }
        // The build is damaged or gone. A program that runs from it may go on; a host where nothing
        // runs goes back to the build that ran well before.
        let nothing_runs = !matches!(self.actual.programs.serving, Program::Running { .. });
        let build =
            self.way_back(None).filter(|_| nothing_runs && self.actual.current.is_none())?;
        Some(Step::RollBack { build })
    }

    fn pick_program_step(&self) -> Option<Step> {
        let Programs { serving, candidate, is_leaving } = self.actual.programs;
        if let Some(agent) = self.actual.agent {
            return self.pick_agent_step(agent);
        }
        if !self.policy.has_program {
            return stop_all(serving, candidate);
        }
        // Without a current build (removed by hand) the program is all there is: it stays until
        // there is something to replace it.
        let current = self.to_run()?;
        let is_right = |program| matches!(program, Program::Running { build, is_fresh: true, .. } if build == current);
        let is_alone = !matches!(candidate, Program::Running { .. });
        if self.actual.vitals == Vitals::Ailing
            && is_alone
            && matches!(serving, Program::Running { build, .. } if build == current)
        {
            return Some(Step::Revive);
        }
        if is_right(serving) {
            return stop_unneeded(candidate).or_else(|| self.pick_undrain_step(serving));
        }
        if !self.may_replace(serving, current) {
            return stop_unneeded(candidate);
        }
        match self.after_switch_need(current) {
            HookNeed::Run(step) => return Some(step),
            HookNeed::Wait => return None,
            HookNeed::Nothing => {}
        }
        if is_right(candidate) {
            return self.pick_promote_step(serving, candidate);
        }
        if matches!(candidate, Program::Running { .. }) {
            return Some(Step::StopCandidate);
        }
        match serving {
            Program::Running { .. } if self.policy.swap == Swap::Overlap => {
                let rests = candidate == Program::Resting { build: current };
                let is_free = candidate != Program::Ending && !rests && !is_leaving;
                is_free.then_some(Step::StartCandidate { build: current })
            }
            Program::Running { build, .. } => match self.drain_need(build) {
                HookNeed::Run(step) => Some(step),
                HookNeed::Wait => None,
                HookNeed::Nothing => Some(Step::Stop),
            },
            Program::Resting { build } if build == current => None,
            // Two programs that must not run side by side would meet.
            Program::Stopped | Program::Resting { .. }
                if is_leaving && self.policy.swap == Swap::Stop =>
            {
                None
            }
            Program::Stopped | Program::Resting { .. } => Some(Step::Start { build: current }),
            Program::Ending => None,
        }
    }

    /// The stub that a restart goes through picks the agent of the current build, unless that is
    /// out of tries.
    fn pick_agent_step(&self, agent: AgentView) -> Option<Step> {
        let journal = self.begun()?;
        let has_tries = journal.phase == JournalPhase::RollingBack || journal.tries_left > 0;
        let is_other = agent.runs != self.actual.current;
        if self.actual.current != Some(journal.to)
            || !is_other
            || !has_tries
            || self.has_failed_hook(journal.to)
        {
            return None;
        }
        match self.after_switch_need(journal.to) {
            HookNeed::Run(step) => Some(step),
            HookNeed::Wait => None,
            HookNeed::Nothing => agent.may_restart.then_some(Step::RestartAgent),
        }
    }

    /// The program that serves stays until the new one is good. One that is not healthy itself is
    /// replaced as soon as the new one answers, and where none serves there is nothing to wait for.
    fn pick_promote_step(&self, serving: Program, candidate: Program) -> Option<Step> {
        let least = match serving {
            Program::Running { .. } if self.actual.vitals == Vitals::Ailing => Gate::Ready,
            Program::Running { .. } => Gate::Good,
            _ => Gate::Starting,
        };
        let is_far = matches!(candidate, Program::Running { gate, .. } if gate >= least);
        is_far.then_some(Step::Promote)
    }

    /// Whether the program may be taken down now. One of another build may: the switch has begun. A
    /// mere restart is a start of its own and needs permission.
    fn may_replace(&self, serving: Program, current: BuildId) -> bool {
        match serving {
            Program::Running { build, .. } if build == current => {
                self.begun().is_some()
                    || (self.policy.permission != Permission::Refused && self.has_token())
            }
            _ => true,
        }
    }

    fn after_switch_need(&self, current: BuildId) -> HookNeed {
        let is_switching = self.begun().is_some_and(|journal| {
            journal.phase == JournalPhase::Switching && journal.to == current
        });
        // After a crash of the agent the program may run already.
        let Programs { serving, candidate, .. } = self.actual.programs;
        let has_started = [serving, candidate].iter().any(|program| {
            matches!(program, Program::Running { build, .. } | Program::Resting { build } if *build == current)
        });
        if is_switching && !has_started {
            self.hook_need(HookKind::AfterSwitch, current)
        } else {
            HookNeed::Nothing
        }
    }

    fn drain_need(&self, build: BuildId) -> HookNeed {
        if self.actual.hooks.drained == Drained::Yes {
            HookNeed::Nothing
        } else {
            self.hook_need(HookKind::Drain, build)
        }
    }

    fn pick_undrain_step(&self, serving: Program) -> Option<Step> {
        let Program::Running { build, gate, .. } = serving else { return None };
        if self.actual.hooks.drained == Drained::No || gate < Gate::Ready {
            return None;
        }
        match self.hook_need(HookKind::Undrain, build) {
            HookNeed::Run(step) => Some(step),
            HookNeed::Wait | HookNeed::Nothing => None,
        }
    }

    fn pick_settle_step(&self) -> Option<Step> {
        let journal = self.actual.journal.as_ref()?;
        if self.actual.current != Some(journal.to) || self.actual.is_disk_resting {
            return None;
        }
        let gate = match self.actual.programs.serving {
            _ if self.actual.agent.is_some() => self.agent_gate(journal.to)?,
            Program::Running { build, gate, .. } if build == journal.to => gate,
            _ if !self.policy.has_program => Gate::Good,
            _ => return None,
        };
        // Nothing is called good while its probe fails.
        let is_good = gate == Gate::Good && self.actual.vitals == Vitals::Well;
        match journal.phase {
            JournalPhase::Good => {
                // A new generation may name the build that already runs: nothing to switch, but to
                // note.
                let is_news = self.wanted.is_some_and(|wanted| {
                    wanted.generation > journal.generation && wanted.build == journal.to
                });
                return (is_news && is_good).then_some(Step::Settle);
            }
            JournalPhase::RollingBack if gate >= Gate::Ready => {
                match self.hook_need(HookKind::AfterRollback, journal.to) {
                    HookNeed::Run(step) => return Some(step),
                    HookNeed::Wait => return None,
                    HookNeed::Nothing => {}
                }
            }
            // Its hook comes before the settlement even where there is no program.
            JournalPhase::Switching if !self.policy.has_program && self.actual.agent.is_none() => {
                if self.has_failed_hook(journal.to) {
                    return None;
                }
                match self.after_switch_need(journal.to) {
                    HookNeed::Run(step) => return Some(step),
                    HookNeed::Wait => return None,
                    HookNeed::Nothing => {}
                }
            }
            JournalPhase::Switching | JournalPhase::RollingBack => {}
        }
        is_good.then_some(Step::Settle)
    }

    /// How far the agent of `build` is trusted, if this is it.
    fn agent_gate(&self, build: BuildId) -> Option<Gate> {
        let agent = self.actual.agent.filter(|agent| agent.runs == Some(build))?;
        Some(if agent.is_good { Gate::Good } else { Gate::Ready })
    }

    fn pick_token_step(&self) -> Option<Step> {
        if !self.policy.needs_token {
            return (self.actual.token != Token::None).then_some(Step::ReturnToken);
        }
        let serving = self.actual.programs.serving;
        let is_stale = matches!(serving, Program::Running { is_fresh: false, .. })
            && self.policy.permission != Permission::Refused;
        let is_wanted = (self.allowed().is_some() && !self.has_nothing_to_run())
            || self.begun().is_some()
            || (is_stale && self.policy.has_program);
        // Whoever took a program down holds the token until one serves again.
        let serves = !self.policy.has_program
            || matches!(serving, Program::Running { gate, .. } if gate >= Gate::Ready);
        match self.actual.token {
            Token::None => is_wanted.then_some(Step::AskToken),
            Token::Asked => (!is_wanted).then_some(Step::ReturnToken),
            Token::Held => (!is_wanted && serves).then_some(Step::ReturnToken),
        }
    }

    /// The build that has to be here besides the goal's, and may have been damaged: the one that
    /// was settled on, or the one to go back to from a build that failed.
    fn fallback(&self) -> Option<BuildId> {
        let journal = self.actual.journal.as_ref()?;
        match journal.phase {
            JournalPhase::Good => Some(journal.to),
            JournalPhase::Switching if self.has_failed(journal) => {
                let lost = self.way_back(Some(journal.to)).is_none();
                journal.good.iter().copied().find(|build| lost && *build != journal.to)
            }
            JournalPhase::Switching | JournalPhase::RollingBack => None,
        }
    }

    fn pick_download_step(&self) -> Option<Step> {
        let is_missing = |build: &BuildId| !self.is_complete(*build);
        let missing =
            self.target().filter(is_missing).or_else(|| self.fallback().filter(is_missing));
        match (self.actual.download, missing) {
            (Transfer::Active { build }, missing) if missing == Some(build) => None,
            (Transfer::Resting { build }, Some(missing)) if build == missing => None,
            // It would be downloaded into what is being removed.
            (_, Some(missing)) if self.actual.removing == Some(missing) => {
                matches!(self.actual.download, Transfer::Active { .. })
                    .then_some(Step::CancelDownload)
            }
            (_, Some(build)) => Some(Step::Download { build }),
            (Transfer::Active { .. }, None) => Some(Step::CancelDownload),
            (Transfer::Idle | Transfer::Resting { .. }, None) => None,
        }
    }

    /// Builds are removed one at a time, and never in the middle of a switch: until it is over an
    /// old build may be the one to go back to.
    fn pick_removal_step(&self) -> Option<Step> {
        let actual = self.actual;
        let journal = actual.journal.as_ref()?;
        let is_at_rest = journal.phase == JournalPhase::Good
            && actual.current == Some(journal.to)
            && actual.removing.is_none()
            && !actual.is_disk_resting;
        if !is_at_rest {
            return None;
        }
        let kept = self.kept_builds(journal);
        let surplus = actual.complete.keys().find(|build| !kept.contains(build));
        let staged = actual
            .staged
            .iter()
            .find(|build| !actual.complete.contains_key(build) && !kept.contains(build));
        surplus.or(staged).map(|build| Step::Remove { build: *build })
    }

    /// Builds that stay: those that something needs, then good ones, newest first, while they fit.
    fn kept_builds(&self, journal: &Journal) -> BTreeSet<BuildId> {
        let actual = self.actual;
        let runs = [actual.programs.serving, actual.programs.candidate].into_iter().filter_map(
            |program| match program {
                Program::Running { build, .. } | Program::Resting { build } => Some(build),
                Program::Stopped | Program::Ending => None,
            },
        );
        let goal = self.wanted.map(|wanted| wanted.build);
        let previous = self.way_back(actual.current);
        let mut kept: BTreeSet<BuildId> =
            runs.chain(actual.current).chain([journal.to]).chain(goal).chain(previous).collect();
        let size_of = |build: &BuildId| actual.complete.get(build).copied().unwrap_or(0);
        let mut bytes: u64 = kept.iter().map(size_of).sum();
        let mut count =
            kept.iter().filter(|build| Some(**build) != goal || goal == actual.current).count();
        for build in &journal.good {
            if kept.contains(build) || !self.is_complete(*build) {
                continue;
            }
            bytes = bytes.saturating_add(size_of(build));
            if count >= self.policy.keep_builds
                || self.policy.keep_bytes.is_some_and(|bytes_max| bytes > bytes_max)
            {
                break;
            }
            count += 1;
            kept.insert(*build);
        }
        kept
    }
}

fn stop_all(serving: Program, candidate: Program) -> Option<Step> {
    match serving {
        Program::Running { .. } => Some(Step::Stop),
        Program::Stopped | Program::Ending | Program::Resting { .. } => stop_unneeded(candidate),
    }
}

fn stop_unneeded(candidate: Program) -> Option<Step> {
    match candidate {
        Program::Running { .. } | Program::Resting { .. } => Some(Step::StopCandidate),
        Program::Stopped | Program::Ending => None,
    }
}
