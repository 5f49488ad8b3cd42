//! The neighbours of a swarm: what each has, and how well it delivers.
//!
//! Neighbours are few and looked up with every event, so they lie in a row and are found by the first
//! bytes of their names. Invariants: while copies are counted, the count is the sum over the
//! neighbouring hosts' sets; `sources` and `services` are the sums over the neighbours that their
//! comments say.

use core::time::Duration;

use crate::chunk_set::ChunkSet;
use crate::contact::{Contact, Location, PeerRole};
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::pick::Availability;
use crate::prng::Prng;
use crate::time::Instant;

/// What a neighbour is to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// A host of our rack, unless we have enough of them.
    Mate,
    /// Any other host, and every neighbour before its `Join`.
    Stranger,
    Seeder,
}
/// Longest time that a busy seeder is left alone: long enough for a crowd, short enough to take a
/// place in its queue that became free.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Silences that are counted: as many as double the patience with a peer to more than the time after
/// which it is dropped.
const SILENCES_MAX: u8 = 2;

/// Doublings that reach it from the shortest wait.
const BUSY_DOUBLINGS_MAX: u8 = 8;

/// Requests in flight to a peer that has delivered nothing yet. One would leave a link of some
/// length idle between its first two chunks.
const FIRST_REQUESTS_MAX: u16 = 2;

/// One neighbour.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Peer {
    pub(super) node: NodeId,
    /// What its `Join` said; `None` until that came.
    pub(super) contact: Option<Box<Contact>>,
    /// What it has; `None` until it told, or while it does not know the manifest.
    pub(super) have: Option<ChunkSet>,
    /// How many of the chunks that wait to be offered it knows of already.
    pub(super) offers_sent: usize,
    /// Requests in flight to it.
    pub(super) requests: u16,
    /// It is not asked before this moment: it said that it is busy.
    pub(super) busy_until: Instant,
    /// It set that moment itself, with `Busy`.
    asked_for_patience: bool,
    /// How often in a row it was busy, each counted when it was asked again.
    busy_streak: u8,
    /// Requests in a row that it did not answer with a single byte.
    silences: u8,
    /// What a request to it usually takes, waiting included; `None` before its first chunk.
    service: Option<Duration>,
    /// It has a request that is late, or had one and delivered nothing in time since. Then it may
    /// not have what it offers, and what it offers does not count as copies.
    is_slow: bool,
    /// It had nothing to ask for when last looked at, and nothing changed that since.
    pub(super) is_dry: bool,
    /// It said that it has nothing to send, and was not asked since.
    pub(super) is_ready: bool,
    /// Which of all uploads was the last one to it; zero before the first.
    pub(super) served_at: u64,
    /// As its `Join` says.
    kind: Kind,
    /// It said that it lacks the manifest, or broke off sending it; not asked again before this.
    pub(super) manifest_after: Instant,
    /// When it last told of a chunk that we did not send it; when it came, before that.
    pub(super) fed_at: Instant,
}

impl Peer {
    fn new(now: Instant, node: NodeId) -> Self {
        Self {
            node,
            contact: None,
            have: None,
            offers_sent: 0,
            requests: 0,
            busy_until: now,
            asked_for_patience: false,
            busy_streak: 0,
            silences: 0,
            service: None,
            is_slow: false,
            is_dry: false,
            is_ready: false,
            served_at: 0,
            kind: Kind::Stranger,
            manifest_after: now,
            fed_at: now,
        }
    }

    pub(super) fn is_seeder(&self) -> bool {
        self.kind == Kind::Seeder
    }

    /// Whether it is a host of our rack, one of those with which we bring chunks into it.
    pub(super) fn is_near(&self) -> bool {
        self.kind == Kind::Mate
    }

    /// What a request to it usually takes, waiting included; `None` before its first chunk.
    pub(super) const fn service(&self) -> Option<Duration> {
        self.service
    }

    /// Requests in a row that it did not answer with a single byte, up to a limit.
    pub(super) const fn silences(&self) -> u8 {
        self.silences
    }

    /// Whether it may be asked for one more chunk.
    pub(super) fn has_slot(&self, now: Instant, window: u16) -> bool {
        let window = if self.is_slow || self.busy_streak > 0 {
            1
        } else if self.service.is_none() {
            // Everybody who is new asks a seeder, and nobody knows yet how many they are; a host
            // that has delivered nothing may have nothing.
            window.min(FIRST_REQUESTS_MAX)
        } else {
            window
        };
        self.requests < window && self.busy_until <= now
    }

    /// It has no place for a request. A seeder, whom everybody asks at once when a build is new, is
    /// asked half as often each time; hosts are not, because their queues are short and turn over.
    fn note_busy(&mut self, now: Instant, wait: Duration) {
        if !self.is_seeder() {
            self.busy_until = now.after(wait);
        } else if self.busy_until <= now {
            // Several requests refused at once are one refusal.
            let doubled = wait.saturating_mul(1 << self.busy_streak.min(BUSY_DOUBLINGS_MAX));
            self.busy_until = now.after(doubled.min(BUSY_WAIT_MAX));
            self.busy_streak = self.busy_streak.saturating_add(1);
        }
    }

    /// It says that it has nothing to send. That ends the patience that a seeder asked for: it kept
    /// back what was on its way to others, and a part of that may never have come there, so that
    /// nobody but the seeder has it.
    pub(super) fn note_ready(&mut self, now: Instant) {
        self.is_ready = true;
        if self.is_seeder() && self.asked_for_patience {
            self.busy_until = self.busy_until.min(now);
        }
    }

    /// Whether it has chunks to give.
    fn is_source(&self) -> bool {
        self.have.as_ref().is_some_and(|have| !have.is_empty())
    }

    /// Whether it has a request that is late, or had one and delivered nothing in time since.
    pub(super) const fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Whether its chunks count as copies: those of hosts that deliver.
    fn is_counted(&self) -> bool {
        !self.is_seeder() && !self.is_slow
    }

    /// One host and its chunks; nothing for one that is not counted, or before it told.
    fn holdings(&self) -> (u64, u64) {
        self.counted_have().map_or((0, 0), |have| (1, u64::from(have.count())))
    }

    /// The chunks that count as copies.
    fn counted_have(&self) -> Option<&ChunkSet> {
        self.have.as_ref().filter(|_| self.is_counted())
    }

    /// The chunks that count as copies in our rack.
    fn near_have(&self) -> Option<&ChunkSet> {
        self.counted_have().filter(|_| self.is_near())
    }
}

/// All neighbours.
#[derive(Debug)]
pub(super) struct PeerTable {
    /// The first bytes of each neighbour's name.
    keys: Vec<u64>,
    /// In the same order as `keys`.
    peers: Vec<Peer>,
    /// What neighbouring hosts have; counted only while chunks are missing.
    copies: Option<Availability>,
    /// Neighbours that have chunks to give.
    sources: usize,
    /// Neighbours that delivered something, and the sum of their usual times.
    services: (u32, Duration),
    /// Neighbouring hosts that told what they have, and the sum of their chunks.
    holdings: (u64, u64),
    /// No later than the first moment at which a busy neighbour may be asked again.
    busy_until: Option<Instant>,
    /// Where we stand.
    location: Location,
    /// Hosts of our rack among the neighbours.
    near_count: usize,
    /// Most of them; more are treated as if they stood elsewhere.
    near_max: usize,
    /// What they have; counted only while chunks are missing and if we know our rack.
    near_copies: Option<Availability>,
}

/// How many chunks fewer than its neighbours a node must have to count as behind; a difference of
/// one batch of offers says nothing.
const BEHIND_MIN: u64 = 2;

fn more(sum: (u64, u64), part: (u64, u64)) -> (u64, u64) {
    (sum.0 + part.0, sum.1 + part.1)
}

fn less(sum: (u64, u64), part: (u64, u64)) -> (u64, u64) {
    (sum.0 - part.0, sum.1 - part.1)
}

fn key_of(node: NodeId) -> u64 {
    let mut head = [0; 8];
    head.copy_from_slice(&node.as_bytes()[..8]);
    u64::from_le_bytes(head)
}

impl PeerTable {
    /// No neighbours, of a node that stands there.
    pub(super) const fn new(location: Location, near_max: u16) -> Self {
        Self {
            keys: Vec::new(),
            peers: Vec::new(),
            copies: None,
            sources: 0,
            holdings: (0, 0),
            services: (0, Duration::ZERO),
            busy_until: None,
            location,
            near_count: 0,
            near_max: near_max as usize,
            near_copies: None,
        }
    }

    /// Neighbours that are hosts of our rack.
    pub(super) const fn near_count(&self) -> usize {
        self.near_count
    }

    /// The copies at hosts of our rack; `None` while they are not counted, or without a rack.
    pub(super) const fn near_copies(&self) -> Option<&Availability> {
        self.near_copies.as_ref()
    }

    pub(super) const fn len(&self) -> usize {
        self.peers.len()
    }

    fn place_of(&self, node: NodeId) -> Option<usize> {
        let key = key_of(node);
        let same = self.keys.iter().enumerate().filter(|(_, other)| **other == key);
        same.map(|(place, _)| place).find(|place| self.peers[*place].node == node)
    }

    pub(super) fn contains(&self, node: NodeId) -> bool {
        self.place_of(node).is_some()
    }

    pub(super) fn add(&mut self, now: Instant, node: NodeId) {
        self.keys.push(key_of(node));
        self.peers.push(Peer::new(now, node));
    }

    /// Forgets a neighbour; whether it was one.
    pub(super) fn remove(&mut self, node: NodeId) -> bool {
        let Some(place) = self.place_of(node) else { return false };
        self.keys.swap_remove(place);
        let peer = self.peers.swap_remove(place);
        if let (Some(copies), Some(have)) = (&mut self.copies, peer.counted_have()) {
            copies.remove_host(have);
        }
        if let (Some(copies), Some(have)) = (&mut self.near_copies, peer.near_have()) {
            copies.remove_host(have);
        }
        self.near_count -= usize::from(peer.is_near());
        self.sources -= usize::from(peer.is_source());
        self.holdings = less(self.holdings, peer.holdings());
        if let Some(service) = peer.service {
            self.services = (self.services.0 - 1, self.services.1.saturating_sub(service));
        }
        true
    }

    /// A neighbour told what it is and what it has; replaces what it told before.
    pub(super) fn set_have(&mut self, node: NodeId, contact: Box<Contact>, have: Option<ChunkSet>) {
        let Some(place) = self.place_of(node) else { return };
        let peer = &mut self.peers[place];
        if let (Some(copies), Some(old)) = (&mut self.copies, peer.counted_have()) {
            copies.remove_host(old);
        }
        if let (Some(copies), Some(old)) = (&mut self.near_copies, peer.near_have()) {
            copies.remove_host(old);
        }
        self.near_count -= usize::from(peer.is_near());
        self.sources -= usize::from(peer.is_source());
        self.holdings = less(self.holdings, peer.holdings());
        let shares_rack = self.location.shares_rack_with(contact.location);
        peer.kind = match contact.role {
            PeerRole::Seeder => Kind::Seeder,
            PeerRole::Host if shares_rack && self.near_count < self.near_max => Kind::Mate,
            PeerRole::Host => Kind::Stranger,
        };
        (peer.contact, peer.have) = (Some(contact), have);
        peer.is_dry = false;
        self.sources += usize::from(peer.is_source());
        self.near_count += usize::from(peer.is_near());
        self.holdings = more(self.holdings, peer.holdings());
        if let (Some(copies), Some(new)) = (&mut self.copies, peer.counted_have()) {
            copies.add_host(new);
        }
        if let (Some(copies), Some(new)) = (&mut self.near_copies, peer.near_have()) {
            copies.add_host(new);
        }
    }

    /// A neighbour has chunks; whether one of them is new. Those that its build does not have are
    /// ignored.
    pub(super) fn note_has(
        &mut self,
        node: NodeId,
        chunks: impl Iterator<Item = ChunkIndex>,
    ) -> bool {
        let Some(place) = self.place_of(node) else { return false };
        let peer = &mut self.peers[place];
        let before = peer.holdings();
        let (was_source, is_counted) = (peer.is_source(), peer.is_counted());
        let is_near = peer.is_near() && is_counted;
        let Some(have) = peer.have.as_mut() else { return false };
        let (capacity, count_before) = (have.capacity(), have.count());
        for chunk in chunks.filter(|chunk| chunk.get() < capacity) {
            if !have.contains(chunk) {
                if let Some(copies) = self.copies.as_mut().filter(|_| is_counted) {
                    copies.note_offer(have, chunk);
                }
                if let Some(copies) = self.near_copies.as_mut().filter(|_| is_near) {
                    copies.note_offer(have, chunk);
                }
                have.insert(chunk);
            }
        }
        let is_new = have.count() > count_before;
        self.sources += usize::from(!was_source && peer.is_source());
        self.holdings = more(less(self.holdings, before), peer.holdings());
        is_new
    }

    /// Whether `own` chunks are fewer than the neighbouring hosts have on average.
    pub(super) fn is_behind(&self, own: u32) -> bool {
        let (hosts, chunks) = self.holdings;
        (u64::from(own) + BEHIND_MIN) * hosts < chunks
    }

    /// A random neighbouring host that lacks some chunk of `have`; `None` if all have all of it.
    pub(super) fn draw_lacking(&self, have: &ChunkSet, prng: &mut Prng) -> Option<NodeId> {
        let start = prng.index_below(self.peers.len().max(1));
        let lacks = |peer: &&Peer| {
            let mut theirs = peer.have.iter().filter(|_| !peer.is_seeder());
            theirs.any(|theirs| {
                let is_same_build = theirs.capacity() == have.capacity();
                is_same_build && have.iter_without(theirs).next().is_some()
            })
        };
        let (before, after) = self.peers.split_at(start);
        after.iter().chain(before).find(lacks).map(|peer| peer.node)
    }

    /// Whatever left neighbours without anything to ask for may have changed.
    pub(super) fn forget_dryness(&mut self) {
        self.peers.iter_mut().for_each(|peer| peer.is_dry = false);
    }

    /// The chunk may be asked for again, of whoever has it.
    pub(super) fn note_wanted(&mut self, chunk: ChunkIndex) {
        for peer in &mut self.peers {
            let mut have = peer.have.iter();
            peer.is_dry &= !have.any(|have| chunk.get() < have.capacity() && have.contains(chunk));
        }
    }

    /// Counts from here on which of `chunk_count` chunks the neighbouring hosts have.
    pub(super) fn start_counting(&mut self, chunk_count: u32) {
        let mut copies = Availability::new(chunk_count);
        for have in self.peers.iter().filter_map(Peer::counted_have) {
            // Sets of another size are about to be found out as lies.
            if have.capacity() == chunk_count {
                copies.add_host(have);
            }
        }
        self.copies = Some(copies);
        self.near_copies = (self.location.rack != 0).then(|| {
            let mut copies = Availability::new(chunk_count);
            let near = self.peers.iter().filter_map(Peer::near_have);
            near.filter(|have| have.capacity() == chunk_count)
                .for_each(|have| copies.add_host(have));
            copies
        });
    }

    pub(super) fn stop_counting(&mut self) {
        self.copies = None;
        self.near_copies = None;
    }

    /// The copies at neighbouring hosts; `None` while they are not counted.
    pub(super) const fn copies(&self) -> Option<&Availability> {
        self.copies.as_ref()
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Peer> {
        self.place_of(node).map(|place| &self.peers[place])
    }

    pub(super) fn get_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.place_of(node).map(|place| &mut self.peers[place])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.peers.iter_mut()
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.peers.iter().map(|peer| peer.node).collect()
    }

    /// A neighbour has no place for a request and asks for patience.
    pub(super) fn note_busy(&mut self, now: Instant, node: NodeId, wait: Duration) {
        self.put_off(now, node, wait, true);
    }

    /// A neighbour could not answer a request: it gets a moment for whatever broke.
    pub(super) fn note_failed(&mut self, now: Instant, node: NodeId, wait: Duration) {
        self.put_off(now, node, wait, false);
    }

    fn put_off(&mut self, now: Instant, node: NodeId, wait: Duration, asked_for_patience: bool) {
        if let Some(place) = self.place_of(node) {
            self.peers[place].note_busy(now, wait);
            self.peers[place].asked_for_patience = asked_for_patience;
            let until = self.peers[place].busy_until;
            self.busy_until = Some(self.busy_until.map_or(until, |first| first.min(until)));
        }
    }

    /// No later than the first moment at which a busy neighbour may be asked again.
    pub(super) const fn busy_until(&self) -> Option<Instant> {
        self.busy_until
    }

    /// Looks who is still busy.
    pub(super) fn check_busy(&mut self, now: Instant) {
        if self.busy_until.is_some_and(|first| first <= now) {
            let still = self.peers.iter().map(|peer| peer.busy_until).filter(|until| *until > now);
            self.busy_until = still.min();
        }
    }

    /// Whom to ask for a chunk that those who were `asked` are late with: a host if one has it, the
    /// one with the least to do. With `only_near` none but rack mates are asked.
    pub(super) fn second_source(
        &self,
        now: Instant,
        chunk: ChunkIndex,
        (asked, only_near): (&[NodeId], bool),
        window: u16,
    ) -> Option<NodeId> {
        let can_send = |peer: &Peer| {
            let has = peer.have.as_ref().is_some_and(|have| have.contains(chunk));
            has && (peer.is_near() || !only_near) && peer.has_slot(now, window)
        };
        self.iter()
            .filter(|peer| !asked.contains(&peer.node) && can_send(peer))
            .min_by_key(|peer| (peer.is_slow, peer.is_seeder(), !peer.is_near(), peer.requests))
            .map(|peer| peer.node)
    }

    /// Whether a neighbour has a chunk that is not in `have`, or knows the manifest while `have` is
    /// of a build whose manifest is not known here.
    pub(super) fn has_something_beyond(&self, have: &ChunkSet) -> bool {
        let mut theirs = self.peers.iter().filter_map(|peer| peer.have.as_ref());
        theirs.any(|theirs| {
            let is_other = theirs.capacity() != have.capacity();
            is_other || theirs.iter_without(have).next().is_some()
        })
    }

    /// Neighbours that have chunks to give.
    pub(super) const fn source_count(&self) -> usize {
        self.sources
    }

    /// A neighbour delivered a chunk after `took`. An eighth of the weight goes to the newest.
    pub(super) fn note_delivery(&mut self, node: NodeId, took: Duration, was_late: bool) {
        self.set_slow(node, was_late);
        let Some(place) = self.place_of(node) else { return };
        let peer = &mut self.peers[place];
        peer.busy_streak = 0;
        peer.silences = 0;
        let (count, sum) = self.services;
        let (count, rest) = match peer.service {
            Some(average) => (count, sum.saturating_sub(average)),
            None => (count + 1, sum),
        };
        let average = peer.service.map_or(took, |average| (average * 7 + took) / 8);
        peer.service = Some(average);
        self.services = (count, rest + average);
    }

    /// A request to a neighbour is late.
    pub(super) fn note_slow(&mut self, node: NodeId) {
        self.set_slow(node, true);
    }

    /// A neighbour did not answer a request with a single byte; others are asked for a while.
    pub(super) fn note_silent(&mut self, now: Instant, node: NodeId) {
        self.set_slow(node, true);
        if let Some(peer) = self.get_mut(node) {
            let wait = BUSY_WAIT_MAX * (1 << peer.silences);
            peer.silences = (peer.silences + 1).min(SILENCES_MAX);
            let until = now.after(wait);
            peer.busy_until = until;
            self.busy_until = Some(self.busy_until.map_or(until, |first| first.min(until)));
        }
    }

    fn set_slow(&mut self, node: NodeId, is_slow: bool) {
        let Some(place) = self.place_of(node) else { return };
        let peer = &mut self.peers[place];
        let before = peer.holdings();
        if core::mem::replace(&mut peer.is_slow, is_slow) == is_slow || peer.is_seeder() {
            return;
        }
        self.holdings = more(less(self.holdings, before), peer.holdings());
        let near_copies = self.near_copies.as_mut().filter(|_| peer.is_near());
        for copies in self.copies.iter_mut().chain(near_copies) {
            match &peer.have {
                Some(have) if is_slow => copies.remove_host(have),
                Some(have) => copies.add_host(have),
                None => {}
            }
        }
        if is_slow {
            // What only it has may be asked of a seeder now, or outside the rack.
            self.forget_dryness();
        }
    }

    /// What a request usually takes, over all neighbours that delivered; `None` before the first.
    pub(super) fn usual_service(&self) -> Option<Duration> {
        let (count, sum) = self.services;
        (count > 0).then(|| sum / count)
    }

    /// Whether the sums agree with the neighbours. For assertions: it looks at all of them.
    pub(super) fn is_consistent(&self) -> bool {
        let services = self.peers.iter().filter_map(|peer| peer.service);
        let keys = self.peers.iter().map(|peer| key_of(peer.node));
        let holdings = self.peers.iter().map(Peer::holdings).fold((0, 0), more);
        let near_count = self.peers.iter().filter(|peer| peer.is_near()).count();
        holdings == self.holdings
            && self.near_count == near_count
            && self.sources == self.peers.iter().filter(|peer| peer.is_source()).count()
            && self.services.1 == services.sum()
            && keys.eq(self.keys.iter().copied())
    }
}
