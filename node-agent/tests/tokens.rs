//! Tokens between real nodes: hosts that ask, a seeder that grants, is restarted, or is gone.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use goal_state::{TOKEN_TOPIC, TokenAct, TokenAnswer, TokenRequest, granting_seeder};
use node_agent::fleet::{
    SeederHold, SeederTokens, TokenDesk as _, TokenHold as _, TokenState, TokenWish,
};
use p2p_net::{
    BufferBudget, DiskPriority, Identity, Node, NodeConfig, SeederAddress, TrafficClass, Transport,
};
use seeder::{Seeder, SeederConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::rig::within;

/// The shortest that seeders grant.
const SHORT: Duration = Duration::from_secs(3);

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A seeder that runs until it is stopped.
struct RunningSeeder {
    address: SeederAddress,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl RunningSeeder {
    async fn start(folder: &Path, listen: SocketAddr) -> Self {
        Self::start_beside(folder, listen, vec![]).await
    }

    async fn start_beside(folder: &Path, listen: SocketAddr, others: Vec<SeederAddress>) -> Self {
        let seeder = Seeder::start(SeederConfig {
            store: folder.join("store"),
            listen,
            state: folder.join("state"),
            seeders: others,
            goal: None,
            zone: None,
            rack: None,
            upload_limit: None,
            dscp: TrafficClass::Default,
            disk_priority: DiskPriority::Normal,
            transport: Transport::Auto,
            buffer_budget: BufferBudget::DEFAULT,
        })
        .await
        .unwrap();
        let (address, stop) = (seeder.address(), CancellationToken::new());
        Self { address, run: tokio::spawn(seeder.run(stop.clone())), stop }
    }

    async fn stop(self) {
        self.stop.cancel();
        within(self.run).await.unwrap();
    }
}

async fn host(name: &str, seeder: SeederAddress, lease: Duration) -> SeederTokens {
    let config =
        NodeConfig { seeders: vec![seeder], ..NodeConfig::host(Identity::generate(), loopback()) };
    let node = Node::start(config).await.unwrap();
    SeederTokens::new(node, name.into(), "z1".into(), &[seeder]).with_lease(lease)
}

fn wish() -> TokenWish {
    TokenWish { app: "web".parse().unwrap(), generation: 3, max_unavailable: "1".parse().unwrap() }
}

async fn held(hold: &mut SeederHold) {
    let waits = async {
        while hold.state() != TokenState::Held {
            hold.changed().await;
        }
    };
    within(waits).await;
}

async fn waiting(hold: &mut SeederHold, expected: &str) {
    let waits = async {
        loop {
            if matches!(hold.state(), TokenState::Waiting { reason } if reason.contains(expected)) {
                return;
            }
            hold.changed().await;
        }
    };
    within(waits).await;
}

#[tokio::test]
async fn token_goes_from_host_to_host() {
    let folder = tempfile::tempdir().unwrap();
    let seeder = RunningSeeder::start(folder.path(), loopback()).await;
    let first = host("host-1", seeder.address, SHORT).await;
    let second = host("host-2", seeder.address, SHORT).await;
    let mut hold = first.ask(wish());
    held(&mut hold).await;
    let mut other = second.ask(wish());
    waiting(&mut other, "1 of 1 tokens of group z1 are out (host-1)").await;
    drop(hold);
    held(&mut other).await;
    let mut again = first.ask(wish());
    waiting(&mut again, "(host-2)").await;
    drop(other);
    held(&mut again).await;
    seeder.stop().await;
}

#[tokio::test]
async fn restarted_seeder_knows_what_it_granted() {
    let folder = tempfile::tempdir().unwrap();
    let seeder = RunningSeeder::start(folder.path(), loopback()).await;
    let address = seeder.address;
    let mut hold = host("host-1", address, Duration::from_mins(2)).await.ask(wish());
    held(&mut hold).await;
    seeder.stop().await;
    let seeder = RunningSeeder::start(folder.path(), address.socket).await;
    assert_eq!(seeder.address, address);
    let mut other = host("host-2", address, SHORT).await.ask(wish());
    waiting(&mut other, "1 of 1 tokens of group z1 are out (host-1)").await;
    assert_eq!(hold.state(), TokenState::Held);
    seeder.stop().await;

    std::fs::remove_file(folder.path().join("state/tokens.json")).unwrap();
    let seeder = RunningSeeder::start(folder.path(), address.socket).await;
    let mut third = host("host-3", address, SHORT).await.ask(wish());
    waiting(&mut third, "the seeder lost its table of tokens").await;
    seeder.stop().await;
}

#[tokio::test]
async fn without_the_seeder_a_token_ends_and_none_begins() {
    let folder = tempfile::tempdir().unwrap();
    let seeder = RunningSeeder::start(folder.path(), loopback()).await;
    let address = seeder.address;
    let mut hold = host("host-1", address, SHORT).await.ask(wish());
    held(&mut hold).await;
    seeder.stop().await;
    let mut other = host("host-2", address, SHORT).await.ask(wish());
    waiting(&mut other, "no token of group z1 without the seeder").await;
    // By the host's own clock.
    waiting(&mut hold, "").await;
    waiting(&mut hold, "no token of group z1 without the seeder").await;

    let alone = Node::start(NodeConfig::host(Identity::generate(), loopback())).await.unwrap();
    let groupless = SeederTokens::new(alone.clone(), "host-4".into(), String::new(), &[address]);
    waiting(&mut groupless.ask(wish()), "no token without the seeder").await;
    let hold = SeederTokens::new(alone, "host-3".into(), "z1".into(), &[]).ask(wish());
    let TokenState::Waiting { reason } = hold.state() else { panic!("granted by nobody") };
    assert!(reason.contains("no seeder is configured"), "{reason}");
}

/// Goal: what a host says, and in which order.
/// Method: a seeder of the test's own, which grants short times.
#[tokio::test]
async fn host_renews_in_time_believes_no_longer_than_granted_and_gives_back() {
    let seeder = Node::start(NodeConfig::seeder(Identity::generate(), loopback())).await.unwrap();
    let mut hold = host("host-1", seeder.address(), SHORT).await.ask(wish());
    let next = async || {
        let ask = within(seeder.next_ask()).await.unwrap();
        assert_eq!(ask.topic, TOKEN_TOPIC);
        (TokenRequest::from_json(&ask.body).unwrap(), ask)
    };
    let granted = |lease_ms| TokenAnswer::Granted { lease_ms }.to_json();

    let (request, ask) = next().await;
    let TokenRequest { act, host, group, generation, lease_ms, .. } = request;
    assert_eq!((act, host.as_str(), group.as_str()), (TokenAct::Ask, "host-1", "z1"));
    assert_eq!((generation, Duration::from_millis(lease_ms)), (3, SHORT));
    let reason = "somebody else".to_owned();
    ask.answer(TokenAnswer::Waiting { reason, retry_ms: 1 }.to_json());
    waiting(&mut hold, "somebody else").await;

    // Granted for a while: the next thing is a renewal. On a machine that is too busy for that, the
    // host asks anew.
    let mut last = next().await;
    while last.0.act != TokenAct::Renew {
        last.1.answer(granted(1_000));
        last = next().await;
    }
    last.1.answer(granted(60_000));
    held(&mut hold).await;
    let wish_number = request.wish;

    drop(hold);
    let (request, ask) = next().await;
    assert_eq!((request.act, request.wish), (TokenAct::Return, wish_number));
    drop(ask);
    let (request, ask) = next().await;
    assert_eq!(request.act, TokenAct::Return, "again, as it was refused");
    ask.answer(TokenAnswer::Returned.to_json());
    within(seeder.shutdown()).await;
}

#[tokio::test]
async fn seeder_that_does_not_grant_says_who_does() {
    let folder = tempfile::tempdir().unwrap();
    let another = SeederAddress { node: Identity::generate().node(), socket: loopback() };
    let seeder = RunningSeeder::start_beside(folder.path(), loopback(), vec![another]).await;
    // The host's list lacks the second seeder, which grants some groups.
    let groups = (0..64).map(|number| format!("z{number}"));
    let mut elsewhere = groups.filter(|group| {
        let nodes = [seeder.address.node, another.node];
        granting_seeder(&wish().app, group, nodes) == Some(another.node)
    });
    let node = NodeConfig::host(Identity::generate(), loopback());
    let node = Node::start(NodeConfig { seeders: vec![seeder.address], ..node }).await.unwrap();
    let group = elsewhere.next().unwrap();
    let mut hold = SeederTokens::new(node, "host-1".into(), group, &[seeder.address]).ask(wish());
    waiting(&mut hold, &format!("by its list {} does", another.node)).await;
    seeder.stop().await;
}
