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

/// Goal: scripts can rely on every key, on its type, and on numbers that agree with each other.
#[test]
fn json_numbers_have_their_types_and_agree() {
    let output = simnet(&[&SMALL[..], &["--racks", "2", "--json"]].concat());
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |key: &str| summary[key].as_f64().unwrap_or_else(|| panic!("{key}: {summary}"));
    for key in
        ["chunks", "peak_rss_mib", "events", "messages", "announces", "messages_seeder_peak_s"]
    {
        assert!(summary[key].is_u64(), "{key} is no whole number: {summary}");
    }
    assert!(number("p50_s") <= number("p99_s") && number("p99_s") <= number("last_s"), "{summary}");
    let ratio = number("last_s") / number("bound_s");
    assert!((number("last_over_bound") - ratio).abs() < 1e-9, "{summary}");
    assert!(number("messages_per_host_s") > 0.0, "{summary}");
    assert!(number("messages_worst_host_s") > 0.0, "{summary}");
    // The run is shorter than a second.
    let worst_host = number("messages_worst_host_s") * number("simulated_s");
    assert!((number("messages_host_peak_s") - worst_host).abs() < 1e-6, "{summary}");
    // Everybody announces in the first second.
    assert!(number("announces_peak_s") >= 8.0, "{summary}");
    let announces_per_s = number("announces_per_host_s") * 8.0;
    assert!((announces_per_s - number("announces_per_s")).abs() < 1e-6, "{summary}");
    assert!(number("simulated_over_wall") > 0.0 && number("events_per_s") > 0.0, "{summary}");
    let rack_bytes = number("rack_bytes_mean") / f64::from(8 << 20);
    let copies = number("rack_copies_in_mean") + number("rack_copies_out_mean");
    assert!((rack_bytes - copies).abs() < 1e-9, "{summary}");
    let digest = summary["trace_digest"].as_str().unwrap();
    assert!(
        digest.len() == 16 && digest.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{digest}"
    );
}

#[test]
fn text_says_what_people_ask_for() {
    let output = simnet(&[&SMALL[..], &["--racks", "2"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let starts = [
        "p50 ",
        "p99 ",
        "last ",
        "last / bound",
        "seeder copies",
        "rack copies",
        "rack bytes",
        "messages",
        "  at hosts",
        "announces",
        "  at trackers",
        "simulator",
        "trace digest",
    ];
    for start in starts {
        assert!(text.lines().any(|line| line.starts_with(start)), "{start:?} is missing:\n{text}");
    }
}

fn scratch(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("shoal-simnet-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Goal: the trace is one line per step, each with the same columns.
/// Method: what must have happened is counted; times never go back.
#[test]
fn trace_has_a_line_per_step() {
    let folder = scratch("trace");
    let path = folder.join("trace");
    let output = simnet(&[&SMALL[..], &["--trace", path.to_str().unwrap(), "--json"]].concat());
    let lines = std::fs::read_to_string(&path).unwrap();
    let files = std::fs::read_dir(&folder).unwrap().count();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["trace_steps"], lines.lines().count());
    assert_eq!(lines.matches("  stored  ").count(), 8 * 8);
    assert_eq!(lines.matches("  complete  ").count(), 8);
    let width = lines.lines().next().unwrap().len();
    assert!(lines.lines().all(|line| line.len() == width && line.split_whitespace().count() == 5));
    let time = |line: &str| line.split_whitespace().next().unwrap().parse::<u64>().unwrap();
    assert!(lines.lines().map(time).is_sorted());
    assert_eq!(files, 1, "something was left beside the trace");
}

/// Goal: nothing half written looks complete.
/// Method: a device that is always full; the run stops with one line that names it.
#[test]
fn full_disk_is_told_and_ends_the_run() {
    for flag in ["--trace", "--plot"] {
        let output = simnet(&[&SMALL[..], &[flag, "/dev/full"]].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag}: {stderr}");
        assert!(
            stderr.contains("/dev/full") && stderr.contains("No space left"),
            "{flag}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(output.stdout.is_empty(), "{flag} printed a result nevertheless");
    }
}

/// Goal: a run that fails leaves no file that looks like a result, and the file of an earlier run
/// stays as it was.
#[test]
fn earlier_result_survives_a_run_that_fails() {
    let folder = scratch("earlier");
    let path = folder.join("trace");
    std::fs::write(&path, "earlier").unwrap();
    let args = ["--trace", path.to_str().unwrap(), "--plot", "/dev/full"];
    let output = simnet(&[&SMALL[..], &args].concat());
    let kept = std::fs::read_to_string(&path).unwrap();
    let files = std::fs::read_dir(&folder).unwrap().count();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!((kept.as_str(), files), ("earlier", 1));
}

#[test]
fn plot_writes_a_picture() {
    let folder = scratch("plot");
    let path = folder.join("run.svg");
    let output = simnet(&[&SMALL[..], &["--plot", path.to_str().unwrap()]].concat());
    let svg = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(svg.starts_with("<svg") && svg.contains("8 hosts, 8 MiB in 8 chunks"), "{svg}");
}

#[test]
fn chunk_lengths_of_a_real_build_are_read() {
    let folder = scratch("lengths");
    let path = folder.join("lengths");
    let run = |text: &str| {
        std::fs::write(&path, text).unwrap();
        simnet(&["--hosts", "4", "--json", "--chunk-lengths", path.to_str().unwrap()])
    };
    let good = run("300000\n1048576\n700001\n");
    let bad = run("300000\nlong\n");
    let none = run("");
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let summary: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!(summary["chunks"], 3);
    let stderr = String::from_utf8(bad.stderr).unwrap();
    assert_eq!(bad.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("line 2") && stderr.lines().count() == 1, "{stderr}");
    assert_eq!(none.status.code(), Some(2));
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
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
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
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag}: {stderr}");
        assert!(stderr.contains(flag), "{stderr}");
    }
}

/// Goal: hours are not spent on a result that cannot be kept.
/// Method: a fleet that takes far longer than the test may, refused at once.
#[test]
fn files_that_cannot_be_written_are_refused_before_the_run() {
    for flag in ["--trace", "--plot"] {
        for path in ["/nowhere/file", "/tmp"] {
            let output = simnet(&["--hosts", "100000", flag, path]);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{flag} {path}: {stderr}");
            assert!(stderr.contains(path) && stderr.lines().count() == 1, "{stderr}");
        }
    }
}

#[test]
fn run_that_does_not_complete_fails() {
    // The bound of this scenario is 0.09 s; the swarm needs longer.
    let output = simnet(&[&SMALL[..], &["--limit", "93ms"]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("never"));
}
