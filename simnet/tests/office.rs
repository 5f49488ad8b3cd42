//! The fleet that the tests start from, and how they run it.

use std::time::Duration;

use p2p_core::ByteRate;
use shoal_simnet::{Faults, Fleet, Outcome, Scenario, Settings, Summary};

/// Sixty hosts at a gigabit, as fast as the one seeder, and a build of eighty chunks.
pub(crate) fn office(seed: u64) -> Scenario {
    let gigabit = ByteRate::new(125_000_000).unwrap();
    Scenario {
        hosts: 60,
        seeders: 1,
        build_size: 80 << 20,
        chunk_size: 1 << 20,
        chunk_lengths: None,
        turn_size: None,
        host_rate: gigabit,
        seeder_rate: gigabit,
        racks: 0,
        zones: 0,
        rack_rate: None,
        disk_rate: ByteRate::new(1_000_000_000).unwrap(),
        latency: Duration::from_micros(500),
        join_within: Duration::ZERO,
        seed,
        limit: Duration::from_mins(10),
        faults: Faults::default(),
        settings: Settings::default(),
    }
}

/// Runs a scenario under every checker.
pub(crate) fn run(scenario: &Scenario) -> (Outcome, Summary) {
    scenario.check().unwrap();
    let mut fleet = Fleet::new(scenario.clone());
    fleet.watch_everything();
    let outcome = fleet.run().unwrap();
    let summary = Summary::new(scenario, &outcome, Duration::from_secs(1));
    (outcome, summary)
}
