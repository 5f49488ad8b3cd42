//! What an app's loop asks of other machines, as traits with their one real implementation each:
//! builds (`source`) and permission to be down (`tokens`).
//!
//! No answer from here is ever needed to finish a switch that has begun, or to run what is on disk.

pub(crate) mod source;
pub(crate) mod tokens;

pub use source::{BuildSource, RunningDownload};
pub use tokens::{SeederHold, SeederTokens, TokenDesk, TokenHold, TokenState, TokenWish};
