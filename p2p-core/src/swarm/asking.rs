//! Asking for chunks: whom after which event, for which chunk, and what to do about late requests.
//!
//! Most events change something about one neighbour or about none, so only that one is looked at
//! ([`Scope`]). A neighbour that had no chunk for us at the last look is passed over until
//! something changes that (`Peer::is_interesting`): its chunks, those that are asked of others, or
//! those that the seeder may be asked for. Invariant: no table of requests grows past its limit.

use core::time::Duration;

use crate::action::Action;
use crate::event::Event;
use crate::layout::ChunkIndex;
use crate::node_id::NodeId;
use crate::pick::Choice;
use crate::time::{Instant, doubled};
use crate::wire::{Message, RequestId};

use super::Swarm;
use super::membership::Parting;
use super::peers::Peer;
use super::requests::{Request, RequestTable};

/// Whom to look at for chunks to ask for after an event.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Scope {
    #[default]
    Nobody,
    /// Something has changed about this neighbour, and about no other.
    One(NodeId),
    All,
}

/// How much is asked for after an event.
#[derive(Clone, Copy, Debug)]
struct Appetite {
    /// Requests that one neighbour may have in flight.
    window: u16,
    /// With more requests than this in flight, only neighbours are asked that have nothing to send.
    target: usize,
}

/// Whether the event is one of those that come with every chunk. Their handlers say themselves whom
/// to look at; after any other event all neighbours are looked at.
pub(super) const fn is_routine(event: &Event) -> bool {
    match event {
        Event::MessageReceived { message, .. } => matches!(
            message,
            Message::Join { .. }
                | Message::Offer { .. }
                | Message::Request { .. }
                | Message::Cancel { .. }
                | Message::Busy { .. }
                | Message::Ready
                | Message::Claim { .. }
                | Message::Disclaim { .. }
        ),
        Event::FetchAdvanced { .. }
        | Event::ServeEnded { .. }
        | Event::ManifestServeEnded { .. }
        | Event::ChunkHashed { .. }
        | Event::TrackerAsked { .. } => true,
        Event::Started
        | Event::PeerConnected { .. }
        | Event::DialFailed { .. }
        | Event::PeerLost { .. }
        | Event::MalformedReceived { .. }
        | Event::ManifestArrived { .. }
        | Event::FetchFailed { .. }
        | Event::AnnounceAnswered { .. }
        | Event::AnnounceFailed { .. }
        | Event::ContactsLearned { .. }
        | Event::ChunksLost { .. }
        | Event::LocalCopy(_)
        | Event::Leaving
        | Event::DeadlineReached => false,
    }
}

impl Swarm {
    pub(super) fn on_ready(&mut self, peer: NodeId) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.note_ready(self.now);
            self.look_at(peer);
        }
    }

    /// A neighbour may have a chunk for us now.
    pub(super) fn look_at(&mut self, peer: NodeId) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.is_interesting = true;
        }
        self.scope = match self.scope {
            Scope::Nobody => Scope::One(peer),
            Scope::One(other) if other == peer => Scope::One(peer),
            Scope::One(_) | Scope::All => Scope::All,
        };
    }

    pub(super) fn ask_for_chunks(&mut self, scope: Scope) {
        if scope == Scope::Nobody || self.layout.is_none() || self.is_complete() {
            return;
        }
        if self.requests.has_late() {
            self.ask_again_for_late_chunks();
        }
        let appetite = self.appetite();
        let mut askable = self.askable(scope, appetite);
        // One chunk each per round, so that the first neighbour does not get all
        // there is to ask for.
        while !askable.is_empty() && !self.is_request_table_full() {
            askable.retain(|peer| {
                let may_ask = |swarm: &Self| {
                    let entry = swarm.peers.get(*peer);
                    entry.is_some_and(|entry| swarm.may_ask(entry, appetite))
                };
                !self.is_request_table_full() && may_ask(self) && self.ask(*peer) && may_ask(self)
            });
        }
        self.plan_checks_near_end();
    }

    fn appetite(&self) -> Appetite {
        let config = &self.config;
        let each = usize::from(config.requests_max) / self.peers.source_count().max(1);
        let window = u16::try_from(each).unwrap_or(u16::MAX);
        let window = window.clamp(config.requests_per_peer, config.requests_per_peer_max);
        let factor = if self.peers.is_behind(self.have.count(), config.behind_min) { 2 } else { 1 };
        Appetite { window, target: usize::from(self.requests_target()) * factor }
    }

    /// The neighbours in `scope` that may be asked, those to be asked first in front.
    fn askable(&mut self, scope: Scope, appetite: Appetite) -> Vec<NodeId> {
        match scope {
            _ if self.is_request_table_full() => Vec::new(),
            Scope::One(peer) => vec![peer],
            Scope::Nobody | Scope::All => {
                let askable = self.peers.iter().filter(|entry| self.may_ask(entry, appetite));
                let mut askable: Vec<_> =
                    askable.map(|entry| (entry.is_near(), entry.node)).collect();
                self.prng.shuffle(&mut askable);
                // What can come from outside the rack is what the rack lacks.
                askable.sort_by_key(|(is_near, _)| *is_near);
                askable.into_iter().map(|(_, peer)| peer).collect()
            }
        }
    }

    fn may_ask(&self, entry: &Peer, Appetite { window, target }: Appetite) -> bool {
        entry.is_interesting
            && entry.has_slot(self.now, window, &self.config)
            && (self.requests.len() < target || entry.is_ready)
    }

    /// Asks a neighbour for one chunk, if it has one to ask for. Returns whether it was asked.
    fn ask(&mut self, peer: NodeId) -> bool {
        let chunk = self.pick_for(peer);
        match (chunk, self.peers.get_mut(peer)) {
            (Some(chunk), _) => self.request(peer, chunk),
            (None, Some(entry)) => {
                entry.is_interesting = false;
                false
            }
            (None, None) => false,
        }
    }

    fn pick_for(&mut self, peer: NodeId) -> Option<ChunkIndex> {
        let is_starving = self.is_starving();
        let entry = self.peers.get(peer)?;
        // A far neighbour is not asked for anything that the rack has or is about to get.
        let stays_near = !entry.is_near() && !is_starving;
        let choice = Choice {
            offered: entry.have.as_ref()?,
            have: &self.have,
            asked: self.requests.asked(),
            availability: self.peers.copies()?,
            kept_back: if stays_near { self.claims.kept_back(&self.peers) } else { None },
        };
        // A seeder is for what no host has. One that starves cannot afford either rule.
        if entry.is_seeder() && !is_starving {
            choice.pick_unseen(&mut self.prng)
        } else {
            choice.pick_rarest(self.config.pick_sample_max, &mut self.prng)
        }
    }

    /// Asks `peer` for `chunk`. Returns false if the memory for chunks in flight is used up.
    fn request(&mut self, peer: NodeId, chunk: ChunkIndex) -> bool {
        let Some(layout) = &self.layout else { return false };
        let size = layout.size_of(chunk);
        let bytes = self.requests.bytes() + u64::from(size);
        // A chunk larger than the limit goes alone: otherwise it would never come.
        if bytes > self.config.request_bytes_max && self.requests.len() > 0 {
            self.requests.note_full();
            return false;
        }
        let (asked_at, advanced_at) = (self.now, self.now);
        let mut request = Request {
            peer,
            chunk,
            size,
            asked_at,
            advanced_at,
            is_late: false,
            check_at: self.now,
        };
        request.check_at = self.next_check_of(&request);
        let request = self.requests.add(request);
        self.is_deadline_stale = true;
        let is_far_host = self.peers.get_mut(peer).is_some_and(|entry| {
            entry.requests += 1;
            entry.is_ready = false;
            !entry.is_near() && !entry.is_seeder()
        });
        self.actions.push_back(Action::Fetch { request, peer, chunk });
        if is_far_host {
            self.claim(chunk);
        }
        true
    }

    /// With more requests than this in flight, only neighbours are asked that have nothing to send.
    fn requests_target(&self) -> u16 {
        let config = &self.config;
        if self.is_of_small_chunks() {
            config.requests_target_small
        } else {
            config.requests_target
        }
    }

    fn is_request_table_full(&self) -> bool {
        let requests_max = usize::from(self.config.requests_max);
        self.requests.is_full() || self.requests.len() >= requests_max
    }

    fn next_check_of(&self, request: &Request) -> Instant {
        let usual = self.peers.get(request.peer).and_then(Peer::service);
        let usual = usual.or_else(|| self.peers.usual_service());
        let patience = self.patience_with(request.peer);
        request.next_check((usual, patience), self.is_end, &self.config)
    }

    /// How long a peer may be silent; `None` for a seeder, whose queue is long and which does not
    /// lie. Doubles with each silence, because a host on a slow link may be busy with others for
    /// that long.
    fn patience_with(&self, peer: NodeId) -> Option<Duration> {
        let entry = self.peers.get(peer).filter(|entry| !entry.is_seeder())?;
        let usual = entry.service().or_else(|| self.peers.usual_service());
        let least = usual.map_or(Duration::ZERO, |usual| usual * self.config.late_factor);
        // Twice as long as until it is late, so that a second peer has its chance first.
        let first = least.max(self.config.late_unknown) * 2;
        Some(doubled(first, entry.silences().into(), Duration::MAX))
    }

    /// Looks at the requests sooner once nothing is left to ask for, and later again if a chunk was
    /// lost meanwhile.
    fn plan_checks_near_end(&mut self) {
        let in_sight = self.have.count() + self.requests.asked().count();
        let is_end = in_sight == self.have.capacity();
        if core::mem::replace(&mut self.is_end, is_end) != is_end {
            self.plan_checks();
        }
    }

    fn plan_checks(&mut self) {
        // The check of a request depends on its peer, so the table is taken out to look at both.
        let mut requests = core::mem::replace(&mut self.requests, RequestTable::new(0));
        requests.plan_checks(|request| self.next_check_of(request));
        self.requests = requests;
    }

    pub(super) fn check_requests(&mut self) {
        if self.requests.check_at().is_none_or(|at| at > self.now) {
            return;
        }
        // What is usual may have changed since the checks were planned, so some are no longer due.
        self.plan_checks();
        let is_due = |request: &&Request| request.check_at <= self.now;
        let due: Vec<(RequestId, Request)> = self
            .requests
            .iter()
            .filter(|(_, request)| is_due(request))
            .map(|(id, request)| (id, *request))
            .collect();
        if due.is_empty() {
            return;
        }
        for (id, request) in due {
            // From the gravest to the mildest: stalled, silent, merely late.
            if request.stalled_at(&self.config) <= self.now {
                self.send(request.peer, Message::Leave);
                self.actions.push_back(Action::Disconnect { peer: request.peer });
                self.part_from(request.peer, Parting::Left);
            } else if request
                .silent_at(self.patience_with(request.peer))
                .is_some_and(|silent| silent <= self.now)
            {
                // It may lack what it offers, and must not hold memory that others could use.
                self.peers.note_silent(self.now, request.peer, &self.config);
                if self.give_up_request(id).is_some() {
                    let peer = request.peer;
                    self.actions.push_back(Action::CancelFetch { request: id, peer });
                }
            } else if self.requests.get(id).is_some() {
                self.requests.note_late(id);
                self.peers.note_slow(request.peer);
            } else {
                // Gone together with its peer, earlier in this loop.
                continue;
            }
            // It did not deliver in time, so nobody waits for what it claimed.
            self.claims.forget_peer(request.peer);
        }
        self.plan_checks();
    }

    /// Asks one more neighbour for each chunk whose requests are all late; whoever is first wins.
    fn ask_again_for_late_chunks(&mut self) {
        let late = self.requests.iter().filter(|(_, request)| request.is_late);
        let chunks: Vec<ChunkIndex> = late.map(|(_, request)| request.chunk).collect();
        for chunk in chunks {
            let asked: Vec<NodeId> = self.requests.of_chunk(chunk).map(|(_, peer)| peer).collect();
            let is_in_time =
                |(_, request): (_, &Request)| request.chunk == chunk && !request.is_late;
            let is_hopeful = self.requests.iter().any(is_in_time);
            if is_hopeful
                || asked.len() >= self.config.asked_at_once_max
                || self.requests.len() >= usize::from(self.config.requests_max)
            {
                continue;
            }
            // While a mate brings the chunk, no second copy is to cross the uplink of the rack.
            let only_near = self.claims.is_theirs(chunk);
            let asked = (asked.as_slice(), only_near);
            let second = self.peers.second_source(self.now, chunk, asked, &self.config);
            if second.is_some_and(|second| !self.request(second, chunk)) {
                // The memory for chunks in flight is used up.
                return;
            }
        }
    }
}
