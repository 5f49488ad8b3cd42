//! The installed binary as a stub of the agents in builds, with real processes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use node_agent::state::{AppDir, Journal, JournalPhase};
use p2p_core::BuildId;
use p2p_net::{BuildStore, StoredBuild, publish};
use tempfile::TempDir;

const AGENT: &str = env!("CARGO_BIN_EXE_shoal-agent");

const SEEDER: &str =
    "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";

/// A host whose app `me` is the agent.
struct Host {
    folder: TempDir,
    store: BuildStore,
    app: AppDir,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state/apps/me");
        fs::create_dir_all(&directory).unwrap();
        let store = BuildStore::open(&directory).unwrap();
        let host = Self { app: AppDir::new(directory), store, folder };
        host.configure("");
        host
    }

    fn configure(&self, more: &str) {
        let folder = self.folder.path().display();
        let text = format!(
            "{more}\nstate = \"{folder}/state\"\ngoal = \"file://{folder}/goal\"\n\
             seeders = [\"{SEEDER}\"]\nlisten = \"127.0.0.1:0\"\n[apps.me]\nis_agent = true\n"
        );
        fs::write(self.folder.path().join("agent.toml"), text).unwrap();
    }

    /// A build whose agent `make` puts in its place.
    fn build(&self, name: &str, make: impl FnOnce(&Path)) -> StoredBuild {
        let tree = self.folder.path().join(name);
        fs::create_dir_all(tree.join("bin")).unwrap();
        make(&tree);
        publish(&tree, &self.store, None).unwrap().build
    }

    /// A build whose agent is a script.
    fn script(&self, name: &str, text: &str) -> StoredBuild {
        self.build(name, |tree| {
            let path = tree.join("bin/shoal-agent");
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        })
    }

    /// A build with the real agent.
    fn real(&self) -> StoredBuild {
        self.build("real", |tree| {
            fs::copy(AGENT, tree.join("shoal-agent")).unwrap();
        })
    }

    /// As the old agent left it when it switched to `to`.
    fn switched(&self, to: &StoredBuild, good: &[BuildId], tries_left: u32) {
        let journal = Journal {
            generation: 4,
            from: good.first().copied(),
            to: to.id(),
            phase: JournalPhase::Switching,
            good: good.to_vec(),
            elapsed_ms: None,
            tries_left,
            failed: None,
            failed_before: vec![],
        };
        self.app.write_journal(&journal).unwrap();
        self.app.set_current(to.root()).unwrap();
    }

    fn stub(&self) -> Command {
        let mut command = Command::new(AGENT);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SHOAL_")) {
            command.env_remove(name);
        }
        command.env_remove("RUST_LOG").args(["run", "--log", "json", "--config"]);
        command.arg(self.folder.path().join("agent.toml"));
        command
    }

    fn journal(&self) -> Journal {
        self.app.journal().unwrap().unwrap()
    }
}

/// An agent that is stopped when the test ends, however it ends.
struct Running(Child);

impl Running {
    /// Waits until the agent serves.
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let running = Self(child);
        let mut said = vec![];
        for line in lines {
            let line = line.unwrap();
            if line.contains("the node is up") {
                return running;
            }
            said.push(line);
        }
        panic!("the agent ended: {said:#?}");
    }

    fn program(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/exe", self.0.id())).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn agent_that_crashes_at_start_is_rolled_back_by_the_stub() {
    let host = Host::new();
    let (good, bad) = (host.real(), host.script("bad", "exit 3"));
    host.switched(&bad, &[good.id()], 2);
    for tries_left in [1, 0] {
        let output = host.stub().output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(host.journal().tries_left, tries_left);
        assert_eq!(host.app.current().unwrap(), Some(bad.id()));
    }
    let agent = Running::start(host.stub());
    assert_eq!(agent.program(), fs::canonicalize(good.root()).unwrap().join("shoal-agent"));
    assert_eq!(host.app.current().unwrap(), Some(good.id()));
    let journal = host.journal();
    assert_eq!((journal.to, journal.failed.unwrap().build), (good.id(), bad.id()));
}

#[test]
fn without_a_build_before_it_the_stub_is_the_agent() {
    let host = Host::new();
    let bad = host.script("bad", "exit 3");
    host.switched(&bad, &[], 1);
    assert_eq!(host.stub().status().unwrap().code(), Some(3));
    let agent = Running::start(host.stub());
    assert_eq!(agent.program(), fs::canonicalize(AGENT).unwrap());
    assert_eq!(host.journal().failed.unwrap().build, bad.id());
}

#[test]
fn agent_of_a_build_gets_the_arguments_whatever_the_stub_makes_of_the_configuration() {
    let host = Host::new();
    let script = host.script("new", "echo \"$SHOAL_STUB_BUILD $SHOAL_STUB $*\"");
    host.switched(&script, &[], 9);
    let journal = host.journal().settled(4, None);
    host.app.write_journal(&journal).unwrap();
    for more in ["", "future = 1"] {
        host.configure(more);
        let output = host.stub().output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let config = host.folder.path().join("agent.toml");
        let stub = fs::canonicalize(AGENT).unwrap();
        let (build, stub, config) = (script.id(), stub.display(), config.display());
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!("{build} {stub} run --log json --config {config}\n")
        );
    }
    assert_eq!(host.journal(), journal, "a build that is good costs no try");
}
