//! What the handle may read without asking the hub: progress by build, and totals.
//!
//! Written by the hub alone. Nothing here waits for longer than it takes to copy a few numbers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use p2p_core::BuildId;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::progress::{LinkCounts, NodeStats, Progress};

/// Progress and totals, as of the hub's last tick.
#[derive(Debug, Default)]
pub(crate) struct Board {
    builds: Mutex<Builds>,
    quic: AtomicU32,
    tcp: AtomicU32,
}

#[derive(Debug, Default)]
struct Builds {
    current: BTreeMap<BuildId, watch::Receiver<Progress>>,
    /// Bytes moved for builds that were left.
    past: NodeStats,
}

impl Board {
    pub(crate) fn add(&self, build: BuildId, progress: watch::Receiver<Progress>) {
        self.builds.lock().current.insert(build, progress);
    }

    pub(crate) fn forget(&self, build: BuildId) {
        let mut builds = self.builds.lock();
        if let Some(progress) = builds.current.remove(&build) {
            builds.past.add(&progress.borrow());
        }
    }

    pub(crate) fn note_links(&self, links: LinkCounts) {
        self.quic.store(links.quic, Ordering::Relaxed);
        self.tcp.store(links.tcp, Ordering::Relaxed);
    }

    pub(crate) fn progress(&self, build: BuildId) -> Option<Progress> {
        self.builds.lock().current.get(&build).map(|progress| progress.borrow().clone())
    }

    pub(crate) fn stats(&self) -> NodeStats {
        let builds = self.builds.lock();
        let mut stats = builds.past;
        for progress in builds.current.values() {
            stats.add(&progress.borrow());
        }
        stats.links.quic = self.quic.load(Ordering::Relaxed);
        stats.links.tcp = self.tcp.load(Ordering::Relaxed);
        stats
    }
}
