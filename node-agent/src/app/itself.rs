//! The loop of the app that is the agent: how well this process is, and its replacement.
//!
//! Invariant: the loop wakes when time alone changes what the brain is shown of the agent, and not
//! before. Whatever else changes it (the goal store's answer, other loops) is seen at the next
//! wake.

use std::mem::ManuallyDrop;

use tokio::time::sleep_until;
use tracing::info;

use super::App;
use crate::app::settings::AppSettings;
use crate::fleet::source::BuildSource;
use crate::fleet::tokens::TokenDesk;
use crate::host::Host;
use crate::self_update::own_agent::OwnAgent;
use crate::state::app_dir::{Journal, JournalPhase};

impl<S: BuildSource, H: Host, T: TokenDesk> App<S, H, T> {
    pub(super) fn observe_own_agent(&mut self) {
        let Some(agent) = &mut self.own_agent else { return };
        let knows_goal = {
            let goal = self.goal.borrow();
            goal.has_answered && goal.trouble.is_none()
        };
        let health = &self.settings.app.health;
        agent.observe(knows_goal, health);
        let is_switching = |journal: &&Journal| journal.phase == JournalPhase::Switching;
        let tried = self.journal.as_ref().filter(is_switching).map(|journal| journal.to);
        if let Some(build) = tried.filter(|build| agent.runs() == Some(*build))
            && agent.is_overdue(health)
        {
            let deadline = humantime::format_duration(health.deadline);
            let reason = format!(
                "the agent was not well within {deadline}: a loop of it hangs, or the goal cannot be read"
            );
            self.hooks.fail(build, reason);
        }
    }

    /// Ends the loop for the agent that takes the place of this one.
    pub(super) async fn let_go(mut self) {
        // Not given back: the switch is not over, and the next agent asks again for the same host.
        let _kept = ManuallyDrop::new(self.token.take());
        self.hooks.leave().await;
    }

    pub(super) fn restart_agent(&mut self) {
        if let Some(agent) = &mut self.own_agent {
            info!("the agent of the new build takes over");
            agent.order_restart();
        }
    }
}

/// Waits until time changes what is known of the agent, if this is its app. Cancel safe.
pub(super) async fn own_agent_change(agent: Option<&OwnAgent>, settings: &AppSettings) {
    match agent.and_then(|agent| agent.next_change(&settings.app.health)) {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
