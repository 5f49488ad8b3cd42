//! Why a question to another node got no answer, in cases for a program to match on.
//!
//! Each prints as the end of a sentence for people: libp2p's own texts name layers that they have
//! never met.

use p2p_core::NodeId;

use crate::identity::name_of;

use super::refusal::Refusal;

/// Why another node did not answer a question, or not as it should.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// There is nobody to ask: the node's list of seeders is empty.
    #[error("no seeder is configured")]
    NoSeeder,
    /// It was reached, and refused to answer.
    #[error("{refusal}")]
    Refused {
        /// Its reason.
        refusal: Refusal,
    },
    /// Its name is no key, so nobody can prove to be it.
    #[error("its key is not valid")]
    InvalidKey,
    /// Nothing listens at its address, or a node with another key does.
    #[error("nobody answers there, or not the node {}", name_of(*node))]
    NotReached {
        /// The node that was to be asked.
        node: NodeId,
    },
    /// It was reached, but its answer takes too long.
    #[error("it does not answer in time")]
    TimedOut,
    /// It closed the connection before it answered.
    #[error("it closed the connection")]
    Closed,
    /// It does not know this version of the protocol.
    #[error("it speaks another version of the protocol")]
    OtherVersion,
    /// It does not know the protocol of questions that are answered when there is something to say.
    #[error("it is of an older version, which tells no news; update it")]
    TellsNoNews,
    /// The connection failed under way.
    #[error("the connection failed: {reason}")]
    Broken {
        /// What the system or the codec said.
        reason: String,
    },
    /// This node has too many questions under way to ask another.
    #[error("too many questions are waiting")]
    Swamped,
}
