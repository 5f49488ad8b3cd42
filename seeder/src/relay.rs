//! Carries hosts' reports from the node to the goal store, and keeps them on the seeder's disk.
//!
//! Invariant: nothing is written to the goal store until it was read what this seeder wrote there
//! before, whatever its disk has: a document with few or old rows would replace one with many. The
//! disk is not waited for. A goal store or a disk that fails is logged once and tried again. What
//! is kept is decided in [`crate::status_relay`].

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use command_line::describe;
use goal_state::{FORGOTTEN_KEPT_MS, GoalStore, GoalStoreError, HostNotes, WriterRows, now_ms};
use p2p_net::Ask;
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::inventory_disk::InventoryDisk;
use crate::status_relay::{ReportFault, StatusTable};

/// Most rows of hosts kept for the goal store: a region of the largest fleet we know, and about as
/// many bytes as a download's buffers.
const ROWS_MAX: usize = 200_000;

/// Least time between two rounds of writing to the goal store.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);

/// Most documents of one round, so that a large region costs the goal store a bounded rate of
/// bytes instead of all of its rows at once.
const DOCUMENTS_PER_FLUSH_MAX: usize = 64;

/// How often it is asked which hosts were forgotten: a listing of a few small documents.
const FORGOTTEN_INTERVAL: Duration = Duration::from_secs(10);

/// Of so many such questions one is followed by a look for those that were forgotten long ago.
const QUESTIONS_PER_SWEEP: u64 = 360;

/// The table, and where it goes.
pub(crate) struct Relay {
    goal: GoalStore,
    /// The name under which documents are written to the goal store.
    writer: String,
    disk: InventoryDisk,
    table: Mutex<StatusTable>,
    /// Whether what was written to the goal store before is in the table.
    is_restored: AtomicBool,
    /// Whether the disk took nothing the last time.
    is_disk_failing: AtomicBool,
    /// Whether hosts were turned away because the table is full, for the log.
    is_full: AtomicBool,
}

impl Relay {
    /// A relay that goes on from what the disk has.
    pub(crate) async fn open(goal: GoalStore, writer: String, disk: InventoryDisk) -> Self {
        let reading = disk.clone();
        let restored = spawn_blocking(move || reading.read()).await.unwrap_or_default();
        let mut table = StatusTable::new(ROWS_MAX);
        if !restored.is_empty() {
            tracing::info!(rows = restored.len(), "the inventory of before the start is here");
        }
        table.restore(now_ms(), restored);
        Self {
            goal,
            writer,
            disk,
            table: Mutex::new(table),
            is_restored: AtomicBool::new(false),
            is_disk_failing: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
        }
    }

    /// Takes a host's report.
    pub(crate) fn take(&self, report: &Ask) {
        let taken = self.with_table(|table| table.on_report(now_ms(), report.node, &report.body));
        for warning in taken.warnings {
            tracing::warn!("{warning}");
        }
        match taken.refused {
            Some(fault @ ReportFault::TableFull { .. })
                if !self.is_full.swap(true, Ordering::Relaxed) =>
            {
                tracing::warn!(node = %report.node, %fault, "new hosts are left out");
            }
            // Debug level: a host repeats its report, and a stranger must not fill the log. The
            // host is told.
            Some(fault) => {
                tracing::debug!(node = %report.node, %fault, "row of a report left out");
            }
            None => {}
        }
    }

    /// Tells a host what there is to say about its reports.
    pub(crate) fn answer(&self, ask: Ask) {
        let notes = self.with_table(|table| table.notes(now_ms(), ask.node));
        ask.answer(HostNotes { notes }.to_json());
    }

    /// Writes and forgets, for ever.
    pub(crate) async fn run(&self) {
        tokio::join!(self.flush_forever(), self.forget_forever());
    }

    async fn flush_forever(&self) {
        let mut ticks = interval(FLUSH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            ticks.tick().await;
            let failed = self.flush(now_ms(), DOCUMENTS_PER_FLUSH_MAX).await;
            match &failed {
                Some(reason) if !is_failing => {
                    tracing::warn!(reason, "cannot write host status, trying again every 2 s");
                }
                None if is_failing => tracing::info!("host status is written again"),
                _ => {}
            }
            is_failing = failed.is_some();
        }
    }

    async fn forget_forever(&self) {
        let mut ticks = interval(FORGOTTEN_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for question in 1_u64.. {
            ticks.tick().await;
            if let Err(error) = self.forget(question % QUESTIONS_PER_SWEEP == 0).await {
                // The flush says so, too, and louder.
                tracing::debug!(%error, "cannot read which hosts were forgotten");
            }
        }
    }

    async fn forget(&self, is_sweeping: bool) -> Result<(), GoalStoreError> {
        let forgotten = self.goal.forgotten().await?;
        self.with_table(|table| forgotten.iter().for_each(|host| table.forget(now_ms(), host)));
        if is_sweeping {
            let count = self.goal.sweep_forgotten(now_ms()).await?;
            if count > 0 {
                tracing::info!(count, "removed what was left of hosts that were forgotten");
            }
        }
        Ok(())
    }

    /// The last reports before the seeder stops are worth one try, not a slow stop.
    pub(crate) async fn flush_last(&self) {
        // Times that only moved on as well: they tell since when a host is absent.
        let last = async {
            self.save(u64::MAX, usize::MAX).await;
            self.flush(now_ms(), usize::MAX).await
        };
        if tokio::time::timeout(FLUSH_INTERVAL, last).await.is_err() {
            tracing::debug!("the goal store did not take the last host status in time");
        }
    }

    /// Writes the documents that are due; the reason if one could not be written.
    async fn flush(&self, now_ms: u64, documents_max: usize) -> Option<String> {
        let restored = self.restore(now_ms).await;
        self.save(now_ms, documents_max).await;
        if let Err(error) = restored {
            return Some(describe(&error.into()));
        }
        let due = self.with_table(|table| table.take_due(now_ms, documents_max));
        let mut failed = None;
        for shard in due {
            // A store that just failed is not asked once more per document.
            if failed.is_none() {
                let rows = self.with_table(|table| table.document(shard));
                let name = format!("{}/{shard}", self.writer);
                let written = self.goal.put_status(&name, &rows).await;
                failed = written.err().map(|error| describe(&error.into()));
            }
            if failed.is_some() {
                self.with_table(|table| table.on_write_failed(now_ms, shard));
            }
        }
        failed
    }

    /// Takes over from the goal store, once, what the disk does not have or has older: a disk that
    /// was full or was restored from a copy does not tell. Rows that were forgotten do not return,
    /// not even if that is so long ago that only their absence from the goal store tells.
    async fn restore(&self, now_ms: u64) -> Result<(), GoalStoreError> {
        if self.is_restored.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.goal.statuses_of(&self.writer).await {
            Ok(WriterRows { rows, is_whole }) => {
                let forgotten = self.goal.forgotten().await?;
                if !rows.is_empty() {
                    tracing::info!(rows = rows.len(), "the inventory of the goal store is here");
                }
                self.with_table(|table| {
                    if is_whole {
                        let count = table.drop_unknown(now_ms, FORGOTTEN_KEPT_MS, &rows);
                        log_unknown(count);
                    }
                    table.restore(now_ms, rows);
                    for host in &forgotten {
                        table.forget(now_ms, host);
                    }
                });
            }
            // A new folder, or one that was wiped.
            Err(GoalStoreError::StoreMissing { .. }) => {}
            Err(error) => return Err(error),
        }
        self.is_restored.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Writes to the seeder's disk what is due there.
    async fn save(&self, now_ms: u64, documents_max: usize) {
        let due = self.with_table(|table| table.take_unsaved(now_ms, documents_max));
        if due.is_empty() {
            return;
        }
        let mut failed = None;
        for shard in due {
            if failed.is_none() {
                let rows = self.with_table(|table| table.document(shard));
                let disk = self.disk.clone();
                let saved = spawn_blocking(move || disk.save(shard, &rows)).await;
                failed = saved.map_err(io::Error::other).flatten().err();
            }
            if failed.is_some() {
                self.with_table(|table| table.on_save_failed(now_ms, shard));
            }
        }
        let was_failing = self.is_disk_failing.swap(failed.is_some(), Ordering::Relaxed);
        match failed {
            Some(error) if !was_failing => tracing::warn!(
                %error, folder = %self.disk.folder().display(),
                "cannot save the inventory; hosts that are down are known from the goal store only"
            ),
            None if was_failing => tracing::info!("the inventory is saved again"),
            _ => {}
        }
    }

    /// Looks at the table, or changes it; nobody else does meanwhile.
    pub(crate) fn with_table<T>(&self, act: impl FnOnce(&mut StatusTable) -> T) -> T {
        act(&mut self.table.lock())
    }
}

/// Says that the disk had rows of hosts that were probably forgotten while the seeder was away.
fn log_unknown(rows: usize) {
    if rows > 0 {
        tracing::warn!(
            rows,
            "left out what the disk has of hosts that were not heard of for a week and that the \
             goal store no longer has: they were forgotten"
        );
    }
}

#[cfg(test)]
mod tests;
