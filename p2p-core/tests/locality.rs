//! What a host that knows its rack asks of its rack mates, and what of the rest of the world.

use std::time::Duration;

use p2p_core::wire::{Have, Message};
use p2p_core::{
    Action, ChunkSet, Contact, Event, Holdings, Instant, Location, PeerRole, Seed, Swarm,
    SwarmConfig, SwarmParams, Verdict,
};

use crate::fleet::{Fleet, contact, node, request_count};
use crate::swarm::offer;

/// The host under test. Mates have lower and higher numbers.
const SELF: u8 = 5;
const LOWER_MATE: u8 = 4;
const HIGHER_MATE: u8 = 6;
const STRANGER: u8 = 20;

fn contact_at(number: u8, rack: &str) -> Contact {
    Contact { location: Location::named("zone", rack), ..contact(number, PeerRole::Host) }
}

struct Rig {
    swarm: Swarm,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        Self::at("a")
    }

    /// A host that lacks all of ten chunks, with two neighbours in its rack that lack them too.
    fn at(rack: &str) -> Self {
        let fleet = Fleet::new(10, 0);
        let params = SwarmParams {
            config: SwarmConfig::host().into(),
            build: fleet.build,
            contact: contact_at(SELF, rack),
            trackers: vec![],
            remembered: vec![],
            seed: Seed::from_u64(1),
        };
        let have = ChunkSet::empty(10);
        let holdings = Holdings::Chunks { layout: fleet.layout, have };
        let swarm = Swarm::new(params, holdings, Instant::ZERO);
        let mut rig = Self { swarm, now: Instant::ZERO };
        rig.give(Event::Started);
        for mate in [LOWER_MATE, HIGHER_MATE] {
            rig.joins(mate, rack, &[]);
        }
        rig
    }

    fn give(&mut self, event: Event) -> Vec<Action> {
        self.swarm.handle_event(self.now, event);
        std::iter::from_fn(|| self.swarm.poll_action()).collect()
    }

    fn says(&mut self, from: u8, message: Message) -> Vec<Action> {
        self.give(Event::MessageReceived { peer: node(from), message })
    }

    fn joins(&mut self, number: u8, rack: &str, chunks: &[u32]) -> Vec<Action> {
        let layout = Fleet::new(10, 0).layout;
        let mut have = ChunkSet::empty(10);
        for chunk in chunks {
            have.insert(layout.index(*chunk).unwrap());
        }
        let contact = Box::new(contact_at(number, rack));
        self.give(Event::PeerConnected { peer: node(number) });
        self.says(number, Message::Join { contact, have: Some(Have::of(&have)) })
    }

    fn passes(&mut self, time: Duration) -> Vec<Action> {
        self.now = self.now.after(time);
        self.give(Event::DeadlineReached)
    }
}

fn fetches(actions: &[Action]) -> Vec<(u8, u32)> {
    let fetch = |action: &Action| match action {
        Action::Fetch { peer, chunk, .. } => Some((peer.as_bytes()[0], chunk.get())),
        _ => None,
    };
    actions.iter().filter_map(fetch).collect()
}

/// To whom which message about claims is sent.
fn claims_in(actions: &[Action]) -> Vec<(u8, Message)> {
    let about_claims = |action: &Action| match action {
        Action::Send {
            peer,
            message: message @ (Message::Claim { .. } | Message::Disclaim { .. }),
        } => Some((peer.as_bytes()[0], message.clone())),
        _ => None,
    };
    let mut said: Vec<_> = actions.iter().filter_map(about_claims).collect();
    said.sort_by_key(|(peer, _)| *peer);
    said
}

/// Goal: what comes from outside the rack is claimed before the mates, and before nobody else.
#[test]
fn chunk_asked_of_a_stranger_is_claimed_before_the_mates() {
    let mut rig = Rig::new();
    let actions = rig.joins(STRANGER, "b", &[3]);
    assert_eq!(fetches(&actions), [(STRANGER, 3)]);
    let claim = Message::Claim { chunk: 3 };
    assert_eq!(claims_in(&actions), [(LOWER_MATE, claim.clone()), (HIGHER_MATE, claim)]);
}

/// Goal: bytes between mates cross nothing that has to be saved.
#[test]
fn chunk_asked_of_a_mate_is_not_claimed() {
    let mut rig = Rig::new();
    let actions = rig.says(LOWER_MATE, offer(vec![(3, 1)]));
    assert_eq!(fetches(&actions), [(LOWER_MATE, 3)]);
    assert_eq!(claims_in(&actions), []);
}

/// Goal: one copy per rack: what a mate has or brings is not asked of a stranger, however much it
/// offers.
#[test]
fn chunk_of_the_rack_is_not_asked_of_a_stranger() {
    let mut rig = Rig::new();
    rig.says(LOWER_MATE, offer(vec![(3, 1)]));
    rig.says(HIGHER_MATE, Message::Claim { chunk: 4 });
    let actions = rig.joins(STRANGER, "b", &[3, 4]);
    assert_eq!(fetches(&actions), []);
    let actions = rig.says(STRANGER, offer(vec![(5, 1)]));
    assert_eq!(fetches(&actions), [(STRANGER, 5)]);
}

/// Goal: a claim holds up nobody for ever: it ends when it is given up, with its claimant, or after
/// the time that the configuration gives it.
#[test]
fn chunk_is_asked_of_a_stranger_once_its_claim_is_over() {
    type End = fn(&mut Rig) -> Vec<Action>;
    let ends: [(&str, End); 3] = [
        ("given up", |rig| rig.says(HIGHER_MATE, Message::Disclaim { chunk: 4 })),
        ("claimant lost", |rig| rig.give(Event::PeerLost { peer: node(HIGHER_MATE) })),
        ("too late", |rig| rig.passes(SwarmConfig::host().claim_time_min)),
    ];
    for (name, end) in ends {
        let mut rig = Rig::new();
        rig.says(HIGHER_MATE, Message::Claim { chunk: 4 });
        rig.joins(STRANGER, "b", &[4]);
        let actions = rig.passes(Duration::from_millis(1_999));
        assert_eq!(fetches(&actions), [], "{name}");
        let deadline = rig.swarm.next_deadline().unwrap();
        assert!(deadline.at <= Instant::from_start(SwarmConfig::host().claim_time_min), "{name}");
        rig.now = Instant::from_start(Duration::from_millis(1_999));
        let actions = end(&mut rig);
        assert_eq!(fetches(&actions), [(STRANGER, 4)], "{name}");
    }
}

/// Goal: nobody but the claimant ends its claim, and nobody but a mate claims.
#[test]
fn claims_and_ends_of_others_do_not_count() {
    let mut rig = Rig::new();
    rig.joins(STRANGER, "b", &[]);
    rig.says(HIGHER_MATE, Message::Claim { chunk: 4 });
    rig.says(LOWER_MATE, Message::Disclaim { chunk: 4 });
    rig.says(STRANGER, Message::Claim { chunk: 5 });
    rig.says(HIGHER_MATE, Message::Claim { chunk: 10 });
    let actions = rig.says(STRANGER, offer(vec![(4, 2)]));
    assert_eq!(fetches(&actions), [(STRANGER, 5)]);
}

/// Goal: of two mates that claim a chunk at once, exactly one goes on.
/// Method: the claim of one with a higher key changes nothing, that of one with a lower key cancels
/// our request.
#[test]
fn of_two_claimants_the_one_with_the_lower_key_goes_on() {
    let mut rig = Rig::new();
    rig.joins(STRANGER, "b", &[4]);
    let is_cancel = |action: &Action| matches!(action, Action::CancelFetch { .. });
    let actions = rig.says(HIGHER_MATE, Message::Claim { chunk: 4 });
    assert!(!actions.iter().any(is_cancel), "{actions:?}");
    let actions = rig.says(LOWER_MATE, Message::Claim { chunk: 4 });
    assert!(actions.iter().any(is_cancel), "{actions:?}");
    assert_eq!(request_count(&rig.swarm), 0);
}

/// Goal: a claim is renewed while its chunk is on its way, and given up when its
/// source has no time.
#[test]
fn claim_is_kept_up_or_given_up() {
    let half = SwarmConfig::host().claim_time_min / 2;
    let mut rig = Rig::new();
    rig.joins(STRANGER, "b", &[4]);
    let claim = Message::Claim { chunk: 4 };
    assert_eq!(claims_in(&rig.passes(half)), [(LOWER_MATE, claim.clone()), (HIGHER_MATE, claim)]);

    let mut rig = Rig::new();
    let actions = rig.joins(STRANGER, "b", &[4]);
    let request = actions.iter().find_map(|action| match action {
        Action::Fetch { request, .. } => Some(*request),
        _ => None,
    });
    let busy = Message::Busy { request: request.unwrap(), retry_after_ms: 2_000 };
    assert_eq!(claims_in(&rig.says(STRANGER, busy)), []);
    let disclaim = Message::Disclaim { chunk: 4 };
    assert_eq!(
        claims_in(&rig.passes(half)),
        [(LOWER_MATE, disclaim.clone()), (HIGHER_MATE, disclaim)]
    );
}

/// Goal: when a chunk came, its claim is over without a word: the offer says it.
#[test]
fn chunk_that_came_needs_no_further_claim() {
    let mut rig = Rig::new();
    let actions = rig.joins(STRANGER, "b", &[4]);
    let Some(Action::Fetch { request, chunk, .. }) =
        actions.iter().find(|action| matches!(action, Action::Fetch { .. })).cloned()
    else {
        panic!("no fetch in {actions:?}");
    };
    let actions = rig.give(Event::ChunkHashed { request, chunk, verdict: Verdict::Matches });
    assert_eq!(claims_in(&actions), []);
    assert_eq!(claims_in(&rig.passes(SwarmConfig::host().claim_time_min)), []);
}

/// Goal: a node that starves takes what it can get from anywhere.
#[test]
fn starving_host_does_not_wait_for_its_mates() {
    let mut rig = Rig::new();
    rig.says(LOWER_MATE, Message::Claim { chunk: 4 });
    rig.joins(STRANGER, "b", &[4]);
    for second in 1..=5 {
        rig.now = Instant::from_start(Duration::from_secs(second));
        assert_eq!(request_count(&rig.swarm), 0, "after {second} s");
        rig.says(LOWER_MATE, Message::Claim { chunk: 4 });
        rig.give(Event::DeadlineReached);
    }
    assert_eq!(request_count(&rig.swarm), 1);
}

/// Goal: places for mates are not taken by others, nor the other way round.
/// Method: as many strangers as a node accepts, one more, and then a mate.
#[test]
fn strangers_past_the_limit_are_turned_away_and_mates_are_not() {
    let mut rig = Rig::new();
    let limit = u8::try_from(SwarmConfig::host().neighbours_max).unwrap();
    let turned_away =
        |actions: &[Action], number| actions.contains(&Action::Disconnect { peer: node(number) });
    for number in STRANGER..STRANGER + limit {
        assert!(!turned_away(&rig.joins(number, "b", &[]), number));
    }
    let one_more = STRANGER + limit;
    assert!(turned_away(&rig.joins(one_more, "b", &[]), one_more));
    assert!(!turned_away(&rig.joins(one_more + 1, "a", &[]), one_more + 1));
    assert_eq!(rig.swarm.neighbour_count(), usize::from(limit) + 3);
}

/// Goal: mates past the limit are neighbours like any other: their claims do not bind us.
#[test]
fn mates_past_the_limit_count_as_strangers() {
    let limit = u8::try_from(SwarmConfig::host().near_max).unwrap();
    let (first, last) = (100, 100 + limit - 3);
    for (claimant, expected) in [(last, 0), (last + 1, 1)] {
        let mut rig = Rig::new();
        for number in first..=last + 1 {
            rig.joins(number, "a", &[]);
        }
        rig.says(claimant, Message::Claim { chunk: 7 });
        let actions = rig.joins(STRANGER, "b", &[7]);
        assert_eq!(fetches(&actions).len(), expected, "claimant {claimant}");
    }
}

/// Goal: a host that does not know its rack neither claims nor waits.
#[test]
fn host_without_a_rack_has_no_mates() {
    let mut rig = Rig::at("");
    let actions = rig.joins(STRANGER, "", &[3]);
    assert_eq!((fetches(&actions), claims_in(&actions)), (vec![(STRANGER, 3)], vec![]));
    rig.says(HIGHER_MATE, Message::Claim { chunk: 4 });
    let actions = rig.says(STRANGER, offer(vec![(4, 1)]));
    assert_eq!(fetches(&actions), [(STRANGER, 4)]);
}
