//! How goals follow each other, and which documents are refused.

use proptest::prelude::*;

use super::*;
use crate::documents::history::Outcome;

fn build(name: char) -> BuildId {
    BuildId::of_manifest(name.to_string().as_bytes())
}

fn app() -> AppName {
    "web".parse().unwrap()
}

const LAST_GOOD: RollbackTarget = RollbackTarget::LastGood;

fn order() -> ChangeOrder {
    ChangeOrder::default()
}

/// The order of somebody who knows that `goal` is the goal.
fn seen(goal: &Goal) -> ChangeOrder {
    ChangeOrder { expected: Some(goal.generation), ..order() }
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
            (None, name) => Ok(Goal::first(now_ms, app(), build(name), &all(), &order()).unwrap()),
            (Some(goal), '<') => goal.rolled_back(now_ms, LAST_GOOD, &all(), &seen(goal)),
            (Some(goal), name) => goal.next(now_ms, build(name), &all(), &order()),
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
    let expected = [(3, build('C'), 3, true), (2, build('B'), 2, false), (1, build('A'), 1, false)];
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
    let back = goal.rolled_back(99, LAST_GOOD, &all(), &seen(&goal)).unwrap();
    assert_eq!((back.build, back.history.len()), (build('A'), HISTORY_MAX));
    assert!(back.history.iter().all(|past| past.rolled_back), "{back:?}");
    assert_eq!(
        back.rolled_back(100, LAST_GOOD, &all(), &seen(&back)),
        Err(GoalChangeError::NoHistory)
    );
}

#[test]
fn widening_and_restarting_keep_the_build_and_its_order() {
    let goal = Goal::first(1, app(), build('A'), &all(), &order()).unwrap();
    let limit = "2".parse().unwrap();
    let first = RolloutChange { max_unavailable: Some(limit), ..at(10) };
    let deployed = goal.next(2, build('B'), &first, &order()).unwrap();
    assert_eq!((deployed.rollout.since_of(deployed.generation), deployed.rollout.since), (2, 0));
    let widened = deployed.widened(3, &at(50), &order()).unwrap();
    let restarted = widened.restarted(4, &order()).unwrap();
    for (later, generation, restart) in [(&widened, 3, 0), (&restarted, 4, 4)] {
        assert_eq!((later.generation, later.build), (generation, build('B')));
        let Rollout { since, percent, .. } = later.rollout;
        assert_eq!((since, percent, later.rollout.restart), (2, 50, restart));
        assert_eq!(later.rollout.max_unavailable, deployed.rollout.max_unavailable);
        assert_eq!(later.history, deployed.history);
        assert_eq!(Goal::from_json(&app(), &later.to_json()).unwrap(), *later);
    }
    let next = restarted.next(5, build('C'), &all(), &order()).unwrap();
    let expected = Rollout { max_unavailable: limit, restart: 4, ..Rollout::default() };
    assert_eq!(next.rollout, expected, "a restart that was ordered is not ordered again");
}

#[test]
fn rollback_goes_to_everybody_and_never_to_a_build_that_only_some_had() {
    let limit = "2".parse().unwrap();
    let some = RolloutChange { max_unavailable: Some(limit), ..at(10) };
    let a = Goal::first(1, app(), build('A'), &all(), &order()).unwrap();
    let c = a
        .next(2, build('B'), &some, &order())
        .unwrap()
        .next(3, build('C'), &at(20), &order())
        .unwrap();
    let back = c.rolled_back(4, LAST_GOOD, &all(), &seen(&c)).unwrap();
    assert_eq!(back.build, build('A'), "B was on a tenth of the hosts");
    assert_eq!((back.rollout.percent, back.rollout.max_unavailable), (100, limit));
    assert_eq!(
        c.rolled_back(4, LAST_GOOD, &at(5), &seen(&c)).unwrap().rollout.percent,
        5,
        "as asked"
    );

    let widened =
        a.next(2, build('B'), &some, &order()).unwrap().widened(3, &at(100), &order()).unwrap();
    let c = widened.next(4, build('C'), &all(), &order()).unwrap();
    assert_eq!(
        c.rolled_back(5, LAST_GOOD, &all(), &seen(&c)).unwrap().build,
        build('B'),
        "B reached everybody"
    );

    let first = Goal::first(1, app(), build('A'), &some, &order())
        .unwrap()
        .next(2, build('B'), &all(), &order())
        .unwrap();
    let refused = first.rolled_back(3, LAST_GOOD, &all(), &seen(&first)).unwrap_err();
    assert_eq!(refused, GoalChangeError::OnlyPartial { build: build('A') });
    assert!(refused.to_string().contains(&build('A').to_string()), "{refused}");
}

#[test]
fn last_generation_is_refused() {
    let mut goal = Goal::first(1, app(), build('A'), &all(), &order()).unwrap();
    goal.generation = u64::MAX;
    let expected = Err(GoalChangeError::LastGeneration { generation: u64::MAX });
    assert_eq!(goal.widened(2, &all(), &order()), expected);
    assert_eq!(goal.restarted(2, &order()), expected);
    assert_eq!(goal.next(2, build('B'), &all(), &order()), expected);
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
    let text = format!(r#"{{"app":"web","generation":1,"build":"{}","set_at_ms":5}}"#, build('A'));
    let goal = Goal::from_json(&app(), text.as_bytes()).unwrap();
    assert_eq!(goal, Goal::first(5, app(), build('A'), &all(), &order()).unwrap());
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
        ("history out of order", whole.replace(": 1,", ": 2,"), "generation 2 after generation 2"),
        ("past generation 0", whole.replace(": 1,", ": 0,"), "expected 1 or more"),
        ("history of the future", whole.replace(": 3,", ": 1,"), "after generation 1"),
        ("history too long", long, "has 21 entries, the limit is 20"),
        ("a list", "[]".into(), "at line 1"),
        ("percent", with_rollout(r#"{"percent":101}"#), "percent is 101, expected 0 to 100"),
        ("since", with_rollout(r#"{"since":4}"#), "since 4, expected at most the generation 3"),
        ("restart", with_rollout(r#"{"restart":4}"#), "restart 4, expected at most"),
        (
            "deployed in the history",
            whole.replacen("\"set_at_ms\": 2", "\"deployed\": 9, \"set_at_ms\": 2", 1),
            "deployed 9, expected at most the generation 2",
        ),
        (
            "max",
            with_rollout(r#"{"max_unavailable":0}"#),
            "0 is no number of hosts, expected a number from 1 on at line 6",
        ),
    ];
    for (name, text, expected) in cases {
        let error = Goal::from_json(&app(), text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}\n{text}");
    }
}

fn outcome(good: u32, failed: u32, hosts: u32) -> ChangeOrder {
    let outcome = Outcome { good, failed, hosts, given_up: failed };
    ChangeOrder { outcome: Some(outcome), ..order() }
}

#[test]
fn limits_stay_for_the_next_build_but_not_that_there_are_none() {
    let change = |limit: &str| RolloutChange {
        max_unavailable: Some(limit.parse().unwrap()),
        max_failures: Some(limit.parse().unwrap()),
        ..all()
    };
    for (limit, kept) in [("3", "3"), ("10%", "10%"), ("none", "default")] {
        let goal = Goal::first(1, app(), build('A'), &change(limit), &order()).unwrap();
        let next = goal.next(2, build('B'), &all(), &order()).unwrap();
        let expected = kept.parse().unwrap();
        assert_eq!((next.rollout.max_unavailable, next.rollout.max_failures), (expected, expected));
        let restarted = goal.restarted(2, &order()).unwrap();
        assert_eq!(restarted.rollout.max_unavailable, limit.parse().unwrap(), "the same build");
    }
}

#[test]
fn rollback_goes_to_the_last_build_that_was_good() {
    let first = Goal::first(1, app(), build('A'), &all(), &order()).unwrap();
    // B was good, C failed on every host, D halted, E is there.
    let second = first.next(2, build('B'), &all(), &outcome(7, 0, 7)).unwrap();
    let third = second.next(3, build('C'), &all(), &outcome(7, 0, 7)).unwrap();
    let fourth = third.next(4, build('D'), &all(), &outcome(0, 7, 7)).unwrap();
    let halted = fourth.halted(5, &Halted::new(5, "ann", "smells"), &order()).unwrap();
    let goal = halted.next(6, build('E'), &all(), &outcome(1, 0, 7)).unwrap();
    let target = goal.rollback_target(LAST_GOOD).unwrap();
    assert_eq!((target.build, target.outcome.unwrap().good), (build('B'), 7));
    let back = goal.rolled_back(7, LAST_GOOD, &all(), &order()).unwrap();
    assert_eq!((back.build, back.rollout.deployed_of(back.generation)), (build('B'), 2));
    assert!(back.history[1].halted.as_ref().unwrap().reason.contains("smells"), "{back:?}");
    // Failures that the app tolerates do not rule a build out.
    let tolerant = RolloutChange { max_failures: Some("3".parse().unwrap()), ..all() };
    let tolerated = first.next(2, build('Y'), &tolerant, &order()).unwrap();
    let last = tolerated.next(3, build('Z'), &all(), &outcome(5, 2, 7)).unwrap();
    assert_eq!(last.rollback_target(LAST_GOOD).unwrap().build, build('Y'));
    let last = tolerated.next(3, build('Z'), &all(), &outcome(4, 3, 7)).unwrap();
    assert_eq!(last.rollback_target(LAST_GOOD).unwrap().build, build('A'));
}

/// Goal: a build that ran well everywhere is what a rollback goes to, though the program of one
/// host failed days later, and though somebody had resumed its rollout past a failure.
#[test]
fn build_that_was_good_stays_good() {
    let first = Goal::first(1, app(), build('A'), &all(), &order()).unwrap();
    let second = first.next(2, build('B'), &all(), &order()).unwrap();
    let ill = Outcome { good: 49, failed: 1, hosts: 50, given_up: 0 };
    let ill = ChangeOrder { outcome: Some(ill), ..order() };
    let goal = second.next(3, build('C'), &all(), &ill).unwrap();
    assert_eq!(goal.rollback_target(LAST_GOOD).unwrap().build, build('B'));
    let resumed = second
        .halted(3, &Halted::new(3, "x", "y"), &order())
        .and_then(|goal| goal.resumed(4, 1, &order()))
        .unwrap();
    let goal = resumed.next(5, build('C'), &all(), &outcome(49, 1, 50)).unwrap();
    assert_eq!(goal.rollback_target(LAST_GOOD).unwrap().build, build('B'));
    let goal = resumed.next(5, build('C'), &all(), &outcome(48, 2, 50)).unwrap();
    assert_eq!(
        goal.rollback_target(LAST_GOOD).unwrap().build,
        build('A'),
        "one more than accepted"
    );
}

#[test]
fn rollback_without_a_good_build_is_refused_and_can_be_told_where_to_go() {
    let a = Goal::first(1, app(), build('A'), &all(), &order()).unwrap();
    let b = a.next(2, build('B'), &all(), &outcome(0, 3, 3)).unwrap();
    let refused = b.rolled_back(3, LAST_GOOD, &all(), &order()).unwrap_err();
    assert_eq!(refused, GoalChangeError::NoneGood { build: build('A') });
    let told = RollbackTarget::Generation(1);
    assert_eq!(b.rolled_back(3, told, &all(), &order()).unwrap().build, build('A'));
    let unknown = RollbackTarget::Generation(9);
    let refused = b.rolled_back(3, unknown, &all(), &order()).unwrap_err();
    assert_eq!(refused, GoalChangeError::NoSuchGeneration { generation: 9 });
}

/// Goal: of two people who roll back at once the second does not go back twice, whether they name
/// the generation that they saw or not.
#[test]
fn second_of_two_rollbacks_is_refused() {
    let (_, goal) = follow("ABC");
    let seen_by_both = seen(goal.as_ref().unwrap());
    let goal = goal.unwrap();
    let by_ann = Origin { author: Some("ann".into()), ..Origin::default() };
    let first = ChangeOrder { origin: by_ann, ..seen_by_both.clone() };
    let back = goal.rolled_back(4, LAST_GOOD, &all(), &first).unwrap();
    let author = Some("ann".to_owned());
    let moved = GoalChangeError::Moved { expected: 3, actual: 4, author: author.clone() };
    assert_eq!(back.check_expected(&seen_by_both), Err(moved));
    let refused = back.rolled_back(5, LAST_GOOD, &all(), &order()).unwrap_err();
    assert_eq!(refused, GoalChangeError::AlreadyRolledBack { generation: 4, author });
    assert_eq!(back.rolled_back(5, LAST_GOOD, &all(), &seen(&back)).unwrap().build, build('A'));
}

#[test]
fn deploy_of_a_build_is_remembered_through_all_that_is_no_deploy() {
    let deployed = |goal: &Goal| goal.rollout.deployed_of(goal.generation);
    let (_, goal) = follow("AB");
    let b = goal.unwrap();
    let widened = b.widened(3, &at(50), &order()).unwrap();
    let restarted = widened.restarted(4, &order()).unwrap();
    let halted = restarted.halted(5, &Halted::new(5, "x", "y"), &order()).unwrap();
    let resumed = halted.resumed(6, 1, &order()).unwrap();
    for goal in [&b, &widened, &restarted, &halted, &resumed] {
        assert_eq!(deployed(goal), 2, "{goal:?}");
    }
    let c = resumed.next(7, build('C'), &all(), &order()).unwrap();
    let told = RollbackTarget::Generation(resumed.generation);
    let back = c.rolled_back(8, told, &all(), &order()).unwrap();
    assert_eq!((back.build, deployed(&back)), (build('B'), 2), "no new deploy of it");
    let again = back.next(9, build('B'), &all(), &order()).unwrap();
    assert_eq!(deployed(&again), again.generation, "this is one");
}

#[test]
fn generations_go_above_what_hosts_follow() {
    let above = ChangeOrder { above: 53, ..order() };
    let first = Goal::first(1, app(), build('A'), &all(), &above).unwrap();
    assert_eq!(first.generation, 54);
    assert_eq!(first.next(2, build('B'), &all(), &above).unwrap().generation, 55);
    let last = ChangeOrder { above: u64::MAX, ..order() };
    let refused = first.next(2, build('B'), &all(), &last).unwrap_err();
    assert_eq!(refused, GoalChangeError::LastGeneration { generation: u64::MAX });
}

#[test]
fn whoever_deployed_stays_the_author_whatever_is_changed_later() {
    let by = |who: &str| ChangeOrder {
        origin: Origin { author: Some(who.into()), ..Origin::default() },
        ..order()
    };
    let goal = Goal::first(1, app(), build('A'), &all(), &by("ann")).unwrap();
    let goal = goal.widened(2, &at(50), &by("ben")).unwrap();
    assert_eq!(goal.origin.author.as_deref(), Some("ann"));
    assert_eq!(goal.changed.author.as_deref(), Some("ben"));
    let wrong = ChangeOrder { expected: Some(1), ..order() };
    let moved = GoalChangeError::Moved { expected: 1, actual: 2, author: Some("ben".into()) };
    assert_eq!(goal.check_expected(&wrong), Err(moved));
    let next = goal.next(3, build('B'), &all(), &by("cid")).unwrap();
    assert_eq!(
        (next.changed.author, next.history[0].origin.author.as_deref()),
        (None, Some("ann"))
    );
}

#[test]
fn origins_are_kept_bounded_and_printable() {
    let origin = Origin {
        author: Some("ann\u{1b}[1m".into()),
        comment: Some("x".repeat(2_000)),
        version: Some(" ".into()),
    };
    let order = ChangeOrder { origin, ..order() };
    let goal = Goal::first(1, app(), build('A'), &all(), &order).unwrap();
    assert_eq!(goal.origin.author.as_deref(), Some("ann [1m"));
    assert_eq!((goal.origin.comment.as_ref().unwrap().len(), &goal.origin.version), (500, &None));
    // A full history of the longest texts stays below the limit of a file.
    let mut goal = goal;
    let order = ChangeOrder {
        origin: Origin {
            author: Some("\u{1f41f}".repeat(99)),
            comment: Some("\"".repeat(999)),
            version: Some("v".repeat(99)),
        },
        ..outcome(u32::MAX, u32::MAX, u32::MAX)
    };
    let halt = Halted::new(u64::MAX, &"b".repeat(999), &"\"".repeat(999));
    for name in "BCDEFGHIJKLMNOPQRSTUVWX".chars() {
        goal = goal.halted(1, &halt, &order).unwrap();
        goal = goal.next(u64::MAX, build(name), &all(), &order).unwrap();
    }
    let bytes = goal.to_json();
    assert!(bytes.len() as u64 <= crate::store::change::GOAL_BYTES_MAX, "{}", bytes.len());
    assert_eq!(Goal::from_json(&app(), &bytes).unwrap(), goal);
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
                (None, name) => Goal::first(0, app(), build(name), &all(), &order()).unwrap(),
                (Some(now), '<') => {
                    let Ok(next) = now.rolled_back(0, LAST_GOOD, &all(), &seen(now)) else { continue };
                    prop_assert_ne!(next.build, now.build);
                    next
                }
                (Some(now), name) => now.next(0, build(name), &all(), &order()).unwrap(),
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
            match goal.rolled_back(0, LAST_GOOD, &all(), &seen(&goal)) {
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
