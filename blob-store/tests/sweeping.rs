//! Sweeping and repairing: nothing that is needed goes, nothing that is not needed stays.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use blob_store::{
    BlobStore, BrokenBuild, Files, GRACE_MIN, GcError, GcPolicy, GcReport, PublishOptions,
    RepairOptions, gc, list_builds, publish, repair,
};
use p2p_net::BuildId;

use crate::rig::s3::S3;
use crate::rig::{Rig, Standing, names, noise, standing};

const MIB: usize = 1 << 20;
const GRACE: Duration = GRACE_MIN;

fn policy(keep_per_app: usize) -> GcPolicy {
    GcPolicy {
        keep_age: None,
        keep_per_app: Some(keep_per_app),
        in_use: BTreeSet::new(),
        grace: GRACE,
        dry_run: false,
    }
}

/// Publishes versions of one program, each of which shares most with the one before.
struct Versions {
    rig: Rig,
    store: BlobStore,
    bytes: Vec<u8>,
    published: Vec<Files>,
}

impl Versions {
    async fn new(count: u64) -> Self {
        let rig = Rig::new();
        let store = rig.folder_store().await;
        let mut versions = Self { rig, store, bytes: noise(40, 3 * MIB), published: vec![] };
        for _ in 0..count {
            versions.publish_next().await;
        }
        versions
    }

    fn next_files(&mut self) -> Files {
        let number = self.published.len();
        let change = noise(41 + number as u64, 100_000);
        let start = (number * 700_000) % (2 * MIB);
        self.bytes[start..start + change.len()].copy_from_slice(&change);
        self.rig.build(&format!("version-{number}"), &self.bytes)
    }

    fn options(&self) -> PublishOptions {
        let mut options = self.rig.publish_options("state");
        options.now_ms += self.published.len() as u64;
        options.earlier = self.published.last().map(Files::build).into_iter().collect();
        options
    }

    async fn publish_next(&mut self) {
        let files = self.next_files();
        publish(&self.store, &files, self.options()).await.unwrap();
        self.published.push(files);
    }

    /// Sweeps as often as it takes until nothing changes, with a grace in between.
    async fn sweep(&self, policy: &GcPolicy) -> GcReport {
        loop {
            self.rig.age(GRACE + Duration::from_secs(1));
            let report = gc(&self.store, policy).await.unwrap();
            let is_quiet = report.builds_condemned.is_empty()
                && report.builds_removed.is_empty()
                && report.packs_condemned.is_empty()
                && report.packs_removed.is_empty();
            if is_quiet {
                return report;
            }
        }
    }

    async fn standings(&self) -> Vec<Standing> {
        let mut found = vec![];
        for files in &self.published {
            found.push(standing(&self.store, files.build()).await);
        }
        found
    }
}

use Standing::{Complete, Invisible};

#[tokio::test]
async fn old_builds_go_and_what_others_share_stays() {
    let versions = Versions::new(4).await;
    let packs = names(&versions.rig, "packs").len();
    assert_eq!(packs, 4);
    let report = versions.sweep(&policy(2)).await;
    assert_eq!(versions.standings().await, [Invisible, Invisible, Complete, Complete]);
    assert_eq!((report.builds_kept, report.packs_young), (2, 0));
    // The first pack has most of every version; of the second, nothing is needed any more.
    assert_eq!(report.packs_kept, names(&versions.rig, "packs").len());
    assert_eq!(report.packs_kept, list_packs(&versions.store).await.len());
    assert_eq!(names(&versions.rig, "condemned"), [""; 0]);
    assert_eq!(names(&versions.rig, "apps/web").len(), 2, "notes of builds that are gone go");
}

async fn list_packs(store: &BlobStore) -> BTreeSet<String> {
    let builds = list_builds(store).await.unwrap();
    builds.iter().flat_map(|build| &build.packs).map(|pack| pack.digest.to_string()).collect()
}

#[tokio::test]
async fn builds_in_use_and_young_ones_stay() {
    let versions = Versions::new(3).await;
    let mut keep = policy(1);
    keep.in_use.insert(versions.published[0].build());
    versions.sweep(&keep).await;
    assert_eq!(versions.standings().await, [Complete, Invisible, Complete]);

    let versions = Versions::new(3).await;
    let report = gc(&versions.store, &policy(1)).await.unwrap();
    assert_eq!(report.builds_kept, 3, "nothing younger than the grace is touched");
    let by_age =
        GcPolicy { keep_age: Some(Duration::from_hours(48)), keep_per_app: None, ..policy(1) };
    versions.rig.age(Duration::from_hours(24));
    let report = gc(&versions.store, &by_age).await.unwrap();
    assert_eq!(report.builds_kept, 3);
    versions.rig.age(Duration::from_hours(25));
    versions.sweep(&by_age).await;
    assert_eq!(versions.standings().await, [Invisible, Invisible, Invisible]);
    assert_eq!(names(&versions.rig, "packs"), [""; 0]);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_reckless_orders_are_refused() {
    let versions = Versions::new(3).await;
    versions.rig.age(GRACE * 2);
    let dry = GcPolicy { dry_run: true, ..policy(1) };
    let report = gc(&versions.store, &dry).await.unwrap();
    assert_eq!(report.builds_condemned.len(), 2);
    assert_eq!(names(&versions.rig, "condemned"), [""; 0]);
    let short = GcPolicy { grace: GRACE / 2, ..policy(1) };
    assert!(matches!(gc(&versions.store, &short).await, Err(GcError::Grace { .. })));
    let nothing = GcPolicy { keep_per_app: None, ..policy(1) };
    assert!(matches!(gc(&versions.store, &nothing).await, Err(GcError::KeepsNothing)));
}

/// Goal: what a killed publisher left half written in a folder goes, and nothing else does.
#[tokio::test]
async fn leftovers_in_a_folder_go_after_a_grace() {
    let versions = Versions::new(1).await;
    let packs = versions.rig.path("store/packs");
    let pack = names(&versions.rig, "packs").remove(0);
    let half = format!("{pack}#1");
    std::fs::write(packs.join(&half), b"half a pa").unwrap();
    std::fs::write(packs.join("#readme"), b"a stranger's").unwrap();
    gc(&versions.store, &policy(1)).await.unwrap();
    assert_eq!(names(&versions.rig, "packs"), ["#readme", &pack, &half], "somebody may write it");
    versions.rig.age(GRACE * 2);
    gc(&versions.store, &policy(1)).await.unwrap();
    assert_eq!(names(&versions.rig, "packs"), ["#readme", &pack]);
    assert_eq!(versions.standings().await, [Complete]);
}

/// Goal: a sweep takes two steps, a grace apart, whatever is asked.
#[tokio::test]
async fn nothing_goes_that_was_not_condemned_for_a_grace() {
    let versions = Versions::new(2).await;
    versions.rig.age(GRACE * 3);
    let first = gc(&versions.store, &policy(1)).await.unwrap();
    assert_eq!((first.builds_condemned.len(), first.builds_removed.len()), (1, 0));
    let second = gc(&versions.store, &policy(1)).await.unwrap();
    assert_eq!((second.builds_condemned.len(), second.builds_removed.len()), (1, 0));
    // Wanted again: pardoned, and the grace begins anew.
    gc(&versions.store, &policy(2)).await.unwrap();
    assert_eq!(names(&versions.rig, "condemned"), [""; 0]);
}

/// Goal: a pack that is condemned is not relied on: the publisher sends its chunks again, under
/// another name where the bytes would be the same.
#[tokio::test]
async fn a_publisher_does_not_rely_on_what_is_condemned() {
    let mut versions = Versions::new(1).await;
    let first = versions.published[0].clone();
    std::fs::remove_file(versions.rig.path("store/builds").join(first.build().to_string()))
        .unwrap();
    versions.rig.age(GRACE * 2);
    let report = gc(&versions.store, &policy(9)).await.unwrap();
    assert_eq!(report.packs_condemned.len(), 1);

    // The very same build, so the very same pack.
    publish(&versions.store, &first, versions.options()).await.unwrap();
    assert_eq!(names(&versions.rig, "packs").len(), 2);
    versions.publish_next().await;
    versions.sweep(&policy(9)).await;
    assert_eq!(versions.standings().await, [Complete, Complete]);
    assert_eq!(names(&versions.rig, "packs").len(), 2, "the condemned one is gone");
}

/// Goal: what is condemned in the middle of a publish is noticed before the build is visible.
#[tokio::test]
async fn a_sweep_in_the_middle_of_a_publish_is_noticed() {
    let mut versions = Versions::new(1).await;
    let pack = names(&versions.rig, "packs").remove(0);
    let condemned = versions.rig.path("store/condemned");
    let files = versions.next_files();
    let mut options = versions.options();
    let name = pack.clone();
    options.watcher = Some(Arc::new(move |now| {
        // The earlier build was read: its pack is known. Only now a sweep condemns it.
        if now.bytes_packed > 0 {
            std::fs::create_dir_all(&condemned).unwrap();
            std::fs::write(condemned.join(&name), b"").unwrap();
        }
    }));
    publish(&versions.store, &files, options).await.unwrap();
    std::fs::remove_file(versions.rig.path("store/packs").join(&pack)).unwrap();
    assert_eq!(standing(&versions.store, files.build()).await, Complete);
}

/// Goal: a pack that vanishes in the middle of a publish is sent again.
#[tokio::test]
async fn a_pack_that_vanished_is_sent_again() {
    let mut versions = Versions::new(1).await;
    let pack = names(&versions.rig, "packs").remove(0);
    let path = versions.rig.path("store/packs").join(&pack);
    let files = versions.next_files();
    let mut options = versions.options();
    options.watcher = Some(Arc::new(move |now| {
        if now.bytes_packed > 0 {
            drop(std::fs::remove_file(&path));
        }
    }));
    publish(&versions.store, &files, options).await.unwrap();
    assert_eq!(standing(&versions.store, files.build()).await, Complete);
}

/// Goal: publishing a build that a sweep condemned keeps it.
#[tokio::test]
async fn a_build_published_again_is_kept() {
    let versions = Versions::new(3).await;
    versions.rig.age(GRACE * 2);
    let mut options = versions.options();
    options.now_ms += 100;
    let again = publish(&versions.store, &versions.published[0], options).await.unwrap();
    assert!(again.is_known);
    versions.sweep(&policy(1)).await;
    assert_eq!(versions.standings().await, [Complete, Invisible, Invisible]);
}

/// Goal: a build that is condemned already is not called published before it is sure to stay.
/// Method: time that passes as soon as nobody works. The sweep that condemned it removes it while
/// its publisher waits, or does not.
#[tokio::test(start_paused = true)]
async fn a_condemned_build_is_published_for_good() {
    for is_removed in [false, true] {
        let versions = Versions::new(2).await;
        versions.rig.age(GRACE * 2);
        let report = gc(&versions.store, &policy(1)).await.unwrap();
        let first = versions.published[0].clone();
        assert_eq!(report.builds_condemned, [first.build()]);
        let path = versions.rig.path("store/builds").join(first.build().to_string());
        let mut options = versions.options();
        options.now_ms += 100;
        let publishing = publish(&versions.store, &first, options);
        let removing = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            if is_removed {
                std::fs::remove_file(&path).unwrap();
            }
        };
        let (published, ()) = tokio::join!(publishing, removing);
        assert_eq!(published.unwrap().is_known, !is_removed);
        assert_eq!(versions.standings().await, [Complete, Complete]);
        versions.sweep(&policy(1)).await;
        assert_eq!(versions.standings().await, [Complete, Invisible]);
    }
}

/// Goal: publishers, sweeps and time in any order: a build that is visible is complete, and so is
/// the one that was published last.
/// Method: a random walk by a fixed seed.
#[tokio::test]
async fn no_order_of_publishing_and_sweeping_breaks_a_build() {
    let mut versions = Versions::new(1).await;
    let choices = noise(50, 40);
    for (step, choice) in choices.into_iter().enumerate() {
        match choice % 5 {
            0 | 1 => versions.publish_next().await,
            2 => {
                let again = usize::from(choice / 5) % versions.published.len();
                let files = versions.published[again].clone();
                let mut options = versions.options();
                options.now_ms += 1000 + step as u64;
                publish_unless_condemned(&versions, &files, options).await;
            }
            3 => versions.rig.age(GRACE * u32::from(choice % 3)),
            _ => drop(gc(&versions.store, &policy(2)).await.unwrap()),
        }
        versions.standings().await;
        let last = versions.published.last().unwrap().build();
        assert_eq!(standing(&versions.store, last).await, Complete, "step {step}");
    }
}

/// A build that is condemned makes its publisher wait; other tests wait for that.
async fn publish_unless_condemned(versions: &Versions, files: &Files, options: PublishOptions) {
    let condemned = names(&versions.rig, "condemned");
    if !condemned.contains(&files.build().to_string()) {
        publish(&versions.store, files, options).await.unwrap();
    }
}

fn broken(build: BuildId, packs: &[String], chunks_lost: usize) -> (BuildId, Vec<String>, usize) {
    (build, packs.to_vec(), chunks_lost)
}

fn shown(found: &BrokenBuild) -> (BuildId, Vec<String>, usize) {
    let packs: Vec<String> = found.packs.iter().map(ToString::to_string).collect();
    broken(found.build, &packs, found.chunks_lost)
}

#[tokio::test]
async fn a_sound_store_needs_no_repair() {
    let versions = Versions::new(2).await;
    let deep = RepairOptions { deep: true, fix: true, ..RepairOptions::default() };
    let report = repair(&versions.store, &deep).await.unwrap();
    assert_eq!((report.builds, report.broken.len()), (2, 0));
    assert_eq!(versions.standings().await, [Complete, Complete]);
}

/// Goal: an index that claims what is not there is found, and publishing again mends the store.
#[tokio::test]
async fn a_build_without_its_packs_is_removed_from_sight_and_comes_back() {
    let versions = Versions::new(2).await;
    let second = versions.published[1].build();
    let own = names(&versions.rig, "packs")
        .into_iter()
        .min_by_key(|pack| versions.rig.path("store/packs").join(pack).metadata().unwrap().len())
        .unwrap();
    let path = versions.rig.path("store/packs").join(&own);
    let bytes = std::fs::read(&path).unwrap();
    for damage in [None, Some(&bytes[..bytes.len() - 1])] {
        std::fs::remove_file(&path).unwrap();
        if let Some(cut_off) = damage {
            std::fs::write(&path, cut_off).unwrap();
        }
        let report = repair(&versions.store, &RepairOptions::default()).await.unwrap();
        assert_eq!(report.builds, 2);
        assert_eq!(report.broken.len(), 1);
        let (build, packs, lost) = shown(&report.broken[0]);
        assert_eq!((build, packs), (second, vec![own.clone()]));
        assert!(lost > 0);
        let fix = RepairOptions { fix: true, ..RepairOptions::default() };
        repair(&versions.store, &fix).await.unwrap();
        assert_eq!(versions.standings().await, [Complete, Invisible]);
        versions.rig.publish(&versions.store, &versions.published[1]).await.unwrap();
        assert_eq!(versions.standings().await, [Complete, Complete]);
        let options = versions.options();
        publish(&versions.store, &versions.published[1], options).await.unwrap();
        std::fs::write(&path, &bytes).unwrap();
        restore_second(&versions, &own).await;
    }
}

/// Lets the second version depend on its own small pack again.
async fn restore_second(versions: &Versions, own: &str) {
    let second = versions.published[1].build().to_string();
    std::fs::remove_file(versions.rig.path("store/builds").join(second)).unwrap();
    let mut options = versions.rig.publish_options("state");
    options.earlier = vec![versions.published[0].build()];
    publish(&versions.store, &versions.published[1], options).await.unwrap();
    assert!(list_packs(&versions.store).await.contains(own));
}

/// Goal: a build whose packs are gone is not called published.
#[tokio::test]
async fn a_build_without_its_packs_is_not_published_already() {
    let versions = Versions::new(1).await;
    let pack = names(&versions.rig, "packs").remove(0);
    std::fs::remove_file(versions.rig.path("store/packs").join(pack)).unwrap();
    let files = &versions.published[0];
    let error = versions.rig.publish(&versions.store, files).await.unwrap_err();
    assert!(error.to_string().contains("shoal repair --fix"), "{error}");
    let fix = RepairOptions { fix: true, ..RepairOptions::default() };
    repair(&versions.store, &fix).await.unwrap();
    versions.rig.publish(&versions.store, files).await.unwrap();
    assert_eq!(versions.standings().await, [Complete]);
}

/// Goal: damage inside a pack is found by reading. What other packs have is mended by that; what
/// none has is removed from sight, and publishing again does not rely on the damaged pack.
#[tokio::test]
async fn a_damaged_pack_is_replaced() {
    for has_twin in [true, false] {
        let (rig, s3) = (Rig::new(), S3::start().await);
        let store = s3.store().await;
        let bytes = noise(60, 3 * MIB);
        let first = rig.build("first", &bytes);
        rig.publish(&store, &first).await.unwrap();
        let old = list_packs(&store).await.pop_first().unwrap();
        if has_twin {
            // Published without knowing of the first: it has a pack of its own.
            rig.publish(&store, &rig.build("same bytes, another name", &bytes)).await.unwrap();
        }
        let path = s3.bucket().join("main/packs").join(&old);
        let mut damaged = std::fs::read(&path).unwrap();
        damaged[1000] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let shallow = repair(&store, &RepairOptions::default()).await.unwrap();
        assert_eq!(shallow.broken, []);
        let deep = RepairOptions { deep: true, fix: true, ..RepairOptions::default() };
        let report = repair(&store, &deep).await.unwrap();
        assert_eq!(report.broken.len(), 1);
        let (build, packs, lost) = shown(&report.broken[0]);
        assert_eq!((build, packs), (first.build(), vec![old.clone()]));
        assert_eq!(lost == 0, has_twin);
        assert_eq!(report.broken[0].is_mendable, has_twin);
        let expected = if has_twin { Complete } else { Invisible };
        assert_eq!(standing(&store, first.build()).await, expected);
        rig.publish(&store, &first).await.unwrap();
        assert_eq!(standing(&store, first.build()).await, Complete);
        assert!(!list_packs(&store).await.contains(&old));
    }
}

#[tokio::test]
async fn an_unreadable_build_stops_the_sweep_until_it_is_repaired() {
    let versions = Versions::new(2).await;
    let path = versions.rig.path("store/builds").join(versions.published[0].build().to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = gc(&versions.store, &policy(9)).await.unwrap_err();
    assert!(matches!(error, GcError::Unreadable(_)), "{error:?}");
    let fix = RepairOptions { fix: true, ..RepairOptions::default() };
    let report = repair(&versions.store, &fix).await.unwrap();
    assert!(report.broken[0].is_unreadable);
    assert_eq!(versions.standings().await, [Invisible, Complete]);
    gc(&versions.store, &policy(9)).await.unwrap();
}
