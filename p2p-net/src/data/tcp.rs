//! TCP with TLS 1.3: messages and transfers of one connection as frames of one byte stream.
//!
//! A frame is a head of [`HEAD_BYTES`]: its kind, the length of what follows (24 bits) and the
//! number of the transfer it belongs to, little-endian; then the payload. The sender of a transfer
//! numbers it; the receiver answers under the same number. Messages overtake chunks: they have a
//! queue of their own, and little of what waits is handed to the system at a time.
//!
//! The pump ([`Pump`]) is the only one that touches the socket; a protocol error, silence or the
//! end of either direction ends it, and with it everything on the connection.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes};
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::buffers::{Buffers, SEGMENT_BYTES, Segment};
use super::first::first_of;
use super::frame::{FRAME_BYTES_MAX, TransferHeader};
use super::transport::{
    Connection, IDLE_TIME, KEEP_ALIVE, Lost, MessageFault, MessageRx, MessageTx, STALL_TIME,
    TRANSFERS_MAX, TransferRx, TransferTx, TransportKind,
};

mod patient;
mod socket;
#[cfg(test)]
mod tests;

use self::patient::Outstanding;
pub(super) use self::socket::{Stream, accept, carry, certificates, dial, listen};

/// Kind, length, transfer.
const HEAD_BYTES: usize = 8;

/// Messages that may wait to be written.
const OUTBOX_MAX: usize = 64;

/// Receipts that may wait to be written; each transfer that arrives holds the place of its own.
/// Twice what a peer may have open, because a peer that resets one may open another at once.
const RECEIPTS_MAX: usize = 2 * TRANSFERS_MAX as usize;

/// Frames of transfers that may wait to be written. Each transfer needs a place for its beginning
/// and holds one for its end; the rest is for [`DATA_MAX`].
const BULK_MAX: usize = 2 * TRANSFERS_MAX as usize + DATA_MAX;

/// Segments that wait to be written. One is being encrypted while the next is read from the disk;
/// more would only stand before the chunks of other transfers.
const DATA_MAX: usize = 4;

/// Messages that arrived and wait for the owner.
const MESSAGES_MAX: usize = 64;

/// Segments of one transfer that arrived and wait to be hashed: a chunk of the largest size, so
/// that the hashing of one chunk does not hold up the others.
const ARRIVED_MAX: usize = p2p_core::CHUNK_SIZE_MAX.div_ceil(SEGMENT_BYTES) as usize + 2;

/// How long the system may hold back what has arrived of a segment. Far above what a segment takes
/// on links on which wake-ups matter, and far below [`IDLE_TIME`].
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(250);

/// Small frames that are written together when nothing else waits.
const GATHERED_BYTES: usize = 8 << 10;

/// How often silence is looked for, in parts of [`IDLE_TIME`].
const SILENCE_CHECKS: u32 = 4;

const MESSAGE: u8 = 1;
const FAREWELL: u8 = 2;
const OPEN: u8 = 3;
const DATA: u8 = 4;
const END: u8 = 5;
const RESET: u8 = 6;
const DONE: u8 = 7;
const STOP: u8 = 8;
const PING: u8 = 9;
/// [`DATA`] and [`END`] in one, which saves the far end a wake-up.
const LAST: u8 = 10;

/// A frame of the stream of messages.
#[derive(Debug)]
enum Outbound {
    Message(Vec<u8>),
    Farewell,
}

/// The receiver's answer to a transfer.
#[derive(Debug)]
enum Receipt {
    /// All of it came.
    Done { transfer: u32 },
    /// The rest is not wanted.
    Stop { transfer: u32 },
}

/// A frame of a transfer, in the transfer's order.
#[derive(Debug)]
struct Bulk {
    transfer: u32,
    /// Opens the transfer first.
    header: Option<TransferHeader>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Data {
        segment: Queued,
        is_last: bool,
    },
    /// The end of a transfer without bytes.
    End,
    Reset,
}

/// A segment that waits to be written.
#[derive(Debug)]
struct Queued {
    bytes: Bytes,
    is_reset: Arc<AtomicBool>,
    _slot: OwnedSemaphorePermit,
}

/// What arrived of a transfer.
#[derive(Debug)]
enum Arrived {
    Data(Segment),
    End,
}

/// One connection; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct TcpConnection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    remote: SocketAddr,
    closed: CancellationToken,
    reason: OnceLock<String>,
    outbox: mpsc::Sender<Outbound>,
    receipts: mpsc::Sender<Receipt>,
    bulk: mpsc::Sender<Bulk>,
    /// Bounds the segments in `bulk`; those who wait are served in turn, which shares the
    /// connection evenly among transfers.
    slots: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
    next_transfer: AtomicU32,
    /// Transfers of ours that the peer has not answered yet.
    unanswered: Mutex<BTreeMap<u32, oneshot::Sender<bool>>>,
    messages: Mutex<Option<mpsc::Receiver<Vec<u8>>>>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<TcpRx>>,
}

impl Shared {
    fn close(&self, reason: &str) {
        // The first reason counts.
        drop(self.reason.set(reason.to_owned()));
        self.closed.cancel();
    }
}

/// Moves the bytes of a connection; nothing happens on it unless this runs.
#[derive(Debug)]
pub(super) struct Pump<S> {
    stream: S,
    shared: Arc<Shared>,
    buffers: Arc<Buffers>,
    queues: Queues,
    outstanding: Outstanding,
    messages: mpsc::Sender<Vec<u8>>,
    accepted: mpsc::Sender<TcpRx>,
}

/// What waits to be written, the most urgent first.
#[derive(Debug)]
struct Queues {
    receipts: mpsc::Receiver<Receipt>,
    outbox: mpsc::Receiver<Outbound>,
    bulk: mpsc::Receiver<Bulk>,
}

/// A connection of a stream whose handshake is done.
pub(super) fn make<S>(
    stream: S,
    remote: SocketAddr,
    buffers: Arc<Buffers>,
) -> (TcpConnection, Pump<S>) {
    let (outbox_tx, outbox) = mpsc::channel(OUTBOX_MAX);
    let (receipts_tx, receipts) = mpsc::channel(RECEIPTS_MAX);
    let (bulk_tx, bulk) = mpsc::channel(BULK_MAX);
    let (messages, messages_rx) = mpsc::channel(MESSAGES_MAX);
    let (accepted, accepted_rx) = mpsc::channel(TRANSFERS_MAX as usize);
    let shared = Arc::new(Shared {
        remote,
        closed: CancellationToken::new(),
        reason: OnceLock::new(),
        outbox: outbox_tx,
        receipts: receipts_tx,
        bulk: bulk_tx,
        slots: Arc::new(Semaphore::new(DATA_MAX)),
        transfers: Arc::new(Semaphore::new(TRANSFERS_MAX as usize)),
        next_transfer: AtomicU32::new(0),
        unanswered: Mutex::default(),
        messages: Mutex::new(Some(messages_rx)),
        accepted: tokio::sync::Mutex::new(accepted_rx),
    });
    let connection = TcpConnection { shared: shared.clone() };
    let queues = Queues { receipts, outbox, bulk };
    let outstanding = Outstanding::default();
    (connection, Pump { stream, shared, buffers, queues, outstanding, messages, accepted })
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Pump<S> {
    /// Runs until the connection ends, for whatever reason.
    pub(super) async fn run(self) {
        let Self { stream, shared, buffers, queues, outstanding, messages, accepted } = self;
        let (rx, tx) = tokio::io::split(stream);
        // Heads and small frames gather here; a segment is larger than the buffer and passes it by.
        let mut tx = BufWriter::with_capacity(GATHERED_BYTES, tx);
        let heard = AtomicBool::new(true);
        let mut reader = Reader {
            rx,
            shared: &shared,
            buffers,
            heard: &heard,
            outstanding,
            messages: Some(messages),
            accepted,
            incoming: BTreeMap::new(),
        };
        // Four ways to end, of which the first is the reason: this end closes, the far end stops
        // sending, the socket takes no more, or nothing is heard.
        let closed = async {
            shared.closed.cancelled().await;
            Ok("closed")
        };
        let reading = async { reader.run().await.map(|()| "the peer ended the connection") };
        let writing = async { write(&mut tx, &shared, queues).await.map(|()| "closed") };
        let listening = async {
            silence(&heard).await;
            Ok("the peer is silent")
        };
        let parts = [closed.boxed(), reading.boxed(), writing.boxed(), listening.boxed()];
        let ended: io::Result<&str> = first_of(parts).await;
        match ended {
            Ok(reason) => shared.close(reason),
            Err(error) => shared.close(&error.to_string()),
        }
        // Whoever waits for a receipt learns that none will come.
        shared.unanswered.lock().clear();
        // Says that this end is deliberate. A peer that does not read must not hold this up.
        drop(timeout(std::time::Duration::from_millis(100), tx.shutdown()).await);
    }
}

/// Ends when nothing was heard for [`IDLE_TIME`].
async fn silence(heard: &AtomicBool) {
    let mut silent = 0;
    while silent < SILENCE_CHECKS {
        tokio::time::sleep(IDLE_TIME / SILENCE_CHECKS).await;
        silent = if heard.swap(false, Ordering::Relaxed) { 0 } else { silent + 1 };
    }
}

fn head(kind: u8, length: usize, transfer: u32) -> [u8; HEAD_BYTES] {
    let length = u32::try_from(length).expect("payloads are below 2^24 bytes").to_le_bytes();
    let transfer = transfer.to_le_bytes();
    let mut head = [kind, length[0], length[1], length[2], 0, 0, 0, 0];
    head[4..].copy_from_slice(&transfer);
    head
}

async fn write<W: AsyncWrite + Unpin>(
    tx: &mut W,
    shared: &Shared,
    queues: Queues,
) -> io::Result<()> {
    let Queues { mut receipts, mut outbox, mut bulk } = queues;
    let mut pings = tokio::time::interval(KEEP_ALIVE);
    pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // The most urgent that waits; only when nothing does is the buffer flushed and sleep begun.
        // Receipts first: without them the far end keeps memory and places. Then messages, which
        // steer everything else. Chunks last.
        if let Ok(frame) = receipts.try_recv() {
            write_receipt(tx, frame).await?;
        } else if let Ok(frame) = outbox.try_recv() {
            write_outbound(tx, frame).await?;
        } else if let Ok(frame) = bulk.try_recv() {
            write_bulk(tx, frame).await?;
        } else {
            tx.flush().await?;
            tokio::select! {
                biased;
                Some(frame) = receipts.recv() => write_receipt(tx, frame).await?,
                Some(frame) = outbox.recv() => write_outbound(tx, frame).await?,
                Some(frame) = bulk.recv() => write_bulk(tx, frame).await?,
                _ = pings.tick() => tx.write_all(&head(PING, 0, 0)).await?,
                () = shared.closed.cancelled() => return Ok(()),
            }
        }
    }
}

async fn write_outbound<W: AsyncWrite + Unpin>(tx: &mut W, frame: Outbound) -> io::Result<()> {
    match frame {
        // The head says the length, so the frame's own is left out.
        Outbound::Message(frame) => write_frame(tx, MESSAGE, 0, &frame[4..]).await,
        Outbound::Farewell => write_frame(tx, FAREWELL, 0, &[]).await,
    }
}

async fn write_receipt<W: AsyncWrite + Unpin>(tx: &mut W, frame: Receipt) -> io::Result<()> {
    match frame {
        Receipt::Done { transfer } => write_frame(tx, DONE, transfer, &[]).await,
        Receipt::Stop { transfer } => write_frame(tx, STOP, transfer, &[]).await,
    }
}

async fn write_bulk<W: AsyncWrite + Unpin>(tx: &mut W, bulk: Bulk) -> io::Result<()> {
    let Bulk { transfer, header, content } = bulk;
    let mut heads = Vec::with_capacity(2 * HEAD_BYTES + TransferHeader::BYTES);
    if let Some(header) = header {
        heads.extend_from_slice(&head(OPEN, TransferHeader::BYTES, transfer));
        heads.extend_from_slice(&header.encode());
    }
    let segment = match content {
        Content::Data { segment, .. } if segment.is_reset.load(Ordering::Relaxed) => None,
        Content::Data { segment, is_last } => {
            let kind = if is_last { LAST } else { DATA };
            heads.extend_from_slice(&head(kind, segment.bytes.len(), transfer));
            Some(segment)
        }
        Content::End => {
            heads.extend_from_slice(&head(END, 0, transfer));
            None
        }
        Content::Reset => {
            heads.extend_from_slice(&head(RESET, 0, transfer));
            None
        }
    };
    // Together, or the heads would become records of TLS, and wake-ups, of their own.
    let bytes = segment.as_ref().map_or(&[][..], |segment| &segment.bytes);
    tx.write_all_buf(&mut Buf::chain(&heads[..], bytes)).await
}

async fn write_frame<W: AsyncWrite + Unpin>(
    tx: &mut W,
    kind: u8,
    transfer: u32,
    payload: &[u8],
) -> io::Result<()> {
    let head = head(kind, payload.len(), transfer);
    tx.write_all_buf(&mut Buf::chain(&head[..], payload)).await
}

/// What a peer must not send.
fn violation(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

struct Reader<'a, R> {
    rx: R,
    shared: &'a Arc<Shared>,
    buffers: Arc<Buffers>,
    heard: &'a AtomicBool,
    outstanding: Outstanding,
    messages: Option<mpsc::Sender<Vec<u8>>>,
    accepted: mpsc::Sender<TcpRx>,
    incoming: BTreeMap<u32, mpsc::Sender<Arrived>>,
}

impl<R: AsyncRead + Send + Unpin> Reader<'_, R> {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            let mut head = [0; HEAD_BYTES];
            match self.rx.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            self.heard.store(true, Ordering::Relaxed);
            let [kind, l0, l1, l2, t0, t1, t2, t3] = head;
            let length = u32::from_le_bytes([l0, l1, l2, 0]) as usize;
            let transfer = u32::from_le_bytes([t0, t1, t2, t3]);
            self.take(kind, length, transfer).await?;
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    async fn take(&mut self, kind: u8, length: usize, transfer: u32) -> io::Result<()> {
        match kind {
            MESSAGE => return self.take_message(length).await,
            OPEN => return self.take_open(length, transfer).await,
            DATA => return self.take_data(length, transfer).await,
            LAST => {
                self.take_data(length, transfer).await?;
                return self.take_end(transfer).await;
            }
            FAREWELL | END | RESET | DONE | STOP | PING if length == 0 => {}
            _ => return Err(violation("the peer sent a frame of an unknown kind")),
        }
        match kind {
            FAREWELL => self.messages = None,
            END => self.take_end(transfer).await?,
            RESET => drop(self.incoming.remove(&transfer)),
            DONE | STOP => {
                if let Some(answer) = self.shared.unanswered.lock().remove(&transfer) {
                    // The sender of the chunk may have given up.
                    answer.send(kind == DONE).ok();
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn take_end(&mut self, transfer: u32) -> io::Result<()> {
        if let Some(arrived) = self.incoming.remove(&transfer) {
            // The transfer was refused if nobody listens.
            drop(arrived.send(Arrived::End).await);
        }
        Ok(())
    }

    async fn take_message(&mut self, length: usize) -> io::Result<()> {
        if length > FRAME_BYTES_MAX {
            return Err(violation("the peer sent a message beyond the limit"));
        }
        let mut frame = vec![0; length];
        self.rx.read_exact(&mut frame).await?;
        if let Some(messages) = &self.messages {
            // The owner ends the connection when it stops listening.
            drop(messages.send(frame).await);
        }
        Ok(())
    }

    async fn take_open(&mut self, length: usize, transfer: u32) -> io::Result<()> {
        let mut header = [0; TransferHeader::BYTES];
        if length != header.len() || self.incoming.len() >= TRANSFERS_MAX as usize {
            return Err(violation("the peer opened a transfer that it must not open"));
        }
        self.rx.read_exact(&mut header).await?;
        let receipt = self.shared.receipts.clone().try_reserve_owned();
        let receipt =
            receipt.ok().ok_or_else(|| violation("the peer opens transfers without end"))?;
        let (tx, arrived) = mpsc::channel(ARRIVED_MAX);
        let rx = TcpRx { transfer, header, arrived, receipt: Some(receipt) };
        if self.incoming.insert(transfer, tx).is_some() {
            return Err(violation("the peer opened a transfer twice"));
        }
        // Nobody accepts once the connection is closed.
        drop(self.accepted.send(rx).await);
        Ok(())
    }

    async fn take_data(&mut self, length: usize, transfer: u32) -> io::Result<()> {
        if length > SEGMENT_BYTES as usize {
            return Err(violation("the peer sent a segment beyond the limit"));
        }
        let mut segment = self.buffers.segment_to_fill();
        let mut rest = length;
        while rest > 0 {
            self.outstanding.set(rest);
            let read = timeout(PATIENCE, self.rx.read(&mut segment.space()[..rest])).await;
            let count = if let Ok(count) = read {
                count?
            } else {
                // A slow peer must not look like a silent one.
                self.outstanding.set(0);
                self.rx.read(&mut segment.space()[..rest]).await?
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            segment.advance(count);
            rest -= count;
            self.heard.store(true, Ordering::Relaxed);
        }
        self.outstanding.set(0);
        if let Some(arrived) = self.incoming.get(&transfer) {
            // The transfer was refused if nobody listens: the sender hears of it soon.
            drop(arrived.send(Arrived::Data(segment)).await);
        }
        Ok(())
    }
}

impl Connection for TcpConnection {
    const KIND: TransportKind = TransportKind::Tcp;
    type MessageTx = TcpMessageTx;
    type MessageRx = TcpMessageRx;
    type Tx = TcpTx;
    type Rx = TcpRx;

    fn remote_address(&self) -> SocketAddr {
        self.shared.remote
    }

    fn close(&self, reason: &str) {
        self.shared.close(reason);
    }

    fn close_reason(&self) -> Option<String> {
        self.shared.closed.is_cancelled().then(|| {
            let reason = self.shared.reason.get();
            reason.cloned().unwrap_or_else(|| "closed".to_owned())
        })
    }

    async fn open_messages(&self, _: bool) -> Result<(TcpMessageTx, TcpMessageRx), Lost> {
        let rx = self.shared.messages.lock().take();
        let tx = TcpMessageTx { shared: self.shared.clone() };
        Ok((tx, TcpMessageRx { messages: rx.ok_or(Lost)? }))
    }

    async fn open_transfer(&self, header: TransferHeader) -> Result<TcpTx, Lost> {
        let shared = self.shared.clone();
        let opened = async {
            let place = shared.transfers.clone().acquire_owned().await.or(Err(Lost))?;
            let end = shared.bulk.clone().reserve_owned().await.or(Err(Lost))?;
            Ok((place, end))
        };
        let (place, end) = tokio::select! {
            opened = opened => opened?,
            () = shared.closed.cancelled() => return Err(Lost),
        };
        let transfer = shared.next_transfer.fetch_add(1, Ordering::Relaxed);
        let (answer, is_received) = oneshot::channel();
        shared.unanswered.lock().insert(transfer, answer);
        Ok(TcpTx {
            shared,
            transfer,
            header: Some(header),
            held: None,
            end: Some(end),
            is_reset: Arc::default(),
            is_received,
            _place: place,
        })
    }

    async fn accept_transfer(&self) -> Result<TcpRx, Lost> {
        let mut accepted = self.shared.accepted.lock().await;
        tokio::select! {
            biased;
            () = self.shared.closed.cancelled() => Err(Lost),
            transfer = accepted.recv() => transfer.ok_or(Lost),
        }
    }
}

#[derive(Debug)]
pub(crate) struct TcpMessageTx {
    shared: Arc<Shared>,
}

impl TcpMessageTx {
    async fn enqueue(&self, frame: Outbound) -> Result<(), Lost> {
        tokio::select! {
            sent = self.shared.outbox.send(frame) => sent.or(Err(Lost)),
            () = self.shared.closed.cancelled() => Err(Lost),
        }
    }
}

impl MessageTx for TcpMessageTx {
    async fn send(&mut self, frame: Vec<u8>) -> Result<(), Lost> {
        self.enqueue(Outbound::Message(frame)).await
    }

    async fn finish(self) {
        if self.enqueue(Outbound::Farewell).await.is_ok() {
            self.shared.closed.cancelled().await;
        }
    }
}

#[derive(Debug)]
pub(crate) struct TcpMessageRx {
    messages: mpsc::Receiver<Vec<u8>>,
}

impl MessageRx for TcpMessageRx {
    async fn next(&mut self, frame: &mut Vec<u8>) -> Result<(), MessageFault> {
        *frame = self.messages.recv().await.ok_or(MessageFault::Lost)?;
        Ok(())
    }
}

/// The sending end of a transfer.
#[derive(Debug)]
pub(crate) struct TcpTx {
    shared: Arc<Shared>,
    transfer: u32,
    /// Sent with the first frame; `None` once it is.
    header: Option<TransferHeader>,
    /// The last segment written, kept until it is known whether another follows.
    held: Option<Queued>,
    /// The place of the last frame, kept so that a drop can send it without waiting.
    end: Option<mpsc::OwnedPermit<Bulk>>,
    is_reset: Arc<AtomicBool>,
    is_received: oneshot::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl TcpTx {
    fn frame(&mut self, content: Content) -> Bulk {
        Bulk { transfer: self.transfer, header: self.header.take(), content }
    }
}

impl TransferTx for TcpTx {
    async fn write(&mut self, bytes: Bytes) -> Result<(), Lost> {
        // The receiver answers before the end only to refuse the rest.
        if !self.is_received.is_empty() {
            return Err(Lost);
        }
        if let Some(segment) = self.held.take() {
            let frame = self.frame(Content::Data { segment, is_last: false });
            let sent = tokio::select! {
                sent = self.shared.bulk.send(frame) => sent.is_ok(),
                () = self.shared.closed.cancelled() => false,
            };
            if !sent {
                return Err(Lost);
            }
        }
        let slot = timeout(STALL_TIME, self.shared.slots.clone().acquire_owned());
        let slot = tokio::select! {
            slot = slot => slot.or(Err(Lost))?.or(Err(Lost))?,
            () = self.shared.closed.cancelled() => return Err(Lost),
        };
        self.held = Some(Queued { bytes, is_reset: self.is_reset.clone(), _slot: slot });
        Ok(())
    }

    async fn finish(mut self) -> Result<bool, Lost> {
        let end = self.end.take().ok_or(Lost)?;
        let content = match self.held.take() {
            Some(segment) => Content::Data { segment, is_last: true },
            None => Content::End,
        };
        end.send(self.frame(content));
        match timeout(STALL_TIME, &mut self.is_received).await {
            Ok(Ok(is_received)) => Ok(is_received),
            Ok(Err(_)) | Err(_) => Err(Lost),
        }
    }
}

impl Drop for TcpTx {
    fn drop(&mut self) {
        // The far end knows nothing of a transfer whose header was not sent.
        if let Some(end) = self.end.take()
            && self.header.is_none()
        {
            self.is_reset.store(true, Ordering::Relaxed);
            end.send(self.frame(Content::Reset));
        }
        self.shared.unanswered.lock().remove(&self.transfer);
    }
}

/// The receiving end of a transfer.
#[derive(Debug)]
pub(crate) struct TcpRx {
    transfer: u32,
    header: [u8; TransferHeader::BYTES],
    arrived: mpsc::Receiver<Arrived>,
    /// The place of the receipt; taken once it is given.
    receipt: Option<mpsc::OwnedPermit<Receipt>>,
}

impl TransferRx for TcpRx {
    async fn header(&mut self) -> Result<[u8; TransferHeader::BYTES], Lost> {
        Ok(self.header)
    }

    async fn next_segment(&mut self, _: &Arc<Buffers>) -> Result<Option<Segment>, Lost> {
        match timeout(STALL_TIME, self.arrived.recv()).await {
            Ok(Some(Arrived::Data(segment))) => Ok(Some(segment)),
            Ok(Some(Arrived::End)) => {
                if let Some(receipt) = self.receipt.take() {
                    receipt.send(Receipt::Done { transfer: self.transfer });
                }
                Ok(None)
            }
            // Reset by the sender, or the connection is gone.
            Ok(None) | Err(_) => Err(Lost),
        }
    }
}

impl Drop for TcpRx {
    fn drop(&mut self) {
        if let Some(receipt) = self.receipt.take() {
            receipt.send(Receipt::Stop { transfer: self.transfer });
        }
    }
}
