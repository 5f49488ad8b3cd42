//! How often the programs of an app had to be started again, and what is to be told of it.
//!
//! Invariant: what a row tells is of the build that `current` points to, and since it was switched
//! to or its program was ordered to start anew; the end of a program of another build is in the
//! log and in the totals only. The totals never fall: metrics take their differences.
//!
//! Pure but for the clock of the pauses: `supervisor` ends and starts programs.

use std::time::Duration;

use p2p_core::{BuildId, Digest};
use tokio::time::Instant;

use super::SupervisorTimings;
use crate::backoff::Backoff;

/// Starts again since the agent started, by cause.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RestartCounts {
    /// The program ended, or could not be started.
    pub ended: u64,
    /// It was not healthy.
    pub unhealthy: u64,
}

/// Why a program has to be started again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cause {
    Ended,
    Unhealthy,
}

/// What starts of a program have in common that nobody ordered: a start that differs in any of it
/// begins with a clean record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Life {
    pub(super) build: BuildId,
    /// Digest of the command; `None` for an app without a program.
    pub(super) command: Option<Digest>,
    /// The order to restart that it fulfils.
    pub(super) restart: u64,
    pub(super) stale_before: Option<Instant>,
}

/// Of whose programs a row tells.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// What `current` points to; `None`: whatever runs.
    pub build: Option<BuildId>,
    /// Whether the host is expected not to serve until a new program answers, for a switch or for a
    /// restart that was ordered: that one does not answer yet is no trouble then.
    pub is_awaited: bool,
}

impl Told {
    pub(super) fn is_of(self, build: BuildId) -> bool {
        self.build.is_none_or(|told| told == build)
    }
}

/// Ends of programs that nobody asked for, by themselves or because they were not healthy.
#[derive(Debug)]
pub(super) struct Crashes {
    pub(super) in_a_row: u32,
    /// Those in a row that were not healthy.
    pub(super) unhealthy_in_a_row: u32,
    pub(super) total: RestartCounts,
    pub(super) told: Told,
    /// Those of the build that is told of.
    restarts: u32,
    backoff: Backoff,
    life: Option<Life>,
    last: Option<Crash>,
}

/// One of them, in words for people.
#[derive(Debug)]
pub(super) struct Crash {
    pub(super) build: BuildId,
    pub(super) how: String,
    pub(super) wait: Duration,
    pub(super) output: String,
    /// The last lines.
    pub(super) tail: String,
}

impl Crashes {
    pub(super) fn new(timings: &SupervisorTimings) -> Self {
        Self {
            in_a_row: 0,
            unhealthy_in_a_row: 0,
            total: RestartCounts::default(),
            told: Told::default(),
            restarts: 0,
            backoff: Backoff::new(timings.restart_first, timings.restart_max),
            life: None,
            last: None,
        }
    }

    /// Says of whose programs is told. Another build begins with no restarts.
    pub(super) fn set_told(&mut self, told: Told) {
        if self.told.build != told.build {
            self.restarts = 0;
        }
        self.told = told;
    }

    /// The build that is told of is switched to anew.
    pub(super) fn begin(&mut self) {
        self.restarts = 0;
        self.forget();
    }

    /// A program is started.
    pub(super) fn on_start(&mut self, life: Life) {
        if self.life != Some(life) {
            self.forget();
            if self.told.is_of(life.build) {
                self.restarts = 0;
            }
            self.life = Some(life);
        }
    }

    /// How often the program that is told of was started again.
    pub(super) const fn restarts(&self) -> u32 {
        self.restarts
    }

    /// The end that was noted last, if its program is told of.
    pub(super) fn last_told(&self) -> Option<&Crash> {
        self.last.as_ref().filter(|crash| self.told.is_of(crash.build))
    }

    /// The same, if it was a program of `build`.
    pub(super) fn last_of(&self, build: BuildId) -> Option<&Crash> {
        self.last.as_ref().filter(|crash| crash.build == build)
    }

    /// Whether nothing but the end of a program of `build` is what the next start waits for.
    pub(super) fn are_of(&self, build: BuildId) -> bool {
        self.in_a_row > 0 && self.life.is_some_and(|life| life.build == build)
    }

    /// Counts one more end in the totals only.
    pub(super) const fn count(&mut self, cause: Cause) {
        match cause {
            Cause::Ended => self.total.ended += 1,
            Cause::Unhealthy => self.total.unhealthy += 1,
        }
    }

    /// Counts one more end of a program of this life, and returns how long to wait.
    pub(super) fn note(&mut self, cause: Cause, life: Life) -> Duration {
        self.count(cause);
        // What an earlier agent started was not seen here before.
        self.life.get_or_insert(life);
        self.in_a_row += 1;
        if cause == Cause::Unhealthy {
            self.unhealthy_in_a_row += 1;
        }
        if self.told.is_of(life.build) {
            self.restarts += 1;
        }
        self.backoff.after_failure()
    }

    pub(super) fn set_last(&mut self, crash: Crash) {
        self.last = Some(crash);
    }

    pub(super) fn forget(&mut self) {
        self.in_a_row = 0;
        self.unhealthy_in_a_row = 0;
        self.last = None;
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(seed: u8) -> BuildId {
        BuildId::of_manifest(&[seed])
    }

    fn life(seed: u8) -> Life {
        Life { build: build(seed), command: None, restart: 0, stale_before: None }
    }

    fn told(seed: u8) -> Told {
        Told { build: Some(build(seed)), is_awaited: false }
    }

    /// Goal: metrics take the difference of two totals, so those never fall; what a row tells does.
    #[test]
    fn restarts_are_of_one_build_and_totals_of_all() {
        let mut crashes = Crashes::new(&SupervisorTimings::fleet());
        crashes.set_told(told(1));
        // The program was found.
        crashes.note(Cause::Ended, life(1));
        crashes.on_start(life(1));
        crashes.note(Cause::Unhealthy, life(1));
        assert_eq!((crashes.restarts(), crashes.in_a_row), (2, 2));
        crashes.begin();
        crashes.set_told(told(2));
        crashes.note(Cause::Ended, life(1));
        assert_eq!(crashes.restarts(), 0, "of the old build");
        crashes.on_start(life(2));
        assert_eq!(crashes.in_a_row, 0);
        crashes.note(Cause::Ended, life(2));
        crashes.on_start(life(2));
        assert_eq!((crashes.restarts(), crashes.in_a_row), (1, 1));
        crashes.on_start(Life { restart: 1, ..life(2) });
        assert_eq!((crashes.restarts(), crashes.in_a_row), (0, 0), "it was ordered");
        assert_eq!(crashes.total, RestartCounts { ended: 3, unhealthy: 1 });
    }
}
