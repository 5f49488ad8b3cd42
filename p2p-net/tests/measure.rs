//! Measuring the way to a node.

use p2p_net::{Identity, MeasureError, Node, NodeConfig, PeerOutcome, SeederAddress, Transport};
use tokio::task::spawn_blocking;

use crate::rig::seeder;

const MIB: u64 = 1 << 20;

/// Measures from a thread that may block.
async fn measure(peer: SeederAddress) -> Result<Vec<p2p_net::PeerRate>, MeasureError> {
    spawn_blocking(move || p2p_net::measure_peer(peer, 9 * MIB)).await.unwrap()
}

/// Goal: all that was asked for comes, over each transport, and the node goes on.
#[tokio::test]
async fn node_is_measured_over_both_transports() {
    let seeder = seeder(None).await;
    for _ in 0..2 {
        let rates = measure(seeder.address()).await.unwrap();
        assert_eq!(rates.len(), 2);
        for rate in rates {
            let PeerOutcome::Measured { bytes, bytes_per_second, .. } = rate.outcome else {
                panic!("{rate:?}");
            };
            assert_eq!(bytes, 9 * MIB);
            assert!(bytes_per_second > 0);
        }
    }
    seeder.shutdown().await;
}

/// Goal: a transport that the peer does not offer is named, and the other one measured.
#[tokio::test]
async fn transport_that_is_off_is_named() {
    let config = NodeConfig {
        transport: Transport::Quic,
        ..NodeConfig::host(Identity::generate(), "127.0.0.1:0".parse().unwrap())
    };
    let node = Node::start(config).await.unwrap();
    let rates = measure(node.address()).await.unwrap();
    assert!(matches!(rates[0].outcome, PeerOutcome::Measured { .. }), "{rates:?}");
    assert!(matches!(rates[1].outcome, PeerOutcome::Failed { .. }), "{rates:?}");
    node.shutdown().await;
}

#[tokio::test]
async fn peer_that_does_not_answer_is_named() {
    let node = seeder(None).await;
    let peer = node.address();
    node.shutdown().await;
    let error = measure(peer).await.unwrap_err();
    assert!(matches!(&error, MeasureError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&peer.to_string()), "{error}");
}
