//! How this host is doing, for the fleet: collects a row per app and reports them.
//!
//! Invariant: reporting never holds up an app. Apps write their row and go on; the reporter sends
//! the newest rows when it can, soon after a change and regularly without one, and what could not
//! be sent is not queued, because the next report replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use goal_state::{AppName, GoalStore, HostStatus, now_ms};
use p2p_net::{AskError, Node, STATUS_TOPIC};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::report::counts::CountBoard;

/// Least time between two reports. Fast enough for a progress bar; a busy download changes its row
/// a few times a second, and every report is a write somewhere else.
const REPORT_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Time after which unchanged rows are reported again, so that a reader does not take a host at
/// rest for one that is gone.
const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// Time after which a report is given up. A store that hangs must not look like a host at rest.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the last report: whoever stops an agent waits for it.
const LAST_REPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait after reports that failed.
const REPORT_RETRY_MAX: Duration = Duration::from_mins(1);

/// Most bytes of one report to a seeder. Below what seeders take, with room for the brackets.
const REPORT_BYTES_MAX: usize = 60 * 1024;

/// Longest reason of a failure in a row, in characters: many hosts are grouped by it.
const FAILURE_CHARS_MAX: usize = 200;

/// Longest message of a row, in characters: a table has to show it.
const MESSAGE_CHARS_MAX: usize = 500;

type Rows = BTreeMap<AppName, HostStatus>;

/// The newest row of each app. Cheap to clone; clones are the same board.
#[derive(Clone, Debug)]
pub struct StatusBoard {
    rows: watch::Sender<Rows>,
    note: watch::Sender<Option<String>>,
    halted: watch::Sender<BTreeSet<AppName>>,
    counts: CountBoard,
}

impl Default for StatusBoard {
    fn default() -> Self {
        let (rows, note) = (watch::Sender::new(Rows::new()), watch::Sender::new(None));
        let halted = watch::Sender::new(BTreeSet::new());
        Self { rows, note, halted, counts: CountBoard::default() }
    }
}

impl StatusBoard {
    /// What happened to the apps, for metrics.
    pub(crate) const fn counts(&self) -> &CountBoard {
        &self.counts
    }

    /// Replaces the row of its app. A row that says nothing new but the time wakes nobody.
    pub fn show(&self, mut row: HostStatus) {
        row.message = row.message.map(|text| shorten(text, MESSAGE_CHARS_MAX));
        row.failure = row.failure.map(|text| shorten(text, FAILURE_CHARS_MAX));
        row.last_output = row.last_output.as_deref().and_then(goal_state::last_output);
        self.rows.send_if_modified(|rows| {
            let is_news = rows.get(&row.app).is_none_or(|shown| {
                HostStatus { updated_at_ms: row.updated_at_ms, ..shown.clone() } != row
            });
            rows.insert(row.app.clone(), row);
            is_news
        });
    }

    /// Says something of the agent as a whole, in every row that is reported from now on; `None`
    /// takes it back.
    pub fn set_note(&self, note: Option<String>) {
        self.note.send_if_modified(|shown| {
            let is_news = *shown != note;
            *shown = note;
            is_news
        });
    }

    /// Says whether the rollout of the goal that `app` follows has halted.
    pub(crate) fn set_halted(&self, app: &AppName, is_halted: bool) {
        self.halted.send_if_modified(|apps| {
            if is_halted { apps.insert(app.clone()) } else { apps.remove(app) }
        });
    }

    /// The apps whose rollouts have halted.
    pub(crate) fn halted(&self) -> BTreeSet<AppName> {
        self.halted.borrow().clone()
    }

    /// The rows as they are now.
    pub fn rows(&self) -> Vec<HostStatus> {
        self.rows.borrow().values().cloned().collect()
    }

    /// What was said of the agent as a whole.
    pub fn note(&self) -> Option<String> {
        self.note.borrow().clone()
    }

    /// The rows, now and after each change.
    pub fn subscribe(&self) -> watch::Receiver<Rows> {
        self.rows.subscribe()
    }
}

fn shorten(text: String, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text;
    }
    text.chars().take(chars_max).chain("...".chars()).collect()
}

/// Puts what is true of the whole agent before what is true of the app: it is short.
fn add_note(row: &mut HostStatus, note: Option<&str>) {
    let parts = [note, row.message.as_deref()];
    let joined = parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
    row.message = (!joined.is_empty()).then(|| shorten(joined, MESSAGE_CHARS_MAX));
}

/// Where reports go.
#[derive(Clone, Debug)]
pub(crate) enum StatusSink {
    /// Into the goal store, which takes documents of hosts.
    Store(GoalStore),
    /// To the seeders, which write for many hosts at once.
    Seeders(Node),
}

impl StatusSink {
    async fn send(&self, host: &str, rows: &[HostStatus]) -> anyhow::Result<()> {
        match self {
            Self::Store(store) => store.put_status(host, rows).await?,
            Self::Seeders(node) => {
                for report in encode_reports(rows)? {
                    node.ask_any(STATUS_TOPIC, report).await.map_err(not_taken)?;
                }
            }
        }
        Ok(())
    }
}

fn not_taken(error: AskError) -> anyhow::Error {
    match error {
        AskError::NobodyAnswers { reason } => {
            anyhow::anyhow!("no seeder took the status report: {reason}")
        }
        AskError::Refused { refusal } => {
            anyhow::anyhow!("no seeder took the status report: {refusal}")
        }
        error => error.into(),
    }
}

/// The rows as JSON lists that each fit in one report. A row never needs more than one: its texts
/// are bounded.
fn encode_reports(rows: &[HostStatus]) -> serde_json::Result<Vec<Vec<u8>>> {
    let mut reports = vec![];
    let mut report: Vec<u8> = vec![];
    for row in rows {
        let row = serde_json::to_vec(row)?;
        if !report.is_empty() && report.len() + row.len() + 2 > REPORT_BYTES_MAX {
            report.push(b']');
            reports.push(std::mem::take(&mut report));
        }
        report.push(if report.is_empty() { b'[' } else { b',' });
        report.extend(row);
    }
    if !report.is_empty() {
        report.push(b']');
        reports.push(report);
    }
    Ok(reports)
}

/// Sends the rows of a board until it is stopped, and once more then.
#[derive(Debug)]
pub(crate) struct Reporter {
    host: String,
    /// Empty: the host has none, which is reported, too.
    group: String,
    rows: watch::Receiver<Rows>,
    note: watch::Receiver<Option<String>>,
    sink: StatusSink,
    is_failing: bool,
    backoff: Backoff,
}

impl Reporter {
    /// A reporter of `board` that writes as `host`, which is of `group`.
    pub(crate) fn new(host: String, group: String, board: &StatusBoard, sink: StatusSink) -> Self {
        let backoff = Backoff::new(REPORT_INTERVAL_MIN * 2, REPORT_RETRY_MAX);
        let (rows, note) = (board.subscribe(), board.note.subscribe());
        Self { host, group, rows, note, sink, is_failing: false, backoff }
    }

    /// Reports until `stop`, then makes a last report.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let wait = tokio::select! {
                result = self.report(REPORT_TIMEOUT) => self.on_reported(result),
                () = stop.cancelled() => break,
            };
            tokio::select! {
                () = self.next_reason(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        let result = self.report(LAST_REPORT_TIMEOUT).await;
        self.on_reported(result);
    }

    async fn next_reason(&mut self, wait: Duration) {
        sleep(wait).await;
        let rest = REPORT_INTERVAL_MAX.saturating_sub(wait);
        // An error means that the board is gone; the agent is about to stop then.
        let changed = async {
            tokio::select! {
                changed = self.rows.changed() => changed,
                changed = self.note.changed() => changed,
            }
        };
        drop(timeout(rest, changed).await);
    }

    async fn report(&mut self, limit: Duration) -> anyhow::Result<()> {
        let mut rows: Vec<_> = self.rows.borrow_and_update().values().cloned().collect();
        if rows.is_empty() {
            return Ok(());
        }
        let now_ms = now_ms();
        let note = self.note.borrow_and_update().clone();
        for row in &mut rows {
            row.updated_at_ms = now_ms;
            row.group = Some(self.group.clone());
            add_note(row, note.as_deref());
        }
        timeout(limit, self.sink.send(&self.host, &rows)).await?
    }

    /// Logs the first failure and the first success after it; returns how long to wait.
    fn on_reported(&mut self, result: anyhow::Result<()>) -> Duration {
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    info!("status reports arrive again");
                }
                self.backoff.reset();
                REPORT_INTERVAL_MIN
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    warn!("cannot report the status, trying again: {error:#}");
                }
                self.backoff.after_failure()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use goal_state::HostPhase;

    use super::*;

    fn row(app: &str) -> HostStatus {
        HostStatus {
            generation: Some(1),
            phase: HostPhase::Locating,
            ..HostStatus::new("h1", app.parse().unwrap())
        }
    }

    #[test]
    fn row_that_only_grew_older_wakes_nobody() {
        let board = StatusBoard::default();
        let mut rows = board.subscribe();
        board.show(row("web"));
        assert!(rows.has_changed().unwrap());
        rows.mark_unchanged();
        board.show(HostStatus { updated_at_ms: 7, ..row("web") });
        assert!(!rows.has_changed().unwrap());
        board.show(HostStatus { bytes_done: 1, ..row("web") });
        assert!(rows.has_changed().unwrap());
    }

    #[test]
    fn long_messages_are_cut() {
        let board = StatusBoard::default();
        let long = Some("\u{e4}".repeat(9_999));
        board.show(HostStatus { message: long.clone(), failure: long, ..row("web") });
        let row = board.rows().remove(0);
        assert_eq!(row.message.unwrap().chars().count(), MESSAGE_CHARS_MAX + 3);
        assert_eq!(row.failure.unwrap().chars().count(), FAILURE_CHARS_MAX + 3);
    }

    #[test]
    fn note_comes_before_the_message_and_goes_again() {
        let said = |message: Option<&str>, note| {
            let mut row = HostStatus { message: message.map(String::from), ..row("web") };
            add_note(&mut row, note);
            row.message
        };
        assert_eq!(said(None, None), None);
        assert_eq!(said(Some("disk full"), None).as_deref(), Some("disk full"));
        assert_eq!(said(None, Some("restart")).as_deref(), Some("restart"));
        assert_eq!(said(Some("disk full"), Some("restart")).as_deref(), Some("restart; disk full"));
    }

    #[test]
    fn many_rows_are_split_into_reports_that_fit() {
        let rows: Vec<_> = (0..300).map(|i| row(&format!("app-{i}"))).collect();
        let reports = encode_reports(&rows).unwrap();
        assert!(reports.len() > 1);
        let mut decoded: Vec<HostStatus> = vec![];
        for report in &reports {
            assert!(report.len() <= REPORT_BYTES_MAX, "{}", report.len());
            decoded.extend(serde_json::from_slice::<Vec<HostStatus>>(report).unwrap());
        }
        assert_eq!(decoded, rows);
        assert!(encode_reports(&[]).unwrap().is_empty());
    }
}
