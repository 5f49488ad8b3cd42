//! Tells the log about troubles: once when one appears, once when it is gone.
//!
//! Only remembers what was told; which troubles there are is decided in `brain::troubles`. What is
//! logged where it happens, with more than a trouble knows, is not told a second time.

use std::time::Duration;

use goal_state::{Trouble, TroubleKind};
use tokio::time::Instant;
use tracing::{info, warn};

/// A download that waits for less is not worth a line: each begins with a short wait.
const STUCK_FOR: Duration = Duration::from_secs(10);

/// The troubles of an app that the log has told. See the head of this file.
#[derive(Debug, Default)]
pub(super) struct ToldTroubles {
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    trouble: Trouble,
    since: Instant,
    is_told: bool,
}

/// What the log is to say.
#[derive(Debug, Eq, PartialEq)]
enum Change {
    Begun(Trouble),
    Over(Trouble),
}

impl ToldTroubles {
    /// Takes in the troubles of now, and logs what changed.
    pub(super) fn tell(&mut self, now: Instant, troubles: &[Trouble]) {
        for change in self.changes(now, troubles) {
            match change {
                Change::Begun(Trouble { kind, text }) if is_quiet(kind) => info!(%kind, "{text}"),
                Change::Begun(Trouble { kind, text }) => warn!(%kind, "{text}"),
                Change::Over(Trouble { kind, text }) => info!(%kind, "no longer so: {text}"),
            }
        }
    }

    fn changes(&mut self, now: Instant, troubles: &[Trouble]) -> Vec<Change> {
        let mut changes = vec![];
        self.seen.retain(|seen| {
            let is_there = troubles.iter().any(|trouble| is_same(&seen.trouble, trouble));
            if !is_there && seen.is_told && !is_logged_to_its_end(seen.trouble.kind) {
                changes.push(Change::Over(seen.trouble.clone()));
            }
            is_there
        });
        for trouble in troubles {
            let known = self.seen.iter_mut().find(|seen| is_same(&seen.trouble, trouble));
            let Some(seen) = known else {
                let is_told = !trouble.kind.is_of_running_download();
                if is_told && !is_logged_where_it_happens(trouble.kind) {
                    changes.push(Change::Begun(trouble.clone()));
                }
                self.seen.push(Seen { trouble: trouble.clone(), since: now, is_told });
                continue;
            };
            if !seen.is_told && now.duration_since(seen.since) >= STUCK_FOR {
                seen.is_told = true;
                changes.push(Change::Begun(trouble.clone()));
            }
        }
        changes
    }
}

/// Whether it is the trouble that was seen before. Of most kinds an app has one at a time, whose
/// words may change with every probe; another cause why a goal or the disk is not to be had is
/// another trouble.
fn is_same(seen: &Trouble, now: &Trouble) -> bool {
    let has_causes = [TroubleKind::Disk, TroubleKind::Download, TroubleKind::HostUnready];
    let is_told_by_cause = now.kind.hides_goal() || has_causes.contains(&now.kind);
    let has_same_cause = || seen.text_without_next_try() == now.text_without_next_try();
    seen.kind == now.kind && (!is_told_by_cause || has_same_cause())
}

/// Whether it is a state that somebody chose, or that is over.
const fn is_quiet(kind: TroubleKind) -> bool {
    kind.is_wait() || matches!(kind, TroubleKind::NoGoal | TroubleKind::RunsAgain)
}

const fn is_logged_where_it_happens(kind: TroubleKind) -> bool {
    let is_event = matches!(kind, TroubleKind::Crash | TroubleKind::Hook | TroubleKind::Quarantine);
    is_event || is_logged_to_its_end(kind)
}

/// Whether the supervisor logs both ends of it.
const fn is_logged_to_its_end(kind: TroubleKind) -> bool {
    matches!(kind, TroubleKind::Flood | TroubleKind::Unhealthy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(kind: TroubleKind, text: &str) -> Trouble {
        Trouble::new(kind, text)
    }

    /// Goal: a trouble is a line when it appears and one when it is gone, whatever happens between.
    #[test]
    fn troubles_are_told_once_per_change() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let disk = |next| trouble(TroubleKind::Disk, "full").with_next_try(seconds(next));
        let mut told = ToldTroubles::default();
        assert_eq!(told.changes(now, &[disk(5)]), [Change::Begun(disk(5))]);
        assert_eq!(told.changes(now, &[disk(10)]), []);
        let other = trouble(TroubleKind::Disk, "read-only").with_next_try(seconds(5));
        let expected = [Change::Over(disk(5)), Change::Begun(other.clone())];
        assert_eq!(told.changes(now, std::slice::from_ref(&other)), expected);
        assert_eq!(told.changes(now, &[]), [Change::Over(other)]);
        assert_eq!(told.changes(now, &[]), []);
        // The words change with every look, and it is the same trouble.
        let short = |text: &str| trouble(TroubleKind::DiskShort, text);
        assert_eq!(told.changes(now, &[short("5 B")]), [Change::Begun(short("5 B"))]);
        assert_eq!(told.changes(now, &[short("4 B")]), []);
        assert_eq!(told.changes(now, &[]), [Change::Over(short("5 B"))]);
    }

    #[test]
    fn short_wait_of_a_download_is_no_line() {
        let now = Instant::now();
        let stuck = [trouble(TroubleKind::NoSource, "no seeder has it")];
        let mut told = ToldTroubles::default();
        assert_eq!(told.changes(now, &stuck), []);
        assert_eq!(told.changes(now, &[]), []);
        assert_eq!(told.changes(now, &stuck), []);
        assert_eq!(told.changes(now + STUCK_FOR, &stuck), [Change::Begun(stuck[0].clone())]);
        assert_eq!(told.changes(now + STUCK_FOR * 2, &stuck), []);
        assert_eq!(told.changes(now + STUCK_FOR * 2, &[]), [Change::Over(stuck[0].clone())]);
    }

    #[test]
    fn end_of_what_is_logged_elsewhere_is_told() {
        let now = Instant::now();
        let crash = [trouble(TroubleKind::Crash, "exit code 3")];
        let mut told = ToldTroubles::default();
        assert_eq!(told.changes(now, &crash), []);
        assert_eq!(told.changes(now, &[]), [Change::Over(crash[0].clone())]);
        let ill = [trouble(TroubleKind::Unhealthy, "500")];
        assert_eq!((told.changes(now, &ill), told.changes(now, &[])), (vec![], vec![]));
    }
}
