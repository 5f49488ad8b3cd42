//! The owner's end of a connection to a peer: queues messages, gives out what sends chunks, closes.
//! The same over every transport.
//!
//! Invariant: nothing here waits. A peer that does not read what it is sent is reported as
//! [`TooSlow`] instead. What runs on the connection is in `data/linking.rs`.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use p2p_core::wire::Message;
use p2p_core::{BuildId, NodeId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::store::StoreError;

use super::frame::encode_frame;
use super::sending::Outgoing;
use super::transport::TransportKind;

/// Distinguishes the connections that a process has had.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct LinkId(pub(crate) u64);

/// The owner's end of a connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) node: NodeId,
    pub(crate) transport: TransportKind,
    /// Whether this node opened the connection.
    pub(crate) is_ours: bool,
    pub(super) uplink: Arc<dyn Uplink>,
    /// Frames on their way to the connection.
    pub(super) outbox: mpsc::Sender<Vec<u8>>,
}

/// A peer that does not read what it is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TooSlow;

impl Link {
    /// Where the peer is.
    pub(crate) fn remote_ip(&self) -> IpAddr {
        self.uplink.remote_ip()
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.uplink.is_closed()
    }

    /// What sends chunks over this connection.
    pub(crate) fn uplink(&self) -> Arc<dyn Uplink> {
        Arc::clone(&self.uplink)
    }

    /// Queues a message.
    pub(crate) fn send(&self, build: BuildId, message: &Message) -> Result<(), TooSlow> {
        match self.outbox.try_send(encode_frame(build, message)) {
            // A link whose writer ended is about to be reported as lost.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(TooSlow),
        }
    }

    /// Closes the connection for every build.
    pub(crate) fn close(&self, reason: &str) {
        self.uplink.close(reason);
    }
}

/// A connection as its owner uses it, whatever carries it.
pub(crate) trait Uplink: Debug + Send + Sync {
    fn remote_ip(&self) -> IpAddr;
    fn is_closed(&self) -> bool;
    fn close(&self, reason: &str);

    /// The runtime on which the connection lives; sending on another costs a switch per packet.
    fn runtime(&self) -> &Handle;

    /// Sends a chunk or a manifest. Returns whether the peer received all of it; dropping the
    /// future ends the transfer.
    fn send(&self, outgoing: Outgoing) -> BoxFuture<'static, Result<bool, StoreError>>;
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A connection on which nothing happens.
    #[derive(Debug)]
    struct QuietUplink(Handle);

    impl Uplink for QuietUplink {
        fn remote_ip(&self) -> IpAddr {
            std::net::Ipv4Addr::LOCALHOST.into()
        }

        fn is_closed(&self) -> bool {
            false
        }

        fn close(&self, _: &str) {}

        fn runtime(&self) -> &Handle {
            &self.0
        }

        fn send(&self, _: Outgoing) -> BoxFuture<'static, Result<bool, StoreError>> {
            Box::pin(async { Ok(false) })
        }
    }

    /// A link over a connection on which nothing happens.
    pub(crate) fn quiet_link(
        (id, node): (LinkId, NodeId),
        is_ours: bool,
        transport: TransportKind,
    ) -> Link {
        let (outbox, _) = mpsc::channel(1);
        let uplink = Arc::new(QuietUplink(Handle::current()));
        Link { id, node, transport, is_ours, uplink, outbox }
    }
}
