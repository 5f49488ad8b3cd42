//! `shoal deploy`, `rollback`, `restart`, `rollout` and `switch`: change the goal of an app, and
//! wait until its hosts follow.
//!
//! Changing the goal is one write; everything after it only watches
//! ([`wait`](crate::rollout::wait)). The arguments are in [`commands`](crate::rollout::commands).

use anyhow::Context as _;
use goal_state::{
    AppName, Goal, GoalChange, GoalStore, HostStatus, PastGoal, RollbackTarget, RolloutChange,
    SwitchTime, causes, now_ms, outcome,
};

use crate::output::{self, Outcome, human};
use crate::rollout::commands::{
    Absence, CommonArgs, DeployArgs, RestartArgs, RollbackArgs, RolloutCommandArgs, SwitchArgs,
};
use crate::rollout::end::{End, Ended};
use crate::rollout::order::{self, GENERATION_MAX, Seen, goal_of};
use crate::rollout::wait::Waiter;
use crate::rollout::{history, report, survey, view};
use crate::runtime::block_on;

/// How often a deploy is set anew because the goal store turns out to be behind the hosts. Once: a
/// store that is lost twice within one command needs a person.
const RAISES_MAX: u32 = 1;

/// Sets the goal; with `--wait` follows it to its end.
///
/// # Errors
///
/// If the goal store cannot be read or written.
pub(crate) fn deploy(args: &DeployArgs) -> anyhow::Result<Outcome> {
    let rollout = RolloutChange { switch: args.when.switch(), ..args.rollout.for_new_build() };
    let change = GoalChange::Deploy { build: args.build, rollout };
    let version = args.version.as_deref();
    block_on(async {
        let store = GoalStore::new(&args.common.goal.url);
        let seen = Seen::look(&store, &args.app).await;
        if let Some(stranger) = order::unknown_app(&args.app, seen.goal.as_ref(), seen.rows())
            && !args.new_app
        {
            anyhow::bail!(
                "cannot deploy {}: {stranger}; check the name, or if the app is new: --new-app",
                args.app
            );
        }
        if let Some(before) = &seen.goal {
            for known in history::known_of(before, args.build, seen.rows()) {
                output::note(&known);
            }
        }
        let ordering = Ordering { version, ..Ordering::new(&args.app, &args.common) };
        ordering.carry_out(&store, change, seen).await
    })
}

/// Makes the last good build the goal again, or the one that is named.
///
/// # Errors
///
/// If there is none, or the goal store cannot be read or written.
pub(crate) fn rollback(args: &RollbackArgs) -> anyhow::Result<Outcome> {
    block_on(async {
        let store = GoalStore::new(&args.common.goal.url);
        let goal = goal_of(&store, &args.app).await?;
        let seen = Seen::with_goal(&store, Some(goal.clone())).await;
        let target = match &args.to {
            Some(to) => RollbackTarget::Generation(history::find(&goal, to)?.generation),
            None => RollbackTarget::LastGood,
        };
        if let Some(past) = goal.rollback_target(target) {
            for skipped in history::skipped(&goal, past) {
                output::note(&skipped);
            }
            warn_of_failures(past, &args.app, seen.rows());
        }
        let change = GoalChange::Rollback { target, rollout: args.rollout.for_new_build() };
        Ordering::new(&args.app, &args.common).carry_out(&store, change, seen).await
    })
}

/// Says on which hosts the build that a rollback goes to has failed, before it is taken.
fn warn_of_failures(past: &PastGoal, app: &AppName, rows: &[HostStatus]) {
    let build = past.build.short();
    if let Some(outcome) = past.outcome.filter(|outcome| outcome.failed > 0) {
        output::note(&format!("build {build}: {}", history::outcome_text(outcome)));
    }
    let failed = history::gave_up(app, past.build, rows);
    if !failed.is_empty() {
        output::note(&format!(
            "build {build} failed on {} and is not tried again there: {}",
            human::counted(failed.len(), "host"),
            report::names(failed)
        ));
    }
}

/// Orders the hosts of an app to restart its program.
///
/// # Errors
///
/// If there is no goal, or the goal store cannot be read or written.
pub(crate) fn restart(args: &RestartArgs) -> anyhow::Result<Outcome> {
    block_on(async {
        let store = GoalStore::new(&args.common.goal.url);
        let seen = Seen::look(&store, &args.app).await;
        let ordering = Ordering::new(&args.app, &args.common);
        ordering.carry_out(&store, GoalChange::Restart, seen).await
    })
}

/// Lets hosts switch to a build that is staged, now or from some moment on.
///
/// # Errors
///
/// If there is no goal or none that waits for this, or the goal store cannot be read or written.
pub(crate) fn switch(args: &SwitchArgs) -> anyhow::Result<Outcome> {
    block_on(async {
        let store = GoalStore::new(&args.common.goal.url);
        let goal = goal_of(&store, &args.app).await?;
        anyhow::ensure!(
            goal.rollout.switch != SwitchTime::Now,
            "goal {} of {} is not staged: its hosts switch as its rollout lets them; see: shoal \
             rollout {}",
            goal.generation,
            args.app,
            args.app
        );
        let switch = args.at.map_or(SwitchTime::Now, |at| SwitchTime::At(at.0));
        let rollout = RolloutChange { switch: Some(switch), ..RolloutChange::default() };
        let seen = Seen::with_goal(&store, Some(goal)).await;
        let ordering = Ordering::new(&args.app, &args.common);
        ordering.carry_out(&store, GoalChange::Widen { rollout }, seen).await
    })
}

/// Changes who switches to the goal that there is, halts, resumes or aborts; without a change,
/// shows it.
///
/// # Errors
///
/// If there is no goal, or the goal store cannot be read or written.
pub(crate) fn rollout(args: &RolloutCommandArgs) -> anyhow::Result<Outcome> {
    block_on(async {
        let store = GoalStore::new(&args.common.goal.url);
        let goal = goal_of(&store, &args.app).await?;
        let seen = Seen::with_goal(&store, Some(goal.clone())).await;
        let now_ms = now_ms();
        let failed = outcome(now_ms, &goal, seen.rows()).failed;
        let common = &args.common;
        if let Some(change) = args.change(&goal, failed) {
            if seen.rows.is_err() && matches!(change, GoalChange::Resume { .. }) {
                output::note(
                    "on which hosts the build failed is not known: they are not accepted with \
                     this, and may halt it again",
                );
            }
            // Whoever aborts a halted rollback has seen that it is one.
            let is_abort = matches!(change, GoalChange::Rollback { .. });
            let seen_as = (is_abort && goal.rollout.halted.is_some()).then_some(goal.generation);
            let ordering = Ordering { seen_as, ..Ordering::new(&args.app, common) };
            return ordering.carry_out(&store, change, seen).await;
        }
        if common.wait {
            let ended = wait(common, &store, goal).await?;
            return conclude(common, &ended, false);
        }
        let rows = seen.rows?;
        let hosts = survey(now_ms, &goal, &rows);
        let causes = causes(now_ms, &goal, &rows);
        if common.json {
            output::json(&view::document(&goal, &hosts, &causes))?;
        } else {
            output::raw(&view::text(now_ms, &goal, &hosts, &causes))?;
        }
        Ok(Outcome::Done)
    })
}

/// A change of a goal, with all that the command line says about it.
struct Ordering<'a> {
    app: &'a AppName,
    common: &'a CommonArgs,
    version: Option<&'a str>,
    /// The generation that the goal must have unless the command line names one.
    seen_as: Option<u64>,
}

impl<'a> Ordering<'a> {
    const fn new(app: &'a AppName, common: &'a CommonArgs) -> Self {
        Self { app, common, version: None, seen_as: None }
    }

    /// Changes the goal, which was `seen` before; with `--wait` follows it to its end.
    async fn carry_out(
        &self,
        store: &GoalStore,
        change: GoalChange,
        mut seen: Seen,
    ) -> anyhow::Result<Outcome> {
        let Self { app, common, version, seen_as } = *self;
        let is_restart = matches!(change, GoalChange::Restart);
        let is_deploy = matches!(change, GoalChange::Deploy { .. });
        for attempt in 0.. {
            let mut order = seen.order(app, &common.origin, version);
            order.expected = order.expected.or(seen_as);
            if attempt > 0 {
                // What was expected was in the store that was lost.
                order.expected = None;
            }
            let changed = store.change(app, change.clone(), order).await;
            let goal = changed.with_context(|| format!("cannot {} {app}", verb(&change)))?;
            if let Some(warning) = seen.warning() {
                output::note(&warning);
            }
            let said = format!("{}{}", report::done(&change), report::announcement(&goal));
            // Hosts restart what they run; nothing else of a halted rollout can be waited for.
            let is_held = goal.rollout.halted.is_some() && is_restart;
            if !common.wait || is_held {
                if common.json {
                    output::json(&report::report(&goal, None))?;
                } else {
                    output::line(&said)?;
                }
                if is_held {
                    output::note(
                        "the rollout is halted, so this does not wait: every host restarts the \
                         build that it runs; see: shoal status",
                    );
                }
                return Ok(Outcome::Done);
            }
            if !common.json {
                output::note(&said);
            }
            let ended = Box::pin(wait(common, store, goal)).await?;
            let can_be_above =
                ended.survey.highest_ahead().is_none_or(|highest| highest < GENERATION_MAX);
            if ended.end == End::StoreBehind && is_deploy && can_be_above && attempt < RAISES_MAX {
                output::note(&report::conclusion(now_ms(), &ended, false));
                output::note("the goal is set once more, above what hosts follow");
                seen = Seen::look(store, app).await;
                continue;
            }
            return conclude(common, &ended, is_restart);
        }
        unreachable!("the last attempt returns")
    }
}

/// What a change does, behind "cannot".
const fn verb(change: &GoalChange) -> &'static str {
    match change {
        GoalChange::Deploy { .. } => "deploy",
        GoalChange::Rollback { .. } => "roll back",
        GoalChange::Restart => "restart",
        GoalChange::Halt { .. } => "halt",
        GoalChange::Resume { .. } => "resume",
        _ => "change the rollout of",
    }
}

async fn wait(common: &CommonArgs, store: &GoalStore, goal: Goal) -> anyhow::Result<Ended> {
    let is_absent_ok = common.absent == Absence::Ok;
    Waiter::new(store, goal, common.timeout, is_absent_ok).wait().await
}

fn conclude(common: &CommonArgs, ended: &Ended, is_restart: bool) -> anyhow::Result<Outcome> {
    if common.json {
        output::json(&report::report(&ended.goal, Some(ended)))?;
    } else {
        output::line(&report::conclusion(now_ms(), ended, is_restart))?;
    }
    Ok(match ended.end {
        End::Complete => Outcome::Done,
        End::Interrupted => Outcome::Interrupted,
        _ => Outcome::Negative,
    })
}
