//! Tests of reading and writing: with a folder and with a real etcd as the goal store.

use goal_state::testing::EtcdServer;
use goal_state::{GoalUrl, HostPhase};
use p2p_core::BuildId;
use parking_lot::Mutex;

use super::*;

/// Rows that a test sets.
#[derive(Default)]
struct SetRows(Mutex<Vec<HostStatus>>);

impl OwnRows for SetRows {
    fn apps_with(&self, is_wanted: &dyn Fn(&HostStatus) -> bool) -> BTreeSet<AppName> {
        self.0.lock().iter().filter(|row| is_wanted(row)).map(|row| row.app.clone()).collect()
    }

    fn rows_of(&self, apps: &BTreeSet<AppName>) -> Vec<HostStatus> {
        self.0.lock().iter().filter(|row| apps.contains(&row.app)).cloned().collect()
    }

    fn node_heard_at_ms(&self, node: &str) -> Option<u64> {
        let rows = self.0.lock();
        let of_node = rows.iter().filter(|row| row.node.as_deref() == Some(node));
        of_node.map(HostStatus::heard_at_ms).max()
    }
}

impl<Own: OwnRows> Judging<'_, Own> {
    /// As one round of [`Self::run`]; what the tokens have to know before and after writing.
    async fn round(&mut self, asked: &AskedApps) -> [TokenRules; 2] {
        self.looked_at.clear();
        let found = self.look(asked).await;
        for (app, order) in found.orders {
            self.carry_out(&app, order, &found.rows).await;
        }
        [found.rules, self.judge.rules(now_ms(), found.rows.values().flatten())]
    }
}

fn app() -> AppName {
    "web".parse().unwrap()
}

fn build(name: char) -> BuildId {
    BuildId::of_manifest(name.to_string().as_bytes())
}

fn rows(goal: &Goal, failed: u32) -> Vec<HostStatus> {
    let row = |host| HostStatus {
        generation: Some(goal.generation),
        current: Some(build('A')),
        phase: if host < failed { HostPhase::RolledBack } else { HostPhase::Waiting },
        quarantined: (host < failed).then_some(goal.build),
        failure: (host < failed).then(|| "exit code 3".into()),
        group: Some("z1".into()),
        updated_at_ms: now_ms(),
        ..HostStatus::new(format!("h{host}"), app())
    };
    (0..8).map(row).collect()
}

async fn deployed(store: &GoalStore, change: RolloutChange) -> Goal {
    store.deploy(&app(), build('A'), RolloutChange::default()).await.unwrap();
    store.deploy(&app(), build('B'), change).await.unwrap()
}

async fn goal(store: &GoalStore) -> Goal {
    store.goal(&app()).await.unwrap().unwrap()
}

/// Goal: hosts that write for themselves are judged, and the halt is written once, however many
/// seeders decide it at the same time.
#[tokio::test]
async fn several_seeders_halt_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = GoalStore::new(&GoalUrl::File { directory: folder.path().join("goal") });
    let bad = deployed(&store, RolloutChange::default()).await;
    for row in rows(&bad, 2) {
        store.put_status(&row.host.clone(), &[row]).await.unwrap();
    }
    let none = SetRows::default();
    let mut seeders = [(); 2].map(|()| Judging::new(store.clone(), &none, true));
    let asked = AskedApps::from([(app(), 2)]);
    let mut orders = vec![];
    for seeder in &mut seeders {
        let found = seeder.look(&asked).await;
        assert_eq!(found.rules.stops[&app()].last, bad.generation, "before it is written");
        assert_eq!(found.rules.groups.values().map(|group| group.size).collect::<Vec<_>>(), [8]);
        orders.push(found);
    }
    for (seeder, found) in seeders.iter_mut().zip(orders) {
        for (app, order) in found.orders {
            seeder.carry_out(&app, order, &found.rows).await;
        }
        assert!(seeder.unwritten.is_empty());
    }
    for _ in 0..3 {
        for seeder in &mut seeders {
            let [_, rules] = seeder.round(&asked).await;
            assert_eq!(rules.stops[&app()].last, bad.generation);
        }
    }
    let goal = goal(&store).await;
    assert_eq!((goal.generation, goal.build), (bad.generation + 1, bad.build));
    let halted = goal.rollout.halted.unwrap();
    assert_eq!(halted.reason, "the build failed on 2 of 8 hosts: exit code 3 (h0, h1)");
    assert_eq!(halted.by, HALTED_BY_SEEDER);
}

/// Goal: `auto_revert` takes the app back once, and the history says why.
#[tokio::test]
async fn halted_rollout_goes_back_to_the_last_good_build() {
    let folder = tempfile::tempdir().unwrap();
    let store = GoalStore::new(&GoalUrl::File { directory: folder.path().join("goal") });
    let change = RolloutChange { auto_revert: Some(true), ..RolloutChange::default() };
    let bad = deployed(&store, change).await;
    let own = SetRows(Mutex::new(rows(&bad, 1)));
    let mut judging = Judging::new(store.clone(), &own, false);
    for _ in 0..3 {
        judging.round(&AskedApps::new()).await;
    }
    let goal = goal(&store).await;
    assert_eq!((goal.generation, goal.build), (bad.generation + 2, build('A')));
    assert_eq!(goal.rollout.halted, None);
    assert_eq!(goal.origin.author.as_deref(), Some(HALTED_BY_SEEDER));
    let reason = "the build failed on 1 of 8 hosts: exit code 3 (h0)";
    assert_eq!(goal.origin.comment.as_deref(), Some(reason));
    let left = &goal.history[0];
    assert_eq!((left.build, left.rolled_back), (bad.build, true));
    assert_eq!(left.halted.as_ref().map(|halted| halted.reason.as_str()), Some(reason));
    assert_eq!(left.outcome.map(|outcome| (outcome.failed, outcome.hosts)), Some((1, 8)));
}

/// Goal: which hosts are away is told by this seeder's clock, whatever the other's says.
#[test]
fn rows_of_others_age_by_the_own_clock() {
    let row = |host: &str, at_ms| HostStatus {
        node: Some(format!("key of {host}")),
        received_at_ms: at_ms,
        ..HostStatus::new(host, app())
    };
    let mut shared = SharedRows::default();
    let mut heard = |now_ms, rows: Vec<HostStatus>| {
        shared.take(now_ms, Instant::now(), rows);
        shared.rows.iter().map(HostStatus::heard_at_ms).collect::<Vec<_>>()
    };
    // The clock of the first is 95 s behind, that of the second as much ahead.
    assert_eq!(heard(500_000, vec![row("a", 405_000), row("b", 595_000)]), [405_000, 500_000]);
    assert_eq!(heard(510_000, vec![row("a", 415_000), row("b", 605_000)]), [510_000, 510_000]);
    assert_eq!(heard(520_000, vec![row("a", 415_000), row("b", 615_000)]), [510_000, 520_000]);
    assert_eq!(shared.nodes["key of a"], 510_000);
    // What was read long ago says nothing of when something changed.
    shared.read_at = Instant::now().checked_sub(Duration::from_secs(61));
    let long_after = shared.is_old();
    shared.take(900_000, Instant::now(), vec![row("a", 416_000)]);
    assert_eq!((long_after, shared.rows[0].heard_at_ms()), (true, 416_000));
}

/// Goal: a host that lives and no longer has the app, or has another name, is not away.
#[tokio::test]
async fn hosts_that_report_something_else_take_no_places() {
    let folder = tempfile::tempdir().unwrap();
    let store = GoalStore::new(&GoalUrl::File { directory: folder.path().join("goal") });
    let goal = deployed(&store, RolloutChange::default()).await;
    let old = now_ms() - 2 * ABSENT_AFTER_MS;
    let mut all = rows(&goal, 0);
    for (row, number) in all.iter_mut().zip(0..) {
        row.node = Some(format!("node {number}"));
        row.received_at_ms = if number < 3 { old } else { now_ms() };
    }
    let other_app = HostStatus { app: "db".parse().unwrap(), ..all[3].clone() };
    let other_app = HostStatus { node: all[0].node.clone(), host: "h0".into(), ..other_app };
    let renamed = HostStatus { host: "h1b".into(), node: all[1].node.clone(), ..all[3].clone() };
    let own = SetRows(Mutex::new([all, vec![other_app, renamed]].concat()));
    let mut judging = Judging::new(store, &own, false);
    let [rules, _] = judging.round(&AskedApps::from([(app(), 2)])).await;
    let [group] = rules.groups.values().collect::<Vec<_>>()[..] else { panic!("{rules:?}") };
    let down: Vec<_> = group.down.values().map(|down| down.host.as_str()).collect();
    assert_eq!((group.size, down), (7, vec!["h2"]));
}

/// Goal: a halt holds for tokens while etcd is down, and is written once it is back.
#[tokio::test]
async fn halt_holds_while_the_goal_store_is_down() {
    let mut etcd = EtcdServer::start().await;
    let store = GoalStore::new(&etcd.url("shoal"));
    let bad = deployed(&store, RolloutChange::default()).await;
    let own = SetRows(Mutex::new(rows(&bad, 0)));
    let mut judging = Judging::new(store.clone(), &own, false);
    let asked = AskedApps::from([(app(), 2)]);
    let [rules, _] = judging.round(&asked).await;
    assert_eq!((rules.known, rules.stops.len()), (Some(BTreeMap::from([(app(), Ok(2))])), 0));
    assert_eq!(rules.groups.values().map(|group| group.size).collect::<Vec<_>>(), [8]);

    etcd.stop();
    *own.0.lock() = rows(&bad, 1);
    for _ in 0..2 {
        for rules in judging.round(&asked).await {
            assert_eq!(rules.stops[&app()].last, bad.generation);
        }
        assert!(judging.unwritten.contains_key(&app()));
    }
    etcd.restart().await;
    judging.round(&asked).await;
    assert!(goal(&store).await.rollout.halted.is_some());
    assert!(judging.unwritten.is_empty());

    // Another seeder, started now, looks before it grants, and finds the halt.
    let none = SetRows::default();
    let mut other = Judging::new(store.clone(), &none, true);
    let [rules, _] = other.round(&asked).await;
    assert_eq!(rules.stops[&app()].last, bad.generation);
}

/// Goal: nobody is judged by a part of the rows, and nothing is granted before goals were read.
#[tokio::test]
async fn seeder_that_cannot_read_the_store_waits() {
    let store = GoalStore::new(&"etcd://127.0.0.1:1/shoal".parse().unwrap());
    let none = SetRows::default();
    let mut judging = Judging::new(store, &none, false);
    for _ in 0..2 {
        let [rules, _] = judging.round(&[(app(), 2)].into()).await;
        assert_eq!(rules.known, Some(BTreeMap::new()));
        assert!(rules.trouble.unwrap().contains("cannot reach the goal store"));
    }
}

/// Goal: a goal that is wiped or damaged in mid-deploy ends no halt, and nothing more is granted.
#[tokio::test]
async fn goal_that_is_lost_stops_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("goal");
    let store = GoalStore::new(&GoalUrl::File { directory: directory.clone() });
    let bad = deployed(&store, RolloutChange::default()).await;
    let own = SetRows(Mutex::new(rows(&bad, 1)));
    let mut judging = Judging::new(store, &own, false);
    let asked = AskedApps::from([(app(), bad.generation)]);
    let [rules, _] = judging.round(&asked).await;
    assert_eq!(rules.known.unwrap()[&app()], Ok(bad.generation));
    let file = directory.join("goals/web.json");
    for (text, expected) in [
        (Some("{"), "the goal of web cannot be read: "),
        (None, "the goal store has no goal for web any more"),
    ] {
        match text {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        for rules in judging.round(&asked).await {
            let known = &rules.known.unwrap()[&app()];
            assert!(known.as_ref().is_err_and(|reason| reason.starts_with(expected)), "{known:?}");
            assert_eq!(rules.stops[&app()].since, bad.generation);
        }
    }
}

/// Goal: rows that could not be read do not keep goals from being read, and a goal that hosts have
/// already is read at once.
#[tokio::test]
async fn failed_read_of_rows_blinds_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let store = GoalStore::new(&GoalUrl::File { directory: folder.path().join("goal") });
    deployed(&store, RolloutChange::default()).await;
    let none = SetRows::default();
    let mut judging = Judging::new(store.clone(), &none, true);
    let mut asked = AskedApps::from([(app(), 2)]);
    judging.look(&asked).await;
    judging.shared.trouble = Some("no answer within 5s".into());
    judging.shared.next_at = Some(Instant::now() + Duration::from_hours(1));
    let next = store.deploy(&app(), build('C'), RolloutChange::default()).await.unwrap();
    asked.insert(app(), next.generation);
    let rules = judging.look(&asked).await.rules;
    assert_eq!(rules.known.unwrap()[&app()], Ok(next.generation));

    assert_eq!(pause_after(ETCD_INTERVAL, None), ETCD_INTERVAL, "a hang says nothing");
    let second = Duration::from_secs(1);
    assert_eq!(pause_after(ETCD_INTERVAL, Some(second)), second * READING_SHARE);
    assert_eq!(pause_after(ETCD_INTERVAL, Some(second * 5)), READING_PAUSE_MAX);
}
