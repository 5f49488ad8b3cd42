//! A bad build on eight hosts with nothing but default flags: most hosts serve on, the rollout
//! halts by itself, and stays so until somebody decides.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use goal_state::testing::EtcdServer;
use goal_state::{Goal, GoalStore, HALTED_BY_SEEDER, HostPhase, WaitReason, now_ms};
use tokio::runtime::{Builder, Runtime};

use super::waves::start_seeder;
use crate::rig::{
    Daemon, Published, Rig, free_port, note, random_bytes, succeed, version_at, wait_a_while,
    wait_for, wait_for_status, wait_until_running,
};

const HOSTS: usize = 8;

/// A quarter of the hosts may be down or switching.
const SERVING_MIN: usize = 6;

/// Hosts that may have tried a bad build when its rollout halts: those that were under way when the
/// first failed, and those that got their tokens before that was known.
const TRIED_MAX: usize = 4;

/// A build is given up after this many seconds without a good answer: time enough for the halt to
/// reach all hosts before the next of them fail.
const SETTINGS: &str = r#"
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
struct Fleet {
    agents: Vec<Daemon>,
    seeder: Option<Daemon>,
    listen: String,
    names: Vec<String>,
    ports: Vec<u16>,
    goal: String,
    runtime: Runtime,
    rig: Rig,
}

impl Fleet {
    /// Hosts on which build `good` runs, with their goals in `goal`, or in a folder.
    fn start(goal: Option<&str>) -> Self {
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
            let settings = SETTINGS.replace("PORT", &port.to_string());
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

    fn publish(&self, version: &str, behaviour: &str) -> Published {
        let root = self.rig.path("data").join(version);
        fs::create_dir(&root).unwrap();
        fs::write(root.join(demo_service::VERSION_FILE), format!("{version}\n")).unwrap();
        fs::write(root.join(demo_service::BEHAVIOUR_FILE), format!("{behaviour}\n")).unwrap();
        let seed = version.bytes().fold(0, |seed, byte| seed * 31 + u64::from(byte));
        fs::write(root.join("data"), random_bytes(seed, 10_000)).unwrap();
        self.rig.publish("store", &root)
    }

    fn deploy(&self, build: &Published) {
        succeed(&["deploy", "web", &build.id, "--goal", &self.goal]);
    }

    fn wait_until_running(&self, build: &Published) {
        let names: Vec<_> = self.names.iter().map(String::as_str).collect();
        wait_until_running(&self.goal, build, &names);
    }

    fn read_goal(&self) -> Goal {
        let store = GoalStore::new(&self.goal.parse().unwrap());
        let goal = self.runtime.block_on(store.goal(&"web".parse().unwrap()));
        goal.unwrap().unwrap()
    }

    /// Waits until the rollout of a goal after `generation` has halted.
    fn wait_for_halt(&mut self, generation: u64) -> Goal {
        wait_for("the rollout is halted", || {
            self.agents.iter_mut().chain(&mut self.seeder).for_each(Daemon::check_running);
            let goal = self.read_goal();
            (goal.generation > generation && goal.rollout.halted.is_some()).then_some(goal)
        })
    }

    /// Waits until every host has either given the build up or says that it waits because of the
    /// halt, in a report of after `since_ms`; returns those that gave it up.
    fn wait_until_at_rest(&self, bad: &Published, since_ms: u64) -> BTreeSet<String> {
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

    fn restart_seeder(&mut self) {
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
struct Watch {
    stop: Arc<AtomicBool>,
    fewest: JoinHandle<usize>,
}

impl Watch {
    fn start(ports: Vec<u16>) -> Self {
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
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.fewest.join().unwrap()
    }
}

/// Goal: a bad build that goes out without any flag takes no more than a quarter of the hosts away
/// at a time, halts after the first failures with the cause, and goes no further whatever becomes
/// of the seeder; after a resume it halts again at the next failure; a good build ends it.
#[test]
fn bad_build_halts_by_itself_and_most_hosts_serve_on() {
    let mut fleet = Fleet::start(None);
    let watch = Watch::start(fleet.ports.clone());
    let bad = fleet.publish("bad", "unhealthy");
    fleet.deploy(&bad);
    let deployed = fleet.read_goal().generation;
    let halt = fleet.wait_for_halt(deployed);
    let halted = halt.rollout.halted.clone().unwrap();
    let tried = fleet.wait_until_at_rest(&bad, 0);
    note(&format!("{} hosts tried it: {}", tried.len(), halted.reason));
    assert!((1..=TRIED_MAX).contains(&tried.len()), "{tried:?}");
    assert_eq!((halted.by.as_str(), halted.hosts), (HALTED_BY_SEEDER, 8));
    assert!(halted.reason.contains("of 8 hosts") && halted.reason.contains("500"), "{halted:?}");
    assert_eq!((halt.generation, halt.build.to_string()), (deployed + 1, bad.id.clone()));

    fleet.restart_seeder();
    let since_ms = now_ms();
    assert_eq!(fleet.wait_until_at_rest(&bad, since_ms), tried, "nobody began");
    assert_eq!(fleet.read_goal(), halt, "the halt is not repeated");

    succeed(&["rollout", "web", "--resume", "--goal", &fleet.goal]);
    let again = fleet.wait_for_halt(halt.generation + 1);
    let more = fleet.wait_until_at_rest(&bad, 0);
    note(&format!("{} hosts tried it after a resume", more.len()));
    assert!(more.is_superset(&tried) && more.len() > tried.len(), "{more:?}");
    assert!(more.len() <= tried.len() + TRIED_MAX, "{more:?}");
    assert_eq!(again.rollout.tolerated, u32::try_from(tried.len()).unwrap());

    let better = fleet.publish("better", "");
    fleet.deploy(&better);
    fleet.wait_until_running(&better);
    let fewest = watch.end();
    note(&format!("at least {fewest} of {HOSTS} hosts served at any time"));
    assert!(fewest >= SERVING_MIN, "only {fewest} of {HOSTS} hosts served");
}

/// Goal: the same with etcd, where hosts report to their seeder; and with `auto_revert` those that
/// switched go back to the last good build by themselves.
#[test]
fn bad_build_goes_back_by_itself_over_etcd() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let etcd = runtime.block_on(EtcdServer::start());
    let mut fleet = Fleet::start(Some(&etcd.url("shoal").to_string()));
    let watch = Watch::start(fleet.ports.clone());
    let good = fleet.read_goal();
    let bad = fleet.publish("bad", "crash-after=300ms");
    succeed(&["deploy", "web", &bad.id, "--auto-revert", "--goal", &fleet.goal]);
    let deployed = fleet.read_goal().generation;
    let reverted = wait_for("the app goes back", || {
        fleet.agents.iter_mut().chain(&mut fleet.seeder).for_each(Daemon::check_running);
        let goal = fleet.read_goal();
        (goal.build == good.build).then_some(goal)
    });
    assert_eq!(reverted.generation, deployed + 2, "one halt, one rollback");
    let left = &reverted.history[0];
    let halted = left.halted.as_ref().unwrap();
    note(&halted.reason);
    assert!(halted.reason.contains("exit code 1"), "{halted:?}");
    assert!(left.rolled_back && left.outcome.unwrap().failed > 0, "{left:?}");
    assert_eq!(reverted.origin.author.as_deref(), Some(HALTED_BY_SEEDER));
    let log = fleet.seeder.as_mut().unwrap().log();
    assert!(log.contains("the rollout is halted"), "{log}");

    let names: Vec<_> = fleet.names.iter().map(String::as_str).collect();
    let id = good.build.to_string();
    wait_for_status("all hosts are back", &fleet.goal, |status| {
        let is_back = |row: &&crate::rig::HostRow| {
            row.row.phase == HostPhase::Running
                && row.row.generation == Some(reverted.generation)
                && row.row.current.is_some_and(|build| build.to_string() == id)
        };
        (status.hosts.iter().filter(is_back).count() == names.len()).then_some(())
    });
    let fewest = watch.end();
    note(&format!("at least {fewest} of {HOSTS} hosts served at any time"));
    assert!(fewest >= SERVING_MIN, "only {fewest} of {HOSTS} hosts served");
}
