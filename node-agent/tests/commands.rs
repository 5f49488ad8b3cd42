//! The commands of the real `shoal-agent` beside running: what they print and how they exit.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use node_agent::brain::Explanation;
use node_agent::control::{AgentStatus, AppState, ControlRequest, ControlServer, Refusal};
use node_agent::state::Paused;

/// `shoal-agent` without what the environment of the test says.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-agent"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SHOAL_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG").args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn check(output: &Output, code: i32, parts: &[&str]) {
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
}

/// Plays an agent with the paused app `web` behind the control socket in `state` while `act` runs.
fn with_agent(state: &Path, act: impl FnOnce()) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (server, mut requests) = {
        let _guard = runtime.enter();
        ControlServer::bind(&state.join("control.sock")).unwrap()
    };
    runtime.spawn(server.run());
    runtime.spawn(async move {
        while let Some(request) = requests.recv().await {
            play(request);
        }
    });
    act();
}

fn play(request: ControlRequest) {
    let web: goal_state::AppName = "web".parse().unwrap();
    let paused = Some(Paused { since_ms: 0, reason: Some("ticket 5".into()) });
    match request {
        ControlRequest::Status { answer } => {
            let row = goal_state::HostStatus::new("h1", web);
            let apps = vec![AppState { row, is_held: false, paused }];
            let (host, version) = ("h1".into(), "9.9".into());
            let status = AgentStatus { host, version, pid: 7, up_for_ms: 1_000, note: None, apps };
            answer.send(status).unwrap();
        }
        ControlRequest::Pause { reason, answer, .. } => {
            assert_eq!(reason.as_deref(), Some("ticket 5"));
            answer.send(Ok(vec![web])).unwrap();
        }
        ControlRequest::Resume { answer, .. } => answer.send(Ok(vec![])).unwrap(),
        ControlRequest::Restart { app, answer } => {
            answer.send(Err(Refusal::UnknownApp { app, known: vec![web] })).unwrap();
        }
        ControlRequest::Explain { app, answer } => {
            answer.send(Ok(Box::new(Explanation::new("h1".into(), app, 1)))).unwrap();
        }
    }
}

#[test]
fn running_agent_is_asked_through_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let run = |arguments: &[&str]| command(arguments).args(["--state", state]).output().unwrap();
    with_agent(folder.path(), || {
        check(&run(&["status"]), 0, &["shoal-agent 9.9 on h1 runs for 1s", "paused: ticket 5"]);
        let json: serde_json::Value =
            serde_json::from_slice(&run(&["status", "--json"]).stdout).unwrap();
        assert_eq!(json["apps"][0]["row"]["app"], "web");
        check(&run(&["pause", "web", "--reason", "ticket 5"]), 0, &["web", "resume"]);
        check(&run(&["resume"]), 0, &["nothing had to change"]);
        check(&run(&["restart", "wbe"]), 1, &["error: there is no app wbe", "it has web"]);
        check(&run(&["explain", "web"]), 0, &["web on h1 has no goal", "next: "]);
        let json: serde_json::Value =
            serde_json::from_slice(&run(&["explain", "web", "--json"]).stdout).unwrap();
        assert_eq!(
            (&json["answer"]["reasons"][0]["kind"], &json["facts"]["row"]["host"]),
            (&"no-goal".into(), &"h1".into())
        );
        check(&run(&["explain", "A b"]), 2, &["\"A b\" is not an app name"]);
        // The variable works as the flag does, and the socket may be elsewhere than the state.
        let socket = folder.path().join("control.sock");
        let output = command(&["status"]).env("SHOAL_CONTROL", socket).output().unwrap();
        check(&output, 0, &["9.9"]);
    });
}

#[test]
fn agent_that_does_not_run_is_shown_by_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let run = |arguments: &[&str]| command(arguments).args(["--state", state]).output().unwrap();
    check(&run(&["status"]), 3, &["no agent is running", "--control", "systemctl start"]);
    check(&run(&["explain", "web"]), 1, &["no agent is running"]);
    // Somebody is there who does not talk.
    let socket = folder.path().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let silent = std::thread::spawn(move || drop(listener.accept().unwrap()));
    check(&run(&["status"]), 4, &["control.sock"]);
    silent.join().unwrap();
}

#[test]
fn agent_runs_with_and_without_the_word_run() {
    for first in [&["run"][..], &[]] {
        let output =
            command(&[first, &["--check-config", "--goal", "x"]].concat()).output().unwrap();
        check(&output, 2, &["--goal: goal: \"x\" is not a goal store"]);
    }
    // A variable that the service sets for the agent does not get in the way of commands.
    let output = command(&["status", "--state", "/nowhere"])
        .env("SHOAL_CONFIG", "/etc/shoal/agent.toml")
        .output()
        .unwrap();
    check(&output, 3, &["no agent is running"]);
    check(&command(&["fly"]).output().unwrap(), 2, &["'fly'"]);
}

/// What an agent that cannot start logs on the file `log` before it fails.
fn log_of(log: &Path, more: &[&str], journal: bool) -> String {
    let folder = log.parent().unwrap();
    let (goal, state) = (folder.join("goal"), folder.join("state"));
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("goal.json"), "damaged").unwrap();
    let file = File::create(log).unwrap();
    let found = file.metadata().unwrap();
    let mut command = command(more);
    command.args(["--goal", &format!("file://{}", goal.display()), "--app", "web"]);
    command.args([
        "--seeder",
        "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo",
    ]);
    command.arg("--state").arg(&state).env("SHOAL_GAOL", "a warning");
    if journal {
        command.env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino()));
    } else {
        command.env("JOURNAL_STREAM", "1:1");
    }
    let status = command.stderr(Stdio::from(file)).status().unwrap();
    assert_eq!(status.code(), Some(1));
    fs::read_to_string(log).unwrap()
}

#[test]
fn log_fits_who_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let said = log_of(&log, &["--log", "json"], false);
    let line: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "WARN");
    assert!(line["message"].as_str().unwrap().contains("SHOAL_GAOL"), "{line}");
    let said = log_of(&log, &[], false);
    assert!(said.starts_with("20") && !said.contains('\u{1b}'), "a time and no colours: {said}");
    let said = log_of(&log, &[], true);
    assert!(said.trim_start().starts_with("WARN"), "the journal has its own times: {said}");
}

#[test]
fn doctor_finds_what_is_wrong_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let goal = folder.path().join("goal");
    let seeder =
        "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";
    let state = folder.path().join("state");
    let flags = [
        "doctor",
        "--state",
        state.to_str().unwrap(),
        "--goal",
        &format!("file://{}", goal.display()),
        "--seeder",
        seeder,
        "--app",
        "web",
        "--exec",
        "./run",
        "--set",
        "apps.web.user=no-such-user",
    ];
    let output = command(&flags).output().unwrap();
    check(
        &output,
        1,
        &["PROBLEM  seeder", "PROBLEM  goal", "there is no user no-such-user", "-> "],
    );
    let json = command(&[&flags[..], &["--json"]].concat()).output().unwrap();
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&json.stdout).unwrap();
    let checked = |check: &str| findings.iter().any(|finding| finding["check"] == check);
    for check in ["agent", "clock", "disk", "files", "buffers", "listen", "seeder", "goal", "user"]
    {
        assert!(checked(check), "{check} is missing in {findings:?}");
    }
    assert!(!state.exists(), "a look changes nothing");
}

/// Waits for a message to the service manager that has `part` in it.
fn expect(manager: &std::os::unix::net::UnixDatagram, part: &str) {
    let mut bytes = [0; 4096];
    loop {
        let length = manager.recv(&mut bytes).unwrap();
        if text(&bytes[..length]).contains(part) {
            return;
        }
    }
}

#[test]
fn service_manager_is_shown_how_the_agent_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    // Only reached if the agent says nothing.
    manager.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let goal = format!("file://{}", folder.path().join("goal").display());
    let seeder =
        "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";
    let mut agent = command(&["run", "--app", "web", "--goal", &goal, "--seeder", seeder])
        .args(["--listen", "127.0.0.1:0", "--state"])
        .arg(folder.path().join("state"))
        .env("NOTIFY_SOCKET", &path)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&agent);
    // In any order: a task of its own shows the status.
    let (mut is_ready, mut is_shown) = (false, false);
    while !(is_ready && is_shown) {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).unwrap();
        let said = text(&bytes[..length]);
        is_ready |= said.contains("READY=1");
        is_shown |= said.contains("STATUS=web: no-goal");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    expect(&manager, "RELOADING=1");
    expect(&manager, "READY=1");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    expect(&manager, "STOPPING=1");
    assert_eq!(agent.wait().unwrap().code(), Some(0));
}
