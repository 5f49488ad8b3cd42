//! Random lives of a host: goals that come and go, disks that fail, kills, losses of power, hands
//! that change files, clocks that jump. At the end everything is sound, and the host must get to
//! its goal or be at a build that ran well.
//!
//! A seed alone reproduces a run. One that failed is repeated by the command that it prints.

use std::fs;
use std::time::{Duration, SystemTime};

use disk::Operation;
use node_agent::app::AppOrder;
use node_agent::brain::Swap;
use p2p_core::{Prng, Seed};
use rustix::io::Errno;

use super::builds::{Behaviour, Sample};
use super::machine::Machine;
use super::seeds::Seeds;
use super::world::{Fate, Fates, Host, Script, Turn, View, World};

const SEEDS: Seeds = Seeds {
    runs: 200,
    seed_variable: "SHOAL_AGENT_SEED",
    runs_variable: "SHOAL_AGENT_RUNS",
    module: "random",
};

/// How long things go wrong, by the machine's clock.
const TROUBLE_TIME: Duration = Duration::from_mins(5);

/// Builds of a host.
const BUILDS: u64 = 5;

/// Until [`TROUBLE_TIME`] is over something happens now and then, then the host is left alone.
struct Troubles {
    prng: Prng,
    is_over: bool,
}

impl Troubles {
    fn trouble(&mut self, view: &View<'_>) -> Turn {
        let host = view.world;
        if host.goal.is_none() {
            return Turn::Goal(self.prng.index_below(5));
        }
        match self.prng.below(200) {
            0..=5 => Turn::Goal(self.prng.index_below(5)),
            6 => Turn::Kill,
            7 => Turn::LosePower,
            8 => Turn::Order(AppOrder::Pause { reason: None }),
            9..=11 => Turn::Order(AppOrder::Resume),
            12 => Turn::Order(AppOrder::Restart),
            13 => {
                let jump = i64::try_from(self.prng.below(100_000_000)).unwrap();
                host.machine.jump_clock(jump - 50_000_000);
                Turn::Wait
            }
            14 => {
                self.turn_current(host);
                Turn::Wait
            }
            15 => {
                self.damage(host);
                Turn::Wait
            }
            _ => Turn::Wait,
        }
    }

    /// A hand removes `current`, or lets it lead to another build that is there.
    fn turn_current(&mut self, host: &Host) {
        let current = host.app.path().join("current");
        host.machine.set_tampered();
        drop(fs::remove_file(&current));
        let builds = host.builds_on_disk();
        if self.prng.below(2) == 0 && !builds.is_empty() {
            let build = builds[self.prng.index_below(builds.len())].to_string();
            let target = host.app.path().join("builds").join(&build);
            if target.join("run").exists() {
                std::os::unix::fs::symlink(format!("builds/{build}"), &current).unwrap();
            }
        }
        host.machine.note("`current` turned by hand");
    }

    /// A hand writes into a file of a build.
    fn damage(&mut self, host: &Host) {
        let builds = host.builds_on_disk();
        if builds.is_empty() {
            return;
        }
        let build = builds[self.prng.index_below(builds.len())];
        let path = host.app.path().join("builds").join(build.to_string()).join("data");
        let Ok(mut bytes) = fs::read(&path) else { return };
        let at = self.prng.index_below(bytes.len());
        bytes[at] ^= 1;
        host.machine.set_tampered();
        host.machine.set_damaged(build);
        fs::write(&path, bytes).unwrap();
        // The times of files are too coarse to distinguish a change from the store's own writes.
        let later = SystemTime::now() + Duration::from_mins(1);
        fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        host.machine.note(format!("build {} damaged by hand", host.machine.index_of(build)));
    }
}

impl Script for Troubles {
    fn look(&mut self, view: &View<'_>) -> Turn {
        let host = view.world;
        if host.machine.now() < TROUBLE_TIME {
            return self.trouble(view);
        }
        if !self.is_over {
            self.is_over = true;
            host.machine.note("all is sound from here on");
            host.machine.set_hook_fails_in(None);
            return Turn::Order(AppOrder::Resume);
        }
        let is_paused = host.app.paused().ok().flatten().is_some();
        if is_paused {
            return Turn::Order(AppOrder::Resume);
        }
        let Some((_, goal)) = host.goal else { return Turn::Goal(0) };
        let goal = host.machine.samples()[goal].id;
        let Some(journal) = host.journal() else { return Turn::Wait };
        let root = host.app.path().join("current");
        let is_whole = |build| host.machine.sample(build).find_wrong(&root).is_none();
        if host.stands_at(journal.to)
            && is_whole(journal.to)
            && (journal.to == goal || host.has_quarantined(goal))
        {
            return Turn::Done;
        }
        // Nothing that ever ran well is there to go back to: the build that fails is all there is,
        // or one whose hook failed, which waits for another deploy.
        let only_bad = journal.good.is_empty()
            && (!host.machine.sample(goal).behaviour.is_good() || host.has_quarantined(goal));
        if only_bad && view.waited > Duration::from_mins(10) { Turn::Done } else { Turn::Wait }
    }
}

/// How the disk treats operations while there is trouble.
fn fates(prng: &mut Prng, machine: Machine) -> Fates {
    let mut prng = prng.split();
    let error_in = (prng.below(2) == 0).then(|| 20 + prng.below(300));
    let crash_in = 50 + prng.below(400);
    let full_from = Duration::from_secs(prng.below(600));
    let full_until = full_from + Duration::from_secs(prng.below(60));
    Box::new(move |_, operation: &Operation| {
        let now = machine.now();
        if now >= TROUBLE_TIME {
            return Fate::Pass;
        }
        if prng.below(crash_in) == 0 {
            return if prng.below(2) == 0 { Fate::Kill } else { Fate::PowerLoss };
        }
        if (full_from..full_until).contains(&now) && operation.takes_space() {
            return Fate::Fail(Errno::NOSPC);
        }
        match (error_in, operation) {
            (Some(error_in), _) if prng.below(error_in) != 0 => Fate::Pass,
            (None, _) => Fate::Pass,
            (_, Operation::Write { bytes, .. }) => Fate::Tear(prng.index_below(bytes.len() + 1)),
            _ => Fate::Fail(Errno::IO),
        }
    })
}

fn behaviour(prng: &mut Prng) -> Behaviour {
    let some_time = Duration::from_secs(1 + prng.below(8));
    match prng.below(13) {
        0 => Behaviour::Crashes,
        1 => Behaviour::CrashesAfter(some_time),
        2 => Behaviour::NeverReady,
        3 => Behaviour::Answers500,
        4 => Behaviour::IgnoresTerm,
        5 => Behaviour::StartsSlowly(some_time),
        6 => Behaviour::Floods,
        _ => Behaviour::Good,
    }
}

fn run(seed: u64) {
    let mut prng = Prng::from_seed(Seed::from_u64(seed));
    let swap = if prng.below(2) == 0 { Swap::Stop } else { Swap::Overlap };
    let samples = (0..BUILDS).map(|number| Sample::new(number, behaviour(&mut prng))).collect();
    let machine = Machine::new(samples, swap, prng.next_u64());
    if prng.below(3) == 0 {
        machine.set_hook_fails_in(Some(2 + prng.below(10)));
    }
    let mut world = World::new(machine.clone(), swap, prng.below(2) == 0);
    world.set_fates(fates(&mut prng, machine));
    let mut script = Troubles { prng: prng.split(), is_over: false };
    world.run(&mut script, &mut || prng.next_u64());
}

#[test]
fn host_gets_to_its_goal_after_random_troubles() {
    SEEDS.run(run);
}
