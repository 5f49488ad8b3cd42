//! How an operator says who switches and when: the flags that several commands share, and the
//! sentence that repeats it to the operator.
//!
//! Pure. What a rollout means for a host is decided in `goal_state::Rollout`, not here.

use std::collections::BTreeSet;

use goal_state::{Goal, HostLimit, Label, Rollout, RolloutChange, SwitchTime, moment};

/// Who switches and when.
#[derive(Debug, clap::Args)]
pub(crate) struct RolloutArgs {
    /// Only this share of the hosts switches, the rest waits; 0 with --canary unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) percent: Option<u8>,
    /// Hosts with this label switch whatever the percentage says; can be repeated
    #[arg(long, value_name = "LABEL")]
    pub(crate) canary: Vec<Label>,
    /// Only hosts with this label switch, such as stage=dev; can be repeated
    #[arg(long, value_name = "LABEL")]
    pub(crate) stage: Vec<Label>,
    /// Most hosts of a group that may be down or switching at once: a number or a share such as
    /// 10%, which stay for later builds; none, for this build only; or default, which is 25%
    #[arg(long, value_name = "N|P%|none|default")]
    pub(crate) max_unavailable: Option<HostLimit>,
    /// Halt the rollout once the build failed on this many hosts: a number or a share such as 5%,
    /// which stay for later builds; none, for this build only; or default, which is the first of up
    /// to 50 hosts, 2% of more
    #[arg(long, value_name = "N|P%|none|default")]
    pub(crate) max_failures: Option<HostLimit>,
    /// Go back to the last good build where the rollout would halt; stays for later deploys
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub(crate) auto_revert: Option<bool>,
}

impl RolloutArgs {
    /// What the flags ask of a goal with a new build: without any, it goes to everybody.
    pub(crate) fn for_new_build(&self) -> RolloutChange {
        let only_canaries = (!self.canary.is_empty()).then_some(0);
        RolloutChange { percent: self.percent.or(only_canaries), ..self.change() }
    }

    /// What the flags ask of the present goal: what is not named stays.
    pub(crate) fn change(&self) -> RolloutChange {
        let labels = |labels: &[Label]| -> Option<BTreeSet<Label>> {
            (!labels.is_empty()).then(|| labels.iter().cloned().collect())
        };
        RolloutChange {
            percent: self.percent,
            canary: labels(&self.canary),
            stages: labels(&self.stage),
            max_unavailable: self.max_unavailable,
            max_failures: self.max_failures,
            auto_revert: self.auto_revert,
            switch: None,
        }
    }
}

/// Who switches and when, in words.
pub(crate) fn describe(goal: &Goal) -> String {
    let Rollout { percent, canary, stages, restart, switch, auto_revert, halted, .. } =
        &goal.rollout;
    let mut parts = vec![];
    if *percent < 100 {
        parts.push(format!("{percent} percent of the hosts"));
        if !canary.is_empty() {
            parts.push(format!("canaries {}", list(canary)));
        }
    }
    if !stages.is_empty() {
        parts.push(format!("only {}", list(stages)));
    }
    if parts.is_empty() {
        parts.push("every host".to_owned());
    }
    match goal.rollout.unavailable_max() {
        Some(max) => parts.push(format!("at most {max} of a group at once")),
        None => parts.push("all at once".to_owned()),
    }
    match goal.rollout.max_failures {
        HostLimit::AtMost(max) => parts.push(format!("halts when {max} failed")),
        HostLimit::None => parts.push("never halts by itself".to_owned()),
        HostLimit::Unset => {}
    }
    if *auto_revert {
        parts.push("reverts instead of halting".to_owned());
    }
    match switch {
        SwitchTime::Now => {}
        SwitchTime::OnOrder => parts.push("staged until: shoal switch".to_owned()),
        SwitchTime::At(at_ms) => parts.push(format!("switches at {}", moment(*at_ms))),
    }
    if halted.is_some() {
        parts.push("halted".to_owned());
    }
    if *restart == goal.generation {
        parts.push("restarts the program".to_owned());
    }
    parts.join(", ")
}

fn list(labels: &BTreeSet<Label>) -> String {
    labels.iter().map(Label::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::rollout::tests::goal;

    #[derive(Debug, clap::Parser)]
    struct Flags {
        #[command(flatten)]
        rollout: RolloutArgs,
    }

    fn parse(flags: &[&str]) -> RolloutArgs {
        Flags::try_parse_from(["x"].iter().chain(flags)).unwrap().rollout
    }

    fn described(flags: &[&str]) -> String {
        let rollout = Rollout::default().changed(&parse(flags).for_new_build());
        describe(&Goal { rollout, ..goal("web", 2, 2) })
    }

    #[test]
    fn flags_become_a_rollout_and_a_sentence() {
        let quiet = "every host, at most 25% of a group at once";
        assert_eq!(described(&[]), quiet);
        assert_eq!(described(&["--percent", "100"]), quiet);
        assert_eq!(
            described(&["--percent", "10", "--max-unavailable", "none"]),
            "10 percent of the hosts, all at once"
        );
        assert_eq!(
            described(&["--canary", "canary", "--max-unavailable", "2"]),
            "0 percent of the hosts, canaries canary, at most 2 of a group at once"
        );
        assert_eq!(
            described(&["--stage", "stage=dev", "--stage", "stage=staging", "--max-failures=5%"]),
            "only stage=dev, stage=staging, at most 25% of a group at once, halts when 5% failed"
        );
        let reverts = described(&["--auto-revert", "--max-failures", "none"]);
        assert!(
            reverts.ends_with("never halts by itself, reverts instead of halting"),
            "{reverts}"
        );
        assert_eq!(described(&["--auto-revert=false"]), quiet);
        assert_eq!(
            parse(&["--canary", "c"]).change().percent,
            None,
            "widening keeps the percentage"
        );
        let none = parse(&["--max-unavailable", "none"]).change();
        assert_eq!(
            none,
            RolloutChange { max_unavailable: Some(HostLimit::None), ..RolloutChange::default() }
        );
        assert_eq!(parse(&[]).change(), RolloutChange::default());
    }

    #[test]
    fn flags_out_of_bounds_are_wrong_usage() {
        for flags in [
            ["--percent", "101"],
            ["--percent", "-1"],
            ["--canary", "Canary"],
            ["--stage", ""],
            ["--max-unavailable", "0"],
            ["--max-unavailable", "two"],
        ] {
            assert!(Flags::try_parse_from(["x"].iter().chain(&flags)).is_err(), "{flags:?}");
        }
    }
}
