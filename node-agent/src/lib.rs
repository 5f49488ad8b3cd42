//! The daemon of every host: follows the goals of its apps.
//!
//! - [`cli`]: the command line; a whole program. Start here to run an agent.
//! - [`Agent`]: the same as a library, configured by a [`Config`].
//! - [`App`]: the loop of one app, which asks [`reconcile`] (pure) what to do next and lets
//!   [`Supervisor`] run the program.
//!
//! An agent never needs the network to run what it has: goals, builds and the journal are on disk,
//! each file written whole and durable before it is acted on ([`durable`]).

mod agent;
mod app;
mod app_dir;
mod backoff;
mod bootstrap;
pub mod cli;
mod config;
mod control;
pub mod durable;
mod explain;
mod goals;
mod hook;
mod init;
mod launch;
mod output;
mod probe;
mod process;
pub mod reconcile;
mod reload;
pub mod service;
mod sockets;
mod source;
mod state;
mod status;
mod supervisor;
mod tokens;
mod watch_files;

pub use agent::Agent;
pub use app::{App, AppSettings, AppTimings, GoalView, OpenAppError};
pub use app_dir::{AppDir, Journal, JournalPhase, RunningRecord, SWITCHES_REMEMBERED_MAX};
pub use bootstrap::{Bootstrap, BootstrapError, BootstrapSource, Found, JoinToken};
pub use config::{
    AppConfig, BootstrapSettings, Config, ConfigError, FlagSetting, Inputs, Loaded, Origin, Swap,
};
pub use control::{
    AgentStatus, AppState, AskError, ControlClient, ControlError, ControlRequest, ControlServer,
    Refusal, Request, Response,
};
pub use explain::{
    Answer, CheckFacts, DownloadFacts, Explanation, GoalFacts, Paused, ProgramFacts, Quarantine,
    Reason, Situation,
};
pub use goals::{AcceptError, AcceptedGoal, AcceptedGoals, GoalRefusal};
pub use hook::{HOOK_TIMEOUT_DEFAULT, Hook, Hooks};
pub use init::{InitError, InitValues};
pub use launch::{GRACE_PERIOD_DEFAULT, Launch};
pub use output::{OUTPUT_BYTES_MAX, OutputLog};
pub use probe::{Health, Probe};
pub use process::{ProcessIdentity, find_by_environment};
pub use reload::Reload;
pub use sockets::SocketAddress;
pub use source::{BuildSource, LimitedNode, RunningDownload};
pub use state::StateDir;
pub use status::{Reporter, StatusBoard, StatusSink, now_ms};
pub use supervisor::{Supervisor, SupervisorTimings, Wake};
pub use tokens::{TokenDesk, TokenHold, TokenState, TokenWish};
pub use watch_files::{OnChange, WatchedFiles};
