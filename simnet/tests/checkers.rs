//! Checkers that see something wrong say so: each is put to a fleet that breaks its rule.

use std::time::Duration;

use p2p_core::Instant;
use shoal_simnet::checker::{
    Checker, EveryoneCompletes, NoEarlyServe, TablesWithinLimits, UploadsWithinLimit,
};
use shoal_simnet::{Faults, Fleet, Scenario};

use crate::office::{office, run};

/// What the checker says of a small office.
fn found_by(checker: impl Checker + 'static) -> Vec<String> {
    let mut fleet = Fleet::new(Scenario { hosts: 20, build_size: 20 << 20, ..office(1) });
    fleet.watch(checker);
    let outcome = fleet.run().unwrap();
    outcome.violations.iter().map(ToString::to_string).collect()
}

/// Goal: each rule can be broken, and whoever breaks it is named with time and node.
/// Method: limits one below what the machines are allowed; a seeder that is taken for a host.
#[test]
fn each_checker_finds_what_breaks_its_rule() {
    let one_upload = found_by(UploadsWithinLimit::new(21, 1));
    assert!(one_upload[0].contains("at most 1 chunks at once"), "{one_upload:?}");
    let early = found_by(NoEarlyServe::new(21, 0, 20));
    assert!(early[0].contains("before it is verified") && early[0].contains("n000000"));
    for table in
        ["neighbours", "requests", "uploads", "uploads waiting", "dials", "bytes asked for"]
    {
        let found = found_by(TablesWithinLimits::default().with_limit(table, 0));
        assert!(found[0].contains(&format!("at most 0 {table}")), "{found:?}");
    }
    let late = found_by(EveryoneCompletes::new(1..21, Instant::from_nanos(1)));
    assert_eq!(late.len(), 1, "{late:?}");
    assert!(late[0].contains("20 did not"), "{late:?}");
}

/// Goal: hosts that hang are a violation that names one of them, not only a run without an end.
/// Method: the tracker dies with the first chunk; who starts after that knows nobody and cannot.
#[test]
fn hosts_that_hang_break_the_rule_of_liveness() {
    let faults = Faults { trackers_die_at_percent: Some(0), ..Faults::default() };
    let join_within = Duration::from_secs(10);
    let scenario = Scenario { hosts: 20, build_size: 5 << 20, join_within, faults, ..office(2) };
    let (_, summary) = run(&scenario);
    assert!(!summary.is_good(), "{summary}");
    assert_eq!(summary.violations.len(), 1, "{summary}");
    assert!(summary.violations[0].contains("every live host completes"), "{summary}");
}
