//! What the tests of the store and of publishing share: trees to publish, and places where a
//! disk is full.
//!
//! Tests that need limits or mounts of their own run themselves again in a child process, so that
//! nothing of it touches the other tests and nothing is left mounted.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use p2p_core::Manifest;
use tempfile::TempDir;

use crate::publish::publish;
use crate::store::{BuildStore, StagedBuild, StoredBuild};

/// Tells a test that it is the child, and where to work.
const CHILD: &str = "SHOAL_TEST_CHILD_DIRECTORY";

/// Bytes that compress and cut like a program's: no two seeds have a chunk in common.
pub(crate) fn random_bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A tree with all that a build can hold, whose chunks span files and whose files span chunks.
pub(crate) fn sample_tree(root: &Path) {
    for directory in ["bin", "lib/deep/empty", "lib/x"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    let files: [(&str, usize, u32); 6] = [
        ("bin/run", 3 << 20, 0o755),
        ("bin/helper", 1_000, 0o711),
        ("lib/empty", 0, 0o644),
        ("lib-data", 6 << 20, 0o600),
        ("lib/x/one", 1, 0o644),
        ("zero", 0, 0o755),
    ];
    for (seed, (path, size, mode)) in (1..).zip(files) {
        std::fs::write(root.join(path), random_bytes(seed, size)).unwrap();
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("../bin/run", root.join("lib/run")).unwrap();
    symlink("lib/nowhere", root.join("dangling")).unwrap();
}

/// What lies under `root`, as far as builds distribute it.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut unlisted = vec![root.to_owned()];
    while let Some(directory) = unlisted.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.path().symlink_metadata().unwrap();
            let what = if metadata.is_dir() {
                unlisted.push(entry.path());
                "directory".to_owned()
            } else if metadata.is_symlink() {
                format!("link to {:?}", std::fs::read_link(entry.path()).unwrap())
            } else {
                let digest = blake3::hash(&std::fs::read(entry.path()).unwrap());
                format!("file {digest} {}", metadata.permissions().mode() & 0o111 != 0)
            };
            found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    found
}

/// The names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Asserts that neither a build nor anything unfinished is in the store.
pub(crate) fn assert_empty(store: &BuildStore) {
    for part in ["builds", "staging"] {
        assert_eq!(names(&store.directory().join(part)), [""; 0], "left in {part}");
    }
}

/// A published build in a store of its own, and an empty store to bring it to.
pub(crate) struct Rig {
    pub(crate) directory: TempDir,
    pub(crate) source: PathBuf,
    pub(crate) published: StoredBuild,
    pub(crate) store: BuildStore,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        std::fs::create_dir(&source).unwrap();
        sample_tree(&source);
        let from = BuildStore::open(directory.path().join("from")).unwrap();
        let published = publish(&source, &from, None).unwrap().build;
        let store = BuildStore::open(directory.path().join("to")).unwrap();
        Self { directory, source, published, store }
    }

    pub(crate) fn manifest(&self) -> &Arc<Manifest> {
        self.published.manifest()
    }

    pub(crate) fn stage(&self) -> StagedBuild {
        self.store.stage(self.published.id(), Arc::clone(self.manifest())).unwrap()
    }

    /// Writes the chunks with these numbers.
    pub(crate) fn copy(&self, to: &StagedBuild, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            let chunk = self.manifest().layout().index(number).unwrap();
            to.write_chunk(chunk, &self.published.read_chunk(chunk).unwrap()).unwrap();
        }
    }

    pub(crate) fn copy_all(&self, to: &StagedBuild) {
        self.copy(to, 0..self.manifest().layout().chunk_count());
    }

    /// The directory in which the build is staged.
    pub(crate) fn home(&self) -> PathBuf {
        self.store.directory().join("staging").join(self.published.id().to_string())
    }
}

/// Where the child of this test is to work; `None` in the test itself.
pub(crate) fn child_directory() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Runs the test `name` again with no file larger than `kibibytes`.
pub(crate) fn run_with_small_files(name: &str, kibibytes: u32) {
    let directory = tempfile::tempdir().unwrap();
    // Without the trap, the signal kills the process before it sees the error.
    let script = format!("trap '' XFSZ; ulimit -f {kibibytes}; exec \"$@\"");
    let wrapper = ["bash", "-c", &script, "bash"].map(str::to_owned);
    check_child(name, &run_child(name, directory.path(), &wrapper));
}

/// Runs the test `name` again in a directory that is a file system of its own with these options.
/// Where the system allows no mounts, says so and passes: the test with small files covers the
/// same code with another error.
pub(crate) fn run_on_tmpfs(name: &str, options: &str) {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap().to_owned();
    let mount = format!("mount -t tmpfs -o {options} tmpfs '{place}'");
    let unshare = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let wrapper = |script: &str| ["unshare", unshare, "sh", "-c", script, "sh"].map(str::to_owned);
    let probe = wrapper(&mount);
    let can_mount =
        Command::new(&probe[0]).args(&probe[1..]).status().is_ok_and(|status| status.success());
    if can_mount {
        let wrapper = wrapper(&format!("{mount} && exec \"$@\""));
        check_child(name, &run_child(name, directory.path(), &wrapper));
    } else {
        eprintln!("{name}: no mounts allowed here, not run");
    }
}

/// Runs the test `name` again without the right of root to read everything.
pub(crate) fn run_without_override(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let bounded = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"];
    let is_root = rustix::process::geteuid().is_root();
    let wrapper: Vec<String> =
        if is_root { bounded.map(str::to_owned).to_vec() } else { vec!["env".to_owned()] };
    check_child(name, &run_child(name, directory.path(), &wrapper));
}

fn run_child(name: &str, directory: &Path, wrapper: &[String]) -> Output {
    Command::new(&wrapper[0])
        .args(&wrapper[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, directory)
        .output()
        .unwrap()
}

fn check_child(name: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "child of {name} failed\n{text}\n{errors}");
    assert!(text.contains("1 passed"), "no test is named {name}\n{text}");
}
