//! The loop of an app whose program is a unit of systemd, with a systemd of the test's own that
//! starts real processes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use goal_state::{HostPhase, HostStatus};
use node_agent::app::AppOrder;
use node_agent::config::AppConfig;
use node_agent::host::{Systemd, runs_from};
use node_agent::process::ProcessIdentity;
use p2p_core::BuildId;

use crate::app::rig::{Host, Running, is_alive, process};
use crate::fake_systemd::{Bus, FakeSystemd, Model, connect};
use crate::rig::within;

/// A host whose systemd has `web.service`, which starts `run` of `current`.
struct UnitHost {
    host: Host,
    systemd: FakeSystemd,
    _bus: Bus,
}

impl UnitHost {
    async fn new() -> Self {
        let bus = Bus::start();
        let systemd = connect(&bus, Model::new("done")).await;
        let mut host =
            Host::new(AppConfig { systemd: Some("web.service".into()), ..AppConfig::default() });
        let of_host = Systemd::at(&bus.address).with_look_interval(Duration::from_millis(10));
        host.systemd = Some(Arc::new(of_host));
        systemd.set_exec(&host.folder.path().join("app/current/run"));
        Self { host, systemd, _bus: bus }
    }

    /// A build whose program stays the shell of its script, by which the kernel knows it.
    fn build(&self, version: &str) -> BuildId {
        self.host.build(version, "while :; do sleep 60 & wait; done")
    }

    fn root(&self, build: BuildId) -> PathBuf {
        self.host.directory().path().join("builds").join(build.to_string())
    }

    /// The unit's main process.
    fn main_process(&self) -> ProcessIdentity {
        ProcessIdentity::of(self.systemd.unit().main_pid).unwrap()
    }

    fn jobs(&self) -> Vec<&'static str> {
        self.systemd.unit().jobs.clone()
    }

    /// Runs the first build until it is good.
    async fn start_with(&mut self, first: BuildId) -> Running {
        let running = self.host.start(3);
        self.host.set_goal(first);
        self.host.source.permit(1);
        running.good(first).await;
        running
    }
}

#[tokio::test]
async fn switch_restarts_the_unit_and_is_good_once_its_main_process_runs_the_build() {
    let mut host = UnitHost::new().await;
    let (first, second) = (host.build("1"), host.build("2"));
    let running = host.start_with(first).await;
    assert_eq!(host.jobs(), ["restart"]);
    let old = host.main_process();
    assert!(runs_from(old.pid, &host.root(first)));

    host.host.set_goal(second);
    host.host.source.permit(1);
    let row = running.good(second).await;
    let new = process(&row);
    assert_eq!(new, host.main_process());
    assert!(!is_alive(&old) && runs_from(new.pid, &host.root(second)));
    assert_eq!((row.restarts, row.message), (0, None));

    // An agent that stops leaves the unit to systemd, and the next one takes it over as it is.
    let jobs = host.jobs();
    let row = running.stop().await;
    assert_eq!(row.phase, HostPhase::Stopped);
    assert!(is_alive(&new), "the unit was stopped");
    let running = host.host.start(3);
    let row = running.row(|row| row.phase == HostPhase::Running && row.pid == Some(new.pid)).await;
    assert_eq!((row.current, row.restarts), (Some(second), 0));
    assert_eq!(host.jobs(), jobs);
    running.kill().await;
    assert!(is_alive(&new));
}

#[tokio::test]
async fn unit_that_points_elsewhere_is_reported_and_rolled_back() {
    let mut host = UnitHost::new().await;
    let (first, second) = (host.build("1"), host.build("2"));
    let running = host.start_with(first).await;
    // Fixed to the first build, as by an installation that knows nothing of `current`.
    host.systemd.set_exec(&host.root(first).join("run"));
    host.host.set_goal(second);
    host.host.source.permit(1);
    let row = running.phase(HostPhase::RolledBack).await;
    let message = row.message.unwrap();
    assert!(message.contains("ExecStart= point into the app's `current`"), "{message}");
    assert_eq!((row.current, row.quarantined), (Some(first), Some(second)));
    let row = running.row(|row| row.pid.is_some()).await;
    assert!(runs_from(row.pid.unwrap(), &host.root(first)));
    let last = host.jobs();
    assert_eq!(last.iter().filter(|job| **job == "restart").count(), 4, "{last:?}");
    running.stop().await;
}

#[tokio::test]
async fn job_that_fails_is_reported_and_rolled_back() {
    let mut host = UnitHost::new().await;
    let (first, second) = (host.build("1"), host.build("2"));
    let running = host.start_with(first).await;
    host.systemd.unit().job_result = "failed";
    host.host.set_goal(second);
    host.host.source.permit(1);
    let is_back = |row: &HostStatus| {
        row.phase == HostPhase::Failed
            && (row.current, row.quarantined) == (Some(first), Some(second))
    };
    let row = running.row(is_back).await;
    let message = row.message.unwrap();
    let expected = "the program was not started: cannot restart web.service: systemd says failed: \
                    exit-code, see journalctl -u web.service";
    assert!(message.contains(expected), "{message}");
    assert!(row.restarts >= 1, "the starts that failed of the build that it went back to");
    // Nothing runs as long as systemd fails, and it is tried again until it does not.
    host.systemd.unit().job_result = "done";
    let row = running.row(|row| row.pid.is_some()).await;
    assert_eq!(process(&row), host.main_process());
    assert!(runs_from(row.pid.unwrap(), &host.root(first)));
    running.stop().await;
}

/// Goal: a unit that dies is started again; one that systemd has started again is left as it is.
#[tokio::test]
async fn unit_that_dies_later_is_up_again() {
    let mut host = UnitHost::new().await;
    let first = host.build("1");
    let running = host.start_with(first).await;
    for restarts in 1..=2 {
        let old = host.main_process();
        {
            let mut unit = host.systemd.unit();
            unit.end();
            (unit.active, unit.sub, unit.result) = ("failed", "failed", "signal");
        }
        let is_up = |row: &HostStatus| {
            row.restarts == restarts && row.pid.is_some_and(|pid| pid != old.pid)
        };
        let row = running.row(is_up).await;
        assert_eq!(process(&row), host.main_process());
        let message = row.message.unwrap();
        assert!(message.contains("of unit web.service is failed (signal)"), "{message}");
        assert!(message.contains("journalctl -u web.service"), "{message}");
    }
    let jobs = host.jobs();
    assert_eq!(jobs, ["restart"; 3]);

    {
        let mut unit = host.systemd.unit();
        unit.end();
        unit.spawn();
        unit.restarts += 1;
    }
    let new = host.main_process();
    let row = running.row(|row| row.restarts == 3 && row.pid == Some(new.pid)).await;
    assert!(row.message.unwrap().contains("systemd restarts it"));
    assert_eq!(host.jobs(), jobs, "it was up already");
    running.stop().await;
}

#[tokio::test]
async fn order_to_restart_and_to_reload_reach_the_unit() {
    let mut host = UnitHost::new().await;
    let first = host.build("1");
    let running = host.start_with(first).await;
    let old = host.main_process();
    running.order(AppOrder::Reload).await;
    let is_reloaded = async {
        while host.jobs() != ["restart", "reload"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(is_reloaded).await;
    assert!(is_alive(&old));
    running.order(AppOrder::Restart).await;
    let row = running.row(|row| row.pid.is_some_and(|pid| pid != old.pid)).await;
    assert_eq!(process(&row), host.main_process());
    assert_eq!((row.restarts, host.jobs()), (0, vec!["restart", "reload", "stop", "restart"]));
    running.stop().await;
}
