//! What a peer did to lose our trust. Values, not errors: the download goes on without the peer.
//!
//! Detected in the handlers of `swarm/`; the driver carries out the ban. Never an error and never a
//! panic: a peer must not be able to stop a node.

/// A peer's misbehaviour. One is enough for a ban: no correct node commits any of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PeerFault {
    /// It sent bytes that do not hash to the digest of `chunk`.
    WrongBytes {
        /// The chunk.
        chunk: u32,
    },
    /// It sent a manifest that does not hash to the build's name.
    WrongManifest,
    /// It spoke of chunk `raw` of a build that has only `chunk_count`.
    NoSuchChunk {
        /// The number it named.
        raw: u32,
        /// Chunks of the build.
        chunk_count: u32,
    },
    /// It claims another chunk count than the manifest, or an impossible set.
    WrongLayout,
    /// It asked for more chunks at once than any correct node does.
    RequestFlood {
        /// Requests it has waiting.
        waiting: usize,
    },
    /// It asked for the manifest over and over while it was being sent to it.
    ManifestFlood {
        /// How often it asked again.
        repeats: usize,
    },
    /// It sent bytes that are no message, or an offer whose runs overlap or are out of order.
    Malformed,
}

impl core::fmt::Display for PeerFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::WrongBytes { chunk } => write!(f, "sent wrong bytes for chunk {chunk}"),
            Self::WrongManifest => write!(f, "sent a manifest of another build"),
            Self::NoSuchChunk { raw, chunk_count } => {
                write!(f, "spoke of chunk {raw} of a build of {chunk_count}")
            }
            Self::WrongLayout => write!(f, "claims an impossible set of chunks"),
            Self::RequestFlood { waiting } => write!(f, "has {waiting} requests waiting"),
            Self::ManifestFlood { repeats } => {
                write!(f, "asked {repeats} times for a manifest that was on its way to it")
            }
            Self::Malformed => write!(f, "sent bytes that are no message"),
        }
    }
}
