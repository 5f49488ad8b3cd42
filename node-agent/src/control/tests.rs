//! The socket with a small agent behind it, and everything that somebody may send to it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream as Stream;

use super::*;

/// An agent with the app `web` that answers until it is dropped.
struct Rig {
    _runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let (server, mut requests) = ControlServer::bind(&socket(folder.path())).unwrap();
        drop(guard);
        runtime.spawn(server.run());
        runtime.spawn(async move {
            while let Some(request) = requests.recv().await {
                play(request);
            }
        });
        Self { _runtime: runtime, folder }
    }

    fn path(&self) -> PathBuf {
        socket(self.folder.path())
    }

    fn ask(&self, request: &Request) -> Result<Response, AskError> {
        ControlClient::connect(&self.path())?.ask(request)
    }

    /// What is answered to `bytes`, line by line, until the agent hangs up.
    fn say(&self, bytes: &[u8]) -> Vec<String> {
        let mut stream = Stream::connect(self.path()).unwrap();
        // The agent may hang up before everything is sent.
        drop(stream.write_all(bytes));
        drop(stream.shutdown(std::net::Shutdown::Write));
        BufReader::new(stream).lines().map_while(Result::ok).collect()
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("run/control.sock")
}

fn web() -> AppName {
    "web".parse().unwrap()
}

fn known(app: AppName) -> Result<Vec<AppName>, Refusal> {
    if app == web() { Ok(vec![app]) } else { Err(Refusal::UnknownApp { app, known: vec![web()] }) }
}

fn play(request: ControlRequest) {
    match request {
        ControlRequest::Status { answer } => {
            let row = HostStatus::new("h1", web());
            let apps = vec![AppState { row, is_held: true, paused: None }];
            let version = "1".into();
            let status =
                AgentStatus { host: "h1".into(), version, pid: 1, up_for_ms: 2, note: None, apps };
            drop(answer.send(status));
        }
        ControlRequest::Pause { app, reason, answer } => {
            assert!(reason.is_none_or(|reason| reason.chars().count() <= REASON_CHARS_MAX));
            drop(answer.send(known(app.unwrap_or_else(web))));
        }
        ControlRequest::Resume { app, answer } => {
            drop(answer.send(known(app.unwrap_or_else(web))));
        }
        // A bug or a stop of the agent: no answer.
        ControlRequest::Restart { answer, .. } => drop(answer),
        ControlRequest::Explain { app, answer } => {
            let explanation =
                known(app.clone()).map(|_| Box::new(Explanation::new("h1".into(), app, 3)));
            drop(answer.send(explanation));
        }
    }
}

#[test]
fn every_request_is_answered() {
    let rig = Rig::start();
    let Response::Status(status) = rig.ask(&Request::Status {}).unwrap() else { panic!() };
    assert_eq!((status.host.as_str(), status.apps.len()), ("h1", 1));
    let done = Response::Done { apps: vec![web()] };
    let long = Some("x".repeat(2_000));
    assert_eq!(rig.ask(&Request::Pause { app: None, reason: long }).unwrap(), done);
    assert_eq!(rig.ask(&Request::Resume { app: Some(web()) }).unwrap(), done);
    let explained = rig.ask(&Request::Explain { app: web() }).unwrap();
    assert!(matches!(explained, Response::Explanation(e) if e.row.updated_at_ms == 3));
    let other: AppName = "other".parse().unwrap();
    for request in [Request::Resume { app: Some(other.clone()) }, Request::Explain { app: other }] {
        let error = rig.ask(&request).unwrap_err().to_string();
        assert_eq!(error, "there is no app other on this host; it has web");
    }
    let error = rig.ask(&Request::Restart { app: web() }).unwrap_err().to_string();
    assert!(error.contains("about to stop"), "{error}");
}

#[test]
fn nonsense_is_refused_and_the_agent_goes_on() {
    let rig = Rig::start();
    let cases: [(&[u8], usize, &str); 6] = [
        (b"", 0, ""),
        (b"\n", 1, "no request"),
        (b"{\"request\":\"fly\"}\n", 1, "no request"),
        (b"{\"request\":\"status\",\"x\":1}\n", 1, "no request"),
        (b"{\"request\":\"explain\",\"app\":\"A b\"}\n{\"request\":\"status\"}\n", 2, "no request"),
        (b"{\"request\":\"status\"}", 1, "one line"),
    ];
    for (bytes, answers, part) in cases {
        let said = rig.say(bytes);
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(said.len(), answers, "{shown}: {said:?}");
        assert!(said.first().is_none_or(|first| first.contains(part)), "{shown}: {said:?}");
    }
    let most = usize::try_from(REQUEST_BYTES_MAX).unwrap();
    for (length, part) in [(most, "no request"), (most + 1, "one line")] {
        let mut line = vec![b'x'; length + 1];
        line[length] = b'\n';
        let said = rig.say(&line);
        assert!(said[0].contains(part), "{length}: {said:?}");
    }
    rig.ask(&Request::Status {}).unwrap();
}

#[test]
fn connections_are_bounded_and_the_next_gets_its_turn() {
    let rig = Rig::start();
    let mut silent: Vec<_> =
        (0..CONNECTIONS_MAX).map(|_| Stream::connect(rig.path()).unwrap()).collect();
    // All places are taken once each of them was answered.
    for stream in &mut silent {
        stream.write_all(b"{\"request\":\"status\"}\n").unwrap();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
    }
    let mut next = Stream::connect(rig.path()).unwrap();
    next.write_all(b"{\"request\":\"status\"}\n").unwrap();
    next.set_nonblocking(true).unwrap();
    let mut line = String::new();
    let early = BufReader::new(next.try_clone().unwrap()).read_line(&mut line);
    assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    silent.pop();
    next.set_nonblocking(false).unwrap();
    BufReader::new(next).read_line(&mut line).unwrap();
    assert!(line.contains("\"answer\":\"status\""), "{line}");
}

#[test]
fn socket_is_private_and_follows_its_agent() {
    let rig = Rig::start();
    let path = rig.path();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let error = ControlServer::bind(&path).unwrap_err();
    assert!(matches!(error, ControlError::InUse { .. }), "{error}");
    // One that a killed agent left is replaced; anything else is not.
    let stale = rig.folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let error = ControlClient::connect(&stale).unwrap_err();
    assert!(matches!(error, AskError::NotRunning { .. }), "{error}");
    let (server, _requests) = ControlServer::bind(&stale).unwrap();
    drop(server);
    assert!(!stale.exists());
    fs::write(&stale, "precious").unwrap();
    let error = ControlServer::bind(&stale).unwrap_err();
    assert!(matches!(error, ControlError::InTheWay { .. }), "{error}");
    assert_eq!(fs::read_to_string(&stale).unwrap(), "precious");
}
