//! Goals as the seeders tell them: this host does not talk to the goal store.
//!
//! One question is always on its way: what the host knows of each app. The seeder answers when it
//! knows something else. The host stays with a seeder for as long as that answers, so that news
//! come without delay; which one it begins with differs from host to host.
//!
//! Invariant: what a seeder says is read as strictly as from the store, and never more than shown
//! as a trouble unless it is a goal. Never gives up, and never asks without a pause for longer than
//! a seeder has news.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use goal_state::{
    AppName, GOALS_TOPIC, GoalBoard, GoalNews, GoalQuestion, GoalStoreError, GoalUpdate,
    GoalVersion, GoalWatch, ToldGoal,
};
use p2p_core::NodeId;
use p2p_net::{AskError, Node, SeederAddress};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::backoff::Backoff;

/// Waits after a round of all seeders without a usable answer. The first is short enough that a
/// seeder that is restarted is hardly noticed; the longest is how late news come at worst when it
/// is back.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Sooner than this an answer comes at once. One that tells nothing then is no answer.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Between an answer and the next question: nothing to a person. Doubles up to the longest one with
/// each answer that comes at once, so that a seeder that always has news is not asked in a circle.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Rounds of all seeders without a usable answer before people hear of it: a seeder that is
/// restarted is back by the second.
const SILENT_ROUNDS: u32 = 2;

/// How long a host stays with a seeder that is not the one that it began with. Hosts that lost
/// theirs for a moment go back to it, or all would be with the last one that was restarted.
const AWAY_MAX: Duration = Duration::from_mins(5);

/// Where the goals of `apps` come from: all of `seeders`, one at a time, asked by `node`, which has
/// them in its list.
///
/// # Panics
///
/// Outside a tokio runtime.
pub(crate) fn watch(node: Node, seeders: &[SeederAddress], apps: BTreeSet<AppName>) -> GoalWatch {
    let seeders: Vec<NodeId> = seeders.iter().map(|seeder| seeder.node).collect();
    let first = first_of(node.id(), seeders.len());
    let apps = apps.into_iter().map(|app| (app, GoalVersion::default())).collect();
    let known = GoalQuestion { apps };
    GoalWatch::fed_by(move |board| {
        Listener { node, seeders, first, at: first, away_since: None, known, board }.run()
    })
}

/// Which seeder a host begins with: keys are drawn at random, so each gets its share of them.
fn first_of(node: NodeId, seeders: usize) -> usize {
    let [first, second, ..] = *node.as_bytes();
    usize::from(u16::from_le_bytes([first, second])) % seeders.max(1)
}

struct Listener {
    node: Node,
    seeders: Vec<NodeId>,
    /// The number of the seeder that it began with, and of the one that it is with.
    first: usize,
    at: usize,
    /// Since when those differ.
    away_since: Option<Instant>,
    known: GoalQuestion,
    board: GoalBoard,
}

/// What came of a question.
enum Heard {
    /// The seeder tells, or had nothing to tell in its time.
    News { is_at_once: bool },
    /// The seeder tells, and cannot read the goal store.
    NewsOfTrouble,
    /// Nothing that helps; why, for a person.
    Nothing(String),
}

impl Listener {
    async fn run(mut self) {
        let mut pause = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        // What each seeder of this round did that was of no use, and the rounds before.
        let (mut failed, mut silent_rounds) = (BTreeMap::new(), 0);
        loop {
            let wait = match self.ask().await {
                Heard::News { is_at_once } => {
                    (failed, silent_rounds) = (BTreeMap::new(), 0);
                    backoff.reset();
                    if !is_at_once {
                        pause.reset();
                    }
                    self.go_home_in_time();
                    pause.after_failure()
                }
                Heard::NewsOfTrouble => {
                    (failed, silent_rounds) = (BTreeMap::new(), 0);
                    // Another one may be able to read it; what this one told was posted.
                    self.go_on();
                    jittered(backoff.after_failure())
                }
                Heard::Nothing(reason) => {
                    debug!(seeder = self.at, reason, "no goals from this seeder");
                    failed.insert(self.at, reason);
                    self.go_on();
                    if failed.len() < self.seeders.len() {
                        continue;
                    }
                    silent_rounds += 1;
                    if silent_rounds >= SILENT_ROUNDS {
                        self.post_silence(&failed);
                    }
                    failed = BTreeMap::new();
                    jittered(backoff.after_failure())
                }
            };
            sleep(wait).await;
        }
    }

    async fn ask(&mut self) -> Heard {
        let Some(seeder) = self.seeders.get(self.at).copied() else {
            return Heard::Nothing("no seeder is configured".into());
        };
        let asked_at = Instant::now();
        let answer = self.node.ask_for_news(seeder, GOALS_TOPIC, self.known.to_json()).await;
        let told = match answer.map(|body| GoalNews::from_json(&body)) {
            Ok(Ok(GoalNews::Goals(told))) => told,
            Ok(Ok(GoalNews::Refused(reason))) => return Heard::Nothing(reason),
            Ok(Err(error)) => return Heard::Nothing(format!("its answer is not valid: {error}")),
            Err(AskError::Unreachable { reason }) => return Heard::Nothing(reason.to_string()),
            Err(error) => return Heard::Nothing(error.to_string()),
        };
        let is_at_once = asked_at.elapsed() < AT_ONCE;
        if told.is_empty() && is_at_once {
            return Heard::Nothing("it answers without telling anything".into());
        }
        if self.post(told) { Heard::NewsOfTrouble } else { Heard::News { is_at_once } }
    }

    /// Posts what is about this host's apps. Returns whether a goal cannot be read.
    fn post(&mut self, told: Vec<ToldGoal>) -> bool {
        let mut updates = Vec::new();
        for told in told {
            // An app that was not asked for is a mistake of the seeder that harms nobody.
            let Some(known) = self.known.apps.get_mut(&told.app) else { continue };
            *known = told.version.clone();
            updates.push(GoalUpdate::told(told));
        }
        let has_trouble = updates.iter().any(|update| update.goal.is_err());
        self.board.post(updates);
        has_trouble
    }

    /// Says of all apps that their goals cannot be read, and why. The board repeats nothing.
    fn post_silence(&mut self, failed: &BTreeMap<usize, String>) {
        let reasons: BTreeSet<&str> = failed.values().map(String::as_str).collect();
        let reasons = reasons.into_iter().collect::<Vec<_>>().join("; ");
        let reason = match self.seeders.len() {
            1 => format!("the seeder tells no goals: {reasons}"),
            count => format!("none of {count} seeders tells goals: {reasons}"),
        };
        let error = GoalStoreError::Told { reason }.into();
        self.board.post_unreachable(self.known.apps.keys(), &error);
        // What was known stays right, but the trouble has to be taken back.
        self.known.apps.values_mut().for_each(|known| *known = GoalVersion::default());
    }

    /// To the next seeder of the list.
    fn go_on(&mut self) {
        self.at = (self.at + 1) % self.seeders.len().max(1);
        let is_away = self.at != self.first;
        self.away_since = is_away.then(|| self.away_since.unwrap_or_else(Instant::now));
    }

    fn go_home_in_time(&mut self) {
        if self.away_since.is_some_and(|since| since.elapsed() >= jittered(AWAY_MAX)) {
            self.at = self.first;
            self.away_since = None;
        }
    }
}

/// Up to a quarter less: hosts that lost a seeder together must not come back together.
fn jittered(wait: Duration) -> Duration {
    let draw = u32::try_from(RandomState::new().hash_one(0) % 256).unwrap_or_default();
    wait * (1_024 - draw) / 1_024
}

#[cfg(test)]
mod tests {
    use goal_state::{Goal, Origin, Rollout};
    use p2p_core::{BuildId, Digest};
    use p2p_net::{Ask, Identity, NodeConfig};
    use tokio::time::timeout;

    use super::*;

    fn app(name: &str) -> AppName {
        name.parse().unwrap()
    }

    fn document(generation: u64) -> String {
        let goal = Goal {
            app: app("web"),
            generation,
            build: BuildId::of_manifest(b"x"),
            set_at_ms: 0,
            origin: Origin::default(),
            changed: Origin::default(),
            changed_at_ms: 0,
            rollout: Rollout::default(),
            history: vec![],
        };
        String::from_utf8(goal.to_json()).unwrap()
    }

    fn told(generation: u64, trouble: Option<&str>) -> GoalNews {
        GoalNews::Goals(vec![ToldGoal::new(app("web"), Some(document(generation)), trouble)])
    }

    async fn seeder() -> Node {
        let listen = "127.0.0.1:0".parse().unwrap();
        Node::start(NodeConfig::seeder(Identity::generate(), listen)).await.unwrap()
    }

    /// A host of `seeders`, and what it hears of web and api.
    async fn host(seeders: &[&Node]) -> (Node, GoalWatch) {
        let listen = "127.0.0.1:0".parse().unwrap();
        let seeders: Vec<_> = seeders.iter().map(|seeder| seeder.address()).collect();
        let config = NodeConfig {
            seeders: seeders.clone(),
            ..NodeConfig::host(Identity::generate(), listen)
        };
        let node = Node::start(config).await.unwrap();
        let watch = watch(node.clone(), &seeders, [app("api"), app("web")].into());
        (node, watch)
    }

    async fn soon<F: Future>(future: F) -> F::Output {
        timeout(Duration::from_mins(1), future).await.expect("took over a minute")
    }

    async fn next_question(seeder: &Node) -> (Ask, GoalQuestion) {
        let ask = soon(seeder.next_ask_for_news()).await.unwrap();
        assert_eq!(ask.topic, GOALS_TOPIC);
        let question = GoalQuestion::from_json(&ask.body).unwrap();
        (ask, question)
    }

    async fn answer(ask: Ask, news: &GoalNews) {
        soon(ask.keep().tell(news.to_json().into())).await;
    }

    /// The next update of web.
    async fn next(watch: &mut GoalWatch) -> GoalUpdate {
        loop {
            let update = soon(watch.next()).await;
            if update.app == app("web") {
                return update;
            }
        }
    }

    fn generation(goal: Option<Goal>) -> Option<u64> {
        goal.map(|goal| goal.generation)
    }

    /// Goal: what a seeder tells reaches the app with its bytes, and is what the host knows when it
    /// asks next; an app that it does not have is left out.
    #[tokio::test]
    async fn what_is_told_is_known_with_the_next_question() {
        let seeder = seeder().await;
        let (node, mut watch) = host(&[&seeder]).await;
        let (ask, question) = next_question(&seeder).await;
        assert_eq!(question.apps.keys().cloned().collect::<Vec<_>>(), [app("api"), app("web")]);
        assert!(question.apps.values().all(|version| version.as_str().is_empty()));
        let web = ToldGoal::new(app("web"), Some(format!(" \n{}\r\n", document(3))), None);
        let strange = ToldGoal::new(app("strange"), None, None);
        answer(ask, &GoalNews::Goals(vec![strange, web.clone()])).await;
        let update = next(&mut watch).await;
        assert_eq!(generation(update.goal.unwrap()), Some(3));
        assert_eq!(update.document.as_deref(), web.goal.as_deref().map(str::as_bytes));
        let (_kept, question) = next_question(&seeder).await;
        assert_eq!(question.apps[&app("web")], web.version);
        assert_eq!(question.apps.len(), 2);
        node.shutdown().await;
    }

    /// Goal: an answer that is none, and a seeder that tells none, is a trouble with the reason
    /// after a second try, and taken back with the next goal although that is the one of before.
    #[tokio::test]
    async fn answers_that_are_none_are_a_trouble() {
        let seeder = seeder().await;
        let (node, mut watch) = host(&[&seeder]).await;
        answer(next_question(&seeder).await.0, &told(3, None)).await;
        assert_eq!(generation(next(&mut watch).await.goal.unwrap()), Some(3));
        let bad: [(Vec<u8>, &str); 3] = [
            (b"{\"goals\":[{}]}".to_vec(), "the seeder tells no goals: its answer is not valid: "),
            (GoalNews::Refused("not here".into()).to_json(), "the seeder tells no goals: not here"),
            (GoalNews::Goals(vec![]).to_json(), "it answers without telling anything"),
        ];
        for (body, expected) in bad {
            for _ in 0..SILENT_ROUNDS {
                soon(next_question(&seeder).await.0.keep().tell(body.clone().into())).await;
            }
            let error = next(&mut watch).await.goal.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            let (ask, question) = next_question(&seeder).await;
            assert!(question.apps[&app("web")].as_str().is_empty(), "it has to be told again");
            answer(ask, &told(3, None)).await;
            assert_eq!(generation(next(&mut watch).await.goal.unwrap()), Some(3));
        }
        node.shutdown().await;
    }

    /// Goal: a document that is no goal, or that of another app, is a trouble of its app.
    #[tokio::test]
    async fn documents_are_read_strictly() {
        let seeder = seeder().await;
        let (node, mut watch) = host(&[&seeder]).await;
        let of_another = document(3).replace("\"web\"", "\"api\"");
        for document in ["{}".to_owned(), of_another, document(3).replacen('{', "{\"x\":1,", 1)] {
            let web = ToldGoal::new(app("web"), Some(document), None);
            answer(next_question(&seeder).await.0, &GoalNews::Goals(vec![web])).await;
            let error = next(&mut watch).await.goal.unwrap_err().to_string();
            assert!(error.contains("the goal of web that the seeder told"), "{error}");
        }
        node.shutdown().await;
    }

    /// Goal: the host stays with the seeder that answers, and goes to the other one when it does
    /// not or cannot read the goal store.
    #[tokio::test]
    async fn other_seeder_is_asked_when_one_is_of_no_use() {
        let seeders = [seeder().await, seeder().await];
        let (node, mut watch) = host(&[&seeders[0], &seeders[1]]).await;
        let (mut first, mut other) = (&seeders[0], &seeders[1]);
        let asked = tokio::select! {
            asked = next_question(first) => asked,
            asked = next_question(other) => {
                std::mem::swap(&mut first, &mut other);
                asked
            }
        };
        answer(asked.0, &told(1, None)).await;
        assert_eq!(generation(next(&mut watch).await.goal.unwrap()), Some(1));
        answer(next_question(first).await.0, &told(2, Some("no leader"))).await;
        let update = next(&mut watch).await;
        assert_eq!(generation(update.last_known), Some(2));
        assert_eq!(update.goal.unwrap_err().to_string(), "no leader");
        answer(next_question(other).await.0, &told(3, None)).await;
        assert_eq!(generation(next(&mut watch).await.goal.unwrap()), Some(3));
        let (kept, _) = next_question(other).await;
        soon(other.shutdown()).await;
        drop(kept);
        answer(next_question(first).await.0, &told(4, None)).await;
        assert_eq!(generation(next(&mut watch).await.goal.unwrap()), Some(4));
        node.shutdown().await;
    }

    /// Goal: a seeder that always has news is asked ever less often, not in a circle.
    #[tokio::test]
    async fn news_without_end_are_not_asked_for_without_end() {
        let seeder = seeder().await;
        let (node, _watch) = host(&[&seeder]).await;
        let mut asked = 0;
        let flood = async {
            loop {
                answer(next_question(&seeder).await.0, &told(asked, None)).await;
                asked += 1;
            }
        };
        timeout(Duration::from_secs(3), flood).await.unwrap_err();
        assert!((3..12).contains(&asked), "asked {asked} times in 3 s");
        node.shutdown().await;
    }

    #[test]
    fn hosts_are_spread_over_seeders() {
        let mut count = [0; 3];
        for number in 0..300_u16 {
            let key = Digest::of(&number.to_le_bytes());
            count[first_of(NodeId::from_bytes(*key.as_bytes()), 3)] += 1;
        }
        assert!(count.iter().all(|count| *count > 50), "{count:?}");
        assert_eq!(first_of(NodeId::from_bytes([7; 32]), 0), 0);
    }
}
