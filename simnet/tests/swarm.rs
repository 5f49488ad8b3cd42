//! Fleets in which nothing goes wrong.

use std::time::Duration;

use p2p_core::ByteRate;
use shoal_simnet::{Crashes, Faults, Scenario};

use crate::office::{office, run};

/// Goal: every host gets the build, and the swarm carries it: a seeder that is no faster than a
/// host sends little more than one copy.
/// Method: three seeds; checkers watch every step; nobody is banned, because nobody lies.
#[test]
fn build_reaches_every_host_with_about_one_copy_of_the_seeder() {
    for seed in 1..=3 {
        let (_, summary) = run(&office(seed));
        assert!(summary.is_good(), "seed {seed}\n{summary}");
        assert!(summary.seeder_copies >= 1.0, "seed {seed}\n{summary}");
        assert!(summary.seeder_copies <= 1.2, "seed {seed}\n{summary}");
        assert!(summary.last_over_bound >= Some(1.0), "faster than possible\n{summary}");
        assert_eq!(summary.bans, 0, "seed {seed}\n{summary}");
    }
}

/// Goal: one host of one chunk works, where every table is nearly empty.
/// Method: the time is that of one chunk over the link, plus joining and writing it.
#[test]
fn smallest_fleet_works() {
    let scenario = Scenario { hosts: 1, build_size: 1 << 20, ..office(1) };
    let (_, summary) = run(&scenario);
    assert!(summary.is_good(), "{summary}");
    assert!((summary.seeder_copies - 1.0).abs() < f64::EPSILON, "{summary}");
    assert!(summary.last_s < Some(0.1), "{summary}");
}

/// Goal: racks are known, their uplinks are paid for, and crossing them is counted.
/// Method: six racks with slow uplinks; each needs at least one copy from outside.
#[test]
fn every_rack_gets_at_least_one_copy_over_its_uplink() {
    let rack_rate = ByteRate::new(250_000_000);
    let scenario = Scenario { racks: 6, rack_rate, ..office(2) };
    let (outcome, summary) = run(&scenario);
    assert!(summary.is_good(), "{summary}");
    assert_eq!(outcome.rack_bytes.len(), 6);
    assert!(outcome.rack_bytes.iter().all(|(into, _)| *into >= scenario.build_size), "{summary}");
    // With hosts picked over all racks five of six chunks would come from outside.
    assert!(summary.rack_copies_in_mean.unwrap() < 10.0 * 5.0 / 6.0, "{summary}");
}

/// Goal: a fast seeder does not become the source for everybody.
/// Method: ten times the rate of a host; it may help, but not carry a third of the fleet.
#[test]
fn fast_seeder_leaves_the_work_to_the_hosts() {
    let seeder_rate = ByteRate::new(1_250_000_000).unwrap();
    let (_, summary) = run(&Scenario { seeder_rate, ..office(3) });
    assert!(summary.is_good(), "{summary}");
    assert!(summary.seeder_copies < 20.0, "{summary}");
}

/// Goal: no host waits for the seeder although the seeder has something that nobody else has.
/// Method: links so fast that hosts often get a chunk elsewhere while the seeder sends another one
/// in its place; they cancel it, when the seeder has put everybody off already. Three of these
/// seeds took a second longer than the others before a `Ready` ended that.
#[test]
fn chunk_that_was_cancelled_at_the_end_is_asked_for_at_once() {
    let rate = ByteRate::new(250_000_000).unwrap();
    for seed in 1..=30 {
        let (_, summary) = run(&Scenario {
            hosts: 5,
            build_size: 8 << 20,
            chunk_size: 64 << 10,
            host_rate: rate,
            seeder_rate: rate,
            ..office(seed)
        });
        assert!(summary.is_good(), "seed {seed}\n{summary}");
        assert!(summary.last_over_bound < Some(1.5), "seed {seed}\n{summary}");
    }
}

/// Goal: chunks that share an uplink arrive whole, whatever befalls their way.
/// Method: turns of a sixteenth of a chunk, with and without hosts that crash while chunks are on
/// their way to and from them; what was sent is what was wanted, and what was given up.
#[test]
fn chunks_that_take_turns_arrive() {
    for percent in [0, 10] {
        let crashes =
            (percent > 0).then_some(Crashes { percent, downtime: Duration::from_secs(1) });
        let faults = Faults { crashes, ..Faults::default() };
        let scenario = Scenario { hosts: 30, turn_size: Some(1 << 16), faults, ..office(5) };
        let (outcome, summary) = run(&scenario);
        assert!(summary.is_good(), "{percent} percent\n{summary}");
        assert_eq!(summary.bans, 0, "{percent} percent\n{summary}");
        let sent = outcome.seeder_bytes + outcome.host_bytes;
        assert!(sent >= scenario.build_size * 30, "{percent} percent\n{summary}");
        assert!(summary.wasted_share < 0.2, "{percent} percent\n{summary}");
    }
}

/// Goal: a run that is given up says how far it came.
/// Method: a limit at the bound itself, which no swarm reaches.
#[test]
fn run_past_its_limit_is_given_up() {
    let mut scenario = office(4);
    scenario.limit = scenario.bound().time;
    let (outcome, summary) = run(&scenario);
    assert!(!summary.is_good());
    assert!(summary.last_s.is_none());
    assert_eq!(outcome.completed_at.len(), 60);
}
