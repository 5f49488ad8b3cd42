//! A run is a function of its scenario and seed.

use std::time::Duration;

use shoal_simnet::{Crashes, Faults, Loss, Scenario};

use crate::office::{office, run};

/// Everything that can be drawn from a seed at once.
fn busy(seed: u64) -> Scenario {
    let crashes = Some(Crashes { percent: 10, downtime: Duration::from_secs(3) });
    let faults = Faults {
        crashes,
        vanish_percent: 2,
        slow_percent: 2,
        slow_disk_percent: 2,
        asymmetric_percent: 5,
        loss: Some(Loss { percent: 10, lost_percent: 2 }),
        liars_percent: 4,
        late_percent: 0,
        rack_outage: Some(Duration::from_secs(2)),
        zone_outage: Some(Duration::from_secs(1)),
        trackers_die_at_percent: Some(30),
        seeders_die_after_first_copy: true,
    };
    Scenario { racks: 4, zones: 2, join_within: Duration::from_millis(200), faults, ..office(seed) }
}

/// Goal: every failure can be replayed. Method: one scenario with every fault, twice; the digests
/// cover every step of every node in order.
#[test]
fn equal_seeds_give_equal_traces() {
    let (first, _) = run(&busy(7));
    let (second, _) = run(&busy(7));
    assert_eq!(first.trace_digest, second.trace_digest);
    assert_eq!(first.completed_at, second.completed_at);
    assert!(first.trace_steps > 10_000, "{} steps", first.trace_steps);
}

/// Goal: the seed reaches every choice.
#[test]
fn another_seed_gives_another_trace() {
    let (first, _) = run(&busy(7));
    let (second, _) = run(&busy(8));
    assert_ne!(first.trace_digest, second.trace_digest);
}

/// Goal: watching changes nothing.
/// Method: a run under checkers against one without.
#[test]
fn checkers_do_not_change_the_run() {
    let (watched, _) = run(&busy(9));
    let alone = shoal_simnet::Fleet::new(busy(9)).run().unwrap();
    assert_eq!(watched.trace_digest, alone.trace_digest);
}
