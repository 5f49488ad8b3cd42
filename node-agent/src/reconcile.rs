//! The agent's brain: which one step brings an app on this host closer to its goal.
//!
//! Pure: no IO, no clock, no memory. Because a step depends only on what is wanted and what is, a
//! crash at any point is repaired by asking again after the restart, and no step needs an undo. A
//! switch is therefore not a procedure but several steps: journal and symlink (`Switch`), then stop
//! the old program (`Stop`), start the new one (`Start`), and call it good (`Settle`).

use std::collections::BTreeSet;

use p2p_core::BuildId;

use crate::app_dir::{Journal, JournalPhase};

/// What is wanted of an app.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// Generation of the goal.
    pub generation: u64,
    /// The build that should run.
    pub build: BuildId,
}

/// Where an app stands on this host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Actual {
    /// Builds that are complete on disk.
    pub complete: BTreeSet<BuildId>,
    /// Builds of which parts are on disk.
    pub staged: BTreeSet<BuildId>,
    /// The complete build that `current` points to; `None` if there is none.
    pub current: Option<BuildId>,
    /// The switch under way or done last; `None` before the first.
    pub journal: Option<Journal>,
    /// The program of the app.
    pub program: Program,
    /// The download of the app.
    pub download: Transfer,
    /// The build whose removal is under way.
    pub removing: Option<BuildId>,
    /// Whether the last attempt to write to the disk failed too recently for another.
    pub is_disk_resting: bool,
}

/// What the operator configured about running an app.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Whether the app has a program to run. If not, its builds are only switched.
    pub has_program: bool,
    /// Builds to keep, the current one included. The previous good one is kept in any case.
    pub keep_builds: usize,
}

/// The program of an app, as its supervisor sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    /// Nothing runs, and it may be started.
    Stopped,
    /// It runs.
    Running {
        /// The build that it was started from.
        build: BuildId,
        /// Whether it has been up long enough to be called good.
        is_settled: bool,
        /// Whether it was started by the command that is configured now.
        is_current_command: bool,
    },
    /// It was told to stop, or left processes behind that were.
    Ending,
    /// It ended by itself and is started again later.
    Resting {
        /// The build that it was started from.
        build: BuildId,
    },
}

/// The download of an app.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transfer {
    /// None runs.
    Idle,
    /// It runs.
    Active {
        /// What is being downloaded.
        build: BuildId,
    },
    /// It failed and is tried again later.
    Resting {
        /// What was being downloaded.
        build: BuildId,
    },
}

/// What to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing, until something changes.
    Rest,
    /// Drop the download that runs; what it stored stays.
    CancelDownload,
    /// Download `build` instead of whatever is being downloaded.
    Download {
        /// The build of the goal.
        build: BuildId,
    },
    /// Note the switch in the journal, then let `current` point to `build`.
    Switch {
        /// A complete build.
        build: BuildId,
    },
    /// Tell the program to stop.
    Stop,
    /// Start the program of `build`.
    Start {
        /// The current build.
        build: BuildId,
    },
    /// Note in the journal that the current build is good.
    Settle,
    /// Remove `build` from the disk, complete or staged.
    Remove {
        /// A build that nothing needs.
        build: BuildId,
    },
}

/// The one step that brings an app closer to its goal, or [`Step::Rest`] if there is none now.
///
/// The program comes before the download: a host keeps running what it has, whatever else fails.
/// Without a goal, a switch that was begun is still finished.
pub fn next_step(wanted: Option<&Wanted>, actual: &Actual, policy: Policy) -> Step {
    let target = pick_target(wanted, actual);
    let has_target = target.is_some_and(|build| actual.complete.contains(&build));

    if has_target && target != actual.current && !actual.is_disk_resting {
        return target.map_or(Step::Rest, |build| Step::Switch { build });
    }
    pick_program_step(actual, policy)
        .or_else(|| pick_settle_step(wanted, target, actual, policy))
        .or_else(|| pick_download_step(target, has_target, actual))
        .or_else(|| pick_removal_step(target, actual, policy))
        .unwrap_or(Step::Rest)
}

fn pick_target(wanted: Option<&Wanted>, actual: &Actual) -> Option<BuildId> {
    let begun = actual.journal.as_ref().filter(|journal| journal.phase == JournalPhase::Switching);
    wanted.map(|wanted| wanted.build).or(begun.map(|journal| journal.to))
}

fn pick_program_step(actual: &Actual, policy: Policy) -> Option<Step> {
    match actual.program {
        Program::Running { .. } if !policy.has_program => Some(Step::Stop),
        Program::Running { build, is_current_command, .. } => {
            // Without a current build (removed by hand) the program is all there is: it stays until
            // there is something to replace it.
            let current = actual.current?;
            (build != current || !is_current_command).then_some(Step::Stop)
        }
        Program::Resting { build } if actual.current == Some(build) => None,
        Program::Stopped | Program::Resting { .. } if policy.has_program => {
            actual.current.map(|build| Step::Start { build })
        }
        Program::Stopped | Program::Resting { .. } | Program::Ending => None,
    }
}

fn pick_settle_step(
    wanted: Option<&Wanted>,
    target: Option<BuildId>,
    actual: &Actual,
    policy: Policy,
) -> Option<Step> {
    let journal = actual.journal.as_ref()?;
    let runs = match actual.program {
        Program::Running { is_settled, .. } => is_settled,
        Program::Stopped | Program::Ending | Program::Resting { .. } => !policy.has_program,
    };
    // A new generation may name the build that already runs: nothing to switch, but to note.
    let is_news = journal.phase == JournalPhase::Switching
        || wanted.is_some_and(|wanted| wanted.generation > journal.generation);
    let is_there =
        actual.current.is_some() && actual.current == target && journal.to == actual.current?;
    (runs && is_news && is_there && !actual.is_disk_resting).then_some(Step::Settle)
}

fn pick_download_step(target: Option<BuildId>, has_target: bool, actual: &Actual) -> Option<Step> {
    let missing = target.filter(|_| !has_target);
    match (actual.download, missing) {
        (Transfer::Active { build }, missing) if missing == Some(build) => None,
        (Transfer::Resting { build }, Some(missing)) if build == missing => None,
        // It would be downloaded into what is being removed.
        (_, Some(missing)) if actual.removing == Some(missing) => {
            matches!(actual.download, Transfer::Active { .. }).then_some(Step::CancelDownload)
        }
        (_, Some(build)) => Some(Step::Download { build }),
        (Transfer::Active { .. }, None) => Some(Step::CancelDownload),
        (Transfer::Idle | Transfer::Resting { .. }, None) => None,
    }
}

/// Builds are removed one at a time, and only once the host is at its goal: until then an old build
/// may be the one that is gone back to, and a staged one may be the goal again.
fn pick_removal_step(target: Option<BuildId>, actual: &Actual, policy: Policy) -> Option<Step> {
    let journal = actual.journal.as_ref()?;
    let is_there = journal.phase == JournalPhase::Good
        && Some(journal.to) == target
        && actual.current == target
        && actual.removing.is_none()
        && !actual.is_disk_resting;
    if !is_there {
        return None;
    }
    // The current build and the good one before it, however few are to be kept.
    let kept_max = policy.keep_builds.max(2);
    let kept: BTreeSet<BuildId> =
        journal.good.iter().copied().take(kept_max).chain(actual.current).collect();
    let runs = match actual.program {
        Program::Running { build, .. } | Program::Resting { build } => Some(build),
        Program::Stopped | Program::Ending => None,
    };
    let surplus = actual.complete.difference(&kept).find(|build| Some(**build) != runs);
    let staged = actual.staged.iter().find(|build| !actual.complete.contains(build));
    surplus.or(staged).map(|build| Step::Remove { build: *build })
}

#[cfg(test)]
#[expect(clippy::unnecessary_wraps, reason = "the tables read as what the brain is given")]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { has_program: true, keep_builds: 3 };

    fn build(seed: u8) -> BuildId {
        BuildId::of_manifest(&[seed])
    }

    fn wanted(generation: u64, seed: u8) -> Option<Wanted> {
        Some(Wanted { generation, build: build(seed) })
    }

    fn empty() -> Actual {
        Actual {
            complete: BTreeSet::new(),
            staged: BTreeSet::new(),
            current: None,
            journal: None,
            program: Program::Stopped,
            download: Transfer::Idle,
            removing: None,
            is_disk_resting: false,
        }
    }

    fn program(seed: u8) -> Program {
        Program::Running { build: build(seed), is_settled: true, is_current_command: true }
    }

    fn good(generation: u64, seeds: &[u8]) -> Option<Journal> {
        let good: Vec<_> = seeds.iter().copied().map(build).collect();
        let journal = Journal { good, ..Journal::first(generation, build(seeds[0])) };
        Some(journal.settled(generation, None))
    }

    fn switching(generation: u64, from: u8, to: u8) -> Option<Journal> {
        let before = good(generation - 1, &[from]).unwrap();
        Some(Journal::switching(generation, build(to), Some(build(from)), &before))
    }

    /// At its goal: build 1 under generation 1.
    fn at_rest() -> Actual {
        Actual {
            complete: [build(1)].into(),
            current: Some(build(1)),
            journal: good(1, &[1]),
            program: program(1),
            ..empty()
        }
    }

    fn check(cases: Vec<(&str, Option<Wanted>, Actual, Step)>) {
        for (name, wanted, actual, expected) in cases {
            assert_eq!(next_step(wanted.as_ref(), &actual, POLICY), expected, "{name}");
        }
    }

    #[test]
    fn downloads_follow_the_table() {
        let active = Transfer::Active { build: build(2) };
        let resting = Transfer::Resting { build: build(2) };
        let download = Step::Download { build: build(2) };
        check(vec![
            ("no goal", None, empty(), Step::Rest),
            ("nothing here", wanted(1, 2), empty(), download),
            ("new goal", wanted(2, 2), at_rest(), download),
            ("under way", wanted(2, 2), Actual { download: active, ..at_rest() }, Step::Rest),
            ("failed before", wanted(2, 2), Actual { download: resting, ..at_rest() }, Step::Rest),
            (
                "goal changed",
                wanted(3, 3),
                Actual { download: active, ..at_rest() },
                Step::Download { build: build(3) },
            ),
            (
                "goal changed after a failure",
                wanted(3, 3),
                Actual { download: resting, ..at_rest() },
                Step::Download { build: build(3) },
            ),
            (
                "goal changed back to what runs",
                wanted(3, 1),
                Actual { download: active, journal: good(3, &[1]), ..at_rest() },
                Step::CancelDownload,
            ),
            (
                "goal names what is being removed",
                wanted(2, 2),
                Actual { removing: Some(build(2)), ..at_rest() },
                Step::Rest,
            ),
            ("there", wanted(1, 1), at_rest(), Step::Rest),
        ]);
    }

    #[test]
    fn switches_follow_the_table() {
        let both = || Actual { complete: [build(1), build(2)].into(), ..at_rest() };
        let switched = || Actual { current: Some(build(2)), journal: switching(2, 1, 2), ..both() };
        let young =
            Program::Running { build: build(2), is_settled: false, is_current_command: true };
        check(vec![
            ("complete", wanted(2, 2), both(), Step::Switch { build: build(2) }),
            ("full disk", wanted(2, 2), Actual { is_disk_resting: true, ..both() }, Step::Rest),
            ("old one runs", wanted(2, 2), switched(), Step::Stop),
            (
                "old one ends",
                wanted(2, 2),
                Actual { program: Program::Ending, ..switched() },
                Step::Rest,
            ),
            (
                "old one is gone",
                wanted(2, 2),
                Actual { program: Program::Stopped, ..switched() },
                Step::Start { build: build(2) },
            ),
            (
                "old one was crashing",
                wanted(2, 2),
                Actual { program: Program::Resting { build: build(1) }, ..switched() },
                Step::Start { build: build(2) },
            ),
            (
                "new one crashed",
                wanted(2, 2),
                Actual { program: Program::Resting { build: build(2) }, ..switched() },
                Step::Rest,
            ),
            ("new one is young", wanted(2, 2), Actual { program: young, ..switched() }, Step::Rest),
            (
                "new one runs",
                wanted(2, 2),
                Actual { program: program(2), ..switched() },
                Step::Settle,
            ),
            ("same build under a new generation", wanted(2, 1), at_rest(), Step::Settle),
        ]);
    }

    /// Goal: a crash at any point of a switch is repaired.
    /// Method: what the disk and the processes look like after a crash behind each step.
    #[test]
    fn crashes_are_repaired_by_asking_again() {
        let both = || Actual {
            complete: [build(1), build(2)].into(),
            journal: switching(2, 1, 2),
            ..at_rest()
        };
        let switched = || Actual { current: Some(build(2)), ..both() };
        check(vec![
            ("behind the journal", wanted(2, 2), both(), Step::Switch { build: build(2) }),
            ("behind the journal, goal lost", None, both(), Step::Switch { build: build(2) }),
            ("behind the symlink", wanted(2, 2), switched(), Step::Stop),
            (
                "behind the stop",
                wanted(2, 2),
                Actual { program: Program::Stopped, ..switched() },
                Step::Start { build: build(2) },
            ),
            (
                "behind the start",
                wanted(2, 2),
                Actual { program: program(2), ..switched() },
                Step::Settle,
            ),
            (
                "target vanished: stay on the old one",
                None,
                Actual { complete: [build(1)].into(), program: Program::Stopped, ..both() },
                Step::Start { build: build(1) },
            ),
            (
                "current vanished: keep what runs and download",
                wanted(1, 1),
                Actual { complete: BTreeSet::new(), current: None, ..at_rest() },
                Step::Download { build: build(1) },
            ),
        ]);
    }

    #[test]
    fn programs_follow_the_table() {
        let other_command =
            Program::Running { build: build(1), is_settled: true, is_current_command: false };
        check(vec![
            (
                "machine restarted, goal store down",
                None,
                Actual { program: Program::Stopped, ..at_rest() },
                Step::Start { build: build(1) },
            ),
            (
                "stopped while a download runs",
                wanted(2, 2),
                Actual {
                    program: Program::Stopped,
                    download: Transfer::Active { build: build(2) },
                    ..at_rest()
                },
                Step::Start { build: build(1) },
            ),
            (
                "adopted with another command",
                wanted(1, 1),
                Actual { program: other_command, ..at_rest() },
                Step::Stop,
            ),
        ]);
    }

    #[test]
    fn app_without_a_program_is_switched_and_settled_at_once() {
        let policy = Policy { has_program: false, ..POLICY };
        let mut actual = Actual { program: Program::Stopped, ..at_rest() };
        let step =
            |actual: &Actual, wanted: Option<Wanted>| next_step(wanted.as_ref(), actual, policy);
        assert_eq!(step(&actual, wanted(1, 1)), Step::Rest);
        actual.complete.insert(build(2));
        assert_eq!(step(&actual, wanted(2, 2)), Step::Switch { build: build(2) });
        actual.current = Some(build(2));
        actual.journal = switching(2, 1, 2);
        assert_eq!(step(&actual, wanted(2, 2)), Step::Settle);
        // The program was taken out of the configuration while it ran.
        actual.program = program(1);
        assert_eq!(step(&actual, wanted(2, 2)), Step::Stop);
    }

    #[test]
    fn removals_follow_the_table() {
        let many = || Actual {
            complete: (1..=6).map(build).collect(),
            staged: [build(7)].into(),
            current: Some(build(6)),
            journal: good(6, &[6, 5, 4, 3, 2, 1]),
            program: program(6),
            ..empty()
        };
        let removed = |actual: Actual, keep_builds: usize, wanted: Option<Wanted>| {
            let mut actual = actual;
            let mut removed = BTreeSet::new();
            let policy = Policy { keep_builds, ..POLICY };
            while let Step::Remove { build } = next_step(wanted.as_ref(), &actual, policy) {
                actual.complete.remove(&build);
                actual.staged.remove(&build);
                removed.insert(build);
            }
            removed
        };
        let builds = |seeds: &[u8]| seeds.iter().copied().map(build).collect::<BTreeSet<_>>();
        assert_eq!(removed(many(), 3, wanted(6, 6)), builds(&[1, 2, 3, 7]));
        assert_eq!(removed(many(), 5, wanted(6, 6)), builds(&[1, 7]));
        assert_eq!(removed(many(), 1, wanted(6, 6)), builds(&[1, 2, 3, 4, 7]), "previous good");
        assert_eq!(removed(many(), 1, wanted(7, 7)), builds(&[]), "a new goal is on its way");
        assert_eq!(removed(many(), 1, None), builds(&[]), "no goal");
        let busy = Actual { removing: Some(build(1)), ..many() };
        assert_eq!(removed(busy, 1, wanted(6, 6)), builds(&[]), "one at a time");
        let never_good = Actual { journal: good(6, &[6, 5]), ..many() };
        assert_eq!(removed(never_good, 9, wanted(6, 6)), builds(&[1, 2, 3, 4, 7]));
    }
}
