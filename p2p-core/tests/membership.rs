//! How a node finds others when those who should help are gone: trackers, neighbours, seeders.

use std::time::Duration;

use p2p_core::wire::{AnnounceAnswer, Have, Message};
use p2p_core::{
    Action, ChunkSet, Contact, Event, Holdings, Instant, NodeId, PeerRole, Seed, Swarm,
    SwarmConfig, SwarmParams,
};

use crate::fleet::{Fleet, contact, node};

/// A swarm driven by hand: time goes from one of its deadlines to the next.
struct Lone {
    swarm: Swarm,
    now: Instant,
    /// Dials that were ordered, and when.
    open: Vec<(Instant, NodeId)>,
}

impl Lone {
    /// A host with an empty layout of ten chunks, one tracker and contacts from an earlier life.
    fn new(remembered: Vec<Contact>) -> Self {
        let fleet = Fleet::new(10, 0);
        let params = SwarmParams {
            config: SwarmConfig::host().into(),
            build: fleet.build,
            contact: contact(100, PeerRole::Host),
            trackers: vec![node(0)],
            remembered,
            seed: Seed::from_u64(1),
        };
        let have = ChunkSet::empty(10);
        let holdings = Holdings::Chunks { layout: fleet.layout.clone(), have };
        let swarm = Swarm::new(params, holdings, Instant::ZERO);
        Self { swarm, now: Instant::ZERO, open: Vec::new() }
    }

    fn give(&mut self, event: Event) -> Vec<Action> {
        self.swarm.handle_event(self.now, event);
        let actions: Vec<Action> = std::iter::from_fn(|| self.swarm.poll_action()).collect();
        let at = |action: &Action| (self.now, action.clone());
        self.open.extend(dials_in(actions.iter().map(at).collect()));
        actions
    }

    /// Lets time go on for `span`; what was ordered meanwhile and when.
    fn wait(&mut self, span: Duration) -> Vec<(Instant, Action)> {
        let until = self.now.after(span);
        let mut ordered = Vec::new();
        while let Some(at) = self.swarm.next_deadline().map(|d| d.at).filter(|at| *at <= until) {
            self.now = at;
            let actions = self.give(Event::DeadlineReached);
            ordered.extend(actions.into_iter().map(|action| (at, action)));
        }
        self.now = until;
        ordered
    }

    /// As [`Self::wait`], with every dial failing, those ordered before included; who was dialled
    /// when.
    fn wait_alone(&mut self, span: Duration) -> Vec<(Instant, NodeId)> {
        let until = self.now.after(span);
        let mut dials = Vec::new();
        while self.now < until {
            self.wait(Duration::from_secs(1));
            let mut open = core::mem::take(&mut self.open);
            while let Some((at, dialled)) = open.pop() {
                dials.push((at, dialled));
                self.give(Event::DialFailed { peer: dialled });
                open.append(&mut self.open);
            }
        }
        dials
    }

    fn meet(&mut self, number: u8, role: PeerRole, have: &ChunkSet) -> Vec<Action> {
        self.give(Event::PeerConnected { peer: node(number) });
        let (contact, have) = (Box::new(contact(number, role)), Some(Have::of(have)));
        let message = Message::Join { contact, have };
        self.give(Event::MessageReceived { peer: node(number), message })
    }
}

fn dials_in(ordered: Vec<(Instant, Action)>) -> Vec<(Instant, NodeId)> {
    let dial = |(at, action)| match action {
        Action::Connect { contact } => Some((at, contact.node)),
        _ => None,
    };
    ordered.into_iter().filter_map(dial).collect()
}

fn hosts(numbers: core::ops::Range<u8>) -> Vec<Contact> {
    numbers.map(|number| contact(number, PeerRole::Host)).collect()
}

/// Goal: a host that returns when no tracker is left finds the swarm by those it knew before.
/// Method: the tracker fails; the remembered contacts are dialled, and not before.
#[test]
fn remembered_contacts_are_dialled_when_the_tracker_fails() {
    let mut host = Lone::new(hosts(1..5));
    host.give(Event::Started);
    assert!(
        dials_in(host.wait(Duration::from_millis(200))).is_empty(),
        "the tracker has time left"
    );
    let actions = host.give(Event::AnnounceFailed { tracker: node(0) });
    assert_eq!(dials_in(actions.into_iter().map(|one| (host.now, one)).collect()).len(), 4);
}

/// Goal: a tracker that says nothing does not hold up a host that could dial.
#[test]
fn remembered_contacts_are_dialled_when_the_tracker_is_late() {
    let mut host = Lone::new(hosts(1..5));
    host.give(Event::Started);
    assert_eq!(dials_in(host.wait(Duration::from_secs(2))).len(), 4);
}

/// Goal: what a tracker hands out goes first: it is fresh and balanced.
#[test]
fn remembered_contacts_are_left_alone_while_the_tracker_answers() {
    let mut host = Lone::new(hosts(1..5));
    host.give(Event::Started);
    let answer = AnnounceAnswer { contacts: hosts(7..8), interval_ms: 60_000, seeder: None };
    let actions = host.give(Event::AnnounceAnswered { tracker: node(0), answer: Box::new(answer) });
    let dialled = dials_in(actions.into_iter().map(|one| (host.now, one)).collect());
    assert_eq!(dialled, [(host.now, node(7))]);
    // It announces again meanwhile, because it is hungry, and nobody answers that.
    assert!(dials_in(host.wait(Duration::from_secs(4))).is_empty());
}

/// Goal: a host whose neighbours are all out of reach goes on dialling them, ever more seldom, but
/// often enough to be back half a minute after the network is.
#[test]
fn lost_neighbours_are_dialled_again_and_again_with_pauses() {
    let mut host = Lone::new(Vec::new());
    host.give(Event::Started);
    host.give(Event::AnnounceFailed { tracker: node(0) });
    for number in 1..4 {
        host.meet(number, PeerRole::Host, &ChunkSet::empty(10));
    }
    for number in 1..4 {
        host.give(Event::PeerLost { peer: node(number) });
    }
    let dials = host.wait_alone(Duration::from_mins(10));
    for number in 1..4 {
        let times: Vec<Instant> =
            dials.iter().filter(|(_, who)| *who == node(number)).map(|(at, _)| *at).collect();
        let pauses: Vec<Duration> = times.windows(2).map(|two| two[1].since(two[0])).collect();
        assert!(times.len() > 15, "node {number} was dialled {} times", times.len());
        assert!(pauses.iter().all(|pause| *pause >= Duration::from_secs(5)), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(32)), "{pauses:?}");
    }
}

/// Goal: the table of contacts has its limit, and one that answers finds a place in it.
/// Method: it is filled with contacts that fail; one that is new takes the place of one of them.
#[test]
fn fresh_contact_takes_the_place_of_one_that_fails() {
    let mut host = Lone::new(Vec::new());
    host.give(Event::Started);
    host.give(Event::AnnounceFailed { tracker: node(0) });
    let limit = SwarmConfig::host().contacts_max;
    let many = u8::try_from(limit).unwrap();
    host.give(Event::ContactsLearned { contacts: hosts(1..many + 1) });
    host.wait_alone(Duration::from_mins(1));
    host.give(Event::ContactsLearned { contacts: hosts(200..201) });
    let dials = host.wait_alone(Duration::from_mins(1));
    assert!(dials.iter().any(|(_, who)| *who == node(200)), "the new one was never dialled");
    for table in host.swarm.table_sizes() {
        assert!(table.size <= table.limit, "{table:?}");
    }
}

/// Goal: neighbours who all lack the same chunks are not the end of the search.
/// Method: as many neighbours as a host looks for, none of them with anything; a contact beyond
/// them is dialled once the host starves.
#[test]
fn host_that_starves_among_neighbours_looks_beyond_them() {
    let mut host = Lone::new(Vec::new());
    host.give(Event::Started);
    let target = u8::try_from(SwarmConfig::host().neighbours_target).unwrap();
    for number in 1..=target {
        host.meet(number, PeerRole::Host, &ChunkSet::empty(10));
    }
    host.give(Event::ContactsLearned { contacts: hosts(90..91) });
    assert!(dials_in(host.wait(Duration::from_secs(4))).is_empty());
    assert_eq!(dials_in(host.wait(Duration::from_secs(4)))[0].1, node(90));
}

/// Goal: one with no place for us is asked again later, not forgotten.
/// Method: the peer leaves before it said anything.
#[test]
fn contact_that_turned_us_away_is_dialled_again() {
    let mut host = Lone::new(Vec::new());
    host.give(Event::Started);
    host.give(Event::AnnounceFailed { tracker: node(0) });
    host.give(Event::ContactsLearned { contacts: hosts(1..2) });
    host.give(Event::PeerConnected { peer: node(1) });
    host.give(Event::MessageReceived { peer: node(1), message: Message::Leave });
    let dials = dials_in(host.wait(Duration::from_secs(10)));
    assert_eq!(dials.len(), 1, "{dials:?}");
}

/// Goal: what is kept for a next life are the neighbours first, and no more than the limit.
#[test]
fn neighbours_come_first_among_lasting_contacts() {
    let mut host = Lone::new(hosts(100..199));
    host.give(Event::Started);
    host.meet(1, PeerRole::Host, &ChunkSet::empty(10));
    let lasting = host.swarm.lasting_contacts();
    assert_eq!(lasting[0], contact(1, PeerRole::Host));
    assert_eq!(lasting.len(), SwarmConfig::host().contacts_max);
}

/// Goal: a crowd around a seeder asks less and less often while the seeder is busy.
/// Method: the seeder refuses whatever it is asked for twenty seconds.
#[test]
fn busy_seeder_is_asked_ever_more_seldom() {
    let mut host = Lone::new(Vec::new());
    host.give(Event::Started);
    let mut asked = host.meet(1, PeerRole::Seeder, &ChunkSet::full(10));
    let mut times = Vec::new();
    let until = host.now.after(Duration::from_secs(20));
    while host.now < until {
        for action in asked {
            let Action::Fetch { request, .. } = action else { continue };
            times.push(host.now);
            let message = Message::Busy { request, retry_after_ms: 50 };
            host.give(Event::MessageReceived { peer: node(1), message });
        }
        asked = host.wait(Duration::from_millis(10)).into_iter().map(|(_, one)| one).collect();
    }
    assert!((10..20).contains(&times.len()), "asked {} times: {times:?}", times.len());
}

/// Goal: two seeders share the hosts that seek a last resort.
#[test]
fn tracker_names_each_of_its_seeders() {
    let mut fleet = Fleet::new(10, 3);
    let announce = |number, role, is_complete| p2p_core::wire::Announce {
        build: Fleet::new(10, 3).build,
        contact: contact(number, role),
        neighbours: Vec::new(),
        wanted: 0,
        is_complete,
        is_leaving: false,
    };
    for seeder in [0, 1] {
        fleet.tracker.answer(Instant::ZERO, &announce(seeder, PeerRole::Seeder, true));
    }
    let mut named = Vec::new();
    for _ in 0..20 {
        let answer = fleet.tracker.answer(Instant::ZERO, &announce(9, PeerRole::Host, false));
        named.extend(answer.seeder.map(|seeder| seeder.node));
    }
    assert!(named.contains(&node(0)) && named.contains(&node(1)), "{named:?}");
}

/// Goal: a peer that offers everything and answers nothing does not hold up the download.
/// Method: it is the first neighbour and takes what it is asked for; an honest one comes later, and
/// gets every chunk to send long before the first would be dropped as stalled.
#[test]
fn silent_peer_holds_few_requests_and_not_for_long() {
    let mut host = Lone::new(Vec::new());
    host.give(Event::Started);
    let asked_of = |actions: &[Action], peer: u8| -> Vec<u32> {
        let asked = actions.iter().filter_map(|action| match action {
            Action::Fetch { peer: whom, chunk, .. } if *whom == node(peer) => Some(chunk.get()),
            _ => None,
        });
        asked.collect()
    };
    let silent = host.meet(1, PeerRole::Host, &ChunkSet::full(10));
    assert_eq!(asked_of(&silent, 1).len(), 2, "too much is trusted to a stranger");
    let mut actions = host.meet(2, PeerRole::Host, &ChunkSet::full(10));
    let mut stored = 0;
    while stored < 10 {
        let mut next = Vec::new();
        for action in actions {
            let Action::Fetch { request, peer, chunk } = action else { continue };
            if peer == node(2) {
                stored += 1;
                let verdict = p2p_core::Verdict::Matches;
                next.extend(host.give(Event::ChunkHashed { request, chunk, verdict }));
            }
        }
        next.extend(host.wait(Duration::from_millis(100)).into_iter().map(|(_, action)| action));
        assert!(host.now < Instant::from_start(Duration::from_secs(15)), "{stored} chunks");
        actions = next;
    }
}

/// Goal: what is being sent to a peer that left is stopped, so that no more is sent at once than
/// the limit allows.
#[test]
fn upload_to_a_peer_that_left_is_stopped() {
    let mut host = Lone::new(Vec::new());
    host.give(Event::Started);
    let mut have = ChunkSet::empty(10);
    let chunk = Fleet::new(10, 0).layout.index(3).unwrap();
    have.insert(chunk);
    let asked = host.meet(1, PeerRole::Host, &have);
    let Some(Action::Fetch { request, .. }) =
        asked.iter().find(|action| matches!(action, Action::Fetch { .. }))
    else {
        panic!("{asked:?}");
    };
    let verdict = p2p_core::Verdict::Matches;
    host.give(Event::ChunkHashed { request: *request, chunk, verdict });
    host.meet(2, PeerRole::Host, &ChunkSet::empty(10));
    let request = p2p_core::wire::RequestId(5);
    let message = Message::Request { request, chunk: 3 };
    let actions = host.give(Event::MessageReceived { peer: node(2), message });
    assert!(actions.contains(&Action::Serve { peer: node(2), request, chunk }), "{actions:?}");
    let actions = host.give(Event::MessageReceived { peer: node(2), message: Message::Leave });
    assert!(actions.contains(&Action::CancelServe { peer: node(2), request }), "{actions:?}");
}
