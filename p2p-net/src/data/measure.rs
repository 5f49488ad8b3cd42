//! How fast bytes come from a peer: both ends of a connection that carries nothing else.
//!
//! The asker opens a transfer whose header names a number of bytes; the peer answers with transfers
//! as large as chunks can be, a few at a time, as in a download, or with one of no bytes if it is
//! being measured already. Invariant: a node serves one measurement at a time, of at most
//! [`MEASURE_BYTES_MAX`] and [`SERVE_TIME`], and what it sends passes the cap on uploads.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, stream};
use p2p_core::{BuildId, CHUNK_SIZE_MAX, Contact, Digest, Prng, Seed};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::Callee;
use super::buffers::{Buffers, SEGMENT_BYTES};
use super::dscp::TrafficClass;
use super::frame::{TransferHeader, TransferKind};
use super::limiter::{SharedLimits, TransferLimits};
use super::quic::{self, QuicEndpoint};
use super::transport::{Connection, Lost, TransferRx, TransferTx, TransportKind};
use super::{DIAL_TIME, tcp};
use crate::tls::TlsIdentity;

/// Most bytes of one measurement.
pub(crate) const MEASURE_BYTES_MAX: u64 = 1 << 30;

/// Longest measurement that is served; an asker waits for less.
const SERVE_TIME: Duration = Duration::from_secs(20);

/// Answers under way at once, as many as a download has requests to a fast peer.
const ANSWERS_AT_ONCE: usize = 4;

/// What a node serves measurements with.
#[derive(Clone, Debug)]
pub(super) struct Measuring {
    limits: TransferLimits,
    turn: Arc<Semaphore>,
}

impl Measuring {
    pub(super) fn new(node: SharedLimits) -> Self {
        Self {
            limits: TransferLimits::new(SharedLimits::default(), node),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

/// What came of a measurement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Measured {
    /// Bytes that arrived.
    pub(crate) bytes: u64,
    /// How long that took, from the question on.
    pub(crate) elapsed: Duration,
    /// From the question to the first sign of an answer.
    pub(crate) round_trip: Duration,
}

/// Why there is no measurement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MeasureFault {
    /// The peer refused: it serves another one.
    Busy,
    /// The connection ended, or nothing came.
    Lost,
}

impl From<Lost> for MeasureFault {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

/// Connects to the peer over `kind` and asks for `bytes`, for no longer than `time`; an error if
/// there is no connection.
pub(crate) async fn measure(
    tls: &TlsIdentity,
    contact: Contact,
    kind: TransportKind,
    (bytes, time): (u64, Duration),
) -> Result<Result<Measured, MeasureFault>, String> {
    let late = |_| "it does not answer in time".to_owned();
    let text = |error: io::Error| error.to_string();
    let callee = Callee { node: contact.node, address: contact.data };
    match kind {
        TransportKind::Quic => {
            let any = match contact.data {
                SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            };
            let socket = quic::bind_socket(any, false).map_err(text)?;
            let endpoint =
                QuicEndpoint::new(tls, (socket, TrafficClass::default()), false).map_err(text)?;
            let dialled = timeout(DIAL_TIME, endpoint.dial(callee.node, callee.address));
            let connection = dialled.await.map_err(late)??;
            let measured = ask(&connection, bytes, time).await;
            endpoint.close().await;
            Ok(measured)
        }
        TransportKind::Tcp => {
            let dialled = timeout(DIAL_TIME, tcp::dial(tls, callee, TrafficClass::default()));
            let stream = dialled.await.map_err(late)??;
            let (connection, pump) =
                tcp::carry(stream, Buffers::new(crate::budget::BufferBudget::MIN)).map_err(text)?;
            let asked = async {
                let measured = ask(&connection, bytes, time).await;
                connection.close("measured");
                measured
            };
            Ok(tokio::join!(pump.run(), asked).1)
        }
    }
}

/// Asks for `bytes` and counts what arrives until all are here, but no longer than `time`.
async fn ask(
    connection: &impl Connection,
    bytes: u64,
    time: Duration,
) -> Result<Measured, MeasureFault> {
    let bytes = bytes.clamp(1, MEASURE_BYTES_MAX);
    let tally =
        Tally { started: Instant::now(), first_after: OnceLock::new(), bytes: AtomicU64::new(0) };
    let asked = async {
        let question = connection.open_transfer(header(bytes)).await?;
        let (_, taken) = tokio::join!(question.finish(), take_answers(connection, bytes, &tally));
        taken
    };
    // On a slow way the time ends it, and what came by then is as good a measure.
    let ended = timeout(time, asked).await;
    let elapsed = tally.started.elapsed();
    match (ended, tally.bytes.into_inner(), tally.first_after.get()) {
        (Ok(Err(MeasureFault::Busy)), ..) => Err(MeasureFault::Busy),
        (_, bytes @ 1.., Some(&round_trip)) => Ok(Measured { bytes, elapsed, round_trip }),
        _ => Err(MeasureFault::Lost),
    }
}

/// What has arrived so far.
#[derive(Debug)]
struct Tally {
    started: Instant,
    first_after: OnceLock<Duration>,
    bytes: AtomicU64,
}

async fn take_answers(
    connection: &impl Connection,
    bytes: u64,
    tally: &Tally,
) -> Result<(), MeasureFault> {
    let buffers = Buffers::new(crate::budget::BufferBudget::MIN);
    let mut answers = FuturesUnordered::new();
    while tally.bytes.load(Ordering::Relaxed) < bytes {
        tokio::select! {
            answer = connection.accept_transfer() => {
                answers.push(take_answer(answer?, &buffers, tally));
            }
            Some(taken) = answers.next() => taken?,
        }
    }
    Ok(())
}

async fn take_answer(
    mut answer: impl TransferRx,
    buffers: &Arc<Buffers>,
    tally: &Tally,
) -> Result<(), MeasureFault> {
    let is_refusal = asked_bytes(&answer.header().await?) == Some(0);
    tally.first_after.get_or_init(|| tally.started.elapsed());
    if is_refusal {
        return Err(MeasureFault::Busy);
    }
    while let Some(segment) = answer.next_segment(buffers).await? {
        tally.bytes.fetch_add(segment.as_ref().len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Serves one question on a connection, and ends the connection.
pub(super) async fn serve(connection: &impl Connection, measuring: &Measuring) {
    // An asker that loses the connection, or is too slow, notices by itself.
    drop(timeout(SERVE_TIME, answer(connection, measuring)).await);
    connection.close("measured");
}

async fn answer(connection: &impl Connection, measuring: &Measuring) -> Result<(), Lost> {
    let mut question = connection.accept_transfer().await?;
    let Some(bytes) = asked_bytes(&question.header().await?) else { return Ok(()) };
    // Reads its end, which takes note of it towards the asker.
    question.next_segment(&Buffers::new(crate::budget::BufferBudget::MIN)).await?;
    match measuring.turn.try_acquire() {
        Ok(_turn) => {
            let sizes = answer_sizes(bytes.min(MEASURE_BYTES_MAX));
            let sent = sizes.map(|size| send_noise(connection, size, &measuring.limits));
            let mut sent = stream::iter(sent).buffer_unordered(ANSWERS_AT_ONCE);
            while let Some(outcome) = sent.next().await {
                outcome?;
            }
        }
        Err(_) => drop(connection.open_transfer(header(0)).await?.finish().await?),
    }
    // The asker hangs up when it has read all of it.
    drop(connection.accept_transfer().await);
    Ok(())
}

/// The bytes that a header asks for; `None` if it is no question.
fn asked_bytes(header: &[u8; TransferHeader::BYTES]) -> Option<u64> {
    match TransferHeader::decode(header)?.kind {
        TransferKind::Measure { bytes } => Some(bytes),
        TransferKind::Chunk { .. } | TransferKind::Manifest => None,
    }
}

fn answer_sizes(bytes: u64) -> impl Iterator<Item = u64> {
    let full = u64::from(CHUNK_SIZE_MAX);
    (0..bytes.div_ceil(full)).map(move |index| full.min(bytes - index * full))
}

async fn send_noise(
    connection: &impl Connection,
    bytes: u64,
    limits: &TransferLimits,
) -> Result<(), Lost> {
    let mut tx = connection.open_transfer(header(bytes)).await?;
    let mut left = bytes;
    while left > 0 {
        let mut slice = noise();
        let wanted = slice.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        slice.truncate(limits.admit_upload(wanted).await);
        left -= slice.len() as u64;
        tx.write(slice).await?;
    }
    tx.finish().await.map(|_| ())
}

/// A slice of bytes that no device on the way can compress; never what was in memory before.
fn noise() -> Bytes {
    static NOISE: OnceLock<Bytes> = OnceLock::new();
    let make = || {
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        (0..SEGMENT_BYTES / 8).flat_map(|_| prng.next_u64().to_le_bytes()).collect()
    };
    NOISE.get_or_init(make).clone()
}

/// No build has this name.
fn header(bytes: u64) -> TransferHeader {
    let build = BuildId::from_digest(Digest::from_bytes([0; 32]));
    TransferHeader { build, kind: TransferKind::Measure { bytes } }
}

#[cfg(test)]
mod tests {
    use p2p_core::ByteRate;

    use super::*;
    use crate::data::limiter::Limits;

    const MIB: u64 = 1 << 20;

    /// Runs `asked` bytes' worth of measurement over a connection in memory.
    async fn measured(measuring: &Measuring, asked: u64) -> Result<Measured, MeasureFault> {
        let (near, far) = tokio::io::duplex(256 << 10);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let (near, near_pump) =
            tcp::make(near, address, Buffers::new(crate::budget::BufferBudget::MIN));
        let (far, far_pump) =
            tcp::make(far, address, Buffers::new(crate::budget::BufferBudget::MIN));
        let asking = async {
            let outcome = ask(&near, asked, Duration::from_mins(1)).await;
            near.close("measured");
            outcome
        };
        tokio::join!(near_pump.run(), far_pump.run(), serve(&far, measuring), asking).3
    }

    #[tokio::test]
    async fn every_byte_that_was_asked_for_comes_and_no_more() {
        let measuring = Measuring::new(SharedLimits::default());
        for asked in [1, 9 * MIB + 7] {
            assert_eq!(measured(&measuring, asked).await.unwrap().bytes, asked);
        }
    }

    /// Goal: whoever asks while another measurement runs is refused, and nobody after it.
    #[tokio::test]
    async fn one_measurement_at_a_time_is_served() {
        let measuring = Measuring::new(SharedLimits::default());
        let turn = measuring.turn.clone().try_acquire_owned().unwrap();
        assert_eq!(measured(&measuring, MIB).await, Err(MeasureFault::Busy));
        drop(turn);
        assert!(measured(&measuring, MIB).await.is_ok());
    }

    /// Goal: a measurement is no way round the cap on uploads.
    #[tokio::test(start_paused = true)]
    async fn cap_on_uploads_holds() {
        let measuring = Measuring::new(SharedLimits::new(Limits {
            upload: ByteRate::new(MIB),
            download: None,
        }));
        let measured = measured(&measuring, 4 * MIB).await.unwrap();
        assert!(measured.elapsed >= Duration::from_millis(3_900), "{measured:?}");
    }

    #[test]
    fn answers_add_up_to_the_question() {
        for bytes in [0, 1, u64::from(CHUNK_SIZE_MAX), MEASURE_BYTES_MAX - 1] {
            let sizes: Vec<u64> = answer_sizes(bytes).collect();
            assert_eq!(sizes.iter().sum::<u64>(), bytes);
            assert!(sizes.iter().all(|size| (1..=u64::from(CHUNK_SIZE_MAX)).contains(size)));
        }
    }
}
