//! What the end-to-end tests share: a folder, the executable, its daemons, and waiting.
//!
//! Invariant: nothing outlives a test. Daemons are stopped when they are dropped, programs that
//! their agents left behind when the [`Rig`] is, which a test must therefore make first. Waiting
//! means asking until a deadline; no time is ever assumed to be enough for something.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use std::io::{Read as _, Write as _};

use goal_state::{HostPhase, HostStatus};
use rustix::process::{Pid, Signal};
use serde::Deserialize;
use tempfile::TempDir;

pub(crate) mod fleet;
pub(crate) mod service_host;

/// How long anything may take before a test fails. Machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks whether something has happened.
const LOOK_INTERVAL: Duration = Duration::from_millis(40);

/// How long a daemon may take to stop when a test is over anyway.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Lines of a log that are shown with the failure of a test.
const TAIL_LINES: usize = 40;

/// A folder with a file goal store.
pub(crate) struct Rig {
    folder: TempDir,
}

/// A published build, as `shoal publish --json` reports it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Published {
    #[serde(rename = "build")]
    pub(crate) id: String,
    pub(crate) bytes: u64,
    pub(crate) bytes_new: Option<u64>,
}

/// What `shoal fetch --json` prints.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Fetched {
    pub(crate) was_there: bool,
    pub(crate) bytes: u64,
    pub(crate) bytes_resumed: u64,
    pub(crate) bytes_from_seeders: u64,
    pub(crate) bytes_from_peers: u64,
}

/// What `shoal status --json` prints, as far as tests look at it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) apps: Vec<AppRow>,
    pub(crate) hosts: Vec<HostRow>,
}

/// An app in [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct AppRow {
    pub(crate) hosts_on_goal: usize,
}

/// A host in [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct HostRow {
    #[serde(flatten)]
    pub(crate) row: HostStatus,
    pub(crate) is_on_goal: bool,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("shoal-test-").unwrap();
        for name in ["goal", "data"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As [`Self::path`], for arguments.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The goal store in the folder.
    pub(crate) fn goal(&self) -> String {
        format!("file://{}", self.text("goal"))
    }

    /// Publishes a file of `size` bytes into `store`; no other seed shares a chunk with it.
    pub(crate) fn publish_data(&self, store: &str, seed: u64, size: usize) -> Published {
        let path = self.path("data").join(format!("data-{seed}"));
        fs::write(&path, random_bytes(seed, size)).unwrap();
        self.publish(store, &path)
    }

    /// Publishes the demo's service into `store`, in the form that answers with `version`.
    pub(crate) fn publish_service(&self, store: &str, version: u32) -> Published {
        let root = self.path("data").join(format!("service-{version}"));
        fs::create_dir(&root).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_shoal"), root.join("demo-service")).unwrap();
        fs::write(root.join("VERSION"), format!("{version}\n")).unwrap();
        self.publish(store, &root)
    }

    /// Publishes `path` into `store`.
    pub(crate) fn publish(&self, store: &str, path: &Path) -> Published {
        let store = self.text(store);
        let path = path.to_str().unwrap();
        parse(&succeed(&["publish", path, "--app", "web", "--store", &store, "--json"]))
    }

    /// Starts a seeder of the store `store`, and waits for its address.
    pub(crate) fn seeder(&self, store: &str, more: &[&str]) -> (Daemon, String) {
        let (store, state) = (self.text(store), self.text("seeder"));
        let mut command = shoal(&["seeder", "--listen", "127.0.0.1:0", "--store", &store]);
        command.args(["--state", &state]).args(more);
        let ready = self.path("seeder.out");
        command.stdout(File::create(&ready).unwrap());
        let mut seeder = Daemon::start("seeder", command, self.path("seeder.log"));
        let address = wait_for("the seeder is ready", || {
            seeder.check_running();
            let text = fs::read_to_string(&ready).unwrap();
            text.strip_suffix('\n').map(str::to_owned)
        });
        (seeder, address)
    }

    /// Starts the agent of `host` for the app `web`, with the goal store in the folder.
    pub(crate) fn agent(&self, host: &str, seeder: &str, more: &[&str]) -> Daemon {
        let goal = self.goal();
        self.agent_of(&goal, host, &[&["--seeder", seeder], more].concat())
    }

    /// Starts the agent of `host` for the app `web`.
    pub(crate) fn agent_of(&self, goal: &str, host: &str, more: &[&str]) -> Daemon {
        let command = self.agent_command(goal, host, more);
        Daemon::start(host, command, self.path(&format!("{host}.log")))
    }

    /// What [`Self::agent_of`] runs.
    pub(crate) fn agent_command(&self, goal: &str, host: &str, more: &[&str]) -> Command {
        let mut command = agent();
        command.args(self.agent_arguments(goal, host, "127.0.0.1:0")).args(more);
        command
    }

    /// What every agent is configured with.
    pub(crate) fn agent_arguments(&self, goal: &str, host: &str, listen: &str) -> Vec<String> {
        let state = self.text(host);
        let pairs = [
            ("--host", host),
            ("--state", &state),
            ("--goal", goal),
            ("--listen", listen),
            ("--app", "web"),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]).collect()
    }

    /// Makes `build` the goal of `web`.
    pub(crate) fn deploy(&self, build: &Published) {
        succeed(&["deploy", "web", &build.id, "--goal", &self.goal()]);
    }

    /// The row of `host` now; `None` if it has not reported.
    pub(crate) fn row(&self, host: &str) -> Option<HostRow> {
        let status: Status = parse(&succeed(&["status", "--goal", &self.goal(), "--json"]));
        status.hosts.into_iter().find(|row| row.row.host == host)
    }

    /// Waits until `accept` is content with the row of `host`.
    pub(crate) fn wait_for_row(
        &self,
        what: &str,
        host: &str,
        accept: impl Fn(&HostRow) -> bool,
    ) -> HostRow {
        let goal = self.goal();
        wait_for_status(what, &goal, |status| {
            status.hosts.iter().find(|row| row.row.host == host && accept(row)).cloned()
        })
    }

    /// Waits until every one of `hosts` runs `build`; returns their rows in order.
    pub(crate) fn wait_until_running(&self, build: &Published, hosts: &[&str]) -> Vec<HostRow> {
        wait_until_running(&self.goal(), build, hosts)
    }

    /// The files of the build that `host` runs.
    pub(crate) fn current(&self, host: &str) -> PathBuf {
        fs::canonicalize(self.path(host).join("apps/web/current")).unwrap()
    }

    /// Checks every byte that `host` runs.
    pub(crate) fn check_current(&self, host: &str, build: &Published) {
        succeed(&["verify", self.current(host).to_str().unwrap(), &build.id]);
    }

    /// Waits until `host` would find parts of `build` after a crash.
    pub(crate) fn wait_for_stored_chunks(&self, host: &str, build: &Published) {
        let staging = self.path(host).join("apps/web/staging").join(&build.id);
        wait_for("chunks are noted on disk", || has_stored_chunks(&staging).then_some(()));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // What a killed agent left running.
        for process in processes_of(self.folder.path()) {
            // Fails if it is gone since.
            rustix::process::kill_process(process, Signal::KILL).unwrap_or_default();
        }
    }
}

/// Whether the bitmap of a staged build claims a chunk. See `p2p-net/src/store/bitmap.rs`: behind
/// 44 bytes of header and before 32 of digest there is a bit for each.
pub(crate) fn has_stored_chunks(staging: &Path) -> bool {
    let Ok(bitmap) = fs::read(staging.join("bitmap")) else { return false };
    bitmap[44..bitmap.len() - 32].iter().any(|byte| *byte != 0)
}

/// A process of the executable that runs until it is told to stop.
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    has_ended: bool,
}

impl Daemon {
    /// Starts `command` with its standard error in `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command.stdin(Stdio::null()).stderr(file).spawn().unwrap();
        Self { name: name.to_owned(), child, log, has_ended: false }
    }

    pub(crate) fn process(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it wrote so far, over all its starts.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has written `part`; returns that line.
    pub(crate) fn wait_for_log(&mut self, part: &str) -> String {
        wait_for(&format!("{} writes {part:?}", self.name), || {
            let line = self.log().lines().find(|line| line.contains(part)).map(str::to_owned);
            if line.is_none() {
                self.check_running();
            }
            line
        })
    }

    /// Whether it has not ended by itself.
    pub(crate) fn is_running(&mut self) -> bool {
        self.has_ended |= self.child.try_wait().unwrap().is_some();
        !self.has_ended
    }

    /// Fails the test if it has ended by itself.
    pub(crate) fn check_running(&mut self) {
        let status = self.child.try_wait().unwrap();
        self.has_ended = status.is_some();
        assert!(status.is_none(), "{} ended: {status:?}\n{}", self.name, self.log());
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.has_ended = true;
    }

    /// Sends `signal` and waits for the end.
    pub(crate) fn end_with(&mut self, signal: Signal) -> ExitStatus {
        rustix::process::kill_process(self.process(), signal).unwrap();
        self.wait()
    }

    /// Sends `signal`. Returns how it ended, if it has by now.
    pub(crate) fn try_end_with(&mut self, signal: Signal) -> Option<ExitStatus> {
        // Fails if it is gone.
        rustix::process::kill_process(self.process(), signal).unwrap_or_default();
        let status = self.child.try_wait().unwrap();
        self.has_ended = status.is_some();
        status
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = wait_for(&format!("{} ends", self.name), || self.child.try_wait().unwrap());
        self.has_ended = true;
        status
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.has_ended {
            rustix::process::kill_process(self.process(), Signal::TERM).unwrap_or_default();
            let deadline = Instant::now() + STOP_PATIENCE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                pause();
            }
            // Both fail only if it has ended.
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            note(&format!("end of the log of {}:", self.name));
            let lines: Vec<_> = log.lines().rev().take(TAIL_LINES).collect();
            lines.into_iter().rev().for_each(|line| note(&format!("  {line}")));
        }
    }
}

/// Starts a seeder at `listen` with the state that one before it left, and waits for its address.
pub(crate) fn start_seeder(rig: &Rig, listen: &str, more: &[&str]) -> (Daemon, String) {
    let (store, state) = (rig.text("store"), rig.text("seeder"));
    let mut command: Command =
        shoal(&["seeder", "--listen", listen, "--store", &store, "--state", &state]);
    command.args(more);
    let ready = rig.path("seeder.out");
    command.stdout(File::create(&ready).unwrap());
    let mut seeder = Daemon::start("seeder", command, rig.path("seeder.log"));
    let address = wait_for("the seeder is ready", || {
        seeder.check_running();
        fs::read_to_string(&ready).unwrap().strip_suffix('\n').map(str::to_owned)
    });
    (seeder, address)
}

/// Says something to whoever reads the output of a test.
#[expect(clippy::print_stderr, reason = "shown with the test")]
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// A command of the executable under test, untouched by what the person who runs the tests has set.
pub(crate) fn shoal(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    remove_settings(&mut command);
    command.args(arguments);
    command
}

/// A command of the agent: the executable under test, or the file in `SHOAL_TEST_AGENT`.
fn agent() -> Command {
    let Some(path) = std::env::var_os("SHOAL_TEST_AGENT") else { return shoal(&["agent"]) };
    let mut command = Command::new(path);
    remove_settings(&mut command);
    command
}

/// A file that is an agent under the name `shoal-agent`.
pub(crate) fn agent_binary() -> PathBuf {
    std::env::var_os("SHOAL_TEST_AGENT").map_or(env!("CARGO_BIN_EXE_shoal").into(), PathBuf::from)
}

/// Keeps settings in the environment away from `command`.
pub(crate) fn remove_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name_bytes = name.as_encoded_bytes();
        if name_bytes.starts_with(b"SHOAL_") || name_bytes == b"RUST_LOG" {
            command.env_remove(name);
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    shoal(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs a command that must succeed. Returns its standard output.
pub(crate) fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}\n{error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Checks that a command failed with code 1 and one line at the end of what it said, which has all
/// of `parts`. Lines of progress may come before.
pub(crate) fn check_failed(output: &Output, parts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let complaints: Vec<_> = error.lines().filter(|line| line.contains("error: ")).collect();
    let [complaint] = complaints.as_slice() else { panic!("not one line of complaint:\n{error}") };
    assert_eq!(error.lines().last(), Some(*complaint), "{error}");
    for part in parts {
        assert!(complaint.contains(part), "{part:?} is missing: {complaint}");
    }
}

/// Runs a command that must fail as [`check_failed`] says.
pub(crate) fn fail(arguments: &[&str], parts: &[&str]) {
    check_failed(&run(arguments), parts);
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// Asks until there is an answer; fails the test if there is none in time.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not after {} s: {what}", PATIENCE.as_secs());
        pause();
    }
}

/// A number that whoever runs the tests has set in the environment.
pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn pause() {
    wait_a_while(LOOK_INTERVAL);
}

/// Lets time pass. What happens meanwhile must not matter to the test.
#[expect(
    clippy::disallowed_methods,
    reason = "between two looks or before a fault, not to wait for something"
)]
pub(crate) fn wait_a_while(time: Duration) {
    std::thread::sleep(time);
}

/// Asks for the status until `accept` finds in it what it looks for. A goal store that does not
/// answer is asked again.
pub(crate) fn wait_for_status<T>(
    what: &str,
    goal: &str,
    accept: impl Fn(&Status) -> Option<T>,
) -> T {
    let mut last = String::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = run(&["status", "--goal", goal, "--json"]);
        last = String::from_utf8(output.stdout).unwrap_or(last);
        if output.status.success()
            && let Some(found) = accept(&parse(&last))
        {
            return found;
        }
        let waits = Instant::now() < deadline;
        assert!(waits, "not after {} s: {what}; the status:\n{last}", PATIENCE.as_secs());
        pause();
    }
}

/// Waits until every one of `hosts` runs `build`; returns their rows in order.
pub(crate) fn wait_until_running(goal: &str, build: &Published, hosts: &[&str]) -> Vec<HostRow> {
    wait_for_status(&format!("{hosts:?} run {}", build.id), goal, |status| {
        let row_of = |host: &&str| {
            let row = status.hosts.iter().find(|row| row.row.host == *host)?;
            let is_there = row.is_on_goal
                && row.row.phase == HostPhase::Running
                && row.row.current.is_some_and(|current| current.to_string() == build.id);
            is_there.then(|| row.clone())
        };
        hosts.iter().map(row_of).collect()
    })
}

/// Bytes that cut like a program's: no two seeds have a chunk in common.
pub(crate) fn random_bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Changes one byte of a file.
pub(crate) fn flip_byte(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A port that nobody uses, neither with TCP nor with UDP. From below those that the system gives
/// to others, and spread by process, so that tests which run at the same time do not meet.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 1_400).unwrap() * 8;
    wait_for("a port is free", || {
        let port = 20_000 + (spread + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", port)).is_ok();
        is_free.then_some(port)
    })
}

/// What the service on `port` answers to `GET /version`; `None` if it does not answer.
pub(crate) fn version_at(port: u16) -> Option<String> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let body = answer.strip_prefix("HTTP/1.1 200 OK\r\n")?.split_once("\r\n\r\n")?.1;
    Some(body.trim_end().to_owned())
}

/// The running processes that have `folder` in their arguments or their environment, this one left
/// out.
pub(crate) fn processes_of(folder: &Path) -> Vec<Pid> {
    let needle = folder.to_str().unwrap().as_bytes();
    let mentions = |pid: &i32| {
        ["cmdline", "environ"].into_iter().any(|file| {
            // Empty for what has ended, and unreadable for what is gone.
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
    };
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let own = rustix::process::getpid();
    pids.filter(mentions).filter_map(Pid::from_raw).filter(|pid| *pid != own).collect()
}

/// The names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
