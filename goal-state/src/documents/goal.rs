//! The goal document: which build an app should run, and which it ran before.
//!
//! Owns the rules by which one goal follows another ([`Goal::next`], [`Goal::rolled_back`]) and
//! what makes a document valid. Invariant: generations strictly rise from the oldest past goal to
//! the goal. Pure: no clock, no IO; the stores bring both.

use p2p_core::BuildId;
use serde::{Deserialize, Serialize};

use crate::documents::app_name::AppName;
use crate::documents::fields::{is_default, positive};
use crate::documents::history::{ChangeOrder, Origin, PastGoal, RollbackTarget};
use crate::documents::rollout::{Halted, Rollout, RolloutChange};

/// Most past goals in a document. Enough to go back through several days of one app's deploys, and
/// small enough that a document is read and written whole.
pub(crate) const HISTORY_MAX: usize = 20;

/// What an app should run everywhere.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// The app.
    pub app: AppName,
    /// Raised by one with each change; hosts never go back to a lower one. Never zero.
    #[serde(deserialize_with = "positive")]
    pub generation: u64,
    /// The wanted build.
    pub build: BuildId,
    /// When the goal was set, in milliseconds since 1970.
    pub set_at_ms: u64,
    /// Who set it and why.
    #[serde(default, skip_serializing_if = "is_default")]
    pub origin: Origin,
    /// Who last changed it without a new build, and why: widened, restarted, halted or resumed it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub changed: Origin,
    /// When that was, in milliseconds since 1970; zero: it never was.
    #[serde(default, skip_serializing_if = "is_default")]
    pub changed_at_ms: u64,
    /// Who switches to it and when.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rollout: Rollout,
    /// Earlier goals, newest first, a bounded number of them: where `rollback` goes.
    #[serde(default)]
    pub history: Vec<PastGoal>,
}

/// Why a goal cannot be followed by another.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum GoalChangeError {
    /// No past goal has another build that was not rolled back.
    #[error("there is no earlier build to go back to")]
    NoHistory,
    /// No past goal has this generation.
    #[error("the history has no generation {generation}")]
    NoSuchGeneration {
        /// What was asked for.
        generation: u64,
    },
    /// Another goal than the expected one is there.
    #[error("the goal has generation {actual}, not {expected}")]
    Moved {
        /// What was expected.
        expected: u64,
        /// What is there.
        actual: u64,
        /// Who set it.
        author: Option<String>,
    },
    /// The goal is a rollback, and whoever wants to go back further did not say that they know.
    #[error("the goal of generation {generation} is a rollback already")]
    AlreadyRolledBack {
        /// Its generation.
        generation: u64,
        /// Who set it.
        author: Option<String>,
    },
    /// A rollout that is not halted cannot be resumed.
    #[error("the rollout is not halted")]
    NotHalted,
    /// Every earlier build was bad.
    #[error("no earlier build was good")]
    NoneGood {
        /// The newest of them.
        build: BuildId,
    },
    /// Such builds only went to some of the hosts.
    #[error(
        "the earlier builds went to only some of the hosts, the last of them is {build}; if every \
         host shall have it, deploy it"
    )]
    OnlyPartial {
        /// The newest of them.
        build: BuildId,
    },
    /// The generation is the largest number there is, which only a hand-written document has.
    #[error("generation {generation} is the last one")]
    LastGeneration {
        /// The generation of the goal.
        generation: u64,
    },
}

/// Why bytes are not a goal document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum GoalDocumentError {
    /// Nothing was written, or everything was lost.
    #[error("it is empty")]
    Empty,
    /// Not JSON, or not the fields of a goal. The source names line and column.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The document is another app's: a file that was copied or renamed.
    #[error("its field `app` is {actual}, expected {expected}")]
    OtherApp {
        /// The app that the document names.
        actual: AppName,
        /// The app whose document this should be.
        expected: AppName,
    },
    /// More past goals than any version of Shoal writes.
    #[error("its field `history` has {actual} entries, the limit is {HISTORY_MAX}")]
    HistoryTooLong {
        /// Entries found.
        actual: usize,
    },
    /// A generation of the rollout is yet to come.
    #[error("it has {field} {actual}, expected at most the generation {generation}")]
    RolloutOfTheFuture {
        /// The field.
        field: &'static str,
        /// Its value.
        actual: u64,
        /// The generation of the goal.
        generation: u64,
    },
    /// The history is out of order, so it does not say what came before what.
    #[error(
        "its field `history` has generation {older} after generation {newer}, expected the newest \
         first"
    )]
    HistoryOutOfOrder {
        /// The generation that comes first and must be the higher one.
        newer: u64,
        /// The generation that follows it.
        older: u64,
    },
}

impl Goal {
    /// The first goal of an app.
    pub(crate) fn first(
        now_ms: u64,
        app: AppName,
        build: BuildId,
        rollout: &RolloutChange,
        order: &ChangeOrder,
    ) -> Result<Self, GoalChangeError> {
        let generation = above(0, order)?;
        let rollout = Rollout::default().changed(rollout);
        let origin = order.origin.cleaned();
        let changed = Origin::default();
        let history = vec![];
        Ok(Self {
            app,
            generation,
            build,
            set_at_ms: now_ms,
            origin,
            changed,
            changed_at_ms: 0,
            rollout,
            history,
        })
    }

    /// The goal that makes `build` follow this one; `build` may be the same again. Its rollout goes
    /// to everybody unless `rollout` says otherwise; limits on unavailable and failed hosts are of
    /// the app and not of the build, so they stay until they are changed. That there is no limit
    /// was for one build only: forgotten, it would take the safety of every later one away.
    ///
    /// # Errors
    ///
    /// [`GoalChangeError::LastGeneration`].
    pub(crate) fn next(
        &self,
        now_ms: u64,
        build: BuildId,
        rollout: &RolloutChange,
        order: &ChangeOrder,
    ) -> Result<Self, GoalChangeError> {
        let mut history = vec![self.as_past(order)];
        history.extend(self.history.iter().take(HISTORY_MAX - 1).cloned());
        let Rollout { max_unavailable, max_failures, auto_revert, restart, .. } = self.rollout;
        let kept = Rollout {
            max_unavailable: max_unavailable.kept(),
            max_failures: max_failures.kept(),
            auto_revert,
            restart,
            ..Rollout::default()
        };
        Ok(Self {
            app: self.app.clone(),
            generation: above(self.generation, order)?,
            build,
            set_at_ms: now_ms,
            origin: order.origin.cleaned(),
            changed: Origin::default(),
            changed_at_ms: 0,
            rollout: kept.changed(rollout),
            history,
        })
    }

    /// The goal that brings back the last good build, under a new generation, or the build of the
    /// generation that `target` names.
    ///
    /// Good is a build that every host was to have ([`PastGoal::partial`]), whose rollout did not
    /// halt ([`PastGoal::halted`]), that did not fail on more hosts than the app tolerates
    /// ([`PastGoal::outcome`]), and that no rollback left ([`PastGoal::rolled_back`]). So rollbacks
    /// do not take turns between two builds: after deploys of A, B and C, one leads to B, a second
    /// one to A, and a third is an error. A deploy after a rollback starts from there, so that the
    /// rollback of D in A, B, C, rollback, D leads to B.
    ///
    /// Where this goal is a rollback itself, going back further needs `order.expected`: of two
    /// people who press at once the second would otherwise go back twice.
    ///
    /// It goes to every host, whatever the share that had this goal, because those that have the
    /// bad build must not wait for a wave, and the others run the good one already; the limits
    /// stay. `rollout` can say otherwise.
    ///
    /// # Errors
    ///
    /// The goal has no such build, or [`GoalChangeError::LastGeneration`].
    pub(crate) fn rolled_back(
        &self,
        now_ms: u64,
        target: RollbackTarget,
        rollout: &RolloutChange,
        order: &ChangeOrder,
    ) -> Result<Self, GoalChangeError> {
        if target == RollbackTarget::LastGood && self.is_rollback() && order.expected.is_none() {
            let (generation, author) = (self.generation, self.last_author());
            return Err(GoalChangeError::AlreadyRolledBack { generation, author });
        }
        let place = self.rollback_place(target)?;
        let past = &self.history[place];
        let (build, deployed) = (past.build, past.deployed_of());
        let version = past.origin.version.clone();
        let failed_before = past.outcome.map_or(0, |outcome| outcome.failed);
        let mut goal = self.next(now_ms, build, rollout, order)?;
        goal.rollout.deployed = deployed;
        // Hosts on which the build failed then do not try it again, and say so: that is not news.
        goal.rollout.tolerated = failed_before;
        if goal.origin.version.is_none() {
            goal.origin.version = version;
        }
        // The history has one entry more in front now, this goal's, which moved the place by one.
        let left_behind = (place + 1).min(goal.history.len());
        for past in &mut goal.history[..left_behind] {
            // The same build further down is what is gone back to.
            past.rolled_back |= past.build != build;
        }
        Ok(goal)
    }

    /// Where in the history a rollback finds its build; what it would bring back, for people who
    /// want to know before they order it.
    fn rollback_place(&self, target: RollbackTarget) -> Result<usize, GoalChangeError> {
        if let RollbackTarget::Generation(generation) = target {
            let found = self.history.iter().position(|past| past.generation == generation);
            return found.ok_or(GoalChangeError::NoSuchGeneration { generation });
        }
        let is_candidate = |past: &&PastGoal| !past.rolled_back && past.build != self.build;
        let is_good = |past: &&PastGoal| !past.partial && !self.is_bad(past);
        let good = self.history.iter().position(|past| is_candidate(&past) && is_good(&past));
        good.ok_or_else(|| {
            let mut others = self.history.iter().filter(is_candidate);
            let partial = others.clone().find(|past| past.partial && !self.is_bad(past));
            match (partial, others.next()) {
                (Some(past), _) => GoalChangeError::OnlyPartial { build: past.build },
                (None, Some(past)) => GoalChangeError::NoneGood { build: past.build },
                (None, None) => GoalChangeError::NoHistory,
            }
        })
    }

    /// The past goal that a rollback would go back to; `None` if it would be refused.
    pub fn rollback_target(&self, target: RollbackTarget) -> Option<&PastGoal> {
        self.rollback_place(target).ok().map(|place| &self.history[place])
    }

    /// Whether this goal came from a rollback.
    pub fn is_rollback(&self) -> bool {
        self.history.first().is_some_and(|past| past.rolled_back)
    }

    /// Where a rollout that halts goes back to by itself; `None` if nobody asked for that, if there
    /// is no good build, or if this is a rollback already: one bad build must not take an app back
    /// through its whole history.
    pub fn revert_target(&self) -> Option<&PastGoal> {
        let goes_back = self.rollout.auto_revert && !self.is_rollback();
        goes_back.then(|| self.rollback_target(RollbackTarget::LastGood)).flatten()
    }

    /// Whether `past` halted, or was given up on more hosts than the app tolerates and than whoever
    /// resumed its rollout accepted. Programs that failed long after they were good do not count.
    pub fn is_bad(&self, past: &PastGoal) -> bool {
        let has_failed = past.outcome.as_ref().is_some_and(|outcome| {
            let hosts = usize::try_from(outcome.hosts).unwrap_or(usize::MAX);
            let given_up = outcome.given_up.saturating_sub(past.tolerated);
            let given_up = usize::try_from(given_up).unwrap_or(usize::MAX);
            self.rollout.failures_max(hosts).is_some_and(|max| given_up >= max)
        });
        past.halted.is_some() || has_failed
    }

    /// This goal as its successor remembers it.
    fn as_past(&self, order: &ChangeOrder) -> PastGoal {
        let Self { generation, build, set_at_ms, ref origin, ref rollout, .. } = *self;
        PastGoal {
            generation,
            build,
            set_at_ms,
            rolled_back: false,
            partial: !rollout.is_for_everybody(),
            halted: rollout.halted.clone(),
            tolerated: rollout.tolerated,
            deployed: match rollout.deployed_of(generation) {
                own if own == generation => 0,
                deployed => deployed,
            },
            origin: origin.clone(),
            outcome: order.outcome,
        }
    }

    /// The goal with another rollout of the same build, usually a wider one, under a new
    /// generation. Hosts are admitted in the same order as before; those that have switched already
    /// stay. It is no new deploy, so the history stays as it is, and so does a halt.
    ///
    /// # Errors
    ///
    /// [`GoalChangeError::LastGeneration`].
    pub(crate) fn widened(
        &self,
        now_ms: u64,
        rollout: &RolloutChange,
        order: &ChangeOrder,
    ) -> Result<Self, GoalChangeError> {
        let mut goal = self.regenerated(now_ms, order)?;
        goal.rollout = goal.rollout.changed(rollout);
        Ok(goal)
    }

    /// The goal with an order to restart the program, under a new generation. The rollout stays.
    /// The order is for every host, whichever build it runs: those that the rollout does not admit
    /// yet restart the one they have. The limit on unavailable hosts holds for restarts, too.
    ///
    /// # Errors
    ///
    /// [`GoalChangeError::LastGeneration`].
    pub(crate) fn restarted(
        &self,
        now_ms: u64,
        order: &ChangeOrder,
    ) -> Result<Self, GoalChangeError> {
        let mut goal = self.regenerated(now_ms, order)?;
        goal.rollout.restart = goal.generation;
        Ok(goal)
    }

    /// The goal with its rollout halted, under a new generation. A halt that is there stays.
    ///
    /// # Errors
    ///
    /// [`GoalChangeError::LastGeneration`].
    pub(crate) fn halted(
        &self,
        now_ms: u64,
        halted: &Halted,
        order: &ChangeOrder,
    ) -> Result<Self, GoalChangeError> {
        let mut goal = self.regenerated(now_ms, order)?;
        goal.rollout.halted.get_or_insert_with(|| halted.clone());
        Ok(goal)
    }

    /// The goal with its rollout resumed, under a new generation; `failed` hosts are accepted, so
    /// that they do not halt it again.
    ///
    /// # Errors
    ///
    /// The rollout is not halted, or [`GoalChangeError::LastGeneration`].
    pub(crate) fn resumed(
        &self,
        now_ms: u64,
        failed: u32,
        order: &ChangeOrder,
    ) -> Result<Self, GoalChangeError> {
        if self.rollout.halted.is_none() {
            return Err(GoalChangeError::NotHalted);
        }
        let mut goal = self.regenerated(now_ms, order)?;
        goal.rollout.halted = None;
        goal.rollout.tolerated = failed.max(goal.rollout.tolerated);
        Ok(goal)
    }

    /// The same build under the next generation.
    fn regenerated(&self, now_ms: u64, order: &ChangeOrder) -> Result<Self, GoalChangeError> {
        let since = self.rollout.since_of(self.generation);
        let rollout = Rollout { since, ..self.rollout.clone() };
        let generation = above(self.generation, order)?;
        let changed = order.origin.cleaned();
        Ok(Self { generation, changed_at_ms: now_ms, changed, rollout, ..self.clone() })
    }

    /// Who made this generation, as far as that is known.
    fn last_author(&self) -> Option<String> {
        let by_change = self.rollout.since != 0 && self.rollout.since != self.generation;
        let origin = if by_change { &self.changed } else { &self.origin };
        origin.author.clone()
    }

    /// Checks that this is the goal that whoever changes it has seen.
    pub(crate) fn check_expected(&self, order: &ChangeOrder) -> Result<(), GoalChangeError> {
        match order.expected {
            Some(expected) if expected != self.generation => Err(GoalChangeError::Moved {
                expected,
                actual: self.generation,
                author: self.last_author(),
            }),
            _ => Ok(()),
        }
    }

    /// Reads and checks the document of `app`.
    ///
    /// # Errors
    ///
    /// The bytes are not valid JSON, have missing or unknown fields, or break a rule of this file.
    pub(crate) fn from_json(app: &AppName, bytes: &[u8]) -> Result<Self, GoalDocumentError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(GoalDocumentError::Empty);
        }
        let goal: Self = serde_json::from_slice(bytes)?;
        if goal.app != *app {
            return Err(GoalDocumentError::OtherApp { actual: goal.app, expected: app.clone() });
        }
        if goal.history.len() > HISTORY_MAX {
            return Err(GoalDocumentError::HistoryTooLong { actual: goal.history.len() });
        }
        let Rollout { since, restart, deployed, .. } = goal.rollout;
        for (field, actual) in [("since", since), ("restart", restart), ("deployed", deployed)] {
            if actual > goal.generation {
                let generation = goal.generation;
                return Err(GoalDocumentError::RolloutOfTheFuture { field, actual, generation });
            }
        }
        for past in &goal.history {
            let (actual, generation) = (past.deployed, past.generation);
            if actual > generation {
                let field = "history with deployed";
                return Err(GoalDocumentError::RolloutOfTheFuture { field, actual, generation });
            }
        }
        let mut newer = goal.generation;
        for past in &goal.history {
            let older = past.generation;
            if older >= newer {
                return Err(GoalDocumentError::HistoryOutOfOrder { newer, older });
            }
            newer = older;
        }
        Ok(goal)
    }

    /// The document, laid out for people, with a line feed at the end.
    #[expect(clippy::missing_panics_doc, reason = "the text of the expect is the proof")]
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes =
            serde_json::to_vec_pretty(self).expect("a goal has only text, numbers and lists");
        bytes.push(b'\n');
        bytes
    }
}

/// The next generation: above the one there is, and above what hosts follow.
fn above(generation: u64, order: &ChangeOrder) -> Result<u64, GoalChangeError> {
    let highest = generation.max(order.above);
    highest.checked_add(1).ok_or(GoalChangeError::LastGeneration { generation: highest })
}

#[cfg(test)]
mod tests;
