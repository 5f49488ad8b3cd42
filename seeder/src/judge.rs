//! Whether a rollout goes on: judges each app's goal by what hosts reported.
//!
//! Owns what is remembered between two looks: goals as they were last read, halts that the goal
//! store has not taken yet, and since when programs do not do their work. Invariants: only failures
//! in the rollout of the goal count (`goal_state::halt_due`); an order names the generation that it
//! was decided for, so that it is carried out once, whoever else decides the same; and a halt holds
//! for tokens from the moment it is decided. Pure: [`crate::judging`] reads and writes.

use std::collections::{BTreeMap, BTreeSet};

use goal_state::{
    AppName, Goal, Halted, HostPhase, HostStatus, Outcome, ends_again_and_again, fails_to_serve,
    halt_due_to, is_away, is_silent_in_switch, is_stuck, outcome, went_silent,
};

use crate::tokens::{DownHost, Group, PoolKey, Stop, TokenRules};

/// How long the program of a host that had switched must not do its work before that counts: a
/// probe that is late once, or a program that is started again, is no bad build. Hosts that gave
/// the build up count at once.
const STUCK_MIN_MS: u64 = 20_000;

/// The same for hosts that are silent: longer than hosts take to report again after a seeder was
/// away or its clock was set.
const SILENT_MIN_MS: u64 = 120_000;

/// What has to be written into the goal store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    /// The rollout halts.
    Halt {
        /// The generation that was judged.
        expected: u64,
        /// Why.
        halted: Halted,
    },
    /// The rollout has halted, and those that switched go back.
    GoBack {
        /// The generation of the halted goal.
        expected: u64,
        /// Why it halted.
        reason: String,
        /// How far it had come.
        outcome: Outcome,
    },
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    cases: BTreeMap<AppName, Case>,
    /// Since when each host's program does not do its work, or the host is silent in a switch.
    stuck_since: BTreeMap<RowKey, u64>,
    /// Whether rows of hosts that report to others cannot be read: their silence says nothing.
    is_blind: bool,
}

/// App, host and node of a row.
pub(crate) type RowKey = (AppName, String, Option<String>);

/// What is known of one app.
#[derive(Clone, Debug, Default)]
struct Case {
    /// As it was when it could be read last.
    goal: Option<Goal>,
    /// Why it cannot be read now, if it cannot.
    unread: Option<String>,
    /// A halt of this goal that was decided.
    decided: Option<Halted>,
}

impl Judge {
    /// Looks at the goal of an app and at the rows of its hosts. What is to be written, if
    /// anything, is returned at each look until it is. Where there is no goal to go by, `goal` says
    /// why, and what was known of it stays: a halt does not end because the goal is lost.
    pub(crate) fn look(
        &mut self,
        now_ms: u64,
        app: &AppName,
        goal: Result<Goal, String>,
        rows: &[HostStatus],
    ) -> Option<Order> {
        let goal = match goal {
            Ok(goal) => goal,
            Err(reason) => {
                self.cases.entry(app.clone()).or_default().unread = Some(reason);
                return None;
            }
        };
        let earlier = self.cases.get(app);
        let is_same = |case: &&Case| {
            case.goal.as_ref().is_some_and(|known| known.generation == goal.generation)
        };
        let decided = earlier.filter(is_same).and_then(|case| case.decided.clone());
        self.note_stuck(now_ms, &goal, rows);
        let is_settled = |row: &HostStatus| self.is_settled(now_ms, &goal, row);
        let decided = decided.or_else(|| halt_due_to(now_ms, &goal, rows, is_settled));
        let order = match (&goal.rollout.halted, &decided) {
            (Some(halted), _) => self.order_to_go_back(now_ms, &goal, halted, rows),
            (None, Some(halted)) => {
                Some(Order::Halt { expected: goal.generation, halted: halted.clone() })
            }
            (None, None) => None,
        };
        let decided = decided.filter(|_| goal.rollout.halted.is_none());
        self.cases.insert(app.clone(), Case { goal: Some(goal), unread: None, decided });
        order
    }

    /// Says whether rows of hosts that report to other seeders are as old as their last reading.
    pub(crate) const fn set_blind(&mut self, is_blind: bool) {
        self.is_blind = is_blind;
    }

    /// What came of reading the goal of an app last; `None` if nobody did.
    pub(crate) fn last_read(&self, app: &AppName) -> Option<Result<Goal, String>> {
        let case = self.cases.get(app)?;
        case.unread.clone().map(Err).or_else(|| case.goal.clone().map(Ok))
    }

    /// Whether a later goal than the one that was read is followed where this `generation` is.
    pub(crate) fn is_news(&self, app: &AppName, generation: u64) -> bool {
        let goal = self.cases.get(app).and_then(|case| case.goal.as_ref());
        goal.is_none_or(|goal| goal.generation < generation)
    }

    /// The apps whose halts the goal store has not taken yet.
    pub(crate) fn undone(&self) -> impl Iterator<Item = AppName> {
        let undone = self.cases.iter().filter(|(_, case)| case.decided.is_some());
        undone.map(|(app, _)| app.clone())
    }

    /// Forgets every app but these.
    pub(crate) fn keep(&mut self, apps: &BTreeSet<AppName>) {
        self.cases.retain(|app, _| apps.contains(app));
        self.stuck_since.retain(|(app, ..), _| apps.contains(app));
    }

    /// What the table of tokens has to know, with the sizes of the groups in `rows`.
    pub(crate) fn rules<'a>(
        &self,
        now_ms: u64,
        rows: impl IntoIterator<Item = &'a HostStatus>,
    ) -> TokenRules {
        let stops = self.cases.iter().filter_map(|(app, case)| Some((app.clone(), case.stop()?)));
        let known = self.cases.iter().filter_map(|(app, case)| Some((app.clone(), case.known()?)));
        TokenRules {
            groups: groups(now_ms, rows),
            stops: stops.collect(),
            known: Some(known.collect()),
            trouble: None,
        }
    }

    /// Keeps since when each program of the app does not do its work, or its host says nothing.
    fn note_stuck(&mut self, now_ms: u64, goal: &Goal, rows: &[HostStatus]) {
        let mut stuck = BTreeMap::new();
        let is_silent = |row: &HostStatus| !self.is_blind && went_silent(now_ms, goal, row);
        let may_pass = |row: &&HostStatus| is_stuck(goal, row) || is_silent(row);
        for row in rows.iter().filter(may_pass) {
            let key = key_of(row);
            let since = self.stuck_since.get(&key).copied().unwrap_or(now_ms);
            stuck.insert(key, since);
        }
        self.stuck_since.retain(|(app, ..), _| *app != goal.app);
        self.stuck_since.append(&mut stuck);
    }

    /// Whether what the row says is no passing matter: a program that has not done its work only
    /// for a moment is taken for one that does, and so is a host that is silent only since this
    /// seeder looks.
    fn is_settled(&self, now_ms: u64, goal: &Goal, row: &HostStatus) -> bool {
        let least_ms = if went_silent(now_ms, goal, row) {
            SILENT_MIN_MS
        } else if is_stuck(goal, row) && !ends_again_and_again(row) {
            STUCK_MIN_MS
        } else {
            return true;
        };
        let since = self.stuck_since.get(&key_of(row));
        since.is_some_and(|since| now_ms.saturating_sub(*since) >= least_ms)
    }

    /// A rollout that a seeder halted goes back if its goal wants that and there is something to go
    /// back to; what people halted is theirs.
    fn order_to_go_back(
        &self,
        now_ms: u64,
        goal: &Goal,
        halted: &Halted,
        rows: &[HostStatus],
    ) -> Option<Order> {
        let is_wanted = halted.by_rule && goal.revert_target().is_some();
        is_wanted.then(|| {
            let passing = rows.iter().filter(|row| !self.is_settled(now_ms, goal, row)).count();
            let all = outcome(now_ms, goal, rows);
            let failed = all.failed.saturating_sub(u32::try_from(passing).unwrap_or(u32::MAX));
            let (expected, reason) = (goal.generation, halted.reason.clone());
            Order::GoBack { expected, reason, outcome: Outcome { failed, ..all } }
        })
    }
}

impl Case {
    /// The generation that was read, or why there is none.
    fn known(&self) -> Option<Result<u64, String>> {
        let read = self.goal.as_ref().map(|goal| Ok(goal.generation));
        self.unread.clone().map(Err).or(read)
    }

    /// What keeps hosts from beginning that do not know of the halt.
    fn stop(&self) -> Option<Stop> {
        let goal = self.goal.as_ref()?;
        let since = goal.rollout.since_of(goal.generation);
        let (last, halted) = match (&goal.rollout.halted, &self.decided) {
            (Some(halted), _) => (goal.generation - 1, halted),
            (None, Some(decided)) => (goal.generation, decided),
            (None, None) => return None,
        };
        Some(Stop { since, last, reason: halted.reason.clone() })
    }
}

/// Whether a row may speak of a failure, so that its app's goal is worth reading.
pub(crate) fn speaks_of_failure(now_ms: u64, row: &HostStatus) -> bool {
    row.quarantined.is_some()
        || row.phase == HostPhase::Failed
        || fails_to_serve(row)
        || is_silent_in_switch(now_ms, row)
}

/// The hosts of each app and group, with those that do not serve. Hosts that do not say their
/// group, because they are of an earlier version, are not counted: too small a group is only slow.
/// One that never had a build is no loss.
fn groups<'a>(
    now_ms: u64,
    rows: impl IntoIterator<Item = &'a HostStatus>,
) -> BTreeMap<PoolKey, Group> {
    let mut groups = BTreeMap::new();
    for row in rows {
        let Some(group) = row.group.clone() else { continue };
        let is_away = is_away(now_ms, row);
        let is_down = is_away || (row.current.is_some() && fails_to_serve(row));
        let down = is_down.then(|| DownHost { host: row.host.clone(), is_away });
        let of_group: &mut Group =
            groups.entry(PoolKey { app: row.app.clone(), group }).or_default();
        of_group.add(row.node.as_deref(), down);
    }
    groups
}

/// What tells a row from all others.
pub(crate) fn key_of(row: &HostStatus) -> RowKey {
    (row.app.clone(), row.host.clone(), row.node.clone())
}

/// The rows of two sources, each host's newer one. Two nodes under one name are two hosts.
pub(crate) fn united(rows: impl IntoIterator<Item = HostStatus>) -> Vec<HostStatus> {
    let mut newest: BTreeMap<RowKey, HostStatus> = BTreeMap::new();
    for row in rows {
        let key = key_of(&row);
        match newest.get(&key) {
            Some(known) if known.heard_at_ms() > row.heard_at_ms() => {}
            _ => drop(newest.insert(key, row)),
        }
    }
    newest.into_values().collect()
}

#[cfg(test)]
mod tests;
