//! Checks whether the seeders tell the goals of this host's apps.
//!
//! Asks each seeder as the agent would, from a node of its own with another key, so that an agent
//! that runs beside it is not disturbed.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use goal_state::{AppName, GOALS_TOPIC, GoalNews, GoalQuestion, GoalUpdate, GoalVersion};
use p2p_net::{Identity, Node, NodeConfig, SeederAddress};
use tokio::time::timeout;

use super::{ANSWER_MAX, Finding};
use crate::config::Config;

const NEXT: &str = "look at the seeder's log; it tells goals if it runs with --goal, can read that \
                    store, and is not older than this agent";

/// What each seeder says.
pub(super) async fn of_seeders(config: &Config) -> Vec<Finding> {
    let any: SocketAddr = match config.seeders.first().map(|seeder| seeder.socket) {
        Some(SocketAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        _ => (Ipv4Addr::UNSPECIFIED, 0).into(),
    };
    let seeders = config.seeders.clone();
    let node_config = NodeConfig { seeders, ..NodeConfig::host(Identity::generate(), any) };
    let node = match Node::start(node_config).await {
        Ok(node) => node,
        Err(error) => {
            let text = command_line::describe(&error.into());
            return vec![Finding::problem("goal", text, "see what else is wrong on this host")];
        }
    };
    let apps: BTreeSet<&AppName> = config.apps.keys().collect();
    let mut findings = vec![];
    for seeder in &config.seeders {
        findings.push(of_seeder(&node, seeder, &apps).await);
    }
    node.shutdown().await;
    findings
}

async fn of_seeder(node: &Node, seeder: &SeederAddress, apps: &BTreeSet<&AppName>) -> Finding {
    // Who knows nothing is told at once.
    let nothing = apps.iter().map(|app| ((*app).clone(), GoalVersion::default())).collect();
    let question = GoalQuestion { apps: nothing }.to_json();
    let asked = timeout(ANSWER_MAX, node.ask_for_news(seeder.node, GOALS_TOPIC, question)).await;
    let problem = |reason: String| {
        Finding::problem("goal", format!("{seeder} tells no goals: {reason}"), NEXT)
    };
    let told = match asked.map(|answer| answer.map(|body| GoalNews::from_json(&body))) {
        Ok(Ok(Ok(GoalNews::Goals(told)))) => told,
        Ok(Ok(Ok(GoalNews::Refused(reason)))) => return problem(reason),
        Ok(Ok(Err(error))) => return problem(format!("its answer is not valid: {error}")),
        Ok(Err(error)) => return problem(error.to_string()),
        Err(_elapsed) => return problem(format!("no answer within {ANSWER_MAX:?}")),
    };
    let (mut with_goal, mut without) = (vec![], vec![]);
    for update in told.into_iter().map(GoalUpdate::told) {
        match update.goal {
            Ok(Some(_)) => with_goal.push(update.app.to_string()),
            Ok(None) => without.push(update.app.to_string()),
            Err(error) => return problem(format!("{}: {error}", update.app)),
        }
    }
    if without.is_empty() {
        return Finding::ok(
            "goal",
            format!("{seeder} tells the goals of {}", with_goal.join(", ")),
        );
    }
    let text = format!("{seeder} tells that there is no goal of {}", without.join(", "));
    let next = "set one with shoal deploy APP BUILD, or correct the app's name on this host";
    Finding::warning("goal", text, next)
}
