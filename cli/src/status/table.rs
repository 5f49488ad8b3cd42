//! The status of hosts as a table, as plain columns and as a document for scripts.
//!
//! Pure: rows, goals and the time in, text out. Text of hosts is stripped of control characters
//! before it reaches a terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use goal_state::{
    AppName, Goal, GoalList, Halted, HostPhase, HostStatus, SwitchTime, progress_text,
};
use p2p_core::BuildId;
use serde::Serialize;

use crate::output::grid::{Layout, columns, grid};
use crate::output::human;
use crate::rollout::{self, Standing, Survey, is_silent, report, survey};

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

/// One app in numbers: those of a [`Survey`]. Each host is in one of them; `hosts` has them all.
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
    hosts_underway: usize,
    hosts_failed: usize,
    hosts_rolled_back: usize,
    /// Hosts that may not switch yet; see `shoal rollout`.
    hosts_waiting: usize,
    /// Hosts that follow a higher generation than the goal store has.
    hosts_ahead: usize,
    /// Silent and stopped hosts; of these...
    hosts_absent: usize,
    /// ...those that are silent...
    hosts_stale: usize,
    /// ...and those whose agent was stopped.
    hosts_stopped: usize,
    /// Hosts that have every byte of the build.
    hosts_with_bytes: usize,
    /// Names under which more than one node reports.
    names_twice: BTreeSet<String>,
    /// Why the rollout has halted, if it has.
    halted: Option<Halted>,
}

/// The document for scripts.
pub(crate) fn document<'a>(
    now_ms: u64,
    goals: &'a GoalList,
    rows: &'a [HostStatus],
) -> Document<'a> {
    let hosts = rows.iter().map(|status| DocumentRow {
        status,
        is_on_goal: standing_of(now_ms, goals, status) == Some(Standing::OnGoal),
        is_stale: is_silent(now_ms, status),
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
                let drawn = |(mut cells, row): ([String; HEADER.len()], &HostStatus)| {
                    cells[0] = human::host_column(&row.host);
                    let [cells @ .., _message] = cells;
                    cells
                };
                let cells: Vec<_> = cells.zip(rows).map(drawn).collect();
                text.push_str(&grid(header, &cells, layout));
                text.push_str(&messages(rows));
                text.push_str(&outputs(rows));
            }
        }
        text.push('\n');
    }
    for app in apps(goals, rows) {
        for line in lines(now_ms, &app, goals, rows) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

/// What hosts say, a line for each message: in a table a sentence would be a column of single
/// words.
fn messages(rows: &[HostStatus]) -> String {
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        if let Some(message) = &row.message {
            said.entry(human::printable(message)).or_default().push(human::host_column(&row.host));
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
        let host = human::host_column(&rows[0].host);
        let more =
            if rows.len() > 1 { format!(" and {} more", rows.len() - 1) } else { String::new() };
        let build = rows[0].quarantined;
        let of = build.map_or_else(String::new, |build| format!(" of build {}", build.short()));
        let lines = output.lines().map(|line| format!("    {}\n", human::printable(line)));
        format!("{host}{more}, last output{of}:\n{}", lines.collect::<String>())
    };
    said.iter().take(OUTPUTS_MAX).map(section).collect()
}

fn cells(now_ms: u64, row: &HostStatus) -> [String; HEADER.len()] {
    let dash = || "-".to_owned();
    let age = Duration::from_millis(now_ms.saturating_sub(row.heard_at_ms()));
    let stale = if is_silent(now_ms, row) { " (stale)" } else { "" };
    let clock = clock_note(row);
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
        format!("{} ago{stale}{clock}", human::age(age)),
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

/// What is wrong with the host's clock, if it is far off that of whoever received the report.
fn clock_note(row: &HostStatus) -> String {
    let Some(off_ms) = row.clock_trouble_ms() else { return String::new() };
    let off = Duration::from_millis(off_ms.unsigned_abs());
    let way = if off_ms < 0 { "behind" } else { "ahead" };
    format!(", its clock is {} {way}", human::age(off))
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

fn standing_of(now_ms: u64, goals: &GoalList, row: &HostStatus) -> Option<Standing> {
    let goal = goals.goals.iter().find(|goal| goal.app == row.app)?;
    Some(rollout::standing(now_ms, goal, row))
}

/// Every app that has a goal, readable or not, or a host.
fn apps(goals: &GoalList, rows: &[HostStatus]) -> BTreeSet<AppName> {
    let damaged = goals.damaged.iter().filter_map(|damaged| damaged.app.as_ref());
    let named = goals.goals.iter().map(|goal| &goal.app).chain(rows.iter().map(|row| &row.app));
    named.chain(damaged).cloned().collect()
}

/// The goal of an app, and where its hosts stand. Without a goal they stand nowhere.
fn surveyed<'a>(
    now_ms: u64,
    app: &AppName,
    goals: &'a GoalList,
    rows: &[HostStatus],
) -> (Option<&'a Goal>, Survey) {
    let goal = goals.goals.iter().find(|goal| goal.app == *app);
    (goal, goal.map_or_else(Survey::default, |goal| survey(now_ms, goal, rows)))
}

fn summaries(now_ms: u64, goals: &GoalList, rows: &[HostStatus]) -> Vec<Summary> {
    let summary = |app: AppName| {
        let (goal, hosts) = surveyed(now_ms, &app, goals, rows);
        let rows: Vec<&HostStatus> = rows.iter().filter(|row| row.app == app).collect();
        let stopped = rows.iter().filter(|row| row.phase == HostPhase::Stopped).count();
        let stale = rows.iter().filter(|row| is_silent(now_ms, row)).count();
        Summary {
            is_goal_damaged: is_damaged(goals, &app),
            build: goal.map(|goal| goal.build),
            generation: goal.map(|goal| goal.generation),
            hosts: rows.len(),
            hosts_on_goal: hosts.on_goal.len(),
            hosts_underway: hosts.underway.len(),
            hosts_failed: hosts.failed.len(),
            hosts_rolled_back: hosts.rolled_back.len(),
            hosts_waiting: hosts.waiting.len(),
            hosts_ahead: hosts.ahead.len(),
            hosts_absent: stale + stopped,
            hosts_stale: stale,
            hosts_stopped: stopped,
            hosts_with_bytes: hosts.with_bytes,
            names_twice: hosts.twins,
            halted: goal.and_then(|goal| goal.rollout.halted.clone()),
            app,
        }
    };
    apps(goals, rows).into_iter().map(summary).collect()
}

fn is_damaged(goals: &GoalList, app: &AppName) -> bool {
    goals.damaged.iter().any(|damaged| damaged.app.as_ref() == Some(app))
}

/// What is said of an app below the hosts: the goal with the counts, then what needs a person.
fn lines(now_ms: u64, app: &AppName, goals: &GoalList, rows: &[HostStatus]) -> Vec<String> {
    let (goal, hosts) = surveyed(now_ms, app, goals, rows);
    let Some(goal) = goal else {
        let count = rows.iter().filter(|row| row.app == *app).count();
        let what =
            if is_damaged(goals, app) { "the goal cannot be read" } else { "no goal is set" };
        return vec![format!("{app}: {what}, reported by {}", human::counted(count, "host"))];
    };
    let counts = report::counts(&hosts);
    let name = report::name(goal);
    let mut lines = vec![format!("{app}: goal {} is build {name}, {counts}", goal.generation)];
    lines.extend(report::halt(goal));
    if goal.rollout.switch != SwitchTime::Now {
        lines.push(format!("{app}: staged: {}", report::readiness(&hosts)));
    }
    if let Some(highest) = hosts.highest_ahead() {
        lines.push(format!(
            "{app}: the goal store was lost or restored: hosts follow goal {highest}, the store has \
             {}; set a goal above theirs with: shoal deploy {app} BUILD",
            goal.generation
        ));
    }
    for name in &hosts.twins {
        let name = human::printable(name);
        lines.push(format!("{app}: more than one node reports as {name}; give each its own name"));
    }
    if !hosts.absent.is_empty() {
        lines.push(format!("{app}: absent: {}", report::absences(now_ms, &hosts.absent)));
    }
    lines
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
             web: goal 2 is build {new}, 1 of 3 hosts run it, 1 on the way, 1 absent\n\
             web: absent: host-3 (silent for 5 min)\n"
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

    /// Goal: a host with a long name takes no table apart; whoever reads by program has it whole.
    #[test]
    fn long_names_are_cut_in_tables_only() {
        let (goals, mut rows) = three_hosts_of_one_app();
        for row in &mut rows {
            row.host = format!("{}.example.com", "n".repeat(200));
            row.last_output = Some("port 80 is taken".into());
        }
        let text = render(NOW_MS, &goals, &rows, Layout::Table { width: Some(240) });
        assert!(text.contains("n...\u{2502}") || text.contains("n....example.com"), "{text}");
        assert!(text.contains("n....example.com: exits at"), "{text}");
        assert!(text.contains("n....example.com and 2 more, last output"), "{text}");
        let (table, _) = text.split_once("\nweb: goal").unwrap();
        assert!(!table.contains(&"n".repeat(41)), "{text}");
        let plain = render(NOW_MS, &goals, &rows, Layout::Plain);
        assert!(plain.contains(&rows[0].host), "{plain}");
        let json = serde_json::to_string(&document(NOW_MS, &goals, &rows)).unwrap();
        assert!(json.contains(&rows[0].host), "{json}");
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
        assert!(text.contains("1m 53s left, limited by download_limit 300 KB/s"), "{text}");
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
        assert!(text.ends_with("0 of 2 hosts run it, 1 waiting (wave), 1 rolled back\n"), "{text}");
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

    /// Goal: whoever only looks at the end of the status learns all that needs a person.
    #[test]
    fn halts_stages_twins_lost_stores_and_wrong_clocks_are_said() {
        let mut halted = goal("web", 2, 2);
        halted.rollout.halted = Some(Halted::new(NOW_MS, "shoal-seeder", "exit code 3 on h1"));
        halted.rollout.switch = SwitchTime::OnOrder;
        let node = |node: &str, generation| HostStatus {
            node: Some(node.into()),
            received_at_ms: NOW_MS - 1_000,
            updated_at_ms: NOW_MS - 3_601_000,
            ..row("h6", generation, 2, HostPhase::Running)
        };
        let rows = [node("a", 2), node("b", 53)];
        let text = render(NOW_MS, &goals(vec![halted]), &rows, Layout::Plain);
        for part in [
            "1 s ago, its clock is 60 min behind",
            "1 of 2 hosts run it, 1 ahead of the goal store",
            "by shoal-seeder: exit code 3 on h1; hosts that have not switched do not; go on with: \
             shoal rollout web --resume",
            "web: staged: bytes on 2 of 2 hosts (100.0 %)",
            "hosts follow goal 53, the store has 2; set a goal above theirs",
            "more than one node reports as h6",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains("stale") && !text.contains("absent"), "{text}");
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
