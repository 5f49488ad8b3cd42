//! Builds that fail where there is nothing to go back to, programs that fail after they were good,
//! and what brings a failed build back: a new deploy, and nothing else.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use goal_state::{HostLimit, HostPhase, HostStatus, SwitchTime, TroubleKind, WaitReason, now_ms};
use node_agent::brain::Swap;
use node_agent::host::{AfterGood, Health, Hook, Hooks, Probe};
use node_agent::state::{Journal, JournalPhase};
use p2p_core::BuildId;

use crate::app::rig::{Host, Running, is_alive, process};
use crate::rig::within;

fn hook(name: &str) -> Hook {
    Hook { exec: vec![format!("./{name}")], user: None, timeout: Duration::from_mins(1) }
}

fn start(host: &mut Host, first: BuildId) -> Running {
    let running = host.start(3);
    host.set_goal(first);
    host.source.permit(1);
    running
}

/// A file of the app's folder, which scripts of builds see as `../../NAME`.
fn flag(host: &Host, name: &str) -> std::path::PathBuf {
    host.directory().path().join(name)
}

fn is_failed(build: BuildId) -> impl Fn(&HostStatus) -> bool {
    move |row| row.phase == HostPhase::Failed && row.quarantined == Some(build)
}

/// Goal: a first build whose hook exits 3 is not started, by no agent, and not called good; a
/// deploy of it after that tries it again, hooks included.
#[tokio::test]
async fn first_build_whose_hook_fails_is_not_started() {
    for name in ["before_switch", "after_switch"] {
        let mut host = Host::with_program();
        let notebook = host.notebook();
        let run = format!("{}; exec sleep 60", notebook.note("started"));
        let check = "test -e ../../mended && exit 0; echo no disk; exit 3";
        let build = host.build_of("1", &[("run", &run), ("check", check)]);
        host.settings.app.hooks = match name {
            "before_switch" => Hooks { before_switch: Some(hook("check")), ..Hooks::default() },
            _ => Hooks { after_switch: Some(hook("check")), ..Hooks::default() },
        };
        let running = start(&mut host, build);
        let row = running.row(is_failed(build)).await;
        let message = row.message.unwrap();
        for part in [name, "exit code 3", "not tried again until another deploy"] {
            assert!(message.contains(part), "{part} in {message}");
        }
        assert_eq!((row.current, row.elapsed_ms), (None, None), "{name}");
        assert!(row.failure.unwrap().contains("exit code 3"));
        assert_eq!(running.explain().await.answer().first_trouble(), Some(TroubleKind::Quarantine));
        running.kill().await;

        // The next agent does not try it either.
        let running = host.start(3);
        running.row(is_failed(build)).await;
        running.explain().await;
        assert_eq!(notebook.lines(), Vec::<String>::new(), "{name}");
        assert_ne!(host.journal().phase, JournalPhase::Good);

        fs::write(flag(&host, "mended"), "").unwrap();
        host.set_goal(build);
        let row = running.good(build).await;
        assert_eq!((row.quarantined, row.message), (None, None));
        assert_eq!(notebook.lines(), ["started"]);
        running.stop().await;
    }
}

/// Goal: the same for an app that has no program to start: the switch is not noted as good.
#[tokio::test]
async fn first_build_of_an_app_without_a_program_fails_with_its_hook() {
    let mut host = Host::with_program();
    host.settings.app.exec = None;
    host.settings.app.hooks = Hooks { after_switch: Some(hook("check")), ..Hooks::default() };
    let build = host.build_of("1", &[("check", "exit 3")]);
    let running = start(&mut host, build);
    let row = running.row(is_failed(build)).await;
    assert_eq!((row.current, row.elapsed_ms), (None, None));
    running.stop().await;
}

/// Goal: a first build that crashes counts as failed on this host, and is tried on until what it
/// needs is there; then it is good, and nothing is held against it.
#[tokio::test]
async fn first_build_that_crashes_is_failed_and_tried_on() {
    let mut host = Host::with_program();
    host.timings().settle_after = Duration::from_millis(200);
    let build =
        host.build("1", "test -e ../../database && exec sleep 60; echo no database; exit 4");
    let running = start(&mut host, build);
    let tries = host.settings.app.health.tries.get();
    let is_tried_on = |row: &HostStatus| is_failed(build)(row) && row.restarts > tries + 1;
    let row = running.row(is_tried_on).await;
    assert_eq!(row.current, Some(build));
    let message = row.message.unwrap();
    assert!(message.contains("started again and again"), "{message}");
    assert_eq!(row.last_output.as_deref(), Some("no database"));
    assert_eq!(running.explain().await.answer().first_trouble(), Some(TroubleKind::Quarantine));
    fs::write(flag(&host, "database"), "").unwrap();
    let row = running.good(build).await;
    assert_eq!((row.quarantined, host.journal().failed), (None, None));
    running.stop().await;
}

/// A host whose program is healthy while there is no file `sick`.
fn probed_host() -> Host {
    let mut host = Host::with_program();
    host.settings.app.health = Health {
        probe: Some(Probe::Command { exec: vec!["./check".into()] }),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(20),
        min_healthy_time: Duration::from_millis(100),
        deadline: Duration::from_hours(1),
        ..Health::default()
    };
    // A good program is asked every ten seconds: too seldom for a test.
    host
}

const CHECK: &str = "test ! -e ../../sick && exit 0; echo no answer; exit 1";

/// Goal: a program that fails its probe after it was good is started again, and counted.
#[tokio::test]
async fn program_that_fails_after_it_was_good_is_restarted() {
    let mut host = probed_host();
    // A start mends it.
    let build = host.build_of("1", &[("run", "rm -f ../../sick; exec sleep 60"), ("check", CHECK)]);
    let running = start(&mut host, build);
    let old = process(&running.good(build).await);
    fs::write(flag(&host, "sick"), "").unwrap();
    let is_again = |row: &HostStatus| {
        row.phase == HostPhase::Running && row.pid.is_some_and(|pid| pid != old.pid)
    };
    let row = running.row(is_again).await;
    assert_eq!((row.restarts, row.quarantined), (1, None));
    assert!(!is_alive(&old));
    running.stop().await;
}

/// Goal: with `after_good = "report"` it is only reported; and while its probe fails, nothing is
/// noted as good: not even that a new goal asks for the build that runs.
#[tokio::test]
async fn program_that_is_only_reported_runs_on_and_is_not_called_good() {
    let mut host = probed_host();
    host.settings.app.health.after_good = AfterGood::Report;
    let build = host.build_of("1", &[("run", "exec sleep 60"), ("check", CHECK)]);
    let running = start(&mut host, build);
    let old = process(&running.good(build).await);
    fs::write(flag(&host, "sick"), "").unwrap();
    let row = running.row(|row| row.phase == HostPhase::Failed).await;
    assert_eq!((row.healthy, row.quarantined), (Some(false), None));
    host.set_goal(build);
    running.row(|row| row.generation == Some(2) && row.phase == HostPhase::Failed).await;
    running.explain().await;
    assert_eq!(host.journal().generation, 1, "the new goal was noted as reached");
    fs::remove_file(flag(&host, "sick")).unwrap();
    let row = running.row(|row| row.elapsed_ms.is_some() && row.generation == Some(2)).await;
    assert_eq!((row.phase, process(&row), row.restarts), (HostPhase::Running, old, 0));
    assert_eq!(host.journal().generation, 2);
    running.stop().await;
}

/// Goal: an agent that takes over a program which hangs does not call its build good.
#[tokio::test]
async fn program_that_hangs_is_not_called_good_by_the_next_agent() {
    let mut host = probed_host();
    host.settings.app.health.after_good = AfterGood::Report;
    let build = host.build_of("1", &[("run", "exec sleep 60"), ("check", CHECK)]);
    fs::write(flag(&host, "sick"), "").unwrap();
    let running = start(&mut host, build);
    running.row(|row| row.pid.is_some()).await;
    running.kill().await;
    let running = host.start(3);
    running.row(|row| row.healthy == Some(false)).await;
    running.explain().await;
    assert_eq!(host.journal().phase, JournalPhase::Switching);
    fs::remove_file(flag(&host, "sick")).unwrap();
    running.good(build).await;
    running.stop().await;
}

/// Goal: a candidate that answers and fails before it is good is given up, and the program that
/// serves notices nothing: it stays until the new one is good.
#[tokio::test]
async fn candidate_that_fails_after_it_was_ready_leaves_the_old_program_alone() {
    let mut host = probed_host();
    host.settings.app.swap = Swap::Overlap;
    let notebook = host.notebook();
    let run = |version: &str| {
        let note = |word: &str| notebook.note(&format!("{word} {version}"));
        let (stopped, started) = (note("stopped"), note("started"));
        format!("trap '{stopped}; exit' TERM\n{started}\nwhile :; do sleep 60 & wait; done")
    };
    // The second one answers its first probe only.
    let (one, two) = (run("1"), run("2"));
    let first = host.build_of("1", &[("run", &one), ("check", "exit 0")]);
    let check = "test -e ../../asked && exit 1; touch ../../asked";
    let second = host.build_of("2", &[("run", &two), ("check", check)]);
    let running = start(&mut host, first);
    let old = process(&running.good(first).await);
    host.settings.app.health.deadline = Duration::from_millis(800);
    running.order(node_agent::app::AppOrder::Settings(Box::new(host.settings.clone()))).await;
    host.set_goal(second);
    host.source.permit(1);
    let row = running.phase(HostPhase::RolledBack).await;
    assert_eq!((row.current, row.quarantined), (Some(first), Some(second)));
    assert!(is_alive(&old) && row.pid == Some(old.pid));
    assert!(flag(&host, "asked").exists(), "it was never ready");
    assert_eq!(notebook.wait_for(3).await, ["started 1", "started 2", "stopped 2"]);
    running.stop().await;
}

/// Goal: nothing but a deploy of it brings back a build that failed: no restart, no wider rollout,
/// no rollback to it.
#[tokio::test]
async fn failed_build_comes_back_by_a_new_deploy_only() {
    let mut host = Host::with_program();
    let notebook = host.notebook();
    let started = |version: &str| notebook.note(&format!("started {version}"));
    let good = |version: &str| format!("{}; exec sleep 60", started(version));
    let first = host.build("1", &good("1"));
    let bad = host.build("2", &format!("{}; exit 3", started("2")));
    let worse = host.build("3", &format!("{}; exit 3", started("3")));
    let running = start(&mut host, first);
    running.good(first).await;
    for build in [bad, worse] {
        host.set_goal(build);
        host.source.permit(1);
        running.row(|row| row.quarantined == Some(build)).await;
    }
    let tried = |version: &str| {
        let line = format!("started {version}");
        notebook.lines().iter().filter(|noted| **noted == line).count()
    };
    let (tried_bad, tried_worse) = (tried("2"), tried("3"));
    let pid = running.row(|row| row.phase == HostPhase::RolledBack).await.pid;

    // A restart of everything, under the deploy of the worse one (generation 3).
    host.rollout.deployed = 3;
    host.rollout.restart = 4;
    host.set_goal(worse);
    let is_restarted = |row: &HostStatus| {
        row.generation == Some(4) && row.phase == HostPhase::RolledBack && row.pid != pid
    };
    let row = running.row(|row| is_restarted(row) && row.pid.is_some()).await;
    assert_eq!((row.current, row.quarantined), (Some(first), Some(worse)));
    // A rollback to the bad one, which generation 2 deployed.
    host.rollout.deployed = 2;
    host.set_goal(bad);
    let row = running.row(|row| row.generation == Some(5)).await;
    assert_eq!((row.phase, row.quarantined), (HostPhase::RolledBack, Some(bad)));
    assert!(row.message.unwrap().contains("not tried again until another deploy"));
    running.explain().await;
    assert_eq!((tried("2"), tried("3")), (tried_bad, tried_worse));

    // It was not kept on disk, and is fetched again.
    host.rollout.deployed = 6;
    host.set_goal(bad);
    host.source.permit(1);
    let is_tried = |row: &HostStatus| row.generation == Some(6) && row.quarantined == Some(bad);
    running.row(is_tried).await;
    let more = tried_bad + usize::try_from(host.settings.app.health.tries.get()).unwrap();
    assert_eq!(notebook.lines().iter().filter(|line| *line == "started 2").count(), more);
    running.stop().await;
}

/// Goal: a halted or staged build is started on no host, not even where nothing runs; a switch that
/// has begun is finished; at its time it begins by itself.
#[tokio::test]
async fn build_that_is_withheld_is_downloaded_and_not_started() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    host.rollout.switch = SwitchTime::OnOrder;
    let running = start(&mut host, first);
    let row = running.row(|row| row.phase == HostPhase::Waiting).await;
    assert_eq!((row.current, row.waiting_for), (None, Some(WaitReason::Stage)));
    host.rollout.switch = SwitchTime::Now;
    host.rollout.halted = Some(goal_state::Halted::new(1, "ann", "3 hosts failed"));
    host.set_goal(first);
    let row = running.row(|row| row.waiting_for == Some(WaitReason::Halt)).await;
    assert_eq!(row.current, None);
    assert!(row.message.unwrap().contains("3 hosts failed"));
    let answer = running.explain().await.answer();
    assert!(answer.to_string().contains("3 hosts failed"), "{answer}");
    host.rollout.halted = None;
    host.set_goal(first);
    running.good(first).await;

    host.rollout.switch = SwitchTime::At(now_ms() + 1_500);
    host.set_goal(second);
    host.source.permit(1);
    let row = running.row(|row| row.phase == HostPhase::Waiting).await;
    assert_eq!((row.current, row.waiting_for), (Some(first), Some(WaitReason::Stage)));
    // Long before the next look at everything.
    running.good(second).await;
    running.stop().await;
}

/// Goal: a halted rollout keeps nobody from restarting what runs.
#[tokio::test]
async fn halted_rollout_does_not_keep_what_runs_from_being_restarted() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    let running = start(&mut host, first);
    let old = process(&running.good(first).await);
    host.rollout.halted = Some(goal_state::Halted::new(1, "ann", "3 hosts failed"));
    host.rollout.restart = 2;
    host.set_goal(second);
    host.source.permit(1);
    let row = running.row(|row| row.pid.is_some_and(|pid| pid != old.pid)).await;
    assert_eq!(row.current, Some(first));
    running.row(|row| row.waiting_for == Some(WaitReason::Halt)).await;
    running.stop().await;
}

/// Goal: where the old program serves until the new one is good, only a limit that somebody asked
/// for needs a token; where it stops first, Shoal's own limit holds.
#[tokio::test]
async fn overlap_needs_a_token_only_if_somebody_asked_for_a_limit() {
    let two = HostLimit::AtMost("2".parse().unwrap());
    let cases = [
        (Swap::Overlap, HostLimit::Unset, None),
        (Swap::Overlap, two, Some("ask 2 of 2")),
        (Swap::Overlap, HostLimit::None, None),
        (Swap::Stop, HostLimit::Unset, Some("ask 25% of 2")),
        (Swap::Stop, HostLimit::None, None),
    ];
    for (swap, limit, expected) in cases {
        let mut host = Host::with_program();
        host.settings.app.swap = swap;
        let (first, second) = (host.patient_build("1"), host.patient_build("2"));
        host.rollout.max_unavailable = HostLimit::None;
        let running = start(&mut host, first);
        running.good(first).await;
        host.rollout.max_unavailable = limit;
        host.set_goal(second);
        host.source.permit(1);
        running.good(second).await;
        let events = host.tokens.events();
        assert_eq!(events.first().map(String::as_str), expected, "{swap:?} {limit:?}");
        running.stop().await;
    }
}

/// Goal: a pin on this host is an order of its own: it tries what failed once more, and no more
/// often.
#[tokio::test]
async fn pin_tries_a_build_that_failed_once_more() {
    let mut host = Host::with_program();
    let (first, bad) = (host.patient_build("1"), host.build("2", "exit 3"));
    let running = start(&mut host, first);
    running.good(first).await;
    host.set_goal(bad);
    host.source.permit(1);
    running.row(|row| row.quarantined == Some(bad)).await;
    let failed_when_pinned = |journal: Journal| journal.failed.is_some_and(|failed| failed.pinned);
    assert!(!failed_when_pinned(host.journal()));
    host.settings.app.pin = Some(bad);
    running.order(node_agent::app::AppOrder::Settings(Box::new(host.settings.clone()))).await;
    host.source.permit(1);
    let is_noted = async {
        while !failed_when_pinned(host.journal()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(is_noted).await;
    let is_back =
        |row: &HostStatus| row.phase == HostPhase::RolledBack && row.quarantined == Some(bad);
    let row = running.row(is_back).await;
    assert_eq!(row.current, Some(first));
    let switches = host.journal();
    running.explain().await;
    assert_eq!(host.journal(), switches);
    running.stop().await;
}

/// Goal: a goal that arrives in any moment in which the loop looks at it stops neither of them.
/// Method: goals without end while the loop explains itself; where it looked twice at once, one of
/// the two waited for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goals_that_arrive_while_the_loop_looks_at_them_stop_nobody() {
    let host = Host::with_program();
    let running = host.start(2);
    let (goal, stop) = (host.goal.clone(), Arc::new(AtomicBool::new(false)));
    let told = Arc::clone(&stop);
    let writer = std::thread::spawn(move || {
        while !told.load(Ordering::Relaxed) {
            goal.send_modify(|view| view.has_answered = !view.has_answered);
        }
    });
    for _ in 0..500 {
        running.explain().await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    running.stop().await;
}
