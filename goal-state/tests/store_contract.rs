//! What holds for every kind of goal store. Each test runs once per kind.

use std::collections::BTreeSet;

use goal_state::testing::EtcdServer;
use goal_state::{GoalStore, GoalStoreError, GoalUrl, HostStatus, STATUS_ROWS_MAX, WriterRows};

use crate::rig::{app, build, next, next_goal, row, to_all};

/// A store with nothing in it that lives as long as this does.
enum Fixture {
    File(tempfile::TempDir),
    Etcd(EtcdServer),
}

impl Fixture {
    fn file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    async fn etcd() -> Self {
        Self::Etcd(EtcdServer::start().await)
    }

    fn store(&self) -> GoalStore {
        GoalStore::new(&match self {
            Self::File(directory) => GoalUrl::File { directory: directory.path().to_owned() },
            Self::Etcd(server) => server.url("shoal/test"),
        })
    }
}

/// Makes a test of each function for each kind of store.
macro_rules! for_each_kind {
    ($($test:ident),* $(,)?) => {
        mod in_files {
            $(#[tokio::test] async fn $test() { super::$test(super::Fixture::file()).await; })*
        }
        mod in_etcd {
            $(#[tokio::test] async fn $test() { super::$test(super::Fixture::etcd().await).await; })*
        }
    };
}

for_each_kind!(
    deploys_and_rollbacks_follow_each_other,
    concurrent_deploys_get_distinct_generations,
    goals_of_all_apps_are_listed_in_order,
    status_of_all_writers_is_merged,
    nodes_under_one_name_have_a_row_each,
    forgotten_hosts_are_left_out,
    wrong_status_documents_are_refused,
    many_full_status_documents_are_read,
    watch_yields_the_goal_and_then_each_change,
    cancelled_wait_loses_no_update,
    clones_and_new_stores_see_the_same,
);

async fn deploys_and_rollbacks_follow_each_other(fixture: Fixture) {
    let store = fixture.store();
    let web = app("web");
    assert_eq!(store.goal(&web).await.unwrap(), None);
    let error = store.rollback(&web, to_all(), None).await.unwrap_err();
    assert!(matches!(error, GoalStoreError::NoGoal { .. }), "{error:?}");

    for (generation, name) in (1..).zip(["A", "B", "C"]) {
        let goal = store.deploy(&web, build(name), to_all()).await.unwrap();
        assert_eq!((goal.generation, goal.build), (generation, build(name)));
        assert_eq!(store.goal(&web).await.unwrap(), Some(goal));
    }
    for (generation, name) in [(4, "B"), (5, "A")] {
        let goal = store.rollback(&web, to_all(), Some(generation - 1)).await.unwrap();
        assert_eq!((goal.generation, goal.build), (generation, build(name)));
        assert_eq!(store.goal(&web).await.unwrap(), Some(goal));
    }
    let error = store.rollback(&web, to_all(), Some(4)).await.unwrap_err();
    assert!(matches!(error, GoalStoreError::Moved { .. }), "{error:?}");
    let error = store.rollback(&web, to_all(), None).await.unwrap_err();
    assert!(matches!(error, GoalStoreError::AlreadyRolledBack { .. }), "{error:?}");
    let error = store.rollback(&web, to_all(), Some(5)).await.unwrap_err();
    assert!(matches!(error, GoalStoreError::NoHistory { .. }), "{error:?}");
    assert_eq!(store.goal(&web).await.unwrap().unwrap().generation, 5);
}

/// Goal: no two deploys get one generation, and none is lost.
/// Method: eight tasks with stores of their own deploy the same build four times each.
async fn concurrent_deploys_get_distinct_generations(fixture: Fixture) {
    let deploys = (0..8).map(|_| {
        let store = fixture.store();
        tokio::spawn(async move {
            let mut generations = Vec::new();
            for _ in 0..4 {
                generations.push(
                    store.deploy(&app("web"), build("A"), to_all()).await.unwrap().generation,
                );
            }
            generations
        })
    });
    let deploys: Vec<_> = deploys.collect();
    let mut generations = BTreeSet::new();
    for deploy in deploys {
        generations.extend(deploy.await.unwrap());
    }
    assert_eq!(generations, (1..=32).collect());
    assert_eq!(fixture.store().goal(&app("web")).await.unwrap().unwrap().generation, 32);
}

async fn goals_of_all_apps_are_listed_in_order(fixture: Fixture) {
    let store = fixture.store();
    assert_eq!(store.goals().await.unwrap().goals, []);
    let names: Vec<_> = (0..20).map(|number| format!("app-{number:02}")).collect();
    for name in names.iter().rev() {
        store.deploy(&app(name), build(name), to_all()).await.unwrap();
    }
    let goals = store.goals().await.unwrap().goals;
    let listed: Vec<_> = goals.iter().map(|goal| goal.app.as_str()).collect();
    assert_eq!(listed, names);
}

/// The inventory without the time at which a file store received what hosts wrote themselves.
async fn unstamped(store: &GoalStore) -> Vec<HostStatus> {
    let mut rows = store.statuses().await.unwrap();
    for row in &mut rows {
        row.received_at_ms = 0;
    }
    rows
}

async fn status_of_all_writers_is_merged(fixture: Fixture) {
    let store = fixture.store();
    assert_eq!(store.statuses().await.unwrap(), []);
    store.put_status("h1", &[row("h1", "web", 5), row("h1", "api", 5)]).await.unwrap();
    store.put_status("12D3KooW/0", &[row("h2", "web", 7), row("h1", "web", 4)]).await.unwrap();
    store.put_status("12D3KooW/1", &[row("h3", "web", 1)]).await.unwrap();
    let expected =
        [row("h1", "api", 5), row("h1", "web", 5), row("h2", "web", 7), row("h3", "web", 1)];
    assert_eq!(unstamped(&store).await, expected);

    // A writer's document is replaced as a whole.
    store.put_status("h1", &[row("h1", "web", 9)]).await.unwrap();
    store.put_status("12D3KooW/1", &[]).await.unwrap();
    assert_eq!(unstamped(&store).await, [row("h1", "web", 9), row("h2", "web", 7)]);
    assert_eq!(store.goals().await.unwrap().goals, []);
}

async fn wrong_status_documents_are_refused(fixture: Fixture) {
    let store = fixture.store();
    for writer in ["", "../goals/web", "a/b/c", ".hidden"] {
        let error = store.put_status(writer, &[]).await.unwrap_err();
        assert!(matches!(error, GoalStoreError::WriterName(_)), "{writer}: {error:?}");
    }
    let rows: Vec<_> = (0..=STATUS_ROWS_MAX).map(|host| row(&host.to_string(), "web", 1)).collect();
    store.put_status("seeder/0", &rows[1..]).await.unwrap();
    let error = store.put_status("seeder/0", &rows).await.unwrap_err().to_string();
    assert!(error.contains("seeder/0 has 561 rows, the limit is 560"), "{error}");
    assert_eq!(store.statuses().await.unwrap().len(), STATUS_ROWS_MAX);
}

/// Goal: a list that is larger than one answer of etcd may be is read whole.
async fn many_full_status_documents_are_read(fixture: Fixture) {
    let store = fixture.store();
    for shard in 0..20 {
        let hosts = (0..STATUS_ROWS_MAX).map(|host| format!("h{shard:02}-{host:04}"));
        let mut rows: Vec<_> = hosts.map(|host| row(&host, "web", 1)).collect();
        for row in &mut rows {
            row.message = Some("m".repeat(1_000));
        }
        store.put_status(&format!("seeder/{shard}"), &rows).await.unwrap();
    }
    let rows = store.statuses().await.unwrap();
    assert_eq!(rows.len(), 20 * STATUS_ROWS_MAX);
    assert_eq!(rows[0].host, "h00-0000");
    assert_eq!(rows.last().unwrap().host, format!("h19-{:04}", STATUS_ROWS_MAX - 1));
}

async fn watch_yields_the_goal_and_then_each_change(fixture: Fixture) {
    let store = fixture.store();
    let (web, api) = (app("web"), app("api"));
    store.deploy(&web, build("A"), to_all()).await.unwrap();
    let mut watch = fixture.store().watch(vec![web.clone(), api.clone(), web.clone()]);

    let mut states = [next(&mut watch).await, next(&mut watch).await];
    states.sort_by(|a, b| a.app.cmp(&b.app));
    let [first, second] = states;
    assert_eq!((first.app, first.goal), (api.clone(), Ok(None)));
    assert_eq!(second.goal.unwrap().unwrap().build, build("A"));

    // A goal that is not watched, then one that is: only the second is seen.
    store.deploy(&app("other"), build("X"), to_all()).await.unwrap();
    let goal = store.deploy(&api, build("B"), to_all()).await.unwrap();
    let update = next(&mut watch).await;
    assert_eq!((update.app, update.goal), (api, Ok(Some(goal))));

    for name in ["B", "C", "B"] {
        let goal = store.deploy(&web, build(name), to_all()).await.unwrap();
        assert_eq!(next_goal(&mut watch).await, Some(goal));
    }
    let goal = store.rollback(&web, to_all(), None).await.unwrap();
    assert_eq!(next_goal(&mut watch).await, Some(goal));
}

/// Goal: `next` may be one arm of a `select!`.
/// Method: polls it once and drops it, over and over, while goals change.
async fn cancelled_wait_loses_no_update(fixture: Fixture) {
    let store = fixture.store();
    let mut watch = store.watch(vec![app("web")]);
    assert_eq!(next_goal(&mut watch).await, None);
    for name in ["A", "B", "C"] {
        let goal = store.deploy(&app("web"), build(name), to_all()).await.unwrap();
        let seen = tokio::time::timeout(crate::rig::DEADLINE, async {
            loop {
                tokio::select! {
                    biased;
                    update = watch.next() => break update,
                    () = tokio::task::yield_now() => {}
                }
            }
        });
        assert_eq!(seen.await.expect("an update comes").goal, Ok(Some(goal)));
    }
}

async fn clones_and_new_stores_see_the_same(fixture: Fixture) {
    let store = fixture.store();
    let goal = store.clone().deploy(&app("web"), build("A"), to_all()).await.unwrap();
    assert_eq!(store.goal(&app("web")).await.unwrap(), Some(goal.clone()));
    assert_eq!(fixture.store().goals().await.unwrap().goals, [goal]);
    let is_directory = matches!(fixture, Fixture::File(_));
    assert_eq!(store.takes_host_status(), is_directory);
}

/// A row of `node` as a seeder writes it.
fn heard(host: &str, node: &str, received_at_ms: u64) -> HostStatus {
    HostStatus { node: Some(node.into()), received_at_ms, ..row(host, "web", 5) }
}

async fn nodes_under_one_name_have_a_row_each(fixture: Fixture) {
    let store = fixture.store();
    let (first, second) = (heard("h", "a", 100), heard("h", "b", 200_000));
    let both = [first, second.clone()];
    store.put_status("12D3KooW/0", &both).await.unwrap();
    assert_eq!(store.statuses().await.unwrap(), both);
    // Another seeder saw the second later; one that is gone has a third node and another host.
    let newer = heard("h", "b", 200_001);
    store.put_status("12D3KooX/0", std::slice::from_ref(&newer)).await.unwrap();
    let gone = [heard("h", "c", 50), heard("g", "d", 1)];
    store.put_status("12D3KooY/0", &gone).await.unwrap();
    let [_, other] = gone;
    // Within one app by host; the name went over from `c` to others, who report.
    assert_eq!(store.statuses().await.unwrap(), [other, newer]);
    let written = WriterRows { rows: both.to_vec(), is_whole: true };
    assert_eq!(store.statuses_of("12D3KooW").await.unwrap(), written);
    assert_eq!(store.statuses_of("12D3Koo").await.unwrap(), WriterRows::default());
}

/// Goal: a host that is forgotten is gone from every document, comes back when it reports, and
/// costs nothing once that is long ago.
async fn forgotten_hosts_are_left_out(fixture: Fixture) {
    const LATER_MS: u64 = 8 * 24 * 60 * 60 * 1_000;
    let store = fixture.store();
    assert_eq!(store.forgotten().await.unwrap(), []);
    // Names that neither a file nor a key may have.
    let [odd, other] = [heard("../we\u{e4}/h", "a", 7), heard("h2", "b", 7)];
    store.put_status("12D3KooW/0", &[odd.clone(), other.clone()]).await.unwrap();
    store.put_status("12D3KooX/0", std::slice::from_ref(&odd)).await.unwrap();
    store.forget(&odd.host, 7).await.unwrap();
    assert_eq!(store.statuses().await.unwrap(), std::slice::from_ref(&other));
    let [forgotten] = &fixture.store().forgotten().await.unwrap()[..] else { panic!("one") };
    assert!(forgotten.covers(&odd.host, 7) && !forgotten.covers(&other.host, 7));

    let back = HostStatus { received_at_ms: 8, ..odd.clone() };
    store.put_status("12D3KooW/0", &[back.clone(), other.clone()]).await.unwrap();
    assert_eq!(store.statuses().await.unwrap(), [back.clone(), other]);

    let set_at_ms = forgotten.set_at_ms;
    assert_eq!(store.sweep_forgotten(set_at_ms + 1).await.unwrap(), 0);
    assert_eq!(store.sweep_forgotten(set_at_ms + LATER_MS).await.unwrap(), 1);
    assert_eq!(store.forgotten().await.unwrap(), []);
    let written = store.statuses_of("12D3KooX").await.unwrap();
    assert_eq!((written.rows, written.is_whole), (vec![], true), "the row would come back");
    assert_eq!(store.statuses().await.unwrap()[0], back);
}
