//! From a commit to a running fleet, end to end: the target of the project.
//!
//! One deploy: `region.rs` takes each region from its copy of the build to the last restart,
//! the swarm being a real [`Fleet`](crate::Fleet); `summary.rs` holds the timeline against the
//! deadline. Many deploys at once: `load.rs`, which shares links between them instead of
//! running a swarm for each. Invariant: everything is a function of the flags and the seed,
//! whatever the threads.

mod command;
mod digest;
mod load;
mod phases;
mod plan;
mod ranges;
mod ranks;
mod region;
mod summary;
mod waves;
mod workers;

pub use command::{Args, Ready};
pub use load::RunError;
pub use phases::Phase;
pub use plan::PlanError;
pub use ranges::{RangeError, RateRange, Share, WaveShares};
