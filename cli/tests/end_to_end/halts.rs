//! What a rollout to eight hosts leaves standing. A bad build with nothing but default flags: most
//! hosts serve on, the rollout halts by itself, and stays so until somebody decides. And where
//! hosts are down already, programs die after they were good, or builds fail faster than anybody
//! judges.

use std::collections::BTreeSet;

use goal_state::testing::EtcdServer;
use goal_state::{HALTED_BY_SEEDER, HostPhase, TroubleKind, WaitReason, now_ms};
use tokio::runtime::Builder;

use crate::rig::fleet::{Fleet, HOSTS, SETTINGS, Watch};
use crate::rig::{Daemon, fail, note, succeed, wait_for, wait_for_status};

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

/// Goal: with a quarter of the hosts down, a deploy with default flags takes no host that serves
/// away, says why it waits, and goes on once the dead are forgotten.
#[test]
fn hosts_that_are_down_count_against_the_limit() {
    let mut fleet = Fleet::start(None);
    fleet.agents.truncate(HOSTS - 2);
    let ports = fleet.ports[..HOSTS - 2].to_vec();
    let watch = Watch::start(ports.clone());
    let better = fleet.publish("better", "");
    fleet.deploy(&better);
    wait_for_status("all that serve wait for those that are down", &fleet.goal, |status| {
        let rows = status.hosts.iter().map(|row| &row.row);
        let waits = rows.filter(|row| row.waiting_for == Some(WaitReason::Token)).filter(|row| {
            let message = row.message.as_deref().unwrap_or_default();
            message
                .contains("2 hosts do not serve and take places (host-7 is away, host-8 is away)")
        });
        (waits.count() == HOSTS - 2).then_some(())
    });
    assert_eq!(watch.end(), HOSTS - 2, "none of those that served was taken away");

    let watch = Watch::start(ports);
    let forget = ["forget", "--absent-for", "1s", "--goal", &fleet.goal];
    let named = "host-7: would be forgotten with 1 row\nhost-8: would be forgotten with 1 row\n";
    assert_eq!(succeed(&[&forget[..], &["--dry-run"]].concat()), named);
    fail(&["forget", "host-7", "nosuch", "--goal", &fleet.goal], &["no host nosuch"]);
    assert_eq!(succeed(&[&forget[..], &["--dry-run"]].concat()), named, "all or none");
    succeed(&forget);
    fleet.names.truncate(HOSTS - 2);
    fleet.wait_until_running(&better);
    let fewest = watch.end();
    note(&format!("at least {fewest} of {} hosts served", HOSTS - 2));
    assert!(fewest >= HOSTS - 3, "a quarter of six is one, and {fewest} served");
}

/// Goal: a build whose program is good at first and dies later, again and again, does not go
/// through the fleet: hosts whose program ended lately take places, and the third restart halts.
#[test]
fn program_that_dies_after_it_was_good_is_held_back_and_halts() {
    let settings = SETTINGS.replace("\"500ms\"", "\"3s\"");
    let mut fleet = Fleet::start_with(None, &settings);
    let bad = fleet.publish("bad", "crash-after=4s");
    fleet.deploy(&bad);
    let deployed = fleet.read_goal().generation;
    let halted = fleet.wait_for_halt(deployed).rollout.halted.unwrap();
    note(&halted.reason);
    assert!(
        halted.reason.contains("crashed after") || halted.reason.contains("exit code"),
        "{halted:?}"
    );
    let tried: BTreeSet<String> = wait_for_status("the others wait", &fleet.goal, |status| {
        let rows = status.hosts.iter().map(|row| &row.row);
        let (have, others): (Vec<_>, Vec<_>) =
            rows.partition(|row| row.current.is_some_and(|current| current.to_string() == bad.id));
        let wait = others.iter().all(|row| row.waiting_for == Some(WaitReason::Halt));
        wait.then(|| have.iter().map(|row| row.host.clone()).collect())
    });
    note(&format!("{} hosts tried it", tried.len()));
    // Two at a time; the second two begin while the first two are good.
    assert!(tried.len() <= HOSTS / 2, "{tried:?}");
    let has_ended = |row: &goal_state::HostStatus| {
        row.phase == HostPhase::Failed || row.troubles.contains(&TroubleKind::RunsAgain)
    };
    wait_for_status("those that have it are called ill", &fleet.goal, |status| {
        let ill = status.hosts.iter().filter(|row| has_ended(&row.row)).count();
        (ill == tried.len()).then_some(())
    });
}

/// Goal: where one host goes at a time, a build that fails at once is tried by one host only.
#[test]
fn hook_that_fails_at_once_does_not_outrun_the_halt() {
    let settings =
        format!("{SETTINGS}[apps.web.hooks]\nbefore_switch = {{ exec = [\"./hook\"] }}\n");
    let mut fleet = Fleet::start_with(None, &settings);
    let bad = fleet.publish_with_hook("bad", "", 3);
    succeed(&["deploy", "web", &bad.id, "--max-unavailable", "1", "--goal", &fleet.goal]);
    let deployed = fleet.read_goal().generation;
    fleet.wait_for_halt(deployed);
    let tried = fleet.wait_until_at_rest(&bad, 0);
    assert_eq!(tried.len(), 1, "{tried:?}");
}
