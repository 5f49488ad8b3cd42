//! Connections, messages, and questions to trackers and neighbours.
//!
//! Times are those of the production driver (`p2p-net/src/data.rs`, `p2p-net/src/control.rs`).

use core::time::Duration;

use p2p_core::wire::{Announce, Message};
use p2p_core::{Event, Instant};

use crate::node::{Node, id_of};
use crate::queue::{NodeIndex, Step};

use super::{Fleet, Parcel};

/// How long a connection lives after nothing came from its other end.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(10);

/// How long a dial to a node that is gone takes to fail.
const DIAL_TIME: Duration = Duration::from_secs(5);

/// How long a question to a node that is gone takes to fail.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Bytes of a manifest per chunk: digest and length.
const MANIFEST_BYTES_PER_CHUNK: u64 = 36;

impl Fleet {
    pub(super) fn connect(&mut self, from: NodeIndex, to: NodeIndex) {
        let node = &mut self.nodes[from as usize];
        if let Some(connection) = node.connection(to) {
            connection.is_attached = true;
            return self.give(from, Event::PeerConnected { peer: id_of(to) });
        }
        if node.dialling.contains(&to) {
            return;
        }
        node.dialling.push(to);
        let is_there = self.nodes.get(to as usize).is_some_and(Node::is_alive);
        let is_there = is_there && !self.is_cut(from, to);
        // A handshake takes a round trip.
        let takes = if is_there { self.scenario.latency * 2 } else { DIAL_TIME };
        self.queue.push(self.later(takes), Step::DialEnded { from, to });
    }

    pub(super) fn on_dial_ended(&mut self, from: NodeIndex, to: NodeIndex) {
        let now = self.now;
        let is_banned = |node: &Node, peer| {
            node.banned.iter().any(|(banned, until)| *banned == peer && *until > now)
        };
        let node = &mut self.nodes[from as usize];
        node.dialling.retain(|peer| *peer != to);
        if !node.is_alive() {
            return;
        }
        let is_refused = is_banned(node, to) || self.is_cut(from, to);
        let other = &self.nodes[to as usize];
        if is_refused || !other.is_alive() || is_banned(other, from) {
            return self.give(from, Event::DialFailed { peer: id_of(to) });
        }
        self.lose_if_stale(from, to);
        self.lose_if_stale(to, from);
        // When both dial at once, the first connection stays.
        if let Some(connection) = self.nodes[from as usize].connection(to) {
            connection.is_attached = true;
        } else {
            self.nodes[from as usize].connect(to, true);
            self.nodes[to as usize].connect(from, false);
        }
        self.give(from, Event::PeerConnected { peer: id_of(to) });
    }

    /// A new connection takes the place of one whose other end died unnoticed.
    fn lose_if_stale(&mut self, node: NodeIndex, peer: NodeIndex) {
        let connection = self.nodes[node as usize].connection(peer);
        if connection.is_some_and(|connection| connection.is_stale) {
            self.lose(node, peer);
            self.lose_messages(node, peer);
        }
    }

    /// What was sent on a connection does not arrive on the one that takes its place.
    fn lose_messages(&mut self, from: NodeIndex, to: NodeIndex) {
        let is_lost = |parcel: &(NodeIndex, NodeIndex, Parcel)| {
            (parcel.0, parcel.1) == (to, from) && matches!(parcel.2, Parcel::Message(_))
        };
        let lost = self.parcels.iter().filter(|(_, parcel)| is_lost(parcel));
        let lost: Vec<_> = lost.map(|(key, _)| key).collect();
        for key in lost {
            self.parcels.remove(key);
        }
    }

    pub(super) fn lose(&mut self, node: NodeIndex, peer: NodeIndex) {
        self.end_serves_to(node, peer);
        let lost = self.nodes[node as usize].disconnect(peer);
        if lost.is_some_and(|connection| connection.is_attached) {
            self.give(node, Event::PeerLost { peer: id_of(peer) });
        }
    }

    pub(super) fn on_peer_silent(&mut self, node: NodeIndex, peer: NodeIndex) {
        self.lose_if_stale(node, peer);
    }

    /// The swarm no longer needs the connection, which stays open for another deploy.
    pub(super) fn detach(&mut self, from: NodeIndex, peer: NodeIndex) {
        let node = &mut self.nodes[from as usize];
        node.expected.retain(|(of, _)| *of != peer);
        if let Some(connection) = node.connection(peer) {
            connection.is_attached = false;
        }
    }

    pub(super) fn ban(&mut self, from: NodeIndex, peer: NodeIndex, until: Instant) {
        self.counts.bans += 1;
        let now = self.now;
        let node = &mut self.nodes[from as usize];
        node.banned.retain(|(_, until)| *until > now);
        node.banned.push((peer, until));
        self.lose(from, peer);
        if let Some(connection) = self.nodes[peer as usize].connection(from) {
            connection.is_stale = true;
            let at = self.later(self.scenario.latency);
            self.queue.push(at, Step::PeerSilent { node: peer, peer: from });
        }
    }

    /// Sends a message, if there is a connection to send it on.
    pub(super) fn send(&mut self, from: NodeIndex, to: NodeIndex, message: Message) {
        let Some(connection) = self.nodes[from as usize].connection(to) else { return };
        // What is sent to one that died unnoticed must not reach it when it has returned.
        let is_lost = connection.is_stale;
        let Some(message) = self.twist(from, message) else { return };
        let counts = &mut self.counts;
        counts.messages += 1;
        match &message {
            Message::Offer { .. } => counts.offers += 1,
            Message::Request { .. } => counts.requests += 1,
            Message::Busy { .. } => counts.refusals += 1,
            Message::Cancel { .. } => counts.cancels += 1,
            Message::Claim { .. } | Message::Disclaim { .. } => counts.claims += 1,
            Message::Join { .. }
            | Message::RequestManifest
            | Message::NoManifest
            | Message::Ready
            | Message::Leave => {}
        }
        if !is_lost {
            self.post(from, to, Parcel::Message(message));
        }
    }

    pub(super) fn on_message(&mut self, to: NodeIndex, from: NodeIndex, message: Message) {
        let node = &mut self.nodes[to as usize];
        if !node.is_alive() {
            return;
        }
        self.message_loads[to as usize].note(self.now);
        let Some(connection) = node.connection(from) else { return };
        let is_join = matches!(message, Message::Join { .. });
        if is_join && !core::mem::replace(&mut connection.is_attached, true) {
            self.pending.push_back((to, Event::PeerConnected { peer: id_of(from) }));
        }
        if let Message::Busy { request, .. } = &message {
            node.unexpect(from, *request);
        }
        self.give(to, Event::MessageReceived { peer: id_of(from), message });
    }

    pub(super) fn send_manifest(&mut self, from: NodeIndex, to: NodeIndex, serve: u64) {
        self.counts.manifests += 1;
        if self.is_cut(from, to) {
            return self.hold_back(from, to, Parcel::Manifest { serve });
        }
        let bytes = MANIFEST_BYTES_PER_CHUNK * u64::from(self.layout.chunk_count());
        let (server, asker) = (&self.nodes[from as usize], &self.nodes[to as usize]);
        let slower = self.network.rate_of(server.uplink).min(self.network.rate_of(asker.downlink));
        let at = self.later(self.scenario.latency + slower.occupancy(bytes));
        self.post_at(at, from, to, Parcel::Manifest { serve });
    }

    pub(super) fn announce(
        &mut self,
        from: NodeIndex,
        tracker: NodeIndex,
        announce: Box<Announce>,
    ) {
        self.counts.announces += 1;
        if from == tracker {
            self.on_announce(tracker, from, &announce);
        } else {
            self.post(from, tracker, Parcel::Announce(announce));
        }
    }

    /// An announce reaches a tracker, which answers unless it is dead.
    pub(super) fn on_announce(&mut self, tracker: NodeIndex, from: NodeIndex, announce: &Announce) {
        self.announce_loads[tracker as usize].note(self.now);
        if !self.are_trackers_alive || !self.nodes[tracker as usize].is_alive() {
            let at = self.later(ANSWER_TIME);
            return self.post_at(at, tracker, from, Parcel::NoAnswer);
        }
        let answer = self.trackers[tracker as usize].answer(self.now, announce);
        if from == tracker {
            self.give(
                from,
                Event::AnnounceAnswered { tracker: id_of(tracker), answer: Box::new(answer) },
            );
        } else {
            self.post(tracker, from, Parcel::Answer(Box::new(answer)));
        }
    }

    pub(super) fn on_exchange_asked(&mut self, to: NodeIndex, from: NodeIndex) {
        if let Some(swarm) = &self.nodes[to as usize].swarm {
            self.post(to, from, Parcel::Contacts(swarm.known_contacts()));
        } else {
            let at = self.later(ANSWER_TIME);
            self.post_at(at, to, from, Parcel::Contacts(Vec::new()));
        }
    }
}
