//! The inventory: every host that ever reported and was not forgotten, made of the documents of all
//! who write rows.
//!
//! Owns how those documents become one list, when a host counts as absent, and what it takes to
//! forget one. Invariant: a row leaves the list because the same node was heard later, because
//! another node took its name over, or because somebody forgot the host; never because time passes.
//! Pure.

use std::collections::BTreeMap;

use p2p_core::Digest;
use serde::{Deserialize, Serialize};

use crate::documents::app_name::AppName;
use crate::documents::status::{HostPhase, HostStatus};

/// Age at which a report no longer says what the host does now. Hosts report every few seconds;
/// half would flicker with a busy goal store.
pub const SILENT_AFTER_MS: u64 = 30_000;

/// How long a name stays with the node that reported it last. Longer than a restart of an agent
/// takes, shorter than a person waits after giving a new machine an old name.
pub const NAME_KEPT_MS: u64 = 60_000;

/// How long it stays known that a host was forgotten; each takes a document that seeders list all
/// the time. A seeder that comes back with a row that is older believes the goal store instead.
pub const FORGOTTEN_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// Most [`Forgotten::ahead_ms`]: as many rows as a seeder keeps under one name. What is beyond them
/// stays in the inventory, and can be forgotten next.
const AHEAD_MAX: usize = 1_024;

/// Whether a host is there, judged from its row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Presence {
    /// It reports.
    Present,
    /// It has not reported for longer than [`SILENT_AFTER_MS`].
    Silent {
        /// When it was last heard of, in milliseconds since 1970.
        since_ms: u64,
    },
    /// Its agent was stopped and said so.
    Stopped {
        /// When it said so, in milliseconds since 1970.
        since_ms: u64,
    },
}

impl Presence {
    /// What the row says at `now_ms`.
    pub fn of(now_ms: u64, row: &HostStatus) -> Self {
        let since_ms = row.heard_at_ms();
        if row.phase == HostPhase::Stopped {
            Self::Stopped { since_ms }
        } else if now_ms.saturating_sub(since_ms) > SILENT_AFTER_MS {
            Self::Silent { since_ms }
        } else {
            Self::Present
        }
    }

    /// Since when the host is absent, in milliseconds since 1970; `None` if it is there.
    pub const fn absent_since_ms(self) -> Option<u64> {
        match self {
            Self::Present => None,
            Self::Silent { since_ms } | Self::Stopped { since_ms } => Some(since_ms),
        }
    }
}

/// That a host was forgotten: a document of its own, because whoever forgets writes into nobody
/// else's.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Forgotten {
    /// The host's name.
    pub host: String,
    /// Rows that were heard at this time or before are left out, in milliseconds since 1970, by the
    /// clock of whoever received them. A host that reports later is back.
    pub heard_until_ms: u64,
    /// Rows that were heard at just one of these times are left out, too: by a clock that was ahead
    /// of that of whoever forgot. Of such a clock nothing can be said until it has passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ahead_ms: Vec<u64>,
    /// When it was forgotten, in milliseconds since 1970, by the clock of whoever did.
    pub set_at_ms: u64,
}

impl Forgotten {
    /// That `host` is forgotten at `now_ms` with all that was heard of it until `heard_until_ms`;
    /// `rows` are those that are known. A row that says that it was heard in the future must not
    /// hide what is heard until then.
    pub(crate) fn new(now_ms: u64, host: &str, heard_until_ms: u64, rows: &[HostStatus]) -> Self {
        let own = rows.iter().filter(|row| row.host == host).map(HostStatus::heard_at_ms);
        let ahead = own.filter(|heard_ms| *heard_ms > now_ms && *heard_ms <= heard_until_ms);
        let mut ahead_ms: Vec<u64> = ahead.collect();
        ahead_ms.sort_unstable_by_key(|heard_ms| std::cmp::Reverse(*heard_ms));
        ahead_ms.dedup();
        ahead_ms.truncate(AHEAD_MAX);
        let heard_until_ms = heard_until_ms.min(now_ms);
        Self { host: host.to_owned(), heard_until_ms, ahead_ms, set_at_ms: now_ms }
    }

    /// Whether a row of `host` that was heard at this time is one of those to leave out.
    pub fn covers(&self, host: &str, heard_at_ms: u64) -> bool {
        let is_heard_before =
            heard_at_ms <= self.heard_until_ms || self.ahead_ms.contains(&heard_at_ms);
        host == self.host && is_heard_before
    }

    /// Whether the row is one of those to leave out.
    pub(crate) fn covers_row(&self, row: &HostStatus) -> bool {
        self.covers(&row.host, row.heard_at_ms())
    }

    /// Whether the document may be removed at `now_ms`.
    pub(crate) const fn has_expired(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.set_at_ms) > FORGOTTEN_KEPT_MS
    }

    /// The name of the document: host names have letters that no file or key may have.
    pub(crate) fn document_name(host: &str) -> String {
        Digest::of(host.as_bytes()).to_string()
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it has only text and numbers")
    }

    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// What one seeder has in the goal store.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WriterRows {
    /// Its rows. Of two documents with one host both are here.
    pub rows: Vec<HostStatus>,
    /// Whether it has written, and all of that could be read: a row that is not here is not there.
    pub is_whole: bool,
}

/// Status documents, and how many more there are that could not be read.
#[derive(Debug)]
pub(crate) struct StatusDocuments {
    pub(crate) read: Vec<WrittenRows>,
    pub(crate) damaged: usize,
}

/// The rows of one document, with the name under which it was written.
#[derive(Debug)]
pub(crate) struct WrittenRows {
    /// `NAME` or `NAME/SHARD`.
    pub(crate) writer: String,
    pub(crate) rows: Vec<HostStatus>,
}

impl WrittenRows {
    /// The writer without the number of its document.
    fn writer_name(&self) -> &str {
        self.writer.split('/').next().unwrap_or_default()
    }

    /// Who answers for the rows together: a seeder for all of its documents, but a host for one,
    /// because two nodes under one name write beside each other.
    fn author(&self) -> &str {
        let is_own = self.rows.first().is_some_and(|row| row.host == self.writer_name());
        if is_own { &self.writer } else { self.writer_name() }
    }

    /// Gives rows that the host itself wrote the time at which they were written, by the clock of
    /// the store. A seeder's document is written anew with rows that were received long before.
    pub(crate) fn stamp(&mut self, written_at_ms: u64) {
        let writer = self.writer_name().to_owned();
        let own = |row: &&mut HostStatus| row.received_at_ms == 0 && row.host == writer;
        for row in self.rows.iter_mut().filter(own) {
            row.received_at_ms = written_at_ms;
        }
    }
}

/// One row with the writer that it came from, as a number.
struct Candidate {
    row: HostStatus,
    writer: usize,
}

/// One row for every app, host and node: the one that was heard last. Sorted by app, then host.
///
/// A name that went over to another node is listed once: a row is left out if another node was
/// heard under the name more than [`NAME_KEPT_MS`] later, or later at all if the first was stopped
/// or is not known by its key. That is judged between writers only. A seeder that reports two nodes
/// under one name has seen both, and decides by itself what becomes of them.
pub(crate) fn unite(
    documents: impl IntoIterator<Item = WrittenRows>,
    forgotten: &[Forgotten],
) -> Vec<HostStatus> {
    let forgotten: BTreeMap<&str, &Forgotten> =
        forgotten.iter().map(|forgotten| (forgotten.host.as_str(), forgotten)).collect();
    let mut writers: BTreeMap<String, usize> = BTreeMap::new();
    let mut names: BTreeMap<(AppName, String), Vec<Candidate>> = BTreeMap::new();
    for document in documents {
        let count = writers.len();
        let writer = *writers.entry(document.author().to_owned()).or_insert(count);
        for row in document.rows {
            if forgotten.get(row.host.as_str()).is_some_and(|forgotten| forgotten.covers_row(&row))
            {
                continue;
            }
            let candidates = names.entry((row.app.clone(), row.host.clone())).or_default();
            match candidates.iter_mut().find(|known| known.row.node == row.node) {
                Some(known) if known.row.heard_at_ms() > row.heard_at_ms() => {}
                Some(known) => *known = Candidate { row, writer },
                None => candidates.push(Candidate { row, writer }),
            }
        }
    }
    names.into_values().flat_map(present_holders).collect()
}

/// The rows of one app under one name that no other node has taken over, by node.
fn present_holders(mut candidates: Vec<Candidate>) -> Vec<HostStatus> {
    if candidates.len() > 1 {
        candidates.sort_by(|a, b| a.row.node.cmp(&b.row.node));
        let is_present: Vec<bool> = candidates
            .iter()
            .map(|old| !candidates.iter().any(|new| is_taken_over(old, new)))
            .collect();
        let mut is_present = is_present.into_iter();
        candidates.retain(|_| is_present.next().unwrap_or(true));
    }
    candidates.into_iter().map(|candidate| candidate.row).collect()
}

fn is_taken_over(old: &Candidate, new: &Candidate) -> bool {
    let (old_ms, new_ms) = (old.row.heard_at_ms(), new.row.heard_at_ms());
    if old.row.node == new.row.node {
        return false;
    }
    match (&old.row.node, &new.row.node) {
        // Of a version that did not say who; the other row is most likely the same node.
        (None, Some(_)) => old_ms <= new_ms,
        (Some(_), None) => old_ms < new_ms,
        _ => {
            let is_stopped = old.row.phase == HostPhase::Stopped && old_ms < new_ms;
            let is_silent = new_ms.saturating_sub(old_ms) > NAME_KEPT_MS;
            old.writer != new.writer && (is_stopped || is_silent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    /// A row of node `node` that was heard at `heard_at_ms`, with a clock that is wrong.
    fn row(host: &str, node: &str, heard_at_ms: u64) -> HostStatus {
        HostStatus {
            node: Some(node.to_owned()).filter(|node| !node.is_empty()),
            received_at_ms: heard_at_ms,
            updated_at_ms: NOW_MS - heard_at_ms % 7,
            ..HostStatus::new(host, "web".parse().unwrap())
        }
    }

    fn written(writer: &str, rows: &[HostStatus]) -> WrittenRows {
        WrittenRows { writer: writer.to_owned(), rows: rows.to_vec() }
    }

    #[test]
    fn row_that_was_heard_last_counts_whatever_the_clocks_of_hosts_say() {
        let (old, new) = (row("h", "n", 5), row("h", "n", 6));
        let fast = HostStatus { updated_at_ms: NOW_MS + 3_600_000, ..old };
        for documents in [[&fast, &new], [&new, &fast]] {
            let documents = documents.map(|row| written("s", std::slice::from_ref(row)));
            assert_eq!(unite(documents, &[]), std::slice::from_ref(&new));
        }
    }

    #[test]
    fn rows_come_by_app_then_host_then_node() {
        let other = HostStatus { app: "api".parse().unwrap(), ..row("z", "n", 1) };
        let rows = [row("h2", "n", 1), row("h1", "b", 1), other.clone(), row("h1", "a", 1)];
        let expected = [other, row("h1", "a", 1), row("h1", "b", 1), row("h2", "n", 1)];
        assert_eq!(unite([written("s/0", &rows)], &[]), expected);
    }

    /// Goal: a row is left out only if its name went over to another node.
    #[test]
    fn names_go_over_as_the_table_says() {
        let later = 1 + NAME_KEPT_MS;
        let stopped = |row| HostStatus { phase: HostPhase::Stopped, ..row };
        let cases = [
            ("gone for a year", ("s1/0", row("h", "a", 1)), ("s2/0", row("g", "b", NOW_MS)), 2),
            ("both alive", ("s1/0", row("h", "a", 1)), ("s2/0", row("h", "b", later)), 2),
            ("another machine", ("s1/0", row("h", "a", 1)), ("s2/0", row("h", "b", later + 1)), 1),
            ("one seeder has both", ("s/0", row("h", "a", 1)), ("s/1", row("h", "b", NOW_MS)), 2),
            (
                "stopped, then new",
                ("s1/0", stopped(row("h", "a", 1))),
                ("s2/0", row("h", "b", 2)),
                1,
            ),
            ("another machine wrote", ("h/a", row("h", "a", 1)), ("h/b", row("h", "b", NOW_MS)), 1),
            ("key not known", ("h", row("h", "", 1)), ("s/0", row("h", "b", 1)), 1),
            ("key known no more", ("s/0", row("h", "b", 1)), ("h", row("h", "", 2)), 1),
        ];
        for (name, (first, old), (second, new), count) in cases {
            let rows =
                unite([written(first, &[old]), written(second, std::slice::from_ref(&new))], &[]);
            assert_eq!(rows.len(), count, "{name}: {rows:?}");
            assert!(rows.contains(&new), "{name}: {rows:?}");
        }
    }

    #[test]
    fn forgotten_host_is_left_out_until_it_reports_again() {
        let forgotten = Forgotten::new(NOW_MS, "h", 5, &[]);
        let rows = [row("h", "n", 5), row("g", "n", 5)];
        assert_eq!(unite([written("s/0", &rows)], std::slice::from_ref(&forgotten)), rows[1..]);
        let back = row("h", "n", 6);
        let rows = unite([written("s/0", std::slice::from_ref(&back))], &[forgotten]);
        assert_eq!(rows, [back]);
    }

    /// Goal: a receiver whose clock was ahead keeps a host that was forgotten away no longer than
    /// until it is heard again by a right one, and a host that is gone is gone.
    #[test]
    fn clock_that_was_ahead_hides_no_host_that_reports() {
        const AHEAD_MS: u64 = NOW_MS + 3_600_000;
        let rows = [row("h", "n", AHEAD_MS), row("h", "m", AHEAD_MS - 1), row("h", "l", 9)];
        let forgotten = Forgotten::new(NOW_MS, "h", AHEAD_MS, &rows);
        for row in rows {
            assert!(forgotten.covers_row(&row), "{row:?}");
        }
        for heard_ms in [NOW_MS + 1, AHEAD_MS - 2, AHEAD_MS + 1] {
            assert!(!forgotten.covers_row(&row("h", "n", heard_ms)), "{heard_ms}");
        }
        let read = Forgotten::from_json(&forgotten.to_json()).unwrap();
        assert_eq!(read, forgotten);
        let before = br#"{"host":"h","heard_until_ms":5,"set_at_ms":7}"#;
        assert_eq!(Forgotten::from_json(before).unwrap().ahead_ms, [0; 0]);
    }

    #[test]
    fn presence_is_by_the_clock_of_the_receiver() {
        let heard = row("h", "n", NOW_MS - SILENT_AFTER_MS);
        let slow = HostStatus { updated_at_ms: 5, ..heard.clone() };
        assert_eq!(Presence::of(NOW_MS, &slow), Presence::Present);
        assert_eq!(slow.clock_off_ms().map(|off| off < -3_600_000), Some(true));
        let since_ms = NOW_MS - SILENT_AFTER_MS;
        let silent = Presence::of(NOW_MS + 1, &slow);
        assert_eq!(silent, Presence::Silent { since_ms });
        assert_eq!(silent.absent_since_ms(), Some(since_ms));
        let stopped = HostStatus { phase: HostPhase::Stopped, ..heard };
        assert_eq!(Presence::of(NOW_MS, &stopped), Presence::Stopped { since_ms });
        // Of a seeder that did not say when it heard the host.
        let unstamped = HostStatus { received_at_ms: 0, updated_at_ms: 5, ..stopped };
        assert_eq!(Presence::of(NOW_MS, &unstamped), Presence::Stopped { since_ms: 5 });
    }

    #[test]
    fn only_rows_that_the_host_wrote_itself_get_the_time_of_their_document() {
        let mut own = written("h/n", &[row("h", "n", 0)]);
        own.stamp(NOW_MS);
        assert_eq!(own.rows[0].received_at_ms, NOW_MS);
        let mut relayed = written("seeder/0", &[row("h", "n", 0)]);
        relayed.stamp(NOW_MS);
        assert_eq!(relayed.rows[0].received_at_ms, 0);
    }
}
