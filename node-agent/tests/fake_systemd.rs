//! A D-Bus daemon of the test's own, with a systemd that knows one unit on it.

#![expect(
    clippy::unused_self,
    clippy::multiple_inherent_impl,
    reason = "what the macro for a D-Bus interface makes"
)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedObjectPath, fdo, interface};

use crate::rig::within;

const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/web_2eservice";
const UNKNOWN_PATH: &str = "/org/freedesktop/systemd1/unit/x";

/// Allows everything to its own user; starts nothing.
const BUS_CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=PATH</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>"#;

/// A `dbus-daemon`.
pub(crate) struct Bus {
    daemon: Child,
    pub(crate) address: String,
    _folder: tempfile::TempDir,
}

impl Bus {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("bus.conf");
        let socket = folder.path().join("bus");
        std::fs::write(&config, BUS_CONFIG.replace("PATH", socket.to_str().unwrap())).unwrap();
        let mut command = Command::new("dbus-daemon");
        command.arg(format!("--config-file={}", config.display()));
        command.args(["--nofork", "--nopidfile", "--print-address"]);
        let daemon = command.stdout(Stdio::piped()).process_group(0).spawn();
        let mut daemon = daemon.expect("dbus-daemon is needed: apt-get install dbus-daemon");
        let mut address = String::new();
        BufReader::new(daemon.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
        Self { daemon, address: address.trim().into(), _folder: folder }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

/// What there is to know of `web.service`, and how the next job for it ends.
pub(crate) struct Model {
    /// Result of the next job; empty: it never ends.
    pub(crate) job_result: &'static str,
    pub(crate) active: &'static str,
    pub(crate) sub: &'static str,
    pub(crate) result: &'static str,
    pub(crate) main_pid: u32,
    pub(crate) restarts: u32,
    /// `ExecStart`; `None`: jobs change nothing.
    pub(crate) exec: Option<PathBuf>,
    /// Jobs in order.
    pub(crate) jobs: Vec<&'static str>,
    child: Option<Child>,
}

impl Model {
    pub(crate) const fn new(job_result: &'static str) -> Self {
        Self {
            job_result,
            active: "inactive",
            sub: "dead",
            result: "success",
            main_pid: 0,
            restarts: 0,
            exec: None,
            jobs: vec![],
            child: None,
        }
    }

    /// Starts what `ExecStart` says as a real process.
    pub(crate) fn spawn(&mut self) {
        let Some(exec) = self.exec.clone() else { return };
        let mut command = Command::new(exec);
        let child = command.process_group(0).spawn().unwrap();
        (self.active, self.sub, self.result) = ("active", "running", "success");
        self.main_pid = child.id();
        self.child = Some(child);
    }

    /// Ends the process of the unit; what that means for the unit is said by the caller.
    pub(crate) fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let group = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
            child.wait().unwrap();
            self.main_pid = 0;
        }
    }

    fn job(&mut self, name: &'static str) {
        self.jobs.push(name);
        if self.exec.is_none() || name == "reload" {
            return;
        }
        self.end();
        (self.active, self.sub) = ("inactive", "dead");
        match (name, self.job_result) {
            ("restart", "done") => self.spawn(),
            ("restart", _) => {
                (self.active, self.sub, self.result) = ("failed", "failed", "exit-code");
            }
            _ => {}
        }
    }

    /// Notices that the process has ended.
    fn look(&mut self) {
        if let Some(child) = &mut self.child
            && child.try_wait().unwrap().is_some()
        {
            self.child = None;
            self.main_pid = 0;
            (self.active, self.sub, self.result) = ("failed", "failed", "exit-code");
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.end();
    }
}

/// The unit as all parts of the fake see it.
#[derive(Clone)]
struct Shared {
    model: Arc<Mutex<Model>>,
}

impl Shared {
    fn look(&self) -> MutexGuard<'_, Model> {
        let mut model = self.model.lock().unwrap();
        model.look();
        model
    }
}

/// A systemd on a bus, until it is dropped.
pub(crate) struct FakeSystemd {
    _connection: Connection,
    shared: Shared,
}

impl FakeSystemd {
    /// The unit, to be looked at or changed.
    pub(crate) fn unit(&self) -> MutexGuard<'_, Model> {
        self.shared.look()
    }

    /// Lets `ExecStart` be `exec` from now on.
    pub(crate) fn set_exec(&self, exec: &Path) {
        self.unit().exec = Some(exec.into());
    }
}

pub(crate) async fn connect(bus: &Bus, model: Model) -> FakeSystemd {
    let shared = Shared { model: Arc::new(Mutex::new(model)) };
    let unit = |load_state| FakeUnit { load_state, shared: shared.clone() };
    let builder = zbus::connection::Builder::address(bus.address.as_str())
        .serve_at(
            "/org/freedesktop/systemd1",
            FakeManager { ids: AtomicU32::new(0), shared: shared.clone() },
        )
        .serve_at(UNIT_PATH, unit("loaded"))
        .serve_at(UNIT_PATH, FakeService { shared: shared.clone() })
        .serve_at(UNKNOWN_PATH, unit("not-found"))
        .name("org.freedesktop.systemd1");
    let connection = within(builder.build()).await.unwrap();
    FakeSystemd { _connection: connection, shared }
}

struct FakeManager {
    ids: AtomicU32,
    shared: Shared,
}

impl FakeManager {
    async fn job(
        &self,
        unit: &str,
        job: &'static str,
        emitter: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let path = |id: u32| {
            OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{id}")).unwrap()
        };
        let result = {
            let mut model = self.shared.look();
            model.job(job);
            model.job_result
        };
        if !result.is_empty() {
            // A job of somebody else, and then this one, both before the answer to the call.
            for (id, result) in [(id + 1000, "failed"), (id, result)] {
                emitter.job_removed(id, path(id), unit.into(), result.into()).await?;
            }
        }
        Ok(path(id))
    }
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum FakeError {
    #[zbus(error)]
    Bus(zbus::Error),
    NoSuchUnit(String),
    JobTypeNotApplicable(String),
}

impl From<fdo::Error> for FakeError {
    fn from(error: fdo::Error) -> Self {
        Self::Bus(error.into())
    }
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl FakeManager {
    fn subscribe(&self) {}

    fn load_unit(&self, name: &str) -> OwnedObjectPath {
        let path = if name == "web.service" { UNIT_PATH } else { UNKNOWN_PATH };
        OwnedObjectPath::try_from(path).unwrap()
    }

    async fn restart_unit(
        &self,
        name: &str,
        mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, FakeError> {
        assert_eq!(mode, "replace");
        if name != "web.service" {
            return Err(FakeError::NoSuchUnit(format!("Unit {name} not found.")));
        }
        Ok(self.job(name, "restart", emitter).await?)
    }

    async fn stop_unit(
        &self,
        name: &str,
        mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, fdo::Error> {
        assert_eq!(mode, "replace");
        if name != "web.service" {
            return Err(fdo::Error::InteractiveAuthorizationRequired("no".into()));
        }
        self.job(name, "stop", emitter).await
    }

    async fn reload_unit(
        &self,
        name: &str,
        mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, FakeError> {
        assert_eq!(mode, "replace");
        if self.shared.look().exec.is_none() {
            return Err(FakeError::JobTypeNotApplicable(format!("Unit {name} cannot reload.")));
        }
        Ok(self.job(name, "reload", emitter).await?)
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

struct FakeUnit {
    load_state: &'static str,
    shared: Shared,
}

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl FakeUnit {
    #[zbus(property)]
    fn load_state(&self) -> &'static str {
        self.load_state
    }
    #[zbus(property)]
    fn active_state(&self) -> &'static str {
        self.shared.look().active
    }
    #[zbus(property)]
    fn sub_state(&self) -> &'static str {
        self.shared.look().sub
    }
}

struct FakeService {
    shared: Shared,
}

#[interface(name = "org.freedesktop.systemd1.Service")]
impl FakeService {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> u32 {
        self.shared.look().main_pid
    }
    #[zbus(property)]
    fn result(&self) -> &'static str {
        self.shared.look().result
    }
    #[zbus(property, name = "NRestarts")]
    fn n_restarts(&self) -> u32 {
        self.shared.look().restarts
    }
}
