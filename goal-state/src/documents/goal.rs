//! The goal document: which build an app should run, and which it ran before.
//!
//! Owns the rules by which one goal follows another ([`Goal::next`], [`Goal::rolled_back`]) and
//! what makes a document valid. Invariant: generations strictly rise from the oldest past goal to
//! the goal. Pure: no clock, no IO; the stores bring both.

use p2p_core::BuildId;
use serde::{Deserialize, Deserializer, Serialize};

use crate::documents::app_name::AppName;
use crate::documents::rollout::{Rollout, RolloutChange};

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
    /// Who switches to it and when.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rollout: Rollout,
    /// Earlier goals, newest first, a bounded number of them: where `rollback` goes.
    #[serde(default)]
    pub history: Vec<PastGoal>,
}

/// A goal that was replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastGoal {
    /// Its generation.
    #[serde(deserialize_with = "positive")]
    pub generation: u64,
    /// Its build.
    pub build: BuildId,
    /// When it was set, in milliseconds since 1970.
    pub set_at_ms: u64,
    /// Whether a rollback went past it. It stays here for people to read, but no rollback returns
    /// to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolled_back: bool,
    /// Whether only some of the hosts were to have it when it was replaced. No rollback returns to
    /// it either: it would bring the build to hosts that never had it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// Why a goal cannot be followed by another.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum GoalChangeError {
    /// No past goal has another build that was not rolled back.
    #[error("there is no earlier build to go back to")]
    NoHistory,
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
    #[error(
        "its field `rollout` has {field} {actual}, expected at most the generation {generation}"
    )]
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
    ) -> Self {
        let rollout = Rollout::default().changed(rollout);
        Self { app, generation: 1, build, set_at_ms: now_ms, rollout, history: Vec::new() }
    }

    /// The goal that makes `build` follow this one; `build` may be the same again. Its rollout goes
    /// to everybody unless `rollout` says otherwise; `max_unavailable` is of the app and not of the
    /// build, so it stays until it is changed.
    ///
    /// # Errors
    ///
    /// [`GoalChangeError::LastGeneration`].
    pub(crate) fn next(
        &self,
        now_ms: u64,
        build: BuildId,
        rollout: &RolloutChange,
    ) -> Result<Self, GoalChangeError> {
        self.replaced(now_ms, build, rollout, false)
    }

    /// The goal that brings back the build that was deployed before this one, under a new
    /// generation.
    ///
    /// Rollbacks do not take turns between two builds. After deploys of A, B and C, one rollback
    /// leads to B, a second one to A, and a third is an error: what a rollback left is marked
    /// ([`PastGoal::rolled_back`]) and skipped from then on. A deploy after a rollback starts from
    /// there, so that the rollback of D in A, B, C, rollback, D leads to B. A build that only some
    /// hosts were to have ([`PastGoal::partial`]) is skipped too.
    ///
    /// It goes to every host at once, whatever the share that had this goal, because those that
    /// have the bad build must not wait for a wave, and the others run the good one already;
    /// `max_unavailable` stays. `rollout` can say otherwise.
    ///
    /// # Errors
    ///
    /// The goal has no such build, or [`GoalChangeError::LastGeneration`].
    pub(crate) fn rolled_back(
        &self,
        now_ms: u64,
        rollout: &RolloutChange,
    ) -> Result<Self, GoalChangeError> {
        let is_candidate = |past: &&PastGoal| !past.rolled_back && past.build != self.build;
        let target = self.history.iter().position(|past| is_candidate(&past) && !past.partial);
        let Some(target) = target else {
            let partial = self.history.iter().find(is_candidate);
            return Err(partial.map_or(GoalChangeError::NoHistory, |past| {
                GoalChangeError::OnlyPartial { build: past.build }
            }));
        };
        let mut goal = self.replaced(now_ms, self.history[target].build, rollout, true)?;
        // The history has one entry more in front now, this goal's, which moved `target` by one.
        let left_behind = (target + 1).min(goal.history.len());
        for past in &mut goal.history[..left_behind] {
            past.rolled_back = true;
        }
        Ok(goal)
    }

    /// The goal with another rollout of the same build, usually a wider one, under a new
    /// generation. Hosts are admitted in the same order as before; those that have switched already
    /// stay. It is no new deploy, so the history stays as it is.
    ///
    /// # Errors
    ///
    /// [`GoalChangeError::LastGeneration`].
    pub(crate) fn widened(
        &self,
        now_ms: u64,
        rollout: &RolloutChange,
    ) -> Result<Self, GoalChangeError> {
        let mut goal = self.regenerated(now_ms)?;
        goal.rollout = goal.rollout.changed(rollout);
        Ok(goal)
    }

    /// The goal with an order to restart the program, under a new generation. The rollout stays.
    /// The order is for every host, whichever build it runs: those that the rollout does not admit
    /// yet restart the one they have. `max_unavailable` holds for restarts, too.
    ///
    /// # Errors
    ///
    /// [`GoalChangeError::LastGeneration`].
    pub(crate) fn restarted(&self, now_ms: u64) -> Result<Self, GoalChangeError> {
        let mut goal = self.regenerated(now_ms)?;
        goal.rollout.restart = goal.generation;
        Ok(goal)
    }

    /// The same build under the next generation.
    fn regenerated(&self, now_ms: u64) -> Result<Self, GoalChangeError> {
        let since = self.rollout.since_of(self.generation);
        let rollout = Rollout { since, ..self.rollout.clone() };
        let generation = self.next_generation()?;
        Ok(Self { generation, set_at_ms: now_ms, rollout, ..self.clone() })
    }

    fn next_generation(&self) -> Result<u64, GoalChangeError> {
        let generation = self.generation;
        generation.checked_add(1).ok_or(GoalChangeError::LastGeneration { generation })
    }

    fn replaced(
        &self,
        now_ms: u64,
        build: BuildId,
        rollout: &RolloutChange,
        rolled_back: bool,
    ) -> Result<Self, GoalChangeError> {
        let Self { generation, set_at_ms, .. } = *self;
        let next = self.next_generation()?;
        let partial = !self.rollout.is_for_everybody();
        let this = PastGoal { generation, build: self.build, set_at_ms, rolled_back, partial };
        let mut history = vec![this];
        history.extend(self.history.iter().take(HISTORY_MAX - 1));
        let app = self.app.clone();
        let Rollout { max_unavailable, restart, .. } = self.rollout;
        let kept = Rollout { max_unavailable, restart, ..Rollout::default() };
        let rollout = kept.changed(rollout);
        Ok(Self { app, generation: next, build, set_at_ms: now_ms, rollout, history })
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
        for (field, actual) in [("since", goal.rollout.since), ("restart", goal.rollout.restart)] {
            if actual > goal.generation {
                let generation = goal.generation;
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

fn is_default(rollout: &Rollout) -> bool {
    *rollout == Rollout::default()
}

/// Refuses zero while the parser still knows line and column.
fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if number == 0 {
        return Err(serde::de::Error::custom("generation is 0, expected 1 or more"));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build(name: char) -> BuildId {
        BuildId::of_manifest(name.to_string().as_bytes())
    }

    fn app() -> AppName {
        "web".parse().unwrap()
    }

    /// No wish: everybody at once.
    fn all() -> RolloutChange {
        RolloutChange::default()
    }

    fn at(percent: u8) -> RolloutChange {
        RolloutChange { percent: Some(percent), ..all() }
    }

    /// Follows a script: a letter deploys that build, `<` rolls back. Returns the build after each
    /// step as a letter, `!` where a rollback was refused.
    fn follow(script: &str) -> (String, Option<Goal>) {
        let mut goal: Option<Goal> = None;
        let mut trace = String::new();
        for (step, now_ms) in script.chars().zip(1..) {
            let changed = match (&goal, step) {
                (None, '<') => Err(GoalChangeError::NoHistory),
                (None, name) => Ok(Goal::first(now_ms, app(), build(name), &all())),
                (Some(goal), '<') => goal.rolled_back(now_ms, &all()),
                (Some(goal), name) => goal.next(now_ms, build(name), &all()),
            };
            match changed {
                Ok(next) => {
                    let name = ('A'..='Z').find(|name| build(*name) == next.build).unwrap();
                    trace.push(name);
                    goal = Some(next);
                }
                Err(error) => {
                    assert_eq!(error, GoalChangeError::NoHistory);
                    trace.push('!');
                }
            }
        }
        (trace, goal)
    }

    #[test]
    fn rollbacks_go_back_in_deploy_order() {
        let cases = [
            ("only one build", "A<", "A!"),
            ("the same build again is no earlier build", "AA<", "AA!"),
            ("one step back", "AB<", "ABA"),
            ("a second rollback does not flip back", "AB<<", "ABA!"),
            ("three builds", "ABC<<<", "ABCBA!"),
            ("a deploy after a rollback starts from there", "ABC<D<<<", "ABCBDBA!"),
            ("a build that was rolled back can be deployed again", "AB<B<", "ABABA"),
            ("deployed again on purpose, it is what ran before", "ABA<<<", "ABABA!"),
            ("a repeated build counts once", "ABBC<<", "ABBCBA"),
            ("two bad builds in a row", "AB<C<<", "ABACA!"),
        ];
        for (name, script, expected) in cases {
            assert_eq!(follow(script).0, expected, "{name}: {script}");
        }
    }

    #[test]
    fn rollback_keeps_what_it_left_in_the_history() {
        let (_, goal) = follow("ABC<");
        let goal = goal.unwrap();
        let history: Vec<_> = goal
            .history
            .iter()
            .map(|past| (past.generation, past.build, past.set_at_ms, past.rolled_back))
            .collect();
        assert_eq!(goal.generation, 4);
        let expected =
            [(3, build('C'), 3, true), (2, build('B'), 2, false), (1, build('A'), 1, false)];
        assert_eq!(history, expected);
    }

    #[test]
    fn history_keeps_the_newest_entries() {
        let (_, goal) = follow("ABCDEFGHIJKLMNOPQRSTUVW");
        let goal = goal.unwrap();
        assert_eq!(goal.generation, 23);
        assert_eq!(goal.history.len(), HISTORY_MAX);
        assert_eq!(goal.history[0].build, build('V'));
        assert_eq!(goal.history[HISTORY_MAX - 1].build, build('C'));
    }

    #[test]
    fn rollback_to_the_oldest_entry_of_a_full_history_is_the_last() {
        let (_, goal) = follow("ABBBBBBBBBBBBBBBBBBBB");
        let goal = goal.unwrap();
        assert_eq!(goal.history.len(), HISTORY_MAX);
        let back = goal.rolled_back(99, &all()).unwrap();
        assert_eq!((back.build, back.history.len()), (build('A'), HISTORY_MAX));
        assert!(back.history.iter().all(|past| past.rolled_back), "{back:?}");
        assert_eq!(back.rolled_back(100, &all()), Err(GoalChangeError::NoHistory));
    }

    #[test]
    fn widening_and_restarting_keep_the_build_and_its_order() {
        let goal = Goal::first(1, app(), build('A'), &all());
        let limit = Some(std::num::NonZero::new(2));
        let first = RolloutChange { max_unavailable: limit, ..at(10) };
        let deployed = goal.next(2, build('B'), &first).unwrap();
        assert_eq!(
            (deployed.rollout.since_of(deployed.generation), deployed.rollout.since),
            (2, 0)
        );
        let widened = deployed.widened(3, &at(50)).unwrap();
        let restarted = widened.restarted(4).unwrap();
        for (later, generation, restart) in [(&widened, 3, 0), (&restarted, 4, 4)] {
            assert_eq!((later.generation, later.build), (generation, build('B')));
            let Rollout { since, percent, .. } = later.rollout;
            assert_eq!((since, percent, later.rollout.restart), (2, 50, restart));
            assert_eq!(later.rollout.max_unavailable, deployed.rollout.max_unavailable);
            assert_eq!(later.history, deployed.history);
            assert_eq!(Goal::from_json(&app(), &later.to_json()).unwrap(), *later);
        }
        let next = restarted.next(5, build('C'), &all()).unwrap();
        let expected =
            Rollout { max_unavailable: limit.flatten(), restart: 4, ..Rollout::default() };
        assert_eq!(next.rollout, expected, "a restart that was ordered is not ordered again");
    }

    #[test]
    fn rollback_goes_to_everybody_and_never_to_a_build_that_only_some_had() {
        let limit = Some(std::num::NonZero::new(2));
        let some = RolloutChange { max_unavailable: limit, ..at(10) };
        let a = Goal::first(1, app(), build('A'), &all());
        let c = a.next(2, build('B'), &some).unwrap().next(3, build('C'), &at(20)).unwrap();
        let back = c.rolled_back(4, &all()).unwrap();
        assert_eq!(back.build, build('A'), "B was on a tenth of the hosts");
        assert_eq!((back.rollout.percent, back.rollout.max_unavailable), (100, limit.flatten()));
        assert_eq!(c.rolled_back(4, &at(5)).unwrap().rollout.percent, 5, "as asked");

        let widened = a.next(2, build('B'), &some).unwrap().widened(3, &at(100)).unwrap();
        let c = widened.next(4, build('C'), &all()).unwrap();
        assert_eq!(c.rolled_back(5, &all()).unwrap().build, build('B'), "B reached everybody");

        let first = Goal::first(1, app(), build('A'), &some).next(2, build('B'), &all()).unwrap();
        let refused = first.rolled_back(3, &all()).unwrap_err();
        assert_eq!(refused, GoalChangeError::OnlyPartial { build: build('A') });
        assert!(refused.to_string().contains(&build('A').to_string()), "{refused}");
    }

    #[test]
    fn last_generation_is_refused() {
        let mut goal = Goal::first(1, app(), build('A'), &all());
        goal.generation = u64::MAX;
        let expected = Err(GoalChangeError::LastGeneration { generation: u64::MAX });
        assert_eq!(goal.widened(2, &all()), expected);
        assert_eq!(goal.restarted(2), expected);
        assert_eq!(goal.next(2, build('B'), &all()), expected);
    }

    #[test]
    fn documents_round_trip() {
        let (_, goal) = follow("ABC<");
        let goal = goal.unwrap();
        assert_eq!(Goal::from_json(&app(), &goal.to_json()).unwrap(), goal);
        let text = String::from_utf8(goal.to_json()).unwrap();
        assert!(text.starts_with("{\n  \"app\": \"web\",\n") && text.ends_with("}\n"), "{text}");
    }

    #[test]
    fn document_without_history_is_read() {
        let text =
            format!(r#"{{"app":"web","generation":1,"build":"{}","set_at_ms":5}}"#, build('A'));
        let goal = Goal::from_json(&app(), text.as_bytes()).unwrap();
        assert_eq!(goal, Goal::first(5, app(), build('A'), &all()));
    }

    #[test]
    fn damaged_documents_are_refused_with_the_place() {
        let whole = String::from_utf8(follow("ABC").1.unwrap().to_json()).unwrap();
        let hex = build('C').to_string();
        let history_start = whole.find("\"history\"").unwrap();
        let long: Vec<_> = (1..=21).rev().map(past_json).collect();
        let long = format!("{}\"history\": [{}]}}", &whole[..history_start], long.join(","))
            .replace("\"generation\": 3", "\"generation\": 30");
        let with_rollout = |rollout: &str| {
            whole.replace("  \"history\"", &format!("  \"rollout\": {rollout},\n  \"history\""))
        };
        assert!(Goal::from_json(&app(), with_rollout(r#"{"since":3}"#).as_bytes()).is_ok());
        let cases = [
            ("empty", String::new(), "it is empty"),
            ("white space", " \n\n".into(), "it is empty"),
            ("zeros", "\0\0\0\0".into(), "line 1 column 1"),
            ("truncated", whole[..whole.len() / 2].into(), "at line"),
            ("two documents", format!("{whole}{whole}"), "trailing characters at line"),
            ("other app", whole.replace("web", "api"), "`app` is api, expected web"),
            ("no app name", whole.replace("web", "../w"), "not an app name"),
            ("unknown field", whole.replace("set_at_ms", "set_at"), "unknown field `set_at`"),
            ("generation 0", whole.replace(": 3,", ": 0,"), "expected 1 or more at line 3"),
            ("negative", whole.replace(": 3,", ": -3,"), "invalid value"),
            ("fraction", whole.replace(": 3,", ": 3.5,"), "invalid type"),
            ("short build", whole.replace(&hex, &hex[..63]), "found 63 characters at line 4"),
            ("upper case build", whole.replace(&hex, &hex.to_uppercase()), "lower-case"),
            (
                "history out of order",
                whole.replace(": 1,", ": 2,"),
                "generation 2 after generation 2",
            ),
            ("past generation 0", whole.replace(": 1,", ": 0,"), "expected 1 or more"),
            ("history of the future", whole.replace(": 3,", ": 1,"), "after generation 1"),
            ("history too long", long, "has 21 entries, the limit is 20"),
            ("a list", "[]".into(), "at line 1"),
            ("percent", with_rollout(r#"{"percent":101}"#), "percent is 101, expected 0 to 100"),
            ("since", with_rollout(r#"{"since":4}"#), "since 4, expected at most the generation 3"),
            ("restart", with_rollout(r#"{"restart":4}"#), "restart 4, expected at most"),
            ("max", with_rollout(r#"{"max_unavailable":0}"#), "expected a nonzero u32 at line 6"),
        ];
        for (name, text, expected) in cases {
            let error = Goal::from_json(&app(), text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}\n{text}");
        }
    }

    fn past_json(generation: u64) -> String {
        let build = build('A');
        format!(r#"{{"generation": {generation}, "build": "{build}", "set_at_ms": 1}}"#)
    }

    proptest! {
        #[test]
        fn generations_rise_by_one_and_documents_stay_valid(steps in "[A-E<]{1,60}") {
            let mut goal: Option<Goal> = None;
            for step in steps.chars() {
                let next = match (&goal, step) {
                    (None, '<') => continue,
                    (None, name) => Goal::first(0, app(), build(name), &all()),
                    (Some(now), '<') => {
                        let Ok(next) = now.rolled_back(0, &all()) else { continue };
                        prop_assert_ne!(next.build, now.build);
                        next
                    }
                    (Some(now), name) => now.next(0, build(name), &all()).unwrap(),
                };
                let before = goal.as_ref().map_or(0, |goal| goal.generation);
                prop_assert_eq!(next.generation, before + 1);
                let read = Goal::from_json(&app(), &next.to_json());
                prop_assert_eq!(read.ok(), Some(next.clone()));
                goal = Some(next);
            }
        }

        #[test]
        fn repeated_rollbacks_end(deploys in "[A-E]{1,30}") {
            let mut goal = follow(&deploys).1.unwrap();
            for _ in 0..=HISTORY_MAX {
                match goal.rolled_back(0, &all()) {
                    Ok(next) => goal = next,
                    Err(error) => {
                        prop_assert_eq!(error, GoalChangeError::NoHistory);
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "still going back: {:?}", goal);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Goal::from_json(&app(), &bytes).is_err());
        }
    }
}
