//! What a download shows of itself while it runs, and a node of all of them.
//!
//! Pure values, which the hub fills in. Every type that people are to see prints itself; a program
//! matches on it instead.

use std::fmt::{self, Display};

use p2p_core::{BuildId, NodeId, PeerFault};
use serde::Serialize;

use crate::address::SeederAddress;
use crate::control::NoAnswer;
use crate::data::transport::TransportKind;
use crate::identity::name_of;

/// How far a download has come. All counts are of the download's own process; they start at zero.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// What the download is doing.
    pub phase: Phase,
    /// Bytes of the build; `None` until its manifest is here.
    pub bytes_total: Option<u64>,
    /// Bytes of chunks that are verified and stored, those of earlier attempts included.
    pub bytes_done: u64,
    /// Bytes of chunks that an earlier, interrupted attempt had stored.
    pub bytes_resumed: u64,
    /// Bytes of chunks copied from other builds on this host, verified like any other.
    pub bytes_reused: u64,
    /// Chunk bytes received from seeders, discarded ones included.
    pub bytes_from_seeders: u64,
    /// Chunk bytes received from other hosts, discarded ones included.
    pub bytes_from_peers: u64,
    /// Chunk bytes sent to others, before and after the own copy was complete.
    pub bytes_served: u64,
    /// Chunks sent to others while the own copy was not complete.
    pub chunks_served_early: u64,
    /// Neighbours connected now.
    pub neighbours: u32,
    /// Connections to them by transport.
    pub links: LinkCounts,
    /// Peers banned for a fault, oldest first.
    pub faults: Vec<BannedPeer>,
    /// Why nothing is happening; `None` while chunks arrive.
    pub waiting_for: Option<WaitingFor>,
}

/// A peer that lost this node's trust, and by what. Prints as a sentence for people.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BannedPeer {
    /// Whom, as the connection proved.
    pub node: NodeId,
    /// What it did.
    pub fault: PeerFault,
}

impl Display for BannedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "banned {}: it {}", name_of(self.node), self.fault)
    }
}

/// What a download that does not move waits for. Prints as a sentence for people, with what they
/// can do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum WaitingFor {
    /// For the address of a seeder: the node knows none.
    SeederAddress,
    /// For the first answer of a seeder.
    Answer {
        /// The seeders of the node's list.
        asked: Vec<SeederAddress>,
    },
    /// For a seeder to answer: none does.
    Seeder {
        /// The seeders of the node's list.
        asked: Vec<SeederAddress>,
        /// What happened to the last question.
        reason: NoAnswer,
    },
    /// For somebody who has the build: seeders answer, but nobody they know has it.
    Source {
        /// The build.
        build: BuildId,
        /// The seeders of the node's list.
        asked: Vec<SeederAddress>,
    },
    /// For connections to the nodes that have the build.
    Neighbours,
    /// For a place at the seeder, which turned this node away.
    Room,
    /// For the manifest, which no neighbour has sent yet.
    Manifest,
    /// For chunks: neighbours are busy, or have nothing that is missing here.
    Chunks,
}

impl Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |seeders: &[SeederAddress]| {
            let names: Vec<String> = seeders.iter().map(SeederAddress::to_string).collect();
            names.join(", ")
        };
        match self {
            Self::SeederAddress => f.write_str("no seeder is configured: name one with --seeder"),
            Self::Answer { asked } => write!(f, "asking the seeder {}", listed(asked)),
            Self::Seeder { asked, reason: NoAnswer::Refused { refusal } } => write!(
                f,
                "no seeder answers ({}): {refusal}; check that these are addresses of seeders",
                listed(asked)
            ),
            Self::Seeder { asked, reason } => write!(
                f,
                "no seeder answers ({}): {reason}; check that it runs and that its UDP port is \
                 reachable",
                listed(asked)
            ),
            Self::Source { build, asked } => write!(
                f,
                "no seeder has build {build} (asked {}); check the id, or publish the build to \
                 the seeder's store",
                listed(asked)
            ),
            Self::Neighbours => f.write_str("connecting to other nodes"),
            Self::Room => f.write_str(
                "the seeder turned this node away: it has no room for another neighbour, or no \
                 longer serves the build; trying again, and looking for other nodes",
            ),
            Self::Manifest => f.write_str("neighbours have not sent the manifest yet"),
            Self::Chunks => f.write_str("neighbours are busy or have nothing new"),
        }
    }
}

/// Connections by transport.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LinkCounts {
    /// QUIC over UDP.
    pub quic: u32,
    /// TLS over TCP.
    pub tcp: u32,
}

impl LinkCounts {
    pub(crate) fn count(kinds: impl Iterator<Item = TransportKind>) -> Self {
        let mut counts = Self::default();
        for kind in kinds {
            match kind {
                TransportKind::Quic => counts.quic += 1,
                TransportKind::Tcp => counts.tcp += 1,
            }
        }
        counts
    }

    /// Connections in all.
    pub const fn total(self) -> u32 {
        self.quic + self.tcp
    }
}

impl Display for LinkCounts {
    /// `tcp 12, quic 2`, without what is zero; `none` if there are no connections.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tcp, self.quic) {
            (0, 0) => f.write_str("none"),
            (tcp, 0) => write!(f, "tcp {tcp}"),
            (0, quic) => write!(f, "quic {quic}"),
            (tcp, quic) => write!(f, "tcp {tcp}, quic {quic}"),
        }
    }
}

/// What a download is doing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Phase {
    /// Looking for a node that has the build's manifest.
    #[default]
    Locating,
    /// Checking chunks that an earlier attempt left behind.
    Resuming,
    /// Chunks are being exchanged.
    Downloading,
    /// Every chunk is here; the whole build is read back, checked and moved into place.
    Verifying,
    /// The build is complete and served to others.
    Serving,
}

/// What a node moved since its start, over all builds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct NodeStats {
    /// Chunk bytes sent.
    pub bytes_sent: u64,
    /// Chunk bytes received.
    pub bytes_received: u64,
    /// Data connections open now.
    pub links: LinkCounts,
}

impl NodeStats {
    pub(crate) const fn add(&mut self, progress: &Progress) {
        self.bytes_sent += progress.bytes_served;
        self.bytes_received += progress.bytes_from_seeders + progress.bytes_from_peers;
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::Digest;

    use super::*;
    use crate::control::Refusal;
    use crate::identity::Identity;

    /// Goal: what people read, and what scripts search for, stays as it is.
    #[test]
    fn sentences_are_those_that_people_know() {
        let node = Identity::generate();
        let (node, name) = (node.node(), node.peer_id().to_string());
        let address = |port: u16| SeederAddress { socket: ([10, 0, 0, 1], port).into(), node };
        let asked = vec![address(1), address(2)];
        let listed = format!("{}, {}", asked[0], asked[1]);
        let build = BuildId::from_digest(Digest::of(b"x"));
        let silent = WaitingFor::Seeder { asked: asked.clone(), reason: NoAnswer::TimedOut };
        let cases = [
            (WaitingFor::SeederAddress, "no seeder is configured: name one with --seeder".into()),
            (WaitingFor::Answer { asked: asked.clone() }, format!("asking the seeder {listed}")),
            (
                silent,
                format!(
                    "no seeder answers ({listed}): it does not answer in time; check that it runs \
                     and that its UDP port is reachable"
                ),
            ),
            (
                WaitingFor::Source { build, asked },
                format!(
                    "no seeder has build {build} (asked {listed}); check the id, or publish the \
                     build to the seeder's store"
                ),
            ),
            (
                WaitingFor::Seeder {
                    asked: vec![address(1)],
                    reason: NoAnswer::Refused { refusal: Refusal::NotASeeder },
                },
                format!(
                    "no seeder answers ({}): that node is not a seeder; check that these are \
                     addresses of seeders",
                    address(1)
                ),
            ),
            (WaitingFor::Neighbours, "connecting to other nodes".into()),
            (
                WaitingFor::Room,
                "the seeder turned this node away: it has no room for another neighbour, or no \
                 longer serves the build; trying again, and looking for other nodes"
                    .into(),
            ),
            (WaitingFor::Manifest, "neighbours have not sent the manifest yet".into()),
            (WaitingFor::Chunks, "neighbours are busy or have nothing new".into()),
        ];
        for (waiting_for, expected) in cases {
            assert_eq!(waiting_for.to_string(), expected);
        }
        let banned = BannedPeer { node, fault: PeerFault::WrongBytes { chunk: 7 } };
        let expected = format!("banned {name}: it sent wrong bytes for chunk 7");
        assert_eq!(banned.to_string(), expected);
        let reasons = [
            (
                NoAnswer::NotReached { node },
                format!("nobody answers there, or not the node {name}"),
            ),
            (NoAnswer::Broken { reason: "x".into() }, "the connection failed: x".into()),
        ];
        for (reason, expected) in reasons {
            assert_eq!(reason.to_string(), expected);
        }
    }
}
