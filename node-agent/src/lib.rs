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
mod app_settings;
mod backoff;
mod bootstrap;
pub mod cli;
mod config;
mod control;
mod control_desk;
mod doctor;
pub mod durable;
mod explain;
mod flood;
mod goals;
mod health_watch;
mod hook;
mod hook_runner;
mod host;
mod init;
mod instance;
mod launch;
mod mark;
mod metrics;
mod notify;
mod output;
mod output_watch;
mod own_agent;
mod probe;
mod process;
mod real_host;
pub mod reconcile;
mod reload;
mod runs_from;
pub mod self_update;
pub mod service;
mod sockets;
mod source;
mod state;
mod status;
mod supervisor;
mod tokens;
mod trouble;
mod unit;
mod unit_program;
mod user;
mod watch_files;

pub use agent::Agent;
pub use app::{App, OpenAppError};
pub use app_dir::{
    AppDir, FailedBuild, Journal, JournalPhase, Place, RunningRecord, SWITCHES_REMEMBERED_MAX,
};
pub use app_settings::{AppOrder, AppParts, AppSettings, AppTimings, GoalView};
pub use bootstrap::{Bootstrap, BootstrapError, BootstrapSource, Found, JoinToken};
pub use config::{
    AppConfig, BootstrapSettings, Config, ConfigError, FlagSetting, Inputs, Loaded, Origin, Swap,
};
pub use control::{
    AgentStatus, AppState, AskError, ControlClient, ControlError, ControlRequest, ControlServer,
    Refusal, Request, Response,
};
pub use doctor::{Finding, Verdict, examine};
pub use explain::{
    Answer, CheckFacts, DownloadFacts, Explanation, GoalFacts, Paused, ProgramFacts, Quarantine,
    Reason, Situation,
};
pub use flood::OUTPUT_WINDOW;
pub use goals::{AcceptError, AcceptedGoal, AcceptedGoals, GoalRefusal};
pub use health_watch::Check;
pub use hook::{
    HOOK_OUTPUT_BYTES_MAX, HOOK_TIMEOUT_DEFAULT, Hook, HookFailure, HookFailureCause, HookOrder,
    HookOutput, Hooks, run as run_hook,
};
pub use host::{Host, HostProcess, Notice, StartOrder, Stray};
pub use init::{InitError, InitValues};
pub use launch::{GRACE_PERIOD_DEFAULT, Launch};
pub use mark::MarkKey;
pub use metrics::{AppCounts, CountBoard, MetricsServer, MetricsSource};
pub use notify::{NotifyMessage, NotifySocket};
pub use output::{Look, OUTPUT_BYTES_MAX, OutputLog};
pub use own_agent::OwnAgent;
pub use probe::{
    Health, Probe, ProbeCaller, ProbeFailure, ProbeFailureCause, check as check_probe, check_as,
};
pub use process::{ProcessIdentity, find_by_environment};
pub use real_host::{RealHost, RealProgram};
pub use reload::Reload;
pub use runs_from::{RunsFrom, runs_from, why_runs_from};
pub use sockets::{HeldSockets, SocketAddress, SocketsError};
pub use source::{BuildSource, LimitedNode, RunningDownload};
pub use state::StateDir;
pub use status::{Reporter, StatusBoard, StatusSink, now_ms};
pub use supervisor::{OutputCounts, ProgramSettings, Supervisor, SupervisorTimings, Wake};
pub use tokens::{
    LEASE_DEFAULT, SeederHold, SeederTokens, TokenDesk, TokenHold, TokenState, TokenWish,
};
pub use unit::{Systemd, UnitError, UnitOrder, UnitState};
pub use user::{User, UserError};
pub use watch_files::{FileWatch, OnChange, WatchTimings, WatchedFiles};
