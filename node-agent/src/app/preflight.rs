//! Looks at a build that this host may switch to before anything of the old one is touched: a build
//! that cannot start is given up without an outage.
//!
//! Invariant: what the build itself lacks fails the build, as a failed hook before the switch does;
//! what the host lacks only postpones the switch, and is looked at again. `reconcile` decides both
//! from `Actual`; nothing is decided here.

use p2p_core::BuildId;

use crate::app::App;
use crate::brain::model::Wanted;
use crate::brain::reconcile;
use crate::fleet::source::BuildSource;
use crate::fleet::tokens::TokenDesk;
use crate::host::Host;
use crate::host::preflight::Preflight;

/// What came of looking at a build.
#[derive(Debug)]
pub(super) struct Looked {
    /// The build.
    pub build: BuildId,
    /// What it lacks to start; `None` if nothing was found.
    pub lacks: Option<String>,
}

#[expect(clippy::multiple_inherent_impl, reason = "the loop is cut by concern")]
impl<S: BuildSource, H: Host, T: TokenDesk> App<S, H, T> {
    /// Looks at the build that would be switched to now, once.
    pub(super) fn look_at_due_build(&mut self, wanted: Option<&Wanted>) {
        let due = reconcile::permitted_switch(wanted, &self.actual(), &self.policy());
        let Some(build) = due else { return self.forget_look() };
        if self.looked.as_ref().is_some_and(|looked| looked.build == build)
            || self.host_trouble.resting() == Some(&build)
        {
            return;
        }
        let launch = self.settings.program().launch;
        let app = &self.settings.app;
        let looked = self.supervisor.host().preflight(&Preflight {
            app: &self.directory,
            launch: launch.as_ref(),
            hooks: &app.hooks,
            probe: app.health.probe.as_ref(),
            build,
            root: self.builds[&build].root(),
        });
        match looked {
            Err(fault) if !fault.is_of_build => {
                let text = format!("cannot switch to build {}: {fault}", build.short());
                self.host_trouble.note(build, &text);
            }
            looked => {
                self.host_trouble.clear();
                self.looked = Some(Looked { build, lacks: looked.err().map(|it| self.told(&it)) });
            }
        }
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

    fn told(&self, fault: &impl std::fmt::Display) -> String {
        match self.supervisor.pid() {
            Some(_) => format!("{fault}; the old program was not touched"),
            None => fault.to_string(),
        }
    }
}
