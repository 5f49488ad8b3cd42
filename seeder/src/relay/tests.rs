//! Tests of the relay with a goal store in files: what survives a restart, a lost disk and a wiped
//! store.

use std::fs;
use std::path::Path;

use goal_state::{FORGOTTEN_KEPT_MS, GoalUrl, HostStatus};
use p2p_core::NodeId;
use tempfile::TempDir;

use super::*;

const NODE: NodeId = NodeId::from_bytes([7; 32]);

/// Long enough that every document is due to be written again.
const LATER_MS: u64 = 61_000;

/// A goal store, and a state directory of a seeder.
struct Place {
    folder: TempDir,
    goal: GoalStore,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["goal", "state"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let goal = GoalStore::new(&GoalUrl::File { directory: folder.path().join("goal") });
        Self { folder, goal }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A seeder that starts.
    async fn relay(&self) -> Relay {
        let disk = InventoryDisk::in_state(&self.path("state"));
        Relay::open(self.goal.clone(), "12D3KooW".into(), disk).await
    }

    async fn hosts(&self) -> Vec<String> {
        let rows = self.goal.statuses().await.unwrap();
        rows.into_iter().map(|row| row.host).collect()
    }
}

fn report(relay: &Relay, hosts: &[&str]) {
    for (number, host) in (1..).zip(hosts) {
        let row = HostStatus::new(*host, "web".parse().unwrap());
        let report = serde_json::to_vec(&[row]).unwrap();
        let node = NodeId::from_bytes([number; 32]);
        let taken = relay.with_table(|table| table.on_report(now_ms(), node, &report));
        assert_eq!((taken.rows, taken.refused), (1, None));
    }
}

fn remove(path: &Path) {
    fs::remove_dir_all(path).unwrap();
    fs::create_dir(path).unwrap();
}

/// Goal: hosts that are down while the seeder restarts stay in the inventory, with the time at
/// which they were last heard, whatever the seeder lost meanwhile.
#[tokio::test]
async fn hosts_that_are_down_survive_a_restart() {
    for lost in ["nothing", "state", "goal"] {
        let place = Place::new();
        let before = place.relay().await;
        report(&before, &["h1", "h2", "h3"]);
        assert_eq!(before.flush(now_ms(), 64).await, None);
        before.flush_last().await;
        let heard: Vec<_> = place.goal.statuses().await.unwrap();
        drop(before);
        if lost != "nothing" {
            remove(&place.path(lost));
        }

        let after = place.relay().await;
        report(&after, &["h1"]);
        assert_eq!(after.flush(now_ms(), 64).await, None, "without the {lost}");
        let rows = place.goal.statuses().await.unwrap();
        assert_eq!(place.hosts().await, ["h1", "h2", "h3"], "without the {lost}");
        assert_eq!(rows[1..], heard[1..], "their times are the old ones");
    }
}

#[tokio::test]
async fn damaged_file_is_made_good_from_the_goal_store() {
    let place = Place::new();
    let before = place.relay().await;
    report(&before, &["h1", "h2"]);
    assert_eq!(before.flush(now_ms(), 64).await, None);
    fs::write(place.path("state/inventory/0.json"), "{").unwrap();
    let after = place.relay().await;
    report(&after, &["h1"]);
    assert_eq!(after.flush(now_ms(), 64).await, None);
    assert_eq!(place.hosts().await, ["h1", "h2"]);
    assert!(place.path("state/inventory/0.json.damaged").exists());
}

/// Goal: hosts that the goal store knows and the disk does not stay, and those that were forgotten
/// meanwhile stay away; of a row that both have the one heard last counts.
/// Method: the state directory is one of before, as after a full disk or out of a copy.
#[tokio::test]
async fn old_state_is_united_with_the_goal_store() {
    let place = Place::new();
    let before = place.relay().await;
    report(&before, &["h1", "h2"]);
    assert_eq!(before.flush(now_ms(), 64).await, None);
    let file = place.path("state/inventory/0.json");
    let old = fs::read(&file).unwrap();
    before.with_table(|table| {
        for (number, host) in [(1, "h1"), (3, "h3")] {
            let row = HostStatus { bytes_done: 9, ..HostStatus::new(host, "web".parse().unwrap()) };
            let report = serde_json::to_vec(&[row]).unwrap();
            table.on_report(now_ms() + 5, NodeId::from_bytes([number; 32]), &report);
        }
    });
    place.goal.forget("h2", now_ms()).await.unwrap();
    before.forget(false).await.unwrap();
    assert_eq!(before.flush(now_ms() + LATER_MS, 64).await, None);
    let heard = place.goal.statuses().await.unwrap();
    assert_eq!(place.hosts().await, ["h1", "h3"]);
    drop(before);
    fs::write(&file, old).unwrap();

    let after = place.relay().await;
    assert_eq!(after.flush(now_ms() + LATER_MS, 64).await, None);
    assert_eq!(place.goal.statuses_of("12D3KooW").await.unwrap().rows, heard);
    let saved = fs::read_to_string(&file).unwrap();
    assert!(saved.contains("h3") && !saved.contains("h2"), "{saved}");
}

/// Goal: hosts that were forgotten while a seeder was away for longer than that is remembered stay
/// away, and no other row of its disk is lost: neither one that was heard lately, nor any if the
/// goal store does not know what the seeder wrote.
#[tokio::test]
async fn state_that_is_older_than_what_is_remembered_brings_nobody_back() {
    const LONG_AGO_MS: u64 = FORGOTTEN_KEPT_MS + 60_000;
    let cases = [
        ("nothing", vec!["h1", "h3"]),
        ("goal", vec!["h1", "h2", "h3"]),
        ("document", vec!["h1", "h2", "h3"]),
    ];
    for (lost, expected) in cases {
        let place = Place::new();
        let now_ms = now_ms();
        let before = place.relay().await;
        before.with_table(|table| {
            for (number, ago_ms) in [(1, LONG_AGO_MS), (2, LONG_AGO_MS), (3, 60_000)] {
                let row = HostStatus::new(format!("h{number}"), "web".parse().unwrap());
                let report = serde_json::to_vec(&[row]).unwrap();
                let node = NodeId::from_bytes([number; 32]);
                assert_eq!(table.on_report(now_ms - ago_ms, node, &report).rows, 1);
            }
        });
        assert_eq!(before.flush(now_ms, 64).await, None);
        let file = place.path("state/inventory/0.json");
        let old = fs::read(&file).unwrap();
        for host in ["h2", "h3"] {
            place.goal.forget(host, now_ms).await.unwrap();
        }
        before.forget(false).await.unwrap();
        assert_eq!(before.flush(now_ms + LATER_MS, 64).await, None);
        assert_eq!(place.goal.sweep_forgotten(now_ms + LONG_AGO_MS).await.unwrap(), 2);
        assert_eq!(place.hosts().await, ["h1"]);
        drop(before);
        fs::write(&file, old).unwrap();
        match lost {
            "goal" => remove(&place.path("goal")),
            "document" => fs::write(place.path("goal/status/12D3KooW/0.json"), "{").unwrap(),
            _ => {}
        }

        let after = place.relay().await;
        assert_eq!(after.flush(now_ms + LATER_MS, 64).await, None);
        assert_eq!(place.hosts().await, expected, "lost: {lost}");
        let saved = fs::read_to_string(&file).unwrap();
        assert_eq!(saved.contains("h2"), expected.contains(&"h2"), "{saved}");
    }
}

/// Goal: a seeder that knows nothing, or only what was long ago, writes nothing over what it wrote
/// before; its own disk has the news meanwhile.
/// Method: the disk is lost or of before, and the goal store cannot be read when the seeder starts.
#[tokio::test]
async fn nothing_is_written_before_it_is_known_what_was() {
    for is_lost in [true, false] {
        nothing_is_written_before(is_lost).await;
    }
}

async fn nothing_is_written_before(is_lost: bool) {
    let place = Place::new();
    let before = place.relay().await;
    report(&before, &["h1"]);
    assert_eq!(before.flush(now_ms(), 64).await, None);
    let file = place.path("state/inventory/0.json");
    let old = fs::read(&file).unwrap();
    report(&before, &["h1", "h2"]);
    assert_eq!(before.flush(now_ms(), 64).await, None);
    if is_lost {
        remove(&place.path("state"));
    } else {
        fs::write(&file, old).unwrap();
    }
    let documents = place.path("goal/status/12D3KooW");
    let aside = place.path("aside");
    fs::rename(&documents, &aside).unwrap();
    // A listing of it fails.
    fs::write(&documents, "").unwrap();

    let after = place.relay().await;
    report(&after, &["h1"]);
    let reason = after.flush(now_ms(), 64).await.unwrap();
    assert!(reason.contains("12D3KooW"), "{reason}");
    assert!(fs::read_to_string(&file).unwrap().contains("h1"));
    fs::remove_file(&documents).unwrap();
    fs::rename(&aside, &documents).unwrap();
    assert_eq!(after.flush(now_ms(), 64).await, None);
    assert_eq!(place.hosts().await, ["h1", "h2"]);
}

/// Goal: a goal store that is wiped under a running seeder has all hosts again, those too that do
/// not report any more.
#[tokio::test]
async fn wiped_goal_store_is_filled_again() {
    let place = Place::new();
    let relay = place.relay().await;
    report(&relay, &["h1", "h2"]);
    assert_eq!(relay.flush(now_ms(), 64).await, None);
    remove(&place.path("goal"));
    assert_eq!(relay.flush(now_ms(), 64).await, None);
    assert_eq!(place.hosts().await, [""; 0]);
    assert_eq!(relay.flush(now_ms() + LATER_MS, 64).await, None);
    assert_eq!(place.hosts().await, ["h1", "h2"]);
}

#[tokio::test]
async fn forgotten_host_is_gone_from_goal_store_and_disk() {
    let place = Place::new();
    let relay = place.relay().await;
    report(&relay, &["h1", "h2"]);
    assert_eq!(relay.flush(now_ms(), 64).await, None);
    place.goal.forget("h2", now_ms()).await.unwrap();
    relay.forget(true).await.unwrap();
    assert_eq!(relay.flush(now_ms(), 64).await, None);
    assert_eq!(place.goal.statuses_of("12D3KooW").await.unwrap().rows.len(), 1);
    let saved = fs::read_to_string(place.path("state/inventory/0.json")).unwrap();
    assert!(saved.contains("h1") && !saved.contains("h2"), "{saved}");
    let notes = relay.with_table(|table| table.notes(now_ms(), NODE));
    assert_eq!(notes, [""; 0]);
}

/// Goal: a disk that takes nothing costs no report.
#[tokio::test]
async fn full_disk_keeps_no_report_from_the_goal_store() {
    let place = Place::new();
    let relay = place.relay().await;
    fs::remove_dir_all(place.path("state")).unwrap();
    fs::write(place.path("state"), "no folder").unwrap();
    report(&relay, &["h1"]);
    assert_eq!(relay.flush(now_ms(), 64).await, None);
    assert_eq!(place.hosts().await, ["h1"]);
    assert!(relay.is_disk_failing.load(Ordering::Relaxed));
    fs::remove_file(place.path("state")).unwrap();
    fs::create_dir(place.path("state")).unwrap();
    assert_eq!(relay.flush(now_ms(), 64).await, None);
    assert!(place.path("state/inventory/0.json").exists());
    assert!(!relay.is_disk_failing.load(Ordering::Relaxed));
}
