//! The control plane: small questions and answers between nodes over libp2p (QUIC).
//!
//! Announces to trackers, exchanges of contacts between neighbours, and questions to seeders about
//! what is not the swarm's, such as a host's status. Runs on a thread of its own; nothing that
//! hashes, decides or touches a disk happens here. What arrives is handed to the hub, whose answers
//! come back as [`ControlCommand`]s.
//!
//! There are two protocols on one connection ([`Pace`]): questions that are answered at once, and
//! those that the asked may keep until there is something to say. Their ids are two sets of
//! numbers, so an id is never used without its pace.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{
    self, InboundRequestId, Message, OutboundFailure, OutboundRequestId, ProtocolSupport,
    ResponseChannel,
};
use libp2p::swarm::{ConnectionId, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder};
use p2p_core::NodeId;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::address::{socket_of, transport_of};
use crate::identity::{Identity, node_of, peer_id_of};

use self::codec::ControlCodec;
pub use self::codec::STATUS_TOPIC;
pub(crate) use self::codec::{Answer, NEWS_BYTES_MAX, Question, TOPIC_BYTES_MAX};
pub use self::no_answer::NoAnswer;
pub use self::refusal::Refusal;

mod codec;
mod no_answer;
mod refusal;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/shoal/control/1");

/// Questions that may be kept. A protocol of its own, so that a node that does not know it says so.
const NEWS_PROTOCOL: StreamProtocol = StreamProtocol::new("/shoal/news/1");

/// How long a question may wait for its answer, connecting included. A node that takes longer is as
/// good as down: there are other trackers, and the swarm goes on without.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How long a node that is asked with [`Pace::News`] may keep the question. Longer costs nobody
/// anything, but middle boxes forget what is silent for minutes, and a question whose asker is gone
/// takes up room for as long.
pub(crate) const KEEP_TIME_MAX: Duration = Duration::from_secs(30);

/// How long such a question may wait for its answer, connecting included. That its node is dead
/// shows sooner, by the silence of the connection.
const NEWS_ANSWER_TIME: Duration = Duration::from_secs(45);

/// How long an unused connection is kept. Longer than the shortest announce interval, so that a
/// small swarm does not shake hands for every announce.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// How long the next of the machine's addresses may take to be reported.
const INTERFACES_TIME: Duration = Duration::from_millis(50);

/// Questions of one peer that may be open at once.
const STREAMS_MAX: usize = 32;

/// The same for questions that may be kept. A host has one; another one may come before the seeder
/// has noticed that the asker of the first gave up.
const NEWS_STREAMS_MAX: usize = 4;

/// Streams that a peer may have open on one connection: those of both protocols, and some more for
/// streams on which a protocol is being chosen. The transport sets memory aside for each of them,
/// and a seeder has a connection with every host of its region.
const CONNECTION_STREAMS_MAX: u32 = 48;

/// How long a node that ends may take to close its connections: far below what service managers
/// and programs grant for the whole of it.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// How soon an answer is expected.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Pace {
    /// At once.
    Prompt,
    /// When there is something to say, within [`KEEP_TIME_MAX`].
    News,
}

/// The name of a question that another node asked.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct AskedId {
    pace: Pace,
    id: InboundRequestId,
}

impl AskedId {
    /// How soon it is to be answered.
    pub(crate) const fn pace(self) -> Pace {
        self.pace
    }
}

/// Both protocols.
#[derive(NetworkBehaviour)]
struct Behaviour {
    prompt: request_response::Behaviour<ControlCodec>,
    news: request_response::Behaviour<ControlCodec>,
}

impl Behaviour {
    fn new() -> Self {
        let protocol = |protocol, codec, answer_time, streams_max| {
            let config = request_response::Config::default()
                .with_request_timeout(answer_time)
                .with_max_concurrent_streams(streams_max);
            let protocols = [(protocol, ProtocolSupport::Full)];
            request_response::Behaviour::with_codec(codec, protocols, config)
        };
        Self {
            prompt: protocol(PROTOCOL, ControlCodec::PROMPT, ANSWER_TIME, STREAMS_MAX),
            news: protocol(NEWS_PROTOCOL, ControlCodec::NEWS, NEWS_ANSWER_TIME, NEWS_STREAMS_MAX),
        }
    }

    const fn at(&mut self, pace: Pace) -> &mut request_response::Behaviour<ControlCodec> {
        match pace {
            Pace::Prompt => &mut self.prompt,
            Pace::News => &mut self.news,
        }
    }
}

/// What the hub orders from the control plane.
#[derive(Debug)]
pub(crate) enum ControlCommand {
    /// Ask `node`, reached at `address`; the outcome comes back as `Answered` with `token`.
    Ask { token: u64, node: NodeId, address: SocketAddr, question: Question, pace: Pace },
    /// Answer a question that was handed over as `Asked`.
    Answer { id: AskedId, answer: Answer },
}

/// What the control plane reports to the hub.
#[derive(Debug)]
pub(crate) enum ControlEvent {
    /// A question of another node.
    Asked { id: AskedId, node: NodeId, from: IpAddr, question: Question },
    /// The outcome of a question that was ordered: the answer, or why there is none.
    Answered { token: u64, outcome: Result<Answer, NoAnswer> },
}

/// The libp2p node and the tables that tie its ids to the hub's.
pub(crate) struct Control<S> {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<ControlCommand>,
    /// Takes an event to the hub; false once the hub is gone.
    sink: S,
    asked: HashMap<(Pace, OutboundRequestId), u64>,
    channels: HashMap<AskedId, ResponseChannel<Answer>>,
    remotes: HashMap<ConnectionId, IpAddr>,
}

/// Where the control plane listens.
#[derive(Clone, Debug)]
pub(crate) struct Listening {
    /// As configured, with the port that the system chose.
    pub(crate) socket: SocketAddr,
    /// The machine's addresses that this covers.
    pub(crate) own: Vec<IpAddr>,
}

/// Starts listening, and returns the node to run and where it listens.
pub(crate) async fn listen<S, F>(
    identity: &Identity,
    address: SocketAddr,
    commands: mpsc::Receiver<ControlCommand>,
    sink: S,
) -> io::Result<(Control<S>, Listening)>
where
    S: Fn(ControlEvent) -> F,
    F: Future<Output = bool>,
{
    let mut swarm = SwarmBuilder::with_existing_identity(identity.keypair().clone())
        .with_tokio()
        .with_quic_config(|mut quic| {
            quic.max_concurrent_stream_limit = CONNECTION_STREAMS_MAX;
            quic
        })
        .with_behaviour(|_| Behaviour::new())
        .map_err(io::Error::other)?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_TIME))
        .build();
    swarm.listen_on(transport_of(address)).map_err(|error| match error {
        libp2p::TransportError::Other(error) => error,
        libp2p::TransportError::MultiaddrNotSupported(_) => {
            io::Error::new(io::ErrorKind::Unsupported, "not an IP address")
        }
    })?;
    let first = loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => {
                if let Some(socket) = socket_of(&address) {
                    break socket;
                }
            }
            SwarmEvent::ListenerClosed { reason: Err(error), .. }
            | SwarmEvent::ListenerError { error, .. } => return Err(error),
            _ => {}
        }
    };
    // Listening on all addresses reports each, one event after the other; the port is what they
    // share.
    let mut own = vec![first.ip()];
    if address.ip().is_unspecified() {
        while let Ok(event) = timeout(INTERFACES_TIME, swarm.select_next_some()).await {
            if let SwarmEvent::NewListenAddr { address, .. } = event {
                own.extend(socket_of(&address).map(|socket| socket.ip()));
            }
        }
    }
    let control = Control {
        swarm,
        commands,
        sink,
        asked: HashMap::new(),
        channels: HashMap::new(),
        remotes: HashMap::new(),
    };
    Ok((control, Listening { socket: SocketAddr::new(address.ip(), first.port()), own }))
}

impl<S, F> Control<S>
where
    S: Fn(ControlEvent) -> F,
    F: Future<Output = bool>,
{
    /// Runs until the hub is gone, then says goodbye.
    pub(crate) async fn run(mut self) {
        loop {
            let goes_on = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.carry_out(command).await,
                    None => false,
                },
                event = self.swarm.select_next_some() => self.on_swarm_event(event).await,
            };
            if !goes_on {
                break;
            }
        }
        // Who does not hear of it in time hears it from the silence.
        drop(timeout(CLOSE_TIME, self.close()).await);
    }

    /// Closes all connections: whoever waits for news looks for another node at once.
    async fn close(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error means that it is gone.
            self.swarm.disconnect_peer_id(peer).unwrap_or_default();
        }
        while self.swarm.connected_peers().next().is_some() {
            self.swarm.select_next_some().await;
        }
    }

    async fn carry_out(&mut self, command: ControlCommand) -> bool {
        match command {
            ControlCommand::Ask { token, node, address, question, pace } => {
                let Some(peer) = peer_id_of(node) else {
                    let outcome = Err(NoAnswer::InvalidKey);
                    return (self.sink)(ControlEvent::Answered { token, outcome }).await;
                };
                let addresses = vec![transport_of(address).with(Protocol::P2p(peer))];
                let behaviour = self.swarm.behaviour_mut().at(pace);
                let id = behaviour.send_request_with_addresses(&peer, question, addresses);
                self.asked.insert((pace, id), token);
            }
            ControlCommand::Answer { id, answer } => {
                if let Some(channel) = self.channels.remove(&id) {
                    // An asker that is gone does not mind.
                    let behaviour = self.swarm.behaviour_mut().at(id.pace);
                    drop(behaviour.send_response(channel, answer));
                }
            }
        }
        true
    }

    async fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) -> bool {
        match event {
            SwarmEvent::ConnectionEstablished { connection_id, endpoint, .. } => {
                if let Some(ip) = ip_of(endpoint.get_remote_address()) {
                    self.remotes.insert(connection_id, ip);
                }
                true
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                self.remotes.remove(&connection_id);
                true
            }
            SwarmEvent::Behaviour(BehaviourEvent::Prompt(event)) => {
                self.on_behaviour_event(Pace::Prompt, event).await
            }
            SwarmEvent::Behaviour(BehaviourEvent::News(event)) => {
                self.on_behaviour_event(Pace::News, event).await
            }
            _ => true,
        }
    }

    async fn on_behaviour_event(
        &mut self,
        pace: Pace,
        event: request_response::Event<Question, Answer>,
    ) -> bool {
        match event {
            request_response::Event::Message { peer, connection_id, message } => match message {
                Message::Request { request_id, request, channel } => {
                    let from = self.remotes.get(&connection_id).copied();
                    let (Some(node), Some(from)) = (node_of(&peer), from) else { return true };
                    let (id, question) = (AskedId { pace, id: request_id }, request);
                    self.channels.insert(id, channel);
                    (self.sink)(ControlEvent::Asked { id, node, from, question }).await
                }
                Message::Response { request_id, response } => {
                    self.report((pace, request_id), Ok(response)).await
                }
            },
            request_response::Event::OutboundFailure { request_id, error, peer, .. } => {
                self.report((pace, request_id), Err(reason_of(pace, &error, &peer))).await
            }
            request_response::Event::InboundFailure { request_id, .. } => {
                self.channels.remove(&AskedId { pace, id: request_id });
                true
            }
            request_response::Event::ResponseSent { .. } => true,
        }
    }

    async fn report(
        &mut self,
        id: (Pace, OutboundRequestId),
        outcome: Result<Answer, NoAnswer>,
    ) -> bool {
        match self.asked.remove(&id) {
            Some(token) => (self.sink)(ControlEvent::Answered { token, outcome }).await,
            None => true,
        }
    }
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    })
}

/// What libp2p's errors mean to somebody who has never met its layers.
fn reason_of(pace: Pace, error: &OutboundFailure, peer: &PeerId) -> NoAnswer {
    match error {
        OutboundFailure::DialFailure => match node_of(peer) {
            Some(node) => NoAnswer::NotReached { node },
            None => NoAnswer::InvalidKey,
        },
        OutboundFailure::Timeout => NoAnswer::TimedOut,
        OutboundFailure::ConnectionClosed => NoAnswer::Closed,
        OutboundFailure::UnsupportedProtocols => match pace {
            Pace::Prompt => NoAnswer::OtherVersion,
            Pace::News => NoAnswer::TellsNoNews,
        },
        OutboundFailure::Io(error) => NoAnswer::Broken { reason: error.to_string() },
    }
}
