//! What goes wrong in operation: one clear line, no damage, and on with the rest.

use std::fs;
use std::path::Path;
use std::process::Command;

use goal_state::{HostPhase, HostStatus};
use rustix::process::Signal;
use serde::Deserialize;

use crate::rig::{
    Daemon, Rig, check_failed, fail, flip_byte, free_port, names, note, parse, remove_settings,
    run, shoal, succeed, version_at, wait_for,
};

const MIB: usize = 1 << 20;
const NOBODY_HAS: &str = "00000000000000000000000000000000000000000000000000000000000000ff";

#[test]
fn build_that_no_seeder_has_is_named() {
    let rig = Rig::new();
    let (_seeder, address) = rig.seeder("store", &[]);
    let out = rig.text("out");
    let arguments =
        ["fetch", NOBODY_HAS, "--seeder", &address, "--out", &out, "--timeout", "2s", "--json"];
    let output = run(&arguments);
    check_failed(&output, &["no progress for 2s", "no seeder has build", NOBODY_HAS]);
    let json: serde_json::Value = parse(std::str::from_utf8(&output.stdout).unwrap());
    assert!(json["error"].as_str().unwrap().contains(NOBODY_HAS), "{json}");
    assert!(!rig.path("out").exists(), "a directory is left");
}

#[test]
fn seeder_that_is_down_is_named() {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, MIB);
    let (mut seeder, address) = rig.seeder("store", &[]);
    seeder.kill();
    let out = rig.text("out");
    let arguments = ["fetch", &build.id, "--seeder", &address, "--out", &out, "--timeout", "8s"];
    fail(&arguments, &["no seeder answers", &address, "check that it runs"]);
    assert!(!rig.path("out").exists(), "a directory is left");
}

/// Goal: a damaged build is not served and not repaired by accident, and harms no other.
#[test]
fn damaged_manifest_is_named_and_the_rest_is_served() {
    let rig = Rig::new();
    let bad = rig.publish_data("store", 1, 2 * MIB);
    let good = rig.publish_data("store", 2, 2 * MIB);
    let manifest = rig.path("store/builds").join(format!("{}.manifest", bad.id));
    flip_byte(&manifest, 60);
    let damaged = fs::read(&manifest).unwrap();

    let (mut seeder, address) = rig.seeder("store", &[]);
    let line = seeder.wait_for_log("build not served");
    assert!(line.contains(&bad.id) && line.contains("publish it again"), "{line}");
    let fetch = |build: &str, out: &str| {
        let out = rig.text(out);
        run(&["fetch", build, "--seeder", &address, "--out", &out, "--timeout", "2s"])
    };
    assert!(fetch(&good.id, "good").status.success());
    check_failed(&fetch(&bad.id, "bad"), &["no seeder has build", &bad.id]);

    let (data, store) = (rig.text("data/data-1"), rig.text("store"));
    let parts = ["manifest", "is damaged", &bad.id];
    fail(&["verify", &data, &bad.id, "--store", &store], &parts);
    assert_eq!(fs::read(&manifest).unwrap(), damaged, "reading must not write");

    let again = rig.publish("store", &rig.path("data/data-1"));
    assert_eq!(again.id, bad.id);
    wait_for("the repaired build is served", || {
        seeder.check_running();
        fetch(&bad.id, "repaired").status.success().then_some(())
    });
    succeed(&["verify", &data, &bad.id, "--store", &store]);
}

#[test]
fn port_and_state_directory_in_use_are_named() {
    let rig = Rig::new();
    let (seeder, address) = rig.seeder("store", &[]);
    let port = address.split('/').nth(4).unwrap();
    let (store, state) = (rig.text("store"), rig.text("seeder"));
    let listen = format!("127.0.0.1:{port}");
    let with = |listen: &str, state: &str| {
        run(&["seeder", "--store", &store, "--listen", listen, "--state", state])
    };
    check_failed(&with(&listen, &rig.text("other")), &[&listen, "in use"]);
    let holder = seeder.process().as_raw_nonzero().to_string();
    check_failed(&with("127.0.0.1:0", &state), &["in use by the process with id", &holder, &state]);

    let mut agent = rig.agent("host", &address, &[]);
    agent.wait_for_log("the node is up");
    let arguments = rig.agent_arguments(&rig.goal(), "host", "127.0.0.1:0");
    let second = shoal(&["agent", "--seeder", &address]).args(arguments).output().unwrap();
    let holder = agent.process().as_raw_nonzero().to_string();
    check_failed(&second, &["in use by the process with id", &holder, "--state"]);
    agent.check_running();
    let arguments = rig.agent_arguments(&rig.goal(), "host-2", &listen);
    let third = shoal(&["agent", "--seeder", &address]).args(arguments).output().unwrap();
    check_failed(&third, &[&listen, "in use"]);
}

#[derive(Deserialize)]
struct Rows {
    rows: Vec<HostStatus>,
}

/// Goal: a broken goal is never acted on and never overwritten.
/// Method: the file is cut off while a program runs; then it is repaired, and the next deploy
/// works.
#[test]
fn goal_file_that_is_not_valid_changes_nothing() {
    let rig = Rig::new();
    let first = rig.publish_service("store", 1);
    let second = rig.publish_service("store", 2);
    let (_seeder, address) = rig.seeder("store", &[]);
    let port = free_port();
    let exec = format!("./demo-service --listen 127.0.0.1:{port}");
    let mut agent = rig.agent("host", &address, &["--exec", &exec]);
    rig.deploy(&first);
    let pid = rig.wait_until_running(&first, &["host"])[0].row.pid;

    let path = rig.path("goal/goals/web.json");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let row = wait_for("the host says what is wrong", || {
        agent.check_running();
        let documents = names(&rig.path("goal/status/host"));
        let [document] = &documents[..] else { panic!("one node has the name: {documents:?}") };
        let text = fs::read_to_string(rig.path("goal/status/host").join(document)).unwrap();
        let row = parse::<Rows>(&text).rows.remove(0);
        row.message.is_some().then_some(row)
    });
    let message = row.message.unwrap();
    assert!(message.contains("cannot read the goal") && message.contains("web.json"), "{message}");
    assert_eq!((row.phase, row.pid), (HostPhase::Running, pid));
    assert_eq!(version_at(port).as_deref(), Some("1"));

    let goal = rig.goal();
    let place = path.to_str().unwrap();
    fail(&["deploy", "web", &second.id, "--goal", &goal], &[place, "repair the file"]);
    fail(&["rollback", "web", "--goal", &goal], &[place, "repair the file"]);
    check_status_names_damage(&goal, place);
    assert_eq!(fs::read(&path).unwrap(), whole[..whole.len() / 2], "it was overwritten");

    fs::write(&path, &whole).unwrap();
    rig.deploy(&second);
    let rows = rig.wait_until_running(&second, &["host"]);
    assert_eq!((rows[0].row.generation, &rows[0].row.message), (Some(2), &None));
    assert_eq!(agent.end_with(Signal::TERM).code(), Some(0));
}

/// Checks that the status shows the goal of another app and the host, and names what is damaged.
fn check_status_names_damage(goal: &str, place: &str) {
    succeed(&["deploy", "other", NOBODY_HAS, "--goal", goal, "--new-app"]);
    for app in [&[][..], &["web"]] {
        let status = run(&[&["status", "--goal", goal], app].concat());
        check_failed(&status, &[place, "repair the file"]);
        let shown = String::from_utf8(status.stdout).unwrap();
        assert!(shown.contains("web: the goal cannot be read, reported by 1 host"), "{shown}");
        assert!(shown.contains("running"), "the host is missing: {shown}");
        assert_eq!(shown.contains("other: goal 1 is build"), app.is_empty(), "{shown}");
    }
    succeed(&["status", "other", "--goal", goal]);
    let status = run(&["status", "--goal", goal, "--json"]);
    check_failed(&status, &[place]);
    let document: serde_json::Value = parse(std::str::from_utf8(&status.stdout).unwrap());
    assert_eq!(document["errors"][0]["app"], "web");
    assert!(document["errors"][0]["error"].as_str().unwrap().contains(place), "{document}");
    assert_eq!(document["apps"][0]["app"], "other");
}

#[test]
fn host_that_is_gone_can_be_left_out() {
    let rig = Rig::new();
    succeed(&["deploy", "web", NOBODY_HAS, "--goal", &rig.goal()]);
    fs::create_dir(rig.path("goal/status")).unwrap();
    let gone = r#"{"rows":[{"host":"gone","app":"web","phase":"running","updated_at_ms":5}]}"#;
    let path = rig.path("goal/status/gone.json");
    fs::write(&path, gone).unwrap();
    // What the host says of the time counts for nothing.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let all = succeed(&["status", "--goal", &rig.goal()]);
    assert!(all.contains("gone") && all.contains("(stale)"), "{all}");
    let recent = succeed(&["status", "--goal", &rig.goal(), "--max-age", "1d"]);
    assert!(!recent.contains("gone") && recent.contains("0 of 0 hosts"), "{recent}");
}

#[test]
fn goal_store_that_is_missing_is_named() {
    let rig = Rig::new();
    let missing = format!("file://{}", rig.text("nowhere"));
    // It is an empty one; whoever mistyped its name is told where it was looked for.
    let said = run(&["status", "--goal", &missing]);
    let note = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && note.contains(&rig.text("nowhere")), "{said:?}");
    fail(&["rollback", "web", "--goal", &missing], &["no goal is set for web"]);
    assert!(!rig.path("nowhere").exists());
    let port = free_port();
    let down = format!("etcd://127.0.0.1:{port}/shoal");
    fail(&["deploy", "web", NOBODY_HAS, "--goal", &down], &[&format!("127.0.0.1:{port}")]);
}

#[test]
fn rollback_without_history_says_so() {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, 1_000);
    rig.deploy(&build);
    let path = rig.path("goal/goals/web.json");
    let before = fs::read(&path).unwrap();
    fail(&["rollback", "web", "--goal", &rig.goal()], &["no earlier build"]);
    assert_eq!(fs::read(&path).unwrap(), before);
}

/// A command in which `place` is a file system of its own with `mebibytes`, `None` where the system
/// allows no mounts. `prepare` is run by a shell before.
fn on_small_disk(place: &Path, mebibytes: usize, prepare: &str) -> Option<Command> {
    let place = place.to_str().unwrap();
    let mount = format!("mount -t tmpfs -o size={mebibytes}m tmpfs '{place}'");
    let unshare = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let wrapper = |script: &str| {
        let mut command = Command::new("unshare");
        remove_settings(&mut command);
        command.args([unshare, "sh", "-c", script, "sh"]);
        command
    };
    let can_mount = wrapper(&mount).status().is_ok_and(|status| status.success());
    if !can_mount {
        note("no mounts allowed here, not tested");
        return None;
    }
    let mut command = wrapper(&format!("{mount} && {prepare} exec \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_shoal"));
    Some(command)
}

#[test]
fn fetch_to_a_full_disk_names_what_it_needs() {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, 8 * MIB);
    let (_seeder, address) = rig.seeder("store", &[]);
    let out = rig.path("out");
    fs::create_dir(&out).unwrap();
    let Some(mut command) = on_small_disk(&out, 4, "") else { return };
    command.args(["fetch", &build.id, "--seeder", &address, "--out"]).arg(&out);
    let output = command.output().unwrap();
    let needed = format!("{} bytes are needed", build.bytes);
    check_failed(&output, &["not enough space", &needed, "are free", "free some"]);
}

/// Goal: a disk that fills up in mid-download ends it with the reason.
/// Method: no file may grow beyond a part of the build.
#[test]
fn fetch_that_may_not_write_says_why() {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, 8 * MIB);
    let (_seeder, address) = rig.seeder("store", &[]);
    let out = rig.path("out");
    let mut command = Command::new("bash");
    remove_settings(&mut command);
    command.args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$@\"", "bash"]);
    command.args([env!("CARGO_BIN_EXE_shoal"), "fetch", &build.id, "--seeder", &address]);
    let output = command.arg("--out").arg(&out).output().unwrap();
    check_failed(&output, &["data-1", "File too large"]);
    assert!(!out.join("data-1").exists());
}

/// Goal: a host with a full disk keeps running what it runs, says so, and goes on by itself once
/// there is space.
/// Method: the state directory is a small disk with a large file on it, which is removed later.
#[test]
fn full_disk_of_a_host_is_reported_and_recovered_from() {
    let rig = Rig::new();
    let small = rig.publish_data("store", 1, MIB);
    let large = rig.publish_data("store", 2, 16 * MIB);
    let (_seeder, address) = rig.seeder("store", &[]);
    let state = rig.path("host");
    fs::create_dir(&state).unwrap();
    let fill = format!("head -c 30M /dev/zero >'{}/filler';", state.display());
    let Some(mut command) = on_small_disk(&state, 40, &fill) else { return };
    let control = rig.text("control.sock");
    command.args(["agent", "--seeder", &address, "--set", &format!("control={control}")]);
    command.args(rig.agent_arguments(&rig.goal(), "host", "127.0.0.1:0"));
    let agent = Daemon::start("host", command, rig.path("host.log"));
    rig.deploy(&small);
    rig.wait_until_running(&small, &["host"]);

    rig.deploy(&large);
    let row = rig.wait_for_row("the host says that its disk is full", "host", |row| {
        row.row.phase == HostPhase::Failed
    });
    let message = row.row.message.unwrap();
    assert!(message.contains("not enough space") && message.contains("next try"), "{message}");
    let (said, reason) = wait_for("`explain` says how much is missing", || {
        let explain = ["agent", "explain", "web", "--json", "--control", &control];
        let said: serde_json::Value = parse(&succeed(&explain));
        let reason = said["answer"]["reasons"].as_array()?.first()?.clone();
        (reason["kind"] == "disk-short").then_some((said, reason))
    });
    assert!(reason["text"].as_str().unwrap().contains("MiB more are needed"), "{said}");
    assert!(reason["next_step"].as_str().unwrap().contains("keep_builds"), "{said}");
    assert_eq!(row.row.current.map(|build| build.to_string()).as_ref(), Some(&small.id));

    let pid = agent.process().as_raw_nonzero();
    let seen_by_agent = Path::new("/proc").join(pid.to_string()).join("root");
    let inside = seen_by_agent.join(state.strip_prefix("/").unwrap());
    fs::remove_file(inside.join("filler")).unwrap();
    let rows = rig.wait_until_running(&large, &["host"]);
    assert_eq!(rows[0].row.message, None);
    // Not `shoal verify`, which resolves the path and so leaves the agent's view of the files.
    let arrived = fs::read(inside.join("apps/web/builds").join(&large.id).join("data-2")).unwrap();
    assert!(arrived == fs::read(rig.path("data/data-2")).unwrap(), "other bytes arrived");
    assert_eq!(names(&state), [""; 0], "the disk is the agent's own");
}
