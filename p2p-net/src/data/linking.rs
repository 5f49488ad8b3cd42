//! Turns connections into links and runs them: the message stream in both directions, and the
//! intake of transfers. The same over every transport.
//!
//! Invariant: the owner hears of a link ([`DataEvent::Linked`]) before anything that happens on it,
//! and of its end ([`DataEvent::LinkLost`]) last. Decides nothing about messages or transfers.

use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use p2p_core::NodeId;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::debug;

use crate::store::StoreError;

use super::buffers::Buffers;
use super::event::{DataEvent, DataSender};
use super::first::first_of;
use super::frame::decode_frame;
use super::link::{Link, LinkId, Uplink};
use super::receiving::{Receiving, receive};
use super::sending::{Outgoing, send};
use super::transport::{Connection, MessageFault, MessageRx, MessageTx};

/// Frames that may wait for a peer. The connection to a peer that leaves more unread is closed: it
/// must not make our memory grow, and slowing down for it would slow down everyone.
const OUTBOX_FRAMES_MAX: usize = 1_024;

/// A connection as its owner uses it.
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

/// The tasks of a link, to be run once the owner knows the link.
#[derive(Debug)]
pub(crate) struct LinkTasks<C> {
    id: LinkId,
    node: NodeId,
    connection: C,
    is_ours: bool,
    inbox: mpsc::Receiver<Vec<u8>>,
    receiving: Receiving,
}

/// Makes a link of a connection to `node` whose handshake is done and that lives on the current
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
