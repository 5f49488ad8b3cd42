//! The machine as it is: [`Host`] over processes, probes and hooks.
//!
//! Invariant: a program leads a session and a process group of its own, which nobody else can join,
//! and only that group is ever signalled.
//! Decides nothing and keeps nothing but what it has to hold for programs.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use goal_state::now_ms;
use rustix::process::{Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::host::hook::{self, HookFailure, HookOrder};
use crate::host::launch::INSTANCE_VARIABLE;
use crate::host::mark::{self, MarkKey};
use crate::host::notify::NotifySocket;
use crate::host::preflight::{CannotStart, Preflight};
use crate::host::probe::{self, Probe, ProbeCaller, ProbeFailure};
use crate::host::sockets::{HeldSockets, SocketAddress, SocketsError};
use crate::host::start::Started;
use crate::host::unit::Systemd;
use crate::host::unit_program::UnitProgram;
use crate::host::{Host, HostProcess, Notice, StartError, StartOrder, Stray};
use crate::process::ProcessIdentity;
use crate::state::app_dir::{AppDir, RunningRecord};

/// The machine that the agent runs on, as one app uses it.
#[derive(Debug)]
pub struct RealHost {
    sockets_wanted: BTreeMap<String, SocketAddress>,
    /// `None` until they could be opened; each start tries again.
    sockets: Option<HeldSockets>,
    systemd: Arc<Systemd>,
    /// The user that health commands run as: nothing that a build brings along may run as the
    /// agent's user.
    caller: ProbeCaller,
    mark_key: MarkKey,
}

/// A program of this machine.
#[derive(Debug)]
pub struct RealProgram {
    kind: ProgramKind,
}

#[derive(Debug)]
enum ProgramKind {
    Process(Box<RealProcess>),
    Unit(UnitProgram),
}

/// A process that this agent or an earlier one started.
#[derive(Debug)]
struct RealProcess {
    identity: ProcessIdentity,
    /// Readable once the process has ended.
    handle: AsyncFd<OwnedFd>,
    /// `None` for a program that an earlier agent started: its exit status goes to somebody else.
    child: Option<Child>,
    /// Where it says that it is ready; `None` if it is not asked to.
    notify: Option<NotifySocket>,
}

impl RealHost {
    /// The machine for an app that listens on `sockets`.
    pub fn new(sockets: BTreeMap<String, SocketAddress>) -> Self {
        let systemd = Arc::new(Systemd::of_host());
        let (caller, mark_key) = (ProbeCaller::agent(), MarkKey::of_secret(&[]));
        Self { sockets_wanted: sockets, sockets: None, systemd, caller, mark_key }
    }

    /// The same with another systemd than the host's.
    #[must_use]
    pub fn with_systemd(self, systemd: Arc<Systemd>) -> Self {
        Self { systemd, ..self }
    }

    /// The same, with commands that ask for health run as the app's user and not the agent's.
    #[must_use]
    pub fn with_probe_caller(self, caller: ProbeCaller) -> Self {
        Self { caller, ..self }
    }

    /// The same, with programs that only agents with `key` recognise as their own.
    #[must_use]
    pub fn with_mark_key(self, key: MarkKey) -> Self {
        Self { mark_key: key, ..self }
    }

    fn held_sockets(&mut self) -> Result<&HeldSockets, SocketsError> {
        let held = match self.sockets.take() {
            Some(held) => held,
            None => HeldSockets::open(&self.sockets_wanted, None)?,
        };
        Ok(self.sockets.insert(held))
    }

    fn spawn(&mut self, order: StartOrder<'_>) -> Result<RealProcess, StartError> {
        let StartOrder { app, launch, place, record, root, says_ready, output } = order;
        let program = launch.program(root);
        let spawn_error = |source| StartError::Spawn { program: program.clone(), source };
        let mut recipe =
            launch.recipe(record.build, root, app).map_err(|e| spawn_error(io::Error::other(e)))?;
        recipe.set(INSTANCE_VARIABLE, &record.instance);
        let notify = says_ready
            .then(|| NotifySocket::bind(&notify_path(app, &record.instance), recipe.uid()))
            .transpose()
            .map_err(StartError::Notify)?;
        if let Some(notify) = &notify {
            recipe.set("NOTIFY_SOCKET", notify.address());
        }
        recipe.hand_over(self.held_sockets()?)?;
        let outputs = match output {
            Some(file) => [file.try_clone().map_err(StartError::Output)?.into(), file.into()],
            None => [Stdio::null(), Stdio::null()],
        };
        let key = self.mark_key;
        let started = recipe.start(outputs, |process, environment| {
            match mark::of(process, app, (place, record), key) {
                Ok((name, value)) => drop(environment.insert(name.into(), value.into())),
                Err(error) => {
                    tracing::warn!(%error, "the program is found again only by its record");
                }
            }
        });
        let Started { mut child, identity } = started.map_err(spawn_error)?;
        let handle = identity.open().and_then(|handle| {
            // A child that ended already is a zombie until it is waited for, but has a handle.
            watch(handle.map_or_else(|| open_unchecked(&child), Ok)?)
        });
        match handle {
            Ok(handle) => {
                if let Some(notify) = &notify {
                    notify.listen_to(&identity);
                }
                Ok(RealProcess { identity, handle, child: Some(child), notify })
            }
            Err(source) => {
                drop(child.kill());
                drop(child.wait());
                Err(StartError::Watch(source))
            }
        }
    }
}

impl Host for RealHost {
    type Process = RealProgram;

    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn start(&mut self, order: StartOrder<'_>) -> Result<RealProgram, StartError> {
        if let Some(unit) = &order.launch.unit {
            let unit = UnitProgram::start(self.systemd.clone(), unit, order.root);
            return Ok(RealProgram { kind: ProgramKind::Unit(unit) });
        }
        let process = self.spawn(order)?;
        Ok(RealProgram { kind: ProgramKind::Process(Box::new(process)) })
    }

    fn find(
        &mut self,
        record: &RunningRecord,
        app: &AppDir,
        root: &Path,
    ) -> io::Result<Option<RealProgram>> {
        if let Some(unit) = &record.unit {
            let unit = UnitProgram::find(self.systemd.clone(), unit, root);
            return Ok(Some(RealProgram { kind: ProgramKind::Unit(unit) }));
        }
        let identity = match &record.process {
            Some(identity) => Some(identity.clone()),
            // The agent was killed before it could note which process it is. Only the mark tells,
            // because any user can set any other variable.
            None => mark::find(app, self.mark_key)?
                .into_iter()
                .find(|stray| stray.record.instance == record.instance)
                .and_then(|stray| stray.record.process),
        };
        let Some(identity) = identity else { return Ok(None) };
        let Some(handle) = identity.open()? else {
            // The leader is gone, but what it started may still hold its ports.
            identity.signal_group(Signal::KILL)?;
            return Ok(None);
        };
        if self.sockets.is_none() {
            // What cannot be had is reported once more when a program is started with it.
            self.sockets = HeldSockets::open(&self.sockets_wanted, Some(&identity))
                .inspect_err(|error| tracing::warn!("{error}"))
                .ok();
        }
        // A program of root may have become somebody else.
        let user = identity.users()?.first().copied().filter(|user| *user != 0);
        let notify = NotifySocket::bind(&notify_path(app, &record.instance), user).ok();
        if let Some(notify) = &notify {
            notify.listen_to(&identity);
        }
        let process = RealProcess { identity, handle: watch(handle)?, child: None, notify };
        Ok(Some(RealProgram { kind: ProgramKind::Process(Box::new(process)) }))
    }

    fn find_all(&mut self, app: &AppDir) -> io::Result<Vec<Stray>> {
        mark::find(app, self.mark_key)
    }

    fn preflight(&self, preflight: &Preflight<'_>) -> Result<(), CannotStart> {
        preflight.check()
    }

    fn check(
        &self,
        probe: &Probe,
        root: &Path,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), ProbeFailure>> + Send + 'static {
        let (probe, root, caller) = (probe.clone(), root.to_owned(), self.caller.clone());
        async move { probe::check_as(&probe, &root, timeout, &caller).await }
    }

    #[expect(clippy::manual_async_fn, reason = "an async function would borrow the host")]
    fn run_hook(
        &self,
        order: HookOrder,
    ) -> impl Future<Output = Result<(), HookFailure>> + Send + 'static {
        async move { hook::run(order).await.map(drop) }
    }
}

impl HostProcess for RealProgram {
    fn identity(&self) -> Option<&ProcessIdentity> {
        match &self.kind {
            ProgramKind::Process(process) => Some(&process.identity),
            ProgramKind::Unit(unit) => unit.identity(),
        }
    }

    async fn next_notice(&mut self) -> Notice {
        match &mut self.kind {
            ProgramKind::Process(process) => process.next_notice().await,
            ProgramKind::Unit(unit) => unit.next_notice().await,
        }
    }

    fn describe_end(&self) -> String {
        match &self.kind {
            ProgramKind::Process(process) => process.describe_end(),
            ProgramKind::Unit(unit) => unit.describe_end(),
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match &self.kind {
            ProgramKind::Process(process) => process.identity.signal_group(signal),
            ProgramKind::Unit(unit) => {
                unit.signal(signal);
                Ok(())
            }
        }
    }

    fn is_alive(&self) -> io::Result<bool> {
        match &self.kind {
            ProgramKind::Process(process) => process.identity.is_group_alive(),
            ProgramKind::Unit(unit) => Ok(unit.is_alive()),
        }
    }

    fn reap(&mut self) {
        if let ProgramKind::Process(process) = &mut self.kind {
            process.reap();
        }
    }
}

impl RealProcess {
    async fn next_notice(&mut self) -> Notice {
        tokio::select! {
            // An error of the handle is taken for the end: the group check that follows finds out.
            _ = self.handle.readable() => Notice::Ended,
            () = ready(self.notify.as_ref()) => Notice::Ready,
        }
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

    fn reap(&mut self) {
        if let Some(notify) = self.notify.take() {
            // If it stays behind, it is in nobody's way.
            drop(notify.remove());
        }
        if let Some(child) = &mut self.child {
            drop(child.try_wait());
            return;
        }
        // An agent that replaced itself is still the parent of the programs it started before.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if let Err(error) = rustix::process::waitid(WaitId::PidFd(self.handle.as_fd()), options) {
            tracing::debug!(%error, "the program was another process's child");
        }
    }
}

/// Waits until the program says that it is ready.
async fn ready(notify: Option<&NotifySocket>) {
    let Some(notify) = notify else { return std::future::pending().await };
    loop {
        match notify.next().await {
            Ok(message) if message.is_ready => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the program can no longer say that it is ready");
                return std::future::pending().await;
            }
        }
    }
}

fn notify_path(app: &AppDir, instance: &str) -> PathBuf {
    app.path().join(format!("notify.{instance}"))
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
