//! The hub's part in connections: links that come and go, dials, bans, and what is sent.
//!
//! Keeps the table of [`links`](super::links) and what the swarms believe in step: a swarm learns
//! of each peer it gained or lost as an event. Whom to connect to and whom to ban is for the swarms
//! to decide.

use p2p_core::wire::Message;
use p2p_core::{BuildId, Contact, Event, Instant, NodeId};
use tracing::debug;

use crate::data::link::{Link, LinkId};

use super::Hub;
use super::links::Admission;

#[expect(clippy::multiple_inherent_impl, reason = "the hub is cut by concern")]
impl Hub {
    pub(super) fn on_linked(&mut self, node: NodeId, outcome: Result<Link, String>) {
        let link = match outcome {
            Ok(link) if self.is_banned(node) => {
                link.close("banned");
                return self.on_dial_failed(node, "it is banned");
            }
            Ok(link) => link,
            Err(reason) => return self.on_dial_failed(node, &reason),
        };
        let waiting = match self.links.admit(self.contact.node, link) {
            Admission::Taken { waiting } => waiting,
            Admission::Replaced { old, waiting } => {
                old.link.close("replaced");
                for build in &old.builds {
                    self.lose_peer(*build, node);
                    self.links.attach(node, *build);
                    self.pending.push_back((*build, Event::PeerConnected { peer: node }));
                }
                waiting
            }
            Admission::Surplus { link, waiting } => {
                link.close("there is another connection");
                waiting
            }
        };
        for build in waiting {
            self.links.attach(node, build);
            self.pending.push_back((build, Event::PeerConnected { peer: node }));
        }
        self.note_connections();
    }

    pub(super) fn on_dial_failed(&mut self, node: NodeId, reason: &str) {
        debug!(%node, reason, "could not connect");
        for build in self.links.end_dial(node) {
            self.pending.push_back((build, Event::DialFailed { peer: node }));
        }
    }

    pub(super) fn on_link_lost(&mut self, id: LinkId, node: NodeId) {
        if self.links.is_current(node, id)
            && let Some(linked) = self.links.remove(node)
        {
            for build in linked.builds {
                self.lose_peer(build, node);
            }
            self.note_connections();
        }
    }

    pub(super) fn note_connections(&self) {
        self.board.note_links(self.links.counts());
    }

    pub(super) fn lose_peer(&mut self, build: BuildId, node: NodeId) {
        self.data.expectations().cancel_peer(node, build);
        self.pending.push_back((build, Event::PeerLost { peer: node }));
    }

    pub(super) fn on_malformed(&mut self, node: NodeId, build: Option<BuildId>) {
        let event = Event::MalformedReceived { peer: node };
        let builds = self.links.get(node).map(|linked| linked.builds.clone()).unwrap_or_default();
        match build.filter(|build| builds.contains(build)).or(builds.first().copied()) {
            Some(build) => self.pending.push_back((build, event)),
            // No swarm to judge it: hang up.
            None => {
                if let Some(linked) = self.links.get(node) {
                    linked.link.close("malformed");
                }
            }
        }
    }

    pub(super) fn connect(&mut self, build: BuildId, contact: Contact) {
        let node = contact.node;
        if self.links.get(node).is_some() {
            self.links.attach(node, build);
            self.pending.push_back((build, Event::PeerConnected { peer: node }));
            return;
        }
        if self.is_banned(node) {
            self.pending.push_back((build, Event::DialFailed { peer: node }));
            return;
        }
        if self.links.begin_dial(node, build) {
            self.data.dial(contact);
        }
    }

    pub(super) fn disconnect(&mut self, build: BuildId, node: NodeId) {
        self.data.expectations().cancel_peer(node, build);
        self.links.detach(node, build);
    }

    pub(super) fn ban(&mut self, node: NodeId, until: Instant) {
        let now = self.clock.now();
        self.banned.retain(|_, until| *until > now);
        self.banned.insert(node, until);
        if let Some(linked) = self.links.remove(node) {
            linked.link.close("banned");
            for build in linked.builds {
                self.lose_peer(build, node);
            }
        }
    }

    pub(super) fn is_banned(&self, node: NodeId) -> bool {
        self.banned.get(&node).is_some_and(|until| *until > self.clock.now())
    }

    pub(super) fn send(&mut self, build: BuildId, node: NodeId, message: &Message) {
        if let Some(linked) = self.links.get(node)
            && linked.link.send(build, message).is_err()
        {
            debug!(%node, "peer does not read what it is sent");
            linked.link.close("too slow");
        }
    }
}
