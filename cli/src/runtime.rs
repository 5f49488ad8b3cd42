//! What commands that wait are built on: a runtime, signals, and what hosts reported.
//!
//! Invariant: a command that is done ends, whatever one of its threads still waits for. Prints
//! nothing and knows no command.

use anyhow::Context as _;
use command_line::{Hangup, Signals};
use goal_state::{GoalStore, GoalStoreError, HostStatus};

/// Runs a command's future on this thread.
///
/// # Errors
///
/// Those of the future, or if the system cannot start a runtime.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime; the system is out of threads or memory")?;
    let ended = runtime.block_on(work);
    // A blocking read of a hanging file system must not keep a finished command alive.
    runtime.shutdown_background();
    ended
}

/// Every row of the goal store: the inventory. A store that does not exist yet has none: the first
/// deploy makes it.
///
/// # Errors
///
/// If the store cannot be read.
pub(crate) async fn read_inventory(store: &GoalStore) -> anyhow::Result<Vec<HostStatus>> {
    match store.statuses().await {
        Err(GoalStoreError::StoreMissing { .. }) => Ok(vec![]),
        read => read.context("cannot read what hosts reported; check --goal"),
    }
}

/// Catches the signals by which people and service managers end a command; a hangup is one.
///
/// # Errors
///
/// If the system refuses the handlers.
pub(crate) fn catch_signals() -> anyhow::Result<Signals> {
    let caught = Signals::catch(Hangup::Stop).map_err(|error| error.source);
    caught.context("cannot wait for signals")
}
