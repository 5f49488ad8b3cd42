//! What a running agent shows to monitoring: `/metrics` and `/healthz` over a host's first deploys.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use goal_state::HostPhase;

use crate::rig::service_host::{HOST, ServiceHost};
use crate::rig::{Daemon, free_port, succeed, wait_for};

const SETTINGS: &str = "[apps.web.health]\nhttp = \"http://127.0.0.1:PORT/healthz\"\n\
    interval = \"100ms\"\nmin_healthy_time = \"200ms\"\ndeadline = \"60s\"\ntries = 1";

/// The answer to a request, head and body; `None` if nobody answers.
fn get(port: u16, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}

/// The values of a scrape, by name and labels.
fn scrape(port: u16) -> BTreeMap<String, f64> {
    let (head, body) = get(port, "/metrics").expect("the agent answers scrapes");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// Checks values of the app.
#[track_caller]
fn check_app(values: &BTreeMap<String, f64>, expected: &[(&str, u64)]) {
    for (name, expected) in expected {
        let name = format!("shoal_app_{name}{{app=\"web\"}}");
        let found = values.get(&name).copied().unwrap_or(f64::NAN);
        assert!((found - number(*expected)).abs() < 1e-9, "{name} is {found}: {values:#?}");
    }
}

/// Values that say in which phase the app is; there is one at a time.
fn check_phase(values: &BTreeMap<String, f64>, phase: HostPhase) {
    let phases: Vec<_> = values.keys().filter(|it| it.starts_with("shoal_app_phase")).collect();
    assert_eq!(phases, [&format!("shoal_app_phase{{app=\"web\",phase=\"{phase}\"}}")]);
}

/// Goal: whoever watches hosts by their metrics sees a deploy, a wait for a token and a rollback.
/// Method: one host is scraped before anything, at rest with its first build, at rest with a second
/// that needed a token, and after a third failed.
#[test]
fn metrics_show_what_happened_to_a_host() {
    let host = ServiceHost::new(SETTINGS);
    let port = free_port();
    let metrics = format!("metrics=127.0.0.1:{port}");
    let config = host.rig.text("agent.toml");
    let more = ["--config", &config, "--set", &metrics];
    let mut agent: Daemon = host.rig.agent(HOST, &host.seeder_address, &more);
    let (head, body) = wait_for("the agent answers", || {
        agent.check_running();
        get(port, "/healthz")
    });
    assert!(head.starts_with("HTTP/1.1 200") && body == "ok\n", "{head} {body}");
    check_before_the_first_deploy(port);

    let good = host.publish("good", "", 3 << 20);
    host.deploy_and_wait(&good, "good");
    let values = scrape(port);
    check_phase(&values, HostPhase::Running);
    check_app(
        &values,
        &[
            ("at_goal", 1),
            ("goal_generation", 1),
            ("build_bytes", good.bytes),
            ("done_bytes", good.bytes),
            ("from_seeders_bytes", good.bytes),
            ("from_peers_bytes", 0),
            ("switches_total", 1),
            ("rollbacks_total", 0),
        ],
    );
    assert!(values["shoal_app_download_seconds_total{app=\"web\"}"] > 0.0, "{values:#?}");

    let next = host.publish("next", "", 1 << 20);
    let goal = host.rig.goal();
    succeed(&["deploy", "web", &next.id, "--goal", &goal, "--max-unavailable", "1"]);
    host.wait_until_answering(&next, "next");
    let values = scrape(port);
    check_app(
        &values,
        &[("goal_generation", 2), ("build_bytes", next.bytes), ("switches_total", 2)],
    );
    assert!(values["shoal_app_token_waits_total{app=\"web\"}"] >= 1.0, "{values:#?}");

    let bad = host.publish("bad", "crash-at-start", 1000);
    host.rig.deploy(&bad);
    host.rig.wait_for_row("the bad build is rolled back", HOST, |row| {
        row.row.phase == HostPhase::RolledBack
    });
    let values = scrape(port);
    check_phase(&values, HostPhase::RolledBack);
    check_app(
        &values,
        &[("at_goal", 0), ("quarantined", 1), ("goal_generation", 3), ("rollbacks_total", 1)],
    );
    assert!(values["shoal_app_restarts_total{app=\"web\",cause=\"ended\"}"] >= 1.0, "{values:#?}");
    let (_, body) = get(port, "/healthz").unwrap();
    assert_eq!(body, "ok\n");
}

/// Counters are there from the start, or the first event would be no rise.
fn check_before_the_first_deploy(port: u16) {
    let values = wait_for("the app's row is there", || {
        let values = scrape(port);
        values.contains_key("shoal_app_at_goal{app=\"web\"}").then_some(values)
    });
    check_phase(&values, HostPhase::NoGoal);
    let nothing = [
        "at_goal",
        "quarantined",
        "done_bytes",
        "from_seeders_bytes",
        "from_peers_bytes",
        "switches_total",
        "rollbacks_total",
        "hook_failures_total",
        "token_waits_total",
        "download_seconds_total",
    ];
    check_app(&values, &nothing.map(|name| (name, 0)));
    for cause in ["ended", "unhealthy"] {
        let name = format!("shoal_app_restarts_total{{app=\"web\",cause=\"{cause}\"}}");
        assert!(values.get(&name) == Some(&0.0), "{name} in {values:#?}");
    }
    let info = format!("shoal_agent_info{{host=\"{HOST}\",version=\"{}\"}}", version());
    assert!(values.contains_key(&info), "{info} is missing: {values:#?}");
    assert!(values["process_resident_memory_bytes"] > 1e6, "{values:#?}");
}

/// The version that the agent under test says it has.
fn version() -> String {
    let text = succeed(&["--version"]);
    text.split_whitespace().nth(1).unwrap().to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "far below where it begins")]
fn number(bytes: u64) -> f64 {
    bytes as f64
}
