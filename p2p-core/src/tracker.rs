//! Who should know whom: hands out neighbours so that the swarm's graph is random and balanced.
//!
//! Of a few members drawn at random, those with few neighbours are handed out: an unbalanced graph
//! costs the median host nothing, but it costs the last one. Two thirds of what a node gets is in
//! its zone. Besides, it gets all hosts of its rack, or of its part of a large rack. All of it is
//! soft state, rebuilt from announces; a tracker may be killed at any time.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::TrackerConfig;
use crate::contact::{Contact, PeerRole};
use crate::digest::BuildId;
use crate::node_id::NodeId;
use crate::prng::{Prng, Seed};
use crate::time::Instant;
use crate::wire::{Announce, AnnounceAnswer};

use self::degrees::{Degrees, Near};

mod degrees;

/// The trackers of many builds in one process.
#[derive(Debug)]
pub struct TrackerTable {
    config: TrackerConfig,
    trackers: BTreeMap<BuildId, Tracker>,
    prng: Prng,
}

impl TrackerTable {
    /// A table without swarms.
    pub fn new(config: TrackerConfig, seed: Seed) -> Self {
        Self { config, trackers: BTreeMap::new(), prng: Prng::from_seed(seed) }
    }

    /// Answers an announce, and remembers its sender as a member of the swarm.
    ///
    /// Past the limit on swarms the answer is empty: a stranger who names builds that do not exist
    /// must not make the tracker forget those that do.
    pub fn answer(&mut self, now: Instant, announce: &Announce) -> AnnounceAnswer {
        if !self.trackers.contains_key(&announce.build) {
            if self.trackers.len() >= self.config.swarms_max {
                self.trackers.retain(|_, tracker| !tracker.is_empty(now));
            }
            if self.trackers.len() >= self.config.swarms_max {
                let interval_ms = millis(self.config.interval_min);
                return AnnounceAnswer { contacts: Vec::new(), interval_ms, seeder: None };
            }
            let seed = Seed::from_u64(self.prng.next_u64());
            let tracker = Tracker::new(self.config.clone(), seed);
            self.trackers.insert(announce.build, tracker);
        }
        let tracker = self.trackers.get_mut(&announce.build).expect("inserted above");
        tracker.answer(now, announce)
    }
}

/// The members of one swarm.
#[derive(Debug)]
struct Tracker {
    config: TrackerConfig,
    members: BTreeMap<NodeId, Member>,
    degrees: Degrees,
    /// Members that are seeders and have the build.
    seeders: BTreeSet<NodeId>,
    /// How many hosts of each rack know the seeder, or had it handed out since it last announced.
    seeded: BTreeMap<u64, u32>,
    /// When each member is forgotten unless it announces again.
    expiries: BTreeSet<(Instant, NodeId)>,
    prng: Prng,
}

#[derive(Debug)]
struct Member {
    contact: Contact,
    expires_at: Instant,
}

impl Tracker {
    /// A swarm without members.
    fn new(config: TrackerConfig, seed: Seed) -> Self {
        Self {
            members: BTreeMap::new(),
            degrees: Degrees::new(&config),
            config,
            seeders: BTreeSet::new(),
            seeded: BTreeMap::new(),
            expiries: BTreeSet::new(),
            prng: Prng::from_seed(seed),
        }
    }

    /// Answers an announce, and remembers its sender as a member, as far as the limit allows.
    fn answer(&mut self, now: Instant, announce: &Announce) -> AnnounceAnswer {
        self.forget_silent(now);
        let node = announce.contact.node;
        let is_new = !self.remove(node);
        if announce.is_leaving {
            return AnnounceAnswer { contacts: Vec::new(), interval_ms: 0, seeder: None };
        }
        // Those who come later will be given this newcomer. With all it wants at once, every member
        // would end with twice as many neighbours as it looks for.
        let wanted = if is_new { announce.wanted.div_ceil(2) } else { announce.wanted };
        let contacts = self.choose_for(announce, usize::from(wanted));
        let here = announce.contact.location;
        let is_far = |contact: &&Contact| !here.shares_rack_with(contact.location);
        for contact in contacts.iter().filter(is_far) {
            self.degrees.raise(contact.node);
        }
        let interval = self.interval();
        if self.members.len() < self.config.members_max {
            let expires_at = now.after(interval * self.config.intervals_missed_max);
            self.expiries.insert((expires_at, node));
            if announce.is_complete && announce.contact.role == PeerRole::Seeder {
                self.seeders.insert(node);
            }
            self.members.insert(node, Member { contact: announce.contact, expires_at });
            let is_mate = |node: &NodeId| {
                let place = self.degrees.location_of(*node);
                place.is_some_and(|place| here.shares_rack_with(place))
            };
            let known = announce.neighbours.iter().filter(|node| !is_mate(node)).count();
            let degree = known + contacts.iter().filter(is_far).count();
            self.degrees.insert(node, here, degree);
            self.count_seeded(announce);
        }
        AnnounceAnswer { contacts, interval_ms: millis(interval), seeder: self.seeder() }
    }

    fn is_empty(&mut self, now: Instant) -> bool {
        self.forget_silent(now);
        self.members.is_empty()
    }

    /// Neighbours for the sender: the rack mates that it lacks, and `wanted` others, two thirds of
    /// them in its zone, drawn at random from those with few neighbours.
    fn choose_for(&mut self, announce: &Announce, wanted: usize) -> Vec<Contact> {
        let wanted = wanted.min(self.config.contacts_max);
        let mut excluded: BTreeSet<NodeId> = announce.neighbours.iter().copied().collect();
        let mut chosen: Vec<NodeId> = Vec::with_capacity(wanted);
        let at = announce.contact.location;
        let degree_max = usize::from(self.config.degree_max);
        if at.rack != 0 {
            chosen.extend(self.seeder_for(at.rack, &excluded).filter(|_| wanted > 0));
            // Drawn like others, seeders would become neighbours of the first racks only.
            excluded.extend(&self.seeders);
        }
        let mates = if announce.is_complete {
            Vec::new()
        } else {
            self.degrees.mates_at(at.rack, &excluded)
        };
        excluded.extend(&mates);
        let near = wanted * 2 / 3;
        if let Some(seeder) = self.seeders.first().copied().filter(|_| at.rack == 0) {
            let is_new = excluded.insert(seeder) && wanted > 0;
            let members = u64::try_from(self.members.len()).unwrap_or(u64::MAX).saturating_add(1);
            if is_new && self.prng.below(members) < u64::from(self.config.seeder_draws) {
                chosen.push(seeder);
            }
        }
        for (source, limit) in [(Near::Zone, near), (Near::Anywhere, wanted)] {
            let count = limit.saturating_sub(chosen.len());
            let from = (source, at, count);
            let drawn = self.degrees.draw(from, degree_max, &excluded, &mut self.prng);
            excluded.extend(&drawn);
            chosen.extend(drawn);
        }
        let members = chosen.iter().chain(&mates).filter_map(|node| self.members.get(node));
        members.map(|member| member.contact).collect()
    }

    /// The seeder, for the first hosts of each rack only: so it feeds all racks alike.
    fn seeder_for(&mut self, rack: u64, known: &BTreeSet<NodeId>) -> Option<NodeId> {
        let seeder = *self.seeders.first()?;
        let is_full = self.degrees.degree_of(seeder) >= self.config.seeder_degree_max.into();
        let seeded = self.seeded.get(&rack).copied().unwrap_or(0);
        if is_full || seeded >= self.config.seeded_per_rack || known.contains(&seeder) {
            return None;
        }
        self.seeded.insert(rack, seeded + 1);
        Some(seeder)
    }

    /// Counts anew how many hosts of each rack know the seeder, from its own account.
    fn count_seeded(&mut self, announce: &Announce) {
        if self.seeders.first() != Some(&announce.contact.node) {
            return;
        }
        self.seeded.clear();
        let places = announce.neighbours.iter().filter_map(|node| self.degrees.location_of(*node));
        for rack in places.map(|place| place.rack).filter(|rack| *rack != 0) {
            *self.seeded.entry(rack).or_insert(0) += 1;
        }
    }

    /// A seeder that has the build, if one is a member; any of them, so that they share the work.
    fn seeder(&mut self) -> Option<Contact> {
        let place = match self.seeders.len() {
            0 => return None,
            1 => 0,
            many => self.prng.index_below(many),
        };
        let seeder = self.seeders.iter().nth(place)?;
        self.members.get(seeder).map(|member| member.contact)
    }

    /// Grows with the swarm, so that the tracker answers a bounded rate.
    fn interval(&self) -> core::time::Duration {
        let members = u64::try_from(self.members.len() + 1).unwrap_or(u64::MAX);
        let nanos =
            members.saturating_mul(1_000_000_000) / u64::from(self.config.announces_per_second);
        self.config.interval_min.max(core::time::Duration::from_nanos(nanos))
    }

    /// Forgets a member. Returns whether it was one.
    fn remove(&mut self, node: NodeId) -> bool {
        let Some(member) = self.members.remove(&node) else { return false };
        self.expiries.remove(&(member.expires_at, node));
        self.degrees.remove(node);
        self.seeders.remove(&node);
        true
    }

    fn forget_silent(&mut self, now: Instant) {
        while let Some((expires_at, node)) = self.expiries.first().copied() {
            if expires_at > now {
                return;
            }
            self.remove(node);
        }
    }
}

fn millis(span: core::time::Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}
