//! From a published build to hosts that have it, while things go wrong on the way.

use std::fs;

use goal_state::testing::EtcdServer;
use goal_state::{HostPhase, TroubleKind};

use crate::rig::{
    Daemon, HostRow, Published, Rig, Status, fail, parse, succeed, wait_for_status,
    wait_until_running,
};

const MIB: usize = 1 << 20;

fn is_downloading(row: &HostRow, build: &Published) -> bool {
    row.row.phase == HostPhase::Downloading
        && row.row.bytes_done > 0
        && row.row.target.is_some_and(|target| target.to_string() == build.id)
}

/// Goal: losing the goal store in mid-download delays nothing but the news of it.
/// Method: hosts follow a real etcd, their reports reach it through the seeder; etcd is killed and
/// started again while both download.
#[test]
fn deploy_over_etcd_survives_a_restart_of_etcd() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut etcd = runtime.block_on(EtcdServer::start());
    let goal = etcd.url("shoal").to_string();
    let rig = Rig::new();
    let first = rig.publish_data("store", 1, 16 * MIB);
    let second = rig.publish_data("store", 2, MIB);
    let (_seeder, address) = rig.seeder("store", &["--goal", &goal, "--upload-limit", "6MB"]);
    let hosts = ["host-1", "host-2"];
    let _agents = hosts.map(|host| rig.agent_of(&goal, host, &["--seeder", &address]));

    succeed(&["deploy", "web", &first.id, "--goal", &goal]);
    wait_for_status("a download is under way", &goal, |status| {
        status.hosts.iter().any(|row| is_downloading(row, &first)).then_some(())
    });
    etcd.stop();
    runtime.block_on(etcd.restart());

    for row in wait_until_running(&goal, &first, &hosts) {
        let row = row.row;
        assert_eq!(row.bytes_total, Some(first.bytes));
        // At least: near the end a late chunk is asked of both others.
        assert!(row.bytes_from_seeders + row.bytes_from_peers >= first.bytes, "{row:?}");
    }
    let status: Status = parse(&succeed(&["status", "--goal", &goal, "--json"]));
    assert_eq!(status.apps[0].hosts_on_goal, 2);

    succeed(&["deploy", "web", &second.id, "--goal", &goal]);
    wait_until_running(&goal, &second, &hosts);
    for host in hosts {
        rig.check_current(host, &second);
    }
}

/// A host without an agent that has a part of a build on its disk.
struct Interrupted {
    rig: Rig,
    build: Published,
    /// Of the seeder.
    address: String,
    _seeder: Daemon,
}

/// Kills an agent when chunks are noted on disk.
fn host_killed_in_mid_download() -> Interrupted {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, 16 * MIB);
    let (seeder, address) = rig.seeder("store", &["--upload-limit", "5MB"]);
    let mut agent = rig.agent("host", &address, &[]);
    rig.deploy(&build);
    rig.wait_for_stored_chunks("host", &build);
    agent.kill();
    Interrupted { rig, build, address, _seeder: seeder }
}

/// Goal: `kill -9` costs what was not stored yet, and nothing else.
/// Method: the agent that comes after the killed one counts what it fetches.
#[test]
fn killed_agent_fetches_only_what_it_had_not_stored() {
    let Interrupted { rig, build, address, _seeder } = host_killed_in_mid_download();
    assert!(!rig.path("host/apps/web/current").exists(), "killed too late for this test");

    let _agent = rig.agent("host", &address, &[]);
    let rows = rig.wait_until_running(&build, &["host"]);
    let row = &rows[0].row;
    assert!(row.bytes_resumed > 0, "{row:?}");
    let fetched = row.bytes_from_seeders + row.bytes_from_peers;
    assert_eq!(row.bytes_resumed + fetched, build.bytes, "{row:?}");
    assert_eq!((row.bytes_done, row.bytes_total), (build.bytes, Some(build.bytes)));
    rig.check_current("host", &build);
}

/// Goal: a host that was killed is taken back by its peers when it returns, not when their idle
/// timeout ends, and does not hammer them until then.
/// Method: the connections that end while it resumes are counted in its log.
#[test]
fn restarted_host_is_taken_back_at_once() {
    let Interrupted { rig, build, address, _seeder } = host_killed_in_mid_download();
    let agent = rig.agent("host", &address, &["--log-level", "p2p_net=debug"]);
    rig.wait_until_running(&build, &["host"]);
    let ended = agent.log().matches("connection ended").count();
    assert!(ended < 20, "{ended} connections in one download");
}

#[test]
fn goal_that_changes_in_mid_download_is_followed() {
    let rig = Rig::new();
    let large = rig.publish_data("store", 1, 32 * MIB);
    let small = rig.publish_data("store", 2, MIB);
    let (_seeder, address) = rig.seeder("store", &["--upload-limit", "3MB"]);
    let _agent = rig.agent("host", &address, &[]);
    rig.deploy(&large);
    rig.wait_for_row("the large build is on its way", "host", |row| is_downloading(row, &large));
    rig.deploy(&small);
    let rows = rig.wait_until_running(&small, &["host"]);
    assert_eq!(rows[0].row.generation, Some(2));
    assert!(!rig.path("host/apps/web/builds").join(&large.id).exists(), "it was not waited for");
    rig.check_current("host", &small);
}

#[test]
fn chunks_are_kept_while_the_goal_goes_back_and_forth() {
    let rig = Rig::new();
    let first = rig.publish_data("store", 1, 16 * MIB);
    let second = rig.publish_data("store", 2, 16 * MIB);
    let (_seeder, address) = rig.seeder("store", &["--upload-limit", "5MB"]);
    let _agent = rig.agent("host", &address, &[]);
    rig.deploy(&first);
    rig.wait_for_row("the first build is on its way", "host", |row| is_downloading(row, &first));
    rig.deploy(&second);
    rig.wait_for_row("the second one is", "host", |row| is_downloading(row, &second));
    rig.deploy(&first);
    let rows = rig.wait_until_running(&first, &["host"]);
    let row = &rows[0].row;
    assert!(row.bytes_resumed > 0, "{row:?}");
    assert_eq!(row.bytes_resumed + row.bytes_from_seeders, first.bytes, "{row:?}");
    rig.check_current("host", &first);
}

/// Goal: the load is on the hosts, not on the seeder.
/// Method: five hosts learn the goal at about the same time; they count where bytes came from.
#[test]
fn five_hosts_take_at_most_two_copies_from_the_seeder() {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, 32 * MIB);
    let (_seeder, address) = rig.seeder("store", &[]);
    let hosts = ["host-1", "host-2", "host-3", "host-4", "host-5"];
    let _agents = hosts.map(|host| rig.agent(host, &address, &[]));
    wait_for_status("all hosts report", &rig.goal(), |status| {
        (status.hosts.len() == hosts.len()).then_some(())
    });
    rig.deploy(&build);
    let rows = rig.wait_until_running(&build, &hosts);
    let sum = |count: fn(&HostRow) -> u64| rows.iter().map(count).sum::<u64>();
    let from_seeders = sum(|row| row.row.bytes_from_seeders);
    assert!(from_seeders <= 2 * build.bytes, "{from_seeders} of {}\n{rows:#?}", build.bytes);
    assert!(sum(|row| row.row.bytes_from_peers) >= 3 * build.bytes, "{rows:#?}");
    wait_for_status("a host has served others", &rig.goal(), |status| {
        status.hosts.iter().any(|row| row.row.bytes_served > 0).then_some(())
    });
    for host in hosts {
        rig.check_current(host, &build);
    }
}

/// Goal: the seeder follows its store, and a host waits for a build that is not there yet.
/// Method: a build is deployed before it is published where the seeder looks, then published, then
/// removed.
#[test]
fn seeder_picks_up_builds_published_while_it_runs() {
    let rig = Rig::new();
    let build = rig.publish_data("elsewhere", 1, 2 * MIB);
    let (mut seeder, address) = rig.seeder("store", &[]);
    let agent = rig.agent("host", &address, &[]);
    rig.deploy(&build);
    let row = rig.wait_for_row("the host says what is missing", "host", |row| {
        row.row.message.as_ref().is_some_and(|message| message.contains(&build.id))
    });
    let message = row.row.message.unwrap();
    assert!(message.contains("no seeder has build") && message.contains("publish"), "{message}");
    assert_eq!(row.row.phase, HostPhase::Locating);
    assert_eq!(row.row.troubles, [TroubleKind::NoSource]);

    let same = rig.publish("store", &rig.path("data/data-1"));
    assert_eq!(same.id, build.id);
    let rows = rig.wait_until_running(&build, &["host"]);
    assert_eq!(rows[0].row.message, None);

    let builds = rig.path("store/builds");
    fs::remove_file(builds.join(format!("{}.manifest", build.id))).unwrap();
    fs::remove_dir_all(builds.join(&build.id)).unwrap();
    let line = seeder.wait_for_log("no longer served");
    assert!(line.contains(&build.id), "{line}");
    drop(agent);
    let out = rig.text("out");
    let arguments = ["fetch", &build.id, "--seeder", &address, "--out", &out, "--timeout", "2s"];
    fail(&arguments, &["no seeder has build", &build.id]);
    assert!(!rig.path("out").exists());
}
