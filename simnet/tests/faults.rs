//! Fleets in which something goes wrong. Every host that lives must have the build in the end.

use std::time::Duration;

use shoal_simnet::{Crashes, Faults, Scenario};

use crate::office::{office, run};

/// Goal: hosts that crash and return complete, with what they had stored.
/// Method: one host in twenty crashes once within the bound, and is back before the others have
/// noticed, or long after.
#[test]
fn hosts_that_crash_and_return_complete() {
    for downtime in [2, 30] {
        let crashes = Some(Crashes { percent: 5, downtime: Duration::from_secs(downtime) });
        let scenario = Scenario { faults: Faults { crashes, ..Faults::default() }, ..office(11) };
        let (_, summary) = run(&scenario);
        assert!(summary.is_good(), "back after {downtime} s\n{summary}");
        assert_eq!(summary.bans, 0, "back after {downtime} s\n{summary}");
    }
}

/// Goal: one copy is enough: what the hosts have between them reaches all of them.
/// Method: the seeder dies, and its tracker with it, when the hosts together have every chunk.
#[test]
fn fleet_completes_without_the_seeder_after_its_first_copy() {
    let faults = Faults { seeders_die_after_first_copy: true, ..Faults::default() };
    let (_, summary) = run(&Scenario { faults, ..office(12) });
    assert!(summary.is_good(), "{summary}");
    assert!(summary.seeder_copies < 2.0, "{summary}");
}

/// Goal: trackers are needed to find each other, and for nothing after that.
/// Method: the tracker dies when the hosts have thirty percent of all chunks.
#[test]
fn fleet_completes_without_its_tracker() {
    let faults = Faults { trackers_die_at_percent: Some(30), ..Faults::default() };
    let (_, summary) = run(&Scenario { faults, ..office(13) });
    assert!(summary.is_good(), "{summary}");
}
