//! Rule: no chunk is sent by a node before its bytes were found right there.
//!
//! Counted from what was observed, not from the set of the node that is judged.

use crate::checker::{Checker, Violation};
use crate::queue::NodeIndex;
use crate::trace::{Observation, StepKind};

/// Holds the rule with a bit per node and chunk.
#[derive(Debug)]
pub struct NoEarlyServe {
    chunk_count: usize,
    /// Nodes below this number have everything from the start.
    seeders: NodeIndex,
    stored: Vec<u64>,
}

impl NoEarlyServe {
    /// For `nodes` nodes of which the first `seeders` have all of `chunk_count` chunks.
    pub fn new(nodes: u32, seeders: u32, chunk_count: u32) -> Self {
        let bits = nodes as usize * chunk_count as usize;
        Self { chunk_count: chunk_count as usize, seeders, stored: vec![0; bits.div_ceil(64)] }
    }

    fn place_of(&self, step: &Observation) -> Option<(usize, u64)> {
        let bit = step.node as usize * self.chunk_count + step.chunk? as usize;
        Some((bit / 64, 1 << (bit % 64)))
    }
}

impl Checker for NoEarlyServe {
    fn observe(&mut self, step: &Observation) -> Result<(), Violation> {
        let Some((word, bit)) = self.place_of(step) else { return Ok(()) };
        match step.kind {
            StepKind::Stored => self.stored[word] |= bit,
            StepKind::Serve if step.node >= self.seeders && self.stored[word] & bit == 0 => {
                let rule = "no chunk is served before it is verified".to_owned();
                return Err(Violation { rule, step: *step });
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::Instant;

    use super::*;

    #[test]
    fn chunk_may_be_served_by_whom_it_was_stored() {
        let step = |node, kind, chunk| Observation {
            at: Instant::ZERO,
            node,
            kind,
            peer: Some(0),
            chunk: Some(chunk),
        };
        let mut checker = NoEarlyServe::new(3, 1, 70);
        assert_eq!(checker.observe(&step(0, StepKind::Serve, 5)), Ok(()), "a seeder");
        assert_eq!(checker.observe(&step(1, StepKind::Stored, 65)), Ok(()));
        assert_eq!(checker.observe(&step(1, StepKind::Serve, 65)), Ok(()));
        assert!(checker.observe(&step(1, StepKind::Serve, 64)).is_err(), "another chunk");
        assert!(checker.observe(&step(2, StepKind::Serve, 65)).is_err(), "another node");
    }
}
