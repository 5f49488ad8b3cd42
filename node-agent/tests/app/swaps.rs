//! How programs of an app take each other's place: overlap, hooks, orders to restart, tokens,
//! watched files; and what the loop answers when it is asked why.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use goal_state::{HostPhase, HostStatus, Rollout, TroubleKind, WaitReason};
use node_agent::app::{AppOrder, AppSettings};
use node_agent::brain::Swap;
use node_agent::host::{Health, Hook, Hooks, OnChange, Probe, WatchedFiles};
use node_agent::process::ProcessIdentity;
use p2p_core::BuildId;

use crate::app::rig::{Host, Notebook, Running, is_alive, process};
use crate::rig::{gone, within};

#[expect(clippy::unnecessary_wraps, reason = "as it is in the settings")]
fn hook(exec: &[&str]) -> Option<Hook> {
    let exec = exec.iter().copied().map(String::from).collect();
    Some(Hook { exec, user: None, timeout: Duration::from_mins(1) })
}

/// A program that notes its start, its reloads and its end, with the version that it runs.
fn talking(notebook: &Notebook, version: &str) -> String {
    let note = |word: &str| notebook.note(&format!("{word} {version}"));
    format!(
        "trap '{}; exit' TERM\ntrap '{}' HUP\n{}\nwhile :; do sleep 60 & wait; done",
        note("stopped"),
        note("reloaded"),
        note("started")
    )
}

/// A build whose program talks and whose hook `name`, for each name, notes that it ran.
fn talking_build(host: &Host, version: &str) -> BuildId {
    let notebook = host.notebook();
    let run = talking(&notebook, version);
    let hook = notebook.note(&format!("$SHOAL_HOOK {version}"));
    host.build_of(version, &[("run", &run), ("hook", &hook)])
}

async fn settings(running: &Running, settings: &AppSettings) {
    running.order(AppOrder::Settings(Box::new(settings.clone()))).await;
}

async fn start_with(host: &mut Host, first: BuildId) -> (Running, ProcessIdentity) {
    let running = host.start(3);
    host.set_goal(first);
    host.source.permit(1);
    let row = running.good(first).await;
    let program = process(&row);
    (running, program)
}

/// Goal: an agent that is replaced leaves program and token to the next one, and no hook: that runs
/// again.
#[tokio::test]
async fn hook_ends_with_a_loop_that_lets_go_and_runs_again_with_the_next() {
    let mut host = Host::with_program();
    host.rollout.max_unavailable = "2".parse().unwrap();
    let notebook = host.notebook();
    let first = talking_build(&host, "1");
    let waits =
        format!("{}; while [ ! -e ../../go ]; do sleep 0.02; done", notebook.note("hook $$"));
    let run = talking(&notebook, "2");
    let second = host.build_of("2", &[("run", &run), ("hook", &waits)]);
    let (running, program) = start_with(&mut host, first).await;
    settings_with_hook(&mut host, &running).await;
    host.set_goal(second);
    host.source.permit(1);
    let lines = notebook.wait_for(2).await;
    let pid = lines[1].strip_prefix("hook ").unwrap().parse().unwrap();
    let hook = ProcessIdentity::of(pid).unwrap();
    running.let_go().await;
    gone(&hook).await;
    assert!(is_alive(&program));
    assert_eq!(host.tokens.events().last().unwrap(), "ask 2 of 2", "the token was returned");

    let running = host.start(3);
    let lines = notebook.wait_for(3).await;
    assert!(lines[2].starts_with("hook ") && lines[2] != lines[1], "{lines:?}");
    fs::write(host.directory().path().join("go"), "").unwrap();
    running.good(second).await;
    assert!(!is_alive(&program));
    running.stop().await;
}

async fn settings_with_hook(host: &mut Host, running: &Running) {
    host.settings.app.hooks = Hooks { before_switch: hook(&["./hook"]), ..Hooks::default() };
    settings(running, &host.settings).await;
}

/// Goal: a candidate that never gets ready is given up and reported, and the program that serves
/// notices nothing of it.
#[tokio::test]
async fn candidate_that_never_gets_ready_leaves_the_old_program_alone() {
    let mut host = Host::with_program();
    let notebook = host.notebook();
    let build = |version: &str, check: &str| {
        host.build_of(version, &[("run", &talking(&notebook, version)), ("check", check)])
    };
    let (first, second) = (build("1", "exit 0"), build("2", "echo no database; exit 1"));
    host.settings.app.swap = Swap::Overlap;
    let exec = vec!["./check".to_owned()];
    host.settings.app.health = Health {
        probe: Some(Probe::Command { exec }),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(20),
        min_healthy_time: Duration::ZERO,
        deadline: Duration::from_hours(1),
        ..Health::default()
    };
    let (running, old) = start_with(&mut host, first).await;
    // Only the build that is never ready is to meet it, however slow the machine is.
    host.settings.app.health.deadline = Duration::from_millis(500);
    settings(&running, &host.settings).await;
    host.set_goal(second);
    host.source.permit(1);
    running.row(|row| row.phase == HostPhase::Checking && row.current == Some(second)).await;
    let answer = running.explain().await.answer();
    assert_eq!((answer.phase, answer.is_at_goal), (HostPhase::Checking, false));
    assert!(answer.reasons[0].text.contains("is being checked"), "{answer}");
    let row = running.phase(HostPhase::RolledBack).await;
    let message = row.message.clone().unwrap();
    assert!(message.contains("not healthy within 500ms"), "{message}");
    assert!(message.contains("no database"), "{message}");
    assert_eq!((row.current, process(&row)), (Some(first), old.clone()));
    assert_eq!(host.current_version(), "1");
    let answer = running.explain().await.answer();
    assert_eq!(answer.first_trouble(), Some(TroubleKind::Quarantine));
    assert!(answer.to_string().contains("no database"), "{answer}");
    let lines = notebook.wait_for(3).await;
    assert_eq!(lines, ["started 1", "started 2", "stopped 2"]);
    running.stop().await;
}

/// Goal: a build that cannot start costs no outage: nothing of the old one is touched.
/// Method: each build lacks something else, after one that is good. No hook runs if none can help.
#[tokio::test]
async fn build_that_cannot_start_is_given_up_before_anything_is_touched() {
    let mut host = Host::with_program();
    host.settings.app.hooks = Hooks { before_switch: hook(&["./hook"]), ..Hooks::default() };
    let notebook = host.notebook();
    let first = talking_build(&host, "1");
    let (running, old) = start_with(&mut host, first).await;
    let before = notebook.lines();
    let note = format!("#!/bin/sh\n{}\n", notebook.note("a hook ran"));
    let cases = [
        ("missing", vec![("hook", "#!/bin/sh\n")], "run cannot start: the build has no such file"),
        ("windows", vec![("run", "#!/bin/sh\r\necho\r\n"), ("hook", &note)], "carriage return"),
        (
            "env",
            vec![("hook", "#!/bin/sh\n"), ("run", "#!/usr/bin/env nosuch\n")],
            "run cannot start: its first line asks for the interpreter `nosuch`, which is not in \
             PATH (",
        ),
        (
            "hookless",
            vec![("run", "#!/bin/sh\nsleep 60\n")],
            "hook, the command for before_switch, cannot start: the build has no such file",
        ),
    ];
    for (name, scripts, expected) in cases {
        let build = host.build_as_they_are(name, &scripts);
        host.set_goal(build);
        host.source.permit(1);
        let row = running.row(|row| row.quarantined == Some(build)).await;
        let message = row.message.clone().unwrap();
        assert!(message.contains(expected), "{name}: {message}");
        assert!(message.contains(", the old program was not touched"), "{message}");
        assert_eq!((row.current, process(&row)), (Some(first), old.clone()), "{name}");
        assert_eq!(host.journal().to, first, "nothing was switched");
    }
    assert_eq!(notebook.lines(), before);
    running.stop().await;
}

/// Goal: what only the host lacks postpones the switch until the host has it, without another
/// deploy.
/// Method: the program is one of the host, and is put there once the switch waits for it.
#[tokio::test]
async fn switch_waits_for_what_the_host_lacks() {
    let mut host = Host::with_program();
    let program = host.folder.path().join("tool");
    host.settings.app.exec = Some(vec![program.to_str().unwrap().into()]);
    let build = host.patient_build("1");
    let running = host.start(3);
    host.set_goal(build);
    host.source.permit(1);
    let row = running.phase(HostPhase::Failed).await;
    let message = row.message.clone().unwrap();
    assert!(message.contains("cannot switch to build"), "{message}");
    assert!(message.contains("there is no file"), "{message}");
    assert_eq!((row.current, row.quarantined), (None, None));
    fs::write(&program, "#!/bin/sh\nexec sleep 60\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    running.good(build).await;
    running.stop().await;
}

/// Goal: a switch does not wait for what its own hook brings.
#[tokio::test]
async fn hook_brings_the_program_that_its_switch_needs() {
    let mut host = Host::with_program();
    let program = host.folder.path().join("tool");
    let program = program.to_str().unwrap();
    host.settings.app.exec = Some(vec![program.into()]);
    host.settings.app.hooks = Hooks { before_switch: hook(&["./hook"]), ..Hooks::default() };
    let bring = format!(
        "printf '#!/bin/sh\\nexec sleep 60\\n' > {program}.new; chmod +x {program}.new; \
         mv {program}.new {program}"
    );
    let build = host.build_of("1", &[("hook", &bring)]);
    let (running, _) = start_with(&mut host, build).await;
    running.stop().await;
}

/// Goal: a build whose files somebody changed before the switch is fetched again, not blamed.
#[tokio::test]
async fn build_that_was_damaged_before_its_switch_is_not_given_up() {
    let mut host = Host::with_program();
    host.settings.app.hold = true;
    let build = host.patient_build("1");
    let running = host.start(3);
    host.set_goal(build);
    host.source.permit(1);
    running.phase(HostPhase::Waiting).await;
    let root = host.directory().path().join("builds").join(build.to_string());
    fs::remove_file(root.join("run")).unwrap();
    host.source.permit(1);
    host.settings.app.hold = false;
    settings(&running, &host.settings).await;
    running.good(build).await;
    running.stop().await;
}

/// Goal: a build that cannot start is blamed for what it lacks, whatever failed before it.
/// Method: the first build never gets healthy, and there is none to go back to.
#[tokio::test]
async fn build_that_cannot_start_is_not_blamed_for_another() {
    let mut host = Host::with_program();
    host.settings.app.health.probe = Some(Probe::Command { exec: vec!["false".into()] });
    host.settings.app.health.deadline = Duration::from_millis(300);
    let first = host.patient_build("1");
    let second = host.build_as_they_are("2", &[("run", "#!/bin/sh\r\n")]);
    let running = host.start(3);
    for (build, expected) in [(first, "healthy"), (second, "carriage return"), (first, "healthy")] {
        host.set_goal(build);
        host.source.permit(1);
        let row = running.row(|row| row.quarantined == Some(build)).await;
        let failure = row.failure.unwrap();
        assert!(failure.contains(expected), "{failure}");
        assert_eq!(row.last_output, None);
    }
    running.stop().await;
}

#[tokio::test]
async fn before_switch_that_fails_keeps_everything_as_it_was() {
    let mut host = Host::with_program();
    let notebook = host.notebook();
    let build = |version: &str, before: &str| {
        host.build_of(version, &[("run", &talking(&notebook, version)), ("before", before)])
    };
    let (first, second) = (build("1", "true"), build("2", "echo no compiler here; exit 7"));
    host.settings.app.hooks = Hooks { before_switch: hook(&["./before"]), ..Hooks::default() };
    let (running, old) = start_with(&mut host, first).await;
    host.set_goal(second);
    host.source.permit(1);
    let row = running.phase(HostPhase::RolledBack).await;
    let message = row.message.clone().unwrap();
    for part in ["hook before_switch", "exit code 7", "no compiler here", "another deploy"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!((row.current, row.quarantined, process(&row)), (Some(first), Some(second), old));
    assert_eq!(host.journal().to, first, "nothing was switched");
    assert_eq!(notebook.lines(), ["started 1"]);
    assert_eq!(running.explain().await.answer().first_trouble(), Some(TroubleKind::Quarantine));
    running.stop().await;
}

#[tokio::test]
async fn after_switch_that_fails_is_rolled_back_and_its_program_never_starts() {
    let mut host = Host::with_program();
    let notebook = host.notebook();
    let build = |version: &str, after: &str| {
        let back = notebook.note("$SHOAL_HOOK $SHOAL_BUILD");
        host.build_of(
            version,
            &[("run", &talking(&notebook, version)), ("after", after), ("back", &back)],
        )
    };
    let (first, second) = (build("1", "true"), build("2", "echo cache is cold; exit 9"));
    host.settings.app.hooks = Hooks {
        after_switch: hook(&["./after"]),
        after_rollback: hook(&["./back"]),
        ..Hooks::default()
    };
    let (running, old) = start_with(&mut host, first).await;
    host.set_goal(second);
    host.source.permit(1);
    let row = running.phase(HostPhase::RolledBack).await;
    let message = row.message.clone().unwrap();
    assert!(
        message.contains("hook after_switch") && message.contains("cache is cold"),
        "{message}"
    );
    assert_eq!((row.current, process(&row)), (Some(first), old));
    assert_eq!(host.current_version(), "1");
    let lines = notebook.wait_for(2).await;
    assert_eq!(lines, ["started 1".to_owned(), format!("after_rollback {first}")]);
    running.stop().await;
}

/// A host with a load balancer, which is in it with a first build; and a second build.
async fn start_balanced() -> (Host, Running, BuildId) {
    let mut host = Host::with_program();
    let (first, second) = (talking_build(&host, "1"), talking_build(&host, "2"));
    host.settings.app.hooks =
        Hooks { drain: hook(&["./hook"]), undrain: hook(&["./hook"]), ..Hooks::default() };
    let (running, _) = start_with(&mut host, first).await;
    // An agent that starts does not know whether an earlier one drained the host.
    assert_eq!(host.notebook().wait_for(2).await, ["started 1", "undrain 1"]);
    (host, running, second)
}

/// Goal: a host is out of its load balancer exactly while its program does not serve.
#[tokio::test]
async fn host_is_drained_before_the_stop_and_back_once_the_new_program_is_ready() {
    let (mut host, running, second) = start_balanced().await;
    let notebook = host.notebook();
    host.set_goal(second);
    host.source.permit(1);
    running.good(second).await;
    let lines = notebook.wait_for(6).await;
    assert_eq!(lines[2..], ["drain 1", "stopped 1", "started 2", "undrain 2"]);
    running.stop().await;
    assert_eq!(notebook.lines()[6..], ["drain 2", "stopped 2"]);
}

/// Goal: where the program itself brings the host back, each program is drained before its stop.
#[tokio::test]
async fn program_is_drained_again_where_no_command_undrains() {
    let mut host = Host::with_program();
    let build = talking_build(&host, "1");
    host.settings.app.hooks = Hooks { drain: hook(&["./hook"]), ..Hooks::default() };
    let (running, _) = start_with(&mut host, build).await;
    let notebook = host.notebook();
    for lines in [4, 7] {
        running.order(AppOrder::Restart).await;
        let lines = notebook.wait_for(lines).await;
        assert_eq!(lines[lines.len() - 3..], ["drain 1", "stopped 1", "started 1"]);
    }
    running.stop().await;
    assert_eq!(notebook.lines()[7..], ["drain 1", "stopped 1"]);
}

/// Goal: a host that is perhaps in its load balancer is drained: by the time that a hook is ended
/// before its end, what it is there for may be done.
#[tokio::test]
async fn host_that_is_stopped_while_it_is_undrained_is_drained() {
    let mut host = Host::with_program();
    let notebook = host.notebook();
    let (run, drain) = (talking(&notebook, "1"), notebook.note("drain"));
    let undrain = format!("{}\nexec sleep 600", notebook.note("undrain"));
    let build = host.build_of("1", &[("run", &run), ("drain", &drain), ("undrain", &undrain)]);
    host.settings.app.hooks =
        Hooks { drain: hook(&["./drain"]), undrain: hook(&["./undrain"]), ..Hooks::default() };
    let (running, _) = start_with(&mut host, build).await;
    assert_eq!(notebook.wait_for(2).await, ["started 1", "undrain"]);
    running.stop().await;
    assert_eq!(notebook.lines()[2..], ["drain", "stopped 1"]);
}

/// Goal: an agent that starts drains a host that an earlier agent has brought back.
#[tokio::test]
async fn new_agent_drains_the_program_that_it_takes_over() {
    let (mut host, running, second) = start_balanced().await;
    let notebook = host.notebook();
    host.settings.app.hold = true;
    settings(&running, &host.settings).await;
    host.set_goal(second);
    host.source.permit(1);
    running.row(|row| row.waiting_for == Some(WaitReason::Hold)).await;
    running.kill().await;
    host.settings.app.hold = false;
    let running = host.start(3);
    running.good(second).await;
    let lines = notebook.wait_for(6).await;
    let stopped = lines.iter().position(|line| line == "stopped 1").unwrap();
    assert_eq!(lines[stopped - 1], "drain 1", "{lines:?}");
    running.stop().await;
}

#[tokio::test]
async fn drain_that_hangs_is_ended_and_reported_and_holds_nothing_up() {
    let mut host = Host::with_program();
    let notebook = host.notebook();
    let build = |version: &str| {
        let hang = format!("{}\nexec sleep 600", notebook.note("$$"));
        host.build_of(version, &[("run", "exec sleep 60"), ("drain", &hang)])
    };
    let (first, second) = (build("1"), build("2"));
    let drain = hook(&["./drain"]).map(|hook| Hook { timeout: Duration::from_millis(300), ..hook });
    host.settings.app.hooks = Hooks { drain, ..Hooks::default() };
    let (running, old) = start_with(&mut host, first).await;
    host.set_goal(second);
    host.source.permit(1);
    let row = running.good(second).await;
    let message = row.message.unwrap();
    assert!(message.contains("hook drain") && message.contains("300ms"), "{message}");
    assert!(!is_alive(&old));
    let hung = ProcessIdentity::of(notebook.lines()[0].parse().unwrap());
    assert!(hung.is_err(), "the hook was left behind: {hung:?}");
    running.stop().await;
}

/// Goal: a build that somebody damaged while its program serves can be switched away from, drained.
#[tokio::test]
async fn host_with_a_damaged_build_is_drained_by_the_next_one() {
    let mut host = Host::with_program();
    let (first, second) = (talking_build(&host, "1"), talking_build(&host, "2"));
    host.settings.app.hooks = Hooks { drain: hook(&["./hook"]), ..Hooks::default() };
    host.settings.timings.audit = Duration::from_millis(10);
    host.settings.timings.refresh = Duration::from_millis(10);
    let (running, _) = start_with(&mut host, first).await;
    let root = host.directory().path().join("builds").join(first.to_string());
    fs::remove_file(root.join("version")).unwrap();
    running.row(|row| row.message.as_ref().is_some_and(|text| text.contains("damaged"))).await;
    host.set_goal(second);
    host.source.permit(1);
    running.good(second).await;
    assert_eq!(
        host.notebook().wait_for(4).await,
        ["started 1", "drain 2", "stopped 1", "started 2"]
    );
    running.stop().await;
}

#[tokio::test]
async fn hold_and_pin_hold_at_once_and_are_explained() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    let (running, old) = start_with(&mut host, first).await;
    host.settings.app.hold = true;
    settings(&running, &host.settings).await;
    host.set_goal(second);
    host.source.permit(1);
    let row = running.row(|row| row.waiting_for == Some(WaitReason::Hold)).await;
    assert_eq!((row.phase, process(&row)), (HostPhase::Waiting, old));
    assert_eq!(running.explain().await.answer().first_trouble(), Some(TroubleKind::Hold));

    host.settings.app.hold = false;
    settings(&running, &host.settings).await;
    running.good(second).await;
    assert!(running.explain().await.answer().is_at_goal);

    host.settings.app.pin = Some(first);
    settings(&running, &host.settings).await;
    let row = running.row(|row| row.current == Some(first) && row.pid.is_some()).await;
    assert_eq!(row.target, Some(first));
    let row = running.row(|row| row.waiting_for == Some(WaitReason::Pin)).await;
    assert_eq!((row.phase, row.current), (HostPhase::Waiting, Some(first)));
    assert_eq!(running.explain().await.answer().first_trouble(), Some(TroubleKind::Pin));
    host.settings.app.pin = None;
    settings(&running, &host.settings).await;
    running.good(second).await;
    running.stop().await;
}

#[tokio::test]
async fn wave_pause_and_download_are_explained() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    let running = host.start(3);
    running.phase(HostPhase::NoGoal).await;
    assert_eq!(running.explain().await.answer().first_trouble(), Some(TroubleKind::NoGoal));
    host.set_goal(first);
    running.phase(HostPhase::Downloading).await;
    let explanation = running.explain().await;
    assert!(explanation.answer().reasons[0].text.contains("downloaded"), "{explanation:?}");
    let facts = serde_json::to_value(&explanation).unwrap();
    assert_eq!(facts["row"]["bytes_done"], 7);
    host.source.permit(2);
    running.good(first).await;

    host.rollout = Rollout { percent: 0, ..Rollout::default() };
    host.set_goal(second);
    running.row(|row| row.waiting_for == Some(WaitReason::Wave)).await;
    assert_eq!(running.explain().await.answer().first_trouble(), Some(TroubleKind::Wave));
    running.order(AppOrder::Pause { reason: Some("new rack".into()) }).await;
    running.row(|row| row.waiting_for == Some(WaitReason::Pause)).await;
    let answer = running.explain().await.answer();
    assert_eq!(answer.first_trouble(), Some(TroubleKind::Pause));
    assert!(answer.to_string().contains("(new rack)"), "{answer}");
    running.stop().await;
}

/// Goal: orders to restart reach the program, by the goal or by a person of this host, with the two
/// programs one after the other or beside each other.
#[tokio::test]
async fn orders_to_restart_start_a_new_program_of_the_same_build() {
    for swap in [Swap::Stop, Swap::Overlap] {
        let mut host = Host::with_program();
        let first = talking_build(&host, "1");
        host.settings.app.swap = swap;
        let (running, mut old) = start_with(&mut host, first).await;
        let notebook = host.notebook();
        for restart in [true, false] {
            if restart {
                host.rollout.restart = 2;
                host.set_goal(first);
            } else {
                running.order(AppOrder::Restart).await;
            }
            let is_new = |row: &HostStatus| {
                row.phase == HostPhase::Running && row.pid.is_some_and(|pid| pid != old.pid)
            };
            let row = running.row(is_new).await;
            gone(&old).await;
            assert_eq!((row.current, row.restarts), (Some(first), 0));
            old = process(&row);
        }
        let mut expected = vec!["started 1", "stopped 1", "started 1", "stopped 1", "started 1"];
        if swap == Swap::Overlap {
            expected = vec!["started 1", "started 1", "stopped 1", "started 1", "stopped 1"];
        }
        assert_eq!(notebook.wait_for(5).await, expected);
        running.stop().await;
    }
}

#[tokio::test]
async fn watched_file_that_changes_restarts_or_reloads() {
    let mut host = Host::with_program();
    let first = talking_build(&host, "1");
    let file = host.folder.path().join("web.conf");
    fs::write(&file, "a = 1").unwrap();
    host.settings.app.watch =
        WatchedFiles { files: vec![file.clone()], on_change: OnChange::Restart };
    let (running, old) = start_with(&mut host, first).await;
    fs::write(&file, "a = 2").unwrap();
    let row = running.row(|row| row.pid.is_some_and(|pid| pid != old.pid)).await;
    let new = process(&row);
    let notebook = host.notebook();
    assert_eq!(notebook.wait_for(3).await, ["started 1", "stopped 1", "started 1"]);

    host.settings.app.watch.on_change = OnChange::Reload;
    settings(&running, &host.settings).await;
    // The order is taken before the file can be noticed.
    running.explain().await;
    fs::write(&file, "a = 3").unwrap();
    assert_eq!(notebook.wait_for(4).await[3..], ["reloaded 1"]);
    assert!(is_alive(&new));
    running.stop().await;
}

/// Goal: without a token nothing of this host goes down, and the token goes back once it serves.
#[tokio::test]
async fn token_is_waited_for_and_returned() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    host.rollout.max_unavailable = "2".parse().unwrap();
    let (running, old) = start_with(&mut host, first).await;
    let desk = host.tokens.clone();
    let returned = |times: usize| {
        let tokens = desk.clone();
        within(async move {
            while tokens.events().iter().filter(|event| *event == "return").count() < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    returned(1).await;
    assert_eq!(host.tokens.events(), ["ask 2 of 1", "return"]);
    host.tokens.withhold("2 of 2 are out");
    host.set_goal(second);
    host.source.permit(1);
    let row = running.row(|row| row.waiting_for == Some(WaitReason::Token)).await;
    assert!(row.message.as_ref().unwrap().contains("2 of 2 are out"), "{row:?}");
    assert_eq!((row.phase, process(&row)), (HostPhase::Waiting, old));
    let answer = running.explain().await.answer();
    assert_eq!(answer.first_trouble(), Some(TroubleKind::Token));
    assert_eq!(host.current_version(), "1");
    host.tokens.grant();
    let new = process(&running.good(second).await);
    returned(2).await;

    // A restart takes the program down as well.
    host.tokens.withhold("2 of 2 are out");
    running.order(AppOrder::Restart).await;
    let row = running.row(|row| row.waiting_for == Some(WaitReason::Token)).await;
    assert_eq!(process(&row), new);
    host.tokens.grant();
    running
        .row(|row| row.phase == HostPhase::Running && row.pid.is_some_and(|pid| pid != new.pid))
        .await;
    running.stop().await;
}

#[tokio::test]
async fn builds_are_kept_while_they_fit() {
    let mut host = Host::with_program();
    let builds: Vec<_> = ["1", "2", "3", "4"].map(|version| host.patient_build(version)).into();
    // Room for the current one, the one before and no other.
    host.settings.app.keep_bytes = Some(1);
    let running = host.start(9);
    for build in &builds {
        host.set_goal(*build);
        host.source.permit(1);
        running.good(*build).await;
    }
    let kept: BTreeSet<_> = builds[2..].iter().copied().collect();
    let is_tidy = async {
        while host.builds_on_disk().into_iter().collect::<BTreeSet<_>>() != kept {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(is_tidy).await;
    running.stop().await;
}

/// Goal: the way back to a build that was kept needs no network and hardly any time.
#[tokio::test]
async fn rollback_to_a_kept_build_is_local_and_quick() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    let (running, _) = start_with(&mut host, first).await;
    host.set_goal(second);
    host.source.permit(1);
    running.good(second).await;
    let events = host.source.events();
    let asked_at = Instant::now();
    host.set_goal(first);
    let row = running.row(|row| row.current == Some(first) && row.pid.is_some()).await;
    // Far above what it takes, so that only waiting for something fails it.
    assert!(asked_at.elapsed() < Duration::from_secs(5), "{:?}", asked_at.elapsed());
    assert_eq!(host.current_version(), "1");
    assert!(is_alive(&process(&row)));
    assert_eq!(host.source.events(), events, "nothing was fetched");
    running.stop().await;
}
