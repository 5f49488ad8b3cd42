//! Goal stores in a real etcd: restarts, lost connections, compaction, damaged values.

use goal_state::testing::EtcdServer;
use goal_state::{GoalStore, GoalStoreError, GoalUrl};

use crate::link::Link;
use crate::rig::{app, build, next, next_error, next_goal, only_damage, row, to_all};

#[tokio::test]
async fn documents_are_under_the_keys_of_the_contract() {
    let etcd = EtcdServer::start().await;
    for (prefix, goal_key, status_key) in [
        ("shoal/eu", "shoal/eu/goals/web", "shoal/eu/status/12D3KooW/0"),
        ("", "goals/web", "status/12D3KooW/0"),
    ] {
        let store = GoalStore::new(&etcd.url(prefix));
        let goal = store.deploy(&app("web"), build("A"), to_all()).await.unwrap();
        assert_eq!(etcd.get(goal_key).await.unwrap(), goal.to_json());
        store.put_status("12D3KooW/0", &[row("h1", "web", 1)]).await.unwrap();
        assert!(etcd.get(status_key).await.unwrap().starts_with(b"{\"rows\":[{\"host\":\"h1\""));
    }
    // Neighbours of the prefix are other stores.
    etcd.put("shoal/eu2/goals/web", b"x").await;
    etcd.put("shoal/eu/goals-x", b"x").await;
    assert_eq!(GoalStore::new(&etcd.url("shoal/eu")).goals().await.unwrap().goals.len(), 1);
}

/// Goal: operators and watchers get through a crash of etcd, and hear of it once.
#[tokio::test]
async fn watch_survives_a_restart_of_etcd() {
    let mut etcd = EtcdServer::start().await;
    let store = GoalStore::new(&etcd.url("shoal"));
    let (web, api) = (app("web"), app("api"));
    let before = store.deploy(&web, build("A"), to_all()).await.unwrap();
    let mut watch = store.watch(vec![web.clone()]);
    assert_eq!(next_goal(&mut watch).await, Some(before.clone()));
    store.deploy(&api, build("X"), to_all()).await.unwrap();

    etcd.stop();
    let reason = next_error(&mut watch).await;
    assert!(reason.contains("cannot reach the goal store etcd://127.0.0.1:"), "{reason}");
    assert!(reason.contains("check that etcd runs there"), "{reason}");
    let error = store.deploy(&web, build("B"), to_all()).await.unwrap_err();
    assert!(matches!(error, GoalStoreError::Unreachable { .. }), "{error:?}");

    etcd.restart().await;
    let goal = store.deploy(&web, build("C"), to_all()).await.unwrap();
    assert_eq!(goal.generation, 2, "the data survived, the failed deploy left no trace");
    // Whatever the watch tried in between, it reported the failure once: the next update is a goal,
    // either the old one again and then the new one, or the new one at once.
    let mut seen = next_goal(&mut watch).await;
    if seen == Some(before) {
        seen = next_goal(&mut watch).await;
    }
    assert_eq!(seen, Some(goal));
    let goal = store.deploy(&web, build("D"), to_all()).await.unwrap();
    assert_eq!(next_goal(&mut watch).await, Some(goal));
}

/// Goal: changes made while a watcher is cut off arrive, although their revisions are forgotten.
#[tokio::test]
async fn watch_survives_compaction_while_it_is_cut_off() {
    let etcd = EtcdServer::start().await;
    let mut link = Link::to(&etcd).await;
    let store = GoalStore::new(&etcd.url("shoal"));
    let web = app("web");
    let mut watch = GoalStore::new(&link.url("shoal")).watch(vec![web.clone()]);
    assert_eq!(next_goal(&mut watch).await, None);
    let goal = store.deploy(&web, build("A"), to_all()).await.unwrap();
    assert_eq!(next_goal(&mut watch).await, Some(goal));

    link.cut().await;
    next_error(&mut watch).await;
    store.deploy(&web, build("B"), to_all()).await.unwrap();
    let goal = store.deploy(&web, build("C"), to_all()).await.unwrap();
    etcd.compact().await;
    link.restore().await;
    assert_eq!(next_goal(&mut watch).await, Some(goal));
    let goal = store.rollback(&web, to_all(), None).await.unwrap();
    assert_eq!(next_goal(&mut watch).await, Some(goal));
}

/// Goal: a daemon may start before its goal store.
#[tokio::test]
async fn watch_starts_before_etcd_does() {
    let mut etcd = EtcdServer::start().await;
    etcd.stop();
    let mut watch = GoalStore::new(&etcd.url("shoal")).watch(vec![app("web"), app("api")]);
    for _ in 0..2 {
        next_error(&mut watch).await;
    }
    etcd.restart().await;
    for name in ["api", "web"] {
        let update = next(&mut watch).await;
        assert_eq!((update.app, update.goal), (app(name), Ok(None)));
    }
}

#[tokio::test]
async fn damaged_values_are_reported_and_never_overwritten() {
    let etcd = EtcdServer::start().await;
    let store = GoalStore::new(&etcd.url("shoal"));
    let web = app("web");
    let goal = store.deploy(&web, build("A"), to_all()).await.unwrap();
    let mut watch = store.watch(vec![web.clone()]);
    assert_eq!(next_goal(&mut watch).await, Some(goal.clone()));

    let whole = String::from_utf8(goal.to_json()).unwrap();
    let cases = [
        (String::new(), "it is empty"),
        (whole[..whole.len() / 2].to_owned(), "at line"),
        (whole.replace("web", "api"), "field `app` is api, expected web"),
        (whole.replace(": 1,", ": 0,"), "expected 1 or more at line 3"),
    ];
    for (text, expected) in cases {
        etcd.put("shoal/goals/web", text.as_bytes()).await;
        let error = next_error(&mut watch).await;
        let errors = [
            error,
            store.goal(&web).await.unwrap_err().to_string(),
            only_damage(store.goals().await.unwrap()).to_string(),
            store.deploy(&web, build("B"), to_all()).await.unwrap_err().to_string(),
            store.rollback(&web, to_all(), None).await.unwrap_err().to_string(),
        ];
        for error in errors {
            assert!(error.starts_with("key shoal/goals/web of etcd://127.0.0.1:"), "{error}");
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("etcdctl del shoal/goals/web, and deploy again"), "{error}");
        }
        assert_eq!(etcd.get("shoal/goals/web").await.unwrap(), text.as_bytes());
    }
    etcd.delete("shoal/goals/web").await;
    assert_eq!(next_goal(&mut watch).await, None);

    etcd.put("shoal/goals/Web App", b"x").await;
    let error = only_damage(store.goals().await.unwrap()).to_string();
    assert!(error.contains("not an app name") && error.contains("etcdctl del"), "{error}");
}

#[tokio::test]
async fn damaged_status_values_hide_nobody_else() {
    let etcd = EtcdServer::start().await;
    let store = GoalStore::new(&etcd.url("shoal"));
    store.put_status("s/0", &[row("h1", "web", 1)]).await.unwrap();
    etcd.put("shoal/status/s/1", b"{\"rows\":[{").await;
    assert_eq!(store.statuses().await.unwrap(), [row("h1", "web", 1)]);
}

/// Goal: a member that is down does not matter while another one is up.
#[tokio::test]
async fn second_endpoint_serves_when_the_first_is_down() {
    let etcd = EtcdServer::start().await;
    let mut link = Link::to(&etcd).await;
    let (GoalUrl::Etcd { endpoints: first, .. }, GoalUrl::Etcd { endpoints: second, .. }) =
        (link.url(""), etcd.url(""))
    else {
        unreachable!()
    };
    let endpoints = [first, second].concat();
    let store = GoalStore::new(&GoalUrl::Etcd { endpoints, prefix: "shoal".into() });
    let web = app("web");
    let mut watch = store.watch(vec![web.clone()]);
    assert_eq!(next_goal(&mut watch).await, None);
    link.cut().await;
    // Neither a request nor the watch notices.
    for name in ["A", "B"] {
        let goal = store.deploy(&web, build(name), to_all()).await.unwrap();
        assert_eq!(next_goal(&mut watch).await, Some(goal));
    }
}

/// Goal: a deploy whose answer got lost is neither done twice nor reported as failed.
/// Method: breaks the connection instead of delivering the first, second, third... part of what
/// etcd sends; that covers the moment after the write and before its answer.
#[tokio::test]
async fn deploys_over_a_link_that_breaks_are_done_once() {
    let etcd = EtcdServer::start().await;
    let link = Link::to(&etcd).await;
    let direct = GoalStore::new(&etcd.url("shoal"));
    let web = app("web");
    let mut before = direct.deploy(&web, build("0"), to_all()).await.unwrap();
    for answers in 0..16 {
        // A connection of its own each time, so that the same answers come in the same order.
        let store = GoalStore::new(&link.url("shoal"));
        link.cut_instead_of_answer(answers);
        let name = build(&answers.to_string());
        let goal = store.deploy(&web, name, to_all()).await.unwrap();
        assert_eq!((goal.generation, goal.build), (before.generation + 1, name), "{answers}");
        assert_eq!(direct.goal(&web).await.unwrap(), Some(goal.clone()), "{answers}");
        before = goal;
    }
}
