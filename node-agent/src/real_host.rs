//! The machine as it is: [`Host`] over processes, probes and hooks.
//!
//! Invariant: a program leads a process group of its own, and only that group is ever signalled.
//! Decides nothing and keeps nothing but what it has to hold for programs.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::app_dir::{AppDir, RunningRecord};
use crate::hook::{self, HookOrder};
use crate::host::{Host, HostProcess, Notice, StartOrder};
use crate::launch::{APP_DIR_VARIABLE, INSTANCE_VARIABLE};
use crate::probe::{self, Probe};
use crate::process::{self, ProcessIdentity};
use crate::status::now_ms;

/// The machine that the agent runs on, as one app uses it.
#[derive(Debug, Default)]
pub struct RealHost {}

/// A process of this machine.
#[derive(Debug)]
pub struct RealProcess {
    identity: ProcessIdentity,
    /// Readable once the process has ended.
    handle: AsyncFd<OwnedFd>,
    /// `None` for a program that an earlier agent started: its exit status goes to somebody else.
    child: Option<Child>,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum StartError {
    #[error("cannot start {}", program.display())]
    Spawn {
        program: std::path::PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the program was started but cannot be watched, so it was killed")]
    Watch(#[source] io::Error),
    #[error("its output cannot be opened twice")]
    Output(#[source] io::Error),
}

impl RealHost {
    fn spawn(&self, order: StartOrder<'_>) -> Result<RealProcess, StartError> {
        let StartOrder { app, launch, build, root, instance, output } = order;
        let (mut command, program) = launch.command(build, root, app);
        command.env(INSTANCE_VARIABLE, instance).stdin(Stdio::null()).process_group(0);
        match output {
            Some(file) => {
                command.stdout(file.try_clone().map_err(StartError::Output)?).stderr(file);
            }
            None => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
            }
        }
        let spawned = command.spawn();
        let mut child = spawned.map_err(|source| StartError::Spawn { program, source })?;
        let watched = ProcessIdentity::of(child.id()).and_then(|identity| {
            let handle = identity.open()?;
            // A child that ended already is a zombie until it is waited for, but has a handle.
            let handle = match handle {
                Some(handle) => handle,
                None => open_unchecked(&child)?,
            };
            watch(handle).map(|handle| (identity, handle))
        });
        match watched {
            Ok((identity, handle)) => Ok(RealProcess { identity, handle, child: Some(child) }),
            Err(source) => {
                drop(child.kill());
                drop(child.wait());
                Err(StartError::Watch(source))
            }
        }
    }
}

impl Host for RealHost {
    type Process = RealProcess;

    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn start(&mut self, order: StartOrder<'_>) -> Result<RealProcess, String> {
        self.spawn(order).map_err(|error| format!("{:#}", anyhow::Error::new(error)))
    }

    fn find(&mut self, record: &RunningRecord, app: &AppDir) -> io::Result<Option<RealProcess>> {
        let identity = match (&record.process, record.instance.as_str()) {
            (Some(identity), _) => Some(identity.clone()),
            (None, "") => {
                let app = app.path().display().to_string();
                process::find_by_environment(APP_DIR_VARIABLE, &app)?
            }
            (None, instance) => process::find_by_environment(INSTANCE_VARIABLE, instance)?,
        };
        let Some(identity) = identity else { return Ok(None) };
        let Some(handle) = identity.open()? else {
            // The leader is gone, but what it started may still hold its ports.
            identity.signal_group(Signal::KILL)?;
            return Ok(None);
        };
        Ok(Some(RealProcess { identity, handle: watch(handle)?, child: None }))
    }

    fn check(
        &self,
        probe: &Probe,
        root: &Path,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let (probe, root) = (probe.clone(), root.to_owned());
        async move { probe::check(&probe, &root, timeout).await.map_err(|error| error.to_string()) }
    }

    fn run_hook(
        &self,
        order: HookOrder,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        async move { hook::run(order).await.map(drop).map_err(|failure| failure.to_string()) }
    }
}

impl HostProcess for RealProcess {
    fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    async fn next_notice(&mut self) -> Notice {
        // An error of the handle is taken for the end: the group check that follows finds out.
        drop(self.handle.readable().await);
        Notice::Ended
    }

    /// Leaves the leader a zombie: its id, which is also the group's, must not be given to another
    /// process while the rest of the group is being stopped.
    fn describe_end(&self) -> String {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(self.handle.as_fd()), options);
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

    fn signal(&self, signal: Signal) -> io::Result<()> {
        self.identity.signal_group(signal)
    }

    fn is_alive(&self) -> io::Result<bool> {
        self.identity.is_group_alive()
    }

    fn reap(&mut self) {
        match &mut self.child {
            Some(child) => drop(child.try_wait()),
            // An agent that replaced itself is still the parent of the programs it started before.
            None => {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                drop(rustix::process::waitid(WaitId::PidFd(self.handle.as_fd()), options));
            }
        }
    }
}

fn watch(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "unsound only for types that lie about their descriptor, which OwnedFd does not; \
                  the replacement is an unsafe function"
    )]
    AsyncFd::with_interest(handle, Interest::READABLE)
}

fn open_unchecked(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}
