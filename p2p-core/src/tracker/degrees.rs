//! Members of a swarm and how many neighbours each has, over all, per zone and per rack.
//!
//! Draws are random first and balanced second: of a handful of members drawn at random, those with
//! the fewest neighbours are taken. Taking the fewest of all members would hand every newcomer those
//! that came just before it, and make of the graph a band whose ends are many hops apart.

use std::collections::{BTreeMap, BTreeSet};

use crate::contact::Location;
use crate::node_id::NodeId;
use crate::prng::Prng;

/// Members drawn for each one taken. Two already balance well; more pull towards the newest members,
/// which have the fewest neighbours.
const DRAWS_PER_PICK: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Degrees {
    members: BTreeMap<NodeId, Entry>,
    all: Pool,
    zones: BTreeMap<u64, Pool>,
    racks: BTreeMap<u64, Pool>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    degree: usize,
    location: Location,
}

/// A set that can be drawn from.
#[derive(Debug, Default)]
struct Pool {
    nodes: Vec<NodeId>,
    places: BTreeMap<NodeId, usize>,
}

/// Which members are drawn from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Near {
    Zone,
    Anywhere,
}

impl Degrees {
    pub(super) fn insert(&mut self, node: NodeId, location: Location, degree: usize) {
        self.remove(node);
        self.members.insert(node, Entry { degree, location });
        self.all.insert(node);
        // Label zero is an unknown place, where nobody is near.
        if location.zone != 0 {
            self.zones.entry(location.zone).or_default().insert(node);
        }
        if location.rack != 0 {
            self.racks.entry(location.rack).or_default().insert(node);
        }
    }

    pub(super) fn remove(&mut self, node: NodeId) {
        let Some(Entry { location, .. }) = self.members.remove(&node) else { return };
        self.all.remove(node);
        remove_from(&mut self.zones, location.zone, node);
        remove_from(&mut self.racks, location.rack, node);
    }

    /// The member gets one neighbour more.
    pub(super) fn raise(&mut self, node: NodeId) {
        if let Some(entry) = self.members.get_mut(&node) {
            entry.degree += 1;
        }
    }

    /// Whether the member stands in the rack of `at`.
    pub(super) fn is_at(&self, at: Location, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(|entry| at.shares_rack_with(entry.location))
    }

    /// Members in the rack of `at`, at most as many as make `count` with those `excluded`.
    pub(super) fn mates(
        &self,
        at: Location,
        count: usize,
        excluded: &BTreeSet<NodeId>,
        prng: &mut Prng,
    ) -> Vec<NodeId> {
        let Some(pool) = self.racks.get(&at.rack) else { return Vec::new() };
        let known = excluded.iter().filter(|node| self.is_at(at, **node)).count();
        let mut mates = pool.sample(count, prng);
        mates.retain(|node| !excluded.contains(node));
        mates.truncate(count.saturating_sub(known));
        mates
    }

    /// At most `count` members near `at` with fewer than `degree_max` neighbours, none of them
    /// among the `excluded`.
    ///
    /// # Cost
    ///
    /// Does not grow with the number of members, only with `count` and the `excluded`.
    pub(super) fn draw(
        &self,
        (near, at, count): (Near, Location, usize),
        degree_max: usize,
        excluded: &BTreeSet<NodeId>,
        prng: &mut Prng,
    ) -> Vec<NodeId> {
        let pool = match near {
            Near::Zone => self.zones.get(&at.zone),
            Near::Anywhere => Some(&self.all),
        };
        let Some(pool) = pool.filter(|_| count > 0) else { return Vec::new() };
        let drawn = pool.sample(count * DRAWS_PER_PICK + excluded.len(), prng);
        let degree_of = |node: &NodeId| self.members.get(node).map_or(0, |entry| entry.degree);
        let mut fresh: Vec<NodeId> = drawn
            .into_iter()
            .filter(|node| !excluded.contains(node) && degree_of(node) < degree_max)
            .take(count * DRAWS_PER_PICK)
            .collect();
        // The sort keeps the random order of equals.
        fresh.sort_by_key(degree_of);
        fresh.truncate(count);
        fresh
    }
}

impl Pool {
    fn insert(&mut self, node: NodeId) {
        self.places.insert(node, self.nodes.len());
        self.nodes.push(node);
    }

    fn remove(&mut self, node: NodeId) {
        let Some(place) = self.places.remove(&node) else { return };
        self.nodes.swap_remove(place);
        if let Some(moved) = self.nodes.get(place) {
            self.places.insert(*moved, place);
        }
    }

    /// Distinct members in random order, at most `count`.
    fn sample(&self, count: usize, prng: &mut Prng) -> Vec<NodeId> {
        if self.nodes.len() <= 2 * count {
            let mut nodes = self.nodes.clone();
            prng.shuffle(&mut nodes);
            nodes.truncate(count);
            return nodes;
        }
        // More than half of the draws are new, so this ends after a few times `count` draws.
        let mut seen = BTreeSet::new();
        let mut nodes = Vec::with_capacity(count);
        while nodes.len() < count {
            let node = self.nodes[prng.index_below(self.nodes.len())];
            if seen.insert(node) {
                nodes.push(node);
            }
        }
        nodes
    }
}

fn remove_from(groups: &mut BTreeMap<u64, Pool>, label: u64, node: NodeId) {
    if let Some(group) = groups.get_mut(&label) {
        group.remove(node);
        if group.nodes.is_empty() {
            groups.remove(&label);
        }
    }
}
