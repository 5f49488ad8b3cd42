//! The few things that an app needs of the node, as traits.
//!
//! They exist so that the app's loop can be tested with downloads that fail in ways that a real
//! network does not reproduce; [`LimitedNode`] is the one implementation outside tests.

use std::future::Future;

use p2p_core::{BuildId, ByteRate};
use p2p_net::{
    BuildStore, Download, FetchError, FetchOptions, Limits, Node, Progress, SharedLimits,
    StoredBuild,
};

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
    /// The caps that hold for the app's bytes now.
    fn limits(&self) -> Limits {
        Limits::default()
    }
}

/// The agent's node, as one app uses it: within the limits of that app.
#[derive(Clone, Debug)]
pub(crate) struct LimitedNode {
    /// The node of all apps.
    pub node: Node,
    /// Those of the app.
    pub limits: SharedLimits,
}

/// A download under way.
pub trait RunningDownload {
    /// Waits for the next change; `None` once the download has ended. Cancel safe.
    fn next_progress(&mut self) -> impl Future<Output = Option<Progress>>;
    /// Waits for the end.
    fn finish(self) -> impl Future<Output = Result<StoredBuild, FetchError>>;
}

impl BuildSource for LimitedNode {
    type Download = Download;

    fn fetch(&self, build: BuildId, store: &BuildStore) -> Download {
        let limits = self.limits.clone();
        self.node.fetch(build, store, FetchOptions { limits, ..FetchOptions::default() })
    }

    fn serve(&self, build: &StoredBuild) {
        self.node.serve(build, &self.limits);
    }

    fn leave(&self, build: BuildId) -> impl Future<Output = ()> + Send {
        self.node.leave(build)
    }

    fn progress(&self, build: BuildId) -> Option<Progress> {
        self.node.progress(build)
    }

    fn limits(&self) -> Limits {
        let (app, node) = (self.limits.get(), self.node.limits());
        let lower = |one: Option<ByteRate>, other| one.into_iter().chain(other).min();
        Limits {
            upload: lower(app.upload, node.upload),
            download: lower(app.download, node.download),
        }
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
