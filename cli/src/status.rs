//! `shoal status`: what every host runs, as it reported.
//!
//! Owns when the goal store is read and drawn again; [`table`] makes the text. Invariant: a goal
//! that is damaged hides no host, and is named.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use anyhow::Context as _;
use goal_state::{AppName, GoalList, GoalStore, GoalStoreError, HostStatus, now_ms};

use crate::output::grid::Layout;
use crate::output::{self, Outcome, PROGRAM};
use crate::rollout::commands::GoalArgs;
use crate::runtime::{block_on, read_inventory};

pub(crate) mod table;

/// Time between two screens of `--watch`.
const REFRESH: Duration = Duration::from_secs(1);

/// Cursor to the top left, and everything below it erased: no flicker, unlike erasing first.
const HOME: &str = "\x1b[H";
const ERASE_LINE_END: &str = "\x1b[K\n";
const ERASE_BELOW: &str = "\x1b[J";

/// Arguments of `shoal status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this app
    app: Option<AppName>,
    #[command(flatten)]
    goal: GoalArgs,
    /// Print one JSON object; with --watch one a second, each in a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Show it again every second until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Leave out hosts that have not reported for this long, such as 1d: those that are gone for
    /// good
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,
}

/// Prints the status once, or until a signal ends the process. A goal that is damaged is named and
/// makes the answer [`Outcome::Negative`].
///
/// # Errors
///
/// If the goal store cannot be read, or standard output is closed. With `--watch` a store that
/// fails later is shown and asked again.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    block_on(async {
        let store = GoalStore::new(&args.goal.url);
        let is_terminal = io::stdout().is_terminal();
        let layout = if is_terminal { Layout::Table { width: None } } else { Layout::Plain };
        let mut snapshot = Snapshot::read(&store, args).await?;
        show(args, layout, &snapshot)?;
        if !args.watch {
            let faults = snapshot.faults();
            for fault in &faults {
                command_line::complain(PROGRAM, fault);
            }
            return Ok(if faults.is_empty() { Outcome::Done } else { Outcome::Negative });
        }
        loop {
            tokio::time::sleep(REFRESH).await;
            let trouble = match Snapshot::read(&store, args).await {
                Ok(read) => {
                    snapshot = read;
                    None
                }
                Err(error) => Some(format!("{}; trying again", command_line::describe(&error))),
            };
            match trouble {
                None => show(args, layout, &snapshot)?,
                // A line between two screens would be drawn over, or push them up.
                Some(trouble) if is_terminal && !args.json => {
                    snapshot.now_ms = now_ms();
                    draw(&format!("{}\n{trouble}\n", snapshot.screen(layout)))?;
                }
                Some(trouble) => output::note(&trouble),
            }
        }
    })
}

struct Snapshot {
    goals: GoalList,
    rows: Vec<HostStatus>,
    now_ms: u64,
}

impl Snapshot {
    async fn read(store: &GoalStore, args: &Args) -> anyhow::Result<Self> {
        let now_ms = now_ms();
        let mut rows = read_inventory(store).await?;
        let mut goals = match store.goals().await {
            // The first deploy makes it.
            Err(GoalStoreError::StoreMissing { directory }) => {
                let place = directory.display();
                output::note(&format!("{place} does not exist yet; the first deploy makes it"));
                GoalList::default()
            }
            read => read.context("cannot read the goals; check --goal")?,
        };
        if let Some(app) = &args.app {
            rows.retain(|row| row.app == *app);
            goals.goals.retain(|goal| goal.app == *app);
            goals.damaged.retain(|damaged| damaged.app.as_ref() == Some(app));
            anyhow::ensure!(
                !goals.goals.is_empty() || !goals.damaged.is_empty() || !rows.is_empty(),
                "no goal is set for {app} and no host reports it; check the name, or run: shoal deploy {app} BUILD"
            );
        }
        if let Some(max) = args.max_age {
            let age = |row: &HostStatus| u128::from(now_ms.saturating_sub(row.heard_at_ms()));
            rows.retain(|row| age(row) <= max.as_millis());
        }
        Ok(Self { goals, rows, now_ms })
    }

    /// What is wrong with goals, a line for each.
    fn faults(&self) -> Vec<String> {
        self.goals.damaged.iter().map(|damaged| damaged.error.to_string()).collect()
    }

    fn text(&self, layout: Layout) -> String {
        table::render(self.now_ms, &self.goals, &self.rows, layout)
    }

    /// The text with all that is wrong below it, for a screen that has no room beside it.
    fn screen(&self, layout: Layout) -> String {
        let faults = self.faults().into_iter().map(|fault| format!("\n{fault}\n"));
        self.text(layout) + &faults.collect::<String>()
    }
}

fn show(args: &Args, layout: Layout, snapshot: &Snapshot) -> anyhow::Result<()> {
    if args.json {
        let Snapshot { goals, rows, now_ms } = snapshot;
        return output::json(&table::document(*now_ms, goals, rows));
    }
    match layout {
        Layout::Table { .. } if args.watch => draw(&snapshot.screen(layout)),
        Layout::Plain if args.watch => output::raw(&snapshot.screen(layout)),
        Layout::Table { .. } | Layout::Plain => output::raw(&snapshot.text(layout)),
    }
}

/// Draws a screen over the one before.
fn draw(text: &str) -> anyhow::Result<()> {
    let fitting = match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            fit_screen(text, size.ws_row.into(), size.ws_col.into())
        }
        Ok(_) | Err(_) => text.to_owned(),
    };
    output::raw(&format!("{HOME}{}{ERASE_BELOW}", fitting.replace('\n', ERASE_LINE_END)))
}

/// As much of the text as a window shows without scrolling: its beginning and, as sums and troubles
/// come last, its end.
fn fit_screen(text: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let rows_of = |line: &&str| line.chars().count().div_ceil(columns).max(1);
    // The cursor rests in a row of its own.
    let rows = rows.saturating_sub(1);
    if lines.iter().map(rows_of).sum::<usize>() <= rows {
        return text.to_owned();
    }
    let mut left = rows.saturating_sub(1);
    let mut take = |left_min: usize, line: &&str| {
        let fits = left >= left_min + rows_of(line);
        if fits {
            left -= rows_of(line);
        }
        fits
    };
    let end_count = lines.iter().rev().take_while(|line| take(rows / 2, line)).count();
    let (before, end) = lines.split_at(lines.len() - end_count);
    let begin_count = before.iter().take_while(|line| take(0, line)).count();
    let (begin, omitted) = before.split_at(begin_count);
    let note = format!("... {} more lines; make the window taller", omitted.len());
    let mut shown = begin.to_vec();
    shown.push(&note);
    shown.extend(end);
    shown.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screen_keeps_what_fits_from_both_ends() {
        let lines: Vec<String> = (1..=20).map(|number| format!("line {number}")).collect();
        let text = lines.join("\n") + "\n";
        assert_eq!(fit_screen(&text, 21, 80), text);
        let fitted = fit_screen(&text, 9, 80);
        let expected = "line 1\nline 2\nline 3\nline 4\n... 13 more lines; make the window taller\nline 18\nline 19\nline 20\n";
        assert_eq!(fitted, expected);
        // Each line takes two rows here.
        let narrow = fit_screen(&text, 9, 5);
        assert!(
            narrow.starts_with("line 1\nline 2\n...") && narrow.ends_with("line 20\n"),
            "{narrow}"
        );
        assert!(fit_screen(&text, 1, 1).starts_with("... 20 more"));
    }
}
