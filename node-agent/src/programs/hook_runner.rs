//! The hooks of one app: which one runs, which have run for the switch under way, and what failed.
//!
//! Invariant: one hook runs at a time, and what a hook does cannot hold up the loop. `reconcile`
//! decides what a failure leads to, from [`HookRunner::view`] and [`HookRunner::failed`].

use std::collections::BTreeSet;

use p2p_core::BuildId;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::brain::model::{Drained, HookKind, HookView};
use crate::host::Host;
use crate::host::hook::{Hook, HookFailure, HookOrder, Hooks};

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct HookRunner {
    running: Option<RunningHook>,
    done: BTreeSet<(HookKind, BuildId)>,
    drained: Drained,
    failed: Option<(BuildId, String)>,
    /// A failure that changes nothing and is only shown, until the next switch.
    note: Option<String>,
}

#[derive(Debug)]
struct RunningHook {
    kind: HookKind,
    build: BuildId,
    task: AbortOnDropHandle<Result<(), HookFailure>>,
}

/// Why a hook did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error(transparent)]
    Failed(#[from] HookFailure),
    #[error("it was not run to its end: {0}")]
    Interrupted(#[source] JoinError),
}

impl HookKind {
    /// The hook's name in the configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BeforeSwitch => "before_switch",
            Self::AfterSwitch => "after_switch",
            Self::AfterRollback => "after_rollback",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
        }
    }

    /// Whether a failure of it fails the build.
    const fn is_decisive(self) -> bool {
        matches!(self, Self::BeforeSwitch | Self::AfterSwitch)
    }
}

impl Hooks {
    /// The hook of a kind, if it is configured.
    pub(crate) const fn of(&self, kind: HookKind) -> Option<&Hook> {
        match kind {
            HookKind::BeforeSwitch => self.before_switch.as_ref(),
            HookKind::AfterSwitch => self.after_switch.as_ref(),
            HookKind::AfterRollback => self.after_rollback.as_ref(),
            HookKind::Drain => self.drain.as_ref(),
            HookKind::Undrain => self.undrain.as_ref(),
        }
    }

    /// The kinds that are configured.
    pub(crate) fn kinds(&self) -> BTreeSet<HookKind> {
        use HookKind::{AfterRollback, AfterSwitch, BeforeSwitch, Drain, Undrain};
        let all = [BeforeSwitch, AfterSwitch, AfterRollback, Drain, Undrain];
        all.into_iter().filter(|kind| self.of(*kind).is_some()).collect()
    }
}

impl HookRunner {
    pub(crate) fn view(&self) -> HookView {
        let running = self.running.as_ref().map(|running| (running.kind, running.build));
        let failed = self.failed.as_ref().map(|(build, _)| *build);
        HookView { running, done: self.done.clone(), failed, drained: self.drained }
    }

    /// The build whose hook failed, and how, until [`Self::on_switch_over`].
    pub(crate) fn failed(&self) -> Option<(BuildId, &str)> {
        self.failed.as_ref().map(|(build, reason)| (*build, reason.as_str()))
    }

    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Starts a hook. Must be called within a tokio runtime.
    pub(crate) fn start<H: Host>(
        &mut self,
        host: &H,
        kind: HookKind,
        build: BuildId,
        order: HookOrder,
    ) {
        info!(hook = kind.name(), build = build.short(), "running a hook");
        match kind {
            HookKind::Drain => self.may_be_drained(HookKind::Undrain),
            HookKind::Undrain => self.may_be_drained(HookKind::Drain),
            HookKind::BeforeSwitch | HookKind::AfterSwitch | HookKind::AfterRollback => {}
        }
        let task = AbortOnDropHandle::new(tokio::spawn(host.run_hook(order)));
        self.running = Some(RunningHook { kind, build, task });
    }

    /// The hook cannot be run; it counts as run.
    pub(crate) fn skip(&mut self, kind: HookKind, build: BuildId) {
        warn!(
            hook = kind.name(),
            build = build.short(),
            "hook skipped: it is not configured any more"
        );
        self.done.insert((kind, build));
    }

    /// Ends the hook that runs; it counts as never run.
    pub(crate) fn cancel(&mut self) {
        if let Some(running) = self.running.take() {
            warn!(hook = running.kind.name(), "hook ended: its switch is not wanted any more");
        }
    }

    /// Ends the hook that runs and waits until it is gone: the agent that follows runs it again.
    pub(crate) async fn leave(&mut self) {
        let Some(RunningHook { kind, mut task, .. }) = self.running.take() else { return };
        warn!(
            hook = kind.name(),
            "hook ended: the agent is replaced, and the next one runs it again"
        );
        task.abort();
        // Its end, whichever it is.
        drop((&mut task).await);
    }

    /// Fails `build` for a reason other than a hook.
    pub(crate) fn fail(&mut self, build: BuildId, reason: String) {
        self.failed.get_or_insert((build, reason));
    }

    /// Waits for the end of the hook that runs. Cancel safe.
    pub(crate) async fn next_end(&mut self) -> Result<(), HookError> {
        match &mut self.running {
            Some(running) => (&mut running.task)
                .await
                .map_err(HookError::Interrupted)
                .and_then(|ended| ended.map_err(HookError::from)),
            None => std::future::pending().await,
        }
    }

    /// Takes in the end of the hook that ran.
    pub(crate) fn on_ended(&mut self, result: Result<(), HookError>) {
        let Some(RunningHook { kind, build, .. }) = self.running.take() else { return };
        self.done.insert((kind, build));
        match kind {
            HookKind::Drain => self.drained = Drained::Yes,
            HookKind::Undrain => self.drained = Drained::No,
            HookKind::BeforeSwitch | HookKind::AfterSwitch | HookKind::AfterRollback => {}
        }
        if let Err(error) = result {
            let reason = format!("hook {}: {error}", kind.name());
            warn!(build = build.short(), "{reason}");
            if kind.is_decisive() {
                self.failed = Some((build, reason));
            } else {
                self.note = Some(reason);
            }
        }
    }

    /// Forgets that hooks of `kind` have run: they are due again.
    fn forget(&mut self, kind: HookKind) {
        self.done.retain(|(done, _)| *done != kind);
    }

    /// The host may be back in its load balancer without a hook.
    pub(crate) fn on_drain_over(&mut self) {
        self.may_be_drained(HookKind::Drain);
    }

    /// Something begins, such as a hook, that takes the host out of its load balancer or back. From
    /// now on the hook of the `opposite` kind is due again, even if this one is ended early.
    fn may_be_drained(&mut self, opposite: HookKind) {
        self.drained = Drained::Unknown;
        self.forget(opposite);
    }

    /// A switch is over, well or not.
    pub(crate) fn on_switch_over(&mut self) {
        self.failed = None;
        for kind in [HookKind::BeforeSwitch, HookKind::AfterSwitch, HookKind::AfterRollback] {
            self.forget(kind);
        }
    }

    /// A switch begins.
    pub(crate) fn on_switch_begun(&mut self) {
        self.note = None;
    }
}
