//! How to reach a node, and where it stands in the data centre.
//!
//! Claims of whoever sent them, and never proof of anything: a connection proves the key at its
//! other end, and locality only decides who is asked first.

use core::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::node_id::NodeId;

/// What a node is to its swarms.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum PeerRole {
    /// Runs builds; downloads them and passes them on.
    Host,
    /// Brings builds into the region: gives each chunk out once and then leaves the work to hosts.
    Seeder,
}

/// Where a node stands, for locality. Labels are digests of names, so that a wire message has the
/// same size whatever the operator calls a rack; they are compared for equality only.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Location {
    /// The zone; zero if unknown.
    pub zone: u64,
    /// The rack, unique over all zones; zero if unknown.
    pub rack: u64,
}

impl Location {
    /// The location with these names; an empty name is an unknown place.
    pub fn named(zone: &str, rack: &str) -> Self {
        let label = |name: String| {
            let digest = Digest::of(name.as_bytes());
            let mut head = [0; 8];
            head.copy_from_slice(&digest.as_bytes()[..8]);
            // Zero stands for "unknown"; a name that hashes to it moves over by one.
            u64::from_le_bytes(head).max(1)
        };
        Self {
            zone: if zone.is_empty() { 0 } else { label(zone.to_owned()) },
            rack: if rack.is_empty() { 0 } else { label(format!("{zone}\0{rack}")) },
        }
    }

    /// Whether both are known to stand in one rack, so that bytes between them cross no uplink.
    pub(crate) const fn shares_rack_with(self, other: Self) -> bool {
        self.rack != 0 && self.rack == other.rack
    }
}

/// How to reach a node. A claim of whoever sent it: connections are pinned to [`Self::node`], so a
/// wrong address costs a failed dial and nothing else.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Contact {
    /// The key that must answer.
    pub node: NodeId,
    /// UDP address of its control plane.
    pub control: SocketAddr,
    /// UDP address of its data plane.
    pub data: SocketAddr,
    /// What it is.
    pub role: PeerRole,
    /// Where it stands.
    pub location: Location,
}

impl Contact {
    /// Fills in the address that a connection came from, for a node that listens on all addresses
    /// and does not know under which one it is reached.
    #[must_use]
    pub fn seen_from(mut self, observed: IpAddr) -> Self {
        for address in [&mut self.control, &mut self.data] {
            if address.ip().is_unspecified() {
                address.set_ip(observed);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn racks_of_two_zones_differ() {
        let here = Location::named("a", "1");
        assert_eq!(here, Location::named("a", "1"));
        assert_ne!(here.rack, Location::named("b", "1").rack);
        assert_eq!(Location::named("", ""), Location::default());
    }

    #[test]
    fn only_an_unspecified_address_is_filled_in() {
        let contact = Contact {
            node: NodeId::from_bytes([1; 32]),
            control: "0.0.0.0:7".parse().unwrap(),
            data: "10.0.0.9:8".parse().unwrap(),
            role: PeerRole::Host,
            location: Location::default(),
        };
        let seen = contact.seen_from("10.0.0.1".parse().unwrap());
        assert_eq!(seen.control, "10.0.0.1:7".parse().unwrap());
        assert_eq!(seen.data, "10.0.0.9:8".parse().unwrap());
    }
}
