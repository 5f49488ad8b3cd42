//! Watches the demo's hosts on their way to a goal, and shows it.
//!
//! On a terminal a bar per host, elsewhere a line per change of phase. Gives up when a process has
//! ended, when a host keeps failing, or when nothing changes any more.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use goal_state::{Goal, GoalStore, HostPhase, HostStatus};
use indicatif::{MultiProgress, ProgressBar};

use crate::demo::children::Children;
use crate::output::{self, bars, human};
use crate::rollout::{Standing, standing};
use crate::status::table::phase_word;

/// How often statuses are read: a few times per report of a host.
const POLL: Duration = Duration::from_millis(150);

/// How long a host may say that it failed: agents try again, and the first try of a program may
/// find its port still taken.
const FAILED_TIMEOUT: Duration = Duration::from_secs(30);

/// How long nothing at all may change. Longer than any step of a host on a busy machine takes.
const STALL_TIMEOUT: Duration = Duration::from_mins(2);

/// Most hosts with a bar each: more do not fit on a screen.
const BARS_MAX: usize = 16;

/// Why hosts did not get there.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    /// A process of the demo ended.
    #[error("{name} ended by itself ({status})")]
    Ended { name: String, status: std::process::ExitStatus },
    /// A host keeps failing.
    #[error("{host} failed: {message}")]
    Failed { host: String, message: String },
    /// Nothing happens any more.
    #[error("nothing changed for {} s; still missing: {}", STALL_TIMEOUT.as_secs(), missing.join(", "))]
    Stalled { missing: Vec<String> },
}

impl FollowError {
    /// The process whose log may say more.
    pub(super) fn culprit(&self) -> Option<&str> {
        match self {
            Self::Ended { name, .. } => Some(name),
            Self::Failed { host, .. } => Some(host),
            Self::Stalled { missing } => missing.first().map(String::as_str),
        }
    }
}

/// Waits until every one of `hosts` has reported anything, or `timeout` is over: hosts that start
/// together make the figures comparable, but a late one is no failure yet.
///
/// # Errors
///
/// If a process ended.
pub(super) async fn wait_for_reports(
    store: &GoalStore,
    hosts: &[String],
    children: &mut Children,
    timeout: Duration,
) -> Result<(), FollowError> {
    let started = Instant::now();
    while started.elapsed() < timeout {
        check_alive(children)?;
        let rows = statuses(store).await;
        if hosts.iter().all(|host| rows.iter().any(|row| row.host == *host)) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Waits until every one of `hosts` runs the goal's build; returns their rows in the same order.
///
/// # Errors
///
/// If one does not get there.
pub(super) async fn follow(
    store: &GoalStore,
    goal: &Goal,
    hosts: &[String],
    children: &mut Children,
) -> Result<Vec<HostStatus>, FollowError> {
    let mut view = View::new(hosts);
    let mut watch = Watch::new(Instant::now());
    loop {
        let rows = statuses(store).await;
        let rows: BTreeMap<String, HostStatus> = rows
            .into_iter()
            .filter(|row| row.app == goal.app)
            .map(|row| (row.host.clone(), row))
            .collect();
        // Rows from before the goal would show the last deploy's bytes as this one's.
        let current: Vec<&HostStatus> =
            rows.values().filter(|row| row.generation == Some(goal.generation)).collect();
        view.show(&current);
        let found: Vec<HostStatus> = hosts
            .iter()
            .filter_map(|host| rows.get(host))
            .filter(|row| is_on_goal(goal, row))
            .cloned()
            .collect();
        if found.len() == hosts.len() {
            return Ok(found);
        }
        check_alive(children)?;
        watch.check(Instant::now(), goal, hosts, &current)?;
        tokio::time::sleep(POLL).await;
    }
}

/// A store that cannot be read once counts as one where nothing changed.
async fn statuses(store: &GoalStore) -> Vec<HostStatus> {
    store.statuses().await.unwrap_or_else(|error| {
        tracing::debug!(%error, "cannot read statuses");
        vec![]
    })
}

fn check_alive(children: &mut Children) -> Result<(), FollowError> {
    match children.find_ended() {
        Some((name, status)) => Err(FollowError::Ended { name, status }),
        None => Ok(()),
    }
}

/// Since when nothing has changed, and since when each failing host has been failing.
#[derive(Debug)]
struct Watch {
    seen: Vec<(String, HostPhase, u64)>,
    changed_at: Instant,
    failing_since: BTreeMap<String, Instant>,
}

impl Watch {
    const fn new(now: Instant) -> Self {
        Self { seen: vec![], changed_at: now, failing_since: BTreeMap::new() }
    }

    fn check(
        &mut self,
        now: Instant,
        goal: &Goal,
        hosts: &[String],
        rows: &[&HostStatus],
    ) -> Result<(), FollowError> {
        self.failing_since.retain(|host, _| {
            rows.iter().any(|row| row.host == *host && row.phase == HostPhase::Failed)
        });
        for row in rows.iter().filter(|row| row.phase == HostPhase::Failed) {
            let since = *self.failing_since.entry(row.host.clone()).or_insert(now);
            if now.duration_since(since) >= FAILED_TIMEOUT {
                let message = row.message.as_deref().unwrap_or("it does not say why");
                let (host, message) = (row.host.clone(), human::printable(message));
                return Err(FollowError::Failed { host, message });
            }
        }
        let seen = rows.iter().map(|row| (row.host.clone(), row.phase, row.bytes_done)).collect();
        if self.seen != seen {
            self.seen = seen;
            self.changed_at = now;
        }
        if now.duration_since(self.changed_at) < STALL_TIMEOUT {
            return Ok(());
        }
        let is_there =
            |host: &&String| rows.iter().any(|row| row.host == **host && is_on_goal(goal, row));
        Err(FollowError::Stalled {
            missing: hosts.iter().filter(|host| !is_there(host)).cloned().collect(),
        })
    }
}

/// What the person sees.
struct View {
    screen: MultiProgress,
    bars: BTreeMap<String, ProgressBar>,
    /// In place of bars, if there are too many hosts for them.
    total: Option<ProgressBar>,
    phases: BTreeMap<String, HostPhase>,
    started: Instant,
    is_terminal: bool,
}

impl View {
    fn new(hosts: &[String]) -> Self {
        let screen = MultiProgress::new();
        let is_terminal = io::stderr().is_terminal();
        let add = |name: &String| screen.add(bars::of_host(name.clone()));
        let few = hosts.len() <= BARS_MAX;
        Self {
            bars: hosts.iter().filter(|_| few).map(|host| (host.clone(), add(host))).collect(),
            total: (!few).then(|| add(&format!("{} hosts", hosts.len()))),
            screen,
            phases: BTreeMap::new(),
            started: Instant::now(),
            is_terminal,
        }
    }

    fn show(&mut self, rows: &[&HostStatus]) {
        for row in rows {
            if let Some(bar) = self.bars.get(&row.host) {
                bar.set_length(row.bytes_total.unwrap_or(1).max(1));
                bar.set_position(row.bytes_done);
                bar.set_message(message(row));
            }
            let is_news = self.phases.insert(row.host.clone(), row.phase) != Some(row.phase);
            if is_news && !self.is_terminal {
                let after = human::seconds(self.started.elapsed());
                output::note(&format!("  {after:>6}  {:<8}  {}", row.host, message(row)));
            }
        }
        if let Some(total) = &self.total {
            let sum = |of: fn(&HostStatus) -> u64| rows.iter().map(|row| of(row)).sum::<u64>();
            let running = rows.iter().filter(|row| row.phase == HostPhase::Running).count();
            total.set_length(sum(|row| row.bytes_total.unwrap_or(0)).max(1));
            total.set_position(sum(|row| row.bytes_done));
            total.set_message(format!("{running} run it"));
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // Fails if standard error is gone; then there is nothing to clear either.
        drop(self.screen.clear());
    }
}

fn message(row: &HostStatus) -> String {
    let word = phase_word(row.phase);
    match (row.phase, &row.message) {
        (HostPhase::Failed, Some(message)) => format!("{word}: {}", human::printable(message)),
        (HostPhase::Locating | HostPhase::NoGoal, _) => word.to_owned(),
        _ => format!(
            "{word}, {} MiB from own disk, {} from seeder, {} from peers",
            human::mebibytes(row.bytes_reused),
            human::mebibytes(row.bytes_from_seeders),
            human::mebibytes(row.bytes_from_peers)
        ),
    }
}

/// Whether the host is there by its last word: the demo's own processes do not go silent unseen.
fn is_on_goal(goal: &Goal, row: &HostStatus) -> bool {
    standing(row.heard_at_ms(), goal, row) == Standing::OnGoal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::tests::{goal, row};

    fn hosts() -> Vec<String> {
        vec!["a".into(), "b".into()]
    }

    #[test]
    fn standstill_names_who_is_missing_and_change_resets_it() {
        let start = Instant::now();
        let goal = goal("web", 2, 2);
        let there = row("a", 2, 2, HostPhase::Running);
        let mut underway = row("b", 2, 2, HostPhase::Downloading);
        let mut watch = Watch::new(start);
        let late = start + STALL_TIMEOUT;
        watch.check(start, &goal, &hosts(), &[&there, &underway]).unwrap();
        underway.bytes_done -= 1;
        watch.check(late, &goal, &hosts(), &[&there, &underway]).unwrap();
        let error = watch.check(late + STALL_TIMEOUT, &goal, &hosts(), &[&there, &underway]);
        let error = error.unwrap_err();
        assert!(matches!(&error, FollowError::Stalled { missing } if *missing == ["b"]), "{error}");
        assert_eq!(error.culprit(), Some("b"));
    }

    #[test]
    fn failure_counts_once_it_lasts() {
        let start = Instant::now();
        let goal = goal("web", 2, 2);
        let failed = row("a", 2, 2, HostPhase::Failed);
        let recovered = row("a", 2, 2, HostPhase::Switching);
        let mut watch = Watch::new(start);
        let half = FAILED_TIMEOUT / 2;
        watch.check(start, &goal, &hosts(), &[&failed]).unwrap();
        watch.check(start + half, &goal, &hosts(), &[&recovered]).unwrap();
        watch.check(start + FAILED_TIMEOUT, &goal, &hosts(), &[&failed]).unwrap();
        watch.check(start + FAILED_TIMEOUT + half, &goal, &hosts(), &[&failed]).unwrap();
        let error = watch.check(start + FAILED_TIMEOUT * 2, &goal, &hosts(), &[&failed]);
        assert!(matches!(error, Err(FollowError::Failed { host, .. }) if host == "a"));
    }
}
