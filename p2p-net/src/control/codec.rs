//! How questions and answers of the control plane lie on a libp2p stream: a tag byte, then the
//! message, to the end of the stream.
//!
//! Invariant: nothing longer than a message may be is read, and no bytes make this panic. What a
//! question means is for the hub, or for the program whose topic it is.

use std::io;

use bytes::Bytes;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::StreamProtocol;
use libp2p::futures::{AsyncRead, AsyncWrite};
use libp2p::request_response;
use p2p_core::Contact;
use p2p_core::wire::{self, Announce, AnnounceAnswer, CONTROL_BYTES_MAX, Exchange};

use super::refusal::Refusal;

/// What one node asks another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Question {
    /// "I am in this swarm; whom should I know?"
    Announce(Announce),
    /// "Whom do you know in this swarm?"
    Exchange(Exchange),
    /// "How do I reach your data plane?"
    Reach,
    /// A question that is not the swarm's. The topic has at most [`TOPIC_BYTES_MAX`] bytes; the
    /// body is opaque to this crate.
    Ask { topic: String, body: Vec<u8> },
}

/// What the other answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Announce(AnnounceAnswer),
    Exchange(Vec<Contact>),
    /// Addresses may be unspecified.
    Reach(Contact),
    /// To what was asked about a topic; opaque to this crate. Many askers may share the bytes.
    Ask(Bytes),
    /// The same about [`STATUS_TOPIC`], which is answered with no more than that it was taken. Read
    /// as an empty [`Self::Ask`].
    Status,
    /// The question makes no sense to this node: a host is no tracker.
    Refused(Refusal),
}

const ANNOUNCE: u8 = 1;
const EXCHANGE: u8 = 2;
const STATUS: u8 = 3;
const REACH: u8 = 4;
const ASK: u8 = 5;
const REFUSED: u8 = 255;

/// Longest topic: a name and a version.
pub(crate) const TOPIC_BYTES_MAX: usize = 64;

/// Most bytes of an answer that tells news. The largest document that is told, each byte of it
/// escaped within another document, takes half of it; prompt answers have names and addresses only,
/// and stay below [`CONTROL_BYTES_MAX`].
pub(crate) const NEWS_BYTES_MAX: usize = 256 << 10;

/// The topic of hosts' status reports. It is older than the others: a question about it has a kind
/// of its own on the wire, which older nodes know.
pub const STATUS_TOPIC: &str = "status";

/// Reads and writes both kinds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlCodec {
    answer_bytes_max: usize,
}

impl ControlCodec {
    /// For answers that come at once.
    pub(crate) const PROMPT: Self = Self { answer_bytes_max: CONTROL_BYTES_MAX };
    /// For answers that come when there is something to say.
    pub(crate) const NEWS: Self = Self { answer_bytes_max: NEWS_BYTES_MAX };
}

impl request_response::Codec for ControlCodec {
    type Protocol = StreamProtocol;
    type Request = Question;
    type Response = Answer;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Question>
    where
        T: AsyncRead + Unpin + Send,
    {
        decode_question(&read_to_end(io, CONTROL_BYTES_MAX).await?)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Answer>
    where
        T: AsyncRead + Unpin + Send,
    {
        decode_answer(&read_to_end(io, self.answer_bytes_max).await?)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        question: Question,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_all(io, &encode_question(&question)).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        answer: Answer,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_all(io, &encode_answer(&answer)).await
    }
}

async fn read_to_end<T: AsyncRead + Unpin + Send>(
    io: &mut T,
    bytes_max: usize,
) -> io::Result<Vec<u8>> {
    // The kind is a byte more.
    let limit = bytes_max + 1;
    let mut bytes = Vec::new();
    io.take(limit as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.len() > limit {
        return Err(malformed("control message is too long"));
    }
    Ok(bytes)
}

async fn write_all<T: AsyncWrite + Unpin + Send>(io: &mut T, bytes: &[u8]) -> io::Result<()> {
    io.write_all(bytes).await?;
    io.close().await
}

fn encode_question(question: &Question) -> Vec<u8> {
    match question {
        Question::Announce(announce) => tagged(ANNOUNCE, wire::encode(announce)),
        Question::Exchange(exchange) => tagged(EXCHANGE, wire::encode(exchange)),
        Question::Reach => vec![REACH],
        Question::Ask { topic, body } if topic == STATUS_TOPIC => tagged(STATUS, body.clone()),
        Question::Ask { topic, body } => {
            let length = u8::try_from(topic.len()).expect("topics are checked before");
            tagged(ASK, [&[length], topic.as_bytes(), body].concat())
        }
    }
}

fn decode_question(bytes: &[u8]) -> io::Result<Question> {
    let (tag, body) = split(bytes)?;
    match tag {
        ANNOUNCE => wire::decode_announce(body).map(Question::Announce).map_err(malformed),
        EXCHANGE => wire::decode_exchange(body).map(Question::Exchange).map_err(malformed),
        STATUS => Ok(Question::Ask { topic: STATUS_TOPIC.to_owned(), body: body.to_vec() }),
        REACH if body.is_empty() => Ok(Question::Reach),
        ASK => decode_ask(body),
        _ => Err(malformed("unknown question")),
    }
}

fn decode_ask(bytes: &[u8]) -> io::Result<Question> {
    let (length, rest) = split(bytes)?;
    let length = usize::from(length);
    let parts = rest.split_at_checked(length).filter(|_| length <= TOPIC_BYTES_MAX);
    let (topic, body) = parts.ok_or_else(|| malformed("topic is cut off or too long"))?;
    let topic = str::from_utf8(topic).map_err(malformed)?.to_owned();
    if topic == STATUS_TOPIC {
        return Err(malformed("a status in the form of other topics"));
    }
    Ok(Question::Ask { topic, body: body.to_vec() })
}

fn encode_answer(answer: &Answer) -> Vec<u8> {
    match answer {
        Answer::Announce(answer) => tagged(ANNOUNCE, wire::encode(answer)),
        Answer::Exchange(contacts) => tagged(EXCHANGE, wire::encode(contacts)),
        Answer::Status => vec![STATUS],
        Answer::Reach(contact) => tagged(REACH, wire::encode(&vec![*contact])),
        Answer::Ask(body) => [&[ASK][..], body].concat(),
        Answer::Refused(refusal) => vec![REFUSED, refusal.to_byte()],
    }
}

fn decode_answer(bytes: &[u8]) -> io::Result<Answer> {
    let (tag, body) = split(bytes)?;
    match tag {
        ANNOUNCE => wire::decode_announce_answer(body).map(Answer::Announce).map_err(malformed),
        EXCHANGE => wire::decode_contacts(body).map(Answer::Exchange).map_err(malformed),
        STATUS => Ok(Answer::Ask(Bytes::new())),
        REACH => match wire::decode_contacts(body).map_err(malformed)?[..] {
            [contact] => Ok(Answer::Reach(contact)),
            _ => Err(malformed("not one contact")),
        },
        ASK => Ok(Answer::Ask(Bytes::copy_from_slice(body))),
        REFUSED => Ok(Answer::Refused(Refusal::from_bytes(body))),
        _ => Err(malformed("unknown answer")),
    }
}

fn tagged(tag: u8, mut body: Vec<u8>) -> Vec<u8> {
    body.insert(0, tag);
    body
}

fn split(bytes: &[u8]) -> io::Result<(u8, &[u8])> {
    let (tag, body) = bytes.split_first().ok_or_else(|| malformed("empty control message"))?;
    Ok((*tag, body))
}

fn malformed(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use p2p_core::{BuildId, Location, NodeId, PeerRole};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn questions_and_answers_round_trip() {
        let exchange = Exchange { build: BuildId::of_manifest(b"x") };
        let ask =
            |topic: &str, body: &[u8]| Question::Ask { topic: topic.into(), body: body.into() };
        let asks =
            [ask("tokens/1", b"{}"), ask("", b""), ask(&"t".repeat(TOPIC_BYTES_MAX), b"\xff")];
        for question in [Question::Exchange(exchange), Question::Reach].into_iter().chain(asks) {
            assert_eq!(decode_question(&encode_question(&question)).unwrap(), question);
        }
        let named = AnnounceAnswer { contacts: vec![], interval_ms: 7, seeder: None };
        let address = "10.0.0.1:7".parse().unwrap();
        let reach = Answer::Reach(Contact {
            node: NodeId::from_bytes([1; 32]),
            control: address,
            data: address,
            role: PeerRole::Host,
            location: Location::default(),
        });
        let exchanged = Answer::Exchange(vec![]);
        let said = Answer::Ask(Bytes::from_static(b"yes"));
        for answer in [Answer::Announce(named), exchanged, reach, said] {
            assert_eq!(decode_answer(&encode_answer(&answer)).unwrap(), answer);
        }
    }

    /// Goal: nodes of before there were reasons and of after there are more understand a refusal.
    #[test]
    fn refusals_of_all_versions_are_understood() {
        let refusals = [
            Refusal::Unnamed,
            Refusal::NotASeeder,
            Refusal::KeepsNoReports,
            Refusal::Swamped,
            Refusal::Unanswered,
        ];
        for refusal in refusals {
            let bytes = encode_answer(&Answer::Refused(refusal));
            assert_eq!(bytes[0], REFUSED, "older nodes read no further");
            assert_eq!(decode_answer(&bytes).unwrap(), Answer::Refused(refusal));
        }
        for bytes in [&[REFUSED][..], &[REFUSED, 200], &[REFUSED, 0, 7]] {
            assert_eq!(decode_answer(bytes).unwrap(), Answer::Refused(Refusal::Unnamed));
        }
    }

    /// Goal: agents and seeders from before and after a status became an ask understand each other.
    /// Method: the bytes of before, in both directions.
    #[test]
    fn status_lies_on_the_wire_as_it_always_did() {
        let status = Question::Ask { topic: STATUS_TOPIC.into(), body: b"fine".into() };
        assert_eq!(encode_question(&status), [&[3][..], b"fine"].concat());
        assert_eq!(decode_question(&[&[3][..], b"fine"].concat()).unwrap(), status);
        assert_eq!(encode_answer(&Answer::Status), [3]);
        assert_eq!(decode_answer(&[3]).unwrap(), Answer::Ask(Bytes::new()));
        let in_the_form_of_others = [&[ASK, 6][..], b"status", b"fine"].concat();
        assert!(decode_question(&in_the_form_of_others).is_err());
    }

    #[test]
    fn malformed_messages_are_refused() {
        let long = [&[ASK, 65][..], &[b't'; 65]].concat();
        assert!(decode_question(&long).is_err(), "a topic that is too long");
        let asks = [&[ASK][..], &[ASK, 3, b't', b't'], &[ASK, 1, 0xff]];
        let others = [&[][..], &[0], &[ANNOUNCE, 1, 2], &[EXCHANGE], &[REACH, 1], &[9; 40]];
        for bytes in asks.into_iter().chain(others) {
            assert!(decode_question(bytes).is_err(), "{bytes:?}");
        }
        for bytes in [&[][..], &[0], &[ANNOUNCE], &[EXCHANGE, 255], &[REACH, 0]] {
            assert!(decode_answer(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn messages_end_at_their_limit() {
        for limit in [CONTROL_BYTES_MAX, NEWS_BYTES_MAX] {
            let read = |length: usize| {
                let mut bytes = futures::io::Cursor::new(vec![STATUS; length]);
                futures::executor::block_on(read_to_end(&mut bytes, limit))
            };
            assert_eq!(read(limit + 1).unwrap().len(), limit + 1);
            assert!(read(limit + 2).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(question) = decode_question(&bytes) {
                prop_assert_eq!(decode_question(&encode_question(&question)).unwrap(), question);
            }
            if let Ok(answer) = decode_answer(&bytes) {
                prop_assert_eq!(decode_answer(&encode_answer(&answer)).unwrap(), answer);
            }
        }

        #[test]
        fn asks_of_any_bytes_are_decoded_without_panic(
            length in any::<u8>(),
            rest in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let bytes = [&[ASK, length][..], &rest].concat();
            if let Ok(question) = decode_question(&bytes) {
                prop_assert_eq!(encode_question(&question), bytes);
            }
        }
    }
}
