//! Programs that run without a record, as after a full disk and a kill, with real processes: what
//! an agent started is found, and nothing else is touched.

use std::collections::BTreeMap;
use std::fs;

use node_agent::brain::{Gate, Program};
use node_agent::host::{Launch, MarkKey, RealHost};
use node_agent::process::ProcessIdentity;
use node_agent::programs::Supervisor;
use node_agent::state::Place::{Candidate, Leaving, Serving};

use crate::rig::{
    Ear, Rig, build, drive, gone, is_settled, is_stopped, launch, program, recover, stop, timings,
    within,
};

/// A program that an agent started and left behind, and that has no record.
async fn leave_behind(rig: &Rig, ear: &mut Ear) -> ProcessIdentity {
    let mut agent = recover(rig, launch(&["./run"]), timings());
    agent.start(Serving, build(1), &rig.root);
    let process = ear.process().await;
    drop(agent);
    rig.app.remove_running(Serving).unwrap();
    process
}

#[tokio::test]
async fn program_without_a_record_is_taken_over_as_it_is() {
    let rig = Rig::new();
    rig.patient_script("run");
    let process = leave_behind(&rig, &mut rig.ear()).await;

    let mut next = recover(&rig, launch(&["./run"]), timings());
    assert_eq!(next.pid(), Some(process.pid));
    assert_eq!(rig.app.running(Serving).unwrap().unwrap().process, Some(process.clone()));
    drive(&mut next, is_settled).await;
    let expected = Program::Running { build: build(1), is_fresh: true, gate: Gate::Ready };
    assert_eq!(next.programs().serving, expected);
    drop(next);
    rig.app.remove_running(Serving).unwrap();

    let other = recover(&rig, launch(&["./run", "--other-flag"]), timings());
    assert!(matches!(other.programs().serving, Program::Running { is_fresh: false, .. }));
    stop(other).await;
    assert!(process.open().unwrap().is_none());
}

#[tokio::test]
async fn damaged_record_does_not_lose_the_program() {
    let rig = Rig::new();
    rig.patient_script("run");
    let process = leave_behind(&rig, &mut rig.ear()).await;
    fs::write(rig.path().join("running.json"), "{").unwrap();
    let next = recover(&rig, launch(&["./run"]), timings());
    assert_eq!(next.pid(), Some(process.pid));
    stop(next).await;
}

#[tokio::test]
async fn both_programs_of_a_swap_are_taken_over() {
    let rig = Rig::new();
    rig.patient_script("run");
    let mut ear = rig.ear();
    let mut agent = recover(&rig, launch(&["./run"]), timings());
    agent.start(Serving, build(1), &rig.root);
    let serving = ear.process().await;
    agent.start(Candidate, build(2), &rig.root);
    let candidate = ear.process().await;
    drop(agent);
    for place in [Serving, Candidate] {
        rig.app.remove_running(place).unwrap();
    }

    let mut next = recover(&rig, launch(&["./run"]), timings());
    assert_eq!(rig.app.running(Serving).unwrap().unwrap().process, Some(serving));
    assert_eq!(rig.app.running(Candidate).unwrap().unwrap().process, Some(candidate.clone()));
    // Only the old one is known: the one that took its place is found without a record.
    next.promote();
    drop(next);
    rig.app.remove_running(Serving).unwrap();
    let last = recover(&rig, launch(&["./run"]), timings());
    assert_eq!(last.pid(), Some(candidate.pid));
    stop(last).await;
}

#[tokio::test]
async fn program_that_was_replaced_is_ended() {
    let rig = Rig::new();
    rig.script("run", "trap '' TERM; echo $$ > $EAR; while :; do sleep 60; done");
    let mut ear = rig.ear();
    let replaced = leave_behind(&rig, &mut ear).await;
    // An agent that knows nothing of the first, as its key is another.
    let host = RealHost::new(BTreeMap::new()).with_mark_key(MarkKey::of_secret(b"other"));
    let settings = program(Some(launch(&["./run"])), timings());
    let mut agent = Supervisor::recover(&rig.app, host, settings);
    assert!(is_stopped(agent.programs().serving), "a mark without the right signature counted");
    agent.start(Serving, build(2), &rig.root);
    let serving = ear.process().await;
    drop(agent);

    let mut next = recover(&rig, launch(&["./run"]), timings());
    assert_eq!(next.pid(), Some(serving.pid));
    assert_eq!(rig.app.running(Leaving).unwrap().unwrap().process, Some(replaced.clone()));
    while next.programs().is_leaving {
        let wake = within(next.next_wake()).await;
        next.on_wake(wake);
    }
    assert!(replaced.open().unwrap().is_none());
    assert!(serving.open().unwrap().is_some());
    stop(next).await;
}

#[tokio::test]
async fn programs_of_other_directories_are_left_alone() {
    let (rig, other) = (Rig::new(), Rig::new());
    for rig in [&rig, &other] {
        rig.patient_script("run");
    }
    let stranger = leave_behind(&other, &mut other.ear()).await;
    let own = leave_behind(&rig, &mut rig.ear()).await;
    let next = recover(&rig, launch(&["./run"]), timings());
    assert_eq!(next.pid(), Some(own.pid));
    assert!(!next.programs().is_leaving && is_stopped(next.programs().candidate));
    stop(next).await;
    assert!(stranger.open().unwrap().is_some());
    stop(recover(&other, launch(&["./run"]), timings())).await;
}

/// Whoever is told to stop may leave something behind on purpose.
#[tokio::test]
async fn what_a_program_left_behind_is_not_taken_for_the_program() {
    let rig = Rig::new();
    rig.script("helper", "echo $$ > $EAR; exec sleep 60");
    rig.script("run", "setsid ./helper & exec sleep 60");
    let mut ear = rig.ear();
    let mut agent = recover(&rig, launch(&["./run"]), timings());
    agent.start(Serving, build(1), &rig.root);
    let helper = ear.process().await;
    agent.stop(Serving);
    drive(&mut agent, is_stopped).await;
    drop(agent);

    let next = recover(&rig, launch(&["./run"]), timings());
    assert!(is_stopped(next.programs().serving) && !next.programs().is_leaving);
    assert!(helper.open().unwrap().is_some(), "the helper was ended");
    helper.signal_group(rustix::process::Signal::KILL).unwrap();
    gone(&helper).await;
}

#[tokio::test]
async fn program_of_another_user_is_found() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let rig = Rig::new();
    let as_nobody = Launch {
        user: Some("nobody".into()),
        ..launch(&["sh", "-c", "while :; do sleep 60 & wait; done"])
    };
    let as_nobody = Launch { working_directory: Some("/".into()), ..as_nobody };
    let mut agent = recover(&rig, as_nobody.clone(), timings());
    agent.start(Serving, build(1), &rig.root);
    let pid = agent.pid();
    assert!(pid.is_some(), "{:?}", agent.message());
    drop(agent);
    rig.app.remove_running(Serving).unwrap();
    let next = recover(&rig, as_nobody, timings());
    assert_eq!(next.pid(), pid);
    stop(next).await;
}
