//! One node's part in distributing one build: takes events, gives orders, keeps the tables.
//!
//! This file only dispatches: each event goes to its handler, then new work is looked for, always
//! in the order of [`Swarm::handle_event`]. Handlers, rules and tables are in `swarm/`, choices in
//! [`crate::pick`]. Invariant: equal seeds and equal events give equal actions. Chunk bytes, clocks
//! and sockets never come here.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::action::Action;
use crate::chunk_set::ChunkSet;
use crate::config::SwarmConfig;
use crate::contact::Contact;
use crate::digest::BuildId;
use crate::event::{Event, ManifestOutcome};
use crate::fault::PeerFault;
use crate::layout::ChunkLayout;
use crate::node_id::NodeId;
use crate::prng::Prng;
use crate::time::Instant;
use crate::wire::Message;

use self::asking::{Scope, is_routine};
use self::ledger::Ledger;
use self::locality::Claims;
use self::manifest_search::ManifestSearch;
use self::manifest_serving::ManifestServing;
use self::membership::Membership;
use self::offers::Offers;
pub use self::params::{Deadline, Holdings, SwarmParams, TimerKind, Waiting};
use self::peers::PeerTable;
use self::requests::RequestTable;
use self::timers::leaves_timers_alone;
use self::trackers::Trackers;
use self::uploads::Uploads;
pub use self::view::TableSize;

mod answers;
mod asking;
mod hearsay;
mod ledger;
mod locality;
mod manifest_search;
mod manifest_serving;
mod membership;
mod neighbourhood;
mod offers;
mod own_disk;
mod params;
mod peers;
mod requests;
mod serving;
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
    trackers: Trackers,
    search: ManifestSearch,
    manifests: ManifestServing,
    /// When the last new chunk or the manifest came.
    progress_at: Instant,
    /// Whom to look at for chunks to ask for, once the event at hand is dealt with.
    scope: Scope,
    /// What [`Self::next_deadline`] says: no later than it has to be.
    deadline: Option<Deadline>,
    is_deadline_stale: bool,
    /// Requests are looked at as near the end.
    is_end: bool,
    /// An upload ended or a chunk came, after which neighbours may hear that we are ready.
    is_readiness_news: bool,
    prng: Prng,
    now: Instant,
    actions: VecDeque<Action>,
}

#[expect(clippy::multiple_inherent_impl, reason = "handlers and rules are in files of their own")]
impl Swarm {
    /// Enters the distribution of a build with what is already here.
    pub fn new(params: SwarmParams, holdings: Holdings, now: Instant) -> Self {
        let SwarmParams { config, build, contact, trackers, remembered, seed } = params;
        // With nobody to ask, what is remembered is needed at once.
        let recall_wait = if trackers.is_empty() { Duration::ZERO } else { config.recall_wait };
        let mut swarm = Self {
            members: Membership::new(now, contact.location, remembered, recall_wait),
            trackers: Trackers::new(now, trackers, contact.role),
            peers: PeerTable::new(contact.location, config.near_max),
            claims: Claims::new(0, &config),
            config,
            build,
            contact,
            layout: None,
            have: ChunkSet::empty(0),
            offers: Offers::default(),
            requests: RequestTable::new(0),
            uploads: Uploads::default(),
            ledger: None,
            search: ManifestSearch::default(),
            manifests: ManifestServing::default(),
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
            Event::ManifestServeEnded { peer, serve } => self.manifests.note_end(peer, serve),
            Event::AnnounceAnswered { tracker, answer } => {
                self.on_announce_answered(tracker, &answer);
            }
            Event::AnnounceFailed { tracker } => self.on_announce_failed(tracker),
            Event::TrackerAsked { tracker } => self.on_tracker_asked(tracker),
            Event::ContactsLearned { contacts } => self.on_contacts_learned(contacts),
            Event::ChunksLost { chunks } => self.on_chunks_lost(&chunks),
            Event::LocalCopy(copy) => self.on_local_copy(copy),
            Event::Leaving => {
                self.on_leaving();
                self.deadline = None;
                return;
            }
        }

        // The event is dealt with; from here on new work is looked for. Requests come before
        // uploads because a chunk that is asked for a moment earlier is on its way a moment
        // earlier, and the deadline comes last because all else moves timers.
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

    fn on_deadline(&mut self) {
        self.offer_new_chunks();
        self.check_requests();
        self.peers.check_busy(self.now);
        self.check_claims();
        if self.is_starving() {
            // The seeder may be asked for more than what nobody else has.
            self.peers.renew_interest();
        }
        self.announce_where_due();
        self.exchange_if_due();
    }

    fn on_message(&mut self, peer: NodeId, message: Message) {
        if !self.peers.contains(peer) {
            // It was turned away or banned, and this was already on its way.
            return;
        }
        match message {
            Message::Join { contact, have } => self.on_join(peer, contact, have),
            Message::Offer { runs } => self.on_offer(peer, &runs),
            Message::Request { request, chunk } => self.on_request(peer, request, chunk),
            Message::Cancel { request } => self.on_cancel(peer, request),
            Message::Busy { request, retry_after_ms } => {
                self.on_busy(peer, request, retry_after_ms);
            }
            Message::RequestManifest => self.on_manifest_request(peer),
            Message::Claim { chunk } => self.on_claim(peer, chunk),
            Message::Disclaim { chunk } => self.on_disclaim(peer, chunk),
            Message::NoManifest => self.on_manifest_arrived(peer, ManifestOutcome::Missing),
            Message::Ready => self.on_ready(peer),
            Message::Leave => self.on_leave(peer),
        }
    }

    fn send(&mut self, peer: NodeId, message: Message) {
        self.actions.push_back(Action::Send { peer, message });
    }

    fn check_invariants(&self) {
        let neighbours_max = self.config.neighbours_max_at(self.contact.location);
        assert!(self.peers.len() <= neighbours_max, "too many neighbours");
        assert!(self.requests.len() <= usize::from(self.config.requests_max), "too many requests");
        assert!(self.uploads.active_count() <= self.uploads_max(), "too many uploads");
        assert!(self.manifests.len() <= self.manifests_max(), "too many manifests under way");
        debug_assert!(
            self.peers.iter().all(|entry| {
                usize::from(entry.requests) == self.requests.of_peer(entry.node).len()
            }),
            "requests of a peer are miscounted"
        );
        debug_assert!(self.peers.is_consistent(), "the sums over the neighbours are wrong");
    }
}
