//! What the agent reports to a service manager: that it is ready, how it is doing, and that it is
//! alive.
//!
//! Invariant: the watchdog is pinged only while every loop that has registered makes progress, so
//! that an agent that hangs is restarted; its programs run on and are taken over. Without a service
//! manager all of this does nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use goal_state::HostStatus;
use parking_lot::Mutex;
use sd_notify::NotifyState;
use tokio::time::{Instant, sleep};
use tracing::{debug, error};

use crate::report::status::StatusBoard;

/// A loop that did not report in for this long hangs. Loops report several times a minute.
pub(crate) const OVERDUE_AFTER: Duration = Duration::from_mins(1);

/// Pings per watchdog interval: one may be lost or late.
const PINGS_PER_INTERVAL: u32 = 3;

/// The loops that have to report in. Cheap to clone; clones are the same registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heartbeat {
    beats: Arc<Mutex<BTreeMap<String, Instant>>>,
}

/// One loop's place in a [`Heartbeat`]. Dropped, nobody waits for the loop any more.
#[derive(Debug)]
pub(crate) struct Pulse {
    name: String,
    heartbeat: Heartbeat,
}

impl Heartbeat {
    /// Registers a loop, which counts as having reported in now. One of the same name is replaced.
    pub(crate) fn register(&self, name: &str) -> Pulse {
        let pulse = Pulse { name: name.into(), heartbeat: self.clone() };
        pulse.beat();
        pulse
    }

    /// Loops that did not report in for longer than [`OVERDUE_AFTER`], in order.
    pub(crate) fn overdue(&self) -> Vec<String> {
        let now = Instant::now();
        let beats = self.beats.lock();
        let late = beats.iter().filter(|(_, beat)| now.duration_since(**beat) > OVERDUE_AFTER);
        late.map(|(name, _)| name.clone()).collect()
    }
}

impl Pulse {
    /// Reports in.
    pub(crate) fn beat(&self) {
        let mut beats = self.heartbeat.beats.lock();
        beats.insert(self.name.clone(), Instant::now());
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        let mut beats = self.heartbeat.beats.lock();
        beats.remove(&self.name);
    }
}

/// Pings the watchdog while all loops of `heartbeat` report in. Does not end; dropped, it stops.
pub(crate) async fn feed_watchdog(heartbeat: Heartbeat) {
    // Set by systemd from WatchdogSec.
    let Some(interval) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut was_late = false;
    loop {
        let late = heartbeat.overdue();
        if late.is_empty() {
            say(&[NotifyState::Watchdog]);
        } else if !was_late {
            error!(
                "no progress in {}; the service manager restarts the agent if it stays so",
                late.join(", ")
            );
        }
        was_late = !late.is_empty();
        sleep(interval / PINGS_PER_INTERVAL).await;
    }
}

/// The agent serves.
pub(crate) fn say_ready() {
    say(&[NotifyState::Ready]);
}

/// The agent reads its configuration again; [`say_ready`] ends it.
pub(crate) fn say_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "no monotonic clock"),
    }
}

/// The agent stops its programs.
pub(crate) fn say_stopping() {
    say(&[NotifyState::Stopping]);
}

/// Keeps the line in `systemctl status` up to date. Does not end; dropped, it stops.
pub(crate) async fn show_status(board: StatusBoard) {
    let mut rows = board.subscribe();
    let mut shown = String::new();
    loop {
        let line = status_line(rows.borrow_and_update().values());
        if line != shown {
            say(&[NotifyState::Status(&line)]);
            shown = line;
        }
        if rows.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What each app does, by name, and what it runs.
fn status_line<'a>(rows: impl Iterator<Item = &'a HostStatus>) -> String {
    let apps = rows.map(|row| match row.current {
        Some(build) => format!("{}: {} (build {})", row.app, row.phase, build.short()),
        None => format!("{}: {}", row.app, row.phase),
    });
    apps.collect::<Vec<_>>().join("; ")
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager was not told");
    }
}

#[cfg(test)]
mod tests {
    use goal_state::HostPhase;
    use p2p_core::BuildId;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn loop_that_hangs_is_named_until_it_reports_in_or_ends() {
        let heartbeat = Heartbeat::default();
        let (web, models) = (heartbeat.register("web"), heartbeat.register("models"));
        tokio::time::advance(OVERDUE_AFTER).await;
        assert!(heartbeat.overdue().is_empty());
        web.beat();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(heartbeat.overdue(), ["models"]);
        models.beat();
        assert!(heartbeat.overdue().is_empty());
        tokio::time::advance(OVERDUE_AFTER * 2).await;
        drop(models);
        assert_eq!(heartbeat.overdue(), ["web"]);
    }

    #[test]
    fn line_names_each_app_with_what_it_does() {
        let row = |app: &str| HostStatus::new("h1", app.parse().unwrap());
        let build = BuildId::of_manifest(b"");
        let web = HostStatus { phase: HostPhase::Running, current: Some(build), ..row("web") };
        let expected = format!("models: no-goal; web: running (build {})", build.short());
        assert_eq!(status_line([row("models"), web].iter()), expected);
        assert_eq!(status_line([].iter()), "");
    }
}
