//! Who else takes part: contacts, dials, bans, and when to ask a tracker or a neighbour for more.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::config::SwarmConfig;
use crate::contact::{Contact, Location, PeerRole};
use crate::node_id::NodeId;
use crate::prng::Prng;
use crate::time::Instant;
use crate::wire::AnnounceAnswer;

/// How long a contact that could not be reached is left alone.
const DIAL_RETRY: Duration = Duration::from_secs(5);

/// How long a neighbour whose connection broke is left alone. A peer that closes every connection
/// must not be dialled in a loop; one that was restarted is up again by then.
const REDIAL_WAIT: Duration = Duration::from_secs(1);

/// The swarm's knowledge of nodes that are not neighbours, and its dealings with trackers.
#[derive(Debug)]
pub(super) struct Membership {
    contacts: BTreeMap<NodeId, Contact>,
    /// Contacts in our rack, which are all dialled.
    mates: BTreeMap<NodeId, Contact>,
    dialling: BTreeSet<NodeId>,
    /// The same for rack mates, so that one kind of neighbours does not wait for the other.
    dialling_mates: BTreeSet<NodeId>,
    /// Where we stand.
    here: Location,
    /// Nodes that are neither dialled nor accepted before a moment.
    banned: BTreeMap<NodeId, Instant>,
    /// Nodes that are not dialled again before a moment, because that failed.
    dial_after: BTreeMap<NodeId, Instant>,
    trackers: Vec<NodeId>,
    /// The tracker that is asked next.
    tracker: usize,
    /// A tracker was asked and has not answered.
    is_announcing: bool,
    announce_at: Option<Instant>,
    /// The interval that the tracker last named.
    interval: Duration,
    announced_at: Option<Instant>,
    /// Announces that failed since the last answer.
    failures: u32,
    exchange_at: Instant,
    /// The seeder behind the tracker that last answered.
    seeder: Option<Contact>,
}

impl Membership {
    pub(super) fn new(now: Instant, trackers: Vec<NodeId>, here: Location) -> Self {
        Self {
            contacts: BTreeMap::new(),
            mates: BTreeMap::new(),
            dialling: BTreeSet::new(),
            dialling_mates: BTreeSet::new(),
            here,
            banned: BTreeMap::new(),
            dial_after: BTreeMap::new(),
            announce_at: (!trackers.is_empty()).then_some(now),
            trackers,
            tracker: 0,
            is_announcing: false,
            interval: Duration::MAX,
            announced_at: None,
            failures: 0,
            exchange_at: now,
            seeder: None,
        }
    }

    pub(super) fn learn(&mut self, contact: Contact, config: &SwarmConfig) {
        if self.here.shares_rack_with(contact.location) && contact.role == PeerRole::Host {
            if self.mates.len() < usize::from(config.near_max) {
                self.mates.insert(contact.node, contact);
            }
        } else if self.contacts.len() < config.contacts_max {
            self.contacts.insert(contact.node, contact);
        }
    }

    /// Takes the contact to dial next; `None` if there is none that may be dialled now.
    pub(super) fn next_dial(
        &mut self,
        now: Instant,
        config: &SwarmConfig,
        is_neighbour: impl Fn(NodeId) -> bool,
        prng: &mut Prng,
    ) -> Option<Contact> {
        if self.dialling.len() >= config.dials_max {
            return None;
        }
        self.contacts.retain(|node, _| !is_neighbour(*node));
        let may_dial = |node: &&NodeId| !self.dialling.contains(node) && self.may_dial(now, **node);
        let free: Vec<NodeId> = self.contacts.keys().filter(may_dial).copied().collect();
        if free.is_empty() {
            return None;
        }
        let contact = self.contacts.remove(&free[prng.index_below(free.len())])?;
        self.dialling.insert(contact.node);
        Some(contact)
    }

    /// Takes the rack mate to dial next; `None` if there is none that may be dialled now. `count` of
    /// them are neighbours.
    pub(super) fn next_mate(
        &mut self,
        now: Instant,
        (count, config): (usize, &SwarmConfig),
        is_neighbour: impl Fn(NodeId) -> bool,
    ) -> Option<Contact> {
        let missing = usize::from(config.near_max).saturating_sub(count);
        if missing == 0 {
            // Mates beyond those that we can have serve like anybody else.
            let room = config.contacts_max.saturating_sub(self.contacts.len());
            self.contacts.extend(core::mem::take(&mut self.mates).into_iter().take(room));
        }
        if self.dialling_mates.len() >= missing {
            return None;
        }
        self.mates.retain(|node, _| !is_neighbour(*node));
        let may_dial =
            |node: &&NodeId| !self.dialling_mates.contains(node) && self.may_dial(now, **node);
        let mate = self.mates.keys().find(may_dial).copied()?;
        self.dialling_mates.insert(mate);
        self.mates.remove(&mate)
    }

    /// The seeder of last resort, to dial, unless it is a neighbour or may not be dialled now.
    pub(super) fn last_resort(
        &mut self,
        now: Instant,
        is_neighbour: impl Fn(NodeId) -> bool,
    ) -> Option<Contact> {
        let seeder = self.seeder?;
        if is_neighbour(seeder.node) || !self.may_dial(now, seeder.node) {
            return None;
        }
        self.dialling.insert(seeder.node).then_some(seeder)
    }

    /// When a contact that must wait may be dialled; `None` if none waits.
    pub(super) fn next_dial_at(&self, now: Instant) -> Option<Instant> {
        let all = self.contacts.keys().chain(self.mates.keys());
        let waits = all.filter_map(|node| self.dial_after.get(node).copied());
        waits.filter(|until| *until > now).min()
    }

    fn may_dial(&self, now: Instant, node: NodeId) -> bool {
        let is_waiting = self.dial_after.get(&node).is_some_and(|until| *until > now);
        !is_waiting && !self.is_banned(now, node)
    }

    pub(super) fn dialling_count(&self) -> usize {
        self.dialling.len()
    }

    pub(super) fn note_connected(&mut self, node: NodeId) {
        self.dialling.remove(&node);
        self.dialling_mates.remove(&node);
        self.contacts.remove(&node);
        self.mates.remove(&node);
    }

    pub(super) fn note_dial_failed(&mut self, now: Instant, node: NodeId, config: &SwarmConfig) {
        self.dialling.remove(&node);
        self.dialling_mates.remove(&node);
        insert_bounded(&mut self.dial_after, node, now.after(DIAL_RETRY), config.bans_max);
    }

    /// The connection to a neighbour broke; it is dialled again after a while.
    pub(super) fn note_lost(
        &mut self,
        now: Instant,
        node: NodeId,
        contact: Option<Contact>,
        config: &SwarmConfig,
    ) {
        insert_bounded(&mut self.dial_after, node, now.after(REDIAL_WAIT), config.bans_max);
        if let Some(contact) = contact {
            self.learn(contact, config);
        }
    }

    pub(super) fn ban(&mut self, node: NodeId, until: Instant, config: &SwarmConfig) {
        self.dialling.remove(&node);
        self.dialling_mates.remove(&node);
        self.contacts.remove(&node);
        self.mates.remove(&node);
        insert_bounded(&mut self.banned, node, until, config.bans_max);
    }

    pub(super) fn is_banned(&self, now: Instant, node: NodeId) -> bool {
        self.banned.get(&node).is_some_and(|until| *until > now)
    }

    /// When the next announce is due, given whether neighbours are short.
    pub(super) fn announce_due(&self, is_hungry: bool, config: &SwarmConfig) -> Option<Instant> {
        if self.is_announcing {
            return None;
        }
        let due = self.announce_at?;
        match self.announced_at {
            Some(last) if is_hungry && self.failures == 0 => {
                Some(due.min(last.after(config.announce_hungry)))
            }
            _ => Some(due),
        }
    }

    /// The tracker to announce to now; the answer is awaited from here on.
    pub(super) fn begin_announce(&mut self, now: Instant) -> Option<NodeId> {
        let tracker = *self.trackers.get(self.tracker)?;
        self.is_announcing = true;
        self.announced_at = Some(now);
        Some(tracker)
    }

    pub(super) fn note_answer(
        &mut self,
        now: Instant,
        answer: &AnnounceAnswer,
        config: &SwarmConfig,
        prng: &mut Prng,
    ) {
        self.is_announcing = false;
        self.failures = 0;
        self.seeder = answer.seeder.or(self.seeder);
        // A tracker may ask for silence, but not for longer than a swarm can do without one.
        let named = Duration::from_millis(u64::from(answer.interval_ms));
        self.interval = named.clamp(Duration::from_millis(100), Duration::from_mins(10));
        self.announce_at = Some(now.after(jittered(self.interval, prng)));
        for contact in &answer.contacts {
            self.learn(*contact, config);
        }
    }

    pub(super) fn note_failure(&mut self, now: Instant, config: &SwarmConfig, prng: &mut Prng) {
        self.is_announcing = false;
        self.failures = self.failures.saturating_add(1);
        self.tracker = (self.tracker + 1) % self.trackers.len().max(1);
        let doubled = config.announce_retry_min * 2_u32.saturating_pow(self.failures.min(16) - 1);
        let wait = doubled.min(config.announce_retry_max);
        self.announce_at = Some(now.after(jittered(wait, prng)));
    }

    /// Whether the last announce failed, or none was answered yet.
    pub(super) fn is_tracker_silent(&self) -> bool {
        self.failures > 0 || self.interval == Duration::MAX
    }

    /// Whether some tracker said that its seeder has the build.
    pub(super) fn knows_seeder(&self) -> bool {
        self.seeder.is_some()
    }

    /// When to ask a neighbour for contacts; only while trackers fail.
    pub(super) fn exchange_due(&self) -> Option<Instant> {
        (self.failures > 0 || self.trackers.is_empty()).then_some(self.exchange_at)
    }

    pub(super) fn note_exchange(&mut self, now: Instant, config: &SwarmConfig, prng: &mut Prng) {
        self.exchange_at = now.after(jittered(config.exchange_interval, prng));
    }
}

/// Past the limit the entry that ends first makes room.
fn insert_bounded(
    table: &mut BTreeMap<NodeId, Instant>,
    node: NodeId,
    until: Instant,
    entries_max: usize,
) {
    if table.len() >= entries_max {
        let first = table.iter().min_by_key(|(_, until)| **until).map(|(node, _)| *node);
        first.and_then(|node| table.remove(&node));
    }
    let entry = table.entry(node).or_insert(until);
    *entry = until.max(*entry);
}

/// `span` give or take a tenth, so that nodes that start together drift apart.
fn jittered(span: Duration, prng: &mut Prng) -> Duration {
    let tenth = u64::try_from((span / 10).as_nanos()).unwrap_or(u64::MAX / 4).max(1);
    span * 9 / 10 + Duration::from_nanos(prng.below(2 * tenth))
}
