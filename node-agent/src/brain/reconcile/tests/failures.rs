//! The brain against tables: builds that failed, also where there is nothing to go back to, and
//! programs that are not healthy.

use super::*;

/// Goal: neither a rollback nor a restart nor a wider rollout brings back one of the builds that
/// failed here; only a deploy after the failure does, or a pin.
#[test]
fn every_build_that_failed_is_remembered() {
    // As builds are that a goal has just brought back to the disk: neither is removed yet.
    let mut actual = Actual { complete: builds(&[1, 2, 3]), removing: Some(build(9)), ..at_rest() };
    let journal = actual.journal.take().unwrap();
    let failures = [failure(2, 4), failure(3, 5)].into_iter().flatten();
    actual.journal = Some(failures.fold(journal, |journal, failed| journal.with_failure(failed)));
    let goal =
        |generation, asked_by, seed| Some(Wanted { generation, asked_by, build: build(seed) });
    let by_deploy = |generation, deployed, seed| goal(generation, AskedBy::Deploy(deployed), seed);
    let switch = Step::Switch { build: build(2) };
    check(
        &policy(),
        vec![
            ("rollback to it", by_deploy(6, 2, 2), actual.clone(), Step::Rest),
            ("the deploy under which it failed", by_deploy(6, 4, 2), actual.clone(), Step::Rest),
            ("the last one, restarted", by_deploy(7, 5, 3), actual.clone(), Step::Rest),
            ("a new deploy", by_deploy(6, 6, 2), actual.clone(), switch),
            ("a pin", goal(6, AskedBy::Pin, 2), actual, switch),
        ],
    );
}

/// Goal: where no build ran well, one that fails is known to have failed. Its program is tried on;
/// after a hook that failed it is never started, by no agent.
#[test]
fn first_build_that_fails_follows_the_table() {
    let bare = || Actual { complete: builds(&[2]), ..empty() };
    let first = || Journal::switching(2, build(2), None, 3, None);
    let begun = |journal: Journal, program| Actual {
        current: Some(build(2)),
        journal: Some(journal),
        ..with(bare(), serving(program))
    };
    let noted = |since| first().with_failure(failure(2, since).unwrap());
    let tried_on = |program| begun(Journal { tries_left: 0, ..noted(2) }, program);
    let out = Journal { tries_left: 0, ..first() };
    let overdue = Actual { failed: Some(build(2)), ..begun(first(), up(2, Gate::Starting)) };
    let given_up = || Actual { journal: Some(noted(2)), ..bare() };
    let disk_rests = Actual { is_disk_resting: true, ..begun(first(), Program::Stopped) };
    let (fail, give_up) =
        (Step::Quarantine { failed: build(2) }, Step::GiveUp { failed: build(2) });
    let (start, switch) = (Step::Start { build: build(2) }, Step::Switch { build: build(2) });
    check(
        &policy(),
        vec![
            ("hook before the switch", wanted(2, 2), hook_failed(bare()), fail),
            ("hook after it", wanted(2, 2), hook_failed(begun(first(), Program::Stopped)), give_up),
            ("and the disk is full", wanted(2, 2), hook_failed(disk_rests), Step::Rest),
            ("given up", wanted(2, 2), given_up(), Step::Rest),
            ("given up, goal lost", None, given_up(), Step::Rest),
            ("given up, deployed again", wanted(3, 2), given_up(), switch),
            ("out of tries", wanted(2, 2), begun(out, resting(2)), fail),
            ("not healthy in time", wanted(2, 2), overdue, fail),
            ("it rests", wanted(2, 2), tried_on(resting(2)), Step::Rest),
            ("it is tried on", wanted(2, 2), tried_on(Program::Stopped), start),
            ("it got well", wanted(2, 2), tried_on(up(2, Gate::Good)), Step::Settle),
            ("it is deployed again", wanted(3, 2), tried_on(resting(2)), switch),
        ],
    );
    // Build 2 is the only one that ever ran well, and its hook fails when it is switched to again.
    let ran_well = Journal { good: vec![build(2)], ..first() };
    let again = || hook_failed(begun(ran_well.clone(), Program::Stopped));
    let noted = Actual { journal: Some(ran_well.with_failure(failure(2, 2).unwrap())), ..again() };
    check(
        &policy(),
        vec![
            ("the only one that ran well fails", wanted(2, 2), again(), fail),
            ("it is better than nothing", wanted(2, 2), noted, start),
        ],
    );
    let hooks = [HookKind::AfterSwitch].into();
    let no_program = Policy { has_program: false, hooks, ..policy() };
    let failed = hook_failed(begun(first(), Program::Stopped));
    check(&no_program, vec![("without a program", wanted(2, 2), failed, give_up)]);
}

#[test]
fn programs_that_are_not_healthy_are_started_again_and_never_called_good() {
    let now = |program, vitals| Actual { vitals, ..with(at_rest(), serving(program)) };
    let sick = |vitals| now(up(1, Gate::Good), vitals);
    let beside = |candidate| ailing(with(at_rest(), both(stale(1), candidate)));
    let judged = ailing(with(switched(), both(up(1, Gate::Good), up(2, Gate::Starting))));
    let unsure =
        Actual { vitals: Vitals::Unhealthy, ..with(switched(), serving(up(2, Gate::Good))) };
    let shut = Policy { permission: Permission::Refused, needs_token: true, ..overlap() };
    check(
        &policy(),
        vec![
            ("one probe failed", wanted(1, 1), sick(Vitals::Unhealthy), Step::Rest),
            ("many failed", wanted(1, 1), sick(Vitals::Ailing), Step::Revive),
            (
                "it hung from the start",
                wanted(1, 1),
                now(up(1, Gate::Starting), Vitals::Ailing),
                Step::Revive,
            ),
            ("new generation of what runs", wanted(2, 1), sick(Vitals::Unhealthy), Step::Rest),
            (
                "the same while it is young",
                wanted(2, 1),
                now(up(1, Gate::Ready), Vitals::Well),
                Step::Rest,
            ),
            ("a switch", wanted(2, 2), unsure, Step::Rest),
            (
                "gone back to",
                wanted(2, 2),
                ailing(with(going_back(), serving(up(1, Gate::Starting)))),
                Step::Revive,
            ),
        ],
    );
    let successor = beside(up(1, Gate::Starting));
    check(
        &overlap(),
        vec![
            ("its successor is being judged", wanted(1, 1), successor, Step::Rest),
            ("another build is being judged", wanted(2, 2), judged, Step::Rest),
        ],
    );
    check(
        &shut,
        vec![(
            "one that waits to be restarted",
            wanted(1, 1),
            beside(Program::Stopped),
            Step::Revive,
        )],
    );
}
