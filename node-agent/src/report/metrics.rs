//! `/metrics` for Prometheus and `/healthz` for whoever restarts agents, over plain HTTP.
//!
//! Rendered by hand: almost every value is in the status rows already, and a registry of a metrics
//! crate would hold a second copy of each that somebody has to keep equal. The format is a line per
//! value; a test reads it back.
//!
//! Invariant: a scrape only reads what is in memory (and one line of /proc), and scrapers are
//! bounded in number, size and time: monitoring never holds up an app.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use goal_state::{AppName, HostStatus, TroubleKind};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::report::counts::AppCounts;
use crate::report::service::Heartbeat;
use crate::report::status::StatusBoard;

/// Connections at once: a few scrapers and a person. More wait in the kernel.
const CONNECTIONS_MAX: usize = 16;

/// Time for a request to arrive.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// Why writing the text of a page cannot fail.
const NO_FAILURE: &str = "writing into a string cannot fail";

/// Time that a connection is kept, busy or not.
const CONNECTION_MAX: Duration = Duration::from_mins(5);

/// What is served.
#[derive(Clone, Debug)]
pub(crate) struct MetricsSource {
    /// Name of the host.
    pub host: String,
    /// The newest status rows, and what happened to the apps.
    pub board: StatusBoard,
    /// Which loops report in.
    pub heartbeat: Heartbeat,
    /// When the agent started.
    pub started_at: Instant,
}

/// Listens on the configured address.
#[derive(Debug)]
pub(crate) struct MetricsServer {
    listener: TcpListener,
    source: MetricsSource,
}

impl MetricsServer {
    /// Listens on `address`; nothing is answered until it runs.
    ///
    /// # Errors
    ///
    /// If the system refuses, such as for an address that is in use.
    pub(crate) async fn bind(address: SocketAddr, source: MetricsSource) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, source })
    }

    /// Serves until it is dropped.
    pub(crate) async fn run(self) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept a connection for metrics");
                    sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let source = self.source.clone();
            tokio::spawn(async move {
                // A scraper that disconnects will retry.
                drop(timeout(CONNECTION_MAX, serve(stream, source)).await);
                drop(place);
            });
        }
    }
}

async fn serve(stream: TcpStream, source: MetricsSource) -> hyper::Result<()> {
    let answer = hyper::service::service_fn(move |request| {
        std::future::ready(Ok::<_, Infallible>(respond(&request, &source)))
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

fn respond(request: &Request<Incoming>, source: &MetricsSource) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", render(source))
        }
        (&Method::GET, "/healthz") => {
            let (status, body) = health(&source.heartbeat);
            (status, "text/plain; charset=utf-8", body)
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "GET /metrics or /healthz\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

/// 200 while every loop reports in, else 503 with the names of those that do not.
fn health(heartbeat: &Heartbeat) -> (StatusCode, String) {
    let late = heartbeat.overdue();
    if late.is_empty() {
        (StatusCode::OK, "ok\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("no progress in {}\n", late.join(", ")))
    }
}

fn render(source: &MetricsSource) -> String {
    let rows = source.board.rows_with_note();
    let mut counts = source.board.counts().read();
    // A counter that appears with its first event has no rise that an alert could see.
    for row in &rows {
        counts.entry(row.app.clone()).or_default();
    }
    let mut page = Page::default();
    page.family("shoal_agent_info", "gauge", "Always 1; tells host and version of the agent.");
    let version = env!("CARGO_PKG_VERSION");
    page.value("shoal_agent_info", &[("host", &source.host), ("version", version)], 1);
    let up = source.started_at.elapsed().as_secs();
    page.family("shoal_agent_uptime_seconds", "gauge", "Time since the agent started.");
    page.value("shoal_agent_uptime_seconds", &[], up);
    if let Some(bytes) = resident_bytes() {
        page.family("process_resident_memory_bytes", "gauge", "Memory of the agent.");
        page.value("process_resident_memory_bytes", &[], bytes);
    }
    render_rows(&mut page, &rows);
    render_halts(&mut page, &rows, &source.board.halted());
    render_counts(&mut page, &counts);
    page.text
}

fn render_rows(page: &mut Page, rows: &[HostStatus]) {
    page.family("shoal_app_phase", "gauge", "1 for the phase that the app is in.");
    for row in rows {
        let labels = [("app", row.app.as_str()), ("phase", row.phase.as_str())];
        page.value("shoal_app_phase", &labels, 1);
    }
    page.family(
        "shoal_app_at_goal",
        "gauge",
        "1 if the build of the goal runs, is good, and is known to be that of the store.",
    );
    for row in rows {
        page.value("shoal_app_at_goal", &[("app", row.app.as_str())], u64::from(row.is_at_goal()));
    }
    let help = "1 for each kind of trouble that the app has, 0 for all others.";
    page.family("shoal_app_trouble", "gauge", help);
    for row in rows {
        for kind in TroubleKind::ALL {
            let labels = [("app", row.app.as_str()), ("kind", kind.as_str())];
            page.value("shoal_app_trouble", &labels, u64::from(row.troubles.contains(&kind)));
        }
    }
    let help = "1 if the goal's build failed here and is not tried again.";
    page.family("shoal_app_quarantined", "gauge", help);
    for row in rows {
        let is_quarantined = row.quarantined.is_some();
        page.value(
            "shoal_app_quarantined",
            &[("app", row.app.as_str())],
            u64::from(is_quarantined),
        );
    }
    page.family("shoal_app_goal_generation", "gauge", "Generation of the goal that is followed.");
    for row in rows {
        if let Some(generation) = row.generation {
            page.value("shoal_app_goal_generation", &[("app", row.app.as_str())], generation);
        }
    }
    page.family("shoal_app_build_bytes", "gauge", "Bytes of the goal's build.");
    for row in rows {
        if let Some(bytes) = row.bytes_total {
            page.value("shoal_app_build_bytes", &[("app", row.app.as_str())], bytes);
        }
    }
    let bytes: [Family<HostStatus>; 6] = [
        ("shoal_app_download_bytes_per_second", "Bytes that come in per second.", |row| {
            row.download_rate.unwrap_or(0)
        }),
        ("shoal_app_done_bytes", "Bytes of the goal's build that are here.", |row| row.bytes_done),
        ("shoal_app_reused_bytes", "Of those, copied from other builds.", |row| row.bytes_reused),
        ("shoal_app_from_seeders_bytes", "Chunk bytes received from seeders.", |row| {
            row.bytes_from_seeders
        }),
        ("shoal_app_from_peers_bytes", "Chunk bytes received from hosts.", |row| {
            row.bytes_from_peers
        }),
        ("shoal_app_served_bytes", "Chunk bytes sent to others.", |row| row.bytes_served),
    ];
    for (name, help, read) in bytes {
        page.family(name, "gauge", help);
        for row in rows {
            page.value(name, &[("app", row.app.as_str())], read(row));
        }
    }
}

fn render_halts(page: &mut Page, rows: &[HostStatus], halted: &BTreeSet<AppName>) {
    let help = "1 if the rollout of the goal that is followed has halted.";
    page.family("shoal_app_halted", "gauge", help);
    for row in rows {
        let is_halted = halted.contains(&row.app);
        page.value("shoal_app_halted", &[("app", row.app.as_str())], u64::from(is_halted));
    }
}

fn render_counts(page: &mut Page, counts: &BTreeMap<AppName, AppCounts>) {
    let name = "shoal_app_restarts_total";
    page.family(name, "counter", "Starts after the program ended by itself or was not healthy.");
    for (app, counts) in counts {
        let causes = [("ended", counts.restarts_ended), ("unhealthy", counts.restarts_unhealthy)];
        for (cause, count) in causes {
            page.value(name, &[("app", app.as_str()), ("cause", cause)], count);
        }
    }
    let numbers: [Family<AppCounts>; 6] = [
        ("shoal_app_switches_total", "Switches that began.", |counts| counts.switches),
        ("shoal_app_rollbacks_total", "Builds that were rolled back.", |counts| counts.rollbacks),
        ("shoal_app_hook_failures_total", "Hooks that failed.", |counts| counts.hook_failures),
        ("shoal_app_token_waits_total", "Waits for a token.", |counts| counts.token_waits),
        ("shoal_app_output_bytes_total", "Bytes that its programs printed.", |counts| {
            counts.output_bytes
        }),
        ("shoal_app_output_floods_total", "Times that output went above its limit.", |counts| {
            counts.output_floods
        }),
    ];
    for (name, help, read) in numbers {
        page.family(name, "counter", help);
        for (app, counts) in counts {
            page.value(name, &[("app", app.as_str())], read(counts));
        }
    }
    let name = "shoal_app_download_seconds_total";
    page.family(name, "counter", "Time spent downloading.");
    for (app, counts) in counts {
        let time = counts.download_time;
        let seconds = format!("{}.{:03}", time.as_secs(), time.subsec_millis());
        page.value(name, &[("app", app.as_str())], seconds);
    }
}

/// A name, what it means, and how it is read.
type Family<T> = (&'static str, &'static str, fn(&T) -> u64);

/// The text of a scrape.
#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    /// Starts the values of one name.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect(NO_FAILURE);
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escape(text))).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.text, "{name}{labels} {value}").expect(NO_FAILURE);
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Memory of this process; `None` without /proc.
fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).ok()?)
}

#[cfg(test)]
mod tests {
    use goal_state::{HostPhase, Trouble};
    use p2p_core::BuildId;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::report::service::OVERDUE_AFTER;

    fn source() -> MetricsSource {
        let board = StatusBoard::default();
        for app in ["web", "models"] {
            let app: AppName = app.parse().unwrap();
            let build = Some(BuildId::of_manifest(&[1]));
            board.show(HostStatus {
                generation: Some(7),
                phase: HostPhase::Running,
                target: build,
                current: build,
                bytes_total: Some(10),
                bytes_from_peers: 9,
                ..HostStatus::new("h1", app.clone())
            });
            board.counts().update(&app, |counts| counts.rollbacks += 2);
            board.counts().update(&app, |counts| counts.output_bytes += 3 << 40);
            board
                .counts()
                .update(&app, |counts| counts.download_time += Duration::from_millis(1_250));
        }
        board.set_halted(&"models".parse().unwrap(), true);
        let models = HostStatus {
            phase: HostPhase::Running,
            generation: Some(7),
            ..HostStatus::new("h1", "models".parse().unwrap())
        };
        let full = Trouble::new(TroubleKind::GoalUnstored, "cannot store the new goal");
        board.show(models.with_troubles(&[full]));
        let (heartbeat, started_at) = (Heartbeat::default(), Instant::now());
        MetricsSource { host: "h\"1\\".into(), board, heartbeat, started_at }
    }

    /// Values by name and labels; panics at whatever a scraper would stumble over.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let (mut kinds, mut values) = (BTreeMap::new(), BTreeMap::new());
        let mut family = String::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(!help.is_empty() && !kinds.contains_key(name), "{line}");
                family = name.into();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(name == family && matches!(kind, "gauge" | "counter"), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                kinds.insert(name.to_owned(), kind.to_owned());
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert_eq!(name.split('{').next().unwrap(), family, "{line}");
                let is_new = values.insert(name.to_owned(), value.parse().unwrap()).is_none();
                assert!(is_new, "{line} is there twice");
            }
        }
        values
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn scrape_is_read_back() {
        let server = MetricsServer::bind("127.0.0.1:0".parse().unwrap(), source()).await.unwrap();
        let address = server.listener.local_addr().unwrap();
        let serving = tokio::spawn(server.run());
        let answer = get(address, "/metrics").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("version=0.0.4"), "{head}");
        let values = parse(body);
        for (name, expected) in [
            ("shoal_app_phase{app=\"web\",phase=\"running\"}", 1.0),
            ("shoal_app_at_goal{app=\"web\"}", 1.0),
            // It runs what it knows, and the store has another goal.
            ("shoal_app_at_goal{app=\"models\"}", 0.0),
            ("shoal_app_trouble{app=\"models\",kind=\"goal-unstored\"}", 1.0),
            ("shoal_app_trouble{app=\"models\",kind=\"disk\"}", 0.0),
            ("shoal_app_trouble{app=\"web\",kind=\"goal-unstored\"}", 0.0),
            ("shoal_app_goal_generation{app=\"models\"}", 7.0),
            ("shoal_app_build_bytes{app=\"web\"}", 10.0),
            ("shoal_app_from_peers_bytes{app=\"web\"}", 9.0),
            ("shoal_app_rollbacks_total{app=\"web\"}", 2.0),
            ("shoal_app_switches_total{app=\"web\"}", 0.0),
            ("shoal_app_output_bytes_total{app=\"web\"}", 3_298_534_883_328.0),
            ("shoal_app_output_floods_total{app=\"web\"}", 0.0),
            ("shoal_app_download_seconds_total{app=\"models\"}", 1.25),
            ("shoal_app_quarantined{app=\"web\"}", 0.0),
            ("shoal_app_halted{app=\"web\"}", 0.0),
            ("shoal_app_halted{app=\"models\"}", 1.0),
        ] {
            let found = values.get(name).copied().unwrap_or(f64::NAN);
            assert!((found - expected).abs() < 1e-9, "{name} is {found} in {body}");
        }
        let info = format!(
            "shoal_agent_info{{host=\"h\\\"1\\\\\",version=\"{}\"}}",
            env!("CARGO_PKG_VERSION")
        );
        assert!(values.contains_key(&info), "{body}");
        assert!(values["process_resident_memory_bytes"] > 1e6, "{body}");
        assert!(get(address, "/healthz").await.ends_with("\r\n\r\nok\n"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        serving.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn health_names_the_loop_that_hangs() {
        let heartbeat = Heartbeat::default();
        let pulse = heartbeat.register("app web");
        assert_eq!(health(&heartbeat), (StatusCode::OK, "ok\n".into()));
        tokio::time::advance(OVERDUE_AFTER + Duration::from_secs(1)).await;
        let expected = (StatusCode::SERVICE_UNAVAILABLE, "no progress in app web\n".into());
        assert_eq!(health(&heartbeat), expected);
        pulse.beat();
        assert_eq!(health(&heartbeat).0, StatusCode::OK);
    }
}
