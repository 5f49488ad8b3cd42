//! `--wait`: follows one rollout to its end and says what changes meanwhile.
//!
//! Only watches, with one exception: a rollout that should have halted and that no seeder halts is
//! halted here, because a bad build must not go on for want of a seeder that knows the goal store.
//! A goal store that fails is asked again until the time is up, because the deploy goes on without
//! this command. What the end means to a person is in [`report`](crate::rollout::report).

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use anyhow::Context as _;
use goal_state::{
    ChangeOrder, Goal, GoalChange, GoalStore, Halted, HostStatus, TroubleKind, WaitReason,
    halt_due, now_ms,
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::output::{self, human};
use crate::rollout::end::{End, Ended};
use crate::rollout::report::{counts, reverted_for};
use crate::rollout::{Survey, survey};
use crate::runtime::{catch_signals, read_inventory};

/// How often hosts' reports are read. They arrive every second or two.
const POLL: Duration = Duration::from_secs(1);

/// How long a seeder has to halt a rollout before this command does. It waits 20 s itself before a
/// program that fails counts, and may meet a slow store.
const HALT_PATIENCE: Duration = Duration::from_secs(30);

/// How long hosts may be on their way in a halted rollout before they are not waited for.
const HALTED_PATIENCE: Duration = Duration::from_mins(1);

/// How long trouble that is not the build's may last when nothing else is under way. Hosts go on
/// trying; a full disk or a store that is down is often mended by then.
const TROUBLE_PATIENCE: Duration = Duration::from_secs(30);

/// How long all hosts must say that nobody has the build: a seeder takes a moment to notice one
/// that was just published.
const NO_SOURCE_PATIENCE: Duration = Duration::from_secs(10);

/// How long every host must wait for its turn. Longer than a place is kept for a host that may be
/// gone, and than hosts take to report again after a seeder was away.
const BLOCKED_PATIENCE: Duration = Duration::from_secs(90);

/// How long the goal store must be behind the hosts: reports may be of a moment ago.
const BEHIND_PATIENCE: Duration = Duration::from_secs(2);

/// Follows one goal.
pub(crate) struct Waiter<'a> {
    store: &'a GoalStore,
    goal: Goal,
    is_absent_ok: bool,
    deadline: Instant,
    lines: Lines,
    since: Since,
}

/// Since when something has been so without a break.
#[derive(Debug, Default)]
struct Since {
    halt_due: Option<Instant>,
    halted: Option<Instant>,
    trouble: Option<Instant>,
    no_source: Option<Instant>,
    blocked: Option<Instant>,
    behind: Option<Instant>,
}

/// What one look at the store shows.
struct Seen {
    survey: Survey,
    rows: Vec<HostStatus>,
    /// The goal there now.
    goal: Option<Goal>,
}

/// What is so in a look, and for how long: all that decides whether waiting ends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, named where it is set"
)]
struct Facts {
    is_superseded: bool,
    is_behind: bool,
    is_halted: bool,
    is_halted_for_long: bool,
    is_in_trouble_for_long: bool,
    has_no_source: bool,
    is_blocked_for_long: bool,
    is_absent_ok: bool,
    names_labels: bool,
}

impl<'a> Waiter<'a> {
    /// Follows `goal` in `store` for at most `timeout`.
    pub(crate) fn new(
        store: &'a GoalStore,
        goal: Goal,
        timeout: Duration,
        is_absent_ok: bool,
    ) -> Self {
        let lines = Lines::new(&goal);
        let deadline = Instant::now() + timeout;
        Self { store, goal, is_absent_ok, deadline, lines, since: Since::default() }
    }

    /// Waits for the end. A signal ends the waiting, not the rollout.
    ///
    /// # Errors
    ///
    /// If signals cannot be caught.
    pub(crate) async fn wait(mut self) -> anyhow::Result<Ended> {
        let started = Instant::now();
        let mut signals = catch_signals()?;
        let (end, seen) = tokio::select! {
            biased;
            _ = signals.next() => (End::Interrupted, None),
            ended = self.watch() => ended,
        };
        self.lines.finish();
        let seen = match seen {
            Some(seen) => seen,
            None => self.look().await.unwrap_or_else(|_| Seen {
                survey: Survey::default(),
                rows: vec![],
                goal: None,
            }),
        };
        let other = seen.goal.filter(|goal| !is_same_rollout(&self.goal, goal));
        let is_revert = other.as_ref().is_some_and(|other| reverted_for(other).is_some());
        let end = if end == End::Superseded && is_revert { End::Reverted } else { end };
        let (survey, rows) = (seen.survey, seen.rows);
        Ok(Ended { end, took: started.elapsed(), survey, goal: self.goal, other, rows })
    }

    async fn watch(&mut self) -> (End, Option<Seen>) {
        let mut is_failing = false;
        let mut last = None;
        loop {
            match self.look().await {
                Ok(seen) => {
                    is_failing = false;
                    self.lines.show(&self.goal, &seen.survey);
                    let facts = self.facts(&seen);
                    if let Some(end) = end_of(&seen.survey, facts) {
                        return (end, Some(seen));
                    }
                    self.halt_if_nobody_does(&seen).await;
                    last = Some(seen);
                }
                Err(error) if !is_failing => {
                    is_failing = true;
                    let trouble = format!("{}; trying again", command_line::describe(&error));
                    self.lines.say(&trouble);
                }
                Err(_) => {}
            }
            if Instant::now() >= self.deadline {
                return (End::TimedOut, last);
            }
            tokio::time::sleep_until(self.deadline.min(Instant::now() + POLL)).await;
        }
    }

    /// Reads rows, then the goal: a goal that is newer than the rows only looks less far than it
    /// is.
    async fn look(&mut self) -> anyhow::Result<Seen> {
        let rows = read_inventory(self.store).await?;
        let goal = self.store.goal(&self.goal.app).await.context("cannot read the goal")?;
        if let Some(goal) = goal.as_ref().filter(|goal| is_same_rollout(&self.goal, goal)) {
            // Somebody widened, halted or resumed it.
            self.goal.clone_from(goal);
        }
        let survey = survey(now_ms(), &self.goal, &rows);
        Ok(Seen { survey, rows, goal })
    }

    fn facts(&mut self, seen: &Seen) -> Facts {
        let now = Instant::now();
        let hosts = &seen.survey;
        let is_ours = seen.goal.as_ref().is_some_and(|goal| is_same_rollout(&self.goal, goal));
        let is_older = seen.goal.as_ref().is_none_or(|goal| goal.generation < self.goal.generation);
        let is_behind = (!is_ours && is_older) || (is_ours && !hosts.ahead.is_empty());
        let is_settled = hosts.underway.is_empty();
        let has_trouble = is_settled && !hosts.failed.is_empty() && !hosts.has_final_failure();
        let Since { halted, trouble, no_source, blocked, behind, .. } = &mut self.since;
        let is_halted = self.goal.rollout.halted.is_some();
        let rollout = &self.goal.rollout;
        Facts {
            is_superseded: !is_ours && !is_older,
            is_behind: lasts(behind, now, is_behind, BEHIND_PATIENCE),
            is_halted,
            is_halted_for_long: lasts(halted, now, is_halted, HALTED_PATIENCE),
            is_in_trouble_for_long: lasts(trouble, now, has_trouble, TROUBLE_PATIENCE),
            has_no_source: lasts(
                no_source,
                now,
                lacks_source(&self.goal, seen),
                NO_SOURCE_PATIENCE,
            ),
            is_blocked_for_long: lasts(blocked, now, hosts.blocked().is_some(), BLOCKED_PATIENCE),
            is_absent_ok: self.is_absent_ok,
            names_labels: !(rollout.canary.is_empty() && rollout.stages.is_empty()),
        }
    }

    /// Halts a rollout that has failed on too many hosts and that no seeder has halted.
    async fn halt_if_nobody_does(&mut self, seen: &Seen) {
        let due = halt_due(now_ms(), &self.goal, &seen.rows);
        let is_due = lasts(&mut self.since.halt_due, Instant::now(), due.is_some(), HALT_PATIENCE);
        let Some(halted) = due.filter(|_| is_due) else { return };
        let halted = Halted { by: "shoal --wait".to_owned(), ..halted };
        let order = ChangeOrder { expected: Some(self.goal.generation), ..ChangeOrder::default() };
        let change = GoalChange::Halt { halted };
        if let Err(error) = self.store.change(&self.goal.app, change, order).await {
            let error = command_line::describe(&error.into());
            self.lines.say(&format!("the rollout should halt, and cannot be halted: {error}"));
        }
    }
}

/// Whether `goal` is the rollout that was ordered with `ours`, perhaps widened, halted or resumed.
fn is_same_rollout(ours: &Goal, goal: &Goal) -> bool {
    let since = |goal: &Goal| goal.rollout.since_of(goal.generation);
    goal.build == ours.build && since(goal) == since(ours) && goal.generation >= ours.generation
}

/// Whether every host that is on its way looks for the build in vain.
fn lacks_source(goal: &Goal, seen: &Seen) -> bool {
    let underway = &seen.survey.underway;
    let looks_in_vain = |row: &HostStatus| row.troubles.contains(&TroubleKind::NoSource);
    let mut rows =
        seen.rows.iter().filter(|row| row.app == goal.app && underway.contains(&row.host));
    !underway.is_empty() && seen.survey.on_goal.is_empty() && rows.all(looks_in_vain)
}

/// Keeps `since`, the moment from which on `is_so` has held; whether that is `patience` ago.
fn lasts(since: &mut Option<Instant>, now: Instant, is_so: bool, patience: Duration) -> bool {
    *since = is_so.then(|| since.unwrap_or(now));
    since.is_some_and(|since| now.duration_since(since) >= patience)
}

/// Whether there is nothing left to wait for. Success comes first: if all hosts arrived before
/// somebody set another goal, this deploy did what was asked.
fn end_of(hosts: &Survey, facts: Facts) -> Option<End> {
    if facts.is_behind {
        return Some(End::StoreBehind);
    }
    let is_settled = hosts.underway.is_empty();
    if hosts.is_complete() && !facts.is_halted {
        let waits_for_wave = |(_, reason): &(String, WaitReason)| *reason == WaitReason::Wave;
        let is_nobody_in = facts.names_labels
            && hosts.on_goal.is_empty()
            && hosts.waiting.iter().all(waits_for_wave);
        return Some(if is_nobody_in {
            End::NobodyIn
        } else if !hosts.absent.is_empty() && !facts.is_absent_ok {
            End::Absent
        } else {
            End::Complete
        });
    }
    if facts.is_superseded {
        return Some(End::Superseded);
    }
    if facts.is_halted {
        return (is_settled || facts.is_halted_for_long).then_some(End::Halted);
    }
    if is_settled && (hosts.has_final_failure() || facts.is_in_trouble_for_long) {
        return Some(End::Failed);
    }
    if facts.is_blocked_for_long {
        return Some(End::Blocked);
    }
    facts.has_no_source.then_some(End::NoSource)
}

/// What is said while waiting: a bar on a terminal, a line for each change elsewhere.
struct Lines {
    bar: ProgressBar,
    is_terminal: bool,
    said: String,
}

impl Lines {
    fn new(goal: &Goal) -> Self {
        let bar = ProgressBar::new(0).with_style(
            ProgressStyle::with_template("{prefix} [{bar:30}] {pos} of {len} hosts  {wide_msg}")
                .expect("the template parses"),
        );
        bar.set_prefix(goal.app.to_string());
        Self { bar, is_terminal: io::stderr().is_terminal(), said: String::new() }
    }

    fn show(&mut self, goal: &Goal, hosts: &Survey) {
        let halted = goal.rollout.halted.as_ref();
        // Why is said once, at the end.
        let halted = halted.map_or("", |_| "; halted");
        let blocked = hosts.blocked().filter(|_| hosts.on_goal.len() < hosts.all());
        let blocked = blocked.filter(|_| halted.is_empty());
        let blocked =
            blocked.map_or_else(String::new, |reason| format!("; {}", human::printable(reason)));
        let line = format!("{}: {}{halted}{blocked}", goal.app, counts(hosts));
        if hosts.all() == 0 || line == self.said {
            return;
        }
        if self.is_terminal {
            self.bar.set_length(hosts.all() as u64);
            self.bar.set_position(hosts.on_goal.len() as u64);
            self.bar.set_message(line.clone());
        } else {
            output::note(&line);
        }
        self.said = line;
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| output::note(text));
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use goal_state::{HostPhase, Trouble};

    use super::*;
    use crate::rollout::tests::{NOW_MS, build, goal, row, survey_now};
    use crate::rollout::{AbsentHost, FailedHost};

    fn hosts(count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("host-{number}")).collect()
    }

    fn failed(is_final: bool) -> Vec<FailedHost> {
        vec![FailedHost { host: "a".into(), message: "b".into(), is_final }]
    }

    #[test]
    fn waiting_ends_as_the_table_says() {
        let none = Facts::default();
        let superseded = Facts { is_superseded: true, ..none };
        let halted = Facts { is_halted: true, ..none };
        let gone = AbsentHost { host: "x".into(), since_ms: 0, is_stopped: true };
        let done = Survey { on_goal: hosts(2), ..Survey::default() };
        let underway = Survey { underway: hosts(1), ..done.clone() };
        let one_failed = Survey { rolled_back: failed(true), ..done.clone() };
        let failing = Survey { rolled_back: failed(true), ..underway.clone() };
        let troubled = Survey { failed: failed(false), ..done.clone() };
        let absent = Survey { absent: vec![gone], ..done.clone() };
        let waits = Survey { waiting: vec![("a".into(), WaitReason::Wave)], ..done.clone() };
        let all_wait = Survey { on_goal: vec![], ..waits.clone() };
        let held = Survey { waiting: vec![("a".into(), WaitReason::Hold)], ..all_wait.clone() };
        let labels = Facts { names_labels: true, ..none };
        let cases = [
            ("all run it", &done, none, Some(End::Complete)),
            ("and then came another goal", &done, superseded, Some(End::Complete)),
            ("on the way", &underway, none, None),
            ("another goal came", &underway, superseded, Some(End::Superseded)),
            ("one failed, the rest is there", &one_failed, none, Some(End::Failed)),
            ("one failed, others go on", &failing, none, None),
            ("halted, others still switch", &failing, halted, None),
            (
                "halted for long",
                &failing,
                Facts { is_halted_for_long: true, ..halted },
                Some(End::Halted),
            ),
            ("halted, nobody switches", &one_failed, halted, Some(End::Halted)),
            ("a disk is full", &troubled, none, None),
            (
                "and stays so",
                &troubled,
                Facts { is_in_trouble_for_long: true, ..none },
                Some(End::Failed),
            ),
            ("some are absent", &absent, none, Some(End::Absent)),
            (
                "which does not matter",
                &absent,
                Facts { is_absent_ok: true, ..none },
                Some(End::Complete),
            ),
            ("others are not in yet", &waits, labels, Some(End::Complete)),
            ("everybody has the bytes", &all_wait, none, Some(End::Complete)),
            ("no host has the label", &all_wait, labels, Some(End::NobodyIn)),
            ("somebody holds them all", &held, labels, Some(End::Complete)),
            (
                "nobody has the build",
                &underway,
                Facts { has_no_source: true, ..none },
                Some(End::NoSource),
            ),
            ("lost store", &done, Facts { is_behind: true, ..none }, Some(End::StoreBehind)),
            ("nobody there", &Survey::default(), none, None),
        ];
        for (name, survey, facts, expected) in cases {
            assert_eq!(end_of(survey, facts), expected, "{name}");
        }
    }

    #[test]
    fn patience_begins_anew_after_a_break() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut since = None;
        let cases = [
            (0, true, false),
            (4, true, false),
            (5, true, true),
            (6, false, false),
            (7, true, false),
            (12, true, true),
        ];
        for (second, is_so, expected) in cases {
            let lasts = lasts(&mut since, at(second), is_so, Duration::from_secs(5));
            assert_eq!(lasts, expected, "second {second}");
        }
    }

    #[test]
    fn build_that_nobody_has_is_known_by_what_all_hosts_say() {
        use TroubleKind::{DownloadStuck, NoSource};
        let goal = goal("web", 2, 2);
        let looks = |host: &str, kind| {
            let row = row(host, 2, 2, HostPhase::Locating);
            row.with_troubles(&[Trouble::new(kind, "it looks")])
        };
        let lacks = |rows: Vec<HostStatus>| {
            let survey = survey_now(&goal, &rows);
            lacks_source(&goal, &Seen { survey, rows, goal: None })
        };
        assert!(lacks(vec![looks("a", NoSource), looks("b", NoSource)]));
        assert!(!lacks(vec![looks("a", NoSource), looks("b", DownloadStuck)]));
        assert!(!lacks(vec![looks("a", NoSource), row("b", 2, 2, HostPhase::Running)]));
        assert!(!lacks(vec![]));
    }

    #[test]
    fn wider_and_halted_goals_are_of_one_rollout() {
        let ours = goal("web", 2, 2);
        let mut wider = goal("web", 3, 2);
        wider.rollout.since = 2;
        assert!(is_same_rollout(&ours, &wider) && !is_same_rollout(&wider, &ours));
        assert!(!is_same_rollout(&ours, &goal("web", 3, 2)), "the same build deployed again");
        assert!(!is_same_rollout(&ours, &Goal { build: build(1), ..wider }));
        assert_eq!(NOW_MS, ours.set_at_ms);
    }

    #[test]
    fn rollout_in_which_nobody_gets_a_turn_ends_the_wait() {
        let queued = vec![("a".to_owned(), "h7 is away".to_owned())];
        let survey = Survey { underway: vec!["a".into()], queued, ..Survey::default() };
        assert_eq!(end_of(&survey, Facts::default()), None);
        let facts = Facts { is_blocked_for_long: true, is_absent_ok: true, ..Facts::default() };
        assert_eq!(end_of(&survey, facts), Some(End::Blocked));
    }
}
