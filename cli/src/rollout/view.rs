//! What `shoal rollout APP` shows: who is to switch to the goal, and how far they are.
//!
//! Pure: a goal and a survey in, text or a document out.

use std::collections::BTreeMap;

use goal_state::{AppName, Goal, Rollout as Wanted, WaitReason};
use p2p_core::BuildId;
use serde::Serialize;

use crate::output::human;
use crate::rollout::{Rollout, args};

/// Hosts that are named with what went wrong; `shoal status` has them all.
const NAMED_MAX: usize = 5;

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    app: &'a AppName,
    build: BuildId,
    generation: u64,
    /// The generation that made the build the goal.
    since: u64,
    rollout: &'a Wanted,
    /// Hosts that reported, stopped and silent ones left out.
    hosts: usize,
    /// Hosts that may switch: all but those that wait.
    hosts_in: usize,
    /// Hosts that run the build.
    hosts_done: usize,
    /// Hosts on their way, those that wait for a token too.
    hosts_underway: usize,
    /// Hosts that are not to switch yet, by what they wait for.
    hosts_waiting: BTreeMap<WaitReason, usize>,
    hosts_failed: usize,
    hosts_rolled_back: usize,
    /// Stopped or silent.
    hosts_absent: usize,
}

/// The document for scripts.
pub(crate) fn document<'a>(goal: &'a Goal, hosts: &Rollout) -> Document<'a> {
    let mut hosts_waiting = BTreeMap::new();
    for (_, reason) in &hosts.waiting {
        *hosts_waiting.entry(*reason).or_insert(0) += 1;
    }
    Document {
        app: &goal.app,
        build: goal.build,
        generation: goal.generation,
        since: goal.rollout.since_of(goal.generation),
        rollout: &goal.rollout,
        hosts: hosts.expected() + hosts.waiting.len(),
        hosts_in: hosts.expected(),
        hosts_done: hosts.on_goal.len(),
        hosts_underway: hosts.underway.len() + hosts.superseded.len(),
        hosts_waiting,
        hosts_failed: hosts.failed.len(),
        hosts_rolled_back: hosts.rolled_back.len(),
        hosts_absent: hosts.absent.len(),
    }
}

/// The text for people: the rollout, the counts, and what went wrong. Ends with a line break.
pub(crate) fn text(goal: &Goal, hosts: &Rollout) -> String {
    let Document { hosts: all, hosts_in, hosts_done, hosts_underway, hosts_waiting, .. } =
        document(goal, hosts);
    let who = args::describe(goal).unwrap_or_else(|| "every host at once".to_owned());
    let Goal { app, generation, build, .. } = goal;
    let mut counts = vec![
        format!("{hosts_in} of {} in", human::counted(all, "host")),
        format!("{hosts_done} done"),
        format!("{hosts_underway} on the way"),
        format!("{} failed", hosts.failed.len()),
        format!("{} rolled back", hosts.rolled_back.len()),
    ];
    for (reason, count) in hosts_waiting {
        counts.push(format!("{count} waiting ({reason})"));
    }
    if !hosts.absent.is_empty() {
        counts.push(format!("{} silent or stopped", hosts.absent.len()));
    }
    let mut lines = vec![
        format!("{app}: goal {generation} is build {}: {who}", build.short()),
        counts.join(", "),
    ];
    let troubled: Vec<_> = hosts.rolled_back.iter().chain(&hosts.failed).collect();
    for (host, message) in troubled.iter().take(NAMED_MAX) {
        lines.push(format!("{}: {}", human::printable(host), human::printable(message)));
    }
    if troubled.len() > NAMED_MAX {
        let more = troubled.len() - NAMED_MAX;
        lines.push(format!("and {more} more; see: shoal status {app}"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::tests::{build, goal};

    fn hosts() -> Rollout {
        let names = |count: usize| (0..count).map(|number| format!("h{number}")).collect();
        let waiting = [WaitReason::Wave, WaitReason::Hold, WaitReason::Wave];
        Rollout {
            on_goal: names(4),
            underway: names(2),
            waiting: waiting.iter().map(|reason| ("w".to_owned(), *reason)).collect(),
            rolled_back: vec![("bad".into(), "exits\n at once".into())],
            absent: names(1),
            ..Rollout::default()
        }
    }

    #[test]
    fn people_see_who_is_in_and_what_went_wrong() {
        let wanted = Wanted {
            percent: 25,
            max_unavailable: "2".parse().unwrap(),
            since: 2,
            ..Wanted::default()
        };
        let goal = Goal { rollout: wanted, ..goal("web", 3, 2) };
        let expected = format!(
            "web: goal 3 is build {}: 25 percent of the hosts, at most 2 of a group at once\n\
             7 of 10 hosts in, 4 done, 2 on the way, 0 failed, 1 rolled back, 2 waiting (wave), 1 waiting (hold), 1 silent or stopped\n\
             bad: exits  at once\n",
            build(2).short()
        );
        assert_eq!(text(&goal, &hosts()), expected);
        let json = serde_json::to_value(document(&goal, &hosts())).unwrap();
        assert_eq!((json["since"].as_u64(), json["hosts_in"].as_u64()), (Some(2), Some(7)));
        assert_eq!(json["hosts_waiting"], serde_json::json!({ "wave": 2, "hold": 1 }));
        assert_eq!(json["rollout"]["percent"], 25);
    }

    #[test]
    fn long_lists_are_cut() {
        let failed = (0..9).map(|number| (format!("h{number}"), "no".into())).collect();
        let hosts = Rollout { failed, ..Rollout::default() };
        let text = text(&goal("web", 2, 2), &hosts);
        assert!(text.contains(": every host at once\n"), "{text}");
        assert!(text.ends_with("h4: no\nand 4 more; see: shoal status web\n"), "{text}");
    }
}
