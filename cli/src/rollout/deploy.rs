//! `shoal deploy`, `rollback`, `restart` and `rollout`: set the goal of an app, and wait until its
//! hosts follow.
//!
//! Setting the goal is one write; everything after it only watches. A goal store that fails while
//! watching is asked again until the time is up, because the deploy goes on without this command.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use goal_state::{
    AppName, ChangeOrder, Goal, GoalChange, GoalStore, GoalStoreError, GoalUrl, RolloutChange,
    WaitReason, now_ms,
};
use indicatif::{ProgressBar, ProgressStyle};
use p2p_core::BuildId;
use serde::Serialize;
use tokio::time::Instant;

use crate::output::{self, Outcome, human};
use crate::rollout::args::{self, RolloutArgs};
use crate::rollout::view;
use crate::rollout::{self, Rollout, Silent};
use crate::runtime::{block_on, read_statuses};

/// How often hosts' reports are read while waiting. They arrive every second or two.
const POLL: Duration = Duration::from_secs(1);

/// Hosts that are named in one line; `shoal status` has them all.
const NAMES_MAX: usize = 5;

/// Arguments of `shoal deploy`.
#[derive(Debug, clap::Args)]
pub(crate) struct DeployArgs {
    /// The app
    app: AppName,
    /// The build that its hosts shall run, 64 digits
    build: BuildId,
    #[command(flatten)]
    rollout: RolloutArgs,
    #[command(flatten)]
    pub(crate) follow: FollowArgs,
}

/// Arguments of `shoal rollback`.
#[derive(Debug, clap::Args)]
pub(crate) struct RollbackArgs {
    /// The app
    app: AppName,
    #[command(flatten)]
    rollout: RolloutArgs,
    #[command(flatten)]
    pub(crate) follow: FollowArgs,
}

/// Arguments of `shoal restart`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestartArgs {
    /// The app
    app: AppName,
    #[command(flatten)]
    pub(crate) follow: FollowArgs,
}

/// Arguments of `shoal rollout`.
#[derive(Debug, clap::Args)]
pub(crate) struct RolloutCommandArgs {
    /// The app
    app: AppName,
    #[command(flatten)]
    rollout: RolloutArgs,
    /// Hosts of every stage switch
    #[arg(long, conflicts_with = "stage")]
    all_stages: bool,
    #[command(flatten)]
    pub(crate) follow: FollowArgs,
}

/// What commands that set a goal have in common.
#[derive(Debug, clap::Args)]
pub(crate) struct FollowArgs {
    #[command(flatten)]
    goal: GoalArgs,
    /// Wait until every host that may switch runs the build
    #[arg(long)]
    wait: bool,
    /// With --wait: give up after this long
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the goals are.
#[derive(Debug, clap::Args)]
pub(crate) struct GoalArgs {
    /// The goal store: `file:///DIRECTORY` or `etcd://HOST:PORT/PREFIX`
    #[arg(long = "goal", value_name = "URL", env = "SHOAL_GOAL")]
    pub(crate) url: GoalUrl,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    app: AppName,
    build: BuildId,
    generation: u64,
    /// The build that was the goal before; `None` if this is the first.
    previous: Option<BuildId>,
    /// How waiting ended; `None` without `--wait`.
    rollout: Option<RolloutReport>,
}

#[derive(Debug, Serialize)]
struct RolloutReport {
    end: End,
    seconds: f64,
    on_goal: Vec<String>,
    underway: Vec<String>,
    waiting: Vec<WaitingHost>,
    failed: Vec<FailedHost>,
    rolled_back: Vec<FailedHost>,
    absent: Vec<String>,
}

#[derive(Debug, Serialize)]
struct WaitingHost {
    host: String,
    waits_for: WaitReason,
}

#[derive(Debug, Serialize)]
struct FailedHost {
    host: String,
    message: String,
}

/// Why waiting ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum End {
    /// Every host that may switch runs the build.
    Complete,
    /// The build failed on a host.
    Failed,
    /// Somebody set another goal.
    Superseded,
    /// The time is up.
    TimedOut,
}

/// Sets the goal; with `--wait` follows it to its end.
///
/// # Errors
///
/// If the goal store cannot be read or written.
pub(crate) fn deploy(args: &DeployArgs) -> anyhow::Result<Outcome> {
    block_on(set_and_follow(&args.follow, async |store| {
        let goal = store.deploy(&args.app, args.build, args.rollout.for_new_build()).await;
        goal.with_context(|| format!("cannot deploy {}", args.app))
    }))
}

/// Makes the build before the current one the goal again.
///
/// # Errors
///
/// If there is none, or the goal store cannot be read or written.
pub(crate) fn rollback(args: &RollbackArgs) -> anyhow::Result<Outcome> {
    block_on(set_and_follow(&args.follow, async |store| {
        let goal = store.rollback(&args.app, args.rollout.for_new_build(), None).await;
        goal.with_context(|| format!("cannot roll back {}", args.app))
    }))
}

/// Orders the hosts of an app to restart its program.
///
/// # Errors
///
/// If there is no goal, or the goal store cannot be read or written.
pub(crate) fn restart(args: &RestartArgs) -> anyhow::Result<Outcome> {
    block_on(set_and_follow(&args.follow, async |store| {
        let goal = store.change(&args.app, GoalChange::Restart, ChangeOrder::default()).await;
        goal.with_context(|| format!("cannot restart {}", args.app))
    }))
}

/// Changes who switches to the goal that there is; without a change, shows it.
///
/// # Errors
///
/// If there is no goal, or the goal store cannot be read or written.
pub(crate) fn rollout(args: &RolloutCommandArgs) -> anyhow::Result<Outcome> {
    let mut change = args.rollout.change();
    if args.all_stages {
        change.stages = Some(BTreeSet::new());
    }
    let follow = &args.follow;
    if change != RolloutChange::default() {
        return block_on(set_and_follow(follow, async |store| {
            let goal = store
                .change(&args.app, GoalChange::Widen { rollout: change }, ChangeOrder::default())
                .await;
            goal.with_context(|| format!("cannot change the rollout of {}", args.app))
        }));
    }
    block_on(async {
        let store = GoalStore::new(&follow.goal.url);
        let goal = store.goal(&args.app).await.context("cannot read the goal")?;
        let goal = goal.ok_or_else(|| GoalStoreError::NoGoal { app: args.app.clone() })?;
        let rows = read_statuses(&store).await?;
        let silent = rollout::silent(now_ms(), &rows);
        if follow.wait {
            let (end, took, hosts) = wait_for(follow, &store, &goal, silent).await;
            return conclude(follow, &goal, end, took, hosts);
        }
        let hosts = rollout::survey(&goal, &rows, &silent);
        if follow.json {
            output::json(&view::document(&goal, &hosts))?;
        } else {
            output::raw(&view::text(&goal, &hosts))?;
        }
        Ok(Outcome::Done)
    })
}

/// Sets a goal by `set`; with `--wait` follows it to its end.
async fn set_and_follow(
    args: &FollowArgs,
    set: impl AsyncFnOnce(&GoalStore) -> anyhow::Result<Goal>,
) -> anyhow::Result<Outcome> {
    let store = GoalStore::new(&args.goal.url);
    // Before the goal is set: whoever is silent now is not silent because of it.
    let rows = if args.wait { read_statuses(&store).await? } else { vec![] };
    let silent = rollout::silent(now_ms(), &rows);
    let goal = set(&store).await?;
    if !args.wait {
        announce(&goal, None, args.json)?;
        return Ok(Outcome::Done);
    }
    if !args.json {
        output::note(&announcement(&goal));
    }
    let (end, took, hosts) = wait_for(args, &store, &goal, silent).await;
    conclude(args, &goal, end, took, hosts)
}

async fn wait_for(
    args: &FollowArgs,
    store: &GoalStore,
    goal: &Goal,
    silent: Silent,
) -> (End, Duration, Rollout) {
    let started = Instant::now();
    let waiter = Waiter { store, goal, silent, deadline: started + args.timeout };
    let (end, hosts) = waiter.wait().await;
    (end, started.elapsed(), hosts)
}

fn conclude(
    args: &FollowArgs,
    goal: &Goal,
    end: End,
    took: Duration,
    hosts: Rollout,
) -> anyhow::Result<Outcome> {
    let report = rollout_report(end, took, hosts);
    if args.json {
        announce(goal, Some(report), true)?;
    } else {
        output::line(&conclusion(goal, &report))?;
    }
    Ok(if end == End::Complete { Outcome::Done } else { Outcome::Negative })
}

/// Follows one goal.
struct Waiter<'a> {
    store: &'a GoalStore,
    goal: &'a Goal,
    silent: Silent,
    deadline: Instant,
}

impl Waiter<'_> {
    async fn wait(&self) -> (End, Rollout) {
        let bar = ProgressBar::new(0).with_style(
            ProgressStyle::with_template("{prefix} [{bar:30}] {pos} of {len} hosts  {wide_msg}")
                .expect("the template parses"),
        );
        bar.set_prefix(self.goal.app.to_string());
        let mut hosts = Rollout::default();
        let mut is_failing = false;
        let end = loop {
            match self.look().await {
                Ok((end, seen)) => {
                    is_failing = false;
                    hosts = seen;
                    bar.set_length(hosts.expected() as u64);
                    bar.set_position(hosts.on_goal.len() as u64);
                    bar.set_message(names(&hosts.underway));
                    if let Some(end) = end {
                        break end;
                    }
                }
                Err(error) if !is_failing => {
                    is_failing = true;
                    let trouble = format!("{}; trying again", command_line::describe(&error));
                    bar.suspend(|| output::note(&trouble));
                }
                Err(_) => {}
            }
            if Instant::now() >= self.deadline {
                break End::TimedOut;
            }
            tokio::time::sleep_until(self.deadline.min(Instant::now() + POLL)).await;
        };
        bar.finish_and_clear();
        (end, hosts)
    }

    async fn look(&self) -> anyhow::Result<(Option<End>, Rollout)> {
        let rows = read_statuses(self.store).await?;
        let hosts = rollout::survey(self.goal, &rows, &self.silent);
        let goal = self.store.goal(&self.goal.app).await.context("cannot read the goal")?;
        let is_superseded = goal.is_none_or(|goal| goal.generation != self.goal.generation);
        Ok((end_of(&hosts, is_superseded), hosts))
    }
}

/// Whether there is nothing left to wait for. Success comes first: if all hosts arrived before
/// somebody set another goal, this deploy did what was asked.
fn end_of(hosts: &Rollout, is_superseded: bool) -> Option<End> {
    if hosts.is_complete() {
        Some(End::Complete)
    } else if is_superseded || !hosts.superseded.is_empty() {
        Some(End::Superseded)
    } else {
        hosts.has_failed().then_some(End::Failed)
    }
}

fn rollout_report(end: End, took: Duration, hosts: Rollout) -> RolloutReport {
    let named = |hosts: Vec<(String, String)>| {
        hosts.into_iter().map(|(host, message)| FailedHost { host, message }).collect()
    };
    let waiting =
        hosts.waiting.into_iter().map(|(host, waits_for)| WaitingHost { host, waits_for });
    RolloutReport {
        end,
        seconds: took.as_secs_f64(),
        on_goal: hosts.on_goal,
        underway: hosts.underway.into_iter().chain(hosts.superseded).collect(),
        waiting: waiting.collect(),
        failed: named(hosts.failed),
        rolled_back: named(hosts.rolled_back),
        absent: hosts.absent,
    }
}

fn announce(goal: &Goal, rollout: Option<RolloutReport>, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(&Report {
            app: goal.app.clone(),
            build: goal.build,
            generation: goal.generation,
            previous: goal.history.first().map(|past| past.build),
            rollout,
        });
    }
    output::line(&announcement(goal))
}

fn announcement(goal: &Goal) -> String {
    let before = goal.history.first();
    let before = before.map_or_else(
        || "the first goal of this app".to_owned(),
        |past| format!("before it: build {}", past.build.short()),
    );
    let who = args::describe(goal).map_or_else(String::new, |who| format!("; {who}"));
    let Goal { app, generation, .. } = goal;
    format!("{app}: goal {generation} is build {} ({before}){who}", goal.build.short())
}

fn conclusion(goal: &Goal, report: &RolloutReport) -> String {
    let app = &goal.app;
    let done = report.on_goal.len();
    let failed = report.rolled_back.len() + report.failed.len();
    let all = done + report.underway.len() + failed;
    let took = human::seconds(Duration::try_from_secs_f64(report.seconds).unwrap_or_default());
    let text = match report.end {
        End::Complete if all == 0 => {
            format!("{app}: no host is to switch; every host has the build after {took}")
        }
        End::Complete => format!("{app}: {done} of {all} hosts run the build after {took}"),
        End::Superseded => format!(
            "{app}: another goal was set after {took}; {done} of {all} hosts had this one; see: shoal status {app}"
        ),
        End::TimedOut if all == 0 => format!(
            "{app}: no running host reported the app within {took}; start an agent for it, or check --goal"
        ),
        End::TimedOut => format!(
            "{app}: {done} of {all} hosts run the build after {took}, missing: {}; the deploy goes on, see: shoal status {app}",
            names(&report.underway)
        ),
        End::Failed => {
            let first = report.rolled_back.first().or(report.failed.first());
            let first = first.map_or_else(String::new, |failed| {
                format!("{}: {}", human::printable(&failed.host), human::printable(&failed.message))
            });
            let went_back = match report.rolled_back.len() {
                0 => String::new(),
                count => format!(" ({count} rolled back)"),
            };
            format!(
                "{app}: {failed} of {all} hosts failed{went_back}: {first}; see: shoal status {app}, or go back with: shoal rollback {app}"
            )
        }
    };
    let text = match report.waiting.len() {
        0 => text,
        count => format!(
            "{text}; {} not to switch yet, see: shoal rollout {app}",
            if count == 1 { "1 host is".to_owned() } else { format!("{count} hosts are") }
        ),
    };
    if report.absent.is_empty() {
        return text;
    }
    format!("{text}; not waited for, silent or stopped: {}", names(&report.absent))
}

fn names(hosts: &[String]) -> String {
    let mut text: Vec<String> =
        hosts.iter().take(NAMES_MAX).map(|host| human::printable(host)).collect();
    if hosts.len() > NAMES_MAX {
        text.push(format!("and {} more", hosts.len() - NAMES_MAX));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use goal_state::PastGoal;

    use super::*;
    use crate::rollout::tests::{build, goal};

    fn hosts(count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("host-{number}")).collect()
    }

    #[test]
    fn waiting_ends_as_the_table_says() {
        let done = Rollout { on_goal: hosts(2), ..Rollout::default() };
        let underway = Rollout { underway: hosts(1), ..done.clone() };
        let failed = Rollout { failed: vec![("a".into(), "b".into())], ..underway.clone() };
        let went_back = Rollout { rolled_back: vec![("a".into(), "b".into())], ..underway.clone() };
        let waits = Rollout { waiting: vec![("a".into(), WaitReason::Wave)], ..done.clone() };
        let newer = Rollout { superseded: hosts(1), ..done.clone() };
        let cases = [
            (&done, false, Some(End::Complete)),
            (&done, true, Some(End::Complete)),
            (&underway, false, None),
            (&underway, true, Some(End::Superseded)),
            (&failed, false, Some(End::Failed)),
            (&went_back, false, Some(End::Failed)),
            (&waits, false, Some(End::Complete)),
            (&newer, false, Some(End::Superseded)),
            (&Rollout::default(), false, None),
        ];
        for (rollout, is_superseded, expected) in cases {
            assert_eq!(end_of(rollout, is_superseded), expected, "{rollout:?}");
        }
    }

    #[test]
    fn sentences_name_hosts_and_next_step() {
        let first = goal("web", 1, 1);
        assert!(announcement(&first).ends_with("(the first goal of this app)"));
        let past = serde_json::json!({ "generation": 1, "build": build(1), "set_at_ms": 0 });
        let past: PastGoal = serde_json::from_value(past).unwrap();
        let second = Goal { history: vec![past], ..goal("web", 2, 2) };
        assert!(announcement(&second).contains(&build(1).short()));

        let took = Duration::from_millis(1_500);
        let of = |end, rollout: &Rollout| {
            conclusion(&second, &rollout_report(end, took, rollout.clone()))
        };
        let done = Rollout { on_goal: hosts(3), absent: hosts(1), ..Rollout::default() };
        assert_eq!(
            of(End::Complete, &done),
            "web: 3 of 3 hosts run the build after 1.5 s; not waited for, silent or stopped: host-1"
        );
        let missing = Rollout { underway: hosts(7), ..Rollout::default() };
        let text = of(End::TimedOut, &missing);
        assert!(
            text.contains("missing: host-1, host-2, host-3, host-4, host-5, and 2 more"),
            "{text}"
        );
        assert!(of(End::TimedOut, &Rollout::default()).contains("no running host"));
        let failed = Rollout { failed: vec![("a".into(), "b\n".into())], ..Rollout::default() };
        assert!(of(End::Failed, &failed).contains("1 of 1 hosts failed: a: b ; see"));
        let went_back = Rollout { rolled_back: vec![("a".into(), "b".into())], ..missing };
        let text = of(End::Failed, &went_back);
        assert!(text.contains("1 of 8 hosts failed (1 rolled back): a: b; see"), "{text}");
        let waits = Rollout { waiting: vec![("a".into(), WaitReason::Wave)], ..done };
        let text = of(End::Complete, &waits);
        assert!(text.contains("; 1 host is not to switch yet, see: shoal rollout web"), "{text}");
        let staged = Rollout { on_goal: vec![], absent: vec![], ..waits };
        let text = of(End::Complete, &staged);
        assert!(text.starts_with("web: no host is to switch; every host has the build"), "{text}");
    }
}
