//! The demo's temporary folder: what lies where, and how its hosts are configured.
//!
//! ```text
//! versions/1, versions/2   trees before they are published
//! store/                   builds, as the seeder serves them
//! seeder/                  the seeder's state
//! goal/                    goals and host statuses
//! alone/                   the download that the bound is calculated from
//! hosts/host-1/            agent.toml and the agent's state
//! logs/                    one per process
//! ```

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use goal_state::{AppName, GoalUrl};
use tempfile::TempDir;

use crate::output::human;

/// The folder. Dropping it removes it, unless it was asked to stay.
#[derive(Debug)]
pub(super) struct DemoFolder {
    directory: TempDir,
}

/// One host of the demo.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// Its name in statuses and logs.
    pub(super) name: String,
    /// Where its service answers.
    pub(super) port: u16,
}

impl DemoFolder {
    /// Makes the folder where the system keeps temporary files.
    ///
    /// # Errors
    ///
    /// If it cannot be made, or its path cannot be written into a configuration.
    pub(super) fn new(is_kept: bool) -> anyhow::Result<Self> {
        let mut directory = tempfile::Builder::new()
            .prefix("shoal-demo-")
            .tempdir()
            .context("cannot make a temporary folder; set TMPDIR to a directory you can write")?;
        directory.disable_cleanup(is_kept);
        let folder = Self { directory };
        anyhow::ensure!(
            folder.directory.path().to_str().is_some(),
            "the temporary folder's path is not UTF-8; set TMPDIR to another"
        );
        for name in ["versions", "store", "seeder", "goal", "hosts", "logs"] {
            let path = folder.path(name);
            fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(folder)
    }

    /// A path in the folder.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        self.directory.path()
    }

    /// The log of a process.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.path("logs").join(format!("{name}.log"))
    }

    /// The goal store.
    pub(super) fn goal_url(&self) -> GoalUrl {
        GoalUrl::File { directory: self.path("goal") }
    }

    /// Where the files of the build lie that a host runs.
    pub(super) fn current(&self, host: &Host, app: &AppName) -> PathBuf {
        self.path("hosts").join(&host.name).join("state/apps").join(app.as_str()).join("current")
    }

    /// Checks that `needed` bytes are free.
    ///
    /// # Errors
    ///
    /// If they are not, with where to look for more.
    pub(super) fn check_space(&self, needed: u64) -> anyhow::Result<()> {
        let disk = rustix::fs::statvfs(self.root()).context("cannot ask for free disk space")?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        anyhow::ensure!(
            free >= needed,
            "the demo needs about {} in {}, {} are free; set TMPDIR to a larger disk or take fewer --hosts",
            human::bytes(needed),
            std::env::temp_dir().display(),
            human::bytes(free)
        );
        Ok(())
    }

    /// Writes the configuration of a host's agent and returns its path.
    ///
    /// # Errors
    ///
    /// If the disk is full.
    pub(super) fn configure(
        &self,
        host: &Host,
        app: &AppName,
        seeder: &str,
        has_service: bool,
    ) -> anyhow::Result<PathBuf> {
        let folder = self.path("hosts").join(&host.name);
        let path = folder.join("agent.toml");
        let goal = self.goal_url().to_string();
        let state = folder.join("state").display().to_string();
        let settings = [
            format!("host = {}", quoted(&host.name)),
            format!("state = {}", quoted(&state)),
            format!("goal = {}", quoted(&goal)),
            format!("seeders = [{}]", quoted(seeder)),
            "listen = \"127.0.0.1:0\"".to_owned(),
            if has_service { service_settings(app, host.port) } else { format!("[apps.{app}]") },
        ];
        let text = settings.join("\n") + "\n";
        let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, text));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// The agent holds the service's socket and swaps programs under it, so that no request is lost.
/// The service says itself when it is ready, and nobody wants to wait as long as a real one is
/// watched.
fn service_settings(app: &AppName, port: u16) -> String {
    let program = quoted(&format!("./{}", demo_service::PROGRAM));
    let socket = demo_service::SOCKET_NAME;
    [
        format!("[apps.{app}]"),
        format!("exec = [{program}]"),
        format!("sockets = {{ {socket} = \"127.0.0.1:{port}\" }}"),
        format!("[apps.{app}.health]"),
        "notify = true".to_owned(),
        "min_healthy_time = \"300ms\"".to_owned(),
    ]
    .join("\n")
}

/// A TOML string. JSON's quoting is a part of TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `count` hosts with ports that are free now. Somebody may take one before the service does, but
/// asking for all at once at least makes them different.
///
/// # Errors
///
/// If the system has no ports left.
pub(super) fn hosts(count: usize) -> io::Result<Vec<Host>> {
    let listeners: io::Result<Vec<TcpListener>> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let host = |(index, listener): (usize, &TcpListener)| {
        Ok(Host { name: format!("host-{}", index + 1), port: listener.local_addr()?.port() })
    };
    listeners?.iter().enumerate().map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_is_removed_unless_kept() {
        let folder = DemoFolder::new(false).unwrap();
        let path = folder.root().to_owned();
        assert!(path.join("store").is_dir());
        drop(folder);
        assert!(!path.exists());

        let kept = DemoFolder::new(true).unwrap();
        let path = kept.root().to_owned();
        drop(kept);
        assert!(path.exists());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn missing_space_names_a_way_out() {
        let folder = DemoFolder::new(false).unwrap();
        folder.check_space(1).unwrap();
        let error = folder.check_space(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("TMPDIR") && error.contains("--hosts"), "{error}");
    }

    #[test]
    fn hosts_have_names_and_ports_of_their_own() {
        let hosts = hosts(20).unwrap();
        assert_eq!(hosts[19].name, "host-20");
        let ports: std::collections::BTreeSet<u16> = hosts.iter().map(|host| host.port).collect();
        assert_eq!(ports.len(), 20);
    }

    #[test]
    fn quotes_in_paths_stay_inside_the_string() {
        assert_eq!(quoted("/a \"b\"\\c"), r#""/a \"b\"\\c""#);
    }
}
