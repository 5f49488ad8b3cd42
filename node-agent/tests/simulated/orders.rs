//! Random orders of operators, and builds that fail at once, late, or hang: deploys, rollbacks,
//! wider rollouts, restarts, halts, stages, pauses, with agents that are killed and power that is
//! lost in between.
//!
//! What must hold is in `witness`: nothing but a new deploy of it brings a build back that failed
//! on the host, and no host that had a program is left without one. At the end a deploy of a good
//! build is followed, whatever was before. A seed alone reproduces a run.

use std::time::Duration;

use disk::Operation;
use goal_state::{Halted, Rollout, SwitchTime};
use node_agent::app::AppOrder;
use node_agent::brain::Swap;
use p2p_core::{Prng, Seed};

use super::builds::{Behaviour, Sample};
use super::machine::Machine;
use super::seeds::Seeds;
use super::world::{Fate, Fates, Host, Script, Turn, View, World};

const SEEDS: Seeds = Seeds {
    runs: 200,
    seed_variable: "SHOAL_ORDERS_SEED",
    runs_variable: "SHOAL_ORDERS_RUNS",
    module: "orders",
};

/// How long orders are given, by the machine's clock.
const ORDERS_TIME: Duration = Duration::from_mins(10);

/// Builds of a host. The first is good.
const BUILDS: usize = 5;

struct Orders {
    prng: Prng,
    /// Goals so far: build and the deploy that asked for it.
    past: Vec<(usize, u64)>,
    is_over: bool,
}

impl Orders {
    fn order(&mut self, host: &Host) -> Turn {
        let Some((generation, build)) = host.goal else { return self.deploy(host) };
        let kept = Rollout {
            since: host.rollout.since_of(generation),
            deployed: host.rollout.deployed_of(generation),
            ..host.rollout.clone()
        };
        match self.prng.below(120) {
            0..=3 => self.deploy(host),
            4..=6 => {
                let (build, deployed) = self.past[self.prng.index_below(self.past.len())];
                let Rollout { restart, .. } = kept;
                self.change(host, build, Rollout { deployed, restart, ..Rollout::default() })
            }
            7 | 8 => {
                let percent = [0, 50, 100][self.prng.index_below(3)];
                self.change(host, build, Rollout { percent, ..kept })
            }
            9 | 10 => self.change(host, build, Rollout { restart: generation + 1, ..kept }),
            11 => {
                let halted = Some(Halted::new(host.machine.now_ms(), "test", "too many failed"));
                self.change(host, build, Rollout { halted, ..kept })
            }
            12..=14 => {
                let switch = SwitchTime::Now;
                self.change(host, build, Rollout { halted: None, switch, percent: 100, ..kept })
            }
            15 => Turn::Order(AppOrder::Restart),
            16 => Turn::Order(AppOrder::Pause { reason: None }),
            17 | 18 => Turn::Order(AppOrder::Resume),
            19 => Turn::Kill,
            20 if self.prng.below(3) == 0 => Turn::LosePower,
            _ => Turn::Wait,
        }
    }

    /// Any build, now, later, or on order.
    fn deploy(&mut self, host: &Host) -> Turn {
        let build = self.prng.index_below(BUILDS);
        let switch = match self.prng.below(8) {
            0 => SwitchTime::OnOrder,
            1 => SwitchTime::At(host.machine.now_ms() + self.prng.below(60_000)),
            _ => SwitchTime::Now,
        };
        self.change(host, build, Rollout { switch, ..Rollout::default() })
    }

    fn change(&mut self, host: &Host, build: usize, rollout: Rollout) -> Turn {
        let generation = host.goal.map_or(1, |(generation, _)| generation + 1);
        self.past.push((build, rollout.deployed_of(generation)));
        Turn::Change(build, rollout)
    }
}

impl Script for Orders {
    fn look(&mut self, view: &View<'_>) -> Turn {
        let host = view.world;
        if host.machine.now() < ORDERS_TIME {
            return self.order(host);
        }
        if !self.is_over {
            self.is_over = true;
            host.machine.note("a good build is deployed, and nothing else happens from here on");
            host.machine.set_hook_fails_in(None);
            return Turn::Goal(0);
        }
        if host.app.paused().ok().flatten().is_some() {
            return Turn::Order(AppOrder::Resume);
        }
        if host.stands_at(host.machine.samples()[0].id) { Turn::Done } else { Turn::Wait }
    }
}

/// Agents are killed and the power is lost in the middle of what they write, too.
fn fates(prng: &mut Prng, machine: Machine) -> Fates {
    let mut prng = prng.split();
    let crash_in = 100 + prng.below(900);
    Box::new(move |_, _: &Operation| {
        if machine.now() >= ORDERS_TIME || prng.below(crash_in) != 0 {
            Fate::Pass
        } else if prng.below(3) == 0 {
            Fate::PowerLoss
        } else {
            Fate::Kill
        }
    })
}

/// `is_strict`: no program that was found good fails later.
fn behaviour(prng: &mut Prng, is_strict: bool) -> Behaviour {
    // A program is good after five seconds.
    let soon = Duration::from_secs(1 + prng.below(3));
    let late = Duration::from_secs(6 + prng.below(100));
    match prng.below(if is_strict { 9 } else { 12 }) {
        0 => Behaviour::Crashes,
        1 => Behaviour::CrashesAfter(soon),
        2 => Behaviour::NeverReady,
        3 => Behaviour::Answers500,
        4 => Behaviour::Floods,
        5 => Behaviour::IgnoresTerm,
        6 => Behaviour::StartsSlowly(soon),
        7 => Behaviour::HangsAfter(soon),
        8 => Behaviour::Good,
        9 => Behaviour::CrashesAfter(late),
        _ => Behaviour::HangsAfter(late),
    }
}

fn run(seed: u64) {
    let mut prng = Prng::from_seed(Seed::from_u64(seed));
    let swap = if prng.below(2) == 0 { Swap::Stop } else { Swap::Overlap };
    let is_strict = prng.below(2) == 0;
    let mut sample = |number: usize| {
        let behaviour = if number == 0 { Behaviour::Good } else { behaviour(&mut prng, is_strict) };
        Sample::new(number as u64, behaviour)
    };
    let samples = (0..BUILDS).map(&mut sample).collect();
    let machine = Machine::new(samples, swap, prng.next_u64());
    if is_strict && swap == Swap::Overlap {
        machine.testify(|witness| {
            witness.be_strict();
            None
        });
    }
    if prng.below(2) == 0 {
        machine.set_hook_fails_in(Some(3 + prng.below(10)));
    }
    let mut world = World::new(machine.clone(), swap, prng.below(2) == 0);
    world.set_fates(fates(&mut prng, machine));
    let mut script = Orders { prng: prng.split(), past: vec![], is_over: false };
    world.run(&mut script, &mut || prng.next_u64());
}

#[test]
fn failed_builds_stay_away_and_programs_stay_whatever_is_ordered() {
    SEEDS.run(run);
}
