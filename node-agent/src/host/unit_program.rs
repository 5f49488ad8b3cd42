//! A systemd unit as the program of an app: systemd runs it, the agent says when.
//!
//! Invariant: a unit counts as up only while its main process runs from the build that was asked
//! for; a unit whose `ExecStart` points elsewhere is reported as such and never counts as good. The
//! agent is not the parent of its processes and signals none of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use command_line::causes;
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::host::Notice;
use crate::host::runs_from::runs_from;
use crate::host::unit::{Systemd, UnitState};
use crate::process::ProcessIdentity;

/// Looks in a row that have to find the unit's main process outside the build before that counts:
/// systemd names a process before that has become the program, and an interpreter takes a moment to
/// open its script.
const ELSEWHERE_LOOKS: u32 = 3;

/// Looks in a row that may fail before a unit counts as gone: systemd may be restarting itself.
const FAILED_LOOKS_MAX: u32 = 15;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct UnitProgram {
    systemd: Arc<Systemd>,
    unit: String,
    view: watch::Receiver<View>,
    identity: Option<ProcessIdentity>,
    was_ready_said: bool,
    _watching: AbortOnDropHandle<()>,
    stopping: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What is known of the unit.
#[derive(Clone, Debug, Eq, PartialEq)]
enum View {
    Starting,
    Up(ProcessIdentity),
    Ended(String),
}

/// Who looks after the unit.
struct Watcher {
    systemd: Arc<Systemd>,
    unit: String,
    root: PathBuf,
    view: watch::Sender<View>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("unit", &self.unit).finish_non_exhaustive()
    }
}

impl UnitProgram {
    /// Restarts `unit`, unless its main process runs from the build in `root` already: systemd may
    /// have started it again by itself, or at boot. Must be called within a tokio runtime.
    pub(crate) fn start(systemd: Arc<Systemd>, unit: &str, root: &Path) -> Self {
        Self::watching(systemd, unit, root, true)
    }

    /// Takes `unit` as it is.
    pub(crate) fn find(systemd: Arc<Systemd>, unit: &str, root: &Path) -> Self {
        Self::watching(systemd, unit, root, false)
    }

    fn watching(systemd: Arc<Systemd>, unit: &str, root: &Path, has_to_start: bool) -> Self {
        let (view, shown) = watch::channel(View::Starting);
        let watcher = Watcher {
            systemd: systemd.clone(),
            unit: unit.to_owned(),
            root: root.to_owned(),
            view,
        };
        let watching = AbortOnDropHandle::new(tokio::spawn(watcher.run(has_to_start)));
        Self {
            systemd,
            unit: unit.to_owned(),
            view: shown,
            identity: None,
            was_ready_said: false,
            _watching: watching,
            stopping: Mutex::default(),
        }
    }

    /// The unit's main process, once it is known.
    pub(crate) const fn identity(&self) -> Option<&ProcessIdentity> {
        self.identity.as_ref()
    }

    /// Cancel safe.
    pub(crate) async fn next_notice(&mut self) -> Notice {
        loop {
            let view = self.view.borrow_and_update().clone();
            match view {
                View::Up(identity) => self.identity = Some(identity),
                View::Ended(_) => return Notice::Ended,
                View::Starting => {}
            }
            if self.identity.is_some() && !self.was_ready_said {
                self.was_ready_said = true;
                return Notice::Ready;
            }
            if self.view.changed().await.is_err() {
                return Notice::Ended;
            }
        }
    }

    pub(crate) fn describe_end(&self) -> String {
        match &*self.view.borrow() {
            View::Ended(how) => how.clone(),
            View::Starting | View::Up(_) => format!("of unit {} ended", self.unit),
        }
    }

    /// SIGHUP lets the unit reload, any other signal stops it. One that counts as ended is left
    /// alone: systemd may have started it again, or it may run what somebody else wants.
    pub(crate) fn signal(&self, signal: Signal) {
        let mut stopping = self.stopping.lock();
        if signal != Signal::HUP && (stopping.is_some() || self.has_ended()) {
            return;
        }
        let (systemd, unit) = (self.systemd.clone(), self.unit.clone());
        let task = Handle::current().spawn(async move {
            let done = if signal == Signal::HUP {
                systemd.reload(&unit).await
            } else {
                systemd.stop(&unit).await
            };
            if let Err(error) = done {
                warn!("{}", causes(error));
            }
        });
        if signal != Signal::HUP {
            *stopping = Some(AbortOnDropHandle::new(task));
        }
    }

    /// Whether the unit may still have processes.
    pub(crate) fn is_alive(&self) -> bool {
        let stopping = self.stopping.lock();
        match &*stopping {
            Some(task) => !task.is_finished(),
            None => !self.has_ended(),
        }
    }

    fn has_ended(&self) -> bool {
        matches!(&*self.view.borrow(), View::Ended(_))
    }
}

impl Watcher {
    async fn run(self, has_to_start: bool) {
        let how = match self.follow(has_to_start).await {
            Ok(how) | Err(how) => how,
        };
        self.view.send_replace(View::Ended(how));
    }

    /// Returns how the unit ended.
    async fn follow(&self, has_to_start: bool) -> Result<String, String> {
        if has_to_start && !self.is_up().await {
            let restarted = self.systemd.restart(&self.unit).await;
            restarted.map_err(|error| format!("was not started: {}", causes(error)))?;
        }
        let (mut failed_looks, mut elsewhere_looks) = (0, 0);
        let mut restarts = None;
        loop {
            match self.systemd.state(&self.unit).await {
                Ok(state) => {
                    failed_looks = 0;
                    if let Some(how) = self.judge(&state, *restarts.get_or_insert(state.restarts)) {
                        return Ok(how);
                    }
                    match self.main_process_elsewhere(&state) {
                        Some(pid) if elsewhere_looks == ELSEWHERE_LOOKS => {
                            return Ok(self.describe_elsewhere(pid));
                        }
                        Some(_) => elsewhere_looks += 1,
                        None => elsewhere_looks = 0,
                    }
                }
                Err(error) => {
                    failed_looks += 1;
                    if failed_looks > FAILED_LOOKS_MAX {
                        return Err(format!("is lost: {}", causes(error)));
                    }
                }
            }
            sleep(self.systemd.look_interval()).await;
        }
    }

    /// Whether the unit serves from the build.
    async fn is_up(&self) -> bool {
        let Ok(state) = self.systemd.state(&self.unit).await else { return false };
        let pid = state.main_pid.filter(|_| state.active == "active");
        pid.is_some_and(|pid| runs_from(pid, &self.root))
    }

    /// Shows that the unit is up, if it is; returns how it ended, if it did.
    fn judge(&self, state: &UnitState, restarts: u32) -> Option<String> {
        let unit = &self.unit;
        if state.restarts > restarts {
            return Some(format!("of unit {unit} ended ({}); systemd restarts it", state.result));
        }
        // With a long `RestartSec` it stays down for as long as that.
        if state.sub == "auto-restart" {
            return Some(format!("of unit {unit} ended ({})", state.result));
        }
        if matches!(state.active.as_str(), "failed" | "inactive" | "deactivating") {
            return Some(format!("of unit {unit} is {} ({})", state.active, state.result));
        }
        let pid = state.main_pid.filter(|_| state.active == "active")?;
        if self.is_known(pid) || !runs_from(pid, &self.root) {
            return None;
        }
        // It may have ended since: the next look shows that.
        let identity = ProcessIdentity::of(pid).ok()?;
        self.view.send_replace(View::Up(identity));
        None
    }

    fn is_known(&self, pid: u32) -> bool {
        matches!(&*self.view.borrow(), View::Up(identity) if identity.pid == pid)
    }

    /// The unit's main process, if it is not one of the build.
    fn main_process_elsewhere(&self, state: &UnitState) -> Option<u32> {
        let pid = state.main_pid.filter(|_| state.active == "active")?;
        (!self.is_known(pid)).then_some(pid)
    }

    fn describe_elsewhere(&self, pid: u32) -> String {
        format!(
            "of unit {} runs as process {pid}, but not from this build; let its ExecStart= point \
             into the app's `current`",
            self.unit
        )
    }
}
