//! Many deploys at once, through links that they share.

use serde_json::Value;

use crate::thirty_minutes::{assert_refused, json_of, without_machine};

/// An hour before noon with a hundred deploys or so to two regions of fifty hosts.
const SMALL: [&str; 14] = [
    "--regions",
    "2",
    "--hosts-per-region",
    "50",
    "--build",
    "1GB",
    "--deploys-per-day",
    "1500",
    "--hosts-share",
    "10%",
    "--duration",
    "1h",
    "--from-hour",
    "10",
];

fn run(args: &[&str]) -> (Option<i32>, Value) {
    json_of(&[&SMALL[..], args].concat())
}

fn number(summary: &Value, key: &str) -> f64 {
    summary[key].as_f64().unwrap_or_else(|| panic!("{key}: {summary}"))
}

/// Goal: a load that the links carry is on time.
/// Method: the number of deploys is what the day's profile gives to this hour, within what a
/// Poisson process does; half an hour of build and waves bounds every deploy from below.
#[test]
fn load_that_the_links_carry_passes() {
    let (code, summary) = run(&[]);
    assert_eq!(code, Some(0), "{summary}");
    assert_eq!((&summary["pass"], &summary["late"]), (&true.into(), &0.into()));
    assert!((75.0..160.0).contains(&number(&summary, "deploys")), "{summary}");
    assert!(number(&summary, "downloads") >= 2.0 * number(&summary, "deploys"));
    assert!(number(&summary, "total_p50_s") >= 1_000.0, "{summary}");
    assert!(number(&summary, "host_mbit_mean") > 0.0);
    assert!(number(&summary, "host_mbit_mean") <= number(&summary, "host_mbit_p99"));
    for row in summary["stretch"].as_array().unwrap() {
        assert!(number(row, "stretch") >= 1.0 && number(row, "seeder_copies") >= 1.0, "{row}");
    }
}

/// Goal: what the WAN cannot carry queues up, deploys are late, and replication is named.
#[test]
fn overloaded_wan_fails_and_is_named() {
    let (code, summary) = run(&["--wan-rate", "2Mbit"]);
    assert_eq!(code, Some(1), "{summary}");
    assert_eq!((&summary["pass"], &summary["late_phase"]), (&false.into(), &"replication".into()));
    let rows = summary["phases"].as_array().unwrap();
    let late: u64 = rows.iter().map(|row| row["late"].as_u64().unwrap()).sum();
    assert_eq!(Some(late), summary["late"].as_u64());
    assert!(number(&summary, "wan_wait_p99_s") > 600.0, "{summary}");
}

/// Goal: hosts with thin links are late in the swarm, and that is named.
#[test]
fn thin_links_of_hosts_are_named() {
    let thin = ["--host-rate", "60Mbit", "--chunk", "1MiB", "--changed-share", "50%"];
    let args = [&SMALL[..4], &SMALL[6..], &thin, &["--wan-rate", "10Gbit"]].concat();
    let (code, summary) = json_of(&args);
    assert_eq!(code, Some(1), "{summary}");
    assert_eq!(summary["late_phase"], "swarm");
    assert!(number(&summary, "host_downloads_max") > 1.0, "{summary}");
}

/// Goal: fewer may be late if the operator says so.
#[test]
fn what_has_to_be_on_time_is_a_flag() {
    let (_, strict) = run(&["--wan-rate", "3Mbit"]);
    let share = number(&strict, "on_time_percent");
    assert!(share < 99.0 && share > 2.0, "{strict}");
    let (code, _) = run(&["--wan-rate", "3Mbit", "--on-time", "1%"]);
    assert_eq!(code, Some(0));
}

/// Goal: a larger part that changed is more to receive for every host.
#[test]
fn bandwidth_follows_what_changed() {
    let (_, little) = run(&["--changed-share", "5%"]);
    let (_, much) = run(&["--changed-share", "20%"]);
    let ratio = number(&much, "host_mbit_mean") / number(&little, "host_mbit_mean");
    assert!((3.0..4.1).contains(&ratio), "{ratio}");
}

#[test]
fn equal_seeds_give_equal_loads_on_any_number_of_threads() {
    let (_, alone) = run(&["--threads", "1"]);
    let (_, again) = run(&["--threads", "2"]);
    assert_eq!(without_machine(again), without_machine(alone.clone()));
    let (_, other) = run(&["--seed", "2"]);
    assert_ne!(other["trace_digest"], alone["trace_digest"]);
    assert_ne!(other["host_mbit_mean"], alone["host_mbit_mean"]);
}

#[test]
fn bad_flags_are_refused_before_anything_runs() {
    let cases: [(&[&str], &str); 9] = [
        (&["--hosts-share", "1%"], "--deploys-per-day"),
        (&["--duration", "1h"], "--deploys-per-day"),
        (&["--on-time", "99%"], "--deploys-per-day"),
        (&["--deploys-per-day", "0"], "--deploys-per-day"),
        (&["--deploys-per-day", "1", "--from-hour", "24"], "--from-hour"),
        (&["--deploys-per-day", "1", "--hosts-share", "0%"], "--hosts-share"),
        (&["--deploys-per-day", "1", "--changed-share", "0.1"], "--changed-share"),
        (&["--deploys-per-day", "1", "--duration", "0"], "--duration"),
        (&["--deploys-per-day", "5000", "--hosts-share", "100%"], "--hosts-share"),
    ];
    for (args, expected) in cases {
        assert_refused(args, expected);
    }
}
