//! `shoal demo`: it ends well, and it never leaves anything behind.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::rig::{Daemon, Rig, names, processes_of, random_bytes, run, shoal, succeed, wait_for};

const MIB: usize = 1 << 20;

/// The demo with its temporary folder in the folder of the test.
fn demo(rig: &Rig, arguments: &[&str]) -> Command {
    let temporary = rig.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut command = shoal(&["demo", "--hosts", "2"]);
    command.args(arguments).env("TMPDIR", temporary);
    command
}

fn check_nothing_is_left(rig: &Rig) {
    let temporary = rig.path("tmp");
    assert_eq!(names(&temporary), [""; 0], "files are left");
    assert_eq!(processes_of(&temporary), [], "processes are left");
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn demo_deploys_two_versions_and_leaves_nothing() {
    let rig = Rig::new();
    let output = demo(&rig, &[]).output().unwrap();
    let (said, error) = text(&output);
    assert!(output.status.success(), "{}\n{said}\n{error}", output.status);
    for part in
        ["host-1", "host-2", "Version 2 runs on 2 of 2 hosts.", "T_last / bound", "New in it: "]
    {
        assert!(said.contains(part), "{part:?} is missing in\n{said}");
    }
    check_nothing_is_left(&rig);
}

#[test]
fn demo_distributes_files_of_the_user() {
    let rig = Rig::new();
    let mine = rig.path("mine");
    fs::create_dir_all(mine.join("deep/er")).unwrap();
    fs::write(mine.join("deep/er/file"), random_bytes(1, 3 * MIB)).unwrap();
    fs::write(mine.join("small"), "1").unwrap();
    let before = snapshot(&mine);
    let output = demo(&rig, &["--path", mine.to_str().unwrap()]).output().unwrap();
    let (said, error) = text(&output);
    assert!(output.status.success(), "{}\n{said}\n{error}", output.status);
    assert!(said.contains("Your files are on 2 of 2 hosts"), "{said}");
    assert_eq!(snapshot(&mine), before);
    check_nothing_is_left(&rig);
}

fn snapshot(root: &Path) -> String {
    // The build's id names every byte.
    let nothing = "0".repeat(64);
    let output = run(&["verify", root.to_str().unwrap(), &nothing, "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    report["actual"].as_str().unwrap().to_owned()
}

/// Goal: Ctrl-C ends the demo at any time without a trace.
/// Method: the signal is sent when the seeder serves, and when a host runs its program.
#[test]
fn interrupted_demo_leaves_nothing() {
    for marker in ["2. Measure", "2 of 2 hosts answer with version 1"] {
        let rig = Rig::new();
        let stdout = rig.path("demo.out");
        let mut command = demo(&rig, &[]);
        command.stdout(File::create(&stdout).unwrap());
        let mut demo = Daemon::start("demo", command, rig.path("demo.log"));
        wait_for(marker, || {
            demo.check_running();
            fs::read_to_string(&stdout).unwrap().contains(marker).then_some(())
        });
        assert!(!processes_of(&rig.path("tmp")).is_empty(), "nothing to leave behind");
        let status = demo.end_with(Signal::INT);
        assert_eq!(status.code(), Some(130), "{}", demo.log());
        assert!(demo.log().contains("interrupted"), "{}", demo.log());
        check_nothing_is_left(&rig);
    }
}

/// Goal: even a killed demo leaves no process running.
#[test]
fn killed_demo_takes_its_processes_along() {
    let rig = Rig::new();
    let stdout = rig.path("demo.out");
    let mut command = demo(&rig, &[]);
    command.stdout(File::create(&stdout).unwrap());
    let mut demo = Daemon::start("demo", command, rig.path("demo.log"));
    let marker = "2 of 2 hosts answer with version 1";
    wait_for(marker, || {
        demo.check_running();
        fs::read_to_string(&stdout).unwrap().contains(marker).then_some(())
    });
    demo.kill();
    wait_for("its processes end", || processes_of(&rig.path("tmp")).is_empty().then_some(()));
}

#[test]
fn demo_that_cannot_have_a_folder_says_so() {
    let rig = Rig::new();
    let mut command = demo(&rig, &[]);
    let output = command.env("TMPDIR", "/nonexistent/here").output().unwrap();
    let (_, error) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("TMPDIR") && error.lines().count() == 1, "{error}");
    succeed(&["--version"]);
}
