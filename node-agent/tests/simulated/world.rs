//! One host with one app: runs agents one after the other, lets the disk fail as ordered, and
//! checks what must hold.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use disk::simulated::Disk;
use disk::{Operation, Tree, Verdict, Watching};
use goal_state::{Goal, Rollout};
use node_agent::app::{App, AppOrder, AppParts, AppSettings, AppTimings, GoalView};
use node_agent::brain::Swap;
use node_agent::config::AppConfig;
use node_agent::host::{Health, Hook, Hooks, Probe};
use node_agent::programs::OUTPUT_WINDOW;
use node_agent::report::StatusBoard;
use node_agent::state::{AcceptedGoals, AppDir, Journal, JournalPhase};
use p2p_core::{BuildId, ByteRate};
use rustix::io::Errno;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::machine::{FLOOD_BYTES, Machine};
use super::source::{FreeTokens, SimulatedSource};

/// How often the world looks at the host.
const LOOK: Duration = Duration::from_secs(1);

/// Builds that are kept.
pub(crate) const KEEP_BUILDS: usize = 2;

/// What becomes of an operation of the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    Pass,
    Fail(Errno),
    Tear(usize),
    Kill,
    PowerLoss,
}

/// Decides about the operations of the disk.
pub(crate) type Fates = Box<dyn FnMut(usize, &Operation) -> Fate + Send>;

/// How the life of an agent ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Killed,
    PowerLost,
    /// The script has nothing more to wait for.
    Done,
    /// The app could not be opened.
    NotOpened,
    /// The script waited for longer than it may.
    TooLate,
}

/// What happens to the host from outside, and how long an agent lives without a crash.
pub(crate) trait Script {
    /// Called every second; returns whether the life of the agent is over.
    fn look(&mut self, view: &View<'_>) -> Turn;
}

/// What a script answers.
pub(crate) enum Turn {
    Wait,
    /// The script is over.
    Done,
    /// The agent is killed.
    Kill,
    /// The host loses its power.
    LosePower,
    Order(AppOrder),
    /// Another build is the goal from now on: a deploy of it, to everybody at once.
    Goal(usize),
    /// The next goal, whatever it comes from.
    Change(usize, Rollout),
}

/// What a script sees.
pub(crate) struct View<'a> {
    pub(crate) world: &'a Host,
    /// Time since the script saw anything change.
    pub(crate) waited: Duration,
}

/// The parts of a world that do not change while an agent lives.
pub(crate) struct Host {
    pub(crate) machine: Machine,
    pub(crate) root: PathBuf,
    pub(crate) app: AppDir,
    pub(crate) goal: Option<(u64, usize)>,
    /// Who switches to it and when.
    pub(crate) rollout: Rollout,
    /// Whether something must serve without a break; see [`World::check_serving`].
    pub(crate) never_down: bool,
}

/// See the head of this file.
pub(crate) struct World {
    pub(crate) host: Host,
    folder: TempDir,
    swap: Swap,
    hooks: bool,
    watching: Option<Watching>,
    fates: Arc<Mutex<Fates>>,
    crash: Arc<Mutex<Option<Fate>>>,
    /// Operations on disks that are gone.
    operations: usize,
    /// Highest generation that was accepted durably.
    accepted: u64,
    /// Whether anything was found good and thus must have a journal.
    was_good: bool,
}

fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl World {
    pub(crate) fn new(machine: Machine, swap: Swap, hooks: bool) -> Self {
        let folder = folder();
        fs::create_dir_all(folder.path().join("apps/web")).unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        let app = AppDir::new(root.join("apps/web"));
        let rollout = Rollout::default();
        let host = Host { machine, root, app, goal: None, rollout, never_down: false };
        let mut world = Self {
            host,
            folder,
            swap,
            hooks,
            watching: None,
            fates: Arc::new(Mutex::new(Box::new(|_, _| Fate::Pass))),
            crash: Arc::default(),
            operations: 0,
            accepted: 0,
            was_good: false,
        };
        world.watch();
        world
    }

    pub(crate) fn set_fates(&self, fates: Fates) {
        *self.fates.lock().unwrap() = fates;
    }

    /// Operations so far.
    pub(crate) fn operations(&self) -> usize {
        self.operations + self.watching.as_ref().map_or(0, Watching::count)
    }

    fn watch(&mut self) {
        let (fates, crash) = (Arc::clone(&self.fates), Arc::clone(&self.crash));
        let (machine, app) = (self.host.machine.clone(), self.host.app.clone());
        let base = self.operations;
        let watcher = move |number: usize, operation: &Operation| {
            check_current(&machine, &app);
            let fate = fates.lock().unwrap()(base + number, operation);
            if fate != Fate::Pass {
                machine.note(format!("{fate:?} at {}: {}", base + number, shown(operation)));
            }
            match fate {
                Fate::Pass => Verdict::Pass,
                Fate::Fail(errno) => Verdict::Fail(errno),
                Fate::Tear(bytes) => Verdict::Tear { bytes, errno: Errno::IO },
                Fate::Kill | Fate::PowerLoss => {
                    *crash.lock().unwrap() = Some(fate);
                    machine.kill_agent();
                    Verdict::Stop
                }
            }
        };
        self.watching = Some(disk::watch(&self.host.root, watcher).unwrap());
    }

    /// Lets agents live, one after the other, until the script is over. Crashes are the fates' and
    /// the script's; `power_seed` chooses what a disk keeps.
    pub(crate) fn run(&mut self, script: &mut dyn Script, power_seed: &mut dyn FnMut() -> u64) {
        let mut failures = 0;
        loop {
            let end = self.live(script);
            self.host.machine.note(format!("agent ends: {end:?}"));
            match end {
                End::Done => return self.fail_on_fault(),
                End::TooLate => self.fail("nothing changes any more"),
                End::NotOpened => {
                    failures += 1;
                    if failures > 100 {
                        self.fail("the app cannot be opened");
                    }
                }
                End::Killed => self.watching.as_ref().unwrap().resume(),
                End::PowerLost => self.lose_power(power_seed()),
            }
            self.fail_on_fault();
            self.check_after_crash();
        }
    }

    /// The disk is what it may be after a loss of power, and no program runs.
    fn lose_power(&mut self, seed: u64) {
        self.host.machine.lose_power();
        let watching = self.watching.take().unwrap();
        let tree = Disk::after(&watching.record(), watching.count()).after_power_loss(seed);
        self.operations += watching.count();
        drop(watching);
        self.replace_disk(&tree);
    }

    fn replace_disk(&mut self, tree: &Tree) {
        self.folder = folder();
        self.host.root = fs::canonicalize(self.folder.path()).unwrap();
        self.host.app = AppDir::new(self.host.root.join("apps/web"));
        tree.write(self.folder.path()).unwrap();
        self.watch();
    }

    fn live(&mut self, script: &mut dyn Script) -> End {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        let end = runtime.block_on(async {
            self.host.machine.begin_agent();
            let end = self.live_within(script).await;
            self.host.machine.end_agent();
            end
        });
        // Ends what is under way on other threads.
        drop(runtime);
        *self.crash.lock().unwrap() = None;
        end
    }

    async fn live_within(&mut self, script: &mut dyn Script) -> End {
        let machine = self.host.machine.clone();
        let goals = AcceptedGoals::load(&self.host.root.join("goal.json"));
        let mut goals = match goals {
            Ok(goals) => goals,
            Err(error) => self.fail(&format!("goals: {error:?}")),
        };
        let name = "web".parse().unwrap();
        if goals.of(&name).map_or(0, |goal| goal.generation) < self.accepted {
            self.fail("an accepted goal is lost");
        }
        let goal =
            watch::Sender::new(GoalView { followed: goals.of(&name), ..GoalView::default() });
        let (orders, orders_received) = mpsc::channel(8);
        let board = StatusBoard::default();
        let parts = parts(&machine, &goal, orders_received, &board);
        let app = match App::open(self.settings(), self.host.app.clone(), parts) {
            Ok(app) => app,
            Err(error) => {
                machine.note(format!("cannot open: {error:?}"));
                if let Some(end) = self.crashed() {
                    return end;
                }
                sleep(LOOK).await;
                return End::NotOpened;
            }
        };
        let stop = CancellationToken::new();
        let mut task = tokio::spawn(app.run(stop.clone()));
        let rows = board.subscribe();
        let mut waited = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = machine.agent_died.notified() => {}
                ended = &mut task => self.fail(&format!("the loop ended: {ended:?}")),
                () = sleep(LOOK) => {}
            }
            if let Some(end) = self.crashed() {
                return end;
            }
            self.offer(&mut goals, &goal);
            self.check_now();
            waited += LOOK;
            match script.look(&View { world: &self.host, waited }) {
                Turn::Wait => {}
                Turn::Done => return End::Done,
                Turn::Kill => return End::Killed,
                Turn::LosePower => return End::PowerLost,
                Turn::Order(order) => orders.send(order).await.unwrap(),
                turn @ (Turn::Goal(_) | Turn::Change(..)) => {
                    let (build, rollout) = match turn {
                        Turn::Change(build, rollout) => (build, rollout),
                        Turn::Goal(build) => (build, Rollout::default()),
                        _ => unreachable!("the other turns have arms of their own"),
                    };
                    self.set_goal(build, rollout);
                    waited = Duration::ZERO;
                    self.offer(&mut goals, &goal);
                }
            }
            if waited > Duration::from_mins(20) {
                machine.note(format!("{:?}", rows.borrow()));
                return End::TooLate;
            }
        }
    }

    fn crashed(&self) -> Option<End> {
        match *self.crash.lock().unwrap() {
            Some(Fate::Kill) => Some(End::Killed),
            Some(_) => Some(End::PowerLost),
            None => None,
        }
    }

    fn set_goal(&mut self, build: usize, rollout: Rollout) {
        let host = &mut self.host;
        let generation = host.goal.map_or(1, |(generation, _)| generation + 1);
        host.machine.note(format!("goal {generation}: build {build}, {rollout:?}"));
        host.goal = Some((generation, build));
        let id = host.machine.samples()[build].id;
        let journal = host.journal();
        host.machine.testify(|witness| {
            witness.on_goal((generation, id), &rollout, journal.as_ref());
            None
        });
        host.rollout = rollout;
    }

    /// What the goal store says, until it is accepted.
    fn offer(&mut self, goals: &mut AcceptedGoals, goal: &watch::Sender<GoalView>) {
        let Some((generation, build)) = self.host.goal else { return };
        let name = "web".parse().unwrap();
        if goals.of(&name).is_some_and(|followed| followed.generation == generation) {
            return;
        }
        let offered = Goal {
            app: name,
            generation,
            build: self.host.machine.samples()[build].id,
            set_at_ms: 0,
            origin: goal_state::Origin::default(),
            changed: goal_state::Origin::default(),
            changed_at_ms: 0,
            rollout: self.host.rollout.clone(),
            history: vec![],
        };
        if let Ok(accepted) = goals.accept(&offered, self.host.machine.now_ms()) {
            self.accepted = accepted.generation;
            goal.send_replace(GoalView {
                followed: Some(accepted),
                has_answered: true,
                trouble: None,
            });
        }
    }

    fn settings(&self) -> AppSettings {
        let health = Health {
            probe: Some(Probe::Tcp { address: ([127, 0, 0, 1], 1).into() }),
            min_healthy_time: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
            // Reached after a few probes.
            max_output_rate: ByteRate::new(FLOOD_BYTES * 3 / OUTPUT_WINDOW.as_secs()),
            ..Health::default()
        };
        let hook = || {
            let timeout = Duration::from_mins(1);
            self.hooks.then(|| Hook { exec: vec!["./run".into()], user: None, timeout })
        };
        AppSettings {
            name: "web".parse().unwrap(),
            host: "h1".into(),
            labels: BTreeSet::new(),
            app: AppConfig {
                exec: Some(vec!["./run".into()]),
                grace_period: Duration::from_secs(2),
                health,
                swap: self.swap,
                hooks: Hooks {
                    before_switch: hook(),
                    after_switch: hook(),
                    after_rollback: hook(),
                    drain: hook(),
                    undrain: hook(),
                },
                keep_builds: NonZero::new(KEEP_BUILDS).unwrap(),
                ..AppConfig::default()
            },
            timings: AppTimings::fleet(),
        }
    }

    /// What must hold at every moment.
    fn check_now(&mut self) {
        check_current(&self.host.machine, &self.host.app);
        let journal = self.host.journal();
        if journal.as_ref().is_some_and(|journal| journal.phase == JournalPhase::Good) {
            self.was_good = true;
        }
        self.check_serving();
        self.host.testify(journal.as_ref());
        self.fail_on_fault();
    }

    /// With `swap = "overlap"` nothing but a loss of power takes a good program away.
    fn check_serving(&self) {
        if !self.host.never_down {
            return;
        }
        let alive = self.host.machine.alive();
        let serves = |process: &Arc<Mutex<super::machine::Process>>| {
            let process = process.lock().unwrap();
            process.behaviour.is_good() && !process.was_told_to_stop
        };
        if !alive.iter().any(serves) {
            self.host.machine.fault("no good program serves");
        }
    }

    /// What the disk must hold after a crash, before anybody repairs anything.
    fn check_after_crash(&mut self) {
        if self.host.machine.is_tampered() {
            return;
        }
        let Some(journal) = self.host.journal() else {
            if self.was_good {
                self.fail("the journal is lost");
            }
            return;
        };
        let Some(current) = self.host.app.current().unwrap() else {
            if !journal.good.is_empty() {
                self.fail("`current` is lost");
            }
            return;
        };
        let root = self.host.app.path().join("current");
        if let Some(wrong) = self.host.machine.sample(current).find_wrong(&root) {
            self.fail(&format!("`current` leads to a build that is wrong: {wrong}"));
        }
        if current != journal.to && Some(current) != journal.from {
            self.fail("`current` leads to a build that the journal does not name");
        }
    }

    fn fail_on_fault(&self) {
        if let Some(fault) = self.host.machine.take_fault() {
            self.fail(&fault);
        }
    }

    /// Ends the test.
    pub(crate) fn fail(&self, what: &str) -> ! {
        let mut log = self.host.machine.log();
        let skipped = log.len().saturating_sub(120);
        log.drain(..skipped);
        let journal = fs::read_to_string(self.host.app.path().join("journal"));
        let names: Vec<String> = Tree::read(&self.host.root)
            .map(|tree| tree.nodes.keys().map(|path| path.display().to_string()).collect())
            .unwrap_or_default();
        panic!(
            "{what}\ngoal {:?}; samples {:?}\n{}\njournal: {journal:?}\nfiles: {names:#?}",
            self.host.goal,
            self.host.machine.samples().iter().map(|sample| sample.id.short()).collect::<Vec<_>>(),
            log.join("\n")
        );
    }

    /// What must be left once the host is at rest and was restarted.
    pub(crate) fn check_leftovers(&self) {
        let listed = self.host.builds_on_disk();
        if listed.len() > self.host.builds_max() {
            self.fail("more builds are kept than may be");
        }
        let app = self.host.app.path();
        let mut strays = vec![];
        for name in names_in(&app.join("staging")) {
            if name != "contacts" {
                strays.push(name);
            }
        }
        for name in names_in(&app.join("builds")) {
            let is_known = listed.iter().any(|build| {
                let build = build.to_string();
                name == build || name == format!("{build}.manifest")
            });
            if !is_known {
                strays.push(name);
            }
        }
        if !strays.is_empty() {
            self.fail(&format!("left over: {strays:?}"));
        }
        for build in listed {
            let root = app.join("builds").join(build.to_string());
            if let Some(wrong) = self.host.machine.sample(build).find_wrong(&root)
                && !self.host.machine.is_tampered()
            {
                self.fail(&format!("a kept build is wrong: {wrong}"));
            }
        }
    }
}

impl Host {
    pub(crate) fn journal(&self) -> Option<Journal> {
        self.app.journal().ok().flatten()
    }

    pub(crate) fn builds_on_disk(&self) -> Vec<BuildId> {
        let ids = names_in(&self.app.path().join("builds"));
        ids.iter().filter_map(|name| name.strip_suffix(".manifest")?.parse().ok()).collect()
    }

    /// Whether the host is at rest with `build`, for the newest goal: nothing is left to do.
    pub(crate) fn stands_at(&self, build: BuildId) -> bool {
        let (Some(journal), Some((generation, _))) = (self.journal(), self.goal) else {
            return false;
        };
        let alive = self.machine.alive();
        let serves = alive.len() == 1 && {
            let process = alive[0].lock().unwrap();
            process.build == build && !process.was_told_to_stop
        };
        journal.phase == JournalPhase::Good
            && journal.to == build
            && (journal.generation == generation || self.has_quarantined_goal())
            && self.app.current().is_ok_and(|current| current == Some(build))
            && serves
            && self.builds_on_disk().len() <= self.builds_max()
    }

    /// Most builds that may be kept: the goal's is beside those that ran well.
    pub(crate) fn builds_max(&self) -> usize {
        let goal = self.goal.map(|(_, goal)| self.machine.samples()[goal].id);
        let current = self.journal().map(|journal| journal.to);
        KEEP_BUILDS + usize::from(goal != current)
    }

    fn has_quarantined_goal(&self) -> bool {
        self.goal.is_some_and(|(_, goal)| self.has_quarantined(self.machine.samples()[goal].id))
    }

    /// Whether `build` failed under the newest goal, and is not tried again for it.
    pub(crate) fn has_quarantined(&self, build: BuildId) -> bool {
        let (Some(journal), Some((generation, _))) = (self.journal(), self.goal) else {
            return false;
        };
        let deployed = self.rollout.deployed_of(generation);
        journal.failure_of(build).is_some_and(|failed| deployed <= failed.since)
    }

    /// Shows the witness how the host is now.
    fn testify(&self, journal: Option<&Journal>) {
        let is_good = |process: &super::machine::Process| process.behaviour.is_good();
        let alive = self.machine.alive();
        let serving = alive.iter().map(|process| process.lock().unwrap());
        let serving: Vec<bool> =
            serving.filter(|it| !it.was_told_to_stop).map(|it| is_good(&it)).collect();
        let is_goal_good =
            journal.is_some_and(|journal| self.machine.sample(journal.to).behaviour.is_good());
        let now = self.machine.now();
        self.machine.testify(|witness| witness.on_look(now, (journal, is_goal_good), &serving));
    }
}

/// `current` never leads to nothing.
fn check_current(machine: &Machine, app: &AppDir) {
    let current = app.path().join("current");
    if fs::symlink_metadata(&current).is_ok() && !current.join("run").exists() {
        machine.fault("`current` leads to nothing");
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into()).collect();
    names.sort();
    names
}

/// Without the bytes.
pub(crate) fn shown(operation: &Operation) -> String {
    match operation {
        Operation::Write { path, offset, bytes, .. } => {
            format!("Write {} {offset}+{}", path.display(), bytes.len())
        }
        other => format!("{other:?}"),
    }
}

fn parts(
    machine: &Machine,
    goal: &watch::Sender<GoalView>,
    orders: mpsc::Receiver<AppOrder>,
    board: &StatusBoard,
) -> AppParts<SimulatedSource, super::machine::SimulatedHost, FreeTokens> {
    AppParts {
        source: SimulatedSource(machine.clone()),
        host: super::machine::SimulatedHost(machine.clone()),
        tokens: FreeTokens,
        goal: goal.subscribe(),
        orders,
        board: board.clone(),
    }
}
