//! Reading chunks: few requests, damage named, web servers.

use blob_store::{Access, BlobStore, StoreError, list_builds, open_build};
use futures::StreamExt as _;
use p2p_net::ChunkIndex;

use crate::rig::proxy::{Fault, Proxy};
use crate::rig::s3::{Auth, BUCKET, S3};
use crate::rig::{Rig, Standing, names, noise, options, standing, told};

const MIB: usize = 1 << 20;

/// Goal: requests follow the bytes, not the chunks.
#[tokio::test]
async fn chunks_are_read_by_ranges_that_hold_many() {
    let (rig, s3) = (Rig::new(), S3::start().await);
    let files = rig.build("app", &noise(10, 30 * MIB));
    rig.publish(&s3.store().await, &files).await.unwrap();
    let proxy = Proxy::start(s3.address, |_| Fault::None).await;
    let store = s3.store_by(proxy.address).await.unwrap();
    let remote = open_build(&store, files.build()).await.unwrap();
    let chunks: Vec<ChunkIndex> = remote.manifest().layout().indices().collect();
    assert!(chunks.len() > 100);

    let before = proxy.seen().len();
    let found: Vec<_> = remote.read(&chunks).collect().await;
    assert!(found.iter().all(|read| read.outcome.is_ok()));
    assert_eq!(found.len(), chunks.len());
    let requests = proxy.seen().len() - before;
    assert!((4..=8).contains(&requests), "{requests} requests for 30 MiB");

    // One chunk costs its segment.
    let (before, read) = (proxy.seen().len(), proxy.body_bytes());
    let found: Vec<_> = remote.read(&chunks[50..51]).collect().await;
    assert_eq!((found.len(), proxy.seen().len() - before), (1, 1));
    assert_eq!(proxy.body_bytes() - read, remote.bytes_to_read(&chunks[50..51]));
    assert!(remote.bytes_to_read(&chunks[50..51]) <= 4 << 20);
    assert_eq!(remote.read(&[]).count().await, 0);
}

/// Goal: equal chunks, and chunks asked for twice, each come as often as they have a place.
#[tokio::test]
async fn a_chunk_that_repeats_is_stored_once_and_given_everywhere() {
    let rig = Rig::new();
    let store = rig.folder_store().await;
    let files = rig.build("zeros", &vec![0; 20 * MIB]);
    let published = rig.publish(&store, &files).await.unwrap();
    assert!(published.progress.bytes_packed < MIB as u64, "{:?}", published.progress);
    assert_eq!(standing(&store, files.build()).await, Standing::Complete);
}

/// Goal: damage in a pack costs the chunks that it hits, and is told with the pack's name.
#[tokio::test]
async fn damage_is_found_and_keeps_no_other_chunk_back() {
    let rig = Rig::new();
    let store = rig.folder_store().await;
    let files = rig.build("app", &noise(11, 20 * MIB));
    rig.publish(&store, &files).await.unwrap();
    let pack = names(&rig, "packs").remove(0);
    let path = rig.path("store/packs").join(&pack);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10 * MIB] ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    let remote = open_build(&store, files.build()).await.unwrap();
    let chunks: Vec<ChunkIndex> = remote.manifest().layout().indices().collect();
    let found: Vec<_> = remote.read(&chunks).collect().await;
    let errors: Vec<&StoreError> =
        found.iter().filter_map(|read| read.outcome.as_ref().err()).collect();
    assert_eq!(errors.len(), 1, "one chunk has the byte");
    assert!(matches!(errors[0], StoreError::Damaged { .. }));
    assert!(told(errors[0]).contains(&pack), "{}", told(errors[0]));

    // A pack that is cut off, and one that is gone.
    std::fs::write(&path, &bytes[..12 * MIB]).unwrap();
    let found: Vec<_> = remote.read(&chunks).collect().await;
    let good = found.iter().filter(|read| read.outcome.is_ok()).count();
    assert!(good > 0 && good < chunks.len(), "{good} of {}", chunks.len());
    let error = found.iter().find_map(|read| read.outcome.as_ref().err());
    assert!(error.is_some_and(|error| told(error).contains(&pack)), "{error:?}");
    std::fs::remove_file(&path).unwrap();
    let found: Vec<_> = remote.read(&chunks).collect().await;
    assert!(found.iter().all(|read| matches!(read.outcome, Err(StoreError::Pack { .. }))));
}

#[tokio::test]
async fn a_damaged_build_is_told_from_a_missing_one() {
    let rig = Rig::new();
    let store = rig.folder_store().await;
    let files = rig.build("app", &noise(12, 300_000));
    rig.publish(&store, &files).await.unwrap();
    let path = rig.path("store/builds").join(files.build().to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = open_build(&store, files.build()).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{}", told(&error));
    assert!(told(&error).contains("shoal repair"), "{}", told(&error));
}

/// Goal: a plain web server in front of a store is enough to read from.
#[tokio::test]
async fn a_store_is_read_over_plain_http() {
    let (rig, s3) = (Rig::new(), S3::start_for(Auth::Anybody).await);
    let files = rig.build("app", &noise(13, 10 * MIB));
    rig.publish(&s3.store().await, &files).await.unwrap();
    let url = format!("http://{}/{BUCKET}/main", s3.address);
    let store = BlobStore::open(&url, &options(Access::Read)).await.unwrap();
    assert_eq!(standing(&store, files.build()).await, Standing::Complete);
    let error = list_builds(&store).await.unwrap_err();
    assert!(matches!(error, StoreError::NoListing { .. }), "{}", told(&error));
    let error = BlobStore::open(&url, &options(Access::Write)).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{}", told(&error));
    let error = rig.publish(&store, &files).await.unwrap_err();
    assert!(told(&error).contains("can only be read"), "{}", told(&error));
}
