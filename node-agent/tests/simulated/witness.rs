//! Remembers what a host was told and what failed on it, and speaks up when a program is started
//! that must not be, or none runs where one did.
//!
//! It knows nothing of how the agent decides: only orders, what was durably noted as failed, and
//! programs.

use std::collections::BTreeMap;
use std::time::Duration;

use goal_state::{Rollout, SwitchTime};
use node_agent::state::{Journal, JournalPhase};
use p2p_core::BuildId;

/// Longest time without any program: above the longest pause between two starts, two hooks and a
/// program that has to be killed.
const DOWN_MAX: Duration = Duration::from_mins(2);

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// The last deploy of each build.
    deploys: BTreeMap<BuildId, u64>,
    /// Builds that failed, and the newest goal then.
    failures: BTreeMap<BuildId, u64>,
    withheld: Option<Withheld>,
    /// Whether a build was found good.
    had_program: bool,
    down_since: Option<Duration>,
    guard: Guard,
}

/// Whether nothing but a loss of power may take a good program away.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Guard {
    #[default]
    Off,
    /// From the moment on in which one serves.
    Ready,
    On,
}

/// The build of a goal that is halted or staged.
#[derive(Debug)]
struct Withheld {
    build: BuildId,
    /// What the host was about to run when the goal was set.
    begun: Option<BuildId>,
    /// When the switch may begin, by the machine's clock.
    until_ms: u64,
}

impl Witness {
    /// The goal of this generation and build is set.
    pub(crate) fn on_goal(
        &mut self,
        (generation, build): (u64, BuildId),
        rollout: &Rollout,
        journal: Option<&Journal>,
    ) {
        if rollout.deployed_of(generation) == generation {
            self.deploys.insert(build, generation);
        }
        let until_ms = match (&rollout.halted, rollout.switch) {
            (Some(_), _) | (None, SwitchTime::OnOrder) => u64::MAX,
            (None, SwitchTime::At(at_ms)) => at_ms,
            (None, SwitchTime::Now) => 0,
        };
        let begun = journal.map(|journal| journal.to);
        self.withheld = Some(Withheld { build, begun, until_ms });
    }

    /// From now on nothing but a loss of power may take a good program away.
    pub(crate) const fn be_strict(&mut self) {
        self.guard = Guard::Ready;
    }

    /// What the host runs is gone.
    pub(crate) fn on_power_lost(&mut self) {
        if self.guard == Guard::On {
            self.guard = Guard::Ready;
        }
    }

    /// A second has passed: the time, the journal with whether its build is a good one, and, of
    /// each program that was not told to stop, whether it is.
    pub(crate) fn on_look(
        &mut self,
        now: Duration,
        (journal, is_good): (Option<&Journal>, bool),
        serving: &[bool],
    ) -> Option<String> {
        if let Some(journal) = journal {
            for failed in journal.failed.iter().chain(&journal.failed_before) {
                let since = self.failures.entry(failed.build).or_default();
                *since = failed.since.max(*since);
            }
            if journal.phase == JournalPhase::Good {
                self.failures.remove(&journal.to);
                self.had_program = true;
                if self.guard == Guard::Ready && is_good && serving.contains(&true) {
                    self.guard = Guard::On;
                }
            }
        }
        if self.guard == Guard::On && !serving.contains(&true) {
            return Some("nothing good serves, where nothing may ever be down".into());
        }
        if !serving.is_empty() {
            self.down_since = None;
        } else if self.had_program && now > *self.down_since.get_or_insert(now) + DOWN_MAX {
            return Some("a host that had a program has none".into());
        }
        None
    }

    /// What is wrong with a start of `build` now, by the machine's clock.
    pub(crate) fn judge_start(
        &self,
        now_ms: u64,
        journal: Option<&Journal>,
        build: BuildId,
    ) -> Option<String> {
        let ran_well = journal.is_some_and(|journal| journal.good.contains(&build));
        if let Some(withheld) = &self.withheld
            && withheld.build == build
            && withheld.begun != Some(build)
            && now_ms < withheld.until_ms
            && !ran_well
        {
            return Some("started a build that is halted or staged".into());
        }
        // Where no other build ever ran well, the one that fails is tried on.
        let is_all_there_is = journal.is_some_and(|journal| {
            (journal.good.is_empty() && journal.to == build) || journal.good == [build]
        });
        if is_all_there_is {
            return None;
        }
        let noted = journal.and_then(|journal| journal.failure_of(build)).map(|it| it.since);
        let failed = self.failures.get(&build).copied().max(noted)?;
        let deployed = self.deploys.get(&build).copied().unwrap_or_default();
        (deployed <= failed).then(|| {
            format!(
                "started a build that failed under goal {failed}, and was deployed as {deployed}"
            )
        })
    }
}
