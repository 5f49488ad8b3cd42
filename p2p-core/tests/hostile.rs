//! What a peer that means harm can make a swarm do: no more than its messages are worth.

use std::time::Duration;

use p2p_core::wire::Message;
use p2p_core::{
    Action, ChunkSet, Event, Holdings, Instant, ManifestOutcome, PeerFault, PeerRole, SwarmConfig,
};

use crate::fleet::{Fleet, contact, node};
use crate::swarm::{
    bans_in, fetches_in, give, join, lone_host, lone_host_with, offer, says, sent_to, set_of,
};

const MINUTES: Duration = Duration::from_mins(10);

/// Goal: one peer gets the manifest once at a time, whatever it asks, and past the limit asking is
/// a fault; what it may get by leaving and coming back is no more.
#[test]
fn manifest_is_sent_to_a_peer_once_at_a_time() {
    let fleet = Fleet::new(10, 0);
    let mut swarm = lone_host(fleet.everything());
    let serves_in = |actions: &[Action]| -> Vec<u64> {
        let serve = |action: &Action| match action {
            Action::ServeManifest { serve, .. } => Some(*serve),
            _ => None,
        };
        actions.iter().filter_map(serve).collect()
    };
    let mut say = |message| give(&mut swarm, Instant::ZERO, says(2, message));
    let hello = || {
        let contact = Box::new(contact(2, PeerRole::Host));
        Message::Join { contact, have: None }
    };
    assert!(say(Message::RequestManifest).is_empty(), "it is no neighbour yet");
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
    let mut say = |message| give(&mut swarm, Instant::ZERO, says(2, message));
    say(hello());
    let serves = serves_in(&say(Message::RequestManifest));
    let [first] = serves[..] else { panic!("{serves:?}") };
    let again = say(Message::RequestManifest);
    assert_eq!((serves_in(&again), bans_in(&again)), (vec![], vec![]), "the first is the answer");

    // On the same connection it leaves and comes back: the first is still under way.
    say(Message::Leave);
    give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
    let mut say = |message| give(&mut swarm, Instant::ZERO, says(2, message));
    say(hello());
    assert!(serves_in(&say(Message::RequestManifest)).is_empty());

    // When it has ended, the next one is answered; an end of the first that comes late ends
    // nothing.
    let ended = |serve| Event::ManifestServeEnded { peer: node(2), serve };
    give(&mut swarm, Instant::ZERO, ended(first));
    let mut say = |message| give(&mut swarm, Instant::ZERO, says(2, message));
    assert_eq!(serves_in(&say(Message::RequestManifest)).len(), 1);
    give(&mut swarm, Instant::ZERO, ended(first));
    let mut say = |message| give(&mut swarm, Instant::ZERO, says(2, message));
    let limit = SwarmConfig::host().manifest_repeats_max;
    for _ in 0..limit {
        let actions = say(Message::RequestManifest);
        assert_eq!((serves_in(&actions), bans_in(&actions)), (vec![], vec![]));
    }
    let flood = PeerFault::ManifestFlood { repeats: usize::from(limit) + 1 };
    assert_eq!(bans_in(&say(Message::RequestManifest)), [flood]);
}

/// Goal: a connection that is lost takes along what was sent on it, so that its peer is answered on
/// the next.
#[test]
fn manifest_of_a_lost_connection_is_not_waited_for() {
    let fleet = Fleet::new(10, 0);
    let mut swarm = lone_host(fleet.everything());
    for round in 0..3 {
        give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(2) });
        let actions = give(&mut swarm, Instant::ZERO, says(2, Message::RequestManifest));
        let is_served = |action: &Action| matches!(action, Action::ServeManifest { .. });
        assert!(actions.iter().any(is_served), "round {round}: {actions:?}");
        give(&mut swarm, Instant::ZERO, Event::PeerLost { peer: node(2) });
    }
}

/// Goal: no more manifests are under way than there are places for neighbours, also when those who
/// asked have left; whoever asks then is told to look elsewhere.
#[test]
fn manifests_under_way_have_a_limit() {
    let fleet = Fleet::new(10, 0);
    let config = SwarmConfig { neighbours_max: 2, ..SwarmConfig::host() };
    let mut swarm = lone_host_with(config, fleet.everything());
    for number in 2..=4 {
        give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(number) });
        let actions = give(&mut swarm, Instant::ZERO, says(number, Message::RequestManifest));
        let is_served = |action: &Action| matches!(action, Action::ServeManifest { .. });
        assert_eq!(actions.iter().any(is_served), number < 4, "{actions:?}");
        assert_eq!(sent_to(&actions, &Message::NoManifest).len(), usize::from(number == 4));
        give(&mut swarm, Instant::ZERO, says(number, Message::Leave));
    }
}

/// Goal: hosts that never answer do not keep a node from the manifest for ever.
/// Method: more of them than can be waited for one after the other, and a seeder.
#[test]
fn manifest_is_asked_of_the_seeder_when_hosts_keep_it() {
    let mut swarm = lone_host(Holdings::Name);
    for number in 2..=5 {
        give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(number) });
        let role = if number == 5 { PeerRole::Seeder } else { PeerRole::Host };
        give(&mut swarm, Instant::ZERO, join(number, role, &ChunkSet::full(10)));
    }
    let mut asked = 1;
    let mut now = Instant::ZERO;
    loop {
        now = now.after(SwarmConfig::host().late_unknown);
        let actions = give(&mut swarm, now, Event::DeadlineReached);
        let whom = actions.iter().find_map(|action| match action {
            Action::FetchManifest { peer } => Some(*peer),
            _ => None,
        });
        asked += u32::from(whom.is_some());
        if whom == Some(node(5)) {
            break;
        }
        assert!(asked < 4, "the seeder is not asked");
    }
}

/// Goal: sets of another size than the build's are found out when the manifest comes, whatever they
/// are, and the swarm goes on.
/// Method: sets that are larger and smaller, and packed, and an offer past the build.
#[test]
fn claims_that_the_manifest_disproves_lead_to_bans() {
    let claims = [set_of(20, &[15]), set_of(11, &[3]), set_of(9, &[3]), ChunkSet::full(11)];
    for have in claims {
        let fleet = Fleet::new(10, 0);
        let mut swarm = lone_host(Holdings::Name);
        for number in [2, 3] {
            give(&mut swarm, Instant::ZERO, Event::PeerConnected { peer: node(number) });
        }
        give(&mut swarm, Instant::ZERO, join(2, PeerRole::Host, &have));
        give(&mut swarm, Instant::ZERO, says(2, offer(vec![(5, 1)])));
        give(&mut swarm, Instant::ZERO, join(3, PeerRole::Host, &set_of(10, &[4])));
        let outcome = ManifestOutcome::Valid(fleet.layout.clone());
        let arrived = Event::ManifestArrived { peer: node(3), outcome };
        let actions = give(&mut swarm, Instant::ZERO, arrived);
        assert_eq!(bans_in(&actions), [PeerFault::WrongLayout], "{have:?}");
        assert_eq!(fetches_in(&actions).len(), 1, "{have:?}: the other one is asked");
    }
}

/// Goal: hosts finish beside peers that claim and offer the most that a message can hold, and ban
/// nobody who is honest.
/// Method: three hostile nodes that connect to everybody, before and after the manifest is known,
/// and say the longest of everything again and again.
#[test]
fn swarm_finishes_beside_peers_that_offer_without_end() {
    const HOSTILE: [u8; 3] = [200, 201, 202];
    let mut fleet = Fleet::with_hosts(8, 200, 15);
    let everybody: Vec<_> = fleet.nodes.keys().copied().collect();
    let mut until = Duration::ZERO;
    while !fleet.all_complete() && until < MINUTES {
        for (to, from) in everybody.iter().flat_map(|to| HOSTILE.map(|from| (*to, from))) {
            let alternating = (0..100).map(|i| (2 * i, 1)).collect();
            let events = [
                Event::PeerConnected { peer: node(from) },
                join(from, PeerRole::Host, &ChunkSet::empty(200)),
                says(from, offer(alternating)),
                says(from, offer(vec![(0, 150)])),
                says(from, Message::RequestManifest),
            ];
            for event in events {
                fleet.inject(to, node(from), event);
            }
        }
        until += Duration::from_millis(100);
        fleet.run(until, Fleet::all_complete);
    }
    assert!(fleet.all_complete());
    let hostile = HOSTILE.map(node);
    let bans: Vec<_> = fleet.nodes.values().flat_map(|host| &host.bans).collect();
    assert!(bans.iter().all(|(banned, _)| hostile.contains(banned)), "{bans:?}");
}
