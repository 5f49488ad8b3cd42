//! One running program of an app, from its start until the last process that it started is gone.
//!
//! Invariant: the program depends on the agent for nothing once it runs: no pipe, no parent's death
//! signal. An instance does not choose builds and does not start anything again: it says what
//! happened, and `supervisor` decides. [`Instance::next_wake`] only waits, [`Instance::on_wake`]
//! and the orders change the state and never wait.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::brain::model::Gate;
use crate::host::probe::ProbeFailure;
use crate::host::{Host, HostProcess, Notice};
use crate::programs::health_watch::{HealthWatch, ProbeError};
use crate::programs::output_watch::OutputWatch;
use crate::state::app_dir::RunningRecord;

/// How often a group that was told to stop is looked at after its leader is gone. There is no event
/// for the end of a group, and a pass over `/proc` costs about a millisecond.
const GROUP_CHECK: Duration = Duration::from_millis(50);

/// How long killed processes may take to disappear before the supervisor goes on without them: they
/// can only hang in the kernel then, on a dead disk or network file system.
const KILLED_WAIT_MAX: Duration = Duration::from_secs(5);

/// A program that runs or ends. See the head of this file.
#[derive(Debug)]
pub(crate) struct Instance<P> {
    pub(crate) process: P,
    pub(crate) record: RunningRecord,
    pub(crate) root: PathBuf,
    pub(crate) up_since: Instant,
    pub(crate) health: HealthWatch,
    pub(crate) output: OutputWatch,
    probe: Option<RunningProbe>,
    end: Option<End>,
}

/// The end of a program: from the order to stop, or from the end of its leader.
#[derive(Debug)]
struct End {
    /// When the group is killed, or given up if it has been.
    deadline: Instant,
    is_killed: bool,
    group_check_at: Option<Instant>,
}

/// A probe that was sent and not answered yet.
type RunningProbe = AbortOnDropHandle<Result<(), ProbeFailure>>;

/// What an instance waited for.
#[derive(Debug)]
pub(crate) enum InstanceWake {
    Notice(Notice),
    Answer(Result<(), ProbeError>),
    Due,
}

/// What a wake led to.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Turn {
    /// It goes on.
    Stays,
    /// Its leader ended, and nobody had asked for that. The rest of its group is being stopped.
    Crashed,
    /// Every process of it is gone.
    Gone,
}

impl<P: HostProcess> Instance<P> {
    pub(crate) fn new(
        (process, record): (P, RunningRecord),
        root: &Path,
        health: HealthWatch,
        output: OutputWatch,
    ) -> Self {
        Self {
            process,
            record,
            root: root.into(),
            up_since: Instant::now(),
            health,
            output,
            probe: None,
            end: None,
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.identity().map(|identity| identity.pid)
    }

    pub(crate) const fn is_ending(&self) -> bool {
        self.end.is_some()
    }

    /// Waits for the next thing that [`Self::on_wake`] has to deal with.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped and called again.
    pub(crate) async fn next_wake(&mut self) -> InstanceWake {
        let due = self.next_due();
        let is_leader_gone = self.end.as_ref().is_some_and(|end| end.group_check_at.is_some());
        tokio::select! {
            notice = self.process.next_notice(), if !is_leader_gone => InstanceWake::Notice(notice),
            answer = answer(&mut self.probe) => InstanceWake::Answer(answer),
            () = moment(due) => InstanceWake::Due,
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let own = match &self.end {
            Some(end) => Some(end.group_check_at.unwrap_or(end.deadline).min(end.deadline)),
            None => self.health.next_due(self.probe.is_some()),
        };
        [own, self.output.next_due()].into_iter().flatten().min()
    }

    /// Deals with what [`Self::next_wake`] waited for.
    pub(crate) fn on_wake<H: Host<Process = P>>(
        &mut self,
        wake: InstanceWake,
        host: &H,
        grace: Duration,
    ) -> Turn {
        let now = Instant::now();
        // First, because a program that prints too much must not be called good by what follows.
        let is_judged = self.end.is_none() && self.health.gate() < Gate::Good;
        let has_ended = matches!(wake, InstanceWake::Notice(Notice::Ended));
        if is_judged || has_ended || self.output.is_due(now) {
            self.output.look(now);
            self.health.on_output(now, self.output.written());
        }
        match wake {
            InstanceWake::Notice(Notice::Ended) => return self.on_leader_ended(grace),
            InstanceWake::Notice(Notice::Ready) => self.health.on_ready(now),
            InstanceWake::Answer(answer) => {
                self.probe = None;
                self.health.on_answer(now, answer);
            }
            InstanceWake::Due if self.end.is_some() => return self.on_ending_due(),
            InstanceWake::Due => self.on_running_due(host),
        }
        Turn::Stays
    }

    /// Tells the program to stop: SIGTERM to its group, SIGKILL after `grace`. Does not wait.
    pub(crate) fn stop(&mut self, grace: Duration) {
        if self.end.is_some() {
            return;
        }
        self.probe = None;
        self.signal(Signal::TERM);
        let deadline = Instant::now() + grace;
        self.end = Some(End { deadline, is_killed: false, group_check_at: None });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = self.process.signal(signal) {
            warn!(%error, pid = self.pid(), "cannot signal the program");
        }
    }

    fn on_leader_ended(&mut self, grace: Duration) -> Turn {
        let was_stopping = self.end.is_some();
        self.stop(grace);
        if let Some(end) = &mut self.end {
            end.group_check_at = Some(Instant::now());
        }
        if was_stopping { Turn::Stays } else { Turn::Crashed }
    }

    fn on_running_due<H: Host<Process = P>>(&mut self, host: &H) {
        let now = Instant::now();
        self.health.on_due(now);
        if self.probe.is_none()
            && let Some(probe) = self.health.due_probe(now)
        {
            let check = host.check(probe, &self.root, self.health.timeout());
            self.probe = Some(AbortOnDropHandle::new(tokio::spawn(check)));
        }
    }

    fn on_ending_due(&mut self) -> Turn {
        let now = Instant::now();
        let pid = self.pid();
        let Some(end) = &mut self.end else { return Turn::Stays };
        let is_gone = end.group_check_at.is_some()
            && !self.process.is_alive().unwrap_or_else(|error| {
                warn!(%error, "cannot tell whether the program's processes are gone");
                false
            });
        let is_given_up = end.is_killed && end.deadline <= now;
        if is_gone || is_given_up {
            if !is_gone {
                warn!(pid, "killed processes do not disappear; going on without them");
            }
            self.process.reap();
            return Turn::Gone;
        }
        if end.group_check_at.is_some() {
            end.group_check_at = Some(now + GROUP_CHECK);
        }
        if !end.is_killed && end.deadline <= now {
            warn!(pid, "the program did not stop within its grace period; killing it");
            end.is_killed = true;
            end.deadline = now + KILLED_WAIT_MAX;
            self.signal(Signal::KILL);
        }
        Turn::Stays
    }
}

async fn moment(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn answer(probe: &mut Option<RunningProbe>) -> Result<(), ProbeError> {
    let Some(running) = probe else { return std::future::pending().await };
    Ok(running.await.map_err(ProbeError::Interrupted)??)
}
