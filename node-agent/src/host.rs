//! Everything that an app's loop does to the machine besides its files: programs, probes, hooks and
//! the wall clock, as traits.
//!
//! They exist so that the loop can run on a simulated machine. Files go through the crate `disk`,
//! which can be watched and stopped; time goes through tokio, whose clock can be paused. This file
//! decides nothing; `crate::host::real` is the one implementation outside tests.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::process::ProcessIdentity;
use crate::state::app_dir::{AppDir, Place, RunningRecord};

pub(crate) mod executable;
pub(crate) mod hook;
pub(crate) mod launch;
pub(crate) mod mark;
pub(crate) mod notify;
pub(crate) mod preflight;
pub(crate) mod probe;
pub(crate) mod real;
pub(crate) mod runs_from;
pub(crate) mod sockets;
pub(crate) mod start;
pub(crate) mod unit;
pub(crate) mod unit_program;
pub(crate) mod user;
pub(crate) mod watch_files;

pub use executable::{Executable, Obstacle};
pub use hook::{
    HOOK_OUTPUT_BYTES_MAX, Hook, HookFailure, HookFailureCause, HookOrder, HookOutput, Hooks,
    run as run_hook,
};
pub use launch::Launch;
pub use mark::MarkKey;
pub use notify::{NotifyMessage, NotifySocket};
pub use preflight::{CannotStart, Preflight};
pub use probe::{
    AfterGood, Health, Probe, ProbeCaller, ProbeFailure, ProbeFailureCause, check as check_probe,
    check_as,
};
pub use real::{RealHost, RealProgram};
pub use runs_from::{RunsFrom, runs_from, why_runs_from};
pub use sockets::{HeldSockets, SocketAddress, SocketsError};
pub use start::{Recipe, Started, start_through, starter};
pub use unit::{Systemd, UnitError, UnitOrder, UnitState};
pub use user::UserError;
pub use watch_files::{FileWatch, OnChange, WatchTimings, WatchedFiles};

/// The machine, as one app uses it.
pub trait Host: fmt::Debug + Send + 'static {
    /// A program that was started or found.
    type Process: HostProcess;

    /// Milliseconds since 1970 by the machine's clock, which may jump. For people and for reports;
    /// nothing waits by it.
    fn now_ms(&self) -> u64;

    /// Starts a program.
    ///
    /// # Errors
    ///
    /// If it cannot be started; nothing of it runs then.
    fn start(&mut self, order: StartOrder<'_>) -> Result<Self::Process, StartError>;

    /// The program of `record`, whose build's files are in `root`, if any process of it still runs.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    fn find(
        &mut self,
        record: &RunningRecord,
        app: &AppDir,
        root: &Path,
    ) -> io::Result<Option<Self::Process>>;

    /// The running programs of the app that an agent of its directory started, recorded or not.
    /// Units of systemd are not among them.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    fn find_all(&mut self, app: &AppDir) -> io::Result<Vec<Stray>>;

    /// Finds out whether a build could start, without starting anything.
    ///
    /// # Errors
    ///
    /// What keeps it from starting.
    fn preflight(&self, preflight: &Preflight<'_>) -> Result<(), CannotStart>;

    /// Asks a program whether it is healthy.
    ///
    /// # Errors
    ///
    /// If the answer is not good, or does not come within `timeout`.
    fn check(
        &self,
        probe: &Probe,
        root: &Path,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), ProbeFailure>> + Send + 'static;

    /// Runs a hook.
    ///
    /// # Errors
    ///
    /// If it cannot be run, does not end in time, or fails.
    fn run_hook(
        &self,
        order: HookOrder,
    ) -> impl Future<Output = Result<(), HookFailure>> + Send + 'static;
}

/// What is to be started.
#[derive(Debug)]
pub struct StartOrder<'a> {
    /// The app's directory.
    pub app: &'a AppDir,
    /// What the operator configured.
    pub launch: &'a Launch,
    /// For which place.
    pub place: Place,
    /// What is known of the start; the files of its build are in `root`.
    pub record: &'a RunningRecord,
    /// See `record`.
    pub root: &'a Path,
    /// Whether the program is expected to say when it is ready.
    pub says_ready: bool,
    /// Where the program prints; `None`: nowhere.
    pub output: Option<File>,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The system refuses.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The program's path.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system does not let the agent follow its own child.
    #[error("the program was started but cannot be watched, so it was killed")]
    Watch(#[source] io::Error),
    /// The file that it prints into cannot be handed over twice.
    #[error("its output cannot be opened twice")]
    Output(#[source] io::Error),
    /// It is to say when it is ready, and there is no way to hear it.
    #[error("the socket on which it says that it is ready cannot be made")]
    Notify(#[source] io::Error),
    /// It is to listen on sockets that cannot be had.
    #[error(transparent)]
    Sockets(#[from] SocketsError),
}

/// A program that runs and that there may be no record of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stray {
    /// The place that it was started for. It may have another by now.
    pub place: Place,
    /// As it was when the program was started, with the process.
    pub record: RunningRecord,
}

impl Stray {
    /// Greater for what was started later.
    pub(crate) fn age(&self) -> Option<Age> {
        self.record.process.as_ref().map(age_of)
    }
}

/// When a process was started: ticks since the machine booted, and the process id.
pub(crate) type Age = (u64, u32);

pub(crate) fn age_of(process: &ProcessIdentity) -> Age {
    (process.start_ticks, process.pid)
}

/// A program that was started or found.
pub trait HostProcess: fmt::Debug + Send + Sync + 'static {
    /// Which process it is; `None` while that is not known, as for a systemd unit that is starting.
    fn identity(&self) -> Option<&ProcessIdentity>;

    /// Waits for what the program does next; [`Notice::Ended`] comes again and again once it is
    /// true. Cancel safe.
    fn next_notice(&mut self) -> impl Future<Output = Notice> + Send;

    /// How its leader ended, for people: "ended with exit code 1".
    fn describe_end(&self) -> String;

    /// Sends a signal to it and to the processes that it started.
    ///
    /// # Errors
    ///
    /// If the system refuses. Processes that are gone are no error.
    fn signal(&self, signal: Signal) -> io::Result<()>;

    /// Whether it or a process that it started still runs.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    fn is_alive(&self) -> io::Result<bool>;

    /// Lets the system forget its leader, which ended or was given up. Does not wait.
    fn reap(&mut self);
}

/// What a program did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// Its leader ended.
    Ended,
    /// It said that it is ready.
    Ready,
}
