//! The few things that an app needs of the node, as traits.
//!
//! They exist so that the app's loop can be tested with downloads that fail in ways that a real
//! network does not reproduce; [`p2p_net::Node`] is the one implementation outside tests.

use std::future::Future;

use p2p_core::BuildId;
use p2p_net::{BuildStore, Download, FetchError, Node, Progress, StoredBuild};

/// Where builds come from, and to whom they are served.
pub trait BuildSource: Clone + Send + 'static {
    /// A download under way. Dropping it cancels it; what was stored is kept.
    type Download: RunningDownload;

    /// Starts to download `build` into `store`.
    fn fetch(&self, build: BuildId, store: &BuildStore) -> Self::Download;
    /// Serves a complete build to others until [`Self::leave`].
    fn serve(&self, build: &StoredBuild);
    /// Stops serving and downloading `build`; returns when none of its files is open any more.
    fn leave(&self, build: BuildId) -> impl Future<Output = ()> + Send;
    /// What was moved of `build`; `None` if it is neither downloaded nor served.
    fn progress(&self, build: BuildId) -> Option<Progress>;
}

/// A download under way.
pub trait RunningDownload {
    /// Waits for the next change; `None` once the download has ended. Cancel safe.
    fn next_progress(&mut self) -> impl Future<Output = Option<Progress>>;
    /// Waits for the end.
    fn finish(self) -> impl Future<Output = Result<StoredBuild, FetchError>>;
}

impl BuildSource for Node {
    type Download = Download;

    fn fetch(&self, build: BuildId, store: &BuildStore) -> Download {
        Self::fetch(self, build, store)
    }

    fn serve(&self, build: &StoredBuild) {
        Self::serve(self, build);
    }

    fn leave(&self, build: BuildId) -> impl Future<Output = ()> + Send {
        Self::leave(self, build)
    }

    fn progress(&self, build: BuildId) -> Option<Progress> {
        Self::progress(self, build)
    }
}

impl RunningDownload for Download {
    fn next_progress(&mut self) -> impl Future<Output = Option<Progress>> {
        Self::next_progress(self)
    }

    fn finish(self) -> impl Future<Output = Result<StoredBuild, FetchError>> {
        Self::finish(self)
    }
}
