//! Tests of the judge: what halts, what goes back, what tokens have to know.

use goal_state::{ChangeOrder, GoalChange, GoalStore, GoalUrl, RolloutChange};
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

#[test]
fn groups_have_the_hosts_that_were_heard_of() {
    let host = |name: &str, group: Option<&str>| HostStatus {
        group: group.map(String::from),
        updated_at_ms: NOW,
        ..HostStatus::new(name, app())
    };
    let silent = |row| HostStatus { updated_at_ms: NOW - HEARD_WITHIN_MS - 1, ..row };
    let wrong_clock =
        HostStatus { updated_at_ms: 5, received_at_ms: NOW, ..host("h2", Some("z1")) };
    let stopped = HostStatus { phase: HostPhase::Stopped, ..host("h3", Some("z1")) };
    let rows = [
        host("h1", Some("z1")),
        wrong_clock,
        stopped,
        silent(host("h4", Some("z1"))),
        host("h5", Some("")),
        host("h6", None),
    ];
    let key = |group: &str| PoolKey { app: app(), group: group.into() };
    assert_eq!(group_sizes(NOW, &rows), BTreeMap::from([(key("z1"), 2), (key(""), 1)]));
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
