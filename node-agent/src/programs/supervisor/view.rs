//! What the loop of an app sees of its programs: for the brain, for status rows, and for people.
//!
//! Only reads: it changes nothing and decides nothing. How far a program is trusted is decided in
//! `health_watch`.

use std::time::Duration;

use goal_state::{Trouble, TroubleKind};
use p2p_core::BuildId;
use tokio::time::Instant;

use super::{Crash, OutputCounts, RestartCounts, Slot, Supervisor};
use crate::brain::model::{Program, Programs, Vitals};
use crate::host::Host;
use crate::host::launch::Launch;
use crate::programs::health_watch::Check;
use crate::programs::instance::Instance;

#[expect(clippy::multiple_inherent_impl, reason = "the supervisor acts, this only looks")]
impl<H: Host> Supervisor<H> {
    /// The programs as the app's brain needs to know them.
    pub fn programs(&self) -> Programs {
        Programs {
            serving: self.program(&self.serving),
            candidate: self.program(&self.candidate),
            is_leaving: matches!(self.leaving, Slot::Alive { .. }),
        }
    }

    fn program(&self, slot: &Slot<H::Process>) -> Program {
        match slot {
            Slot::Idle => Program::Stopped,
            Slot::Resting { build, .. } => Program::Resting { build: *build },
            Slot::Alive { instance, .. } if instance.is_ending() => Program::Ending,
            Slot::Alive { instance, .. } => Program::Running {
                build: instance.record.build,
                is_fresh: self.is_fresh(instance),
                gate: instance.health.gate(),
            },
        }
    }

    fn is_fresh(&self, instance: &Instance<H::Process>) -> bool {
        let command = self.settings.launch.as_ref().map(Launch::digest);
        command == Some(instance.record.command)
            && instance.record.restart >= self.restart
            && self.stale_before.is_none_or(|moment| instance.up_since >= moment)
    }

    /// The build that was not healthy in time or printed too much while it was judged, and why,
    /// until [`Self::forget_failure`].
    pub fn failed(&self) -> Option<(BuildId, &str)> {
        self.failed.as_ref().map(|(build, why)| (*build, why.as_str()))
    }

    /// How a program of `build` ended last, for the record of a failed build.
    pub fn last_crash(&self, build: BuildId) -> Option<&str> {
        self.crashes.last_of(build).map(|crash| crash.how.as_str())
    }

    /// The last lines of the program of `build`, which may have ended.
    pub fn output_tail(&self, build: BuildId) -> String {
        [&self.candidate, &self.serving]
            .into_iter()
            .find_map(|slot| match slot {
                Slot::Alive { instance, .. } if instance.record.build == build => {
                    instance.output.tail()
                }
                _ => None,
            })
            .or_else(|| self.crashes.last_of(build).map(|crash| crash.tail.clone()))
            .unwrap_or_default()
    }

    /// Whether no process of the app is left.
    pub const fn is_idle(&self) -> bool {
        !matches!(self.serving, Slot::Alive { .. })
            && !matches!(self.candidate, Slot::Alive { .. })
            && !matches!(self.leaving, Slot::Alive { .. })
    }

    /// Process id of the serving program.
    pub fn pid(&self) -> Option<u32> {
        self.serving.running().and_then(Instance::pid)
    }

    /// How long the serving program has been up, as far as this agent knows.
    pub fn up_for(&self) -> Option<Duration> {
        self.serving.running().map(|instance| instance.up_since.elapsed())
    }

    /// How often the program that is told of was started again since the switch to it, or since the
    /// last order to start it anew, as far as this agent knows.
    pub const fn restarts(&self) -> u32 {
        self.crashes.restarts()
    }

    /// Starts again since the agent started, of whichever program.
    pub const fn restart_counts(&self) -> RestartCounts {
        self.crashes.total
    }

    /// How the serving program is; well if there is none.
    pub(crate) fn vitals(&self) -> Vitals {
        match self.is_healthy() {
            _ if self.ailment().is_some() => Vitals::Ailing,
            Some(false) => Vitals::Unhealthy,
            Some(true) | None => Vitals::Well,
        }
    }

    /// Why the serving program has to be started again although it runs, for people; `None` while
    /// it need not be.
    pub fn ailment(&self) -> Option<String> {
        self.serving.running()?.health.ailment(Instant::now())
    }

    /// What programs printed.
    pub const fn output_counts(&self) -> OutputCounts {
        self.output
    }

    /// That the serving program prints too much, for people; `None` if it does not.
    pub fn flood(&self) -> Option<String> {
        let flood = self.serving.running()?.health.flood()?;
        Some(format!("the program {flood}"))
    }

    /// Whether the serving program answered its last probe well; `None` without a probe.
    pub fn is_healthy(&self) -> Option<bool> {
        self.serving.running().and_then(|instance| instance.health.is_healthy())
    }

    /// The same, if it is the program that is told of. That a new one does not answer yet is not
    /// known for bad while that is awaited.
    pub fn is_healthy_as_told(&self) -> Option<bool> {
        let instance = self.serving.running().filter(|instance| self.is_told(instance))?;
        instance.health.is_healthy().filter(|_| !self.is_still_awaited(instance))
    }

    fn is_told(&self, instance: &Instance<H::Process>) -> bool {
        self.crashes.told.is_of(instance.record.build)
    }

    fn is_still_awaited(&self, instance: &Instance<H::Process>) -> bool {
        self.crashes.told.is_awaited && instance.health.is_young(Instant::now())
    }

    /// Time until a program that ended is started again; `None` if none waits for that.
    pub fn next_start_in(&self) -> Option<Duration> {
        let rests = [&self.serving, &self.candidate].into_iter().filter_map(|slot| match slot {
            Slot::Resting { until, .. } => Some(until.saturating_duration_since(Instant::now())),
            Slot::Idle | Slot::Alive { .. } => None,
        });
        rests.min()
    }

    /// Where the program that is not good yet stands; `None` if there is none.
    pub fn check_facts(&self) -> Option<Check> {
        let mut young = [&self.candidate, &self.serving].into_iter().filter_map(Slot::running);
        young.find_map(|instance| instance.health.check(Instant::now()))
    }

    /// The same as [`Self::trouble`], in words only.
    pub fn message(&self) -> Option<String> {
        self.trouble().map(|trouble| trouble.text)
    }

    /// How the program that is told of ended last and what follows, or why it is not healthy;
    /// `None` while all is well.
    pub fn trouble(&self) -> Option<Trouble> {
        if let Some(crash) = self.crashes.last_told() {
            return Some(self.crash_trouble(crash));
        }
        let instances = [&self.serving, &self.candidate].into_iter().filter_map(Slot::running);
        let mut told =
            instances.filter(|instance| self.is_told(instance) && !self.is_still_awaited(instance));
        told.find_map(|instance| {
            let text = format!("the program is not healthy: {}", instance.health.last_failure()?);
            Some(Trouble::new(TroubleKind::Unhealthy, text))
        })
    }

    /// How a program ended and what follows.
    pub(super) fn crash_trouble(&self, crash: &Crash) -> Trouble {
        let Crash { build, how, wait, output, .. } = crash;
        let settle_after = self.settings.timings.settle_after;
        let wait = humantime::format_duration(*wait);
        let (kind, text) = match self.serving.running() {
            Some(old) if old.record.build != *build => (
                TroubleKind::Crash,
                format!(
                    "the new build does not come up, the one before it serves: {how}; next start \
                     in {wait}; {output}"
                ),
            ),
            Some(up) if up.up_since.elapsed() >= settle_after => {
                (TroubleKind::RunsAgain, format!("runs again after: {how}; {output}"))
            }
            _ => (TroubleKind::Crash, format!("{how}; next start in {wait}; {output}")),
        };
        Trouble::new(kind, text)
    }
}
