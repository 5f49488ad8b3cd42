//! What an app should do next, and why it does not: pure functions of what is wanted and what is.
//!
//! - `reconcile` gives the one step that brings an app closer to its goal, in the terms of
//!   `model`.
//! - `explain` turns what the agent knows into reasons and next steps for people.
//!
//! Nothing here waits, reads a clock, a file or the network, or remembers anything: after a crash
//! the loop of the app asks again with what it finds on disk.

pub(crate) mod explain;
pub(crate) mod model;
pub(crate) mod reconcile;

pub use explain::{Answer, Explanation, Situation};
pub use model::{Gate, Program, Programs, Swap};
