//! Runs the program of one app: starts it, stops it, starts it again when it ends by itself, and
//! takes it over from an agent that died.
//!
//! Invariant: at most one program of the app runs, together with the processes of its group. The
//! program depends on the agent for nothing once it runs: no pipe, no parent's death signal. What the
//! supervisor does not do: choose a build. It is driven by the app's loop: [`Supervisor::next_wake`]
//! only waits, [`Supervisor::on_wake`] and the orders change the state and never wait.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use p2p_core::{BuildId, Digest};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::app_dir::{AppDir, RunningRecord};
use crate::backoff::Backoff;
use crate::launch::{APP_DIR_VARIABLE, GRACE_PERIOD_DEFAULT, Launch};
use crate::output::{OUTPUT_BYTES_MAX, OutputLog};
use crate::process::{self, ProcessIdentity};
use crate::reconcile::Program;

/// When the supervisor acts by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SupervisorTimings {
    /// How long a program has to be up before it counts as running.
    pub settle_after: Duration,
    /// Wait before a program that ended is started again; doubles with each time in a row.
    pub restart_first: Duration,
    /// Longest such wait.
    pub restart_max: Duration,
    /// How long a program has to be up for its earlier ends to be forgotten.
    pub forget_after: Duration,
    /// How often the length of the output is looked at.
    pub output_check: Duration,
}

impl SupervisorTimings {
    /// Servers of a fleet: a second tells a wrong flag from a service, a minute tells a bad hour
    /// from a bad build.
    pub const fn fleet() -> Self {
        Self {
            settle_after: Duration::from_secs(1),
            restart_first: Duration::from_secs(1),
            restart_max: Duration::from_mins(1),
            forget_after: Duration::from_mins(1),
            output_check: Duration::from_secs(2),
        }
    }
}

/// How often a group that was told to stop is looked at after its leader is gone. There is no event
/// for the end of a group, and a pass over `/proc` costs about a millisecond.
const GROUP_CHECK: Duration = Duration::from_millis(50);

/// How long killed processes may take to disappear before the supervisor goes on without them: they
/// can only hang in the kernel then, on a dead disk or network file system.
const KILLED_WAIT_MAX: Duration = Duration::from_secs(5);

/// The program of one app. See the head of this file.
#[derive(Debug)]
pub struct Supervisor {
    app: AppDir,
    launch: Option<Launch>,
    timings: SupervisorTimings,
    output: OutputLog,
    state: State,
    crashes: Crashes,
}

/// `Idle` -> `Running` by [`Supervisor::start`] -> `Ending` by [`Supervisor::stop`] or by the end of
/// the program -> `Idle`, or `Resting` if the end was not asked for -> `Idle` when the wait is over.
#[derive(Debug)]
enum State {
    Idle,
    Running(Process),
    Ending(Ending),
    Resting { build: BuildId, until: Instant },
}

#[derive(Debug)]
struct Process {
    identity: ProcessIdentity,
    /// Readable once the process has ended.
    handle: AsyncFd<OwnedFd>,
    /// `None` for a program that an earlier agent started: its exit status goes to somebody else.
    child: Option<Child>,
    build: BuildId,
    command: Digest,
    up_since: Instant,
    is_settled: bool,
    output_offset: u64,
    output_check_at: Instant,
}

#[derive(Debug)]
struct Ending {
    process: Process,
    /// When the group is killed, or given up if it has been.
    deadline: Instant,
    is_killed: bool,
    group_check_at: Option<Instant>,
    /// When to start again, if nobody asked the program to stop.
    restart_after: Option<Duration>,
}

/// Ends of the program that nobody asked for.
#[derive(Debug)]
struct Crashes {
    in_a_row: u32,
    backoff: Backoff,
    build: Option<BuildId>,
    last: Option<Crash>,
}

/// One of them, in words for people.
#[derive(Debug)]
struct Crash {
    how: String,
    wait: Duration,
    output: String,
}

/// What woke the supervisor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wake {
    /// The leader of the program's group has ended.
    ProgramEnded,
    /// A moment that the supervisor waited for has come.
    Due,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum StartProgramError {
    #[error("cannot start {}", program.display())]
    Spawn {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the program was started but cannot be watched, so it was killed")]
    Watch(#[source] io::Error),
}

impl Supervisor {
    /// Takes over the program that an earlier agent left running, if there is one.
    ///
    /// `launch` is the program that is configured now, `None` for an app without one. Must be called
    /// within a tokio runtime.
    pub fn recover(app: &AppDir, launch: Option<Launch>, timings: SupervisorTimings) -> Self {
        let mut supervisor = Self {
            app: app.clone(),
            launch,
            timings,
            output: OutputLog::new(app.output_path(), OUTPUT_BYTES_MAX),
            state: State::Idle,
            crashes: Crashes {
                in_a_row: 0,
                backoff: Backoff::new(timings.restart_first, timings.restart_max),
                build: None,
                last: None,
            },
        };
        match app.running() {
            Ok(Some(record)) => supervisor.adopt(record),
            Ok(None) => {}
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "lost track of a program");
            }
        }
        supervisor
    }

    /// The program as the app's brain needs to know it.
    pub fn program(&self) -> Program {
        match &self.state {
            State::Idle => Program::Stopped,
            State::Running(process) => Program::Running {
                build: process.build,
                is_settled: process.is_settled,
                is_current_command: self
                    .launch
                    .as_ref()
                    .is_some_and(|launch| launch.digest() == process.command),
            },
            State::Ending(_) => Program::Ending,
            State::Resting { build, .. } => Program::Resting { build: *build },
        }
    }

    /// Process id of the running program.
    pub fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Running(process) => Some(process.identity.pid),
            State::Idle | State::Ending(_) | State::Resting { .. } => None,
        }
    }

    /// How the program ended last and what follows, for people; `None` while all is well.
    pub fn message(&self) -> Option<String> {
        let Crash { how, wait, output } = self.crashes.last.as_ref()?;
        if matches!(&self.state, State::Running(process) if process.is_settled) {
            return Some(format!("runs again after: {how}; {output}"));
        }
        Some(format!("{how}; next start in {}; {output}", humantime::format_duration(*wait)))
    }

    /// Starts the configured program of `build`, whose files are in `root`.
    ///
    /// A program that cannot be started counts as one that ended at once.
    ///
    /// # Panics
    ///
    /// If the app has no program or one runs already: the caller asks [`Self::program`] first.
    pub fn start(&mut self, build: BuildId, root: &Path) {
        let launch = self.launch.clone().expect("the brain starts only apps with a program");
        assert!(
            matches!(self.state, State::Idle | State::Resting { .. }),
            "a program of the app is there already: {:?}",
            self.state
        );
        if self.crashes.build != Some(build) {
            self.forget_crashes();
            self.crashes.build = Some(build);
        }
        match self.spawn(&launch, build, root) {
            Ok(process) => {
                info!(build = build.short(), pid = process.identity.pid, "program started");
                self.state = State::Running(process);
            }
            Err(error) => {
                let causes = format!("{:#}", anyhow::Error::new(error));
                let wait = self.note_crash(&causes, None);
                self.state = State::Resting { build, until: Instant::now() + wait };
            }
        }
    }

    /// Tells the program to stop: SIGTERM to its group, SIGKILL after the grace period.
    ///
    /// Does not wait; [`Self::program`] says [`Program::Ending`] until every process is gone.
    pub fn stop(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Running(process) => {
                info!(pid = process.identity.pid, "stopping the program");
                self.end(process, None)
            }
            State::Ending(ending) => State::Ending(Ending { restart_after: None, ..ending }),
            State::Idle | State::Resting { .. } => State::Idle,
        };
    }

    /// Waits for the next thing that [`Self::on_wake`] has to deal with.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing, so it can be dropped and called again at any time.
    pub async fn next_wake(&self) -> Wake {
        match &self.state {
            State::Idle => std::future::pending().await,
            State::Resting { until, .. } => {
                sleep_until(*until).await;
                Wake::Due
            }
            State::Running(process) => {
                let due = if process.is_settled {
                    process.output_check_at
                } else {
                    process.up_since + self.timings.settle_after
                };
                ended_or_due(process, due).await
            }
            State::Ending(ending) => match ending.group_check_at {
                Some(check_at) => {
                    sleep_until(check_at).await;
                    Wake::Due
                }
                None => ended_or_due(&ending.process, ending.deadline).await,
            },
        }
    }

    /// Deals with what [`Self::next_wake`] waited for.
    pub fn on_wake(&mut self, wake: Wake) {
        self.state = match (std::mem::replace(&mut self.state, State::Idle), wake) {
            (State::Running(process), Wake::ProgramEnded) => self.on_crashed(process),
            (State::Running(process), Wake::Due) => State::Running(self.on_still_running(process)),
            (State::Ending(ending), Wake::ProgramEnded) => {
                State::Ending(Ending { group_check_at: Some(Instant::now()), ..ending })
            }
            (State::Ending(ending), Wake::Due) => self.on_ending_due(ending),
            (State::Resting { .. }, Wake::Due) => State::Idle,
            (state @ (State::Idle | State::Resting { .. }), _) => state,
        };
    }

    fn on_still_running(&mut self, mut process: Process) -> Process {
        let now = Instant::now();
        process.is_settled |= process.up_since + self.timings.settle_after <= now;
        if self.crashes.in_a_row > 0 && process.up_since + self.timings.forget_after <= now {
            self.forget_crashes();
        }
        if process.output_check_at <= now {
            if let Err(error) = self.output.shorten() {
                warn!(%error, path = %self.output.path().display(), "cannot shorten the output");
            }
            process.output_check_at = now + self.timings.output_check;
        }
        process
    }

    fn on_crashed(&mut self, process: Process) -> State {
        let how = describe_end(&process);
        if process.up_since.elapsed() >= self.timings.forget_after {
            self.forget_crashes();
        }
        let last_line = self.output.last_line(process.output_offset);
        let wait = self.note_crash(&format!("the program {how}"), last_line);
        self.end(process, Some(wait))
    }

    fn on_ending_due(&mut self, mut ending: Ending) -> State {
        let now = Instant::now();
        let identity = &ending.process.identity;
        let is_gone = ending.group_check_at.is_some()
            && !identity.is_group_alive().unwrap_or_else(|error| {
                warn!(%error, "cannot tell whether the program's processes are gone");
                false
            });
        let is_given_up = ending.is_killed && ending.deadline <= now;
        if is_gone || is_given_up {
            if !is_gone {
                warn!(
                    pid = identity.pid,
                    "killed processes do not disappear; going on without them"
                );
            }
            return self.on_ended(ending);
        }
        if !ending.is_killed && ending.deadline <= now {
            warn!(
                pid = identity.pid,
                "the program did not stop within its grace period; killing it"
            );
            signal(identity, Signal::KILL);
            ending.is_killed = true;
            ending.deadline = now + KILLED_WAIT_MAX;
        }
        if ending.group_check_at.is_some() {
            ending.group_check_at = Some(now + GROUP_CHECK);
        }
        State::Ending(ending)
    }

    fn on_ended(&mut self, ending: Ending) -> State {
        let mut process = ending.process;
        // Reaps the leader, which ended or was given up, without waiting.
        drop(process.child.as_mut().map(Child::try_wait));
        if let Err(error) = self.app.remove_running() {
            warn!(%error, "cannot remove the record of the ended program");
        }
        match ending.restart_after {
            Some(wait) => State::Resting { build: process.build, until: Instant::now() + wait },
            None => State::Idle,
        }
    }

    /// Ends what is left of `process` and its group, whether its leader still runs or not.
    fn end(&self, process: Process, restart_after: Option<Duration>) -> State {
        let grace = self.launch.as_ref().map_or(GRACE_PERIOD_DEFAULT, |launch| launch.grace_period);
        signal(&process.identity, Signal::TERM);
        State::Ending(Ending {
            process,
            deadline: Instant::now() + grace,
            is_killed: false,
            group_check_at: None,
            restart_after,
        })
    }

    fn adopt(&mut self, record: RunningRecord) {
        let found = match record.process {
            Some(identity) => Ok(Some(identity)),
            None => process::find_by_environment(APP_DIR_VARIABLE, &self.variable_value()),
        };
        let adopted = found.and_then(|identity| {
            let Some(identity) = identity else { return Ok(None) };
            let Some(handle) = identity.open()? else {
                // The leader is gone, but what it started may still hold its ports.
                signal(&identity, Signal::KILL);
                return Ok(None);
            };
            Process::watch(identity, handle, record.build, record.command).map(Some)
        });
        match adopted {
            Ok(Some(process)) => {
                info!(pid = process.identity.pid, "took over the program that was running");
                self.write_record(&process);
                let output_check_at = Instant::now() + self.timings.output_check;
                self.state = State::Running(Process { output_check_at, ..process });
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "cannot take over the program that was started last"),
        }
    }

    fn spawn(
        &self,
        launch: &Launch,
        build: BuildId,
        root: &Path,
    ) -> Result<Process, StartProgramError> {
        let (mut command, program) = launch.command(build, root, &self.app);
        let output_offset = self.direct_output(&mut command);
        let record = RunningRecord { build, command: launch.digest(), process: None };
        self.write_running(&record);

        let spawned = command.stdin(Stdio::null()).process_group(0).spawn();
        let mut child = spawned.map_err(|source| StartProgramError::Spawn { program, source })?;
        let watched = ProcessIdentity::of(child.id()).and_then(|identity| {
            let handle = identity.open()?;
            // A child that ended already is a zombie until it is waited for, but has a handle.
            let handle = match handle {
                Some(handle) => handle,
                None => open_unchecked(&child)?,
            };
            Process::watch(identity, handle, build, launch.digest())
        });
        match watched {
            Ok(process) => {
                self.write_record(&process);
                let output_check_at = Instant::now() + self.timings.output_check;
                Ok(Process { child: Some(child), output_offset, output_check_at, ..process })
            }
            Err(source) => {
                drop(child.kill());
                drop(child.wait());
                Err(StartProgramError::Watch(source))
            }
        }
    }

    /// Lets `command` print into the output file, and returns where in it. Without the file the
    /// program runs nevertheless: a full or read-only disk must not keep a host from serving.
    fn direct_output(&self, command: &mut Command) -> u64 {
        let opened =
            self.output.open().and_then(|(file, offset)| Ok((file.try_clone()?, file, offset)));
        match opened {
            Ok((stdout, stderr, offset)) => {
                command.stdout(stdout).stderr(stderr);
                offset
            }
            Err(error) => {
                warn!(%error, path = %self.output.path().display(), "the program's output is lost");
                command.stdout(Stdio::null()).stderr(Stdio::null());
                0
            }
        }
    }

    fn write_record(&self, process: &Process) {
        self.write_running(&RunningRecord {
            build: process.build,
            command: process.command,
            process: Some(process.identity.clone()),
        });
    }

    fn write_running(&self, record: &RunningRecord) {
        if let Err(error) = self.app.write_running(record) {
            let error = &error as &dyn std::error::Error;
            warn!(error, "the program runs, but the next agent will not find it");
        }
    }

    fn variable_value(&self) -> String {
        self.app.path().display().to_string()
    }

    /// Counts one more end of the program, composes the message, and returns how long to wait.
    fn note_crash(&mut self, how: &str, last_line: Option<String>) -> Duration {
        self.crashes.in_a_row += 1;
        let wait = self.crashes.backoff.after_failure();
        let times = match self.crashes.in_a_row {
            1 => String::new(),
            times => format!(", {times} times in a row"),
        };
        let output = last_line.map_or_else(
            || format!("it printed nothing to {}", self.output.path().display()),
            |line| format!("its last output: {line}"),
        );
        self.crashes.last = Some(Crash { how: format!("{how}{times}"), wait, output });
        warn!("{}", self.message().unwrap_or_default());
        wait
    }

    fn forget_crashes(&mut self) {
        self.crashes.in_a_row = 0;
        self.crashes.last = None;
        self.crashes.backoff.reset();
    }
}

impl Process {
    fn watch(
        identity: ProcessIdentity,
        handle: OwnedFd,
        build: BuildId,
        command: Digest,
    ) -> io::Result<Self> {
        let up_since = Instant::now();
        #[expect(
            deprecated,
            reason = "unsound only for types that lie about their descriptor, which OwnedFd does \
                      not; the replacement is an unsafe function"
        )]
        let handle = AsyncFd::with_interest(handle, Interest::READABLE)?;
        Ok(Self {
            identity,
            handle,
            child: None,
            build,
            command,
            up_since,
            is_settled: false,
            output_offset: 0,
            output_check_at: up_since,
        })
    }
}

async fn ended_or_due(process: &Process, due: Instant) -> Wake {
    tokio::select! {
        // An error of the handle is taken for the end: the group check that follows finds out.
        _ = process.handle.readable() => Wake::ProgramEnded,
        () = sleep_until(due) => Wake::Due,
    }
}

fn open_unchecked(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

fn signal(identity: &ProcessIdentity, signal: Signal) {
    if let Err(error) = identity.signal_group(signal) {
        warn!(%error, pid = identity.pid, "cannot signal the program");
    }
}

/// How the leader ended. Leaves it a zombie: its id, which is also the group's, must not be given to
/// another process while the rest of the group is being stopped.
fn describe_end(process: &Process) -> String {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let status = match &process.child {
        Some(_) => rustix::process::waitid(WaitId::PidFd(process.handle.as_fd()), options),
        None => Ok(None),
    };
    let Ok(Some(status)) = status else {
        // Only a parent learns the exit code, and that was an earlier agent.
        return "ended (exit code unknown, an earlier agent started it)".into();
    };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}
