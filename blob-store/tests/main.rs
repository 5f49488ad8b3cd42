//! Real stores: folders, a real S3 server in this process, and a way to it that fails on demand.

#![allow(clippy::unwrap_used, reason = "tests; helper functions are not recognised as such")]

mod access;
mod faults;
mod kills;
mod publishing;
mod reading;
mod rig;
mod sweeping;
