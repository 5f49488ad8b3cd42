//! What a row tells of programs that had to be started again: of the build that `current` points
//! to, since the switch to it. What another build did is not held against it.

use std::fs;
use std::time::Duration;

use goal_state::{HostPhase, HostStatus, TroubleKind};
use node_agent::app::AppOrder;
use node_agent::brain::Swap;
use node_agent::host::{Health, Hook, Hooks, Probe};
use p2p_core::BuildId;

use crate::app::rig::{Host, Running, process};

/// An app whose builds bring the hook `after`, which runs between `current` and the program.
fn host(swap: Swap) -> Host {
    let mut host = Host::with_program();
    let after = Hook { exec: vec!["./after".into()], user: None, timeout: Duration::from_mins(1) };
    host.settings.app.hooks = Hooks { after_switch: Some(after), ..Hooks::default() };
    host.settings.app.swap = swap;
    host
}

/// Makes `new` the goal, and checks every row until it is good. Returns the rows with it.
async fn rows_of_switch(host: &mut Host, running: &Running, new: BuildId) -> Vec<HostStatus> {
    let is_good = |row: &HostStatus| {
        row.phase == HostPhase::Running && row.current == Some(new) && row.elapsed_ms.is_some()
    };
    let rows = running.rows_until(is_good);
    host.set_goal(new);
    host.source.permit(1);
    let rows = rows.await.into_iter().filter(|row| row.current == Some(new)).collect::<Vec<_>>();
    assert!(rows.len() > 1, "the rows of its hook were not seen: {rows:?}");
    rows
}

fn assert_nothing_is_held_against(rows: &[HostStatus], case: &str) {
    use TroubleKind::{Crash, RunsAgain, Unhealthy};
    for row in rows {
        let of_program = |kind: &TroubleKind| matches!(kind, Crash | RunsAgain | Unhealthy);
        assert!(!row.troubles.iter().any(of_program), "{case}: {row:?}");
        assert_eq!((row.restarts, row.healthy), (0, None), "{case}: {row:?}");
    }
}

/// Goal: a good build that follows one whose program ended again and again begins with nothing,
/// and is not halted for it. Method: the hook after the switch takes a while, in which the row has
/// the new build and the program is not started.
#[tokio::test]
async fn build_that_follows_a_crash_loop_begins_with_no_restarts() {
    for swap in [Swap::Stop, Swap::Overlap] {
        let mut host = host(swap);
        let old = host.build_of("1", &[("after", "exit 0"), ("run", "exit 3")]);
        let new = host.build_of("2", &[("after", "sleep 1"), ("run", "exec sleep 60")]);
        let running = host.start(3);
        host.set_goal(old);
        host.source.permit(1);
        running.row(|row| row.current == Some(old) && row.restarts >= 4).await;
        let rows = rows_of_switch(&mut host, &running, new).await;
        assert_nothing_is_held_against(&rows, &format!("{swap:?}"));
        running.stop().await;
    }
}

/// Goal: the same for an old program that ends after `current` has moved: during the hook, or
/// beside the new program before that has proven itself.
#[tokio::test]
async fn end_of_the_old_program_in_a_switch_is_not_the_new_one_s() {
    let end_old = "touch ../../end; sleep 1";
    for (swap, after, run) in [
        (Swap::Stop, end_old, "exec sleep 60"),
        (Swap::Overlap, end_old, "exec sleep 60"),
        (Swap::Overlap, "exit 0", "touch ../../end; exec sleep 60"),
    ] {
        let mut host = host(swap);
        host.settings.app.health.min_healthy_time = Duration::from_millis(500);
        let patient = "while ! test -e ../../end; do sleep 0.02; done; echo ended; exit 3";
        let old = host.build_of("1", &[("after", "exit 0"), ("run", patient)]);
        let new = host.build_of("2", &[("after", after), ("run", run)]);
        let running = host.start(3);
        host.set_goal(old);
        host.source.permit(1);
        running.good(old).await;
        let rows = rows_of_switch(&mut host, &running, new).await;
        assert_nothing_is_held_against(&rows, &format!("{swap:?}, {after}, {run}"));
        running.stop().await;
    }
}

/// Goal: what happens to the new build itself is counted from the first, whatever was before.
#[tokio::test]
async fn restarts_are_those_of_the_build_since_its_switch() {
    let mut host = host(Swap::Stop);
    let run = "test -e ../../again && exec sleep 60; touch ../../again; exit 3";
    let old = host.build_of("1", &[("after", "exit 0"), ("run", "exit 3")]);
    let new = host.build_of("2", &[("after", "exit 0"), ("run", run)]);
    let running = host.start(3);
    host.set_goal(old);
    host.source.permit(1);
    running.row(|row| row.current == Some(old) && row.restarts >= 4).await;
    let rows = rows_of_switch(&mut host, &running, new).await;
    let last = rows.last().unwrap();
    assert_eq!((last.restarts, last.troubles.as_slice()), (1, &[TroubleKind::RunsAgain][..]));

    // Whoever starts it anew has seen that.
    let old = process(last);
    running.order(AppOrder::Restart).await;
    let row = running.row(|row| row.pid.is_some_and(|pid| pid != old.pid)).await;
    assert_eq!((row.restarts, row.message), (0, None));
    running.stop().await;
}

/// Goal: that a new program does not answer yet is no trouble; that it never did, in all the time
/// that it had, is one.
#[tokio::test]
async fn new_program_that_does_not_answer_yet_is_not_called_unhealthy() {
    let mut host = Host::with_program();
    let check = "echo asked >> ../../asked; test -e ../../up && exit 0; echo not up; exit 1";
    host.settings.app.health = Health {
        probe: Some(Probe::Command { exec: vec!["./check".into()] }),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(20),
        min_healthy_time: Duration::from_millis(100),
        deadline: Duration::from_hours(1),
        ..Health::default()
    };
    let scripts = [("run", "exec sleep 60"), ("check", check)];
    let (first, second) = (host.build_of("1", &scripts), host.build_of("2", &scripts));
    let app = host.directory().path().to_path_buf();
    fs::write(app.join("up"), "").unwrap();
    let running = host.start(3);
    host.set_goal(first);
    host.source.permit(2);
    running.good(first).await;

    fs::remove_file(app.join("up")).unwrap();
    host.set_goal(second);
    let is_checked = |row: &HostStatus| {
        row.current == Some(second) && row.phase == HostPhase::Checking && row.pid.is_some()
    };
    running.row(is_checked).await;
    // Two answers at least are in before the row is looked at.
    fs::remove_file(app.join("asked")).unwrap();
    running.until(|| fs::read(app.join("asked")).is_ok_and(|text| text.len() > 20)).await;
    let explained = running.explain().await;
    assert_eq!((explained.row.healthy, &explained.troubles[..]), (None, &[][..]));
    assert!(explained.answer().to_string().contains("not healthy: "), "{}", explained.answer());
    fs::write(app.join("up"), "").unwrap();
    running.good(second).await;
    running.stop().await;
}
