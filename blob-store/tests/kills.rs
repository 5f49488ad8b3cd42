//! Publishers that are killed, and publishers that race.
//!
//! A kill is a publish that is dropped while a request of it is under way: nothing runs after that
//! which would not run after SIGKILL, but for files being closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blob_store::{BlobStore, publish};
use hyper::Method;

use crate::rig::proxy::{Fault, Proxy};
use crate::rig::s3::S3;
use crate::rig::{Rig, Standing, noise, standing};

const MIB: usize = 1 << 20;

/// Publishes by way of a proxy that swallows request `k`, and kills the publisher there. Returns
/// `false` if the publish ended before that.
async fn publish_until(
    rig: &Rig,
    s3: &S3,
    files: &blob_store::Files,
    (k, is_done): (u64, bool),
) -> bool {
    let count = Arc::new(AtomicU64::new(0));
    let opened = Arc::clone(&count);
    let proxy = Proxy::start(s3.address, move |_| {
        let number = opened.fetch_add(1, Ordering::Relaxed) + 1;
        match number == k {
            true if is_done => Fault::LoseAnswer,
            true => Fault::Swallow,
            false => Fault::None,
        }
    })
    .await;
    let work = async {
        let store = s3.store_by(proxy.address).await.unwrap();
        rig.publish(&store, files).await.unwrap();
    };
    tokio::select! {
        () = work => false,
        () = proxy.swallowed() => true,
    }
}

/// Goal: killed at any request, before or after the store did it, a build is invisible or complete,
/// and the next publish brings it there and sends again no more than was under way.
/// Method: a build of several parts; every request in turn is the last that the publisher made.
async fn kill_everywhere(is_done: bool) {
    let size = 12 * MIB;
    let mut kills = 0;
    for k in 1.. {
        let (rig, s3) = (Rig::new(), S3::start().await);
        let files = rig.build("app", &noise(30, size));
        if !publish_until(&rig, &s3, &files, (k, is_done)).await {
            break;
        }
        kills += 1;
        let direct = s3.store().await;
        standing(&direct, files.build()).await;

        let proxy = Proxy::start(s3.address, |_| Fault::None).await;
        let store = s3.store_by(proxy.address).await.unwrap();
        rig.publish(&store, &files).await.unwrap();
        assert_eq!(standing(&direct, files.build()).await, Standing::Complete, "kill {k}");
        // Whatever the publisher had noted as arrived is not sent again: of two parts those that
        // were under way at the kill.
        let parts = proxy.seen().iter().filter(|seen| seen.is_part()).count();
        assert!(parts <= 2, "kill {k}: {parts} parts were sent again");
        let packs = std::fs::read_dir(s3.bucket().join("main/packs")).unwrap();
        let packs = packs.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
            name.len() == 64
        });
        assert_eq!(packs.count(), 1, "kill {k}: the same bytes make the same pack");
    }
    assert!(kills >= 12, "only {kills} requests");
}

#[tokio::test]
async fn a_publisher_killed_before_any_request_is_done_leaves_nothing_half() {
    kill_everywhere(false).await;
}

#[tokio::test]
async fn a_publisher_killed_after_any_request_was_done_leaves_nothing_half() {
    kill_everywhere(true).await;
}

/// Goal: parts that arrived before a kill are not sent again.
#[tokio::test]
async fn parts_that_arrived_are_not_sent_again() {
    let (rig, s3) = (Rig::new(), S3::start().await);
    let files = rig.build("app", &noise(31, 50 * MIB));
    let proxy = Proxy::start(s3.address, move |seen| {
        // One part is lost while others arrive.
        if seen.is_part() && seen.target.contains("partNumber=5&") {
            Fault::Swallow
        } else {
            Fault::None
        }
    })
    .await;
    let store = s3.store_by(proxy.address).await.unwrap();
    // By then the publisher has noted all others.
    let arrived = async {
        proxy.swallowed().await;
        while noted_parts(&rig) < 6 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = rig.publish(&store, &files) => panic!("a part is missing: {done:?}"),
        () = arrived => {}
    }

    let again = Proxy::start(s3.address, |_| Fault::None).await;
    let store = s3.store_by(again.address).await.unwrap();
    rig.publish(&store, &files).await.unwrap();
    let sent = again.seen().iter().filter(|seen| seen.is_part()).count();
    assert_eq!(sent, 1, "only the part that was lost");
    let begun = again.seen().iter().any(|seen| seen.target.contains("uploads"));
    assert!(!begun, "the upload is gone on with");
    assert_eq!(standing(&store, files.build()).await, Standing::Complete);
}

/// Goal: packs that arrived before a kill are not sent again, nor compressed again.
#[tokio::test]
async fn packs_that_arrived_are_not_sent_again() {
    let (rig, s3) = (Rig::new(), S3::start().await);
    let files = rig.build("app", &noise(34, 80 * MIB));
    // The first pack has nine parts; the second one never gets its first.
    let begun = AtomicU64::new(0);
    let proxy = Proxy::start(s3.address, move |seen| {
        let begins = seen.method == Method::POST && seen.target.contains("uploads");
        let is_second = begins && begun.fetch_add(1, Ordering::Relaxed) == 1;
        if is_second { Fault::Swallow } else { Fault::None }
    })
    .await;
    let store = s3.store_by(proxy.address).await.unwrap();
    let first_is_stored = async {
        proxy.swallowed().await;
        while !is_any_stored(&rig) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = rig.publish(&store, &files) => panic!("a pack is missing: {done:?}"),
        () = first_is_stored => {}
    }

    let again = Proxy::start(s3.address, |_| Fault::None).await;
    let store = s3.store_by(again.address).await.unwrap();
    let progress = rig.publish(&store, &files).await.unwrap().progress;
    let sent = again.seen().iter().filter(|seen| seen.is_part()).count();
    assert!(sent <= 2, "{sent} parts were sent again");
    assert_eq!(progress.bytes_packed, 0, "the second pack was ready, too: {progress:?}");
    assert_eq!(progress.bytes_reused, 80 * MIB as u64);
    assert_eq!(standing(&store, files.build()).await, Standing::Complete);
}

fn is_any_stored(rig: &Rig) -> bool {
    records(rig).iter().any(|record| record["is_stored"] == true)
}

/// Parts that the publisher's records name.
fn noted_parts(rig: &Rig) -> usize {
    let count = |record: &serde_json::Value| {
        let parts = record["upload"]["parts"].as_array().cloned().unwrap_or_default();
        parts.iter().filter(|part| !part.is_null()).count()
    };
    records(rig).iter().map(count).sum()
}

/// The records of the publisher.
fn records(rig: &Rig) -> Vec<serde_json::Value> {
    let folder = std::fs::read_dir(rig.path("state")).unwrap().next().unwrap().unwrap().path();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let records = files.filter(|path| path.extension().is_some_and(|kind| kind == "json"));
    records.map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
}

/// Goal: an upload that the store threw away is begun anew.
#[tokio::test]
async fn an_upload_that_vanished_is_begun_anew() {
    let (rig, s3) = (Rig::new(), S3::start().await);
    let files = rig.build("app", &noise(32, 20 * MIB));
    let proxy = Proxy::start(s3.address, |seen| {
        let is_complete = seen.method == Method::POST && seen.target.contains("uploadId=");
        if is_complete { Fault::Swallow } else { Fault::None }
    })
    .await;
    let store = s3.store_by(proxy.address).await.unwrap();
    tokio::select! {
        done = rig.publish(&store, &files) => panic!("it cannot be complete: {done:?}"),
        () = proxy.swallowed() => {}
    }
    let gone = std::sync::Mutex::new(false);
    let proxy = Proxy::start(s3.address, move |seen| {
        let mut gone = gone.lock().unwrap();
        if seen.method == Method::POST && seen.target.contains("uploadId=") && !*gone {
            *gone = true;
            return Fault::Answer { status: 404, code: "NoSuchUpload" };
        }
        Fault::None
    })
    .await;
    let store = s3.store_by(proxy.address).await.unwrap();
    rig.publish(&store, &files).await.unwrap();
    assert_eq!(proxy.seen().iter().filter(|seen| seen.is_part()).count(), 3, "all of it again");
    assert_eq!(standing(&store, files.build()).await, Standing::Complete);
}

/// Goal: a state folder that a crash or a hand damaged costs sending again, and nothing else.
#[tokio::test]
async fn a_damaged_state_is_begun_anew() {
    for kind in ["json", "table", "pack"] {
        let (rig, s3) = (Rig::new(), S3::start().await);
        let files = rig.build("app", &noise(33, 20 * MIB));
        assert!(publish_until_part(&rig, &s3, &files).await);
        let folder = std::fs::read_dir(rig.path("state")).unwrap().next().unwrap().unwrap().path();
        let file = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == kind))
            .unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&file, bytes).unwrap();
        let store = s3.store().await;
        rig.publish(&store, &files).await.unwrap();
        assert_eq!(standing(&store, files.build()).await, Standing::Complete, "{kind}");
    }
}

/// Goal: what a publish left that nobody went on with does not stay for ever.
#[tokio::test]
async fn a_publish_given_up_long_ago_is_cleared_away() {
    let (rig, s3) = (Rig::new(), S3::start().await);
    let abandoned = rig.build("abandoned", &noise(35, 20 * MIB));
    assert!(publish_until_part(&rig, &s3, &abandoned).await);
    let folder = std::fs::read_dir(rig.path("state")).unwrap().next().unwrap().unwrap().path();
    let other = rig.build("other", &noise(36, 100_000));
    let store = s3.store().await;
    rig.publish(&store, &other).await.unwrap();
    assert!(folder.exists(), "it may be gone on with");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(8 * 24);
    std::fs::File::open(&folder).unwrap().set_modified(long_ago).unwrap();
    let third = rig.build("third", &noise(37, 100_000));
    rig.publish(&store, &third).await.unwrap();
    assert!(!folder.exists());
}

async fn publish_until_part(rig: &Rig, s3: &S3, files: &blob_store::Files) -> bool {
    let proxy =
        Proxy::start(s3.address, |seen| if seen.is_part() { Fault::Swallow } else { Fault::None })
            .await;
    let store = s3.store_by(proxy.address).await.unwrap();
    tokio::select! {
        _ = rig.publish(&store, files) => false,
        () = proxy.swallowed() => true,
    }
}

/// Goal: of two publishers that race, one makes the build, and all its bytes are there.
/// Method: one of them knows an earlier build, so that their indices differ.
async fn race(store: &BlobStore, rounds: u64) {
    let mut known = [0, 0];
    for round in 0..rounds {
        let rig = Rig::new();
        let mut bytes = noise(1000 + round, 200_000);
        let earlier = rig.build("earlier", &bytes);
        rig.publish(store, &earlier).await.unwrap();
        bytes[100_000] ^= 1;
        let files = rig.build("app", &bytes);
        let one = publish(store, &files, rig.publish_options("one"));
        let mut options = rig.publish_options("two");
        options.earlier = vec![earlier.build()];
        let two = publish(store, &files, options);
        let (one, two) = tokio::join!(one, two);
        let results = [one.unwrap(), two.unwrap()];
        for (count, result) in known.iter_mut().zip(&results) {
            *count += u64::from(result.is_known);
        }
        assert_eq!(standing(store, files.build()).await, Standing::Complete, "round {round}");
    }
    assert!(known[0] + known[1] > 0, "they never met: {known:?}");
}

/// `SHOAL_RACES` in place of the rounds of a short run.
fn rounds() -> u64 {
    std::env::var("SHOAL_RACES").map_or(30, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn publishers_that_race_in_a_folder_make_one_build() {
    let rig = Rig::new();
    race(&rig.folder_store().await, rounds()).await;
    let builds = std::fs::read_dir(rig.path("store/builds")).unwrap().count() as u64;
    assert_eq!(builds, 2 * rounds());
}

#[tokio::test]
async fn publishers_that_race_in_a_bucket_make_one_build() {
    let s3 = S3::start().await;
    race(&s3.store().await, rounds()).await;
}
