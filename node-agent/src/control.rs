//! The unix socket through which a person on the host talks to the agent: one JSON line asks, one
//! answers.
//!
//! Invariant: nobody but root and the agent's own user is answered, and nobody can use up the
//! agent: lines, connections and silence are bounded. This file does not know what a request means:
//! it hands [`ControlRequest`]s on, which `answers` serves. `ControlClient` is the other end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use goal_state::{AppName, HostStatus};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::brain::explain::Explanation;
use crate::state::app_dir::Paused;

pub(crate) mod answers;
mod client;

pub(crate) use client::{AskError, ControlClient};

/// Longest request. A reason in words fits; the agent reads no more from anyone.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;

/// Connections at once. People and their scripts need one; more wait in the kernel.
const CONNECTIONS_MAX: usize = 16;

/// Requests that wait for the agent. It answers within one turn of its loop.
const REQUESTS_MAX: usize = 16;

/// Time for the next request on a connection, for the agent's answer and for sending it.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Longest reason of a pause, in characters; it is shown in tables and statuses.
const REASON_CHARS_MAX: usize = 500;

/// What travels to the agent.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// How the agent and its apps are.
    Status {},
    /// No switch starts until `Resume`, also after a restart of the agent.
    Pause {
        /// The app; `None` for all.
        app: Option<AppName>,
        /// Why, for whoever asks later.
        reason: Option<String>,
    },
    /// Takes a pause back.
    Resume {
        /// The app; `None` for all.
        app: Option<AppName>,
    },
    /// Replaces the program by a new one of the same build.
    Restart {
        /// The app.
        app: AppName,
    },
    /// Why the app is not at its goal.
    Explain {
        /// The app.
        app: AppName,
    },
}

/// What travels back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Response {
    /// To `Status`.
    Status(AgentStatus),
    /// To orders: the apps that they changed.
    Done {
        /// Their names; empty if nothing had to change.
        apps: Vec<AppName>,
    },
    /// To `Explain`.
    Explanation(Box<Explanation>),
    /// The agent cannot or will not.
    Refused {
        /// Why, with the next step.
        reason: String,
    },
}

/// How an agent is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Name of the host.
    pub host: String,
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Milliseconds since the agent started.
    pub up_for_ms: u64,
    /// What is true of the whole agent and needs a look.
    pub note: Option<String>,
    /// Its apps.
    pub apps: Vec<AppState>,
}

/// How an app is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppState {
    /// The row that is reported to the fleet.
    pub row: HostStatus,
    /// Whether the configuration holds it.
    pub is_held: bool,
    /// Whether a person paused it.
    pub paused: Option<Paused>,
}

/// Why the agent does not carry out a request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such app.
    #[error("there is no app {app} on this host; it has {}", known.iter().map(AppName::as_str).collect::<Vec<_>>().join(", "))]
    UnknownApp {
        /// What was asked for.
        app: AppName,
        /// What there is.
        known: Vec<AppName>,
    },
    /// It was tried and did not work.
    #[error("{reason}")]
    Failed {
        /// Why, for people.
        reason: String,
    },
}

/// A request with the place for its answer. If it is dropped without one, the asker is asked to try
/// again.
#[derive(Debug)]
pub enum ControlRequest {
    /// See `Request::Status`.
    Status {
        /// For the answer.
        answer: oneshot::Sender<AgentStatus>,
    },
    /// See `Request::Pause`.
    Pause {
        /// The app; `None` for all.
        app: Option<AppName>,
        /// Why.
        reason: Option<String>,
        /// For the apps that are paused now.
        answer: oneshot::Sender<Result<Vec<AppName>, Refusal>>,
    },
    /// See `Request::Resume`.
    Resume {
        /// The app; `None` for all.
        app: Option<AppName>,
        /// For the apps that go on.
        answer: oneshot::Sender<Result<Vec<AppName>, Refusal>>,
    },
    /// See `Request::Restart`.
    Restart {
        /// The app.
        app: AppName,
        /// For the app whose restart is ordered, not yet done.
        answer: oneshot::Sender<Result<Vec<AppName>, Refusal>>,
    },
    /// See `Request::Explain`.
    Explain {
        /// The app.
        app: AppName,
        /// For what is known.
        answer: oneshot::Sender<Result<Box<Explanation>, Refusal>>,
    },
}

/// Why the control socket cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Something that is no socket is in the way.
    #[error("{} is not a socket; move it away, or set control to another path", path.display())]
    InTheWay {
        /// The path.
        path: PathBuf,
    },
    /// Another agent listens there.
    #[error("an agent listens on {} already; set control to another path", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot listen on {}; set control to a path that this user may write", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The listening end.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    requests: mpsc::Sender<ControlRequest>,
    own_uid: u32,
}

impl ControlServer {
    /// Listens on `path`, whose directory is created if it is missing. A socket that an agent left
    /// there which no longer runs is replaced. Requests arrive at the receiver once the server
    /// runs.
    ///
    /// # Errors
    ///
    /// If something is in the way or the system refuses.
    pub fn bind(path: &Path) -> Result<(Self, mpsc::Receiver<ControlRequest>), ControlError> {
        let failed = |source| ControlError::Bind { path: path.into(), source };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        make_way(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Until here the mode is that of the umask; who connects is checked in any case.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let own_uid = rustix::process::geteuid().as_raw();
        Ok((Self { listener, path: path.into(), requests, own_uid }, receiver))
    }

    /// Serves until it is dropped or the receiver is.
    pub async fn run(self) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.requests.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Such as no file descriptor left: wait for connections to end.
                    warn!(%error, "cannot accept a connection on the control socket");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == 0 || peer.uid() == self.own_uid => {}
                other => {
                    warn!(peer = ?other, "refused a connection to the control socket");
                    continue;
                }
            }
            let requests = self.requests.clone();
            tokio::spawn(async move {
                if let Err(error) = serve(stream, &requests).await {
                    debug!(%error, "a control connection ended");
                }
                drop(place);
            });
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // Left behind, it would only be replaced by the next agent.
        drop(fs::remove_file(&self.path));
    }
}

/// Removes a socket that nobody listens on.
fn make_way(path: &Path) -> Result<(), ControlError> {
    let failed = |source| ControlError::Bind { path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::InTheWay { path: path.into() });
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ControlError::InUse { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

async fn serve(stream: UnixStream, requests: &mpsc::Sender<ControlRequest>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = vec![];
        let mut bounded = (&mut reader).take(REQUEST_BYTES_MAX + 1);
        timeout(IDLE_MAX, bounded.read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let is_whole = line.last() == Some(&b'\n');
        let response = if is_whole {
            match serde_json::from_slice(&line) {
                Ok(request) => timeout(IDLE_MAX, answer(request, requests)).await?,
                Err(error) => refused(format!("that is no request: {error}")),
            }
        } else {
            refused(format!("a request is one line of at most {REQUEST_BYTES_MAX} bytes"))
        };
        let mut text = serde_json::to_vec(&response)?;
        text.push(b'\n');
        timeout(IDLE_MAX, writer.write_all(&text)).await??;
        if !is_whole {
            return Ok(());
        }
    }
}

fn refused(reason: String) -> Response {
    Response::Refused { reason }
}

/// Hands a request to the agent and waits for what it says.
async fn answer(request: Request, requests: &mpsc::Sender<ControlRequest>) -> Response {
    let orders = |done: Result<Vec<AppName>, Refusal>| match done {
        Ok(apps) => Response::Done { apps },
        Err(refusal) => refused(refusal.to_string()),
    };
    let answered = match request {
        Request::Status {} => {
            ask(requests, |answer| ControlRequest::Status { answer }).await.map(Response::Status)
        }
        Request::Pause { app, reason } => {
            let reason = reason.map(|text| text.chars().take(REASON_CHARS_MAX).collect());
            ask(requests, |answer| ControlRequest::Pause { app, reason, answer }).await.map(orders)
        }
        Request::Resume { app } => {
            ask(requests, |answer| ControlRequest::Resume { app, answer }).await.map(orders)
        }
        Request::Restart { app } => {
            ask(requests, |answer| ControlRequest::Restart { app, answer }).await.map(orders)
        }
        Request::Explain { app } => {
            ask(requests, |answer| ControlRequest::Explain { app, answer }).await.map(|known| {
                known.map_or_else(|refusal| refused(refusal.to_string()), Response::Explanation)
            })
        }
    };
    answered.unwrap_or_else(|| refused("the agent is about to stop; try again".into()))
}

/// `None` if the agent gives no answer.
async fn ask<T>(
    requests: &mpsc::Sender<ControlRequest>,
    request: impl FnOnce(oneshot::Sender<T>) -> ControlRequest,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    requests.send(request(sender)).await.ok()?;
    receiver.await.ok()
}

#[cfg(test)]
mod tests;
