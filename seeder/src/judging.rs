//! Reads goals and reports for the judge, and writes the halts that it decides.
//!
//! Which rows: those of this seeder, which are in memory, once a second. The goal store has those
//! of others, and is read as seldom as that allows. With one seeder and hosts that report to it,
//! only once, at the start: this seeder may know few of its hosts yet, and a share of few is wrong.
//! With other seeders, every few seconds, and only while an own row speaks of a failure or a host
//! asks for a token: of any number of failures one seeder at least has one. A file store, where
//! hosts write for themselves, always. Goals are read one by one, for the same few apps: a region
//! has a thousand that nothing happens to.
//!
//! Must never end, and must not wait for the goal store before a halt holds for tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use command_line::describe;
use goal_state::{
    ABSENT_AFTER_MS, AppName, ChangeOrder, Goal, GoalChange, GoalStore, GoalStoreError,
    HALTED_BY_SEEDER, HostPhase, HostStatus, Origin, RollbackTarget, RolloutChange, is_away,
    now_ms,
};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::judge::{Judge, Order, RowKey, key_of, speaks_of_failure, united};
use crate::tokens::{AskedApps, TokenRules};

/// Between two looks at the rows in memory: a walk over them takes some milliseconds for a large
/// region, and hosts report twice a second at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Least time between two reads of one app's goal.
const GOAL_INTERVAL: Duration = Duration::from_secs(1);

/// Most goals that are read at one look, so that many failing apps cost the goal store a bounded
/// rate of requests.
const GOALS_PER_LOOK_MAX: usize = 32;

/// Least time between two reads of all rows of the goal store: in a folder, and in etcd, where they
/// are many.
const FOLDER_INTERVAL: Duration = Duration::from_secs(1);
const ETCD_INTERVAL: Duration = Duration::from_secs(5);

/// Reading all rows takes at most this part of the time, as long as the pause is not longer than
/// `READING_PAUSE_MAX`.
const READING_SHARE: u32 = 20;

/// Longest pause between two reads of all rows: of failures elsewhere it is heard no later.
const READING_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long rows count that were read at the start only. By then every host has reported.
const FIRST_ROWS_MAX: Duration = Duration::from_mins(1);

/// The rows that hosts reported to this seeder.
pub(crate) trait OwnRows {
    /// The apps of which a row is as `is_wanted` says.
    fn apps_with(&self, is_wanted: &dyn Fn(&HostStatus) -> bool) -> BTreeSet<AppName>;

    /// The rows of these apps, with the time of their receipt.
    fn rows_of(&self, apps: &BTreeSet<AppName>) -> Vec<HostStatus>;

    /// When this node last reported anything, under whatever name.
    fn node_heard_at_ms(&self, node: &str) -> Option<u64>;
}

/// See the head of this file.
pub(crate) struct Judging<'a, Own> {
    store: GoalStore,
    own: &'a Own,
    /// Whether other seeders of the region take reports, too.
    has_others: bool,
    judge: Judge,
    shared: SharedRows,
    looked_at: BTreeMap<AppName, Instant>,
    /// The orders that could not be written, by app: each is reported once.
    unwritten: BTreeMap<AppName, Order>,
}

/// The rows of the goal store.
#[derive(Debug, Default)]
struct SharedRows {
    /// With the time of receipt by this seeder's clock.
    rows: Vec<HostStatus>,
    /// When each row was received by the clock of whoever did, and by this seeder's.
    heard: BTreeMap<RowKey, (u64, u64)>,
    /// When each node was last heard of, under whatever name.
    nodes: BTreeMap<String, u64>,
    read_at: Option<Instant>,
    next_at: Option<Instant>,
    /// Why the last reading failed, if it did.
    trouble: Option<String>,
}

/// The rows that are judged, by app. A region has so many that they are copied once at a look.
type RowsByApp = BTreeMap<AppName, Vec<HostStatus>>;

/// What one look found.
struct Found {
    rules: TokenRules,
    orders: Vec<(AppName, Order)>,
    rows: RowsByApp,
}

impl<'a, Own: OwnRows> Judging<'a, Own> {
    pub(crate) fn new(store: GoalStore, own: &'a Own, has_others: bool) -> Self {
        Self {
            store,
            own,
            has_others,
            judge: Judge::default(),
            shared: SharedRows::default(),
            looked_at: BTreeMap::new(),
            unwritten: BTreeMap::new(),
        }
    }

    /// Judges for ever. `asked` are the apps that hosts ask tokens for; `rules` is what those who
    /// grant them have to know.
    pub(crate) async fn run(
        mut self,
        asked: watch::Receiver<AskedApps>,
        rules: watch::Sender<TokenRules>,
    ) {
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let show = |news: TokenRules| {
            rules.send_if_modified(|shown| {
                let is_news = *shown != news;
                *shown = news;
                is_news
            });
        };
        loop {
            ticks.tick().await;
            let asked = asked.borrow().clone();
            let found = self.look(&asked).await;
            show(found.rules);
            if found.orders.is_empty() {
                continue;
            }
            for (app, order) in found.orders {
                self.carry_out(&app, order, &found.rows).await;
            }
            show(self.judge.rules(now_ms(), found.rows.values().flatten()));
        }
    }

    async fn look(&mut self, asked: &AskedApps) -> Found {
        let looked_at_ms = now_ms();
        let speaks_of_failure = |row: &HostStatus| speaks_of_failure(looked_at_ms, row);
        let mut apps = self.own.apps_with(&speaks_of_failure);
        apps.extend(asked.keys().cloned());
        apps.extend(self.judge.undone());
        let mut trouble = self.read_shared(!apps.is_empty()).await;
        if self.is_shared() {
            let failed = self.shared.rows.iter().filter(|row| speaks_of_failure(row));
            apps.extend(failed.map(|row| row.app.clone()));
        }
        let rows = self.rows_of(&apps);
        self.judge.keep(&apps);
        self.looked_at.retain(|app, _| apps.contains(app));
        self.unwritten.retain(|app, _| apps.contains(app));
        let mut orders = vec![];
        self.judge.set_blind(self.is_shared() && self.shared.is_old());
        // A part of the rows is no ground for a halt.
        if self.shared.read_at.is_some() {
            for app in self.due(&apps, asked) {
                let read = self.read_goal(&app, &mut trouble).await;
                let Some(goal) = read.or_else(|| self.judge.last_read(&app)) else { continue };
                self.looked_at.insert(app.clone(), Instant::now());
                if let Some(order) = self.judge.look(now_ms(), &app, goal, of_app(&app, &rows)) {
                    orders.push((app, order));
                }
            }
        }
        let trouble = trouble.or_else(|| self.shared.trouble.clone());
        let rules = TokenRules { trouble, ..self.judge.rules(now_ms(), rows.values().flatten()) };
        Found { rules, orders, rows }
    }

    /// Whether others write rows into the goal store.
    const fn is_shared(&self) -> bool {
        self.has_others || self.store.takes_host_status()
    }

    /// Reads the rows of the goal store if it is time to. Returns why it could not, if it tried
    /// just now and failed.
    async fn read_shared(&mut self, is_worth_it: bool) -> Option<String> {
        let is_due = self.shared.next_at.is_none_or(|at| at <= Instant::now());
        let is_first = self.shared.read_at.is_none();
        let is_wanted =
            is_first || self.store.takes_host_status() || self.has_others && is_worth_it;
        if !is_wanted || !is_due {
            return None;
        }
        let started = Instant::now();
        let read = self.store.statuses().await;
        let folder = self.store.takes_host_status();
        let least = if folder { FOLDER_INTERVAL } else { ETCD_INTERVAL };
        let took = read.is_ok().then(|| started.elapsed());
        self.shared.next_at = Some(Instant::now() + pause_after(least, took));
        self.shared.trouble = match read {
            Ok(rows) => {
                self.shared.take(now_ms(), started, rows);
                None
            }
            Err(error) => Some(describe(&error.into())),
        };
        self.shared.trouble.clone()
    }

    fn rows_of(&mut self, apps: &BTreeSet<AppName>) -> RowsByApp {
        let is_old = |at: Instant| at.elapsed() > FIRST_ROWS_MAX;
        if !self.is_shared() && self.shared.read_at.is_some_and(is_old) {
            self.shared.rows = vec![];
        }
        let mut rows = self.own.rows_of(apps);
        if !self.shared.rows.is_empty() {
            let shared = self.shared.rows.iter().filter(|row| apps.contains(&row.app)).cloned();
            rows = united(shared.chain(rows));
        }
        let now_ms = now_ms();
        rows.retain(|row| !self.is_left_over(now_ms, row));
        let mut by_app: RowsByApp = apps.iter().map(|app| (app.clone(), vec![])).collect();
        for row in rows {
            if let Some(of_app) = by_app.get_mut(&row.app) {
                of_app.push(row);
            }
        }
        by_app
    }

    /// Whether the node of this row lives, and no longer reports this app or this name: neither is
    /// the host away, nor does it belong to the group.
    fn is_left_over(&self, now_ms: u64, row: &HostStatus) -> bool {
        let Some(node) = row.node.as_deref().filter(|_| is_away(now_ms, row)) else { return false };
        let shared = self.shared.nodes.get(node).copied();
        let heard_at_ms = self.own.node_heard_at_ms(node).max(shared);
        heard_at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) <= ABSENT_AFTER_MS)
    }

    /// The apps whose goals are to be read now: those that nobody looked at for longest. Hosts
    /// that ask for a newer goal than was read wait for it.
    fn due(&self, apps: &BTreeSet<AppName>, asked: &AskedApps) -> Vec<AppName> {
        let now = Instant::now();
        let last = |app: &AppName| self.looked_at.get(app).copied();
        let is_newer =
            |app: &AppName| asked.get(app).is_some_and(|asked| self.judge.is_news(app, *asked));
        let is_due =
            |app: &&AppName| last(app).is_none_or(|at| now - at >= GOAL_INTERVAL) || is_newer(app);
        let mut due: Vec<AppName> = apps.iter().filter(is_due).cloned().collect();
        due.sort_by_key(last);
        due.truncate(GOALS_PER_LOOK_MAX);
        due
    }

    /// The goal of `app`, or why there is none to go by; `None` if the goal store does not answer.
    /// A store that failed at this look is not asked once more for each app.
    async fn read_goal(
        &self,
        app: &AppName,
        trouble: &mut Option<String>,
    ) -> Option<Result<Goal, String>> {
        if trouble.is_some() {
            return None;
        }
        let reason = match self.store.goal(app).await {
            Ok(Some(goal)) => return Some(Ok(goal)),
            Ok(None) => format!("the goal store has no goal for {app} any more"),
            // One damaged goal is no trouble of the others.
            Err(error @ GoalStoreError::Malformed { .. }) => {
                format!("the goal of {app} cannot be read: {}", describe(&error.into()))
            }
            Err(error) => {
                *trouble = Some(describe(&error.into()));
                return None;
            }
        };
        let is_said = matches!(self.judge.last_read(app), Some(Err(said)) if said == reason);
        if !is_said {
            tracing::warn!(
                %app, reason,
                "no token is granted until the goal store has a goal again; restore it, or deploy"
            );
        }
        Some(Err(reason))
    }

    /// Writes what the judge ordered, and what follows from it.
    async fn carry_out(&mut self, app: &AppName, order: Order, rows: &RowsByApp) {
        let mut next = Some(order);
        while let Some(order) = next.take() {
            let goal = match self.store.change(app, change_of(&order), terms_of(&order)).await {
                Ok(goal) => goal,
                // Somebody was faster: another seeder, or a person. The next look shows it.
                Err(GoalStoreError::Moved { .. } | GoalStoreError::NoGoal { .. }) => return,
                Err(error) => return self.on_unwritten(app, order, error),
            };
            self.unwritten.remove(app);
            report(&goal, &order);
            next = self.judge.look(now_ms(), app, Ok(goal), of_app(app, rows));
        }
    }

    /// The order is given again at the next look.
    fn on_unwritten(&mut self, app: &AppName, order: Order, error: GoalStoreError) {
        self.looked_at.remove(app);
        if self.unwritten.get(app) != Some(&order) {
            let error = describe(&error.into());
            let reason = order.reason();
            tracing::warn!(
                %app, reason, error,
                "the rollout is halted, and the goal store does not take that down: hosts without \
                 a limit on unavailable hosts go on; trying again"
            );
            self.unwritten.insert(app.clone(), order);
        }
    }
}

impl SharedRows {
    /// Takes over what was read. Seeders' clocks differ: what counts is when a row was seen to be
    /// newer than before, by this clock; theirs only where nothing was read before.
    fn take(&mut self, now_ms: u64, started: Instant, mut rows: Vec<HostStatus>) {
        if self.is_old() {
            self.heard.clear();
        }
        let mut heard = BTreeMap::new();
        self.nodes.clear();
        for row in &mut rows {
            let (key, theirs) = (key_of(row), row.heard_at_ms());
            let ours = match self.heard.get(&key) {
                Some((known, _)) if *known < theirs => now_ms,
                Some((_, ours)) => *ours,
                None => theirs.min(now_ms),
            };
            row.received_at_ms = ours;
            heard.insert(key, (theirs, ours));
            if let Some(node) = row.node.clone().filter(|_| row.phase != HostPhase::Stopped) {
                let latest = self.nodes.entry(node).or_default();
                *latest = ours.max(*latest);
            }
        }
        (self.rows, self.heard, self.read_at) = (rows, heard, Some(started));
    }

    /// Whether the rows were not read for so long that they say nothing of who is silent.
    fn is_old(&self) -> bool {
        let is_old = |at: Instant| at.elapsed() > Duration::from_millis(ABSENT_AFTER_MS);
        self.read_at.is_none_or(is_old)
    }
}

impl Order {
    fn reason(&self) -> &str {
        match self {
            Self::Halt { halted, .. } => &halted.reason,
            Self::GoBack { reason, .. } => reason,
        }
    }
}

/// How long to wait for the next read of all rows after one that `took` so long; `None`: it failed,
/// and says nothing of how long the next one takes.
fn pause_after(least: Duration, took: Option<Duration>) -> Duration {
    took.map_or(least, |took| (took * READING_SHARE).min(READING_PAUSE_MAX).max(least))
}

fn of_app<'a>(app: &AppName, rows: &'a RowsByApp) -> &'a [HostStatus] {
    rows.get(app).map_or(&[], Vec::as_slice)
}

fn change_of(order: &Order) -> GoalChange {
    match order {
        Order::Halt { halted, .. } => GoalChange::Halt { halted: halted.clone() },
        Order::GoBack { .. } => GoalChange::Rollback {
            target: RollbackTarget::LastGood,
            rollout: RolloutChange::default(),
        },
    }
}

fn terms_of(order: &Order) -> ChangeOrder {
    match order {
        // Whoever deployed stays the author; the halt has one of its own.
        Order::Halt { expected, .. } => {
            ChangeOrder { expected: Some(*expected), ..ChangeOrder::default() }
        }
        Order::GoBack { expected, reason, outcome } => ChangeOrder {
            origin: Origin {
                author: Some(HALTED_BY_SEEDER.into()),
                comment: Some(reason.clone()),
                version: None,
            },
            expected: Some(*expected),
            outcome: Some(*outcome),
            ..ChangeOrder::default()
        },
    }
}

fn report(goal: &Goal, order: &Order) {
    let (app, generation, build) = (&goal.app, goal.generation, goal.build);
    let reason = order.reason();
    match order {
        Order::Halt { .. } => {
            tracing::warn!(%app, generation, %build, reason, "the rollout is halted");
        }
        Order::GoBack { .. } => {
            tracing::warn!(%app, generation, %build, reason, "the app goes back to this build");
        }
    }
}

#[cfg(test)]
mod tests;
