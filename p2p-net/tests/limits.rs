//! Caps on the bytes that nodes move, changed while they move them.

use std::time::{Duration, Instant};

use p2p_core::ByteRate;
use p2p_net::{
    DiskPriority, FetchOptions, Identity, Limits, Node, NodeConfig, SharedLimits, TrafficClass,
    Transport,
};

use crate::rig::{Rig, assert_same_tree, host, host_config, seeder};

const MIB: usize = 1 << 20;

/// A cap so low that nothing completes under it.
const LOW: u64 = 64 << 10;

/// What may arrive ahead of its time: what is read from each stream before the first wait.
const AHEAD: u64 = 2 << 20;

fn low() -> Option<ByteRate> {
    ByteRate::new(LOW)
}

/// A download whose bytes pass all four caps.
struct Capped {
    seeder: Node,
    host: Node,
    of_seeder_app: SharedLimits,
    of_host_app: SharedLimits,
}

impl Capped {
    async fn start() -> Self {
        let seeder = seeder(None).await;
        let host = host(&seeder).await;
        let (of_seeder_app, of_host_app) = (SharedLimits::default(), SharedLimits::default());
        Self { seeder, host, of_seeder_app, of_host_app }
    }

    /// Downloads under the caps that `limit` sets, then without them.
    async fn check(self, rig: &Rig, limit: impl Fn(&Self)) {
        let published = rig.published("store", 24 * MIB);
        limit(&self);
        let started = Instant::now();
        self.seeder.serve(&published, &self.of_seeder_app);
        let store = rig.store("host");
        let download = self.host.fetch(
            published.id(),
            &store,
            FetchOptions { limits: self.of_host_app.clone(), ..FetchOptions::default() },
        );
        let mut finished = std::pin::pin!(download.finish());
        // The bound grows with the time that really went by, so a slow machine does not break it.
        while self.received() == 0 || started.elapsed() < Duration::from_secs(1) {
            let outcome = tokio::time::timeout(Duration::from_millis(50), &mut finished).await;
            assert!(outcome.is_err(), "complete in spite of the cap");
            let bound = LOW * (started.elapsed().as_secs() + 1) + AHEAD;
            assert!(self.received() <= bound, "{} bytes arrived, not {bound}", self.received());
            assert!(started.elapsed() < Duration::from_mins(1), "nothing arrived");
        }
        self.lift();
        let finished = tokio::time::timeout(Duration::from_mins(1), finished).await;
        let build = finished.expect("still held back").unwrap();
        assert_same_tree(published.root(), build.root());
        self.host.shutdown().await;
        self.seeder.shutdown().await;
    }

    fn received(&self) -> u64 {
        self.host.stats().bytes_received
    }

    fn lift(&self) {
        for node in [&self.seeder, &self.host] {
            node.set_limits(Limits::default());
            assert_eq!(node.limits(), Limits::default());
        }
        for app in [&self.of_seeder_app, &self.of_host_app] {
            app.set(Limits::default());
        }
    }
}

/// Goal: each cap holds on its own, and lifting it lets a download under way go on at once.
#[tokio::test]
async fn upload_limit_of_the_process_holds_and_is_lifted() {
    let limits = Limits { upload: low(), download: None };
    Capped::start().await.check(&Rig::new(), |it| it.seeder.set_limits(limits)).await;
}

#[tokio::test]
async fn upload_limit_of_an_app_holds_and_is_lifted() {
    let limits = Limits { upload: low(), download: None };
    Capped::start().await.check(&Rig::new(), |it| it.of_seeder_app.set(limits)).await;
}

#[tokio::test]
async fn download_limit_of_the_process_holds_and_is_lifted() {
    let limits = Limits { upload: None, download: low() };
    Capped::start().await.check(&Rig::new(), |it| it.host.set_limits(limits)).await;
}

#[tokio::test]
async fn download_limit_of_an_app_holds_and_is_lifted() {
    let limits = Limits { upload: None, download: low() };
    Capped::start().await.check(&Rig::new(), |it| it.of_host_app.set(limits)).await;
}

/// Goal: nodes that stay in the background get builds all the same, over each transport.
#[tokio::test]
async fn nodes_in_the_background_share_a_build() {
    for transport in [Transport::Quic, Transport::Tcp] {
        let rig = Rig::new();
        let published = rig.published("store", 24 * MIB);
        let polite = |config: NodeConfig| NodeConfig {
            traffic_class: TrafficClass::Background,
            disk_priority: DiskPriority::Low,
            transport,
            ..config
        };
        let own = NodeConfig::seeder(Identity::generate(), "127.0.0.1:0".parse().unwrap());
        let seeder = Node::start(polite(own)).await.unwrap();
        seeder.serve(&published, &SharedLimits::default());
        let config = polite(host_config(&[seeder.address()]));
        let host = Node::start(config).await.unwrap();
        let download = host.fetch(published.id(), &rig.store("host"), FetchOptions::default());
        let finished = tokio::time::timeout(Duration::from_mins(1), download.finish()).await;
        let build = finished.expect("took over a minute").unwrap();
        assert_same_tree(published.root(), build.root());
        host.shutdown().await;
        seeder.shutdown().await;
    }
}
