//! Looks at a build that this host may switch to before anything of the old one is touched: a build
//! that cannot start is given up without an outage.
//!
//! Invariant: what the build itself lacks fails the build, as a failed hook before the switch does;
//! what the host lacks only postpones the switch, and is looked at again. `reconcile` decides both
//! from `Actual`; nothing is decided here.

use command_line::causes;
use p2p_core::BuildId;

use crate::app::App;
use crate::brain::model::{HookKind, Wanted};
use crate::brain::reconcile;
use crate::fleet::source::BuildSource;
use crate::fleet::tokens::TokenDesk;
use crate::host::Host;
use crate::host::preflight::{CannotStart, Preflight};

/// What came of looking at a build.
#[derive(Debug)]
pub(super) struct Looked {
    build: BuildId,
    /// Whether its hook before the switch had run, which may bring what it needs.
    is_prepared: bool,
    /// What it lacks to start; `None` if nothing was found.
    lacks: Option<String>,
}

#[expect(clippy::multiple_inherent_impl, reason = "the loop is cut by concern")]
impl<S: BuildSource, H: Host, T: TokenDesk> App<S, H, T> {
    /// Looks at the build that would be switched to now: once, and once more after the hook before
    /// the switch.
    pub(super) fn look_at_due_build(&mut self, wanted: Option<&Wanted>) {
        let due = reconcile::permitted_switch(wanted, &self.actual(), &self.policy());
        let Some(build) = due else { return self.forget_look() };
        let is_prepared = self.settings.app.hooks.before_switch.is_none()
            || self.hooks.view().done.contains(&(HookKind::BeforeSwitch, build));
        let is_done = self
            .looked
            .as_ref()
            .is_some_and(|looked| (looked.build, looked.is_prepared) == (build, is_prepared));
        if is_done || self.host_trouble.resting() == Some(&build) {
            return;
        }
        let lacks = match self.look_at(build, is_prepared) {
            Ok(()) => None,
            Err(fault) if !fault.is_of_build => {
                let text = format!("cannot switch to build {}: {fault}", build.short());
                return self.host_trouble.note(build, &text);
            }
            Err(fault) => match self.check_before_use(build) {
                Ok(true) => Some(self.told(&fault)),
                // It is not the build that lacks something: its files were changed here.
                Ok(false) => return self.forget_look(),
                Err(error) => return self.host_trouble.note(build, &causes(error)),
            },
        };
        self.host_trouble.clear();
        self.looked = Some(Looked { build, is_prepared, lacks });
    }

    fn look_at(&self, build: BuildId, is_prepared: bool) -> Result<(), CannotStart> {
        let launch = self.settings.program().launch;
        let app = &self.settings.app;
        self.supervisor.host().preflight(&Preflight {
            app: &self.directory,
            launch: launch.as_ref(),
            hooks: &app.hooks,
            is_prepared,
            probe: app.health.probe.as_ref(),
            build,
            root: self.builds[&build].root(),
        })
    }

    /// What was found is not about the build or the settings of now.
    pub(super) fn forget_look(&mut self) {
        self.looked = None;
        self.host_trouble.clear();
    }

    /// The build that lacks something to start, and what.
    pub(super) fn unstartable(&self) -> Option<(BuildId, &str)> {
        let looked = self.looked.as_ref()?;
        Some((looked.build, looked.lacks.as_deref()?))
    }

    fn told(&self, fault: &CannotStart) -> String {
        match self.supervisor.pid() {
            Some(_) => format!("{fault}; the old program was not touched"),
            None => fault.to_string(),
        }
    }
}
