//! Publishing and reading back, in a folder and in a bucket.

use std::sync::{Arc, Mutex};

use blob_store::{
    BlobStore, FilesError, PublishError, PublishProgress, builds_of_app, list_builds, publish,
};

use crate::rig::s3::S3;
use crate::rig::{Rig, Standing, files_of, names, noise, standing};

const MIB: usize = 1 << 20;

/// A build that fills more than a pack, half of which compresses.
fn large() -> Vec<u8> {
    let mut bytes = noise(1, 70 * MIB);
    bytes.resize(100 * MIB, b'a');
    bytes
}

async fn publishes_and_reads_back(rig: &Rig, store: &BlobStore) -> (PublishProgress, u64) {
    let files = rig.build("large", &large());
    assert_eq!(standing(store, files.build()).await, Standing::Invisible);
    let seen: Arc<Mutex<Vec<PublishProgress>>> = Arc::default();
    let watched = Arc::clone(&seen);
    let mut options = rig.publish_options("state");
    options.watcher = Some(Arc::new(move |now| watched.lock().unwrap().push(now)));
    let published = publish(store, &files, options).await.unwrap();
    assert!(!published.is_known);
    assert_eq!(standing(store, files.build()).await, Standing::Complete);
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.last(), Some(&published.progress));
    let counts = |now: &PublishProgress| (now.bytes_packed, now.bytes_sent);
    assert!(seen.is_sorted_by_key(|now| now.bytes_sent), "counts only grow");
    assert!(
        seen.iter().any(|now| counts(now) > (0, 0) && counts(now) < counts(seen.last().unwrap()))
    );
    assert!(std::fs::read_dir(rig.path("state")).unwrap().next().is_none(), "nothing is left");
    let listed = list_builds(store).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].build, listed[0].notes.bytes), (files.build(), 100 << 20));
    assert_eq!(listed[0].packs.len(), 2, "70 MiB do not fit into one pack");
    (published.progress, listed[0].packs.iter().map(|pack| pack.bytes).sum())
}

#[tokio::test]
async fn a_build_goes_into_a_folder_and_comes_back() {
    let rig = Rig::new();
    let store = rig.folder_store().await;
    let (progress, stored) = publishes_and_reads_back(&rig, &store).await;
    // What compresses is compressed, what does not is kept as it is.
    let stored_mib = stored / MIB as u64;
    assert!((70..72).contains(&stored_mib), "{stored_mib} MiB");
    assert_eq!(progress.bytes_sent, stored);
    let parts = names(&rig, "");
    assert_eq!(parts, ["apps", "builds", "packs", "probe"]);
}

#[tokio::test]
async fn a_build_goes_into_a_bucket_and_comes_back() {
    let (rig, s3) = (Rig::new(), S3::start().await);
    let (progress, stored) = publishes_and_reads_back(&rig, &s3.store().await).await;
    assert_eq!(progress.bytes_sent, stored);
}

#[tokio::test]
async fn a_tree_with_all_kinds_of_entries_is_published() {
    let rig = Rig::new();
    let store = rig.folder_store().await;
    let tree = rig.path("tree");
    std::fs::create_dir_all(tree.join("bin/empty")).unwrap();
    std::fs::write(tree.join("bin/run"), noise(2, 300_000)).unwrap();
    std::fs::write(tree.join("bin/zero"), b"").unwrap();
    std::fs::write(tree.join("data"), noise(3, 10)).unwrap();
    std::os::unix::fs::symlink("run", tree.join("bin/link")).unwrap();
    let files = files_of(&tree);
    rig.publish(&store, &files).await.unwrap();
    assert_eq!(standing(&store, files.build()).await, Standing::Complete);
}

/// Goal: a build without a byte needs no pack.
#[tokio::test]
async fn a_build_of_an_empty_file_is_published() {
    let rig = Rig::new();
    let store = rig.folder_store().await;
    let files = rig.build("empty", b"");
    rig.publish(&store, &files).await.unwrap();
    assert_eq!(standing(&store, files.build()).await, Standing::Complete);
    assert_eq!(names(&rig, "packs"), [""; 0]);
}

/// Goal: chunks that an earlier build brought are not sent again, whoever publishes.
#[tokio::test]
async fn only_new_chunks_are_sent() {
    let rig = Rig::new();
    let store = rig.folder_store().await;
    let mut bytes = noise(4, 12 * MIB);
    let first = rig.build("first", &bytes);
    rig.publish(&store, &first).await.unwrap();
    bytes[5 * MIB..5 * MIB + 100].fill(0);
    let second = rig.build("second", &bytes);
    let mut options = rig.publish_options("another machine");
    options.earlier = builds_of_app(&store, "web").await.unwrap();
    options.now_ms += 1;
    assert_eq!(options.earlier, [first.build()]);
    let progress = publish(&store, &second, options).await.unwrap().progress;
    assert!(progress.bytes_sent < MIB as u64, "{progress:?}");
    assert!(progress.bytes_reused > 11 * MIB as u64, "{progress:?}");
    assert_eq!(standing(&store, second.build()).await, Standing::Complete);
    assert_eq!(builds_of_app(&store, "web").await.unwrap(), [second.build(), first.build()]);

    // A third one takes chunks out of both.
    bytes[MIB..MIB + 100].fill(0);
    let third = rig.build("third", &bytes);
    let mut options = rig.publish_options("state");
    options.earlier = vec![second.build(), first.build()];
    let progress = publish(&store, &third, options).await.unwrap().progress;
    assert!(progress.bytes_sent < MIB as u64, "{progress:?}");
    assert_eq!(standing(&store, third.build()).await, Standing::Complete);
}

/// Goal: an earlier build that is gone or damaged costs sending, and nothing else.
#[tokio::test]
async fn earlier_builds_that_cannot_be_read_are_passed_over() {
    let rig = Rig::new();
    let store = rig.folder_store().await;
    let bytes = noise(8, 300_000);
    let first = rig.build("first", &bytes);
    rig.publish(&store, &first).await.unwrap();
    let path = rig.path("store/builds").join(first.build().to_string());
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[30] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let second = rig.build("second", &bytes);
    let mut options = rig.publish_options("state");
    options.earlier = vec![second.build(), first.build()];
    let progress = publish(&store, &second, options).await.unwrap().progress;
    assert_eq!(progress.bytes_reused, 0);
    assert_eq!(standing(&store, second.build()).await, Standing::Complete);
}

#[tokio::test]
async fn publishing_again_sends_nothing_and_is_noted() {
    let rig = Rig::new();
    let store = rig.folder_store().await;
    let files = rig.build("app", &noise(5, 300_000));
    rig.publish(&store, &files).await.unwrap();
    let mut options = rig.publish_options("state");
    options.app = "other".into();
    let again = publish(&store, &files, options).await.unwrap();
    assert!(again.is_known);
    assert_eq!(again.progress.bytes_sent, 0);
    assert_eq!(builds_of_app(&store, "other").await.unwrap(), [files.build()]);
}

/// Goal: files that change while they are published never become a build of another name.
#[tokio::test]
async fn files_that_changed_are_refused_by_name() {
    let rig = Rig::new();
    let store = rig.folder_store().await;
    let files = rig.build("app", &noise(6, 300_000));
    let mut bytes = noise(6, 300_000);
    bytes[200_000] ^= 1;
    std::fs::write(rig.path("app"), &bytes).unwrap();
    let error = rig.publish(&store, &files).await.unwrap_err();
    let PublishError::Files(FilesError::Changed { path }) = error else { panic!("{error:?}") };
    assert_eq!(path, rig.path("app"));
    std::fs::write(rig.path("app"), &bytes[..100]).unwrap();
    let error = rig.publish(&store, &files).await.unwrap_err();
    assert!(matches!(error, PublishError::Files(FilesError::Changed { .. })), "{error:?}");
    std::fs::remove_file(rig.path("app")).unwrap();
    let error = rig.publish(&store, &files).await.unwrap_err();
    assert!(matches!(error, PublishError::Files(FilesError::Read { .. })), "{error:?}");
    assert_eq!(standing(&store, files.build()).await, Standing::Invisible);
}

#[tokio::test]
async fn an_app_that_cannot_be_a_key_is_refused() {
    let rig = Rig::new();
    let store = rig.folder_store().await;
    let files = rig.build("app", b"x");
    let mut options = rig.publish_options("state");
    options.app = "../web".into();
    let error = publish(&store, &files, options).await.unwrap_err();
    assert!(matches!(error, PublishError::App { .. }), "{error:?}");
}

/// Goal: one state folder has one publisher of a build at a time.
#[tokio::test]
async fn a_second_publisher_with_the_same_state_is_refused() {
    let (rig, s3) = (Rig::new(), S3::start().await);
    let proxy = crate::rig::proxy::Proxy::start(s3.address, |seen| {
        let is_pack = seen.method == hyper::Method::PUT && seen.target.contains("/packs/");
        if is_pack { crate::rig::proxy::Fault::Swallow } else { crate::rig::proxy::Fault::None }
    })
    .await;
    let store = s3.store_by(proxy.address).await.unwrap();
    let files = rig.build("app", &noise(7, 300_000));
    let first = rig.publish(&store, &files);
    let second = async {
        proxy.swallowed().await;
        rig.publish(&store, &files).await
    };
    tokio::select! {
        first = first => panic!("the pack cannot have arrived: {first:?}"),
        second = second => {
            let error = second.unwrap_err();
            let text = error.to_string();
            assert!(text.contains("another process publishes this build"), "{text}");
        }
    }
}
