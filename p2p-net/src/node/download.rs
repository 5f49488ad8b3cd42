//! A download as its owner sees it: how far it is, how it ended, and when to give up on it.
//!
//! Owns the clock of [`FetchOptions::give_up_after`], of which the hub knows nothing. Invariant:
//! dropping a [`Download`] before its end cancels it, whatever it was waiting for.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Shared};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, Stream, StreamExt as _};
use p2p_core::BuildId;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::data::limiter::SharedLimits;
use crate::error::FetchError;
use crate::hub::{Command, DownloadOutcome, HubSender, Wake, Watches};
use crate::progress::Progress;
use crate::store::{BuildStore, StoredBuild};

use super::patience::Patience;

/// How a build is downloaded. The default has no caps and never gives up.
#[derive(Clone, Debug, Default)]
pub struct FetchOptions {
    /// Caps on the build's bytes, now and when it is served on. What moves has to pass these caps
    /// and those of the node. If the node has the build in another store, the caps given there
    /// apply.
    pub limits: SharedLimits,
    /// Time without any progress after which the download ends with [`FetchError::NoProgress`];
    /// what was stored is kept for the next attempt. Only time in which the network is waited for
    /// counts. Noticed while somebody waits for the [`Download`]. `None`: it waits for ever.
    pub give_up_after: Option<Duration>,
}

/// A running download. Dropping it cancels the download; what was stored is kept.
///
/// As a [`Stream`] it yields what [`Self::next_progress`] does, and ends with the download;
/// [`Self::finish`] then says how. It is to be awaited on a runtime of tokio.
pub struct Download {
    build: BuildId,
    store: BuildStore,
    hub: HubSender,
    /// Answered by the hub; `None` if the node shut down before it took the download on.
    watches: Shared<BoxFuture<'static, Option<Watches>>>,
    changes: BoxStream<'static, Progress>,
    patience: Option<(Patience, Option<Pin<Box<Sleep>>>)>,
    /// Why nobody waits any longer.
    gave_up: Option<FetchError>,
}

impl Download {
    pub(super) fn new(
        (build, store): (BuildId, BuildStore),
        hub: HubSender,
        reply: oneshot::Receiver<Watches>,
        give_up_after: Option<Duration>,
    ) -> Self {
        let watches = reply.map(Result::ok).boxed().shared();
        let changes = changes(watches.clone()).fuse().boxed();
        let patience = give_up_after.map(|time| (Patience::new(time, Instant::now()), None));
        Self { build, store, hub, watches, changes, patience, gave_up: None }
    }

    /// How far the download is now.
    pub fn progress(&self) -> Progress {
        let watches = self.watches.clone().now_or_never().flatten();
        watches.map_or_else(Progress::default, |watches| watches.progress.borrow().clone())
    }

    /// Waits for the next change, at most a few a second; `None` once the download has ended or was
    /// given up.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next_progress(&mut self) -> Option<Progress> {
        self.next().await
    }

    /// Waits for the end. The node goes on serving the build.
    ///
    /// # Errors
    ///
    /// If the disk fails, nothing arrives for too long, or the download is cancelled by
    /// [`Node::leave`](crate::Node::leave) or [`Node::shutdown`](crate::Node::shutdown).
    pub async fn finish(mut self) -> Result<StoredBuild, FetchError> {
        if self.patience.is_some() {
            while self.next().await.is_some() {}
        }
        if let Some(error) = self.gave_up.take() {
            return Err(error);
        }
        let Some(mut watches) = self.watches.clone().await else {
            return Err(FetchError::Cancelled);
        };
        match watches.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(FetchError::Cancelled)),
            Err(_) => Err(FetchError::Cancelled),
        }
    }

    /// Gives up if `progress` is no news and has been none for too long.
    fn lose_patience(&mut self, progress: &Progress) {
        if let Some((patience, _)) = &mut self.patience
            && patience.is_over(Instant::now(), progress)
        {
            let (waited, waiting_for) = (patience.time(), progress.waiting_for.clone());
            self.gave_up = Some(FetchError::NoProgress { waited, waiting_for });
        }
    }

    /// Ready when patience may be at its end.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((patience, alarm)) = &mut self.patience else { return Poll::Pending };
        let deadline = patience.deadline();
        let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if alarm.deadline() != deadline {
            alarm.as_mut().reset(deadline);
        }
        alarm.as_mut().poll(cx)
    }
}

/// The end and a lack of patience are seen by the next call: the last progress comes first.
impl Stream for Download {
    type Item = Progress;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        if self.gave_up.is_some() {
            return Poll::Ready(None);
        }
        let progress = match self.changes.poll_next_unpin(cx) {
            Poll::Ready(Some(progress)) => progress,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                futures::ready!(self.poll_alarm(cx));
                self.progress()
            }
        };
        self.lose_patience(&progress);
        Poll::Ready(Some(progress))
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (build, store) = (self.build, self.store.directory());
        f.debug_struct("Download")
            .field("build", &build)
            .field("store", &store)
            .finish_non_exhaustive()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let is_over = match self.watches.clone().now_or_never() {
            Some(Some(watches)) => is_over(&watches),
            Some(None) => true,
            None => false,
        };
        if !is_over {
            // A hub without room is one that shuts down or drains within moments; the download is
            // then found abandoned when its last watcher is gone.
            let (build, store) = (self.build, self.store.clone());
            drop(self.hub.send_now(Wake::Command(Command::Cancel { build, store })));
        }
    }
}

/// Each change of the progress, and the last one when the download has ended.
fn changes(
    asked: Shared<BoxFuture<'static, Option<Watches>>>,
) -> impl Stream<Item = Progress> + Send + 'static {
    stream::unfold(None, move |running: Option<Watches>| {
        let asked = asked.clone();
        async move {
            let mut watches = match running {
                Some(watches) => watches,
                None => asked.await?,
            };
            if is_over(&watches) {
                return None;
            }
            tokio::select! {
                changed = watches.progress.changed() => changed.ok()?,
                changed = watches.outcome.changed() => changed.ok()?,
            }
            let progress = watches.progress.borrow_and_update().clone();
            Some((progress, Some(watches)))
        }
    })
}

fn is_over(watches: &Watches) -> bool {
    let outcome: &DownloadOutcome = &watches.outcome.borrow();
    outcome.is_some()
}
