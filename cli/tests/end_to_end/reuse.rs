//! New versions of what is on a host already: reported, planned, copied and not fetched.

use std::fs;

use goal_state::HostStatus;

use crate::rig::{Published, Rig, fail, flip_byte, parse, random_bytes, run, succeed};

const MIB: usize = 1 << 20;

/// Publishes a tree of a large file that all versions share, and a small one that differs.
fn publish_version(rig: &Rig, version: u32) -> Published {
    let root = rig.path("data").join(format!("version-{version}"));
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a-large"), random_bytes(1, 12 * MIB)).unwrap();
    fs::write(root.join("version"), format!("{version}\n")).unwrap();
    rig.publish("store", &root)
}

fn fetched(row: &HostStatus) -> u64 {
    row.bytes_from_seeders + row.bytes_from_peers
}

/// Goal: publishing says what is new, `plan` says the same of any two builds, and a host fetches
/// just that: the rest it copies, and the status says so.
#[test]
fn new_version_costs_what_publish_and_plan_say() {
    let rig = Rig::new();
    let first = publish_version(&rig, 1);
    let second = publish_version(&rig, 2);
    assert_eq!(first.bytes_new, None);
    let new = second.bytes_new.unwrap();
    assert!(new > 0 && new <= 4 * MIB as u64, "{new}");

    let store = rig.text("store");
    let arguments = ["plan", &second.id, "--against", &first.id, "--store", &store];
    let plan: serde_json::Value = parse(&succeed(&[&arguments[..], &["--json"]].concat()));
    assert_eq!(plan["bytes_to_fetch"], new);
    assert_eq!(plan["bytes_reused"], second.bytes - new);
    let text = succeed(&arguments);
    assert!(text.contains("to fetch: ") && text.contains("version: 2 B to fetch of 2 B"), "{text}");

    let (_seeder, address) = rig.seeder("store", &[]);
    let _agent = rig.agent("host", &address, &[]);
    rig.deploy(&first);
    let row = rig.wait_until_running(&first, &["host"])[0].row.clone();
    assert_eq!((row.bytes_reused, fetched(&row)), (0, first.bytes));
    rig.deploy(&second);
    let row = rig.wait_until_running(&second, &["host"])[0].row.clone();
    assert_eq!((row.bytes_reused, fetched(&row)), (second.bytes - new, new));
    rig.check_current("host", &second);
}

/// Goal: damaged parts of the old build on the host are fetched and reported once, and the new
/// build is right.
#[test]
fn damaged_old_build_is_named_and_its_chunks_are_fetched() {
    let rig = Rig::new();
    let (first, second) = (publish_version(&rig, 1), publish_version(&rig, 2));
    let (_seeder, address) = rig.seeder("store", &[]);
    let mut agent = rig.agent("host", &address, &[]);
    rig.deploy(&first);
    rig.wait_until_running(&first, &["host"]);
    let damaged = rig.current("host").join("a-large");
    for place in [1, 2, 3] {
        flip_byte(&damaged, place * MIB);
    }
    rig.deploy(&second);
    let row = rig.wait_until_running(&second, &["host"])[0].row.clone();
    assert!(fetched(&row) > second.bytes_new.unwrap(), "{row:?}");
    rig.check_current("host", &second);
    let line = agent.wait_for_log("a build on this host is damaged");
    assert!(line.contains(&first.id) && line.contains("a-large"), "{line}");
    assert_eq!(agent.log().matches("a build on this host is damaged").count(), 1);
}

#[test]
fn plan_names_what_is_missing() {
    let rig = Rig::new();
    let build = publish_version(&rig, 1);
    let (store, nowhere) = (rig.text("store"), rig.text("nowhere"));
    let unknown = "f".repeat(64);
    let cases = [(&build.id, &unknown), (&unknown, &build.id)];
    for (build, against) in cases {
        let arguments = ["plan", build, "--against", against, "--store", &store];
        fail(&arguments, &["does not have build", &unknown]);
    }
    let arguments = ["plan", &build.id, "--against", &build.id, "--store", &nowhere];
    fail(&arguments, &["there is no store", "--store"]);
    assert!(!rig.path("nowhere").exists());
    let same = ["plan", &build.id, "--against", &build.id, "--store", &store];
    assert!(succeed(&same).contains("to fetch: 0 B in 0 of"));
    assert_eq!(run(&["plan", &build.id, "--store", &store]).status.code(), Some(2));
}
