//! Members of a swarm and how many neighbours each has, in all, per zone and per rack.
//!
//! Draws are random first and balanced second: of a handful of members drawn at random, those with
//! the fewest neighbours are taken. Taking the fewest of all members would hand every newcomer
//! those that came just before it, and turn the graph into a band whose ends are many hops apart.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::TrackerConfig;
use crate::contact::Location;
use crate::node_id::NodeId;
use crate::prng::Prng;

#[derive(Debug)]
pub(super) struct Degrees {
    members: BTreeMap<NodeId, Entry>,
    all: Pool,
    zones: BTreeMap<u64, Pool>,
    /// The members of each rack, cut into groups of rack mates.
    racks: BTreeMap<u64, Vec<Pool>>,
    /// Most members of a group.
    group_max: usize,
    /// Members drawn for each one taken.
    draws_per_pick: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Its neighbours outside its rack.
    degree: usize,
    location: Location,
    /// Which group of its rack it is in; zero if its rack is unknown.
    group: usize,
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
    /// No members.
    pub(super) const fn new(config: &TrackerConfig) -> Self {
        Self {
            members: BTreeMap::new(),
            all: Pool::new(),
            zones: BTreeMap::new(),
            racks: BTreeMap::new(),
            // A host has so many mates and is a member itself.
            group_max: config.mates_max.saturating_add(1),
            draws_per_pick: config.draws_per_pick,
        }
    }

    pub(super) fn insert(&mut self, node: NodeId, location: Location, degree: usize) {
        self.remove(node);
        let group = if location.rack == 0 { 0 } else { self.join_group(node, location.rack) };
        self.members.insert(node, Entry { degree, location, group });
        self.all.insert(node);
        // Label zero is an unknown place, where nobody is near.
        if location.zone != 0 {
            self.zones.entry(location.zone).or_default().insert(node);
        }
    }

    /// Puts a member into the first group of its rack that has room. One that announces
    /// again was taken out just before, so it comes back to its own group unless somebody
    /// left an earlier one.
    fn join_group(&mut self, node: NodeId, rack: u64) -> usize {
        let place = self.racks.get(&rack).map_or(0, |groups| self.free_group(groups));
        let groups = self.racks.entry(rack).or_default();
        if place == groups.len() {
            groups.push(Pool::new());
        }
        groups[place].insert(node);
        place
    }

    pub(super) fn remove(&mut self, node: NodeId) {
        let Some(Entry { location, group, .. }) = self.members.remove(&node) else { return };
        self.all.remove(node);
        remove_from(&mut self.zones, location.zone, node);
        if let Some(groups) = self.racks.get_mut(&location.rack) {
            groups[group].remove(node);
            if groups.iter().all(|group| group.nodes.is_empty()) {
                self.racks.remove(&location.rack);
            }
        }
    }

    /// The member gets one neighbour more.
    pub(super) fn raise(&mut self, node: NodeId) {
        if let Some(entry) = self.members.get_mut(&node) {
            entry.degree += 1;
        }
    }

    /// Where the member stands; `None` if it is none.
    pub(super) fn location_of(&self, node: NodeId) -> Option<Location> {
        self.members.get(&node).map(|entry| entry.location)
    }

    /// Neighbours of the member outside its rack.
    pub(super) fn degree_of(&self, node: NodeId) -> usize {
        self.members.get(&node).map_or(0, |entry| entry.degree)
    }

    /// The rack mates of a newcomer, without those `excluded`: all members of the group into which
    /// it will be put, because mates must know each other.
    pub(super) fn mates_at(&self, rack: u64, excluded: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let Some(groups) = self.racks.get(&rack) else { return Vec::new() };
        let group = groups.get(self.free_group(groups)).into_iter();
        let mates = group.flat_map(|group| &group.nodes).copied();
        mates.filter(|mate| !excluded.contains(mate)).collect()
    }

    fn free_group(&self, groups: &[Pool]) -> usize {
        let free = groups.iter().position(|group| group.nodes.len() < self.group_max);
        free.unwrap_or(groups.len())
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
        let drawn = pool.sample(count * self.draws_per_pick + excluded.len(), prng);
        let degree_of = |node: &NodeId| self.members.get(node).map_or(0, |entry| entry.degree);
        let mut fresh: Vec<NodeId> = drawn
            .into_iter()
            .filter(|node| !excluded.contains(node) && degree_of(node) < degree_max)
            .take(count * self.draws_per_pick)
            .collect();
        // The sort keeps the random order of equals.
        fresh.sort_by_key(degree_of);
        fresh.truncate(count);
        fresh
    }
}

impl Pool {
    const fn new() -> Self {
        Self { nodes: Vec::new(), places: BTreeMap::new() }
    }

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
