//! What goes with every change of a goal: who makes it, the generation that hosts follow already,
//! and how far the goal that is replaced has come.
//!
//! Reads the goal store, writes nothing. Invariant: what cannot be read holds nothing up, because a
//! rollback and a halt must work when a status document does not; it is said.

use std::env;

use anyhow::Context as _;
use goal_state::{
    AppName, ChangeOrder, Goal, GoalStore, GoalStoreError, HostStatus, Origin, now_ms, outcome,
};

use crate::runtime::read_inventory;

/// Who changes a goal, and on what condition.
#[derive(Debug, clap::Args)]
pub(crate) struct OriginArgs {
    /// Why, for whoever reads: shoal history APP
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Who, instead of USER@MACHINE
    #[arg(long, value_name = "NAME", env = "SHOAL_AUTHOR")]
    author: Option<String>,
    /// Change nothing unless the goal has this generation now, so that two people who act at once
    /// do not act twice
    #[arg(long, value_name = "GENERATION")]
    pub(crate) from: Option<u64>,
}

impl OriginArgs {
    /// The origin of a change; `version` is what people call its build.
    pub(crate) fn origin(&self, version: Option<&str>) -> Origin {
        Origin {
            author: self.author.clone().or_else(author),
            comment: self.comment.clone(),
            version: version.map(str::to_owned),
        }
    }
}

/// Such as `ann@desk`; `None` where the system knows no name.
fn author() -> Option<String> {
    let user = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok());
    let user = user.filter(|user| !user.is_empty()).or_else(|| {
        // Of services and containers.
        let user = rustix::process::getuid();
        Some(if user.is_root() { "root".to_owned() } else { format!("uid {}", user.as_raw()) })
    });
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    match (user, machine.is_empty()) {
        (Some(user), false) => Some(format!("{user}@{machine}")),
        (Some(user), true) => Some(user),
        (None, false) => Some(machine),
        (None, true) => None,
    }
}

/// The goal of `app`. A store that does not exist yet has none.
pub(crate) async fn goal_of(store: &GoalStore, app: &AppName) -> anyhow::Result<Goal> {
    let goal = match store.goal(app).await {
        Err(GoalStoreError::StoreMissing { .. }) => None,
        read => read.context("cannot read the goal; check --goal")?,
    };
    Ok(goal.ok_or_else(|| GoalStoreError::NoGoal { app: app.clone() })?)
}

/// What was in the goal store before a change. Read once: the inventory of a region is hundreds of
/// documents.
pub(crate) struct Seen {
    /// `None` if there is none, or if it cannot be read: that stops the change itself.
    pub(crate) goal: Option<Goal>,
    /// The inventory, or why it cannot be read.
    pub(crate) rows: anyhow::Result<Vec<HostStatus>>,
}

impl Seen {
    /// Looks at the inventory beside a goal that was read.
    pub(crate) async fn with_goal(store: &GoalStore, goal: Option<Goal>) -> Self {
        Self { goal, rows: read_inventory(store).await }
    }

    /// Looks at all there is about `app`.
    pub(crate) async fn look(store: &GoalStore, app: &AppName) -> Self {
        Self::with_goal(store, store.goal(app).await.ok().flatten()).await
    }

    /// The inventory; empty if it cannot be read.
    pub(crate) fn rows(&self) -> &[HostStatus] {
        self.rows.as_deref().unwrap_or_default()
    }

    /// What could not be read, to be said if the change is made all the same.
    pub(crate) fn warning(&self) -> Option<String> {
        let error = command_line::describe(self.rows.as_ref().err()?);
        Some(format!("{error}; the generation that hosts follow is not known"))
    }

    /// The order for a change of the goal of `app`.
    pub(crate) fn order(
        &self,
        app: &AppName,
        args: &OriginArgs,
        version: Option<&str>,
    ) -> ChangeOrder {
        ChangeOrder {
            origin: args.origin(version),
            expected: args.from,
            above: highest(app, self.rows()),
            // Without the inventory, that no host failed is not known, and must not be kept.
            outcome: self
                .goal
                .as_ref()
                .zip(self.rows.as_ref().ok())
                .map(|(goal, rows)| outcome(now_ms(), goal, rows)),
        }
    }
}

/// The highest generation that a host follows. A host that claims one of the last there are would
/// end all deploys, so such claims are left out.
pub(crate) fn highest(app: &AppName, rows: &[HostStatus]) -> u64 {
    let rows = rows.iter().filter(|row| row.app == *app);
    let followed = rows.filter_map(|row| row.generation);
    followed.filter(|generation| *generation <= GENERATION_MAX).max().unwrap_or(0)
}

/// Beyond this JSON readers lose digits. No fleet gets there by deploying, not even one whose
/// generations began with a time in milliseconds.
pub(crate) const GENERATION_MAX: u64 = 1 << 53;

/// What to say about an app that nobody seems to know: a misspelt name, or the first deploy of a
/// new one.
pub(crate) fn unknown_app(
    app: &AppName,
    before: Option<&Goal>,
    rows: &[HostStatus],
) -> Option<String> {
    if before.is_some() || rows.iter().any(|row| row.app == *app) {
        return None;
    }
    let mut known: Vec<&str> = rows.iter().map(|row| row.app.as_str()).collect();
    known.dedup();
    known.sort_unstable();
    known.dedup();
    if known.is_empty() {
        return None;
    }
    Some(format!("no host reports the app {app}; hosts report {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use goal_state::HostPhase;

    use super::*;
    use crate::rollout::tests::{goal, row};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        origin: OriginArgs,
    }

    /// Goal: a build that failed everywhere does not become one that failed nowhere because the
    /// inventory could not be read when it was replaced.
    #[test]
    fn outcome_is_not_kept_if_it_is_not_known() {
        let app: AppName = "web".parse().unwrap();
        let args = Line::parse_from(["shoal"]).origin;
        let seen = |rows| Seen { goal: Some(goal("web", 2, 2)), rows };
        let unread = seen(Err(anyhow::anyhow!("no")));
        assert_eq!(unread.order(&app, &args, None).outcome, None);
        let read = seen(Ok(vec![row("a", 2, 2, HostPhase::Running)]));
        assert_eq!(read.order(&app, &args, None).outcome.unwrap().hosts, 1);
    }

    #[test]
    fn generations_that_nobody_can_have_are_left_out() {
        let app = "web".parse().unwrap();
        let rows = [
            row("a", 53, 1, HostPhase::Running),
            row("b", u64::MAX, 1, HostPhase::Running),
            HostStatus { app: "db".parse().unwrap(), ..row("c", 90, 1, HostPhase::Running) },
        ];
        assert_eq!(highest(&app, &rows), 53);
        assert_eq!(highest(&app, &[]), 0);
    }

    #[test]
    fn misspelt_app_is_named_beside_those_that_hosts_report() {
        let rows = [row("a", 1, 1, HostPhase::Running), row("b", 1, 1, HostPhase::Running)];
        let wbe: AppName = "wbe".parse().unwrap();
        let said = unknown_app(&wbe, None, &rows).unwrap();
        assert_eq!(said, "no host reports the app wbe; hosts report web");
        assert_eq!(unknown_app(&wbe, None, &[]), None, "a new fleet");
        assert_eq!(unknown_app(&wbe, Some(&goal("wbe", 1, 1)), &rows), None);
        assert_eq!(unknown_app(&"web".parse().unwrap(), None, &rows), None);
    }
}
