//! One agent: its state directory, its node, the loops of its apps, and the status reports.
//!
//! Invariant: loops share nothing but the node, so an app that fails does not hold up another.
//! Goals reach them through [`goal_follower`], which stores each before it hands it on.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use goal_state::{AppName, GoalStore, GoalWatch};
use p2p_net::{Identity, Node, NodeConfig, SharedLimits, StartError};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, info, info_span, warn};

use crate::agent::goal_follower::GoalFollower;
use crate::agent::reload::Reload;
use crate::app::App;
use crate::app::settings::{AppOrder, AppParts, AppSettings, AppTimings};
use crate::config::{AppConfig, Config, GoalSource};
use crate::control::ControlServer;
use crate::control::answers::{Answers, AppOrders};
use crate::fleet::goals;
use crate::fleet::source::LimitedNode;
use crate::fleet::tokens::SeederTokens;
use crate::host::mark::MarkKey;
use crate::host::probe::ProbeCaller;
use crate::host::real::RealHost;
use crate::report::service::Heartbeat;
use crate::report::status::{Reporter, ReporterName, StatusBoard, StatusSink};
use crate::self_update::own_agent::OwnAgent;
use crate::state::StateDir;
use crate::state::goals::AcceptedGoals;

mod goal_follower;
pub(crate) mod reload;

/// Orders that wait for an app's loop. People give them one by one.
const ORDERS_MAX: usize = 16;

/// Time for the node to say goodbye. Its peers notice a silent end as well, but later.
const NODE_SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// Time for the loops to end for another agent. One that hangs is left behind with this process.
const LET_GO_MAX: Duration = Duration::from_secs(5);

/// A running agent. Stop it with [`Agent::stop`]: dropped, it leaves its programs running.
#[derive(Debug)]
pub(crate) struct Agent {
    node: Node,
    /// What the agent runs with.
    running: Config,
    app_limits: BTreeMap<AppName, SharedLimits>,
    board: StatusBoard,
    heartbeat: Heartbeat,
    restart: Arc<Notify>,
    orders: AppOrders,
    apps: JoinSet<()>,
    apps_stop: CancellationToken,
    goals: JoinHandle<()>,
    reporter: JoinHandle<()>,
    reporter_stop: CancellationToken,
    _control: Vec<AbortOnDropHandle<()>>,
    /// Released last, when nothing writes into it any more.
    _state: StateDir,
}

impl Agent {
    /// Starts everything; returns once the node listens and the programs of an earlier agent are
    /// taken over. Downloads and programs start behind it.
    ///
    /// Must be called within a multi-threaded tokio runtime: each app's loop blocks a thread.
    ///
    /// # Errors
    ///
    /// If the state directory is in use or damaged, or the node cannot listen. Nothing runs then.
    pub(crate) async fn start(config: Config) -> anyhow::Result<Self> {
        let state = StateDir::open(&config.state)?;
        let identity = Identity::load_or_create(&state.key_path())?;
        let accepted = AcceptedGoals::load(&state.goals_path())?;
        warn_of_strays(&state, &config);

        let node = start_node(&config, identity).await?;

        let board = StatusBoard::default();
        let mut follower = GoalFollower::new(accepted);
        let app_limits: BTreeMap<_, _> = config
            .apps
            .iter()
            .map(|(name, app)| (name.clone(), SharedLimits::new(app.limits())))
            .collect();
        let (heartbeat, restart) = (Heartbeat::default(), Arc::new(Notify::new()));
        let opening = Opening {
            config: &config,
            state: &state,
            node: &node,
            limits: &app_limits,
            board: &board,
            heartbeat: &heartbeat,
            restart: &restart,
        };
        let opened = match opening.apps(&mut follower).await {
            Ok(opened) => opened,
            Err(error) => {
                node.shutdown().await;
                return Err(error);
            }
        };
        let (opened, orders): (Vec<_>, AppOrders) = opened;
        let answers = Answers {
            host: config.host.clone(),
            board: board.clone(),
            orders: orders.clone(),
            started_at: Instant::now(),
        };
        let control = start_control(&config, &state, answers);

        let (apps_stop, reporter_stop) = (CancellationToken::new(), CancellationToken::new());
        let apps = spawn_apps(opened, &apps_stop);
        let (watch, sink) = goals_and_reports(&config, &node);
        let name = ReporterName {
            host: config.host.clone(),
            group: config.group.clone(),
            node: node.id().to_string(),
        };
        let reporter = Reporter::new(name, &board, sink);
        Ok(Self {
            node,
            running: config,
            app_limits,
            board,
            heartbeat,
            restart,
            orders,
            apps,
            goals: tokio::spawn(follower.run(watch)),
            reporter: tokio::spawn(reporter.run(reporter_stop.clone())),
            _control: control,
            apps_stop,
            reporter_stop,
            _state: state,
        })
    }

    /// The newest status rows.
    pub(crate) const fn board(&self) -> &StatusBoard {
        &self.board
    }

    /// Which of the agent's loops have to report in.
    pub(crate) const fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// Waits until the agent of a new build is to take the place of this process.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped and called again.
    pub(crate) fn replacement(&self) -> impl Future<Output = ()> + use<> {
        let restart = self.restart.clone();
        async move { restart.notified().await }
    }

    /// Takes over what can change without a restart, and says in log and status what cannot.
    /// Without a configuration, everything stays as it is.
    pub(crate) fn reload(&mut self, wanted: anyhow::Result<Config>) {
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(error) => {
                let reason = command_line::describe(&error);
                warn!("the configuration was not read again, the old settings stay: {reason}");
                let note = format!("configuration not read again, old settings stay: {reason}");
                return self.board.set_note(Some(note));
            }
        };
        let reload = Reload::apply(&mut self.running, &wanted);
        self.node.set_limits(self.running.limits());
        for (name, limits) in &self.app_limits {
            limits.set(self.running.apps[name].limits());
        }
        for (name, app) in &reload.apps {
            let settings = Box::new(settings_of(&self.running, name, app));
            // A loop that is so far behind gets them when the configuration is next read.
            if self.orders[name].try_send(AppOrder::Settings(settings)).is_err() {
                warn!(%name, "the app does not take orders; its new settings wait");
            }
        }
        info!("the configuration was read again: {reload}");
        self.board.set_note(reload.note());
    }

    /// Waits for something that must not happen while the agent runs: the end of a loop.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped and called again.
    pub(crate) async fn unexpected_end(&mut self) -> anyhow::Error {
        match self.apps.join_next().await {
            Some(Err(error)) => {
                anyhow::Error::new(error).context("an app's loop ended; this is a bug of the agent")
            }
            Some(Ok(())) | None => {
                anyhow::anyhow!("an app's loop ended; this is a bug of the agent")
            }
        }
    }

    /// Ends the loops where they are, for the agent that takes the place of this one. Hooks end
    /// with them, because the next agent starts them again; programs run on.
    pub(crate) async fn let_go(&mut self) {
        for order in self.orders.values() {
            // A loop that takes no order is not waited for long.
            drop(order.try_send(AppOrder::LetGo));
        }
        let ended = async { while self.apps.join_next().await.is_some() {} };
        if timeout(LET_GO_MAX, ended).await.is_err() {
            warn!("an app's loop does not end; it is left behind");
        }
    }

    /// Stops the programs within their grace periods, reports that, and closes the node.
    pub(crate) async fn stop(mut self) {
        self.goals.abort();
        self.apps_stop.cancel();
        while self.apps.join_next().await.is_some() {}
        self.reporter_stop.cancel();
        if let Err(error) = (&mut self.reporter).await {
            warn!(%error, "the last status was not reported");
        }
        if timeout(NODE_SHUTDOWN_MAX, self.node.shutdown()).await.is_err() {
            warn!("the node did not close in time");
        }
    }
}

async fn start_node(config: &Config, identity: Identity) -> Result<Node, StartError> {
    let named = |place: &String| Some(place.clone()).filter(|place| !place.is_empty());
    let node = Node::start(NodeConfig {
        seeders: config.seeders.clone(),
        zone: named(&config.zone),
        rack: named(&config.rack),
        upload_limit: config.upload_limit,
        download_limit: config.download_limit,
        traffic_class: config.dscp,
        disk_priority: config.disk_priority,
        transport: config.transport,
        buffer_budget: config.buffer_budget,
        ..NodeConfig::host(identity, config.listen)
    })
    .await?;
    info!(
        host = config.host, node = %node.id(), address = %node.address(), goal = %config.goal,
        "the node is up"
    );
    Ok(node)
}

/// Where goals come from, and where reports go. Must be called within a runtime.
fn goals_and_reports(config: &Config, node: &Node) -> (GoalWatch, StatusSink) {
    let apps = config.apps.keys().cloned();
    match &config.goal {
        GoalSource::Seeders => {
            let watch = goals::watch(node.clone(), &config.seeders, apps.collect());
            (watch, StatusSink::Seeders(node.clone()))
        }
        GoalSource::Store(url) => {
            let store = GoalStore::new(url);
            let watch = store.watch(apps.collect());
            let sink = if store.takes_host_status() {
                StatusSink::Store(store)
            } else {
                StatusSink::Seeders(node.clone())
            };
            (watch, sink)
        }
    }
}

/// Lets each app's loop run on a thread of its own: it waits for its disk now and then.
fn spawn_apps(opened: Vec<RealApp>, stop: &CancellationToken) -> JoinSet<()> {
    let mut apps = JoinSet::new();
    for app in opened {
        let (handle, stop) = (Handle::current(), stop.clone());
        let span = info_span!("app", name = app.name().as_str());
        apps.spawn_blocking(move || handle.block_on(app.run(stop).instrument(span)));
    }
    apps
}

/// What is needed to open the apps.
struct Opening<'a> {
    config: &'a Config,
    state: &'a StateDir,
    node: &'a Node,
    limits: &'a BTreeMap<AppName, SharedLimits>,
    board: &'a StatusBoard,
    heartbeat: &'a Heartbeat,
    restart: &'a Arc<Notify>,
}

/// An app of a real host.
type RealApp = App<LimitedNode, RealHost, SeederTokens>;

impl Opening<'_> {
    async fn apps(&self, follower: &mut GoalFollower) -> anyhow::Result<(Vec<RealApp>, AppOrders)> {
        let (mut opened, mut orders) = (vec![], AppOrders::new());
        let Config { host, group, seeders, .. } = self.config;
        let tokens = SeederTokens::new(self.node.clone(), host.clone(), group.clone(), seeders);
        let key = self.state.key_path();
        let mark_key = MarkKey::of_file(&key)
            .with_context(|| format!("cannot read {} again", key.display()))?;
        for (name, app) in &self.config.apps {
            let settings = settings_of(self.config, name, app);
            let directory = self.state.app(name)?;
            let (sender, receiver) = mpsc::channel(ORDERS_MAX);
            let limits = self.limits[name].clone();
            let parts = AppParts {
                source: LimitedNode { node: self.node.clone(), limits },
                host: RealHost::new(app.sockets.clone()).with_mark_key(mark_key).with_probe_caller(
                    ProbeCaller {
                        user: app.user.clone(),
                        variables: [
                            ("SHOAL_APP".into(), name.to_string()),
                            ("SHOAL_HOST".into(), self.config.host.clone()),
                        ]
                        .into(),
                    },
                ),
                tokens: tokens.clone(),
                goal: follower.subscribe(name),
                orders: receiver,
                board: self.board.clone(),
            };
            let pulse = self.heartbeat.register(name.as_str());
            let own_agent =
                app.is_agent.then(|| OwnAgent::new(self.heartbeat.clone(), self.restart.clone()));
            // Opening reads the manifests of all builds.
            let app = tokio::task::spawn_blocking(move || App::open(settings, directory, parts));
            let app = app.await?.with_context(|| format!("app {name}"))?;
            opened.push(app.with_pulse(pulse).with_own_agent(own_agent));
            orders.insert(name.clone(), sender);
        }
        Ok((opened, orders))
    }
}

/// The socket serves only people on the host; the agent works without it.
fn start_control(
    config: &Config,
    state: &StateDir,
    answers: Answers,
) -> Vec<AbortOnDropHandle<()>> {
    let default = || state.path().join("control.sock");
    match ControlServer::bind(&config.control.clone().unwrap_or_else(default)) {
        Ok((server, requests)) => vec![
            AbortOnDropHandle::new(tokio::spawn(server.run())),
            AbortOnDropHandle::new(tokio::spawn(answers.run(requests))),
        ],
        Err(error) => {
            warn!("the agent runs without its control socket: {:#}", anyhow::Error::new(error));
            vec![]
        }
    }
}

fn settings_of(config: &Config, name: &AppName, app: &AppConfig) -> AppSettings {
    AppSettings {
        name: name.clone(),
        host: config.host.clone(),
        labels: config.labels.clone(),
        app: app.clone(),
        timings: AppTimings::fleet(),
    }
}

/// An app that was taken out of the configuration keeps its files, and its program too if the agent
/// was killed. Only a person knows whether that is wanted.
fn warn_of_strays(state: &StateDir, config: &Config) {
    for name in state.apps() {
        if config.apps.keys().any(|app| app.as_str() == name) {
            continue;
        }
        warn!(
            "app {name} is not configured any more; its builds and, if one runs, its program are left alone in {}",
            state.path().join("apps").join(&name).display()
        );
    }
}
