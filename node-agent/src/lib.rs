//! The daemon of every host: follows the goals of its apps.
//!
//! [`cli`] is the whole program and all that another crate needs. The other rooms are public for
//! the tests of this crate only, which drive them one by one: [`app`] is the loop of one app, which
//! asks [`brain`] (pure) what to do next and lets [`programs`] run that.
//!
//! Imports run downwards: `cli`, `agent`, `control`, `app`, `self_update`, then `config` and
//! `programs`, then `host` and `brain`, then `state`, `fleet` and `report`, then `process` and
//! `backoff`. Rooms named together do not know each other.
//!
//! An agent never needs the network to run what it has: goals, builds and the journal are on disk,
//! each file written whole and durable before it is acted on ([`state`]).

mod agent;
pub mod app;
mod backoff;
pub mod brain;
pub mod cli;
pub mod config;
pub mod control;
pub mod fleet;
pub mod host;
pub mod process;
pub mod programs;
pub mod report;
mod self_update;
pub mod state;
