//! The two examples for people, run against each other as they are documented.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use p2p_net::BuildId;

use crate::rig::{Rig, assert_same_tree};

/// Ends the seeder with the test.
struct Seeder {
    process: Child,
    build: String,
    address: String,
}

impl Seeder {
    fn start(path: &Path, store: &Path) -> Self {
        let mut process = Command::new(example("seed"))
            .args([path, store])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut line = || lines.next().expect("the seeder ended early").unwrap();
        let (build, address) = (line(), line());
        Self { process, build, address }
    }
}

impl Drop for Seeder {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Where cargo puts an example, seen from a test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(program.exists(), "{name} is not built; run: cargo build -p p2p-net --examples");
    program
}

fn fetch(arguments: &[&str]) -> Output {
    Command::new(example("fetch")).args(arguments).output().unwrap()
}

/// Goal: what a stranger reads first does what it says.
/// Method: both programs as processes, with nothing but what the first one prints.
#[test]
fn one_example_fetches_what_the_other_seeds() {
    let rig = Rig::new();
    let tree = rig.tree("program", 3 << 20, 1);
    let seeder = Seeder::start(&tree, &rig.path("store"));
    let directory = rig.path("fetched");
    let output = fetch(&[&seeder.build, &seeder.address, directory.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(" bytes, "), "no progress was shown: {said}");
    assert_same_tree(&tree, &directory);
}

/// Goal: a build that nobody serves is an error once patience is over, with the reason.
#[test]
fn example_gives_up_on_what_nobody_serves() {
    let rig = Rig::new();
    let tree = rig.tree("program", 1 << 10, 1);
    let seeder = Seeder::start(&tree, &rig.path("store"));
    let unknown = BuildId::of_manifest(b"nobody has this").to_string();
    let directory = rig.path("fetched");
    let directory = directory.to_str().unwrap();
    let output = fetch(&[&unknown, &seeder.address, directory, "--give-up-after", "2"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().next_back().unwrap();
    let expected = format!("fetch: no progress for 2s: no seeder has build {unknown}");
    assert!(last.starts_with(&expected), "{last}");
}

/// Goal: a mistake in an argument is named with the argument, and leaves nothing behind.
#[test]
fn mistakes_name_their_argument() {
    let rig = Rig::new();
    let occupied = rig.tree("occupied", 1, 1);
    let (empty, build) = (rig.path("empty"), "a".repeat(64));
    let address =
        "/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";
    let [occupied, empty] = [&occupied, &empty].map(|path| path.to_str().unwrap());
    let cases: [(&[&str], &str); 4] = [
        (&[address, &build, empty], "fetch: BUILD: "),
        (&[&build, &build, empty], "fetch: SEEDER: "),
        (
            &[&build, address, empty, "--give-up-after", "5s"],
            "fetch: --give-up-after: expected whole",
        ),
        (&[&build, address, occupied], "is not empty"),
    ];
    for (arguments, expected) in cases {
        let output = fetch(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(expected), "{said}");
    }
    assert!(!Path::new(empty).exists());
    let store = rig.path("store");
    let output = Command::new(example("seed")).args([&rig.path("gone"), &store]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("seed: PATH: ") && !store.exists(), "{said}");
}
