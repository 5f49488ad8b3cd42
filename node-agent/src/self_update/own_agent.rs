//! This agent as an app of its own: which build it runs, how long it has been well, and how it is
//! replaced.
//!
//! Invariant: nothing here replaces the process by itself; whoever runs the agent is asked to do it
//! when that is safe. What happens at the next start is in `self_update`.

use std::sync::Arc;
use std::time::Duration;

use p2p_core::BuildId;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::brain::model::AgentView;
use crate::host::probe::Health;
use crate::report::service::Heartbeat;
use crate::self_update::running_build;

/// Bounds of the least time between two restarts of the agent by itself. Between them it is
/// `min_healthy_time`. With the lower one, an agent that cannot be started is not tried without a
/// pause; with the upper one, a long probation does not hold a restart up.
const RESTART_INTERVAL_MIN: Duration = Duration::from_secs(1);
const RESTART_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct OwnAgent {
    runs: Option<BuildId>,
    heartbeat: Heartbeat,
    restart: Arc<Notify>,
    started_at: Instant,
    observed_at: Instant,
    /// Since when all loops report in and the goal store answers, without a break.
    well_since: Option<Instant>,
    /// Whether it was well for long enough, once.
    is_good: bool,
    replacement: Replacement,
}

/// How far this process is with making room for another agent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Replacement {
    /// The last restart was just now.
    TooEarly,
    /// It may be asked for.
    Possible,
    /// It was asked for, once and for all.
    Begun,
}

impl OwnAgent {
    /// This process, whose loops report to `heartbeat` and which is replaced by whoever waits for
    /// `restart`.
    pub(crate) fn new(heartbeat: Heartbeat, restart: Arc<Notify>) -> Self {
        let now = Instant::now();
        Self {
            runs: running_build(),
            heartbeat,
            restart,
            started_at: now,
            observed_at: now,
            well_since: None,
            is_good: false,
            replacement: Replacement::TooEarly,
        }
    }

    /// Notes how the agent is now; `knows_goal` if the goal store answered.
    pub(crate) fn observe(&mut self, knows_goal: bool, health: &Health) {
        self.observed_at = Instant::now();
        if self.replacement == Replacement::TooEarly && self.is_past(self.restart_at(health)) {
            self.replacement = Replacement::Possible;
        }
        if !knows_goal || !self.heartbeat.overdue().is_empty() {
            self.well_since = None;
            return;
        }
        self.well_since.get_or_insert(self.observed_at);
        self.is_good |= self.is_past(self.good_at(health));
    }

    /// When it has proved itself if it stays well. Like all of these times `None` for never.
    fn good_at(&self, health: &Health) -> Option<Instant> {
        self.well_since?.checked_add(health.min_healthy_time)
    }

    fn restart_at(&self, health: &Health) -> Option<Instant> {
        let interval = health.min_healthy_time.clamp(RESTART_INTERVAL_MIN, RESTART_INTERVAL_MAX);
        self.started_at.checked_add(interval)
    }

    fn overdue_at(&self, health: &Health) -> Option<Instant> {
        self.started_at.checked_add(health.deadline)
    }

    fn is_past(&self, at: Option<Instant>) -> bool {
        at.is_some_and(|at| at <= self.observed_at)
    }

    /// When another look will show something new although nothing happens; `None` if none will.
    pub(crate) fn next_change(&self, health: &Health) -> Option<Instant> {
        let verdicts = [self.good_at(health), self.overdue_at(health)];
        let verdicts = verdicts.into_iter().filter(|_| !self.is_good);
        let is_early = self.replacement == Replacement::TooEarly;
        let all = verdicts.chain([self.restart_at(health).filter(|_| is_early)]);
        all.flatten().filter(|at| *at > self.observed_at).min()
    }

    /// The build that this process was started from; `None` for the installed agent.
    pub(crate) const fn runs(&self) -> Option<BuildId> {
        self.runs
    }

    pub(crate) const fn view(&self) -> AgentView {
        AgentView {
            runs: self.runs,
            is_good: self.is_good,
            may_restart: matches!(self.replacement, Replacement::Possible),
        }
    }

    /// Whether it was not well within its deadline.
    pub(crate) fn is_overdue(&self, health: &Health) -> bool {
        !self.is_good && self.is_past(self.overdue_at(health))
    }

    /// Lets the agent be replaced, once. Until that happens it stays the agent that it is.
    pub(crate) fn order_restart(&mut self) {
        self.replacement = Replacement::Begun;
        self.restart.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::service::OVERDUE_AFTER;

    fn health(min_healthy_ms: u64, deadline_ms: u64) -> Health {
        Health {
            min_healthy_time: Duration::from_millis(min_healthy_ms),
            deadline: Duration::from_millis(deadline_ms),
            ..Health::default()
        }
    }

    fn own_agent() -> OwnAgent {
        OwnAgent::new(Heartbeat::default(), Arc::default())
    }

    /// Lets time pass until the next look that `agent` asks for, in milliseconds, and looks.
    async fn look(agent: &mut OwnAgent, knows_goal: bool, health: &Health) -> Option<u128> {
        let at = agent.next_change(health)?;
        let wait = at - Instant::now();
        tokio::time::advance(wait).await;
        agent.observe(knows_goal, health);
        Some(wait.as_millis())
    }

    /// Goal: between the order and the replacement this process does not pass for the new agent.
    /// Method: what the brain is shown before and after the order.
    #[tokio::test(start_paused = true)]
    async fn agent_that_is_to_be_replaced_stays_what_it_is() {
        let restart = Arc::new(Notify::new());
        let mut agent = OwnAgent::new(Heartbeat::default(), restart.clone());
        tokio::time::advance(RESTART_INTERVAL_MAX).await;
        agent.observe(true, &Health::default());
        let before = agent.view();
        assert!(before.may_restart);
        agent.order_restart();
        agent.observe(true, &Health::default());
        assert_eq!(agent.view(), AgentView { may_restart: false, ..before });
        restart.notified().await;
    }

    /// Goal: the agent is good when its settings say so, and nobody has to look before or after.
    #[tokio::test(start_paused = true)]
    async fn probation_takes_as_long_as_the_setting_says() {
        for (min_healthy_ms, restart_ms) in [(300, 1_000), (3_000, 3_000), (60_000, 10_000)] {
            let (health, mut agent) = (health(min_healthy_ms, 120_000), own_agent());
            let started_at = Instant::now();
            agent.observe(true, &health);
            let (mut good_at, mut restart_at) = (None, None);
            while look(&mut agent, true, &health).await.is_some() {
                let at = started_at.elapsed().as_millis();
                let view = agent.view();
                good_at = good_at.or(view.is_good.then_some(at));
                restart_at = restart_at.or(view.may_restart.then_some(at));
            }
            assert_eq!((good_at, restart_at), (Some(min_healthy_ms.into()), Some(restart_ms)));
            assert!(!agent.is_overdue(&health));
        }
    }

    /// Goal: only time without a break counts, and a setting that is changed holds at once.
    #[tokio::test(start_paused = true)]
    async fn probation_starts_again_after_a_break() {
        let (health, mut agent) = (health(10_000, 120_000), own_agent());
        for (after_ms, knows_goal, is_good) in
            [(0, true, false), (9_000, false, false), (1_000, true, false), (9_999, true, false)]
        {
            tokio::time::advance(Duration::from_millis(after_ms)).await;
            agent.observe(knows_goal, &health);
            assert_eq!(agent.view().is_good, is_good);
        }
        assert_eq!(look(&mut agent, true, &health).await, Some(1));
        assert!(agent.view().is_good);

        let (patient, mut agent) = (health.clone(), own_agent());
        agent.observe(true, &patient);
        tokio::time::advance(Duration::from_secs(2)).await;
        let short = Health { min_healthy_time: Duration::from_secs(1), ..health };
        agent.observe(true, &short);
        assert!(agent.view().is_good);
    }

    /// Goal: an agent that is never well is overdue at its deadline, and stays good once it was.
    #[tokio::test(start_paused = true)]
    async fn agent_that_is_never_well_is_overdue() {
        let (health, heartbeat) = (health(500, 5_000), Heartbeat::default());
        let mut agent = OwnAgent::new(heartbeat.clone(), Arc::default());
        agent.observe(false, &health);
        assert_eq!(look(&mut agent, false, &health).await, Some(1_000), "the next restart");
        assert!(!agent.is_overdue(&health));
        assert_eq!(look(&mut agent, false, &health).await, Some(4_000));
        assert!(agent.is_overdue(&health));
        assert_eq!(look(&mut agent, false, &health).await, None);

        let mut agent = OwnAgent::new(heartbeat.clone(), Arc::default());
        let _web = heartbeat.register("web");
        agent.observe(true, &health);
        look(&mut agent, true, &health).await;
        assert!(agent.view().is_good);
        tokio::time::advance(OVERDUE_AFTER * 2).await;
        agent.observe(true, &health);
        assert!(agent.view().is_good && !agent.is_overdue(&health));
    }

    #[tokio::test(start_paused = true)]
    async fn agent_with_a_loop_that_hangs_is_not_well() {
        let (health, heartbeat) = (health(120_000, 600_000), Heartbeat::default());
        let mut agent = OwnAgent::new(heartbeat.clone(), Arc::default());
        let web = heartbeat.register("web");
        agent.observe(true, &health);
        tokio::time::advance(OVERDUE_AFTER * 2).await;
        agent.observe(true, &health);
        assert!(!agent.view().is_good);
        web.beat();
        agent.observe(true, &health);
        assert!(!agent.view().is_good, "it has to be well all over again");
    }

    #[tokio::test(start_paused = true)]
    async fn times_without_end_are_never_due() {
        let health = Health {
            min_healthy_time: Duration::MAX,
            deadline: Duration::MAX,
            ..Health::default()
        };
        let mut agent = own_agent();
        agent.observe(true, &health);
        assert!(look(&mut agent, true, &health).await.is_some(), "the next restart");
        assert_eq!(look(&mut agent, true, &health).await, None);
        assert!(!agent.view().is_good && !agent.is_overdue(&health));
    }
}
