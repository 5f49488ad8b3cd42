//! The daemon of every region: serves a store of builds, is tracker for their swarms, and carries
//! hosts' reports to the goal store.
//!
//! - [`Seeder`]: a seeder inside a program. Start here.
//! - [`cli`]: the same as a process, behind `shoal-seeder`.
//!
//! Inside: `catalog` has which builds are served, `tokens` which hosts may be down, `status_relay`
//! what hosts reported, cut into documents for the goal store, `goal_relay` what hosts are told of
//! goals, `judge` whether rollouts go on. These decide and do no IO; `daemon`, `relay` with
//! `inventory_disk`, `goal_teller`, `token_server` and `judging` carry out.

mod catalog;
pub mod cli;
mod daemon;
mod goal_relay;
mod goal_teller;
mod inventory_disk;
mod judge;
mod judging;
mod limits_file;
mod relay;
mod status_relay;
mod token_server;
mod tokens;

pub use daemon::{Seeder, SeederConfig, SeederError};
