//! The connections of a node: at most one per peer, which builds use it, and dials under way.
//!
//! Owns the choice between two connections to one peer, and when one that no build uses is closed.
//! Speaks to no swarm: what changed is returned to the hub.

use std::collections::{BTreeMap, BTreeSet};

use p2p_core::{BuildId, NodeId, PeerRole};
use tokio::time::{Duration, Instant};

use crate::data::DIAL_TIME;
use crate::data::link::{Link, LinkId};
use crate::progress::LinkCounts;

/// A connection that no build uses is closed after this time; a deploy is often followed by
/// another.
const UNUSED_TIME: Duration = Duration::from_secs(10);

/// A peer that is connected.
#[derive(Debug)]
pub(super) struct Linked {
    pub(super) link: Link,
    /// Builds whose swarm counts it as connected.
    pub(super) builds: BTreeSet<BuildId>,
    /// What its last join said it is.
    pub(super) role: PeerRole,
    since: Instant,
    unused_since: Option<Instant>,
}

/// All connections and dials.
#[derive(Debug, Default)]
pub(super) struct Links {
    linked: BTreeMap<NodeId, Linked>,
    /// Builds that wait for a dial.
    dialling: BTreeMap<NodeId, BTreeSet<BuildId>>,
}

/// What became of a connection that was offered to the table.
#[derive(Debug)]
pub(super) enum Admission {
    /// It is the connection to the peer now.
    Taken {
        /// Builds that wait for a connection to the peer.
        waiting: BTreeSet<BuildId>,
    },
    /// It takes the place of another, whose builds lose the peer and get it again.
    Replaced {
        /// The connection to close.
        old: Box<Linked>,
        /// Builds that wait for a connection to the peer.
        waiting: BTreeSet<BuildId>,
    },
    /// There is one already; close this one.
    Surplus {
        /// The connection to close.
        link: Box<Link>,
        /// Builds that wait for a connection to the peer, and get the one that stays.
        waiting: BTreeSet<BuildId>,
    },
}

impl Links {
    /// All connections by transport.
    pub(super) fn counts(&self) -> LinkCounts {
        LinkCounts::count(self.linked.values().map(|linked| linked.link.transport))
    }

    /// The connections of one build by transport.
    pub(super) fn counts_of(&self, build: BuildId) -> LinkCounts {
        let of_build = self.linked.values().filter(|linked| linked.builds.contains(&build));
        LinkCounts::count(of_build.map(|linked| linked.link.transport))
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Linked> {
        self.linked.get(&node)
    }

    pub(super) fn get_mut(&mut self, node: NodeId) -> Option<&mut Linked> {
        self.linked.get_mut(&node)
    }

    /// Whether `id` is the connection to `node`, rather than one that was replaced.
    pub(super) fn is_current(&self, node: NodeId, id: LinkId) -> bool {
        self.linked.get(&node).is_some_and(|linked| linked.link.id == id)
    }

    /// Notes that `build` waits for a dial to `node`. Returns whether the dial must be started.
    pub(super) fn begin_dial(&mut self, node: NodeId, build: BuildId) -> bool {
        let is_new = !self.dialling.contains_key(&node);
        self.dialling.entry(node).or_default().insert(build);
        is_new
    }

    /// The builds that waited for a dial that failed.
    pub(super) fn end_dial(&mut self, node: NodeId) -> BTreeSet<BuildId> {
        self.dialling.remove(&node).unwrap_or_default()
    }

    /// Takes in a new connection to a peer.
    ///
    /// If there is one already, the newest wins: a peer that dials again has lost the other, a
    /// restarted process for example. Only when both ends dial each other at the same moment must
    /// both keep the same one of the two: the one that the smaller name opened. And a peer that
    /// dials over both transports at once drops the one that comes up last: that must not cost the
    /// first.
    pub(super) fn admit(&mut self, own: NodeId, link: Link) -> Admission {
        let node = link.node;
        let waiting = self.end_dial(node);
        let opened_by_smaller = |link: &Link| link.is_ours == (own < node);
        if let Some(old) = self.linked.get(&node)
            && !old.link.is_closed()
            && old.since.elapsed() < DIAL_TIME
            && if old.link.is_ours == link.is_ours {
                !link.is_ours && old.link.transport != link.transport
            } else {
                opened_by_smaller(&old.link)
            }
        {
            return Admission::Surplus { link: Box::new(link), waiting };
        }
        let since = Instant::now();
        let (builds, role) = (BTreeSet::new(), PeerRole::Host);
        let linked = Linked { link, builds, role, since, unused_since: Some(since) };
        match self.linked.insert(node, linked) {
            Some(old) => Admission::Replaced { old: Box::new(old), waiting },
            None => Admission::Taken { waiting },
        }
    }

    /// Forgets the connection to `node`.
    pub(super) fn remove(&mut self, node: NodeId) -> Option<Linked> {
        self.linked.remove(&node)
    }

    /// Notes that `build` uses the connection. Returns whether it did not before.
    pub(super) fn attach(&mut self, node: NodeId, build: BuildId) -> bool {
        let Some(linked) = self.linked.get_mut(&node) else { return false };
        linked.unused_since = None;
        linked.builds.insert(build)
    }

    /// Notes that `build` no longer uses the connection.
    pub(super) fn detach(&mut self, node: NodeId, build: BuildId) {
        if let Some(linked) = self.linked.get_mut(&node) {
            linked.builds.remove(&build);
            if linked.builds.is_empty() {
                linked.unused_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Closes connections that no build has used for a while.
    pub(super) fn close_unused(&mut self) {
        let is_old = |since: Instant| since.elapsed() >= UNUSED_TIME;
        self.linked.retain(|_, linked| {
            let is_unused = linked.unused_since.is_some_and(is_old);
            if is_unused {
                linked.link.close("unused");
            }
            !is_unused
        });
    }

    /// Whether some connection waits to be closed as unused.
    pub(super) fn has_unused(&self) -> bool {
        self.linked.values().any(|linked| linked.unused_since.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::link::testing::quiet_link;
    use crate::data::transport::TransportKind;

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    /// Goal: of the connections of one peer the right one stays.
    /// Method: each row offers two within a moment: who opened the first and the second, over what;
    /// and whether the second takes the place of the first.
    #[tokio::test]
    async fn second_connection_replaces_the_first_unless_it_was_a_race() {
        use TransportKind::{Quic, Tcp};
        let (smaller, larger) = (node(1), node(2));
        let cases = [
            // The peer lost the first one and dials again.
            (smaller, (false, Tcp), (false, Tcp), true),
            // The peer dials over both transports; the later one is dropped by it.
            (smaller, (false, Tcp), (false, Quic), false),
            (smaller, (false, Quic), (false, Tcp), false),
            // Both dial at once: the one that the smaller name opened stays.
            (smaller, (true, Tcp), (false, Tcp), false),
            (smaller, (false, Tcp), (true, Tcp), true),
            (larger, (true, Tcp), (false, Tcp), true),
            (larger, (false, Tcp), (true, Tcp), false),
        ];
        for (own, first, second, is_replaced) in cases {
            let peer = if own == smaller { larger } else { smaller };
            let mut links = Links::default();
            let offer = |links: &mut Links, id, (is_ours, transport)| {
                links.admit(own, quiet_link((LinkId(id), peer), is_ours, transport))
            };
            assert!(matches!(offer(&mut links, 1, first), Admission::Taken { .. }));
            let replaced = matches!(offer(&mut links, 2, second), Admission::Replaced { .. });
            assert_eq!(replaced, is_replaced, "{own}: {first:?}, then {second:?}");
            assert!(links.is_current(peer, LinkId(if is_replaced { 2 } else { 1 })));
        }
    }
}
