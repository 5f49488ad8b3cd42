//! Checkers: each holds one rule over everything that happens in a fleet.
//!
//! A checker sees what was observed and nothing of the machines that it judges, so that a bug in
//! their own bookkeeping cannot hide itself.

use crate::trace::Observation;

pub use self::no_early_serve::NoEarlyServe;
pub use self::uploads_within_limit::UploadsWithinLimit;

mod no_early_serve;
mod uploads_within_limit;

/// A rule.
pub trait Checker {
    /// Judges one step.
    ///
    /// # Errors
    ///
    /// If the step breaks the rule.
    fn observe(&mut self, step: &Observation) -> Result<(), Violation>;
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
