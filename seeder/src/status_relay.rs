//! Hosts' reports on their way to the goal store: a table of rows, cut into documents.
//!
//! Owns which rows are kept, which document each belongs to and which documents have to be written
//! again. Invariant: no document exceeds [`ROWS_PER_SHARD_MAX`] rows of [`ROW_BYTES_MAX`] bytes,
//! the table never holds more than `hosts_max` rows, and a row belongs to the node that reported it
//! until that node falls silent. Does no IO and reads no clock: [`crate::daemon`] carries documents
//! to the store. What is in here is soft state; hosts report again after a restart.

use std::collections::{BTreeMap, BTreeSet};

use goal_state::{AppName, HostStatus, STATUS_ROWS_MAX};
use p2p_core::{Digest, NodeId};

/// Most rows of one document. Together with [`ROW_BYTES_MAX`] it keeps a document below 1 MiB,
/// where etcd stops taking values; half would double the number of documents of a large region.
pub(crate) const ROWS_PER_SHARD_MAX: usize = 400;

/// Most bytes of one row as JSON. An honest row needs a quarter; the rest is room for a message.
pub(crate) const ROW_BYTES_MAX: usize = 2_560;

/// Rows per document at which the number of documents doubles. Half the hard limit: a hash spreads
/// rows unevenly, but at this mean no shard of a large table comes near twice the mean by chance.
const ROWS_PER_SHARD_MEAN: usize = ROWS_PER_SHARD_MAX / 2;

/// Most rows of one node: apps per host. Without it one node could fill the table with names.
const ROWS_PER_NODE_MAX: usize = 64;

/// Longest name of a host in bytes, that of DNS.
const HOST_BYTES_MAX: usize = 253;

/// Longest message, in characters, that is passed on: a little more than agents send.
const MESSAGE_CHARS_MAX: usize = 512;

/// How long a name stays with the node that reported it last. Longer than a restart of an agent
/// takes, shorter than a person waits after giving a new machine an old name.
const OWNERSHIP_MS: u64 = 60_000;

/// After this long without a report a row is forgotten when room is needed.
const ROW_AGE_MAX_MS: u64 = 24 * 60 * 60 * 1_000;

/// Least time between two walks over a full table.
const SWEEP_INTERVAL_MS: u64 = 10_000;

/// How long a change that is only a newer time may wait before it is written. A third of the age
/// at which `shoal status` calls a row stale.
const HEARTBEAT_MS: u64 = 10_000;

const _: () = assert!(ROWS_PER_SHARD_MAX <= STATUS_ROWS_MAX);
const _: () = assert!(ROWS_PER_SHARD_MAX * ROW_BYTES_MAX < 1 << 20);

/// The newest row of every host and app that reported to this seeder.
#[derive(Debug)]
pub(crate) struct StatusTable {
    hosts_max: usize,
    rows: BTreeMap<Key, Row>,
    rows_of_node: BTreeMap<NodeId, usize>,
    /// Keys by shard. The length is a power of two and only grows.
    shards: Vec<BTreeSet<Key>>,
    /// Shards to write, with the time from which on to do so.
    dirty: BTreeMap<usize, u64>,
    /// When old rows were last looked for.
    swept_at_ms: u64,
}

/// What was made of a report.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Taken {
    /// Rows that are in the table now.
    pub(crate) rows: usize,
    /// The first row refused, and why.
    pub(crate) refused: Option<ReportFault>,
}

/// What is wrong with a report or a row of it. A value, not an error: the report is a stranger's
/// claim, and the rest of it is still of use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ReportFault {
    /// The bytes are not a list of rows.
    #[error("the report is not a list of status rows: {reason}")]
    Malformed {
        /// What the decoder says.
        reason: String,
    },
    /// A name that no table could show or no DNS could have.
    #[error("a host name of {bytes} bytes is too long, empty or not printable")]
    BadHost {
        /// Its length.
        bytes: usize,
    },
    /// The row has more bytes than a row may have.
    #[error("the row of {host} has {bytes} bytes, the limit is {ROW_BYTES_MAX}")]
    RowTooLarge {
        /// The host's name.
        host: String,
        /// Bytes of the row as JSON.
        bytes: usize,
    },
    /// Another node reports under the same name, and still does.
    #[error("two nodes report as host {host}; give each host its own name")]
    NameTaken {
        /// The host's name.
        host: String,
    },
    /// The node reports more apps than a host may have.
    #[error("the node reports more than {ROWS_PER_NODE_MAX} rows")]
    TooManyRows,
    /// No room is left for new hosts.
    #[error("the table is full with {rows} rows; split the region over more seeders")]
    TableFull {
        /// Rows in the table.
        rows: usize,
    },
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Key {
    host: String,
    app: AppName,
}

#[derive(Clone, Debug)]
struct Row {
    status: HostStatus,
    node: NodeId,
    received_at_ms: u64,
}

impl StatusTable {
    /// An empty table for at most `hosts_max` rows.
    pub(crate) fn new(hosts_max: usize) -> Self {
        Self {
            hosts_max,
            rows: BTreeMap::new(),
            rows_of_node: BTreeMap::new(),
            shards: vec![BTreeSet::new()],
            dirty: BTreeMap::new(),
            swept_at_ms: 0,
        }
    }

    /// Takes in the rows of a report that `node` sent; `now_ms` is the seeder's time since 1970.
    ///
    /// Rows that break a rule are left out; the first fault is returned with the rest taken.
    pub(crate) fn on_report(&mut self, now_ms: u64, node: NodeId, report: &[u8]) -> Taken {
        let mut taken = Taken::default();
        let rows: Vec<HostStatus> = match serde_json::from_slice(report) {
            Ok(rows) => rows,
            Err(error) => {
                taken.refused = Some(ReportFault::Malformed { reason: error.to_string() });
                return taken;
            }
        };
        for status in rows {
            match check_row(now_ms, status).and_then(|status| self.put(now_ms, node, status)) {
                Ok(()) => taken.rows += 1,
                Err(fault) => {
                    taken.refused.get_or_insert(fault);
                }
            }
        }
        taken
    }

    /// The documents due at `now_ms`, longest due first and at most `documents_max`; they count as
    /// written. Give one back with [`Self::on_write_failed`] if it was not.
    pub(crate) fn take_due(&mut self, now_ms: u64, documents_max: usize) -> Vec<usize> {
        let mut due: Vec<(u64, usize)> = self
            .dirty
            .iter()
            .filter(|&(_, &at_ms)| at_ms <= now_ms)
            .map(|(&shard, &at_ms)| (at_ms, shard))
            .collect();
        due.sort_unstable();
        due.truncate(documents_max);
        for (_, shard) in &due {
            self.dirty.remove(shard);
        }
        due.into_iter().map(|(_, shard)| shard).collect()
    }

    /// The rows of one document, by host and app.
    ///
    /// # Panics
    ///
    /// If `shard` did not come out of [`Self::take_due`].
    pub(crate) fn document(&self, shard: usize) -> Vec<HostStatus> {
        self.shards[shard].iter().map(|key| self.rows[key].status.clone()).collect()
    }

    /// The apps of which a row is as `is_wanted` says.
    pub(crate) fn apps_with(&self, is_wanted: impl Fn(&HostStatus) -> bool) -> BTreeSet<AppName> {
        let wanted = self.rows.values().filter(|row| is_wanted(&row.status));
        wanted.map(|row| row.status.app.clone()).collect()
    }

    /// The rows of these apps, with the time at which each came in.
    pub(crate) fn rows_of(&self, apps: &BTreeSet<AppName>) -> Vec<HostStatus> {
        let rows = self.rows.values().filter(|row| apps.contains(&row.status.app));
        let with_time =
            |row: &Row| HostStatus { received_at_ms: row.received_at_ms, ..row.status.clone() };
        rows.map(with_time).collect()
    }

    /// Marks a document as to be written, because the last attempt failed.
    pub(crate) fn on_write_failed(&mut self, now_ms: u64, shard: usize) {
        self.mark(shard, now_ms);
    }

    fn put(&mut self, now_ms: u64, node: NodeId, status: HostStatus) -> Result<(), ReportFault> {
        let key = Key { host: status.host.clone(), app: status.app.clone() };
        match self.rows.get_mut(&key) {
            Some(row) if row.node == node => {
                let is_heartbeat = differs_only_in_time(&row.status, &status);
                row.status = status;
                row.received_at_ms = now_ms;
                let wait_ms = if is_heartbeat { HEARTBEAT_MS } else { 0 };
                self.mark(self.shard_of(&key), now_ms.saturating_add(wait_ms));
                Ok(())
            }
            Some(row) if now_ms.saturating_sub(row.received_at_ms) < OWNERSHIP_MS => {
                Err(ReportFault::NameTaken { host: key.host })
            }
            Some(_) => {
                self.remove(&key, now_ms);
                self.insert(now_ms, key, Row { status, node, received_at_ms: now_ms })
            }
            None => self.insert(now_ms, key, Row { status, node, received_at_ms: now_ms }),
        }
    }

    fn insert(&mut self, now_ms: u64, key: Key, row: Row) -> Result<(), ReportFault> {
        if self.rows_of_node.get(&row.node).is_some_and(|&rows| rows >= ROWS_PER_NODE_MAX) {
            return Err(ReportFault::TooManyRows);
        }
        if self.rows.len() >= self.hosts_max {
            self.sweep(now_ms);
        }
        let is_full = self.rows.len() >= self.hosts_max;
        if is_full || self.shards[self.shard_of(&key)].len() >= ROWS_PER_SHARD_MAX {
            return Err(ReportFault::TableFull { rows: self.rows.len() });
        }
        *self.rows_of_node.entry(row.node).or_default() += 1;
        self.rows.insert(key.clone(), row);
        let shard = self.shard_of(&key);
        self.shards[shard].insert(key);
        self.mark(shard, now_ms);
        if self.rows.len() > self.shards.len() * ROWS_PER_SHARD_MEAN {
            self.double_shards(now_ms);
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key, now_ms: u64) {
        let Some(row) = self.rows.remove(key) else { return };
        if let Some(rows) = self.rows_of_node.get_mut(&row.node) {
            *rows -= 1;
            if *rows == 0 {
                self.rows_of_node.remove(&row.node);
            }
        }
        let shard = self.shard_of(key);
        self.shards[shard].remove(key);
        self.mark(shard, now_ms);
    }

    /// Forgets rows that nobody renewed for a day. A full table is walked once per interval, not
    /// once per host that asks for room.
    fn sweep(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.swept_at_ms) < SWEEP_INTERVAL_MS {
            return;
        }
        self.swept_at_ms = now_ms;
        let is_old = |row: &Row| now_ms.saturating_sub(row.received_at_ms) > ROW_AGE_MAX_MS;
        let old: Vec<Key> =
            self.rows.iter().filter(|(_, row)| is_old(row)).map(|(key, _)| key.clone()).collect();
        for key in old {
            self.remove(&key, now_ms);
        }
    }

    /// Twice as many documents. Every document changes, so every one is written again; a reader
    /// that meets a row in two of them meanwhile takes the newer.
    fn double_shards(&mut self, now_ms: u64) {
        self.shards = vec![BTreeSet::new(); self.shards.len() * 2];
        let keys: Vec<Key> = self.rows.keys().cloned().collect();
        for key in keys {
            let shard = self.shard_of(&key);
            self.shards[shard].insert(key);
        }
        for shard in 0..self.shards.len() {
            self.mark(shard, now_ms);
        }
    }

    fn shard_of(&self, key: &Key) -> usize {
        // A cryptographic hash, because hosts choose their names: with a simple one a few names
        // could fill one document.
        let digest = Digest::of(format!("{}\n{}", key.host, key.app).as_bytes());
        let mut low = [0; 4];
        low.copy_from_slice(&digest.as_bytes()[..4]);
        let hash = usize::try_from(u32::from_le_bytes(low)).unwrap_or(0);
        hash & (self.shards.len() - 1)
    }

    fn mark(&mut self, shard: usize, at_ms: u64) {
        let due = self.dirty.entry(shard).or_insert(at_ms);
        *due = (*due).min(at_ms);
    }
}

/// The row as it may enter the table: known size, printable, not from the future.
fn check_row(now_ms: u64, mut status: HostStatus) -> Result<HostStatus, ReportFault> {
    let bytes = status.host.len();
    let is_printable = status.host.chars().all(|symbol| !symbol.is_control());
    if bytes == 0 || bytes > HOST_BYTES_MAX || !is_printable {
        return Err(ReportFault::BadHost { bytes });
    }
    // A clock that is ahead would make every later report of a host look old.
    status.updated_at_ms = status.updated_at_ms.min(now_ms);
    status.message = status.message.map(|message| {
        let printable =
            message.chars().map(|symbol| if symbol.is_control() { ' ' } else { symbol });
        printable.take(MESSAGE_CHARS_MAX).collect()
    });
    status.last_output = status.last_output.as_deref().and_then(goal_state::last_output);
    let bytes = serde_json::to_vec(&status).map_or(usize::MAX, |json| json.len());
    if bytes > ROW_BYTES_MAX {
        return Err(ReportFault::RowTooLarge { host: status.host, bytes });
    }
    Ok(status)
}

fn differs_only_in_time(old: &HostStatus, new: &HostStatus) -> bool {
    let mut aged = old.clone();
    aged.updated_at_ms = new.updated_at_ms;
    aged == *new
}

#[cfg(test)]
mod tests;
