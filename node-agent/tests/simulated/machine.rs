//! The simulated machine: programs that outlive the agent and die with the power, probes, hooks and
//! a wall clock that may jump.
//!
//! It also watches over what must hold whenever a program is started: what breaks a rule is kept in
//! [`Machine::faults`] for the world to report.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use node_agent::brain::Swap;
use node_agent::host::{
    CannotStart, HookFailure, HookFailureCause, HookOrder, Host, HostProcess, Notice, Preflight,
    Probe, ProbeFailure, ProbeFailureCause, StartError, StartOrder, Stray,
};
use node_agent::process::ProcessIdentity;
use node_agent::state::{AppDir, Place, RunningRecord};
use p2p_core::{BuildId, Prng, Seed};
use rustix::process::Signal;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::builds::{Behaviour, Sample};
use super::witness::Witness;

/// How long a program takes to end after SIGTERM.
const END_TIME: Duration = Duration::from_millis(50);

/// What a program that floods its log prints between two probes.
pub(crate) const FLOOD_BYTES: u64 = 1 << 20;

/// 2026 by the machine's clock.
const EPOCH_MS: u64 = 1_780_000_000_000;

/// The machine. Cheap to clone; all clones are of one machine.
#[derive(Clone)]
pub(crate) struct Machine {
    state: Arc<Mutex<State>>,
    samples: Arc<Vec<Sample>>,
    /// Wakes whoever waits for the agent's death.
    pub(crate) agent_died: Arc<Notify>,
}

struct State {
    swap: Swap,
    boot: u64,
    starts: u32,
    processes: Vec<Arc<Mutex<Process>>>,
    /// How long the machine has run, up to the start of the agent's runtime.
    time_base: Duration,
    runtime_began: Option<Instant>,
    /// What the wall clock is wrong by, in milliseconds.
    clock_error: i64,
    is_agent_up: bool,
    /// One hook in so many fails.
    hook_fails_in: Option<u64>,
    prng: Prng,
    faults: Vec<String>,
    /// Builds whose files somebody changed.
    damaged: BTreeSet<BuildId>,
    is_tampered: bool,
    log: Vec<String>,
    witness: Witness,
}

/// One program.
pub(crate) struct Process {
    pub(crate) identity: ProcessIdentity,
    pub(crate) build: BuildId,
    pub(crate) behaviour: Behaviour,
    place: Place,
    record: RunningRecord,
    root: PathBuf,
    started_at: Duration,
    pub(crate) was_told_to_stop: bool,
    ends_at: Option<Duration>,
    changed: Arc<Notify>,
    output: Option<fs::File>,
}

impl Machine {
    pub(crate) fn new(samples: Vec<Sample>, swap: Swap, seed: u64) -> Self {
        let state = State {
            swap,
            boot: 1,
            starts: 0,
            processes: vec![],
            time_base: Duration::ZERO,
            runtime_began: None,
            clock_error: 0,
            is_agent_up: false,
            hook_fails_in: None,
            prng: Prng::from_seed(Seed::from_u64(seed)),
            faults: vec![],
            damaged: BTreeSet::new(),
            is_tampered: false,
            log: vec![],
            witness: Witness::default(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            samples: Arc::new(samples),
            agent_died: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    pub(crate) fn sample(&self, build: BuildId) -> &Sample {
        self.samples.iter().find(|sample| sample.id == build).expect("there are no others")
    }

    pub(crate) fn index_of(&self, build: BuildId) -> usize {
        self.samples.iter().position(|sample| sample.id == build).expect("there are no others")
    }

    /// To be called within the runtime of a new agent.
    pub(crate) fn begin_agent(&self) {
        let mut state = self.lock();
        state.runtime_began = Some(Instant::now());
        state.is_agent_up = true;
    }

    /// To be called within its runtime, when the agent is gone.
    pub(crate) fn end_agent(&self) {
        let mut state = self.lock();
        state.is_agent_up = false;
        state.time_base = state.now();
        state.runtime_began = None;
    }

    /// The agent does nothing any more from now on.
    pub(crate) fn kill_agent(&self) {
        self.lock().is_agent_up = false;
        self.agent_died.notify_one();
    }

    pub(crate) fn lose_power(&self) {
        let mut state = self.lock();
        state.processes.clear();
        state.boot += 1;
        state.witness.on_power_lost();
    }

    /// Lets the witness see something; what it has to say against it is a fault.
    pub(crate) fn testify(&self, look: impl FnOnce(&mut Witness) -> Option<String>) {
        let said = look(&mut self.lock().witness);
        if let Some(text) = said {
            self.fault(text);
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.lock().now()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.lock().now_ms()
    }

    pub(crate) fn jump_clock(&self, milliseconds: i64) {
        self.lock().clock_error += milliseconds;
    }

    pub(crate) fn set_hook_fails_in(&self, count: Option<u64>) {
        self.lock().hook_fails_in = count;
    }

    /// Programs that run, oldest first.
    pub(crate) fn alive(&self) -> Vec<Arc<Mutex<Process>>> {
        self.lock().alive()
    }

    pub(crate) fn starts(&self) -> u32 {
        self.lock().starts
    }

    /// Counts losses of power.
    pub(crate) fn boot(&self) -> u64 {
        self.lock().boot
    }

    pub(crate) fn note(&self, text: impl Into<String>) {
        self.lock().note(&text.into());
    }

    pub(crate) fn fault(&self, text: impl Into<String>) {
        let mut state = self.lock();
        let text = text.into();
        state.note(&format!("FAULT {text}"));
        state.faults.push(text);
    }

    pub(crate) fn take_fault(&self) -> Option<String> {
        self.lock().faults.first().cloned()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    pub(crate) fn set_damaged(&self, build: BuildId) {
        self.lock().damaged.insert(build);
    }

    /// Somebody changed files behind the agent's back: some rules hold only after a repair.
    pub(crate) fn set_tampered(&self) {
        self.lock().is_tampered = true;
    }

    pub(crate) fn is_tampered(&self) -> bool {
        self.lock().is_tampered
    }

    pub(crate) fn forget_damage(&self, build: BuildId) {
        self.lock().damaged.remove(&build);
    }

    pub(crate) fn is_damaged(&self, build: BuildId) -> bool {
        self.lock().damaged.contains(&build)
    }

    /// A program is about to be started: what must hold then.
    fn check_start(&self, app: &AppDir, build: BuildId, root: &Path) {
        let current = fs::read_link(app.path().join("current")).ok();
        let current = current.map(|target| app.path().join(target));
        // On a disk that rejects every write, what ran well runs before `current` can say so.
        let ran_well =
            app.journal().ok().flatten().is_some_and(|journal| journal.good.contains(&build));
        if current.as_deref() != Some(root) && !ran_well && !self.is_tampered() {
            self.fault(format!("started build {} which is not current", self.index_of(build)));
        }
        if !self.is_tampered() {
            let journal = app.journal().ok().flatten();
            let now_ms = self.now_ms();
            self.testify(|witness| witness.judge_start(now_ms, journal.as_ref(), build));
        }
        if !self.is_damaged(build)
            && let Some(wrong) = self.sample(build).find_wrong(root)
        {
            self.fault(format!("started build {} that is wrong: {wrong}", self.index_of(build)));
        }
        let (swap, alive) = {
            let state = self.lock();
            (state.swap, state.alive())
        };
        let is_stopping = |process: &&Arc<Mutex<Process>>| process.lock().unwrap().was_told_to_stop;
        let ending = alive.iter().filter(is_stopping).count();
        let allowed = match swap {
            Swap::Stop => (0, 0),
            Swap::Overlap => (1, 1),
        };
        if alive.len() - ending > allowed.0 || ending > allowed.1 {
            let count = alive.len() - ending;
            self.fault(format!("started a program beside {count} others and {ending} that end"));
        }
    }
}

impl State {
    fn now(&self) -> Duration {
        self.time_base + self.runtime_began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    fn now_ms(&self) -> u64 {
        let now = u64::try_from(self.now().as_millis()).unwrap();
        (EPOCH_MS + now).saturating_add_signed(self.clock_error)
    }

    fn instant(&self, moment: Duration) -> Instant {
        let began = self.runtime_began.expect("only agents wait");
        began + moment.saturating_sub(self.time_base)
    }

    fn alive(&self) -> Vec<Arc<Mutex<Process>>> {
        let now = self.now();
        let runs = |process: &&Arc<Mutex<Process>>| process.lock().unwrap().is_alive(now);
        self.processes.iter().filter(runs).cloned().collect()
    }

    fn note(&mut self, text: &str) {
        let line = format!("{:>9.3} {text}", self.now().as_secs_f64());
        self.log.push(line);
    }
}

impl Process {
    fn is_alive(&self, now: Duration) -> bool {
        self.ends_at.is_none_or(|end| now < end)
    }

    /// What one that floods its log has printed since it was asked last. Without a file the agent
    /// cannot see it, nor does it harm.
    fn print(&self) {
        if let (Behaviour::Floods, Some(output)) = (self.behaviour, &self.output) {
            let length = output.metadata().unwrap().len();
            output.set_len(length + FLOOD_BYTES).unwrap();
        }
    }

    fn end_at(&mut self, moment: Duration) {
        self.ends_at = Some(self.ends_at.map_or(moment, |end| end.min(moment)));
        self.changed.notify_waiters();
    }
}

/// The machine, as the agent's app uses it.
pub(crate) struct SimulatedHost(pub(crate) Machine);

/// A program, as the agent knows it.
pub(crate) struct SimulatedProcess {
    machine: Machine,
    identity: ProcessIdentity,
    process: Arc<Mutex<Process>>,
}

impl std::fmt::Debug for SimulatedHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedHost")
    }
}

impl std::fmt::Debug for SimulatedProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SimulatedProcess").field(&self.identity).finish()
    }
}

impl SimulatedProcess {
    fn new(machine: &Machine, process: &Arc<Mutex<Process>>) -> Self {
        let identity = process.lock().unwrap().identity.clone();
        Self { machine: machine.clone(), identity, process: Arc::clone(process) }
    }
}

impl Host for SimulatedHost {
    type Process = SimulatedProcess;

    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    fn start(&mut self, order: StartOrder<'_>) -> Result<SimulatedProcess, StartError> {
        let StartOrder { app, place, record, root, output, .. } = order;
        let program = root.join("run");
        let refused = |why: &str| {
            Err(StartError::Spawn { program: program.clone(), source: io::Error::other(why) })
        };
        if !self.0.lock().is_agent_up {
            return refused("the agent is gone");
        }
        let build = record.build;
        self.0.check_start(app, build, root);
        if !program.is_file() {
            return refused("there is no program");
        }
        let behaviour = self.0.sample(build).behaviour;
        let index = self.0.index_of(build);
        let mut state = self.0.lock();
        state.starts += 1;
        let (now, pid) = (state.now(), 100 + state.starts);
        let identity = ProcessIdentity {
            pid,
            start_ticks: u64::try_from(now.as_millis()).unwrap() / 10,
            boot: format!("boot-{}", state.boot),
        };
        let ends_at = match behaviour {
            Behaviour::Crashes => Some(now + Duration::from_millis(20)),
            Behaviour::CrashesAfter(time) => Some(now + time),
            _ => None,
        };
        let process = Arc::new(Mutex::new(Process {
            identity,
            build,
            behaviour,
            place,
            record: record.clone(),
            root: root.into(),
            started_at: now,
            was_told_to_stop: false,
            ends_at,
            changed: Arc::default(),
            output,
        }));
        state.processes.push(Arc::clone(&process));
        state.note(&format!("start of build {index} ({behaviour:?}) as {pid}"));
        drop(state);
        Ok(SimulatedProcess::new(&self.0, &process))
    }

    fn find(
        &mut self,
        record: &RunningRecord,
        _app: &AppDir,
        _root: &Path,
    ) -> io::Result<Option<SimulatedProcess>> {
        let is_it = |process: &&Arc<Mutex<Process>>| {
            let process = process.lock().unwrap();
            match &record.process {
                Some(identity) => process.identity == *identity,
                None => !record.instance.is_empty() && process.record.instance == record.instance,
            }
        };
        let alive = self.0.alive();
        Ok(alive.iter().find(is_it).map(|process| SimulatedProcess::new(&self.0, process)))
    }

    fn find_all(&mut self, _app: &AppDir) -> io::Result<Vec<Stray>> {
        let stray = |process: &Arc<Mutex<Process>>| {
            let process = process.lock().unwrap();
            let identity = Some(process.identity.clone());
            let record = RunningRecord { process: identity, ..process.record.clone() };
            Stray { place: process.place, record }
        };
        Ok(self.0.alive().iter().map(stray).collect())
    }

    fn preflight(&self, preflight: &Preflight<'_>) -> Result<(), CannotStart> {
        // Its programs are no files that a kernel could execute.
        if preflight.root.join("run").is_file() {
            return Ok(());
        }
        Err(CannotStart::new(true, "there is no program"))
    }

    fn check(
        &self,
        _probe: &Probe,
        root: &Path,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), ProbeFailure>> + Send + 'static {
        let now = self.0.now();
        let alive = self.0.alive();
        let asked = alive.iter().rev().find(|process| process.lock().unwrap().root == root);
        let answer = asked.map(|process| {
            let process = process.lock().unwrap();
            process.print();
            (process.behaviour, now.saturating_sub(process.started_at))
        });
        let refused = || ProbeFailureCause::Connect(io::ErrorKind::ConnectionRefused.into());
        async move {
            let cause = match answer {
                None => refused(),
                Some((Behaviour::NeverReady, _)) => {
                    sleep(timeout).await;
                    ProbeFailureCause::TimedOut { timeout }
                }
                Some((Behaviour::Answers500, _)) => {
                    ProbeFailureCause::Status { status: "500".into(), first_line: None }
                }
                Some((Behaviour::StartsSlowly(time), up_for)) if up_for < time => refused(),
                Some((Behaviour::HangsAfter(time), up_for)) if time <= up_for => {
                    sleep(timeout).await;
                    ProbeFailureCause::TimedOut { timeout }
                }
                Some(_) => {
                    sleep(Duration::from_millis(5)).await;
                    return Ok(());
                }
            };
            Err(ProbeFailure { asked: "the program".into(), cause })
        }
    }

    fn run_hook(
        &self,
        order: HookOrder,
    ) -> impl Future<Output = Result<(), HookFailure>> + Send + 'static {
        let mut state = self.0.lock();
        let fails_in = state.hook_fails_in;
        let fails = fails_in.is_some_and(|fails_in| state.prng.below(fails_in) == 0);
        let name = order.variables["SHOAL_HOOK"].clone();
        state.note(&format!("hook {name} {}", if fails { "fails" } else { "runs" }));
        drop(state);
        async move {
            sleep(Duration::from_millis(700)).await;
            if !fails {
                return Ok(());
            }
            let cause = HookFailureCause::Exit { code: 1 };
            Err(HookFailure { command: name, cause, output: String::new() })
        }
    }
}

impl HostProcess for SimulatedProcess {
    fn identity(&self) -> Option<&ProcessIdentity> {
        Some(&self.identity)
    }

    async fn next_notice(&mut self) -> Notice {
        loop {
            let changed = Arc::clone(&self.process.lock().unwrap().changed);
            let changed = changed.notified();
            let ends_at = self.process.lock().unwrap().ends_at;
            let Some(ends_at) = ends_at else {
                changed.await;
                continue;
            };
            let ends_at = self.machine.lock().instant(ends_at);
            tokio::select! {
                () = sleep_until(ends_at) => return Notice::Ended,
                () = changed => {}
            }
        }
    }

    fn describe_end(&self) -> String {
        "ended with exit code 1".into()
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let mut state = self.machine.lock();
        if !state.is_agent_up {
            return Ok(());
        }
        let now = state.now();
        let mut process = self.process.lock().unwrap();
        state.note(&format!("{signal:?} to {}", process.identity.pid));
        if signal == Signal::TERM {
            process.was_told_to_stop = true;
        }
        match (signal, process.behaviour) {
            (Signal::TERM, Behaviour::IgnoresTerm) => {}
            (Signal::TERM, _) => process.end_at(now + END_TIME),
            (Signal::KILL, _) => process.end_at(now),
            _ => {}
        }
        Ok(())
    }

    fn is_alive(&self) -> io::Result<bool> {
        let now = self.machine.now();
        Ok(self.process.lock().unwrap().is_alive(now))
    }

    fn reap(&mut self) {}
}
