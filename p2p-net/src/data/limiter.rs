//! Caps on the chunk bytes that move, adjustable while they move.
//!
//! Owns the arithmetic of one cap ([`Limiter`]), and that bytes pass the cap of their app first and
//! that of the process second ([`TransferLimits`]). Transfers ask for a slice at a time and are let
//! through in the order in which they asked, so that those under one cap share it evenly. Knows no
//! transport: sending waits before a slice is handed over, and receiving waits before more is read,
//! so that the flow control of the transport holds the sender back. Manifests are not capped: they
//! are small, and without one nothing moves.

use std::sync::Arc;
use std::time::Duration;

use p2p_core::ByteRate;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

/// Most bytes let through at once. Small against any rate worth capping, so that transfers share
/// the rate evenly; large enough that the bookkeeping does not show.
const SLICE_BYTES_MAX: u64 = 64 << 10;

/// The smallest slice: less than a packet's worth would only cost packets.
const SLICE_BYTES_MIN: u64 = 1 << 10;

/// Slices per second under a low cap. With one large slice every few seconds, a peer that waits its
/// turn behind others would look as if it had died.
const SLICES_PER_SECOND: u64 = 32;

/// What an idle line may catch up on: about how late the timer of a busy machine is. Without
/// it each late wake-up would lose rate for good; with much more, a burst would follow every pause.
const BURST: Duration = Duration::from_millis(25);

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// Most chunk bytes per second in each direction; `None` for no cap.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Cap on what is sent to others.
    pub upload: Option<ByteRate>,
    /// Cap on what is received, discarded bytes included.
    pub download: Option<ByteRate>,
}

/// [`Limits`] that several transfers share, such as all those of one app, and that can be changed
/// while they run. Cheap to clone; all clones are the same limits.
#[derive(Clone, Debug, Default)]
pub struct SharedLimits {
    limiters: Arc<Limiters>,
}

#[derive(Debug, Default)]
struct Limiters {
    upload: Limiter,
    download: Limiter,
}

impl SharedLimits {
    /// Limits to begin with.
    pub fn new(limits: Limits) -> Self {
        let shared = Self::default();
        shared.set(limits);
        shared
    }

    /// Replaces the limits. Transfers under way follow within the slice that they wait for.
    pub fn set(&self, limits: Limits) {
        self.limiters.upload.set_rate(limits.upload);
        self.limiters.download.set_rate(limits.download);
    }

    /// The limits in force.
    pub fn get(&self) -> Limits {
        Limits { upload: self.limiters.upload.rate(), download: self.limiters.download.rate() }
    }
}

/// What the bytes of a transfer have to pass: the cap of its app, then that of the process.
#[derive(Clone, Debug)]
pub(crate) struct TransferLimits {
    app: SharedLimits,
    node: SharedLimits,
}

impl TransferLimits {
    pub(crate) const fn new(app: SharedLimits, node: SharedLimits) -> Self {
        Self { app, node }
    }

    /// Waits until some of `wanted` bytes may be sent. Returns how many: at least one unless none
    /// is wanted.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future forfeits the place in the line and at most one slice.
    pub(crate) async fn admit_upload(&self, wanted: usize) -> usize {
        admit_slice([&self.app.limiters.upload, &self.node.limiters.upload], wanted).await
    }

    /// Waits until `bytes` that arrived may be followed by more. The receiver must not read from
    /// the transport meanwhile.
    ///
    /// # Cancel safety
    ///
    /// As for [`Self::admit_upload`].
    pub(crate) async fn admit_download(&self, bytes: usize) {
        let limiters = [&self.app.limiters.download, &self.node.limiters.download];
        let mut rest = bytes;
        while rest > 0 {
            rest -= admit_slice(limiters, rest).await;
        }
    }
}

/// The app's limiter comes first: whoever waits there is not yet in the line of all apps.
async fn admit_slice(limiters: [&Limiter; 2], wanted: usize) -> usize {
    let bytes = limiters.iter().fold(wanted, |bytes, limiter| limiter.slice(bytes));
    for limiter in limiters {
        limiter.admit(bytes).await;
    }
    bytes
}

/// Lets bytes through at a rate, first come, first served.
#[derive(Debug)]
struct Limiter {
    rate: watch::Sender<Option<ByteRate>>,
    /// Its lock is the line: the mutex of tokio is handed on in the order of asking, and only the
    /// first in the line looks at the clock.
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    rates: watch::Receiver<Option<ByteRate>>,
    /// The rate of the time since `settled_at`.
    rate: Option<ByteRate>,
    /// What may pass now, in billionths of a byte; below zero, what passed ahead of its time.
    balance: i128,
    settled_at: Instant,
}

impl Default for Limiter {
    fn default() -> Self {
        let (rate, rates) = watch::channel(None);
        let line = Line { rates, rate: None, balance: 0, settled_at: Instant::now() };
        Self { rate, line: Mutex::new(line) }
    }
}

impl Limiter {
    fn rate(&self) -> Option<ByteRate> {
        *self.rate.borrow()
    }

    fn set_rate(&self, rate: Option<ByteRate>) {
        self.rate.send_if_modified(|shown| {
            let is_new = *shown != rate;
            *shown = rate;
            is_new
        });
    }

    /// How much of `wanted` is let through at once.
    fn slice(&self, wanted: usize) -> usize {
        let Some(rate) = self.rate() else { return wanted };
        let slice = (rate.get() / SLICES_PER_SECOND).clamp(SLICE_BYTES_MIN, SLICE_BYTES_MAX);
        wanted.min(usize::try_from(slice).unwrap_or(usize::MAX))
    }

    /// Waits until `bytes` may pass.
    async fn admit(&self, bytes: usize) {
        if self.rate().is_none() {
            return;
        }
        let mut line = self.line.lock().await;
        line.wait().await;
        line.charge(bytes);
    }
}

impl Line {
    /// Waits until all that passed was due.
    async fn wait(&mut self) {
        while let Some(wait) = self.settle() {
            // Either way the rate is looked at again. The sender lives as long as the line.
            tokio::select! {
                () = sleep(wait) => {}
                _ = self.rates.changed() => {}
            }
        }
    }

    /// Credits the time since the last call. Returns how long to wait if the balance is below zero.
    fn settle(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let elapsed = now - self.settled_at;
        self.settled_at = now;
        if let Some(rate) = self.rate {
            self.balance =
                self.balance.saturating_add(earned(rate, elapsed)).min(earned(rate, BURST));
        }
        self.rate = *self.rates.borrow_and_update();
        let Some(rate) = self.rate else {
            self.balance = 0;
            return None;
        };
        if self.balance >= 0 {
            return None;
        }
        let wait = self.balance.unsigned_abs().div_ceil(u128::from(rate.get()));
        Some(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    fn charge(&mut self, bytes: usize) {
        if self.rate.is_some() {
            let bytes = i128::from(bytes as u64).saturating_mul(NANOS_PER_SECOND);
            self.balance = self.balance.saturating_sub(bytes);
        }
    }
}

/// What may pass in `time`, in billionths of a byte.
fn earned(rate: ByteRate, time: Duration) -> i128 {
    let nanos = i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
    nanos.saturating_mul(i128::from(rate.get()))
}

#[cfg(test)]
mod tests;
