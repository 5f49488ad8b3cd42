//! The real `shoal-agent`: what it says and how it exits when it cannot start.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use node_agent::state::StateDir;

const SEEDER: &str =
    "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";

/// Runs the agent with enough flags to start, and `more`.
fn agent(state: &Path, more: &[&str]) -> Output {
    let goal = format!("file://{}", state.with_file_name("goal").display());
    bare_agent(
        &[
            &["--goal", &goal, "--seeder", SEEDER, "--app", "web", "--state"],
            &[state.to_str().unwrap()][..],
            more,
        ]
        .concat(),
    )
}

fn bare_agent(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-agent"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SHOAL_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG").args(arguments).output().unwrap()
}

/// Asserts that the agent failed with `code` and said one line that contains all of `parts`.
fn assert_error(output: &Output, code: i32, parts: &[&str]) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(text.starts_with("shoal-agent: error: "), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn mistakes_of_the_operator_exit_with_code_two() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shoal.toml");
    fs::write(&file, "zone = \"z\"\n\n[apps.web]\nexce = [\"./run\"]\n").unwrap();
    let state = folder.path().join("state");
    let config = ["--config", file.to_str().unwrap()];
    assert_error(
        &agent(&state, &config),
        2,
        &["shoal.toml:4:", "\"exce\"", "did you mean \"exec\"?"],
    );
    assert_error(&agent(&state, &["--config", "/nowhere"]), 2, &["/nowhere", "No such file"]);
    assert_error(&agent(&state, &["--set", "zone"]), 2, &["KEY=VALUE"]);
    assert_error(&agent(&state, &["--set", "gaol=x"]), 2, &["--set", "did you mean \"goal\"?"]);
    assert_error(&agent(&state, &["--app", "two", "--exec", "x"]), 2, &["--app is given 2 times"]);
    assert_error(&agent(&state, &["--upload-limit", "fast"]), 2, &["--upload-limit", "10MB"]);
    assert_error(&agent(&state, &["--log-level", "a=b=c"]), 2, &["--log-level"]);
    assert_error(
        &agent(&state, &["--gaol", "x"]),
        2,
        &["'--gaol'", "'--goal'", "run: shoal-agent --help"],
    );
    assert_error(&bare_agent(&[]), 2, &["no seeder is given", "--seeder MULTIADDR"]);
    assert!(!state.exists(), "nothing may be created before the settings are right");
}

#[test]
fn effective_settings_are_shown_with_their_origin() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shoal.toml");
    fs::write(&file, "zone = \"z1\"\n").unwrap();
    let state = folder.path().join("state");
    let more =
        ["--check-config", "--config", file.to_str().unwrap(), "--exec", "./run --port '8 0'"];
    let output = agent(&state, &more);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for (line, origin) in [
        ("zone = \"z1\"", "shoal.toml:1"),
        ("exec = [\"./run\", \"--port\", \"8 0\"]", "--exec"),
        ("keep_builds = 3", "default"),
        ("seeders = ", "--seeder"),
    ] {
        let found = text.lines().find(|shown| shown.starts_with(line));
        assert!(found.is_some_and(|found| found.ends_with(origin)), "{line} in:\n{text}");
    }
    assert!(!state.exists());
}

#[test]
fn second_agent_on_one_state_directory_learns_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let state = StateDir::open(&path).unwrap();
    let own = format!("process with id {}", std::process::id());
    assert_error(&agent(&path, &[]), 1, &["in use", &own, "--state"]);
    let lock = fs::read_to_string(path.join("lock")).unwrap();
    assert_eq!(lock.trim(), std::process::id().to_string(), "the lock file was damaged");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "something else was written");
    drop(state);
}

#[test]
fn state_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert_error(
        &agent(&file.join("state"), &[]),
        1,
        &["cannot use the state directory", "--state"],
    );

    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("goal.json"), "{\"web\": 3}").unwrap();
    assert_error(&agent(&state, &[]), 1, &["goal.json", "not a valid state file"]);
    assert_eq!(fs::read_to_string(state.join("goal.json")).unwrap(), "{\"web\": 3}");

    fs::write(state.join("node.key"), "damaged").unwrap();
    assert_error(&agent(&state, &[]), 1, &["node.key"]);
}
