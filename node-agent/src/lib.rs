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
mod backoff;
mod brain;
pub mod cli;
mod config;
mod control;
mod fleet;
mod host;
mod process;
mod programs;
mod report;
pub mod self_update;
mod state;

pub use agent::Agent;
pub use agent::reload::Reload;
pub use app::settings::{AppOrder, AppParts, AppSettings, AppTimings, GoalView};
pub use app::{App, OpenAppError};
pub use brain::explain::{
    Answer, CheckFacts, DownloadFacts, Explanation, GoalFacts, ProgramFacts, Quarantine, Reason,
    Situation,
};
pub use brain::reconcile;
pub use brain::reconcile::Swap;
pub use cli::doctor::{Finding, Verdict, examine};
pub use cli::init::{InitError, InitValues};
pub use config::bootstrap::{Bootstrap, BootstrapError, BootstrapSource, Found, JoinToken};
pub use config::{
    AppConfig, BootstrapSettings, Config, ConfigError, FlagSetting, Inputs, Loaded, Origin,
};
pub use control::{
    AgentStatus, AppState, AskError, ControlClient, ControlError, ControlRequest, ControlServer,
    Refusal, Request, Response,
};
pub use fleet::source::{BuildSource, LimitedNode, RunningDownload};
pub use fleet::tokens::{
    LEASE_DEFAULT, SeederHold, SeederTokens, TokenDesk, TokenHold, TokenState, TokenWish,
};
pub use host::hook::{
    HOOK_OUTPUT_BYTES_MAX, HOOK_TIMEOUT_DEFAULT, Hook, HookFailure, HookFailureCause, HookOrder,
    HookOutput, Hooks, run as run_hook,
};
pub use host::launch::{GRACE_PERIOD_DEFAULT, Launch};
pub use host::mark::MarkKey;
pub use host::notify::{NotifyMessage, NotifySocket};
pub use host::probe::{
    Health, Probe, ProbeCaller, ProbeFailure, ProbeFailureCause, check as check_probe, check_as,
};
pub use host::real::{RealHost, RealProgram};
pub use host::runs_from::{RunsFrom, runs_from, why_runs_from};
pub use host::sockets::{HeldSockets, SocketAddress, SocketsError};
pub use host::unit::{Systemd, UnitError, UnitOrder, UnitState};
pub use host::user::{User, UserError};
pub use host::watch_files::{FileWatch, OnChange, WatchTimings, WatchedFiles};
pub use host::{Host, HostProcess, Notice, StartOrder, Stray};
pub use process::{ProcessIdentity, find_by_environment};
pub use programs::flood::OUTPUT_WINDOW;
pub use programs::health_watch::Check;
pub use programs::output::{Look, OUTPUT_BYTES_MAX, OutputLog};
pub use programs::supervisor::{
    OutputCounts, ProgramSettings, Supervisor, SupervisorTimings, Wake,
};
pub use report::counts::{AppCounts, CountBoard};
pub use report::metrics::{MetricsServer, MetricsSource};
pub use report::service;
pub use report::status::{Reporter, StatusBoard, StatusSink};
pub use self_update::own_agent::OwnAgent;
pub use state::StateDir;
pub use state::app_dir::{
    AppDir, FailedBuild, Journal, JournalPhase, Paused, Place, RunningRecord,
    SWITCHES_REMEMBERED_MAX,
};
pub use state::durable;
pub use state::goals::{AcceptError, AcceptedGoal, AcceptedGoals, GoalRefusal};
