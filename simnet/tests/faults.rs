//! Fleets in which something goes wrong. Every host that lives must have the build in the end, and
//! no rule may be broken on the way: `run` puts every checker to work.

use std::time::Duration;

use p2p_core::ByteRate;
use shoal_simnet::{Crashes, Faults, Loss, Scenario, Summary};

use crate::office::{office, run};

/// The office in six racks and two zones.
fn campus(seed: u64, faults: Faults) -> Scenario {
    Scenario { racks: 6, zones: 2, faults, ..office(seed) }
}

fn crashes(percent: u32, seconds: u64) -> Crashes {
    Crashes { percent, downtime: Duration::from_secs(seconds) }
}

/// Runs a campus; everybody completes and, unless somebody lies, nobody is banned.
fn completes(seed: u64, faults: Faults) -> Summary {
    let (_, summary) = run(&campus(seed, faults));
    assert!(summary.is_good(), "seed {seed}, {faults:?}\n{summary}");
    if faults.liars_percent == 0 {
        assert_eq!(summary.bans, 0, "seed {seed}, {faults:?}\n{summary}");
    }
    summary
}

fn last(summary: &Summary) -> f64 {
    summary.last_s.unwrap()
}

/// Goal: hosts that crash and return complete, with what they had stored.
/// Method: one host in twenty crashes once within the bound, and is back before the others have
/// noticed, or long after.
#[test]
fn hosts_that_crash_and_return_complete() {
    for downtime in [2, 30] {
        completes(11, Faults { crashes: Some(crashes(5, downtime)), ..Faults::default() });
    }
}

/// Goal: one copy is enough: what the hosts have between them reaches all of them.
/// Method: the seeder dies, and its tracker with it, when the hosts together have every chunk.
#[test]
fn fleet_completes_without_the_seeder_after_its_first_copy() {
    let summary = completes(12, Faults { seeders_die_after_first_copy: true, ..Faults::default() });
    assert!(summary.seeder_copies < 2.0, "{summary}");
}

/// Goal: trackers are needed to find each other, and for nothing after that.
/// Method: the tracker dies when the hosts have thirty percent of all chunks.
#[test]
fn fleet_completes_without_its_tracker() {
    completes(13, Faults { trackers_die_at_percent: Some(30), ..Faults::default() });
}

/// Goal: a host that returns when the tracker is gone finds its neighbours by what it remembers,
/// and the fleet loses little time.
/// Method: 5 % crash and return after a second, 1 % never return, the tracker dies at 30 %; against
/// the same fleet without faults. Links are slow enough for a crash to be a small part of the time.
#[test]
fn fleet_survives_crashes_without_its_tracker() {
    let faults = Faults {
        crashes: Some(crashes(5, 1)),
        vanish_percent: 1,
        trackers_die_at_percent: Some(30),
        ..Faults::default()
    };
    let rate = ByteRate::new(12_500_000).unwrap();
    let scenario = |faults| Scenario { host_rate: rate, seeder_rate: rate, faults, ..office(14) };
    let (_, without) = run(&scenario(Faults::default()));
    let (_, with) = run(&scenario(faults));
    assert!(with.is_good(), "{with}");
    assert_eq!((with.not_awaited, with.completed), (1, 59), "{with}");
    assert!(last(&with) <= 1.25 * last(&without), "{with}\nagainst\n{without}");
}

/// Goal: hosts that die for good take nothing with them that others need.
#[test]
fn hosts_that_never_return_are_not_missed() {
    let summary = completes(15, Faults { vanish_percent: 20, ..Faults::default() });
    assert_eq!((summary.not_awaited, summary.completed), (12, 48), "{summary}");
}

/// Goal: slow machines are late themselves and hold up nobody else.
/// Method: the median host against a fleet without them; the slowest takes no more than its own
/// rate makes it.
#[test]
fn slow_hosts_hold_up_nobody_else() {
    let even = completes(16, Faults::default());
    let slow = completes(16, Faults { slow_percent: 5, slow_disk_percent: 5, ..Faults::default() });
    assert!(slow.p50_s.unwrap() < 1.6 * even.p50_s.unwrap(), "{slow}\nagainst\n{even}");
    assert!(last(&slow) > 3.0 * last(&even), "nobody was slow\n{slow}");
    assert!(last(&slow) < 10.0 * last(&even), "{slow}\nagainst\n{even}");
}

/// Goal: hosts that can send little receive no less for it.
#[test]
fn asymmetric_hosts_complete_with_the_others() {
    let even = completes(17, Faults::default());
    let thin = completes(17, Faults { asymmetric_percent: 20, ..Faults::default() });
    assert!(last(&thin) > last(&even), "{thin}\nagainst\n{even}");
    assert!(last(&thin) < 2.5 * last(&even), "{thin}\nagainst\n{even}");
}

/// Goal: loss costs what the links lose and no more.
#[test]
fn lossy_links_slow_the_fleet_and_do_not_stop_it() {
    let even = completes(18, Faults::default());
    let loss = Some(Loss { percent: 30, lost_percent: 3 });
    let lossy = completes(18, Faults { loss, ..Faults::default() });
    assert!(last(&lossy) > 1.2 * last(&even), "nothing was lost\n{lossy}");
    assert!(last(&lossy) < 5.0 * last(&even), "{lossy}\nagainst\n{even}");
}

/// Goal: liars cost a few chunks each, are banned if they send wrong bytes, and hold up nobody.
/// Method: the time that a host waits for one that never answers, and a little more.
#[test]
fn liars_do_not_keep_others_from_the_build() {
    for seed in [19, 20, 21] {
        let summary = completes(seed, Faults { liars_percent: 10, ..Faults::default() });
        assert_eq!(summary.not_awaited, 6, "{summary}");
        assert!(summary.bans > 0, "nobody found out\n{summary}");
        assert!(last(&summary) < 15.0, "seed {seed}\n{summary}");
    }
}

/// Goal: who comes when all others are done is served by them.
#[test]
fn late_hosts_complete() {
    let summary = completes(22, Faults { late_percent: 10, ..Faults::default() });
    assert!(summary.seeder_copies < 2.0, "{summary}");
    assert!(last(&summary) > summary.bound_s, "nobody was late\n{summary}");
}

/// Goal: a crowd that comes within a second does not bury the seeder under requests.
/// Method: all at once; refusals of the whole fleet against its chunks.
#[test]
fn flash_crowd_completes() {
    let scenario = Scenario { join_within: Duration::from_secs(1), ..office(23) };
    let (_, summary) = run(&scenario);
    assert!(summary.is_good(), "{summary}");
}

/// Goal: a rack that is cut off for a while is back soon after, whether or not
/// its connections lived.
/// Method: an outage shorter than the idle time of connections, and one longer than it.
#[test]
fn rack_that_was_cut_off_completes_soon_after() {
    for seconds in [3, 20] {
        let rack_outage = Some(Duration::from_secs(seconds));
        let summary = completes(24, Faults { rack_outage, ..Faults::default() });
        let (last, outage) = (last(&summary), f64::from(u32::try_from(seconds).unwrap()));
        assert!(last > outage, "nobody was cut off\n{summary}");
        assert!(last < outage + 35.0, "{summary}");
    }
}

/// Goal: half a fleet that was alone finds the other half again, without tracker
/// and seeder as well.
#[test]
fn zone_that_was_cut_off_completes_soon_after() {
    for seeders_die_after_first_copy in [false, true] {
        let zone_outage = Some(Duration::from_secs(20));
        let faults = Faults { zone_outage, seeders_die_after_first_copy, ..Faults::default() };
        let summary = completes(25, faults);
        assert!((20.0..55.0).contains(&last(&summary)), "{summary}");
    }
}

/// Goal: kinds of faults that nobody thought of together are survived together.
/// Method: some seeds, each of which switches kinds on and off; a failure prints its seed.
#[test]
fn drawn_faults_are_survived() {
    for seed in 100..106 {
        let scenario = campus(seed, Faults::drawn(seed, (6, 2)));
        let (_, summary) = run(&Scenario { hosts: 30, build_size: 30 << 20, ..scenario.clone() });
        assert!(summary.is_good(), "seed {seed}, {:?}\n{summary}", scenario.faults);
    }
}

/// Goal: every seeder is used, also by hosts that list another one first.
/// Method: two seeders at half the rate of a host each; the time says whether both serve.
#[test]
fn second_seeder_is_used() {
    let half = ByteRate::new(62_500_000).unwrap();
    let (_, one) = run(&Scenario { seeder_rate: half, ..office(26) });
    let (_, two) = run(&Scenario { seeder_rate: half, seeders: 2, ..office(26) });
    assert!(two.is_good(), "{two}");
    assert!(last(&two) < 0.8 * last(&one), "{two}\nagainst\n{one}");
}
