//! One machine of the fleet: its state machine, and what a driver keeps beside it.
//!
//! The same tables as the production driver's (`p2p-net/src/hub.rs`): connections, dials, what was
//! asked for, what is being sent. They decide nothing about the protocol.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use p2p_core::wire::RequestId;
use p2p_core::{ChunkSet, Contact, Instant, Location, NodeId, PeerRole, Swarm};

use crate::network::LinkIndex;
use crate::queue::NodeIndex;
use crate::slab::SlabKey;

/// Odd, so that multiplication is a bijection; spreads consecutive numbers over all names, because
/// real names are keys and tables ordered by name must not favour any machine.
const SPREAD: u32 = 0x9E37_79B1;

/// The inverse of [`SPREAD`] modulo 2^32, by Newton's iteration: each step doubles the right bits.
const GATHER: u32 = {
    let mut inverse = SPREAD;
    let mut step = 0;
    while step < 5 {
        inverse = inverse.wrapping_mul(2_u32.wrapping_sub(SPREAD.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
};

/// The name of the machine at `index`.
pub(crate) fn id_of(index: NodeIndex) -> NodeId {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&index.wrapping_mul(SPREAD).to_be_bytes());
    NodeId::from_bytes(key)
}

/// The machine with this name.
pub(crate) fn index_of(node: NodeId) -> NodeIndex {
    let key = node.as_bytes();
    u32::from_be_bytes([key[0], key[1], key[2], key[3]]).wrapping_mul(GATHER)
}

/// How to reach the machine at `index`. Nothing in the simulator uses the address.
pub(crate) fn contact_of(index: NodeIndex, role: PeerRole, location: Location) -> Contact {
    let address = SocketAddr::from((Ipv4Addr::from(index), 7_401));
    Contact { node: id_of(index), control: address, data: address, role, location }
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    pub(crate) peer: NodeIndex,
    /// The swarm counts the peer as connected.
    pub(crate) is_attached: bool,
    /// The other end is gone, which this end will notice when nothing comes for a while.
    pub(crate) is_stale: bool,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Node {
    /// `None` before it starts and while it is down.
    pub(crate) swarm: Option<Box<Swarm>>,
    pub(crate) contact: Contact,
    pub(crate) seed: u64,
    /// What it had stored when it went down; `None` if it never had the manifest.
    pub(crate) kept: Option<ChunkSet>,
    /// The contacts that its disk kept when it went down.
    pub(crate) remembered: Vec<Contact>,
    /// How often it crashed.
    pub(crate) crashes: u32,
    /// Sorted by peer.
    connections: Vec<Connection>,
    pub(crate) dialling: Vec<NodeIndex>,
    /// Peers that were banned, and until when.
    pub(crate) banned: Vec<(NodeIndex, Instant)>,
    /// Chunks asked for and not received: of whom, under which name.
    pub(crate) expected: Vec<(NodeIndex, RequestId)>,
    /// Chunks being sent or waiting for the uplink, to find what is cancelled.
    pub(crate) serving: Vec<(NodeIndex, RequestId, SlabKey)>,
    /// Chunks that wait for the uplink.
    pub(crate) uplink_queue: VecDeque<SlabKey>,
    /// The chunk on the uplink.
    pub(crate) sending: Option<SlabKey>,
    pub(crate) uplink: LinkIndex,
    pub(crate) downlink: LinkIndex,
    pub(crate) rack: Option<u32>,
    /// When it has hashed and written what it received.
    pub(crate) disk_free_at: Instant,
    /// When the live alarm goes off; `None` if there is none.
    pub(crate) alarm_at: Option<Instant>,
    pub(crate) alarm_generation: u32,
    /// When it first had every chunk.
    pub(crate) completed_at: Option<Instant>,
}

impl Node {
    pub(crate) fn new(
        contact: Contact,
        seed: u64,
        (uplink, downlink): (LinkIndex, LinkIndex),
    ) -> Self {
        Self {
            swarm: None,
            contact,
            seed,
            kept: None,
            remembered: Vec::new(),
            crashes: 0,
            connections: Vec::new(),
            dialling: Vec::new(),
            banned: Vec::new(),
            expected: Vec::new(),
            serving: Vec::new(),
            uplink_queue: VecDeque::new(),
            sending: None,
            uplink,
            downlink,
            rack: None,
            disk_free_at: Instant::ZERO,
            alarm_at: None,
            alarm_generation: 0,
            completed_at: None,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.swarm.is_some()
    }

    pub(crate) fn connection(&mut self, peer: NodeIndex) -> Option<&mut Connection> {
        let place = self.connections.binary_search_by_key(&peer, |one| one.peer).ok()?;
        Some(&mut self.connections[place])
    }

    pub(crate) fn is_connected(&self, peer: NodeIndex) -> bool {
        self.connections.binary_search_by_key(&peer, |one| one.peer).is_ok()
    }

    pub(crate) fn connected_peers(&self) -> impl Iterator<Item = NodeIndex> {
        self.connections.iter().map(|connection| connection.peer)
    }

    /// A connection to `peer` is there; whoever had one before has a new one.
    pub(crate) fn connect(&mut self, peer: NodeIndex, is_attached: bool) {
        let connection = Connection { peer, is_attached, is_stale: false };
        match self.connections.binary_search_by_key(&peer, |one| one.peer) {
            Ok(place) => self.connections[place] = connection,
            Err(place) => self.connections.insert(place, connection),
        }
    }

    /// The connection to `peer` is gone, with everything that was asked for on it.
    pub(crate) fn disconnect(&mut self, peer: NodeIndex) -> Option<Connection> {
        let place = self.connections.binary_search_by_key(&peer, |one| one.peer).ok()?;
        self.expected.retain(|(of, _)| *of != peer);
        Some(self.connections.remove(place))
    }

    pub(crate) fn take_connections(&mut self) -> Vec<Connection> {
        core::mem::take(&mut self.connections)
    }

    /// Forgets that a chunk was asked for. Returns whether it was.
    pub(crate) fn unexpect(&mut self, peer: NodeIndex, request: RequestId) -> bool {
        let place = self.expected.iter().position(|one| *one == (peer, request));
        place.map(|place| self.expected.swap_remove(place)).is_some()
    }

    /// Forgets a chunk that was being sent.
    pub(crate) fn end_serving(&mut self, transfer: SlabKey) {
        if let Some(place) = self.serving.iter().position(|(_, _, key)| *key == transfer) {
            self.serving.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_machines() {
        for index in [0, 1, 2, 77, 200_000, u32::MAX] {
            assert_eq!(index_of(id_of(index)), index);
        }
    }
}
