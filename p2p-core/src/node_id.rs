//! The name of a node: its public key.
//!
//! Only a name here: who holds the private key is proved by connections, which the core never sees.
//! Invariant: equal names are equal keys.

use core::fmt;

use serde::{Deserialize, Serialize};

/// An ed25519 public key. A libp2p `PeerId` of such a key is the same 32 bytes in another wrapping,
/// so a driver converts between the two without a table.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// The node with this public key. The core does not check that it is a point of the curve.
    pub const fn from_bytes(public_key: [u8; 32]) -> Self {
        Self(public_key)
    }

    /// The public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Eight bytes distinguish the nodes of a fleet and leave room in a log line.
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}
