//! Why a node refused a question: what only the refuser knows, told to the refused.
//!
//! On the wire a reason is a byte behind the refusal, which nodes from before there were reasons do
//! not look at; they send none. Invariant: any byte is some reason, so that newer nodes can have
//! reasons that are unknown here.

/// Why a node that was reached refused a question. Each prints as the end of a sentence for people.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It gave none, or one that this version does not know.
    #[error("it gave no reason; it may be of another version")]
    Unnamed,
    /// It is no seeder, and only seeders answer this.
    #[error("that node is not a seeder")]
    NotASeeder,
    /// A status report to a seeder on which nobody reads them.
    #[error("the seeder keeps no reports: it was started without --goal")]
    KeepsNoReports,
    /// More questions wait than it has room for.
    #[error("too many questions wait there")]
    Swamped,
    /// The program behind the seeder does not answer this.
    #[error("nobody answers such a question there; it may be of an older version")]
    Unanswered,
}

impl Refusal {
    /// The byte on the wire.
    pub(crate) const fn to_byte(self) -> u8 {
        match self {
            Self::Unnamed => 0,
            Self::NotASeeder => 1,
            Self::KeepsNoReports => 2,
            Self::Swamped => 3,
            Self::Unanswered => 4,
        }
    }

    /// The reason behind a refusal, whatever is there.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        match bytes.first() {
            Some(1) => Self::NotASeeder,
            Some(2) => Self::KeepsNoReports,
            Some(3) => Self::Swamped,
            Some(4) => Self::Unanswered,
            _ => Self::Unnamed,
        }
    }
}
