//! The brain against tables: what is wanted, what is, and the one step that follows.

use std::collections::BTreeMap;

use super::*;
use crate::brain::model::HookView;
use crate::state::app_dir::{AskedBy, FailedBuild};

mod failures;

fn policy() -> Policy {
    Policy {
        has_program: true,
        swap: Swap::Stop,
        keep_builds: 3,
        keep_bytes: None,
        hooks: BTreeSet::new(),
        permission: Permission::Granted,
        needs_token: false,
    }
}

fn overlap() -> Policy {
    Policy { swap: Swap::Overlap, ..policy() }
}

fn build(seed: u8) -> BuildId {
    BuildId::of_manifest(&[seed])
}

#[expect(clippy::unnecessary_wraps, reason = "the tables read as what the brain is given")]
fn wanted(generation: u64, seed: u8) -> Option<Wanted> {
    Some(Wanted { generation, asked_by: AskedBy::Deploy(generation), build: build(seed) })
}

fn builds(seeds: &[u8]) -> BTreeMap<BuildId, u64> {
    seeds.iter().map(|seed| (build(*seed), 10)).collect()
}

fn empty() -> Actual {
    Actual {
        complete: BTreeMap::new(),
        staged: BTreeSet::new(),
        current: None,
        journal: None,
        programs: serving(Program::Stopped),
        vitals: Vitals::Well,
        agent: None,
        failed: None,
        unready: None,
        unstartable: None,
        hooks: HookView::default(),
        token: Token::None,
        download: Transfer::Idle,
        removing: None,
        is_disk_resting: false,
    }
}

fn up(seed: u8, gate: Gate) -> Program {
    Program::Running { build: build(seed), is_fresh: true, gate }
}

fn stale(seed: u8) -> Program {
    Program::Running { build: build(seed), is_fresh: false, gate: Gate::Good }
}

fn resting(seed: u8) -> Program {
    Program::Resting { build: build(seed) }
}

fn serving(program: Program) -> Programs {
    both(program, Program::Stopped)
}

fn both(serving: Program, candidate: Program) -> Programs {
    Programs { serving, candidate, is_leaving: false }
}

#[expect(clippy::unnecessary_wraps, reason = "as `Actual` has it")]
fn good(generation: u64, seeds: &[u8]) -> Option<Journal> {
    let good: Vec<_> = seeds.iter().copied().map(build).collect();
    let to = build(seeds[0]);
    let journal = Journal { good, ..Journal::switching(generation, to, None, 3, None) };
    Some(journal.settled(generation, None))
}

#[expect(clippy::unnecessary_wraps, reason = "as `Actual` has it")]
fn switching(generation: u64, from: u8, to: u8) -> Option<Journal> {
    let before = good(generation - 1, &[from]);
    let from = Some(build(from));
    Some(Journal::switching(generation, build(to), from, 3, before.as_ref()))
}

fn out_of_tries(generation: u64, from: u8, to: u8) -> Option<Journal> {
    switching(generation, from, to).map(|journal| Journal { tries_left: 0, ..journal })
}

#[expect(clippy::unnecessary_wraps, reason = "as it is in a journal")]
fn failure(seed: u8, since: u64) -> Option<FailedBuild> {
    let (reason, output) = ("it crashed".into(), String::new());
    Some(FailedBuild { build: build(seed), since, reason, output, at_ms: 0, pinned: false })
}

/// At its goal: build 1 under generation 1.
fn at_rest() -> Actual {
    Actual {
        complete: builds(&[1]),
        current: Some(build(1)),
        journal: good(1, &[1]),
        programs: serving(up(1, Gate::Good)),
        ..empty()
    }
}

/// The goal's build 2 is complete, and build 1 runs.
fn staged() -> Actual {
    Actual { complete: builds(&[1, 2]), ..at_rest() }
}

/// `current` points to build 2 already; build 1 still runs.
fn switched() -> Actual {
    Actual { current: Some(build(2)), journal: switching(2, 1, 2), ..staged() }
}

/// Build 2 failed; `current` points to build 1 again.
fn going_back() -> Actual {
    let journal = switching(2, 1, 2).unwrap();
    Actual { journal: Some(journal.rolling_back(build(1), failure(2, 2))), ..staged() }
}

fn with(actual: Actual, programs: Programs) -> Actual {
    Actual { programs, ..actual }
}

fn ailing(actual: Actual) -> Actual {
    Actual { vitals: Vitals::Ailing, ..actual }
}

/// A hook of build 2 failed.
fn hook_failed(actual: Actual) -> Actual {
    let failed = Some(build(2));
    let hooks = HookView { failed, ..actual.hooks.clone() };
    Actual { failed, hooks, ..actual }
}

#[track_caller]
fn check(policy: &Policy, cases: Vec<(&str, Option<Wanted>, Actual, Step)>) {
    for (name, wanted, actual, expected) in cases {
        assert_eq!(next_step(wanted.as_ref(), &actual, policy), expected, "{name}");
    }
}

#[test]
fn downloads_follow_the_table() {
    let download = Step::Download { build: build(2) };
    let transfer = |download| Actual { download, ..at_rest() };
    let active = || transfer(Transfer::Active { build: build(2) });
    let rests = || transfer(Transfer::Resting { build: build(2) });
    let other = Step::Download { build: build(3) };
    let removing = Actual { removing: Some(build(2)), ..at_rest() };
    check(
        &policy(),
        vec![
            ("no goal", None, empty(), Step::Rest),
            ("nothing here", wanted(1, 2), empty(), download),
            ("new goal", wanted(2, 2), at_rest(), download),
            ("under way", wanted(2, 2), active(), Step::Rest),
            ("failed before", wanted(2, 2), rests(), Step::Rest),
            ("goal changed", wanted(3, 3), active(), other),
            ("goal changed after a failure", wanted(3, 3), rests(), other),
            (
                "goal changed back to what runs",
                wanted(3, 1),
                Actual { journal: good(3, &[1]), ..active() },
                Step::CancelDownload,
            ),
            ("goal names what is being removed", wanted(2, 2), removing, Step::Rest),
            ("there", wanted(1, 1), at_rest(), Step::Rest),
        ],
    );
}

#[test]
fn every_host_downloads_whether_it_may_switch_or_not() {
    for permission in [Permission::Later, Permission::Refused] {
        let policy = Policy { permission, needs_token: true, ..policy() };
        let step = next_step(wanted(2, 2).as_ref(), &at_rest(), &policy);
        assert_eq!(step, Step::Download { build: build(2) }, "{permission:?}");
        assert_eq!(
            next_step(wanted(2, 2).as_ref(), &staged(), &policy),
            Step::Rest,
            "{permission:?}"
        );
    }
}

#[test]
fn switches_that_stop_the_old_program_follow_the_table() {
    let now = |program| with(switched(), serving(program));
    let full = Actual { is_disk_resting: true, ..staged() };
    let start = Step::Start { build: build(2) };
    check(
        &policy(),
        vec![
            ("complete", wanted(2, 2), staged(), Step::Switch { build: build(2) }),
            ("full disk", wanted(2, 2), full, Step::Rest),
            ("old one runs", wanted(2, 2), switched(), Step::Stop),
            ("old one ends", wanted(2, 2), now(Program::Ending), Step::Rest),
            ("old one is gone", wanted(2, 2), now(Program::Stopped), start),
            ("old one was crashing", wanted(2, 2), now(resting(1)), start),
            ("new one crashed and has tries left", wanted(2, 2), now(resting(2)), Step::Rest),
            ("new one starts", wanted(2, 2), now(up(2, Gate::Starting)), Step::Rest),
            ("new one is on probation", wanted(2, 2), now(up(2, Gate::Ready)), Step::Rest),
            ("new one is good", wanted(2, 2), now(up(2, Gate::Good)), Step::Settle),
            ("same build under a new generation", wanted(2, 1), at_rest(), Step::Settle),
        ],
    );
}

#[test]
fn switches_that_overlap_follow_the_table() {
    let old = || up(1, Gate::Good);
    let now = |programs| with(switched(), programs);
    let beside = |candidate| with(switched(), both(old(), candidate));
    let start = Step::StartCandidate { build: build(2) };
    let leaving = now(Programs { is_leaving: true, ..serving(old()) });
    let alone = now(both(resting(1), up(2, Gate::Starting)));
    check(
        &overlap(),
        vec![
            ("old one serves", wanted(2, 2), switched(), start),
            ("one is leaving still", wanted(2, 2), leaving, Step::Rest),
            ("new one starts", wanted(2, 2), beside(up(2, Gate::Starting)), Step::Rest),
            ("new one is ready", wanted(2, 2), beside(up(2, Gate::Ready)), Step::Rest),
            ("new one is good", wanted(2, 2), beside(up(2, Gate::Good)), Step::Promote),
            (
                "the old one does not answer",
                wanted(2, 2),
                ailing(beside(up(2, Gate::Ready))),
                Step::Promote,
            ),
            ("new one crashed and has tries left", wanted(2, 2), beside(resting(2)), Step::Rest),
            ("new one is being stopped", wanted(2, 2), beside(Program::Ending), Step::Rest),
            ("it may be tried again", wanted(2, 2), beside(Program::Stopped), start),
            ("the old one crashed meanwhile", wanted(2, 2), alone, Step::Promote),
            (
                "a candidate of an earlier goal",
                wanted(2, 2),
                beside(up(3, Gate::Starting)),
                Step::StopCandidate,
            ),
            ("promoted", wanted(2, 2), now(serving(up(2, Gate::Ready))), Step::Rest),
            ("promoted and good", wanted(2, 2), now(serving(up(2, Gate::Good))), Step::Settle),
        ],
    );
}

#[test]
fn programs_that_may_not_meet_do_not() {
    let settled = Actual { journal: good(1, &[1]), ..with(switched(), serving(Program::Stopped)) };
    let settled = Actual { current: Some(build(1)), complete: builds(&[1]), ..settled };
    let leaving = |program| Programs { is_leaving: true, ..serving(program) };
    let start = Step::Start { build: build(1) };
    let rests = with(settled.clone(), leaving(resting(2)));
    let last = with(settled.clone(), leaving(Program::Stopped));
    let alone = vec![("nothing is left of others", wanted(1, 1), settled.clone(), start)];
    check(&policy(), alone);
    let cases = |step| {
        vec![
            ("one is leaving", wanted(1, 1), last.clone(), step),
            ("one is leaving, another crashed", wanted(1, 1), rests.clone(), step),
        ]
    };
    check(&policy(), cases(Step::Rest));
    check(&overlap(), cases(start));
}

#[test]
fn failures_lead_back_to_the_build_that_ran_well() {
    let back = Step::RollBack { build: build(1) };
    let last = |programs| Actual { journal: out_of_tries(2, 1, 2), programs, ..switched() };
    let crashed = || last(serving(resting(2)));
    let unhealthy =
        Actual { failed: Some(build(2)), ..with(switched(), serving(up(2, Gate::Starting))) };
    let nothing_good = Actual { complete: builds(&[2]), ..last(serving(Program::Stopped)) };
    let damaged = Actual { complete: builds(&[1]), current: None, ..switched() };
    check(
        &policy(),
        vec![
            ("no tries left", wanted(2, 2), crashed(), back),
            ("machine died with the last try", wanted(2, 2), last(serving(Program::Stopped)), back),
            ("the last try runs", wanted(2, 2), last(serving(up(2, Gate::Starting))), Step::Rest),
            ("candidate failed", wanted(2, 2), last(both(up(1, Gate::Good), resting(2))), back),
            ("not healthy in time", wanted(2, 2), unhealthy, back),
            ("the goal store is down", None, crashed(), back),
            (
                "the disk rests: what works runs meanwhile",
                wanted(2, 2),
                Actual { is_disk_resting: true, ..crashed() },
                Step::Start { build: build(1) },
            ),
            (
                "what ran well is gone: keep trying meanwhile",
                wanted(2, 2),
                nothing_good,
                Step::Start { build: build(2) },
            ),
            ("the new build is damaged and not wanted any more", None, damaged, back),
        ],
    );
}

/// Goal: a disk that rejects every write does not keep a host from running what works. Method: the
/// build failed, and neither the journal nor `current` could be changed.
#[test]
fn program_that_works_does_not_wait_for_the_disk() {
    let stuck = |programs| Actual {
        failed: Some(build(2)),
        is_disk_resting: true,
        ..with(switched(), programs)
    };
    let start = Step::Start { build: build(1) };
    let noted = Actual { current: Some(build(2)), is_disk_resting: true, ..going_back() };
    check(
        &policy(),
        vec![
            ("bad one runs", wanted(2, 2), stuck(serving(up(2, Gate::Starting))), Step::Stop),
            ("it is gone", wanted(2, 2), stuck(serving(Program::Stopped)), start),
            ("the one before runs", wanted(2, 2), stuck(serving(up(1, Gate::Good))), Step::Rest),
            (
                "noted, `current` is not turned yet",
                wanted(2, 2),
                with(noted, serving(Program::Stopped)),
                start,
            ),
        ],
    );
    check(
        &overlap(),
        vec![(
            "the candidate is not started again",
            wanted(2, 2),
            stuck(serving(up(1, Gate::Good))),
            Step::Rest,
        )],
    );
}

#[test]
fn ways_back_follow_the_table() {
    let now = |programs| with(going_back(), programs);
    let behind = Actual { current: Some(build(2)), ..going_back() };
    check(
        &policy(),
        vec![
            ("behind the journal", wanted(2, 2), behind, Step::Repoint { build: build(1) }),
            ("new one runs", wanted(2, 2), now(serving(up(2, Gate::Starting))), Step::Stop),
            (
                "it is gone",
                wanted(2, 2),
                now(serving(Program::Stopped)),
                Step::Start { build: build(1) },
            ),
            ("old one starts", wanted(2, 2), now(serving(up(1, Gate::Starting))), Step::Rest),
            ("old one is good", wanted(2, 2), now(serving(up(1, Gate::Good))), Step::Settle),
        ],
    );
    let candidate = now(both(up(1, Gate::Good), up(2, Gate::Starting)));
    let promoted = now(serving(up(2, Gate::Ready)));
    check(
        &overlap(),
        vec![
            ("the old one is not touched", wanted(2, 2), candidate, Step::StopCandidate),
            (
                "the new one had been promoted",
                wanted(2, 2),
                promoted,
                Step::StartCandidate { build: build(1) },
            ),
        ],
    );
}

#[test]
fn failed_build_is_not_tried_again_until_the_goal_changes() {
    let mut actual = staged();
    actual.journal = actual.journal.map(|journal| Journal { failed: failure(2, 2), ..journal });
    let removed = Actual { complete: builds(&[1]), ..actual.clone() };
    let widened = Some(Wanted { generation: 3, asked_by: AskedBy::Deploy(2), build: build(2) });
    let (again, other) = (Step::Switch { build: build(2) }, Step::Download { build: build(3) });
    check(
        &policy(),
        vec![
            ("the same deploy", wanted(2, 2), actual.clone(), Step::Rest),
            ("a wider rollout of it", widened, actual.clone(), Step::Rest),
            ("it is not fetched again either", wanted(2, 2), removed, Step::Rest),
            ("deployed again", wanted(3, 2), actual.clone(), again),
            ("another build", wanted(3, 3), actual.clone(), other),
            ("goal is the build that runs", wanted(3, 1), actual, Step::Settle),
        ],
    );
}

#[test]
fn waves_holds_and_tokens_keep_a_switch_from_starting_but_not_from_ending() {
    let failed = || Actual {
        journal: out_of_tries(2, 1, 2),
        token: Token::Held,
        ..with(switched(), serving(Program::Stopped))
    };
    for permission in [Permission::Later, Permission::Refused] {
        let policy = Policy { permission, needs_token: true, ..policy() };
        check(
            &policy,
            vec![
                ("not started", wanted(2, 2), staged(), Step::Rest),
                ("begun", wanted(2, 2), switched(), Step::Stop),
                ("failed", wanted(2, 2), failed(), Step::RollBack { build: build(1) }),
            ],
        );
    }
    let bare = || Actual { complete: builds(&[2]), ..empty() };
    let later = Policy { permission: Permission::Later, needs_token: true, ..policy() };
    let shut = Policy { permission: Permission::Refused, ..policy() };
    let first = Step::Switch { build: build(2) };
    check(&later, vec![("a host with nothing to run does not wait", wanted(2, 2), bare(), first)]);
    check(&shut, vec![("but it can be held", wanted(2, 2), bare(), Step::Rest)]);
    let withheld = Policy { permission: Permission::Withheld, ..policy() };
    let (worn, failed) =
        (with(at_rest(), serving(stale(1))), Actual { token: Token::None, ..failed() });
    check(
        &withheld,
        vec![
            ("halted or staged, nothing runs", wanted(2, 2), bare(), Step::Rest),
            ("halted or staged, another runs", wanted(2, 2), staged(), Step::Rest),
            ("begun", wanted(2, 2), switched(), Step::Stop),
            ("failed", wanted(2, 2), failed, Step::RollBack { build: build(1) }),
            ("a restart of what runs", wanted(1, 1), worn, Step::Stop),
        ],
    );
}

#[test]
fn build_that_cannot_start_here_takes_nothing_away() {
    let policy = Policy { needs_token: true, hooks: [HookKind::BeforeSwitch].into(), ..policy() };
    let unready = |actual| Actual { unready: Some(build(2)), ..actual };
    let other = |actual| Actual { unready: Some(build(3)), ..actual };
    let wanting = |actual| Actual { unstartable: Some(build(2)), ..actual };
    let full = |actual| Actual { is_disk_resting: true, ..actual };
    let bare = || Actual { complete: builds(&[2]), ..empty() };
    let given_up = Step::Quarantine { failed: build(2) };
    check(
        &policy,
        vec![
            ("the host lacks something", wanted(2, 2), unready(staged()), Step::Rest),
            ("another build than that", wanted(2, 2), other(staged()), Step::AskToken),
            ("the build lacks something", wanted(2, 2), wanting(staged()), given_up),
            ("also where nothing runs", wanted(2, 2), wanting(bare()), given_up),
            ("and on a full disk no hook runs", wanted(2, 2), full(wanting(staged())), Step::Rest),
            ("nor where nothing runs", wanted(2, 2), unready(bare()), Step::Rest),
        ],
    );
}

#[test]
fn tokens_follow_the_table() {
    let policy = Policy { needs_token: true, ..policy() };
    let holding = |token, actual| Actual { token, ..actual };
    let worn = || with(at_rest(), serving(stale(1)));
    let stopped = with(switched(), serving(Program::Stopped));
    let restarted = with(at_rest(), serving(up(1, Gate::Starting)));
    let begun = with(switched(), serving(up(2, Gate::Starting)));
    let (switch, start) = (Step::Switch { build: build(2) }, Step::Start { build: build(2) });
    check(
        &policy,
        vec![
            ("due", wanted(2, 2), staged(), Step::AskToken),
            ("asked", wanted(2, 2), holding(Token::Asked, staged()), Step::Rest),
            ("held", wanted(2, 2), holding(Token::Held, staged()), switch),
            ("an agent that starts in the middle goes on without", wanted(2, 2), stopped, start),
            ("and asks beside it", wanted(2, 2), begun, Step::AskToken),
            ("over", wanted(1, 1), holding(Token::Held, at_rest()), Step::ReturnToken),
            ("not wanted now", wanted(1, 1), holding(Token::Asked, at_rest()), Step::ReturnToken),
            ("kept until it serves", wanted(1, 1), holding(Token::Held, restarted), Step::Rest),
            ("a restart needs one", wanted(1, 1), worn(), Step::AskToken),
            ("and then goes on", wanted(1, 1), holding(Token::Held, worn()), Step::Stop),
        ],
    );
}

#[test]
fn restarts_follow_the_table() {
    let worn = || with(at_rest(), serving(stale(1)));
    let beside = |candidate| with(at_rest(), both(stale(1), candidate));
    let shut = Policy { permission: Permission::Refused, ..policy() };
    check(&policy(), vec![("stopped first", wanted(1, 1), worn(), Step::Stop)]);
    check(&shut, vec![("held", wanted(1, 1), worn(), Step::Rest)]);
    let start = Step::StartCandidate { build: build(1) };
    check(
        &overlap(),
        vec![
            ("started beside", wanted(1, 1), worn(), start),
            ("is ready", wanted(1, 1), beside(up(1, Gate::Ready)), Step::Rest),
            ("is good", wanted(1, 1), beside(up(1, Gate::Good)), Step::Promote),
            (
                "one that fails leaves the old one alone",
                wanted(1, 1),
                beside(resting(1)),
                Step::Rest,
            ),
        ],
    );
}

#[test]
fn hooks_follow_the_table() {
    use HookKind::{AfterRollback, AfterSwitch, BeforeSwitch, Drain, Undrain};
    let kinds = [BeforeSwitch, AfterSwitch, AfterRollback, Drain, Undrain];
    let run = |kind, seed| Step::RunHook { kind, build: build(seed) };
    let running = |kind, seed, actual: Actual| {
        let hooks = HookView { running: Some((kind, build(seed))), ..HookView::default() };
        Actual { hooks, ..actual }
    };
    let done = |kind, seed, actual: Actual| {
        let hooks = HookView { done: [(kind, build(seed))].into(), ..actual.hooks };
        Actual { hooks, ..actual }
    };
    let failed = hook_failed;
    let drained = |drained, actual: Actual| {
        let hooks = HookView { drained, ..actual.hooks.clone() };
        Actual { hooks, ..actual }
    };
    let fresh = |is_out, gate| drained(is_out, with(switched(), serving(up(2, gate))));
    let back = drained(Drained::No, with(going_back(), serving(up(1, Gate::Ready))));
    let (switch, fail) = (Step::Switch { build: build(2) }, Step::Quarantine { failed: build(2) });
    let roll_back = Step::RollBack { build: build(1) };
    let after = || done(AfterSwitch, 2, switched());
    check(
        &Policy { hooks: kinds.into(), ..policy() },
        vec![
            ("before", wanted(2, 2), staged(), run(BeforeSwitch, 2)),
            ("it runs", wanted(2, 2), running(BeforeSwitch, 2, staged()), Step::Rest),
            ("it is done", wanted(2, 2), done(BeforeSwitch, 2, staged()), switch),
            ("it failed", wanted(2, 2), failed(done(BeforeSwitch, 2, staged())), fail),
            ("goal changed", wanted(3, 1), running(BeforeSwitch, 2, staged()), Step::CancelHook),
            ("after", wanted(2, 2), switched(), run(AfterSwitch, 2)),
            ("after runs", wanted(2, 2), running(AfterSwitch, 2, switched()), Step::Rest),
            ("after failed", wanted(2, 2), failed(after()), roll_back),
            ("drain", wanted(2, 2), drained(Drained::No, after()), run(Drain, 1)),
            ("perhaps drained", wanted(2, 2), after(), run(Drain, 1)),
            ("undrain runs", wanted(2, 2), running(Undrain, 1, after()), Step::Rest),
            ("drained", wanted(2, 2), drained(Drained::Yes, after()), Step::Stop),
            ("not ready yet", wanted(2, 2), fresh(Drained::Yes, Gate::Starting), Step::Rest),
            ("undrain", wanted(2, 2), fresh(Drained::Yes, Gate::Ready), run(Undrain, 2)),
            ("perhaps", wanted(2, 2), fresh(Drained::Unknown, Gate::Ready), run(Undrain, 2)),
            ("never drained", wanted(2, 2), fresh(Drained::No, Gate::Ready), Step::Rest),
            ("went back", wanted(2, 2), back.clone(), run(AfterRollback, 1)),
            ("went back, hook done", wanted(2, 2), done(AfterRollback, 1, back), Step::Rest),
        ],
    );
}

#[test]
fn hook_of_an_app_without_a_program_comes_before_the_settlement() {
    let hooks = [HookKind::AfterSwitch].into();
    let policy = Policy { has_program: false, hooks, ..policy() };
    let actual = with(switched(), serving(Program::Stopped));
    let step = next_step(wanted(2, 2).as_ref(), &actual, &policy);
    assert_eq!(step, Step::RunHook { kind: HookKind::AfterSwitch, build: build(2) });
}

/// Goal: a crash at any point of a switch is repaired.
/// Method: what the disk and the processes look like after a crash behind each step.
#[test]
fn crashes_are_repaired_by_asking_again() {
    let begun = || Actual { journal: switching(2, 1, 2), ..staged() };
    let repoint = |seed| Step::Repoint { build: build(seed) };
    let now = |program| with(switched(), serving(program));
    let start = Step::Start { build: build(2) };
    check(
        &policy(),
        vec![
            ("behind the journal", wanted(2, 2), begun(), repoint(2)),
            ("behind the journal, goal lost", None, begun(), repoint(2)),
            ("behind the symlink", wanted(2, 2), switched(), Step::Stop),
            ("behind the stop", wanted(2, 2), now(Program::Stopped), start),
            ("behind the start", wanted(2, 2), now(up(2, Gate::Good)), Step::Settle),
            (
                "behind the way back",
                wanted(2, 2),
                Actual { current: Some(build(2)), ..going_back() },
                repoint(1),
            ),
        ],
    );
}

#[test]
fn damage_by_hand_follows_the_table() {
    let lost = Actual { current: None, ..at_rest() };
    let turned = Actual { current: Some(build(2)), ..staged() };
    let gone = Actual { complete: BTreeMap::new(), current: None, ..at_rest() };
    let gone_and_stopped =
        Actual { complete: builds(&[1]), current: None, journal: good(2, &[2, 1]), ..empty() };
    let mut kept = Actual { complete: builds(&[2]), current: None, ..at_rest() };
    kept.journal = kept.journal.map(|journal| Journal { failed: failure(2, 2), ..journal });
    let repoint = Step::Repoint { build: build(1) };
    let back = Step::RollBack { build: build(1) };
    let download = Step::Download { build: build(1) };
    check(
        &policy(),
        vec![
            ("`current` was removed", wanted(1, 1), lost, repoint),
            ("`current` was turned", wanted(1, 1), turned, repoint),
            ("build removed: keep what runs", wanted(1, 1), gone, download),
            ("what was gone back to is damaged: fetch it again", wanted(2, 2), kept, download),
            ("build removed, nothing runs: what ran before", wanted(2, 2), gone_and_stopped, back),
        ],
    );
}

#[test]
fn programs_follow_the_table() {
    let down = || with(at_rest(), serving(Program::Stopped));
    let start = Step::Start { build: build(1) };
    let download = Transfer::Active { build: build(2) };
    let needless = with(at_rest(), both(up(1, Gate::Good), up(2, Gate::Ready)));
    check(
        &policy(),
        vec![
            ("machine restarted, goal store down", None, down(), start),
            ("while a download runs", wanted(2, 2), Actual { download, ..down() }, start),
            ("a candidate that nobody needs", wanted(1, 1), needless, Step::StopCandidate),
        ],
    );
}

#[test]
fn app_without_a_program_is_switched_and_settled_at_once() {
    let policy = Policy { has_program: false, ..policy() };
    let stopped = || serving(Program::Stopped);
    check(
        &policy,
        vec![
            ("at rest", wanted(1, 1), with(at_rest(), stopped()), Step::Rest),
            ("new", wanted(2, 2), with(staged(), stopped()), Step::Switch { build: build(2) }),
            ("switched", wanted(2, 2), with(switched(), stopped()), Step::Settle),
            ("a program left from another configuration", wanted(2, 2), switched(), Step::Stop),
        ],
    );
}

type Removal<'a> = (&'a str, Actual, Policy, Option<Wanted>, &'a [u8]);

#[test]
fn agent_that_replaces_itself_follows_the_table() {
    let policy = Policy { has_program: false, ..policy() };
    let agent = |seed: Option<u8>, is_good| {
        Some(AgentView { runs: seed.map(build), is_good, may_restart: true })
    };
    let stopped = |actual| with(actual, serving(Program::Stopped));
    let now = |seed, is_good, actual| Actual { agent: agent(seed, is_good), ..stopped(actual) };
    let young = Some(AgentView { runs: Some(build(1)), is_good: false, may_restart: false });
    let last = Actual { journal: out_of_tries(2, 1, 2), ..switched() };
    let overdue = Actual { failed: Some(build(2)), ..now(Some(2), false, switched()) };
    let back = Step::RollBack { build: build(1) };
    check(
        &policy,
        vec![
            ("at rest", wanted(1, 1), now(Some(1), true, at_rest()), Step::Rest),
            ("installed one at rest", wanted(1, 1), now(None, true, at_rest()), Step::Rest),
            ("new", wanted(2, 2), now(Some(1), true, staged()), Step::Switch { build: build(2) }),
            ("switched", wanted(2, 2), now(Some(1), true, switched()), Step::RestartAgent),
            (
                "no storm of restarts",
                wanted(2, 2),
                Actual { agent: young, ..stopped(switched()) },
                Step::Rest,
            ),
            ("on probation", wanted(2, 2), now(Some(2), false, switched()), Step::Rest),
            ("proved", wanted(2, 2), now(Some(2), true, switched()), Step::Settle),
            ("never well", wanted(2, 2), overdue, back),
            ("the stub gave it up", wanted(2, 2), now(None, true, last), back),
            ("went back", wanted(2, 2), now(Some(2), false, going_back()), Step::RestartAgent),
            ("is back", wanted(2, 2), now(Some(1), true, going_back()), Step::Settle),
        ],
    );
}

fn removed(actual: Actual, policy: &Policy, wanted: Option<Wanted>) -> BTreeSet<BuildId> {
    let mut actual = actual;
    let mut removed = BTreeSet::new();
    while let Step::Remove { build } = next_step(wanted.as_ref(), &actual, policy) {
        actual.complete.remove(&build);
        actual.staged.remove(&build);
        removed.insert(build);
    }
    removed
}

#[test]
fn removals_follow_the_table() {
    let many = || Actual {
        complete: builds(&[1, 2, 3, 4, 5, 6]),
        staged: [build(7)].into(),
        current: Some(build(6)),
        journal: good(6, &[6, 5, 4, 3, 2, 1]),
        programs: serving(up(6, Gate::Good)),
        ..empty()
    };
    let keep = |keep_builds| Policy { keep_builds, ..policy() };
    let bytes = |bytes| Policy { keep_bytes: Some(bytes), ..keep(9) };
    let on_its_way = Actual { download: Transfer::Resting { build: build(7) }, ..many() };
    let busy = Actual { removing: Some(build(1)), ..many() };
    let never_good = Actual { journal: good(6, &[6, 5]), ..many() };
    let midway = Actual { journal: switching(7, 5, 6), ..many() };
    let mut failed = many();
    failed.journal = failed.journal.map(|journal| Journal { failed: failure(1, 7), ..journal });
    let cases: [Removal<'_>; 10] = [
        ("three", many(), keep(3), wanted(6, 6), &[1, 2, 3, 7]),
        ("five", many(), keep(5), wanted(6, 6), &[1, 7]),
        ("the previous good one stays", many(), keep(1), wanted(6, 6), &[1, 2, 3, 4, 7]),
        ("what the goal needs stays", on_its_way, keep(1), wanted(7, 7), &[1, 2, 3, 4]),
        ("one at a time", busy, keep(1), wanted(6, 6), &[]),
        ("never good here", never_good, keep(9), wanted(6, 6), &[1, 2, 3, 4, 7]),
        ("never in a switch", midway, keep(1), wanted(7, 6), &[]),
        ("four by bytes", many(), bytes(40), wanted(6, 6), &[1, 2, 7]),
        ("what must stay may be more", many(), bytes(1), wanted(6, 6), &[1, 2, 3, 4, 7]),
        ("a failed goal stays", failed, keep(2), wanted(7, 1), &[2, 3, 4, 7]),
    ];
    for (name, actual, policy, wanted, expected) in cases {
        let expected: BTreeSet<_> = builds(expected).into_keys().collect();
        assert_eq!(removed(actual, &policy, wanted), expected, "{name}");
    }
}
