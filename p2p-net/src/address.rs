//! The address of a seeder, as people write it: a multiaddr that ends in the seeder's PeerId.
//!
//! Owns both directions, text and libp2p's form, and takes QUIC over UDP only. Invariant: an
//! address names the key that must answer there, so a wrong one reaches nobody.

use core::fmt;
use core::str::FromStr;
use std::net::{IpAddr, SocketAddr};

use libp2p::PeerId;
use libp2p::multiaddr::{Multiaddr, Protocol};
use p2p_core::NodeId;

use crate::identity::{node_of, peer_id_of};

/// Where a seeder's control plane listens, and whose key must answer there.
///
/// Written `/ip4/10.0.0.1/udp/7400/quic-v1/p2p/12D3KooW...`, or with `ip6`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SeederAddress {
    /// IP address and UDP port.
    pub socket: SocketAddr,
    /// The key that the connection is pinned to.
    pub node: NodeId,
}

/// Why a text is not the address of a seeder.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{text:?} is not a seeder's address; expected /ip4/ADDRESS/udp/PORT/quic-v1/p2p/PEER_ID, as shoal-seeder prints it"
)]
pub struct ParseSeederAddressError {
    text: String,
}

impl SeederAddress {
    /// The address without the PeerId, for libp2p to listen on or dial.
    pub(crate) fn transport(&self) -> Multiaddr {
        transport_of(self.socket)
    }

    fn peer_id(&self) -> Option<PeerId> {
        peer_id_of(self.node)
    }
}

/// The libp2p form of a QUIC address.
pub(crate) fn transport_of(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Udp(socket.port())).with(Protocol::QuicV1)
}

/// The socket behind a libp2p QUIC address; `None` for any other kind of address.
pub(crate) fn socket_of(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else { return None };
    matches!(parts.next()?, Protocol::QuicV1).then_some(SocketAddr::new(ip, port))
}

impl FromStr for SeederAddress {
    type Err = ParseSeederAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let address: Multiaddr = text.parse().ok()?;
            let Protocol::P2p(peer) = address.iter().last()? else { return None };
            if address.iter().count() != 4 {
                return None;
            }
            Some(Self { socket: socket_of(&address)?, node: node_of(&peer)? })
        };
        parse().ok_or_else(|| ParseSeederAddressError { text: text.into() })
    }
}

impl fmt::Display for SeederAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer_id() {
            Some(peer) => write!(f, "{}/p2p/{peer}", self.transport()),
            None => write!(f, "{}", self.transport()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn address_round_trips() {
        for socket in ["127.0.0.1:7400", "[::1]:9"] {
            let address = SeederAddress {
                socket: socket.parse().unwrap(),
                node: Identity::generate().node(),
            };
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let peer = Identity::generate().peer_id();
        let cases = [
            String::new(),
            "10.0.0.1:7400".into(),
            "/ip4/10.0.0.1/udp/7400/quic-v1".into(),
            format!("/ip4/10.0.0.1/tcp/7400/p2p/{peer}"),
            format!("/ip4/10.0.0.1/udp/7400/quic-v1/p2p/{peer}/p2p-circuit"),
            "/ip4/10.0.0.1/udp/7400/quic-v1/p2p/nonsense".into(),
        ];
        for text in cases {
            assert!(text.parse::<SeederAddress>().is_err(), "{text}");
        }
    }
}
