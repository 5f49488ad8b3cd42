//! How this host is doing, for the fleet: collects a row per app and reports them.
//!
//! Invariant: reporting never holds up an app. Apps write their row and go on; the reporter sends
//! the newest rows when it can, soon after a change and regularly without one, and what could not
//! be sent is not queued, because the next report replaces it. What seeders have to say about
//! reports ([`NOTES_TOPIC`]) goes into the same rows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use goal_state::{
    AppName, GoalStore, HostNotes, HostStatus, NOTES_TOPIC, STATUS_ROW_BYTES_MAX, Trouble,
    TroubleKind, fit_row, now_ms,
};
use p2p_net::{AskError, Node, STATUS_TOPIC};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::backoff::{Backoff, jittered};
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

/// Longest wait after reports that failed. As between those of a host at rest: once seeders are
/// back, a host that is not heard of counts as away, and holds up the hosts that wait for a token.
const REPORT_RETRY_MAX: Duration = REPORT_INTERVAL_MAX;

/// Least time between two questions what a seeder has to say about the reports. A region asks a
/// third as often as it reports.
const NOTES_INTERVAL: Duration = Duration::from_secs(30);

/// Time after which such a question is given up.
const NOTES_TIMEOUT: Duration = Duration::from_secs(5);

/// After so many questions without an answer, what was heard before is no longer said.
const NOTES_MISSED_MAX: u32 = 5;

/// Most bytes of one report to a seeder. Below what seeders take, with room for the brackets.
const REPORT_BYTES_MAX: usize = 60 * 1024;

/// Longest reason of a failure in a row, in characters: many hosts are grouped by it.
const FAILURE_CHARS_MAX: usize = 200;

/// Longest message of a row, in characters: a table has to show it.
const MESSAGE_CHARS_MAX: usize = 500;

/// Most bytes of a row as JSON: what seeders take, with room for the time that they add.
const ROW_BYTES_MAX: usize = STATUS_ROW_BYTES_MAX - 64;

type Rows = BTreeMap<AppName, HostStatus>;

/// The newest row of each app. Cheap to clone; clones are the same board.
#[derive(Clone, Debug)]
pub struct StatusBoard {
    rows: watch::Sender<Rows>,
    notes: watch::Sender<Notes>,
    halted: watch::Sender<BTreeSet<AppName>>,
    counts: CountBoard,
}

/// What is said of the agent as a whole.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Notes {
    /// By itself.
    own: Option<String>,
    /// By the seeder that takes its reports.
    heard: Vec<String>,
}

impl Notes {
    fn texts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.own.iter().chain(&self.heard).map(String::as_str)
    }

    fn text(&self) -> Option<String> {
        let parts: Vec<_> = self.texts().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Each is a trouble of its own, with a step of its own.
    fn troubles(&self) -> Vec<Trouble> {
        self.texts().map(|note| Trouble::new(TroubleKind::Agent, note)).collect()
    }
}

impl Default for StatusBoard {
    fn default() -> Self {
        let (rows, notes) = (watch::Sender::new(Rows::new()), watch::Sender::default());
        let halted = watch::Sender::new(BTreeSet::new());
        Self { rows, notes, halted, counts: CountBoard::default() }
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
        self.notes.send_if_modified(|shown| {
            let is_news = shown.own != note;
            shown.own = note;
            is_news
        });
    }

    /// As [`Self::set_note`], beside it, for what a seeder said.
    fn set_heard(&self, notes: Vec<String>) {
        self.notes.send_if_modified(|shown| {
            let is_news = shown.heard != notes;
            shown.heard = notes;
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

    /// The rows as they are reported: with what was said of the agent as a whole.
    pub(crate) fn rows_with_note(&self) -> Vec<HostStatus> {
        let notes = self.troubles();
        let mut rows = self.rows();
        for row in &mut rows {
            add_notes(row, &notes);
        }
        rows
    }

    /// What was said of the agent as a whole, as troubles.
    pub(crate) fn troubles(&self) -> Vec<Trouble> {
        self.notes.borrow().troubles()
    }

    /// What was said of the agent as a whole.
    pub fn note(&self) -> Option<String> {
        self.notes.borrow().text()
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
fn add_notes(row: &mut HostStatus, notes: &[Trouble]) {
    for note in notes.iter().rev() {
        row.add_trouble(note.clone());
    }
    row.message = row.message.take().map(|text| shorten(text, MESSAGE_CHARS_MAX));
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
    async fn send(&self, reporter: &ReporterName, rows: &[HostStatus]) -> anyhow::Result<()> {
        match self {
            Self::Store(store) => store.put_status(&reporter.writer(), rows).await?,
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

/// Who reports.
#[derive(Clone, Debug)]
pub(crate) struct ReporterName {
    /// The host's configured name.
    pub(crate) host: String,
    /// Its group.
    pub(crate) group: String,
    /// Its key, as seeders name it.
    pub(crate) node: String,
}

impl ReporterName {
    /// The name of its document in a goal store: two nodes under one name write beside each other.
    fn writer(&self) -> String {
        format!("{}/{}", self.host, self.node)
    }
}

/// Sends the rows of a board until it is stopped, and once more then.
#[derive(Debug)]
pub(crate) struct Reporter {
    name: ReporterName,
    board: StatusBoard,
    rows: watch::Receiver<Rows>,
    notes: watch::Receiver<Notes>,
    sink: StatusSink,
    is_failing: bool,
    backoff: Backoff,
    /// When a seeder was last asked for notes.
    asked_at: Option<Instant>,
    /// How often in a row it did not answer.
    missed: u32,
}

impl Reporter {
    /// A reporter of `board` that writes as `name`.
    pub(crate) fn new(name: ReporterName, board: &StatusBoard, sink: StatusSink) -> Self {
        let backoff = Backoff::new(REPORT_INTERVAL_MIN * 2, REPORT_RETRY_MAX);
        let (rows, notes) = (board.subscribe(), board.notes.subscribe());
        let board = board.clone();
        let is_failing = false;
        Self { name, board, rows, notes, sink, is_failing, backoff, asked_at: None, missed: 0 }
    }

    /// Reports until `stop`, then makes a last report.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let wait = tokio::select! {
                result = self.report(REPORT_TIMEOUT) => self.on_reported(result),
                () = stop.cancelled() => break,
            };
            let waiting = async {
                if !self.is_failing {
                    self.ask_for_notes().await;
                }
                self.next_reason(wait).await;
            };
            tokio::select! {
                () = waiting => {}
                () = stop.cancelled() => break,
            }
        }
        let result = self.report(LAST_REPORT_TIMEOUT).await;
        self.on_reported(result);
    }

    async fn next_reason(&mut self, wait: Duration) {
        sleep(wait).await;
        if self.is_failing {
            // Nobody has the last rows: it needs no change to try again.
            return;
        }
        let rest = REPORT_INTERVAL_MAX.saturating_sub(wait);
        // An error means that the board is gone; the agent is about to stop then.
        let changed = async {
            tokio::select! {
                changed = self.rows.changed() => changed,
                changed = self.notes.changed() => changed,
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
        let notes = self.notes.borrow_and_update().troubles();
        for row in &mut rows {
            row.updated_at_ms = now_ms;
            row.group = Some(self.name.group.clone());
            row.node = Some(self.name.node.clone());
            add_notes(row, &notes);
            fit_row(row, ROW_BYTES_MAX);
        }
        timeout(limit, self.sink.send(&self.name, &rows)).await?
    }

    /// Asks the seeder that took the report what it has to say about it, now and then. One of
    /// before refuses the question, and that is all.
    async fn ask_for_notes(&mut self) {
        let StatusSink::Seeders(node) = &self.sink else { return };
        if self.asked_at.is_some_and(|at| at.elapsed() < NOTES_INTERVAL) {
            return;
        }
        self.asked_at = Some(Instant::now());
        let asked = timeout(NOTES_TIMEOUT, node.ask_any(NOTES_TOPIC, vec![])).await;
        let heard = match asked {
            Ok(Ok(answer)) => HostNotes::from_json(&answer).map_err(anyhow::Error::from),
            Ok(Err(error)) => Err(error.into()),
            Err(elapsed) => Err(elapsed.into()),
        };
        match heard {
            Ok(heard) => {
                self.missed = 0;
                self.on_notes(heard.notes);
            }
            Err(error) => {
                debug!("no seeder says anything about reports: {error:#}");
                self.missed = self.missed.saturating_add(1);
                if self.missed > NOTES_MISSED_MAX {
                    self.board.set_heard(vec![]);
                }
            }
        }
    }

    /// Shows what the seeder says, and logs what it had not said before.
    fn on_notes(&self, notes: Vec<String>) {
        // By how many minutes a clock is off may change with each report.
        let words = |note: &String| note.replace(|symbol: char| symbol.is_ascii_digit(), "");
        let before = self.notes.borrow().heard.clone();
        let before: Vec<_> = before.iter().map(words).collect();
        for note in notes.iter().filter(|note| !before.contains(&words(note))) {
            warn!("{note}");
        }
        if notes.is_empty() && !before.is_empty() {
            info!("the seeder finds nothing wrong with the reports any more");
        }
        self.board.set_heard(notes);
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
                jittered(self.backoff.after_failure())
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
        let said = |message: Option<&str>, note: Option<&str>| {
            let mut row = HostStatus { message: message.map(String::from), ..row("web") };
            let notes = Notes { own: note.map(String::from), heard: vec![] };
            add_notes(&mut row, &notes.troubles());
            row.message
        };
        assert_eq!(said(None, None), None);
        assert_eq!(said(Some("disk full"), None).as_deref(), Some("disk full"));
        assert_eq!(said(None, Some("restart")).as_deref(), Some("restart"));
        assert_eq!(said(Some("disk full"), Some("restart")).as_deref(), Some("restart; disk full"));
    }

    /// Goal: what seeders say and what the agent says of itself do not replace each other.
    #[test]
    fn notes_of_seeder_and_agent_stand_side_by_side() {
        let board = StatusBoard::default();
        let (host, group, node) = ("h1".into(), "z1".into(), "5".into());
        let url = "file:///nowhere".parse().unwrap();
        let sink = StatusSink::Store(GoalStore::new(&url));
        let reporter = Reporter::new(ReporterName { host, group, node }, &board, sink);
        assert_eq!(board.note(), None);
        reporter.on_notes(vec!["name taken".into(), "clock off".into()]);
        board.set_note(Some("restart".into()));
        assert_eq!(board.note().as_deref(), Some("restart; name taken; clock off"));
        // Each is told as a trouble of its own.
        board.show(row("web").with_troubles(&[Trouble::new(TroubleKind::Disk, "full")]));
        let troubles = board.rows_with_note().remove(0).troubles();
        let texts: Vec<_> = troubles.iter().map(|trouble| trouble.text.as_str()).collect();
        assert_eq!(texts, ["restart", "name taken", "clock off", "full"]);
        reporter.on_notes(vec!["clock off".into()]);
        assert_eq!(board.note().as_deref(), Some("restart; clock off"));
        board.set_note(None);
        assert_eq!(board.note().as_deref(), Some("clock off"));
        reporter.on_notes(vec![]);
        assert_eq!(board.note(), None);
    }

    /// Goal: a host is heard of soon after an outage of its seeders, however long that took and
    /// whether its rows change or not.
    #[tokio::test(start_paused = true)]
    async fn reports_that_failed_are_tried_again_soon() {
        let (host, group, node) = ("h1".into(), "z1".into(), "5".into());
        let sink = StatusSink::Store(GoalStore::new(&"file:///nowhere".parse().unwrap()));
        let board = StatusBoard::default();
        let mut reporter = Reporter::new(ReporterName { host, group, node }, &board, sink);
        let mut waits = vec![];
        for _ in 0..60 {
            let wait = reporter.on_reported(Err(anyhow::anyhow!("nobody answers")));
            let begun = Instant::now();
            reporter.next_reason(wait).await;
            waits.push(begun.elapsed());
        }
        assert!(waits[0] <= Duration::from_secs(1), "{waits:?}");
        assert!(*waits.iter().max().unwrap() <= Duration::from_secs(15), "{waits:?}");
        // Hosts that lost one seeder do not all come back at one moment.
        assert_ne!(waits.iter().skip(10).min(), waits.iter().skip(10).max());
        let least = Duration::from_secs(7);
        assert!(waits.iter().skip(10).all(|wait| *wait >= least), "{waits:?}");
    }

    /// Goal: a row of wide characters is not one that seeders leave out.
    #[tokio::test]
    async fn rows_are_bounded_in_bytes_too() {
        let folder = tempfile::tempdir().unwrap();
        let store = GoalStore::new(&format!("file://{}", folder.path().display()).parse().unwrap());
        let board = StatusBoard::default();
        let wide = Some("\u{1f600}".repeat(9_999));
        let (message, failure, last_output) = (wide.clone(), wide.clone(), wide);
        board.show(HostStatus { message, failure, last_output, ..row("web") });
        board.set_note(Some("\"".repeat(400)));
        let (host, group, node) = ("h1".into(), "z1".into(), "5".into());
        let name = ReporterName { host, group, node };
        let mut reporter = Reporter::new(name, &board, StatusSink::Store(store.clone()));
        reporter.report(REPORT_TIMEOUT).await.unwrap();
        let sent = store.statuses().await.unwrap().remove(0);
        let bytes = serde_json::to_vec(&sent).unwrap().len();
        assert!(bytes <= STATUS_ROW_BYTES_MAX, "{bytes}");
        assert_eq!(sent.failure.unwrap().chars().count(), FAILURE_CHARS_MAX + 3);
        assert!(sent.message.unwrap().starts_with("\"\"\""));
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
