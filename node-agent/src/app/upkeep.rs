//! What the loop of an app looks after without being prompted from outside: `current`, the files of
//! the builds.
//!
//! Invariant: what somebody changed by hand is repaired, or treated as missing and reported; the
//! running program is not stopped for it.

use command_line::causes;
use p2p_core::BuildId;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use super::App;
use super::step_error::StepError;
use crate::fleet::source::BuildSource;
use crate::fleet::tokens::TokenDesk;
use crate::host::Host;

#[expect(clippy::multiple_inherent_impl, reason = "the loop is cut by concern")]
impl<S: BuildSource, H: Host, T: TokenDesk> App<S, H, T> {
    pub(super) fn on_refresh(&mut self) {
        let now = Instant::now();
        self.refresh_at = now + self.settings.timings.refresh;
        self.keep_current();
        if self.audit_at <= now && self.audit.is_none() {
            self.audit_at = now + self.settings.timings.audit;
            self.start_audit();
        }
    }

    /// A write whose last sync failed may still have changed the file. What is there now counts, as
    /// it would for the next agent; the next write that succeeds makes it durable.
    pub(super) fn look_again(&mut self) {
        if let Ok(Some(journal)) = self.directory.journal() {
            self.journal = Some(journal);
        }
        if let Ok(Some(current)) = self.directory.current()
            && self.builds.contains_key(&current)
        {
            self.current = Some(current);
        }
    }

    /// Repairs `current` after a person removed or changed it: programs and people look there.
    pub(super) fn keep_current(&mut self) {
        let Some(stored) = self.current.and_then(|build| self.builds.get(&build)) else { return };
        if self.directory.current().is_ok_and(|found| found == self.current) {
            return;
        }
        let path = self.directory.path().join("current");
        match self.directory.set_current(stored.root()) {
            Ok(()) => warn!("{} was changed by somebody else; set it again", path.display()),
            Err(error) => self.disk_trouble.note((), &causes(error)),
        }
    }

    pub(super) fn start_audit(&mut self) {
        let Some((build, stored)) =
            self.current.and_then(|build| Some((build, self.builds.get(&build)?.clone())))
        else {
            return;
        };
        let audit = tokio::task::spawn_blocking(move || stored.audit().err().map(causes));
        self.audit = Some((build, audit));
    }

    /// Looks over a build that is about to be switched to. Returns whether it may be used; if not,
    /// it counts as missing from now on.
    pub(super) fn check_before_use(&mut self, build: BuildId) -> Result<bool, StepError> {
        let Err(damage) = self.builds[&build].audit() else { return Ok(true) };
        if self.removal.is_some() {
            // One removal at a time; the build is not switched to meanwhile.
            return Err(StepError::Damaged { build, source: Box::new(damage) });
        }
        self.set_aside(build, &causes(damage));
        Ok(false)
    }

    pub(super) fn on_audited(&mut self, build: BuildId, damage: Option<String>) {
        self.audit = None;
        // During a removal it is left for the next audit to find again.
        let is_here = self.builds.contains_key(&build) && self.removal.is_none();
        if let Some(damage) = damage.filter(|_| is_here) {
            self.set_aside(build, &damage);
        }
    }

    /// Treats a build as missing because somebody changed its files; it is fetched again if the
    /// goal asks for it. Its program runs on, and is replaced once the files are right.
    pub(super) fn set_aside(&mut self, build: BuildId, damage: &str) {
        let message = format!(
            "build {} is damaged on this host and not used until it is fetched again: {damage}",
            build.short()
        );
        self.damage = Some((build, message));
        self.staged.insert(build);
        let store = self.store.clone();
        self.start_leaving(build, move || store.distrust(build));
    }
}

/// Waits for the audit of a build's files; returns the build and the damage that was found.
pub(super) async fn audit_end(
    audit: &mut Option<(BuildId, JoinHandle<Option<String>>)>,
) -> (BuildId, Option<String>) {
    let Some((build, audit)) = audit else { return std::future::pending().await };
    let build = *build;
    match audit.await {
        Ok(damage) => (build, damage),
        // The next audit finds it.
        Err(_ended) => (build, None),
    }
}
