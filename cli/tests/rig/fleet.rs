//! Eight hosts that run the demo's service, for tests of what a rollout does to all of them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use goal_state::{Goal, GoalStore, HostPhase, WaitReason};
use tokio::runtime::{Builder, Runtime};

use super::{
    Daemon, Published, Rig, free_port, random_bytes, start_seeder, succeed, version_at,
    wait_a_while, wait_for, wait_for_status, wait_until_running,
};

/// How many hosts a fleet has.
pub(crate) const HOSTS: usize = 8;

/// A build is given up after this many seconds without a good answer: time enough for the halt to
/// reach all hosts before the next of them fail.
pub(crate) const SETTINGS: &str = r#"
grace_period = "1s"
[apps.web.health]
http = "http://127.0.0.1:PORT/healthz"
interval = "100ms"
timeout = "2s"
min_healthy_time = "500ms"
deadline = "6s"
tries = 1
"#;

/// Hosts, their seeder and their goal store. Fields are dropped in order.
pub(crate) struct Fleet {
    pub(crate) agents: Vec<Daemon>,
    pub(crate) seeder: Option<Daemon>,
    listen: String,
    pub(crate) names: Vec<String>,
    pub(crate) ports: Vec<u16>,
    pub(crate) goal: String,
    runtime: Runtime,
    rig: Rig,
}

impl Fleet {
    /// Hosts on which build `good` runs, with their goals in `goal`, or in a folder.
    pub(crate) fn start(goal: Option<&str>) -> Self {
        Self::start_with(goal, SETTINGS)
    }

    /// The same with other settings of the app; `PORT` in them is that of the host's service.
    pub(crate) fn start_with(goal: Option<&str>, settings: &str) -> Self {
        let rig = Rig::new();
        for folder in ["bin", "store"] {
            fs::create_dir(rig.path(folder)).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_shoal"), rig.path("bin/demo-service")).unwrap();
        let goal = goal.map_or_else(|| rig.goal(), str::to_owned);
        let listen = format!("127.0.0.1:{}", free_port());
        let (seeder, address) = start_seeder(&rig, &listen, &["--goal", &goal]);
        let names: Vec<_> = (1..=HOSTS).map(|number| format!("host-{number}")).collect();
        let ports: Vec<_> = (0..HOSTS).map(|_| free_port()).collect();
        let agents = names.iter().zip(&ports).map(|(host, port)| {
            let program = rig.text("bin/demo-service");
            let settings = settings.replace("PORT", &port.to_string());
            let text = format!(
                "group = \"z1\"\n[apps.web]\nexec = [{program:?}, \"--listen\", \
                 \"127.0.0.1:{port}\"]{settings}"
            );
            let config = rig.text(&format!("{host}.toml"));
            fs::write(&config, text).unwrap();
            rig.agent_of(&goal, host, &["--seeder", &address, "--config", &config])
        });
        let agents = agents.collect();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let seeder = Some(seeder);
        let fleet = Self { agents, seeder, listen, names, ports, goal, runtime, rig };
        let good = fleet.publish("good", "");
        fleet.deploy(&good);
        fleet.wait_until_running(&good);
        fleet
    }

    pub(crate) fn publish(&self, version: &str, behaviour: &str) -> Published {
        self.publish_with_hook(version, behaviour, 0)
    }

    /// A build with a program `hook` that ends with this exit code.
    pub(crate) fn publish_with_hook(&self, version: &str, behaviour: &str, code: u8) -> Published {
        let root = self.rig.path("data").join(version);
        fs::create_dir(&root).unwrap();
        fs::write(root.join("hook"), format!("#!/bin/sh\nexit {code}\n")).unwrap();
        fs::set_permissions(root.join("hook"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(root.join(demo_service::VERSION_FILE), format!("{version}\n")).unwrap();
        fs::write(root.join(demo_service::BEHAVIOUR_FILE), format!("{behaviour}\n")).unwrap();
        let seed = version.bytes().fold(0, |seed, byte| seed * 31 + u64::from(byte));
        fs::write(root.join("data"), random_bytes(seed, 10_000)).unwrap();
        self.rig.publish("store", &root)
    }

    pub(crate) fn deploy(&self, build: &Published) {
        succeed(&["deploy", "web", &build.id, "--goal", &self.goal]);
    }

    pub(crate) fn wait_until_running(&self, build: &Published) {
        let names: Vec<_> = self.names.iter().map(String::as_str).collect();
        wait_until_running(&self.goal, build, &names);
    }

    pub(crate) fn read_goal(&self) -> Goal {
        let store = GoalStore::new(&self.goal.parse().unwrap());
        let goal = self.runtime.block_on(store.goal(&"web".parse().unwrap()));
        goal.unwrap().unwrap()
    }

    /// Waits until the rollout of a goal after `generation` has halted.
    pub(crate) fn wait_for_halt(&mut self, generation: u64) -> Goal {
        wait_for("the rollout is halted", || {
            self.agents.iter_mut().chain(&mut self.seeder).for_each(Daemon::check_running);
            let goal = self.read_goal();
            (goal.generation > generation && goal.rollout.halted.is_some()).then_some(goal)
        })
    }

    /// Waits until every host has either given the build up or says that it waits because of the
    /// halt, in a report of after `since_ms`; returns those that gave it up.
    pub(crate) fn wait_until_at_rest(&self, bad: &Published, since_ms: u64) -> BTreeSet<String> {
        wait_for_status("all hosts have failed or wait", &self.goal, |status| {
            let mut tried = BTreeSet::new();
            for row in status.hosts.iter().map(|row| &row.row) {
                let gave_up = row.quarantined.is_some_and(|build| build.to_string() == bad.id);
                if row.updated_at_ms < since_ms {
                    return None;
                }
                match (gave_up, row.phase, row.waiting_for) {
                    (true, HostPhase::RolledBack, _) => drop(tried.insert(row.host.clone())),
                    (false, HostPhase::Waiting, Some(WaitReason::Halt)) => {}
                    _ => return None,
                }
            }
            (status.hosts.len() == HOSTS).then_some(tried)
        })
    }

    pub(crate) fn restart_seeder(&mut self) {
        self.seeder = None;
        let (seeder, _) = start_seeder(&self.rig, &self.listen, &["--goal", &self.goal]);
        self.seeder = Some(seeder);
    }
}

/// A round of questions that took longer says nothing about one moment: meanwhile one host may have
/// come back and another one gone.
const ROUND_MAX: Duration = Duration::from_millis(300);

/// Rounds without which a watch has seen nothing.
const ROUNDS_MIN: usize = 50;

/// Asks all services again and again how many of them answer, in another version than `bad`.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    fewest: JoinHandle<usize>,
}

impl Watch {
    pub(crate) fn start(ports: Vec<u16>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let fewest = thread::spawn(move || {
            let (mut fewest, mut rounds) = (ports.len(), 0);
            let serves = |port: &&u16| version_at(**port).is_some_and(|version| version != "bad");
            while !told.load(Ordering::Relaxed) {
                let started = Instant::now();
                let serving = ports.iter().filter(serves).count();
                if started.elapsed() <= ROUND_MAX {
                    fewest = fewest.min(serving);
                    rounds += 1;
                }
                wait_a_while(Duration::from_millis(20));
            }
            assert!(rounds >= ROUNDS_MIN, "only {rounds} rounds");
            fewest
        });
        Self { stop, fewest }
    }

    /// The fewest that answered at any time.
    pub(crate) fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.fewest.join().unwrap()
    }
}
