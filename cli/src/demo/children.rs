//! The demo's processes, none of which outlives it.
//!
//! Three nets, one below the other: [`Children`] stops its processes when it is dropped, however
//! the demo ends; what they leave behind is handed to the demo by the kernel and killed; and if the
//! demo itself is killed, the kernel sends its processes SIGTERM ([`end_with_parent`]). The last
//! one follows the *thread* that started a process, so processes are started on the main thread
//! only.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, process};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::output::{self, human};

/// Names the demo's process to the processes it starts. Not with the prefix of settings, which
/// daemons read and would warn about.
const PARENT_VARIABLE: &str = "_SHOAL_DEMO_PID";

/// How long processes may take to stop before they are killed; agents stop their programs within
/// it.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Lines of a log that a failure shows.
const TAIL_LINES: usize = 12;

/// Bytes at the end of a log that are searched for them.
const TAIL_BYTES: usize = 16 << 10;

/// Running processes. Dropping it stops them all.
#[derive(Debug, Default)]
pub(super) struct Children {
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: String,
    child: Child,
    pidfd: OwnedFd,
    log: PathBuf,
}

/// Arranges that this process is told to stop when the demo that started it is gone, if one did.
///
/// # Errors
///
/// If the demo is gone already.
pub(crate) fn end_with_parent() -> anyhow::Result<()> {
    let Ok(parent) = env::var(PARENT_VARIABLE) else { return Ok(()) };
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot arrange to end with the demo")?;
    // A parent that died before the line above sends nothing any more.
    let actual = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    anyhow::ensure!(actual.as_deref() == Some(&parent), "the demo is gone already");
    Ok(())
}

/// A command of this same executable, for [`Children::start`] or a runtime's process type.
///
/// # Errors
///
/// If the system does not say where the executable is.
pub(super) fn shoal() -> anyhow::Result<Command> {
    let executable = env::current_exe().context("cannot find the shoal executable")?;
    let mut command = Command::new(executable);
    // What is set for the person's own fleet must not reach the demo's.
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"SHOAL_") {
            command.env_remove(name);
        }
    }
    command.env(PARENT_VARIABLE, process::id().to_string());
    // A group of its own: Ctrl-C reaches the demo alone, which then stops the others in order.
    command.process_group(0).stdin(Stdio::null());
    Ok(command)
}

impl Children {
    /// No process yet. From now on, processes orphaned below the demo become its own.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub(super) fn new() -> anyhow::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("cannot keep track of the demo's processes")?;
        Ok(Self::default())
    }

    /// Starts a process whose standard error goes to `log`; returns its standard output. Must be
    /// called on the main thread.
    ///
    /// # Errors
    ///
    /// If the process cannot be started.
    pub(super) fn start(
        &mut self,
        name: &str,
        mut command: Command,
        log: PathBuf,
    ) -> anyhow::Result<Option<ChildStdout>> {
        let named = || format!("cannot start {name}");
        let file = File::create(&log).with_context(named)?;
        let mut child = command.stderr(file).stdout(Stdio::piped()).spawn().with_context(named)?;
        let stdout = child.stdout.take();
        let pidfd = match rustix::process::pidfd_open(pid_of(&child), PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                child.kill().with_context(named)?;
                child.wait().with_context(named)?;
                return Err(error).with_context(named);
            }
        };
        self.running.push(Running { name: name.into(), child, pidfd, log });
        Ok(stdout)
    }

    /// Returns a process that has ended by itself, if there is one.
    pub(super) fn find_ended(&mut self) -> Option<(String, ExitStatus)> {
        self.running.iter_mut().find_map(|running| {
            let status = running.child.try_wait().ok().flatten()?;
            Some((running.name.clone(), status))
        })
    }

    /// Shows the last lines of a process's log on standard error.
    pub(super) fn show_log(&self, name: &str) {
        let Some(running) = self.running.iter().find(|running| running.name == name) else {
            return;
        };
        output::note(&format!("last lines of {}:", running.log.display()));
        for line in tail(&fs::read(&running.log).unwrap_or_default()) {
            output::note(&format!("  {}", human::printable(&line)));
        }
    }

    /// Orders every process to stop, kills what has not stopped in time, and what was left behind
    /// by any of them. Blocks up to [`STOP_TIMEOUT`].
    pub(super) fn stop(&mut self) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        for running in &self.running {
            order_stop(&running.pidfd, &running.name);
        }
        for mut running in self.running.drain(..) {
            if !has_ended(&running.pidfd, deadline) {
                tracing::warn!(name = running.name, "does not stop, killing it");
                drop(running.child.kill());
            }
            if let Err(error) = running.child.wait() {
                tracing::warn!(name = running.name, %error, "cannot tell whether it ended");
            }
        }
        kill_orphans();
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.stop();
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Asks a process to stop. Through its descriptor, because its id may belong to another process by
/// now if it has ended.
fn order_stop(pidfd: &OwnedFd, name: &str) {
    if let Err(error) = rustix::process::pidfd_send_signal(pidfd, Signal::TERM) {
        tracing::debug!(name, %error, "cannot tell it to stop, it has ended");
    }
}

fn has_ended(pidfd: &OwnedFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).ok();
    let mut ready = [PollFd::new(pidfd, PollFlags::IN)];
    let polled = rustix::io::retry_on_intr(|| poll(&mut ready, timeout.as_ref()));
    polled.is_ok_and(|count| count > 0)
}

/// Kills every child of this process that is left, until there is none: children of a killed child
/// become ours.
fn kill_orphans() {
    loop {
        let orphans = children_of_self();
        if orphans.is_empty() {
            return;
        }
        for orphan in orphans {
            let ended = rustix::process::kill_process(orphan, Signal::KILL)
                .and_then(|()| rustix::process::waitpid(Some(orphan), WaitOptions::empty()));
            if let Err(error) = ended {
                // Another wait of this process was faster.
                tracing::debug!(?orphan, %error, "an orphan is gone already");
            }
        }
    }
}

/// Process ids of all children. Read from `/proc`, where every Linux has them.
fn children_of_self() -> Vec<Pid> {
    let own = process::id();
    let parent_of = |pid: i32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_parent(&stat)
    };
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| parent_of(pid) == Some(own)).filter_map(Pid::from_raw).collect()
}

/// The parent in a line of `/proc/PID/stat`: the second field after the command's name, which may
/// itself hold blanks and brackets.
fn parse_parent(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

fn tail(log: &[u8]) -> Vec<String> {
    let end = &log[log.len().saturating_sub(TAIL_BYTES)..];
    let text = String::from_utf8_lossy(end);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|&line| line.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use parking_lot::Mutex;

    use super::*;

    /// Stopping kills every child of the process, so two tests must not have children at once.
    static CHILDREN: Mutex<()> = Mutex::new(());

    fn is_alive(pid: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
        !state.is_empty() && !state.starts_with('Z')
    }

    /// Goal: nothing outlives the demo, whatever its processes do.
    /// Method: one shell leaves a process behind that ignores SIGTERM, another simply goes on.
    #[test]
    fn dropped_children_and_their_orphans_are_gone() {
        let _turn = CHILDREN.lock();
        let folder = tempfile::tempdir().unwrap();
        let mut children = Children::new().unwrap();
        let script = |text: &str| {
            let mut command = Command::new("sh");
            command.arg("-c").arg(text);
            command
        };
        let log = |name: &str| folder.path().join(name);
        let orphaning = script("(trap '' TERM; sleep 600 >/dev/null & echo $!) ; exit 3");
        let stdout = children.start("orphaning", orphaning, log("a")).unwrap();
        let mut pid = String::new();
        stdout.unwrap().read_to_string(&mut pid).unwrap();
        let orphan: i32 = pid.trim().parse().unwrap();
        assert!(is_alive(orphan));
        let lasting = script("echo to the log >&2; exec sleep 600");
        children.start("lasting", lasting, log("b")).unwrap();
        let lasting = pid_of(&children.running[1].child).as_raw_nonzero().get();

        drop(children);
        assert!(!is_alive(orphan) && !is_alive(lasting));
    }

    #[test]
    fn ended_process_is_found_with_its_status() {
        let _turn = CHILDREN.lock();
        let folder = tempfile::tempdir().unwrap();
        let mut children = Children::new().unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg("exit 7");
        let stdout = children.start("short", command, folder.path().join("log")).unwrap();
        // Standard output is closed at the latest when the process ends.
        stdout.unwrap().read_to_string(&mut String::new()).unwrap();
        let ended = has_ended(&children.running[0].pidfd, Instant::now() + STOP_TIMEOUT);
        assert!(ended);
        let (name, status) = children.find_ended().unwrap();
        assert_eq!((name.as_str(), status.code()), ("short", Some(7)));
    }

    #[test]
    fn parent_is_found_behind_any_name() {
        assert_eq!(parse_parent("12 (a) b) (c) S 34 12 12 0"), Some(34));
        assert_eq!(parse_parent("garbage"), None);
    }

    #[test]
    fn tail_is_the_last_lines() {
        let log: Vec<String> = (0..100).map(|line| format!("line {line}")).collect();
        let lines = tail(log.join("\n").as_bytes());
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines.last().map(String::as_str), Some("line 99"));
        assert!(tail(b"").is_empty());
    }
}
