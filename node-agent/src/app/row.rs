//! What the app's row in the status table says: phase, figures and, in words, what is wrong or
//! waited for.
//!
//! Reads the loop's state and changes nothing. A row is for people and for tables: nothing is
//! decided by it.

use goal_state::{HostPhase, HostStatus, WaitReason, last_output};
use p2p_core::{BuildId, ByteRate};
use p2p_net::{Phase, Progress};

use super::{App, facts};
use crate::brain::model::{Gate, Program, Programs};
use crate::brain::troubles::Waits;
use crate::fleet::source::BuildSource;
use crate::fleet::tokens::{TokenDesk, TokenHold as _, TokenState};
use crate::host::Host;
use crate::state::app_dir::{FailedBuild, Journal, JournalPhase};

/// The app's row now.
pub(super) fn row<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>) -> HostStatus {
    let followed = app.goal.borrow().followed.clone();
    let target = app.wanted().map(|wanted| wanted.build);
    let is_good = |journal: &&Journal| {
        journal.phase == JournalPhase::Good
            && followed.as_ref().is_some_and(|goal| {
                (goal.generation, goal.build) == (journal.generation, journal.to)
            })
    };
    let served = target.filter(|_| app.download.is_none());
    let served = served.and_then(|build| app.source.progress(build));
    let progress = &progress_of(app, target, served);
    let limits = app.source.limits();
    let failed = quarantined(app);
    let (phase, waiting_for) = match phase(app, target, progress) {
        HostPhase::Running if pinned(app).is_some() => (HostPhase::Waiting, Some(WaitReason::Pin)),
        HostPhase::Running if is_restart_due(app) => match waits(app).reason() {
            Some(reason) => (HostPhase::Waiting, Some(reason)),
            None => (HostPhase::Switching, None),
        },
        phase => (phase, switch_waits_for(app)),
    };
    HostStatus {
        generation: followed.as_ref().map(|goal| goal.generation),
        target,
        current: app.current,
        phase,
        pid: app.supervisor.pid(),
        bytes_total: progress.bytes_total,
        bytes_done: progress.bytes_done,
        bytes_resumed: progress.bytes_resumed,
        bytes_reused: progress.bytes_reused,
        bytes_from_seeders: progress.bytes_from_seeders,
        bytes_from_peers: progress.bytes_from_peers,
        bytes_served: progress.bytes_served,
        upload_limit: limits.upload.map(ByteRate::get),
        download_limit: limits.download.map(ByteRate::get),
        download_rate: app.download_rate(),
        links_quic: progress.links.quic,
        links_tcp: progress.links.tcp,
        elapsed_ms: app.journal.as_ref().filter(is_good).and_then(|good| good.elapsed_ms),
        waiting_for,
        quarantined: failed.map(|failed| failed.build),
        failure: failed.map(|failed| failed.reason.clone()),
        last_output: failed.and_then(|failed| last_output(&failed.output)),
        restarts: app.supervisor.restarts(),
        healthy: app.supervisor.is_healthy_as_told(),
        updated_at_ms: app.supervisor.host().now_ms(),
        ..HostStatus::new(app.settings.host.clone(), app.settings.name.clone())
    }
    .with_troubles(&facts::troubles(app))
}

/// The figures of `target`: of its download, if that is the last one of this app, with what was
/// served since. A build that was kept from before says nothing of downloads: they were for another
/// goal, or of another build.
fn progress_of<S: BuildSource, H: Host, T: TokenDesk>(
    app: &App<S, H, T>,
    target: Option<BuildId>,
    served: Option<Progress>,
) -> Progress {
    let (build, downloaded) = &app.progress;
    let is_of_target = target.is_some() && *build == target;
    match served {
        Some(served) if is_of_target => served,
        Some(mut kept) => {
            kept.bytes_resumed = 0;
            kept.bytes_reused = 0;
            kept.bytes_from_seeders = 0;
            kept.bytes_from_peers = 0;
            kept
        }
        None if is_of_target => downloaded.clone(),
        None => Progress::default(),
    }
}

/// The failure of the build that the goal asks for, if it failed here.
pub(super) fn quarantined<S: BuildSource, H: Host, T: TokenDesk>(
    app: &App<S, H, T>,
) -> Option<&FailedBuild> {
    let wanted = app.wanted()?;
    app.journal.as_ref()?.quarantine_of(wanted.build, wanted.asked_by)
}

/// Whether the switch to `build` has begun, or is over.
fn is_begun<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>, build: BuildId) -> bool {
    let journal = app.journal.as_ref();
    journal.is_some_and(|journal| journal.to == build && journal.failure_of(build).is_none())
}

/// What keeps a switch or a restart that is due from its beginning.
pub(super) fn waits<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>) -> Waits {
    let is_switch = is_switch_due(app);
    let what = match (is_switch, is_restart_due(app)) {
        (true, _) => "switch",
        (false, true) => "restart",
        (false, false) => return Waits::default(),
    };
    let token = match app.token.as_ref().map(T::Hold::state) {
        Some(TokenState::Waiting { reason }) => Some(reason),
        Some(TokenState::Held) | None => None,
    };
    Waits {
        what: Some(what),
        paused: app.paused.as_ref().map(|paused| paused.reason.clone().unwrap_or_default()),
        is_held: app.settings.app.hold,
        // Waves are for builds only; restarts do not wait for them.
        not_yet: is_switch.then(|| app.not_yet()).flatten(),
        token,
    }
}

/// Whether the app is to switch to another build and has not begun to.
fn is_switch_due<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>) -> bool {
    let Some(wanted) = app.wanted() else { return false };
    !is_begun(app, wanted.build) && quarantined(app).is_none()
}

/// Whether the program that serves was started before the last order to restart, or with settings
/// that no longer hold.
fn is_restart_due<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>) -> bool {
    matches!(app.supervisor.programs().serving, Program::Running { is_fresh: false, .. })
}

/// The build that the configuration pins the app to, if the goal is another.
pub(super) fn pinned<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>) -> Option<BuildId> {
    let pin = app.settings.app.pin?;
    let goal = app.goal.borrow();
    goal.followed.as_ref().is_some_and(|goal| goal.build != pin).then_some(pin)
}

fn phase<S: BuildSource, H: Host, T: TokenDesk>(
    app: &App<S, H, T>,
    target: Option<BuildId>,
    progress: &Progress,
) -> HostPhase {
    let Some(target) = target else { return HostPhase::NoGoal };
    if app.download.is_some() {
        return match progress.phase {
            Phase::Locating => HostPhase::Locating,
            Phase::Verifying | Phase::Serving => HostPhase::Verifying,
            _ => HostPhase::Downloading,
        };
    }
    if app.disk_trouble.last().is_some()
        || app.download_trouble.last().is_some()
        || app.host_trouble.last().is_some()
    {
        return HostPhase::Failed;
    }
    let Some(journal) = &app.journal else { return phase_before_switch(app) };
    if quarantined(app).is_some() {
        // Without a build that ran well there is nothing to go back to.
        let is_back = journal.to != target && journal.phase == JournalPhase::Good;
        return match (is_back, journal.phase) {
            (true, _) => HostPhase::RolledBack,
            (false, JournalPhase::RollingBack)
                if app.supervisor.last_crash(journal.to).is_none() =>
            {
                HostPhase::Switching
            }
            (false, _) => HostPhase::Failed,
        };
    }
    if is_begun(app, target) { phase_of_program(app, journal) } else { phase_before_switch(app) }
}

fn phase_before_switch<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>) -> HostPhase {
    if switch_waits_for(app).is_some() { HostPhase::Waiting } else { HostPhase::Switching }
}

fn switch_waits_for<S: BuildSource, H: Host, T: TokenDesk>(
    app: &App<S, H, T>,
) -> Option<WaitReason> {
    is_switch_due(app).then(|| waits(app).reason()).flatten()
}

/// The phase of an app whose `current` is, or is about to be, the goal's build.
fn phase_of_program<S: BuildSource, H: Host, T: TokenDesk>(
    app: &App<S, H, T>,
    journal: &Journal,
) -> HostPhase {
    let runs = |program| match program {
        Program::Running { build, gate, .. } if build == journal.to => Some(gate),
        _ => None,
    };
    let Programs { serving, candidate, .. } = app.supervisor.programs();
    let is_good = journal.phase == JournalPhase::Good;
    if app.current != Some(journal.to) {
        return HostPhase::Switching;
    }
    if !app.settings.app.has_program() {
        return if is_good { HostPhase::Running } else { HostPhase::Switching };
    }
    match (runs(serving), runs(candidate)) {
        (Some(gate), _) if is_good && gate >= Gate::Ready => match app.supervisor.is_healthy() {
            Some(false) => HostPhase::Failed,
            _ => HostPhase::Running,
        },
        // It is started again or rolled back without anybody's help.
        _ if is_on_trial(journal) => HostPhase::Checking,
        // A program that ends again and again is not on probation, whatever it does just now.
        _ if app.supervisor.last_crash(journal.to).is_some() => HostPhase::Failed,
        (Some(_), _) | (_, Some(_)) => HostPhase::Checking,
        (None, None) => HostPhase::Switching,
    }
}

/// Whether the build has starts left and there is another to go back to.
fn is_on_trial(journal: &Journal) -> bool {
    journal.phase == JournalPhase::Switching
        && journal.tries_left > 0
        && journal.good.iter().any(|build| *build != journal.to)
}
