//! A bad build on eight hosts with nothing but default flags: most hosts serve on, the rollout
//! halts by itself, and stays so until somebody decides.

use goal_state::testing::EtcdServer;
use goal_state::{HALTED_BY_SEEDER, HostPhase, now_ms};
use tokio::runtime::Builder;

use crate::rig::fleet::{Fleet, HOSTS, Watch};
use crate::rig::{Daemon, note, succeed, wait_for, wait_for_status};

/// A quarter of the hosts may be down or switching.
const SERVING_MIN: usize = 6;

/// Hosts that may have tried a bad build when its rollout halts: those that may be down at once.
/// Places of hosts on which it failed are free only when that was judged.
const TRIED_MAX: usize = 2;

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
