//! The agent's parts against real processes, real files and the real binary.
#![allow(clippy::unwrap_used, reason = "tests")]

mod app;
mod app_rig;
mod app_swaps;
mod app_units;
mod binary;
mod commands;
mod fake_systemd;
mod hook;
mod launch;
mod local_source;
mod notify;
mod output;
mod probe;
mod rig;
mod runs_from;
mod self_update;
mod simulated;
mod sockets;
mod strays;
mod supervisor;
mod tokens;
mod unit;
mod watch_files;
