//! Answers requests, and stops without losing one.
//!
//! HTTP/1.1 has a trap here: a server that closes a connection on which nothing is under way may do
//! so just when the client sends its next request, which is then lost. So this one never closes a
//! connection that a client may still use:
//!
//! - Every answer says for how long an idle connection stays good ([`IDLE_TIMEOUT`]); the server
//!   waits longer than that before it closes one. Clients that keep to it never meet the trap.
//! - Told to stop, it takes no new connections and goes on serving those that it has, each answer
//!   now with `Connection: close`. A client that sees it opens a new connection, which the next
//!   instance accepts. So busy connections end with their next request, idle ones at their timeout.
//!
//! Invariant: a connection is closed only behind an answer that said so, or idle past its timeout,
//! or when [`DRAIN_TIMEOUT`] is over.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::behaviour::Behaviour;
use crate::service::{Identity, Service};

/// For how long each answer says that an idle connection stays good. Short, because a service that
/// was told to stop waits this long for clients that do not come back.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// How much longer the server waits: a request may be on its way for this long.
const IDLE_MARGIN: Duration = Duration::from_secs(1);

/// How long connections may go on after the service was told to stop: longer than idle ones stay,
/// shorter than the grace an agent gives before it kills.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);

/// Pause after a connection that could not be accepted, such as for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Where connections come from.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub socket: TcpListener,
    /// Whether somebody else holds it too: then what waits in its queue is for the next instance.
    pub is_shared: bool,
}

/// Answers `GET /version`, `GET /healthz` and `GET /` until `stop` is ready, then lets clients go
/// as the head of this file says.
///
/// # Errors
///
/// If the socket fails.
pub async fn serve(
    listening: Listening,
    service: Service,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let service = Arc::new(service);
    let (draining, is_draining) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            accepted = listening.socket.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, service.clone(), is_draining.clone()));
                }
                // One that was reset while it waited, or too many open files: others may work.
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
            () = &mut stop => break,
        }
    }
    draining.send_replace(true);
    for stream in close(listening)? {
        connections.spawn(converse(stream, service.clone(), is_draining.clone()));
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    // Those that are left when the time is over end with the process.
    timeout(DRAIN_TIMEOUT, drained).await.unwrap_or_default();
    Ok(())
}

/// Stops listening; returns the connections that nobody else would accept.
fn close(listening: Listening) -> io::Result<Vec<TcpStream>> {
    let mut waiting = vec![];
    if listening.is_shared {
        return Ok(waiting);
    }
    // Not through tokio, which may not know of the newest of them yet.
    let socket = listening.socket.into_std()?;
    while let Ok((stream, _)) = socket.accept() {
        stream.set_nonblocking(true)?;
        waiting.push(TcpStream::from_std(stream)?);
    }
    Ok(waiting)
}

/// When a connection was last in use; `None` while a request is being answered.
type IdleSince = Mutex<Option<Instant>>;

/// Serves one connection to its end. That it breaks is the client's business.
async fn converse(stream: TcpStream, service: Arc<Service>, is_draining: watch::Receiver<bool>) {
    // Answers are small: waiting for more to send with them would only delay them.
    stream.set_nodelay(true).unwrap_or_default();
    let idle_since: IdleSince = Mutex::new(Some(Instant::now()));
    let note = |moment| *idle_since.lock() = moment;
    let answers = service_fn(|request| {
        let (service, is_draining) = (service.clone(), is_draining.clone());
        note(None);
        async move {
            let answer = answer(&service, &request, is_draining).await;
            note(Some(Instant::now()));
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answers);
    tokio::pin!(connection);
    loop {
        let since = *idle_since.lock();
        // While a request is under way, the next look is a full timeout away.
        let closes_at = since.unwrap_or_else(Instant::now) + IDLE_TIMEOUT + IDLE_MARGIN;
        tokio::select! {
            _ = &mut connection => return,
            () = sleep_until(closes_at) => {}
        }
        let is_over = || {
            let since = *idle_since.lock();
            since.is_some_and(|since| since.elapsed() >= IDLE_TIMEOUT + IDLE_MARGIN)
        };
        if is_over() {
            connection.as_mut().graceful_shutdown();
        }
    }
}

async fn answer(
    service: &Service,
    request: &Request<Incoming>,
    mut is_draining: watch::Receiver<bool>,
) -> Response<Full<Bytes>> {
    if let Some(time) = service.behaviours.slow_answers() {
        sleep(time).await;
    }
    let path = request.uri().path();
    if path == "/healthz" && service.behaviours.has(Behaviour::HangHealth) {
        // An error means that the service is gone, and this task with it.
        is_draining.wait_for(|is_draining| *is_draining).await.map(drop).unwrap_or_default();
    }
    let (status, text) = content(service, request.method(), path);
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    // Read as late as possible: behind this answer the connection may end.
    if *is_draining.borrow() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    } else {
        let text = format!("timeout={}", IDLE_TIMEOUT.as_secs());
        let value = HeaderValue::try_from(text).expect("a number and letters are a header's value");
        answer.headers_mut().insert(KEEP_ALIVE, value);
    }
    answer
}

fn content(service: &Service, method: &Method, path: &str) -> (StatusCode, String) {
    let behaviours = &service.behaviours;
    let is_sick = behaviours.has(Behaviour::Answer500)
        || path == "/healthz" && behaviours.has(Behaviour::Unhealthy);
    if is_sick {
        return (StatusCode::INTERNAL_SERVER_ERROR, "as its behaviour says\n".into());
    }
    if method != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, String::new());
    }
    let identity = &service.identity;
    match path {
        "/" => {
            let Identity { version, host, build } = identity;
            (StatusCode::OK, format!("version {version} on {host}, build {build}\n"))
        }
        "/version" => (StatusCode::OK, format!("{}\n", identity.version)),
        "/healthz" => (StatusCode::OK, "ok\n".into()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    }
}
