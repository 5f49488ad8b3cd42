//! How far a fleet is on its way to a goal, judged from what hosts reported.
//!
//! Pure functions of goal and rows. A row is a host's claim with the time of the host's clock: it
//! may be old, and what it says about another generation says nothing about this one.

use std::collections::BTreeMap;

use goal_state::{Goal, HostPhase, HostStatus, WaitReason};

pub(crate) mod args;
pub(crate) mod deploy;
pub(crate) mod view;

/// Age at which a report no longer says what the host does now. Hosts report every few seconds;
/// half would flicker with a busy goal store.
pub(crate) const STALE_AFTER_MS: u64 = 30_000;

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
    /// Its agent was stopped.
    Stopped,
    /// It follows a newer goal than this one.
    Superseded,
}

/// The hosts of one app, by where they stand. Each host is in exactly one list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Rollout {
    /// Hosts that run the goal's build.
    pub(crate) on_goal: Vec<String>,
    /// Hosts on their way.
    pub(crate) underway: Vec<String>,
    /// Hosts that may not switch yet, with what they wait for.
    pub(crate) waiting: Vec<(String, WaitReason)>,
    /// Hosts that failed, with what they say.
    pub(crate) failed: Vec<(String, String)>,
    /// Hosts that went back to the build before, with what they say.
    pub(crate) rolled_back: Vec<(String, String)>,
    /// Hosts that are not waited for: stopped, or silent since before the goal was set.
    pub(crate) absent: Vec<String>,
    /// Hosts that follow a newer goal.
    pub(crate) superseded: Vec<String>,
}

/// Hosts that were silent when a deploy began, with the time of their last report.
pub(crate) type Silent = BTreeMap<String, u64>;

/// Where the host of this row stands.
pub(crate) fn standing(goal: &Goal, row: &HostStatus) -> Standing {
    if row.phase == HostPhase::Stopped {
        return Standing::Stopped;
    }
    match row.generation {
        Some(generation) if generation > goal.generation => Standing::Superseded,
        Some(generation) if generation == goal.generation => match row.phase {
            HostPhase::Running if row.current == Some(goal.build) => Standing::OnGoal,
            HostPhase::Failed => Standing::Failed,
            HostPhase::RolledBack => Standing::RolledBack,
            // A token comes by itself: the host is on its way.
            HostPhase::Waiting if row.waiting_for != Some(WaitReason::Token) => Standing::Waiting,
            _ => Standing::Underway,
        },
        _ => Standing::Underway,
    }
}

/// Whether the report is too old at `now_ms` to say what the host does.
pub(crate) fn is_stale(now_ms: u64, row: &HostStatus) -> bool {
    now_ms.saturating_sub(row.updated_at_ms) > STALE_AFTER_MS
}

/// The hosts among `rows` that are silent at `now_ms`.
pub(crate) fn silent(now_ms: u64, rows: &[HostStatus]) -> Silent {
    let silent = rows.iter().filter(|row| is_stale(now_ms, row));
    silent.map(|row| (row.host.clone(), row.updated_at_ms)).collect()
}

/// Sorts the hosts of the goal's app by where they stand.
///
/// # Arguments
///
/// - `rows`: any rows; those of other apps are left out.
/// - `silent`: hosts not to wait for unless they have reported again since. Comparing with what
///   they said instead of with a clock makes this right for hosts whose clock is wrong.
pub(crate) fn survey(goal: &Goal, rows: &[HostStatus], silent: &Silent) -> Rollout {
    let mut rollout = Rollout::default();
    for row in rows.iter().filter(|row| row.app == goal.app) {
        let host = row.host.clone();
        if silent.get(&host) == Some(&row.updated_at_ms) {
            rollout.absent.push(host);
            continue;
        }
        match standing(goal, row) {
            Standing::OnGoal => rollout.on_goal.push(host),
            Standing::Underway => rollout.underway.push(host),
            Standing::Stopped => rollout.absent.push(host),
            Standing::Superseded => rollout.superseded.push(host),
            Standing::Waiting => {
                rollout.waiting.push((host, row.waiting_for.unwrap_or(WaitReason::Unknown)));
            }
            Standing::Failed => rollout.failed.push((host, reason_of(row))),
            Standing::RolledBack => rollout.rolled_back.push((host, reason_of(row))),
        }
    }
    rollout
}

fn reason_of(row: &HostStatus) -> String {
    row.message.as_deref().unwrap_or("no reason given; see its log").to_owned()
}

impl Rollout {
    /// Whether at least one host reported and every host that is waited for runs the build. Hosts
    /// that are not to switch yet are not waited for.
    pub(crate) fn is_complete(&self) -> bool {
        !(self.on_goal.is_empty() && self.waiting.is_empty())
            && self.underway.is_empty()
            && !self.has_failed()
            && self.superseded.is_empty()
    }

    /// Whether the build failed on a host.
    pub(crate) const fn has_failed(&self) -> bool {
        !self.failed.is_empty() || !self.rolled_back.is_empty()
    }

    /// Hosts that are waited for.
    pub(crate) fn expected(&self) -> usize {
        let failed = self.failed.len() + self.rolled_back.len();
        self.on_goal.len() + self.underway.len() + failed + self.superseded.len()
    }
}

#[cfg(test)]
pub(crate) mod tests {
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
        let cases = [
            ("runs it", row("a", 2, 2, HostPhase::Running), Standing::OnGoal),
            ("runs it for an older goal", row("a", 1, 2, HostPhase::Running), Standing::Underway),
            ("claims to run another", old, Standing::Underway),
            ("downloads", row("a", 2, 2, HostPhase::Downloading), Standing::Underway),
            ("knows no goal", unaware, Standing::Underway),
            ("failed", row("a", 2, 2, HostPhase::Failed), Standing::Failed),
            ("rolled back", row("a", 2, 2, HostPhase::RolledBack), Standing::RolledBack),
            ("on probation", row("a", 2, 2, HostPhase::Checking), Standing::Underway),
            ("not in yet", waits(WaitReason::Wave), Standing::Waiting),
            ("its turn comes", waits(WaitReason::Token), Standing::Underway),
            ("held", waits(WaitReason::Hold), Standing::Waiting),
            ("waits, nobody knows why", row("a", 2, 2, HostPhase::Waiting), Standing::Waiting),
            ("waited before", row("a", 1, 2, HostPhase::Waiting), Standing::Underway),
            ("failed before this goal", row("a", 1, 1, HostPhase::Failed), Standing::Underway),
            ("stopped", row("a", 2, 2, HostPhase::Stopped), Standing::Stopped),
            ("follows a newer goal", row("a", 3, 2, HostPhase::Running), Standing::Superseded),
        ];
        for (name, row, expected) in cases {
            assert_eq!(standing(&goal, &row), expected, "{name}");
        }
    }

    #[test]
    fn rollout_is_complete_once_every_live_host_is_there() {
        let goal = goal("web", 2, 2);
        let mut dead = row("dead", 1, 1, HostPhase::Running);
        dead.updated_at_ms = NOW_MS - STALE_AFTER_MS - 1;
        let mut rows = vec![row("a", 2, 2, HostPhase::Running), dead];
        let silent = silent(NOW_MS, &rows);
        let rollout = survey(&goal, &rows, &silent);
        assert!(rollout.is_complete(), "{rollout:?}");
        assert_eq!((rollout.expected(), rollout.absent.as_slice()), (1, &["dead".into()][..]));

        rows[1].updated_at_ms += 1;
        let rollout = survey(&goal, &rows, &silent);
        assert!(!rollout.is_complete(), "the dead came back, if with a wrong clock");
        assert_eq!(rollout.underway, ["dead"]);
    }

    #[test]
    fn hosts_that_are_not_in_yet_are_not_waited_for() {
        let goal = goal("web", 2, 2);
        let waits = HostStatus {
            waiting_for: Some(WaitReason::Wave),
            ..row("b", 2, 2, HostPhase::Waiting)
        };
        let mut rows = vec![row("a", 2, 2, HostPhase::Switching), waits.clone()];
        assert!(!survey(&goal, &rows, &Silent::new()).is_complete());
        rows[0].phase = HostPhase::Running;
        let rollout = survey(&goal, &rows, &Silent::new());
        assert!(rollout.is_complete(), "{rollout:?}");
        assert_eq!((rollout.expected(), rollout.waiting.len()), (1, 1));
        rows[0].phase = HostPhase::RolledBack;
        let rollout = survey(&goal, &rows, &Silent::new());
        assert!(!rollout.is_complete() && rollout.has_failed());
        assert!(survey(&goal, &[waits], &Silent::new()).is_complete(), "everybody has it on disk");
    }

    #[test]
    fn nobody_is_not_everybody() {
        let goal = goal("web", 2, 2);
        assert!(!survey(&goal, &[], &Silent::new()).is_complete());
        let other = HostStatus { app: "db".parse().unwrap(), ..row("a", 2, 2, HostPhase::Running) };
        assert_eq!(survey(&goal, &[other], &Silent::new()), Rollout::default());
    }

    #[test]
    fn failure_keeps_its_reason() {
        let reason = Some("exits at once".to_owned());
        let failed = HostStatus { message: reason, ..row("a", 2, 2, HostPhase::Failed) };
        let rollout = survey(&goal("web", 2, 2), &[failed], &Silent::new());
        assert_eq!(rollout.failed, [("a".into(), "exits at once".into())]);
        assert!(!rollout.is_complete());
    }
}
