//! Why bytes from a store were refused.

use p2p_core::ManifestError;

/// Why bytes are not the object that they should be. Nothing of a refused object is kept.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes are some other file.
    #[error("not a {what} of Shoal: the magic number is missing")]
    NoMagic {
        /// What was expected.
        what: &'static str,
    },
    /// The object was written by a newer Shoal.
    #[error("{what} has version {actual}, this Shoal reads version {expected}: update it")]
    UnknownVersion {
        /// What was read.
        what: &'static str,
        /// Version in the header.
        actual: u8,
        /// Version this code reads.
        expected: u8,
    },
    /// The object uses something that this version keeps room for and cannot read yet.
    #[error("{what} uses {feature}, which this Shoal cannot read: update it")]
    Unsupported {
        /// What was read.
        what: &'static str,
        /// What it uses.
        feature: &'static str,
    },
    /// The bytes end too early, go on too long, or hold an impossible number.
    #[error("{what} is damaged: it does not decode")]
    Undecodable {
        /// What was read.
        what: &'static str,
    },
    /// The bytes are not those that were written.
    #[error("{what} is damaged: its checksum does not match")]
    WrongChecksum {
        /// What was read.
        what: &'static str,
    },
    /// More bytes than a reader is willing to hold.
    #[error("{what} has {actual} bytes, the limit is {limit}")]
    TooLarge {
        /// What was read.
        what: &'static str,
        /// Its bytes.
        actual: u64,
        /// Most bytes of it.
        limit: u64,
    },
    /// A segment lies outside of its pack, or its lengths contradict each other.
    #[error("a segment is refused: {reason}")]
    Segment {
        /// What is wrong.
        reason: &'static str,
    },
    /// The index does not fit the manifest.
    #[error("the index is refused: {reason}")]
    Index {
        /// What is wrong.
        reason: &'static str,
    },
    /// The manifest is not that of the build.
    #[error("the manifest is refused")]
    Manifest(#[from] ManifestError),
}
