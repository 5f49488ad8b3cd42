//! How far hosts are with a goal, counted from what they reported, and when that halts a rollout.
//!
//! One count for the seeder that halts, the history that remembers, and the operator who looks, so
//! that they never disagree. Pure functions of a goal and rows; whose rows count (the inventory) is
//! decided by whoever calls.

use std::collections::BTreeMap;

use crate::documents::goal::Goal;
use crate::documents::history::Outcome;
use crate::documents::rollout::Halted;
use crate::documents::status::{HostPhase, HostStatus, WaitReason};
use crate::documents::text;
use crate::documents::trouble::TroubleKind;

/// Causes of failure that a halt names; the rest is counted.
const CAUSES_NAMED_MAX: usize = 3;

/// Hosts that a halt names as examples of a cause.
const HOSTS_NAMED_MAX: usize = 3;

/// Most bytes of one cause in a halt.
const CAUSE_BYTES_MAX: usize = 200;

/// Age of a row from which on its host counts as away where something is decided: for a halt, and
/// for how many hosts may be down. Reports come every ten seconds, may wait as long again in a
/// seeder before they reach the goal store, and another seeder reads that twice a minute at least.
pub const ABSENT_AFTER_MS: u64 = 60_000;

/// So many restarts since the switch say that the program does not do its work, whatever it does
/// between them. Fewer may be of the host.
const RESTARTS_MAX: u32 = 3;

/// The cause where a host cannot tell.
const WENT_SILENT: &str = "it switched to the build and was not heard of since";

/// Who halts a rollout on which too many hosts failed, as [`Halted::by`] says it.
pub const HALTED_BY_SEEDER: &str = "shoal-seeder";

/// Hosts on which a build failed for one reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cause {
    /// The reason, as the first of them gave it.
    pub reason: String,
    /// The hosts, by name.
    pub hosts: Vec<String>,
}

/// Whether the host of this row runs the goal's build because of this goal or one that it follows
/// from, and is well.
pub fn is_good(goal: &Goal, row: &HostStatus) -> bool {
    let runs_it = row.phase == HostPhase::Running && row.current == Some(goal.build);
    is_about(goal, row) && runs_it && !is_stuck(goal, row)
}

/// Whether the goal's build failed on the host of this row: it was given up there, its program does
/// not do its work, or nothing was heard of the host since it began to switch. A host that lacks
/// space or cannot reach anybody has not failed.
pub fn has_failed(now_ms: u64, goal: &Goal, row: &HostStatus) -> bool {
    has_given_up(goal, row) || is_stuck(goal, row) || went_silent(now_ms, goal, row)
}

/// Whether the host of this row gave the goal's build up: it failed there when it was tried.
fn has_given_up(goal: &Goal, row: &HostStatus) -> bool {
    is_about(goal, row) && row.quarantined == Some(goal.build)
}

/// Whether the host of this row switched to the goal's build, was not able to go back, or had no
/// reason to, and now its program ends again and again or answers badly. The same phase is that of
/// a host whose disk fails; there the program does its work.
pub fn is_stuck(goal: &Goal, row: &HostStatus) -> bool {
    let is_here = row.current == Some(goal.build) && row.quarantined != Some(goal.build);
    let is_bad = row.phase == HostPhase::Failed && fails_to_serve(row);
    // While it is on trial its own agent judges it.
    let ends = row.phase == HostPhase::Running && ends_again_and_again(row);
    is_about(goal, row) && is_here && (is_bad || ends)
}

/// Whether the program of the row runs for a while only each time it is started.
pub fn ends_again_and_again(row: &HostStatus) -> bool {
    let ended = |kind: &TroubleKind| matches!(kind, TroubleKind::Crash | TroubleKind::RunsAgain);
    row.restarts >= RESTARTS_MAX && row.troubles.iter().any(ended)
}

/// Whether the host of this row went silent while it switched to the goal's build: the build may
/// have taken the machine with it.
pub fn went_silent(now_ms: u64, goal: &Goal, row: &HostStatus) -> bool {
    is_about(goal, row)
        && row.target == Some(goal.build)
        && is_silent_in_switch(now_ms, row)
        && row.quarantined != Some(goal.build)
}

/// Whether nothing was heard of the host since it was in a switch.
pub fn is_silent_in_switch(now_ms: u64, row: &HostStatus) -> bool {
    matches!(row.phase, HostPhase::Switching | HostPhase::Checking) && is_away(now_ms, row)
}

/// Whether the host of this row is away: it stopped, or was not heard of for long.
pub fn is_away(now_ms: u64, row: &HostStatus) -> bool {
    let is_silent = now_ms.saturating_sub(row.heard_at_ms()) > ABSENT_AFTER_MS;
    is_silent || row.phase == HostPhase::Stopped
}

/// Whether the program of this row does not serve, or did not until a moment ago and may end again.
pub fn fails_to_serve(row: &HostStatus) -> bool {
    row.healthy == Some(false) || has_program_trouble(row)
}

fn has_program_trouble(row: &HostStatus) -> bool {
    let is_of_program = |kind: &TroubleKind| {
        matches!(kind, TroubleKind::Crash | TroubleKind::RunsAgain | TroubleKind::Unhealthy)
    };
    row.troubles.iter().any(is_of_program)
}

/// Whether the host may begin to switch to the goal's build by itself. One that was not heard of
/// for long, or that a person keeps as it is, does not count.
fn may_begin(now_ms: u64, goal: &Goal, row: &HostStatus) -> bool {
    let is_kept = matches!(
        row.waiting_for,
        Some(WaitReason::Hold | WaitReason::Pause | WaitReason::Pin | WaitReason::Quarantine)
    );
    let has_it = row.current == Some(goal.build) || row.quarantined == Some(goal.build);
    row.app == goal.app && !is_away(now_ms, row) && !is_kept && !has_it
}

/// Whether the host never had another build that ran well: what becomes of it takes nothing away.
fn is_newcomer(goal: &Goal, row: &HostStatus) -> bool {
    let failed_at_first = row.quarantined == Some(goal.build) && row.phase != HostPhase::RolledBack;
    row.app == goal.app && (row.current.is_none() || failed_at_first)
}

/// Whether newcomers have a say. Where most hosts run the build well it is not the build that fails
/// on a host that was set up later, and that must not keep the next new host from starting.
fn newcomers_count(goal: &Goal, rows: &[HostStatus]) -> bool {
    let count = |counts: &dyn Fn(&&HostStatus) -> bool| rows.iter().filter(counts).count();
    count(&|row| is_newcomer(goal, row)) > count(&|row| is_good(goal, row))
}

/// Whether the host answers to the rollout of this goal: it follows a generation from the one that
/// made the build the goal on.
fn is_about(goal: &Goal, row: &HostStatus) -> bool {
    let since = goal.rollout.since_of(goal.generation);
    row.app == goal.app
        && row.phase != HostPhase::Stopped
        && row.generation.is_some_and(|followed| (since..=goal.generation).contains(&followed))
}

/// How far the goal has come on the hosts of `rows`; rows of other apps are left out.
pub fn outcome(now_ms: u64, goal: &Goal, rows: &[HostStatus]) -> Outcome {
    let count = |counts: &dyn Fn(&HostStatus) -> bool| {
        let rows = rows.iter().filter(|row| row.app == goal.app && counts(row));
        u32::try_from(rows.count()).unwrap_or(u32::MAX)
    };
    let has_newcomers = newcomers_count(goal, rows);
    let counts = |row: &HostStatus| has_newcomers || !is_newcomer(goal, row);
    Outcome {
        good: count(&|row| is_good(goal, row)),
        failed: count(&|row| has_failed(now_ms, goal, row)),
        given_up: count(&|row| has_given_up(goal, row) && counts(row)),
        hosts: count(&|_| true),
    }
}

/// Why the build failed, the most frequent cause first. Causes are the same if they differ in
/// numbers only, such as ports and process ids.
pub fn causes(now_ms: u64, goal: &Goal, rows: &[HostStatus]) -> Vec<Cause> {
    let mut causes: BTreeMap<String, Cause> = BTreeMap::new();
    let has_failed = |row: &&HostStatus| has_failed(now_ms, goal, row);
    let mut failed: Vec<&HostStatus> = rows.iter().filter(has_failed).collect();
    failed.sort_by(|a, b| a.host.cmp(&b.host));
    for row in failed {
        let told = row.failure.as_deref().or(row.message.as_deref());
        let reason = if went_silent(now_ms, goal, row) { Some(WENT_SILENT) } else { told };
        let reason = text::line(reason.unwrap_or("no reason given; see its log"), usize::MAX);
        let cause = causes
            .entry(without_numbers(&reason))
            .or_insert_with(|| Cause { reason, hosts: vec![] });
        cause.hosts.push(row.host.clone());
    }
    let mut causes: Vec<Cause> = causes.into_values().collect();
    causes.sort_by(|a, b| b.hosts.len().cmp(&a.hosts.len()).then_with(|| a.reason.cmp(&b.reason)));
    causes
}

fn without_numbers(reason: &str) -> String {
    let mut shape = String::with_capacity(reason.len());
    for letter in reason.chars() {
        if !letter.is_ascii_digit() {
            shape.push(letter);
        } else if !shape.ends_with('#') {
            shape.push('#');
        }
    }
    shape
}

/// The halt that the reports call for; `None` while too few hosts failed, where the rollout has
/// halted already, or where nobody wants it to halt.
///
/// Once no host is left that may begin to switch, programs that fail are no matter of the rollout
/// any more; builds that were given up are, because they say that the build is bad: but not on a
/// host that was set up later, while most run it well.
pub fn halt_due(now_ms: u64, goal: &Goal, rows: &[HostStatus]) -> Option<Halted> {
    halt_due_to(now_ms, goal, rows, |_| true)
}

/// As [`halt_due`], with only those failed hosts counted of which `is_settled` says that they are
/// no passing matter.
pub fn halt_due_to(
    now_ms: u64,
    goal: &Goal,
    rows: &[HostStatus],
    is_settled: impl Fn(&HostStatus) -> bool,
) -> Option<Halted> {
    if goal.rollout.halted.is_some() {
        return None;
    }
    let hosts = outcome(now_ms, goal, rows).hosts;
    let failures_max = goal.rollout.failures_max(usize::try_from(hosts).unwrap_or(usize::MAX))?;
    let has_newcomers = newcomers_count(goal, rows);
    let has_say = |row: &HostStatus| has_newcomers || !is_newcomer(goal, row);
    let is_under_way = rows.iter().any(|row| may_begin(now_ms, goal, row) && has_say(row));
    let counts = |row: &&HostStatus| {
        has_failed(now_ms, goal, row)
            && (is_under_way || row.quarantined == Some(goal.build) && has_say(row))
            && is_settled(row)
    };
    let rows: Vec<HostStatus> = rows.iter().filter(counts).cloned().collect();
    let failed = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let new = failed.saturating_sub(goal.rollout.tolerated);
    if usize::try_from(new).unwrap_or(usize::MAX) < failures_max {
        return None;
    }
    let reason = reason_of_halt(goal, &causes(now_ms, goal, &rows), failed, hosts);
    let by_rule = true;
    Some(Halted { by_rule, failed, hosts, ..Halted::new(now_ms, HALTED_BY_SEEDER, &reason) })
}

/// Such as "the build failed on 2 of 8 hosts: exit code 3 (h1, h2)".
fn reason_of_halt(goal: &Goal, causes: &[Cause], failed: u32, hosts: u32) -> String {
    // Before the causes: those may be cut.
    let not_reverted = match (goal.rollout.auto_revert, goal.revert_target()) {
        (true, None) if goal.is_rollback() => " (not reverted, it is a rollback itself)",
        (true, None) => " (not reverted, there is no good build to go back to)",
        _ => "",
    };
    let named = causes.iter().take(CAUSES_NAMED_MAX).map(|cause| {
        let examples: Vec<&str> =
            cause.hosts.iter().take(HOSTS_NAMED_MAX).map(String::as_str).collect();
        let more = cause.hosts.len().saturating_sub(HOSTS_NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let reason = text::line(&cause.reason, CAUSE_BYTES_MAX);
        format!("{reason} ({}{more})", examples.join(", "))
    });
    let named = named.collect::<Vec<_>>().join("; ");
    format!("the build failed on {failed} of {hosts} hosts{not_reverted}: {named}")
}

#[cfg(test)]
mod tests {
    use p2p_core::BuildId;

    use super::*;
    use crate::documents::history::ChangeOrder;
    use crate::documents::rollout::RolloutChange;

    fn build(name: char) -> BuildId {
        BuildId::of_manifest(name.to_string().as_bytes())
    }

    fn goal(change: &RolloutChange) -> Goal {
        let order = ChangeOrder::default();
        Goal::first(1, "web".parse().unwrap(), build('A'), &RolloutChange::default(), &order)
            .and_then(|goal| goal.next(2, build('B'), change, &order))
            .unwrap()
    }

    fn row(number: usize, generation: u64, phase: HostPhase, quarantined: bool) -> HostStatus {
        let is_failed = phase == HostPhase::Failed;
        HostStatus {
            generation: Some(generation),
            current: Some(build(if quarantined { 'A' } else { 'B' })),
            phase,
            quarantined: quarantined.then_some(build('B')),
            failure: quarantined.then(|| format!("port {} is taken", 8_000 + number)),
            restarts: u32::from(is_failed),
            troubles: if is_failed { vec![TroubleKind::Crash] } else { vec![] },
            ..HostStatus::new(format!("h{number}"), "web".parse().unwrap())
        }
    }

    fn hosts(failed: usize, all: usize) -> Vec<HostStatus> {
        let phase = |bad| if bad { HostPhase::RolledBack } else { HostPhase::Running };
        (0..all).map(|number| row(number, 2, phase(number < failed), number < failed)).collect()
    }

    #[test]
    fn rollouts_halt_at_the_failures_that_the_table_says() {
        let with = |limit: &str| RolloutChange {
            max_failures: Some(limit.parse().unwrap()),
            ..RolloutChange::default()
        };
        let cases = [
            (RolloutChange::default(), 0, 8, false),
            (RolloutChange::default(), 1, 8, true),
            (RolloutChange::default(), 1, 50, true),
            (RolloutChange::default(), 19, 1_000, false),
            (RolloutChange::default(), 20, 1_000, true),
            (with("3"), 2, 8, false),
            (with("3"), 3, 8, true),
            (with("50%"), 3, 8, false),
            (with("50%"), 4, 8, true),
            (with("none"), 8, 8, false),
        ];
        for (change, failed, all, expected) in cases {
            let halt = halt_due(9, &goal(&change), &hosts(failed, all));
            assert_eq!(halt.is_some(), expected, "{failed} of {all} under {change:?}");
        }
    }

    #[test]
    fn halt_groups_hosts_by_cause_and_is_said_once() {
        let mut goal = goal(&RolloutChange::default());
        let mut rows = hosts(5, 8);
        rows[4].failure = Some("exit code 3".into());
        let halt = halt_due(9, &goal, &rows).unwrap();
        let expected = "the build failed on 5 of 8 hosts: port 8000 is taken (h0, h1, h2 and 1 \
                        more); exit code 3 (h4)";
        assert_eq!((halt.reason.as_str(), halt.failed, halt.hosts), (expected, 5, 8));
        goal.rollout.halted = Some(halt);
        assert_eq!(halt_due(10, &goal, &rows), None);
    }

    #[test]
    fn failures_that_a_resume_accepted_do_not_halt_again() {
        let order = ChangeOrder::default();
        let goal = goal(&RolloutChange::default());
        let halt = halt_due(9, &goal, &hosts(2, 8)).unwrap();
        let halted = goal.halted(10, &halt, &order).unwrap();
        let resumed = halted.resumed(11, 2, &order).unwrap();
        assert_eq!(halt_due(12, &resumed, &hosts(2, 8)), None);
        assert!(halt_due(12, &resumed, &hosts(3, 8)).is_some(), "a new one does");
        let next = resumed.next(13, build('C'), &RolloutChange::default(), &order).unwrap();
        assert_eq!((next.rollout.tolerated, next.rollout.halted), (0, None));
    }

    #[test]
    fn only_the_build_s_failures_in_this_rollout_count() {
        let goal = goal(&RolloutChange::default());
        let stuck = |number| row(number, 2, HostPhase::Failed, false);
        let elsewhere = HostStatus { current: Some(build('A')), ..stuck(1) };
        let earlier = row(2, 1, HostPhase::RolledBack, true);
        let disk = vec![TroubleKind::Disk];
        let disk_full = HostStatus { restarts: 5, troubles: disk, ..stuck(6) };
        let stopped = row(3, 2, HostPhase::Stopped, true);
        let other = HostStatus { app: "db".parse().unwrap(), ..stuck(4) };
        let good = row(5, 2, HostPhase::Running, false);
        let rows = [stuck(0), elsewhere, earlier, stopped, other, good, disk_full];
        assert_eq!(outcome(9, &goal, &rows), Outcome { good: 1, failed: 1, hosts: 6, given_up: 0 });
    }

    /// Goal: what happens to a program days later does not halt a rollout that is over, which would
    /// keep new hosts from starting; and a build that was given up on the last host does.
    #[test]
    fn failing_programs_halt_only_while_hosts_may_still_switch() {
        let goal = goal(&RolloutChange::default());
        let stuck = HostStatus { healthy: Some(false), ..row(0, 2, HostPhase::Failed, false) };
        let done = row(1, 2, HostPhase::Running, false);
        let waiting = |reason| HostStatus {
            current: Some(build('A')),
            waiting_for: Some(reason),
            ..row(2, 2, HostPhase::Waiting, false)
        };
        let is_due = |last: HostStatus| {
            let halt = halt_due(100_000, &goal, &[stuck.clone(), done.clone(), last]);
            halt.is_some()
        };
        let heard = |row| HostStatus { received_at_ms: 99_000, ..row };
        assert!(
            is_due(heard(waiting(WaitReason::Wave))) && is_due(heard(waiting(WaitReason::Token)))
        );
        assert!(!is_due(heard(waiting(WaitReason::Hold))) && !is_due(heard(done.clone())));
        assert!(!is_due(waiting(WaitReason::Wave)), "it was not heard of for long");
        assert!(is_due(row(2, 2, HostPhase::RolledBack, true)), "given up");
    }

    /// Goal: a new host on which the build fails does not halt a rollout that is over, nor take
    /// its good name from a build that the others run; where the build fails on the first hosts
    /// ever, it does.
    #[test]
    fn newcomers_have_a_say_only_where_few_run_the_build_well() {
        let goal = goal(&RolloutChange::default());
        let good = |number| row(number, 2, HostPhase::Running, false);
        let failed = HostStatus { current: None, ..row(8, 2, HostPhase::Failed, true) };
        let arriving = HostStatus {
            current: None,
            received_at_ms: 9,
            ..row(9, 2, HostPhase::Downloading, false)
        };
        let mut rows: Vec<_> = (0..8).map(good).collect();
        rows.extend([failed.clone(), arriving.clone()]);
        assert_eq!(halt_due(9, &goal, &rows), None);
        let expected = Outcome { good: 8, failed: 1, hosts: 10, given_up: 0 };
        assert_eq!(outcome(9, &goal, &rows), expected);
        // While a host that ran something else may still begin, it is the rollout's matter.
        let old = HostStatus { current: Some(build('A')), ..arriving.clone() };
        assert!(halt_due(9, &goal, &[&rows[..], &[old]].concat()).is_some());
        // Nobody runs it well yet.
        assert!(halt_due(9, &goal, &[failed.clone(), arriving]).is_some());
        assert!(halt_due(9, &goal, std::slice::from_ref(&failed)).is_some());
        assert_eq!(outcome(9, &goal, &[failed]).given_up, 1);
    }

    /// Goal: what a program did before, or does while its own agent judges it, is not the build's
    /// failure.
    #[test]
    fn restarts_count_only_of_a_program_that_was_good_and_ended() {
        let goal = goal(&RolloutChange::default());
        let with = |phase, kind| HostStatus {
            restarts: 4,
            troubles: vec![kind],
            ..row(0, 2, phase, false)
        };
        let cases = [
            (HostPhase::Running, TroubleKind::RunsAgain, true),
            (HostPhase::Running, TroubleKind::Unhealthy, false),
            (HostPhase::Checking, TroubleKind::RunsAgain, false),
            (HostPhase::Checking, TroubleKind::Unhealthy, false),
            (HostPhase::Failed, TroubleKind::Unhealthy, true),
        ];
        for (phase, kind, expected) in cases {
            assert_eq!(is_stuck(&goal, &with(phase, kind)), expected, "{phase} {kind}");
        }
    }

    #[test]
    fn halt_says_why_nothing_was_reverted() {
        let reverts = RolloutChange { auto_revert: Some(true), ..RolloutChange::default() };
        let order = ChangeOrder::default();
        let reason = |goal: &Goal, rows: &[HostStatus]| halt_due(9, goal, rows).unwrap().reason;
        let second = goal(&reverts);
        assert!(second.revert_target().is_some());
        assert!(!reason(&second, &hosts(1, 8)).contains("revert"));
        let first = Goal::first(1, "web".parse().unwrap(), build('B'), &reverts, &order).unwrap();
        let of_first: Vec<_> =
            hosts(1, 8).into_iter().map(|row| HostStatus { generation: Some(1), ..row }).collect();
        let expected = "the build failed on 1 of 8 hosts (not reverted, there is no good build to \
                        go back to): port 8000 is taken (h0)";
        assert_eq!(reason(&first, &of_first), expected);
    }
}
