//! Which build a process runs: native programs, interpreters, links that moved on.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use node_agent::host::{RunsFrom, runs_from, why_runs_from};

/// Says that it runs, then waits.
const SCRIPT: &str = "echo up; read line";

struct Running(Child);

impl Running {
    fn start(program: &Path, arguments: &[&str], directory: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory).stdin(Stdio::piped());
        // `spawn` returns once the program has replaced what started it.
        Self(command.spawn().unwrap())
    }

    fn why(&self, root: &Path) -> Option<RunsFrom> {
        why_runs_from(self.0.id(), root).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Two builds, each with its own copy of `cat`, which runs until its stdin ends.
struct Builds {
    _folder: tempfile::TempDir,
    app: PathBuf,
    old: PathBuf,
    new: PathBuf,
}

impl Builds {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let app = fs::canonicalize(folder.path()).unwrap();
        let (old, new) = (app.join("builds/old"), app.join("builds/new"));
        for root in [&old, &new] {
            fs::create_dir_all(root.join("bin")).unwrap();
            fs::copy("/bin/cat", root.join("bin/server")).unwrap();
            fs::write(root.join("app.sh"), SCRIPT).unwrap();
        }
        let builds = Self { _folder: folder, app, old, new };
        builds.switch("builds/old");
        builds
    }

    fn switch(&self, target: &str) {
        symlink(target, self.app.join("next")).unwrap();
        fs::rename(self.app.join("next"), self.app.join("current")).unwrap();
    }
}

#[test]
fn program_started_through_a_link_belongs_to_the_build_of_that_time() {
    let builds = Builds::new();
    let server = builds.app.join("current/bin/server");
    let before = Running::start(&server, &[], Path::new("/"));
    builds.switch("builds/new");
    let after = Running::start(&server, &[], Path::new("/"));
    let executable = |root: &Path| Some(RunsFrom::Executable(root.join("bin/server")));
    assert_eq!(before.why(&builds.old), executable(&builds.old));
    assert_eq!(before.why(&builds.new), None);
    assert_eq!(after.why(&builds.new), executable(&builds.new));
    assert_eq!(after.why(&builds.old), None);
    // The caller may name the build by the link, too.
    assert!(runs_from(after.0.id(), &builds.app.join("current")));
    // A build beside one whose name begins alike.
    let beside = builds.app.join("builds/ne");
    fs::create_dir(&beside).unwrap();
    assert!(!runs_from(after.0.id(), &beside));
}

#[test]
fn interpreter_is_known_by_what_it_works_on() {
    let builds = Builds::new();
    let shell = Path::new("/bin/sh");
    let script = builds.new.join("app.sh");
    let in_folder = Running::start(shell, &["-c", "read line"], &builds.new.join("bin"));
    assert_eq!(
        in_folder.why(&builds.new),
        Some(RunsFrom::WorkingDirectory(builds.new.join("bin")))
    );
    assert_eq!(in_folder.why(&builds.old), None);
    let child = Command::new(shell)
        .arg(&script)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut by_script = Running(child.unwrap());
    // Its command line is there once it runs, a moment after `spawn` has returned.
    by_script.0.stdout.as_mut().unwrap().read_exact(&mut [0; "up".len()]).unwrap();
    let why = by_script.why(&builds.new);
    let reasons = [RunsFrom::Open(script.clone()), RunsFrom::Argument(script)];
    assert!(why.clone().is_some_and(|why| reasons.contains(&why)), "{why:?}");
    assert_eq!(by_script.why(&builds.old), None);
}

/// Goal: an interpreter that closed its script, and was started through `current`, is never taken
/// for a program of the build that `current` was turned to later. Method: `cat` plays the
/// interpreter; its argument is a file that it has read and closed before it waits at its stdin.
#[test]
fn argument_through_a_link_counts_only_if_the_link_is_older() {
    let builds = Builds::new();
    let script = builds.app.join("current/app.sh");
    let start = || {
        let child = Command::new("/bin/cat")
            .args([script.to_str().unwrap(), "-"])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut running = Running(child.unwrap());
        let mut printed = [0; SCRIPT.len()];
        running.0.stdout.as_mut().unwrap().read_exact(&mut printed).unwrap();
        // Once it took a line from its stdin, it has closed the script.
        running.0.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        running.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        running
    };
    let before = start();
    assert_eq!(before.why(&builds.old), Some(RunsFrom::Argument(script.clone())));
    // Longer than the start of a process is known exactly.
    wait_until_older_than_slack(&before);
    builds.switch("builds/new");
    assert_eq!(before.why(&builds.new), None);
    let after = start();
    assert_eq!(after.why(&builds.new), Some(RunsFrom::Argument(script)));
    assert_eq!(after.why(&builds.old), None);
}

/// Goal of the wait: the link changes at a later moment than the process started, as the clock of
/// `/proc` shows it.
fn wait_until_older_than_slack(process: &Running) {
    let started = start_ticks(process.0.id());
    loop {
        let now = Running::start(Path::new("/bin/cat"), &[], Path::new("/"));
        if start_ticks(now.0.id()) >= started + 10 {
            return;
        }
    }
}

fn start_ticks(pid: u32) -> u64 {
    node_agent::process::ProcessIdentity::of(pid).unwrap().start_ticks
}

#[test]
fn process_that_is_gone_runs_nothing() {
    let builds = Builds::new();
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    assert!(why_runs_from(child.id(), &builds.new).is_err());
    assert!(!runs_from(child.id(), &builds.new));
}
