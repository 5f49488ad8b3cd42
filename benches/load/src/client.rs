//! Connections of the load: just enough HTTP/1.1 to distinguish the failures.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{Answer, Failed, Failure};

/// Bytes of an answer's head and body together.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Headers of an answer.
const HEADERS_MAX: usize = 32;

/// A connection on which no request is under way, or one.
#[derive(Debug)]
pub(crate) struct Connection(TcpStream);

/// The connections that are kept alive, those unused for longest in front.
#[derive(Debug)]
pub(crate) struct Pool {
    address: SocketAddr,
    size: usize,
    idle: Mutex<Idle>,
    opened: AtomicU64,
    closed_idle: AtomicU64,
}

#[derive(Debug, Default)]
struct Idle {
    connections: VecDeque<Connection>,
    /// Idle and in use.
    count: usize,
}

impl Pool {
    pub(crate) fn new(address: SocketAddr, size: usize) -> Self {
        let (opened, closed_idle) = Default::default();
        Self { address, size, idle: Mutex::default(), opened, closed_idle }
    }

    /// A connection that belongs to nobody.
    pub(crate) async fn open(&self) -> Result<Connection, Failed> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| on_error(&error))?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        // Requests are small: waiting for more to send with them would only delay them.
        stream.set_nodelay(true).unwrap_or_default();
        Ok(Connection(stream))
    }

    /// The kept connection that was unused for longest, or a new one while there are too few.
    pub(crate) async fn take(&self) -> Result<Connection, Failed> {
        loop {
            let kept = {
                let mut idle = self.idle.lock();
                let kept = if idle.count < self.size { None } else { idle.connections.pop_front() };
                idle.count += usize::from(kept.is_none());
                kept
            };
            match kept {
                None => return self.open().await,
                Some(connection) if connection.is_open() => return Ok(connection),
                Some(_) => {
                    self.closed_idle.fetch_add(1, Ordering::Relaxed);
                    self.lose();
                }
            }
        }
    }

    /// Takes a connection back.
    pub(crate) fn put(&self, connection: Connection) {
        self.idle.lock().connections.push_back(connection);
    }

    /// A connection that was taken is gone.
    pub(crate) fn lose(&self) {
        self.idle.lock().count -= 1;
    }

    /// How many connections were opened, and how many of the kept ones were found closed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.opened.load(Ordering::Relaxed), self.closed_idle.load(Ordering::Relaxed))
    }
}

impl Connection {
    /// Whether the other side has neither closed it nor sent what nobody asked for.
    fn is_open(&self) -> bool {
        let peeked = self.0.try_read(&mut [0; 1]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request and reads the answer; `is_last` announces to the service that none follows.
    pub(crate) async fn ask(&mut self, path: &str, is_last: bool) -> Result<Answer, Failed> {
        let more = if is_last { "Connection: close\r\n" } else { "" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: load\r\n{more}\r\n");
        self.0.write_all(request.as_bytes()).await.map_err(|error| on_error(&error))?;
        let mut bytes = Vec::with_capacity(512);
        loop {
            if let Some(answer) = parse(&bytes)? {
                return Ok(answer);
            }
            let count = self.0.read_buf(&mut bytes).await.map_err(|error| on_error(&error))?;
            if count == 0 {
                let reason = format!("closed after {} bytes of the answer", bytes.len());
                return Err(Failed { failure: Failure::Closed, reason });
            }
        }
    }
}

fn on_error(error: &io::Error) -> Failed {
    let failure = match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => Failure::Reset,
        _ => Failure::Strange,
    };
    Failed { failure, reason: error.to_string() }
}

/// The answer in `bytes`, if it is complete.
fn parse(bytes: &[u8]) -> Result<Option<Answer>, Failed> {
    let strange = |reason: String| Failed { failure: Failure::Strange, reason };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let head_bytes = match head.parse(bytes) {
        Ok(httparse::Status::Complete(count)) => count,
        Ok(httparse::Status::Partial) if bytes.len() < ANSWER_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(strange("the head has no end".into())),
        Err(error) => return Err(strange(format!("not HTTP: {error}"))),
    };
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| str::from_utf8(header.value).ok())
    };
    let length: usize = header("content-length")
        .and_then(|text| text.parse().ok())
        .filter(|length| *length <= ANSWER_BYTES_MAX)
        .ok_or_else(|| strange("no usable Content-Length".into()))?;
    let ends = header("connection").is_some_and(|text| text.eq_ignore_ascii_case("close"));
    let Some(body) = bytes.get(head_bytes..head_bytes + length) else { return Ok(None) };
    match head.code {
        Some(200) => {
            let body = String::from_utf8_lossy(body).trim().to_owned();
            Ok(Some(Answer { body, ends }))
        }
        Some(code) if code >= 500 => {
            Err(Failed { failure: Failure::ServerError, reason: format!("status {code}") })
        }
        code => Err(strange(format!("status {}", code.unwrap_or_default()))),
    }
}
