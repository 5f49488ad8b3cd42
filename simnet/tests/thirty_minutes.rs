//! One deploy from commit to last restart, as people and scripts meet it.

use std::process::{Command, Output};

use p2p_core::Instant;
use serde_json::Value;
use shoal_simnet::Fleet;

use crate::office::office;

const PHASES: [&str; 6] = ["build", "replication", "goal", "swarm", "verification", "switch"];

/// Three regions of twenty hosts and a build of forty chunks: what ends within a second.
const SMALL: [&str; 8] =
    ["--regions", "3", "--hosts-per-region", "20", "--build", "40MiB", "--chunk", "1MiB"];

pub(crate) fn thirty_minutes(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_shoal-simnet");
    Command::new(program).arg("thirty-minutes").args(args).output().unwrap()
}

/// The exit code and the object.
pub(crate) fn json_of(args: &[&str]) -> (Option<i32>, Value) {
    let output = thirty_minutes(&[args, &["--json"]].concat());
    let object = serde_json::from_slice(&output.stdout);
    (output.status.code(), object.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

fn run(args: &[&str]) -> (Option<i32>, Value) {
    json_of(&[&SMALL[..], args].concat())
}

/// What a run says, without what it says about the machine it ran on.
pub(crate) fn without_machine(mut summary: Value) -> Value {
    fn strip(object: &mut Value) {
        for key in ["wall_s", "peak_rss_mib", "events_per_s"] {
            object.as_object_mut().unwrap().remove(key);
        }
    }
    strip(&mut summary);
    for region in summary["per_region"].as_array_mut().into_iter().flatten() {
        strip(region);
    }
    summary
}

/// Goal: the deadline that is met is said to be met, with everything that led to it.
#[test]
fn deploy_in_time_passes() {
    let (code, summary) = run(&[]);
    assert_eq!(code, Some(0), "{summary}");
    assert_eq!((&summary["pass"], &summary["late_phase"]), (&true.into(), &Value::Null));
    assert_eq!((&summary["hosts"], &summary["completed"]), (&60.into(), &60.into()));
    assert_eq!(summary["longest_phase"], "build");
    assert_eq!(summary["per_region"].as_array().unwrap().len(), 3);
    for key in ["total_s", "last_over_bound", "seeder_copies", "wall_s", "peak_rss_mib"] {
        assert!(summary[key].as_f64().unwrap() > 0.0, "{key}: {summary}");
    }
}

/// Goal: no phase ends before the one that it waits for, for nobody at any rank, and the spans of
/// the last region are the whole way.
#[test]
fn timeline_is_monotone() {
    let (_, summary) = run(&["--racks", "4", "--rack-rate", "2Gbit"]);
    let rows = summary["phases"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["phase"].as_str().unwrap()).collect::<Vec<_>>(), PHASES);
    let number =
        |row: &Value, key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
    for row in rows {
        assert!(number(row, "p50_s") <= number(row, "p99_s"), "{row}");
        assert!(number(row, "p99_s") <= number(row, "last_s"), "{row}");
    }
    for pair in rows.windows(2) {
        for key in ["p50_s", "p99_s", "last_s"] {
            assert!(number(&pair[0], key) < number(&pair[1], key), "{key}: {pair:?}");
        }
    }
    let all: f64 = rows.iter().map(|row| number(row, "took_s")).sum();
    assert!((all - summary["total_s"].as_f64().unwrap()).abs() < 1e-3, "{all}: {summary}");
    let regions = summary["per_region"].as_array().unwrap();
    for region in regions {
        assert!(number(region, "last_over_bound") >= 1.0, "faster than possible: {region}");
        assert!(number(region, "seeder_copies") >= 1.0, "{region}");
        assert!(number(region, "rack_copies") >= 1.0, "{region}");
        assert!(number(region, "last_s") <= summary["total_s"].as_f64().unwrap());
    }
}

/// Goal: a run is a function of its flags and seed; threads change the time only.
#[test]
fn equal_seeds_give_equal_runs_on_any_number_of_threads() {
    let (_, alone) = run(&["--threads", "1"]);
    for threads in ["1", "3"] {
        let (_, again) = run(&["--threads", threads]);
        assert_eq!(without_machine(again), without_machine(alone.clone()), "{threads} threads");
    }
    let (_, other) = run(&["--seed", "2"]);
    assert_ne!(other["trace_digest"], alone["trace_digest"]);
    assert_ne!(other["per_region"][0]["wan_mbit"], alone["per_region"][0]["wan_mbit"]);
    assert_ne!(other["total_s"], alone["total_s"]);
}

/// Goal: a miss fails and names what to look at, whichever phase it is.
/// Method: one phase at a time is made far too slow.
#[test]
fn missed_deadline_names_the_phase() {
    // Slow, but not so slow that a chunk takes many seconds, with nothing else in the way.
    let slow_swarm = "--host-rate 30Mbit --deadline 10s --build-time 0 --host-poll 100ms \
                      --store-poll 100ms --wave-pause 0 --switch-time 0";
    let cases = [
        ("build", "--build-time 29.9m"),
        ("replication", "--wan-rate 200kbit"),
        ("goal", "--host-poll 40m"),
        ("swarm", slow_swarm),
        ("verification", "--verify-rate 20kB"),
        ("switch", "--wave-pause 8m"),
    ];
    for (phase, slow) in cases {
        let slow: Vec<&str> = slow.split_whitespace().collect();
        let output = thirty_minutes(&[&SMALL[..], &slow].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let verdict = text.lines().last().unwrap();
        assert!(verdict.starts_with("MISSED") && verdict.contains(phase), "{text}");
    }
    let (code, summary) = run(&["--build-time", "29.9m"]);
    assert_eq!(code, Some(1));
    assert_eq!((&summary["pass"], &summary["late_phase"]), (&false.into(), &"build".into()));
}

/// Goal: with the design's figures replication takes between five and ten minutes, in each region
/// its own time.
#[test]
fn replication_takes_what_the_design_gives_it() {
    let few = ["--hosts-per-region", "2", "--chunk", "64MiB"];
    let (code, summary) = json_of(&few);
    assert_eq!(code, Some(0), "{summary}");
    let regions = summary["per_region"].as_array().unwrap();
    let mut times: Vec<f64> =
        regions.iter().map(|region| region["replicated_s"].as_f64().unwrap() - 900.0).collect();
    assert_eq!(times.len(), 8);
    assert!(times.iter().all(|time| (300.0..600.0).contains(time)), "{times:?}");
    times.sort_unstable_by(f64::total_cmp);
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}

/// Goal: a coarse run says about the same as a fine one.
/// Method: the same build in chunks of the protocol's largest size, and of four times that.
#[test]
fn coarse_chunks_change_little() {
    let took = |chunk| {
        let build = ["--regions", "1", "--hosts-per-region", "12", "--build", "1GiB"];
        let (_, summary) = json_of(&[&build[..], &["--chunk", chunk]].concat());
        assert_eq!(summary["chunk_bytes"], shoal_simnet::flags::units::parse_size(chunk).unwrap());
        summary["per_region"][0]["swarm_last_s"].as_f64().unwrap()
            - summary["per_region"][0]["goal_s"].as_f64().unwrap()
    };
    let (fine, coarse) = (took("4MiB"), took("16MiB"));
    assert!((fine * 0.98..fine * 1.1).contains(&coarse), "{coarse} s instead of {fine} s");
}

/// Goal: nothing runs that cannot end well, and one line says why.
#[test]
fn bad_flags_are_refused_before_anything_runs() {
    let cases: [(&[&str], &str); 19] = [
        (&["--regions", "0"], "0 regions"),
        (&["--regions", "101"], "101 regions"),
        (&["--hosts-per-region", "0"], "--hosts"),
        (&["--hosts-per-region", "1500000"], "12000000 hosts"),
        (&["--seeders", "0"], "--seeders"),
        (&["--racks", "25001"], "25001 racks"),
        (&["--rack-rate", "1Gbit"], "--racks"),
        (&["--chunk", "1GB"], "chunks of 1000000000 bytes"),
        (&["--chunk", "16MiB", "--host-rate", "100Mbit"], "--host-rate"),
        (&["--wan-rate", "2MB..1MB"], "--wan-rate"),
        (&["--waves", "10,50"], "--waves"),
        (&["--poll-jitter", "101"], "--poll-jitter"),
        (&["--store-poll", "0"], "--store-poll"),
        (&["--host-poll", "0"], "--host-poll"),
        (&["--deadline", "0"], "--deadline"),
        (&["--build-time", "10000h"], "--build-time"),
        (&["--threads", "0"], "--threads"),
        (&["--verify-rate", "0"], "--verify-rate"),
        (&["--colour", "blue"], "--colour"),
    ];
    for (args, expected) in cases {
        assert_refused(args, expected);
    }
}

pub(crate) fn assert_refused(args: &[&str], expected: &str) {
    let output = thirty_minutes(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    assert!(stderr.contains(expected), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?}");
}

/// Goal: hosts enter the swarm when they are told to, and not before.
/// Method: the second half of the hosts comes when the first has long completed.
#[test]
fn hosts_start_when_they_are_told() {
    let mut scenario = office(5);
    scenario.hosts = 10;
    let second = |host: u64| Instant::from_nanos(if host < 5 { 0 } else { 30_000_000_000 });
    let starts: Vec<Instant> = (0..10).map(second).collect();
    let copy = scenario.host_rate.occupancy(scenario.build_size);
    let outcome = Fleet::with_starts(scenario, Some(&starts)).run().unwrap();
    let ends: Vec<Instant> = outcome.completed_at.into_iter().map(Option::unwrap).collect();
    for (start, end) in starts.iter().zip(&ends) {
        assert!(*end >= start.after(copy), "{start:?} to {end:?}");
    }
    assert!(ends[..5].iter().all(|end| *end < starts[5]), "{ends:?}");
}
