//! Waiting for several things at once where only one of them is ready at a time.
//!
//! `select!` and `join!` poll each part whenever any of them is woken. On a connection that is
//! woken for every burst of packets that costs more than the work, so these poll only what was
//! woken.

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};

/// Returns the output of the first of `parts` to finish; the others are dropped.
///
/// # Panics
///
/// If there are no parts.
pub(super) async fn first_of<T>(parts: impl IntoIterator<Item = BoxFuture<'_, T>>) -> T {
    let mut parts: FuturesUnordered<_> = parts.into_iter().collect();
    parts.next().await.expect("there is at least one part")
}

/// Runs all of `parts` to the end.
pub(super) async fn all_of(parts: impl IntoIterator<Item = BoxFuture<'_, ()>>) {
    let mut parts: FuturesUnordered<_> = parts.into_iter().collect();
    while parts.next().await.is_some() {}
}
