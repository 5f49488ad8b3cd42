//! The neighbourhood: who becomes a neighbour, who stops being one, and where more are looked for.
//!
//! Joins what the tables know (`peers.rs`, `membership.rs`, `trackers.rs`) with what the swarm
//! lacks. Invariant: whoever goes, goes through [`Swarm::forget_peer`], so that no table keeps
//! anything of a peer that is gone. What is asked of neighbours is decided elsewhere.

use crate::action::Action;
use crate::chunk_set::ChunkSet;
use crate::contact::Contact;
use crate::fault::PeerFault;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::wire::{Announce, AnnounceAnswer, Have, Message};

use super::Swarm;
use super::asking::Scope;
use super::hearsay::Hearsay;
use super::membership::Parting;
use super::peers::Peer;

#[expect(clippy::multiple_inherent_impl, reason = "who is a neighbour is a concern of its own")]
impl Swarm {
    pub(super) fn on_peer_connected(&mut self, peer: NodeId) {
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

    pub(super) fn on_join(&mut self, peer: NodeId, contact: Box<Contact>, have: Option<Have>) {
        let claim = match have {
            None => Some((None, None)),
            Some(have) => self.weigh(have),
        };
        let Some(claim) = claim.filter(|_| contact.node == peer) else {
            return self.ban(peer, PeerFault::WrongLayout);
        };
        self.members.note_joined(peer);
        let was_seeder = self.peers.get(peer).is_some_and(Peer::is_seeder);
        self.peers.set_have(peer, contact, claim);
        if !was_seeder {
            self.rejoin_seeder_with_local_chunks(peer);
        }
        if self.is_crowded_by(peer) {
            return self.turn_away(peer);
        }
        self.look_at(peer);
    }

    /// What a claim is worth: a set if we know the build, hearsay otherwise; `None` if it is
    /// impossible.
    fn weigh(&self, have: Have) -> Option<(Option<ChunkSet>, Option<Hearsay>)> {
        match &self.layout {
            Some(layout) if have.chunk_count() != layout.chunk_count() => None,
            Some(_) => Some((Some(have.to_set()?), None)),
            None => Some((None, Some(Hearsay::new(have)?))),
        }
    }

    /// Says to a neighbour that we take part, and with which chunks.
    pub(super) fn join(&mut self, peer: NodeId) {
        let have = self.layout.as_ref().map(|_| Have::of(&self.shown_to(peer)));
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.offers_sent = self.offers.arrival_count();
            let contact = Box::new(self.contact);
            self.send(peer, Message::Join { contact, have });
        }
    }

    pub(super) fn join_all(&mut self) {
        self.peers.nodes().into_iter().for_each(|peer| self.join(peer));
    }

    pub(super) fn on_peer_lost(&mut self, peer: NodeId) {
        self.manifests.note_lost(peer);
        self.part_from(peer, Parting::Lost);
    }

    pub(super) fn on_leave(&mut self, peer: NodeId) {
        self.part_from(peer, Parting::Left);
        self.actions.push_back(Action::Disconnect { peer });
    }

    pub(super) fn on_leaving(&mut self) {
        for peer in self.peers.nodes() {
            self.turn_away(peer);
        }
        for tracker in self.trackers.all() {
            self.announce(tracker, true);
        }
    }

    /// Whether a neighbour that has just said where it stands is more than we want outside the
    /// rack.
    fn is_crowded_by(&self, peer: NodeId) -> bool {
        let far = self.peers.len() - self.peers.near_count();
        let is_far = self.peers.get(peer).is_some_and(|entry| !entry.is_near());
        is_far && far > usize::from(self.config.neighbours_max)
    }

    fn is_full_house(&self) -> bool {
        self.peers.len() >= self.config.neighbours_max_at(self.contact.location)
    }

    /// Ends the neighbourhood from our side. The peer is not kept as a contact.
    fn turn_away(&mut self, peer: NodeId) {
        self.send(peer, Message::Leave);
        self.actions.push_back(Action::Disconnect { peer });
        self.forget_peer(peer);
    }

    /// Forgets a neighbour that is gone, and keeps its contact to dial it again.
    pub(super) fn part_from(&mut self, peer: NodeId, parting: Parting) {
        let contact = self.peers.get(peer).and_then(|entry| entry.contact.as_deref().copied());
        self.forget_peer(peer);
        self.members.note_gone(self.now, (peer, parting), contact, &self.config);
    }

    pub(super) fn ban(&mut self, peer: NodeId, fault: PeerFault) {
        let until = self.now.after(self.config.ban_time);
        self.forget_peer(peer);
        self.members.ban(peer, until, &self.config);
        self.actions.push_back(Action::Ban { peer, fault, until });
    }

    fn forget_peer(&mut self, peer: NodeId) {
        self.scope = Scope::All;
        self.is_deadline_stale = true;
        for request in self.requests.of_peer(peer) {
            self.drop_request(request);
        }
        self.stop_uploads_to(peer);
        // Looks at what the peer has, so it comes before the table forgets that.
        self.take_back_chunks_of(peer);
        self.claims.forget_peer(peer);
        self.search.note_end(peer);
        self.peers.remove(peer);
        self.peers.renew_interest();
    }

    /// Whether nothing new has come for so long that the usual sources are not enough.
    pub(super) fn is_starving(&self) -> bool {
        self.progress_at.after(self.config.starve_time) <= self.now
    }

    /// Whether chunks are missing and there are fewer than three quarters of the wanted neighbours:
    /// a node with half as many as others falls behind them.
    pub(super) fn is_hungry(&self) -> bool {
        !self.is_complete() && self.peers.len() * 4 < usize::from(self.config.neighbours_target) * 3
    }

    /// How many more neighbours outside the rack to look for; a node with few
    /// rack mates needs more.
    ///
    /// Neighbours that all lack the same chunks look healthy. A node that starves among
    /// them looks beyond them, but only so far that there is room left for those who have
    /// no neighbours at all.
    pub(super) fn missing_neighbours(&self) -> usize {
        let near = self.peers.near_count();
        let target = usize::from(self.config.neighbours_target).saturating_sub(near);
        let target = if near > 0 { target.max(self.config.far_target.into()) } else { target };
        let far = self.peers.len() - near;
        let looks_beyond = self.is_starving() && far < target * 3 / 2;
        target.saturating_sub(far).max(usize::from(looks_beyond))
    }

    /// Dials contacts until enough dials are under way for the neighbours that are missing.
    pub(super) fn look_for_neighbours(&mut self) {
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
        let near = self.peers.near_count();
        while let Some(contact) = self.members.next_mate(self.now, (near, &self.config), is_known) {
            self.actions.push_back(Action::Connect { contact: Box::new(contact) });
        }
        if is_starving
            && let Some(contact) = self.members.last_resort(self.now, &self.config, is_known)
        {
            self.actions.push_back(Action::Connect { contact: Box::new(contact) });
        }
    }

    pub(super) fn on_tracker_asked(&mut self, tracker: NodeId) {
        let is_hungry = self.is_hungry();
        if self.trackers.begin_along(self.now, tracker, is_hungry, &self.config) {
            self.announce(tracker, false);
        }
    }

    pub(super) fn on_announce_answered(&mut self, tracker: NodeId, answer: &AnnounceAnswer) {
        let interval = (tracker, answer.interval_ms);
        self.trackers.note_answer(self.now, interval, &self.config, &mut self.prng);
        self.members.note_answer(answer, &self.config);
    }

    pub(super) fn on_announce_failed(&mut self, tracker: NodeId) {
        self.trackers.note_failure(self.now, tracker, &self.config, &mut self.prng);
        if self.trackers.are_failing() {
            self.members.plan_recall(self.now);
        }
    }

    pub(super) fn on_contacts_learned(&mut self, contacts: Vec<Contact>) {
        for contact in contacts {
            self.members.learn(contact, &self.config);
        }
    }

    /// Announces to every tracker whose turn it is.
    pub(super) fn announce_where_due(&mut self) {
        let is_hungry = self.is_hungry();
        while let Some(tracker) = self.trackers.begin(self.now, is_hungry, &self.config) {
            self.announce(tracker, false);
        }
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

    /// When to ask a neighbour for contacts; `None` while there is no need or nobody to ask.
    pub(super) fn exchange_due(&self) -> Option<Instant> {
        if self.is_complete() || self.missing_neighbours() == 0 {
            return None;
        }
        let someone = self.peers.iter().any(|entry| entry.contact.is_some());
        self.trackers.exchange_due().filter(|_| someone)
    }

    /// Asks a neighbour for contacts if it is time.
    pub(super) fn exchange_if_due(&mut self) {
        if self.exchange_due().is_none_or(|due| due > self.now) {
            return;
        }
        self.trackers.note_exchange(self.now, &self.config, &mut self.prng);
        let contacts = self.known_contacts();
        if !contacts.is_empty() {
            let contact = Box::new(contacts[self.prng.index_below(contacts.len())]);
            self.actions.push_back(Action::Exchange { contact });
        }
    }
}
