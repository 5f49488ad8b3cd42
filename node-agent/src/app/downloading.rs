//! The download of the app: begun, followed, and taken in or noted as trouble when it ends.
//!
//! Invariant: at most one download of the app runs, and the time that each took is counted however
//! it ends. What to download, and when to try again, is not decided here.

use std::time::Duration;

use command_line::causes;
use goal_state::{Trouble, TroubleKind};
use p2p_core::BuildId;
use p2p_net::{Progress, WaitingFor};
use tokio::time::Instant;
use tracing::info;

use crate::app::App;
use crate::app::rate::RateMeter;
use crate::fleet::source::{BuildSource, RunningDownload};
use crate::fleet::tokens::TokenDesk;
use crate::host::Host;

/// The download that runs.
#[derive(Debug)]
pub(super) struct ActiveDownload<D> {
    pub(super) build: BuildId,
    pub(super) download: D,
    started_at: Instant,
    meter: RateMeter,
}

/// A download whose bytes did not change for this long is stuck: far above the time of a chunk over
/// a bad link, and short enough that a person who looks sees it.
const STUCK_AFTER: Duration = Duration::from_mins(1);

#[expect(clippy::multiple_inherent_impl, reason = "the loop is cut by concern")]
impl<S: BuildSource, H: Host, T: TokenDesk> App<S, H, T> {
    /// Downloads `build` instead of whatever is being downloaded.
    pub(super) fn start_download(&mut self, build: BuildId) {
        info!(build = build.short(), "downloading");
        // Dropped first, so that the node is never asked for two downloads of the app at once.
        drop(self.take_download());
        self.progress = (Some(build), Progress::default());
        let now = Instant::now();
        self.progress_since = now;
        self.staged.insert(build);
        let download = self.source.fetch(build, &self.store);
        let meter = RateMeter::new(now, 0);
        self.download = Some(ActiveDownload { build, download, started_at: now, meter });
    }

    /// The download that runs, which is over now, well or not.
    pub(super) fn take_download(&mut self) -> Option<ActiveDownload<S::Download>> {
        let active = self.download.take()?;
        self.count(|counts| counts.download_time += active.started_at.elapsed());
        Some(active)
    }

    /// Notes how far the download is, and when that changed last.
    pub(super) fn on_progress(&mut self, progress: Progress) {
        let now = Instant::now();
        if progress.bytes_done != self.progress.1.bytes_done {
            self.progress_since = now;
        }
        if let Some(active) = &mut self.download {
            active.meter.on_bytes(now, received(&progress));
        }
        self.progress.1 = progress;
    }

    /// Bytes per second that the download takes in; `None` if none runs or nothing comes.
    pub(super) fn download_rate(&self) -> Option<u64> {
        let active = self.download.as_ref()?;
        let rate = active.meter.rate(Instant::now(), received(&self.progress.1));
        Some(rate).filter(|rate| *rate > 0)
    }

    /// What the download that runs waits for, or that it does not move, for people.
    pub(super) fn stuck(&self) -> Option<Trouble> {
        self.download.as_ref()?;
        let progress = &self.progress.1;
        let is_still = self.progress_since.elapsed() >= STUCK_AFTER
            && progress.bytes_total.is_some_and(|total| progress.bytes_done < total);
        match &progress.waiting_for {
            Some(waiting_for) => Some(waiting(waiting_for)),
            None => is_still.then(|| {
                Trouble::new(TroubleKind::DownloadStuck, "the download makes no progress")
            }),
        }
    }

    /// Takes in the build, or notes why it is not here.
    pub(super) async fn on_download_ended(&mut self) {
        let Some(ActiveDownload { build, download, .. }) = self.take_download() else { return };
        match download.finish().await {
            Ok(stored) => {
                info!(build = build.short(), "downloaded and verified");
                self.staged.remove(&build);
                self.builds.insert(build, stored);
                self.download_trouble.clear();
                if self.damage.as_ref().is_some_and(|(damaged, _)| *damaged == build) {
                    // The program runs from files that are gone.
                    self.damage = None;
                    self.supervisor.make_stale();
                }
            }
            Err(error) => {
                let short = error.disk_short_bytes();
                let reason = format!("cannot download build {}: {}", build.short(), causes(error));
                self.download_trouble.note_short(build, &reason, short);
            }
        }
    }
}

fn waiting(waiting_for: &WaitingFor) -> Trouble {
    let kind = match waiting_for {
        WaitingFor::Source { .. } => TroubleKind::NoSource,
        _ => TroubleKind::DownloadStuck,
    };
    Trouble::new(kind, waiting_for.to_string())
}

/// Chunk bytes that came over the network.
const fn received(progress: &Progress) -> u64 {
    progress.bytes_from_seeders.saturating_add(progress.bytes_from_peers)
}

/// Waits for news of the download, if one runs; `None` once it has ended. Cancel safe.
pub(super) async fn next_progress<D: RunningDownload>(
    download: &mut Option<ActiveDownload<D>>,
) -> Option<Progress> {
    match download {
        Some(active) => active.download.next_progress().await,
        None => std::future::pending().await,
    }
}
