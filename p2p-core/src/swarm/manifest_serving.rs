//! The manifests that are being sent: to each neighbour one at a time.
//!
//! A question is a message of a few bytes, a manifest is a task of the driver and megabytes on the
//! wire, so the state machine counts them. Invariant: an entry per manifest under way, and none is
//! ordered while the asker has one; an entry ends with the manifest or with the connection, and not
//! before, or whoever leaves and joins again would get another each time.

use std::collections::BTreeMap;

use crate::action::Action;
use crate::fault::PeerFault;
use crate::node_id::NodeId;
use crate::wire::Message;

use super::Swarm;

/// The manifests under way, by whom they go to.
#[derive(Debug, Default)]
pub(super) struct ManifestServing {
    under_way: BTreeMap<NodeId, Sending>,
    /// Manifests begun, for their names.
    begun: u64,
}

/// A manifest under way.
#[derive(Clone, Copy, Debug)]
struct Sending {
    serve: u64,
    /// How often its receiver asked for it again.
    repeats: u16,
}

/// What to do about a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ruling {
    /// Begin to send, under this name.
    Send { serve: u64 },
    /// The one under way is the answer.
    UnderWay { repeats: u16 },
    /// As many are under way as may be.
    Full,
}

impl ManifestServing {
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    fn on_question(&mut self, peer: NodeId, sendings_max: usize) -> Ruling {
        if let Some(sending) = self.under_way.get_mut(&peer) {
            sending.repeats = sending.repeats.saturating_add(1);
            return Ruling::UnderWay { repeats: sending.repeats };
        }
        if self.under_way.len() >= sendings_max {
            return Ruling::Full;
        }
        self.begun += 1;
        self.under_way.insert(peer, Sending { serve: self.begun, repeats: 0 });
        Ruling::Send { serve: self.begun }
    }

    /// It was sent, or cannot be. What ended before is of a connection that is gone.
    pub(super) fn note_end(&mut self, peer: NodeId, serve: u64) {
        if self.under_way.get(&peer).is_some_and(|sending| sending.serve == serve) {
            self.under_way.remove(&peer);
        }
    }

    /// The connection is gone, and what was being sent on it.
    pub(super) fn note_lost(&mut self, peer: NodeId) {
        self.under_way.remove(&peer);
    }
}

#[expect(clippy::multiple_inherent_impl, reason = "serving manifests is a concern of its own")]
impl Swarm {
    pub(super) fn on_manifest_request(&mut self, peer: NodeId) {
        if self.layout.is_none() {
            return self.send(peer, Message::NoManifest);
        }
        match self.manifests.on_question(peer, self.manifests_max()) {
            Ruling::Send { serve } => self.actions.push_back(Action::ServeManifest { peer, serve }),
            Ruling::UnderWay { repeats } if repeats > self.config.manifest_repeats_max => {
                self.ban(peer, PeerFault::ManifestFlood { repeats: repeats.into() });
            }
            Ruling::UnderWay { .. } => {}
            // The asker goes to somebody else, or asks again in a moment.
            Ruling::Full => self.send(peer, Message::NoManifest),
        }
    }

    /// Most manifests that are sent at once: one for each place in the neighbourhood. Those to
    /// neighbours that left and are still connected count, too.
    pub(super) fn manifests_max(&self) -> usize {
        self.config.neighbours_max_at(self.contact.location)
    }
}
