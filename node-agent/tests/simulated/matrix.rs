//! One story, failing at each of its durable operations in each way.

use std::time::Duration;

use disk::Operation;
use node_agent::brain::Swap;
use rustix::io::Errno;

use super::builds::{Behaviour, Sample};
use super::machine::Machine;
use super::world::{Fate, Script, Turn, View, World};

/// How long a full disk stays full.
const FULL_TIME: Duration = Duration::from_secs(45);

/// When an agent is killed on it: after programs have been started that it took no record of.
const KILL_AFTER: Duration = Duration::from_secs(12);

/// A kind of failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    PowerLoss,
    Kill,
    Error,
    Full,
    /// And the agent is killed meanwhile.
    FullAndKill,
}

/// Goals one after the other, each once the host is at rest with the one before, or back from it.
struct Story {
    goals: &'static [usize],
    next: usize,
    /// Restarts of the agent at the end, to see that nothing changes by them.
    restarts_left: u32,
    starts_at_rest: Option<(u64, u32)>,
}

impl Story {
    const fn new() -> Self {
        Self { goals: &[0, 1, 2, 3], next: 0, restarts_left: 1, starts_at_rest: None }
    }
}

impl Script for Story {
    fn look(&mut self, view: &View<'_>) -> Turn {
        let world = view.world;
        let is_over = world.goal.is_none_or(|(_, goal)| {
            let samples = world.machine.samples();
            if samples[goal].behaviour.is_good() {
                world.stands_at(samples[goal].id)
            } else {
                world.has_quarantined(samples[goal].id) && world.stands_at(samples[goal - 1].id)
            }
        });
        if !is_over {
            return Turn::Wait;
        }
        if let Some(goal) = self.goals.get(self.next) {
            self.next += 1;
            return Turn::Goal(*goal);
        }
        let now = (world.machine.boot(), world.machine.starts());
        let then = *self.starts_at_rest.get_or_insert(now);
        if self.restarts_left > 0 {
            self.restarts_left -= 1;
            return Turn::Kill;
        }
        if view.waited < Duration::from_secs(30) {
            return Turn::Wait;
        }
        // A loss of power at that time takes the programs along.
        if then.0 == now.0 && then != now {
            world.machine.fault("a restart of the agent started a program anew");
        }
        Turn::Done
    }
}

/// How the bad build of the story fails.
const fn usual(swap: Swap) -> Behaviour {
    match swap {
        Swap::Overlap => Behaviour::Answers500,
        Swap::Stop => Behaviour::CrashesAfter(Duration::from_secs(3)),
    }
}

fn machine(swap: Swap, bad: Behaviour) -> Machine {
    let behaviours = [Behaviour::Good, Behaviour::IgnoresTerm, bad, Behaviour::Good];
    let samples = (0..).zip(behaviours).map(|(number, it)| Sample::new(number, it)).collect();
    Machine::new(samples, swap, 1)
}

fn world(swap: Swap, bad: Behaviour) -> World {
    World::new(machine(swap, bad), swap, swap == Swap::Stop)
}

/// The operations of the story when nothing fails.
fn count_operations(swap: Swap, bad: Behaviour) -> usize {
    let mut world = world(swap, bad);
    world.run(&mut Story::new(), &mut || 0);
    world.check_leftovers();
    world.operations()
}

fn run_with_failure((swap, bad): (Swap, Behaviour), kind: Kind, at: usize) {
    let mut world = world(swap, bad);
    let machine = world.host.machine.clone();
    let mut is_over = false;
    let (mut full_since, mut was_killed) = (None, false);
    world.set_fates(Box::new(move |number: usize, operation: &Operation| {
        if number < at || is_over {
            return Fate::Pass;
        }
        if matches!(kind, Kind::Full | Kind::FullAndKill) {
            let since = *full_since.get_or_insert_with(|| machine.now());
            is_over = machine.now() >= since + FULL_TIME;
            if kind == Kind::FullAndKill && !was_killed && machine.now() >= since + KILL_AFTER {
                was_killed = true;
                return Fate::Kill;
            }
            return if !is_over && operation.takes_space() {
                Fate::Fail(Errno::NOSPC)
            } else {
                Fate::Pass
            };
        }
        is_over = true;
        match kind {
            Kind::PowerLoss => Fate::PowerLoss,
            Kind::Kill => Fate::Kill,
            _ => Fate::Fail(Errno::IO),
        }
    }));
    let mut seed = at as u64;
    let mut next_seed = || {
        seed += 1;
        seed
    };
    world.run(&mut Story::new(), &mut next_seed);
    world.check_leftovers();
}

fn matrix(swap: Swap) {
    let count = count_operations(swap, usual(swap));
    for kind in [Kind::PowerLoss, Kind::Kill, Kind::Error, Kind::Full, Kind::FullAndKill] {
        let mut failed = vec![];
        for at in 0..count {
            let run = || run_with_failure((swap, usual(swap)), kind, at);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            if outcome.is_err() {
                failed.push(at);
            }
        }
        assert!(
            failed.is_empty(),
            "{swap:?} {kind:?} at operations {failed:?}; to repeat it: cargo nextest run -p \
             node-agent simulated::matrix"
        );
    }
}

#[test]
fn overlapping_swaps_survive_every_failure_at_every_operation() {
    matrix(Swap::Overlap);
}

#[test]
fn stopping_swaps_survive_every_failure_at_every_operation() {
    matrix(Swap::Stop);
}

/// Goal: a build that answers well and fills its log is rolled back, also by an agent that only
/// found its program running. Method: the story with such a build, and a kill at some of its
/// operations.
#[test]
fn build_that_floods_its_log_is_rolled_back_whatever_agent_sees_it() {
    for swap in [Swap::Overlap, Swap::Stop] {
        let count = count_operations(swap, Behaviour::Floods);
        for at in (0..count).step_by(7) {
            run_with_failure((swap, Behaviour::Floods), Kind::Kill, at);
        }
    }
}
