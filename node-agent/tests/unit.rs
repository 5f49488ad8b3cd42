//! The conversation with systemd, over a bus of the test's own with a systemd of the test's own.

#![expect(
    clippy::unused_self,
    clippy::multiple_inherent_impl,
    reason = "what the macro for a D-Bus interface makes"
)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use node_agent::{Systemd, UnitError, UnitOrder, UnitState};
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedObjectPath, fdo, interface};

use crate::rig::within;

const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/web_2eservice";

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
struct Bus {
    daemon: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Bus {
    fn start() -> Self {
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

/// What the manager knows: `web.service` and how its next job ends.
struct FakeManager {
    /// Result of the next job; empty: it never ends.
    result: &'static str,
    jobs: Arc<AtomicU32>,
}

impl FakeManager {
    async fn job(&self, unit: &str, emitter: SignalEmitter<'_>) -> fdo::Result<OwnedObjectPath> {
        let id = self.jobs.fetch_add(1, Ordering::Relaxed);
        let path = |id: u32| {
            OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{id}")).unwrap()
        };
        if !self.result.is_empty() {
            // A job of somebody else, and then this one, both before the answer to the call.
            for (id, result) in [(id + 1000, "failed"), (id, self.result)] {
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
        let path =
            if name == "web.service" { UNIT_PATH } else { "/org/freedesktop/systemd1/unit/x" };
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
        Ok(self.job(name, emitter).await?)
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
        self.job(name, emitter).await
    }

    fn reload_unit(&self, name: &str, mode: &str) -> Result<OwnedObjectPath, FakeError> {
        assert_eq!(mode, "replace");
        Err(FakeError::JobTypeNotApplicable(format!("Unit {name} cannot reload.")))
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
}

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl FakeUnit {
    #[zbus(property)]
    fn load_state(&self) -> &'static str {
        self.load_state
    }
    #[zbus(property)]
    fn active_state(&self) -> &'static str {
        "activating"
    }
    #[zbus(property)]
    fn sub_state(&self) -> &'static str {
        "auto-restart"
    }
}

struct FakeService {
    main_pid: u32,
}

#[interface(name = "org.freedesktop.systemd1.Service")]
impl FakeService {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> u32 {
        self.main_pid
    }
    #[zbus(property)]
    fn result(&self) -> &'static str {
        "exit-code"
    }
    #[zbus(property, name = "NRestarts")]
    fn n_restarts(&self) -> u32 {
        3
    }
}

async fn systemd(bus: &Bus, result: &'static str, main_pid: u32) -> Connection {
    let unknown = "/org/freedesktop/systemd1/unit/x";
    let builder = zbus::connection::Builder::address(bus.address.as_str())
        .serve_at("/org/freedesktop/systemd1", FakeManager { result, jobs: Arc::default() })
        .serve_at(UNIT_PATH, FakeUnit { load_state: "loaded" })
        .serve_at(UNIT_PATH, FakeService { main_pid })
        .serve_at(unknown, FakeUnit { load_state: "not-found" })
        .name("org.freedesktop.systemd1");
    within(builder.build()).await.unwrap()
}

#[tokio::test]
async fn job_is_waited_for_and_state_is_read() {
    let bus = Bus::start();
    let _service = systemd(&bus, "done", 4242).await;
    let systemd = Systemd::at(&bus.address);
    within(systemd.restart("web.service")).await.unwrap();
    within(systemd.stop("web.service")).await.unwrap();
    within(systemd.restart("web.service")).await.unwrap();
    let expected = UnitState {
        active: "activating".into(),
        sub: "auto-restart".into(),
        main_pid: Some(4242),
        result: "exit-code".into(),
        restarts: 3,
    };
    assert_eq!(within(systemd.state("web.service")).await.unwrap(), expected);
}

#[tokio::test]
async fn failures_are_told_apart_and_say_what_to_do() {
    let bus = Bus::start();
    let _service = systemd(&bus, "failed", 0).await;
    let systemd = Systemd::at(&bus.address);
    let error = within(systemd.restart("web.service")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot restart web.service: systemd says failed: exit-code; see journalctl -u web.service"
    );
    assert_eq!(within(systemd.state("web.service")).await.unwrap().main_pid, None);

    let error = within(systemd.restart("wbe.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::NoSuchUnit { order: UnitOrder::Restart, .. }), "{error}");
    let error = within(systemd.state("wbe.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::NoSuchUnit { order: UnitOrder::Look, .. }), "{error}");
    let error = within(systemd.stop("other.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::Denied { .. }), "{error}");
    let error = within(systemd.reload("web.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("Unit web.service cannot reload."), "{error}");
}

#[tokio::test]
async fn job_that_never_ends_is_not_waited_for_for_ever() {
    let bus = Bus::start();
    let _service = systemd(&bus, "", 0).await;
    let systemd = Systemd::at(&bus.address).with_job_timeout(Duration::from_millis(300));
    let error = within(systemd.restart("web.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::TimedOut { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "cannot restart web.service: systemd did not finish within 300ms"
    );
}

#[tokio::test]
async fn host_without_systemd_is_told_as_that_and_one_that_comes_later_is_found() {
    let nowhere = Systemd::at("unix:path=/nonexistent/bus");
    let error = within(nowhere.restart("web.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::NoSystemd { .. }), "{error}");
    assert!(error.to_string().contains("systemd does not answer on D-Bus"), "{error}");

    let bus = Bus::start();
    let systemd_of_host = Systemd::at(&bus.address);
    let error = within(systemd_of_host.state("web.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::NoSystemd { .. }), "{error}");
    let service = systemd(&bus, "done", 1).await;
    within(systemd_of_host.restart("web.service")).await.unwrap();

    // The bus goes away under a connection that is kept.
    drop((service, bus));
    let error = within(systemd_of_host.restart("web.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::NoSystemd { .. }), "{error}");
}
