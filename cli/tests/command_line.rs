//! Arguments, exit codes and the shape of errors.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

const BUILD: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn shoal(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    // What the person who runs the tests has set must not decide about them.
    for name in ["SHOAL_GOAL", "SHOAL_STORE", "SHOAL_SEEDERS", "SHOAL_LISTEN", "SHOAL_LOG_LEVEL"] {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Checks exit code and that standard error is one line with `parts`; standard output stays empty.
fn check_refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = shoal(arguments);
    let error = text(&output.stderr);
    let name = match arguments {
        [daemon @ ("seeder" | "agent"), ..] => format!("shoal {daemon}: error: "),
        _ => "shoal: error: ".to_owned(),
    };
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert!(error.starts_with(&name), "{arguments:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is missing: {error}");
    }
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    let seeder = "127.0.0.1:7400";
    let cases: [(&[&str], &[&str]); 13] = [
        (&["frobnicate"], &["frobnicate", "shoal --help"]),
        (&["publish", "x"], &["--app", "--store", "shoal publish --help"]),
        (&["publish", "x", "--app", "a", "--store", "s", "--fast"], &["--fast"]),
        (&["deploy", "web"], &["<BUILD>", "--goal"]),
        (&["deploy", "web", "12", "--goal", "file:///g"], &["64 hexadecimal digits"]),
        (&["rollback"], &["<APP>", "--goal", "shoal rollback --help"]),
        (&["status"], &["--goal"]),
        (&["status", "--log-level", "a=b=c"], &["--log-level", "not a log filter"]),
        (&["status", "--goal", "nonsense"], &["nonsense", "is not a goal store"]),
        (&["fetch", BUILD, "--out", "d"], &["--seeder"]),
        (&["fetch", BUILD, "--out", "d", "--seeder", seeder], &["/udp/PORT/quic-v1/p2p/"]),
        (&["verify", "x", BUILD, "--timeout", "5"], &["--timeout"]),
        (&["demo", "--hosts", "0"], &["1..=50"]),
    ];
    for (arguments, parts) in cases {
        check_refused(arguments, 2, parts);
    }
}

#[test]
fn amounts_with_unknown_units_are_refused() {
    let address =
        "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
    let fetch = ["fetch", BUILD, "--out", "d", "--seeder", address];
    let with = |more: &[&'static str]| [&fetch[..], more].concat();
    check_refused(&with(&["--upload-limit", "10mb"]), 2, &["--upload-limit", "10mb", "MiB"]);
    check_refused(&with(&["--timeout", "soon"]), 2, &["--timeout", "soon"]);
    check_refused(&with(&["--listen", "localhost:1"]), 2, &["--listen"]);
}

#[test]
fn bare_command_and_help_show_what_there_is() {
    let bare = shoal(&[]);
    assert_eq!(bare.status.code(), Some(2));
    let help = shoal(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for overview in [text(&bare.stderr), text(&help.stdout)] {
        let commands = ["demo", "publish", "deploy", "rollback", "status", "fetch", "verify"];
        for command in commands {
            assert!(overview.contains(command), "{command} is missing in\n{overview}");
        }
        assert!(!overview.contains("seeder "), "hidden commands stay hidden\n{overview}");
    }
    assert_eq!(shoal(&["--version"]).status.code(), Some(0));
}

#[test]
fn daemons_have_their_own_arguments() {
    let seeder = shoal(&["seeder", "--help"]);
    assert_eq!(seeder.status.code(), Some(0));
    assert!(text(&seeder.stdout).contains("--upload-limit"), "{}", text(&seeder.stdout));
    check_refused(&["seeder"], 2, &["--store", "--listen", "--state", "run: shoal seeder --help"]);
    check_refused(&["agent", "--gaol", "x"], 2, &["'--gaol'", "run: shoal agent --help"]);
    check_refused(&["agent", "--set", "zone"], 2, &["KEY=VALUE"]);
}

#[test]
fn failure_is_one_line_and_with_json_an_object_too() {
    let missing = "/nonexistent/store";
    check_refused(&["verify", "/tmp", BUILD, "--store", missing], 1, &[missing, "check --store"]);
    check_refused(&["demo", "--path", "/nonexistent/mine"], 1, &["/nonexistent/mine", "--path"]);

    let cases: [(&[&str], i32); 4] = [
        (&["verify", "/tmp", BUILD, "--store", missing, "--json"], 1),
        (&["verify", "/tmp", BUILD, "--json", "--wrong"], 2),
        (&["status", "--json", "--goal", "nonsense"], 2),
        (&["frobnicate", "--json"], 2),
    ];
    for (arguments, code) in cases {
        let output = shoal(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let line = text(&output.stderr);
        assert_eq!(
            Some(line.trim_end()),
            json["error"].as_str().map(|error| format!("shoal: error: {error}")).as_deref()
        );
    }
    let help = shoal(&["status", "--json", "--help"]);
    assert!(help.status.success() && !text(&help.stdout).contains("{\"error\""), "help is none");
}

/// Goal: a rollout is stopped although nobody can read what hosts reported, and that is said.
#[test]
fn rollout_is_steered_without_an_inventory() {
    let folder = tempfile::tempdir().unwrap();
    let goal = format!("file://{}", folder.path().display());
    let order = |arguments: &[&str]| {
        let output = shoal(&[arguments, &["--goal", &goal]].concat());
        let said = text(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        (text(&output.stdout), said)
    };
    let other = BUILD.replace('0', "1");
    order(&["deploy", "web", BUILD]);
    order(&["deploy", "web", &other]);
    // No folder: it cannot be listed.
    fs::write(folder.path().join("status"), "").unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["--percent", "10"], "goal 3 is build 1111"),
        (&["--halt"], "halted; web: goal"),
        (&["--resume"], "resumed; web: goal"),
        (&["--halt"], "halted; web: goal"),
        (&["--abort"], "is build 0000"),
    ];
    for (flags, expected) in cases {
        let (done, said) = order(&[&["rollout", "web"], flags].concat());
        assert!(done.contains(expected), "{flags:?}: {done}");
        assert!(said.contains("cannot read what hosts reported"), "{flags:?}: {said}");
        assert_eq!(said.contains("may halt it again"), flags == ["--resume"], "{said}");
    }
    let shown = shoal(&["rollout", "web", "--goal", &goal]);
    assert_eq!(shown.status.code(), Some(1), "there is nothing to show");
}

#[test]
fn publish_refuses_a_program_that_cannot_be_executed_before_it_writes_anything() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (build, store, run) = (path("build"), path("store"), path("build/run"));
    fs::create_dir(&build).unwrap();
    fs::write(&run, "#!/bin/sh\n").unwrap();
    let publish = |program: &'static str| {
        ["publish", &build, "--app", "a", "--store", &store, "--check-exec", program]
            .map(String::from)
    };
    let refused = |program, parts: &[&str]| {
        let arguments = publish(program);
        check_refused(&arguments.each_ref().map(String::as_str), 1, parts);
        assert!(!Path::new(&store).exists(), "{program}");
    };
    refused("run", &["run cannot be executed", "not executable; chmod +x before publish"]);
    refused("missing", &["missing cannot be executed", "there is no file"]);
    refused("/bin/sh", &["--check-exec /bin/sh", "a path inside the build"]);
    refused("../run", &["a path inside the build"]);
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&run, "#!/bin/sh\r\n").unwrap();
    refused("run", &["carriage return (CRLF)", "dos2unix"]);
    fs::write(&run, "echo\n").unwrap();
    refused("run", &["whose first line names its interpreter"]);
    fs::write(&run, "#!/bin/sh\n").unwrap();
    let published = shoal(&publish("./run").each_ref().map(String::as_str));
    assert_eq!(published.status.code(), Some(0), "{}", text(&published.stderr));
}
