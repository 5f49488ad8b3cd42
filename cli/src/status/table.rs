//! The status of hosts as a table, as plain columns and as a document for scripts.
//!
//! Pure: rows, goals and the time in, text out. Text of hosts is stripped of control characters
//! before it reaches a terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use goal_state::{AppName, GoalList, HostPhase, HostStatus, progress_text};
use p2p_core::BuildId;
use serde::Serialize;

use crate::output::human;
use crate::rollout::{self, Standing};

/// Messages that are shown below a table.
const MESSAGES_MAX: usize = 10;

/// Outputs that are shown below a table: each has several lines.
const OUTPUTS_MAX: usize = 3;

/// Hosts that are named for one message.
const MESSAGE_HOSTS_MAX: usize = 5;

const HEADER: [&str; 12] = [
    "host",
    "app",
    "phase",
    "build",
    "goal",
    "%",
    "MiB reused",
    "MiB seeder",
    "MiB peers",
    "seconds",
    "reported",
    "message",
];

/// How a table is drawn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Layout {
    /// With lines, wrapped to `width` columns; `None` asks the terminal.
    Table { width: Option<u16> },
    /// Columns aligned by spaces, one line per host, for pipes and files.
    Plain,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    apps: Vec<Summary>,
    hosts: Vec<DocumentRow<'a>>,
    errors: Vec<Fault<'a>>,
}

/// A goal that cannot be read.
#[derive(Debug, Serialize)]
struct Fault<'a> {
    /// `None` if the document does not even have the name of an app.
    app: Option<&'a AppName>,
    error: String,
}

#[derive(Debug, Serialize)]
struct DocumentRow<'a> {
    #[serde(flatten)]
    status: &'a HostStatus,
    is_on_goal: bool,
    is_stale: bool,
}

/// One app in numbers. A host is counted once; stale and stopped hosts are among `hosts`.
#[derive(Debug, Eq, PartialEq, Serialize)]
struct Summary {
    app: AppName,
    /// Whether the goal is there but cannot be read; see `errors`.
    is_goal_damaged: bool,
    /// `None` if no goal is set or it cannot be read.
    build: Option<BuildId>,
    generation: Option<u64>,
    hosts: usize,
    hosts_on_goal: usize,
    hosts_failed: usize,
    hosts_rolled_back: usize,
    /// Hosts that may not switch yet; see `shoal rollout`.
    hosts_waiting: usize,
    hosts_stale: usize,
    hosts_stopped: usize,
}

/// The document for scripts.
pub(crate) fn document<'a>(
    now_ms: u64,
    goals: &'a GoalList,
    rows: &'a [HostStatus],
) -> Document<'a> {
    let hosts = rows.iter().map(|status| DocumentRow {
        status,
        is_on_goal: standing_of(goals, status) == Some(Standing::OnGoal),
        is_stale: is_stale(now_ms, status),
    });
    let errors = goals
        .damaged
        .iter()
        .map(|damaged| Fault { app: damaged.app.as_ref(), error: damaged.error.to_string() });
    Document {
        apps: summaries(now_ms, goals, rows),
        hosts: hosts.collect(),
        errors: errors.collect(),
    }
}

/// The text for people: a row per host, then a line per app. Ends with a line break.
pub(crate) fn render(now_ms: u64, goals: &GoalList, rows: &[HostStatus], layout: Layout) -> String {
    if goals.goals.is_empty() && goals.damaged.is_empty() && rows.is_empty() {
        return "no goal is set and no host reported; set one with: shoal deploy APP BUILD\n"
            .into();
    }
    let mut text = String::new();
    if !rows.is_empty() {
        let cells = rows.iter().map(|row| cells(now_ms, row));
        match layout {
            Layout::Plain => text.push_str(&columns(&HEADER, &cells.collect::<Vec<_>>())),
            Layout::Table { .. } => {
                let [header @ .., _] = &HEADER;
                let cells: Vec<_> = cells.map(|[cells @ .., _message]| cells).collect();
                text.push_str(&grid(header, &cells, layout));
                text.push_str(&messages(rows));
                text.push_str(&outputs(rows));
            }
        }
        text.push('\n');
    }
    for summary in summaries(now_ms, goals, rows) {
        text.push_str(&sentence(&summary));
        text.push('\n');
    }
    text
}

/// What hosts say, a line for each message: in a table a sentence would be a column of single
/// words.
fn messages(rows: &[HostStatus]) -> String {
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        if let Some(message) = &row.message {
            said.entry(human::printable(message)).or_default().push(human::printable(&row.host));
        }
    }
    let line = |(message, hosts): (&String, &Vec<String>)| {
        let more = hosts.len().saturating_sub(MESSAGE_HOSTS_MAX);
        let named = hosts[..hosts.len() - more].join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{named}{more}: {message}\n")
    };
    let mut lines: Vec<String> = said.iter().take(MESSAGES_MAX).map(line).collect();
    if said.len() > MESSAGES_MAX {
        let more = said.len() - MESSAGES_MAX;
        lines.push(format!("and {more} other messages; --json has them all\n"));
    }
    lines.concat()
}

/// The last lines of programs and hooks that failed.
fn outputs(rows: &[HostStatus]) -> String {
    let mut said: BTreeMap<&str, Vec<&HostStatus>> = BTreeMap::new();
    for row in rows {
        if let Some(output) = &row.last_output {
            said.entry(output).or_default().push(row);
        }
    }
    let section = |(output, rows): (&&str, &Vec<&HostStatus>)| {
        let host = human::printable(&rows[0].host);
        let more =
            if rows.len() > 1 { format!(" and {} more", rows.len() - 1) } else { String::new() };
        let build = rows[0].quarantined;
        let of = build.map_or_else(String::new, |build| format!(" of build {}", build.short()));
        let lines = output.lines().map(|line| format!("    {}\n", human::printable(line)));
        format!("{host}{more}, last output{of}:\n{}", lines.collect::<String>())
    };
    said.iter().take(OUTPUTS_MAX).map(section).collect()
}

/// A table of any cells, ending with a line break.
pub(crate) fn grid<const N: usize>(
    header: &[&str; N],
    rows: &[[String; N]],
    layout: Layout,
) -> String {
    let Layout::Table { width } = layout else {
        return columns(header, rows);
    };
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = width {
        table.set_width(width);
    }
    table.set_header(header);
    table.add_rows(rows.iter().map(|row| row.iter()));
    format!("{}\n", table.trim_fmt())
}

fn columns<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let lines: Vec<&[String; N]> = std::iter::once(&header).chain(rows).collect();
    let width =
        |index: usize| lines.iter().map(|line| line[index].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let draw = |line: &&[String; N]| {
        let padded = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(draw).collect()
}

fn cells(now_ms: u64, row: &HostStatus) -> [String; HEADER.len()] {
    let dash = || "-".to_owned();
    let age = Duration::from_millis(now_ms.saturating_sub(row.updated_at_ms));
    let stale = if is_stale(now_ms, row) { " (stale)" } else { "" };
    [
        human::printable(&row.host),
        row.app.to_string(),
        phase_cell(row),
        build_cell(row),
        row.generation.map_or_else(dash, |generation| generation.to_string()),
        row.bytes_total
            .map_or_else(dash, |total| human::percent(row.bytes_done, total).to_string()),
        human::mebibytes(row.bytes_reused),
        human::mebibytes(row.bytes_from_seeders),
        human::mebibytes(row.bytes_from_peers),
        row.elapsed_ms.map_or_else(dash, |ms| format!("{}.{}", ms / 1_000, ms % 1_000 / 100)),
        format!("{} ago{stale}", human::age(age)),
        message_cell(row),
    ]
}

/// What the host says, and before it how far its download is.
fn message_cell(row: &HostStatus) -> String {
    let progress = progress_text(row)
        .filter(|_| row.phase == HostPhase::Downloading && row.download_rate.is_some());
    let parts = [progress, row.message.as_deref().map(human::printable)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// What runs, and beside it what is to run or what failed, if that is another build.
fn build_cell(row: &HostStatus) -> String {
    match (row.current, row.target) {
        (Some(current), Some(target)) if row.quarantined == Some(target) => {
            format!("{} (bad: {})", current.short(), target.short())
        }
        (Some(current), Some(target)) if current != target => {
            format!("{} -> {}", current.short(), target.short())
        }
        (Some(build), _) => build.short(),
        (None, Some(target)) => format!("-> {}", target.short()),
        (None, None) => "-".to_owned(),
    }
}

/// The phase, and what is worth knowing beside it.
fn phase_cell(row: &HostStatus) -> String {
    let mut text = phase_word(row.phase).to_owned();
    if let (HostPhase::Waiting, Some(reason)) = (row.phase, row.waiting_for) {
        text = format!("{text} ({reason})");
    }
    if let Some(rate) = row.download_rate.filter(|_| row.phase == HostPhase::Downloading) {
        text = format!("{text}, {}/s", human::bytes(rate));
    }
    if row.healthy == Some(false) {
        text.push_str(", unhealthy");
    }
    if row.restarts > 0 {
        let restarts = usize::try_from(row.restarts).unwrap_or(usize::MAX);
        text = format!("{text}, {}", human::counted(restarts, "restart"));
    }
    text
}

/// The word for a phase, as in documents.
pub(crate) const fn phase_word(phase: HostPhase) -> &'static str {
    match phase {
        HostPhase::NoGoal => "no-goal",
        HostPhase::Locating => "locating",
        HostPhase::Downloading => "downloading",
        HostPhase::Verifying => "verifying",
        HostPhase::Waiting => "waiting",
        HostPhase::Switching => "switching",
        HostPhase::Checking => "checking",
        HostPhase::Running => "running",
        HostPhase::RolledBack => "rolled-back",
        HostPhase::Stopped => "stopped",
        HostPhase::Failed => "failed",
        _ => "other",
    }
}

fn standing_of(goals: &GoalList, row: &HostStatus) -> Option<Standing> {
    let goal = goals.goals.iter().find(|goal| goal.app == row.app)?;
    Some(rollout::standing(goal, row))
}

/// A stopped host says nothing any more, and need not.
fn is_stale(now_ms: u64, row: &HostStatus) -> bool {
    row.phase != HostPhase::Stopped && rollout::is_stale(now_ms, row)
}

fn summaries(now_ms: u64, goals: &GoalList, rows: &[HostStatus]) -> Vec<Summary> {
    let damaged: BTreeSet<&AppName> =
        goals.damaged.iter().filter_map(|damaged| damaged.app.as_ref()).collect();
    let named = goals.goals.iter().map(|goal| &goal.app).chain(rows.iter().map(|row| &row.app));
    let apps: BTreeSet<&AppName> = named.chain(damaged.iter().copied()).collect();
    let summary = |app: &AppName| {
        let goal = goals.goals.iter().find(|goal| goal.app == *app);
        let rows: Vec<&HostStatus> = rows.iter().filter(|row| row.app == *app).collect();
        let standing = |wanted| {
            let stands = |row: &&&HostStatus| standing_of(goals, row) == Some(wanted);
            rows.iter().filter(stands).count()
        };
        Summary {
            app: app.clone(),
            is_goal_damaged: damaged.contains(app),
            build: goal.map(|goal| goal.build),
            generation: goal.map(|goal| goal.generation),
            hosts: rows.len(),
            hosts_on_goal: standing(Standing::OnGoal),
            hosts_failed: standing(Standing::Failed),
            hosts_rolled_back: standing(Standing::RolledBack),
            hosts_waiting: standing(Standing::Waiting),
            hosts_stale: rows.iter().filter(|row| is_stale(now_ms, row)).count(),
            hosts_stopped: standing(Standing::Stopped),
        }
    };
    apps.into_iter().map(summary).collect()
}

fn sentence(summary: &Summary) -> String {
    let Summary { app, hosts, hosts_on_goal, .. } = summary;
    let text = match (summary.build, summary.generation) {
        (Some(build), Some(generation)) => {
            let build = build.short();
            format!(
                "{app}: goal {generation} is build {build}, {hosts_on_goal} of {hosts} hosts run it"
            )
        }
        _ if summary.is_goal_damaged => {
            format!(
                "{app}: the goal cannot be read, reported by {}",
                human::counted(*hosts, "host")
            )
        }
        _ => format!("{app}: no goal is set, reported by {}", human::counted(*hosts, "host")),
    };
    let counts = [
        (summary.hosts_failed, "failed"),
        (summary.hosts_rolled_back, "rolled back"),
        (summary.hosts_waiting, "waiting"),
        (summary.hosts_stopped, "stopped"),
        (summary.hosts_stale, "silent"),
    ];
    let counts = counts.into_iter().filter(|&(count, _)| count > 0);
    counts.fold(text, |text, (count, word)| format!("{text}, {count} {word}"))
}

#[cfg(test)]
mod tests {
    use goal_state::Goal;

    use super::*;
    use crate::rollout::tests::{NOW_MS, build, goal, row};

    fn goals(goals: Vec<Goal>) -> GoalList {
        GoalList { goals, damaged: vec![] }
    }

    fn three_hosts_of_one_app() -> (GoalList, Vec<HostStatus>) {
        let underway = HostStatus {
            current: Some(build(1)),
            bytes_done: 32 << 20,
            bytes_from_seeders: 0,
            elapsed_ms: None,
            ..row("host-2", 2, 2, HostPhase::Downloading)
        };
        let failed = HostStatus {
            current: None,
            bytes_total: None,
            message: Some("exits at\x1b[31m once; look into its log".into()),
            updated_at_ms: NOW_MS - 300_000,
            ..row("host-3", 2, 2, HostPhase::Failed)
        };
        (
            goals(vec![goal("web", 2, 2)]),
            vec![row("host-1", 2, 2, HostPhase::Running), underway, failed],
        )
    }

    #[test]
    fn plain_columns_are_aligned() {
        let (goals, rows) = three_hosts_of_one_app();
        let (old, new) = (build(1).short(), build(2).short());
        let text = render(NOW_MS, &goals, &rows, Layout::Plain);
        let expected = format!(
            "host    app  phase        build                         goal  %    MiB reused  MiB seeder  MiB peers  seconds  reported           message\n\
             host-1  web  running      {new}                  2     100  0.0         16.0        48.0       2.3      1 s ago\n\
             host-2  web  downloading  {old} -> {new}  2     50   0.0         0.0         48.0       -        1 s ago\n\
             host-3  web  failed       -> {new}               2     -    0.0         16.0        48.0       2.3      5 min ago (stale)  exits at [31m once; look into its log\n\
             \n\
             web: goal 2 is build {new}, 1 of 3 hosts run it, 1 failed, 1 silent\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn table_fits_the_terminal_and_holds_every_host() {
        let (goals, rows) = three_hosts_of_one_app();
        let text = render(NOW_MS, &goals, &rows, Layout::Table { width: Some(100) });
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        for word in ["host-1", "host-2", "host-3", "running", "(stale)"] {
            assert!(text.contains(word), "{word} is missing in\n{text}");
        }
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn download_shows_rate_time_left_and_limit() {
        let row = HostStatus {
            bytes_done: 32 << 20,
            download_rate: Some(296_960),
            download_limit: Some(300_000),
            ..row("host-2", 2, 2, HostPhase::Downloading)
        };
        let goals = goals(vec![goal("web", 2, 2)]);
        let text = render(NOW_MS, &goals, std::slice::from_ref(&row), Layout::Plain);
        assert!(text.contains("downloading, 290.0 KiB/s  "), "{text}");
        assert!(text.contains("1m 52s left, limited by download_limit 300 KB/s"), "{text}");
        let done = HostStatus { phase: HostPhase::Running, ..row };
        let text = render(NOW_MS, &goals, &[done], Layout::Plain);
        assert!(!text.contains("KiB/s"), "{text}");
    }

    #[test]
    fn messages_stand_below_the_table_once() {
        let (goals, mut rows) = three_hosts_of_one_app();
        let text = render(NOW_MS, &goals, &rows, Layout::Table { width: Some(120) });
        assert!(text.contains("\nhost-3: exits at [31m once; look into its log\n"), "{text}");
        assert!(text.contains("\u{2506} downloading \u{2506}"), "cut into pieces\n{text}");
        for row in &mut rows {
            row.message = Some("the disk is full".into());
        }
        let text = render(NOW_MS, &goals, &rows, Layout::Table { width: Some(120) });
        assert!(text.contains("\nhost-1, host-2, host-3: the disk is full\n"), "{text}");
        let mut many: Vec<_> = (0..20).map(|_| rows[0].clone()).collect();
        let text = render(NOW_MS, &goals, &many, Layout::Table { width: Some(120) });
        assert!(text.contains("host-1 and 15 more: the disk is full\n"), "{text}");
        for (number, row) in many.iter_mut().enumerate() {
            row.message = Some(format!("reason {number:02}"));
        }
        let text = render(NOW_MS, &goals, &many, Layout::Table { width: Some(120) });
        assert!(text.contains("reason 09\nand 10 other messages"), "{text}");
    }

    #[test]
    fn hosts_that_wait_or_went_back_say_so() {
        let waiting = HostStatus {
            waiting_for: Some(goal_state::WaitReason::Wave),
            current: Some(build(1)),
            ..row("host-1", 2, 2, HostPhase::Waiting)
        };
        let back = HostStatus {
            current: Some(build(1)),
            quarantined: Some(build(2)),
            last_output: Some("thread panicked\n\u{1b}[1mat main.rs:7".into()),
            restarts: 3,
            healthy: Some(false),
            message: Some("went back: ended 3 times".into()),
            ..row("host-2", 2, 2, HostPhase::RolledBack)
        };
        let goals = goals(vec![goal("web", 2, 2)]);
        let rows = [waiting, back];
        let text = render(NOW_MS, &goals, &rows, Layout::Plain);
        let went_back = format!("{} (bad: {})", build(1).short(), build(2).short());
        assert!(text.contains(&went_back), "{text}");
        for part in ["waiting (wave)", "rolled-back, unhealthy, 3 restarts", "went back: ended"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.ends_with("0 of 2 hosts run it, 1 rolled back, 1 waiting\n"), "{text}");
        let text = render(NOW_MS, &goals, &rows, Layout::Table { width: Some(160) });
        let expected = format!(
            "host-2, last output of build {}:\n    thread panicked\n     [1mat main.rs:7\n",
            build(2).short()
        );
        assert!(text.contains(&expected) && !text.contains('\x1b'), "{text}");
        let json = serde_json::to_value(document(NOW_MS, &goals, &rows)).unwrap();
        assert_eq!(json["apps"][0]["hosts_rolled_back"], 1);
        assert_eq!(json["hosts"][0]["waiting_for"], "wave");
        assert_eq!(json["hosts"][1]["quarantined"], build(2).to_string());
    }

    #[test]
    fn nothing_to_show_says_what_to_do() {
        let text = render(NOW_MS, &goals(vec![]), &[], Layout::Plain);
        assert!(text.contains("shoal deploy"), "{text}");
    }

    #[test]
    fn apps_without_goal_or_hosts_have_a_line_too() {
        let stopped = HostStatus { updated_at_ms: 0, ..row("host-1", 2, 2, HostPhase::Stopped) };
        let text = render(NOW_MS, &goals(vec![goal("db", 1, 1)]), &[stopped], Layout::Plain);
        let expected = format!(
            "db: goal 1 is build {}, 0 of 0 hosts run it\nweb: no goal is set, reported by 1 host\n",
            build(1).short()
        );
        assert!(text.ends_with(&expected), "{text}");
        assert!(!text.contains("stale"), "{text}");
    }

    #[test]
    fn document_keeps_every_field_of_the_report() {
        let (goals, rows) = three_hosts_of_one_app();
        let json = serde_json::to_value(document(NOW_MS, &goals, &rows)).unwrap();
        assert_eq!(json["apps"][0]["hosts_on_goal"], 1);
        assert_eq!(json["apps"][0]["generation"], 2);
        assert_eq!(json["hosts"][2]["is_stale"], true);
        assert_eq!(json["hosts"][0]["is_on_goal"], true);
        let back: HostStatus = serde_json::from_value(json["hosts"][1].clone()).unwrap();
        assert_eq!(back, rows[1]);
    }
}
