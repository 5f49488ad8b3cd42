//! This agent as an app of its own: which build it runs, how long it has been well, and how it is
//! replaced.
//!
//! Invariant: nothing here replaces the process by itself; whoever runs the agent is told and does it
//! when that is safe. What happens at the next start is in `self_update`.

use std::sync::Arc;
use std::time::Duration;

use p2p_core::BuildId;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::probe::Health;
use crate::reconcile::AgentView;
use crate::self_update::{Probation, running_build};
use crate::service::Heartbeat;

/// Least time between two restarts of the agent by itself.
const RESTART_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// See the head of this file.
#[derive(Debug)]
pub struct OwnAgent {
    runs: Option<BuildId>,
    heartbeat: Heartbeat,
    restart: Arc<Notify>,
    started_at: Instant,
    probation: Probation,
    is_good: bool,
    is_replaced: bool,
}

impl OwnAgent {
    /// This process, whose loops report to `heartbeat` and which is replaced by whoever waits for
    /// `restart`.
    pub fn new(health: &Health, heartbeat: Heartbeat, restart: Arc<Notify>) -> Self {
        Self {
            runs: running_build(),
            heartbeat,
            restart,
            started_at: Instant::now(),
            probation: Probation::new(health.min_healthy_time),
            is_good: false,
            is_replaced: false,
        }
    }

    /// Notes how the agent is now; `knows_goal` if the goal store answered.
    pub(crate) fn observe(&mut self, knows_goal: bool) {
        let is_well = knows_goal && self.heartbeat.overdue().is_empty();
        self.is_good |= self.probation.observe(Instant::now().into_std(), is_well);
    }

    pub(crate) fn view(&self) -> AgentView {
        AgentView {
            runs: self.runs,
            is_good: self.is_good,
            may_restart: !self.is_replaced && self.started_at.elapsed() >= RESTART_INTERVAL_MIN,
        }
    }

    /// Whether it was not well within its deadline.
    pub(crate) fn is_overdue(&self, health: &Health) -> bool {
        !self.is_good && self.started_at.elapsed() >= health.deadline
    }

    /// Lets the agent be replaced, once. Until that happens it stays the agent that it is.
    pub(crate) fn order_restart(&mut self) {
        self.is_replaced = true;
        self.restart.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: between the order and the replacement this process does not pass for the new agent.
    /// Method: what the brain is shown before and after the order.
    #[tokio::test(start_paused = true)]
    async fn agent_that_is_to_be_replaced_stays_what_it_is() {
        let restart = Arc::new(Notify::new());
        let mut agent = OwnAgent::new(&Health::default(), Heartbeat::default(), restart.clone());
        tokio::time::advance(RESTART_INTERVAL_MIN).await;
        let before = agent.view();
        assert!(before.may_restart);
        agent.order_restart();
        assert_eq!(agent.view(), AgentView { may_restart: false, ..before });
        restart.notified().await;
    }
}
