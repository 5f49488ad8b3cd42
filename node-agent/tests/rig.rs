//! A build of shell scripts in a temporary folder, and ways to wait for what the scripts do.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node_agent::brain::{Gate, Program};
use node_agent::config::AppConfig;
use node_agent::host::{Health, Launch, RealHost};
use node_agent::process::ProcessIdentity;
use node_agent::programs::{ProgramSettings, Supervisor, SupervisorTimings};
use node_agent::state::{AppDir, Place};
use p2p_core::BuildId;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;

/// Only reached by a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One app whose builds are shell scripts.
pub(crate) struct Rig {
    folder: TempDir,
    pub(crate) app: AppDir,
    pub(crate) root: PathBuf,
}

/// What the scripts say through a named pipe, line by line.
pub(crate) struct Ear {
    lines: BufReader<pipe::Receiver>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        use_starter();
        let folder = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(folder.path()).unwrap();
        let root = path.join("root");
        fs::create_dir(&root).unwrap();
        Self { folder, app: AppDir::new(path), root }
    }

    /// Makes `name` an executable script of the build; `$EAR` in it is the pipe of [`Self::ear`].
    pub(crate) fn script(&self, name: &str, text: &str) {
        let path = self.root.join(name);
        fs::write(&path, format!("#!/bin/sh\nEAR={}\n{text}\n", self.ear_path().display()))
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A program that says its process id, then waits to be stopped.
    pub(crate) fn patient_script(&self, name: &str) {
        self.script(name, "echo $$ > $EAR\nwhile :; do sleep 60 & wait; done");
    }

    /// Must be called before a script writes to the pipe, and within a tokio runtime.
    pub(crate) fn ear(&self) -> Ear {
        let path = self.ear_path();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        // Opened for both directions, so that the pipe does not end when a script closes it.
        let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(&path).unwrap();
        Ear { lines: BufReader::new(pipe) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ear_path(&self) -> PathBuf {
        self.app.path().join("ear")
    }
}

impl Ear {
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        within(self.lines.read_line(&mut line)).await.unwrap();
        line.trim_end().into()
    }

    pub(crate) async fn process(&mut self) -> ProcessIdentity {
        ProcessIdentity::of(self.line().await.parse().unwrap()).unwrap()
    }
}

/// Lets this process start programs, hooks and probes; this test binary cannot be their starter.
pub(crate) fn use_starter() {
    node_agent::host::start_through(env!("CARGO_BIN_EXE_shoal-agent"));
}

pub(crate) fn launch(exec: &[&str]) -> Launch {
    use_starter();
    let app = AppConfig {
        exec: Some(exec.iter().copied().map(String::from).collect()),
        environment: [("GREETING".into(), "hello".into())].into(),
        grace_period: Duration::from_millis(200),
        ..AppConfig::default()
    };
    app.launch(&"web".parse().unwrap(), "h1").unwrap()
}

/// A program that is good as soon as it is ready.
pub(crate) fn program(launch: Option<Launch>, timings: SupervisorTimings) -> ProgramSettings {
    let health = Health { min_healthy_time: timings.settle_after, ..Health::default() };
    ProgramSettings { launch, health, timings }
}

pub(crate) fn recover(
    rig: &Rig,
    launch: Launch,
    timings: SupervisorTimings,
) -> Supervisor<RealHost> {
    let host = RealHost::new(BTreeMap::new());
    Supervisor::recover(&rig.app, host, program(Some(launch), timings))
}

/// Waits so short that tests do not.
pub(crate) fn timings() -> SupervisorTimings {
    SupervisorTimings {
        settle_after: Duration::from_millis(50),
        restart_first: Duration::from_millis(10),
        restart_max: Duration::from_millis(40),
        forget_after: Duration::from_mins(1),
        output_check: Duration::from_millis(20),
    }
}

pub(crate) fn build(seed: u8) -> BuildId {
    BuildId::of_manifest(&[seed])
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened for a long time")
}

/// Drives `supervisor` until its program is as wanted.
pub(crate) async fn drive(
    supervisor: &mut Supervisor<RealHost>,
    is_wanted: impl Fn(Program) -> bool,
) {
    drive_until(supervisor, |supervisor| is_wanted(supervisor.programs().serving)).await;
}

/// Drives `supervisor` until it is as wanted itself.
pub(crate) async fn drive_until(
    supervisor: &mut Supervisor<RealHost>,
    is_wanted: impl Fn(&Supervisor<RealHost>) -> bool,
) {
    while !is_wanted(supervisor) {
        let wake = within(supervisor.next_wake()).await;
        supervisor.on_wake(wake);
    }
}

/// Stops the program that serves, to its end.
pub(crate) async fn stop(mut supervisor: Supervisor<RealHost>) {
    supervisor.stop(Place::Serving);
    drive(&mut supervisor, is_stopped).await;
}

pub(crate) fn is_settled(program: Program) -> bool {
    matches!(program, Program::Running { gate, .. } if gate >= Gate::Ready)
}

pub(crate) fn is_resting(program: Program) -> bool {
    matches!(program, Program::Resting { .. })
}

pub(crate) fn is_stopped(program: Program) -> bool {
    program == Program::Stopped
}

/// Waits until a process that nobody here can wait for has ended.
pub(crate) async fn gone(process: &ProcessIdentity) {
    let ended = async {
        while process.open().unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(ended).await;
}

/// The arguments with which this test binary runs one test only: as a program of another test.
/// `module` is the caller's `module_path!()`, so that a test keeps its program where it moves.
pub(crate) fn only_test(module: &str, name: &str) -> [String; 3] {
    let (_, module) = module.split_once("::").unwrap();
    ["--exact".into(), format!("{module}::{name}"), "--nocapture".into()]
}
