//! Whether a program is ready and healthy: what is asked, how often, and for how long.
//!
//! Owns the settings of the health gate and the probes themselves. A probe asks once and answers
//! with a reason for people; `reconcile` decides what follows from the answer.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::Path;
use std::time::Duration;

use command_line::causes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use p2p_core::ByteRate;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::host::hook::{self, Hook, HookFailure, HookFailureCause, HookOrder};

/// How a program is asked whether it can serve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Probe {
    /// A GET that has to be answered with a status of 200 to 399.
    Http {
        /// Where the program listens.
        address: SocketAddr,
        /// Path and query, starting with a slash.
        path: String,
    },
    /// A TCP connection that has to be accepted.
    Tcp {
        /// Where the program listens.
        address: SocketAddr,
    },
    /// A command of the build that has to end with exit code 0.
    Command {
        /// The command and its arguments, not empty. Looked up as an app's program is.
        exec: Vec<String>,
    },
    /// The program says `READY=1` itself, as with `sd_notify`.
    Notify,
}

/// When a new build counts as good on this host, and when it is given up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// How the program is asked. `None`: it is healthy while it runs.
    pub probe: Option<Probe>,
    /// Time between two probes.
    pub interval: Duration,
    /// Time for the answer to one probe.
    pub timeout: Duration,
    /// How long a new program has to be healthy without a break before its build is good.
    pub min_healthy_time: Duration,
    /// Time from the start of the new program to healthy for `min_healthy_time`; past it the build
    /// is rolled back.
    pub deadline: Duration,
    /// How often a build is started before it is rolled back because its program ended.
    pub tries: NonZero<u32>,
    /// Probes in a row that have to fail, over no less than `min_healthy_time`, before a program
    /// that was good is started again.
    pub max_failed_probes: NonZero<u32>,
    /// What follows when a program that was good is not healthy any more.
    pub after_good: AfterGood,
    /// Most bytes per second that a new program may print, on average over
    /// [`OUTPUT_WINDOW`](crate::programs::OUTPUT_WINDOW); above it the build is rolled back. A
    /// build that is good already is only reported to print too much. `None`: no limit.
    pub max_output_rate: Option<ByteRate>,
}

/// What follows when a program that was good is not healthy any more.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AfterGood {
    /// It is started again, with pauses that grow.
    #[default]
    Restart,
    /// It runs on, and the host reports it.
    Report,
}

/// See [`Health::max_output_rate`]. An access log of many tens of thousands of lines a second is
/// below it, and so is whatever else somebody could want to read; half of it would be near what a
/// busy proxy prints. A compiled program that does nothing but print the same error is above it,
/// even on a busy machine; it might not be above twice this limit.
const MAX_OUTPUT_RATE_DEFAULT: ByteRate = ByteRate::new(16 << 20).expect("it is not zero");

impl Default for Health {
    /// What an app has whose operator says nothing.
    fn default() -> Self {
        Self {
            probe: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            min_healthy_time: Duration::from_secs(10),
            deadline: Duration::from_mins(2),
            tries: NonZero::new(3).expect("it is not zero"),
            max_failed_probes: NonZero::new(3).expect("it is not zero"),
            after_good: AfterGood::default(),
            max_output_rate: Some(MAX_OUTPUT_RATE_DEFAULT),
        }
    }
}

/// How much of an answer's body is read for its first line.
const BODY_BYTES_MAX: usize = 4 * 1024;

/// As whom and with which variables a command probe runs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProbeCaller {
    /// The user of the app's program; `None`: the agent's own.
    pub user: Option<String>,
    /// Variables on top of a hook's, such as `SHOAL_APP`.
    pub variables: BTreeMap<String, String>,
}

impl ProbeCaller {
    /// The agent's own user, and no variables.
    pub const fn agent() -> Self {
        Self { user: None, variables: BTreeMap::new() }
    }
}

/// Why a program is not ready or not healthy, in words for an operator: what was asked, and what
/// came back.
#[derive(Debug, thiserror::Error)]
#[error("{asked}: {cause}")]
pub struct ProbeFailure {
    /// What was asked, such as `GET http://127.0.0.1:80/healthz`.
    pub asked: String,
    /// What came back.
    pub cause: ProbeFailureCause,
}

/// What came back instead of an answer that is good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeFailureCause {
    /// Nobody listens, or the network refuses.
    #[error("{}", connect_words(.0))]
    Connect(#[source] io::Error),
    /// The connection ended, or what came is not HTTP.
    #[error("connected, but no answer: {}", causes(.0))]
    NoAnswer(#[source] hyper::Error),
    /// The configured path is not a valid one.
    #[error("cannot ask: {0}; change `http` in the configuration")]
    Path(#[source] hyper::http::Error),
    /// A status below 200 or from 400.
    #[error("answered {status}{}", after_colon(.first_line.as_deref()))]
    Status {
        /// Code and reason, such as `500 Internal Server Error`.
        status: String,
        /// First line of the body that is not empty, cut to a readable length.
        first_line: Option<String>,
    },
    /// No answer in time.
    #[error("no answer within {}", humantime::format_duration(*.timeout))]
    TimedOut {
        /// The time it had.
        timeout: Duration,
    },
    /// The command failed.
    #[error("{cause}{}", last_output(.output))]
    Command {
        /// How it ended.
        cause: HookFailureCause,
        /// The end of what it printed.
        output: String,
    },
}

/// Asks once whether the program is healthy. `root` is the build's folder, for a command.
///
/// [`Probe::Notify`] is always fine here: the program speaks by itself, see `notify`.
///
/// # Errors
///
/// If the answer is not good, or does not come within `timeout`.
///
/// # Cancel safety
///
/// Dropping the future closes the connection or kills the command.
pub async fn check(probe: &Probe, root: &Path, timeout: Duration) -> Result<(), ProbeFailure> {
    check_as(probe, root, timeout, &ProbeCaller::default()).await
}

/// [`check`], with commands run as `caller` says.
///
/// # Errors
///
/// As of [`check`].
pub async fn check_as(
    probe: &Probe,
    root: &Path,
    timeout: Duration,
    caller: &ProbeCaller,
) -> Result<(), ProbeFailure> {
    let (asked, answer) = match probe {
        Probe::Notify => return Ok(()),
        Probe::Command { exec } => {
            return command(exec, root, timeout, caller).await.map_err(|failure| ProbeFailure {
                asked: failure.command,
                cause: ProbeFailureCause::Command { cause: failure.cause, output: failure.output },
            });
        }
        Probe::Http { address, path } => {
            (format!("GET http://{address}{path}"), http(*address, path, timeout).await)
        }
        Probe::Tcp { address } => (
            format!("TCP {address}"),
            in_time(timeout, Instant::now() + timeout, connect(*address)).await.map(drop),
        ),
    };
    answer.map_err(|cause| ProbeFailure { asked, cause })
}

async fn command(
    exec: &[String],
    root: &Path,
    timeout: Duration,
    caller: &ProbeCaller,
) -> Result<(), HookFailure> {
    let order = HookOrder {
        hook: Hook { exec: exec.into(), user: caller.user.clone(), timeout },
        root: root.into(),
        variables: caller.variables.clone(),
        default_user: None,
    };
    // A probe has nothing to clean up, and the next one must not wait for it.
    hook::run_with_grace(order, Duration::ZERO).await.map(drop)
}

async fn connect(address: SocketAddr) -> Result<TcpStream, ProbeFailureCause> {
    TcpStream::connect(address).await.map_err(ProbeFailureCause::Connect)
}

async fn http(address: SocketAddr, path: &str, timeout: Duration) -> Result<(), ProbeFailureCause> {
    let deadline = Instant::now() + timeout;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, "shoal-agent")
        .body(Empty::<Bytes>::new())
        .map_err(ProbeFailureCause::Path)?;
    let stream = in_time(timeout, deadline, connect(address)).await?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(ProbeFailureCause::NoAnswer)?;
    let ask = async {
        let response =
            async { sender.send_request(request).await.map_err(ProbeFailureCause::NoAnswer) };
        let response = in_time(timeout, deadline, response).await?;
        let status = response.status();
        if (200..400).contains(&status.as_u16()) {
            return Ok(());
        }
        let first_line = first_line(response, deadline).await;
        Err(ProbeFailureCause::Status { status: status.to_string(), first_line })
    };
    // The connection has to be driven for the answer to come; its own end says nothing more.
    tokio::pin!(ask);
    tokio::select! {
        biased;
        answer = &mut ask => answer,
        _ = connection => ask.await,
    }
}

async fn in_time<T>(
    timeout: Duration,
    deadline: Instant,
    step: impl Future<Output = Result<T, ProbeFailureCause>>,
) -> Result<T, ProbeFailureCause> {
    let step = tokio::time::timeout_at(deadline, step).await;
    step.unwrap_or(Err(ProbeFailureCause::TimedOut { timeout }))
}

/// The first line of the body that is not empty, or what has come of it by `deadline`.
async fn first_line(mut response: Response<Incoming>, deadline: Instant) -> Option<String> {
    let mut body = vec![];
    while body.len() < BODY_BYTES_MAX && !body.trim_ascii_start().contains(&b'\n') {
        let frame = tokio::time::timeout_at(deadline, response.frame()).await;
        let Ok(Some(Ok(frame))) = frame else { break };
        body.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
    }
    let text = String::from_utf8_lossy(&body);
    text.lines().map(hook::readable_line).find(|line| !line.is_empty())
}

fn connect_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        _ => error.to_string(),
    }
}

fn after_colon(text: Option<&str>) -> String {
    text.map(|text| format!(": {text}")).unwrap_or_default()
}

fn last_output(output: &str) -> String {
    let lines = hook::last_lines(output);
    if lines.is_empty() { lines } else { format!("; its last output: {lines}") }
}
