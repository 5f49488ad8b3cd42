//! One node's part in distributing one build: takes events, gives orders, keeps the tables.
//!
//! This file only dispatches. State lives in the tables of `swarm/`, choices in [`crate::pick`] and
//! in the seeder's ledger. Invariant: a chunk is offered and served only after its verdict was
//! [`Verdict::Matches`]. Chunk bytes, clocks and sockets never come here.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::action::Action;
use crate::chunk_set::ChunkSet;
use crate::config::SwarmConfig;
use crate::contact::{Contact, PeerRole};
use crate::digest::BuildId;
use crate::event::{Event, ManifestOutcome, Verdict};
use crate::fault::PeerFault;
use crate::layout::{ChunkIndex, ChunkLayout};
use crate::node_id::NodeId;
use crate::prng::Prng;
use crate::time::Instant;
use crate::wire::{Announce, Have, Message, RequestId};

use self::asking::{Scope, is_routine};
use self::ledger::{Asker, Ledger, Ruling};
use self::locality::Claims;
use self::manifest_search::ManifestSearch;
use self::membership::{Membership, Parting};
use self::offers::Offers;
pub use self::params::{Deadline, Holdings, SwarmParams, TimerKind, Waiting};
use self::peers::{Peer, PeerTable};
use self::requests::{Request, RequestTable};
use self::timers::leaves_timers_alone;
use self::uploads::{Upload, Uploads};
pub use self::view::TableSize;

mod asking;
mod at_once;
mod ledger;
mod locality;
mod manifest_search;
mod membership;
mod offers;
mod own_disk;
mod params;
mod peers;
mod requests;
mod timers;
mod trackers;
mod uploads;
mod view;

/// One node's part in distributing one build.
///
/// Does no IO, reads no clock and draws no entropy: equal seeds and equal events give equal
/// actions. To drive it:
///
/// 1. pass one event to [`handle_event`](Self::handle_event), [`Event::Started`] first;
/// 2. carry out every action of [`poll_action`](Self::poll_action) until it returns `None`;
/// 3. wait for the next event, but no longer than [`next_deadline`](Self::next_deadline).
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Swarm {
    config: Arc<SwarmConfig>,
    build: BuildId,
    contact: Contact,
    layout: Option<Arc<ChunkLayout>>,
    have: ChunkSet,
    offers: Offers,
    peers: PeerTable,
    requests: RequestTable,
    uploads: Uploads,
    claims: Claims,
    /// Kept by seeders only.
    ledger: Option<Ledger>,
    members: Membership,
    search: ManifestSearch,
    /// When the last new chunk or the manifest came.
    progress_at: Instant,
    /// Whom to look at for chunks to ask for, once the event at hand is dealt with.
    scope: Scope,
    /// What [`Self::next_deadline`] says: no later than it has to be.
    deadline: Option<Deadline>,
    is_deadline_stale: bool,
    /// Requests are looked at as near the end.
    is_end: bool,
    /// An upload ended or a chunk came, after which neighbours may be told that we are ready.
    is_readiness_news: bool,
    prng: Prng,
    now: Instant,
    actions: VecDeque<Action>,
}

#[expect(clippy::multiple_inherent_impl, reason = "what asks for chunks is a concern of its own")]
impl Swarm {
    /// Enters the distribution of a build with what is already here.
    pub fn new(params: SwarmParams, holdings: Holdings, now: Instant) -> Self {
        let SwarmParams { config, build, contact, trackers, remembered, seed } = params;
        let mut swarm = Self {
            members: Membership::new(now, (trackers, &contact), remembered),
            peers: PeerTable::new(contact.location, config.near_max),
            config,
            build,
            contact,
            layout: None,
            have: ChunkSet::empty(0),
            offers: Offers::default(),
            claims: Claims::new(0),
            requests: RequestTable::new(0),
            uploads: Uploads::default(),
            ledger: None,
            search: ManifestSearch::default(),
            progress_at: now,
            scope: Scope::Nobody,
            deadline: None,
            is_deadline_stale: false,
            is_end: false,
            is_readiness_news: false,
            prng: Prng::from_seed(seed),
            now,
            actions: VecDeque::new(),
        };
        if let Holdings::Chunks { layout, have } = holdings {
            swarm.adopt_layout(layout, have);
        }
        swarm
    }

    /// Applies one event. `now` must not be earlier than in the previous call.
    ///
    /// # Panics
    ///
    /// If actions of the previous event were not carried out, or time ran backwards.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        assert!(self.actions.is_empty(), "actions of the previous event were not carried out");
        assert!(self.now <= now, "time ran backwards from {:?} to {now:?}", self.now);
        self.now = now;
        if !is_routine(&event) {
            self.scope = Scope::All;
        }
        self.is_deadline_stale = !leaves_timers_alone(&event);

        match event {
            Event::Started | Event::DeadlineReached => self.on_deadline(),
            Event::PeerConnected { peer } => self.on_peer_connected(peer),
            Event::DialFailed { peer } => self.members.note_dial_failed(now, peer, &self.config),
            Event::PeerLost { peer } => self.on_peer_lost(peer),
            Event::MessageReceived { peer, message } => self.on_message(peer, message),
            Event::MalformedReceived { peer } => self.ban(peer, PeerFault::Malformed),
            Event::ManifestArrived { peer, outcome } => self.on_manifest_arrived(peer, outcome),
            Event::FetchAdvanced { request } => self.requests.note_advance(now, request),
            Event::ChunkHashed { request, chunk, verdict } => {
                self.on_chunk_hashed(request, chunk, verdict);
            }
            Event::FetchFailed { request } => self.on_fetch_failed(request),
            Event::ServeEnded { peer, request, is_delivered } => {
                self.on_serve_ended(peer, request, is_delivered);
            }
            Event::AnnounceAnswered { tracker, answer } => {
                let answer = (tracker, &*answer);
                self.members.note_answer(now, answer, &self.config, &mut self.prng);
            }
            Event::AnnounceFailed { tracker } => {
                self.members.note_failure(now, tracker, &self.config, &mut self.prng);
            }
            Event::TrackerAsked { tracker } => self.on_tracker_asked(tracker),
            Event::ContactsLearned { contacts } => {
                for contact in contacts {
                    self.members.learn(contact, &self.config);
                }
            }
            Event::ChunksLost { chunks } => self.on_chunks_lost(&chunks),
            Event::LocalCopy(copy) => self.on_local_copy(copy),
            Event::Leaving => {
                self.on_leaving();
                self.deadline = None;
                return;
            }
        }

        let scope = core::mem::take(&mut self.scope);
        if scope == Scope::All {
            self.look_for_neighbours();
            self.ask_for_manifest();
        }
        self.ask_for_chunks(scope);
        self.start_uploads();
        self.hint_readiness();
        if self.is_deadline_stale {
            self.deadline = self.find_deadline();
        }
        self.check_invariants();
    }

    /// The next order for the driver, oldest first.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to send [`Event::DeadlineReached`], and why; `None` while only an event can move us.
    pub fn next_deadline(&self) -> Option<Deadline> {
        let deadline = self.deadline?;
        Some(Deadline { at: deadline.at.max(self.now), ..deadline })
    }

    /// Whether every chunk is here. False while the manifest is unknown.
    pub fn is_complete(&self) -> bool {
        self.layout.is_some() && self.have.is_full()
    }

    /// The chunks that are here; of capacity zero while the manifest is unknown.
    pub const fn have(&self) -> &ChunkSet {
        &self.have
    }

    /// Neighbours connected now.
    pub fn neighbour_count(&self) -> usize {
        self.peers.len()
    }

    /// Requests in flight now.
    pub fn request_count(&self) -> usize {
        self.requests.len()
    }

    fn on_deadline(&mut self) {
        self.offer_new_chunks();
        self.check_requests();
        self.peers.check_busy(self.now);
        self.check_claims();
        if self.is_starving() {
            // The seeder may be asked for more than what nobody else has.
            self.peers.forget_dryness();
        }
        let now = self.now;
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let is_hungry = self.is_hungry();
        while let Some(tracker) = self.members.begin_announce(now, is_hungry, &self.config) {
            self.announce(tracker, false);
        }
        if is_due(self.exchange_due()) {
            self.exchange();
        }
    }

    fn on_tracker_asked(&mut self, tracker: NodeId) {
        let is_hungry = self.is_hungry();
        if self.members.begin_announce_along(self.now, tracker, is_hungry, &self.config) {
            self.announce(tracker, false);
        }
    }

    fn on_peer_connected(&mut self, peer: NodeId) {
        self.members.note_connected(peer);
        if self.peers.contains(peer) {
            return;
        }
        if self.members.is_banned(self.now, peer) || self.is_full_house() {
            self.send(peer, Message::Leave);
            self.actions.push_back(Action::Disconnect { peer });
            return self.part_from(peer, Parting::Left);
        }
        self.peers.add(self.now, peer);
        self.join(peer);
    }

    fn on_peer_lost(&mut self, peer: NodeId) {
        self.part_from(peer, Parting::Lost);
    }

    fn on_message(&mut self, peer: NodeId, message: Message) {
        if !self.peers.contains(peer) {
            // It was turned away or banned, and this was already on its way.
            return;
        }
        match message {
            Message::Join { contact, have } => self.on_join(peer, contact, have.as_ref()),
            Message::Offer { runs } => self.on_offer(peer, &runs),
            Message::Request { request, chunk } => self.on_request(peer, request, chunk),
            Message::Cancel { request } => {
                if self.uploads.cancel(peer, request) {
                    self.actions.push_back(Action::CancelServe { peer, request });
                }
            }
            Message::Busy { request, retry_after_ms } => {
                self.on_busy(peer, request, retry_after_ms);
            }
            Message::RequestManifest => {
                if self.layout.is_some() {
                    self.actions.push_back(Action::ServeManifest { peer });
                } else {
                    self.send(peer, Message::NoManifest);
                }
            }
            Message::Claim { chunk } => self.on_claim(peer, chunk),
            Message::Disclaim { chunk } => self.on_disclaim(peer, chunk),
            Message::NoManifest => self.on_manifest_arrived(peer, ManifestOutcome::Missing),
            Message::Ready => {
                if let Some(entry) = self.peers.get_mut(peer) {
                    entry.note_ready(self.now);
                    self.look_at(peer);
                }
            }
            Message::Leave => {
                self.part_from(peer, Parting::Left);
                self.actions.push_back(Action::Disconnect { peer });
            }
        }
    }

    fn on_join(&mut self, node: NodeId, contact: Box<Contact>, have: Option<&Have>) {
        let Ok(have) = have.map(|have| have.to_set().ok_or(())).transpose() else {
            return self.ban(node, PeerFault::WrongLayout);
        };
        if contact.node != node || self.differs_from_layout(have.as_ref()) {
            return self.ban(node, PeerFault::WrongLayout);
        }
        self.members.note_joined(node);
        let was_seeder = self.peers.get(node).is_some_and(Peer::is_seeder);
        self.peers.set_have(node, contact, have);
        if !was_seeder {
            self.tell_seeder_of_local_chunks(node);
        }
        if self.is_crowded_by(node) {
            return self.turn_away(node);
        }
        self.look_at(node);
    }

    fn on_offer(&mut self, node: NodeId, runs: &[(u32, u32)]) {
        let Some(capacity) =
            self.peers.get(node).and_then(|p| p.have.as_ref()).map(ChunkSet::capacity)
        else {
            // Nobody who knows no manifest has chunks to offer.
            return self.ban(node, PeerFault::WrongLayout);
        };
        for (start, length) in runs {
            let end = u64::from(*start) + u64::from(*length);
            if end > u64::from(capacity) {
                let raw = u32::try_from(end - 1).unwrap_or(u32::MAX);
                return self.ban(node, PeerFault::NoSuchChunk { raw, chunk_count: capacity });
            }
            let chunks = (*start..start + length).map(ChunkIndex::new_unchecked);
            self.note_offered(node, chunks.clone());
            let has_late = self.requests.has_late();
            let is_useful = |chunk| {
                let is_asked = || !has_late && self.requests.asked().contains(chunk);
                self.layout.is_some() && !self.have.contains(chunk) && !is_asked()
            };
            if chunks.into_iter().any(is_useful) {
                self.look_at(node);
            }
        }
    }

    fn on_request(&mut self, peer: NodeId, request: RequestId, raw: u32) {
        let Some(layout) = &self.layout else {
            return self.refuse(peer, request, Duration::from_secs(1));
        };
        let Some(chunk) = layout.index(raw) else {
            let chunk_count = layout.chunk_count();
            return self.ban(peer, PeerFault::NoSuchChunk { raw, chunk_count });
        };
        let waiting = self.uploads.count_of(peer);
        if waiting >= self.config.upload_flood {
            return self.ban(peer, PeerFault::RequestFlood { waiting });
        }
        if !self.have.contains(chunk) {
            return self.refuse(peer, request, Duration::from_secs(1));
        }
        if self.uploads.waiting_count() >= self.config.upload_queue_max {
            return self.refuse(peer, request, self.queue_wait());
        }
        let is_near = self.peers.get(peer).is_some_and(Peer::is_near);
        self.uploads.enqueue(Upload { peer, request, chunk, is_near, since: self.now });
    }

    /// When one whom the full queue has no place for should ask again: a host whose neighbours have
    /// other sources says after half a chunk, a seeder, whom everybody wants, says when the queue
    /// will be empty.
    fn queue_wait(&self) -> Duration {
        let usual = self.peers.usual_service().unwrap_or(Duration::from_millis(100)) / 2;
        let queued = u32::try_from(self.uploads.waiting_count()).unwrap_or(u32::MAX);
        let at_once = u32::try_from(self.uploads_max()).unwrap_or(1).max(1);
        let drained = |ledger: &Ledger| ledger.send_time().saturating_mul(queued) / at_once;
        self.ledger.as_ref().map_or(usual, |ledger| drained(ledger).max(usual))
    }

    fn on_busy(&mut self, peer: NodeId, request: RequestId, retry_after_ms: u32) {
        if self.requests.get(request).is_none_or(|request| request.peer != peer) {
            return;
        }
        self.give_up_request(request);
        // A peer can ask for patience, not for silence.
        let wait = Duration::from_millis(u64::from(retry_after_ms));
        let wait = wait.clamp(Duration::from_millis(10), Duration::from_secs(2));
        self.peers.note_busy(self.now, peer, wait);
        self.scope = Scope::All;
    }

    fn on_manifest_arrived(&mut self, peer: NodeId, outcome: ManifestOutcome) {
        self.search.note_end(peer);
        match outcome {
            ManifestOutcome::Valid(layout) if self.layout.is_none() => self.learn_layout(layout),
            ManifestOutcome::Valid(_) => {}
            ManifestOutcome::Wrong => self.ban(peer, PeerFault::WrongManifest),
            ManifestOutcome::Missing => {
                if let Some(peer) = self.peers.get_mut(peer) {
                    ManifestSearch::note_missing(self.now, peer);
                }
            }
        }
    }

    pub(super) fn learn_layout(&mut self, layout: Arc<ChunkLayout>) {
        let have = ChunkSet::empty(layout.chunk_count());
        self.adopt_layout(layout, have);
        self.progress_at = self.now;
        let liars = self.peers.iter().filter(|peer| self.differs_from_layout(peer.have.as_ref()));
        let liars: Vec<NodeId> = liars.map(|peer| peer.node).collect();
        for liar in liars {
            self.ban(liar, PeerFault::WrongLayout);
        }
        self.join_all();
        if self.is_complete() {
            self.actions.push_back(Action::Complete);
        }
    }

    fn on_chunk_hashed(&mut self, id: RequestId, chunk: ChunkIndex, verdict: Verdict) {
        self.scope = Scope::All;
        let request = self.drop_request(id);
        match (verdict, request) {
            (Verdict::Matches, request) => {
                if let Some(Request { peer, asked_at, is_late, .. }) = request {
                    self.peers.note_delivery(peer, self.now.since(asked_at), is_late);
                }
                // Kept even if the request was given up meanwhile: the bytes are right and stored.
                self.keep_chunk(chunk);
            }
            (Verdict::Differs, Some(Request { peer, .. })) => {
                self.ban(peer, PeerFault::WrongBytes { chunk: chunk.get() });
            }
            // Given up meanwhile, and nobody is left to blame.
            (Verdict::Differs, None) => {}
        }
    }

    fn on_fetch_failed(&mut self, id: RequestId) {
        if let Some(request) = self.give_up_request(id) {
            // Not asked again at once.
            self.peers.note_failed(self.now, request.peer, Duration::from_millis(250));
        }
    }

    fn on_serve_ended(&mut self, peer: NodeId, request: RequestId, is_delivered: bool) {
        let Some(upload) = self.uploads.finish(peer, request) else { return };
        self.is_readiness_news = true;
        if let Some(ledger) = &mut self.ledger {
            if is_delivered {
                ledger.note_delivered(self.now.since(upload.since));
            } else {
                ledger.note_failed(upload.chunk);
            }
        }
        if is_delivered {
            self.peers.note_has(peer, core::iter::once(upload.chunk));
        }
    }

    fn on_leaving(&mut self) {
        for peer in self.peers.nodes() {
            self.send(peer, Message::Leave);
            self.actions.push_back(Action::Disconnect { peer });
            self.forget_peer(peer);
        }
        for tracker in self.members.trackers() {
            self.announce(tracker, true);
        }
    }

    fn adopt_layout(&mut self, layout: Arc<ChunkLayout>, have: ChunkSet) {
        let chunk_count = layout.chunk_count();
        assert_eq!(have.capacity(), chunk_count, "the chunks are of another build");
        self.requests = RequestTable::new(chunk_count);
        self.claims = Claims::new(chunk_count);
        if self.contact.role == PeerRole::Seeder {
            self.ledger = Some(Ledger::new(chunk_count, &self.config));
        }
        if !have.is_full() {
            self.peers.start_counting(chunk_count);
        }
        self.peers.forget_dryness();
        self.have = have;
        self.layout = Some(layout);
    }

    fn differs_from_layout(&self, have: Option<&ChunkSet>) -> bool {
        let (Some(have), Some(layout)) = (have, &self.layout) else { return false };
        have.capacity() != layout.chunk_count()
    }

    pub(super) fn keep_chunk(&mut self, chunk: ChunkIndex) {
        if self.layout.is_none() || !self.have.insert(chunk) {
            return;
        }
        self.requests.end_local(chunk);
        self.progress_at = self.now;
        self.claims.note_kept(chunk);
        self.is_readiness_news = true;
        let wait = self.offer_wait();
        self.offers.note_arrival(self.now, chunk, wait);
        let losers: Vec<_> = self.requests.of_chunk(chunk).collect();
        for (request, _) in losers {
            self.cancel_request(request);
        }
        if self.is_complete() {
            self.peers.stop_counting();
            let rest: Vec<_> = self.requests.iter().map(|(id, _)| id).collect();
            for id in rest {
                self.cancel_request(id);
            }
            self.actions.push_back(Action::Complete);
        }
    }

    pub(super) fn cancel_request(&mut self, request: RequestId) {
        if let Some(Request { peer, .. }) = self.drop_request(request) {
            self.actions.push_back(Action::CancelFetch { request, peer });
        }
    }

    fn drop_request(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(id)?;
        if let Some(peer) = self.peers.get_mut(request.peer) {
            peer.requests -= 1;
        }
        Some(request)
    }

    /// Forgets a request whose chunk is still wanted.
    fn give_up_request(&mut self, id: RequestId) -> Option<Request> {
        let request = self.drop_request(id)?;
        self.peers.note_wanted(request.chunk);
        Some(request)
    }

    fn part_from(&mut self, node: NodeId, parting: Parting) {
        let contact = self.peers.get(node).and_then(|peer| peer.contact.as_deref().copied());
        self.forget_peer(node);
        self.members.note_gone(self.now, (node, parting), contact, &self.config);
    }

    fn forget_peer(&mut self, node: NodeId) {
        self.scope = Scope::All;
        self.is_deadline_stale = true;
        for request in self.requests.of_peer(node) {
            self.drop_request(request);
        }
        for upload in self.uploads.forget_peer(node) {
            // The peer may have left with its connection still open: what is being sent to it must
            // not go on beside what takes its place.
            let request = upload.request;
            self.actions.push_back(Action::CancelServe { peer: node, request });
            if let Some(ledger) = &mut self.ledger {
                ledger.note_failed(upload.chunk);
                self.is_readiness_news = true;
            }
        }
        self.take_back_chunks_of(node);
        self.claims.forget_peer(node);
        self.search.note_end(node);
        self.peers.remove(node);
        self.peers.forget_dryness();
    }

    /// A seeder's chunks that left with a peer, and that no other neighbour has, may be nowhere
    /// else: they are free to be given out again at once.
    fn take_back_chunks_of(&mut self, node: NodeId) {
        let Some(ledger) = &mut self.ledger else { return };
        let Some(gone) = self.peers.get(node).and_then(|peer| peer.have.as_ref()) else { return };
        let others = self.peers.iter().filter(|other| other.node != node);
        let others: Vec<&ChunkSet> = others.filter_map(|peer| peer.have.as_ref()).collect();
        for chunk in gone.iter().filter(|chunk| chunk.get() < self.have.capacity()) {
            let has = |have: &&ChunkSet| chunk.get() < have.capacity() && have.contains(chunk);
            if !others.iter().any(has) {
                ledger.note_failed(chunk);
            }
        }
    }

    fn ban(&mut self, peer: NodeId, fault: PeerFault) {
        let until = self.now.after(self.config.ban_time);
        self.forget_peer(peer);
        self.members.ban(peer, until, &self.config);
        self.actions.push_back(Action::Ban { peer, fault, until });
    }

    fn refuse(&mut self, peer: NodeId, request: RequestId, wait: Duration) {
        let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).clamp(10, 1_000);
        self.send(peer, Message::Busy { request, retry_after_ms });
    }

    fn send(&mut self, peer: NodeId, message: Message) {
        self.actions.push_back(Action::Send { peer, message });
    }

    fn offer_new_chunks(&mut self) {
        for (node, offer) in self.offers.collect(self.now, &mut self.peers, &self.have) {
            self.send(node, offer);
        }
    }

    fn look_for_neighbours(&mut self) {
        if self.is_complete() {
            return;
        }
        let is_starving = self.is_starving();
        let is_known = |node| node == self.contact.node || self.peers.contains(node);
        self.members.recall(self.now, &self.config);
        let missing = self.missing_neighbours();
        while self.members.dialling_count() < missing {
            let dial = self.members.next_dial(self.now, &self.config, is_known, &mut self.prng);
            let Some(contact) = dial else { break };
            self.actions.push_back(Action::Connect { contact: Box::new(contact) });
        }
        let mates = self.peers.near_count();
        while let Some(contact) = self.members.next_mate(self.now, (mates, &self.config), is_known)
        {
            self.actions.push_back(Action::Connect { contact: Box::new(contact) });
        }
        if is_starving
            && let Some(contact) = self.members.last_resort(self.now, &self.config, is_known)
        {
            self.actions.push_back(Action::Connect { contact: Box::new(contact) });
        }
    }

    fn is_starving(&self) -> bool {
        self.progress_at.after(self.config.starve_time) <= self.now
    }

    fn is_full_house(&self) -> bool {
        self.peers.len() >= self.config.neighbours_max_at(self.contact.location)
    }

    /// Fewer than three quarters of the wanted neighbours, and chunks missing: a node with half as
    /// many as others falls behind them.
    fn is_hungry(&self) -> bool {
        !self.is_complete() && self.peers.len() * 4 < usize::from(self.config.neighbours_target) * 3
    }

    fn announce(&mut self, tracker: NodeId, is_leaving: bool) {
        let wanted = if self.is_complete() { 0 } else { self.missing_neighbours() };
        let announce = Announce {
            build: self.build,
            contact: self.contact,
            neighbours: self.peers.nodes(),
            wanted: u16::try_from(wanted).unwrap_or(u16::MAX),
            is_complete: self.is_complete(),
            is_leaving,
        };
        self.actions.push_back(Action::Announce { tracker, announce: Box::new(announce) });
    }

    fn exchange_due(&self) -> Option<Instant> {
        if self.is_complete() || self.missing_neighbours() == 0 {
            return None;
        }
        let someone = self.peers.iter().any(|peer| peer.contact.is_some());
        self.members.exchange_due().filter(|_| someone)
    }

    fn manifest_due(&self) -> Option<Instant> {
        self.layout.is_none().then(|| self.search.due(&self.peers, &self.config)).flatten()
    }

    fn exchange(&mut self) {
        self.members.note_exchange(self.now, &self.config, &mut self.prng);
        let contacts = self.known_contacts();
        if !contacts.is_empty() {
            let contact = Box::new(contacts[self.prng.index_below(contacts.len())]);
            self.actions.push_back(Action::Exchange { contact });
        }
    }

    fn ask_for_manifest(&mut self) {
        if self.layout.is_none()
            && let Some(peer) =
                self.search.next(self.now, &mut self.peers, &self.config, &mut self.prng)
        {
            self.actions.push_back(Action::FetchManifest { peer });
        }
    }

    fn start_uploads(&mut self) {
        while self.uploads.active_count() < self.uploads_max() {
            let Some(mut upload) = self.next_upload() else { return };
            if let Some(ledger) = &mut self.ledger {
                let asker = self.peers.get(upload.peer);
                let fed_at = asker.map_or(self.now, |asker| asker.fed_at);
                let is_starving = fed_at.after(self.config.starve_time) <= self.now;
                let theirs = asker.and_then(|asker| asker.have.as_ref());
                if theirs.is_some_and(|have| have.contains(upload.chunk)) {
                    // It came in answer to another request meanwhile.
                    self.refuse(upload.peer, upload.request, Duration::ZERO);
                    continue;
                }
                let asker = Asker { has: theirs, is_starving };
                match ledger.rule(self.now, upload.chunk, asker, &mut self.prng) {
                    Ruling::Send(chunk) => {
                        ledger.note_start(self.now, chunk);
                        upload.chunk = chunk;
                    }
                    Ruling::Wait(wait) => {
                        self.refuse(upload.peer, upload.request, wait);
                        continue;
                    }
                }
            }
            let Upload { peer, request, chunk, .. } = upload;
            let number = self.uploads.start(Upload { since: self.now, ..upload });
            if let Some(peer) = self.peers.get_mut(peer) {
                peer.served_at = number;
            }
            self.actions.push_back(Action::Serve { peer, request, chunk });
        }
    }

    /// The request to answer next. A seeder goes round its neighbours, so that what it gives out
    /// spreads from many places; a host serves first whoever has the least.
    fn next_upload(&mut self) -> Option<Upload> {
        let (peers, is_seeder) = (&self.peers, self.ledger.is_some());
        self.uploads.dequeue(|node| {
            let peer = peers.get(node)?;
            let chunks = peer.have.as_ref().map_or(0, |have| u64::from(have.count()));
            Some(if is_seeder { peer.served_at } else { chunks })
        })
    }

    /// How long a new chunk may wait to be offered together with others: on links so fast that a
    /// chunk takes less than the longest interval, half of what it takes. A node with nothing to send
    /// gains nothing from waiting.
    fn offer_wait(&self) -> Duration {
        if self.is_upload_slot_free() {
            return Duration::ZERO;
        }
        let SwarmConfig { offer_interval_min, offer_interval_max, .. } = *self.config;
        let half = self.peers.usual_service().unwrap_or(offer_interval_max) / 2;
        half.clamp(offer_interval_min, offer_interval_max)
    }

    /// Whether one more upload could begin at once, and nobody waits for it.
    fn is_upload_slot_free(&self) -> bool {
        self.uploads.active_count() + self.uploads.waiting_count() < self.uploads_max()
    }

    /// Tells neighbours that lack something of ours that we have nothing to send. Done when an
    /// upload ends or a chunk comes, because only then that is news.
    fn hint_readiness(&mut self) {
        let is_news = core::mem::take(&mut self.is_readiness_news);
        if !is_news || !self.is_upload_slot_free() || self.have.is_empty() {
            return;
        }
        for _ in 0..self.config.ready_hints {
            if let Some(node) = self.peers.draw_lacking(&self.have, &mut self.prng) {
                self.send(node, Message::Ready);
            }
        }
    }

    fn check_invariants(&self) {
        let neighbours_max = self.config.neighbours_max_at(self.contact.location);
        assert!(self.peers.len() <= neighbours_max, "too many neighbours");
        assert!(self.requests.len() <= usize::from(self.config.requests_max), "too many requests");
        assert!(self.uploads.active_count() <= self.uploads_max(), "too many uploads");
        debug_assert!(
            self.peers.iter().all(|peer| {
                usize::from(peer.requests) == self.requests.of_peer(peer.node).len()
            }),
            "requests of a peer are miscounted"
        );
        debug_assert!(self.peers.is_consistent(), "the sums over the neighbours are wrong");
    }
}
