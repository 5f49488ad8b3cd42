//! What the app's row in the status table says: phase, figures and, in words, what is wrong or
//! waited for.
//!
//! Reads the loop's state and changes nothing. A row is for people and for tables: nothing is
//! decided by it.

use goal_state::{HostPhase, HostStatus, WaitReason, last_output};
use p2p_core::{BuildId, ByteRate};
use p2p_net::{Phase, Progress};

use super::{App, GoalView};
use crate::brain::model::{Gate, Permission, Program, Programs};
use crate::fleet::source::BuildSource;
use crate::fleet::tokens::{TokenDesk, TokenHold as _, TokenState};
use crate::host::Host;
use crate::state::app_dir::{FailedBuild, Journal, JournalPhase};

/// The app's row now.
pub(super) fn row<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>) -> HostStatus {
    let GoalView { followed, note, .. } = app.goal.borrow().clone();
    let target = app.wanted().map(|wanted| wanted.build);
    let is_good = |journal: &&Journal| {
        journal.phase == JournalPhase::Good
            && followed.as_ref().is_some_and(|goal| {
                (goal.generation, goal.build) == (journal.generation, journal.to)
            })
    };
    let served = target.filter(|_| app.download.is_none());
    let served = served.and_then(|build| app.source.progress(build));
    let progress = served.as_ref().unwrap_or(&app.progress.1);
    let limits = app.source.limits();
    let failed = quarantined(app);
    let (phase, waiting_for) = match phase(app, target, progress) {
        HostPhase::Running if pinned(app).is_some() => (HostPhase::Waiting, Some(WaitReason::Pin)),
        HostPhase::Running if is_restart_due(app) => match restart_waits(app) {
            Some((reason, _)) => (HostPhase::Waiting, Some(reason)),
            None => (HostPhase::Switching, None),
        },
        phase => (phase, waiting(app).map(|(reason, _)| reason)),
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
        links_quic: progress.links.quic,
        links_tcp: progress.links.tcp,
        elapsed_ms: app.journal.as_ref().filter(is_good).and_then(|good| good.elapsed_ms),
        message: message(app, target, note, progress),
        waiting_for,
        quarantined: failed.map(|failed| failed.build),
        failure: failed.map(|failed| failed.reason.clone()),
        last_output: failed.and_then(|failed| last_output(&failed.output)),
        restarts: app.supervisor.restart_counts().all(),
        healthy: app.supervisor.is_healthy(),
        updated_at_ms: app.supervisor.host().now_ms(),
        ..HostStatus::new(app.settings.host.clone(), app.settings.name.clone())
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

/// Why the switch to a build that is here has not begun, for programs and for people.
pub(super) fn waiting<S: BuildSource, H: Host, T: TokenDesk>(
    app: &App<S, H, T>,
) -> Option<(WaitReason, String)> {
    let wanted = app.wanted()?;
    if is_begun(app, wanted.build) || quarantined(app).is_some() {
        return None;
    }
    if let (_, Some((why, text))) = app.permission() {
        return Some((why, format!("the switch waits: {text}")));
    }
    match app.token.as_ref()?.state() {
        TokenState::Waiting { reason } => {
            Some((WaitReason::Token, format!("the switch waits for a token: {reason}")))
        }
        TokenState::Held => None,
    }
}

/// Whether the program that serves was started before the last order to restart, or with settings
/// that no longer hold.
fn is_restart_due<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>) -> bool {
    matches!(app.supervisor.programs().serving, Program::Running { is_fresh: false, .. })
}

/// Why a restart that is due has not begun. Waves are for builds only; restarts do not wait for
/// them.
fn restart_waits<S: BuildSource, H: Host, T: TokenDesk>(
    app: &App<S, H, T>,
) -> Option<(WaitReason, String)> {
    if !is_restart_due(app) {
        return None;
    }
    if let (Permission::Refused, Some((why, text))) = app.permission() {
        return Some((why, format!("the restart waits: {text}")));
    }
    match app.token.as_ref()?.state() {
        TokenState::Waiting { reason } => {
            Some((WaitReason::Token, format!("the restart waits for a token: {reason}")))
        }
        TokenState::Held => None,
    }
}

/// The build that the configuration pins the app to, if the goal is another.
fn pinned<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>) -> Option<BuildId> {
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
            (false, JournalPhase::RollingBack) if app.supervisor.last_crash().is_none() => {
                HostPhase::Switching
            }
            (false, _) => HostPhase::Failed,
        };
    }
    if is_begun(app, target) { phase_of_program(app, journal) } else { phase_before_switch(app) }
}

fn phase_before_switch<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>) -> HostPhase {
    if waiting(app).is_some() { HostPhase::Waiting } else { HostPhase::Switching }
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
        _ if app.supervisor.last_crash().is_some() => HostPhase::Failed,
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

fn message<S: BuildSource, H: Host, T: TokenDesk>(
    app: &App<S, H, T>,
    target: Option<BuildId>,
    note: Option<String>,
    progress: &Progress,
) -> Option<String> {
    let mut parts: Vec<String> = vec![];
    if target.is_none() && note.is_none() {
        let name = &app.settings.name;
        parts.push(format!(
            "no goal is set for {name}; set one with: shoal deploy {name} BUILD --goal URL"
        ));
    }
    parts.extend(note);
    parts.extend(app.damage.as_ref().map(|(_, message)| message.clone()));
    parts.extend(app.disk_trouble.message().map(String::from));
    parts.extend(app.download_trouble.message().map(String::from));
    parts.extend(app.host_trouble.message().map(String::from));
    parts.extend(quarantined(app).map(|failed| {
        let last = failed.output.lines().next_back();
        let output = last.map_or_else(String::new, |line| format!("; its last output: {line}"));
        let build = failed.build.short();
        let what = if app.current == Some(failed.build) {
            "failed here; its program is started again and again, because no build ran well here"
        } else {
            "failed here and is not tried again until another deploy"
        };
        format!("build {build} {what}: {}{output}", failed.reason)
    }));
    parts.extend(
        pinned(app).map(|pin| {
            format!("pinned to build {} by the configuration of this host", pin.short())
        }),
    );
    parts.extend(app.supervisor.message());
    parts.extend(app.supervisor.flood());
    parts.extend(app.hooks.note().map(String::from));
    if app.download.is_some() {
        parts.extend(progress.waiting_for.as_ref().map(ToString::to_string));
    } else {
        let waits = waiting(app).or_else(|| restart_waits(app));
        parts.extend(waits.map(|(_, text)| text));
    }
    parts.extend(
        progress
            .faults
            .last()
            .map(|fault| format!("{} peers banned, the last one: {fault}", progress.faults.len())),
    );
    (!parts.is_empty()).then(|| parts.join("; "))
}
