//! What `shoal rollout APP` shows: who is to switch to the goal, and how far they are.
//!
//! Pure: a goal and a survey in, text or a document out.

use std::collections::BTreeMap;

use goal_state::{AppName, Cause, Goal, Rollout as Wanted, SwitchTime, WaitReason};
use p2p_core::BuildId;
use serde::Serialize;

use crate::output::human;
use crate::rollout::report::{self, CauseReport};
use crate::rollout::{FailedHost, Survey, args};

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
    /// All hosts of the app; each is in one of the numbers below but `hosts_in`.
    hosts: usize,
    /// Hosts that may switch: those that neither wait nor are absent.
    hosts_in: usize,
    /// Hosts that run the build.
    hosts_done: usize,
    /// Hosts on their way, those that wait for a token too.
    hosts_underway: usize,
    /// Hosts that are not to switch yet, by what they wait for.
    hosts_waiting: BTreeMap<WaitReason, usize>,
    hosts_failed: usize,
    hosts_rolled_back: usize,
    /// Hosts that follow a higher generation than the goal store has.
    hosts_ahead: usize,
    /// Stopped or silent.
    hosts_absent: usize,
    /// Hosts that have every byte of the build.
    hosts_with_bytes: usize,
    /// Why the build failed, the most frequent cause first.
    causes: Vec<CauseReport>,
}

/// The document for scripts.
pub(crate) fn document<'a>(goal: &'a Goal, hosts: &Survey, causes: &[Cause]) -> Document<'a> {
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
        hosts: hosts.all(),
        hosts_in: hosts.expected(),
        hosts_done: hosts.on_goal.len(),
        hosts_underway: hosts.underway.len(),
        hosts_waiting,
        hosts_failed: hosts.failed.len(),
        hosts_rolled_back: hosts.rolled_back.len(),
        hosts_ahead: hosts.ahead.len(),
        hosts_absent: hosts.absent.len(),
        hosts_with_bytes: hosts.with_bytes,
        causes: causes.iter().map(CauseReport::from).collect(),
    }
}

/// The text for people: the rollout, the counts, and what went wrong. Ends with a line break.
pub(crate) fn text(now_ms: u64, goal: &Goal, hosts: &Survey, causes: &[Cause]) -> String {
    let who = args::describe(goal);
    let Goal { app, generation, .. } = goal;
    let mut lines = vec![
        format!("{app}: goal {generation} is build {}: {who}", report::name(goal)),
        format!(
            "{} of {} in, {}",
            hosts.expected(),
            human::counted(hosts.all(), "host"),
            report::counts(hosts)
        ),
    ];
    lines.extend(report::halt(goal));
    if let Some(who) = &goal.changed.author {
        let why = goal.changed.comment.as_deref().map(human::printable);
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        lines.push(format!("last changed by {}{why}", human::printable(who)));
    }
    if goal.rollout.switch != SwitchTime::Now {
        lines.push(format!("staged: {}", report::readiness(hosts)));
    }
    if !causes.is_empty() {
        lines.push(report::grouped(causes));
    }
    // What the build is to blame for is said above, by cause.
    let others = hosts.rolled_back.iter().chain(&hosts.failed).filter(|failed| !failed.is_final);
    let others: Vec<&FailedHost> = others.collect();
    for FailedHost { host, message, .. } in others.iter().take(NAMED_MAX) {
        lines.push(format!("{}: {}", human::printable(host), human::printable(message)));
    }
    if others.len() > NAMED_MAX {
        let more = others.len() - NAMED_MAX;
        lines.push(format!("and {more} more; see: shoal status {app}"));
    }
    if let Some(reason) = hosts.blocked() {
        lines.push(format!("nobody has a turn: {}", human::printable(reason)));
    }
    if !hosts.absent.is_empty() {
        lines.push(format!("absent: {}", report::absences(now_ms, &hosts.absent)));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::AbsentHost;
    use crate::rollout::tests::{NOW_MS, build, goal};

    fn hosts() -> Survey {
        let names = |count: usize| (0..count).map(|number| format!("h{number}")).collect();
        let waiting = [WaitReason::Wave, WaitReason::Hold, WaitReason::Wave];
        let failed = |is_final| FailedHost {
            host: "bad".into(),
            message: "exits\n at once".into(),
            is_final,
        };
        let gone = AbsentHost { host: "x".into(), since_ms: NOW_MS - 60_000, is_stopped: true };
        Survey {
            on_goal: names(4),
            underway: names(2),
            waiting: waiting.iter().map(|reason| ("w".to_owned(), *reason)).collect(),
            failed: vec![failed(false)],
            rolled_back: vec![failed(true)],
            absent: vec![gone],
            with_bytes: 9,
            ..Survey::default()
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
        let causes =
            [Cause { reason: "exits\n at once".into(), hosts: vec!["a".into(), "b".into()] }];
        let expected = format!(
            "web: goal 3 is build {}: 25 percent of the hosts, at most 2 of a group at once\n\
             8 of 12 hosts in, 4 of 12 hosts run it, 2 on the way, 2 waiting (wave), 1 waiting (hold), 1 failed, 1 rolled back, 1 absent\n\
             same reason on 2 hosts (a, b): exits  at once\n\
             bad: exits  at once\n\
             absent: x (stopped 60 s ago)\n",
            build(2).short()
        );
        assert_eq!(text(NOW_MS, &goal, &hosts(), &causes), expected);
        let json = serde_json::to_value(document(&goal, &hosts(), &causes)).unwrap();
        assert_eq!((json["since"].as_u64(), json["hosts_in"].as_u64()), (Some(2), Some(8)));
        assert_eq!(json["hosts_waiting"], serde_json::json!({ "wave": 2, "hold": 1 }));
        assert_eq!(json["rollout"]["percent"], 25);
        assert_eq!(json["causes"][0]["hosts"], 2);
    }

    #[test]
    fn long_lists_are_cut() {
        let failed = |number| FailedHost {
            host: format!("h{number}"),
            message: "no".into(),
            is_final: false,
        };
        let hosts = Survey { failed: (0..9).map(failed).collect(), ..Survey::default() };
        let text = text(NOW_MS, &goal("web", 2, 2), &hosts, &[]);
        assert!(text.contains(": every host, at most 25% of a group at once\n"), "{text}");
        assert!(text.ends_with("h4: no\nand 4 more; see: shoal status web\n"), "{text}");
    }
}
