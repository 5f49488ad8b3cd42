//! Programs that agents run: switched, rolled back, kept through a crash of the agent.

use std::fs;

use rustix::process::Signal;

use crate::rig::{Rig, free_port, processes_of, succeed, version_at, wait_for};

fn exec(port: u16) -> String {
    format!("./demo-service --listen 127.0.0.1:{port}")
}

/// Whether the process runs. One that has ended may stay in the table until it is waited for, which
/// is not in the hands of an agent that took it over.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
    !state.is_empty() && !state.starts_with('Z')
}

fn wait_for_version(port: u16, version: &str) {
    let what = format!("version {version} answers");
    wait_for(&what, || (version_at(port).as_deref() == Some(version)).then_some(()));
}

/// Goal: a rollback brings back the program that ran before, and a stopped agent leaves none.
#[test]
fn rollback_goes_back_to_the_previous_build() {
    let rig = Rig::new();
    let first = rig.publish_service("store", 1);
    let second = rig.publish_service("store", 2);
    let (_seeder, address) = rig.seeder("store", &[]);
    let port = free_port();
    let mut agent = rig.agent("host", &address, &["--exec", &exec(port)]);
    let mut seen = vec![];
    let mut check = |version, build| {
        let rows = rig.wait_until_running(build, &["host"]);
        wait_for_version(port, version);
        let pid = rows[0].row.pid.unwrap();
        assert!(!seen.contains(&pid), "the program was not restarted");
        seen.push(pid);
    };

    rig.deploy(&first);
    check("1", &first);
    rig.deploy(&second);
    check("2", &second);
    let said = succeed(&["rollback", "web", "--goal", &rig.goal()]);
    assert!(said.contains(&first.id[..8]), "{said}");
    check("1", &first);
    assert!(!is_alive(seen[0]) && !is_alive(seen[1]), "an old program still runs");

    let status = agent.end_with(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{}", agent.log());
    assert!(!is_alive(seen[2]), "the program outlives its agent");
    assert_eq!(version_at(port), None);
    let goal = rig.goal();
    let said = succeed(&["status", "--goal", &goal]);
    assert!(said.contains("stopped"), "{said}");
}

/// Goal: a crash of the agent is not noticed by those who use the program.
/// Method: the service is asked while its agent is dead; the next agent must keep its process.
#[test]
fn killed_agent_leaves_the_program_running_and_adopts_it() {
    let rig = Rig::new();
    let build = rig.publish_service("store", 1);
    let (seeder, address) = rig.seeder("store", &[]);
    let port = free_port();
    let arguments = ["--exec", &exec(port)];
    let mut agent = rig.agent("host", &address, &arguments);
    rig.deploy(&build);
    let rows = rig.wait_until_running(&build, &["host"]);
    let before = rows[0].row.clone();
    wait_for_version(port, "1");
    agent.kill();
    assert_eq!(version_at(port).as_deref(), Some("1"));

    let mut agent = rig.agent("host", &address, &arguments);
    let row = rig.wait_for_row("the new agent reports that it runs", "host", |row| {
        row.is_on_goal && row.row.updated_at_ms > before.updated_at_ms && row.row.pid.is_some()
    });
    assert_eq!(row.row.pid, before.pid);
    assert_eq!(version_at(port).as_deref(), Some("1"));

    assert_eq!(agent.end_with(Signal::TERM).code(), Some(0));
    assert!(!is_alive(before.pid.unwrap()), "the adopted program outlives its agent");
    drop(seeder);
    assert_eq!(processes_of(&rig.path("")), []);
}

/// Goal: an agent that is told to stop while it starts stops what the one before left running.
#[test]
fn agent_that_is_stopped_at_once_leaves_no_adopted_program() {
    let rig = Rig::new();
    let build = rig.publish_service("store", 1);
    let (_seeder, address) = rig.seeder("store", &[]);
    let arguments = ["--exec", &exec(free_port())];
    let mut agent = rig.agent("host", &address, &arguments);
    rig.deploy(&build);
    let pid = rig.wait_until_running(&build, &["host"])[0].row.pid.unwrap();
    agent.kill();
    let mut agent = rig.agent("host", &address, &arguments);
    agent.wait_for_log("took over");
    assert_eq!(agent.end_with(Signal::TERM).code(), Some(0), "{}", agent.log());
    assert!(!is_alive(pid), "the program outlives its agent:\n{}", agent.log());
}

/// Goal: what means "stop" to whoever runs an agent also stops its program.
/// Method: two signals arrive together, as from systemd or from a terminal and a wrapper.
#[test]
fn signals_that_arrive_together_are_one_request() {
    let rig = Rig::new();
    let build = rig.publish_service("store", 1);
    let (_seeder, address) = rig.seeder("store", &[]);
    let mut agent = rig.agent("host", &address, &["--exec", &exec(free_port())]);
    rig.deploy(&build);
    let pid = rig.wait_until_running(&build, &["host"])[0].row.pid.unwrap();
    rustix::process::kill_process(agent.process(), Signal::TERM).unwrap();
    agent.wait_for_log("stopping the programs");
    let status = agent.end_with(Signal::HUP);
    assert_eq!(status.code(), Some(0), "{}", agent.log());
    assert!(!is_alive(pid), "the program outlives its agent");
}

/// Goal: whoever loses patience with a program gets rid of the agent, and learns what stays.
/// Method: a program that ignores SIGTERM; signals until the agent ends.
#[test]
fn signal_after_a_while_ends_the_agent_and_leaves_the_program() {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, 1_000);
    let (_seeder, address) = rig.seeder("store", &[]);
    let stubborn = r#"sh -c 'trap "" TERM; while :; do sleep 600; done'"#;
    let mut agent = rig.agent("host", &address, &["--exec", stubborn]);
    rig.deploy(&build);
    let pid = rig.wait_until_running(&build, &["host"])[0].row.pid.unwrap();
    let status = wait_for("the agent gives in", || agent.try_end_with(Signal::TERM));
    assert_eq!(status.code(), Some(1));
    let log = agent.log();
    assert!(log.trim_end().ends_with("programs may still be running"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(is_alive(pid));
}
