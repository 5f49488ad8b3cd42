//! Questions for news: answered when there is something to say, to thousands at once, and not by
//! nodes of before there were any. Strangers here are libp2p nodes of the tests' own, of which
//! hundreds cost little.

use std::io;
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::futures::{AsyncRead, AsyncWrite};
use libp2p::request_response::{self, Message, ProtocolSupport};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder};
use p2p_net::{Ask, AskError, Bytes, NoAnswer, Node, Refusal, SeederAddress};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::rig::{host, host_config, seeder, soon};

const NEWS: StreamProtocol = StreamProtocol::new("/shoal/news/1");
const PROMPT: StreamProtocol = StreamProtocol::new("/shoal/control/1");

/// What a stranger may have on its way at once with one seeder.
const STREAMS_MAX: usize = 4;

/// Kinds of question and answer on the wire: about a topic, and a refusal with its reason.
const ASK: u8 = 5;
const REFUSED: u8 = 255;
const SWAMPED: u8 = 3;

/// Bytes as they are, to the end of the stream.
#[derive(Clone, Copy, Default)]
struct Raw;

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read_request(&NEWS, io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await?;
        io.close().await
    }

    async fn write_response<T>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.write_request(protocol, io, bytes).await
    }
}

fn stranger(protocol: StreamProtocol) -> Swarm<request_response::Behaviour<Raw>> {
    let config = request_response::Config::default().with_request_timeout(Duration::from_mins(1));
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_quic()
        .with_behaviour(|_| {
            request_response::Behaviour::new([(protocol, ProtocolSupport::Full)], config)
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_mins(1)))
        .build()
}

/// A question of a stranger about `news/1`.
fn question(body: &[u8]) -> Vec<u8> {
    [&[ASK, 6][..], b"news/1", body].concat()
}

/// Strangers that shake hands at once: more would be late on a busy machine.
static DIALS: Semaphore = Semaphore::const_new(16);

/// Asks `count` such questions at once as one node, and waits for their answers.
async fn ask_as_a_stranger(seeder: SeederAddress, count: usize, body: Vec<u8>) -> Vec<Vec<u8>> {
    let mut stranger = stranger(NEWS);
    let address: Multiaddr = seeder.to_string().parse().unwrap();
    let peer = PeerId::from_multihash(
        address
            .iter()
            .find_map(|part| match part {
                libp2p::multiaddr::Protocol::P2p(peer) => Some(peer.into()),
                _ => None,
            })
            .unwrap(),
    )
    .unwrap();
    let mut dial = Some(DIALS.acquire().await.unwrap());
    for _ in 0..count {
        let behaviour = stranger.behaviour_mut();
        let addresses = vec![address.clone()];
        behaviour.send_request_with_addresses(&peer, question(&body), addresses);
    }
    let mut answers = Vec::new();
    while answers.len() < count {
        match stranger.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => dial = None,
            SwarmEvent::Behaviour(request_response::Event::Message {
                message: Message::Response { response, .. },
                ..
            }) => answers.push(response),
            SwarmEvent::Behaviour(request_response::Event::OutboundFailure { error, .. }) => {
                panic!("{error}")
            }
            _ => {}
        }
    }
    drop(dial);
    answers
}

async fn next(seeder: &Node) -> Ask {
    soon(seeder.next_ask_for_news()).await.unwrap()
}

/// Goal: a question for news is answered when there are any, with more bytes than a prompt answer
/// may have, and holds up no other question.
#[tokio::test]
async fn news_come_when_there_are_any() {
    let seeder = seeder(None).await;
    let host = host(&seeder).await;
    let (id, asking) = (seeder.id(), host.clone());
    let asked =
        tokio::spawn(async move { asking.ask_for_news(id, "news/1", b"what?".to_vec()).await });
    let kept = next(&seeder).await;
    assert_eq!((kept.node, &*kept.topic, &*kept.body), (host.id(), "news/1", &b"what?"[..]));
    let kept = kept.keep();

    let (asking, answering) = (host.clone(), seeder.clone());
    let prompt = tokio::spawn(async move { asking.ask(id, "t", vec![]).await });
    soon(answering.next_ask()).await.unwrap().answer(b"at once".to_vec());
    assert_eq!(soon(prompt).await.unwrap(), Ok(b"at once".to_vec()));
    assert!(!asked.is_finished());

    let largest = Bytes::from(vec![7; Ask::NEWS_BYTES_MAX]);
    soon(kept.tell(largest.clone())).await;
    assert_eq!(soon(asked).await.unwrap().unwrap(), largest);

    // One that is dropped is refused at once, and not waited for.
    let asking = host.clone();
    let asked = tokio::spawn(async move { asking.ask_for_news(id, "tea/1", vec![]).await });
    drop(next(&seeder).await);
    let refused = Err(AskError::Refused { refusal: Refusal::Unanswered });
    assert_eq!(soon(asked).await.unwrap(), refused);
    let not_a_seeder = self::host(&host).await;
    let refused = Err(AskError::Refused { refusal: Refusal::NotASeeder });
    assert_eq!(soon(not_a_seeder.ask_for_news(host.id(), "news/1", vec![])).await, refused);
}

/// Goal: a host whose seeder ends while it waits for news hears of it at once, and not only from
/// the silence of the connection.
#[tokio::test]
async fn seeder_that_ends_is_noticed_by_who_waits() {
    let seeder = seeder(None).await;
    let host = host(&seeder).await;
    let id = seeder.id();
    let asked = tokio::spawn(async move { host.ask_for_news(id, "news/1", vec![]).await });
    let kept = next(&seeder).await.keep();
    soon(seeder.shutdown()).await;
    assert!(soon(seeder.next_ask_for_news()).await.is_none());
    let heard = tokio::time::timeout(Duration::from_secs(5), asked).await;
    let error = heard.expect("it says goodbye").unwrap().unwrap_err();
    assert!(matches!(error, AskError::Unreachable { .. }), "{error:?}");
    soon(kept.tell(Bytes::new())).await;
}

/// Goal: 2,000 questions wait at once, and each is answered although all answers come together.
#[tokio::test]
async fn thousands_hear_the_same_news() {
    const STRANGERS: usize = 500;
    let seeder = seeder(None).await;
    let address = seeder.address();
    let mut asking = JoinSet::new();
    for _ in 0..STRANGERS {
        asking.spawn(ask_as_a_stranger(address, STREAMS_MAX, b"{}".to_vec()));
    }
    let mut kept = Vec::new();
    while kept.len() < STRANGERS * STREAMS_MAX {
        kept.push(next(&seeder).await.keep());
    }
    let news = Bytes::from_static(b"hear, hear");
    for ask in kept {
        soon(ask.tell(news.clone())).await;
    }
    while let Some(answers) = soon(asking.join_next()).await {
        let answers = answers.unwrap();
        assert_eq!(answers.len(), STREAMS_MAX);
        assert!(answers.iter().all(|answer| answer[..] == b"\x05hear, hear"[..]), "{answers:?}");
    }
}

/// Goal: questions that are kept with all their bytes are refused beyond a bound, with the reason;
/// those whose bytes were taken out make room for others, and none of it touches prompt questions.
#[tokio::test]
async fn questions_for_news_are_bounded_by_their_bytes() {
    const BODY: usize = 60 << 10;
    /// What a seeder keeps of them.
    const BYTES_MAX: usize = 32 << 20;
    let seeder = seeder(None).await;
    let address = seeder.address();
    let mut asking = JoinSet::new();
    let strangers = BYTES_MAX / BODY / STREAMS_MAX + 1;
    for _ in 0..strangers {
        asking.spawn(ask_as_a_stranger(address, STREAMS_MAX, vec![b'x'; BODY]));
    }
    let mut kept = Vec::new();
    while kept.len() < (BYTES_MAX - (64 << 10)) / (BODY + 300) {
        kept.push(next(&seeder).await);
    }
    let host = host(&seeder).await;
    let (id, asking_host) = (seeder.id(), host.clone());
    let prompt = tokio::spawn(async move { asking_host.ask(id, "t", vec![7; BODY]).await });
    soon(seeder.next_ask()).await.unwrap().answer(b"yes".to_vec());
    assert_eq!(soon(prompt).await.unwrap(), Ok(b"yes".to_vec()));

    let mut kept: Vec<_> = kept.into_iter().map(Ask::keep).collect();
    let asked = tokio::spawn(async move { host.ask_for_news(id, "news/1", vec![7; BODY]).await });
    let mut fits = next(&seeder).await;
    while fits.body.first() != Some(&7) {
        kept.push(fits.keep());
        fits = next(&seeder).await;
    }
    fits.keep().tell(Bytes::from_static(b"room")).await;
    assert_eq!(soon(asked).await.unwrap(), Ok(b"room".to_vec()));
    let told = kept.len();
    for ask in kept {
        soon(ask.tell(Bytes::from_static(b"late"))).await;
    }
    let (mut heard, mut refused, mut lost) = (0, 0, 0);
    while let Some(answers) = soon(asking.join_next()).await {
        for answer in answers.unwrap() {
            match &*answer {
                b"\x05late" => heard += 1,
                [REFUSED, SWAMPED] => refused += 1,
                // On a machine that is busy a few run into their time-outs; hosts ask again.
                [] => lost += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(heard + refused + lost, strangers * STREAMS_MAX);
    assert!(heard <= told && told - heard <= lost && lost * 20 <= told, "{heard} {lost} {told}");
    assert!(refused > 0);
}

/// Goal: a seeder of before there were news is told from one that does not answer.
#[tokio::test]
async fn older_seeder_is_known_as_such() {
    let mut old = stranger(PROMPT);
    old.listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()).unwrap();
    let listening = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = old.select_next_some().await {
            break address;
        }
    };
    let address = format!("{listening}/p2p/{}", old.local_peer_id());
    let address: SeederAddress = address.parse().unwrap();
    let running = tokio::spawn(async move {
        loop {
            old.select_next_some().await;
        }
    });
    let host = Node::start(host_config(&[address])).await.unwrap();
    let error = soon(host.ask_for_news(address.node, "news/1", vec![])).await.unwrap_err();
    assert_eq!(error, AskError::Unreachable { reason: NoAnswer::TellsNoNews });
    assert!(error.to_string().contains("older version"), "{error}");
    running.abort();
}
