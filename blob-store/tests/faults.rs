//! A way to the store that is slow, breaks, stalls, and turns requests away.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use blob_store::{Access, BlobStore, StoreError, open_build};
use futures::StreamExt as _;
use hyper::Method;
use p2p_net::ChunkIndex;

use crate::rig::proxy::{Fault, Proxy, Seen};
use crate::rig::s3::{BUCKET, S3};
use crate::rig::{Rig, Standing, noise, standing, told};

const MIB: usize = 1 << 20;

/// A build of 20 MiB in a bucket, and its store by way of a proxy with this rule for packs' bytes.
struct Published {
    rig: Rig,
    s3: S3,
    files: blob_store::Files,
}

async fn published(seed: u64) -> Published {
    let (rig, s3) = (Rig::new(), S3::start().await);
    let files = rig.build("app", &noise(seed, 20 * MIB));
    rig.publish(&s3.store().await, &files).await.unwrap();
    Published { rig, s3, files }
}

fn is_pack_read(seen: &Seen) -> bool {
    seen.method == Method::GET && seen.target.contains("/packs/")
}

/// Goal: a way that breaks again and again costs what was under way, not what had arrived.
#[tokio::test]
async fn reading_goes_on_where_the_way_broke() {
    let build = published(20).await;
    let proxy = Proxy::start(build.s3.address, |seen| {
        if is_pack_read(seen) { Fault::CutAfter(1_500_000) } else { Fault::None }
    })
    .await;
    let store = build.s3.store_by(proxy.address).await.unwrap();
    assert_eq!(standing(&store, build.files.build()).await, Standing::Complete);
    let read = proxy.body_bytes();
    let most = 20 * MIB as u64 * 105 / 100;
    assert!(read <= most, "{read} bytes for a build of 20 MiB");
    assert!(proxy.seen().iter().filter(|seen| is_pack_read(seen)).count() >= 14);
    drop(build.rig);
}

/// Goal: a slow way is not a stall: nothing bounds a whole request.
#[tokio::test]
async fn a_slow_way_is_waited_for() {
    let build = published(21).await;
    // A range takes three times as long as a stall.
    let proxy = Proxy::start(build.s3.address, |seen| {
        if is_pack_read(seen) { Fault::Slow(MIB + MIB / 4) } else { Fault::None }
    })
    .await;
    let store = build.s3.store_by(proxy.address).await.unwrap();
    let started = Instant::now();
    assert_eq!(standing(&store, build.files.build()).await, Standing::Complete);
    assert!(started.elapsed() > Duration::from_secs(6), "{:?}", started.elapsed());
    let reads = proxy.seen().iter().filter(|seen| is_pack_read(seen)).count();
    assert!(reads <= 4, "no range was asked for twice: {reads} requests");
}

/// Goal: a connection that stays open and silent is found, and costs one stall.
#[tokio::test]
async fn a_stall_is_found() {
    let build = published(22).await;
    let stalled = Mutex::new(false);
    let proxy = Proxy::start(build.s3.address, move |seen| {
        let mut stalled = stalled.lock().unwrap();
        if is_pack_read(seen) && !*stalled {
            *stalled = true;
            return Fault::StallAfter(1_000_000);
        }
        Fault::None
    })
    .await;
    let store = build.s3.store_by(proxy.address).await.unwrap();
    let started = Instant::now();
    assert_eq!(standing(&store, build.files.build()).await, Standing::Complete);
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(proxy.body_bytes() <= 20 * MIB as u64 * 105 / 100);
}

/// Goal: a store that is busy is asked again, for every kind of request.
#[tokio::test]
async fn a_busy_store_is_asked_again() {
    let (rig, s3) = (Rig::new(), S3::start().await);
    // Every second request of each kind is turned away.
    let proxy = Proxy::start(s3.address, |seen| {
        if seen.number % 2 == 1 {
            let code = if seen.number % 4 == 1 { "SlowDown" } else { "InternalError" };
            let status = if seen.number % 4 == 1 { 503 } else { 500 };
            return Fault::Answer { status, code };
        }
        Fault::None
    })
    .await;
    let store = s3.store_by(proxy.address).await.unwrap();
    let files = rig.build("app", &noise(23, 20 * MIB));
    rig.publish(&store, &files).await.unwrap();
    assert_eq!(standing(&store, files.build()).await, Standing::Complete);
}

/// Goal: "exists" is not believed of something that is not there (a create that met a delete).
#[tokio::test]
async fn a_conflict_with_nothing_there_is_no_success() {
    let (rig, s3) = (Rig::new(), S3::start().await);
    let conflicts = Mutex::new(0);
    let proxy = Proxy::start(s3.address, move |seen| {
        let mut conflicts = conflicts.lock().unwrap();
        if seen.method == Method::PUT && seen.target.contains("/builds/main/builds/") {
            *conflicts += 1;
            if *conflicts <= 3 {
                return Fault::Answer { status: 409, code: "ConditionalRequestConflict" };
            }
        }
        Fault::None
    })
    .await;
    let store = s3.store_by(proxy.address).await.unwrap();
    let files = rig.build("app", &noise(24, 300_000));
    let published = rig.publish(&store, &files).await.unwrap();
    assert!(!published.is_known);
    assert_eq!(standing(&s3.store().await, files.build()).await, Standing::Complete);
}

/// Goal: a create whose answer was lost is recognised as ours.
#[tokio::test]
async fn an_answer_that_is_lost_is_no_other_publisher() {
    let (rig, s3) = (Rig::new(), S3::start().await);
    let lost = Mutex::new(false);
    let proxy = Proxy::start(s3.address, move |seen| {
        let mut lost = lost.lock().unwrap();
        let is_build = seen.method == Method::PUT && seen.target.contains("/main/builds/");
        if is_build && !*lost {
            *lost = true;
            return Fault::LoseAnswer;
        }
        Fault::None
    })
    .await;
    let store = s3.store_by(proxy.address).await.unwrap();
    let files = rig.build("app", &noise(25, 300_000));
    let published = rig.publish(&store, &files).await.unwrap();
    assert!(!published.is_known, "it was this publisher");
    assert_eq!(standing(&store, files.build()).await, Standing::Complete);
}

/// Goal: an upload that the store took and never answered is sent again, soon on a fast way.
#[tokio::test]
async fn an_upload_that_is_never_answered_is_found() {
    let (rig, s3) = (Rig::new(), S3::start().await);
    let lost = Mutex::new(false);
    let proxy = Proxy::start(s3.address, move |seen| {
        let mut lost = lost.lock().unwrap();
        // The way has shown by then how fast it is.
        if seen.is_part() && seen.target.contains("partNumber=7&") && !*lost {
            *lost = true;
            return Fault::LoseAnswer;
        }
        Fault::None
    })
    .await;
    let store = s3.store_by(proxy.address).await.unwrap();
    let files = rig.build("app", &noise(27, 50 * MIB));
    let started = Instant::now();
    rig.publish(&store, &files).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(standing(&store, files.build()).await, Standing::Complete);
}

/// Goal: a store that stays away is given up with its cause, after the time that was given.
#[tokio::test]
async fn a_store_that_stays_away_is_given_up() {
    let build = published(26).await;
    let proxy = Proxy::start(build.s3.address, |seen| {
        let busy = Fault::Answer { status: 503, code: "SlowDown" };
        if is_pack_read(seen) { busy } else { Fault::None }
    })
    .await;
    let mut options = build.s3.options(proxy.address, Access::Read);
    options.patience.give_up = Duration::from_secs(1);
    let store = BlobStore::open(&format!("s3://{BUCKET}/main"), &options).await.unwrap();
    let remote = open_build(&store, build.files.build()).await.unwrap();
    let chunks: Vec<ChunkIndex> = remote.manifest().layout().indices().take(1).collect();
    let started = Instant::now();
    let found: Vec<_> = remote.read(&chunks).collect().await;
    let error = found[0].outcome.as_ref().unwrap_err();
    assert!(matches!(error, StoreError::Pack { .. }), "{}", told(error));
    assert!(told(error).contains("try again later"), "{}", told(error));
    assert!(told(error).contains("SlowDown"), "{}", told(error));
    assert!(started.elapsed() < Duration::from_secs(5));
}
