//! The conversation with systemd, over a bus of the test's own with a systemd of the test's own.

use std::time::Duration;

use node_agent::host::{Systemd, UnitError, UnitOrder, UnitState};

use crate::fake_systemd::{Bus, Model, connect};
use crate::rig::within;

/// A unit that nothing changes.
fn model(job_result: &'static str, main_pid: u32) -> Model {
    let mut model = Model::new(job_result);
    (model.active, model.sub, model.result) = ("activating", "auto-restart", "exit-code");
    (model.restarts, model.main_pid) = (3, main_pid);
    model
}

#[tokio::test]
async fn job_is_waited_for_and_state_is_read() {
    let bus = Bus::start();
    let _service = connect(&bus, model("done", 4242)).await;
    let systemd = Systemd::at(&bus.address);
    within(systemd.restart("web.service")).await.unwrap();
    within(systemd.stop("web.service")).await.unwrap();
    within(systemd.restart("web.service")).await.unwrap();
    let expected = UnitState {
        active: "activating".into(),
        sub: "auto-restart".into(),
        main_pid: Some(4242),
        result: "exit-code".into(),
        restarts: 3,
    };
    assert_eq!(within(systemd.state("web.service")).await.unwrap(), expected);
}

#[tokio::test]
async fn failures_are_distinct_and_say_what_to_do() {
    let bus = Bus::start();
    let _service = connect(&bus, model("failed", 0)).await;
    let systemd = Systemd::at(&bus.address);
    let error = within(systemd.restart("web.service")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot restart web.service: systemd says failed: exit-code; see journalctl -u web.service"
    );
    assert_eq!(within(systemd.state("web.service")).await.unwrap().main_pid, None);

    let error = within(systemd.restart("wbe.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::NoSuchUnit { order: UnitOrder::Restart, .. }), "{error}");
    let error = within(systemd.state("wbe.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::NoSuchUnit { order: UnitOrder::Look, .. }), "{error}");
    let error = within(systemd.stop("other.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::Denied { .. }), "{error}");
    let error = within(systemd.reload("web.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("Unit web.service cannot reload."), "{error}");
}

#[tokio::test]
async fn job_that_never_ends_is_not_waited_for_for_ever() {
    let bus = Bus::start();
    let _service = connect(&bus, model("", 0)).await;
    let systemd = Systemd::at(&bus.address).with_job_timeout(Duration::from_millis(300));
    let error = within(systemd.restart("web.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::TimedOut { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "cannot restart web.service: systemd did not finish within 300ms"
    );
}

#[tokio::test]
async fn host_without_systemd_is_reported_as_such_and_one_that_comes_later_is_found() {
    let nowhere = Systemd::at("unix:path=/nonexistent/bus");
    let error = within(nowhere.restart("web.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::NoSystemd { .. }), "{error}");
    assert!(error.to_string().contains("systemd does not answer on D-Bus"), "{error}");

    let bus = Bus::start();
    let systemd = Systemd::at(&bus.address);
    let error = within(systemd.state("web.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::NoSystemd { .. }), "{error}");
    let service = connect(&bus, model("done", 1)).await;
    within(systemd.restart("web.service")).await.unwrap();

    // The bus goes away under a connection that is kept.
    drop((service, bus));
    let error = within(systemd.restart("web.service")).await.unwrap_err();
    assert!(matches!(error, UnitError::NoSystemd { .. }), "{error}");
}
