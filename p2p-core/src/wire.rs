//! What nodes say to each other.
//!
//! Two families: [`Message`] between neighbours about one build (data plane, beside the chunk
//! streams), and [`Announce`] / [`Exchange`] between nodes and trackers or neighbours (control
//! plane). Every message is a claim of its sender. Decoding bounds what it allocates by the length
//! of its input and never panics, and of what it lets through no handler pays more than for its
//! bytes: runs of chunks do not overlap. The state machine judges whether the content makes sense.

#![deny(clippy::indexing_slicing)]

use serde::{Deserialize, Serialize};

use crate::chunk_set::ChunkSet;
use crate::contact::Contact;
use crate::digest::BuildId;
use crate::layout::{CHUNKS_MAX, ChunkIndex};
use crate::node_id::NodeId;

/// Most bytes of an encoded [`Message`]. The largest is a `Join` with a packed set of
/// [`CHUNKS_MAX`] chunks, which takes half of it.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// Most bytes of an encoded control message. An announce names each neighbour of its sender.
pub const CONTROL_BYTES_MAX: usize = 64 << 10;

/// Most contacts or neighbours that one control message may list.
pub const CONTACTS_MAX: usize = 256;

/// Names a request between two nodes, for the answer to repeat. Unique per asking swarm.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// What one neighbour says to another about a build.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// "I take part, and this is what I have." First message in each direction; sent again when the
    /// sender learns the manifest. Replaces everything offered before.
    Join {
        /// What the sender is and how to reach it; addresses may be unspecified.
        contact: Box<Contact>,
        /// What the sender has; `None` while it does not know the manifest.
        have: Option<Have>,
    },
    /// "These chunks are new with me", as runs of consecutive chunks.
    Offer {
        /// The chunks.
        runs: Runs,
    },
    /// "Send me this chunk." Answered by a chunk stream, which may carry another chunk that the
    /// asker lacks if the sender is a seeder, or by `Busy`.
    Request {
        /// The asker's name for the request.
        request: RequestId,
        /// The chunk.
        chunk: u32,
    },
    /// "I no longer need the answer to this request."
    Cancel {
        /// The asker's name for the request.
        request: RequestId,
    },
    /// "I will not answer this request now."
    Busy {
        /// The asker's name for the request.
        request: RequestId,
        /// When to ask again at the earliest, in milliseconds from now.
        retry_after_ms: u32,
    },
    /// "Send me the manifest." Answered by a manifest stream or by `NoManifest`.
    RequestManifest,
    /// "I do not have the manifest."
    NoManifest,
    /// "I do not take part (any more)."
    Leave,
    /// "I have chunks that you lack, and nothing to send: ask me."
    Ready,
    /// "I bring this chunk into our rack; wait for my offer." Said to one's neighbours in the rack.
    Claim {
        /// The chunk.
        chunk: u32,
    },
    /// "I do not bring this chunk after all."
    Disclaim {
        /// The chunk.
        chunk: u32,
    },
}

/// The chunks that somebody has.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Have {
    /// Chunks of the build.
    chunk_count: u32,
    chunks: HaveForm,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
enum HaveForm {
    Nothing,
    Everything,
    Packed(Vec<u8>),
}

/// Chunks as runs of consecutive ones, each a first chunk and a length. Invariant: no run is empty,
/// and each begins past the chunk after the one before, so that no chunk is named twice and no two
/// runs could be one.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u32, u32)>")]
pub struct Runs(Vec<(u32, u32)>);

/// Why a list of first chunks and lengths is no [`Runs`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RunsError {
    /// A run without a chunk.
    #[error("run at chunk {start} is empty")]
    Empty {
        /// Where it is.
        start: u32,
    },
    /// A run that begins before, within or right behind the one before it.
    #[error("run at chunk {start} is not apart from the one that ends before chunk {end}")]
    NotApart {
        /// Where it begins.
        start: u32,
        /// The first chunk behind the run before it.
        end: u32,
    },
    /// A run past the last chunk that any build may have.
    #[error("run at chunk {start} has {length} chunks, a build has at most {limit}")]
    TooLong {
        /// Where it begins.
        start: u32,
        /// Its chunks.
        length: u32,
        /// Most chunks of a build.
        limit: u32,
    },
}

impl TryFrom<Vec<(u32, u32)>> for Runs {
    type Error = RunsError;

    fn try_from(runs: Vec<(u32, u32)>) -> Result<Self, RunsError> {
        // Behind the last run, and the one chunk that keeps the next run apart from it.
        let mut behind: Option<u32> = None;
        for (start, length) in &runs {
            let (start, length) = (*start, *length);
            if length == 0 {
                return Err(RunsError::Empty { start });
            }
            if let Some(end) = behind.filter(|end| start <= *end) {
                return Err(RunsError::NotApart { start, end });
            }
            let end = start.checked_add(length).filter(|end| *end <= CHUNKS_MAX);
            let limit = CHUNKS_MAX;
            behind = Some(end.ok_or(RunsError::TooLong { start, length, limit })?);
        }
        Ok(Self(runs))
    }
}

impl Runs {
    /// The runs of these chunks, which must be sorted and differ.
    pub fn of(chunks: &[ChunkIndex]) -> Self {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for chunk in chunks {
            match runs.last_mut() {
                Some((start, length)) if *start + *length == chunk.get() => *length += 1,
                _ => runs.push((chunk.get(), 1)),
            }
        }
        Self(runs)
    }

    /// First chunk and length of each run, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + Clone + '_ {
        self.0.iter().copied()
    }

    /// The first number past the last chunk; zero without a chunk.
    pub fn end(&self) -> u32 {
        self.0.last().map_or(0, |(start, length)| start + length)
    }
}

impl Have {
    /// Chunks of the build, by the sender's account.
    pub(crate) const fn chunk_count(&self) -> u32 {
        self.chunk_count
    }

    /// The wire form of a set.
    pub fn of(set: &ChunkSet) -> Self {
        let chunks = if set.is_full() {
            HaveForm::Everything
        } else if set.is_empty() {
            HaveForm::Nothing
        } else {
            HaveForm::Packed(set.to_bytes())
        };
        Self { chunk_count: set.capacity(), chunks }
    }

    /// The set; `None` if the claim is impossible.
    pub fn to_set(&self) -> Option<ChunkSet> {
        if self.chunk_count > CHUNKS_MAX {
            return None;
        }
        match &self.chunks {
            HaveForm::Nothing => Some(ChunkSet::empty(self.chunk_count)),
            HaveForm::Everything => Some(ChunkSet::full(self.chunk_count)),
            HaveForm::Packed(bytes) => ChunkSet::from_bytes(self.chunk_count, bytes),
        }
    }
}

impl Message {
    /// An offer of these chunks, which must be sorted and differ.
    pub fn offer(chunks: &[ChunkIndex]) -> Self {
        Self::Offer { runs: Runs::of(chunks) }
    }
}

/// "I am in the swarm of this build": what a node says to a tracker, at the interval it was given.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Announce {
    /// The build.
    pub build: BuildId,
    /// How to reach the sender.
    pub contact: Contact,
    /// Its neighbours for this build.
    pub neighbours: Vec<NodeId>,
    /// How many more it would like.
    pub wanted: u16,
    /// Whether it has every chunk.
    pub is_complete: bool,
    /// Whether it is on its way out and must not be handed out any more.
    pub is_leaving: bool,
}

/// A tracker's answer to an [`Announce`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct AnnounceAnswer {
    /// Nodes to connect to.
    pub contacts: Vec<Contact>,
    /// When to announce again, in milliseconds.
    pub interval_ms: u32,
    /// The seeder behind the tracker, if it has the build: the place of last resort.
    pub seeder: Option<Contact>,
}

/// "Whom do you know?": asked of a neighbour when no tracker answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// The build.
    pub build: BuildId,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Longer than any message of its kind.
    #[error("message has {actual} bytes, the limit is {limit}")]
    TooLong {
        /// Its bytes.
        actual: usize,
        /// Most bytes of its kind.
        limit: usize,
    },
    /// Truncated, unknown, with bytes after its end, or with runs that are no [`Runs`].
    #[error("message does not decode")]
    Undecodable,
    /// It lists more nodes than [`CONTACTS_MAX`].
    #[error("message lists {actual} nodes, the limit is {limit}")]
    TooManyNodes {
        /// Nodes listed.
        actual: usize,
        /// Most nodes of a message.
        limit: usize,
    },
}

/// Encodes a message of either plane.
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    postcard::to_stdvec(message)
        .expect("a vector takes any amount and messages have no foreign types")
}

/// Decodes one message and nothing after it.
fn decode<'a, M: Deserialize<'a>>(bytes: &'a [u8], limit: usize) -> Result<M, WireError> {
    if bytes.len() > limit {
        return Err(WireError::TooLong { actual: bytes.len(), limit });
    }
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(WireError::Undecodable),
    }
}

/// Decodes a [`Message`].
///
/// # Errors
///
/// If the bytes are too long or not exactly one message.
pub fn decode_message(bytes: &[u8]) -> Result<Message, WireError> {
    decode(bytes, MESSAGE_BYTES_MAX)
}

/// Decodes an [`Announce`].
///
/// # Errors
///
/// If the bytes are too long, not exactly one announce, or list too many nodes.
pub fn decode_announce(bytes: &[u8]) -> Result<Announce, WireError> {
    let announce: Announce = decode(bytes, CONTROL_BYTES_MAX)?;
    check_count(announce.neighbours.len())?;
    Ok(announce)
}

/// Decodes an [`AnnounceAnswer`].
///
/// # Errors
///
/// As [`decode_announce`].
pub fn decode_announce_answer(bytes: &[u8]) -> Result<AnnounceAnswer, WireError> {
    let answer: AnnounceAnswer = decode(bytes, CONTROL_BYTES_MAX)?;
    check_count(answer.contacts.len())?;
    Ok(answer)
}

/// Decodes an [`Exchange`].
///
/// # Errors
///
/// If the bytes are too long or not exactly one exchange.
pub fn decode_exchange(bytes: &[u8]) -> Result<Exchange, WireError> {
    decode(bytes, CONTROL_BYTES_MAX)
}

/// Decodes the contacts that answer an [`Exchange`].
///
/// # Errors
///
/// As [`decode_announce`].
pub fn decode_contacts(bytes: &[u8]) -> Result<Vec<Contact>, WireError> {
    let contacts: Vec<Contact> = decode(bytes, CONTROL_BYTES_MAX)?;
    check_count(contacts.len())?;
    Ok(contacts)
}

fn check_count(actual: usize) -> Result<(), WireError> {
    if actual > CONTACTS_MAX {
        return Err(WireError::TooManyNodes { actual, limit: CONTACTS_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contact::{Location, PeerRole};
    use crate::layout::ChunkLayout;

    fn contact() -> Contact {
        Contact {
            node: NodeId::from_bytes([7; 32]),
            control: "[2001:db8::1]:7400".parse().unwrap(),
            data: "0.0.0.0:7401".parse().unwrap(),
            role: PeerRole::Seeder,
            location: Location::named("zone", "rack"),
        }
    }

    #[test]
    fn messages_round_trip() {
        let set = {
            let mut set = ChunkSet::empty(10);
            let layout = ChunkLayout::new([1; 10].into_iter()).unwrap();
            set.insert(layout.index(3).unwrap());
            set
        };
        let messages = [
            Message::Join { contact: Box::new(contact()), have: None },
            Message::Join { contact: Box::new(contact()), have: Some(Have::of(&set)) },
            Message::Offer { runs: runs(&[(0, 4), (9, 1)]) },
            Message::Request { request: RequestId(u64::MAX), chunk: 7 },
            Message::Cancel { request: RequestId(1) },
            Message::Busy { request: RequestId(1), retry_after_ms: 50 },
            Message::RequestManifest,
            Message::NoManifest,
            Message::Leave,
            Message::Claim { chunk: 7 },
            Message::Disclaim { chunk: 7 },
        ];
        for message in messages {
            assert_eq!(decode_message(&encode(&message)), Ok(message));
        }
        assert_eq!(Have::of(&set).to_set(), Some(set));
    }

    #[test]
    fn largest_join_fits_a_message() {
        let mut set = ChunkSet::full(CHUNKS_MAX);
        set.remove(ChunkIndex::new_unchecked(5));
        let join = Message::Join { contact: Box::new(contact()), have: Some(Have::of(&set)) };
        assert!(encode(&join).len() <= MESSAGE_BYTES_MAX);
    }

    #[test]
    fn offers_are_runs() {
        let chunks: Vec<_> = [1, 2, 3, 7, 9, 10].map(ChunkIndex::new_unchecked).into();
        let expected = Message::Offer { runs: runs(&[(1, 3), (7, 1), (9, 2)]) };
        assert_eq!(Message::offer(&chunks), expected);
    }

    fn runs(list: &[(u32, u32)]) -> Runs {
        list.to_vec().try_into().unwrap()
    }

    /// The bytes of an offer of any list: an offer has the form of a number and of its list.
    fn offer_bytes(list: &[(u32, u32)]) -> Vec<u8> {
        let empty = encode(&Message::Offer { runs: Runs::default() });
        let kind = empty.first().copied();
        kind.into_iter().chain(encode(&list)).collect()
    }

    /// Goal: no offer names a chunk twice, so that its bytes bound what it costs.
    #[test]
    fn runs_that_are_not_apart_do_not_decode() {
        type Case = (&'static str, &'static [(u32, u32)], RunsError);
        const LAST: u32 = CHUNKS_MAX - 1;
        let refused: [Case; 9] = [
            ("repeating", &[(0, 8), (0, 8)], RunsError::NotApart { start: 0, end: 8 }),
            ("overlapping", &[(0, 8), (7, 8)], RunsError::NotApart { start: 7, end: 8 }),
            ("within", &[(0, 8), (2, 1)], RunsError::NotApart { start: 2, end: 8 }),
            ("adjacent", &[(0, 8), (8, 1)], RunsError::NotApart { start: 8, end: 8 }),
            ("descending", &[(9, 1), (0, 1)], RunsError::NotApart { start: 0, end: 10 }),
            ("empty", &[(3, 0)], RunsError::Empty { start: 3 }),
            ("empty at the start", &[(0, 0), (1, 1)], RunsError::Empty { start: 0 }),
            (
                "past every build",
                &[(LAST, 2)],
                RunsError::TooLong { start: LAST, length: 2, limit: CHUNKS_MAX },
            ),
            (
                "past every number",
                &[(u32::MAX, u32::MAX)],
                RunsError::TooLong { start: u32::MAX, length: u32::MAX, limit: CHUNKS_MAX },
            ),
        ];
        for (name, list, error) in refused {
            assert_eq!(Runs::try_from(list.to_vec()), Err(error), "{name}");
            assert_eq!(decode_message(&offer_bytes(list)), Err(WireError::Undecodable), "{name}");
        }
        let taken: [&[(u32, u32)]; 4] = [&[], &[(0, 1), (2, 1)], &[(0, CHUNKS_MAX)], &[(LAST, 1)]];
        for list in taken {
            let expected = Message::Offer { runs: runs(list) };
            assert_eq!(decode_message(&offer_bytes(list)), Ok(expected), "{list:?}");
        }
    }

    /// Goal: the message of F2 of the review is no message: all the runs that fit, all of them the
    /// whole build.
    #[test]
    fn message_of_one_run_over_and_over_is_refused() {
        let bytes = offer_bytes(&vec![(0, 840); 80_000]);
        assert!(bytes.len() <= MESSAGE_BYTES_MAX);
        assert_eq!(decode_message(&bytes), Err(WireError::Undecodable));
    }

    #[test]
    fn overlong_and_trailing_bytes_are_refused() {
        let limit = MESSAGE_BYTES_MAX;
        let long = vec![0; limit + 1];
        assert_eq!(decode_message(&long), Err(WireError::TooLong { actual: limit + 1, limit }));
        let mut trailing = encode(&Message::Leave);
        trailing.push(0);
        assert_eq!(decode_message(&trailing), Err(WireError::Undecodable));
        assert_eq!(decode_message(&[]), Err(WireError::Undecodable));
    }

    #[test]
    fn impossible_sets_are_refused() {
        let huge = Have { chunk_count: CHUNKS_MAX + 1, chunks: HaveForm::Nothing };
        assert_eq!(huge.to_set(), None);
        let short = Have { chunk_count: 9, chunks: HaveForm::Packed(vec![0]) };
        assert_eq!(short.to_set(), None);
    }

    proptest! {
        /// Goal: what a node offers is accepted by every other, and means the same to it.
        #[test]
        fn offers_that_are_made_are_accepted(
            chunks in prop::collection::btree_set(0_u32..3_000, 0..300),
        ) {
            let indices: Vec<_> = chunks.iter().copied().map(ChunkIndex::new_unchecked).collect();
            let message = Message::offer(&indices);
            prop_assert_eq!(decode_message(&encode(&message)), Ok(message.clone()));
            let Message::Offer { runs } = message else { panic!("not an offer") };
            prop_assert_eq!(runs.end(), chunks.last().map_or(0, |last| last + 1));
            let named: Vec<u32> =
                runs.iter().flat_map(|(start, length)| start..start + length).collect();
            prop_assert_eq!(named, chunks.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Message::Join { have: Some(have), .. }) = decode_message(&bytes) {
                let _ = have.to_set();
            }
            drop(decode_announce(&bytes));
            drop(decode_announce_answer(&bytes));
            decode_exchange(&bytes).ok();
            drop(decode_contacts(&bytes));
        }
    }
}
