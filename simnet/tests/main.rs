//! Whole fleets in one thread: the machines of p2p-core under the simulator's network.

#![allow(clippy::unwrap_used, reason = "tests")]

mod command;
mod determinism;
mod faults;
mod office;
mod picture;
mod racks;
mod snapshots;
mod sustained_load;
mod swarm;
mod thirty_minutes;
