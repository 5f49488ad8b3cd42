//! Builds that take each other's place under load: nobody who uses the service notices.
//!
//! Here for a few swaps; `benches/agent.py swaps` runs the same for more. `SHOAL_TEST_SWAPS`
//! chooses how many, `SHOAL_TEST_RATE` how many requests per second.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use load_generator::{Plan, Report};
use tokio::sync::oneshot;

use crate::rig::service_host::ServiceHost;
use crate::rig::{note, setting, wait_a_while};

/// Swaps of a test among others.
const SWAPS: u64 = 4;

/// Requests per second.
const RATE: u64 = 500;

/// How long a version serves before the next one comes: every kept connection is used several
/// times.
const SERVICE_TIME: Duration = Duration::from_millis(300);

/// The program says itself when it is ready: a request would be answered by whichever instance
/// takes it.
pub(super) const SETTINGS: &str = r#"
keep_builds = 2
sockets = { http = "127.0.0.1:PORT" }
[apps.web.health]
notify = true
interval = "100ms"
min_healthy_time = "300ms"
"#;

/// A load that goes on until it is told to stop.
pub(super) struct Load {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Report>,
}

impl Load {
    pub(super) fn start(port: u16, rate: u32) -> Self {
        let plan = Plan {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            path: "/version".into(),
            rate,
            duration: Duration::from_mins(10),
            pool: 32,
            new_percent: 50,
            // Only a lost request takes this long, however busy the machine.
            timeout: Duration::from_mins(1),
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(load_generator::run(plan, async {
                drop(stopped.await);
            }))
        });
        Self { stop, thread }
    }

    pub(super) fn end(self) -> Report {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

/// Goal: with sockets that the agent holds, no request is refused, reset or failed by a swap.
/// Method: an open-loop load over kept and new connections, while two builds swap places; each
/// failed request is counted, none is tried again.
#[test]
fn swaps_under_load_drop_no_request() {
    let swaps = setting("SHOAL_TEST_SWAPS").unwrap_or(SWAPS);
    let rate = u32::try_from(setting("SHOAL_TEST_RATE").unwrap_or(RATE)).unwrap();
    let mut host = ServiceHost::new(SETTINGS);
    let builds = ["A", "B"].map(|version| (version, host.publish(version, "", 100_000)));
    host.start_agent();
    host.deploy_and_wait(&builds[0].1, "A");

    let load = Load::start(host.port, rate);
    for number in 1..=swaps {
        wait_a_while(SERVICE_TIME);
        let (version, build) = &builds[usize::from(number % 2 == 1)];
        host.deploy_and_wait(build, version);
    }
    wait_a_while(SERVICE_TIME);
    let report = load.end();
    note(&format!("{swaps} swaps: {}", serde_json::to_string_pretty(&report).unwrap()));
    assert_eq!(report.failures(), 0, "{report:#?}");
    assert_eq!(report.answered, report.sent);
    let versions: Vec<_> = report.versions.iter().map(|seen| seen.version.as_str()).collect();
    assert_eq!(versions, ["A", "B"], "the load did not see the swaps");
    assert!(report.told_to_close > 0, "no instance was stopped under load");
}
