//! The whole system as its users see it: real processes on loopback, real files, a real etcd.
//!
//! Each test has a folder and daemons of its own. Nothing here looks inside the processes: what
//! counts is what `shoal status` says, what lies on disk and what programs answer.

mod bad_builds;
mod bench;
mod demo;
mod deploys;
mod faults;
mod fetching;
mod goal_news;
mod halts;
mod inventory;
mod kills;
mod main_store;
mod metrics;
mod programs;
mod refusals;
mod reloads;
mod reuse;
mod safety;
mod self_update;
mod swaps;
mod waves;
