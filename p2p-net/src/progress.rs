//! What a download tells about itself while it runs, and a node about all of them.

use std::fmt::{self, Display};

use p2p_core::NodeId;
use serde::{Deserialize, Serialize};

use crate::data::transport::TransportKind;

/// How far a download has come. All counts are of the download's own process; they start at zero.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
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
    /// Peers banned for a fault, with what they did, oldest first.
    pub faults: Vec<String>,
    /// Why nothing is happening, in words for a person; `None` while chunks arrive.
    pub waiting_for: Option<String>,
}

/// Connections by transport.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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

/// A host's report as a seeder receives it; the bytes are the host's claim.
#[derive(Clone, Debug)]
pub struct StatusReport {
    /// Who sent it, as the connection proved.
    pub node: NodeId,
    /// What it said, at most 64 KiB.
    pub report: Vec<u8>,
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
