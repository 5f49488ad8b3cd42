//! `shoal fetch` and `shoal verify` from beginning to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::rig::{
    Daemon, Fetched, Rig, check_failed, fail, flip_byte, has_stored_chunks, names, parse,
    random_bytes, run, shoal, succeed, wait_for,
};

const MIB: usize = 1 << 20;

/// A fetch that runs beside the test, with what it prints as its result.
struct Fetch {
    process: Daemon,
    stdout: PathBuf,
}

impl Fetch {
    fn start(rig: &Rig, arguments: &[&str]) -> Self {
        let stdout = rig.path("fetch.out");
        let mut command: Command = shoal(&["fetch", "--json", "--listen", "127.0.0.1:0"]);
        command.args(arguments).stdout(fs::File::create(&stdout).unwrap());
        Self { process: Daemon::start("fetch", command, rig.path("fetch.log")), stdout }
    }

    /// Waits for the one line on its standard output.
    fn result(&mut self) -> serde_json::Value {
        let line = wait_for("the fetch prints its result", || {
            let text = fs::read_to_string(&self.stdout).unwrap();
            let is_whole = text.ends_with('\n');
            if !is_whole {
                self.process.check_running();
            }
            is_whole.then_some(text)
        });
        parse(&line)
    }
}

/// A tree with what builds can hold.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("bin/empty")).unwrap();
    fs::write(root.join("bin/run"), random_bytes(1, 2 * MIB)).unwrap();
    fs::write(root.join("data"), random_bytes(2, MIB)).unwrap();
    fs::write(root.join("none"), "").unwrap();
    std::os::unix::fs::symlink("bin/run", root.join("link")).unwrap();
}

/// Goal: whoever fetched a build can be where others fetch it from.
/// Method: the seeder is gone when the second fetch starts from the first one's address.
#[test]
fn fetch_that_keeps_serving_feeds_another() {
    let rig = Rig::new();
    let tree = rig.path("tree");
    make_tree(&tree);
    let build = rig.publish("store", &tree);
    let (mut seeder, address) = rig.seeder("store", &[]);
    let (one, two) = (rig.text("one"), rig.text("two"));
    let arguments = [build.id.as_str(), "--seeder", &address, "--out", &one, "--keep-serving"];
    let mut serving = Fetch::start(&rig, &arguments);
    let first = serving.result();
    let serving_at = first["serving_at"].as_str().unwrap().to_owned();
    assert_eq!(first["bytes_from_seeders"], build.bytes);
    succeed(&["verify", &one, &build.id]);

    let from_both = [address.as_str(), &serving_at].join(",");
    let fetch = ["fetch", &build.id, "--out", &two, "--json", "--seeder", &from_both];
    let second: Fetched = parse(&succeed(&fetch));
    let arrived = second.bytes_from_seeders + second.bytes_from_peers;
    assert_eq!((second.was_there, arrived, second.bytes), (false, build.bytes, build.bytes));
    assert!(second.bytes_from_peers > 0, "{second:?}");
    succeed(&["verify", &two, &build.id]);
    assert_eq!(names(&rig.path("two")), names(&tree));

    assert_eq!(serving.process.end_with(Signal::TERM).code(), Some(0));
    assert_eq!(names(&rig.path("one")), names(&tree), "nothing of ours stays behind");
    assert_eq!(seeder.end_with(Signal::INT).code(), Some(0));
}

/// Goal: no name of the build appears before all of it is there, and a killed fetch resumes.
/// Method: the directory is listed all the time while a slow seeder sends, before and after the
/// fetch is killed.
#[test]
fn killed_fetch_resumes_and_files_appear_only_when_complete() {
    let rig = Rig::new();
    let root = rig.path("tree");
    fs::create_dir(&root).unwrap();
    for seed in 1..=12 {
        fs::write(root.join(format!("file-{seed}")), random_bytes(seed, MIB)).unwrap();
    }
    let build = rig.publish("store", &root);
    let (_seeder, address) = rig.seeder("store", &["--upload-limit", "4MB"]);
    let (out, out_path) = (rig.text("out"), rig.path("out"));
    let arguments = [build.id.as_str(), "--seeder", &address, "--out", &out];
    let mut fetch = Fetch::start(&rig, &arguments);
    let staging = out_path.join(".shoal/staging").join(&build.id);
    wait_for("chunks are noted on disk", || has_stored_chunks(&staging).then_some(()));
    fetch.process.kill();
    assert_eq!(names(&out_path), [".shoal"]);

    let mut fetch = Fetch::start(&rig, &arguments);
    wait_for("the download is complete", || {
        // First the phase, then the names: what is listed was there before the end.
        let is_staged = staging.join("bitmap").exists();
        let found = names(&out_path);
        let is_underway = is_staged && staging.join("bitmap").exists();
        assert!(!is_underway || found == [".shoal"], "{found:?}");
        (!is_staged).then_some(())
    });
    let fetched: Fetched = serde_json::from_value(fetch.result()).unwrap();
    assert_eq!(fetch.process.wait().code(), Some(0));
    assert!(fetched.bytes_resumed > 0, "{fetched:?}");
    assert_eq!(fetched.bytes_resumed + fetched.bytes_from_seeders, build.bytes, "{fetched:?}");
    assert_eq!(names(&out_path), names(&root));
    succeed(&["verify", &out, &build.id]);
}

#[test]
fn second_fetch_says_that_the_build_is_there() {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, 2 * MIB);
    let (_seeder, address) = rig.seeder("store", &[]);
    let out = rig.text("out");
    let arguments = ["fetch", &build.id, "--seeder", &address, "--out", &out];
    let said = succeed(&arguments);
    assert!(said.starts_with("fetched ") && said.lines().count() == 1, "{said}");
    let said = succeed(&arguments);
    assert!(said.contains("already holds build"), "{said}");
    let again: Fetched = parse(&succeed(&[&arguments[..], &["--json"]].concat()));
    assert!(again.was_there && again.bytes_from_seeders == 0, "{again:?}");
}

#[test]
fn verify_names_the_file_that_was_changed() {
    let rig = Rig::new();
    let tree = rig.path("tree");
    make_tree(&tree);
    let build = rig.publish("store", &tree);
    let (store, tree_text) = (rig.text("store"), rig.text("tree"));
    let arguments = ["verify", &tree_text, &build.id, "--store", &store];
    succeed(&arguments);
    flip_byte(&tree.join("bin/run"), MIB);
    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("is not build") && said.contains("bin/run"), "{said}");
    assert!(!said.contains("data"), "only what differs is named: {said}");
}

/// Goal: a fetch never overwrites what is not its own.
#[test]
fn name_that_is_taken_ends_a_fetch_and_is_kept() {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, 8 * MIB);
    // Slow, so that only a fetch that looks before everything is here ends early.
    let (_seeder, address) = rig.seeder("store", &["--upload-limit", "1MB"]);
    let out = rig.path("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("data-1"), "mine").unwrap();
    let out_text = rig.text("out");
    let arguments = ["fetch", &build.id, "--seeder", &address, "--out", &out_text];
    fail(&arguments, &["data-1", "exists already", "--out"]);
    assert_eq!(names(&out), ["data-1"]);
    assert_eq!(fs::read(out.join("data-1")).unwrap(), b"mine");
}

#[test]
fn two_fetches_into_one_directory_do_not_meet() {
    let rig = Rig::new();
    let build = rig.publish_data("store", 1, 8 * MIB);
    let (_seeder, address) = rig.seeder("store", &["--upload-limit", "2MB"]);
    let out = rig.text("out");
    let arguments = [build.id.as_str(), "--seeder", &address, "--out", &out];
    let mut first = Fetch::start(&rig, &arguments);
    let lock = rig.path("out/.shoal/staging").join(&build.id);
    wait_for("the first one is at work", || lock.exists().then_some(()));
    let second = run(&[&["fetch"], &arguments[..]].concat());
    check_failed(&second, &["another shoal fetch is using", &out]);
    first.result();
    assert_eq!(first.process.wait().code(), Some(0));
    succeed(&["verify", &out, &build.id]);
}
