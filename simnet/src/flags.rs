//! What people write on the command line of the simulator, and how it is read: rates that every
//! command takes, single fields of the protocol's configuration, durations and sizes.
//!
//! Nothing here knows what a scenario is: a value that is read here gets its meaning from the
//! command that asked for it.

pub mod rates;
pub(crate) mod settings;
pub mod units;
