//! The control plane: small questions and answers between nodes over libp2p (QUIC).
//!
//! Announces to trackers, exchanges of contacts between neighbours, and questions to seeders about
//! what is not the swarm's, such as a host's status. Runs on a thread of its own; nothing that
//! hashes, decides or touches a disk happens here. What arrives is handed to the hub, whose answers
//! come back as [`ControlCommand`]s.

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
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder};
use p2p_core::NodeId;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::address::{socket_of, transport_of};
use crate::identity::{Identity, node_of, peer_id_of};

use self::codec::ControlCodec;
pub use self::codec::STATUS_TOPIC;
pub(crate) use self::codec::{Answer, Question, TOPIC_BYTES_MAX};
pub use self::no_answer::NoAnswer;
pub use self::refusal::Refusal;

mod codec;
mod no_answer;
mod refusal;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/shoal/control/1");

/// How long a question may wait for its answer, connecting included. A node that takes longer is as
/// good as down: there are other trackers, and the swarm goes on without.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How long an unused connection is kept. Longer than the shortest announce interval, so that a
/// small swarm does not shake hands for every announce.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// How long the next of the machine's addresses may take to be reported.
const INTERFACES_TIME: Duration = Duration::from_millis(50);

/// Questions of one peer that may be open at once.
const STREAMS_MAX: usize = 32;

/// What the hub orders from the control plane.
#[derive(Debug)]
pub(crate) enum ControlCommand {
    /// Ask `node`, reached at `address`; the outcome comes back as `Answered` with `token`.
    Ask { token: u64, node: NodeId, address: SocketAddr, question: Question },
    /// Answer a question that was handed over as `Asked`.
    Answer { id: InboundRequestId, answer: Answer },
}

/// What the control plane reports to the hub.
#[derive(Debug)]
pub(crate) enum ControlEvent {
    /// A question of another node.
    Asked { id: InboundRequestId, node: NodeId, from: IpAddr, question: Question },
    /// The outcome of a question that was ordered: the answer, or why there is none.
    Answered { token: u64, outcome: Result<Answer, NoAnswer> },
}

/// The libp2p node and the tables that tie its ids to the hub's.
pub(crate) struct Control<S> {
    swarm: Swarm<request_response::Behaviour<ControlCodec>>,
    commands: mpsc::Receiver<ControlCommand>,
    /// Takes an event to the hub; false once the hub is gone.
    sink: S,
    asked: HashMap<OutboundRequestId, u64>,
    channels: HashMap<InboundRequestId, ResponseChannel<Answer>>,
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
    let config = request_response::Config::default()
        .with_request_timeout(ANSWER_TIME)
        .with_max_concurrent_streams(STREAMS_MAX);
    let mut swarm = SwarmBuilder::with_existing_identity(identity.keypair().clone())
        .with_tokio()
        .with_quic()
        .with_behaviour(|_| {
            request_response::Behaviour::new([(PROTOCOL, ProtocolSupport::Full)], config)
        })
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
    /// Runs until the hub is gone.
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
                return;
            }
        }
    }

    async fn carry_out(&mut self, command: ControlCommand) -> bool {
        match command {
            ControlCommand::Ask { token, node, address, question } => {
                let Some(peer) = peer_id_of(node) else {
                    let outcome = Err(NoAnswer::InvalidKey);
                    return (self.sink)(ControlEvent::Answered { token, outcome }).await;
                };
                let addresses = vec![transport_of(address).with(Protocol::P2p(peer))];
                let behaviour = self.swarm.behaviour_mut();
                let id = behaviour.send_request_with_addresses(&peer, question, addresses);
                self.asked.insert(id, token);
            }
            ControlCommand::Answer { id, answer } => {
                if let Some(channel) = self.channels.remove(&id) {
                    // An asker that is gone does not mind.
                    drop(self.swarm.behaviour_mut().send_response(channel, answer));
                }
            }
        }
        true
    }

    async fn on_swarm_event(
        &mut self,
        event: SwarmEvent<request_response::Event<Question, Answer>>,
    ) -> bool {
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
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event).await,
            _ => true,
        }
    }

    async fn on_behaviour_event(
        &mut self,
        event: request_response::Event<Question, Answer>,
    ) -> bool {
        match event {
            request_response::Event::Message { peer, connection_id, message } => match message {
                Message::Request { request_id, request, channel } => {
                    let from = self.remotes.get(&connection_id).copied();
                    let (Some(node), Some(from)) = (node_of(&peer), from) else { return true };
                    self.channels.insert(request_id, channel);
                    let (id, question) = (request_id, request);
                    (self.sink)(ControlEvent::Asked { id, node, from, question }).await
                }
                Message::Response { request_id, response } => {
                    self.report(request_id, Ok(response)).await
                }
            },
            request_response::Event::OutboundFailure { request_id, error, peer, .. } => {
                self.report(request_id, Err(reason_of(&error, &peer))).await
            }
            request_response::Event::InboundFailure { request_id, .. } => {
                self.channels.remove(&request_id);
                true
            }
            request_response::Event::ResponseSent { .. } => true,
        }
    }

    async fn report(&mut self, id: OutboundRequestId, outcome: Result<Answer, NoAnswer>) -> bool {
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
fn reason_of(error: &OutboundFailure, peer: &PeerId) -> NoAnswer {
    match error {
        OutboundFailure::DialFailure => match node_of(peer) {
            Some(node) => NoAnswer::NotReached { node },
            None => NoAnswer::InvalidKey,
        },
        OutboundFailure::Timeout => NoAnswer::TimedOut,
        OutboundFailure::ConnectionClosed => NoAnswer::Closed,
        OutboundFailure::UnsupportedProtocols => NoAnswer::OtherVersion,
        OutboundFailure::Io(error) => NoAnswer::Broken { reason: error.to_string() },
    }
}
