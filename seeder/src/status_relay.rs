//! Hosts' reports on their way to the goal store: the inventory of those that report here, cut into
//! documents.
//!
//! Owns which rows are kept, which document each belongs to, which documents have to be written
//! again, and what hosts are told about their reports. Rows are of an app, a name and a node.
//! Invariants: no document exceeds [`ROWS_PER_SHARD_MAX`] rows of [`ROW_BYTES_MAX`] bytes; the
//! table never holds more than `rows_max` rows; a row goes only if another node takes its name over
//! ([`names`]), its host reports and leaves the app out, or somebody forgets the host, which of one
//! that was not heard of for long the goal store tells by not having it. Does no IO and reads no
//! clock: [`crate::relay`] carries documents to the goal store and to disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use goal_state::{
    AppName, Forgotten, HostStatus, STATUS_ROW_BYTES_MAX, STATUS_ROWS_MAX, TROUBLES_MAX, fit_row,
    is_hidden, printable,
};
use p2p_core::{Digest, NodeId};

use crate::status_relay::due::DueList;
use crate::status_relay::names::{Heard, Names, NodeTag};

mod due;
mod names;

/// Most rows of one document. Together with [`ROW_BYTES_MAX`] it keeps a document below 1 MiB,
/// where etcd stops taking values; half would double the number of documents of a large region.
pub(crate) const ROWS_PER_SHARD_MAX: usize = 400;

/// Most bytes of one row as JSON: what agents keep to.
pub(crate) const ROW_BYTES_MAX: usize = STATUS_ROW_BYTES_MAX;

/// Rows per document at which the number of documents doubles. Half the hard limit: a hash spreads
/// rows unevenly, but at this mean no shard of a large table comes near twice the mean by chance.
const ROWS_PER_SHARD_MEAN: usize = ROWS_PER_SHARD_MAX / 2;

/// Most rows of one node: apps per host. Without it one node could fill the table with names.
const ROWS_PER_NODE_MAX: usize = 64;

/// Longest name of a host in bytes, that of DNS.
const HOST_BYTES_MAX: usize = 253;

/// Longest message, in characters, that is passed on: a little more than agents send.
const MESSAGE_CHARS_MAX: usize = 512;

/// How long a host must have reported without a break before an app that it no longer mentions is
/// taken for one that was removed from its configuration. Longer than an agent takes to open one.
const APP_GONE_MS: u64 = 10 * 60 * 1_000;

/// How long a change that is only a newer time may wait before it is written to the goal store. A
/// third of the age at which `shoal status` calls a row stale.
const HEARTBEAT_MS: u64 = 10_000;

/// The same for the seeder's own disk, which is read after a restart only: hosts that live report
/// again then, and of those that do not the time may be off by this much.
const HEARTBEAT_SAVE_MS: u64 = 60_000;

/// How long a document that does not change stays unwritten: a goal store that was wiped has every
/// row again after that.
const REWRITE_MS: u64 = 60_000;

const _: () = assert!(ROWS_PER_SHARD_MAX <= STATUS_ROWS_MAX);
const _: () = assert!(ROWS_PER_SHARD_MAX * ROW_BYTES_MAX < 1 << 20);

/// The newest row of every app, host and node that reported to this seeder.
#[derive(Debug)]
pub(crate) struct StatusTable {
    rows_max: usize,
    row_count: usize,
    names: Names,
    /// Rows by shard. The length is a power of two and only grows. What the key says, the row does
    /// not say again: its `host` and `node` are empty.
    shards: Vec<BTreeMap<Key, HostStatus>>,
    /// Shards to write to the goal store.
    unwritten: DueList,
    /// Shards to write to the seeder's disk.
    unsaved: DueList,
}

/// What was made of a report.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Taken {
    /// Rows that are in the table now.
    pub(crate) rows: usize,
    /// The first row refused, and why.
    pub(crate) refused: Option<ReportFault>,
    /// What a person who looks after the seeder should know, each said once.
    pub(crate) warnings: Vec<String>,
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
    /// Too many nodes report under the name.
    #[error("{nodes} other nodes report as host {host}; give each host its own name")]
    NameTaken {
        /// The host's name.
        host: String,
        /// How many there are.
        nodes: usize,
    },
    /// The node reports more apps than a host may have.
    #[error("the node reports more than {ROWS_PER_NODE_MAX} rows")]
    TooManyRows,
    /// No room is left for new hosts.
    #[error(
        "the table is full with {rows} rows; forget hosts that are gone (shoal forget HOST), or \
         split the region over more seeders"
    )]
    TableFull {
        /// Rows in the table.
        rows: usize,
    },
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Key {
    host: Arc<str>,
    app: AppName,
    node: NodeTag,
}

impl StatusTable {
    /// An empty table for at most `rows_max` rows.
    pub(crate) fn new(rows_max: usize) -> Self {
        Self {
            rows_max,
            row_count: 0,
            names: Names::default(),
            shards: vec![BTreeMap::new()],
            unwritten: DueList::default(),
            unsaved: DueList::default(),
        }
    }

    /// Takes in rows that this seeder had before it started anew, or that it wrote to the goal
    /// store; newer rows stay. To be called at any time.
    pub(crate) fn restore(&mut self, now_ms: u64, rows: Vec<HostStatus>) {
        for mut status in rows {
            if !is_host_name(&status.host) {
                continue;
            }
            // A seeder of before did not say when it heard the host. One whose clock was ahead did
            // not hear it now either: a host that was forgotten since then must not look newer.
            let heard_ms = status.heard_at_ms();
            let is_ahead = heard_ms > now_ms;
            status.received_at_ms =
                if is_ahead { status.updated_at_ms.min(now_ms) } else { heard_ms };
            let node = NodeTag::in_row(&status);
            let key = self.key_of(&status, node);
            let shard = self.shard_of(&key);
            let known = self.shards[shard].get(&key);
            if known.is_some_and(|known| known.heard_at_ms() >= status.heard_at_ms()) {
                continue;
            }
            let (host, heard) = (Arc::clone(&key.host), Heard::of(&status));
            // What does not fit into a table of this size was written by one with more room.
            if self.put(now_ms, key, status).is_ok() {
                self.names.on_restored(&host, node, heard);
            }
        }
        self.names.settle_restored();
        for shard in 0..self.shards.len() {
            self.mark(shard, now_ms);
        }
    }

    /// Drops rows that were heard last more than `age_max_ms` before `now_ms` and are not among
    /// `known`, all that this seeder has in the goal store: those of hosts that were forgotten so
    /// long ago that nothing else is left to tell. Returns how many.
    pub(crate) fn drop_unknown(
        &mut self,
        now_ms: u64,
        age_max_ms: u64,
        known: &[HostStatus],
    ) -> usize {
        let known: BTreeSet<Key> =
            known.iter().map(|status| self.key_of(status, NodeTag::in_row(status))).collect();
        let rows = self.shards.iter().flatten();
        let unknown = rows.filter(|(key, row)| {
            now_ms.saturating_sub(row.heard_at_ms()) > age_max_ms && !known.contains(key)
        });
        let unknown: Vec<Key> = unknown.map(|(key, _)| key.clone()).collect();
        for key in &unknown {
            self.remove(key, now_ms);
        }
        unknown.len()
    }

    /// Takes in the rows of a report that `node` sent; `now_ms` is the seeder's time since 1970.
    ///
    /// Rows that break a rule are left out; the first fault is returned with the rest taken.
    pub(crate) fn on_report(&mut self, now_ms: u64, node: NodeId, report: &[u8]) -> Taken {
        let node = NodeTag::of(node);
        let mut taken = Taken::default();
        let rows: Vec<HostStatus> = match serde_json::from_slice(report) {
            Ok(rows) => rows,
            Err(error) => {
                let fault = ReportFault::Malformed { reason: error.to_string() };
                self.names.on_refused(now_ms, node, fault.to_string());
                taken.refused = Some(fault);
                return taken;
            }
        };
        let mut hosts: Vec<Arc<str>> = Vec::new();
        for status in rows {
            let host = match check_row(now_ms, node, status) {
                Ok(status) => {
                    let key = self.key_of(&status, node);
                    let host = Arc::clone(&key.host);
                    self.take_row(now_ms, key, status, hosts.contains(&host)).map(|()| host)
                }
                Err(fault) => Err(fault),
            };
            match host {
                Ok(host) => {
                    taken.rows += 1;
                    if !hosts.contains(&host) {
                        hosts.push(host);
                    }
                }
                Err(fault) => {
                    taken.refused.get_or_insert(fault);
                }
            }
        }
        if let Some(fault) = &taken.refused {
            self.names.on_refused(now_ms, node, fault.to_string());
        }
        for host in hosts {
            taken.warnings.extend(self.names.meetings(now_ms, &host, node));
            if taken.refused.is_none() {
                self.drop_removed_apps(now_ms, &host, node);
            }
        }
        taken
    }

    /// What is to be told to `node` about its reports, the most important first.
    pub(crate) fn notes(&self, now_ms: u64, node: NodeId) -> Vec<String> {
        self.names.notes(now_ms, NodeTag::of(node))
    }

    /// Drops the rows of a host that somebody forgot.
    pub(crate) fn forget(&mut self, now_ms: u64, forgotten: &Forgotten) {
        for key in self.keys_of(&forgotten.host, None) {
            let shard = self.shard_of(&key);
            let row = self.shards[shard].get(&key);
            if row.is_some_and(|row| forgotten.covers(&key.host, row.heard_at_ms())) {
                self.remove(&key, now_ms);
            }
        }
    }

    /// The documents to write at `now_ms`, longest due first and at most `documents_max`; they
    /// count as written. Give one back with [`Self::on_write_failed`] if it was not.
    pub(crate) fn take_due(&mut self, now_ms: u64, documents_max: usize) -> Vec<usize> {
        let due = self.unwritten.take(now_ms, documents_max);
        for shard in &due {
            self.unwritten.mark(*shard, now_ms.saturating_add(REWRITE_MS));
        }
        due
    }

    /// As [`Self::take_due`], for the seeder's own disk, and [`Self::on_save_failed`].
    pub(crate) fn take_unsaved(&mut self, now_ms: u64, documents_max: usize) -> Vec<usize> {
        self.unsaved.take(now_ms, documents_max)
    }

    /// The rows of one document, by host, app and node.
    ///
    /// # Panics
    ///
    /// If `shard` did not come out of [`Self::take_due`] or [`Self::take_unsaved`].
    pub(crate) fn document(&self, shard: usize) -> Vec<HostStatus> {
        self.shards[shard].iter().map(whole).collect()
    }

    /// The apps of which a row is as `is_wanted` says.
    pub(crate) fn apps_with(&self, is_wanted: impl Fn(&HostStatus) -> bool) -> BTreeSet<AppName> {
        let rows = self.shards.iter().flat_map(BTreeMap::values);
        rows.filter(|row| is_wanted(row)).map(|row| row.app.clone()).collect()
    }

    /// The rows of these apps.
    pub(crate) fn rows_of(&self, apps: &BTreeSet<AppName>) -> Vec<HostStatus> {
        let all = self.shards.iter().flatten();
        all.filter(|(key, _)| apps.contains(&key.app)).map(whole).collect()
    }

    /// When a node last reported anything, under whatever name; `None` if it is not known or said
    /// that it stops.
    pub(crate) fn node_heard_at_ms(&self, node: &str) -> Option<u64> {
        self.names.heard_at_ms(NodeTag::parse(node))
    }

    /// Marks a document as to be written, because the last attempt failed.
    pub(crate) fn on_write_failed(&mut self, now_ms: u64, shard: usize) {
        self.unwritten.mark(shard, now_ms);
    }

    /// Marks a document as to be saved, because the last attempt failed.
    pub(crate) fn on_save_failed(&mut self, now_ms: u64, shard: usize) {
        self.unsaved.mark(shard, now_ms);
    }

    fn key_of(&self, status: &HostStatus, node: NodeTag) -> Key {
        Key { host: self.names.shared(&status.host), app: status.app.clone(), node }
    }

    /// Takes a row of a report. `is_known_host`: not the first row of its host in this report.
    fn take_row(
        &mut self,
        now_ms: u64,
        key: Key,
        status: HostStatus,
        is_known_host: bool,
    ) -> Result<(), ReportFault> {
        if !is_known_host {
            for (host, node) in self.names.taken_over(now_ms, &key.host, key.node) {
                for key in self.keys_of(&host, Some(node)) {
                    self.remove(&key, now_ms);
                }
            }
        }
        let heard = Heard::of(&status);
        let (host, node) = (Arc::clone(&key.host), key.node);
        self.put(now_ms, key, status)?;
        self.names.on_heard(&host, node, heard, is_known_host);
        Ok(())
    }

    fn put(&mut self, now_ms: u64, key: Key, status: HostStatus) -> Result<(), ReportFault> {
        let status = HostStatus { host: String::new(), node: None, ..status };
        let shard = self.shard_of(&key);
        if let Some(row) = self.shards[shard].get_mut(&key) {
            let is_heartbeat = differs_only_in_time(row, &status);
            *row = status;
            let wait = |heartbeat_ms| if is_heartbeat { heartbeat_ms } else { 0 };
            self.unwritten.mark(shard, now_ms.saturating_add(wait(HEARTBEAT_MS)));
            self.unsaved.mark(shard, now_ms.saturating_add(wait(HEARTBEAT_SAVE_MS)));
            return Ok(());
        }
        // Of rows of nodes that are not known there may be any number.
        if key.node != NodeTag::UNKNOWN && self.names.row_count(key.node) >= ROWS_PER_NODE_MAX {
            return Err(ReportFault::TooManyRows);
        }
        if let Some(nodes) = self.names.others_if_full(&key.host, key.node) {
            return Err(ReportFault::NameTaken { host: key.host.to_string(), nodes });
        }
        let is_full = self.row_count >= self.rows_max;
        if is_full || self.shards[shard].len() >= ROWS_PER_SHARD_MAX {
            return Err(ReportFault::TableFull { rows: self.row_count });
        }
        self.names.on_row(&key.host, key.node, &key.app);
        self.row_count += 1;
        self.shards[shard].insert(key, status);
        self.mark(shard, now_ms);
        if self.row_count > self.shards.len() * ROWS_PER_SHARD_MEAN {
            self.double_shards(now_ms);
        }
        Ok(())
    }

    /// The keys of all rows under one name, or of those of one node.
    fn keys_of(&self, host: &str, node: Option<NodeTag>) -> Vec<Key> {
        let rows = self.names.rows_of(host);
        let rows = rows.filter(|(_, of, _)| node.is_none_or(|node| node == *of));
        rows.map(|(host, node, app)| Key { host, app, node }).collect()
    }

    fn remove(&mut self, key: &Key, now_ms: u64) {
        let shard = self.shard_of(key);
        if self.shards[shard].remove(key).is_some() {
            self.row_count -= 1;
            self.names.on_row_removed(&key.host, key.node, &key.app);
            self.mark(shard, now_ms);
        }
    }

    /// Drops the rows of apps that a host has not mentioned for long although it reports: they were
    /// taken out of its configuration.
    fn drop_removed_apps(&mut self, now_ms: u64, host: &str, node: NodeTag) {
        let since_ms = self.names.reports_since_ms(host, node);
        if since_ms.is_none_or(|since_ms| now_ms.saturating_sub(since_ms) < APP_GONE_MS) {
            return;
        }
        for key in self.keys_of(host, Some(node)) {
            let row = self.shards[self.shard_of(&key)].get(&key);
            if row.is_some_and(|row| now_ms.saturating_sub(row.received_at_ms) > APP_GONE_MS) {
                self.remove(&key, now_ms);
            }
        }
    }

    /// Twice as many documents. Every document changes, so every one is written again; a reader
    /// that meets a row in two of them meanwhile takes the newer.
    fn double_shards(&mut self, now_ms: u64) {
        let doubled = vec![BTreeMap::new(); self.shards.len() * 2];
        for (key, row) in std::mem::replace(&mut self.shards, doubled).into_iter().flatten() {
            let shard = self.shard_of(&key);
            self.shards[shard].insert(key, row);
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
        self.unwritten.mark(shard, at_ms);
        self.unsaved.mark(shard, at_ms);
    }
}

/// Whether a table could show such a name and DNS could have it.
fn is_host_name(name: &str) -> bool {
    (1..=HOST_BYTES_MAX).contains(&name.len()) && !name.chars().any(is_hidden)
}

/// The row as it may enter the table: known size, printable, with the node and the time at which it
/// was received.
fn check_row(
    now_ms: u64,
    node: NodeTag,
    mut status: HostStatus,
) -> Result<HostStatus, ReportFault> {
    if !is_host_name(&status.host) {
        return Err(ReportFault::BadHost { bytes: status.host.len() });
    }
    status.received_at_ms = now_ms;
    status.node = node.text();
    let cut = |text: String| printable(&text).chars().take(MESSAGE_CHARS_MAX).collect();
    status.message = status.message.map(cut);
    status.failure = status.failure.map(cut);
    status.group = status.group.map(|group| printable(&group));
    status.troubles.truncate(TROUBLES_MAX);
    status.last_output = status.last_output.as_deref().and_then(goal_state::last_output);
    // A row that says much is a row of a host in trouble: its texts are cut rather than left out.
    let bytes = fit_row(&mut status, ROW_BYTES_MAX);
    if bytes > ROW_BYTES_MAX {
        return Err(ReportFault::RowTooLarge { host: status.host, bytes });
    }
    Ok(status)
}

fn differs_only_in_time(old: &HostStatus, new: &HostStatus) -> bool {
    let mut aged = old.clone();
    aged.updated_at_ms = new.updated_at_ms;
    aged.received_at_ms = new.received_at_ms;
    aged == *new
}

/// A row with what is kept in its key.
fn whole((key, row): (&Key, &HostStatus)) -> HostStatus {
    HostStatus { host: key.host.to_string(), node: key.node.text(), ..row.clone() }
}

#[cfg(test)]
mod tests;
