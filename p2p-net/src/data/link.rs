//! One connection to a peer: the message stream in both directions, and the intake of transfers.

use std::net::IpAddr;
use std::sync::Arc;

use p2p_core::wire::Message;
use p2p_core::{BuildId, NodeId};
use quinn::{Connection, ReadExactError, RecvStream, SendStream};
use tokio::sync::mpsc;
use tracing::debug;

use super::event::{DataEvent, DataSender};
use super::frame::{FRAME_BYTES_MAX, decode_frame, encode_frame};
use super::transfer::{Expectations, receive};

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
    pub(crate) connection: Connection,
    /// Whether this node opened the connection.
    pub(crate) is_ours: bool,
    outbox: mpsc::Sender<Vec<u8>>,
}

/// A peer that does not read what it is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TooSlow;

impl Link {
    /// Where the peer is.
    pub(crate) fn remote_ip(&self) -> IpAddr {
        self.connection.remote_address().ip().to_canonical()
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
        self.connection.close(0_u8.into(), reason.as_bytes());
    }
}

/// What the tasks of a link share.
#[derive(Clone, Debug)]
pub(crate) struct LinkContext {
    pub(crate) events: DataSender,
    pub(crate) expectations: Arc<Expectations>,
}

/// The tasks of a link, to be run once the owner knows of the link.
#[derive(Debug)]
pub(crate) struct LinkTasks {
    id: LinkId,
    node: NodeId,
    connection: Connection,
    is_ours: bool,
    inbox: mpsc::Receiver<Vec<u8>>,
    context: LinkContext,
}

/// Makes a link of a connection to `node` whose handshake is done.
pub(super) fn make(
    (id, node): (LinkId, NodeId),
    connection: Connection,
    is_ours: bool,
    context: LinkContext,
) -> (Link, LinkTasks) {
    let (outbox, inbox) = mpsc::channel(OUTBOX_FRAMES_MAX);
    let tasks = LinkTasks { id, node, connection: connection.clone(), is_ours, inbox, context };
    (Link { id, node, connection, is_ours, outbox }, tasks)
}

impl LinkTasks {
    /// Runs until the connection ends, and reports that.
    pub(crate) async fn run(self) {
        let Self { id, node, connection, is_ours, inbox, context } = self;
        // The stream reaches the far end with its first bytes: the dialler's join.
        let opened =
            if is_ours { connection.open_bi().await } else { connection.accept_bi().await };
        if let Ok((tx, rx)) = opened {
            tokio::select! {
                () = write_frames(tx, inbox) => {}
                () = read_frames(id, node, rx, &context.events) => {}
                () = take_transfers(node, &connection, &context) => {}
            }
        }
        connection.close(0_u8.into(), b"done");
        let reason = connection.close_reason().map(|reason| reason.to_string());
        debug!(%node, reason = reason.as_deref().unwrap_or("closed"), "connection ended");
        context.events.send(DataEvent::LinkLost { id, node }).await;
    }
}

async fn write_frames(mut tx: SendStream, mut inbox: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = inbox.recv().await {
        if tx.write_all(&frame).await.is_err() {
            return;
        }
    }
    // The owner dropped the link. What was written is on its way; the far end ends the connection.
    drop(tx.finish());
    drop(tx.stopped().await);
}

async fn read_frames(id: LinkId, node: NodeId, mut rx: RecvStream, events: &DataSender) {
    let mut frame = Vec::new();
    loop {
        let mut length = [0; 4];
        match rx.read_exact(&mut length).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(_)) => return,
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            events.send(DataEvent::Malformed { id, node, build: None }).await;
            return;
        }
        frame.resize(length, 0);
        if rx.read_exact(&mut frame).await.is_err() {
            return;
        }
        let event = match decode_frame(&frame) {
            Some((build, Some(message))) => DataEvent::Message { id, node, build, message },
            Some((build, None)) => DataEvent::Malformed { id, node, build: Some(build) },
            None => DataEvent::Malformed { id, node, build: None },
        };
        events.send(event).await;
    }
}

async fn take_transfers(node: NodeId, connection: &Connection, context: &LinkContext) {
    while let Ok(stream) = connection.accept_uni().await {
        let context = context.clone();
        tokio::spawn(async move {
            receive(node, stream, &context.expectations, &context.events).await;
        });
    }
}
