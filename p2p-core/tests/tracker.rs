//! The tracker's graph: balanced, near, bounded, and forgetful.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2p_core::wire::Announce;
use p2p_core::{
    BuildId, Contact, Instant, Location, NodeId, PeerRole, Seed, TrackerConfig, TrackerTable,
};

fn member(number: u16, location: Location) -> Contact {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&number.to_be_bytes());
    let address = "10.0.0.1:1".parse().unwrap();
    let (node, role) = (NodeId::from_bytes(key), PeerRole::Host);
    Contact { node, control: address, data: address, role, location }
}

fn announce(contact: Contact, neighbours: &BTreeSet<NodeId>, wanted: u16) -> Announce {
    Announce {
        build: BuildId::of_manifest(b"test"),
        contact,
        neighbours: neighbours.iter().copied().collect(),
        wanted,
        is_complete: false,
        is_leaving: false,
    }
}

/// Lets `count` nodes announce in turn, twice, and connects what the tracker hands out.
fn graph_of(count: u16, place: impl Fn(u16) -> Location) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    let mut tracker = TrackerTable::new(TrackerConfig::region(), Seed::from_u64(1));
    let mut graph: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for number in (0..count).chain(0..count) {
        let contact = member(number, place(number));
        let mine = graph.entry(contact.node).or_default().clone();
        let wanted = 14_u16.saturating_sub(u16::try_from(mine.len()).unwrap());
        let answer = tracker.answer(Instant::ZERO, &announce(contact, &mine, wanted));
        for other in answer.contacts {
            graph.entry(contact.node).or_default().insert(other.node);
            graph.entry(other.node).or_default().insert(contact.node);
        }
    }
    graph
}

/// Goal: no node is left with few neighbours, and none is everybody's neighbour.
#[test]
fn graph_is_balanced() {
    let graph = graph_of(500, |_| Location::default());
    let degrees: Vec<usize> = graph.values().map(BTreeSet::len).collect();
    assert!(degrees.iter().all(|degree| (12..=28).contains(degree)), "{degrees:?}");
}

/// Goal: everybody is a few hops from everybody, however large the swarm: the graph is random, not
/// a band of members in the order in which they came.
#[test]
fn graph_has_no_far_ends() {
    let graph = graph_of(1_000, |_| Location::default());
    let start = *graph.keys().next().unwrap();
    let mut reached: BTreeSet<NodeId> = [start].into();
    let mut edge = vec![start];
    let mut hops = 0;
    while reached.len() < graph.len() {
        edge = edge.iter().flat_map(|node| &graph[node]).copied().collect();
        edge.retain(|node| reached.insert(*node));
        assert!(!edge.is_empty(), "only {} are reached", reached.len());
        hops += 1;
    }
    assert!(hops <= 5, "the farthest member is {hops} hops away");
}

/// Goal: the seeder's neighbours are few, and from all over the swarm: chunks enter it at places
/// that are not each other's neighbours.
#[test]
fn seeder_is_handed_out_over_the_whole_swarm() {
    let mut tracker = TrackerTable::new(TrackerConfig::region(), Seed::from_u64(1));
    let seeder = Contact { role: PeerRole::Seeder, ..member(9_999, Location::default()) };
    let none = BTreeSet::new();
    let from_seeder = Announce { is_complete: true, ..announce(seeder, &none, 0) };
    let _answer = tracker.answer(Instant::ZERO, &from_seeder);
    let mut given = Vec::new();
    for number in 0..2_000 {
        let newcomer = announce(member(number, Location::default()), &none, 14);
        let answer = tracker.answer(Instant::ZERO, &newcomer);
        assert_eq!(answer.seeder, Some(seeder), "the place of last resort is always named");
        given.extend(answer.contacts.contains(&seeder).then_some(number));
    }
    assert!(given.contains(&0), "the first member has nobody else");
    assert!((20..120).contains(&given.len()), "{} of 2000 got the seeder", given.len());
    assert!(given.iter().filter(|number| **number >= 1_000).count() >= 2, "{given:?}");
}

#[test]
fn graph_is_connected() {
    let graph = graph_of(500, |number| Location::named("zone", &(number / 20).to_string()));
    let mut reached = BTreeSet::new();
    let mut next: Vec<NodeId> = graph.keys().take(1).copied().collect();
    while let Some(node) = next.pop() {
        if reached.insert(node) {
            next.extend(&graph[&node]);
        }
    }
    assert_eq!(reached.len(), 500);
}

fn number_of(node: &NodeId) -> u16 {
    u16::from_be_bytes([node.as_bytes()[0], node.as_bytes()[1]])
}

/// Goal: rack mates all know each other, and nobody knows less of the rest of the world for it.
#[test]
fn rack_mates_know_each_other_and_some_others() {
    let rack_of = |number: u16| number % 12;
    let graph = graph_of(480, |n| Location::named("zone", &rack_of(n).to_string()));
    for (node, others) in &graph {
        let is_mate = |other: &&NodeId| rack_of(number_of(other)) == rack_of(number_of(node));
        let mates = others.iter().filter(is_mate).count();
        assert_eq!(mates, 39);
        assert!((4..=40).contains(&(others.len() - mates)), "{} others", others.len() - mates);
    }
}

/// Goal: no node of a large rack has more mates than the limit, and the parts of the rack
/// are few. Method: a rack of twice the limit and a bit; mates are those that come beyond
/// what was asked for.
#[test]
fn large_rack_is_cut_into_parts() {
    let config = TrackerConfig::region();
    let part = u16::try_from(config.mates_max).unwrap() + 1;
    let mut tracker = TrackerTable::new(config, Seed::from_u64(1));
    let place = Location::named("zone", "rack");
    let mut mates = Vec::new();
    for number in 0..2 * part + 3 {
        let contact = member(number, place);
        let answer = tracker.answer(Instant::ZERO, &announce(contact, &BTreeSet::new(), 0));
        mates.push(u16::try_from(answer.contacts.len()).unwrap());
    }
    let expected: Vec<u16> = (0..2 * part + 3).map(|number| number % part).collect();
    assert_eq!(mates, expected);
    // Who announces again keeps its part.
    let again = announce(member(part, place), &BTreeSet::new(), 0);
    assert_eq!(tracker.answer(Instant::ZERO, &again).contacts.len(), usize::from(part) - 1);
}

/// Goal: the seeder feeds all racks alike, also when their hosts come rack by rack; and a place
/// with it that a host gave up goes to another host of the rack.
#[test]
fn seeder_goes_round_the_racks() {
    let config = TrackerConfig::region();
    let each = usize::try_from(config.seeded_per_rack).unwrap();
    let mut tracker = TrackerTable::new(config, Seed::from_u64(1));
    let nobody = BTreeSet::new();
    let seeder = Contact { role: PeerRole::Seeder, ..member(999, Location::default()) };
    let has_build = |neighbours: &BTreeSet<NodeId>| Announce {
        is_complete: true,
        ..announce(seeder, neighbours, 0)
    };
    tracker.answer(Instant::ZERO, &has_build(&nobody));
    let rack_of = |number: u16| Location::named("zone", &(number / 20).to_string());
    let mut given: BTreeMap<u16, BTreeSet<NodeId>> = BTreeMap::new();
    for number in 0..200 {
        let host = member(number, rack_of(number));
        let answer = tracker.answer(Instant::ZERO, &announce(host, &nobody, 14));
        if answer.contacts.contains(&seeder) {
            given.entry(number / 20).or_default().insert(host.node);
        }
    }
    assert_eq!(given.len(), 10);
    assert!(given.values().all(|hosts| hosts.len() == each), "{given:?}");

    // All but the hosts of the first rack are still its neighbours.
    let left: BTreeSet<NodeId> =
        given.iter().skip(1).flat_map(|(_, hosts)| hosts).copied().collect();
    tracker.answer(Instant::ZERO, &has_build(&left));
    let first = announce(member(0, rack_of(0)), &nobody, 14);
    assert!(tracker.answer(Instant::ZERO, &first).contacts.contains(&seeder));
    let other = announce(member(20, rack_of(20)), &nobody, 14);
    assert!(!tracker.answer(Instant::ZERO, &other).contacts.contains(&seeder));
}

#[test]
fn interval_grows_with_the_swarm() {
    let mut config = TrackerConfig::region();
    config.announces_per_second = 10;
    let mut tracker = TrackerTable::new(config, Seed::from_u64(1));
    let mut interval = 0;
    for number in 0..200 {
        let contact = member(number, Location::default());
        let answer = tracker.answer(Instant::ZERO, &announce(contact, &BTreeSet::new(), 1));
        assert!(answer.interval_ms >= interval);
        interval = answer.interval_ms;
    }
    assert_eq!(interval, 20_000);
}

#[test]
fn silent_and_leaving_members_are_forgotten() {
    let mut tracker = TrackerTable::new(TrackerConfig::region(), Seed::from_u64(1));
    let nobody = BTreeSet::new();
    let (one, two) = (member(1, Location::default()), member(2, Location::default()));
    tracker.answer(Instant::ZERO, &announce(one, &nobody, 1));
    let leaving = Announce { is_leaving: true, ..announce(one, &nobody, 0) };
    tracker.answer(Instant::ZERO, &leaving);
    let answer = tracker.answer(Instant::ZERO, &announce(two, &nobody, 1));
    assert_eq!(answer.contacts, [], "one that left is handed out");

    let later = Instant::from_start(Duration::from_mins(10));
    let answer = tracker.answer(later, &announce(one, &nobody, 1));
    assert_eq!(answer.contacts, [], "one that fell silent is handed out");
    assert_eq!(tracker.answer(later, &announce(two, &nobody, 1)).contacts, [one]);
}

#[test]
fn limits_hold_at_the_limit_and_past_it() {
    let mut config = TrackerConfig::region();
    (config.members_max, config.swarms_max) = (2, 2);
    let mut tracker = TrackerTable::new(config.clone(), Seed::from_u64(1));
    let nobody = BTreeSet::new();
    // The third is answered and not remembered, which the fourth one's answer shows.
    for number in 0..4 {
        let contact = member(number, Location::default());
        let answer = tracker.answer(Instant::ZERO, &announce(contact, &nobody, 9));
        assert_eq!(answer.contacts.len(), usize::from(number.min(2)), "members still serve others");
    }

    let mut table = TrackerTable::new(config, Seed::from_u64(1));
    for (name, expected) in [(b"a", 1), (b"b", 1), (b"c", 0)] {
        let build = BuildId::of_manifest(name);
        let contacts = [1, 2].map(|number| {
            let contact = member(number, Location::default());
            let announce = Announce { build, ..announce(contact, &nobody, 1) };
            table.answer(Instant::ZERO, &announce).contacts.len()
        });
        assert_eq!(contacts, [0, expected]);
    }
}

#[test]
fn seeder_is_named_as_last_resort_once_it_has_the_build() {
    let mut tracker = TrackerTable::new(TrackerConfig::region(), Seed::from_u64(1));
    let nobody = BTreeSet::new();
    let seeder = Contact { role: PeerRole::Seeder, ..member(9, Location::default()) };
    let host = announce(member(1, Location::default()), &nobody, 0);
    tracker.answer(Instant::ZERO, &announce(seeder, &nobody, 0));
    assert_eq!(tracker.answer(Instant::ZERO, &host).seeder, None);
    let complete = Announce { is_complete: true, ..announce(seeder, &nobody, 0) };
    tracker.answer(Instant::ZERO, &complete);
    assert_eq!(tracker.answer(Instant::ZERO, &host).seeder, Some(seeder));
}
