//! `shoal history`: which goals an app had, who set them and why, and what came of them.
//!
//! Reads the goal store. Owns how a person names an earlier goal ([`find`]); where a rollback goes
//! by itself is decided in `goal_state`.

use std::collections::BTreeSet;

use anyhow::Context as _;
use goal_state::{
    AppName, Goal, GoalStore, Halted, HostStatus, Origin, Outcome as Reached, PastGoal, moment,
    now_ms, outcome,
};
use p2p_core::BuildId;
use serde::Serialize;

use crate::output::grid::{Layout, grid};
use crate::output::{self, Outcome, human};
use crate::rollout::commands::GoalArgs;
use crate::rollout::order::goal_of;
use crate::runtime::{block_on, read_inventory};

/// Fewest digits that name a build: fewer would often fit several.
const PREFIX_DIGITS_MIN: usize = 6;

/// Most characters of a reason in the table; `--json` has all of it.
const REASON_CHARS_MAX: usize = 60;

const HEADER: [&str; 7] = ["goal", "set", "build", "version", "by", "outcome", "comment"];

/// Arguments of `shoal history`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The app
    app: AppName,
    #[command(flatten)]
    goal: GoalArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    app: &'a AppName,
    /// Newest first; the first is the goal.
    goals: Vec<Entry<'a>>,
    /// The generation that a rollback would go back to now.
    rollback_goes_to: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    generation: u64,
    set_at_ms: u64,
    build: BuildId,
    origin: &'a Origin,
    /// Who last widened, restarted, halted or resumed it, and why; of the goal only.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<&'a Origin>,
    outcome: Option<Reached>,
    is_partial: bool,
    is_rolled_back: bool,
    halted: Option<&'a Halted>,
}

/// Prints the history of an app.
///
/// # Errors
///
/// If there is no goal, or the goal store cannot be read.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    block_on(async {
        let store = GoalStore::new(&args.goal.url);
        let goal = goal_of(&store, &args.app).await?;
        let rows = read_inventory(&store).await?;
        let entries = entries(&goal, outcome(now_ms(), &goal, &rows));
        let next = goal.rollback_target(goal_state::RollbackTarget::LastGood);
        if args.json {
            let rollback_goes_to = next.map(|past| past.generation);
            output::json(&Document { app: &goal.app, goals: entries, rollback_goes_to })?;
        } else {
            output::raw(&text(&entries, Layout::of_output()))?;
            output::line(&match next {
                Some(past) => {
                    format!(
                        "a rollback goes to build {} of goal {}",
                        past.build.short(),
                        past.generation
                    )
                }
                None => "no earlier build is good, so a rollback needs --to".to_owned(),
            })?;
        }
        Ok(Outcome::Done)
    })
}

fn entries(goal: &Goal, reached: Reached) -> Vec<Entry<'_>> {
    let now = Entry {
        generation: goal.generation,
        set_at_ms: goal.set_at_ms,
        build: goal.build,
        origin: &goal.origin,
        changed: (goal.changed != Origin::default()).then_some(&goal.changed),
        outcome: Some(reached),
        is_partial: false,
        is_rolled_back: false,
        halted: goal.rollout.halted.as_ref(),
    };
    let past = goal.history.iter().map(|past| Entry {
        generation: past.generation,
        set_at_ms: past.set_at_ms,
        build: past.build,
        origin: &past.origin,
        changed: None,
        outcome: past.outcome,
        is_partial: past.partial,
        is_rolled_back: past.rolled_back,
        halted: past.halted.as_ref(),
    });
    std::iter::once(now).chain(past).collect()
}

fn text(entries: &[Entry<'_>], layout: Layout) -> String {
    let cells: Vec<_> = entries.iter().map(cells).collect();
    grid(&HEADER, &cells, layout)
}

fn cells(entry: &Entry<'_>) -> [String; HEADER.len()] {
    let text =
        |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), human::printable);
    let Origin { author, comment, version } = entry.origin;
    [
        entry.generation.to_string(),
        moment(entry.set_at_ms),
        entry.build.short(),
        text(version),
        text(author),
        state(entry),
        text(comment),
    ]
}

/// What came of a goal.
fn state(entry: &Entry<'_>) -> String {
    let mut parts = vec![];
    parts.extend(entry.outcome.map(outcome_text));
    if let Some(halted) = entry.halted {
        parts.push(format!("halted: {}", human::shortened(&halted.reason, REASON_CHARS_MAX)));
    }
    if entry.is_rolled_back {
        parts.push("left by a rollback".to_owned());
    }
    if entry.is_partial {
        parts.push("for some of the hosts".to_owned());
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join("; ") }
}

/// The goals between this one and the one that a rollback goes back to, with why it passes them.
pub(crate) fn skipped(goal: &Goal, target: &PastGoal) -> Vec<String> {
    let passed = goal.history.iter().take_while(|past| past.generation != target.generation);
    let others = passed.filter(|past| past.build != goal.build && past.build != target.build);
    let one = |past: &PastGoal| {
        let why = if past.rolled_back {
            "a rollback left it".to_owned()
        } else if past.partial {
            "it was for some of the hosts".to_owned()
        } else if let Some(halted) = &past.halted {
            format!("its rollout halted: {}", human::printable(&halted.reason))
        } else {
            past.outcome.map_or_else(|| "it was passed by".to_owned(), outcome_text)
        };
        format!("passes build {} of goal {}: {why}", past.build.short(), past.generation)
    };
    others.map(one).collect()
}

/// The hosts on which `build` failed and that do not try it again by themselves.
pub(crate) fn gave_up<'a>(
    app: &AppName,
    build: BuildId,
    rows: &'a [HostStatus],
) -> BTreeSet<&'a str> {
    let gave_up = |row: &&HostStatus| row.app == *app && row.quarantined == Some(build);
    rows.iter().filter(gave_up).map(|row| row.host.as_str()).collect()
}

/// What is known of a build that is about to be deployed where `goal` is: that it failed before,
/// and that the deploy ends a halt that a person ordered.
pub(crate) fn known_of(goal: &Goal, build: BuildId, rows: &[HostStatus]) -> Vec<String> {
    let mut known = vec![];
    let hosts = gave_up(&goal.app, build, rows);
    let past = goal.history.iter().find(|past| past.build == build && goal.is_bad(past));
    if !hosts.is_empty() {
        let count = human::counted(hosts.len(), "host");
        known.push(format!(
            "warning: build {} failed on {count} and is tried there again",
            build.short()
        ));
    } else if let Some(past) = past {
        known.push(format!(
            "warning: build {} was bad as goal {}; see: shoal history {}",
            build.short(),
            past.generation,
            goal.app
        ));
    }
    if let Some(halted) = goal.rollout.halted.as_ref().filter(|halted| !halted.by_rule) {
        known.push(format!(
            "warning: this ends the halt by {}: {}",
            human::printable(&halted.by),
            human::printable(&halted.reason)
        ));
    }
    known
}

/// Such as "998 of 1000 good, 2 failed".
pub(crate) fn outcome_text(outcome: Reached) -> String {
    let Reached { good, failed, hosts, .. } = outcome;
    let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!("{good} of {hosts} good{failures}")
}

/// The past goal that `text` names: by generation, by build (all digits or the first ones) or by
/// version.
///
/// # Errors
///
/// If nothing or more than one build fits; the message names what there is.
pub(crate) fn find<'a>(goal: &'a Goal, text: &str) -> anyhow::Result<&'a PastGoal> {
    let app = &goal.app;
    if let Some(past) = goal.history.iter().find(|past| past.generation.to_string() == text) {
        return Ok(past);
    }
    let is_prefix = text.len() >= PREFIX_DIGITS_MIN;
    let fits = |past: &&PastGoal| {
        (is_prefix && past.build.to_string().starts_with(text))
            || past.origin.version.as_deref() == Some(text)
    };
    let mut found = goal.history.iter().filter(fits);
    let first = found.next().with_context(|| {
        let known: Vec<String> =
            goal.history.iter().map(|past| past.generation.to_string()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!(
            "no earlier goal of {app} has the generation, version or build {text}; its generations \
             are {known}; see: shoal history {app}, or take a new build with: shoal deploy {app} \
             BUILD"
        )
    })?;
    if let Some(other) = found.find(|past| past.build != first.build) {
        anyhow::bail!(
            "{text} fits build {} of goal {} and build {} of goal {}; name the generation",
            first.build.short(),
            first.generation,
            other.build.short(),
            other.generation
        );
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::tests::{build, goal};

    fn with_history() -> Goal {
        let past = |generation: u64, number: u8, version: &str| -> PastGoal {
            serde_json::from_value(serde_json::json!({
                "generation": generation, "build": build(number), "set_at_ms": 0,
                "origin": { "version": version, "author": "ann\u{1b}", "comment": "why" },
                "outcome": { "good": 998, "failed": 2, "hosts": 1000 },
            }))
            .unwrap()
        };
        Goal {
            history: vec![past(4, 3, "2.1"), past(3, 2, "2.0"), past(2, 3, "2.1")],
            ..goal("web", 5, 4)
        }
    }

    #[test]
    fn goals_are_found_by_generation_build_and_version() {
        let goal = with_history();
        let hex = build(2).to_string();
        for (text, expected) in
            [("3", 3), ("2", 2), (hex.as_str(), 3), (&hex[..8], 3), ("2.0", 3), ("2.1", 4)]
        {
            assert_eq!(find(&goal, text).unwrap().generation, expected, "{text}");
        }
        for text in ["", "9", &hex[..5], "2", "1.9"].iter().filter(|text| **text != "2") {
            let error = find(&goal, text).unwrap_err().to_string();
            assert!(error.contains("its generations are 4, 3, 2"), "{error}");
        }
        let mut twice = goal;
        twice.history[1].origin.version = Some("2.1".into());
        let error = find(&twice, "2.1").unwrap_err().to_string();
        assert!(error.contains("name the generation"), "{error}");
    }

    #[test]
    fn deploy_warns_of_what_is_known() {
        let mut goal = with_history();
        let (bad, fine) = (goal.history[1].build, goal.history[0].build);
        goal.history[1].halted = Some(Halted::new(0, "x", "exit code 3"));
        assert!(known_of(&goal, fine, &[]).is_empty());
        assert!(known_of(&goal, bad, &[])[0].contains("was bad as goal 3"));
        let row = crate::rollout::tests::row("h1", 4, 2, goal_state::HostPhase::RolledBack);
        let row = HostStatus { quarantined: Some(fine), ..row };
        assert!(known_of(&goal, fine, &[row])[0].contains("failed on 1 host and is tried"));
        goal.rollout.halted = Some(Halted::new(0, "carol", "db migration"));
        assert_eq!(
            known_of(&goal, fine, &[]),
            ["warning: this ends the halt by carol: db migration"]
        );
    }

    #[test]
    fn rollback_names_the_goals_that_it_passes() {
        let mut goal = with_history();
        goal.history[0].halted = Some(Halted::new(0, "x", "exit code 3"));
        let said = skipped(&goal, &goal.history[1]);
        let expected = format!(
            "passes build {} of goal 4: its rollout halted: exit code 3",
            goal.history[0].build.short()
        );
        assert_eq!(said, [expected]);
        assert!(skipped(&goal, &goal.history[0]).is_empty());
    }

    #[test]
    fn history_says_who_why_and_what_came_of_it() {
        let mut goal = with_history();
        goal.history[0].halted = Some(Halted::new(0, "x", "exit code 3"));
        goal.history[1].rolled_back = true;
        goal.history[2].partial = true;
        let text = text(
            &entries(&goal, Reached { good: 1, hosts: 8, ..Reached::default() }),
            Layout::Plain,
        );
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("goal  set"), "{text}");
        assert!(lines[1].contains("1 of 8 good"), "{text}");
        assert!(lines[2].contains("998 of 1000 good, 2 failed; halted: exit code 3"), "{text}");
        assert!(
            lines[2].contains("2.1") && lines[2].contains("ann ") && lines[2].ends_with("why"),
            "{text}"
        );
        assert!(
            lines[3].contains("left by a rollback") && lines[4].contains("some of the hosts"),
            "{text}"
        );
    }
}
