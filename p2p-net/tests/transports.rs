//! Downloads over each transport, and over several threads.

use std::num::NonZero;

use p2p_net::{BufferBudget, FetchOptions, Identity, Node, NodeConfig, SharedLimits, Transport};

use crate::rig::{Rig, assert_same_tree, host_config, soon};

const MIB: usize = 1 << 20;

async fn seeder(transport: Transport, threads: usize) -> Node {
    let config = NodeConfig {
        transport,
        data_threads: NonZero::new(threads),
        ..NodeConfig::seeder(Identity::generate(), "127.0.0.1:0".parse().unwrap())
    };
    Node::start(config).await.unwrap()
}

/// Goal: a build arrives over either transport and with any number of threads, the progress says
/// which transport carried it, and memory stays within the budget's least size.
#[tokio::test]
async fn builds_arrive_over_each_transport() {
    let cases = [
        (Transport::Quic, 1, "quic 1"),
        (Transport::Tcp, 1, "tcp 1"),
        (Transport::Auto, 1, "tcp 1"),
        (Transport::Quic, 3, "quic 1"),
        (Transport::Tcp, 3, "tcp 1"),
    ];
    let rig = Rig::new();
    let published = rig.published("store", 24 * MIB);
    for (case, (transport, threads, links)) in cases.into_iter().enumerate() {
        let seeder = seeder(transport, threads).await;
        seeder.serve(&published, &SharedLimits::default());
        let config = NodeConfig {
            transport,
            data_threads: NonZero::new(threads),
            buffer_budget: BufferBudget::MIN,
            ..host_config(&[seeder.address()])
        };
        let host = Node::start(config).await.unwrap();
        let store = rig.store(&format!("host-{case}"));
        let build = soon(host.fetch(published.id(), &store, FetchOptions::default()).finish())
            .await
            .unwrap();
        assert_same_tree(published.root(), build.root());
        let progress = host.progress(published.id()).unwrap();
        assert_eq!(progress.links.to_string(), links, "{transport}, {threads} threads");
        soon(host.shutdown()).await;
        soon(seeder.shutdown()).await;
    }
}
