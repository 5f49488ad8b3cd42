//! Arguments, and what clients see of a service that stops.

use std::fs;
use std::io::{Read as _, Write as _};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

fn strings(arguments: &[&str]) -> Vec<OsString> {
    arguments.iter().map(OsString::from).collect()
}

#[test]
fn arguments_are_one_address_or_none() {
    let address = "127.0.0.1:8080".parse().unwrap();
    assert_eq!(parse_listen(strings(&["--listen", "127.0.0.1:8080"])), Ok(Some(address)));
    assert_eq!(parse_listen(strings(&["--listen=127.0.0.1:8080"])), Ok(Some(address)));
    assert_eq!(parse_listen(strings(&[])), Ok(None));
    let wrong: [&[&str]; 3] =
        [&["--listen"], &["--listen", "8080"], &["--listen", "127.0.0.1:1", "more"]];
    for arguments in wrong {
        let error = parse_listen(strings(arguments)).unwrap_err();
        assert!(error.to_string().contains("--listen IP:PORT"), "{error}");
        assert!(error.to_string().contains(arguments[0]), "{error}");
    }
}

#[test]
fn version_is_read_from_the_root_of_the_build() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Identity::load(folder.path()).is_err());
    fs::write(folder.path().join(VERSION_FILE), "2\n").unwrap();
    assert_eq!(Identity::load(folder.path()).unwrap().version, "2");
}

fn service(version: &str, behaviours: &str) -> Service {
    let identity =
        Identity { version: version.into(), host: "host-3".into(), build: "ab12".into() };
    Service { identity, behaviours: Behaviours::parse(behaviours).unwrap() }
}

/// A service that runs, until it is told to stop.
struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

impl Running {
    fn start(socket: TcpListener, is_shared: bool, service: Service) -> Self {
        let address = socket.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(Listening { socket, is_shared }, service, async {
            drop(stopped.await);
        }));
        Self { address, stop: Some(stop), task }
    }

    async fn start_alone(behaviours: &str) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start(socket, false, service("7", behaviours))
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn connect(&self) -> Client {
        Client(BufReader::new(TcpStream::connect(self.address).await.unwrap()))
    }
}

/// A connection of a client.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn send(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    /// Head and body of the next answer, whose bodies here are single lines.
    async fn answer(&mut self) -> String {
        let mut text = String::new();
        while !text.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut text).await.unwrap(), 0, "closed behind {text:?}");
        }
        self.0.read_line(&mut text).await.unwrap();
        text.to_lowercase()
    }

    async fn ask(&mut self, path: &str) -> String {
        self.send(path).await;
        self.answer().await
    }

    async fn wait_for_close(mut self) {
        assert_eq!(self.0.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

/// Goal: each path answers over a real socket, and the service ends when told to.
#[tokio::test]
async fn service_answers_and_stops() {
    let mut running = Running::start_alone("").await;
    let cases = [
        ("/version", "200 ok", "7\n"),
        ("/healthz", "200 ok", "ok\n"),
        ("/", "200 ok", "version 7 on host-3, build ab12\n"),
    ];
    let mut client = running.connect().await;
    for (path, status, body) in cases {
        let answer = client.ask(path).await;
        assert!(answer.starts_with(&format!("http/1.1 {status}\r\n")), "{answer}");
        assert!(answer.contains("\r\nkeep-alive: timeout="), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
    }
    client.send("/other").await;
    let mut line = String::new();
    client.0.read_line(&mut line).await.unwrap();
    assert_eq!(line, "HTTP/1.1 404 Not Found\r\n");
    drop(client);
    running.stop();
    running.task.await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

/// Goal: no client loses a request to a service that was told to stop.
/// Method: one connection has a request under way, one is idle between two, one has sent nothing
/// yet; each is answered, told to close, and closed, and then the service ends.
#[tokio::test]
async fn stopped_service_answers_on_every_connection_and_closes_it() {
    let mut running = Running::start_alone("slow-answers=50ms").await;
    let (mut busy, mut idle, mut new) =
        (running.connect().await, running.connect().await, running.connect().await);
    for client in [&mut busy, &mut idle] {
        assert!(!client.ask("/version").await.contains("connection: close"));
    }
    busy.send("/version").await;
    running.stop();
    assert!(busy.answer().await.contains("connection: close"));
    for client in [&mut idle, &mut new] {
        let answer = client.ask("/version").await;
        assert!(answer.contains("200 ok") && answer.contains("connection: close"), "{answer}");
    }
    for client in [busy, idle, new] {
        client.wait_for_close().await;
    }
    running.task.await.unwrap().unwrap();
}

/// Goal: a client that never comes back does not hold the service up for long.
/// Method: the clock is tokio's own and jumps; the end of the drain would be a later moment.
#[tokio::test(start_paused = true)]
async fn idle_connection_is_closed_at_its_timeout() {
    let mut running = Running::start_alone("").await;
    let mut client = running.connect().await;
    client.ask("/version").await;
    let since = tokio::time::Instant::now();
    running.stop();
    client.wait_for_close().await;
    running.task.await.unwrap().unwrap();
    let took = since.elapsed();
    assert!(Duration::from_secs(2) < took && took < Duration::from_secs(5), "{took:?}");
}

/// Goal: with a socket of its own, the service answers whoever was already waiting in its queue.
#[tokio::test]
async fn connections_in_the_queue_of_an_own_socket_are_answered() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let clients = std::thread::spawn(move || {
        [(); 3].map(|()| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            write!(stream, "GET /version HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        })
    });
    let streams = clients.join().unwrap();
    let listening = Listening { socket, is_shared: false };
    serve(listening, service("7", ""), std::future::ready(())).await.unwrap();
    for mut stream in streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\n7\n"), "{answer}");
    }
}

/// Goal: with a socket that is handed from instance to instance, nobody is refused in between.
/// Method: connections are made when no instance runs at all, and when both do.
#[tokio::test]
async fn connections_in_the_queue_of_a_shared_socket_are_for_the_next_instance() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    held.set_nonblocking(true).unwrap();
    let start = |version: &str| {
        let socket = TcpListener::from_std(held.try_clone().unwrap()).unwrap();
        Running::start(socket, true, service(version, ""))
    };
    let mut first = start("1");
    assert!(first.connect().await.ask("/version").await.ends_with("\n1\n"));
    first.stop();
    first.task.await.unwrap().unwrap();
    let mut waiting = Client(BufReader::new(TcpStream::connect(first.address).await.unwrap()));
    waiting.send("/version").await;
    let mut second = start("2");
    assert!(waiting.answer().await.ends_with("\n2\n"));
    let third = start("3");
    second.stop();
    assert!(waiting.ask("/version").await.contains("connection: close"));
    waiting.wait_for_close().await;
    second.task.await.unwrap().unwrap();
    assert!(third.connect().await.ask("/version").await.ends_with("\n3\n"));
}

#[tokio::test]
async fn sick_service_says_so() {
    let running = Running::start_alone("unhealthy").await;
    let mut client = running.connect().await;
    assert!(client.ask("/healthz").await.starts_with("http/1.1 500 "));
    assert!(client.ask("/version").await.starts_with("http/1.1 200 "));
    let running = Running::start_alone("answer-500").await;
    assert!(running.connect().await.ask("/version").await.starts_with("http/1.1 500 "));
}
