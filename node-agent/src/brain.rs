//! What an app should do next, and why it does not: pure functions of what is wanted and what is.
//!
//! - `reconcile` gives the one step that brings an app closer to its goal, in the terms of
//!   `model`.
//! - `troubles` is the one list of what is wrong or waited for, which row, log, metrics and
//!   `explain` tell.
//! - `explain` turns that list into an answer for people.
//!
//! Nothing here waits, reads a clock, a file or the network, or remembers anything: after a crash
//! the loop of the app asks again with what it finds on disk.

pub(crate) mod explain;
pub(crate) mod model;
pub(crate) mod reconcile;
pub(crate) mod troubles;

pub use explain::Explanation;
pub use model::{Gate, Program, Programs, Swap};
