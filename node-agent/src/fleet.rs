//! What is asked of other machines: builds (`source`) and permission to be down (`tokens`), as
//! traits with their one real implementation each for an app's loop; and the goals, where the
//! seeders tell them (`goals`).
//!
//! No answer from here is ever needed to finish a switch that has begun, or to run what is on disk.

pub(crate) mod goals;
pub(crate) mod source;
pub(crate) mod tokens;

pub use source::{BuildSource, RunningDownload};
pub use tokens::{SeederHold, SeederTokens, TokenDesk, TokenHold, TokenState, TokenWish};
