//! Settings that change while daemons run: limits hold at once, mistakes change nothing.

use std::fs;

use goal_state::HostPhase;
use rustix::process::{Signal, kill_process};

use crate::rig::{Daemon, Rig};

/// A cap under which nothing of this size completes while a test lasts.
const LOW: u64 = 40_000;
const SIZE: usize = 24 << 20;

fn reload(daemon: &Daemon) {
    kill_process(daemon.process(), Signal::HUP).unwrap();
}

/// Goal: an agent takes new limits over in the middle of a download, says what needs a restart, and
/// goes on with the old settings if the new ones are damaged.
#[test]
fn agent_takes_limits_over_without_a_restart() {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, SIZE);
    let (_seeder, address) = rig.seeder("store", &[]);
    let config = rig.path("shoal.toml");
    fs::write(&config, format!("[apps.web]\ndownload_limit = {LOW}\n")).unwrap();
    let agent = rig.agent("host", &address, &["--config", config.to_str().unwrap()]);
    rig.deploy(&build);
    rig.wait_for_row("the limit of the app is shown", "host", |row| {
        row.row.download_limit == Some(LOW) && row.row.phase == HostPhase::Downloading
    });

    fs::write(&config, "[apps.web]\ndownload_limit = \"fast\"\n").unwrap();
    reload(&agent);
    let row = rig.wait_for_row("the mistake is in the status", "host", |row| {
        row.row.message.as_ref().is_some_and(|text| text.contains("not read again"))
    });
    let message = row.row.message.unwrap();
    assert!(message.contains("shoal.toml:2: apps.web.download_limit: "), "{message}");
    assert_eq!((row.row.download_limit, row.row.phase), (Some(LOW), HostPhase::Downloading));

    fs::write(&config, "upload_limit = \"80Mbit\"\nzone = \"b\"\n[apps.web]\n").unwrap();
    reload(&agent);
    let row = rig.wait_until_running(&build, &["host"]).remove(0);
    assert_eq!((row.row.upload_limit, row.row.download_limit), (Some(10_000_000), None));
    let row = rig.wait_for_row("what needs a restart is in the status", "host", |row| {
        row.row.message.as_ref().is_some_and(|text| text.contains("take over: zone"))
    });
    assert!(!row.row.message.unwrap().contains("not read again"));
    let log = agent.log();
    assert!(log.contains("apps.web.download_limit = none (was \"40000B\")"), "{log}");
}

/// Goal: as above for a seeder, whose limits are in a file of their own.
#[test]
fn seeder_takes_limits_over_without_a_restart() {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, SIZE);
    let limits = rig.path("limits.toml");
    fs::write(&limits, format!("upload_limit = {LOW}\n")).unwrap();
    // The file wins over the flag.
    let more = ["--limits", limits.to_str().unwrap(), "--upload-limit", "100MB"];
    let (mut seeder, address) = rig.seeder("store", &more);
    let _agent = rig.agent("host", &address, &[]);
    rig.deploy(&build);
    rig.wait_for_row("the download is under way", "host", |row| {
        row.row.phase == HostPhase::Downloading && row.row.bytes_from_seeders > 0
    });

    fs::write(&limits, "uplod_limit = 3\n").unwrap();
    reload(&seeder);
    seeder.wait_for_log("the old ones stay: ");
    let row = rig.wait_for_row("the download goes on", "host", |_| true);
    assert_eq!(row.row.phase, HostPhase::Downloading);

    fs::write(&limits, "# no limit but that of the flag\n").unwrap();
    reload(&seeder);
    rig.wait_until_running(&build, &["host"]);
    let log = seeder.log();
    assert!(log.contains("upload_limit = 100000000B (was 40000B)"), "{log}");
}
