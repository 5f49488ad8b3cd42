//! `shoal publish` into the main store, and `shoal builds`, `gc` and `repair` of it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::rig::{
    Daemon, Rig, check_failed, fail, names, parse, random_bytes, run, shoal, succeed, wait_for,
};

const MIB: usize = 1 << 20;

/// A main store in a folder, and a publisher's state.
struct Main {
    rig: Rig,
    url: String,
    state: String,
}

impl Main {
    fn new() -> Self {
        let rig = Rig::new();
        let url = format!("file://{}", rig.text("main"));
        let state = rig.text("state");
        Self { rig, url, state }
    }

    fn arguments<'a>(&'a self, path: &'a str) -> Vec<&'a str> {
        let store = ["--store", &self.url, "--state", &self.state];
        [&["publish", path, "--app", "web", "--json"][..], &store].concat()
    }

    fn publish(&self, bytes: &[u8]) -> Value {
        let file = self.rig.text("program");
        fs::write(&file, bytes).unwrap();
        parse(&succeed(&self.arguments(&file)))
    }

    fn ask(&self, command: &str, more: &[&str]) -> Value {
        parse(&succeed(&[&[command, "--store", &self.url, "--json"], more].concat()))
    }

    fn builds(&self) -> Vec<Value> {
        let mut found = self.ask("builds", &[])["builds"].as_array().unwrap().clone();
        found.sort_by_key(|build| build["published_at_ms"].as_u64());
        found.into_iter().map(|build| build["build"].clone()).collect()
    }
}

fn count(listed: &Value) -> usize {
    listed.as_array().unwrap().len()
}

/// Goal: a second version costs what is new of it, and both are there, from any machine.
#[test]
fn builds_are_published_listed_and_swept() {
    let main = Main::new();
    let mut bytes = random_bytes(1, 8 * MIB);
    let first = main.publish(&bytes);
    assert_eq!(first["bytes_sent"].as_u64().unwrap() >> 20, 8, "noise does not compress");
    bytes[MIB..MIB + 10].fill(0);
    let second = main.publish(&bytes);
    assert_eq!(second["previous"], first["build"]);
    assert!(second["bytes_sent"].as_u64().unwrap() < MIB as u64, "{second}");
    assert_eq!(main.builds(), [first["build"].clone(), second["build"].clone()]);
    let again = main.publish(&bytes);
    assert_eq!((&again["is_known"], &again["build"]), (&true.into(), &second["build"]));

    let swept = main.ask("gc", &["--keep", "1", "--no-goals"]);
    assert_eq!(swept["builds_kept"], 2, "both are younger than the grace: {swept}");
    fail(
        &["gc", "--store", &main.url, "--keep", "1", "--no-goals", "--grace", "1s"],
        &["too short"],
    );
    let swept = main.ask("gc", &["--keep-age", "1d", "--goal", &main.rig.goal(), "--dry-run"]);
    assert_eq!((count(&swept["builds_condemned"]), &swept["dry_run"]), (0, &true.into()));

    let shown = succeed(&["builds", "--store", &main.url, "--app", "web"]);
    assert!(shown.lines().next().unwrap().starts_with("BUILD"), "{shown}");
    assert_eq!(shown.lines().count(), 3, "{shown}");
    let none = succeed(&["builds", "--store", &main.url, "--app", "other"]);
    assert_eq!(none.lines().count(), 1, "{none}");
}

/// Goal: what is broken is found with exit code 1, and publishing again mends it.
#[test]
fn a_broken_build_is_found_removed_and_published_again() {
    let main = Main::new();
    let bytes = random_bytes(2, MIB);
    let build = main.publish(&bytes)["build"].as_str().unwrap().to_owned();
    let sound = main.ask("repair", &["--deep"]);
    assert_eq!((&sound["builds"], count(&sound["broken"])), (&1.into(), 0));
    let packs = main.rig.path("main/packs");
    let pack = names(&packs).into_iter().next().unwrap();
    fs::remove_file(packs.join(&pack)).unwrap();

    let repair = ["repair", "--store", &main.url];
    let output = run(&repair);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&build) && text.contains("--fix removes it from sight"), "{text}");
    succeed(&[&repair[..], &["--fix"]].concat());
    assert_eq!(main.builds(), [Value::Null; 0]);
    assert_eq!(main.publish(&bytes)["is_known"], false);
    succeed(&[&repair[..], &["--deep"]].concat());
}

/// Goal: a publisher that is killed leaves no build, and the same command goes on.
#[test]
fn a_killed_publish_is_invisible_and_goes_on() {
    let main = Main::new();
    let file = main.rig.text("program");
    let bytes = random_bytes(3, 100 * MIB);
    fs::write(&file, &bytes).unwrap();
    let mut command = shoal(&main.arguments(&file));
    command.stdout(fs::File::create(main.rig.path("out")).unwrap());
    let mut publisher = Daemon::start("publish", command, main.rig.path("publish.log"));
    wait_for("a pack is ready", || has_record(Path::new(&main.state)).then_some(()));
    publisher.kill();
    assert_eq!(main.builds(), [Value::Null; 0]);
    let done = main.publish(&bytes);
    assert!(done["bytes_reused"].as_u64().unwrap() >= 60 << 20, "the first pack was kept: {done}");
    assert_eq!(main.builds().len(), 1);
    succeed(&["repair", "--store", &main.url, "--deep"]);
}

fn has_record(state: &Path) -> bool {
    let Ok(folders) = fs::read_dir(state) else { return false };
    let mut files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.any(|file| file.unwrap().path().extension().is_some_and(|kind| kind == "json"))
}

#[test]
fn stores_that_cannot_be_used_are_refused_in_one_line() {
    let main = Main::new();
    let file = main.rig.text("program");
    fs::write(&file, b"x").unwrap();
    let publish = |url: &str| {
        let state = ["--state", &main.state];
        run(&[&["publish", &file, "--app", "web", "--store", url], &state[..]].concat())
    };
    check_failed(&publish("ftp://host/x"), &["ftp://host/x", "names no store", "s3://"]);
    check_failed(&publish("http://127.0.0.1:1/x"), &["can only be read"]);
    let missing = format!("{}/missing", main.url);
    fail(&["builds", "--store", &missing], &["cannot be used as a store", "No such file"]);
    fail(&["builds", "--store", "http://127.0.0.1:1/x"], &["cannot list"]);
    let usage = run(&["gc", "--store", &main.url, "--keep", "1"]);
    assert_eq!(usage.status.code(), Some(2), "in use is what goals say: they must be named");
}
