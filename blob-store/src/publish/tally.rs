//! How far a publish is.
//!
//! Invariant: counts only grow; whoever watches is called on the task that publishes, after each
//! step, and never waited for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far a publish is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct PublishProgress {
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Bytes of different chunks that the store had already, or that an earlier try brought there.
    pub bytes_reused: u64,
    /// Bytes of different chunks that were read and compressed.
    pub bytes_packed: u64,
    /// Bytes of packs that are in the store, compressed.
    pub bytes_sent: u64,
}

/// Called with each step of a publish.
pub type Watcher = Arc<dyn Fn(PublishProgress) + Send + Sync>;

#[derive(Default)]
pub(super) struct Tally {
    total: AtomicU64,
    reused: AtomicU64,
    packed: AtomicU64,
    sent: AtomicU64,
    watcher: Option<Watcher>,
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.now().fmt(f)
    }
}

impl Tally {
    pub(super) fn new(bytes_total: u64, watcher: Option<Watcher>) -> Self {
        let tally = Self { watcher, ..Self::default() };
        tally.total.store(bytes_total, Ordering::Relaxed);
        tally.tell();
        tally
    }

    pub(super) fn now(&self) -> PublishProgress {
        PublishProgress {
            bytes_total: self.total.load(Ordering::Relaxed),
            bytes_reused: self.reused.load(Ordering::Relaxed),
            bytes_packed: self.packed.load(Ordering::Relaxed),
            bytes_sent: self.sent.load(Ordering::Relaxed),
        }
    }

    pub(super) fn on_reused(&self, bytes: u64) {
        self.add(&self.reused, bytes);
    }

    pub(super) fn on_packed(&self, bytes: u64) {
        self.add(&self.packed, bytes);
    }

    pub(super) fn on_sent(&self, bytes: u64) {
        self.add(&self.sent, bytes);
    }

    fn add(&self, count: &AtomicU64, bytes: u64) {
        count.fetch_add(bytes, Ordering::Relaxed);
        self.tell();
    }

    fn tell(&self) {
        if let Some(watcher) = &self.watcher {
            watcher(self.now());
        }
    }
}
