//! `shoal explain`: why one host is not on the build of its goal, from the operator's desk.
//!
//! The words are those of the agent's own `explain`, made from the row that the host reported. This
//! adds what only the desk knows: the goal in the store, how long the host has been silent, and who
//! else reports under its name. Invariant: a host whose row is old is never shown as if it were
//! fresh.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use goal_state::{
    Answer, AppName, CLOCK_STEP, Goal, GoalList, GoalStore, GoalStoreError, HostStatus,
    NAMESAKE_STEP, Reason, TroubleKind, is_stuck, moment, now_ms, span,
};
use serde::Serialize;

use crate::output::{self, Outcome, human};
use crate::rollout::commands::GoalArgs;
use crate::rollout::is_silent;
use crate::runtime::{block_on, read_inventory};

/// Names that an error lists.
const NAMES_MAX: usize = 10;

/// Arguments of `shoal explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The app
    app: AppName,
    /// The host, by the name under which it reports
    host: String,
    #[command(flatten)]
    goal: GoalArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    /// One for each node that reports under the name.
    answers: Vec<DocumentAnswer>,
}

#[derive(Debug, Serialize)]
struct DocumentAnswer {
    #[serde(flatten)]
    answer: Answer,
    /// The host's key; `None` if it is not known.
    node: Option<String>,
    /// When the host was last heard of, in milliseconds since 1970.
    heard_at_ms: u64,
}

/// Prints where the app stands on the host and why.
///
/// # Errors
///
/// If the goal store cannot be read, or has no such app or host: the error names what there is.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let (rows, goals) = block_on(async {
        let store = GoalStore::new(&args.goal.url);
        let rows = read_inventory(&store).await?;
        let goals = match store.goals().await {
            // The first deploy makes it.
            Err(GoalStoreError::StoreMissing { .. }) => GoalList::default(),
            read => read.context("cannot read the goals; check --goal")?,
        };
        anyhow::Ok((rows, goals))
    })?;
    let rows = rows_of(args, &rows, &goals)?;
    let answers: Vec<DocumentAnswer> = rows
        .iter()
        .map(|row| DocumentAnswer {
            answer: answer(now_ms(), &goals, row, rows.len()),
            node: row.node.clone(),
            heard_at_ms: row.heard_at_ms(),
        })
        .collect();
    if args.json {
        output::json(&Document { answers })?;
    } else {
        let texts: Vec<String> = answers.iter().map(|one| text(&one.answer)).collect();
        output::raw(&texts.join("\n"))?;
    }
    Ok(Outcome::Done)
}

/// The rows of the host: one for each node that reports under its name.
fn rows_of<'a>(
    args: &Args,
    rows: &'a [HostStatus],
    goals: &GoalList,
) -> anyhow::Result<Vec<&'a HostStatus>> {
    let Args { app, host, .. } = args;
    let of_app: Vec<&HostStatus> = rows.iter().filter(|row| row.app == *app).collect();
    let named = goals.goals.iter().map(|goal| &goal.app);
    let damaged = goals.damaged.iter().filter_map(|damaged| damaged.app.as_ref());
    let apps: BTreeSet<&str> =
        named.chain(damaged).chain(rows.iter().map(|row| &row.app)).map(AppName::as_str).collect();
    anyhow::ensure!(
        apps.contains(app.as_str()),
        "no goal is set for {app} and no host reports it; the goal store has {}",
        listed(&apps)
    );
    let found: Vec<&HostStatus> = of_app.iter().copied().filter(|row| row.host == *host).collect();
    let hosts: BTreeSet<&str> = of_app.iter().map(|row| row.host.as_str()).collect();
    anyhow::ensure!(
        !found.is_empty(),
        "no host {} reports {app}; those that do: {}",
        human::printable(host),
        listed(&hosts)
    );
    Ok(found)
}

fn listed(names: &BTreeSet<&str>) -> String {
    if names.is_empty() {
        return "none".into();
    }
    let shown: Vec<String> =
        names.iter().take(NAMES_MAX).map(|name| human::printable(name)).collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}

fn text(answer: &Answer) -> String {
    answer.to_string().lines().fold(String::new(), |mut text, line| {
        writeln!(text, "{}", human::printable(line)).expect("a string takes everything");
        text
    })
}

/// What the host's row says, and before it what only the desk knows.
fn answer(now_ms: u64, goals: &GoalList, row: &HostStatus, nodes: usize) -> Answer {
    let mut answer = Answer::of_row(row, &row.troubles(), None);
    // The host may have heard of it itself.
    if nodes > 1 && !answer.has_step(NAMESAKE_STEP) {
        answer.add_first(namesake(row, nodes));
    }
    let is_gone = is_silent(now_ms, row);
    if !is_gone {
        // Of a host that is gone this would only say that it has not heard of the newest goal.
        compare(goals, row, &mut answer);
    }
    if let Some(off) = clock_off(row).filter(|off| !answer.has_step(&off.next_step)) {
        answer.add_first(off);
    }
    let silent = Duration::from_millis(now_ms.saturating_sub(row.heard_at_ms()));
    if is_gone {
        answer.is_at_goal = false;
        answer.headline = format!("{} on {} is absent", row.app, row.host);
        answer.add_first(Reason::new(
            format!(
                "nothing was heard of the host since {}, {} ago; the rest is what it said then",
                moment(row.heard_at_ms()),
                span(silent)
            ),
            "look whether the host is up and its agent runs (shoal-agent status there), then \
             whether it reaches its seeders (shoal-agent doctor)",
        ));
    }
    answer
}

fn namesake(row: &HostStatus, nodes: usize) -> Reason {
    let this = row.node.as_deref().unwrap_or("not known");
    Reason::new(
        format!("{nodes} nodes report as {}, this is of the node {this}", row.host),
        NAMESAKE_STEP,
    )
}

fn clock_off(row: &HostStatus) -> Option<Reason> {
    let off = row.clock_trouble_ms()?;
    let size = Duration::from_millis(off.unsigned_abs());
    let side = if off < 0 { "behind" } else { "ahead" };
    Some(Reason::new(format!("the clock of the host is {} {side}", span(size)), CLOCK_STEP))
}

/// Compares the goal that the host follows with that of the store.
fn compare(goals: &GoalList, row: &HostStatus, answer: &mut Answer) {
    let app = &row.app;
    if let Some(damaged) = goals.damaged.iter().find(|damaged| damaged.app.as_ref() == Some(app)) {
        answer.is_at_goal = false;
        answer.add_first(trouble(app, TroubleKind::GoalUnread, damaged.error.to_string()));
        return;
    }
    let hides = row.troubles.iter().any(|kind| kind.hides_goal());
    let Some(goal) = goals.goals.iter().find(|goal| goal.app == *app) else {
        if row.generation.is_some() && !hides {
            answer.is_at_goal = false;
            let text = format!("the goal store has no goal for {app} any more");
            answer.add_first(trouble(app, TroubleKind::GoalGone, text));
        }
        return;
    };
    if let Some(reason) = difference(goal, row) {
        let HostStatus { host, .. } = row;
        answer.is_at_goal = false;
        answer.headline = format!(
            "{app} on {host} does not follow the goal of the store: build {}, generation {}",
            goal.build.short(),
            goal.generation
        );
        // The host's own reason says more.
        if !hides {
            answer.add_first(reason);
        }
    }
    if let Some(halted) = &goal.rollout.halted
        && !answer.is_at_goal
        && !row.troubles.contains(&TroubleKind::Halt)
    {
        let text = |why: &str| format!("the rollout is halted: {why}");
        let is_own = row.quarantined == Some(goal.build) || is_stuck(goal, row);
        if is_own {
            // Its own cause comes first, and is the halt's.
            let why = match halted.failed {
                0 => halted.reason.clone(),
                failed => format!("the build failed on {failed} of {} hosts", halted.hosts),
            };
            answer.add_last(trouble(app, TroubleKind::Halt, text(&why)));
        } else {
            answer.add_first(trouble(app, TroubleKind::Halt, text(&halted.reason)));
        }
    }
}

fn trouble(app: &AppName, kind: TroubleKind, text: String) -> Reason {
    Reason { kind: Some(kind), text, next_step: kind.next_step(app) }
}

/// How the goal that the host follows differs from `goal`; `None` if it does not.
fn difference(goal: &Goal, row: &HostStatus) -> Option<Reason> {
    let number = goal.generation;
    let has_pin = row.troubles.contains(&TroubleKind::Pin);
    match row.generation {
        Some(follows) if follows > number => Some(trouble(
            &row.app,
            TroubleKind::GoalRefused,
            format!(
                "the host is ahead of the store: it follows generation {follows}, the store has \
                 {number}"
            ),
        )),
        Some(follows) if follows == number => {
            let is_other = row.target.is_some_and(|target| target != goal.build) && !has_pin;
            is_other.then(|| {
                let text =
                    format!("the host knows generation {number} as another build than the store");
                trouble(&row.app, TroubleKind::GoalRefused, text)
            })
        }
        follows => {
            let follows =
                follows.map_or_else(|| "none".into(), |follows| format!("generation {follows}"));
            Some(Reason::new(
                format!("the host has not heard of goal {number} yet, it follows {follows}"),
                "wait a few seconds; if it lasts, look whether the host reaches the goal store \
                 (shoal-agent doctor there)",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use goal_state::{Halted, HostPhase, Trouble};

    use super::*;
    use crate::rollout::tests::{NOW_MS, build, goal, row};

    fn goals(goals: Vec<Goal>) -> GoalList {
        GoalList { goals, damaged: vec![] }
    }

    fn fresh() -> HostStatus {
        row("h1", 5, 2, HostPhase::Running)
    }

    fn check(list: &GoalList, row: &HostStatus, nodes: usize, parts: &[&str]) -> Answer {
        let answer = answer(NOW_MS, list, row, nodes);
        let text = text(&answer);
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        let said: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
        let unique: BTreeSet<&&str> = said.iter().collect();
        assert_eq!(said.len(), unique.len(), "twice in\n{text}");
        answer
    }

    #[test]
    fn host_at_the_goal_of_the_store_is_said_to_be() {
        let answer = check(&goals(vec![goal("web", 5, 2)]), &fresh(), 1, &["is at its goal"]);
        assert!(answer.is_at_goal && answer.reasons.is_empty(), "{answer}");
    }

    #[test]
    fn goal_of_the_store_is_compared_with_that_of_the_host() {
        let newer = goals(vec![goal("web", 6, 3)]);
        let behind = check(&newer, &fresh(), 1, &["has not heard of goal 6", "generation 5"]);
        assert!(!behind.is_at_goal, "{behind}");
        let ahead = ["ahead of the store", "generation 5, the store has 1", "shoal deploy web"];
        assert!(!check(&goals(vec![goal("web", 1, 2)]), &fresh(), 1, &ahead).is_at_goal);
        assert!(
            !check(&goals(vec![goal("web", 5, 3)]), &fresh(), 1, &["another build"]).is_at_goal
        );
        assert!(!check(&goals(vec![]), &fresh(), 1, &["no goal for web any more"]).is_at_goal);
        // The host's own reason stands alone.
        let full = Trouble::new(TroubleKind::GoalUnstored, "cannot store the new goal");
        let full = fresh().with_troubles(&[full]);
        let parts = ["generation 6", "cannot store the new goal", "free space"];
        let answer = check(&newer, &full, 1, &parts);
        assert_eq!((answer.reasons.len(), answer.is_at_goal), (1, false), "{answer}");
    }

    #[test]
    fn halted_rollout_is_told_to_whom_it_concerns() {
        let mut halted = goal("web", 5, 2);
        halted.rollout.halted = Some(Halted::new(NOW_MS, "seeder", "exit code 3 on 2 hosts"));
        let list = goals(vec![halted]);
        assert!(check(&list, &fresh(), 1, &[]).reasons.is_empty(), "it is there");
        let waits = HostStatus { current: Some(build(1)), ..row("h1", 5, 2, HostPhase::Waiting) };
        check(&list, &waits, 1, &["halted: exit code 3 on 2 hosts", "--resume or --abort"]);
    }

    #[test]
    fn silence_clock_and_namesakes_are_told() {
        let list = goals(vec![goal("web", 5, 2)]);
        let silent = HostStatus { updated_at_ms: NOW_MS - 300_000, ..fresh() };
        let answer = check(&list, &silent, 1, &["is absent", "5m ago", "shoal-agent status"]);
        assert!(!answer.is_at_goal, "{answer}");
        let heard = HostStatus { received_at_ms: NOW_MS - 1_000, ..silent };
        let answer = check(&list, &heard, 1, &["clock of the host is 4m 59s behind"]);
        assert!(answer.is_at_goal, "{answer}");
        // The host was told so by its seeder.
        let mut told = heard.clone();
        let note = "this host's clock is 5 min behind the seeder's; set it, or run NTP";
        told.add_trouble(Trouble::new(TroubleKind::Agent, note));
        let text = check(&list, &told, 1, &["5 min behind", "set the clock"]).to_string();
        assert_eq!(
            text.matches("clock is").count() + text.matches("clock of the host is").count(),
            1,
            "{text}"
        );
        let twin = HostStatus { node: Some("12D3KooW".into()), ..fresh() };
        check(&list, &twin, 2, &["2 nodes report as h1", "12D3KooW", "name of its own"]);
    }

    /// Goal: whoever asks why a host failed reads its own cause first, and once.
    #[test]
    fn host_on_which_the_build_failed_tells_its_own_cause_and_then_the_halt() {
        let mut halted = goal("web", 5, 2);
        let cause = "the build failed on 2 of 9 hosts: exit code 3 (h1, h2)";
        let halt = Halted { failed: 2, hosts: 9, ..Halted::new(NOW_MS, "shoal-seeder", cause) };
        halted.rollout.halted = Some(halt);
        let list = goals(vec![halted]);
        let quarantine = Trouble::new(TroubleKind::Quarantine, "it failed here: exit code 3");
        let failed = HostStatus {
            current: Some(build(1)),
            quarantined: Some(build(2)),
            ..row("h1", 5, 2, HostPhase::RolledBack)
        };
        let failed = failed.with_troubles(&[quarantine]);
        let answer = check(&list, &failed, 1, &["halted: the build failed on 2 of 9 hosts"]);
        let kinds: Vec<_> = answer.reasons.iter().map(|reason| reason.kind).collect();
        assert_eq!(kinds, [Some(TroubleKind::Quarantine), Some(TroubleKind::Halt)], "{answer}");
        assert_eq!(answer.to_string().matches("exit code 3").count(), 1, "{answer}");
    }

    #[test]
    fn unknown_names_are_refused_with_those_that_there_are() {
        use clap::Parser as _;
        #[derive(Debug, clap::Parser)]
        struct Wrapped {
            #[command(flatten)]
            args: Args,
        }
        let ask = |app: &str, host: &str| {
            let words = ["explain", app, host, "--goal", "file:///g"];
            let args = Wrapped::parse_from(words).args;
            let rows: Vec<HostStatus> = (1..=12)
                .map(|number| row(&format!("h{number}"), 5, 2, HostPhase::Running))
                .collect();
            let list = goals(vec![goal("web", 5, 2), goal("api", 1, 1)]);
            rows_of(&args, &rows, &list).map(|rows| rows.len()).map_err(|error| error.to_string())
        };
        assert_eq!(ask("web", "h12"), Ok(1));
        let app = ask("wbe", "h1").unwrap_err();
        assert!(app.contains("the goal store has api, web"), "{app}");
        let host = ask("web", "h13").unwrap_err();
        assert!(
            host.contains("no host h13") && host.contains("h1, h10") && host.contains("and 2 more"),
            "{host}"
        );
        let none = ask("api", "h1").unwrap_err();
        assert!(none.contains("those that do: none"), "{none}");
    }
}
