//! The highest goal that this host accepted of each app, kept in `goal.json`.
//!
//! Invariant: what is accepted was durable first, and the generation of an app never falls. An
//! operator who wants an earlier build back makes a new generation (`shoal rollback`), so a lower
//! one can only be an old copy of the goal store, or a store that was set up anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use goal_state::{AppName, Goal, Rollout};
use p2p_core::BuildId;
use serde::{Deserialize, Serialize};

use crate::state::durable::{self, ReadError, WriteError};

/// A goal that this host follows.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedGoal {
    /// Generation of the goal.
    pub generation: u64,
    /// The wanted build.
    pub build: BuildId,
    /// When this host learnt of it, in milliseconds since 1970.
    pub accepted_at_ms: u64,
    /// Who switches to it and when.
    #[serde(default)]
    pub rollout: Rollout,
}

/// Why an offered goal is not followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GoalRefusal {
    /// It is older than the one followed.
    #[error(
        "the goal store offers generation {offered}, but this host already accepted generation {accepted} and never goes back; deploy again until the store is past {accepted}"
    )]
    Older {
        /// Generation in the goal store.
        offered: u64,
        /// Generation followed here.
        accepted: u64,
    },
    /// Two goals claim one generation.
    #[error(
        "the goal store says that generation {generation} is build {}, but this host accepted build {} under it; deploy again to make a new generation",
        offered.short(), accepted.short()
    )]
    Forked {
        /// The generation that has two builds.
        generation: u64,
        /// Build in the goal store.
        offered: BuildId,
        /// Build followed here.
        accepted: BuildId,
    },
}

/// Why an offered goal was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// It must not be followed.
    #[error(transparent)]
    Refused(#[from] GoalRefusal),
    /// It could not be stored, so it is not followed yet; trying again may help.
    #[error("cannot store the new goal, so it is not followed yet")]
    Write(#[source] WriteError),
}

/// The accepted goals of all apps of one agent.
#[derive(Debug)]
pub struct AcceptedGoals {
    path: PathBuf,
    apps: BTreeMap<AppName, AcceptedGoal>,
}

impl AcceptedGoals {
    /// Reads the goals in `path`; none if there is no such file.
    ///
    /// # Errors
    ///
    /// If the file is there but cannot be read. It is not replaced: it is all that keeps this host
    /// from following an old goal.
    pub fn load(path: &Path) -> Result<Self, ReadError> {
        let apps = durable::read_json(path)?.unwrap_or_default();
        Ok(Self { path: path.into(), apps })
    }

    /// The goal followed for `app`; `None` if none was ever accepted.
    pub fn of(&self, app: &AppName) -> Option<AcceptedGoal> {
        self.apps.get(app).cloned()
    }

    /// Follows `offered` from now on if it is newer than what is followed.
    ///
    /// # Errors
    ///
    /// If it must not be followed or cannot be made durable; what is followed stays.
    pub fn accept(&mut self, offered: &Goal, now_ms: u64) -> Result<AcceptedGoal, AcceptError> {
        let followed = self.apps.get(&offered.app);
        if let Some(followed) = followed
            && !is_news(followed, offered)?
        {
            return Ok(followed.clone());
        }
        let accepted = AcceptedGoal {
            generation: offered.generation,
            build: offered.build,
            accepted_at_ms: now_ms,
            rollout: offered.rollout.clone(),
        };
        let mut apps = self.apps.clone();
        apps.insert(offered.app.clone(), accepted.clone());
        durable::write_json(&self.path, &apps).map_err(AcceptError::Write)?;
        self.apps = apps;
        Ok(accepted)
    }
}

/// Whether `offered` goes beyond `followed`; `false` if they are the same.
fn is_news(followed: &AcceptedGoal, offered: &Goal) -> Result<bool, GoalRefusal> {
    let (offer, accepted) = (offered.generation, followed.generation);
    if offer < accepted {
        return Err(GoalRefusal::Older { offered: offer, accepted });
    }
    if offer == accepted && offered.build != followed.build {
        return Err(GoalRefusal::Forked {
            generation: offer,
            offered: offered.build,
            accepted: followed.build,
        });
    }
    Ok(offer > accepted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(generation: u64, seed: u8) -> Goal {
        Goal {
            app: "web".parse().unwrap(),
            generation,
            build: BuildId::of_manifest(&[seed]),
            set_at_ms: 0,
            origin: goal_state::Origin::default(),
            changed: goal_state::Origin::default(),
            changed_at_ms: 0,
            rollout: Rollout::default(),
            history: vec![],
        }
    }

    #[test]
    fn generation_never_falls_not_even_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("goal.json");
        let mut goals = AcceptedGoals::load(&path).unwrap();
        goals.accept(&goal(3, 1), 10).unwrap();
        goals.accept(&goal(5, 2), 20).unwrap();

        let mut goals = AcceptedGoals::load(&path).unwrap();
        let followed = goals.of(&goal(0, 0).app).unwrap();
        assert_eq!((followed.generation, followed.accepted_at_ms), (5, 20));
        let error = goals.accept(&goal(4, 1), 30).unwrap_err();
        assert!(error.to_string().contains("already accepted generation 5"), "{error}");
        let error = goals.accept(&goal(5, 1), 30).unwrap_err();
        assert!(matches!(error, AcceptError::Refused(GoalRefusal::Forked { .. })), "{error}");
        assert_eq!(goals.of(&goal(0, 0).app), Some(followed));
    }

    #[test]
    fn repeated_goal_keeps_the_time_at_which_it_was_learnt() {
        let folder = tempfile::tempdir().unwrap();
        let mut goals = AcceptedGoals::load(&folder.path().join("goal.json")).unwrap();
        goals.accept(&goal(1, 1), 10).unwrap();
        assert_eq!(goals.accept(&goal(1, 1), 99).unwrap().accepted_at_ms, 10);
        assert_eq!(goals.accept(&goal(2, 1), 99).unwrap().accepted_at_ms, 99);
    }

    #[test]
    fn goal_that_cannot_be_stored_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let mut goals = AcceptedGoals::load(&folder.path().join("gone/goal.json")).unwrap();
        let error = goals.accept(&goal(1, 1), 10).unwrap_err();
        assert!(matches!(error, AcceptError::Write(_)), "{error}");
        assert_eq!(goals.of(&goal(0, 0).app), None);
    }

    #[test]
    fn damaged_file_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("goal.json");
        std::fs::write(&path, "{\"web\": {\"generation\": 1}}").unwrap();
        AcceptedGoals::load(&path).unwrap_err();
        assert!(path.exists());
    }
}
