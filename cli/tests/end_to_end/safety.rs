//! What an operator must be able to rely on: a lost goal store, two people at once, absent hosts,
//! staged builds, and waits that cannot end well. With the real executables.

use goal_state::HostPhase;
use goal_state::testing::EtcdServer;
use rustix::process::Signal;
use serde_json::Value;

use crate::rig::{
    Daemon, Published, Rig, check_failed, fail, parse, run, succeed, wait_for_status,
    wait_until_running,
};

/// Runs a command that changes or follows a goal; its exit code and what it said as JSON.
fn said(rig_goal: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = run(&[arguments, &["--goal", rig_goal, "--json"]].concat());
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), json)
}

/// A fleet of `hosts` with builds of data, which every host only stores.
fn fleet(rig: &Rig, goal: &str, hosts: &[&str]) -> (Daemon, String, Vec<Daemon>) {
    let (seeder, address) = rig.seeder("store", &["--goal", goal]);
    let start = |host: &&str| rig.agent_of(goal, host, &["--seeder", &address]);
    let agents = hosts.iter().map(start).collect();
    (seeder, address, agents)
}

/// Goal: a goal store that was lost in the middle of a deploy, or restored from an old backup,
/// never leaves a split fleet behind: status says what it is, the next deploy reaches old and new
/// hosts, and nobody is told that another goal was set.
#[test]
fn goal_store_that_is_lost_or_restored_is_a_story_with_an_end() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut etcd = runtime.block_on(EtcdServer::start());
    let goal = etcd.url("shoal").to_string();
    let rig = Rig::new();
    let builds: Vec<Published> =
        (1..=5).map(|seed| rig.publish_data("store", seed, 4_096)).collect();
    let old = ["host-1", "host-2"];
    let (_seeder, address, _agents) = fleet(&rig, &goal, &old);
    let deploy = |build: &Published| {
        said(&goal, &["deploy", "web", &build.id, "--wait", "--timeout", "60s"])
    };
    assert_eq!(deploy(&builds[0]).0, Some(0));
    runtime.block_on(etcd.back_up(&rig.path("backup")));
    for build in &builds[1..3] {
        assert_eq!(deploy(build).0, Some(0));
    }

    // An old backup: the store has goal 1, the hosts follow goal 3 and stay there.
    runtime.block_on(etcd.lose_data(Some(&rig.path("backup"))));
    let text = "follow goal 3, the store has 1; set a goal above theirs";
    crate::rig::wait_for("status tells of the store", || {
        succeed(&["status", "web", "--goal", &goal]).contains(text).then_some(())
    });
    let _new = rig.agent_of(&goal, "host-3", &["--seeder", &address]);
    let (code, report) = deploy(&builds[3]);
    assert_eq!((code, report["rollout"]["end"].as_str()), (Some(0), Some("complete")), "{report}");
    assert!(report["generation"].as_u64().unwrap() > 3, "{report}");
    wait_until_running(&goal, &builds[3], &["host-1", "host-2", "host-3"]);

    // Everything is gone, at the moment of a deploy.
    runtime.block_on(etcd.lose_data(None));
    let (code, report) = deploy(&builds[4]);
    assert_eq!((code, report["rollout"]["end"].as_str()), (Some(0), Some("complete")), "{report}");
    wait_until_running(&goal, &builds[4], &["host-1", "host-2", "host-3"]);
}

/// Goal: of two people who roll back at the same moment one does, and the other learns who did.
#[test]
fn two_rollbacks_at_once_go_back_once() {
    let rig = Rig::new();
    let goal = rig.goal();
    let builds: Vec<Published> = (1..=3).map(|seed| rig.publish_data("store", seed, 64)).collect();
    for build in &builds {
        succeed(&["deploy", "web", &build.id, "--goal", &goal]);
    }
    let both: Vec<_> = ["ann", "ben"]
        .map(|who| {
            let mut command = crate::rig::shoal(&["rollback", "web", "--author", who]);
            command.args(["--goal", &goal, "--comment", "it is on fire"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect();
    let done = both.iter().filter(|output| output.status.success()).count();
    assert_eq!(done, 1, "{both:?}");
    let refused = both.iter().find(|output| !output.status.success()).unwrap();
    check_failed(refused, &["goal 4 of web is a rollback already (set by ", "--from 4"]);
    let history: Value = parse(&succeed(&["history", "web", "--goal", &goal, "--json"]));
    assert_eq!(history["goals"][0]["build"], builds[1].id.as_str(), "{history}");
    assert_eq!(history["goals"][0]["origin"]["comment"], "it is on fire");
    assert_eq!(history["goals"][1]["is_rolled_back"], true);

    // Whoever says what they saw goes on from there, once; and one can be named.
    succeed(&["rollback", "web", "--from", "4", "--goal", &goal]);
    fail(&["rollback", "web", "--from", "4", "--goal", &goal], &["generation 5", "not 4"]);
    succeed(&["rollback", "web", "--to", &builds[2].id[..12], "--goal", &goal]);
    let history: Value = parse(&succeed(&["history", "web", "--goal", &goal, "--json"]));
    assert_eq!(history["goals"][0]["build"], builds[2].id.as_str(), "{history}");
    fail(&["rollback", "web", "--to", "nosuch", "--goal", &goal], &["its generations are 5, 4, 3"]);
}

/// Goal: hosts that nobody hears of are named and counted, and make `--wait` fail unless whoever
/// waits says that they do not matter.
#[test]
fn absent_hosts_are_not_done() {
    let rig = Rig::new();
    let goal = rig.goal();
    let builds: Vec<Published> = (1..=2).map(|seed| rig.publish_data("store", seed, 64)).collect();
    let (_seeder, _, mut agents) = fleet(&rig, &goal, &["host-1", "host-2"]);
    succeed(&["deploy", "web", &builds[0].id, "--goal", &goal]);
    wait_until_running(&goal, &builds[0], &["host-1", "host-2"]);
    let mut gone = agents.pop().unwrap();
    assert!(gone.end_with(Signal::TERM).success());
    let deploy = |absent: &[&str]| {
        // One of two that is gone would take the only place there is without this.
        let order = ["deploy", "web", &builds[1].id, "--max-unavailable", "none", "--wait"];
        said(&goal, &[&order[..], &["--timeout", "60s"], absent].concat())
    };
    let (code, report) = deploy(&[]);
    assert_eq!((code, report["rollout"]["end"].as_str()), (Some(1), Some("absent")), "{report}");
    assert_eq!(report["rollout"]["absent"], serde_json::json!(["host-2"]), "{report}");
    let (code, report) = deploy(&["--absent", "ok"]);
    assert_eq!((code, report["rollout"]["end"].as_str()), (Some(0), Some("complete")), "{report}");
    let status = succeed(&["status", "web", "--goal", &goal]);
    assert!(status.contains("1 of 2 hosts run it, 1 absent"), "{status}");
    assert!(status.contains("absent: host-2 (stopped "), "{status}");
    let rollout = succeed(&["rollout", "web", "--goal", &goal]);
    assert!(rollout.contains("1 of 2 hosts run it, 1 absent"), "{rollout}");
}

/// Goal: a build can be brought to every host first, and switched to later, by order or by time.
#[test]
fn build_is_staged_first_and_switched_to_later() {
    let rig = Rig::new();
    let goal = rig.goal();
    let builds: Vec<Published> = (1..=3).map(|seed| rig.publish_data("store", seed, 64)).collect();
    let hosts = ["host-1", "host-2"];
    let (_seeder, _, _agents) = fleet(&rig, &goal, &hosts);
    fail(&["switch", "web", "--goal", &goal], &["no goal is set for web"]);
    succeed(&["deploy", "web", &builds[0].id, "--goal", &goal]);
    wait_until_running(&goal, &builds[0], &hosts);
    fail(&["switch", "web", "--goal", &goal], &["is not staged"]);

    let wait = ["--wait", "--timeout", "60s"];
    let order = ["deploy", "web", &builds[1].id, "--stage-only", "--version", "2.0"];
    let (code, report) = said(&goal, &[&order[..], &wait].concat());
    assert_eq!((code, report["rollout"]["end"].as_str()), (Some(0), Some("complete")), "{report}");
    let waits = |host: &str| serde_json::json!({ "host": host, "waits_for": "stage" });
    let expected = Value::Array(hosts.map(waits).to_vec());
    assert_eq!(report["rollout"]["waiting"], expected, "{report}");
    let status = succeed(&["status", "web", "--goal", &goal]);
    assert!(status.contains("web: staged: bytes on 2 of 2 hosts (100.0 %)"), "{status}");
    for host in hosts {
        rig.check_current(host, &builds[0]);
    }
    let (code, _) = said(&goal, &[&["switch", "web"][..], &wait].concat());
    assert_eq!(code, Some(0));
    wait_until_running(&goal, &builds[1], &hosts);

    succeed(&["deploy", "web", &builds[2].id, "--at", "6s", "--goal", &goal]);
    wait_for_status("a host waits for the time", &goal, |status| {
        let waits = |row: &crate::rig::HostRow| row.row.phase == HostPhase::Waiting;
        status.hosts.iter().any(waits).then_some(())
    });
    wait_until_running(&goal, &builds[2], &hosts);
}

/// Goal: a wait that cannot end well ends early and says why.
#[test]
fn waits_that_cannot_end_well_end_early() {
    let rig = Rig::new();
    let goal = rig.goal();
    let build = rig.publish_data("store", 1, 64);
    let other = rig.publish_data("store", 2, 64);
    let (_seeder, _, _agents) = fleet(&rig, &goal, &["host-1"]);
    succeed(&["deploy", "web", &build.id, "--goal", &goal]);
    wait_until_running(&goal, &build, &["host-1"]);
    let unknown = "a".repeat(64);
    let cases = [
        (vec!["deploy", "web", &unknown], "no-source"),
        (vec!["deploy", "web", &other.id, "--canary", "nosuch"], "nobody-in"),
    ];
    for (order, expected) in cases {
        let wait = ["--wait", "--timeout", "5m"];
        let (code, report) = said(&goal, &[&order[..], &wait].concat());
        assert_eq!(
            (code, report["rollout"]["end"].as_str()),
            (Some(1), Some(expected)),
            "{report}"
        );
    }
    let misspelt = ["deploy", "wbe", &build.id, "--goal", &goal];
    fail(&misspelt, &["no host reports the app wbe; hosts report web", "--new-app"]);
    assert!(!succeed(&["status", "--goal", &goal]).contains("wbe"));
    succeed(&[&misspelt[..], &["--new-app"]].concat());
}

/// Goal: a goal store that does not exist yet is an empty one.
#[test]
fn missing_goal_store_is_an_empty_one() {
    let rig = Rig::new();
    let goal = format!("file://{}", rig.text("not-there"));
    let build = rig.publish_data("store", 1, 64);
    let status = succeed(&["status", "--goal", &goal]);
    assert!(status.contains("no goal is set and no host reported"), "{status}");
    fail(&["rollout", "web", "--goal", &goal], &["no goal is set for web"]);
    let order = ["deploy", "web", &build.id, "--goal", &goal, "--wait", "--timeout", "2s"];
    let waited = run(&order);
    let text = String::from_utf8_lossy(&waited.stdout);
    assert!(text.contains("no host reported the app within"), "{waited:?}");
    assert!(succeed(&["history", "web", "--goal", &goal]).contains("0 of 0 good"));
}
