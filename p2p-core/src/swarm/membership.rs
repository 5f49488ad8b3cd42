//! Who else takes part: contacts, dials and bans.
//!
//! Invariant: a contact is forgotten only when it is banned or when better ones need its place. A
//! node that lost all its neighbours goes on dialling those it knew, less and less often, because
//! they may be all it has: trackers are soft state and may be gone for good.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::config::SwarmConfig;
use crate::contact::{Contact, Location, PeerRole};
use crate::node_id::NodeId;
use crate::prng::Prng;
use crate::time::{Instant, doubled};
use crate::wire::AnnounceAnswer;

/// The swarm's knowledge of nodes that are not neighbours.
#[derive(Debug)]
pub(super) struct Membership {
    contacts: BTreeMap<NodeId, Contact>,
    /// Contacts in our rack, which are all dialled.
    mates: BTreeMap<NodeId, Contact>,
    dialling: BTreeMap<NodeId, Contact>,
    /// The same for rack mates, so that neither kind of neighbour waits for the other.
    dialling_mates: BTreeMap<NodeId, Contact>,
    /// Contacts of neighbours that were dialled and have not yet said themselves how to reach them.
    reached: BTreeMap<NodeId, Contact>,
    /// Where this node stands.
    here: Location,
    /// Nodes that are neither dialled nor accepted before a moment.
    banned: BTreeMap<NodeId, Instant>,
    /// Nodes that are not dialled again before a moment, because that failed.
    waits: BTreeMap<NodeId, Wait>,
    /// Contacts from an earlier life of this node, until they are needed.
    remembered: Vec<Contact>,
    /// When to fall back on them; `None` once a tracker answered.
    recall_at: Option<Instant>,
    /// The seeder that a tracker last named.
    seeder: Option<Contact>,
    /// The seeder that turned us away: said goodbye before it had said anything else.
    refused_by: Option<NodeId>,
}

/// When a node may be dialled again.
#[derive(Clone, Copy, Debug)]
struct Wait {
    until: Instant,
    /// Dials in a row that led to nothing.
    failures: u32,
}

/// How a neighbour was lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Parting {
    /// The connection broke; it may be back in a moment.
    Lost,
    /// It left, has no place for us, or was dropped because it delivers nothing.
    Left,
}

impl Membership {
    pub(super) fn new(
        now: Instant,
        here: Location,
        remembered: Vec<Contact>,
        recall_wait: Duration,
    ) -> Self {
        Self {
            contacts: BTreeMap::new(),
            mates: BTreeMap::new(),
            dialling: BTreeMap::new(),
            dialling_mates: BTreeMap::new(),
            here,
            reached: BTreeMap::new(),
            banned: BTreeMap::new(),
            waits: BTreeMap::new(),
            recall_at: (!remembered.is_empty()).then_some(now.after(recall_wait)),
            remembered,
            seeder: None,
            refused_by: None,
        }
    }

    /// Remembers a contact. Past the limit it takes the place of the one that failed most often, if
    /// any failed more often than it.
    pub(super) fn learn(&mut self, contact: Contact, config: &SwarmConfig) {
        if self.here.shares_rack_with(contact.location) && contact.role == PeerRole::Host {
            let has_room = self.mates.len() < usize::from(config.near_max);
            if has_room || self.mates.contains_key(&contact.node) {
                self.mates.insert(contact.node, contact);
            }
            return;
        }
        if self.contacts.len() >= config.contacts_max && !self.contacts.contains_key(&contact.node)
        {
            let failures = |node: &NodeId| self.waits.get(node).map_or(0, |wait| wait.failures);
            let worst = self.contacts.keys().max_by_key(|node| failures(node)).copied();
            let Some(worst) = worst.filter(|node| failures(node) > failures(&contact.node)) else {
                return;
            };
            self.contacts.remove(&worst);
        }
        self.contacts.insert(contact.node, contact);
    }

    /// Falls back on contacts from an earlier life if it is time.
    pub(super) fn recall(&mut self, now: Instant, config: &SwarmConfig) {
        if self.recall_at.is_some_and(|at| at <= now) {
            self.recall_at = None;
            for contact in core::mem::take(&mut self.remembered) {
                self.learn(contact, config);
            }
        }
    }

    /// Contacts beyond the neighbours that are worth keeping for a next life.
    pub(super) fn lasting(&self) -> impl Iterator<Item = Contact> {
        let known = self.contacts.values().chain(self.mates.values());
        let dialled = self.dialling.values().chain(self.dialling_mates.values());
        self.seeder.iter().chain(known).chain(dialled).chain(&self.remembered).copied()
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
        let may_dial =
            |node: &&NodeId| !self.dialling.contains_key(*node) && self.may_dial(now, **node);
        let free: Vec<NodeId> = self.contacts.keys().filter(may_dial).copied().collect();
        if free.is_empty() {
            return None;
        }
        let contact = self.contacts.remove(&free[prng.index_below(free.len())])?;
        self.dialling.insert(contact.node, contact);
        Some(contact)
    }

    /// Takes the rack mate to dial next; `None` if there is none that may be dialled now. `count`
    /// of them are neighbours.
    pub(super) fn next_mate(
        &mut self,
        now: Instant,
        (count, config): (usize, &SwarmConfig),
        is_neighbour: impl Fn(NodeId) -> bool,
    ) -> Option<Contact> {
        let missing = usize::from(config.near_max).saturating_sub(count);
        if missing == 0 {
            // Mates beyond those that we may have are contacts like any others.
            let room = config.contacts_max.saturating_sub(self.contacts.len());
            self.contacts.extend(core::mem::take(&mut self.mates).into_iter().take(room));
        }
        if self.dialling_mates.len() >= missing {
            return None;
        }
        self.mates.retain(|node, _| !is_neighbour(*node));
        let may_dial =
            |node: &&NodeId| !self.dialling_mates.contains_key(*node) && self.may_dial(now, **node);
        let mate = self.mates.keys().find(may_dial).copied()?;
        let contact = self.mates.remove(&mate)?;
        self.dialling_mates.insert(mate, contact);
        Some(contact)
    }

    /// The seeder of last resort, to dial, unless it is a neighbour or may not be dialled now.
    pub(super) fn last_resort(
        &mut self,
        now: Instant,
        config: &SwarmConfig,
        is_neighbour: impl Fn(NodeId) -> bool,
    ) -> Option<Contact> {
        let seeder = self.seeder.filter(|_| self.dialling.len() < config.dials_max)?;
        if is_neighbour(seeder.node) || !self.may_dial(now, seeder.node) {
            return None;
        }
        self.dialling.insert(seeder.node, seeder).is_none().then_some(seeder)
    }

    /// When a contact that must wait may be dialled, or those from an earlier life; `None` if none
    /// waits.
    pub(super) fn next_dial_at(&self, now: Instant) -> Option<Instant> {
        let all = self.contacts.keys().chain(self.mates.keys());
        let waits = all.filter_map(|node| self.waits.get(node));
        let waits = waits.map(|wait| wait.until).chain(self.recall_at);
        waits.filter(|until| *until > now).min()
    }

    fn may_dial(&self, now: Instant, node: NodeId) -> bool {
        let is_waiting = self.waits.get(&node).is_some_and(|wait| wait.until > now);
        !is_waiting && !self.is_banned(now, node)
    }

    pub(super) fn dialling_count(&self) -> usize {
        self.dialling.len()
    }

    /// Entries of each table: contacts, dials, waits, bans, rack mates and dials of them.
    pub(super) fn sizes(&self) -> [usize; 6] {
        let far = [self.contacts.len(), self.dialling.len(), self.waits.len(), self.banned.len()];
        let [contacts, dials, waits, bans] = far;
        [contacts, dials, waits, bans, self.mates.len(), self.dialling_mates.len()]
    }

    pub(super) fn note_connected(&mut self, node: NodeId) {
        let dialled = self.take_dialled(node);
        let known = self.contacts.remove(&node).or(self.mates.remove(&node));
        if let Some(contact) = dialled.or(known) {
            self.reached.insert(node, contact);
        }
    }

    /// Notes that a dial ended, and returns whom it was for; `None` if nobody was dialled.
    fn take_dialled(&mut self, node: NodeId) -> Option<Contact> {
        self.dialling.remove(&node).or_else(|| self.dialling_mates.remove(&node))
    }

    /// The neighbour said how it is reached.
    pub(super) fn note_joined(&mut self, node: NodeId) {
        self.reached.remove(&node);
        self.waits.remove(&node);
        self.refused_by = self.refused_by.filter(|refuser| *refuser != node);
    }

    pub(super) fn note_dial_failed(&mut self, now: Instant, node: NodeId, config: &SwarmConfig) {
        let failures = self.waits.get(&node).map_or(0, |wait| wait.failures);
        let until = now.after(doubled(config.dial_retry_min, failures, config.dial_retry_max));
        self.wait(node, Wait { until, failures: failures.saturating_add(1) }, config);
        if let Some(contact) = self.take_dialled(node) {
            self.learn(contact, config);
        }
    }

    /// A neighbour is gone; it is dialled again after a while.
    pub(super) fn note_gone(
        &mut self,
        now: Instant,
        (node, parting): (NodeId, Parting),
        contact: Option<Contact>,
        config: &SwarmConfig,
    ) {
        let reached = self.reached.remove(&node);
        let has_joined = contact.is_some();
        let is_seeder = self.seeder.is_some_and(|seeder| seeder.node == node);
        if !has_joined && parting == Parting::Left && is_seeder {
            self.refused_by = Some(node);
        }
        if has_joined && parting == Parting::Lost {
            self.wait(node, Wait { until: now.after(config.redial_wait), failures: 0 }, config);
        } else {
            self.note_dial_failed(now, node, config);
        }
        if let Some(contact) = contact.or(reached) {
            self.learn(contact, config);
        }
    }

    pub(super) fn ban(&mut self, node: NodeId, until: Instant, config: &SwarmConfig) {
        self.dialling.remove(&node);
        self.dialling_mates.remove(&node);
        self.contacts.remove(&node);
        self.mates.remove(&node);
        self.reached.remove(&node);
        make_room(&mut self.banned, config.bans_max, |until| *until);
        let entry = self.banned.entry(node).or_insert(until);
        *entry = until.max(*entry);
    }

    pub(super) fn is_banned(&self, now: Instant, node: NodeId) -> bool {
        self.banned.get(&node).is_some_and(|until| *until > now)
    }

    fn wait(&mut self, node: NodeId, wait: Wait, config: &SwarmConfig) {
        make_room(&mut self.waits, config.bans_max, |wait| wait.until);
        self.waits.insert(node, wait);
    }

    /// A tracker answered: what it hands out is better than what is remembered.
    pub(super) fn note_answer(&mut self, answer: &AnnounceAnswer, config: &SwarmConfig) {
        self.recall_at = None;
        self.seeder = answer.seeder.or(self.seeder);
        for contact in &answer.contacts {
            self.learn(*contact, config);
        }
    }

    /// No tracker answers: contacts from an earlier life are needed at once.
    pub(super) fn plan_recall(&mut self, now: Instant) {
        if !self.remembered.is_empty() {
            self.recall_at = Some(now);
        }
    }

    /// Whether the seeder that has the build turned us away when it was last reached.
    pub(super) fn is_refused_by_seeder(&self) -> bool {
        self.seeder.is_some_and(|seeder| self.refused_by == Some(seeder.node))
    }

    /// Whether some tracker said that its seeder has the build.
    pub(super) fn knows_seeder(&self) -> bool {
        self.seeder.is_some()
    }
}

/// Past the limit the entry that ends first makes room.
fn make_room<T>(
    table: &mut BTreeMap<NodeId, T>,
    entries_max: usize,
    until: impl Fn(&T) -> Instant,
) {
    if table.len() >= entries_max {
        let first = table.iter().min_by_key(|(_, entry)| until(entry)).map(|(node, _)| *node);
        first.and_then(|node| table.remove(&node));
    }
}
