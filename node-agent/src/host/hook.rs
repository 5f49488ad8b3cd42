//! Commands that an operator wants run around a switch, bounded in time and output.
//!
//! Owns their settings and how one is run: own user, clean environment, a process group that is
//! ended with the hook, output captured up to a limit. `reconcile` decides what a failure means.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};

use crate::host::start::{Recipe, Started};
use crate::host::user::{User, UserError};
use crate::process::ProcessIdentity;

/// Time for a hook whose operator says nothing.
pub(crate) const HOOK_TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);

/// One command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hook {
    /// The command and its arguments, not empty. Looked up in the build, as an app's program is.
    pub exec: Vec<String>,
    /// The user that it runs as; `None`: that of the app's program.
    pub user: Option<String>,
    /// Time after which its process group is told to stop, then killed.
    pub timeout: Duration,
}

/// The commands of one app.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hooks {
    /// In the new build, before `current` points to it; a failure fails the build.
    pub before_switch: Option<Hook>,
    /// In the new build, once `current` points to it and before its program starts; a failure fails
    /// the build.
    pub after_switch: Option<Hook>,
    /// In the build that was rolled back to; a failure is only reported.
    pub after_rollback: Option<Hook>,
    /// Takes the host out of a load balancer before its program stops; a failure is only reported.
    pub drain: Option<Hook>,
    /// Puts it back once the program is ready; a failure is only reported.
    pub undrain: Option<Hook>,
}

/// How much of a hook's output is kept: the end of a stack trace, not a log.
pub const HOOK_OUTPUT_BYTES_MAX: usize = 16 * 1024;

/// Time between SIGTERM and SIGKILL for a hook that took too long.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// How long killed processes may take to disappear; longer only if they hang in the kernel.
const KILLED_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often a group that was told to stop is looked at; there is no event for its end.
const GROUP_CHECK: Duration = Duration::from_millis(50);

/// The most that is read once the hook has ended: all that a pipe holds, but no more, because a
/// daemon that the hook started may print on for ever.
const READ_AFTER_END_MAX: usize = 1024 * 1024;

/// Where hooks find programs: not taken from the agent, which may have been started by hand.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Lines of output in a message, and characters of each.
const LINES_SHOWN: usize = 5;
const LINE_CHARS_MAX: usize = 200;

/// One run of a hook.
#[derive(Clone, Debug)]
pub struct HookOrder {
    /// What is run.
    pub hook: Hook,
    /// The build's real path: working directory of the hook, and where its program is looked up.
    pub root: PathBuf,
    /// Variables beside `PATH`, `HOME`, `LANG`, `USER` and `LOGNAME`, such as `SHOAL_APP`.
    pub variables: BTreeMap<String, String>,
    /// The user if the hook names none; `None`: the agent's own.
    pub default_user: Option<String>,
}

/// What a hook that succeeded has left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HookOutput {
    /// The end of what it printed to stdout and stderr, at most [`HOOK_OUTPUT_BYTES_MAX`].
    pub output: String,
    /// How long it ran.
    pub took: Duration,
}

/// Why a hook did not succeed. `Display` is one line with the end of its output.
#[derive(Debug)]
pub struct HookFailure {
    /// The command as configured, for messages.
    pub command: String,
    /// What went wrong.
    pub cause: HookFailureCause,
    /// The end of what it printed to stdout and stderr, at most [`HOOK_OUTPUT_BYTES_MAX`].
    pub output: String,
}

/// What went wrong with a hook.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookFailureCause {
    /// It cannot be run as the configured user.
    #[error("cannot run: {0}")]
    User(#[source] UserError),
    /// The program cannot be started.
    #[error("cannot start{}: {source}", as_user(.user.as_deref()))]
    Start {
        /// The user, if it is not the agent's own.
        user: Option<String>,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended with a code other than 0.
    #[error("ended with exit code {code}")]
    Exit {
        /// The code.
        code: i32,
    },
    /// It was killed, and not by the agent.
    #[error("was killed by signal {signal}")]
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// It ran for longer than its timeout and was stopped.
    #[error("did not end within {} and was {}", humantime::format_duration(*.timeout), if *.is_killed { "killed" } else { "stopped" })]
    TimedOut {
        /// The timeout.
        timeout: Duration,
        /// Whether it had to be killed.
        is_killed: bool,
    },
    /// The system does not let the agent follow its own child.
    #[error("cannot be watched, so it was killed: {0}")]
    Watch(#[source] io::Error),
}

impl fmt::Display for HookFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.command, self.cause)?;
        let lines = last_lines(&self.output);
        if !lines.is_empty() {
            write!(f, "; its last output: {lines}")?;
        }
        Ok(())
    }
}

impl std::error::Error for HookFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.cause)
    }
}

/// Runs one hook to its end and ends all that it leaves behind in its process group.
///
/// At the timeout the group gets SIGTERM, and `TERM_GRACE` later SIGKILL. Output is read while
/// the hook runs, so that it never waits for the agent. Processes that left the group, such as
/// daemons, live.
///
/// # Errors
///
/// If the hook cannot be run, does not end in time, or ends with anything but exit code 0.
///
/// # Cancel safety
///
/// Dropping the future kills the process group.
pub async fn run(order: HookOrder) -> Result<HookOutput, HookFailure> {
    run_with_grace(order, TERM_GRACE).await
}

/// [`run`] with another time between SIGTERM and SIGKILL.
pub(crate) async fn run_with_grace(
    order: HookOrder,
    grace: Duration,
) -> Result<HookOutput, HookFailure> {
    let started = Instant::now();
    let mut tail = Tail::default();
    let result = match find_user(order.hook.user.clone().or(order.default_user.clone())).await {
        Ok(user) => supervise(&order, &user, grace, &mut tail).await,
        Err(error) => Err(HookFailureCause::User(error)),
    };
    let output = tail.into_text();
    match result {
        Ok(()) => Ok(HookOutput { output, took: started.elapsed() }),
        Err(cause) => Err(HookFailure { command: order.hook.exec.join(" "), cause, output }),
    }
}

async fn find_user(name: Option<String>) -> Result<User, UserError> {
    let find = move || name.map_or_else(User::own, |name| User::find(&name));
    // The user database may be on the network.
    tokio::task::spawn_blocking(find).await.unwrap_or_else(|_| User::own())
}

async fn supervise(
    order: &HookOrder,
    user: &User,
    grace: Duration,
    tail: &mut Tail,
) -> Result<(), HookFailureCause> {
    let start = |source| HookFailureCause::Start { user: shown_user(user), source };
    let (reader, writer) = io::pipe().map_err(start)?;
    let mut reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(start)?;
    let second_writer = writer.try_clone().map_err(start)?;
    let recipe = order.recipe(user).map_err(start)?;
    // On a thread of its own: the hook's user can hold its beginning up. Dropped meanwhile, the
    // group is killed as soon as there is one.
    let starting = tokio::task::spawn_blocking(move || {
        recipe.start_here([writer.into(), second_writer.into()], |_, _| ()).map(Group::watch)
    });
    let started = starting.await.map_err(io::Error::other).flatten().map_err(start)?;
    let mut group = started.map_err(HookFailureCause::Watch)?;
    let end = group.follow(&mut reader, tail, Deadlines::new(order.hook.timeout, grace)).await;
    // Its children may hold the pipe and whatever else the next step needs.
    group.kill();
    tail.read_rest(&reader);
    if let Some(is_killed) = end {
        return Err(HookFailureCause::TimedOut { timeout: order.hook.timeout, is_killed });
    }
    group.result()
}

impl HookOrder {
    fn recipe(&self, user: &User) -> io::Result<Recipe> {
        let Some((program, arguments)) = self.hook.exec.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"));
        };
        let program =
            if program.contains('/') { self.root.join(program) } else { PathBuf::from(program) };
        let mut recipe = Recipe::new(program, self.root.clone());
        recipe.arguments = arguments.into();
        recipe.set("PATH", PATH);
        recipe.set("LANG", "C.UTF-8");
        recipe.run_as(user);
        for (name, value) in &self.variables {
            recipe.set(name, value);
        }
        Ok(recipe)
    }
}

fn shown_user(user: &User) -> Option<String> {
    (user.uid() != rustix::process::geteuid().as_raw()).then(|| user.name.clone())
}

fn as_user(user: Option<&str>) -> String {
    user.map(|user| format!(" as {user}")).unwrap_or_default()
}

/// When a hook is told to stop, and when it is killed.
struct Deadlines {
    term: Instant,
    kill: Instant,
    give_up: Instant,
}

impl Deadlines {
    fn new(timeout: Duration, grace: Duration) -> Self {
        // A timeout of centuries means none.
        let term = Instant::now() + timeout.min(Duration::from_hours(24 * 365));
        let kill = term + grace;
        Self { term, kill, give_up: kill + KILLED_WAIT_MAX }
    }
}

/// A running hook with all that it started. Killed when dropped.
struct Group {
    /// `None` once it was waited for.
    child: Option<Child>,
    identity: ProcessIdentity,
    /// Readable once the leader has ended. It stays a zombie until [`Group::result`], so that its
    /// id, which is the group's too, cannot come to mean another group.
    handle: AsyncFd<OwnedFd>,
}

impl Group {
    fn watch(Started { mut child, identity }: Started) -> io::Result<Self> {
        let raw = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let watched = raw
            .ok_or(io::ErrorKind::InvalidData.into())
            .and_then(|pid| readable(rustix::process::pidfd_open(pid, PidfdFlags::empty())?));
        match watched {
            Ok(handle) => Ok(Self { child: Some(child), identity, handle }),
            Err(error) => {
                drop(child.kill());
                drop(child.wait());
                Err(error)
            }
        }
    }

    /// Waits for the end of the leader and reads the output meanwhile. Returns `None` if it ended
    /// by itself, or whether it had to be killed after its timeout.
    async fn follow(
        &mut self,
        reader: &mut pipe::Receiver,
        tail: &mut Tail,
        deadlines: Deadlines,
    ) -> Option<bool> {
        let mut buffer = vec![0; HOOK_OUTPUT_BYTES_MAX];
        let (mut is_open, mut is_stopping, mut is_killed) = (true, false, false);
        let mut due = deadlines.term;
        loop {
            tokio::select! {
                // While it is being stopped, the end of the leader is not yet the end of the rest.
                _ = self.handle.readable(), if !is_stopping || is_killed => {
                    return is_stopping.then_some(is_killed);
                }
                read = reader.read(&mut buffer), if is_open => match read {
                    Ok(0) | Err(_) => is_open = false,
                    Ok(length) => tail.push(&buffer[..length]),
                },
                () = sleep_until(due) => {
                    let now = Instant::now();
                    if is_killed || (is_stopping && !self.identity.is_group_alive().unwrap_or(true)) {
                        return Some(is_killed);
                    }
                    if !is_stopping {
                        drop(self.identity.signal_group(Signal::TERM));
                        is_stopping = true;
                    }
                    due = deadlines.kill.min(now + GROUP_CHECK);
                    if deadlines.kill <= now {
                        self.kill();
                        is_killed = true;
                        due = deadlines.give_up;
                    }
                }
            }
        }
    }

    fn kill(&self) {
        // Root may signal any user's process, and only root starts hooks as somebody else.
        drop(self.identity.signal_group(Signal::KILL));
    }

    /// How the leader ended, once it has. Reaps it.
    fn result(&mut self) -> Result<(), HookFailureCause> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(self.handle.get_ref().as_fd()), options);
        let status = status.map_err(|error| HookFailureCause::Watch(error.into()))?;
        match status.and_then(|status| {
            status.exit_status().or(status.terminating_signal().map(|signal| -signal))
        }) {
            Some(0) => Ok(()),
            Some(code) if code > 0 => Err(HookFailureCause::Exit { code }),
            Some(signal) => Err(HookFailureCause::Signal { signal: -signal }),
            None => Err(HookFailureCause::Watch(io::Error::other("its exit status is missing"))),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let Some(mut child) = self.child.take() else { return };
        if matches!(child.try_wait(), Ok(None)) {
            // Killed just now. A thread of its own, because a process can hang in the kernel.
            let reaper = std::thread::Builder::new().name("reap-hook".into());
            drop(reaper.spawn(move || drop(child.wait())));
        }
    }
}

fn readable(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "unsound only for types that lie about their descriptor, which OwnedFd does \
                  not; the replacement is an unsafe function"
    )]
    AsyncFd::with_interest(handle, Interest::READABLE)
}

/// The end of an output of any length.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        // Not each time, which would move all that is kept for every line.
        if self.bytes.len() > 4 * HOOK_OUTPUT_BYTES_MAX {
            self.shorten();
        }
    }

    /// Takes what the pipe holds now, without waiting.
    fn read_rest(&mut self, reader: &pipe::Receiver) {
        let mut buffer = vec![0; HOOK_OUTPUT_BYTES_MAX];
        let mut read_bytes = 0;
        while read_bytes < READ_AFTER_END_MAX {
            // Not `try_read`, which believes what the runtime saw before the hook ended.
            match rustix::io::read(reader, &mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    self.push(&buffer[..length]);
                    read_bytes += length;
                }
            }
        }
    }

    fn shorten(&mut self) {
        let surplus = self.bytes.len().saturating_sub(HOOK_OUTPUT_BYTES_MAX);
        self.bytes.drain(..surplus);
    }

    fn into_text(mut self) -> String {
        self.shorten();
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// The last lines of an output as one, for messages: without control characters, cut to a readable
/// length. Empty if nothing was printed.
pub(crate) fn last_lines(output: &str) -> String {
    let lines: Vec<String> =
        output.lines().map(readable_line).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join(" | ")
}

/// A line of foreign text without control characters, cut to a readable length.
pub(crate) fn readable_line(line: &str) -> String {
    let line = line.trim();
    let mut shown: String =
        line.chars().filter(|c| !goal_state::is_hidden(*c)).take(LINE_CHARS_MAX).collect();
    if line.chars().count() > LINE_CHARS_MAX {
        shown.push_str("...");
    }
    shown
}
