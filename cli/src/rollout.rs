//! How far a fleet is on its way to a goal, judged from what hosts reported.
//!
//! Pure functions of goal, rows and time, and the one place that counts: `status`, `rollout` and
//! `--wait` show what is counted here. Invariant: every row of the app, which is every host ever
//! heard of and not forgotten, is in exactly one list of a [`Survey`]. A row is a host's claim: it
//! may be old, and what it says about another generation says nothing about this one.

use std::collections::BTreeSet;

use goal_state::{
    Goal, HostPhase, HostStatus, Presence, TroubleKind, WaitReason, has_failed, is_stuck,
};

pub(crate) mod args;
pub(crate) mod commands;
pub(crate) mod deploy;
pub(crate) mod end;
pub(crate) mod history;
pub(crate) mod order;
pub(crate) mod report;
pub(crate) mod view;
pub(crate) mod wait;

/// Where one host stands with respect to a goal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// It runs the goal's build because of this goal.
    OnGoal,
    /// It is on its way, or has not noticed the goal yet.
    Underway,
    /// It has the build and may not switch yet: the rollout has not reached it, or somebody holds
    /// it. It stays so until a person acts.
    Waiting,
    /// It tried this goal and something needs a look.
    Failed,
    /// It tried this goal, the build failed, and it runs the one before.
    RolledBack,
    /// Its agent was stopped, or nobody has heard of it for a while.
    Absent,
    /// It follows a higher generation than the goal store has: the store was lost or restored.
    Ahead,
}

/// A host on which something failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FailedHost {
    /// Its name.
    pub(crate) host: String,
    /// What it says.
    pub(crate) message: String,
    /// Whether the build is to blame: it is not tried again here. If not, the host goes on trying.
    pub(crate) is_final: bool,
}

/// A host that does not report.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AbsentHost {
    /// Its name.
    pub(crate) host: String,
    /// When it was last heard of, in milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// Whether its agent said that it stops.
    pub(crate) is_stopped: bool,
}

/// The hosts of one app, by where they stand. Each is in exactly one list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Survey {
    /// Hosts that run the goal's build.
    pub(crate) on_goal: Vec<String>,
    /// Hosts on their way.
    pub(crate) underway: Vec<String>,
    /// Those of them that wait for their turn, with why it has not come.
    pub(crate) queued: Vec<(String, String)>,
    /// Hosts that may not switch yet, with what they wait for.
    pub(crate) waiting: Vec<(String, WaitReason)>,
    /// Hosts that failed, with what they say.
    pub(crate) failed: Vec<FailedHost>,
    /// Hosts that went back to the build before, with what they say.
    pub(crate) rolled_back: Vec<FailedHost>,
    /// Hosts that do not report: what they run is not known.
    pub(crate) absent: Vec<AbsentHost>,
    /// Hosts that follow a higher generation than the store's, with that.
    pub(crate) ahead: Vec<(String, u64)>,
    /// Hosts that have every byte of the goal's build, wherever they stand.
    pub(crate) with_bytes: usize,
    /// Names under which more than one node reports.
    pub(crate) twins: BTreeSet<String>,
}

/// Where the host of this row stands.
pub(crate) fn standing(now_ms: u64, goal: &Goal, row: &HostStatus) -> Standing {
    if Presence::of(now_ms, row) != Presence::Present {
        return Standing::Absent;
    }
    match row.generation {
        Some(generation) if generation > goal.generation => Standing::Ahead,
        // Others wait, or failed, under what the goal said before: it may let them go on now.
        Some(generation) if generation < goal.generation => {
            let has_it = row.phase == HostPhase::Running && row.current == Some(goal.build);
            if has_it && is_of_rollout(goal, generation) && !is_stuck(goal, row) {
                Standing::OnGoal
            } else {
                Standing::Underway
            }
        }
        Some(_) => match row.phase {
            HostPhase::Running if is_stuck(goal, row) => Standing::Failed,
            HostPhase::Running if row.current == Some(goal.build) => Standing::OnGoal,
            HostPhase::Failed => Standing::Failed,
            HostPhase::RolledBack => Standing::RolledBack,
            // A token comes by itself: the host is on its way.
            HostPhase::Waiting if row.waiting_for != Some(WaitReason::Token) => Standing::Waiting,
            _ => Standing::Underway,
        },
        None => Standing::Underway,
    }
}

/// Whether a host that follows this generation does what the goal asks for: halts, resumes and
/// wider rollouts make new generations, and change nothing for hosts that have the build.
fn is_of_rollout(goal: &Goal, generation: u64) -> bool {
    let least = goal.rollout.since_of(goal.generation).max(goal.rollout.restart);
    (least..=goal.generation).contains(&generation)
}

/// Whether the report is too old at `now_ms` to say what the host does. A stopped host says nothing
/// any more, and need not.
pub(crate) fn is_silent(now_ms: u64, row: &HostStatus) -> bool {
    matches!(Presence::of(now_ms, row), Presence::Silent { .. })
}

/// Sorts the hosts of the goal's app by where they stand; rows of other apps are left out.
pub(crate) fn survey(now_ms: u64, goal: &Goal, rows: &[HostStatus]) -> Survey {
    let mut survey = Survey::default();
    let mut names = BTreeSet::new();
    for row in rows.iter().filter(|row| row.app == goal.app) {
        let host = row.host.clone();
        if !names.insert(host.clone()) {
            survey.twins.insert(host.clone());
        }
        let is_whole = row.bytes_total.is_some_and(|total| row.bytes_done >= total);
        if row.current == Some(goal.build) || (row.target == Some(goal.build) && is_whole) {
            survey.with_bytes += 1;
        }
        let failed = || FailedHost {
            host: host.clone(),
            message: reason_of(row),
            is_final: has_failed(now_ms, goal, row),
        };
        match standing(now_ms, goal, row) {
            Standing::OnGoal => survey.on_goal.push(host),
            Standing::Underway => {
                if row.waiting_for == Some(WaitReason::Token) {
                    survey.queued.push((host.clone(), turn_of(row)));
                }
                survey.underway.push(host);
            }
            Standing::Absent => survey.absent.push(AbsentHost {
                host,
                since_ms: row.heard_at_ms(),
                is_stopped: row.phase == HostPhase::Stopped,
            }),
            Standing::Ahead => survey.ahead.push((host, row.generation.unwrap_or_default())),
            Standing::Waiting => {
                survey.waiting.push((host, row.waiting_for.unwrap_or(WaitReason::Unknown)));
            }
            Standing::Failed => survey.failed.push(failed()),
            Standing::RolledBack => survey.rolled_back.push(failed()),
        }
    }
    survey
}

/// Why a host's turn has not come.
fn turn_of(row: &HostStatus) -> String {
    let told = row.troubles().into_iter().find(|trouble| trouble.kind == TroubleKind::Token);
    told.map_or_else(|| reason_of(row), |trouble| trouble.text)
}

fn reason_of(row: &HostStatus) -> String {
    let reason = row.failure.as_deref().or(row.message.as_deref());
    reason.unwrap_or("no reason given; see its log").to_owned()
}

impl Survey {
    /// All hosts of the app.
    pub(crate) fn all(&self) -> usize {
        self.expected() + self.waiting.len() + self.absent.len()
    }

    /// Hosts that report and may switch.
    pub(crate) fn expected(&self) -> usize {
        let failed = self.failed.len() + self.rolled_back.len();
        self.on_goal.len() + self.underway.len() + failed + self.ahead.len()
    }

    /// Whether at least one host reported and every host that reports and may switch runs the
    /// build. Absent hosts are for the caller to weigh.
    pub(crate) fn is_complete(&self) -> bool {
        !(self.on_goal.is_empty() && self.waiting.is_empty())
            && self.underway.is_empty()
            && self.failed.is_empty()
            && self.rolled_back.is_empty()
            && self.ahead.is_empty()
    }

    /// Why nothing goes on just now: every host on its way waits for its turn. The shortest reason
    /// is that of the first in line.
    pub(crate) fn blocked(&self) -> Option<&str> {
        let reasons = self.queued.iter().map(|(_, reason)| reason.as_str());
        let is_blocked = self.queued.len() == self.underway.len();
        reasons.min_by_key(|reason| reason.len()).filter(|_| is_blocked)
    }

    /// Whether the build failed on a host for good.
    pub(crate) fn has_final_failure(&self) -> bool {
        !self.rolled_back.is_empty() || self.failed.iter().any(|failed| failed.is_final)
    }

    /// The highest generation that a host follows beyond the store's.
    pub(crate) fn highest_ahead(&self) -> Option<u64> {
        self.ahead.iter().map(|(_, generation)| *generation).max()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use goal_state::SILENT_AFTER_MS;
    use p2p_core::BuildId;

    use super::*;

    pub(crate) const NOW_MS: u64 = 1_700_000_000_000;

    pub(crate) fn build(number: u8) -> BuildId {
        BuildId::of_manifest(&[number])
    }

    pub(crate) fn goal(app: &str, generation: u64, number: u8) -> Goal {
        Goal {
            app: app.parse().unwrap(),
            generation,
            build: build(number),
            set_at_ms: NOW_MS,
            origin: goal_state::Origin::default(),
            changed: goal_state::Origin::default(),
            changed_at_ms: 0,
            rollout: goal_state::Rollout::default(),
            history: vec![],
        }
    }

    pub(crate) fn row(host: &str, generation: u64, number: u8, phase: HostPhase) -> HostStatus {
        HostStatus {
            generation: Some(generation),
            target: Some(build(number)),
            current: Some(build(number)),
            phase,
            pid: None,
            bytes_total: Some(64 << 20),
            bytes_done: 64 << 20,
            bytes_resumed: 0,
            bytes_reused: 0,
            bytes_from_seeders: 16 << 20,
            bytes_from_peers: 48 << 20,
            bytes_served: 0,
            upload_limit: None,
            download_limit: None,
            links_quic: 0,
            links_tcp: 0,
            elapsed_ms: Some(2_300),
            updated_at_ms: NOW_MS - 1_000,
            ..HostStatus::new(host, "web".parse().unwrap())
        }
    }

    /// As [`super::survey`] at the time of the tests.
    pub(crate) fn survey_now(goal: &Goal, rows: &[HostStatus]) -> Survey {
        survey(NOW_MS, goal, rows)
    }

    #[test]
    fn standing_follows_the_table() {
        let goal = goal("web", 2, 2);
        let old = HostStatus { current: Some(build(1)), ..row("a", 2, 2, HostPhase::Running) };
        let waits = |reason| HostStatus {
            waiting_for: Some(reason),
            current: Some(build(1)),
            ..row("a", 2, 2, HostPhase::Waiting)
        };
        let unaware = HostStatus { generation: None, ..row("a", 2, 2, HostPhase::NoGoal) };
        let silent = HostStatus {
            updated_at_ms: NOW_MS - SILENT_AFTER_MS - 1,
            ..row("a", 2, 2, HostPhase::Running)
        };
        let cases = [
            ("runs it", row("a", 2, 2, HostPhase::Running), Standing::OnGoal),
            ("ran it when it was last heard of", silent, Standing::Absent),
            ("runs it for an older goal", row("a", 1, 2, HostPhase::Running), Standing::Underway),
            ("claims to run another", old, Standing::Underway),
            ("downloads", row("a", 2, 2, HostPhase::Downloading), Standing::Underway),
            ("knows no goal", unaware, Standing::Underway),
            ("failed", row("a", 2, 2, HostPhase::Failed), Standing::Failed),
            ("rolled back", row("a", 2, 2, HostPhase::RolledBack), Standing::RolledBack),
            ("on probation", row("a", 2, 2, HostPhase::Checking), Standing::Underway),
            ("not in yet", waits(WaitReason::Wave), Standing::Waiting),
            ("halted", waits(WaitReason::Halt), Standing::Waiting),
            ("staged", waits(WaitReason::Stage), Standing::Waiting),
            ("its turn comes", waits(WaitReason::Token), Standing::Underway),
            ("held", waits(WaitReason::Hold), Standing::Waiting),
            ("waits, nobody knows why", row("a", 2, 2, HostPhase::Waiting), Standing::Waiting),
            ("waited before", row("a", 1, 2, HostPhase::Waiting), Standing::Underway),
            ("failed before this goal", row("a", 1, 1, HostPhase::Failed), Standing::Underway),
            ("stopped", row("a", 2, 2, HostPhase::Stopped), Standing::Absent),
            ("ahead of the store", row("a", 3, 2, HostPhase::Running), Standing::Ahead),
        ];
        for (name, row, expected) in cases {
            assert_eq!(standing(NOW_MS, &goal, &row), expected, "{name}");
        }
    }

    /// Goal: a host whose clock is wrong is not gone, and one that is gone is not there because its
    /// clock is ahead.
    #[test]
    fn silence_is_by_the_clock_of_whoever_received_the_report() {
        let hour_ms = 3_600_000;
        let row = |updated_at_ms, received_at_ms| HostStatus {
            updated_at_ms,
            received_at_ms,
            ..row("a", 2, 2, HostPhase::Running)
        };
        assert!(!is_silent(NOW_MS, &row(NOW_MS - hour_ms, NOW_MS - 1_000)));
        assert!(is_silent(NOW_MS, &row(NOW_MS + hour_ms, NOW_MS - SILENT_AFTER_MS - 1)));
        assert!(is_silent(NOW_MS, &row(NOW_MS - SILENT_AFTER_MS - 1, 0)), "written by itself");
    }

    #[test]
    fn every_host_of_the_app_is_counted_once() {
        let goal = goal("web", 2, 2);
        let mut dead = row("dead", 1, 1, HostPhase::Running);
        dead.updated_at_ms = NOW_MS - SILENT_AFTER_MS - 1;
        let other = HostStatus { app: "db".parse().unwrap(), ..row("a", 2, 2, HostPhase::Running) };
        let mut rows = vec![row("a", 2, 2, HostPhase::Running), dead, other];
        let survey = survey_now(&goal, &rows);
        assert_eq!((survey.all(), survey.expected(), survey.on_goal.len()), (2, 1, 1));
        let since_ms = NOW_MS - SILENT_AFTER_MS - 1;
        let absent = AbsentHost { host: "dead".into(), since_ms, is_stopped: false };
        assert_eq!(survey.absent, [absent]);
        assert!(survey.is_complete(), "whether absent hosts matter is for the caller to say");

        rows[1].updated_at_ms += 1;
        let survey = survey_now(&goal, &rows);
        assert!(!survey.is_complete(), "it is back");
        assert_eq!(survey.underway, ["dead"]);
    }

    #[test]
    fn hosts_that_are_not_in_yet_are_not_waited_for() {
        let goal = goal("web", 2, 2);
        let waits = HostStatus {
            waiting_for: Some(WaitReason::Wave),
            ..row("b", 2, 2, HostPhase::Waiting)
        };
        let mut rows = vec![row("a", 2, 2, HostPhase::Switching), waits.clone()];
        assert!(!survey_now(&goal, &rows).is_complete());
        rows[0].phase = HostPhase::Running;
        let survey = survey_now(&goal, &rows);
        assert!(survey.is_complete(), "{survey:?}");
        assert_eq!((survey.expected(), survey.waiting.len(), survey.with_bytes), (1, 1, 2));
        rows[0].phase = HostPhase::RolledBack;
        let survey = survey_now(&goal, &rows);
        assert!(!survey.is_complete() && survey.has_final_failure());
        assert!(survey_now(&goal, &[waits]).is_complete(), "everybody has it on disk");
    }

    #[test]
    fn nobody_is_not_everybody() {
        let goal = goal("web", 2, 2);
        assert!(!survey_now(&goal, &[]).is_complete());
        let other = HostStatus { app: "db".parse().unwrap(), ..row("a", 2, 2, HostPhase::Running) };
        assert_eq!(survey_now(&goal, &[other]), Survey::default());
    }

    #[test]
    fn failure_keeps_its_reason_and_whether_the_build_is_to_blame() {
        let goal = goal("web", 2, 2);
        let message = Some("build 2 failed here: exits at once; see its log".to_owned());
        let failed = HostStatus { message, ..row("a", 2, 2, HostPhase::Failed) };
        let full = HostStatus { current: Some(build(1)), ..failed.clone() };
        let bad = HostStatus {
            current: Some(build(1)),
            quarantined: Some(build(2)),
            failure: Some("exits at once".into()),
            ..failed
        };
        let survey = survey_now(&goal, &[full, bad]);
        let expected =
            [("build 2 failed here: exits at once; see its log", false), ("exits at once", true)];
        let found: Vec<_> =
            survey.failed.iter().map(|host| (host.message.as_str(), host.is_final)).collect();
        assert_eq!(found, expected);
        assert!(survey.has_final_failure() && !survey.is_complete());
    }

    #[test]
    fn two_nodes_of_one_name_are_two_hosts_and_named() {
        let goal = goal("web", 2, 2);
        let node =
            |node: &str, phase| HostStatus { node: Some(node.into()), ..row("h6", 2, 2, phase) };
        let rows = [node("a", HostPhase::Running), node("b", HostPhase::Downloading)];
        let survey = survey_now(&goal, &rows);
        assert_eq!((survey.all(), survey.is_complete()), (2, false));
        assert_eq!(survey.twins, ["h6".to_owned()].into());
    }

    /// Goal: hosts that wait for a turn that does not come are told apart from those that work.
    #[test]
    fn hosts_without_a_turn_are_told_apart() {
        let goal = goal("web", 3, 2);
        let waits = |host: &str, reason: &str| {
            let trouble = goal_state::Trouble::new(TroubleKind::Token, reason);
            let row = row(host, 3, 1, HostPhase::Waiting);
            HostStatus { waiting_for: Some(WaitReason::Token), target: Some(build(2)), ..row }
                .with_troubles(&[trouble])
        };
        let mut rows = vec![waits("a", "h7 is away, 1 host is ahead"), waits("b", "h7 is away")];
        let found = survey(NOW_MS, &goal, &rows);
        assert_eq!((found.underway.len(), found.blocked()), (2, Some("h7 is away")));
        rows.push(row("c", 3, 1, HostPhase::Switching));
        assert_eq!(survey(NOW_MS, &goal, &rows).blocked(), None, "one has its turn");
        assert_eq!(survey(NOW_MS, &goal, &[]).blocked(), None);
    }

    /// Goal: a halt or a wider rollout, which is a new generation, makes no host unready.
    #[test]
    fn hosts_stay_where_they_are_when_only_the_generation_changes() {
        let mut goal = goal("web", 7, 2);
        goal.rollout.since = 5;
        let stands = |goal: &Goal, generation| {
            standing(NOW_MS, goal, &row("a", generation, 2, HostPhase::Running))
        };
        let found = [4, 5, 7, 8].map(|generation| stands(&goal, generation));
        let expected = [Standing::Underway, Standing::OnGoal, Standing::OnGoal, Standing::Ahead];
        assert_eq!(found, expected);
        goal.rollout.restart = 7;
        assert_eq!(stands(&goal, 6), Standing::Underway, "it has to restart yet");
    }

    /// Goal: `--wait` after --percent, --resume or switch does not end on rows from before it.
    #[test]
    fn hosts_that_waited_before_a_wider_rollout_are_on_their_way() {
        let mut goal = goal("web", 7, 2);
        goal.rollout.since = 5;
        for reason in [WaitReason::Wave, WaitReason::Halt, WaitReason::Stage] {
            let waited = HostStatus {
                waiting_for: Some(reason),
                current: Some(build(1)),
                ..row("b", 6, 2, HostPhase::Waiting)
            };
            assert_eq!(standing(NOW_MS, &goal, &waited), Standing::Underway, "{reason:?}");
            let survey = survey_now(&goal, &[row("a", 6, 2, HostPhase::Running), waited]);
            assert!(!survey.is_complete(), "{reason:?}");
        }
    }
}
