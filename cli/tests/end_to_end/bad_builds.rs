//! Builds that go wrong, each in its way: rolled back within the deadline, with a reason.
//!
//! The times are shorter than an operator's. `benches/agent.py bad-builds` runs the same with
//! longer ones: `SHOAL_TEST_PACE` multiplies them.

use std::fs;
use std::time::Instant;

use goal_state::HostPhase;
use rustix::process::{Signal, kill_process};

use crate::rig::service_host::{HOST, ServiceHost};
use crate::rig::{HostRow, Published, note, processes_of, setting, wait_for};

/// What the agent prints from a program into files on disk, at most, however fast it prints: two
/// files, and what comes between two looks.
const OUTPUT_BYTES_MAX: u64 = 1 << 30;

/// Long enough for a good build on a busy machine. No test waits for it but those whose build is
/// never ready.
const DEADLINE_SECONDS: u64 = 5;

/// How a build is judged: stopped and started, asked over HTTP.
fn settings() -> String {
    let pace = pace();
    format!(
        r#"
keep_builds = 3
grace_period = "{grace}ms"
[apps.web.health]
http = "http://127.0.0.1:PORT/healthz"
interval = "100ms"
timeout = "{timeout}ms"
min_healthy_time = "{healthy}ms"
deadline = "{deadline}s"
tries = 2
"#,
        grace = 1_000 * pace,
        timeout = 1_000 * pace,
        healthy = 1_000 * pace,
        deadline = DEADLINE_SECONDS * pace,
    )
}

fn pace() -> u64 {
    setting("SHOAL_TEST_PACE").unwrap_or(1)
}

/// A host on which version `good` runs.
fn host_with(settings: &str) -> (ServiceHost, Published) {
    let mut host = ServiceHost::new(settings);
    let good = host.publish("good", "", 100_000);
    host.start_agent();
    host.deploy_and_wait(&good, "good");
    (host, good)
}

/// Deploys a build that behaves as ordered and waits until the host has gone back to `good`.
fn check_rolled_back(host: &ServiceHost, good: &Published, behaviour: &str) -> HostRow {
    let bad = host.publish("bad", behaviour, 100_000);
    let started = Instant::now();
    host.rig.deploy(&bad);
    let row = host.rig.wait_for_row(&format!("{behaviour} is rolled back"), HOST, |row| {
        row.row.phase == HostPhase::RolledBack
    });
    let took = started.elapsed();
    host.wait_for_version("good");
    let id = |build: Option<p2p_core::BuildId>| build.map(|build| build.to_string());
    assert_eq!(id(row.row.current).as_ref(), Some(&good.id), "{row:?}");
    assert_eq!(id(row.row.quarantined).as_ref(), Some(&bad.id), "{row:?}");
    let message = row.row.message.as_deref().unwrap_or_default();
    note(&format!("{behaviour}: rolled back after {} ms: {message}", took.as_millis()));
    host.rig.check_current(HOST, good);
    // Old and new count: what is left of the bad build would be one more.
    wait_for("only the good build's program runs", || {
        let programs = processes_of(&host.rig.path("bin/demo-service"));
        (programs.len() == 1).then_some(())
    });
    row
}

/// As [`check_rolled_back`] on a host of its own; `reasons` are in the status.
fn check_reasons(behaviour: &str, reasons: &[&str]) {
    let (host, good) = host_with(&settings());
    let row = check_rolled_back(&host, &good, behaviour).row;
    let said = format!("{:?} {:?}", row.message, row.last_output);
    for reason in reasons {
        assert!(said.contains(reason), "{reason:?} is missing: {said}");
    }
    // A better build gets its chance.
    let better = host.publish("better", "", 100_000);
    let row = host.deploy_and_wait(&better, "better").row;
    assert_eq!((row.quarantined, row.message), (None, None));
}

#[test]
fn build_that_crashes_at_the_start_is_rolled_back() {
    check_reasons("crash-at-start", &["exit code 1", "crashed at the start, as told"]);
}

#[test]
fn build_that_crashes_after_a_while_is_rolled_back() {
    let after = 400 * pace();
    check_reasons(&format!("crash-after={after}ms"), &["exit code 1", "as told"]);
}

#[test]
fn build_that_never_listens_is_rolled_back_at_the_deadline() {
    check_reasons("never-ready", &["refused"]);
}

#[test]
fn build_that_never_answers_is_rolled_back_at_the_deadline() {
    check_reasons("hang-health", &["no answer"]);
}

#[test]
fn build_that_answers_with_errors_is_rolled_back() {
    check_reasons("answer-500", &["500"]);
}

/// Goal: a program that does not stop cannot hold up the rollback.
#[test]
fn build_that_ignores_the_signal_to_stop_is_rolled_back() {
    check_reasons("ignore-term answer-500", &["500"]);
}

/// Goal: what a bad build leaves behind is ended with it.
#[test]
fn process_that_a_bad_build_leaked_is_ended() {
    let (host, good) = host_with(&settings());
    check_rolled_back(&host, &good, "leak-child answer-500");
    let leaked = host.app();
    // The good build's program is the only one that may have it in its environment.
    wait_for("the leaked process is gone", || (processes_of(&leaked).len() <= 1).then_some(()));
}

/// Goal: a healthy build that ignores the signal is ended after its grace period, for the next one.
#[test]
fn healthy_build_that_ignores_the_signal_to_stop_gives_way() {
    let mut host = ServiceHost::new(&settings());
    let stubborn = host.publish("stubborn", "ignore-term", 100_000);
    let next = host.publish("next", "", 100_000);
    host.start_agent();
    host.deploy_and_wait(&stubborn, "stubborn");
    host.deploy_and_wait(&next, "next");
    let log = host.agent().log();
    assert!(log.contains("kill"), "nothing in the log says that it was killed:\n{log}");
    assert_eq!(host.agent().end_with(Signal::TERM).code(), Some(0));
}

/// Goal: a program that prints without end fills no disk, and what it printed last is reported.
#[test]
fn build_that_fills_its_log_is_bounded_and_rolled_back() {
    let (host, good) = host_with(&settings());
    let folder = host.app();
    let bad = host.publish("loud", "fill-log unhealthy", 100_000);
    host.rig.deploy(&bad);
    let mut most = 0;
    let row = wait_for("it is rolled back", || {
        let outputs = fs::read_dir(&folder).unwrap().filter_map(Result::ok);
        let outputs =
            outputs.filter(|entry| entry.file_name().to_string_lossy().contains("output"));
        let bytes = outputs.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
        most = u64::max(most, bytes);
        let row = host.rig.row(HOST)?;
        (row.row.phase == HostPhase::RolledBack).then_some(row)
    });
    host.wait_for_version("good");
    assert_eq!(row.row.current.map(|build| build.to_string()), Some(good.id));
    let last = row.row.last_output.unwrap_or_default();
    assert!(last.contains("cannot reach the database"), "{last:?}");
    assert!(most < OUTPUT_BYTES_MAX, "its output took {most} bytes of the disk");
    note(&format!("fill-log: its output took at most {} MB", most / 1_000_000));
}

/// What a build may print here in ten seconds: as little as a test on a busy machine needs, and far
/// more than the chatty one prints.
const QUIET: &str = "max_output_rate = \"100KiB\"\n";

/// Goal: a build that answers well and does nothing else wrong is rolled back for its output alone.
#[test]
fn build_that_only_fills_its_log_is_rolled_back() {
    let settings = settings() + QUIET;
    let (host, good) = host_with(&settings);
    let row = check_rolled_back(&host, &good, "fill-log").row;
    let message = row.message.unwrap_or_default();
    for part in ["it wrote ", " of output in ", "limit 1000.0 KiB in 10 s", "max_output_rate"] {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
    let last = row.last_output.unwrap_or_default();
    assert!(last.contains("cannot reach the database"), "{last:?}");
}

/// Goal: a build that prints as a program at debug level does is no bad build.
#[test]
fn chatty_build_is_good() {
    let (host, _) = host_with(&(settings() + QUIET));
    let chatty = host.publish("chatty", "chatty=2ms", 100_000);
    let row = host.deploy_and_wait(&chatty, "chatty").row;
    assert_eq!((row.quarantined, row.message), (None, None));
    let output = fs::read_to_string(host.app().join("output.log")).unwrap();
    assert!(output.lines().count() > 10, "it did not print much:\n{output}");
}

/// Goal: a program that floods its log once it is good goes on serving, and the status says so.
/// Method: the limit is lowered under a program that prints as before.
#[test]
fn good_program_that_prints_too_much_goes_on_serving_and_is_reported() {
    let (mut host, _) = host_with(&settings());
    let loud = host.publish("loud", "chatty=2ms", 100_000);
    let before = host.deploy_and_wait(&loud, "loud").row;
    host.configure(&(settings() + "max_output_rate = \"100B\"\n"));
    kill_process(host.agent().process(), Signal::HUP).unwrap();
    let after = host.rig.wait_for_row("the status says it", HOST, |row| {
        row.row.message.as_ref().is_some_and(|message| message.contains("max_output_rate"))
    });
    let row = after.row;
    assert_eq!((row.phase, row.pid), (HostPhase::Running, before.pid), "{row:?}");
    assert!(row.message.unwrap().starts_with("the program wrote "));
    host.wait_for_version("loud");
}

/// Goal: a bad build that starts beside the good one never takes the service away.
/// Method: sockets that the agent holds; the bad build is never ready, so the good one serves on.
#[test]
fn bad_build_beside_the_good_one_is_never_noticed() {
    let settings = format!(
        "sockets = {{ http = \"127.0.0.1:PORT\" }}\n[apps.web.health]\nnotify = true\n\
         interval = \"100ms\"\nmin_healthy_time = \"300ms\"\ndeadline = \"{}s\"\n",
        2 * pace()
    );
    for behaviour in ["never-ready", "crash-at-start"] {
        let (host, good) = host_with(&settings);
        let before = host.rig.row(HOST).unwrap().row.pid;
        let row = check_rolled_back(&host, &good, behaviour);
        assert_eq!(row.row.pid, before, "the good program was restarted for {behaviour}");
    }
}

/// Goal: a first build that goes wrong, with nothing to go back to, is a failure with a reason.
#[test]
fn bad_first_build_is_a_failure() {
    let mut host = ServiceHost::new(&settings());
    let bad = host.publish("bad", "crash-at-start", 100_000);
    host.start_agent();
    host.rig.deploy(&bad);
    let row = host.rig.wait_for_row("it has failed", HOST, |row| {
        row.row.phase == HostPhase::Failed && row.row.message.is_some()
    });
    let said = format!("{:?} {:?}", row.row.message, row.row.last_output);
    assert!(said.contains("crashed at the start, as told"), "{said}");
    let good = host.publish("good", "", 100_000);
    host.deploy_and_wait(&good, "good");
}

/// Goal: what was tried and failed is remembered by the next agent: it does not try again by
/// itself.
#[test]
fn quarantine_outlives_the_agent() {
    let (mut host, good) = host_with(&settings());
    let before = check_rolled_back(&host, &good, "crash-at-start").row;
    let output = host.app().join("output.log");
    let starts = || fs::read_to_string(&output).unwrap_or_default().matches("as told").count();
    let starts_before = starts();
    host.agent().kill();
    host.start_agent();
    let row = host.rig.wait_for_row("the next agent says the same", HOST, |row| {
        row.row.phase == HostPhase::RolledBack && row.row.updated_at_ms > before.updated_at_ms
    });
    let after = row.row;
    assert_eq!((after.quarantined, after.pid), (before.quarantined, before.pid));
    assert!(after.message.is_some(), "{after:?}");
    assert_eq!(starts(), starts_before, "the bad build was started again");
}
