//! The loop of an app with real builds on disk and real programs; only the network is missing.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use goal_state::{HostPhase, HostStatus, Trouble, TroubleKind};
use node_agent::app::{AppOrder, GoalView};
use node_agent::config::AppConfig;
use node_agent::state::{Journal, JournalPhase};
use p2p_core::BuildId;
use p2p_net::{BuildStore, publish};

use crate::app::rig::{Host, process};
use crate::rig::within;

mod failures;
mod restarts;
pub(crate) mod rig;
mod swaps;
mod units;

/// Goal: a build whose program ends is rolled back without anybody's help, reported with its last
/// words, and not tried again until another deploy asks for it.
#[tokio::test]
async fn crashing_build_is_rolled_back_and_reported() {
    let mut host = Host::with_program();
    let first = host.patient_build("1");
    let bad = host.build("2", "echo cannot open the database; exit 3");
    let running = host.start(3);
    host.set_goal(first);
    host.source.permit(1);
    running.running(first).await;
    host.set_goal(bad);
    host.source.permit(1);
    // As long as it has tries left it is on trial, and nobody has to look.
    let row = running.row(|row| row.phase != HostPhase::Running && row.restarts > 0).await;
    assert_ne!(row.phase, HostPhase::Failed, "{row:?}");
    let row = running.row(|row| row.phase == HostPhase::RolledBack).await;
    assert_eq!((row.current, row.quarantined), (Some(first), Some(bad)));
    // What the build did that failed is not told of the one that runs.
    assert_eq!((row.restarts, row.troubles.as_slice()), (0, &[TroubleKind::Quarantine][..]));
    let message = row.message.unwrap();
    assert!(message.contains("exit code 3") && message.contains("another deploy"), "{message}");
    assert_eq!(row.last_output.as_deref(), Some("cannot open the database"));
    assert_eq!(host.current_version(), "1");

    // A wider rollout of the same deploy does not bring it back, another deploy does.
    let starts = |host: &Host| host.journal().good.len();
    assert_eq!(starts(&host), 1);
    host.set_goal(bad);
    let row =
        running.row(|row| row.generation == Some(3) && row.phase == HostPhase::RolledBack).await;
    assert_eq!(row.current, Some(first));
    running.stop().await;
}

/// Goal: nothing starts while a person has paused the app, not even after the agent is replaced.
#[tokio::test]
async fn pause_outlives_the_agent_and_resume_ends_it() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    let running = host.start(3);
    host.set_goal(first);
    host.source.permit(2);
    let old = process(&running.running(first).await);
    let reason = Some("disk swap".into());
    running.orders.send(AppOrder::Pause { reason }).await.unwrap();
    host.set_goal(second);
    let is_waiting = |row: &HostStatus| row.phase == HostPhase::Waiting;
    let row = running.row(is_waiting).await;
    assert!(row.message.as_ref().unwrap().contains("disk swap"), "{row:?}");
    running.kill().await;

    let running = host.start(3);
    running.row(is_waiting).await;
    assert!(old.open().unwrap().is_some());
    running.orders.send(AppOrder::Resume).await.unwrap();
    running.running(second).await;
    running.stop().await;
}

#[tokio::test]
async fn goals_are_downloaded_switched_and_run_one_after_the_other() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    let running = host.start(3);
    let row = running.row(|row| row.phase == HostPhase::NoGoal).await;
    assert_eq!(row.troubles, [TroubleKind::NoGoal]);

    host.set_goal(first);
    let row = running.row(|row| row.phase == HostPhase::Downloading).await;
    assert_eq!((row.target, row.current, row.bytes_done), (Some(first), None, 7));
    host.source.permit(1);
    let row = running.running(first).await;
    let old = process(&row);
    assert_eq!((row.generation, row.message), (Some(1), None));

    host.set_goal(second);
    host.source.permit(1);
    let row = running.row(|row| row.current == Some(second) && row.elapsed_ms.is_some()).await;
    assert_eq!((row.phase, row.generation), (HostPhase::Running, Some(2)));
    assert_eq!(host.current_version(), "2");
    assert!(old.open().unwrap().is_none(), "the old program runs on");
    let journal = host.journal();
    assert_eq!((journal.phase, journal.from), (JournalPhase::Good, Some(first)));
    assert_eq!(journal.good, [second, first]);

    let new = process(&row);
    let row = running.stop().await;
    assert_eq!((row.phase, row.pid), (HostPhase::Stopped, None));
    assert!(new.open().unwrap().is_none(), "the program outlived the stop");
}

/// Goal: whoever removes or turns `current` by hand finds it mended, and the program undisturbed.
#[tokio::test]
async fn current_that_somebody_changed_is_set_again() {
    let mut host = Host::with_program();
    let build = host.patient_build("1");
    let running = host.start_refreshing(3, Duration::from_millis(20));
    host.set_goal(build);
    host.source.permit(1);
    let program = process(&running.running(build).await);
    let current = host.folder.path().join("app/current");
    for target in [None, Some("builds/nothing"), Some("/etc")] {
        fs::remove_file(&current).unwrap();
        if let Some(target) = target {
            std::os::unix::fs::symlink(target, &current).unwrap();
        }
        let is_mended = async {
            while fs::read(current.join("version")).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(is_mended).await;
    }
    assert_eq!(host.current_version(), "1");
    assert!(program.open().unwrap().is_some(), "the program was stopped");
    assert_eq!(running.stop().await.current, Some(build));
}

#[tokio::test]
async fn goal_that_changes_in_mid_download_is_followed_at_once() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    let running = host.start(3);
    host.set_goal(first);
    running.row(|row| row.bytes_done == 7).await;
    host.set_goal(second);
    running.row(|row| row.target == Some(second) && row.bytes_done == 7).await;
    host.source.permit(1);
    running.running(second).await;
    let [first, second] = [first, second].map(|build| build.short());
    let expected = [format!("fetch {first}"), format!("cancel {first}"), format!("fetch {second}")];
    // What follows is the removal of what was staged of the first one.
    assert_eq!(host.source.events()[..3], expected);
    running.stop().await;
}

#[tokio::test]
async fn failed_download_is_reported_and_tried_again_while_the_old_build_runs_on() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    let running = host.start(3);
    host.set_goal(first);
    host.source.permit(1);
    let old = process(&running.running(first).await);
    host.source.fail(2);
    host.set_goal(second);
    host.source.permit(1);
    let row = running.row(|row| row.phase == HostPhase::Failed).await;
    let message = row.message.unwrap();
    assert!(message.contains("cannot download build") && message.contains("next try"), "{message}");
    assert_eq!((row.current, row.pid), (Some(first), Some(old.pid)));
    host.source.permit(2);
    let row = running.running(second).await;
    assert_eq!(row.message, None);
    running.stop().await;
}

/// Goal: a host that cannot follow the goal of the store is not said to be at its goal.
#[tokio::test]
async fn goal_that_could_not_be_stored_is_told_by_row_and_explanation() {
    let mut host = Host::with_program();
    let first = host.patient_build("1");
    let running = host.start(3);
    host.set_goal(first);
    host.source.permit(1);
    let row = running.good(first).await;
    assert!(row.is_at_goal() && running.explain().await.answer().is_at_goal);
    let text = "cannot store the new goal: No space left on device";
    host.goal.send_modify(|view| {
        view.trouble = Some(Trouble::new(TroubleKind::GoalUnstored, text));
    });
    let row = running.row(|row| !row.is_at_goal()).await;
    assert_eq!((row.phase, row.message.as_deref()), (HostPhase::Running, Some(text)));
    assert_eq!(row.troubles, [TroubleKind::GoalUnstored]);
    let answer = running.explain().await.answer();
    assert!(!answer.is_at_goal && answer.headline.contains("last goal that it knows"), "{answer}");
    assert_eq!((answer.reasons.len(), answer.reasons[0].text.as_str()), (1, text), "{answer}");
    host.goal.send_modify(|view| view.trouble = None);
    running.row(HostStatus::is_at_goal).await;
    running.stop().await;
}

/// Goal: a host that goes back to a build it kept shows no figures of a download: neither that of
/// the build it comes from nor an old one of its own.
#[tokio::test]
async fn kept_build_shows_no_figures_of_a_download() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    let running = host.start(3);
    host.source.permit(2);
    for build in [first, second] {
        host.set_goal(build);
        assert_eq!(running.good(build).await.bytes_done, 7, "of its download");
    }
    for build in [first, second] {
        host.set_goal(build);
        assert_eq!(running.good(build).await.bytes_done, 0, "nothing was downloaded");
    }
    running.stop().await;
}

#[tokio::test]
async fn trouble_of_an_old_goal_is_forgotten_with_it() {
    let mut host = Host::with_program();
    let (first, second) = (host.patient_build("1"), host.patient_build("2"));
    let running = host.start(3);
    host.set_goal(first);
    host.source.permit(1);
    running.running(first).await;
    host.source.fail(1);
    host.set_goal(second);
    host.source.permit(1);
    running.row(|row| row.phase == HostPhase::Failed).await;
    host.set_goal(first);
    let row = running.row(|row| row.generation == Some(3) && row.elapsed_ms.is_some()).await;
    assert_eq!((row.phase, row.message), (HostPhase::Running, None));
    running.stop().await;
}

#[tokio::test]
async fn program_that_keeps_ending_is_a_failure() {
    let mut host = Host::with_program();
    // A busy machine takes longer for the start of a shell than `timings` takes a program for good.
    host.timings().settle_after = Duration::from_hours(1);
    let bad = host.build("1", "echo no config; exit 4");
    let running = host.start(3);
    host.set_goal(bad);
    host.source.permit(1);
    let row = running
        .row(|row| row.message.as_ref().is_some_and(|text| text.contains("2 times in a row")))
        .await;
    assert_eq!(row.phase, HostPhase::Failed);
    assert!(row.message.as_ref().unwrap().contains("exit code 4"), "{row:?}");
    assert!(row.message.unwrap().contains("no config"));
    assert_eq!(row.elapsed_ms, None);
    running.stop().await;
}

#[tokio::test]
async fn failing_program_is_forgotten_with_the_next_goal() {
    let mut host = Host::with_program();
    let (bad, good) = (host.build("1", "exit 4"), host.patient_build("2"));
    let running = host.start(3);
    host.set_goal(bad);
    host.source.permit(1);
    running.row(|row| row.message.as_ref().is_some_and(|text| text.contains("exit code 4"))).await;
    host.set_goal(good);
    host.source.permit(1);
    let row = running.running(good).await;
    assert_eq!(row.message, None);
    running.stop().await;
}

#[tokio::test]
async fn app_without_a_program_is_switched_at_once() {
    let mut host = Host::new(AppConfig::default());
    let first = host.patient_build("1");
    let running = host.start(3);
    host.set_goal(first);
    host.source.permit(1);
    let row = running.running(first).await;
    assert_eq!(row.pid, None);
    assert_eq!(host.current_version(), "1");
    assert_eq!(host.journal().phase, JournalPhase::Good);
    running.stop().await;
}

#[tokio::test]
async fn program_survives_a_killed_agent_and_is_taken_over_without_a_download() {
    let mut host = Host::with_program();
    let first = host.patient_build("1");
    let running = host.start(3);
    host.set_goal(first);
    host.source.permit(1);
    let program = process(&running.row(|row| row.elapsed_ms.is_some()).await);
    running.kill().await;
    assert!(program.open().unwrap().is_some(), "the program died with the agent");

    let events = host.source.events().len();
    let running = host.start(3);
    let row = running.running(first).await;
    assert_eq!(row.pid, Some(program.pid));
    assert!(row.elapsed_ms.is_some(), "{row:?}");
    assert_eq!(host.source.events()[events..], [format!("serve {}", first.short())]);
    running.stop().await;
    assert!(program.open().unwrap().is_none());
}

/// Goal: a switch that a crash interrupted is finished, wherever it was.
/// Method: the disk as it is behind the journal, and behind the symlink; the old program runs.
#[tokio::test]
async fn interrupted_switch_is_finished() {
    for is_linked in [false, true] {
        let mut host = Host::with_program();
        let (first, second) = (host.patient_build("1"), host.patient_build("2"));
        let running = host.start(3);
        host.set_goal(first);
        host.source.permit(1);
        let old = process(&running.row(|row| row.elapsed_ms.is_some()).await);
        running.kill().await;
        let directory = host.directory();
        let store = BuildStore::open(directory.path()).unwrap();
        let stored = publish(&host.folder.path().join("2"), &store, None).unwrap().build;
        let journal = Journal::switching(2, second, Some(first), 3, Some(&host.journal()));
        directory.write_journal(&journal).unwrap();
        if is_linked {
            directory.set_current(stored.root()).unwrap();
        }

        // The goal store is down and goal.json lost: the journal is enough.
        host.goal.send_replace(GoalView::default());
        let running = host.start(3);
        let row = running
            .row(|row| row.current == Some(second) && row.pid.is_some_and(|pid| pid != old.pid))
            .await;
        assert_eq!(row.phase, HostPhase::NoGoal);
        assert!(old.open().unwrap().is_none(), "the old program runs on");
        assert_eq!(host.current_version(), "2");
        running.stop().await;
    }
}

#[tokio::test]
async fn old_builds_are_left_and_removed() {
    let mut host = Host::with_program();
    let builds: Vec<BuildId> =
        ["1", "2", "3", "4"].iter().map(|version| host.patient_build(version)).collect();
    let running = host.start(2);
    for build in &builds {
        host.set_goal(*build);
        host.source.permit(1);
        running.row(|row| row.current == Some(*build) && row.elapsed_ms.is_some()).await;
    }
    let mut kept = builds[2..].to_vec();
    kept.sort_unstable();
    within(async {
        while host.builds_on_disk() != kept {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let left: Vec<_> =
        host.source.events().into_iter().filter(|event| event.starts_with("leave")).collect();
    assert_eq!(
        left,
        builds[..2].iter().map(|b| format!("leave {}", b.short())).collect::<Vec<_>>()
    );
    running.stop().await;
}

#[tokio::test]
async fn switch_that_cannot_be_noted_is_reported_and_tried_again() {
    let mut host = Host::with_program();
    let first = host.patient_build("1");
    // A directory in the way stands for a disk that refuses to write.
    let obstacle: PathBuf = host.directory().path().join(".journal.new");
    fs::create_dir(&obstacle).unwrap();
    let running = host.start(3);
    host.set_goal(first);
    host.source.permit(1);
    let row = running.row(|row| row.phase == HostPhase::Failed).await;
    assert_eq!(row.current, None, "nothing may be switched before the journal says so");
    assert!(row.message.unwrap().contains("journal"));
    fs::remove_dir(&obstacle).unwrap();
    let row = running.running(first).await;
    assert_eq!(row.message, None);
    running.stop().await;
}
