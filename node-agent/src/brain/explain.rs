//! Why is this host not on the build of its goal? The agent's own answer.
//!
//! Pure. The words are those of [`goal_state::Answer`], which the operator's desk gives too; this
//! adds what only the host knows: the figures of the health check under way. Nothing is looked for
//! here: troubles come from [`troubles`](crate::brain::troubles).

use std::time::Duration;

use goal_state::{Answer, AppName, HostStatus, Reason, Trouble, span};
use p2p_core::BuildId;
use serde::{Deserialize, Serialize};

use crate::state::app_dir::Paused;

/// What the agent knows of one app when it is asked.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The app's row, with the troubles of the app but not those of the whole agent.
    pub row: HostStatus,
    /// The troubles, in full.
    pub troubles: Vec<Trouble>,
    /// Whether the configuration has `hold = true`.
    pub(crate) is_held: bool,
    /// Set by `shoal-agent pause`.
    pub(crate) paused: Option<Paused>,
    /// The health gate of a program; `None` outside of one.
    pub(crate) checking: Option<CheckFacts>,
    /// The program that serves.
    pub(crate) program: Option<ProgramFacts>,
}

/// Where the health gate of a program stands.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct CheckFacts {
    /// The build of the program.
    pub build: BuildId,
    /// Whether the app went back to this build.
    pub is_way_back: bool,
    /// Milliseconds for which it is healthy without a break.
    pub healthy_for_ms: u64,
    /// Milliseconds for which it has to be.
    pub min_healthy_ms: u64,
    /// Milliseconds until it is given up.
    pub deadline_in_ms: u64,
    /// What the last probe said, if it failed.
    pub last_failure: Option<String>,
}

/// The program that serves.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProgramFacts {
    /// Its process id.
    pub pid: u32,
    /// Milliseconds since its start.
    pub up_for_ms: u64,
    /// Starts after the first, of this build.
    pub restarts: u32,
}

/// A time in the unit of all of these facts.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Explanation {
    /// The explanation of an app of which nothing is known yet.
    pub fn new(host: String, app: AppName, at_ms: u64) -> Self {
        Self {
            row: HostStatus { updated_at_ms: at_ms, ..HostStatus::new(host, app) },
            troubles: vec![],
            is_held: false,
            paused: None,
            checking: None,
            program: None,
        }
    }

    /// Why the host is not on the build of its goal, or that it is.
    pub fn answer(&self) -> Answer {
        let checking = self.checking.as_ref().map(check_reason);
        Answer::of_row(&self.row, &self.troubles, checking)
    }
}

fn check_reason(check: &CheckFacts) -> Reason {
    let build = check.build.short();
    let healthy = span(Duration::from_millis(check.healthy_for_ms));
    let least = span(Duration::from_millis(check.min_healthy_ms));
    let left = span(Duration::from_millis(check.deadline_in_ms));
    let said = match &check.last_failure {
        Some(failure) => format!("not healthy: {failure}"),
        None => format!("healthy for {healthy} of {least}"),
    };
    let text = if check.is_way_back {
        format!("build {build}, to which the host went back, is being checked, {said}")
    } else {
        format!(
            "the program of build {build} is being checked, {said}, given up in {left} otherwise"
        )
    };
    Reason::new(text, "wait; the agent decides by itself")
}

#[cfg(test)]
mod tests {
    use goal_state::{HostPhase, TroubleKind};

    use super::*;

    fn checked(is_way_back: bool, last_failure: Option<&str>) -> String {
        let build = BuildId::of_manifest(b"x");
        let checking = Some(CheckFacts {
            build,
            is_way_back,
            healthy_for_ms: 4_000,
            min_healthy_ms: 10_000,
            deadline_in_ms: 90_000,
            last_failure: last_failure.map(String::from),
        });
        let new = Explanation::new("h1".into(), "web".parse().unwrap(), 1);
        let row = HostStatus {
            target: Some(build),
            current: Some(build),
            phase: HostPhase::Checking,
            ..new.row
        };
        Explanation { row, checking, ..new }.answer().to_string()
    }

    #[test]
    fn check_under_way_is_told_with_its_figures() {
        let build = BuildId::of_manifest(b"x").short();
        let text = checked(false, None);
        for part in ["healthy for 4s of 10s", "given up in 1m 30s", &build] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(checked(false, Some("status 500")).contains("not healthy: status 500"));
        // Nobody is told of a new program while the old one comes back.
        let back = checked(true, None);
        assert!(back.contains("went back") && !back.contains("given up"), "{back}");
    }

    #[test]
    fn app_without_a_goal_is_told_how_to_get_one() {
        let answer = Explanation::new("h1".into(), "web".parse().unwrap(), 1).answer();
        assert_eq!(answer.first_trouble(), Some(TroubleKind::NoGoal));
        assert!(answer.to_string().contains("shoal deploy web BUILD"), "{answer}");
    }
}
