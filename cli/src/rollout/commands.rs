//! The command lines of all commands that change a goal and may wait for its hosts.
//!
//! Owns flags and what they mean as a [`GoalChange`]; nothing is read or written here.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use goal_state::{
    AppName, Goal, GoalChange, GoalUrl, Halted, RollbackTarget, RolloutChange, SwitchTime, now_ms,
};
use p2p_core::BuildId;

use crate::rollout::args::RolloutArgs;
use crate::rollout::order::OriginArgs;

/// Arguments of `shoal deploy`.
#[derive(Debug, clap::Args)]
pub(crate) struct DeployArgs {
    /// The app
    pub(crate) app: AppName,
    /// The build that its hosts shall run, 64 digits
    pub(crate) build: BuildId,
    /// What people call the build, such as 2.14.1
    #[arg(long, value_name = "NAME")]
    pub(crate) version: Option<String>,
    /// Set a goal although no host reports the app: it is new, and not misspelt
    #[arg(long)]
    pub(crate) new_app: bool,
    #[command(flatten)]
    pub(crate) when: WhenArgs,
    #[command(flatten)]
    pub(crate) rollout: RolloutArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// When hosts that have the build switch.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(crate) struct WhenArgs {
    /// Only bring the build to the hosts; they switch on: shoal switch APP
    #[arg(long)]
    stage_only: bool,
    /// Bring the build to the hosts now; they switch from this moment on, such as
    /// 2026-12-01T02:00:00Z, or 90m from now
    #[arg(long, value_name = "TIME")]
    at: Option<Moment>,
}

impl WhenArgs {
    /// As a change of the rollout; `None`: at once.
    pub(crate) fn switch(&self) -> Option<SwitchTime> {
        match self.at {
            Some(Moment(at_ms)) => Some(SwitchTime::At(at_ms)),
            None => self.stage_only.then_some(SwitchTime::OnOrder),
        }
    }
}

/// A moment in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Moment(pub(crate) u64);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        if let Ok(at) = humantime::parse_rfc3339_weak(text) {
            let since = at.duration_since(std::time::UNIX_EPOCH);
            return since.map(|since| Self(millis(since))).map_err(|error| error.to_string());
        }
        match humantime::parse_duration(text) {
            Ok(span) => Ok(Self(now_ms().saturating_add(millis(span)))),
            Err(_) => Err("expected a moment such as 2026-12-01T02:00:00Z (UTC), or a time from \
                           now such as 90m"
                .to_owned()),
        }
    }
}

/// Arguments of `shoal switch`.
#[derive(Debug, clap::Args)]
pub(crate) struct SwitchArgs {
    /// The app
    pub(crate) app: AppName,
    /// Not now but from this moment on, such as 2026-12-01T02:00:00Z, or 90m from now
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<Moment>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Arguments of `shoal rollback`.
#[derive(Debug, clap::Args)]
pub(crate) struct RollbackArgs {
    /// The app
    pub(crate) app: AppName,
    /// Go back to this one instead of the last good build; see: shoal history APP
    #[arg(long, value_name = "BUILD|VERSION|GENERATION")]
    pub(crate) to: Option<String>,
    #[command(flatten)]
    pub(crate) rollout: RolloutArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Arguments of `shoal restart`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestartArgs {
    /// The app
    pub(crate) app: AppName,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Arguments of `shoal rollout`.
#[derive(Debug, clap::Args)]
pub(crate) struct RolloutCommandArgs {
    /// The app
    pub(crate) app: AppName,
    #[command(flatten)]
    rollout: RolloutArgs,
    /// Hosts of every stage switch
    #[arg(long, conflicts_with = "stage")]
    all_stages: bool,
    #[command(flatten)]
    steer: SteerArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// What can be done to a rollout as a whole.
#[derive(Debug, clap::Args)]
#[group(
    multiple = false,
    conflicts_with_all = [
        "percent", "canary", "stage", "all_stages", "max_unavailable", "max_failures", "auto_revert"
    ]
)]
#[expect(clippy::struct_excessive_bools, reason = "clap makes at most one of them true")]
struct SteerArgs {
    /// Hosts that have not begun to switch do not
    #[arg(long)]
    halt: bool,
    /// A halted rollout goes on; hosts on which the build failed so far do not halt it again
    #[arg(long)]
    resume: bool,
    /// Go back to the last good build
    #[arg(long)]
    abort: bool,
}

impl RolloutCommandArgs {
    /// What the flags change about `goal`, on whose build `failed` hosts failed; `None`: nothing.
    pub(crate) fn change(&self, goal: &Goal, failed: u32) -> Option<GoalChange> {
        let SteerArgs { halt, resume, abort } = self.steer;
        if halt {
            let origin = self.common.origin.origin(None);
            let by = origin.author.as_deref().unwrap_or("somebody");
            let reason = origin.comment.as_deref().unwrap_or("no reason given");
            return Some(GoalChange::Halt { halted: Halted::new(now_ms(), by, reason) });
        }
        if resume {
            // One that halted it may seem well just now, and end again in a moment.
            let known = goal.rollout.halted.as_ref().map_or(0, |halted| halted.failed);
            let failed = failed.max(known).max(goal.rollout.tolerated);
            return Some(GoalChange::Resume { failed });
        }
        if abort {
            let rollout = RolloutChange::default();
            return Some(GoalChange::Rollback { target: RollbackTarget::LastGood, rollout });
        }
        let mut rollout = self.rollout.change();
        if self.all_stages {
            rollout.stages = Some(BTreeSet::new());
        }
        (rollout != RolloutChange::default()).then_some(GoalChange::Widen { rollout })
    }
}

/// What commands that change a goal have in common.
#[derive(Debug, clap::Args)]
pub(crate) struct CommonArgs {
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
    #[command(flatten)]
    pub(crate) goal: GoalArgs,
    /// Wait until every host that may switch has done what was ordered
    #[arg(long)]
    pub(crate) wait: bool,
    /// With --wait: give up after this long
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// With --wait: whether it is a failure if hosts are silent or stopped, so that nobody knows
    /// what they run
    #[arg(long, value_enum, value_name = "ok|fail", default_value_t = Absence::Fail)]
    pub(crate) absent: Absence,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whether absent hosts matter.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Absence {
    /// They do not.
    Ok,
    /// Waiting for them has failed.
    Fail,
}

/// Where the goals are.
#[derive(Debug, clap::Args)]
pub(crate) struct GoalArgs {
    /// The goal store: `file:///DIRECTORY` or `etcd://HOST:PORT/PREFIX`
    #[arg(long = "goal", value_name = "URL", env = "SHOAL_GOAL")]
    pub(crate) url: GoalUrl,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::rollout::tests::goal;

    #[derive(Debug, clap::Parser)]
    struct Rollout {
        #[command(flatten)]
        args: RolloutCommandArgs,
    }

    fn parse(flags: &[&str]) -> Result<RolloutCommandArgs, clap::Error> {
        let begin = ["x", "web", "--goal", "file:///x"];
        Rollout::try_parse_from(begin.iter().chain(flags)).map(|parsed| parsed.args)
    }

    #[test]
    fn flags_become_one_change() {
        let goal = goal("web", 2, 2);
        let change = |flags: &[&str]| parse(flags).unwrap().change(&goal, 3);
        assert!(change(&[]).is_none());
        let halt = change(&["--halt", "--author", "ann", "--comment", "smells"]);
        let Some(GoalChange::Halt { halted }) = halt else { panic!("{halt:?}") };
        assert_eq!((halted.by.as_str(), halted.reason.as_str()), ("ann", "smells"));
        assert!(matches!(change(&["--resume"]), Some(GoalChange::Resume { failed: 3 })));
        assert!(matches!(change(&["--abort"]), Some(GoalChange::Rollback { .. })));
        assert!(matches!(change(&["--percent", "0"]), Some(GoalChange::Widen { .. })));
    }

    #[test]
    fn steering_and_widening_are_not_for_one_command() {
        for flags in [
            &["--halt", "--resume"][..],
            &["--abort", "--resume"],
            &["--halt", "--percent", "0"],
            &["--resume", "--max-failures", "3"],
        ] {
            assert!(parse(flags).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn moments_are_absolute_or_from_now() {
        assert_eq!("2026-12-01T02:00:00Z".parse(), Ok(Moment(1_796_090_400_000)));
        assert_eq!("2026-12-01 02:00:00".parse(), Ok(Moment(1_796_090_400_000)));
        let Moment(soon) = "90m".parse().unwrap();
        assert!(soon >= now_ms() + 5_399_000 && soon <= now_ms() + 5_401_000);
        for text in ["", "tomorrow", "25:00", "1969-12-31T00:00:00Z"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}
