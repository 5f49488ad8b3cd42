//! The neighbours of a swarm: what each has, and how well it delivers.
//!
//! Neighbours are few and looked up with every event, so they lie in a row and are found by the
//! first bytes of their names. Invariant: each sum in [`PeerTable`] is taken over the neighbours
//! that its comment names, and copies, while they are counted, are those that neighbouring hosts
//! have.

use core::time::Duration;

use crate::chunk_set::ChunkSet;
use crate::config::SwarmConfig;
use crate::contact::{Contact, Location, PeerRole};
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::pick::Availability;
use crate::prng::Prng;
use crate::time::{Instant, doubled, smoothed};

use super::hearsay::Hearsay;

/// What a neighbour is to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// A rack mate: a host of our rack, as far as `near_max` allows.
    Mate,
    /// Any other host, and every neighbour before its `Join`.
    Stranger,
    Seeder,
}

/// One neighbour.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Peer {
    pub(super) node: NodeId,
    /// What its `Join` said; `None` until that came.
    pub(super) contact: Option<Box<Contact>>,
    /// What it has; `None` until it has said so, or while it or we do not know the manifest.
    pub(super) have: Option<ChunkSet>,
    /// What it says that it has, while we do not know the manifest and cannot tell.
    pub(super) hearsay: Option<Hearsay>,
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
    /// A request to it is late, or one was late and it has delivered nothing in time since. It may
    /// not have what it offers, so its chunks do not count as copies.
    is_slow: bool,
    /// It may have a chunk for us: at the last look it had one, or something has changed since.
    pub(super) is_interesting: bool,
    /// It said that it has nothing to send, and was not asked since.
    pub(super) is_ready: bool,
    /// The number of the last upload to it, among all uploads; zero before the first.
    pub(super) served_at: u64,
    /// As its `Join` says.
    kind: Kind,
    /// It said that it lacks the manifest, or broke off sending it; not asked again before this.
    pub(super) manifest_after: Instant,
    /// It was asked for the manifest and did not answer.
    pub(super) kept_manifest: bool,
    /// When it last offered a chunk that we did not send it; before that, when it connected.
    pub(super) fed_at: Instant,
}

impl Peer {
    fn new(now: Instant, node: NodeId) -> Self {
        Self {
            node,
            contact: None,
            have: None,
            hearsay: None,
            offers_sent: 0,
            requests: 0,
            busy_until: now,
            asked_for_patience: false,
            busy_streak: 0,
            silences: 0,
            service: None,
            is_slow: false,
            is_interesting: true,
            is_ready: false,
            served_at: 0,
            kind: Kind::Stranger,
            manifest_after: now,
            kept_manifest: false,
            fed_at: now,
        }
    }

    /// Whether it says that it knows the manifest.
    pub(super) const fn knows_manifest(&self) -> bool {
        self.have.is_some() || self.hearsay.is_some()
    }

    /// How many chunks the build has for it; `None` while it does not know the manifest.
    pub(super) fn claimed_chunk_count(&self) -> Option<u32> {
        let known = self.have.as_ref().map(ChunkSet::capacity);
        known.or_else(|| self.hearsay.as_ref().map(Hearsay::chunk_count))
    }

    pub(super) fn is_seeder(&self) -> bool {
        self.kind == Kind::Seeder
    }

    /// Whether it is a rack mate: one of the hosts with which we bring chunks into our rack.
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
    pub(super) fn has_slot(&self, now: Instant, window: u16, config: &SwarmConfig) -> bool {
        let window = if self.is_slow || self.busy_streak > 0 {
            1
        } else if self.service.is_none() {
            // Everybody who is new asks a seeder, and nobody knows yet how many they are; a host
            // that has delivered nothing may have nothing.
            window.min(config.first_requests_max)
        } else {
            window
        };
        self.requests < window && self.busy_until <= now
    }

    /// It has no place for a request. A seeder, which everybody asks at once when a build is new,
    /// is asked half as often each time; a host is not, because its queue is short and turns over.
    fn note_busy(&mut self, now: Instant, wait: Duration, config: &SwarmConfig) {
        if !self.is_seeder() {
            self.busy_until = now.after(wait);
        } else if self.busy_until <= now {
            // Several requests refused at once are one refusal.
            let wait = doubled(wait, self.busy_streak.into(), config.busy_wait_max);
            self.busy_until = now.after(wait);
            self.busy_streak = self.busy_streak.saturating_add(1);
        }
    }

    /// It says that it has nothing to send. That ends the patience that a seeder asked for: it kept
    /// back chunks that were on their way to others, and some of them may never have arrived, so
    /// that nobody but the seeder has them.
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

    /// Whether a request to it is late, or one was late and it has delivered nothing in time since.
    pub(super) const fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Whether its chunks count as copies: those of hosts that deliver.
    fn is_counted(&self) -> bool {
        !self.is_seeder() && !self.is_slow
    }

    /// One host and its chunks; nothing for a peer that is not counted, or has
    /// not said what it has.
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
    /// Neighbouring hosts whose chunks count as copies, and the sum of their chunks.
    holdings: (u64, u64),
    /// No later than the first moment at which a busy neighbour may be asked again.
    busy_until: Option<Instant>,
    /// Where we stand.
    location: Location,
    /// Hosts of our rack among the neighbours.
    near_count: usize,
    /// Most of them; further ones are treated as if they stood elsewhere.
    near_max: usize,
    /// What they have; counted only while chunks are missing and if we know our rack.
    near_copies: Option<Availability>,
}

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

    /// Forgets a neighbour. Returns whether it was one.
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

    /// A neighbour says what it is and what it has, as far as we can tell; replaces what it said
    /// before.
    pub(super) fn set_have(
        &mut self,
        node: NodeId,
        contact: Box<Contact>,
        (have, hearsay): (Option<ChunkSet>, Option<Hearsay>),
    ) {
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
        (peer.contact, peer.have, peer.hearsay) = (Some(contact), have, hearsay);
        peer.is_interesting = true;
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

    /// A neighbour has the chunks of these words now.
    pub(super) fn note_has(&mut self, node: NodeId, words: impl Iterator<Item = (usize, u64)>) {
        let Some(place) = self.place_of(node) else { return };
        let peer = &mut self.peers[place];
        let before = peer.holdings();
        let (was_source, is_counted) = (peer.is_source(), peer.is_counted());
        let is_near = peer.is_near() && is_counted;
        let Some(have) = peer.have.as_mut() else { return };
        let mut copies = self.copies.as_mut().filter(|_| is_counted);
        let mut near_copies = self.near_copies.as_mut().filter(|_| is_near);
        let was_full = have.is_full();
        for (i, mask) in words {
            let new = have.insert_word(i, mask);
            for copies in copies.iter_mut().chain(&mut near_copies) {
                copies.note_offer(i, new);
            }
        }
        if have.is_full() && !was_full {
            for copies in copies.into_iter().chain(near_copies) {
                copies.note_complete();
            }
        }
        self.sources += usize::from(!was_source && peer.is_source());
        self.holdings = more(less(self.holdings, before), peer.holdings());
    }

    /// The manifest is here: what was hearsay becomes sets of as many chunks as the build has.
    /// Returns whose claims it proves impossible; these have no set from here on.
    pub(super) fn check_hearsay(&mut self, chunk_count: u32) -> Vec<NodeId> {
        let mut liars = Vec::new();
        for peer in &mut self.peers {
            let Some(hearsay) = peer.hearsay.take() else { continue };
            // The number first: nothing of another size is made.
            let is_possible = hearsay.chunk_count() == chunk_count;
            peer.have = is_possible.then(|| hearsay.to_set()).flatten();
            if peer.have.is_none() {
                liars.push(peer.node);
            }
            self.sources += usize::from(peer.is_source());
            self.holdings = more(self.holdings, peer.holdings());
        }
        liars
    }

    /// Whether the neighbouring hosts have more than `own` chunks on average, by some margin.
    pub(super) fn is_behind(&self, own: u32, margin: u32) -> bool {
        let (hosts, chunks) = self.holdings;
        (u64::from(own) + u64::from(margin)) * hosts < chunks
    }

    /// A random neighbouring host that lacks some chunk of `have`; `None` if all have all of it.
    pub(super) fn draw_lacking(&self, have: &ChunkSet, prng: &mut Prng) -> Option<NodeId> {
        let start = prng.index_below(self.peers.len().max(1));
        let lacks = |peer: &&Peer| {
            let mut theirs = peer.have.iter().filter(|_| !peer.is_seeder());
            theirs.any(|theirs| have.iter_without(theirs).next().is_some())
        };
        let (before, after) = self.peers.split_at(start);
        after.iter().chain(before).find(lacks).map(|peer| peer.node)
    }

    /// Something has changed on account of which any neighbour may have a chunk for us again.
    pub(super) fn renew_interest(&mut self) {
        self.peers.iter_mut().for_each(|peer| peer.is_interesting = true);
    }

    /// The chunk may be asked for again: whoever has it is interesting.
    pub(super) fn note_wanted(&mut self, chunk: ChunkIndex) {
        for peer in &mut self.peers {
            peer.is_interesting |= peer.have.as_ref().is_some_and(|have| have.contains(chunk));
        }
    }

    /// Counts from here on which of `chunk_count` chunks the neighbouring hosts have.
    pub(super) fn start_counting(&mut self, chunk_count: u32) {
        let mut copies = Availability::new(chunk_count);
        self.peers.iter().filter_map(Peer::counted_have).for_each(|have| copies.add_host(have));
        self.copies = Some(copies);
        self.near_copies = (self.location.rack != 0).then(|| {
            let mut copies = Availability::new(chunk_count);
            let near = self.peers.iter().filter_map(Peer::near_have);
            near.for_each(|have| copies.add_host(have));
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
    pub(super) fn note_busy(
        &mut self,
        now: Instant,
        node: NodeId,
        wait: Duration,
        config: &SwarmConfig,
    ) {
        let Some(place) = self.place_of(node) else { return };
        self.peers[place].note_busy(now, wait, config);
        self.peers[place].asked_for_patience = true;
        self.plan_busy_check(self.peers[place].busy_until);
    }

    /// A neighbour's answer broke off: it gets a moment for whatever went wrong.
    pub(super) fn note_failed(&mut self, now: Instant, node: NodeId, config: &SwarmConfig) {
        let Some(place) = self.place_of(node) else { return };
        self.peers[place].note_busy(now, config.fetch_failed_wait, config);
        self.peers[place].asked_for_patience = false;
        self.plan_busy_check(self.peers[place].busy_until);
    }

    fn plan_busy_check(&mut self, until: Instant) {
        self.busy_until = Some(self.busy_until.map_or(until, |first| first.min(until)));
    }

    /// No later than the first moment at which a busy neighbour may be asked again.
    pub(super) const fn busy_until(&self) -> Option<Instant> {
        self.busy_until
    }

    /// Sets anew when the first neighbour that is still busy may be asked again.
    pub(super) fn check_busy(&mut self, now: Instant) {
        if self.busy_until.is_some_and(|first| first <= now) {
            let still = self.peers.iter().map(|peer| peer.busy_until).filter(|until| *until > now);
            self.busy_until = still.min();
        }
    }

    /// Whom to ask for a chunk when all those that were `asked` for it are late: of the neighbours
    /// that have it, a host rather than a seeder, and the one with the fewest requests. With
    /// `only_near`, only a rack mate is asked.
    pub(super) fn second_source(
        &self,
        now: Instant,
        chunk: ChunkIndex,
        (asked, only_near): (&[NodeId], bool),
        config: &SwarmConfig,
    ) -> Option<NodeId> {
        let window = config.requests_per_peer_max;
        let can_send = |peer: &Peer| {
            let has = peer.have.as_ref().is_some_and(|have| have.contains(chunk));
            has && (peer.is_near() || !only_near) && peer.has_slot(now, window, config)
        };
        self.iter()
            .filter(|peer| !asked.contains(&peer.node) && can_send(peer))
            .min_by_key(|peer| (peer.is_slow, peer.is_seeder(), !peer.is_near(), peer.requests))
            .map(|peer| peer.node)
    }

    /// Whether a neighbour has a chunk that is not in `have`, or knows the manifest while it is not
    /// known here.
    pub(super) fn has_something_beyond(&self, have: &ChunkSet) -> bool {
        let goes_beyond = |theirs: &ChunkSet| theirs.iter_without(have).next().is_some();
        let mut peers = self.peers.iter();
        peers.any(|peer| peer.hearsay.is_some() || peer.have.as_ref().is_some_and(goes_beyond))
    }

    /// Neighbours that have chunks to give.
    pub(super) const fn source_count(&self) -> usize {
        self.sources
    }

    /// A neighbour delivered a chunk after `took`.
    pub(super) fn note_delivery(&mut self, node: NodeId, took: Duration, was_late: bool) {
        self.set_slow(node, was_late);
        let Some(place) = self.place_of(node) else { return };
        let peer = &mut self.peers[place];
        peer.busy_streak = 0;
        peer.silences = 0;
        let (count, sum) = self.services;
        let (count, rest) = match peer.service {
            Some(usual) => (count, sum.saturating_sub(usual)),
            None => (count + 1, sum),
        };
        let usual = peer.service.map_or(took, |usual| smoothed(usual, took));
        peer.service = Some(usual);
        self.services = (count, rest + usual);
    }

    /// A request to a neighbour is late.
    pub(super) fn note_slow(&mut self, node: NodeId) {
        self.set_slow(node, true);
    }

    /// A neighbour did not answer a request with a single byte; others are asked for a while.
    pub(super) fn note_silent(&mut self, now: Instant, node: NodeId, config: &SwarmConfig) {
        self.set_slow(node, true);
        if let Some(peer) = self.get_mut(node) {
            let wait = doubled(config.silence_wait, peer.silences.into(), Duration::MAX);
            peer.silences = peer.silences.saturating_add(1).min(config.silences_max);
            peer.busy_until = now.after(wait);
            let until = peer.busy_until;
            self.plan_busy_check(until);
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
            // What only it has may now be asked of a seeder, or of a host outside the rack.
            self.renew_interest();
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
