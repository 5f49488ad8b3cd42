//! What a rollout leaves standing when hosts are down already, when programs die after they were
//! good, and when builds fail faster than anybody can judge.

use std::collections::BTreeSet;

use goal_state::{HostPhase, TroubleKind, WaitReason};

use crate::rig::fleet::{Fleet, HOSTS, SETTINGS, Watch};
use crate::rig::{fail, note, succeed, wait_for_status};

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
