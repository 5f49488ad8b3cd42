//! Rule: every live and honest host completes within some time after everything
//! that heals has healed.
//!
//! The liveness phase. Until the faults have healed, a host may hang for as long as it likes; the
//! other rules check that nothing wrong happens meanwhile.

use std::collections::BTreeSet;

use p2p_core::Instant;

use crate::checker::{Checker, Violation};
use crate::queue::NodeIndex;
use crate::trace::{Observation, StepKind};

/// Checks the rule by the set of hosts that must complete and have not yet.
#[derive(Debug)]
pub struct EveryoneCompletes {
    missing: BTreeSet<NodeIndex>,
    until: Instant,
    is_reported: bool,
}

impl EveryoneCompletes {
    /// For these hosts, until then.
    pub fn new(hosts: impl IntoIterator<Item = NodeIndex>, until: Instant) -> Self {
        Self { missing: hosts.into_iter().collect(), until, is_reported: false }
    }
}

impl Checker for EveryoneCompletes {
    fn observe(&mut self, step: &Observation) -> Result<(), Violation> {
        let outcome = self.finish(step.at);
        match step.kind {
            StepKind::Complete | StepKind::Vanish => drop(self.missing.remove(&step.node)),
            _ => {}
        }
        outcome
    }

    fn finish(&mut self, at: Instant) -> Result<(), Violation> {
        let Some(first) = self.missing.first().filter(|_| at > self.until && !self.is_reported)
        else {
            return Ok(());
        };
        let (until, count) = (self.until.since(Instant::ZERO), self.missing.len());
        let rule = format!(
            "every live host completes within {until:?}, when all faults have healed for long; \
             {count} did not, this is one of them"
        );
        let step = Observation { at, node: *first, kind: StepKind::End, peer: None, chunk: None };
        self.is_reported = true;
        Err(Violation { rule, step })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(at: u64, node: NodeIndex, kind: StepKind) -> Observation {
        Observation { at: Instant::from_nanos(at), node, kind, peer: None, chunk: None }
    }

    #[test]
    fn who_is_missing_after_the_time_is_reported_once() {
        let mut checker = EveryoneCompletes::new([3, 4, 5], Instant::from_nanos(10));
        assert_eq!(checker.observe(&step(9, 3, StepKind::Complete)), Ok(()));
        assert_eq!(checker.observe(&step(9, 4, StepKind::Vanish)), Ok(()));
        assert_eq!(checker.finish(Instant::from_nanos(10)), Ok(()), "given up before its time");
        let violation = checker.observe(&step(11, 3, StepKind::Wake)).unwrap_err();
        assert_eq!(violation.step.node, 5);
        assert!(violation.rule.contains("1 did not"), "{violation}");
        assert_eq!(checker.finish(Instant::from_nanos(12)), Ok(()));
    }

    #[test]
    fn nobody_is_missing_when_all_are_done() {
        let mut checker = EveryoneCompletes::new([3], Instant::from_nanos(10));
        assert_eq!(checker.observe(&step(9, 3, StepKind::Complete)), Ok(()));
        assert_eq!(checker.finish(Instant::from_nanos(99)), Ok(()));
    }
}
