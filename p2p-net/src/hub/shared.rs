//! What the handle may read without asking the hub: progress by build, and totals.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use p2p_core::BuildId;
use tokio::sync::watch;

use crate::progress::{LinkCounts, NodeStats, Progress};

/// Written by the hub, read by handles on any thread.
#[derive(Debug, Default)]
pub(crate) struct Shared {
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

impl Shared {
    pub(crate) fn add(&self, build: BuildId, progress: watch::Receiver<Progress>) {
        self.lock().current.insert(build, progress);
    }

    pub(crate) fn forget(&self, build: BuildId) {
        let mut builds = self.lock();
        if let Some(progress) = builds.current.remove(&build) {
            builds.past.add(&progress.borrow());
        }
    }

    pub(crate) fn note_links(&self, links: LinkCounts) {
        self.quic.store(links.quic, Ordering::Relaxed);
        self.tcp.store(links.tcp, Ordering::Relaxed);
    }

    pub(crate) fn progress(&self, build: BuildId) -> Option<Progress> {
        self.lock().current.get(&build).map(|progress| progress.borrow().clone())
    }

    pub(crate) fn stats(&self) -> NodeStats {
        let builds = self.lock();
        let mut stats = builds.past;
        for progress in builds.current.values() {
            stats.add(&progress.borrow());
        }
        stats.links.quic = self.quic.load(Ordering::Relaxed);
        stats.links.tcp = self.tcp.load(Ordering::Relaxed);
        stats
    }

    fn lock(&self) -> MutexGuard<'_, Builds> {
        self.builds.lock().expect("no code panics while it holds the lock")
    }
}
