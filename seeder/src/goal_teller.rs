//! Tells hosts the goals of the goal store, which it watches for all of them.
//!
//! Owns the one watch of a seeder, and the loop that takes questions and gives answers. What is
//! told, and to whom, is decided in [`crate::goal_relay`]. Must never end before the node does, and
//! never send all answers of a region at once: what the control plane has not sent yet takes up
//! memory, and other questions would wait behind it.

use std::time::Duration;

use goal_state::{GOALS_TOPIC, GoalNews, GoalQuestion, GoalStore};
use p2p_net::{Ask, Bytes, KeptAsk, Node};
use tokio::time::{Instant, sleep_until};

use crate::goal_relay::{GoalTable, Telling};

/// Questions that are answered before others get their turn.
const BATCH_MAX: usize = 256;

/// Between two full batches: with it, a region of tens of thousands of hosts is told within a
/// second.
const BATCH_PAUSE: Duration = Duration::from_millis(2);

/// Answers questions for news until `node` ends: with the goals of `store`, or with a refusal if
/// there is none.
pub(crate) async fn tell_goals(node: &Node, store: Option<&GoalStore>) {
    match store {
        Some(store) => tell_goals_of(node, store).await,
        None => refuse(node).await,
    }
}

async fn refuse(node: &Node) {
    let reason = "this seeder knows no goals: it was started without --goal";
    let body = Bytes::from(GoalNews::Refused(reason.to_owned()).to_json());
    while let Some(ask) = node.next_ask_for_news().await {
        if ask.topic == GOALS_TOPIC {
            ask.keep().tell(body.clone()).await;
        }
    }
}

async fn tell_goals_of(node: &Node, store: &GoalStore) {
    let mut watch = store.watch_all();
    let mut table = GoalTable::default();
    let started = Instant::now();
    let mut is_failing = false;
    let mut next_batch_at = started;
    loop {
        let look_at = match table.next_end() {
            _ if table.has_due() => Some(next_batch_at),
            Some(end) => Some((started + end).max(next_batch_at)),
            None => None,
        };
        tokio::select! {
            ask = node.next_ask_for_news() => {
                let Some(ask) = ask else { return };
                take(&mut table, started.elapsed(), ask).await;
            }
            goals = watch.next() => {
                let unread = goals.unread.as_ref().map(ToString::to_string);
                match &unread {
                    Some(reason) if !is_failing => {
                        tracing::warn!(reason, "hosts are told the goals that were read before");
                    }
                    None if is_failing => tracing::info!("the goal store is read again"),
                    _ => {}
                }
                is_failing = unread.is_some();
                tracing::debug!(
                    goals = goals.apps.len(), waiting = table.waiting_count(),
                    "the goals have changed"
                );
                table.on_goals(goals);
            }
            () = sleep_until(look_at.unwrap_or(started)), if look_at.is_some() => {}
        }
        if Instant::now() < next_batch_at {
            continue;
        }
        let batch = table.take_due(started.elapsed(), BATCH_MAX);
        let is_full = batch.len() == BATCH_MAX;
        for Telling { asker, body } in batch {
            asker.tell(body).await;
        }
        if is_full {
            next_batch_at = Instant::now() + BATCH_PAUSE;
        }
    }
}

/// Hands a question to the table, and answers it if it makes no sense.
async fn take(table: &mut GoalTable<KeptAsk>, now: Duration, ask: Ask) {
    if ask.topic != GOALS_TOPIC {
        // Of a newer version, perhaps: refused as it is dropped.
        return;
    }
    let (node, question) = (ask.node, GoalQuestion::from_json(&ask.body));
    let asker = ask.keep();
    let answer = match question {
        Ok(question) => table.on_question(now, node, &question, asker),
        Err(error) => {
            let reason = format!(
                "the seeder does not understand which goals are asked for ({error}); compare the \
                 versions of host and seeder"
            );
            Some(Telling { asker, body: GoalNews::Refused(reason).to_json().into() })
        }
    };
    if let Some(Telling { asker, body }) = answer {
        asker.tell(body).await;
    }
}
