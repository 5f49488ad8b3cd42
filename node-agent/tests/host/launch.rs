//! Programs as the configured user, with that user's variables unless the operator set them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use node_agent::host::{Launch, Recipe};
use node_agent::state::AppDir;

use crate::rig::{self, Rig};

fn output(launch: &Launch) -> String {
    let app = AppDir::new("/nonexistent".into());
    let recipe = launch.recipe(rig::build(1), Path::new("/"), &app).unwrap();
    let started = recipe.start([Stdio::piped(), Stdio::null()], |_, _| ()).unwrap();
    String::from_utf8(started.child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn program_runs_as_its_user() {
    // Only root can start anything as somebody else.
    let user = if rustix::process::geteuid().is_root() {
        "nobody".into()
    } else {
        rustix::process::geteuid().as_raw().to_string()
    };
    let script = "id -u; echo $HOME $USER";
    let mut launch = Launch { user: Some(user.clone()), ..rig::launch(&["sh", "-c", script]) };
    launch.environment.insert("HOME".into(), "/here".into());
    let expected = std::process::Command::new("id").args(["-u", &user]).output().unwrap().stdout;
    let name = std::process::Command::new("id").args(["-un", &user]).output().unwrap().stdout;
    let expected = String::from_utf8(expected).unwrap();
    assert_eq!(output(&launch), format!("{expected}/here {}", String::from_utf8(name).unwrap()));
}

#[test]
fn program_of_a_user_who_is_not_there_is_not_started() {
    let launch = Launch { user: Some("nobody-has-this-name".into()), ..rig::launch(&["true"]) };
    let app = AppDir::new("/nonexistent".into());
    let error = launch.recipe(rig::build(1), Path::new("/"), &app).unwrap_err();
    assert!(error.to_string().contains("there is no user \"nobody-has-this-name\""), "{error}");
}

/// What a child of this process says that was started without the agent: who runs the tests may
/// have left open files and ignored signals to all of them.
fn said_by_child(script: &str) -> String {
    let mut child = std::process::Command::new("sh");
    let output = child.args(["-c", script]).stderr(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Goal: a process has nothing of the agent but what it is to have: ids and groups of its user, a
/// session and a group of its own, an empty stdin, and signals as at its birth.
/// Method: it is read from `/proc` by the process itself; the agent ignores SIGPIPE, as every Rust
/// program does.
#[test]
fn process_begins_with_what_its_user_has_and_nothing_of_the_agent() {
    let script = "cat; id -u; id -g; id -G; cut -d' ' -f5,6 /proc/self/stat; echo $$; \
                  grep SigIgn /proc/self/status; ls -l /proc/self/fd | wc -l";
    let mut launch = rig::launch(&["sh", "-c", script]);
    let ids = |user: Option<&str>| {
        ["-u", "-g", "-G"].map(|flag| {
            let mut id = std::process::Command::new("id");
            let output = id.arg(flag).args(user).output().unwrap().stdout;
            String::from_utf8(output).unwrap().trim().to_owned()
        })
    };
    let expect = |said: &str, [uid, gid, groups]: [String; 3]| {
        let lines: Vec<_> = said.lines().collect();
        let [has_uid, has_gid, has_groups, session, pid, ignored, files] = lines[..] else {
            panic!("{said}")
        };
        assert_eq!([has_uid, has_gid, has_groups], [&uid, &gid, &groups].map(String::as_str));
        assert_eq!(session, format!("{pid} {pid}"));
        assert_eq!(ignored, said_by_child("grep SigIgn /proc/self/status"));
        assert_eq!(files, said_by_child("ls -l /proc/self/fd | wc -l"));
    };
    expect(&output(&launch), ids(None));
    if rustix::process::geteuid().is_root() {
        launch.user = Some("nobody".into());
        expect(&output(&launch), ids(Some("nobody")));
    }
}

/// Goal: what the operator sets for a program does not reach the starter, which still is root.
/// Method: a library that is not there is to be loaded first; the dynamic linker says so on the
/// stderr of each executable that has the variable.
#[test]
fn variables_of_a_program_do_not_reach_its_starter() {
    let mut launch = rig::launch(&["true"]);
    launch.environment.insert("LD_PRELOAD".into(), "/nonexistent/lib.so".into());
    let app = AppDir::new("/nonexistent".into());
    let recipe = launch.recipe(rig::build(1), Path::new("/"), &app).unwrap();
    let started = recipe.start([Stdio::null(), Stdio::piped()], |_, _| ()).unwrap();
    let output = started.child.wait_with_output().unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert_eq!(complaints.matches("/nonexistent/lib.so").count(), 1, "{complaints}");
}

#[test]
fn what_keeps_a_program_from_starting_comes_back_to_the_agent() {
    let start =
        |recipe: Recipe| recipe.start([Stdio::null(), Stdio::null()], |_, _| ()).unwrap_err();
    let app = AppDir::new("/nonexistent".into());
    let recipe = |launch: &Launch| launch.recipe(rig::build(1), Path::new("/"), &app).unwrap();
    let rig = Rig::new();
    let file = |name: &str, content: &str, mode| {
        let path = rig.root.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let cases = [
        ("/nonexistent/program".into(), io::ErrorKind::NotFound, "there is no file"),
        ("nosuch".into(), io::ErrorKind::NotFound, "it is not in PATH ("),
        (
            file("script", "#!/usr/bin/nosuch\n", 0o755),
            io::ErrorKind::NotFound,
            "asks for the interpreter `/usr/bin/nosuch`, which is not on this host",
        ),
        (file("data", "#!/bin/sh\n", 0o644), io::ErrorKind::PermissionDenied, "not executable"),
        // No shell tries to make sense of it.
        (file("plain", "\0echo\n", 0o755), io::Error::from_raw_os_error(8).kind(), "is neither"),
    ];
    for (program, kind, expected) in cases {
        let error = start(recipe(&rig::launch(&[&program])));
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let nowhere =
        Launch { working_directory: Some("nonexistent".into()), ..rig::launch(&["true"]) };
    let nowhere = start(recipe(&nowhere));
    assert_eq!(nowhere.kind(), io::ErrorKind::NotFound, "{nowhere}");
    assert!(nowhere.to_string().contains("/nonexistent cannot be entered"), "{nowhere}");
}
