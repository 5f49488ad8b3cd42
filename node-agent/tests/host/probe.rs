//! Probes against real listeners that answer well, badly, slowly, or not at all.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use node_agent::host::{Probe, ProbeCaller, check_as, check_probe};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::rig::{Rig, use_starter, within};

const PATIENT: Duration = Duration::from_secs(30);

/// Listens on a free port, reads one request and answers with `answer`; keeps the connection open
/// if `stays`, as a server does that ignores `Connection: close`.
async fn server(answer: &'static [u8], stays: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![];
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        assert!(request.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
        assert!(request.contains("connection: close\r\n"), "{request}");
        stream.write_all(answer).await.unwrap();
        if stays {
            std::future::pending::<()>().await;
        }
    });
    address
}

fn http(address: SocketAddr) -> Probe {
    Probe::Http { address, path: "/healthz?deep=1".into() }
}

async fn ask(probe: &Probe, timeout: Duration) -> Result<(), String> {
    let answer = within(check_probe(probe, Path::new("/"), timeout)).await;
    answer.map_err(|failure| failure.to_string())
}

/// A port that nobody listens on now.
async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn http_answer_is_judged_by_its_status() {
    let good: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 399 Odd\r\nlocation: /\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nendless",
    ];
    for answer in good {
        ask(&http(server(answer, true).await), PATIENT).await.unwrap();
    }
    let bad: [(&[u8], &str); 4] = [
        (
            b"HTTP/1.1 500 Oops\r\ncontent-length: 17\r\n\r\n\n\nno database\nmore",
            "500 Internal Server Error: no database",
        ),
        (
            b"HTTP/1.1 503 x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nstar\r\n5\r\nting\n\r\n",
            "503 Service Unavailable: starting",
        ),
        (b"HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.1 400 x\r\n\r\n\x1b[31mbad\x07\n", "400 Bad Request: [31mbad"),
    ];
    for (answer, words) in bad {
        let address = server(answer, true).await;
        let failure = ask(&http(address), PATIENT).await.unwrap_err();
        assert_eq!(failure, format!("GET http://{address}/healthz?deep=1: answered {words}"));
    }
}

#[tokio::test]
async fn http_server_that_does_not_answer_is_not_mistaken_for_one_that_is_not_there() {
    let address = closed().await;
    let failure = ask(&http(address), PATIENT).await.unwrap_err();
    assert_eq!(failure, format!("GET http://{address}/healthz?deep=1: connection refused"));

    let failure = ask(&http(server(b"", true).await), Duration::from_millis(20)).await.unwrap_err();
    assert!(failure.ends_with(": no answer within 20ms"), "{failure}");
    // The status is reported although the body does not come to an end.
    let slow = server(b"HTTP/1.1 500 x\r\n\r\nhalf a line", true).await;
    let failure = ask(&http(slow), Duration::from_millis(20)).await.unwrap_err();
    assert!(failure.ends_with(": answered 500 Internal Server Error: half a line"), "{failure}");

    for answer in [b"".as_slice(), b"SSH-2.0-OpenSSH\r\n"] {
        let failure = ask(&http(server(answer, false).await), PATIENT).await.unwrap_err();
        assert!(failure.contains(": connected, but no answer: "), "{failure}");
    }
}

#[tokio::test]
async fn tcp_probe_needs_only_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    ask(&Probe::Tcp { address }, PATIENT).await.unwrap();
    drop(listener);
    let failure = ask(&Probe::Tcp { address }, PATIENT).await.unwrap_err();
    assert_eq!(failure, format!("TCP {address}: connection refused"));
}

#[tokio::test]
async fn command_probe_is_judged_by_its_exit_code_and_killed_at_once_when_late() {
    let rig = Rig::new();
    rig.script("check", "echo $1; exit $1");
    rig.script("hang", "trap '' TERM; while :; do sleep 60; done");
    let ask = async |exec: &[&str], timeout| {
        let exec = exec.iter().copied().map(String::from).collect();
        within(check_probe(&Probe::Command { exec }, &rig.root, timeout)).await
    };
    ask(&["./check", "0"], PATIENT).await.unwrap();
    let failure = ask(&["./check", "7"], PATIENT).await.unwrap_err().to_string();
    assert_eq!(failure, "./check 7: ended with exit code 7; its last output: 7");
    let failure = ask(&["./hang"], Duration::from_millis(50)).await.unwrap_err().to_string();
    assert_eq!(failure, "./hang: did not end within 50ms and was killed");
}

#[tokio::test]
async fn program_that_speaks_for_itself_is_not_asked() {
    ask(&Probe::Notify, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn command_probe_runs_as_the_user_of_the_app() {
    if !rustix::process::geteuid().is_root() {
        // Nothing can be started as somebody else: a test of `user` covers the refusal.
        return;
    }
    use_starter();
    let variables = [("SHOAL_APP".into(), "web".into())].into();
    let caller = ProbeCaller { user: Some("nobody".into()), variables };
    let exec = ["sh", "-c", "echo $(id -un) $SHOAL_APP; exit 1"].map(String::from).into();
    let probe = Probe::Command { exec };
    let answer = within(check_as(&probe, Path::new("/"), PATIENT, &caller)).await;
    let failure = answer.unwrap_err().to_string();
    assert!(failure.ends_with("ended with exit code 1; its last output: nobody web"), "{failure}");
}
