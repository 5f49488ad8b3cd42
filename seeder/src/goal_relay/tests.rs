//! Tests of the table: who is told what and when, bounds, and random goals and hosts against a
//! model that a host hears in the end what the store has.

use goal_state::{Goal, GoalReadError, GoalStoreError, Origin, Rollout};
use p2p_core::BuildId;
use proptest::prelude::*;

use super::*;

const KEEP: Duration = Ask::KEEP_TIME_MAX;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn app(name: &str) -> AppName {
    name.parse().unwrap()
}

/// The document of a goal as nobody but a person would write it.
fn document(name: &str, generation: u64) -> String {
    let goal = Goal {
        app: app(name),
        generation,
        build: BuildId::of_manifest(&generation.to_le_bytes()),
        set_at_ms: 0,
        origin: Origin::default(),
        changed: Origin::default(),
        changed_at_ms: 0,
        rollout: Rollout::default(),
        history: vec![],
    };
    let text = String::from_utf8(goal.to_json()).unwrap();
    text.replace('\n', "\r\n\t  ")
}

fn update(name: &str, document: Option<String>) -> GoalUpdate {
    let update = GoalUpdate::told(ToldGoal::new(app(name), document, None));
    assert!(update.goal.is_ok(), "{update:?}");
    update
}

fn unread(reason: &str) -> GoalReadError {
    GoalStoreError::Told { reason: reason.into() }.into()
}

/// What a store has: goals by app and generation.
fn goals(list: &[(&str, u64)]) -> AllGoals {
    let updates = list
        .iter()
        .map(|(name, generation)| (app(name), update(name, Some(document(name, *generation)))));
    AllGoals { apps: updates.collect(), unread: None, is_known: true }
}

/// A host that hears of goals as an agent does.
#[derive(Debug)]
struct Host {
    number: u8,
    known: GoalQuestion,
    told: BTreeMap<AppName, ToldGoal>,
}

impl Host {
    fn new(number: u8, apps: &[&str]) -> Self {
        let apps = apps.iter().map(|name| (app(name), GoalVersion::default())).collect();
        Self { number, known: GoalQuestion { apps }, told: BTreeMap::new() }
    }

    fn ask(&self, table: &mut GoalTable<u8>, now: Duration) -> Option<Telling<u8>> {
        table.on_question(now, node(self.number), &self.known, self.number)
    }

    /// Takes an answer in; returns the apps that it tells of.
    fn hear(&mut self, telling: &Telling<u8>) -> Vec<String> {
        assert_eq!(telling.asker, self.number);
        assert!(telling.body.len() <= Ask::NEWS_BYTES_MAX, "{}", telling.body.len());
        let GoalNews::Goals(told) = GoalNews::from_json(&telling.body).unwrap() else {
            panic!("{telling:?}")
        };
        let mut apps = Vec::new();
        for told in told {
            apps.push(told.app.to_string());
            self.known.apps.insert(told.app.clone(), told.version.clone());
            self.told.insert(told.app.clone(), told);
        }
        apps
    }

    fn generation(&self, name: &str) -> Option<u64> {
        let goal = GoalUpdate::told(ToldGoal { trouble: None, ..self.told[&app(name)].clone() });
        goal.goal.unwrap().map(|goal| goal.generation)
    }

    fn trouble(&self, name: &str) -> Option<&str> {
        self.told[&app(name)].trouble.as_deref()
    }
}

/// What one host is told now, if anything.
fn due(table: &mut GoalTable<u8>, now: Duration, host: &mut Host) -> Option<Vec<String>> {
    let mut answers = table.take_due(now, 10);
    assert!(answers.len() <= 1 && !table.has_due(), "{answers:?}");
    answers.pop().map(|telling| host.hear(&telling))
}

#[test]
fn host_is_told_what_it_does_not_know_and_then_waits_for_news() {
    let mut table = GoalTable::default();
    let mut host = Host::new(1, &["api", "web"]);
    assert!(host.ask(&mut table, at(0)).is_none());
    assert_eq!(due(&mut table, at(1), &mut host), None, "the store was not read yet");
    table.on_goals(goals(&[("web", 3), ("other", 1)]));
    assert_eq!(due(&mut table, at(2), &mut host).unwrap(), ["api", "web"]);
    assert_eq!((host.generation("api"), host.generation("web")), (None, Some(3)));
    assert_eq!(host.told[&app("web")].goal.as_deref(), Some(&*document("web", 3)), "byte by byte");

    host.ask(&mut table, at(2));
    assert_eq!(due(&mut table, at(3), &mut host), None);
    table.on_goals(goals(&[("web", 3), ("other", 2)]));
    assert_eq!(due(&mut table, at(3), &mut host), None, "that is no app of this host");
    table.on_goals(goals(&[("web", 4), ("other", 2)]));
    assert_eq!(due(&mut table, at(4), &mut host).unwrap(), ["web"]);
    host.ask(&mut table, at(4));
    table.on_goals(goals(&[("web", 4), ("api", 1)]));
    assert_eq!(due(&mut table, at(5), &mut host).unwrap(), ["api"]);
    host.ask(&mut table, at(5));
    table.on_goals(goals(&[("api", 1)]));
    assert_eq!(due(&mut table, at(6), &mut host).unwrap(), ["web"]);
    assert_eq!((host.generation("web"), host.trouble("web")), (None, None), "removed is news");
}

#[test]
fn time_that_is_up_is_answered_with_nothing() {
    let mut table = GoalTable::default();
    table.on_goals(goals(&[("web", 3)]));
    let mut host = Host::new(1, &["web"]);
    host.ask(&mut table, at(0));
    due(&mut table, at(0), &mut host).unwrap();
    assert_eq!(table.next_end(), None);
    host.ask(&mut table, at(7));
    let end = table.next_end().unwrap();
    assert!(end > at(7) + KEEP * 2 / 3 && end <= at(7) + KEEP, "{end:?}");
    let just_before = end.saturating_sub(Duration::from_millis(1));
    assert_eq!(due(&mut table, just_before, &mut host), None);
    assert_eq!(due(&mut table, end, &mut host), Some(vec![]));
    assert_eq!((table.waiting_count(), table.next_end()), (0, None));
    let ends: BTreeSet<Duration> =
        (0..50).map(|number| keep_time(node(number), u64::from(number))).collect();
    assert!(ends.len() > 25, "hosts that ask together come back together");
}

/// Goal: a goal that is changed and changed back before anybody was told wakes nobody.
#[test]
fn news_that_are_none_any_more_are_not_told() {
    let mut table = GoalTable::default();
    table.on_goals(goals(&[("web", 3)]));
    let mut host = Host::new(1, &["web"]);
    host.ask(&mut table, at(0));
    due(&mut table, at(0), &mut host).unwrap();
    host.ask(&mut table, at(1));
    table.on_goals(goals(&[("web", 4)]));
    table.on_goals(goals(&[("web", 3)]));
    assert_eq!(due(&mut table, at(1), &mut host), None);
    table.on_goals(goals(&[("web", 5)]));
    assert_eq!(due(&mut table, at(1), &mut host).unwrap(), ["web"]);
}

/// Goal: while the store cannot be read, hosts keep what they know and see why, and a new host gets
/// what was read last; a seeder that has read nothing says so, and not that there is no goal.
#[test]
fn store_that_cannot_be_read_takes_no_goal_away() {
    let mut table = GoalTable::default();
    let (mut host, mut new) = (Host::new(1, &["web"]), Host::new(2, &["web"]));
    table.on_goals(AllGoals { unread: Some(unread("no leader")), ..AllGoals::default() });
    host.ask(&mut table, at(0));
    due(&mut table, at(0), &mut host).unwrap();
    assert_eq!(host.generation("web"), None);
    assert_eq!(host.trouble("web"), Some("the seeder cannot read the goal store: no leader"));

    host.ask(&mut table, at(1));
    table.on_goals(goals(&[("web", 3)]));
    due(&mut table, at(1), &mut host).unwrap();
    assert_eq!((host.generation("web"), host.trouble("web")), (Some(3), None));
    host.ask(&mut table, at(2));
    table.on_goals(AllGoals { unread: Some(unread("timeout")), ..goals(&[("web", 3)]) });
    due(&mut table, at(2), &mut host).unwrap();
    assert!(host.trouble("web").unwrap().ends_with(": timeout"));
    assert_eq!(host.generation("web"), Some(3));
    new.ask(&mut table, at(3));
    due(&mut table, at(3), &mut new).unwrap();
    assert_eq!(new.told, host.told);
    host.ask(&mut table, at(4));
    assert_eq!(due(&mut table, at(4), &mut host), None);
    table.on_goals(goals(&[("web", 3)]));
    assert_eq!(due(&mut table, at(5), &mut host).unwrap(), ["web"]);
    assert_eq!((host.generation("web"), host.trouble("web")), (Some(3), None));
}

#[test]
fn damaged_goal_is_a_trouble_of_its_app_only() {
    let mut table = GoalTable::default();
    table.on_goals(goals(&[("api", 1), ("web", 3)]));
    let (mut web, mut api) = (Host::new(1, &["web"]), Host::new(2, &["api"]));
    for host in [&mut web, &mut api] {
        host.ask(&mut table, at(0));
        due(&mut table, at(0), host).unwrap();
        host.ask(&mut table, at(1));
    }
    let mut damaged = goals(&[("api", 1)]);
    damaged.apps.insert(app("web"), GoalUpdate::unread(app("web"), unread("key web is broken")));
    table.on_goals(damaged);
    assert_eq!(due(&mut table, at(1), &mut web).unwrap(), ["web"]);
    assert_eq!(web.trouble("web"), Some("key web is broken"));
    assert_eq!(table.waiting_count(), 1, "the other host waits on");
}

/// Goal: a node has one question at a time; the earlier one costs nothing any more.
#[test]
fn second_question_of_a_node_takes_the_place_of_the_first() {
    let mut table = GoalTable::default();
    table.on_goals(goals(&[("web", 3)]));
    let mut host = Host::new(1, &["web"]);
    host.ask(&mut table, at(0));
    due(&mut table, at(0), &mut host).unwrap();
    assert!(host.ask(&mut table, at(1)).is_none());
    let replaced = host.ask(&mut table, at(2)).unwrap();
    assert!(host.hear(&replaced).is_empty());
    assert_eq!(table.waiting_count(), 1);
    table.on_goals(goals(&[("web", 4)]));
    assert_eq!(due(&mut table, at(3), &mut host).unwrap(), ["web"]);
    assert!(table.of_node.is_empty() && table.ends.is_empty() && table.waiting.is_empty());
}

/// Goal: names that nobody deployed are bounded, refused with the reason beyond that, and forgotten
/// with the last question about them; hosts of apps that have a goal are served all the same.
#[test]
fn apps_without_a_goal_are_bounded() {
    let mut table = GoalTable::default();
    table.on_goals(goals(&[("web", 3)]));
    let strange = |number: usize| {
        let names = (0..goal_state::GOAL_APPS_MAX).map(|name| app(&format!("s{number}-{name}")));
        GoalQuestion { apps: names.map(|app| (app, GoalVersion::default())).collect() }
    };
    let full = STRANGE_APPS_MAX / goal_state::GOAL_APPS_MAX;
    for number in 0..full {
        let asker = u8::try_from(number).unwrap();
        assert!(table.on_question(at(0), node(asker), &strange(number), asker).is_none());
    }
    let refused = table.on_question(at(0), node(200), &strange(full), 200).unwrap();
    let GoalNews::Refused(reason) = GoalNews::from_json(&refused.body).unwrap() else { panic!() };
    assert!(reason.contains("more than 16384 apps"), "{reason}");
    let mut host = Host::new(201, &["web"]);
    assert!(host.ask(&mut table, at(0)).is_none());
    let answers = table.take_due(at(0), usize::MAX);
    assert_eq!(answers.len(), full + 1);
    assert_eq!(host.hear(answers.last().unwrap()), ["web"]);
    assert_eq!((table.strange, table.ids.len()), (0, 1));
    table.on_goals(goals(&[]));
    assert_eq!((table.strange, table.ids.len()), (0, 0));
    assert!(table.on_question(at(1), node(200), &strange(full), 200).is_none());
}

/// Goal: goals that do not fit into one answer come in several, the largest that a store takes in
/// the worst of forms among them.
#[test]
fn goals_of_any_size_arrive() {
    const GOAL_BYTES_MAX: usize = 64 << 10;
    let names = ["a", "b", "c", "d", "e"];
    let mut large = goals(&[]);
    for name in names {
        let mut text = document(name, 1);
        // Each of these takes two bytes within a text.
        text.extend(std::iter::repeat_n('\n', GOAL_BYTES_MAX - text.len()));
        large.apps.insert(app(name), update(name, Some(text)));
    }
    let mut table = GoalTable::default();
    table.on_goals(large);
    let mut host = Host::new(1, &names);
    let mut heard = Vec::new();
    while heard.len() < names.len() {
        host.ask(&mut table, at(0));
        let told = due(&mut table, at(0), &mut host).expect("there is more");
        assert!(!told.is_empty());
        heard.extend(told);
    }
    assert_eq!(heard, names);
    assert!(host.told.values().all(|told| told.goal.as_ref().unwrap().len() == GOAL_BYTES_MAX));
    host.ask(&mut table, at(0));
    assert_eq!(due(&mut table, at(0), &mut host), None);
}

/// Goal: hosts with the same apps share one answer, and batches are as large as they may be.
#[test]
fn region_is_told_in_batches() {
    let mut table = GoalTable::default();
    table.on_goals(goals(&[("web", 3)]));
    for number in 0..200 {
        Host::new(number, &["web"]).ask(&mut table, at(0));
    }
    let first = table.take_due(at(0), 150);
    assert!(first.len() == 150 && table.has_due());
    let second = table.take_due(at(0), 150);
    assert!(second.len() == 50 && !table.has_due());
    let start = first[0].body.as_ptr();
    assert!(first.iter().chain(&second).all(|telling| telling.body.as_ptr() == start));
}

/// Goal: 25,000 hosts with two apps each cost some megabytes.
#[test]
fn host_that_waits_costs_little() {
    let of_app = size_of::<(usize, Mark)>() + size_of::<u64>();
    let of_host = size_of::<(u64, Waiting<p2p_net::KeptAsk>)>()
        + size_of::<(NodeId, u64)>()
        + size_of::<(Duration, u64)>();
    assert!(of_host + 2 * of_app < 300, "{of_host} and {of_app} for each app");
}

#[derive(Clone, Debug)]
enum Act {
    Deploy(usize),
    Remove(usize),
    Damage(usize),
    LoseStore,
    FindStore,
    Ask(u8),
    Answer,
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => (0..APPS.len()).prop_map(Act::Deploy),
        1 => (0..APPS.len()).prop_map(Act::Remove),
        1 => (0..APPS.len()).prop_map(Act::Damage),
        1 => Just(Act::LoseStore),
        1 => Just(Act::FindStore),
        4 => (0..HOSTS).prop_map(Act::Ask),
        4 => Just(Act::Answer),
        1 => (0..20_u64).prop_map(Act::Pass),
    ]
}

const APPS: [&str; 4] = ["a", "b", "c", "d"];
const HOSTS: u8 = 3;

/// What a host of the test waits for, and what is in the store.
struct World {
    table: GoalTable<u8>,
    goals: AllGoals,
    hosts: Vec<Host>,
    waits: BTreeSet<u8>,
    now: Duration,
    generation: u64,
}

impl World {
    fn new() -> Self {
        let apps: [&[&str]; HOSTS as usize] = [&["a", "b"], &["b", "c", "d"], &["d"]];
        let host = |(number, apps): (u8, &&[&str])| Host::new(number, apps);
        Self {
            table: GoalTable::default(),
            goals: AllGoals { is_known: true, ..AllGoals::default() },
            hosts: (0..HOSTS).zip(&apps).map(host).collect(),
            waits: BTreeSet::new(),
            now: Duration::ZERO,
            generation: 0,
        }
    }

    fn act(&mut self, act: &Act) {
        self.generation += 1;
        match act {
            Act::Deploy(index) => {
                let name = APPS[*index];
                let goal = update(name, Some(document(name, self.generation)));
                self.goals.apps.insert(app(name), goal);
            }
            Act::Remove(index) => drop(self.goals.apps.remove(&app(APPS[*index]))),
            Act::Damage(index) => {
                let name = app(APPS[*index]);
                self.goals.apps.insert(name.clone(), GoalUpdate::unread(name, unread("damage")));
            }
            Act::LoseStore => self.goals.unread = Some(unread("lost")),
            Act::FindStore => self.goals.unread = None,
            Act::Ask(number) => {
                let replaced = self.hosts[usize::from(*number)].ask(&mut self.table, self.now);
                assert_eq!(replaced.is_some(), !self.waits.insert(*number));
            }
            Act::Answer => self.answer(),
            Act::Pass(seconds) => self.now += at(*seconds),
        }
        self.table.on_goals(self.goals.clone());
    }

    fn answer(&mut self) {
        for telling in self.table.take_due(self.now, usize::MAX) {
            let host = &mut self.hosts[usize::from(telling.asker)];
            let before = host.known.clone();
            let told = host.hear(&telling);
            assert!(self.waits.remove(&telling.asker));
            assert!(told.is_empty() || host.known != before, "told what was known: {told:?}");
        }
    }

    /// Lets every host ask until it is told nothing more, and compares.
    fn settle(&mut self) {
        for _ in 0..3 {
            (0..HOSTS).for_each(|number| self.act(&Act::Ask(number)));
            self.answer();
        }
        for host in &self.hosts {
            for name in host.known.apps.keys() {
                let json = told(&self.goals, name).unwrap().json;
                assert_eq!(host.told[name].to_json(), json);
            }
        }
        self.now += KEEP;
        self.answer();
        assert!(self.waits.is_empty() && self.table.waiting.is_empty());
    }
}

proptest! {
    #[test]
    fn hosts_hear_in_the_end_what_the_store_has(acts in prop::collection::vec(act(), 0..120)) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.settle();
    }
}
