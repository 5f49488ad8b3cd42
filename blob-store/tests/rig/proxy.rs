//! The way to a server, with faults: answers of its own, answers cut off, slow, stalled or lost.
//!
//! Each request is numbered, and a rule says what becomes of it. Requests are sent on as they are,
//! with the host that the client signed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It is answered as the server answers.
    None,
    /// It never reaches the server.
    Answer { status: u16, code: &'static str },
    /// It never reaches the server, and is never answered.
    Swallow,
    /// The server has done it; the answer is never seen.
    LoseAnswer,
    /// The connection ends after so many bytes of the answer's body.
    CutAfter(usize),
    /// Nothing more comes after so many bytes of the answer's body.
    StallAfter(usize),
    /// The body comes at so many bytes a second.
    Slow(usize),
    /// The request loses a header.
    Without(&'static str),
}

/// A request, as a rule sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// From 1.
    pub(crate) number: u64,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
}

impl Seen {
    pub(crate) fn is_list(&self) -> bool {
        self.target.contains("list-type=2")
    }

    pub(crate) fn is_part(&self) -> bool {
        self.method == Method::PUT && self.target.contains("partNumber=")
    }
}

type Rule = dyn Fn(&Seen) -> Fault + Send + Sync;

struct Shared {
    server: SocketAddr,
    rule: Box<Rule>,
    requests: AtomicU64,
    body_bytes: AtomicU64,
    swallowed: Notify,
    seen: std::sync::Mutex<Vec<Seen>>,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Proxy {
    pub(crate) async fn start(
        server: SocketAddr,
        rule: impl Fn(&Seen) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            rule: Box::new(rule),
            requests: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            swallowed: Notify::new(),
            seen: std::sync::Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&accepting);
                let service = service_fn(move |request| carry(Arc::clone(&shared), request));
                tokio::spawn(
                    server::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, shared, serving }
    }

    /// Bytes of answers' bodies that were sent to clients.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.shared.body_bytes.load(Ordering::Relaxed)
    }

    /// Requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits until a request is swallowed or its answer lost.
    pub(crate) async fn swallowed(&self) {
        self.shared.swallowed.notified().await;
    }
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

fn body_of(
    chunks: impl futures::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
) -> Body {
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data)).boxed())
}

async fn carry(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let seen = Seen {
        number: shared.requests.fetch_add(1, Ordering::Relaxed) + 1,
        method: request.method().clone(),
        target: request.uri().to_string(),
    };
    shared.seen.lock().unwrap().push(seen.clone());
    let fault = (shared.rule)(&seen);
    match fault {
        Fault::Answer { status, code } => {
            let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
            let body = body_of(stream::iter([Ok(Bytes::from(text))]));
            let status = StatusCode::from_u16(status).unwrap();
            return Ok(Response::builder().status(status).body(body).unwrap());
        }
        Fault::Swallow => {
            shared.swallowed.notify_one();
            return std::future::pending().await;
        }
        _ => {}
    }
    let response = send_on(shared.server, request, &fault).await;
    if matches!(fault, Fault::LoseAnswer) {
        shared.swallowed.notify_one();
        return std::future::pending().await;
    }
    let (head, bytes) = response;
    Ok(Response::from_parts(head, damaged(shared, bytes, &fault)))
}

/// Sends the request to the server and waits for the whole answer.
async fn send_on(
    server: SocketAddr,
    request: Request<Incoming>,
    fault: &Fault,
) -> (hyper::http::response::Parts, Bytes) {
    let (mut head, body) = request.into_parts();
    if let Fault::Without(header) = fault {
        head.headers.remove(*header);
    }
    // A client that is gone has no answer to wait for.
    let Ok(body) = body.collect().await else { return std::future::pending().await };
    let stream = TcpStream::connect(server).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::from_parts(head, Full::new(body.to_bytes()));
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

/// The answer's body, as the fault lets it through.
fn damaged(shared: Arc<Shared>, bytes: Bytes, fault: &Fault) -> Body {
    let cut = || std::io::Error::other("cut");
    let count = move |piece: &Result<Bytes, std::io::Error>| {
        if let Ok(piece) = piece {
            shared.body_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    };
    match *fault {
        Fault::CutAfter(most) if bytes.len() > most => {
            // The pause lets what came before reach the client.
            let end = stream::once(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(cut())
            });
            body_of(stream::iter([Ok(bytes.slice(..most))]).chain(end).inspect(count))
        }
        Fault::StallAfter(most) if bytes.len() > most => {
            let rest = stream::pending();
            body_of(stream::iter([Ok(bytes.slice(..most))]).chain(rest).inspect(count))
        }
        Fault::Slow(rate) => {
            let step = (rate / 20).max(1);
            let pieces: Vec<Bytes> = (0..bytes.len())
                .step_by(step)
                .map(|start| bytes.slice(start..bytes.len().min(start + step)))
                .collect();
            let pieces = stream::iter(pieces).then(|piece| async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(piece)
            });
            body_of(pieces.inspect(count))
        }
        _ => body_of(stream::iter([Ok(bytes)]).inspect(count)),
    }
}
