//! Texts that are reviewed like code: digests of small runs, and the table of the sweep.

use std::fs;
use std::process::Command;

use shoal_simnet::sweep;

fn read(name: &str) -> String {
    fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Goal: a run is the same in debug and release builds.
/// Method: the digests of the snapshot, which `simnet/digests` holds against an optimised build,
/// with the program that was built for the tests.
#[test]
fn digests_are_those_of_other_builds() {
    let snapshot = read("digests.txt");
    let lines: Vec<&str> = snapshot.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(lines.len() >= 3, "{snapshot}");
    for line in lines {
        let (digest, flags) = line.split_once(' ').unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-simnet"));
        let output = command.arg("swarm").args(flags.split(' ')).arg("--json").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{flags}: {output:?}");
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            summary["trace_digest"], digest,
            "{flags} does something else than in simnet/digests.txt. If protocol or model were changed \
             on purpose, renew it with: simnet/digests --renew. If not, the run depends on the build."
        );
    }
}

/// Goal: a change of a policy shows what it does to completion times.
/// Method: the smallest lines of the table again; the others take minutes.
#[test]
fn sweep_is_the_reviewed_one() {
    let snapshot = read("sweep.txt");
    let renew = "if the change is meant, renew the table with: \
                 cargo run --release -p simnet -- sweep --write simnet/sweep.txt";
    assert!(snapshot.starts_with(sweep::HEADER), "{renew}");
    let lines: Vec<&str> = snapshot.lines().filter(|line| !line.starts_with('#')).collect();
    let cases = sweep::cases();
    assert_eq!(lines.len(), cases.len(), "{renew}");
    let small = |case: &&sweep::Case| case.hosts <= 50 && case.chunks <= 80 && case.degree <= 12;
    assert!(cases.iter().filter(small).count() >= 4);
    for (case, line) in cases.iter().zip(lines).filter(|(case, _)| small(case)) {
        assert_eq!(case.line().unwrap(), line, "{renew}");
    }
}
