//! The command as people and scripts meet it.

use std::process::{Command, Output};

fn simnet(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shoal-simnet")).arg("swarm").args(args).output().unwrap()
}

const SMALL: [&str; 8] =
    ["--hosts", "8", "--build", "8MiB", "--chunk", "1MiB", "--host-rate", "1Gbit"];

#[test]
fn json_has_the_promised_keys() {
    let output = simnet(&[&SMALL[..], &["--racks", "2", "--json", "--check"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys = [
        "hosts",
        "chunks",
        "p50_s",
        "p99_s",
        "last_s",
        "bound_s",
        "last_over_bound",
        "seeder_copies",
        "rack_copies",
        "completed",
        "wall_s",
        "peak_rss_mib",
        "trace_digest",
    ];
    for key in keys {
        assert!(!summary[key].is_null(), "{key} is missing: {summary}");
    }
    assert_eq!((&summary["hosts"], &summary["completed"]), (&8.into(), &8.into()));
}

#[test]
fn trace_has_a_line_per_step() {
    let path = std::env::temp_dir().join(format!("shoal-simnet-trace-{}", std::process::id()));
    let output = simnet(&[&SMALL[..], &["--trace", path.to_str().unwrap()]].concat());
    let lines = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(lines.matches("  stored  ").count(), 8 * 8);
    assert_eq!(lines.matches("  complete  ").count(), 8);
}

/// Goal: nothing runs that cannot end well, and one line says why.
#[test]
fn impossible_scenarios_are_refused_with_one_line() {
    let cases: [(&[&str], &str); 9] = [
        (&["--hosts", "0"], "--hosts"),
        (&["--seeders", "0"], "--seeders"),
        (&["--racks", "1000"], "--racks"),
        (&["--rack-rate", "1Gbit"], "--racks"),
        (&["--chunk", "1GB"], "--chunk"),
        (&["--build", "1000000000GB"], "--build"),
        (&["--crash", "101"], "--crash"),
        (&["--limit", "1ms"], "--limit"),
        (&["--set", "colour=blue"], "colour"),
    ];
    for (args, expected) in cases {
        let output = simnet(args);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        assert!(told.contains(expected), "{args:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{args:?}: {told}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn values_that_do_not_parse_are_refused() {
    for (flag, value) in [
        ("--host-rate", "0"),
        ("--seeder-rate", "fast"),
        ("--build", "1Gbit"),
        ("--latency", "5"),
        ("--hosts", "-1"),
    ] {
        let output = simnet(&[&format!("{flag}={value}")]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag}: {told}");
        assert!(told.contains(flag), "{told}");
    }
}

#[test]
fn trace_that_cannot_be_written_fails() {
    let output = simnet(&[&SMALL[..], &["--trace", "/nowhere/trace"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("/nowhere/trace") && told.lines().count() == 1, "{told}");
}

#[test]
fn run_that_does_not_complete_fails() {
    // The bound of this scenario is 0.09 s; the swarm needs longer.
    let output = simnet(&[&SMALL[..], &["--limit", "93ms"]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("never"));
}
