//! The agent's parts against real processes, real files and the real binary.
#![allow(clippy::unwrap_used, reason = "tests")]

mod app;
mod binary;
mod commands;
mod fake_systemd;
mod host;
mod local_source;
mod output;
mod rig;
mod self_update;
mod simulated;
mod strays;
mod supervisor;
mod tokens;
