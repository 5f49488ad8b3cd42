//! What the loop knows, written down for a person who asks why the host is where it is.
//!
//! Reads the loop's state and changes nothing; what of it is a trouble is decided in
//! `brain::troubles`, and `brain::explain` answers with it.

use goal_state::Trouble;

use super::{App, row};
use crate::brain::explain::{CheckFacts, Explanation, ProgramFacts, milliseconds};
use crate::brain::troubles::{self, FailedHere, TroubleFacts};
use crate::fleet::source::BuildSource;
use crate::fleet::tokens::TokenDesk;
use crate::host::Host;
use crate::state::app_dir::JournalPhase;

/// The troubles of the app now.
pub(super) fn troubles<S: BuildSource, H: Host, T: TokenDesk>(app: &App<S, H, T>) -> Vec<Trouble> {
    let progress = &app.progress.1;
    // On its own: a borrow within the expression below would last to its end, and one more in it
    // waits for ever once a new goal waits for the first to end.
    let goal = app.goal.borrow().trouble.clone();
    troubles::troubles(TroubleFacts {
        has_target: app.wanted().is_some(),
        goal,
        damage: app.damage.as_ref().map(|(_, message)| message.clone()),
        disk: app.disk_trouble.retried(),
        download: app.download_trouble.retried(),
        unready: app.host_trouble.retried(),
        // A download that runs may find room by now.
        disk_short_bytes: app
            .download_trouble
            .disk_short_bytes()
            .filter(|_| app.download.is_none()),
        stuck: app.stuck(),
        quarantine: row::quarantined(app).map(|failed| FailedHere {
            build: failed.build,
            current: app.current,
            reason: failed.reason.clone(),
            output: failed.output.clone(),
        }),
        pin: row::pinned(app),
        program: app.supervisor.trouble(),
        flood: app.supervisor.flood(),
        hook: app.hooks.note().map(String::from),
        banned: progress.faults.last().map(|last| (progress.faults.len(), last.to_string())),
        waits: row::waits(app),
    })
}

/// Everything that is known of the app now.
pub(super) fn explanation<S: BuildSource, H: Host, T: TokenDesk>(
    app: &App<S, H, T>,
) -> Explanation {
    let row = row::row(app);
    let settings = &app.settings;
    // The row has the end of it only.
    let output = row::quarantined(app).map(|failed| failed.output.trim());
    let output = output.filter(|output| !output.is_empty()).map(String::from);
    let mut troubles = troubles(app);
    troubles.splice(0..0, app.board.troubles());
    let checking = app
        .journal
        .as_ref()
        .filter(|journal| journal.phase != JournalPhase::Good && row::quarantined(app).is_none());
    Explanation {
        troubles,
        is_held: settings.app.hold,
        paused: app.paused.clone(),
        checking: checking.and_then(|journal| {
            let check = app.supervisor.check_facts()?;
            Some(CheckFacts {
                build: journal.to,
                is_way_back: journal.phase == JournalPhase::RollingBack,
                healthy_for_ms: milliseconds(check.healthy_for),
                min_healthy_ms: milliseconds(settings.app.health.min_healthy_time),
                deadline_in_ms: milliseconds(check.deadline_in),
                last_failure: check.last_failure,
            })
        }),
        program: app.supervisor.pid().map(|pid| ProgramFacts {
            pid,
            up_for_ms: app.supervisor.up_for().map_or(0, milliseconds),
            restarts: app.supervisor.restarts(),
        }),
        row: goal_state::HostStatus { last_output: output, ..row },
    }
}
