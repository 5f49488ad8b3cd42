//! What the tests share: generated data, published builds, nodes on loopback.

use std::path::{Path, PathBuf};
use std::time::Duration;

use p2p_core::{Prng, Seed};
use p2p_net::{BuildStore, Identity, Node, NodeConfig, SeederAddress, StoredBuild, publish};
use tempfile::TempDir;

/// A folder that lives as long as the test, and what was put into it.
pub(crate) struct Rig {
    folder: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self, name: &str) -> BuildStore {
        BuildStore::open(self.path(name)).unwrap()
    }

    /// A tree with a file of `bytes` random bytes and some small ones.
    pub(crate) fn tree(&self, name: &str, bytes: usize, seed: u64) -> PathBuf {
        let root = self.path(name);
        std::fs::create_dir_all(root.join("bin/deep")).unwrap();
        std::fs::write(root.join("bin/data"), random_bytes(bytes, seed)).unwrap();
        std::fs::write(root.join("bin/deep/empty"), b"").unwrap();
        std::fs::write(root.join("version"), format!("version {seed}\n")).unwrap();
        std::os::unix::fs::symlink("bin/data", root.join("link")).unwrap();
        root
    }

    /// Publishes such a tree into the store `name`.
    pub(crate) fn published(&self, name: &str, bytes: usize) -> StoredBuild {
        let tree = self.tree(&format!("{name}-source"), bytes, 7);
        publish(&tree, &self.store(name), None).unwrap().build
    }
}

pub(crate) fn random_bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut prng = Prng::from_seed(Seed::from_u64(seed));
    let mut bytes = vec![0; count.next_multiple_of(8)];
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&prng.next_u64().to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

fn loopback() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A seeder that sends at most `upload_limit` bytes per second.
pub(crate) async fn seeder(upload_limit: Option<u64>) -> Node {
    let mut config = NodeConfig::seeder(Identity::generate(), loopback());
    config.upload_limit = upload_limit.and_then(p2p_core::ByteRate::new);
    config.takes_reports = true;
    Node::start(config).await.unwrap()
}

pub(crate) fn host_config(seeders: &[SeederAddress]) -> NodeConfig {
    NodeConfig { seeders: seeders.to_vec(), ..NodeConfig::host(Identity::generate(), loopback()) }
}

pub(crate) async fn host(seeder: &Node) -> Node {
    Node::start(host_config(&[seeder.address()])).await.unwrap()
}

/// Whether both trees hold the same entries with the same bytes, modes and targets.
pub(crate) fn assert_same_tree(left: &Path, right: &Path) {
    let output = std::process::Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([left, right])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Waits for `future`, but not for ever: a test that hangs says nothing.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_mins(1), future).await.expect("took over a minute")
}
