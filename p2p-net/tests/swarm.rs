//! Whole downloads between nodes of one process.

use std::time::Duration;

use futures::StreamExt as _;
use p2p_net::{
    BannedPeer, BuildId, FetchError, FetchOptions, Identity, NoAnswer, Node, PeerFault, Phase,
    Progress, SharedLimits, StoredBuild, WaitingFor,
};

use crate::rig::{Rig, assert_same_tree, host, host_config, random_bytes, seeder, soon};

const MIB: usize = 1 << 20;

/// Goal: the bytes, the executable bits and the links that were published arrive, and the host
/// serves them.
#[tokio::test]
async fn one_host_downloads_a_build() {
    let rig = Rig::new();
    let published = rig.published("store", 5 * MIB);
    let seeder = seeder(None).await;
    seeder.serve(&published, &SharedLimits::default());
    let host = host(&seeder).await;
    let build =
        soon(host.fetch(published.id(), &rig.store("host"), FetchOptions::default()).finish())
            .await
            .unwrap();
    assert_same_tree(published.root(), build.root());
    let progress = host.progress(published.id()).unwrap();
    assert_eq!(progress.phase, Phase::Serving);
    assert_eq!(progress.bytes_done, progress.bytes_total.unwrap());
    assert_eq!(progress.bytes_from_seeders, progress.bytes_done);
    soon(host.shutdown()).await;
    soon(seeder.shutdown()).await;
}

/// Goal: with five hosts starting together the seeder sends at most two copies, and hosts serve
/// while they are still downloading.
#[tokio::test]
async fn five_hosts_share_the_work() {
    let rig = Rig::new();
    let published = rig.published("store", 48 * MIB);
    let seeder = seeder(None).await;
    seeder.serve(&published, &SharedLimits::default());
    let mut hosts = Vec::new();
    for number in 0..5 {
        hosts.push((host(&seeder).await, rig.store(&format!("host-{number}"))));
    }
    let downloads: Vec<_> = hosts
        .iter()
        .map(|(host, store)| host.fetch(published.id(), store, FetchOptions::default()).finish())
        .collect();
    for outcome in soon(futures::future::join_all(downloads)).await {
        assert_same_tree(published.root(), outcome.unwrap().root());
    }
    let progress = |host: &Node| host.progress(published.id()).unwrap();
    let size = published.manifest().build_size();
    let from_seeder: u64 = hosts.iter().map(|(host, _)| progress(host).bytes_from_seeders).sum();
    assert!(from_seeder <= 2 * size, "{from_seeder} of {size} bytes came from the seeder");
    let early: u64 = hosts.iter().map(|(host, _)| progress(host).chunks_served_early).sum();
    assert!(early > 0, "no host served before it was complete");
    for (host, _) in &hosts {
        assert_eq!(progress(host).faults, []);
        soon(host.shutdown()).await;
    }
    soon(seeder.shutdown()).await;
}

/// Downloads into the store `host` until `bytes` are there, from a seeder slow enough that the rest
/// is not, then ends the seeder and the download.
async fn interrupt_at(rig: &Rig, published: &StoredBuild, bytes: u64) {
    let seeder = seeder(Some(6 << 20)).await;
    seeder.serve(published, &SharedLimits::default());
    let host = host(&seeder).await;
    let mut download = host.fetch(published.id(), &rig.store("host"), FetchOptions::default());
    while soon(download.next_progress()).await.unwrap().bytes_done < bytes {}
    soon(seeder.shutdown()).await;
    drop(download);
    soon(host.shutdown()).await;
}

/// Goal: what an interrupted download stored is not fetched again.
/// Method: a slow seeder; the download is dropped in the middle and started by a new node.
#[tokio::test]
async fn interrupted_download_is_resumed() {
    let rig = Rig::new();
    let published = rig.published("store", 24 * MIB);
    let size = published.manifest().build_size();
    interrupt_at(&rig, &published, size / 3).await;

    let seeder = seeder(None).await;
    seeder.serve(&published, &SharedLimits::default());
    let second = host(&seeder).await;
    let build =
        soon(second.fetch(published.id(), &rig.store("host"), FetchOptions::default()).finish())
            .await
            .unwrap();
    assert_same_tree(published.root(), build.root());
    let progress = second.progress(published.id()).unwrap();
    assert!(progress.bytes_resumed >= size / 3, "{progress:?}");
    assert_eq!(progress.bytes_resumed + progress.bytes_from_seeders, size, "{progress:?}");
}

/// Goal: a host that is started again when the seeder, and the tracker with it, is gone for good
/// finds its neighbour by what it kept, and completes.
/// Method: a neighbour that has everything and sends slowly; the host is stopped in the middle.
#[tokio::test]
async fn host_that_returns_finds_its_neighbours_without_a_tracker() {
    let rig = Rig::new();
    let published = rig.published("store", 24 * MIB);
    let seeder = seeder(Some(4 << 20)).await;
    seeder.serve(&published, &SharedLimits::default());
    let mut config = host_config(&[seeder.address()]);
    config.upload_limit = p2p_core::ByteRate::new(4 << 20);
    let neighbour = Node::start(config).await.unwrap();
    neighbour.serve(&published, &SharedLimits::default());
    let config = host_config(&[seeder.address()]);
    let first = Node::start(config.clone()).await.unwrap();
    let mut download = first.fetch(published.id(), &rig.store("host"), FetchOptions::default());
    let kept = rig.path("host/staging/contacts");
    // Both neighbours are known, and were written: a header, the contacts, a digest.
    let kept_count = || {
        let bytes = std::fs::read(&kept).unwrap_or_default();
        let contacts = bytes.get(8..bytes.len().saturating_sub(32)).unwrap_or_default();
        p2p_core::wire::decode_contacts(contacts).map_or(0, |contacts| contacts.len())
    };
    while soon(download.next_progress()).await.unwrap().neighbours < 2 || kept_count() < 2 {}
    drop(download);
    soon(first.shutdown()).await;
    soon(seeder.shutdown()).await;

    let second = Node::start(config).await.unwrap();
    let build =
        soon(second.fetch(published.id(), &rig.store("host"), FetchOptions::default()).finish())
            .await
            .unwrap();
    assert_same_tree(published.root(), build.root());
    soon(second.shutdown()).await;
    soon(neighbour.shutdown()).await;
}

/// Goal: a build that is here already is complete at once, and asking twice is harmless.
#[tokio::test]
async fn complete_build_is_found_on_disk() {
    let rig = Rig::new();
    let published = rig.published("store", MIB);
    let host = Node::start(host_config(&[])).await.unwrap();
    for _ in 0..2 {
        let store = rig.store("store");
        let build = soon(host.fetch(published.id(), &store, FetchOptions::default()).finish())
            .await
            .unwrap();
        assert_eq!(build.root(), published.root());
    }
}

/// Goal: who waits for a build that nobody has learns why, and may give up.
#[tokio::test]
async fn unknown_build_says_that_no_seeder_has_it() {
    let rig = Rig::new();
    let seeder = seeder(None).await;
    let host = host(&seeder).await;
    let build = BuildId::of_manifest(b"nobody has this");
    let mut download = host.fetch(build, &rig.store("host"), FetchOptions::default());
    loop {
        let progress = soon(download.next_progress()).await.unwrap();
        if let Some(WaitingFor::Source { build: wanted, asked }) = progress.waiting_for {
            assert_eq!((wanted, asked), (build, vec![seeder.address()]));
            break;
        }
    }
    host.leave(build).await;
    assert!(matches!(soon(download.finish()).await, Err(FetchError::Cancelled)));
}

fn give_up_after(time: Duration) -> FetchOptions {
    FetchOptions { give_up_after: Some(time), ..FetchOptions::default() }
}

/// Goal: a fetch that nobody can serve ends after the time that it was given, with the reason, and
/// the node leaves the swarm.
#[tokio::test]
async fn download_that_nobody_serves_is_given_up() {
    let rig = Rig::new();
    let seeder = seeder(None).await;
    let host = host(&seeder).await;
    let build = BuildId::of_manifest(b"nobody has this");
    let time = Duration::from_secs(2);
    let ended = soon(host.fetch(build, &rig.store("host"), give_up_after(time)).finish()).await;
    let Err(FetchError::NoProgress { waited, waiting_for }) = ended else { panic!("{ended:?}") };
    let asked = vec![seeder.address()];
    assert_eq!((waited, waiting_for), (time, Some(WaitingFor::Source { build, asked })));
    soon(async {
        while host.progress(build).is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Goal: what stops half-way is given up too, what moves is not, and the next attempt resumes.
#[tokio::test]
async fn download_whose_source_is_gone_is_given_up_and_resumed() {
    let rig = Rig::new();
    let published = rig.published("store", 24 * MIB);
    let slow = seeder(Some(6 << 20)).await;
    slow.serve(&published, &SharedLimits::default());
    let first = host(&slow).await;
    let time = Duration::from_secs(3);
    let mut download = first.fetch(published.id(), &rig.store("host"), give_up_after(time));
    while soon(download.next()).await.unwrap().bytes_done < 4 << 20 {}
    soon(slow.shutdown()).await;
    // As a stream, the download ends with the last that it has to show.
    let last = soon(download.by_ref().fold(None, async |_, now| Some(now))).await.unwrap();
    assert!(last.bytes_done >= 4 << 20, "{last:?}");
    assert!(download.next_progress().await.is_none(), "what has ended goes on");
    let ended = soon(download.finish()).await;
    assert!(matches!(ended, Err(FetchError::NoProgress { .. })), "{ended:?}");
    soon(first.shutdown()).await;

    let seeder = seeder(None).await;
    seeder.serve(&published, &SharedLimits::default());
    let second = host(&seeder).await;
    let options = give_up_after(Duration::from_secs(30));
    let build = soon(second.fetch(published.id(), &rig.store("host"), options).finish()).await;
    assert_same_tree(published.root(), build.unwrap().root());
    let progress = second.progress(published.id()).unwrap();
    assert!(progress.bytes_resumed >= 4 << 20, "{progress:?}");
}

/// Goal: who follows a download as a stream sees it grow, and its end last.
#[tokio::test]
async fn stream_of_a_download_shows_all_of_it() {
    let rig = Rig::new();
    let published = rig.published("store", 5 * MIB);
    let seeder = seeder(None).await;
    seeder.serve(&published, &SharedLimits::default());
    let host = host(&seeder).await;
    let download = host.fetch(published.id(), &rig.store("host"), FetchOptions::default());
    let shown: Vec<Progress> = soon(download.collect()).await;
    assert!(shown.is_sorted_by_key(|progress| progress.bytes_done), "{shown:?}");
    assert_eq!(shown.last().map(|progress| progress.phase), Some(Phase::Serving));
}

/// Goal: a build that is published while hosts wait for it arrives.
#[tokio::test]
async fn build_published_later_is_found() {
    let rig = Rig::new();
    let seeder = seeder(None).await;
    let host = host(&seeder).await;
    let published = rig.published("store", MIB);
    let mut download = host.fetch(published.id(), &rig.store("host"), FetchOptions::default());
    let is_missed =
        |progress: Progress| matches!(progress.waiting_for, Some(WaitingFor::Source { .. }));
    while !is_missed(soon(download.next_progress()).await.unwrap()) {}
    seeder.serve(&published, &SharedLimits::default());
    soon(download.finish()).await.unwrap();
}

/// Goal: a seeder that is down is named, and found when it comes back.
#[tokio::test]
async fn seeder_that_is_down_is_named() {
    let rig = Rig::new();
    let published = rig.published("store", MIB);
    let gone = seeder(None).await;
    let address = gone.address();
    soon(gone.shutdown()).await;
    let host = Node::start(host_config(&[address])).await.unwrap();
    let mut download = host.fetch(published.id(), &rig.store("host"), FetchOptions::default());
    loop {
        let progress = soon(download.next_progress()).await.unwrap();
        if let Some(WaitingFor::Seeder { asked, reason }) = progress.waiting_for {
            assert_eq!(asked, [address]);
            assert_eq!(reason, NoAnswer::NotReached { node: address.node });
            break;
        }
    }
}

#[tokio::test]
async fn port_in_use_is_a_clear_error() {
    let first = seeder(None).await;
    let mut config = host_config(&[]);
    config.listen = first.address().socket;
    let error = Node::start(config).await.unwrap_err();
    assert!(error.to_string().contains(&first.address().socket.to_string()), "{error}");
}

/// Goal: a peer that sends wrong bytes is banned with the chunk named, what it sent is neither kept
/// nor served on, and the download completes.
/// Method: a host whose complete build was damaged on disk behind its back, and an honest seeder.
#[tokio::test]
async fn lying_peer_is_banned_and_the_download_completes() {
    let rig = Rig::new();
    let published = rig.published("store", 24 * MIB);
    let seeder = seeder(Some(24 << 20)).await;
    seeder.serve(&published, &SharedLimits::default());

    let liar = host(&seeder).await;
    let lie =
        soon(liar.fetch(published.id(), &rig.store("liar"), FetchOptions::default()).finish())
            .await
            .unwrap();
    let wrong = random_bytes(24 * MIB, 99);
    let file = std::fs::OpenOptions::new().write(true).open(lie.root().join("bin/data")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &wrong, 0).unwrap();

    let honest = [host(&seeder).await, host(&seeder).await];
    let stores = [rig.store("honest-0"), rig.store("honest-1")];
    let downloads: Vec<_> = honest
        .iter()
        .zip(&stores)
        .map(|(host, store)| host.fetch(published.id(), store, FetchOptions::default()).finish())
        .collect();
    for outcome in soon(futures::future::join_all(downloads)).await {
        assert_same_tree(published.root(), outcome.unwrap().root());
    }
    let faults: Vec<BannedPeer> =
        honest.iter().flat_map(|host| host.progress(published.id()).unwrap().faults).collect();
    assert!(!faults.is_empty(), "nobody noticed the liar");
    for BannedPeer { node, fault } in faults {
        assert_eq!(node, liar.id());
        assert!(matches!(fault, PeerFault::WrongBytes { .. }), "{fault}");
    }
}

/// Goal: nobody may speak in another node's name: a dial that expects another key fails.
#[tokio::test]
async fn node_with_another_key_is_not_talked_to() {
    let rig = Rig::new();
    let published = rig.published("store", MIB);
    let seeder = seeder(None).await;
    seeder.serve(&published, &SharedLimits::default());
    let mut address = seeder.address();
    address.node = Identity::generate().node();
    let host = Node::start(host_config(&[address])).await.unwrap();
    let mut download = host.fetch(published.id(), &rig.store("host"), FetchOptions::default());
    loop {
        let progress = soon(download.next_progress()).await.unwrap();
        if matches!(progress.waiting_for, Some(WaitingFor::Seeder { .. })) {
            break;
        }
    }
    assert_eq!(download.progress().bytes_done, 0);
}

/// Goal: bytes that went bad on disk while the download was interrupted are fetched again.
#[tokio::test]
async fn damaged_staging_is_repaired() {
    let rig = Rig::new();
    let published = rig.published("store", 8 * MIB);
    interrupt_at(&rig, &published, published.manifest().build_size() / 3).await;
    let staged = rig.path(&format!("host/staging/{}/tree/bin/data", published.id()));
    let file = std::fs::OpenOptions::new().write(true).open(staged).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 1 << 20).unwrap();

    let seeder = seeder(None).await;
    seeder.serve(&published, &SharedLimits::default());
    let second = host(&seeder).await;
    let build =
        soon(second.fetch(published.id(), &rig.store("host"), FetchOptions::default()).finish())
            .await
            .unwrap();
    assert_same_tree(published.root(), build.root());
}

/// Goal: two apps of a host may have the same build: both stores get it, the network carries it
/// once, and giving one of the downloads up does not end the other.
#[tokio::test]
async fn build_wanted_in_two_stores_is_fetched_once() {
    let rig = Rig::new();
    let published = rig.published("store", 8 * MIB);
    let seeder = seeder(Some(16 << 20)).await;
    seeder.serve(&published, &SharedLimits::default());
    let host = host(&seeder).await;
    let stores = [rig.store("one"), rig.store("two"), rig.store("three")];
    let [first, second, third] =
        stores.each_ref().map(|store| host.fetch(published.id(), store, FetchOptions::default()));
    drop(third);
    let (first, second) = soon(futures::future::join(first.finish(), second.finish())).await;
    for build in [&first.unwrap(), &second.unwrap()] {
        assert_same_tree(published.root(), build.root());
    }
    assert_ne!(stores[0].build(published.id()).unwrap().unwrap().root(), published.root());
    assert!(stores[1].build(published.id()).unwrap().is_some());
    let progress = host.progress(published.id()).unwrap();
    assert_eq!(progress.bytes_from_seeders, published.manifest().build_size());
}
