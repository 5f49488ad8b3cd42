//! Programs that print too much, under a real supervisor: given up while they are judged, reported
//! later.

use std::collections::BTreeMap;
use std::time::Duration;

use node_agent::brain::{Gate, Program};
use node_agent::host::{Health, RealHost};
use node_agent::programs::{ProgramSettings, Supervisor};
use node_agent::state::Place::Serving;
use p2p_core::ByteRate;

use crate::rig::{Rig, build, drive, drive_until, launch, stop, timings, within};

/// What a program may print here in ten seconds.
const LIMIT: u64 = 100 * 1024;

/// On SIGHUP it prints three times of what it may, and goes on.
const LOUD_WHEN_ASKED: &str =
    "trap 'head -c 307200 /dev/zero' HUP\necho $$ > $EAR\nwhile :; do sleep 60 & wait; done";

fn supervisor(rig: &Rig, min_healthy_time: Duration) -> Supervisor<RealHost> {
    let max_output_rate = ByteRate::new(LIMIT / 10);
    let health = Health { min_healthy_time, max_output_rate, ..Health::default() };
    let launch = Some(launch(&["./run"]));
    let settings = ProgramSettings { launch, health, timings: timings() };
    Supervisor::recover(&rig.app, RealHost::new(BTreeMap::new()), settings)
}

#[tokio::test]
async fn program_that_fills_its_log_is_given_up_at_once() {
    let rig = Rig::new();
    rig.script("run", "while :; do echo error: cannot reach the database, trying again; done");
    let mut supervisor = supervisor(&rig, Duration::from_secs(10));
    supervisor.start(Serving, build(1), &rig.root);
    drive_until(&mut supervisor, |supervisor| supervisor.failed().is_some()).await;
    let (failed, why) = supervisor.failed().unwrap();
    assert!(failed == build(1) && why.starts_with("it wrote "), "{why}");
    assert!(why.contains("of output in") && why.contains("limit 100.0 KiB in 10 s"), "{why}");
    assert!(supervisor.output_tail(build(1)).ends_with("trying again"));
    stop(supervisor).await;
}

/// Goal: a program that serves is not taken away because it prints.
#[tokio::test]
async fn good_program_that_prints_too_much_runs_on_and_is_reported() {
    let rig = Rig::new();
    rig.script("run", LOUD_WHEN_ASKED);
    let mut ear = rig.ear();
    let mut supervisor = supervisor(&rig, Duration::ZERO);
    supervisor.start(Serving, build(1), &rig.root);
    let process = ear.process().await;
    let is_good = |program| matches!(program, Program::Running { gate: Gate::Good, .. });
    drive(&mut supervisor, is_good).await;
    assert_eq!((supervisor.flood(), supervisor.output_counts().floods), (None, 0));
    supervisor.reload();
    drive_until(&mut supervisor, |supervisor| supervisor.output_counts().bytes >= 307_200).await;
    let flood = supervisor.flood().unwrap();
    assert!(
        flood.starts_with("the program wrote ") && flood.contains("max_output_rate"),
        "{flood}"
    );
    assert_eq!(supervisor.output_counts().floods, 1);
    assert_eq!((supervisor.failed(), supervisor.message()), (None, None));
    assert_eq!(supervisor.pid(), Some(process.pid));
    assert!(is_good(supervisor.programs().serving));
    stop(supervisor).await;
}

/// Goal: what was printed before counts for nobody; what comes after is judged as ever.
#[tokio::test]
async fn program_that_was_taken_over_is_judged_by_what_it_prints_from_then_on() {
    let rig = Rig::new();
    rig.script("run", LOUD_WHEN_ASKED);
    let mut ear = rig.ear();
    let mut first = supervisor(&rig, Duration::from_secs(10));
    first.start(Serving, build(1), &rig.root);
    ear.line().await;
    first.reload();
    drive_until(&mut first, |supervisor| supervisor.failed().is_some()).await;
    drive_until(&mut first, |supervisor| supervisor.output_counts().bytes >= 307_200).await;
    drop(first);
    let mut second = supervisor(&rig, Duration::from_secs(10));
    drive_until(&mut second, |supervisor| supervisor.check_facts().is_some()).await;
    for _ in 0..3 {
        let wake = within(second.next_wake()).await;
        second.on_wake(wake);
    }
    assert_eq!((second.failed(), second.output_counts().bytes), (None, 0));
    second.reload();
    drive_until(&mut second, |supervisor| supervisor.failed().is_some()).await;
    stop(second).await;
}
