//! What the loop knows, written down for a person who asks why the host is where it is.
//!
//! Reads the loop's state and changes nothing; conclusions are drawn in `explain`.

use super::{App, row};
use crate::brain::explain::{
    CheckFacts, DownloadFacts, Explanation, GoalFacts, ProgramFacts, Quarantine, milliseconds,
};
use crate::brain::model::Permission;
use crate::fleet::source::BuildSource;
use crate::fleet::tokens::{TokenDesk, TokenHold, TokenState};
use crate::host::Host;
use crate::state::app_dir::JournalPhase;

/// Everything that is known of the app now.
pub(super) fn explanation<S: BuildSource, H: Host, T: TokenDesk>(
    app: &App<S, H, T>,
) -> Explanation {
    let row = row::row(app);
    let settings = &app.settings;
    let goal = app.goal.borrow().followed.clone();
    let (permission, why_not) = app.permission();
    let token = match app.token.as_ref().map(TokenHold::state) {
        Some(TokenState::Waiting { reason }) => Some(reason),
        Some(TokenState::Held) | None => None,
    };
    let is_checking = row::quarantined(app).is_none()
        && app.journal.as_ref().is_some_and(|journal| journal.phase != JournalPhase::Good);
    let quarantine = row::quarantined(app).map(|failed| Quarantine {
        build: failed.build,
        since_ms: failed.at_ms,
        reason: failed.reason.clone(),
        output: failed.output.clone(),
    });
    let errors =
        [app.disk_trouble.message(), app.download_trouble.message(), app.host_trouble.message()];
    let last_error = errors.into_iter().flatten().next().map(String::from);
    let waits = [
        app.disk_trouble.next_try_in(),
        app.download_trouble.next_try_in(),
        app.host_trouble.next_try_in(),
    ];
    let next_try = waits.into_iter().flatten().chain(app.supervisor.next_start_in()).min();
    Explanation {
        at_ms: row.updated_at_ms,
        phase: row.phase,
        goal: goal.map(|goal| GoalFacts {
            generation: goal.generation,
            build: goal.build,
            since_ms: goal.accepted_at_ms,
        }),
        current: app.current,
        not_yet: why_not.filter(|_| permission != Permission::Refused).map(|(_, text)| text),
        is_held: settings.app.hold,
        paused: app.paused.clone(),
        pin: settings.app.pin,
        token,
        quarantine,
        download: app.download.as_ref().map(|_| DownloadFacts {
            done: row.bytes_done,
            total: row.bytes_total,
            unchanged_for_ms: milliseconds(app.progress_since.elapsed()),
            waiting_for: app.progress.1.waiting_for.as_ref().map(ToString::to_string),
        }),
        checking: is_checking.then(|| app.supervisor.check_facts()).flatten().map(|check| {
            CheckFacts {
                healthy_for_ms: milliseconds(check.healthy_for),
                min_healthy_ms: milliseconds(settings.app.health.min_healthy_time),
                deadline_in_ms: milliseconds(check.deadline_in),
                last_failure: check.last_failure,
            }
        }),
        last_error: last_error.or_else(|| app.supervisor.message()),
        // A download that runs may find room by now.
        disk_short_bytes: (app.download.is_none())
            .then(|| app.download_trouble.disk_short_bytes())
            .flatten(),
        next_try_in_ms: next_try.map(milliseconds),
        program: app.supervisor.pid().map(|pid| ProgramFacts {
            pid,
            up_for_ms: app.supervisor.up_for().map_or(0, milliseconds),
            restarts: app.supervisor.restart_counts().all(),
        }),
        warning: app.supervisor.flood(),
        ..Explanation::new(settings.host.clone(), settings.name.clone(), row.updated_at_ms)
    }
}
