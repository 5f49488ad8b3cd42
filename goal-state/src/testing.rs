//! A real etcd server for tests, of this crate and of others (feature `testing`).
//!
//! Each test starts its own on free ports with data of its own, and loses it when it ends, however
//! it ends. Panics instead of returning errors: a test has no use for them.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etcd_client::{Client, CompactionOptions, ConnectOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::store::url::GoalUrl;

/// How long a server may take until it answers. A fraction of it is usual; machines that run tests
/// are busy.
const START_PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks whether it answers.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often other ports are tried if somebody else was faster with the ones that were free.
const PORT_ATTEMPTS: u32 = 10;

/// A server of one member, on loopback. Killed when dropped; prints the end of its log if the test
/// fails.
#[derive(Debug)]
pub struct EtcdServer {
    directory: TempDir,
    client_port: u16,
    peer_port: u16,
    process: Option<Child>,
}

impl EtcdServer {
    /// Starts a server with no data and waits until it answers.
    ///
    /// # Panics
    ///
    /// etcd is not installed or does not start; the message has its log.
    pub async fn start() -> Self {
        for _ in 0..PORT_ATTEMPTS {
            let [client_port, peer_port] = free_ports();
            let directory = TempDir::with_prefix("shoal-etcd-").expect("temporary directory");
            let mut server = Self { directory, client_port, peer_port, process: None };
            server.spawn();
            if server.answers().await {
                return server;
            }
        }
        panic!("etcd found its ports in use {PORT_ATTEMPTS} times in a row");
    }

    /// Stops the server if it runs and starts it with the same data on the same ports; waits until
    /// it answers.
    ///
    /// # Panics
    ///
    /// etcd does not start; the message has its log.
    pub async fn restart(&mut self) {
        self.stop();
        let deadline = Instant::now() + START_PATIENCE;
        while Instant::now() < deadline {
            self.spawn();
            if self.answers().await {
                return;
            }
            // A client's own port may have landed on ours for a moment.
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        panic!("port {} stays in use; log of etcd:\n{}", self.client_port, self.log());
    }

    /// Kills the server as a crash would; its data stay. Does nothing if it is stopped.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Both fail only if it is gone already.
            drop(process.kill());
            drop(process.wait());
        }
    }

    /// Stops the server and copies its data to `to`, as a backup of files would.
    ///
    /// # Panics
    ///
    /// The disk refuses, or etcd does not start again.
    pub async fn back_up(&mut self, to: &Path) {
        self.stop();
        copy_tree(&self.data_path(), to).expect("the data can be copied");
        self.restart().await;
    }

    /// Loses all data, or puts those of a backup in their place; the server answers again when this
    /// returns.
    ///
    /// # Panics
    ///
    /// The disk refuses, or etcd does not start.
    pub async fn lose_data(&mut self, backup: Option<&Path>) {
        self.stop();
        std::fs::remove_dir_all(self.data_path()).expect("the data can be removed");
        if let Some(backup) = backup {
            copy_tree(backup, &self.data_path()).expect("the data can be copied");
        }
        self.restart().await;
    }

    /// Makes the server hang: connections stay open and nobody answers.
    ///
    /// # Panics
    ///
    /// The server is stopped.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends [`pause`](Self::pause).
    ///
    /// # Panics
    ///
    /// The server is stopped.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the server runs");
        kill_process(Pid::from_child(process), signal).expect("the server takes signals");
    }

    /// The URL of a goal store in this server. The same after a restart.
    pub fn url(&self, prefix: &str) -> GoalUrl {
        GoalUrl::Etcd { endpoints: vec![self.endpoint()], prefix: prefix.to_owned() }
    }

    /// `host:port` for clients. The same after a restart.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// Writes a key as it is, to test how damaged values are met.
    ///
    /// # Panics
    ///
    /// The server does not answer.
    pub async fn put(&self, key: &str, value: &[u8]) {
        self.client().await.put(key, value, None).await.expect("etcd answers");
    }

    /// The value of a key; `None` if there is no such key.
    ///
    /// # Panics
    ///
    /// The server does not answer.
    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.client().await.get(key, None).await.expect("etcd answers");
        answer.kvs().first().map(|found| found.value().to_owned())
    }

    /// Removes a key.
    ///
    /// # Panics
    ///
    /// The server does not answer.
    pub async fn delete(&self, key: &str) {
        self.client().await.delete(key, None).await.expect("etcd answers");
    }

    /// Makes the server forget all revisions but the latest.
    ///
    /// # Panics
    ///
    /// The server does not answer.
    pub async fn compact(&self) {
        let mut client = self.client().await;
        let answer = client.get("x", None).await.expect("etcd answers");
        let latest = answer.header().expect("answers have headers").revision();
        let options = CompactionOptions::new().with_physical();
        client.compact(latest, Some(options)).await.expect("etcd answers");
    }

    /// What the server wrote so far, over all its starts.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn data_path(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    async fn client(&self) -> Client {
        let options = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(1))
            .with_timeout(Duration::from_secs(5));
        Client::connect([self.endpoint()], Some(options)).await.expect("the endpoint is valid")
    }

    fn spawn(&mut self) {
        let log =
            File::options().create(true).append(true).open(self.log_path()).expect("log file");
        let for_clients = format!("http://{}", self.endpoint());
        let for_peers = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new("etcd");
        // etcd takes any option from the environment, also those of a developer's own server.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"ETCD") {
                command.env_remove(name);
            }
        }
        if cfg!(target_arch = "aarch64") {
            // etcd 3.4, as Debian has it, asks for this where it has fewer users.
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        let spawned = command
            .args(["--name", "test", "--initial-cluster", &format!("test={for_peers}")])
            .args(["--listen-client-urls", &for_clients, "--advertise-client-urls", &for_clients])
            .args(["--listen-peer-urls", &for_peers, "--initial-advertise-peer-urls", &for_peers])
            .arg("--data-dir")
            .arg(self.data_path())
            .args(["--logger", "zap", "--log-outputs", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        match spawned {
            Ok(process) => self.process = Some(process),
            Err(error) => {
                panic!("cannot start etcd ({error}); install it: apt-get install etcd-server")
            }
        }
    }

    /// Waits until the server answers; `false` if it ended because a port is in use.
    async fn answers(&mut self) -> bool {
        let mut client = self.client().await;
        let deadline = Instant::now() + START_PATIENCE;
        // A read that needs the leader, because a server answers some requests before it has one.
        while client.get("ready", None).await.is_err() {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            if ended.is_some() && self.log().contains("address already in use") {
                self.process = None;
                return false;
            }
            let waits = ended.is_none() && Instant::now() < deadline;
            assert!(waits, "etcd does not answer ({ended:?}); its log:\n{}", self.log());
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        true
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            print_end(&self.log());
        }
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "shown with the failure of a test")]
fn print_end(log: &str) {
    let lines: Vec<_> = log.lines().rev().take(40).collect();
    eprintln!("end of the log of etcd:");
    lines.into_iter().rev().for_each(|line| eprintln!("{line}"));
}

/// Two ports that nobody uses at the moment. Both are held until both are known, so they differ.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2]
        .map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}
