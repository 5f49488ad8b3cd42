//! Checkers: each holds one rule over everything that happens in a fleet.
//!
//! A checker sees what was observed and nothing of the machines that it judges, so that a bug in
//! their own bookkeeping cannot hide itself. The one exception is the sizes of their tables.

use p2p_core::{Instant, TableSize};

use crate::queue::NodeIndex;
use crate::trace::Observation;

pub use self::everyone_completes::EveryoneCompletes;
pub use self::no_early_serve::NoEarlyServe;
pub use self::tables_within_limits::TablesWithinLimits;
pub use self::uploads_within_limit::UploadsWithinLimit;

mod everyone_completes;
mod no_early_serve;
mod tables_within_limits;
mod uploads_within_limit;

/// A rule.
pub trait Checker {
    /// Judges one step.
    ///
    /// # Errors
    ///
    /// If the step breaks the rule.
    fn observe(&mut self, step: &Observation) -> Result<(), Violation>;

    /// Judges how full the tables of a node are after an event.
    ///
    /// # Errors
    ///
    /// If one of them breaks the rule.
    fn look_at(
        &mut self,
        _at: Instant,
        _node: NodeIndex,
        _tables: &[TableSize],
    ) -> Result<(), Violation> {
        Ok(())
    }

    /// Judges the end of a run.
    ///
    /// # Errors
    ///
    /// If something that had to happen did not.
    fn finish(&mut self, _at: Instant) -> Result<(), Violation> {
        Ok(())
    }
}

/// A step that broke a rule.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{rule}: {step}")]
pub struct Violation {
    /// The rule, as a sentence.
    pub rule: String,
    /// The step.
    pub step: Observation,
}
