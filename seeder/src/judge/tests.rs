//! Tests of the judge: what halts, what goes back, what tokens have to know.

use goal_state::{ChangeOrder, GoalChange, GoalStore, GoalUrl, RolloutChange, TroubleKind};
use p2p_core::BuildId;

use super::*;

fn app() -> AppName {
    "web".parse().unwrap()
}

fn build(name: char) -> BuildId {
    BuildId::of_manifest(name.to_string().as_bytes())
}

/// The goals that the changes lead to, after a deploy of A.
async fn goals(changes: Vec<GoalChange>) -> Vec<Goal> {
    let folder = tempfile::tempdir().unwrap();
    let store = GoalStore::new(&GoalUrl::File { directory: folder.path().join("goal") });
    let first = store.deploy(&app(), build('A'), RolloutChange::default()).await.unwrap();
    let mut goals = vec![first];
    for change in changes {
        goals.push(store.change(&app(), change, ChangeOrder::default()).await.unwrap());
    }
    goals
}

fn deploy(name: char, auto_revert: bool) -> GoalChange {
    let rollout = RolloutChange { auto_revert: Some(auto_revert), ..RolloutChange::default() };
    GoalChange::Deploy { build: build(name), rollout }
}

/// The row of a host that follows the goal and still runs `current`.
fn row(host: u32, goal: &Goal, current: char) -> HostStatus {
    HostStatus {
        generation: Some(goal.generation),
        target: Some(goal.build),
        current: Some(build(current)),
        phase: HostPhase::Waiting,
        group: Some("z1".into()),
        received_at_ms: 1_000_000,
        ..HostStatus::new(format!("h{host}"), app())
    }
}

fn gave_up(host: u32, goal: &Goal) -> HostStatus {
    HostStatus {
        phase: HostPhase::RolledBack,
        quarantined: Some(goal.build),
        failure: Some("exit code 3".into()),
        ..row(host, goal, 'A')
    }
}

fn rows(goal: &Goal, failed: u32) -> Vec<HostStatus> {
    let row = |host| if host < failed { gave_up(host, goal) } else { row(host, goal, 'A') };
    (0..8).map(row).collect()
}

const NOW: u64 = 1_010_000;

#[tokio::test]
async fn first_failure_halts_and_stops_tokens_at_once() {
    let goals = goals(vec![deploy('B', false)]).await;
    let goal = goals.last().unwrap();
    let mut judge = Judge::default();
    assert_eq!(judge.look(NOW, &app(), Ok(goal.clone()), &rows(goal, 0)), None);
    assert!(judge.rules(NOW, &[]).stops.is_empty() && !judge.is_news(&app(), goal.generation));

    let order = judge.look(NOW, &app(), Ok(goal.clone()), &rows(goal, 1));
    let Some(Order::Halt { expected, halted }) = &order else { panic!("{order:?}") };
    assert_eq!((*expected, halted.failed, halted.hosts), (goal.generation, 1, 8));
    let reason = "the build failed on 1 of 8 hosts: exit code 3 (h0)";
    let stop = Stop { since: 2, last: 2, reason: reason.into() };
    assert_eq!(judge.rules(NOW, &[]).stops, BTreeMap::from([(app(), stop.clone())]));

    // It stands until it is written, also if the host that failed is not heard of any more.
    assert_eq!(judge.look(NOW, &app(), Ok(goal.clone()), &rows(goal, 0)), order);
    let written = self::goals(vec![
        deploy('B', false),
        GoalChange::Halt { halted: halted.clone() },
        GoalChange::Resume { failed: 1 },
    ])
    .await;
    let [_, _, halted, resumed] = written.try_into().unwrap();
    assert_eq!(judge.look(NOW, &app(), Ok(halted.clone()), &rows(&halted, 1)), None);
    assert_eq!(judge.rules(NOW, &[]).stops, BTreeMap::from([(app(), stop)]), "2 know nothing");
    assert_eq!(judge.look(NOW, &app(), Ok(resumed.clone()), &rows(&resumed, 1)), None);
    assert!(judge.rules(NOW, &[]).stops.is_empty(), "a resume is respected");
    let more = judge.look(NOW, &app(), Ok(resumed.clone()), &rows(&resumed, 2));
    assert!(matches!(more, Some(Order::Halt { expected: 4, .. })), "{more:?}");
}

#[tokio::test]
async fn failures_of_an_earlier_deploy_do_not_count() {
    let goals = goals(vec![deploy('B', false), deploy('B', false), deploy('C', false)]).await;
    let [_, b, again, c] = goals.try_into().unwrap();
    let mut judge = Judge::default();
    for goal in [again, c] {
        assert_eq!(judge.look(NOW, &app(), Ok(goal.clone()), &rows(&b, 3)), None);
        // A host that has the new goal already, and says what it did not like about the old one.
        let late = HostStatus { generation: Some(goal.generation), ..gave_up(1, &b) };
        let order = judge.look(NOW, &app(), Ok(goal.clone()), &[late]);
        assert_eq!(order.is_some(), goal.build == b.build, "{order:?}");
    }
    assert_eq!(judge.look(NOW, &app(), Err("gone".into()), &rows(&b, 3)), None, "the goal is gone");
}

/// Goal: a goal store that is wiped, or a goal that is damaged, does not end a halt.
#[tokio::test]
async fn halt_outlives_the_loss_of_its_goal() {
    let goals = goals(vec![deploy('B', false)]).await;
    let goal = goals.last().unwrap();
    let mut judge = Judge::default();
    assert!(judge.look(NOW, &app(), Ok(goal.clone()), &rows(goal, 1)).is_some());
    let stops = judge.rules(NOW, &[]).stops;
    assert_eq!(stops.len(), 1);
    for _ in 0..2 {
        let order = judge.look(NOW, &app(), Err("lost".into()), &rows(goal, 2));
        assert_eq!(order, None, "there is nothing to write it to");
        let rules = judge.rules(NOW, &[]);
        assert_eq!(
            (rules.stops, &rules.known.unwrap()[&app()]),
            (stops.clone(), &Err("lost".into()))
        );
    }
    let order = judge.look(NOW, &app(), Ok(goal.clone()), &rows(goal, 0));
    assert!(order.is_some(), "it is written once the goal is back");
    assert_eq!(judge.rules(NOW, &[]).known.unwrap()[&app()], Ok(goal.generation));
}

#[tokio::test]
async fn rollout_that_a_seeder_halted_goes_back_where_that_is_wanted() {
    let halt = |by_rule| {
        let halted = Halted { by_rule, ..Halted::new(1, "somebody", "it failed") };
        GoalChange::Halt { halted }
    };
    let cases = [(true, true, true), (false, true, false), (true, false, false)];
    for (auto_revert, by_rule, expected) in cases {
        let goals = goals(vec![deploy('B', auto_revert), halt(by_rule)]).await;
        let goal = goals.last().unwrap();
        let order = Judge::default().look(NOW, &app(), Ok(goal.clone()), &rows(goal, 2));
        let outcome = Outcome { good: 0, failed: 2, hosts: 8, given_up: 2 };
        let reason = "it failed".to_owned();
        let back = Order::GoBack { expected: goal.generation, reason, outcome };
        assert_eq!(order, expected.then_some(back), "{auto_revert} {by_rule}");
    }
    // One bad build does not take the app back through its history.
    let back = GoalChange::Rollback {
        target: goal_state::RollbackTarget::LastGood,
        rollout: RolloutChange::default(),
    };
    let changes = vec![deploy('B', true), deploy('C', true), halt(false), back, halt(true)];
    let goals = goals(changes).await;
    let goal = goals.last().unwrap();
    assert_eq!(goal.build, build('B'));
    assert_eq!(Judge::default().look(NOW, &app(), Ok(goal.clone()), &rows(goal, 2)), None);
}

#[tokio::test]
async fn program_that_fails_for_a_moment_halts_nothing() {
    let goals = goals(vec![deploy('B', false)]).await;
    let goal = goals.last().unwrap();
    let stuck = HostStatus {
        phase: HostPhase::Failed,
        healthy: Some(false),
        message: Some("no answer".into()),
        ..row(0, goal, 'B')
    };
    let mut rows = rows(goal, 0);
    let good = HostStatus { phase: HostPhase::Running, ..row(0, goal, 'B') };
    let mut judge = Judge::default();
    let mut is_halted_at = |at_ms: u64, first: &HostStatus| {
        rows[0] = first.clone();
        judge.look(NOW + at_ms, &app(), Ok(goal.clone()), &rows).is_some()
    };
    assert!(!is_halted_at(0, &stuck) && !is_halted_at(STUCK_MIN_MS - 1, &stuck));
    assert!(!is_halted_at(STUCK_MIN_MS, &good));
    assert!(!is_halted_at(STUCK_MIN_MS + 1, &stuck), "counted anew");
    assert!(is_halted_at(2 * STUCK_MIN_MS + 1, &stuck));
}

/// Goal: a build whose program runs for a while only each time does not pass for a good one.
#[tokio::test]
async fn program_that_ends_again_and_again_halts_though_it_runs_between() {
    let goals = goals(vec![deploy('B', false)]).await;
    let goal = goals.last().unwrap();
    let ended = |restarts| HostStatus {
        phase: HostPhase::Running,
        restarts,
        troubles: vec![TroubleKind::RunsAgain],
        message: Some("runs again after: exit code 7".into()),
        ..row(0, goal, 'B')
    };
    let halted = |first: HostStatus| {
        let mut rows = rows(goal, 0);
        rows[0] = first;
        Judge::default().look(NOW, &app(), Ok(goal.clone()), &rows)
    };
    assert_eq!(halted(ended(2)), None, "it may be of the host");
    let Some(Order::Halt { halted: halt, .. }) = halted(ended(3)) else { panic!() };
    let expected = "the build failed on 1 of 8 hosts: runs again after: exit code 7 (h0)";
    assert_eq!(halt.reason, expected);
    // It runs for long by now; and a full disk is no fault of a program that ended before.
    let calm = HostStatus { troubles: vec![], message: None, ..ended(5) };
    let disk_full =
        HostStatus { phase: HostPhase::Failed, troubles: vec![TroubleKind::Disk], ..calm.clone() };
    assert_eq!((halted(calm), halted(disk_full)), (None, None));
}

/// Goal: a build that takes its machine down halts its rollout.
#[tokio::test]
async fn host_that_goes_silent_in_its_switch_halts() {
    let goals = goals(vec![deploy('B', false)]).await;
    let goal = goals.last().unwrap();
    let mut judge = Judge::default();
    let mut halt_at = |now_ms: u64, phase| {
        let silent = HostStatus { phase, ..row(0, goal, 'A') };
        let others =
            (1..8).map(|host| HostStatus { received_at_ms: now_ms, ..row(host, goal, 'A') });
        let rows: Vec<_> = std::iter::once(silent).chain(others).collect();
        judge.look(now_ms, &app(), Ok(goal.clone()), &rows)
    };
    let silent_at = 1_000_000 + 60_001;
    assert_eq!(halt_at(silent_at - 1, HostPhase::Checking), None);
    assert_eq!(halt_at(silent_at, HostPhase::Checking), None, "this seeder looks only now");
    assert_eq!(halt_at(silent_at + SILENT_MIN_MS - 1, HostPhase::Checking), None);
    let order = halt_at(silent_at + SILENT_MIN_MS, HostPhase::Switching);
    let Some(Order::Halt { halted, .. }) = order else { panic!("{order:?}") };
    assert_eq!(
        halted.reason,
        "the build failed on 1 of 8 hosts: it switched to the build and was not heard of since \
         (h0)"
    );
    // While rows of others cannot be read, their silence says nothing.
    let mut judge = Judge::default();
    judge.set_blind(true);
    let silent = HostStatus { phase: HostPhase::Checking, ..row(0, goal, 'A') };
    for at_ms in [NOW, NOW + 200_000, NOW + 400_000] {
        let order = judge.look(at_ms, &app(), Ok(goal.clone()), std::slice::from_ref(&silent));
        assert_eq!(order, None);
    }
    // One that had not begun is away, and no failure.
    let mut judge = Judge::default();
    let rows = rows(goal, 0);
    for at_ms in [NOW, NOW + 100_000, NOW + 200_000] {
        assert_eq!(judge.look(at_ms, &app(), Ok(goal.clone()), &rows), None);
    }
}

#[test]
fn groups_have_all_hosts_and_say_which_do_not_serve() {
    let host = |name: &str, group: Option<&str>| HostStatus {
        group: group.map(String::from),
        node: Some(format!("key of {name}")),
        current: Some(build('A')),
        updated_at_ms: NOW,
        ..HostStatus::new(name, app())
    };
    let in_z1 = |name| host(name, Some("z1"));
    let silent = |row| HostStatus { updated_at_ms: NOW - 60_001, ..row };
    let troubled = |kind, row| HostStatus { troubles: vec![kind], ..row };
    let rows = [
        in_z1("h1"),
        HostStatus { updated_at_ms: 5, received_at_ms: NOW, ..in_z1("wrong clock") },
        HostStatus { phase: HostPhase::Stopped, ..in_z1("stopped") },
        silent(in_z1("silent")),
        HostStatus { healthy: Some(false), ..in_z1("ill") },
        troubled(TroubleKind::RunsAgain, in_z1("ends")),
        troubled(TroubleKind::Disk, in_z1("full disk")),
        HostStatus { current: None, healthy: Some(false), ..in_z1("new") },
        HostStatus { node: None, ..silent(host("nameless", Some(""))) },
        host("early", None),
    ];
    let groups = groups(NOW, &rows);
    let found = |group: &str| {
        let group = &groups[&PoolKey { app: app(), group: group.into() }];
        let mut down: Vec<String> = group.down.values().map(ToString::to_string).collect();
        down.sort();
        (group.size, down.join(", "))
    };
    let down = "ends has a program that fails, ill has a program that fails, silent is away, \
                stopped is away";
    assert_eq!(found("z1"), (8, down.into()));
    assert_eq!(found(""), (1, "nameless is away".into()));
    assert_eq!(groups.len(), 2);
}

#[test]
fn rows_that_may_speak_of_a_failure_are_looked_at() {
    let plain = HostStatus { received_at_ms: NOW, ..HostStatus::new("h", app()) };
    let cases = [
        (plain.clone(), false),
        (HostStatus { quarantined: Some(build('B')), ..plain.clone() }, true),
        (HostStatus { phase: HostPhase::Failed, ..plain.clone() }, true),
        (HostStatus { troubles: vec![TroubleKind::RunsAgain], ..plain.clone() }, true),
        (HostStatus { phase: HostPhase::Switching, ..plain.clone() }, false),
        (HostStatus { phase: HostPhase::Switching, received_at_ms: 1, ..plain.clone() }, true),
        (HostStatus { phase: HostPhase::Running, received_at_ms: 1, ..plain }, false),
    ];
    for (row, expected) in cases {
        assert_eq!(speaks_of_failure(NOW, &row), expected, "{row:?}");
    }
}

#[test]
fn rows_of_two_sources_are_united() {
    let host = |name: &str, at_ms, phase| HostStatus {
        phase,
        received_at_ms: at_ms,
        ..HostStatus::new(name, app())
    };
    let other_node = HostStatus { node: Some("n2".into()), ..host("h1", 1, HostPhase::Failed) };
    let shared = [host("h1", 5, HostPhase::Waiting), host("h2", 5, HostPhase::Running)];
    let own = [host("h1", 6, HostPhase::Running), host("h2", 4, HostPhase::Failed), other_node];
    let united = united(shared.into_iter().chain(own));
    let phases: Vec<_> = united.iter().map(|row| (row.host.as_str(), row.phase)).collect();
    let expected =
        [("h1", HostPhase::Running), ("h1", HostPhase::Failed), ("h2", HostPhase::Running)];
    assert_eq!(phases, expected);
}
