//! The agent's parts against real processes, real files and the real binary.
#![allow(clippy::unwrap_used, reason = "tests")]

mod app;
mod binary;
mod commands;
mod local_source;
mod rig;
mod supervisor;
