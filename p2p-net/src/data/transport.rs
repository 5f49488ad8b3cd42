//! What the data plane needs of a transport. QUIC ([`super::quic`]) and TCP with TLS
//! ([`super::tcp`]) provide it; everything above works on either.
//!
//! A connection has one stream of messages in both directions, and any number of transfers, each
//! in one direction: opened by the sender, acknowledged or refused by the receiver. A transfer that
//! its sender drops before the end is reset, so that half a chunk never looks whole.

use std::fmt::{self, Debug, Display};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::buffers::{Buffers, Segment};
use super::frame::TransferHeader;

/// A transfer that does not move for so long is given up.
pub(super) const STALL_TIME: Duration = Duration::from_secs(30);

/// A connection that is silent for so long is gone. Half of it would end connections in a short
/// outage of a switch, twice as much would hold up a download whose only peer died.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(10);

/// Keeps idle connections open: well below half of [`IDLE_TIME`], so that one packet may be lost.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Transfers that one peer may have open towards us at once.
pub(super) const TRANSFERS_MAX: u32 = 64;

/// How chunks travel between two nodes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// QUIC over UDP.
    Quic,
    /// TLS 1.3 over TCP.
    Tcp,
}

impl TransportKind {
    /// The other one.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Quic => Self::Tcp,
            Self::Tcp => Self::Quic,
        }
    }
}

impl Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        })
    }
}

/// Which transports a node uses for chunks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Listens on both, dials the one that suits the way to the peer, and falls back to the other.
    #[default]
    Auto,
    /// Only QUIC over UDP.
    Quic,
    /// Only TLS 1.3 over TCP.
    Tcp,
}

impl Transport {
    /// Whether `kind` may be used.
    pub(crate) fn allows(self, kind: TransportKind) -> bool {
        match self {
            Self::Auto => true,
            Self::Quic => kind == TransportKind::Quic,
            Self::Tcp => kind == TransportKind::Tcp,
        }
    }
}

/// The text is not the name of a transport.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unknown transport {given:?}: expected auto, quic or tcp")]
pub struct ParseTransportError {
    given: String,
}

impl FromStr for Transport {
    type Err = ParseTransportError;

    fn from_str(text: &str) -> Result<Self, ParseTransportError> {
        match text {
            "auto" => Ok(Self::Auto),
            "quic" => Ok(Self::Quic),
            "tcp" => Ok(Self::Tcp),
            _ => Err(ParseTransportError { given: text.to_owned() }),
        }
    }
}

impl Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        })
    }
}

/// The connection, or the stream, has ended or does not move.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Lost;

/// Why no message came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MessageFault {
    Lost,
    /// Longer than any message may be.
    TooLong,
}

/// One authenticated connection to a peer. Clones are the same connection.
pub(crate) trait Connection: Clone + Debug + Send + Sync + 'static {
    const KIND: TransportKind;
    type MessageTx: MessageTx;
    type MessageRx: MessageRx;
    type Tx: TransferTx;
    type Rx: TransferRx;

    fn remote_address(&self) -> SocketAddr;

    /// Ends the connection at once. Only the first reason counts.
    fn close(&self, reason: &str);

    /// Why it ended; `None` while it lives.
    fn close_reason(&self) -> Option<String>;

    /// The stream of messages; asked for once. `is_ours`: this node opened the connection.
    fn open_messages(
        &self,
        is_ours: bool,
    ) -> impl Future<Output = Result<(Self::MessageTx, Self::MessageRx), Lost>> + Send;

    fn open_transfer(
        &self,
        header: TransferHeader,
    ) -> impl Future<Output = Result<Self::Tx, Lost>> + Send;

    /// The next transfer that the peer opens.
    fn accept_transfer(&self) -> impl Future<Output = Result<Self::Rx, Lost>> + Send;
}

/// The sending end of the messages.
pub(crate) trait MessageTx: Send {
    /// `frame` as [`super::frame::encode_frame`] makes it.
    fn send(&mut self, frame: Vec<u8>) -> impl Future<Output = Result<(), Lost>> + Send;

    /// Says that there are no more, and waits until the far end has ended the connection.
    fn finish(self) -> impl Future<Output = ()> + Send;
}

/// The receiving end of the messages.
pub(crate) trait MessageRx: Send {
    /// Replaces `frame` by the next one, without its length.
    fn next(
        &mut self,
        frame: &mut Vec<u8>,
    ) -> impl Future<Output = Result<(), MessageFault>> + Send;
}

/// The sending end of a transfer. Dropping it resets the transfer.
pub(crate) trait TransferTx: Send {
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), Lost>> + Send;

    /// Ends the transfer. Returns whether the peer received all of it, rather than refused the
    /// rest.
    fn finish(self) -> impl Future<Output = Result<bool, Lost>> + Send;
}

/// The receiving end of a transfer. Dropping it before the end refuses the rest.
pub(crate) trait TransferRx: Send {
    fn header(&mut self) -> impl Future<Output = Result<[u8; TransferHeader::BYTES], Lost>> + Send;

    /// The next bytes, in full segments but for the last; `None` at the end.
    fn next_segment(
        &mut self,
        buffers: &Arc<Buffers>,
    ) -> impl Future<Output = Result<Option<Segment>, Lost>> + Send;
}
