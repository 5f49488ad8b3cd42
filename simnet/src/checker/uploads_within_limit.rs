//! Rule: no node sends more chunks at once than its configuration allows.
//!
//! Counted from what was observed, not from the table of the node that is judged.

use crate::checker::{Checker, Violation};
use crate::trace::{Observation, StepKind};

/// Counts the chunks being sent by each node.
#[derive(Debug)]
pub struct UploadsWithinLimit {
    uploads_max: u32,
    active: Vec<u32>,
}

impl UploadsWithinLimit {
    /// For `nodes` nodes that may send `uploads_max` chunks at once.
    pub fn new(nodes: u32, uploads_max: u32) -> Self {
        Self { uploads_max, active: vec![0; nodes as usize] }
    }
}

impl Checker for UploadsWithinLimit {
    fn observe(&mut self, step: &Observation) -> Result<(), Violation> {
        let active = &mut self.active[step.node as usize];
        match step.kind {
            StepKind::Serve => *active += 1,
            // What a node sent before it crashed may end after it: the crash counted it already.
            StepKind::ServeEnded => *active = active.saturating_sub(1),
            StepKind::Crash => *active = 0,
            _ => {}
        }
        if *active > self.uploads_max {
            let rule = format!("a node sends at most {} chunks at once", self.uploads_max);
            return Err(Violation { rule, step: *step });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::Instant;

    use super::*;

    #[test]
    fn limit_is_held_per_node_and_past_it_is_a_violation() {
        let step =
            |node, kind| Observation { at: Instant::ZERO, node, kind, peer: None, chunk: Some(0) };
        let mut checker = UploadsWithinLimit::new(2, 1);
        assert_eq!(checker.observe(&step(0, StepKind::Serve)), Ok(()));
        assert_eq!(checker.observe(&step(1, StepKind::Serve)), Ok(()));
        assert_eq!(checker.observe(&step(0, StepKind::ServeEnded)), Ok(()));
        assert_eq!(checker.observe(&step(0, StepKind::Serve)), Ok(()));
        assert!(checker.observe(&step(0, StepKind::Serve)).is_err());
        assert_eq!(checker.observe(&step(0, StepKind::Crash)), Ok(()));
        assert_eq!(checker.observe(&step(0, StepKind::Serve)), Ok(()));
    }
}
