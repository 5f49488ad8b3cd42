//! The loop of one app with real builds on disk and real programs; only the network is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use goal_state::{HostPhase, HostStatus, Rollout, now_ms};
use node_agent::app::{App, AppOrder, AppParts, AppSettings, AppTimings, GoalView};
use node_agent::brain::Explanation;
use node_agent::config::AppConfig;
use node_agent::fleet::{TokenDesk, TokenHold, TokenState, TokenWish};
use node_agent::host::{Health, RealHost, Systemd};
use node_agent::process::ProcessIdentity;
use node_agent::programs::SupervisorTimings;
use node_agent::report::StatusBoard;
use node_agent::state::{AcceptedGoal, AppDir, Journal};
use p2p_core::BuildId;
use p2p_net::{BuildStore, publish};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::local_source::LocalSource;
use crate::rig::{PATIENCE, timings, within};

/// Tokens in the state that the test says; what is asked and returned is noted in order.
#[derive(Clone)]
pub(crate) struct TestTokens {
    state: watch::Sender<TokenState>,
    events: Arc<Mutex<Vec<String>>>,
}

pub(crate) struct TestToken {
    state: watch::Receiver<TokenState>,
    events: Arc<Mutex<Vec<String>>>,
}

impl TestTokens {
    fn new() -> Self {
        Self { state: watch::Sender::new(TokenState::Held), events: Arc::default() }
    }

    /// Whoever asks waits for this reason, until [`Self::grant`].
    pub(crate) fn withhold(&self, reason: &str) {
        self.state.send_replace(TokenState::Waiting { reason: reason.into() });
    }

    pub(crate) fn grant(&self) {
        self.state.send_replace(TokenState::Held);
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }
}

impl TokenDesk for TestTokens {
    type Hold = TestToken;

    fn ask(&self, wish: TokenWish) -> TestToken {
        let event = format!("ask {} of {}", wish.max_unavailable, wish.generation);
        self.events.lock().unwrap().push(event);
        TestToken { state: self.state.subscribe(), events: self.events.clone() }
    }
}

impl TokenHold for TestToken {
    fn state(&self) -> TokenState {
        self.state.borrow().clone()
    }

    async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn note_failure(&self) {
        self.events.lock().unwrap().push("failed".into());
    }
}

impl Drop for TestToken {
    fn drop(&mut self) {
        self.events.lock().unwrap().push("return".into());
    }
}

/// One app of one host, whose builds differ only in a file `version` and in their program.
pub(crate) struct Host {
    pub(crate) folder: TempDir,
    pub(crate) source: LocalSource,
    pub(crate) tokens: TestTokens,
    pub(crate) goal: watch::Sender<GoalView>,
    pub(crate) rollout: Rollout,
    pub(crate) settings: AppSettings,
    pub(crate) systemd: Option<Arc<Systemd>>,
    generation: u64,
}

/// A running loop of the host's app.
pub(crate) struct Running {
    board: StatusBoard,
    stop: CancellationToken,
    task: JoinHandle<()>,
    pub(crate) orders: mpsc::Sender<AppOrder>,
}

impl Host {
    /// A host with `app`, whose builds are good as soon as they are ready.
    pub(crate) fn new(app: AppConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("app")).unwrap();
        Self {
            folder,
            source: LocalSource::new(),
            tokens: TestTokens::new(),
            goal: watch::Sender::new(GoalView::default()),
            rollout: Rollout::default(),
            settings: settings(app),
            systemd: None,
            generation: 0,
        }
    }

    pub(crate) fn with_program() -> Self {
        Self::new(AppConfig {
            exec: Some(vec!["./run".into()]),
            grace_period: Duration::from_millis(200),
            ..AppConfig::default()
        })
    }

    pub(crate) fn directory(&self) -> AppDir {
        AppDir::new(fs::canonicalize(self.folder.path().join("app")).unwrap())
    }

    /// A build that the source offers, whose program is the shell script `text`.
    pub(crate) fn build(&self, version: &str, text: &str) -> BuildId {
        self.build_of(version, &[("run", text)])
    }

    pub(crate) fn patient_build(&self, version: &str) -> BuildId {
        self.build(version, "exec sleep 60")
    }

    /// A build of the shell scripts `scripts`, by name and text.
    pub(crate) fn build_of(&self, version: &str, scripts: &[(&str, &str)]) -> BuildId {
        let scripts: Vec<_> =
            scripts.iter().map(|(name, text)| (*name, format!("#!/bin/sh\n{text}\n"))).collect();
        let scripts: Vec<_> = scripts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        self.build_as_they_are(version, &scripts)
    }

    /// A build of executable files, by name and content.
    pub(crate) fn build_as_they_are(&self, version: &str, scripts: &[(&str, &str)]) -> BuildId {
        let tree = self.folder.path().join(version);
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("version"), version).unwrap();
        for (name, text) in scripts {
            fs::write(tree.join(name), text).unwrap();
            fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let elsewhere = tempfile::tempdir().unwrap();
        let store = BuildStore::open(elsewhere.path()).unwrap();
        let build = publish(&tree, &store, None).unwrap().build.id();
        self.source.add(build, tree);
        build
    }

    /// Makes `build` the goal, to be switched to as [`Self::rollout`] says.
    pub(crate) fn set_goal(&mut self, build: BuildId) {
        self.generation += 1;
        let accepted_at_ms = now_ms();
        let (generation, rollout) = (self.generation, self.rollout.clone());
        let followed = AcceptedGoal { generation, build, accepted_at_ms, rollout };
        self.goal.send_replace(GoalView {
            followed: Some(followed),
            has_answered: true,
            trouble: None,
        });
    }

    /// When the supervisor acts, to be changed before the loop starts.
    pub(crate) const fn timings(&mut self) -> &mut SupervisorTimings {
        &mut self.settings.timings.supervisor
    }

    pub(crate) fn start(&self, keep_builds: usize) -> Running {
        self.start_as(keep_builds, self.settings.timings)
    }

    pub(crate) fn start_refreshing(&self, keep_builds: usize, refresh: Duration) -> Running {
        self.start_as(keep_builds, AppTimings { refresh, ..self.settings.timings })
    }

    fn start_as(&self, keep_builds: usize, timings: AppTimings) -> Running {
        let mut settings = AppSettings { timings, ..self.settings.clone() };
        settings.app.keep_builds = NonZero::new(keep_builds).unwrap();
        let (board, stop) = (StatusBoard::default(), CancellationToken::new());
        let (orders_sender, orders) = mpsc::channel(8);
        crate::rig::use_starter();
        let real = RealHost::new(BTreeMap::new());
        let parts = AppParts {
            source: self.source.clone(),
            host: match &self.systemd {
                Some(systemd) => real.with_systemd(systemd.clone()),
                None => real,
            },
            tokens: self.tokens.clone(),
            goal: self.goal.subscribe(),
            orders,
            board: board.clone(),
        };
        let app = App::open(settings, self.directory(), parts).unwrap();
        let task = tokio::spawn(app.run(stop.clone()));
        Running { board, stop, task, orders: orders_sender }
    }

    pub(crate) fn current_version(&self) -> String {
        fs::read_to_string(self.folder.path().join("app/current/version")).unwrap()
    }

    pub(crate) fn journal(&self) -> Journal {
        self.directory().journal().unwrap().unwrap()
    }

    pub(crate) fn builds_on_disk(&self) -> Vec<BuildId> {
        let mut builds = BuildStore::open(self.directory().path()).unwrap().list().unwrap();
        builds.sort_unstable();
        builds
    }

    /// A file that scripts of builds can append to, and its lines.
    pub(crate) fn notebook(&self) -> Notebook {
        Notebook { path: self.folder.path().join("notebook") }
    }
}

fn settings(app: AppConfig) -> AppSettings {
    let health = Health { min_healthy_time: timings().settle_after, ..app.health };
    AppSettings {
        name: "web".parse().unwrap(),
        host: "h1".into(),
        labels: BTreeSet::new(),
        app: AppConfig { health, ..app },
        timings: AppTimings {
            supervisor: timings(),
            retry_first: Duration::from_millis(10),
            retry_max: Duration::from_millis(40),
            refresh: Duration::from_secs(10),
            audit: Duration::from_mins(5),
        },
    }
}

/// See [`Host::notebook`].
#[derive(Clone)]
pub(crate) struct Notebook {
    path: std::path::PathBuf,
}

impl Notebook {
    /// A line of shell that notes `words`.
    pub(crate) fn note(&self, words: &str) -> String {
        format!("echo \"{words}\" >> {}", self.path.display())
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().map(String::from).collect()
    }

    /// Waits until so many lines are there.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<String> {
        let written = async {
            while self.lines().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(written).await;
        self.lines()
    }
}

impl Running {
    /// Waits until the status row is as wanted, and returns it.
    pub(crate) async fn row(&self, is_wanted: impl Fn(&HostStatus) -> bool) -> HostStatus {
        let mut rows = self.board.subscribe();
        let shown = async {
            let rows = rows.wait_for(|rows| rows.values().any(&is_wanted)).await.unwrap();
            rows.values().next().unwrap().clone()
        };
        let row = tokio::time::timeout(PATIENCE, shown).await;
        row.unwrap_or_else(|_| panic!("it stays like this: {:?}", self.board.subscribe().borrow()))
    }

    /// Every row from now on that is seen before the next one, up to the one that is as wanted.
    pub(crate) fn rows_until(
        &self,
        is_wanted: impl Fn(&HostStatus) -> bool,
    ) -> impl Future<Output = Vec<HostStatus>> {
        let mut rows = self.board.subscribe();
        rows.mark_unchanged();
        let seen = async move {
            let mut seen: Vec<HostStatus> = vec![];
            while !seen.last().is_some_and(&is_wanted) {
                rows.changed().await.unwrap();
                seen.extend(rows.borrow_and_update().values().next().cloned());
            }
            seen
        };
        within(seen)
    }

    /// Waits for what a script does to a file.
    pub(crate) async fn until(&self, is_done: impl Fn() -> bool) {
        let done = async {
            while !is_done() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(done).await;
    }

    pub(crate) async fn running(&self, build: BuildId) -> HostStatus {
        self.row(|row| row.phase == HostPhase::Running && row.current == Some(build)).await
    }

    /// Waits until the switch to `build` is over.
    pub(crate) async fn good(&self, build: BuildId) -> HostStatus {
        let is_good = |row: &HostStatus| {
            row.phase == HostPhase::Running
                && row.current == Some(build)
                && row.elapsed_ms.is_some()
        };
        self.row(is_good).await
    }

    pub(crate) async fn phase(&self, phase: HostPhase) -> HostStatus {
        self.row(|row| row.phase == phase).await
    }

    pub(crate) async fn order(&self, order: AppOrder) {
        self.orders.send(order).await.unwrap();
    }

    pub(crate) async fn explain(&self) -> Explanation {
        let (answer, asked) = oneshot::channel();
        self.order(AppOrder::Explain { answer }).await;
        within(asked).await.unwrap()
    }

    pub(crate) async fn stop(self) -> HostStatus {
        self.stop.cancel();
        within(self.task).await.unwrap();
        self.board.subscribe().borrow().values().next().unwrap().clone()
    }

    /// As for an agent that takes the place of this one.
    pub(crate) async fn let_go(self) {
        self.order(AppOrder::LetGo).await;
        within(self.task).await.unwrap();
    }

    /// As with kill -9: nothing of the loop runs any more, and nothing was told to stop.
    pub(crate) async fn kill(self) {
        self.task.abort();
        within(self.task).await.unwrap_err();
    }
}

pub(crate) fn process(row: &HostStatus) -> ProcessIdentity {
    ProcessIdentity::of(row.pid.unwrap()).unwrap()
}

pub(crate) fn is_alive(process: &ProcessIdentity) -> bool {
    process.open().unwrap().is_some()
}
