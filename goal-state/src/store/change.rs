//! How a goal changes, and what is found where goals are listed: the same for every kind of store.
//!
//! Invariant: a change is computed from the goal that it replaces, under the next generation; the
//! store only has to make sure that this goal is still the one that it holds. Does no IO.

use p2p_core::BuildId;

use crate::documents::app_name::AppName;
use crate::documents::goal::Goal;
use crate::documents::history::{ChangeOrder, RollbackTarget};
use crate::documents::rollout::{Halted, RolloutChange};
use crate::store::error::GoalStoreError;
use crate::store::pacing::now_ms;

/// Most bytes of a goal. One with a full history has a tenth of this; whatever is larger is
/// something else, or has very long texts.
pub(crate) const GOAL_BYTES_MAX: u64 = 64 << 10;

/// The goals of a store.
#[derive(Debug, Default)]
pub struct GoalList {
    /// Those that can be read, by app.
    pub goals: Vec<Goal>,
    /// Those that cannot, by app.
    pub damaged: Vec<DamagedGoal>,
}

/// A goal that cannot be read.
#[derive(Debug)]
pub struct DamagedGoal {
    /// Whose goal it is; `None` if the document does not even have the name of an app.
    pub app: Option<AppName>,
    /// What is wrong with it and what to do.
    pub error: GoalStoreError,
}

impl GoalList {
    /// Takes in what was read of the goal of `app`; changes nothing if the goal has disappeared
    /// meanwhile.
    pub(crate) fn take(&mut self, app: AppName, read: Result<Option<Goal>, GoalStoreError>) {
        match read {
            Ok(goal) => self.goals.extend(goal),
            Err(error) => self.damaged.push(DamagedGoal { app: Some(app), error }),
        }
    }

    /// Takes in a document without the name of an app.
    pub(crate) fn take_nameless(&mut self, place: String, reason: String) {
        let error = GoalStoreError::Malformed { place, reason };
        self.damaged.push(DamagedGoal { app: None, error });
    }
}

/// How an operator, or a seeder in the place of one, changes a goal.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum GoalChange {
    /// `build` becomes the goal. It goes to every host unless `rollout` says otherwise.
    Deploy {
        /// The build; that of the present goal makes a new generation, too.
        build: BuildId,
        /// Who switches and when.
        rollout: RolloutChange,
    },
    /// An earlier build becomes the goal again.
    Rollback {
        /// Which.
        target: RollbackTarget,
        /// Who switches and when.
        rollout: RolloutChange,
    },
    /// The rollout changes, the build stays. Hosts come in in the same order as before; those that
    /// switched already stay.
    Widen {
        /// What changes.
        rollout: RolloutChange,
    },
    /// Every host restarts the app's program, whichever build it runs.
    Restart,
    /// Hosts that have not begun to switch do not.
    Halt {
        /// Why.
        halted: Halted,
    },
    /// A halted rollout goes on.
    Resume {
        /// Hosts on which the build has failed, which are accepted.
        failed: u32,
    },
}

impl GoalChange {
    /// The goal after the change.
    pub(crate) fn apply(
        &self,
        app: &AppName,
        before: Option<&Goal>,
        order: &ChangeOrder,
    ) -> Result<Goal, GoalStoreError> {
        let now_ms = now_ms();
        let failed = |error| GoalStoreError::change(app, error);
        if let Some(goal) = before {
            goal.check_expected(order).map_err(failed)?;
        }
        let changed = match (self, before) {
            (Self::Deploy { build, rollout }, None) => {
                Goal::first(now_ms, app.clone(), *build, rollout, order)
            }
            (_, None) => return Err(GoalStoreError::NoGoal { app: app.clone() }),
            (Self::Deploy { build, rollout }, Some(goal)) => {
                goal.next(now_ms, *build, rollout, order)
            }
            (Self::Rollback { target, rollout }, Some(goal)) => {
                goal.rolled_back(now_ms, *target, rollout, order)
            }
            (Self::Widen { rollout }, Some(goal)) => goal.widened(now_ms, rollout, order),
            (Self::Restart, Some(goal)) => goal.restarted(now_ms, order),
            (Self::Halt { halted }, Some(goal)) => goal.halted(now_ms, halted, order),
            (Self::Resume { failed }, Some(goal)) => goal.resumed(now_ms, *failed, order),
        };
        fitting(changed.map_err(failed)?)
    }
}

/// The goal as it can be written: as much of the history as fits, and nothing that could not be
/// read again.
fn fitting(mut goal: Goal) -> Result<Goal, GoalStoreError> {
    let bytes_max = usize::try_from(GOAL_BYTES_MAX).unwrap_or(usize::MAX);
    let mut bytes = goal.to_json();
    while bytes.len() > bytes_max && goal.history.pop().is_some() {
        bytes = goal.to_json();
    }
    match Goal::from_json(&goal.app, &bytes) {
        Ok(_) if bytes.len() <= bytes_max => Ok(goal),
        Ok(_) => {
            let reason = format!("{} bytes, the limit is {GOAL_BYTES_MAX}", bytes.len());
            Err(GoalStoreError::Unreadable { app: goal.app, reason })
        }
        Err(error) => Err(GoalStoreError::Unreadable { app: goal.app, reason: error.to_string() }),
    }
}

/// Reads the document of `app` found at `place`; a damaged one is reported with `remedy`.
pub(crate) fn parse_goal(
    app: &AppName,
    place: &str,
    bytes: &[u8],
    remedy: &str,
) -> Result<Goal, GoalStoreError> {
    let is_too_long = bytes.len() as u64 > GOAL_BYTES_MAX;
    let read = if is_too_long {
        Err(format!("it has {} bytes, the limit is {GOAL_BYTES_MAX}", bytes.len()))
    } else {
        Goal::from_json(app, bytes).map_err(|error| error.to_string())
    };
    read.map_err(|error| GoalStoreError::Malformed {
        place: place.to_owned(),
        // Hosts never go back to a lower generation, so removing a goal has a price.
        reason: format!(
            "{error}; {remedy} (then generations start at 1 again, and hosts that saw a higher one \
             wait until it is passed)"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::history::Origin;

    /// Goal: no change makes a document that the next command cannot read, however long texts are.
    #[test]
    fn oldest_history_gives_way_before_a_document_is_too_long() {
        let app: AppName = "web".parse().unwrap();
        let text = "\"\\".repeat(999);
        let origin = Origin { comment: Some(text.clone()), ..Origin::default() };
        let order = ChangeOrder { origin, ..ChangeOrder::default() };
        let mut goal = None;
        for number in 0..25_u8 {
            let build = BuildId::of_manifest(&[number]);
            let rollout = RolloutChange::default();
            let deploy = GoalChange::Deploy { build, rollout };
            let deployed = deploy.apply(&app, goal.as_ref(), &order).unwrap();
            let halt = GoalChange::Halt { halted: Halted::new(1, &text, &text) };
            goal = Some(halt.apply(&app, Some(&deployed), &order).unwrap());
        }
        let goal = goal.unwrap();
        assert!(goal.to_json().len() as u64 <= GOAL_BYTES_MAX);
        assert!(goal.history.len() > 5, "{}", goal.history.len());
        assert_eq!(goal.history[0].build, BuildId::of_manifest(&[23]));
    }
}
