//! One connection to a peer: the message stream in both directions, and the intake of transfers.
//! The same over every transport.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use p2p_core::wire::Message;
use p2p_core::{BuildId, NodeId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::debug;

use super::buffers::Buffers;
use super::event::{DataEvent, DataSender};
use super::first::first_of;
use super::frame::{decode_frame, encode_frame};
use super::transfer::{Outgoing, Receiving, receive, send};
use super::transport::{Connection, MessageFault, MessageRx, MessageTx, TransportKind};
use crate::store::StoreError;

/// Frames that may wait for a peer. A peer that leaves more unread is closed: it must not grow our
/// memory, and slowing down for it would slow down everyone.
const OUTBOX_FRAMES_MAX: usize = 1_024;

/// Tells apart the connections that a process has had.
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
    uplink: Arc<dyn Uplink>,
    outbox: mpsc::Sender<Vec<u8>>,
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

    /// Sends a chunk or a manifest; whether the peer received all of it. Dropping the future ends
    /// the transfer.
    fn send(&self, outgoing: Outgoing) -> BoxFuture<'static, Result<bool, StoreError>>;
}

#[derive(Debug)]
struct Carried<C> {
    connection: C,
    runtime: Handle,
    buffers: Arc<Buffers>,
}

impl<C: Connection> Uplink for Carried<C> {
    fn remote_ip(&self) -> IpAddr {
        self.connection.remote_address().ip().to_canonical()
    }

    fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    fn close(&self, reason: &str) {
        self.connection.close(reason);
    }

    fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn send(&self, outgoing: Outgoing) -> BoxFuture<'static, Result<bool, StoreError>> {
        let (connection, buffers) = (self.connection.clone(), self.buffers.clone());
        Box::pin(async move { send(&connection, outgoing, &buffers).await })
    }
}

/// The tasks of a link, to be run once the owner knows of the link.
#[derive(Debug)]
pub(crate) struct LinkTasks<C> {
    id: LinkId,
    node: NodeId,
    connection: C,
    is_ours: bool,
    inbox: mpsc::Receiver<Vec<u8>>,
    receiving: Receiving,
}

/// Makes a link of a connection to `node` whose handshake is done, and that lives on the current
/// runtime.
pub(super) fn make<C: Connection>(
    (id, node): (LinkId, NodeId),
    connection: C,
    is_ours: bool,
    receiving: Receiving,
) -> (Link, LinkTasks<C>) {
    let (outbox, inbox) = mpsc::channel(OUTBOX_FRAMES_MAX);
    let uplink = Arc::new(Carried {
        connection: connection.clone(),
        runtime: Handle::current(),
        buffers: receiving.buffers.clone(),
    });
    let tasks = LinkTasks { id, node, connection, is_ours, inbox, receiving };
    (Link { id, node, transport: C::KIND, is_ours, uplink, outbox }, tasks)
}

impl<C: Connection> LinkTasks<C> {
    /// Runs until the connection ends, and reports that.
    pub(crate) async fn run(self) {
        let Self { id, node, connection, is_ours, inbox, receiving } = self;
        if let Ok((tx, rx)) = connection.open_messages(is_ours).await {
            first_of([
                write_frames(tx, inbox).boxed(),
                read_frames(id, node, rx, &receiving.events).boxed(),
                take_transfers(node, &connection, &receiving).boxed(),
            ])
            .await;
        }
        connection.close("done");
        let reason = connection.close_reason();
        debug!(%node, reason = reason.as_deref().unwrap_or("closed"), "connection ended");
        receiving.events.send(DataEvent::LinkLost { id, node }).await;
    }
}

async fn write_frames(mut tx: impl MessageTx, mut inbox: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = inbox.recv().await {
        if tx.send(frame).await.is_err() {
            return;
        }
    }
    // The owner dropped the link. What was written is on its way; the far end ends the connection.
    tx.finish().await;
}

async fn read_frames(id: LinkId, node: NodeId, mut rx: impl MessageRx, events: &DataSender) {
    let mut frame = Vec::new();
    loop {
        match rx.next(&mut frame).await {
            Ok(()) => {}
            Err(MessageFault::Lost) => return,
            Err(MessageFault::TooLong) => {
                return events.send(DataEvent::Malformed { id, node, build: None }).await;
            }
        }
        let event = match decode_frame(&frame) {
            Some((build, Some(message))) => DataEvent::Message { id, node, build, message },
            Some((build, None)) => DataEvent::Malformed { id, node, build: Some(build) },
            None => DataEvent::Malformed { id, node, build: None },
        };
        events.send(event).await;
    }
}

async fn take_transfers(node: NodeId, connection: &impl Connection, receiving: &Receiving) {
    while let Ok(transfer) = connection.accept_transfer().await {
        let receiving = receiving.clone();
        tokio::spawn(async move { receive(node, transfer, &receiving).await });
    }
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
