//! What the tests share: names, builds, waiting with a deadline.

use std::time::Duration;

use goal_state::{
    AppName, Goal, GoalList, GoalStoreError, GoalUpdate, GoalWatch, HostStatus, RolloutChange,
};
use p2p_core::BuildId;

/// Ends a test that waits for what never comes; far longer than anything takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

pub(crate) fn app(name: &str) -> AppName {
    name.parse().unwrap()
}

pub(crate) fn build(name: &str) -> BuildId {
    BuildId::of_manifest(name.as_bytes())
}

pub(crate) fn row(host: &str, app_name: &str, updated_at_ms: u64) -> HostStatus {
    HostStatus { updated_at_ms, ..HostStatus::new(host, app(app_name)) }
}

/// To every host, as a deploy goes unless it says otherwise.
pub(crate) fn to_all() -> RolloutChange {
    RolloutChange::default()
}

/// The next update, which must come.
pub(crate) async fn next(watch: &mut GoalWatch) -> GoalUpdate {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("an update comes")
}

/// The next update, which must be of a goal that can be read.
pub(crate) async fn next_goal(watch: &mut GoalWatch) -> Option<Goal> {
    let update = next(watch).await;
    update.goal.unwrap_or_else(|error| panic!("{}: {error}", update.app))
}

/// The next update, which must be an error.
pub(crate) async fn next_error(watch: &mut GoalWatch) -> String {
    next(watch).await.goal.expect_err("the store cannot be read").to_string()
}

/// The error of the one damaged goal in a list.
pub(crate) fn only_damage(mut list: GoalList) -> GoalStoreError {
    assert_eq!(list.damaged.len(), 1, "{list:?}");
    list.damaged.remove(0).error
}
