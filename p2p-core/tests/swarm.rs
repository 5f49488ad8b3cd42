//! What a swarm must do as a whole, whoever is slow, dead or lying.

use std::time::Duration;

use p2p_core::wire::{Have, Message, RequestId, Runs};
use p2p_core::{
    Action, CHUNKS_MAX, ChunkSet, Event, Holdings, Instant, ManifestOutcome, PeerFault, PeerRole,
    Seed, Swarm, SwarmConfig, SwarmParams, Waiting,
};
use proptest::prelude::*;

use crate::fleet::{Fleet, contact, node, request_count};

const MINUTES: Duration = Duration::from_mins(10);

/// Goal: hosts carry the load: about one copy leaves the seeder, and the last host is done soon
/// after the time that one copy takes.
/// Method: 40 hosts that start together, all links equal, two hundred chunks.
#[test]
fn swarm_of_equals_finishes_near_the_line_time() {
    let mut fleet = Fleet::with_hosts(40, 200, 1);
    assert!(fleet.run(MINUTES, Fleet::all_complete));
    assert!(fleet.seeder_copies() < 1.2, "seeder sent {} copies", fleet.seeder_copies());
    assert!(fleet.last_over_line_time() < 1.6, "last host at {}", fleet.last_over_line_time());
    assert!(fleet.sent_over_needed() < 1.02, "sent {} times", fleet.sent_over_needed());
}

/// Goal: few bytes are sent for nothing, also where the seeder's line is much thinner than those of
/// the hosts and every chunk from it seems late beside theirs.
#[test]
fn thin_line_of_the_seeder_is_not_mistaken_for_lateness() {
    let mut fleet = Fleet::new(60, 14);
    fleet.add(0, PeerRole::Seeder, fleet.everything(), 2_000);
    for number in 1..=2 {
        fleet.add(number, PeerRole::Host, Holdings::Name, 200_000);
    }
    assert!(fleet.run(MINUTES, Fleet::all_complete));
    assert!(fleet.sent_over_needed() < 1.03, "sent {} times", fleet.sent_over_needed());
}

/// Goal: the seeder of five hosts that start together sends at most two copies, also when it is
/// much faster than they are.
#[test]
fn fast_seeder_does_not_do_the_work_of_the_hosts() {
    let mut fleet = Fleet::new(200, 2);
    fleet.add(0, PeerRole::Seeder, fleet.everything(), 400_000);
    for number in 1..=5 {
        fleet.add(number, PeerRole::Host, Holdings::Name, 20_000);
    }
    assert!(fleet.run(MINUTES, Fleet::all_complete));
    assert!(fleet.seeder_copies() <= 1.3, "seeder sent {} copies", fleet.seeder_copies());
}

/// Goal: a host serves from its first verified chunk on.
#[test]
fn partial_holders_serve() {
    let mut fleet = Fleet::with_hosts(5, 200, 3);
    assert!(fleet.run(MINUTES, Fleet::all_complete));
    for number in 1..=5 {
        let host = fleet.get(number);
        assert!(host.first_served_at < host.completed_at, "host {number} served too late");
        assert!(host.bytes_sent > 0, "host {number} served nothing");
    }
}

/// Goal: the manifest travels like chunks do, so that its copies do not add up at the seeder.
#[test]
fn hosts_pass_the_manifest_on() {
    let mut fleet = Fleet::with_hosts(100, 20, 4);
    assert!(fleet.run(MINUTES, Fleet::all_complete));
    let from_seeder = fleet.get(0).manifests_sent;
    assert!(from_seeder < 50, "{from_seeder} of 100 manifests came from the seeder");
}

/// Goal: a peer that sends wrong bytes is banned with the chunk named, and the download completes.
#[test]
fn liar_is_banned_by_all_and_everybody_completes() {
    let mut fleet = Fleet::with_hosts(8, 100, 5);
    fleet.nodes.get_mut(&node(3)).unwrap().is_lying = true;
    assert!(fleet.run(MINUTES, Fleet::all_complete));
    let bans: Vec<_> = fleet.nodes.values().flat_map(|host| &host.bans).collect();
    assert!(!bans.is_empty());
    for (banned, fault) in bans {
        assert_eq!(*banned, node(3));
        assert!(matches!(fault, PeerFault::WrongBytes { .. }), "{fault}");
    }
}

/// Goal: trackers are soft state: without one the swarm finishes.
/// Method: the tracker dies once everybody has found somebody.
#[test]
fn swarm_finishes_without_its_tracker() {
    let mut fleet = Fleet::with_hosts(40, 200, 6);
    fleet.run(Duration::from_millis(500), |_| false);
    fleet.is_tracker_alive = false;
    assert!(fleet.run(MINUTES, Fleet::all_complete));
}

/// Goal: when the seeder is gone after its first copy, the hosts finish among themselves.
#[test]
fn swarm_finishes_without_its_seeder_after_one_copy() {
    let mut fleet = Fleet::with_hosts(10, 100, 7);
    let is_out = |fleet: &Fleet| {
        let hosts: Vec<_> = (1..=10).map(|host| fleet.get(host).swarm.have()).collect();
        let held = |chunk| hosts.iter().any(|have| have.capacity() > 0 && have.contains(chunk));
        fleet.layout.indices().all(held)
    };
    assert!(fleet.run(MINUTES, is_out));
    assert!(!fleet.all_complete());
    fleet.is_tracker_alive = false;
    fleet.kill(0);
    assert!(fleet.run(MINUTES, Fleet::all_complete));
}

/// Goal: hosts that die with the only copy of a chunk do not take it along.
#[test]
fn chunks_of_dead_hosts_come_from_the_seeder_again() {
    let mut fleet = Fleet::with_hosts(6, 100, 8);
    fleet.run(Duration::from_secs(3), |_| false);
    fleet.kill(1);
    fleet.kill(2);
    assert!(fleet.run(MINUTES, Fleet::all_complete));
}

/// Goal: a peer at a hundredth of the others' rate does not hold up the rest.
#[test]
fn slow_peer_does_not_hold_up_the_others() {
    let time_of_others = |slow_rate| {
        let mut fleet = Fleet::new(400, 9);
        fleet.add(0, PeerRole::Seeder, fleet.everything(), 10_000);
        for number in 1..=8 {
            fleet.add(number, PeerRole::Host, Holdings::Name, 10_000);
        }
        fleet.add(9, PeerRole::Host, Holdings::Name, slow_rate);
        assert!(fleet.run(MINUTES, Fleet::all_complete));
        fleet.last_over_line_time()
    };
    let (even, with_slow) = (time_of_others(10_000), time_of_others(100));
    assert!(with_slow < even * 1.5, "{with_slow} against {even}");
}

/// Goal: what a host had stored is not fetched again.
#[test]
fn resumed_host_fetches_only_what_it_lacks() {
    let mut fleet = Fleet::new(100, 10);
    fleet.add(0, PeerRole::Seeder, fleet.everything(), 20_000);
    let mut have = ChunkSet::empty(100);
    fleet.layout.indices().take(90).for_each(|chunk| assert!(have.insert(chunk)));
    let holdings = Holdings::Chunks { layout: fleet.layout.clone(), have };
    fleet.add(1, PeerRole::Host, holdings, 20_000);
    assert!(fleet.run(MINUTES, Fleet::all_complete));
    assert_eq!(fleet.get(0).bytes_sent, 10_000);
}

/// Goal: a host that joins when all others are done gets its copy from them.
#[test]
fn late_joiner_is_served_by_hosts() {
    let mut fleet = Fleet::with_hosts(5, 100, 11);
    assert!(fleet.run(MINUTES, Fleet::all_complete));
    let before = fleet.get(0).bytes_sent;
    fleet.add(6, PeerRole::Host, Holdings::Name, 20_000);
    assert!(fleet.run(MINUTES, Fleet::all_complete));
    let again = fleet.get(0).bytes_sent - before;
    assert!(again < 30_000, "the seeder sent {again} of 100000 bytes again");
}

/// Goal: a host that comes back under another name does not wait for the copy that left with it.
#[test]
fn chunks_of_a_host_that_left_are_given_out_again_at_once() {
    let mut fleet = Fleet::with_hosts(1, 100, 13);
    fleet.run(Duration::from_secs(3), |_| false);
    assert!(fleet.seeder_copies() > 0.5);
    fleet.kill(1);
    let start = fleet.now;
    fleet.add(2, PeerRole::Host, Holdings::Name, 20_000);
    assert!(fleet.run(MINUTES, Fleet::all_complete));
    let took = fleet.now.since(start);
    assert!(took < Duration::from_secs(6), "took {took:?} for five seconds of bytes");
}

#[test]
fn build_without_chunks_completes_with_its_manifest() {
    let mut fleet = Fleet::with_hosts(3, 0, 12);
    assert!(fleet.run(MINUTES, Fleet::all_complete));
}

/// A host on its own, with a layout of ten chunks, driven by hand.
/// Its chunks count as large ones, small as they are.
pub(crate) fn lone_host(holdings: Holdings) -> Swarm {
    lone_host_with(SwarmConfig { small_chunk_bytes: 0, ..SwarmConfig::host() }, holdings)
}

pub(crate) fn lone_host_with(config: SwarmConfig, holdings: Holdings) -> Swarm {
    lone_node(PeerRole::Host, config, holdings)
}

fn lone_node(role: PeerRole, config: SwarmConfig, holdings: Holdings) -> Swarm {
    let fleet = Fleet::new(10, 0);
    let params = SwarmParams {
        config: config.into(),
        build: fleet.build,
        contact: contact(1, role),
        trackers: vec![node(0)],
        remembered: Vec::new(),
        seed: Seed::from_u64(1),
    };
    let mut swarm = Swarm::new(params, holdings, Instant::ZERO);
    give(&mut swarm, Instant::ZERO, Event::Started);
    swarm
}

pub(crate) fn give(swarm: &mut Swarm, now: Instant, event: Event) -> Vec<Action> {
    swarm.handle_event(now, event);
    std::iter::from_fn(|| swarm.poll_action()).collect()
}

fn host_with_nothing() -> Swarm {
    let fleet = Fleet::new(10, 0);
    lone_host(Holdings::Chunks { layout: fleet.layout.clone(), have: ChunkSet::empty(10) })
}

pub(crate) fn join(from: u8, role: PeerRole, have: &ChunkSet) -> Event {
    let message =
        Message::Join { contact: Box::new(contact(from, role)), have: Some(Have::of(have)) };
    Event::MessageReceived { peer: node(from), message }
}

pub(crate) fn set_of(capacity: u32, chunks: &[u32]) -> ChunkSet {
    let mut bytes = vec![0; capacity.div_ceil(8) as usize];
    for chunk in chunks {
        bytes[*chunk as usize / 8] |= 1 << (chunk % 8);
    }
    ChunkSet::from_bytes(capacity, &bytes).unwrap()
}

pub(crate) fn says(from: u8, message: Message) -> Event {
    Event::MessageReceived { peer: node(from), message }
}

pub(crate) fn bans_in(actions: &[Action]) -> Vec<PeerFault> {
    let fault = |action: &Action| match action {
        Action::Ban { fault, .. } => Some(*fault),
        _ => None,
    };
    actions.iter().filter_map(fault).collect()
}

pub(crate) fn fetches_in(actions: &[Action]) -> Vec<RequestId> {
    let request = |action: &Action| match action {
        Action::Fetch { request, .. } => Some(*request),
        _ => None,
    };
    actions.iter().filter_map(request).collect()
}

pub(crate) fn sent_to(actions: &[Action], wanted: &Message) -> Vec<p2p_core::NodeId> {
    let to = |action: &Action| match action {
        Action::Send { peer, message } if message == wanted => Some(*peer),
        _ => None,
    };
    actions.iter().filter_map(to).collect()
}

/// Goal: a node with nothing to send says so to neighbours that lack something, once per news.
#[test]
fn idle_node_tells_those_who_lack_something() {
    let fleet = Fleet::new(10, 0);
    let have = set_of(10, &[0, 1]);
    let mut swarm =
        lone_host(Holdings::Chunks { layout: fleet.layout.clone(), have: have.clone() });
    for (from, theirs) in [(2, ChunkSet::full(10)), (3, have), (4, set_of(10, &[1]))] {
        give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(from) });
        give(&mut swarm, Instant::ZERO, join(from, PeerRole::Host, &theirs));
    }
    // Node 4 takes chunk 0; when that is sent, nobody waits, and node 4 has all that is here.
    let request = Message::Request { request: RequestId(1), chunk: 0 };
    let actions = give(&mut swarm, Instant::ZERO, says(4, request));
    assert!(sent_to(&actions, &Message::Ready).is_empty(), "nothing is new: {actions:?}");
    let ended =
        |is_delivered| Event::ServeEnded { peer: node(4), request: RequestId(1), is_delivered };
    let actions = give(&mut swarm, Instant::ZERO, ended(false));
    let hinted = sent_to(&actions, &Message::Ready);
    assert!(!hinted.is_empty() && hinted.iter().all(|peer| *peer == node(4)), "{actions:?}");
    let actions = give(&mut swarm, Instant::ZERO, Event::DeadlineReached);
    assert!(sent_to(&actions, &Message::Ready).is_empty(), "hinted twice: {actions:?}");
}

/// Goal: of small chunks more are asked for, and sent, at once than of large ones. Method:
/// eight neighbours with a chunk each, that all ask for chunks too; the chunks count as
/// large, then as small.
#[test]
fn more_small_chunks_are_under_way_at_once() {
    let small = SwarmConfig::host();
    let large = SwarmConfig { small_chunk_bytes: 0, ..small.clone() };
    let expected = [(large, usize::from(small.requests_target), small.uploads_max), (small, 8, 8)];
    for (config, asked, served) in expected {
        let layout = Fleet::new(10, 0).layout.clone();
        let mut swarm =
            lone_host_with(config, Holdings::Chunks { layout, have: set_of(10, &[8, 9]) });
        let mut actions = Vec::new();
        for from in 0..8_u8 {
            let peer = node(from + 2);
            give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer });
            let theirs = set_of(10, &[from.into()]);
            give(&mut swarm, Instant::ZERO, join(from + 2, PeerRole::Host, &theirs));
            let request = Message::Request { request: RequestId(1), chunk: 8 };
            actions.extend(give(&mut swarm, Instant::ZERO, says(from + 2, request)));
        }
        assert_eq!(request_count(&swarm), asked);
        let serves = actions.iter().filter(|action| matches!(action, Action::Serve { .. }));
        assert_eq!(serves.count(), served);
    }
}

/// Goal: past the usual number of requests only those are asked that have nothing to send; a node
/// that is behind its neighbours asks for twice as many.
#[test]
fn ready_neighbours_are_asked_past_the_usual_number() {
    let usual = usize::from(SwarmConfig::host().requests_target);
    for (chunks_each, expected) in [(1, usual), (5, 2 * usual)] {
        let mut swarm = host_with_nothing();
        for from in 0..10_u8 {
            let theirs: Vec<u32> = (0..chunks_each).map(|i| (u32::from(from) + i) % 10).collect();
            give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(from + 2) });
            give(&mut swarm, Instant::ZERO, join(from + 2, PeerRole::Host, &set_of(10, &theirs)));
        }
        assert_eq!(request_count(&swarm), expected, "neighbours with {chunks_each} chunks each");
        for from in 2..12 {
            give(&mut swarm, Instant::ZERO, says(from, Message::Ready));
        }
        assert_eq!(request_count(&swarm), 10);
    }
}

/// Goal: a seeder that has something again is asked at once by those whom it put off, but a seeder
/// that breaks off what it sends gets its moment. Method: a host with one request at the seeder,
/// which ends in either way; then the seeder is ready.
#[test]
fn ready_seeder_is_asked_again_before_its_time_unless_it_failed() {
    let busy = |request| Message::Busy { request, retry_after_ms: 1_000 };
    for (has_failed, expected) in [(false, 1), (true, 0)] {
        let mut swarm = host_with_nothing();
        give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
        let actions =
            give(&mut swarm, Instant::ZERO, join(2, PeerRole::Seeder, &ChunkSet::full(10)));
        for request in fetches_in(&actions) {
            let ended =
                if has_failed { Event::FetchFailed { request } } else { says(2, busy(request)) };
            give(&mut swarm, Instant::ZERO, ended);
        }
        assert_eq!(request_count(&swarm), 0, "it was told to wait");
        give(&mut swarm, Instant::ZERO, says(2, Message::Ready));
        assert_eq!(request_count(&swarm), expected, "it failed: {has_failed}");
    }
}

/// Goal: a busy host stays left alone: it may be one that offers what it does not have.
#[test]
fn ready_host_is_left_alone_for_the_time_it_asked_for() {
    let mut swarm = host_with_nothing();
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
    let joined = join(2, PeerRole::Host, &ChunkSet::full(10));
    for request in fetches_in(&give(&mut swarm, Instant::ZERO, joined)) {
        let busy = Message::Busy { request, retry_after_ms: 1_000 };
        give(&mut swarm, Instant::ZERO, says(2, busy));
    }
    give(&mut swarm, Instant::ZERO, says(2, Message::Ready));
    assert_eq!(request_count(&swarm), 0);
}

/// Goal: what a seeder was sending to a neighbour that is gone, it offers to the others at once.
/// Method: ten neighbours get a chunk each, the eleventh is put off; then one of the ten is lost.
#[test]
fn seeder_says_so_when_a_chunk_did_not_reach_its_neighbour() {
    let layout = Fleet::new(10, 0).layout.clone();
    let holdings = Holdings::Chunks { layout, have: ChunkSet::full(10) };
    let mut seeder = lone_node(PeerRole::Seeder, SwarmConfig::seeder(), holdings);
    let mut answer = Vec::new();
    for from in 2..13 {
        give(&mut seeder, Instant::ZERO, Event::PeerConnected { peer: node(from) });
        give(&mut seeder, Instant::ZERO, join(from, PeerRole::Host, &ChunkSet::empty(10)));
        let request = Message::Request { request: RequestId(1), chunk: 0 };
        answer = give(&mut seeder, Instant::ZERO, says(from, request));
    }
    let is_refusal =
        |action: &Action| matches!(action, Action::Send { message: Message::Busy { .. }, .. });
    assert!(answer.iter().any(is_refusal), "{answer:?}");
    let actions = give(&mut seeder, Instant::ZERO, Event::PeerLost { peer: node(2) });
    assert!(!sent_to(&actions, &Message::Ready).is_empty(), "{actions:?}");
}

#[test]
fn faults_of_a_peer_lead_to_its_ban() {
    let full = ChunkSet::full(10);
    let cases: [(&str, Event, PeerFault); 6] = [
        ("other count", join(2, PeerRole::Host, &ChunkSet::full(11)), PeerFault::WrongLayout),
        (
            "chunk past the end",
            says(2, offer(vec![(9, 2)])),
            PeerFault::NoSuchChunk { raw: 10, chunk_count: 10 },
        ),
        (
            "last chunk of any build",
            says(2, offer(vec![(0, 1), (CHUNKS_MAX - 1, 1)])),
            PeerFault::NoSuchChunk { raw: CHUNKS_MAX - 1, chunk_count: 10 },
        ),
        (
            "request past the end",
            says(2, Message::Request { request: RequestId(1), chunk: 10 }),
            PeerFault::NoSuchChunk { raw: 10, chunk_count: 10 },
        ),
        (
            "manifest of another build",
            Event::ManifestArrived { peer: node(2), outcome: ManifestOutcome::Wrong },
            PeerFault::WrongManifest,
        ),
        ("no message", Event::MalformedReceived { peer: node(2) }, PeerFault::Malformed),
    ];
    for (name, event, expected) in cases {
        let mut swarm = host_with_nothing();
        give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
        give(&mut swarm, Instant::ZERO, join(2, PeerRole::Host, &full));
        let actions = give(&mut swarm, Instant::ZERO, event);
        assert_eq!(bans_in(&actions), [expected], "{name}");
        assert_eq!((swarm.neighbour_count(), request_count(&swarm)), (0, 0), "{name}");
        // It is not let in again.
        let actions = give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
        assert!(actions.contains(&Action::Disconnect { peer: node(2) }), "{name}");
    }
}

#[test]
fn flood_of_requests_is_a_fault_past_the_limit_only() {
    let fleet = Fleet::new(10, 0);
    let mut swarm = lone_host(fleet.everything());
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
    give(&mut swarm, Instant::ZERO, join(2, PeerRole::Host, &ChunkSet::empty(10)));
    let limits = SwarmConfig::host();
    let admitted = limits.uploads_max + limits.upload_queue_max;
    for id in 0..u64::try_from(admitted).unwrap() {
        let request = Message::Request { request: RequestId(id), chunk: 1 };
        assert!(bans_in(&give(&mut swarm, Instant::ZERO, says(2, request))).is_empty());
    }
    let request = RequestId(99);
    let one_more = says(2, Message::Request { request, chunk: 1 });
    let actions = give(&mut swarm, Instant::ZERO, one_more);
    let is_busy = |action: &Action| matches!(action, Action::Send { message: Message::Busy { request: id, .. }, .. } if *id == request);
    assert!(actions.iter().any(is_busy), "{actions:?}");
}

#[test]
fn neighbours_past_the_limit_are_turned_away() {
    let mut swarm = host_with_nothing();
    let limit = u8::try_from(SwarmConfig::host().neighbours_max).unwrap();
    for number in 2..2 + limit {
        give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(number) });
    }
    let actions = give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2 + limit) });
    assert!(actions.contains(&Action::Disconnect { peer: node(2 + limit) }));
    assert_eq!(swarm.neighbour_count(), usize::from(limit));
}

/// Goal: a request that its peer does not answer in time is asked of a second peer.
#[test]
fn late_request_is_asked_of_a_second_peer_and_the_loser_cancelled() {
    let mut swarm = host_with_nothing();
    let one = Fleet::new(10, 0).layout.index(4).unwrap();
    let mut have = ChunkSet::empty(10);
    have.insert(one);
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
    let actions = give(&mut swarm, Instant::ZERO, join(2, PeerRole::Host, &have));
    let fetch = |peer| move |action: &&Action| matches!(action, Action::Fetch { peer: p, .. } if *p == node(peer));
    let Some(Action::Fetch { request: first, .. }) = actions.iter().find(fetch(2)).cloned() else {
        panic!("no fetch in {actions:?}");
    };
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(3) });
    let actions = give(&mut swarm, Instant::ZERO, join(3, PeerRole::Host, &have));
    assert_eq!(actions.iter().find(fetch(3)), None, "asked twice without need");

    let late = Instant::from_start(SwarmConfig::host().late_unknown);
    let actions = give(&mut swarm, late, Event::DeadlineReached);
    let Some(Action::Fetch { request: second, chunk, .. }) = actions.iter().find(fetch(3)).cloned()
    else {
        panic!("no second fetch in {actions:?}");
    };
    assert_eq!(chunk, one);
    let verdict = p2p_core::Verdict::Matches;
    let hashed = Event::ChunkHashed { request: second, chunk, verdict };
    let actions = give(&mut swarm, late, hashed);
    assert!(
        actions.contains(&Action::CancelFetch { request: first, peer: node(2) }),
        "{actions:?}"
    );
    // What the loser still sends is right as well and changes nothing.
    let actions = give(&mut swarm, late, Event::ChunkHashed { request: first, chunk, verdict });
    assert!(bans_in(&actions).is_empty());
    assert_eq!(swarm.have().count(), 1);
}

#[test]
fn stalled_peer_is_dropped() {
    let mut swarm = host_with_nothing();
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
    give(&mut swarm, Instant::ZERO, join(2, PeerRole::Host, &ChunkSet::full(10)));
    let stalled = Instant::from_start(SwarmConfig::host().stall_time);
    let actions = give(&mut swarm, stalled, Event::DeadlineReached);
    assert!(actions.contains(&Action::Disconnect { peer: node(2) }), "{actions:?}");
    assert_eq!((swarm.neighbour_count(), request_count(&swarm)), (0, 0));
}

/// Goal: a peer that closes every connection is not dialled in a loop, and one whose connection
/// broke is dialled again.
#[test]
fn lost_neighbour_is_dialled_again_after_a_while() {
    let mut swarm = host_with_nothing();
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
    give(&mut swarm, Instant::ZERO, join(2, PeerRole::Host, &ChunkSet::full(10)));
    let dials = |actions: &[Action]| {
        let to_it = |action: &&Action| matches!(action, Action::Connect { contact } if contact.node == node(2));
        actions.iter().filter(to_it).count()
    };
    assert_eq!(dials(&give(&mut swarm, Instant::ZERO, Event::PeerLost { peer: node(2) })), 0);
    let half = Instant::from_start(Duration::from_millis(500));
    assert_eq!(dials(&give(&mut swarm, half, Event::DeadlineReached)), 0);
    let later = Instant::from_start(Duration::from_secs(1));
    assert!(swarm.next_deadline().is_some_and(|deadline| deadline.at <= later));
    assert_eq!(dials(&give(&mut swarm, later, Event::DeadlineReached)), 1);
}

#[test]
fn chunks_that_read_back_wrong_are_fetched_again() {
    let fleet = Fleet::new(10, 0);
    let mut swarm = lone_host(fleet.everything());
    assert!(swarm.is_complete());
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
    give(&mut swarm, Instant::ZERO, join(2, PeerRole::Host, &ChunkSet::full(10)));
    let lost = fleet.layout.index(3).unwrap();
    let actions = give(&mut swarm, Instant::ZERO, Event::ChunksLost { chunks: vec![lost] });
    let is_fetch =
        |action: &Action| matches!(action, Action::Fetch { chunk, .. } if *chunk == lost);
    assert!(actions.iter().any(is_fetch), "{actions:?}");
}

#[test]
fn swarm_says_what_it_waits_for() {
    let mut swarm = lone_host(Holdings::Name);
    assert_eq!(swarm.waiting(), Some(Waiting::Tracker));
    let answer =
        p2p_core::wire::AnnounceAnswer { contacts: vec![], interval_ms: 1_000, seeder: None };
    give(
        &mut swarm,
        Instant::ZERO,
        Event::AnnounceAnswered { tracker: node(0), answer: Box::new(answer) },
    );
    assert_eq!(swarm.waiting(), Some(Waiting::Source));
    // Others who look for the build as well do not have it either.
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
    let nothing = Message::Join { contact: Box::new(contact(2, PeerRole::Host)), have: None };
    give(&mut swarm, Instant::ZERO, says(2, nothing));
    assert_eq!(swarm.waiting(), Some(Waiting::Source));
    give(&mut swarm, Instant::ZERO, join(2, PeerRole::Host, &ChunkSet::full(10)));
    assert_eq!(swarm.waiting(), Some(Waiting::Manifest));

    // The seeder has the build, and no place: it says goodbye at once.
    let mut swarm = lone_host(Holdings::Name);
    let seeder = Some(contact(0, PeerRole::Seeder));
    let answer = p2p_core::wire::AnnounceAnswer { contacts: vec![], interval_ms: 1_000, seeder };
    let answered = Event::AnnounceAnswered { tracker: node(0), answer: Box::new(answer) };
    give(&mut swarm, Instant::ZERO, answered);
    assert_eq!(swarm.waiting(), Some(Waiting::Neighbours));
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(0) });
    give(&mut swarm, Instant::ZERO, says(0, Message::Leave));
    assert_eq!(swarm.waiting(), Some(Waiting::Room));
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(0) });
    give(&mut swarm, Instant::ZERO, join(0, PeerRole::Seeder, &ChunkSet::full(10)));
    assert_eq!(swarm.waiting(), Some(Waiting::Manifest));
    give(&mut swarm, Instant::ZERO, says(0, Message::Leave));
    assert_eq!(swarm.waiting(), Some(Waiting::Neighbours), "it had a place, and left");

    let mut swarm = host_with_nothing();
    assert_eq!(swarm.waiting(), Some(Waiting::Tracker));
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
    give(&mut swarm, Instant::ZERO, join(2, PeerRole::Host, &ChunkSet::empty(10)));
    assert_eq!(swarm.waiting(), Some(Waiting::Tracker), "a neighbour without chunks is no source");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Goal: whatever the seed, size and number of hosts, everybody completes, and equal seeds give
    /// equal runs.
    #[test]
    fn any_small_fleet_completes(seed in 0_u64..1_000_000, hosts in 1_u8..12, chunks in 0_u32..80) {
        let run = || {
            let mut fleet = Fleet::with_hosts(hosts, chunks, seed);
            let done = fleet.run(MINUTES, Fleet::all_complete);
            (done, fleet.now, fleet.announces, fleet.get(0).bytes_sent)
        };
        let first = run();
        prop_assert!(first.0, "not all complete: seed {seed}, {hosts} hosts, {chunks} chunks");
        prop_assert_eq!(first, run());
    }

    /// Goal: no sequence of claims makes a swarm panic or break its limits.
    #[test]
    fn no_message_breaks_a_swarm(
        messages in prop::collection::vec((2_u8..6, any_message(), 0_u64..3_000_000_000), 0..60),
    ) {
        let mut swarm = host_with_nothing();
        let mut now = Instant::ZERO;
        for (from, message, wait) in messages {
            now = now.after(Duration::from_nanos(wait));
            give(&mut swarm, now, Event::PeerConnected { peer: node(from) });
            give(&mut swarm, now, says(from, message));
            give(&mut swarm, now, Event::DeadlineReached);
        }
    }
}

/// Runs of any kind that may lie on the wire, most of them of a small build.
fn any_runs() -> impl Strategy<Value = Runs> {
    let gap = prop_oneof![9 => 1_u32..4, 1 => 0..CHUNKS_MAX];
    prop::collection::vec((gap, 1_u32..5), 0..4).prop_map(|parts| {
        let mut runs = Vec::new();
        let mut behind = 0_u32;
        for (gap, length) in parts {
            let start = if runs.is_empty() { gap - 1.min(gap) } else { behind + gap.max(1) };
            behind = start + length;
            runs.push((start, length));
        }
        runs.retain(|(start, length)| start + length <= CHUNKS_MAX);
        runs.try_into().unwrap()
    })
}

pub(crate) fn offer(runs: Vec<(u32, u32)>) -> Message {
    Message::Offer { runs: runs.try_into().unwrap() }
}

fn any_message() -> impl Strategy<Value = Message> {
    let raw = prop_oneof![0_u32..12, any::<u32>()];
    let request = (0_u64..20).prop_map(RequestId);
    prop_oneof![
        (0_u32..12, 0_u8..8).prop_map(|(capacity, from)| Message::Join {
            contact: Box::new(contact(from, PeerRole::Host)),
            have: Some(Have::of(&ChunkSet::full(capacity))),
        }),
        (2_u8..6).prop_map(|from| Message::Join {
            contact: Box::new(contact(from, PeerRole::Host)),
            have: Some(Have::of(&ChunkSet::empty(10))),
        }),
        any_runs().prop_map(|runs| Message::Offer { runs }),
        raw.clone().prop_map(|chunk| Message::Claim { chunk }),
        raw.clone().prop_map(|chunk| Message::Disclaim { chunk }),
        (request.clone(), raw).prop_map(|(request, chunk)| Message::Request { request, chunk }),
        request.clone().prop_map(|request| Message::Cancel { request }),
        (request, any::<u32>())
            .prop_map(|(request, retry_after_ms)| Message::Busy { request, retry_after_ms }),
        Just(Message::RequestManifest),
        Just(Message::NoManifest),
        Just(Message::Leave),
    ]
}
