//! Runs the real state machines of `p2p-core` for whole fleets, in one thread and without a clock.
//!
//! A [`Scenario`] says what the fleet is and what befalls it, a [`Fleet`] lives through it, a
//! [`Summary`] says how it went. Invariant: what happens is a function of the scenario and its seed
//! alone; nothing here reads a clock except `report.rs`, and floats exist only where numbers are
//! put before people. What the model leaves out is written in `docs/simulator.md`.

#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]

mod bound;
pub mod buckets;
pub mod checker;
mod faults;
pub mod flags;
mod fleet;
mod load;
mod network;
mod node;
pub mod output_file;
pub mod plot;
mod queue;
pub mod report;
mod scenario;
mod slab;
pub mod sweep;
pub mod thirty_minutes;
mod trace;

pub use faults::{Crashes, Faults, Loss};
pub use flags::settings::{SettingError, Settings};
pub use fleet::{Counts, Fleet, Outcome, Record};
pub use load::WorstLoad;
pub use network::{LINK_CLASSES, LinkClass, LinkUse};
pub use queue::NodeIndex;
pub use report::Summary;
pub use scenario::{Bound, BoundKind, Scenario, ScenarioError};
pub use trace::{Observation, StepKind, TraceDigest};
