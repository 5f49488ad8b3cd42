//! What the loop of an app is given: its settings, the parts that it works with, and the orders
//! that reach it from outside.

use std::collections::BTreeSet;
use std::time::Duration;

use goal_state::{AppName, Label, Trouble};
use tokio::sync::{mpsc, oneshot, watch};

use crate::brain::explain::Explanation;
use crate::config::AppConfig;
use crate::programs::supervisor::{ProgramSettings, SupervisorTimings};
use crate::report::status::StatusBoard;
use crate::state::goals::AcceptedGoal;

/// What the loop of an app needs to know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AppSettings {
    /// The app.
    pub name: AppName,
    /// Name of this host in statuses.
    pub host: String,
    /// Marks of this host that rollouts refer to.
    pub labels: BTreeSet<Label>,
    /// What the operator configured of it.
    pub app: AppConfig,
    /// When the loop acts by itself.
    pub timings: AppTimings,
}

impl AppSettings {
    /// What the supervisor needs of them.
    pub fn program(&self) -> ProgramSettings {
        ProgramSettings {
            launch: self.app.launch(&self.name, &self.host),
            health: self.app.health.clone(),
            timings: self.timings.supervisor,
        }
    }
}

/// When the loop of an app acts by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AppTimings {
    /// Those of its program.
    pub supervisor: SupervisorTimings,
    /// Wait after a disk that failed or is full; doubles with each time in a row.
    pub retry_first: Duration,
    /// Longest such wait.
    pub retry_max: Duration,
    /// How often the status row is renewed and everything is checked although nothing has happened.
    pub refresh: Duration,
    /// How often the files of the current build are looked at.
    pub audit: Duration,
}

impl AppTimings {
    /// Servers of a fleet. A full disk is looked after by people, so trying often helps nobody.
    pub const fn fleet() -> Self {
        Self {
            supervisor: SupervisorTimings::fleet(),
            retry_first: Duration::from_secs(5),
            retry_max: Duration::from_mins(1),
            refresh: Duration::from_secs(10),
            audit: Duration::from_mins(5),
        }
    }
}

/// An order from outside.
#[derive(Debug)]
pub enum AppOrder {
    /// Other settings hold from now on.
    Settings(Box<AppSettings>),
    /// No switch starts until [`Self::Resume`], even after a restart of the agent.
    Pause {
        /// Why, for people.
        reason: Option<String>,
    },
    /// Switches may start again.
    Resume,
    /// The program is replaced by a new start of the same build.
    Restart,
    /// The program is told to read its configuration again.
    Reload,
    /// The loop ends where it is, and with it the hook that runs. Programs run on, for the agent
    /// that takes the place of this one.
    LetGo,
    /// Report what is known of the app.
    Explain {
        /// For the answer.
        answer: oneshot::Sender<Explanation>,
    },
}

/// What the loop of an app works with.
#[derive(Debug)]
pub struct AppParts<S, H, T> {
    /// Where builds come from.
    pub source: S,
    /// The machine.
    pub host: H,
    /// Where permission to be down comes from.
    pub tokens: T,
    /// The goal, now and after each change.
    pub goal: watch::Receiver<GoalView>,
    /// Orders from outside.
    pub orders: mpsc::Receiver<AppOrder>,
    /// Where the app's row is shown.
    pub board: StatusBoard,
}

/// What the agent knows of an app's goal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GoalView {
    /// The goal followed; `None` if none was ever accepted.
    pub followed: Option<AcceptedGoal>,
    /// Whether the goal store has answered since the agent started.
    pub has_answered: bool,
    /// What is wrong with the goal store or with what it offers.
    pub trouble: Option<Trouble>,
}
