//! What hosts are told of goals, and which of them wait for what.
//!
//! A host says what it knows of each of its apps; it is answered as soon as something else is known
//! here of one of them, and with nothing when its time is up. Pure: the time is an argument, and so
//! is how a host is answered (`A`). [`crate::goal_teller`] carries questions and answers.
//!
//! Invariant: what is told of an app is the document as it is stored; while the goal store cannot
//! be read it is the last one, with the trouble beside it. A host that knows all there is to know
//! is never answered early, and a node has one question here at most.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use goal_state::{
    AllGoals, AppName, GoalNews, GoalQuestion, GoalUpdate, GoalVersion, ToldGoal, goal_news_of,
};
use p2p_core::{Digest, NodeId};
use p2p_net::{Ask, Bytes};

/// Most apps without a goal that hosts of a region may wait for. They are known by nothing but
/// their names, which any node may make up.
const STRANGE_APPS_MAX: usize = 16_384;

/// Most sets of apps whose answer is kept ready. Hosts that run the same apps get the same answer.
const READY_MAX: usize = 64;

/// Bytes of an answer around what is told.
const FRAME_BYTES: usize = 64;

/// Up to this part of its time a question is answered sooner with nothing: hosts that were told
/// something together must not come back together for ever.
const SPREAD_PER_MILLE: u32 = 300;

/// An answer, and whom it is for.
#[derive(Debug)]
pub(crate) struct Telling<A> {
    pub(crate) asker: A,
    pub(crate) body: Bytes,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct GoalTable<A> {
    goals: AllGoals,
    ids: BTreeMap<AppName, usize>,
    /// Apps that hosts asked for, by id. `None`: the id is free.
    apps: Vec<Option<AskedApp>>,
    free: Vec<usize>,
    /// How many of them have no goal.
    strange: usize,
    waiting: BTreeMap<u64, Waiting<A>>,
    of_node: BTreeMap<NodeId, u64>,
    ends: BTreeSet<(Duration, u64)>,
    /// Questions to look at, in the order in which there was a reason to.
    due: VecDeque<u64>,
    /// Answers by the apps that they tell of.
    ready: BTreeMap<Vec<usize>, Bytes>,
    next: u64,
}

/// An app that hosts asked for.
#[derive(Debug)]
struct AskedApp {
    name: AppName,
    /// What is known of it; `None` while the goal store was not read yet.
    told: Option<Told>,
    /// Who asks for it.
    askers: BTreeSet<u64>,
}

/// What is told of an app.
#[derive(Debug)]
struct Told {
    mark: Mark,
    json: Vec<u8>,
}

/// A version in few bytes, because there are so many of them: a part of its digest. Who makes up a
/// version with the mark of another one only does not hear of a goal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Mark([u8; 8]);

impl Mark {
    fn of(version: &GoalVersion) -> Self {
        let digest = Digest::of(version.as_str().as_bytes());
        Self(*digest.as_bytes().first_chunk().expect("a digest is longer"))
    }
}

/// A question that was not answered yet. There are tens of thousands.
#[derive(Debug)]
struct Waiting<A> {
    node: NodeId,
    asker: A,
    /// The apps by their ids, and what the host knows of each.
    known: Box<[(usize, Mark)]>,
    until: Duration,
    is_due: bool,
}

impl<A> Default for GoalTable<A> {
    fn default() -> Self {
        Self {
            goals: AllGoals::default(),
            ids: BTreeMap::new(),
            apps: Vec::new(),
            free: Vec::new(),
            strange: 0,
            waiting: BTreeMap::new(),
            of_node: BTreeMap::new(),
            ends: BTreeSet::new(),
            due: VecDeque::new(),
            ready: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<A> GoalTable<A> {
    /// Takes over what is known now.
    pub(crate) fn on_goals(&mut self, goals: AllGoals) {
        let before = std::mem::replace(&mut self.goals, goals);
        self.ready.clear();
        let goals = &self.goals;
        let all_changed = (&before.unread, before.is_known) != (&goals.unread, goals.is_known);
        let mut asked = Vec::new();
        let mut forgotten = Vec::new();
        self.strange = 0;
        for (id, app) in self.apps.iter_mut().enumerate() {
            let Some(app) = app else { continue };
            let [old, new] = [&before, goals].map(|goals| goals.apps.get(&app.name));
            if all_changed || old != new {
                app.told = told(goals, &app.name);
                asked.extend(app.askers.iter().copied());
            }
            self.strange += usize::from(new.is_none());
            if new.is_none() && app.askers.is_empty() {
                forgotten.push(id);
            }
        }
        for id in forgotten {
            self.forget(id);
        }
        for question in asked {
            self.look_at(question);
        }
    }

    /// Lets go of an app that has no goal and that nobody asks for.
    fn forget(&mut self, id: usize) {
        if let Some(app) = self.apps[id].take() {
            self.ids.remove(&app.name);
            self.free.push(id);
            self.strange -= 1;
        }
    }

    /// Takes a question. Returns an answer that is due because of it: a refusal, or nothing new for
    /// an earlier question of the same node.
    pub(crate) fn on_question(
        &mut self,
        now: Duration,
        node: NodeId,
        question: &GoalQuestion,
        asker: A,
    ) -> Option<Telling<A>> {
        let is_new_and_strange =
            |app: &&AppName| !self.ids.contains_key(*app) && !self.goals.apps.contains_key(*app);
        let strange = question.apps.keys().filter(is_new_and_strange).count();
        if strange > 0 && self.strange + strange > STRANGE_APPS_MAX {
            let reason = format!(
                "hosts of this region ask this seeder for more than {STRANGE_APPS_MAX} apps that \
                 have no goal; deploy those that are meant, and correct the names of the others"
            );
            return Some(Telling { asker, body: GoalNews::Refused(reason).to_json().into() });
        }
        let replaced = self.of_node.get(&node).copied().and_then(|earlier| self.take(earlier));
        let number = self.next;
        self.next += 1;
        let known = question.apps.iter().map(|(app, version)| {
            let id = self.id_of(app);
            let asked = self.apps[id].as_mut().expect("it was just looked up");
            asked.askers.insert(number);
            (id, Mark::of(version))
        });
        let known = known.collect();
        let until = now + keep_time(node, number);
        self.of_node.insert(node, number);
        self.ends.insert((until, number));
        self.waiting.insert(number, Waiting { node, asker, known, until, is_due: false });
        self.look_at(number);
        replaced.map(|asker| Telling { asker, body: goal_news_of([]).into() })
    }

    /// Up to `questions_max` looks at questions that there is a reason to look at; the answers.
    pub(crate) fn take_due(&mut self, now: Duration, questions_max: usize) -> Vec<Telling<A>> {
        while let Some((_, number)) = self.ends.first().copied().filter(|(at, _)| *at <= now) {
            self.ends.pop_first();
            self.look_at(number);
        }
        let mut answers = Vec::new();
        for _ in 0..questions_max {
            let Some(number) = self.due.pop_front() else { break };
            let Some(waiting) = self.waiting.get_mut(&number) else { continue };
            waiting.is_due = false;
            let is_over = waiting.until <= now;
            let news = self.news_for(number);
            if news.is_empty() && !is_over {
                continue;
            }
            let body = self.body_of(news);
            answers.extend(self.take(number).map(|asker| Telling { asker, body }));
        }
        answers
    }

    /// Whether there is a question to look at now.
    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// When the next question has waited long enough.
    pub(crate) fn next_end(&self) -> Option<Duration> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// How many questions wait.
    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    fn look_at(&mut self, number: u64) {
        if let Some(waiting) = self.waiting.get_mut(&number)
            && !std::mem::replace(&mut waiting.is_due, true)
        {
            self.due.push_back(number);
        }
    }

    /// The apps of which the asker does not know what is known here.
    fn news_for(&self, number: u64) -> Vec<usize> {
        let is_news = |(id, known): &&(usize, Mark)| {
            let told = self.apps[*id].as_ref().and_then(|app| app.told.as_ref());
            told.is_some_and(|told| told.mark != *known)
        };
        self.waiting[&number].known.iter().filter(is_news).map(|(id, _)| *id).collect()
    }

    /// The answer that tells of `news`, or of as many of them as fit: who asks again hears of the
    /// others.
    fn body_of(&mut self, news: Vec<usize>) -> Bytes {
        if let Some(body) = self.ready.get(&news) {
            return body.clone();
        }
        let mut room = Ask::NEWS_BYTES_MAX - FRAME_BYTES;
        let told = news.iter().map_while(|id| {
            let json = &self.apps[*id].as_ref()?.told.as_ref()?.json;
            room = room.checked_sub(json.len() + 1)?;
            Some(json.as_slice())
        });
        let body = Bytes::from(goal_news_of(told));
        if self.ready.len() >= READY_MAX {
            self.ready.clear();
        }
        self.ready.insert(news, body.clone());
        body
    }

    /// Takes a question out.
    fn take(&mut self, number: u64) -> Option<A> {
        let waiting = self.waiting.remove(&number)?;
        self.ends.remove(&(waiting.until, number));
        if self.of_node.get(&waiting.node) == Some(&number) {
            self.of_node.remove(&waiting.node);
        }
        for (id, _) in &waiting.known {
            let Some(app) = &mut self.apps[*id] else { continue };
            app.askers.remove(&number);
            // One with a goal stays: its hosts come back at once.
            if app.askers.is_empty() && !self.goals.apps.contains_key(&app.name) {
                self.forget(*id);
            }
        }
        Some(waiting.asker)
    }

    fn id_of(&mut self, app: &AppName) -> usize {
        if let Some(id) = self.ids.get(app) {
            return *id;
        }
        let told = told(&self.goals, app);
        self.strange += usize::from(!self.goals.apps.contains_key(app));
        let asked = AskedApp { name: app.clone(), told, askers: BTreeSet::new() };
        let id = self.free.pop().unwrap_or_else(|| {
            self.apps.push(None);
            self.apps.len() - 1
        });
        self.apps[id] = Some(asked);
        self.ids.insert(app.clone(), id);
        id
    }
}

/// What is known of `app`.
fn told(goals: &AllGoals, app: &AppName) -> Option<Told> {
    let update = goals.apps.get(app);
    let document = update.and_then(|update| update.document.as_deref());
    // Whatever parses as JSON is text.
    let goal = document.and_then(|bytes| str::from_utf8(bytes).ok()).map(str::to_owned);
    let damage = |update: &GoalUpdate| update.goal.as_ref().err().map(ToString::to_string);
    let trouble = match &goals.unread {
        Some(error) => Some(format!("the seeder cannot read the goal store: {error}")),
        None if !goals.is_known => return None,
        None => update.and_then(damage),
    };
    let told = ToldGoal::new(app.clone(), goal, trouble.as_deref());
    Some(Told { json: told.to_json(), mark: Mark::of(&told.version) })
}

/// How long a question is kept.
fn keep_time(node: NodeId, number: u64) -> Duration {
    // Any that differs from node to node, and of a node from question to question.
    let digest = Digest::of(&[&node.as_bytes()[..], &number.to_le_bytes()].concat());
    let drawn = u32::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest is longer"));
    let drawn = drawn % (SPREAD_PER_MILLE + 1);
    Ask::KEEP_TIME_MAX * (1_000 - drawn) / 1_000
}

#[cfg(test)]
mod tests;
