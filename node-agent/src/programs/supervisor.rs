//! Runs the programs of one app: the one that serves, the candidate that is to take its place, and
//! the one that was replaced and is ending. Starts again what ends by itself or has to be ended
//! because it is not healthy, and takes over what an agent that died left running.
//!
//! Invariant: a program is announced on disk before it is started, and carries a mark in case the
//! disk refuses (`strays`), so whenever this agent dies, the next one finds every program. A
//! candidate never disturbs the program that serves.
//!
//! The supervisor does not choose builds. The app's loop drives it: [`Supervisor::next_wake`] only
//! waits, [`Supervisor::on_wake`] and the orders change the state and never wait.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use command_line::causes;
use p2p_core::BuildId;
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::brain::model::Gate;
use crate::host::launch::{GRACE_PERIOD_DEFAULT, Launch};
use crate::host::probe::{Health, Probe};
use crate::host::unit::JOB_TIMEOUT;
use crate::host::{Host, HostProcess as _, StartError, StartOrder};
use crate::programs::health_watch::HealthWatch;
use crate::programs::instance::{Instance, InstanceWake, Turn};
use crate::programs::output::{OUTPUT_BYTES_MAX, OutputLog};
use crate::programs::output_watch::OutputWatch;
use crate::state::app_dir::{AppDir, Place, RunningRecord};

mod crashes;
mod strays;
mod view;

use crashes::{Cause, Crash, Crashes, Life};

pub use crashes::{RestartCounts, Told};

/// When the supervisor acts by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SupervisorTimings {
    /// How long a program without a probe has to be up before it counts as ready.
    pub settle_after: Duration,
    /// Wait before a program that ended is started again; doubles with each time in a row.
    pub restart_first: Duration,
    /// Longest such wait.
    pub restart_max: Duration,
    /// How long a program has to be up for its earlier ends to be forgotten.
    pub forget_after: Duration,
    /// How often the output is looked at, about: more often while much is printed, half as often
    /// while nothing is.
    pub output_check: Duration,
}

impl SupervisorTimings {
    /// Made for the servers of a fleet: the short waits are enough to show a wrong flag, and the
    /// long ones to tell a bad moment from a bad build.
    pub const fn fleet() -> Self {
        Self {
            settle_after: Duration::from_secs(1),
            restart_first: Duration::from_secs(1),
            restart_max: Duration::from_mins(1),
            forget_after: Duration::from_mins(1),
            output_check: Duration::from_secs(2),
        }
    }
}

/// What the operator configured about the program of an app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProgramSettings {
    /// What to run; `None` for an app without a program.
    pub launch: Option<Launch>,
    /// How it is judged.
    pub health: Health,
    /// When the supervisor acts by itself.
    pub timings: SupervisorTimings,
}

/// The programs of one app. See the head of this file.
#[derive(Debug)]
pub struct Supervisor<H: Host> {
    app: AppDir,
    host: H,
    settings: ProgramSettings,
    serving: Slot<H::Process>,
    candidate: Slot<H::Process>,
    leaving: Slot<H::Process>,
    crashes: Crashes,
    /// Starts that fulfil a lower order are not fresh.
    restart: u64,
    /// Programs that were started before it are not fresh.
    stale_before: Option<Instant>,
    failed: Option<(BuildId, String)>,
    output: OutputCounts,
    starts: u64,
    /// Places whose program is not noted on disk yet.
    unrecorded: BTreeSet<Place>,
}

/// What programs printed since the agent started, as far as was seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OutputCounts {
    /// Bytes.
    pub bytes: u64,
    /// How often one began to print more than it may.
    pub floods: u64,
}

/// `Idle` -> `Alive` by a start -> `Idle`, or `Resting` if the end was not asked for -> `Idle` when
/// the wait is over.
#[derive(Debug)]
enum Slot<P> {
    Idle,
    Alive {
        instance: Box<Instance<P>>,
        /// When to start again, once it is gone, if nobody asked it to stop.
        restart_after: Option<Duration>,
    },
    Resting {
        build: BuildId,
        until: Instant,
    },
}

/// What woke the supervisor.
#[derive(Debug)]
pub struct SupervisorWake {
    place: Place,
    what: SlotWake,
}

#[derive(Debug)]
enum SlotWake {
    Instance(InstanceWake),
    Rested,
}

#[expect(clippy::multiple_inherent_impl, reason = "what is seen of it is a concern of its own")]
impl<H: Host> Supervisor<H> {
    /// Takes over the programs that an earlier agent left running, if there are any.
    ///
    /// Must be called within a tokio runtime.
    pub fn recover(app: &AppDir, host: H, settings: ProgramSettings) -> Self {
        let timings = settings.timings;
        let mut supervisor = Self {
            app: app.clone(),
            host,
            settings,
            serving: Slot::Idle,
            candidate: Slot::Idle,
            leaving: Slot::Idle,
            crashes: Crashes::new(&timings),
            restart: 0,
            stale_before: None,
            failed: None,
            output: OutputCounts::default(),
            starts: 0,
            unrecorded: BTreeSet::new(),
        };
        for place in Place::ALL {
            match app.running(place) {
                Ok(Some(record)) => supervisor.adopt(place, record),
                Ok(None) => {}
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "lost track of a program");
                }
            }
        }
        supervisor.take_over_strays();
        if let Slot::Alive { instance, .. } = &mut supervisor.leaving {
            let grace = grace_of(supervisor.settings.launch.as_ref());
            instance.stop(grace);
        }
        supervisor
    }

    /// The machine.
    pub const fn host(&self) -> &H {
        &self.host
    }

    /// A build was given up: what is known of its failure is in the journal.
    pub fn forget_failure(&mut self) {
        self.forget_verdict();
        self.crashes.forget();
    }

    /// A build is switched to, or back to, perhaps the one that runs: what happened before says
    /// nothing about it.
    pub fn begin_switch(&mut self) {
        self.forget_verdict();
        self.crashes.begin();
    }

    /// Of whose programs [`Self::trouble`], [`Self::restarts`] and the like tell.
    pub fn set_told(&mut self, told: Told) {
        self.crashes.set_told(told);
    }

    /// The same for one that is tried on: how often its program failed is remembered.
    pub fn forget_verdict(&mut self) {
        self.failed = None;
    }

    /// Takes over settings that changed. A program that was started by another command is not fresh
    /// any more.
    pub fn set_settings(&mut self, settings: ProgramSettings) {
        for slot in [&mut self.serving, &mut self.candidate] {
            if let Slot::Alive { instance, .. } = slot {
                instance.health.set_health(settings.health.clone());
            }
        }
        self.settings = settings;
    }

    /// The number of the last order to restart.
    pub const fn set_restart(&mut self, restart: u64) {
        self.restart = restart;
    }

    /// Every program that runs now is to be replaced.
    pub fn make_stale(&mut self) {
        self.stale_before = Some(Instant::now());
    }

    /// Tells the serving program to read its configuration again: SIGHUP to its group.
    pub fn reload(&self) {
        if let Some(instance) = self.serving.running() {
            info!(pid = instance.pid(), "telling the program to reload");
            instance.signal(Signal::HUP);
        }
    }

    /// Starts the configured program of `build`, whose files are in `root`.
    ///
    /// A program that cannot be started counts as one that ended at once.
    ///
    /// # Panics
    ///
    /// If the app has no program or one is in `place` already: the caller asks
    /// [`Self::programs`] first.
    pub fn start(&mut self, place: Place, build: BuildId, root: &Path) {
        assert!(
            matches!(self.slot(place), Slot::Idle | Slot::Resting { .. }),
            "a program of the app is there already"
        );
        let life = self.new_life(build);
        self.crashes.on_start(life);
        let slot = match self.spawn(place, build, root) {
            Ok(instance) => {
                info!(build = build.short(), pid = instance.pid(), "program started");
                Slot::Alive { instance: Box::new(instance), restart_after: None }
            }
            Err(error) => {
                let wait = self.note_crash(life, Cause::Ended, &causes(error), None);
                Slot::Resting { build, until: Instant::now() + wait }
            }
        };
        *self.slot_mut(place) = slot;
    }

    /// Tells the program in `place` to stop: SIGTERM to its group, SIGKILL after the grace period.
    ///
    /// Does not wait; [`Self::programs`] says `Program::Ending` until every process is gone.
    pub fn stop(&mut self, place: Place) {
        let grace = grace_of(self.settings.launch.as_ref());
        match self.slot_mut(place) {
            Slot::Alive { instance, restart_after } => {
                info!(pid = instance.pid(), "stopping the program");
                *restart_after = None;
                instance.stop(grace);
            }
            slot @ Slot::Resting { .. } => *slot = Slot::Idle,
            Slot::Idle => {}
        }
    }

    /// Tells the serving program to stop because it is not healthy, to be started again after a
    /// pause, as one that ended by itself.
    ///
    /// Does nothing unless [`Self::ailment`] names a reason.
    pub fn revive(&mut self) {
        let Some(why) = self.ailment() else { return };
        let Some(instance) = self.serving.running() else { return };
        let (life, tail) = (self.life_of(instance), instance.output.tail());
        let how = format!("the program was stopped: {why}");
        let wait = self.note_crash(life, Cause::Unhealthy, &how, tail);
        let grace = grace_of(self.settings.launch.as_ref());
        if let Slot::Alive { instance, restart_after } = &mut self.serving {
            *restart_after = Some(wait);
            instance.stop(grace);
        }
    }

    /// The candidate serves from now on; the program that served is told to stop.
    ///
    /// # Panics
    ///
    /// If there is no candidate, or a program is leaving already.
    pub fn promote(&mut self) {
        let mut new = std::mem::replace(&mut self.candidate, Slot::Idle);
        let Slot::Alive { instance, .. } = &mut new else { panic!("there is no candidate") };
        // Before the records: an agent that finds a candidate sees whether its output has moved.
        instance.output.become_current(&self.app.output_path(Place::Serving));
        instance.health.on_alone(Instant::now());
        let mut old = std::mem::replace(&mut self.serving, Slot::Idle);
        // Announced in its new place before it loses the old one, and before it is told to stop: an
        // agent that found it in the old place would take it for the one to keep. A record that
        // could not be written is reported, and written as soon as the disk takes it.
        if let Slot::Alive { instance, .. } = &mut old {
            instance.output.stop();
            assert!(matches!(self.leaving, Slot::Idle), "two programs are leaving");
            self.write_record(Place::Leaving, &instance.record);
            self.leaving = old;
        }
        info!(
            build = instance.record.build.short(),
            pid = instance.pid(),
            "the new program serves"
        );
        // Without its new record the old one is all that leads the next agent to it.
        if self.write_record(Place::Serving, &instance.record) {
            self.remove_record(Place::Candidate);
        }
        self.serving = new;
        self.stop(Place::Leaving);
    }

    /// Waits for the next thing that [`Self::on_wake`] has to deal with.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped and called again.
    pub async fn next_wake(&mut self) -> SupervisorWake {
        tokio::select! {
            what = self.serving.next_wake() => SupervisorWake { place: Place::Serving, what },
            what = self.candidate.next_wake() => SupervisorWake { place: Place::Candidate, what },
            what = self.leaving.next_wake() => SupervisorWake { place: Place::Leaving, what },
        }
    }

    /// Deals with what [`Self::next_wake`] waited for.
    pub fn on_wake(&mut self, wake: SupervisorWake) {
        let SupervisorWake { place, what } = wake;
        let what = match what {
            SlotWake::Rested => return *self.slot_mut(place) = Slot::Idle,
            SlotWake::Instance(what) => what,
        };
        let grace = grace_of(self.settings.launch.as_ref());
        let mut slot = std::mem::replace(self.slot_mut(place), Slot::Idle);
        let Slot::Alive { instance, restart_after } = &mut slot else { return };
        let was_flooding = instance.health.flood().is_some();
        let before = Mood::of(instance);
        let turn = instance.on_wake(what, &self.host, grace);
        self.note_output(instance, was_flooding);
        self.note_mood(instance, before);
        match turn {
            Turn::Stays => self.look_after(place, instance, restart_after, grace),
            Turn::Crashed => *restart_after = Some(self.on_crashed(place, instance)),
            Turn::Gone => {
                self.unrecorded.remove(&place);
                self.remove_record(place);
                let build = instance.record.build;
                slot = match *restart_after {
                    Some(wait) => Slot::Resting { build, until: Instant::now() + wait },
                    None => Slot::Idle,
                };
            }
        }
        *self.slot_mut(place) = slot;
    }

    fn look_after(
        &mut self,
        place: Place,
        instance: &mut Instance<H::Process>,
        restart_after: &mut Option<Duration>,
        grace: Duration,
    ) {
        self.retry_record(place, &instance.record);
        if instance.is_ending() {
            return;
        }
        let is_of_it = self.is_newest(place) && self.crashes.are_of(instance.record.build);
        if is_of_it && self.is_lasting(instance) {
            self.crashes.forget();
        }
        let Some(why) = instance.health.failure(Instant::now()) else { return };
        let build = instance.record.build;
        if place == Place::Candidate {
            // The program that serves is not disturbed, and another try is made later.
            let tail = instance.output.tail();
            let life = self.life_of(instance);
            *restart_after = Some(self.note_crash(life, Cause::Unhealthy, &why, tail));
            instance.stop(grace);
        }
        if self.failed.is_none() {
            warn!(build = build.short(), "{why}");
            self.failed = Some((build, why));
        }
    }

    /// Counts what a program printed, and logs once that it prints too much.
    fn note_output(&mut self, instance: &mut Instance<H::Process>, was_flooding: bool) {
        self.output.bytes += instance.output.take_news();
        let build = instance.record.build.short();
        match instance.health.flood() {
            Some(flood) if !was_flooding => {
                self.output.floods += 1;
                // While it is judged, that is the reason why it fails.
                if instance.health.gate() == Gate::Good {
                    warn!(build, pid = instance.pid(), "the program {flood}");
                }
            }
            None if was_flooding => info!(build, "the program does not print too much any more"),
            _ => {}
        }
    }

    /// Whether a program has been up and well for so long that earlier ends do not count any more.
    fn is_lasting(&self, instance: &Instance<H::Process>) -> bool {
        let is_old = instance.up_since.elapsed() >= self.settings.timings.forget_after;
        is_old && instance.health.is_well()
    }

    /// Logs once that a program which served is not healthy any more, and that it is again.
    fn note_mood(&self, instance: &Instance<H::Process>, before: Mood) {
        let (build, pid) = (instance.record.build.short(), instance.pid());
        match (before, Mood::of(instance)) {
            (Mood::Unhealthy { .. }, Mood::Unhealthy { .. }) => {}
            (_, Mood::Unhealthy { .. }) => {
                let failure = instance.health.last_failure().map(ToString::to_string);
                let failure = failure.unwrap_or_default();
                warn!(build, pid, "the program is not healthy any more: {failure}");
            }
            (Mood::Unhealthy { since }, _) if !instance.is_ending() => {
                let seconds = since.map_or(0, |since| since.elapsed().as_secs());
                info!(build, pid, seconds, "the program is healthy again");
            }
            (Mood::Young, Mood::Well) if self.crashes.in_a_row > 0 => {
                let restarts = self.crashes.in_a_row;
                info!(build, pid, restarts, "the program is healthy again after restarts");
            }
            _ => {}
        }
    }

    /// Whether what is in `place` was started last: the program that serves beside a candidate says
    /// nothing about that one.
    const fn is_newest(&self, place: Place) -> bool {
        !matches!(place, Place::Serving) || matches!(self.candidate, Slot::Idle)
    }

    fn on_crashed(&mut self, place: Place, instance: &Instance<H::Process>) -> Duration {
        let how = format!("the program {}", instance.process.describe_end());
        if !self.is_newest(place) {
            self.crashes.count(Cause::Ended);
            warn!(build = instance.record.build.short(), "{how}; another takes its place");
            return self.settings.timings.restart_first;
        }
        if self.is_lasting(instance) {
            self.crashes.forget();
        }
        self.note_crash(self.life_of(instance), Cause::Ended, &how, instance.output.tail())
    }

    /// The life that a start of now belongs to.
    fn new_life(&self, build: BuildId) -> Life {
        let command = self.settings.launch.as_ref().map(Launch::digest);
        Life { build, command, restart: self.restart, stale_before: self.stale_before }
    }

    fn life_of(&self, instance: &Instance<H::Process>) -> Life {
        let RunningRecord { build, command, restart, .. } = instance.record;
        Life { build, command: Some(command), restart, stale_before: self.stale_before }
    }

    fn adopt(&mut self, place: Place, record: RunningRecord) {
        let is_known = |slot: &Slot<H::Process>| {
            slot.running()
                .filter(|_| record.process.is_some())
                .is_some_and(|known| known.process.identity() == record.process.as_ref())
        };
        if Place::ALL.into_iter().any(|other| is_known(self.slot(other))) {
            // An agent died while the program changed its place.
            return self.remove_record(place);
        }
        let root = self.app.path().join("builds").join(record.build.to_string());
        match self.host.find(&record, &self.app, &root) {
            Ok(Some(process)) => {
                info!(pid = process.identity().map(|identity| identity.pid), "took over a program");
                let record = RunningRecord { process: process.identity().cloned(), ..record };
                self.write_record(place, &record);
                let health = self.found_health_watch(place);
                let interval = self.settings.timings.output_check;
                let log = self.found_output(place);
                let mut output = OutputWatch::found(log, interval, Instant::now());
                if place == Place::Leaving {
                    output.stop();
                }
                let mut instance = Instance::new((process, record), &root, health, output);
                let is_beside = place == Place::Candidate && self.serving.running().is_some();
                if is_beside && self.settings.health.probe == Some(Probe::Notify) {
                    // Whether it said that it is ready, only the agent that died knew.
                    instance.stop(grace_of(self.settings.launch.as_ref()));
                }
                *self.slot_mut(place) =
                    Slot::Alive { instance: Box::new(instance), restart_after: None };
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "cannot take over the program that was started last"),
        }
    }

    fn spawn(
        &mut self,
        place: Place,
        build: BuildId,
        root: &Path,
    ) -> Result<Instance<H::Process>, StartError> {
        let launch = self.settings.launch.clone();
        let launch = launch.expect("the brain starts only apps with a program");
        let output = self.output(place);
        // Without the file the program runs nevertheless: a full or read-only disk must not keep a
        // host from serving.
        let (file, offset) = match output.open() {
            Ok((file, offset)) => (Some(file), offset),
            Err(error) => {
                warn!(%error, path = %output.path().display(), "the program's output is lost");
                (None, 0)
            }
        };
        self.starts += 1;
        let record = RunningRecord {
            build,
            command: launch.digest(),
            restart: self.restart,
            instance: format!("{}-{}-{}", self.host.now_ms(), std::process::id(), self.starts),
            unit: launch.unit.clone(),
            process: None,
        };
        self.write_record(place, &record);
        let process = self.host.start(StartOrder {
            app: &self.app,
            launch: &launch,
            place,
            record: &record,
            root,
            says_ready: self.settings.health.probe == Some(Probe::Notify),
            output: file,
        })?;
        let record = RunningRecord { process: process.identity().cloned(), ..record };
        self.write_record(place, &record);
        let health = self.new_health_watch();
        let interval = self.settings.timings.output_check;
        let output = OutputWatch::new(output, offset, interval, Instant::now());
        Ok(Instance::new((process, record), root, health, output))
    }

    fn new_health_watch(&self) -> HealthWatch {
        let restarts = self.crashes.unhealthy_in_a_row;
        let watch = self.health_watch().after_restarts(restarts);
        // A unit is up when systemd says so, however long its restart takes.
        if self.unit().is_some() { watch.not_up_yet() } else { watch }
    }

    /// A candidate that was found served nobody yet: it has to get ready as if it were new.
    fn found_health_watch(&self, place: Place) -> HealthWatch {
        let watch = self.health_watch();
        if place == Place::Candidate { watch } else { watch.found_serving() }
    }

    fn health_watch(&self) -> HealthWatch {
        let settle_after = self.settings.timings.settle_after;
        HealthWatch::new(Instant::now(), self.settings.health.clone(), settle_after)
    }

    /// The unit that is the app's program, if systemd runs it.
    fn unit(&self) -> Option<&str> {
        self.settings.launch.as_ref()?.unit.as_deref()
    }

    fn output(&self, place: Place) -> OutputLog {
        OutputLog::new(self.app.output_path(place), OUTPUT_BYTES_MAX)
    }

    /// As above, for a program that an earlier agent started.
    fn found_output(&self, place: Place) -> OutputLog {
        let log = self.output(place);
        // That agent died between the move of the output and the record of the new place.
        let has_moved = place == Place::Candidate && !log.path().exists();
        if has_moved { self.output(Place::Serving) } else { log }
    }

    /// Notes on disk what is in `place`. Returns whether that went well; if not, it is tried again.
    fn write_record(&mut self, place: Place, record: &RunningRecord) -> bool {
        let written = self.app.write_running(place, record);
        match &written {
            Ok(()) => {
                self.unrecorded.remove(&place);
            }
            Err(error) if self.unrecorded.insert(place) => {
                let error = error as &dyn std::error::Error;
                warn!(error, "the program runs, but there is no record of it; trying again");
            }
            Err(_) => {}
        }
        written.is_ok()
    }

    /// A disk that was full may take the record now.
    fn retry_record(&mut self, place: Place, record: &RunningRecord) {
        let has_moved = place == Place::Serving && matches!(self.candidate, Slot::Idle);
        if self.unrecorded.contains(&place) && self.write_record(place, record) && has_moved {
            self.remove_record(Place::Candidate);
        }
    }

    fn remove_record(&self, place: Place) {
        if let Err(error) = self.app.remove_running(place) {
            warn!(%error, "cannot remove the record of a program that ended");
        }
    }

    const fn slot(&self, place: Place) -> &Slot<H::Process> {
        match place {
            Place::Serving => &self.serving,
            Place::Candidate => &self.candidate,
            Place::Leaving => &self.leaving,
        }
    }

    const fn slot_mut(&mut self, place: Place) -> &mut Slot<H::Process> {
        match place {
            Place::Serving => &mut self.serving,
            Place::Candidate => &mut self.candidate,
            Place::Leaving => &mut self.leaving,
        }
    }

    /// Counts one more end of the program, composes the message, and returns how long to wait.
    fn note_crash(
        &mut self,
        life: Life,
        cause: Cause,
        how: &str,
        tail: Option<String>,
    ) -> Duration {
        let wait = self.crashes.note(cause, life);
        let times = match self.crashes.in_a_row {
            1 => String::new(),
            times => format!(", {times} times in a row"),
        };
        let last_line = tail.as_ref().and_then(|tail| tail.lines().next_back());
        let output = match (last_line, self.unit()) {
            (Some(line), _) => format!("its last output: {line}"),
            (None, Some(unit)) => format!("see journalctl -u {unit}"),
            (None, None) => {
                let path = self.app.output_path(Place::Serving);
                format!("it printed nothing to {}", path.display())
            }
        };
        let (how, tail) = (format!("{how}{times}"), tail.unwrap_or_default());
        let crash = Crash { build: life.build, how, wait, output, tail };
        warn!("{}", self.crash_trouble(&crash).text);
        self.crashes.set_last(crash);
        wait
    }
}

/// How a program is, as far as it is worth a line in the log when that changes.
#[derive(Clone, Copy, Debug)]
enum Mood {
    /// It has not been good yet.
    Young,
    Well,
    /// It served, and does not answer its probe well any more.
    Unhealthy {
        since: Option<Instant>,
    },
}

impl Mood {
    fn of<P: crate::host::HostProcess>(instance: &Instance<P>) -> Self {
        let health = &instance.health;
        if health.is_unhealthy() {
            Self::Unhealthy { since: health.unhealthy_since() }
        } else if health.is_well() {
            Self::Well
        } else {
            Self::Young
        }
    }
}

impl<P: crate::host::HostProcess> Slot<P> {
    /// The program, if it was not told to stop.
    fn running(&self) -> Option<&Instance<P>> {
        match self {
            Self::Alive { instance, .. } if !instance.is_ending() => Some(instance),
            _ => None,
        }
    }

    async fn next_wake(&mut self) -> SlotWake {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Resting { until, .. } => {
                sleep_until(*until).await;
                SlotWake::Rested
            }
            Self::Alive { instance, .. } => SlotWake::Instance(instance.next_wake().await),
        }
    }
}

fn grace_of(launch: Option<&Launch>) -> Duration {
    match launch {
        // systemd ends it in its own time (`TimeoutStopSec`), and says when it has.
        Some(Launch { unit: Some(_), .. }) => JOB_TIMEOUT,
        Some(launch) => launch.grace_period,
        None => GRACE_PERIOD_DEFAULT,
    }
}
