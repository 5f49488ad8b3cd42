//! The supervisor with real programs: obedient, deaf, short-lived, forking, and left behind.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use node_agent::brain::{Gate, Program};
use node_agent::host::{Launch, RealHost};
use node_agent::process::ProcessIdentity;
use node_agent::programs::{Supervisor, SupervisorTimings};
use node_agent::state::Place::Serving;
use node_agent::state::RunningRecord;
use rustix::process::Signal;

use crate::rig::{
    Rig, build, drive, gone, is_resting, is_settled, is_stopped, launch, recover, stop, timings,
    within,
};

fn supervisor(rig: &Rig, exec: &[&str]) -> Supervisor<RealHost> {
    recover(rig, launch(exec), timings())
}

/// A supervisor that has started `./run`.
fn started(rig: &Rig) -> Supervisor<RealHost> {
    let mut supervisor = supervisor(rig, &["./run"]);
    supervisor.start(Serving, build(1), &rig.root);
    supervisor
}

/// A program that runs until it is stopped, and whose agent died.
async fn left_behind(rig: &Rig) -> ProcessIdentity {
    rig.patient_script("run");
    let mut ear = rig.ear();
    let _first = started(rig);
    ear.process().await
}

#[tokio::test]
async fn program_runs_in_its_build_and_knows_what_it_is() {
    let rig = Rig::new();
    rig.script(
        "run",
        "echo \"$(pwd)|$1|$GREETING|$SHOAL_APP|$SHOAL_HOST|$SHOAL_BUILD\" > $EAR; exec sleep 60",
    );
    let mut ear = rig.ear();
    let mut supervisor = supervisor(&rig, &["./run", "argument"]);
    assert!(is_stopped(supervisor.programs().serving));
    supervisor.start(Serving, build(1), &rig.root);
    let expected = format!("{}|argument|hello|web|h1|{}", rig.root.display(), build(1));
    assert_eq!(ear.line().await, expected);
    assert!(!is_settled(supervisor.programs().serving));
    drive(&mut supervisor, is_settled).await;
    assert_eq!(supervisor.message(), None);

    let process = ProcessIdentity::of(supervisor.pid().unwrap()).unwrap();
    assert_eq!(rig.app.running(Serving).unwrap().unwrap().process, Some(process.clone()));
    supervisor.stop(Serving);
    assert_eq!(supervisor.programs().serving, Program::Ending);
    drive(&mut supervisor, is_stopped).await;
    assert!(process.open().unwrap().is_none());
    assert_eq!(rig.app.running(Serving).unwrap(), None);
}

#[tokio::test]
async fn working_directory_is_relative_to_the_build() {
    let rig = Rig::new();
    fs::create_dir(rig.root.join("data")).unwrap();
    rig.script("run", "pwd > $EAR; exec sleep 60");
    let mut ear = rig.ear();
    let launch = Launch { working_directory: Some("data".into()), ..launch(&["./run"]) };
    let mut supervisor = recover(&rig, launch, timings());
    supervisor.start(Serving, build(1), &rig.root);
    assert_eq!(ear.line().await, rig.root.join("data").display().to_string());
    stop(supervisor).await;
}

#[tokio::test]
async fn program_that_ignores_sigterm_is_killed_with_its_children() {
    let rig = Rig::new();
    rig.script(
        "run",
        "trap '' TERM\n(echo $(exec sh -c 'echo $PPID') > $EAR; while :; do sleep 60; done) &\n\
         echo $$ > $EAR; while :; do sleep 60; done",
    );
    let mut ear = rig.ear();
    let supervisor = started(&rig);
    let processes = [ear.process().await, ear.process().await];
    stop(supervisor).await;
    for process in &processes {
        assert!(process.open().unwrap().is_none(), "{process:?} survived");
    }
}

#[tokio::test]
async fn child_that_outlives_an_obedient_program_is_killed_after_the_grace_period() {
    let rig = Rig::new();
    rig.script("child", "trap '' TERM; echo $$ > $EAR; while :; do sleep 60; done");
    rig.script("run", "./child & exec sleep 60");
    let mut ear = rig.ear();
    let supervisor = started(&rig);
    let child = ear.process().await;
    stop(supervisor).await;
    assert!(child.open().unwrap().is_none(), "the child survived");
}

#[tokio::test]
async fn program_that_ends_is_started_again_and_its_last_words_are_shown() {
    let rig = Rig::new();
    rig.script("run", "echo starting; echo port 80 is taken >&2; exit 3");
    let mut supervisor = supervisor(&rig, &["./run"]);
    for times in [", next start in 10ms", ", 2 times in a row, next start in 20ms"] {
        supervisor.start(Serving, build(1), &rig.root);
        drive(&mut supervisor, is_resting).await;
        assert_eq!(
            supervisor.message().unwrap(),
            format!("the program ended with exit code 3{times}, its last output: port 80 is taken")
        );
        drive(&mut supervisor, is_stopped).await;
    }
    supervisor.start(Serving, build(2), &rig.root);
    assert_eq!(supervisor.message(), None, "another build starts with a clean record");
    drive(&mut supervisor, is_resting).await;
}

#[tokio::test]
async fn children_of_a_program_that_ended_are_stopped_before_it_is_started_again() {
    let rig = Rig::new();
    // The child ends its parent, but only once it can be heard and is deaf to SIGTERM.
    let child = "trap '' TERM; echo $$ > $EAR; kill -KILL $PPID; while :; do sleep 60; done";
    rig.script("child", child);
    rig.script("run", "./child & wait");
    let mut ear = rig.ear();
    let mut supervisor = started(&rig);
    let child = ear.process().await;
    drive(&mut supervisor, is_resting).await;
    assert!(child.open().unwrap().is_none(), "the child survived");
}

#[tokio::test]
async fn program_that_was_well_for_long_starts_with_a_clean_record() {
    let rig = Rig::new();
    rig.patient_script("run");
    let mut ear = rig.ear();
    let timings = SupervisorTimings { forget_after: Duration::ZERO, ..timings() };
    let mut supervisor = recover(&rig, launch(&["./run"]), timings);
    let is_good = |program| matches!(program, Program::Running { gate: Gate::Good, .. });
    for _ in 0..3 {
        supervisor.start(Serving, build(1), &rig.root);
        drive(&mut supervisor, is_good).await;
        ear.process().await.signal_group(Signal::KILL).unwrap();
        drive(&mut supervisor, is_resting).await;
        assert!(supervisor.message().unwrap().contains("signal 9, next start in 10ms"));
        drive(&mut supervisor, is_stopped).await;
    }
}

#[tokio::test]
async fn program_that_runs_again_is_shown_as_such() {
    let rig = Rig::new();
    rig.script("run", "test -e $0.again && exec sleep 60\necho oops\ntouch $0.again; exit 3");
    let mut supervisor = started(&rig);
    drive(&mut supervisor, is_stopped).await;
    supervisor.start(Serving, build(1), &rig.root);
    assert!(supervisor.message().unwrap().contains("next start in"), "not sure yet that it stays");
    drive(&mut supervisor, is_settled).await;
    assert_eq!(
        supervisor.message().unwrap(),
        "runs again after: the program ended with exit code 3, its last output: oops"
    );
    stop(supervisor).await;
}

#[tokio::test]
async fn death_by_a_signal_is_shown() {
    let rig = Rig::new();
    rig.patient_script("run");
    let mut ear = rig.ear();
    let mut supervisor = started(&rig);
    ear.process().await.signal_group(Signal::KILL).unwrap();
    drive(&mut supervisor, is_resting).await;
    let message = supervisor.message().unwrap();
    assert!(message.contains("was killed by signal 9"), "{message}");
    assert!(message.contains("it printed nothing to"), "{message}");
}

#[tokio::test]
async fn program_that_cannot_be_started_is_reported_and_tried_again() {
    let rig = Rig::new();
    fs::write(rig.root.join("plain"), "not executable").unwrap();
    for (exec, expected) in [
        ("./missing", "there is no file"),
        ("./plain", "it is not executable, chmod +x before publish"),
        ("nowhere-in-path", "it is not in PATH ("),
    ] {
        let mut supervisor = supervisor(&rig, &[exec]);
        supervisor.start(Serving, build(1), &rig.root);
        let message = supervisor.message().unwrap();
        assert!(message.starts_with("cannot start ") && message.contains(expected), "{message}");
        drive(&mut supervisor, is_stopped).await;
    }
}

#[tokio::test]
async fn program_runs_even_if_the_disk_takes_neither_record_nor_output() {
    let rig = Rig::new();
    // Directories in the way stand for a disk that refuses to write.
    fs::create_dir(rig.app.path().join(".running.json.new")).unwrap();
    fs::create_dir(rig.app.output_path(Serving)).unwrap();
    rig.patient_script("run");
    let mut ear = rig.ear();
    let mut supervisor = started(&rig);
    ear.line().await;
    drive(&mut supervisor, is_settled).await;
    stop(supervisor).await;
}

#[tokio::test]
async fn long_output_of_a_running_program_is_shortened() {
    let rig = Rig::new();
    // Writes the limit and some more, then waits.
    rig.script("run", "head -c 5000000 /dev/zero; echo $$ > $EAR; exec sleep 60");
    let mut ear = rig.ear();
    let mut supervisor = started(&rig);
    ear.line().await;
    let output = rig.app.output_path(Serving);
    while fs::metadata(&output).unwrap().len() > 0 {
        let wake = within(supervisor.next_wake()).await;
        supervisor.on_wake(wake);
    }
    let kept = fs::metadata(rig.app.path().join("output.log.1")).unwrap().len();
    assert_eq!(kept, node_agent::programs::OUTPUT_BYTES_MAX);
    stop(supervisor).await;
}

#[tokio::test]
async fn program_survives_its_agent_and_is_taken_over_by_the_next() {
    let rig = Rig::new();
    let process = left_behind(&rig).await;

    let mut second = supervisor(&rig, &["./run"]);
    assert_eq!(second.pid(), Some(process.pid));
    drive(&mut second, is_settled).await;
    let expected = Program::Running { build: build(1), is_fresh: true, gate: Gate::Ready };
    assert_eq!(second.programs().serving, expected);
    drop(second);

    let mut third = supervisor(&rig, &["./run", "--other-flag"]);
    assert!(matches!(third.programs().serving, Program::Running { is_fresh: false, .. }));
    third.stop(Serving);
    drive(&mut third, is_stopped).await;
    assert!(process.open().unwrap().is_none());
}

#[tokio::test]
async fn end_of_a_program_that_was_taken_over_is_noticed() {
    let rig = Rig::new();
    let process = left_behind(&rig).await;
    let mut second = supervisor(&rig, &["./run"]);
    process.signal_group(Signal::KILL).unwrap();
    drive(&mut second, is_resting).await;
    // The parent is this process, as after an agent that replaced itself.
    assert!(second.message().unwrap().contains("killed by signal 9"), "{:?}", second.message());
}

#[tokio::test]
async fn program_whose_agent_died_before_noting_it_is_found_by_its_environment() {
    let rig = Rig::new();
    let process = left_behind(&rig).await;
    let record = rig.app.running(Serving).unwrap().unwrap();
    rig.app.write_running(Serving, &RunningRecord { process: None, ..record }).unwrap();

    let mut second = supervisor(&rig, &["./run"]);
    assert_eq!(second.pid(), Some(process.pid));
    assert_eq!(rig.app.running(Serving).unwrap().unwrap().process, Some(process));
    second.stop(Serving);
    drive(&mut second, is_stopped).await;
}

#[tokio::test]
async fn children_of_a_program_that_died_without_its_agent_are_killed() {
    let rig = Rig::new();
    rig.script("child", "echo $$ > $EAR; while :; do sleep 60; done");
    rig.script("run", "./child & exec sleep 60");
    let mut ear = rig.ear();
    let mut first = supervisor(&rig, &["./run"]);
    first.start(Serving, build(1), &rig.root);
    let leader = ProcessIdentity::of(first.pid().unwrap()).unwrap();
    let child = ear.process().await;
    drop(first);
    let pid = rustix::process::Pid::from_raw(i32::try_from(leader.pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    gone(&leader).await;
    assert!(child.open().unwrap().is_some());

    let second = supervisor(&rig, &["./run"]);
    assert!(is_stopped(second.programs().serving));
    gone(&child).await;
}

#[tokio::test]
async fn process_that_got_the_id_of_the_program_is_left_alone() {
    let rig = Rig::new();
    let mut stranger =
        Command::new("sleep").arg("60").process_group(0).stdin(Stdio::null()).spawn().unwrap();
    let identity = ProcessIdentity::of(stranger.id()).unwrap();
    let record = RunningRecord {
        restart: 0,
        instance: String::new(),
        unit: None,
        build: build(1),
        command: launch(&["./run"]).digest(),
        process: Some(ProcessIdentity {
            start_ticks: identity.start_ticks - 1,
            ..identity.clone()
        }),
    };
    rig.app.write_running(Serving, &record).unwrap();
    let supervisor = supervisor(&rig, &["./run"]);
    assert!(is_stopped(supervisor.programs().serving));
    assert!(identity.open().unwrap().is_some(), "the stranger was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// Goal: an agent that was killed before it could note which process its program is takes over
/// nobody else's process.
/// Method: the record names no process, and a stranger has the variable that names the start.
#[tokio::test]
async fn process_that_claims_to_be_the_program_is_left_alone() {
    let rig = Rig::new();
    let mut stranger = Command::new("sleep");
    stranger.arg("60").process_group(0).stdin(Stdio::null()).env("SHOAL_INSTANCE", "1-2-3");
    let mut stranger = stranger.env("SHOAL_APP_DIR", rig.app.path()).spawn().unwrap();
    for instance in ["1-2-3", ""] {
        let record = RunningRecord {
            restart: 0,
            instance: instance.into(),
            unit: None,
            build: build(1),
            command: launch(&["./run"]).digest(),
            process: None,
        };
        rig.app.write_running(Serving, &record).unwrap();
        let supervisor = supervisor(&rig, &["./run"]);
        assert!(is_stopped(supervisor.programs().serving), "{instance}");
    }
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn damaged_record_does_not_keep_the_agent_from_starting() {
    let rig = Rig::new();
    fs::write(rig.path().join("running.json"), "{").unwrap();
    assert!(is_stopped(supervisor(&rig, &["./run"]).programs().serving));
}
