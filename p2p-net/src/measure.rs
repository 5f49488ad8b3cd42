//! What the way to a peer can carry, and what the system grants its sockets; for people who wonder
//! why a download is slow.
//!
//! Asks the peer's control plane where its data plane is, and then for bytes, over each transport
//! in turn, on connections that carry nothing else. Starts no node and joins no swarm.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use p2p_core::Contact;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::address::SeederAddress;
use crate::control::{self, Answer, ControlCommand, ControlEvent, Pace, Question};
use crate::data::measure::{self, MeasureFault, Measured};
use crate::data::transport::TransportKind;
use crate::data::{self, DIAL_TIME};
use crate::identity::Identity;
use crate::tls::TlsIdentity;

/// How long one transport is measured at most.
const MEASURE_TIME: Duration = Duration::from_secs(8);

/// What the way to a peer carried over one transport.
#[derive(Clone, Debug, Serialize)]
pub struct PeerRate {
    /// The transport.
    pub transport: TransportKind,
    /// What came, or why nothing did, in words for a person.
    #[serde(flatten)]
    pub outcome: PeerOutcome,
}

/// What came of a measurement.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerOutcome {
    /// Bytes came.
    Measured {
        /// How many, of those asked for; fewer if they took too long.
        bytes: u64,
        /// Their rate over the whole time, the first question included.
        bytes_per_second: u64,
        /// From the question to the first sign of an answer, in microseconds.
        round_trip_us: u64,
    },
    /// Nothing came.
    Failed {
        /// Why, in words for a person.
        reason: String,
    },
}

/// Why a peer could not be measured at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// This machine gives no socket, thread or key.
    #[error("cannot open a socket to measure with")]
    Local {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The peer did not say where its data plane is.
    #[error(
        "{peer} does not answer: {reason}; check that it runs and that its UDP port is reachable"
    )]
    Unreachable {
        /// Whom.
        peer: SeederAddress,
        /// What happened instead.
        reason: String,
    },
}

/// The buffers that the system grants a UDP socket of this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct SocketBuffers {
    /// Bytes that a node asks for in each direction.
    pub asked: u64,
    /// Bytes granted for what arrives.
    pub receive: u64,
    /// Bytes granted for what is sent.
    pub send: u64,
}

/// Opens a socket as a node does, and looks.
///
/// # Errors
///
/// If the system gives no socket.
pub fn socket_buffers() -> io::Result<SocketBuffers> {
    let [asked, receive, send] = data::socket_buffers()?;
    Ok(SocketBuffers { asked, receive, send })
}

/// Asks `peer`, a seeder or an agent, for `bytes` over each transport, or for as many as it gives
/// at once. Blocks; on a slow way until the time for each is over.
///
/// # Errors
///
/// If the peer does not answer. A transport that does not work is no error but a
/// [`PeerOutcome::Failed`].
pub fn measure_peer(peer: SeederAddress, bytes: u64) -> Result<Vec<PeerRate>, MeasureError> {
    let local = |source| MeasureError::Local { source };
    // A thread for the network alone, as in a node.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(local)?;
    runtime.block_on(async {
        let identity = Identity::generate();
        let contact = reach(&identity, peer).await?;
        let tls = TlsIdentity::new(&identity).map_err(io::Error::other).map_err(local)?;
        let tls = tls.for_measuring();
        let mut rates = Vec::new();
        for transport in [TransportKind::Quic, TransportKind::Tcp] {
            let measured = measure::measure(&tls, contact, transport, (bytes, MEASURE_TIME)).await;
            rates.push(PeerRate { transport, outcome: outcome(measured) });
        }
        Ok(rates)
    })
}

fn outcome(measured: Result<Result<Measured, MeasureFault>, String>) -> PeerOutcome {
    let failed = |reason: &str| PeerOutcome::Failed { reason: reason.to_owned() };
    match measured {
        Ok(Ok(Measured { bytes, elapsed, round_trip })) => {
            let nanos = elapsed.as_nanos().max(1);
            let rate = u128::from(bytes) * 1_000_000_000 / nanos;
            PeerOutcome::Measured {
                bytes,
                bytes_per_second: u64::try_from(rate).unwrap_or(u64::MAX),
                round_trip_us: u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX),
            }
        }
        Ok(Err(MeasureFault::Busy)) => failed("somebody else measures this node; try again"),
        Ok(Err(MeasureFault::Lost)) => failed("the connection ended before anything came"),
        Err(reason) => failed(&reason),
    }
}

/// Where the peer's data plane is, by its own account.
async fn reach(identity: &Identity, peer: SeederAddress) -> Result<Contact, MeasureError> {
    let any = if peer.socket.is_ipv6() {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    };
    let (orders, commands) = mpsc::channel(1);
    let (answers, mut answered) = mpsc::channel(1);
    let sink = move |event| {
        let answers = answers.clone();
        async move {
            match event {
                ControlEvent::Answered { outcome, .. } => answers.send(outcome).await.is_ok(),
                // Nobody else knows of this socket, which is there for a moment only.
                ControlEvent::Asked { .. } => true,
            }
        }
    };
    let listening = control::listen(identity, any, commands, sink).await;
    let (control, _) = listening.map_err(|source| MeasureError::Local { source })?;
    let ask = ControlCommand::Ask {
        token: 0,
        node: peer.node,
        address: peer.socket,
        question: Question::Reach,
        pace: Pace::Prompt,
    };
    drop(orders.send(ask).await);
    let outcome = tokio::select! {
        () = control.run() => None,
        outcome = timeout(DIAL_TIME * 2, answered.recv()) => outcome.ok().flatten(),
    };
    let unreachable = |reason: &str| MeasureError::Unreachable { peer, reason: reason.to_owned() };
    match outcome {
        Some(Ok(Answer::Reach(contact))) if contact.node == peer.node => {
            Ok(contact.seen_from(peer.socket.ip()))
        }
        Some(Ok(_)) => Err(unreachable("it does not know the question; update it")),
        Some(Err(reason)) => Err(unreachable(&reason.to_string())),
        None => Err(unreachable("no answer in time")),
    }
}
