//! What people and disks do to an agent's files: a clear message, the program left alone, recovery.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use goal_state::TroubleKind;
use rustix::process::{Pid, Signal};

use crate::rig::service_host::{HOST, ServiceHost};
use crate::rig::{Published, flip_byte, note, processes_of, succeed, version_at, wait_for};

const SETTINGS: &str = "keep_builds = 3\n[apps.web.health]\nmin_healthy_time = \"200ms\"";

const DATA_BYTES: usize = 1 << 20;

fn host_with_good() -> (ServiceHost, Published) {
    let mut host = ServiceHost::new(SETTINGS);
    let good = host.publish("good", "", DATA_BYTES);
    host.start_agent();
    host.deploy_and_wait(&good, "good");
    (host, good)
}

/// The one process of the service.
fn service(host: &ServiceHost) -> Pid {
    let [service] = processes_of(&host.rig.path("bin/demo-service"))[..] else {
        panic!("not one program runs")
    };
    service
}

/// Goal: a second agent on the same directory is refused and disturbs nothing.
#[test]
fn second_agent_is_refused_and_the_program_runs_on() {
    let (mut host, good) = host_with_good();
    let before = service(&host);
    let mut second = host.rig.agent_of(
        &host.rig.goal(),
        HOST,
        &["--seeder", &host.seeder_address, "--config", &host.rig.text("agent.toml")],
    );
    assert_eq!(second.wait().code(), Some(1));
    let pid = host.agent().process().as_raw_nonzero().to_string();
    let log = second.log();
    assert!(log.contains("in use") && log.contains(&pid), "{log}");
    assert_eq!(service(&host), before);
    host.rig.check_current(HOST, &good);
    host.agent().check_running();
}

/// Goal: `current` is made again from the journal, whatever was done to it while no agent ran.
#[test]
fn current_that_was_changed_between_two_agents_is_made_again() {
    let (mut host, good) = host_with_good();
    let before = service(&host);
    let current = host.app().join("current");
    for target in [None, Some("builds/nothing"), Some("/etc")] {
        host.agent().kill();
        fs::remove_file(&current).unwrap();
        if let Some(target) = target {
            std::os::unix::fs::symlink(target, &current).unwrap();
        }
        host.start_agent();
        wait_for(&format!("current is mended after {target:?}"), || {
            fs::read_to_string(current.join("VERSION")).ok().filter(|text| text == "good\n")
        });
        host.wait_until_answering(&good, "good");
        host.rig.check_current(HOST, &good);
        assert_eq!(service(&host), before, "the program was restarted");
    }
}

/// Goal: a build that was removed by hand is fetched again, and its program keeps running.
#[test]
fn build_that_was_removed_between_two_agents_is_fetched_again() {
    let (mut host, good) = host_with_good();
    for part in ["", "data", "VERSION"] {
        host.agent().kill();
        let root = host.app().join("builds").join(&good.id);
        if part.is_empty() {
            make_writable(&root);
            fs::remove_dir_all(&root).unwrap();
        } else {
            make_writable(&root.join(part));
            fs::remove_file(root.join(part)).unwrap();
        }
        host.start_agent();
        wait_until_right(&host, &good);
    }
}

/// Waits until `current` is the build, byte for byte, and its program answers.
fn wait_until_right(host: &ServiceHost, good: &Published) {
    wait_for("the build is right again", || {
        let root = fs::canonicalize(host.app().join("current")).ok()?;
        let verified = p2p_net::verify(&root, None, None).ok()?;
        (verified.actual.to_string() == good.id).then_some(())
    });
    host.wait_until_answering(good, "good");
    host.rig.check_current(HOST, good);
}

/// Goal: a kept build that was damaged by hand is never run: it is fetched again.
/// Method: one byte of the previous build is changed, then the goal goes back to it.
#[test]
fn damaged_build_is_not_switched_to() {
    let (host, good) = host_with_good();
    let next = host.publish("next", "", DATA_BYTES);
    host.deploy_and_wait(&next, "next");
    let data = host.app().join("builds").join(&good.id).join("data");
    make_writable(&data);
    flip_byte(&data, DATA_BYTES / 2);
    succeed(&["rollback", "web", "--goal", &host.rig.goal()]);
    host.wait_until_answering(&good, "good");
    host.rig.check_current(HOST, &good);
}

/// Goal: a build that was damaged while it runs is mended by the next agent, and its program serves
/// until then.
#[test]
fn current_build_that_was_damaged_is_mended() {
    let (mut host, good) = host_with_good();
    let data = host.app().join("builds").join(&good.id).join("data");
    host.agent().kill();
    make_writable(&data);
    flip_byte(&data, DATA_BYTES / 2);
    host.start_agent();
    wait_until_right(&host, &good);
}

/// Goal: on a disk that turned read-only the program keeps running, the status says why nothing
/// else happens, and everything goes on when the disk is well.
/// Method: the agent lives in a mount namespace of its own, where its state directory is made
/// read-only under it; also for an agent that starts meanwhile.
#[test]
fn read_only_disk_is_reported_and_survived() {
    let Some(unshare) = mount_namespace() else {
        note("left out: this machine allows no mount namespaces");
        return;
    };
    let mut host = ServiceHost::new(SETTINGS);
    let (good, next) = (host.publish("good", "", 100_000), host.publish("next", "", 100_000));
    host.start_agent_within(unshare);
    host.deploy_and_wait(&good, "good");
    let before = service(&host);
    let inside = before.as_raw_nonzero().to_string();
    let nsenter = mounts_of(&inside, unshare);
    let state = host.rig.text(HOST);
    make_read_only(&nsenter, &state);
    host.rig.deploy(&next);
    let row = host.rig.wait_for_row("the disk's state is reported", HOST, |row| {
        row.row.message.as_ref().is_some_and(|text| text.contains("Read-only file system"))
    });
    assert!(row.row.message.unwrap().contains(&state), "the place is not named");
    assert_eq!(row.row.troubles, [TroubleKind::GoalUnstored]);
    check_goal_not_reached(&host);
    assert_eq!(version_at(host.port).as_deref(), Some("good"));
    host.agent().kill();
    host.start_agent_within(&nsenter);
    assert_eq!(host.agent().wait().code(), Some(1));
    let log = host.agent().log();
    assert!(log.contains("Read-only file system") && log.contains("--state"), "{log}");
    assert_eq!(service(&host), before);

    succeed_in(&nsenter, &["umount", &state]);
    host.start_agent_within(&nsenter);
    host.wait_until_answering(&next, "next");
}

/// What the host runs is good, and is not the goal of the store: nobody may call it "at its goal".
fn check_goal_not_reached(host: &ServiceHost) {
    let desk = ["explain", "web", HOST, "--goal", &host.rig.goal()];
    let control = host.rig.text("host/control.sock");
    let on_host = ["agent", "explain", "web", "--control", &control];
    for explain in [&desk[..], &on_host] {
        let said = succeed(explain);
        assert!(!said.contains("is at its goal"), "{said}");
        for part in ["cannot store the new goal", "Read-only file system", "free space"] {
            assert!(said.contains(part), "{part:?} is missing in\n{said}");
        }
    }
}

/// Goal: a program that was started while the disk rejected writes is not lost when the agent is
/// killed before the disk is well: the next agent takes it over as it is.
/// Method: as above; the program is killed on the read-only disk, so that the agent starts another.
#[test]
fn program_that_a_read_only_disk_knows_nothing_of_is_taken_over() {
    let Some(unshare) = mount_namespace() else {
        note("left out: this machine allows no mount namespaces");
        return;
    };
    let mut host = ServiceHost::new(SETTINGS);
    let good = host.publish("good", "", 100_000);
    host.start_agent_within(unshare);
    host.deploy_and_wait(&good, "good");
    let inside = service(&host).as_raw_nonzero().to_string();
    let state = host.rig.text(HOST);
    make_read_only(&mounts_of(&inside, unshare), &state);
    let unrecorded = start_anew(&host);
    host.agent().kill();
    let inside = unrecorded.as_raw_nonzero().to_string();
    let nsenter = mounts_of(&inside, unshare);
    // Its program has its feet on it, so it cannot be unmounted.
    succeed_in(&nsenter, &["mount", "-o", "remount,bind,rw", &state]);

    host.start_agent_within(&nsenter);
    wait_for("the program is taken over", || (recorded(&host)? == unrecorded).then_some(()));
    host.wait_until_answering(&good, "good");
    assert_eq!(service(&host), unrecorded);
}

/// Goal: as above, if another build is the goal by then: the program without a record is ended in
/// good order, and the new one has the port.
/// Method: a directory that is in the way of the record stands for a disk that refuses it.
#[test]
fn program_without_a_record_gives_way_to_the_next_build() {
    let (mut host, _) = host_with_good();
    let next = host.publish("next", "", DATA_BYTES);
    let in_the_way = host.app().join(".running.json.new");
    fs::create_dir(&in_the_way).unwrap();
    let unrecorded = start_anew(&host);
    host.agent().kill();
    host.rig.deploy(&next);
    fs::remove_dir(in_the_way).unwrap();

    host.start_agent();
    host.wait_until_answering(&next, "next");
    assert_ne!(service(&host), unrecorded);
    host.rig.check_current(HOST, &next);
}

/// Kills the program, and waits for the one that the agent starts in its place.
fn start_anew(host: &ServiceHost) -> Pid {
    let before = service(host);
    rustix::process::kill_process(before, Signal::KILL).unwrap();
    wait_for("the program is started again", || {
        let [now] = processes_of(&host.rig.path("bin/demo-service"))[..] else { return None };
        (now != before && version_at(host.port).as_deref() == Some("good")).then_some(now)
    })
}

/// The process that the app's record names.
fn recorded(host: &ServiceHost) -> Option<Pid> {
    let record =
        node_agent::state::AppDir::new(host.app()).running(node_agent::state::Place::Serving);
    let process = record.unwrap()?.process?;
    Pid::from_raw(i32::try_from(process.pid).unwrap())
}

/// A wrapper that gives a command mounts of its own, if the system allows that.
fn mount_namespace() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] =
        [&["unshare", "--mount"], &["unshare", "--user", "--map-root-user", "--mount"]];
    let allows = |way: &&&[&str]| run(&[way, &["true"][..]].concat()).status.success();
    ways.iter().find(allows).copied()
}

/// A wrapper that gives a command the mounts of process `inside`.
fn mounts_of<'a>(inside: &'a str, unshare: &[&str]) -> Vec<&'a str> {
    let mut nsenter = vec!["nsenter", "--mount", "--target", inside];
    if unshare.contains(&"--user") {
        nsenter.extend(["--user", "--preserve-credentials"]);
    }
    nsenter
}

fn make_read_only(nsenter: &[&str], directory: &str) {
    succeed_in(nsenter, &["mount", "--bind", directory, directory]);
    succeed_in(nsenter, &["mount", "-o", "remount,bind,ro", directory]);
}

fn succeed_in(nsenter: &[&str], command: &[&str]) {
    let output = run(&[nsenter, command].concat());
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn run(command: &[&str]) -> Output {
    let (program, arguments) = command.split_first().unwrap();
    Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Makes a file writable: builds are read-only for those who are not root.
fn make_writable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for path in [path.parent().unwrap(), path] {
        let mut permissions = fs::metadata(path).unwrap().permissions();
        permissions.set_mode(permissions.mode() | 0o200);
        fs::set_permissions(path, permissions).unwrap();
    }
}
