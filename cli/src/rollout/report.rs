//! What is said about a goal that was set, about hosts on their way to it, and about how waiting
//! for them ended: sentences for people and documents for scripts.
//!
//! Pure. Counts are those of [`Survey`], in the same words wherever they are shown; every sentence
//! about an end that is not success names the cause and what to do.

use std::collections::BTreeMap;
use std::time::Duration;

use goal_state::{Cause, Goal, GoalChange, Halted, SwitchTime, WaitReason, causes, moment, now_ms};
use p2p_core::BuildId;
use serde::Serialize;

use crate::output::human;
use crate::rollout::end::{End, Ended};
use crate::rollout::order::GENERATION_MAX;
use crate::rollout::{AbsentHost, FailedHost, Survey, args};

/// Hosts that are named in one line; `shoal status` has them all.
const NAMES_MAX: usize = 5;

/// Causes that are named in one line.
const CAUSES_MAX: usize = 3;

/// What `--json` prints of a goal that was set.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    app: &'a str,
    build: BuildId,
    generation: u64,
    /// The build that was the goal before; `None` if this is the first.
    previous: Option<BuildId>,
    /// How waiting ended; `None` without `--wait`.
    rollout: Option<EndReport<'a>>,
}

/// How waiting ended.
#[derive(Debug, Serialize)]
pub(crate) struct EndReport<'a> {
    end: End,
    seconds: f64,
    on_goal: &'a [String],
    underway: &'a [String],
    waiting: Vec<WaitingHost<'a>>,
    failed: Vec<Failed<'a>>,
    rolled_back: Vec<Failed<'a>>,
    absent: Vec<&'a str>,
    /// Hosts that follow a higher generation than the store has.
    ahead: Vec<&'a str>,
    /// Why the build failed, the most frequent cause first.
    causes: Vec<CauseReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    halted: Option<&'a Halted>,
}

#[derive(Debug, Serialize)]
struct WaitingHost<'a> {
    host: &'a str,
    waits_for: WaitReason,
}

#[derive(Debug, Serialize)]
struct Failed<'a> {
    host: &'a str,
    message: &'a str,
}

/// Hosts that failed for one reason.
#[derive(Debug, Serialize)]
pub(crate) struct CauseReport {
    reason: String,
    hosts: usize,
}

impl From<&Cause> for CauseReport {
    fn from(cause: &Cause) -> Self {
        Self { reason: cause.reason.clone(), hosts: cause.hosts.len() }
    }
}

/// The document about `goal` and, if it was waited for, its end.
pub(crate) fn report<'a>(goal: &'a Goal, ended: Option<&'a Ended>) -> Report<'a> {
    Report {
        app: goal.app.as_str(),
        build: goal.build,
        generation: goal.generation,
        previous: goal.history.first().map(|past| past.build),
        rollout: ended.map(end_report),
    }
}

fn end_report(ended: &Ended) -> EndReport<'_> {
    let Ended { end, took, survey: hosts, goal, rows, .. } = ended;
    let waiting = hosts.waiting.iter();
    EndReport {
        end: *end,
        seconds: took.as_secs_f64(),
        on_goal: &hosts.on_goal,
        underway: &hosts.underway,
        waiting: waiting
            .map(|(host, waits_for)| WaitingHost { host, waits_for: *waits_for })
            .collect(),
        failed: failed(&hosts.failed),
        rolled_back: failed(&hosts.rolled_back),
        absent: hosts.absent.iter().map(|absent| absent.host.as_str()).collect(),
        ahead: hosts.ahead.iter().map(|(host, _)| host.as_str()).collect(),
        causes: causes(now_ms(), goal, rows).iter().map(CauseReport::from).collect(),
        halted: goal.rollout.halted.as_ref(),
    }
}

fn failed(hosts: &[FailedHost]) -> Vec<Failed<'_>> {
    hosts.iter().map(|FailedHost { host, message, .. }| Failed { host, message }).collect()
}

/// What is said once a goal is set.
pub(crate) fn announcement(goal: &Goal) -> String {
    let before = goal.history.first();
    let before = before.map_or_else(
        || "the first goal of this app".to_owned(),
        |past| {
            let before = if goal.is_rollback() { "a rollback from" } else { "before it:" };
            format!("{before} build {}", past.build.short())
        },
    );
    let who = args::describe(goal);
    let Goal { app, generation, .. } = goal;
    format!("{app}: goal {generation} is build {} ({before}); {who}", name(goal))
}

/// What a change did, before the goal that came of it; nothing where that says it.
pub(crate) const fn done(change: &GoalChange) -> &'static str {
    match change {
        GoalChange::Halt { .. } => "halted; ",
        GoalChange::Resume { .. } => "resumed; ",
        _ => "",
    }
}

/// The build and what people call it.
pub(crate) fn name(goal: &Goal) -> String {
    let version = goal.origin.version.as_deref().map(human::printable);
    let version = version.map_or_else(String::new, |version| format!(" ({version})"));
    format!("{}{version}", goal.build.short())
}

/// How far hosts are: the same words in `status`, in `rollout` and while waiting.
pub(crate) fn counts(hosts: &Survey) -> String {
    let mut parts =
        vec![format!("{} of {} run it", hosts.on_goal.len(), human::counted(hosts.all(), "host"))];
    let mut part = |count: usize, what: &str| {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    };
    part(hosts.underway.len() - hosts.queued.len(), "on the way");
    part(hosts.queued.len(), "waiting for their turn");
    let mut waiting: BTreeMap<WaitReason, usize> = BTreeMap::new();
    for (_, reason) in &hosts.waiting {
        *waiting.entry(*reason).or_default() += 1;
    }
    for (reason, count) in waiting {
        part(count, &format!("waiting ({reason})"));
    }
    part(hosts.failed.len(), "failed");
    part(hosts.rolled_back.len(), "rolled back");
    part(hosts.ahead.len(), "ahead of the goal store");
    part(hosts.absent.len(), "absent");
    parts.join(", ")
}

/// How many hosts have the bytes of a build that is not switched to yet, such as
/// "bytes on 998 of 1000 hosts (99.8 %)".
pub(crate) fn readiness(hosts: &Survey) -> String {
    let (with, all) = (hosts.with_bytes, hosts.all());
    let share = human::per_mille(with as u64, all as u64);
    format!("bytes on {with} of {} ({share})", human::counted(all, "host"))
}

/// Absent hosts by name, with since when.
pub(crate) fn absences(now_ms: u64, absent: &[AbsentHost]) -> String {
    let one = |host: &AbsentHost| {
        let age = human::age(Duration::from_millis(now_ms.saturating_sub(host.since_ms)));
        let how = if host.is_stopped { "stopped" } else { "silent for" };
        let ago = if host.is_stopped { " ago" } else { "" };
        format!("{} ({how} {age}{ago})", human::printable(&host.host))
    };
    listed(absent.iter().map(one).collect())
}

/// Why the build failed, grouped: "exit code 3 (2 hosts: h1, h2)".
pub(crate) fn grouped(causes: &[Cause]) -> String {
    let one = |cause: &Cause| {
        let reason = human::printable(&cause.reason);
        match cause.hosts.as_slice() {
            [host] => format!("{}: {reason}", human::printable(host)),
            hosts => format!("same reason on {} hosts ({}): {reason}", hosts.len(), names(hosts)),
        }
    };
    let mut texts: Vec<String> = causes.iter().take(CAUSES_MAX).map(one).collect();
    let more = causes.len().saturating_sub(CAUSES_MAX);
    if more > 0 {
        texts.push(format!("and {more} other causes"));
    }
    texts.join("; ")
}

/// The halt of a goal in a sentence; `None` while it is not halted.
pub(crate) fn halt(goal: &Goal) -> Option<String> {
    let Halted { at_ms, by, reason, .. } = goal.rollout.halted.as_ref()?;
    let app = &goal.app;
    let (by, reason) = (human::printable(by), human::printable(reason));
    let at = moment(*at_ms);
    Some(format!(
        "{app}: halted at {at} by {by}: {reason}; hosts that have not switched do not; go on with: \
         shoal rollout {app} --resume, go back with: shoal rollout {app} --abort"
    ))
}

/// How waiting ended, for a person.
pub(crate) fn conclusion(now_ms: u64, ended: &Ended, is_restart: bool) -> String {
    let Ended { end, survey: hosts, goal, .. } = ended;
    let app = &goal.app;
    let mut parts = vec![match end {
        End::Complete | End::Absent => success(ended, is_restart),
        _ => no_success(ended),
    }];
    let has_all_counts = matches!(
        end,
        End::TimedOut | End::Interrupted | End::Failed | End::Halted | End::Blocked | End::NobodyIn
    );
    let waiting = hosts.waiting.len();
    if waiting > 0 && !has_all_counts && !hosts.on_goal.is_empty() {
        let who =
            if waiting == 1 { "1 host is".to_owned() } else { format!("{waiting} hosts are") };
        parts.push(format!("{who} not to switch yet, see: shoal rollout {app}"));
    }
    if !hosts.absent.is_empty() {
        parts.push(format!("absent: {}", absences(now_ms, &hosts.absent)));
    }
    if *end == End::Absent {
        let advice = "if they do not matter use --absent ok, if they are gone for good: shoal \
                      forget HOST";
        parts.push(advice.to_owned());
    }
    parts.join("; ")
}

fn success(ended: &Ended, is_restart: bool) -> String {
    let Ended { took, survey: hosts, goal, .. } = ended;
    let (app, took) = (&goal.app, human::seconds(*took));
    let (done, all) = (hosts.on_goal.len(), human::counted(hosts.all(), "host"));
    if done == 0 && goal.rollout.switch != SwitchTime::Now {
        format!("{app}: {} after {took}; switch with: shoal switch {app}", readiness(hosts))
    } else if done == 0 {
        format!("{app}: no host is to switch; {} after {took}", readiness(hosts))
    } else {
        let what = if is_restart { "have restarted" } else { "run the build" };
        format!("{app}: {done} of {all} {what} after {took}")
    }
}

fn no_success(ended: &Ended) -> String {
    let Ended { end, took, survey: hosts, goal, other, rows } = ended;
    let (app, took) = (&goal.app, human::seconds(*took));
    let (counts, all) = (counts(hosts), human::counted(hosts.all(), "host"));
    match end {
        End::Reverted => {
            let reason = other.as_ref().and_then(reverted_for).unwrap_or_default();
            let back = other.as_ref().map_or_else(String::new, |other| {
                format!("build {} again as goal {}", name(other), other.generation)
            });
            format!("{app}: after {took} {}; reverted by itself: {back}", human::printable(&reason))
        }
        End::Superseded => {
            let other = other.as_ref().map_or_else(String::new, |other| {
                let by = other.origin.author.as_deref().map(human::printable);
                let by = by.map_or_else(String::new, |by| format!(" by {by}"));
                format!(" (goal {}{by})", other.generation)
            });
            let done = hosts.on_goal.len();
            format!("{app}: another goal was set after {took}{other}; {done} of {all} had this one")
        }
        End::TimedOut if hosts.all() == 0 => format!(
            "{app}: no host reported the app within {took}; start an agent for it, or check --goal"
        ),
        End::Complete | End::Absent | End::TimedOut => format!(
            "{app}: {counts} after {took}, missing: {}; the deploy goes on without this command",
            names(&hosts.underway)
        ),
        End::Interrupted => format!(
            "{app}: interrupted after {took}: {counts}; the deploy goes on without this command"
        ),
        End::Failed => {
            let failures = causes(now_ms(), goal, rows);
            let why = if failures.is_empty() { troubles(hosts) } else { grouped(&failures) };
            format!("{app}: {counts} after {took}; {why}; go back with: shoal rollback {app}")
        }
        End::Halted => {
            format!("{app}: {counts} after {took}\n{}", halt(goal).unwrap_or_default())
        }
        End::StoreBehind => behind(app.as_str(), goal, hosts),
        End::Blocked => format!(
            "{app}: {counts} after {took}, and nobody has a turn: {}; start the seeder or mend the \
             hosts that do not serve (shoal status {app}), forget those that are gone (shoal \
             forget HOST), or allow more with shoal rollout {app} --max-unavailable; the others go \
             on by themselves then",
            human::printable(hosts.blocked().unwrap_or("see shoal status"))
        ),
        End::NoSource => format!(
            "{app}: no host can get build {}: no seeder that they reach has it; check the id, or \
             publish it into a store that a seeder serves: the deploy goes on then by itself",
            goal.build
        ),
        End::NobodyIn => format!(
            "{app}: no host is in: {}, and none of {all} has such a label; check the labels of \
             hosts, or widen it with: shoal rollout {app}",
            args::describe(goal)
        ),
    }
}

/// Why the goal is a rollback that a seeder ordered; `None` if it is not.
pub(crate) fn reverted_for(other: &Goal) -> Option<String> {
    let left = other.history.first().filter(|_| other.is_rollback())?;
    left.halted.as_ref().filter(|halted| halted.by_rule).map(|halted| halted.reason.clone())
}

/// What hosts say that failed for another reason than the build.
fn troubles(hosts: &Survey) -> String {
    let said = hosts.failed.iter().map(|failed| {
        format!("{}: {}", human::printable(&failed.host), human::printable(&failed.message))
    });
    listed(said.collect())
}

fn behind(app: &str, goal: &Goal, hosts: &Survey) -> String {
    let names: Vec<String> = hosts.ahead.iter().map(|(host, _)| host.clone()).collect();
    if let Some(highest) = hosts.highest_ahead().filter(|highest| *highest >= GENERATION_MAX) {
        return format!(
            "{app}: a host claims to follow generation {highest}, which no goal has; look at that \
             host: {}, and forget it: shoal forget HOST",
            self::names(&names)
        );
    }
    let who = match hosts.highest_ahead() {
        Some(highest) => format!(
            "{} follow generation {highest}, the store has {}: {}",
            human::counted(names.len(), "host"),
            goal.generation,
            self::names(&names)
        ),
        None => format!("goal {} is not there any more", goal.generation),
    };
    format!(
        "{app}: the goal store was lost or restored: {who}; hosts never go back to a lower \
         generation; set the goal above theirs with: shoal deploy {app} BUILD"
    )
}

/// Names in a row, those past a few counted.
pub(crate) fn names<T: AsRef<str>>(hosts: impl IntoIterator<Item = T>) -> String {
    listed(hosts.into_iter().map(|host| human::printable(host.as_ref())).collect())
}

fn listed(mut texts: Vec<String>) -> String {
    let more = texts.len().saturating_sub(NAMES_MAX);
    if more > 0 {
        texts.truncate(NAMES_MAX);
        texts.push(format!("and {more} more"));
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use goal_state::{HostPhase, HostStatus, PastGoal};

    use super::*;
    use crate::rollout::tests::{NOW_MS, build, goal, row, survey_now};

    fn hosts(count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("host-{number}")).collect()
    }

    fn ended(end: End, survey: Survey) -> Ended {
        let took = Duration::from_millis(1_500);
        Ended { end, took, survey, goal: goal("web", 2, 2), other: None, rows: vec![] }
    }

    fn said(end: End, survey: &Survey) -> String {
        conclusion(NOW_MS, &ended(end, survey.clone()), false)
    }

    #[test]
    fn announcement_names_what_was_before() {
        let first = goal("web", 1, 1);
        assert!(announcement(&first).contains("(the first goal of this app)"));
        let past = serde_json::json!({ "generation": 1, "build": build(1), "set_at_ms": 0 });
        let past: PastGoal = serde_json::from_value(past).unwrap();
        let mut second = Goal { history: vec![past], ..goal("web", 2, 2) };
        second.origin.version = Some("2.1".into());
        let text = announcement(&second);
        assert!(text.contains(&build(1).short()) && text.contains(" (2.1) (before"), "{text}");
    }

    #[test]
    fn counts_name_every_list_that_has_hosts() {
        let failed = || FailedHost { host: "a".into(), message: "b".into(), is_final: true };
        let hosts = Survey {
            on_goal: hosts(3),
            underway: hosts(2),
            waiting: vec![("a".into(), WaitReason::Wave), ("b".into(), WaitReason::Halt)],
            failed: vec![failed()],
            rolled_back: vec![failed()],
            absent: vec![AbsentHost { host: "x".into(), since_ms: 0, is_stopped: true }],
            ..Survey::default()
        };
        let expected = "3 of 10 hosts run it, 2 on the way, 1 waiting (wave), 1 waiting (halt), 1 \
                        failed, 1 rolled back, 1 absent";
        assert_eq!(counts(&hosts), expected);
        assert_eq!(
            counts(&Survey { on_goal: vec!["a".into()], ..Survey::default() }),
            "1 of 1 host run it"
        );
    }

    #[test]
    fn ends_name_hosts_and_next_step() {
        let gone = |host: &str, is_stopped| AbsentHost {
            host: host.into(),
            since_ms: NOW_MS - 600_000,
            is_stopped,
        };
        let absent = vec![gone("host-8", false), gone("host-9", true)];
        let done = Survey { on_goal: hosts(3), absent, ..Survey::default() };
        let expected = "web: 3 of 5 hosts run the build after 1.5 s; absent: host-8 (silent for 10 \
                        min), host-9 (stopped 10 min ago)";
        assert_eq!(said(End::Complete, &done), expected);
        let text = said(End::Absent, &done);
        assert!(text.starts_with(expected) && text.contains("--absent ok"), "{text}");
        let missing = Survey { underway: hosts(7), ..Survey::default() };
        let text = said(End::TimedOut, &missing);
        assert!(
            text.contains("missing: host-1, host-2, host-3, host-4, host-5, and 2 more"),
            "{text}"
        );
        assert!(text.contains("goes on without this command"), "{text}");
        assert!(said(End::TimedOut, &Survey::default()).contains("no host reported"));
        let waits = Survey {
            waiting: vec![("a".into(), WaitReason::Wave)],
            on_goal: hosts(1),
            ..Survey::default()
        };
        let text = said(End::Complete, &waits);
        assert!(text.contains("; 1 host is not to switch yet, see: shoal rollout web"), "{text}");
        let ahead = Survey { ahead: vec![("h1".into(), 53)], ..Survey::default() };
        let text = said(End::StoreBehind, &ahead);
        assert!(text.contains("1 host follow generation 53, the store has 2: h1"), "{text}");
        assert!(text.contains("lost or restored") && !text.contains("another goal"), "{text}");
    }

    #[test]
    fn revert_says_what_failed_and_where_it_went() {
        let halted = serde_json::json!({
            "at_ms": 0, "by": "shoal-seeder", "by_rule": true,
            "reason": "the build failed on 2 of 8 hosts: exit code 3 (h1, h8)",
        });
        let past: PastGoal = serde_json::from_value(serde_json::json!({
            "generation": 3, "build": build(2), "set_at_ms": 0, "rolled_back": true,
            "halted": halted,
        }))
        .unwrap();
        let other = Goal { history: vec![past], ..goal("web", 4, 1) };
        assert!(reverted_for(&other).is_some() && reverted_for(&goal("web", 4, 1)).is_none());
        let ended = Ended { other: Some(other), ..ended(End::Reverted, Survey::default()) };
        let text = conclusion(NOW_MS, &ended, false);
        let expected = format!(
            "web: after 1.5 s the build failed on 2 of 8 hosts: exit code 3 (h1, h8); reverted by \
             itself: build {} again as goal 4",
            build(1).short()
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn staged_builds_say_on_how_many_hosts_they_are() {
        let waiting = hosts(998).into_iter().map(|host| (host, WaitReason::Stage)).collect();
        let staged = Survey { waiting, with_bytes: 998, underway: hosts(2), ..Survey::default() };
        assert_eq!(readiness(&staged), "bytes on 998 of 1000 hosts (99.8 %)");
        let mut ended = ended(End::Complete, staged);
        ended.goal.rollout.switch = SwitchTime::OnOrder;
        let text = conclusion(NOW_MS, &ended, false);
        assert!(text.ends_with("(99.8 %) after 1.5 s; switch with: shoal switch web"), "{text}");
    }

    #[test]
    fn failures_are_grouped_by_cause() {
        let rows: Vec<HostStatus> = (1..=3)
            .map(|number| HostStatus {
                current: Some(build(1)),
                quarantined: Some(build(2)),
                failure: Some(format!("port 808{number} is taken\n")),
                ..row(&format!("h{number}"), 2, 2, HostPhase::RolledBack)
            })
            .collect();
        let survey = survey_now(&goal("web", 2, 2), &rows);
        let mut ended = Ended { rows, ..ended(End::Failed, survey) };
        let text = conclusion(NOW_MS, &ended, false);
        assert!(
            text.contains("same reason on 3 hosts (h1, h2, h3): port 8081 is taken;"),
            "{text}"
        );
        ended.end = End::Halted;
        ended.goal.rollout.halted = Some(Halted::new(NOW_MS, "shoal-seeder", "3 failed"));
        let text = conclusion(NOW_MS, &ended, false);
        assert!(
            text.contains("by shoal-seeder: 3 failed; hosts that have not switched do not"),
            "{text}"
        );
        let json = serde_json::to_value(report(&ended.goal, Some(&ended))).unwrap();
        assert_eq!(json["rollout"]["causes"][0]["hosts"], 3);
        assert_eq!(json["rollout"]["halted"]["reason"], "3 failed");
    }
}
