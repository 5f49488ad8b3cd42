//! Downloads that take chunks from other builds on the same host.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use p2p_core::{Prng, Seed};
use p2p_net::{FetchOptions, Node, Progress, SharedLimits, StoredBuild, publish};

use crate::rig::{Rig, assert_same_tree, host, host_config, random_bytes, seeder, soon};

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;

/// `bytes` with new bytes inserted, about 5 % of all, as edits are: in two regions, each of many
/// inserts of a few hundred bytes to 64 KiB with old bytes between them.
fn with_insertions(bytes: &[u8]) -> Vec<u8> {
    let mut prng = Prng::from_seed(Seed::from_u64(5));
    let mut new = Vec::with_capacity(bytes.len() + bytes.len() / 16);
    let mut copied = 0;
    let share = bytes.len() / 38;
    for region in 1..=2 {
        let start = bytes.len() / 3 * region;
        new.extend_from_slice(&bytes[copied..start]);
        copied = start;
        let mut inserted = 0;
        for number in 0.. {
            if inserted >= share {
                break;
            }
            let size = 300 + prng.index_below(64 * KIB - 300);
            new.extend(random_bytes(size, 1_000 * region as u64 + number));
            inserted += size;
            new.extend_from_slice(&bytes[copied..copied + 2_000]);
            copied += 2_000;
        }
    }
    new.extend_from_slice(&bytes[copied..]);
    new
}

/// Publishes a tree with one large file of these bytes.
fn publish_bytes(rig: &Rig, name: &str, bytes: &[u8]) -> StoredBuild {
    let root = rig.path(&format!("{name}-source"));
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::write(root.join("bin/data"), bytes).unwrap();
    std::fs::write(root.join("version"), name).unwrap();
    publish(&root, &rig.store("store"), None).unwrap().build
}

fn overwrite(file: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Two versions in the seeder's store; the host has the first one in its store `one`.
struct Upgrade {
    rig: Rig,
    seeder: Node,
    host: Node,
    old: StoredBuild,
    new: StoredBuild,
}

impl Upgrade {
    async fn new(old: &[u8], new: &[u8]) -> Self {
        let rig = Rig::new();
        let published = publish_bytes(&rig, "old", old);
        let new = publish_bytes(&rig, "new", new);
        let seeder = seeder(None).await;
        seeder.serve(&published, &SharedLimits::default());
        seeder.serve(&new, &SharedLimits::default());
        let host = host(&seeder).await;
        let fetched =
            host.fetch(published.id(), &rig.store("one"), FetchOptions::default()).finish();
        let old = soon(fetched).await.unwrap();
        Self { rig, seeder, host, old, new }
    }

    /// Downloads the second version into the store `name` and checks it.
    async fn fetch(&self, name: &str) -> Progress {
        let build = soon(
            self.host.fetch(self.new.id(), &self.rig.store(name), FetchOptions::default()).finish(),
        )
        .await;
        assert_same_tree(self.new.root(), build.unwrap().root());
        let progress = self.host.progress(self.new.id()).unwrap();
        assert_eq!(progress.bytes_done, self.new.manifest().build_size());
        let sum = progress.bytes_reused + progress.bytes_from_seeders + progress.bytes_from_peers;
        assert_eq!(sum, progress.bytes_done, "{progress:?}");
        progress
    }
}

/// Goal: a build in which 5 % of the bytes are new, inserted and not only overwritten, fetches at
/// most 8 %, also into the store of another app.
#[tokio::test]
async fn build_with_five_percent_inserted_fetches_at_most_eight() {
    let old = random_bytes(192 * MIB, 1);
    let new = with_insertions(&old);
    let inserted = new.len() - old.len();
    assert!((49..52).contains(&(inserted * 1_000 / new.len())), "{inserted} bytes inserted");
    let upgrade = Upgrade::new(&old, &new).await;
    let progress = upgrade.fetch("two").await;
    let fetched = progress.bytes_from_seeders + progress.bytes_from_peers;
    let size = upgrade.new.manifest().build_size();
    assert!(fetched * 100 <= size * 8, "fetched {fetched} of {size} bytes");
    soon(upgrade.host.shutdown()).await;
    soon(upgrade.seeder.shutdown()).await;
}

/// Goal: chunks that are damaged in the build they would come from are fetched instead, and the new
/// build is right.
#[tokio::test]
async fn damage_in_an_old_build_is_not_copied() {
    let old = random_bytes(24 * MIB, 2);
    let upgrade = Upgrade::new(&old, &old).await;
    overwrite(&upgrade.old.root().join("bin/data"), 10 << 20, &[0; 64]);
    let progress = upgrade.fetch("one").await;
    let fetched = progress.bytes_from_seeders;
    assert!(fetched > 0, "{progress:?}");
    // The damaged chunk, and the last one, in which the name of the version is.
    assert!(fetched <= 8 << 20, "{progress:?}");
}

/// Goal: a file of the old build that is gone or cut costs its chunks only.
#[tokio::test]
async fn old_build_without_its_file_is_no_obstacle() {
    let old = random_bytes(8 * MIB, 3);
    let upgrade = Upgrade::new(&old, &old).await;
    std::fs::remove_file(upgrade.old.root().join("bin/data")).unwrap();
    let progress = upgrade.fetch("one").await;
    assert_eq!(progress.bytes_reused, 0);
}

/// Goal: when all chunks are on the host nothing but the manifest is fetched.
#[tokio::test]
async fn moved_files_are_not_fetched() {
    let rig = Rig::new();
    let data = random_bytes(16 * MIB, 4);
    for name in ["old", "new"] {
        std::fs::create_dir_all(rig.path(&format!("{name}-source"))).unwrap();
        std::fs::write(rig.path(&format!("{name}-source/{name}-name")), &data).unwrap();
    }
    let publish_it = |name: &str| {
        publish(&rig.path(&format!("{name}-source")), &rig.store("store"), None).unwrap().build
    };
    let (old, new) = (publish_it("old"), publish_it("new"));
    assert_ne!(old.id(), new.id());
    let seeder = seeder(None).await;
    seeder.serve(&old, &SharedLimits::default());
    seeder.serve(&new, &SharedLimits::default());
    let host = host(&seeder).await;
    soon(host.fetch(old.id(), &rig.store("host"), FetchOptions::default()).finish()).await.unwrap();
    let build = soon(host.fetch(new.id(), &rig.store("host"), FetchOptions::default()).finish())
        .await
        .unwrap();
    assert_same_tree(new.root(), build.root());
    let progress = host.progress(new.id()).unwrap();
    assert_eq!((progress.bytes_reused, progress.bytes_from_seeders), (data.len() as u64, 0));
}

/// Goal: what an unfinished download of another build stored is of use, and a download that was
/// interrupted goes on copying when it is resumed.
#[tokio::test]
async fn unfinished_builds_give_and_resumed_ones_take() {
    let rig = Rig::new();
    let data = random_bytes(24 * MIB, 6);
    let (old, new) = (publish_bytes(&rig, "old", &data), publish_bytes(&rig, "new", &data));
    let slow = seeder(Some(16 << 20)).await;
    slow.serve(&old, &SharedLimits::default());
    slow.serve(&new, &SharedLimits::default());
    // Both are begun by nodes that do not know each other's store, and end unfinished.
    for (build, store, bytes) in [(&old, "one", 12 << 20), (&new, "two", 4 << 20)] {
        let host = host(&slow).await;
        let mut download = host.fetch(build.id(), &rig.store(store), FetchOptions::default());
        while soon(download.next_progress()).await.unwrap().bytes_done < bytes {}
        drop(download);
        soon(host.shutdown()).await;
    }
    soon(slow.shutdown()).await;

    let seeder = seeder(None).await;
    seeder.serve(&new, &SharedLimits::default());
    let host = Node::start(host_config(&[seeder.address()])).await.unwrap();
    // Nobody serves the old build any more: it only makes its store known.
    let _old = host.fetch(old.id(), &rig.store("one"), FetchOptions::default());
    let build = soon(host.fetch(new.id(), &rig.store("two"), FetchOptions::default()).finish())
        .await
        .unwrap();
    assert_same_tree(new.root(), build.root());
    let progress = host.progress(new.id()).unwrap();
    assert!(progress.bytes_resumed >= 4 << 20, "{progress:?}");
    assert!(progress.bytes_reused >= 4 << 20, "{progress:?}");
}
