//! Racks behind narrow uplinks, and a seeder behind a wide one: bytes must not cross
//! either for nothing.

use std::time::Duration;

use p2p_core::ByteRate;

use shoal_simnet::{Crashes, Faults, Scenario, Summary};

use crate::office::{office, run};

/// Four racks of twenty hosts, and a quarter of what they can send for each uplink.
fn racks(seed: u64) -> Scenario {
    let rack_rate = ByteRate::new(625_000_000);
    Scenario { hosts: 80, racks: 4, rack_rate, build_size: 40 << 20, ..office(seed) }
}

/// The most that came into a rack, in copies of the build.
fn most_into_a_rack(summary: &Summary) -> f64 {
    summary.rack_copies_in_worst.unwrap()
}

/// Goal: a chunk crosses the uplink of a rack about once, and nobody waits for that. Method: the
/// same fleet without racks, whose hosts take chunks from anywhere, as the measure of time.
#[test]
fn chunks_cross_the_uplink_of_a_rack_about_once() {
    let scenario = racks(1);
    let (outcome, summary) = run(&scenario);
    assert!(summary.is_good(), "{summary}");
    assert!(most_into_a_rack(&summary) <= 1.5, "{summary}");
    assert!(outcome.rack_bytes.iter().all(|(into, _)| *into >= scenario.build_size), "{summary}");
    assert_eq!(summary.bans, 0, "{summary}");

    let (_, flat) = run(&Scenario { racks: 0, rack_rate: None, ..scenario });
    assert!(summary.last_s.unwrap() <= flat.last_s.unwrap() * 1.3, "{summary}\n\n{flat}");
}

/// Goal: a host that dies takes along what it claimed, and its rack gets that all the same.
/// Method: a tenth of the hosts crash and return; the uplinks carry again what was with them only.
#[test]
fn racks_complete_although_claimants_crash() {
    let crashes = Some(Crashes { percent: 10, downtime: Duration::from_secs(2) });
    let faults = Faults { crashes, ..Faults::default() };
    let (_, summary) = run(&Scenario { faults, ..racks(3) });
    assert!(summary.is_good(), "{summary}");
    assert!(most_into_a_rack(&summary) <= 2.5, "{summary}");
    assert_eq!(summary.bans, 0, "{summary}");
}

/// Goal: the limit on copies out of the seeder holds when it is ten times faster than a host, at no
/// more than a twentieth of the time. Method: a seeder that hardly keeps chunks back, with a limit
/// of one copy and with none that matters.
#[test]
fn copies_out_of_a_fast_seeder_are_limited() {
    let with_limit = |copies_max| {
        let mut scenario = office(1);
        scenario.seeder_rate = ByteRate::new(1_250_000_000).unwrap();
        let seeder = &mut scenario.settings.seeder;
        (seeder.reserve_min, seeder.reserve_factor) = (Duration::from_millis(1), 1);
        seeder.copies_max = copies_max;
        run(&scenario).1
    };
    let (limited, free) = (with_limit(1), with_limit(1_000));
    assert!(limited.is_good() && free.is_good(), "{limited}\n\n{free}");
    assert!(free.seeder_copies > 1.3, "the limit has nothing to hold\n{free}");
    assert!(limited.seeder_copies < 1.01, "{limited}");
    assert!(limited.last_s.unwrap() <= free.last_s.unwrap() * 1.05, "{limited}\n\n{free}");
}
