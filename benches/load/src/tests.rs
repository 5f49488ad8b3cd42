//! What is counted as what, against small services that each do one thing wrong.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1\n";

fn plan(address: SocketAddr, new_percent: u32) -> Plan {
    Plan {
        address,
        path: "/".into(),
        rate: 200,
        duration: Duration::from_millis(200),
        pool: 4,
        new_percent,
        timeout: Duration::from_mins(1),
    }
}

/// Asks a service that does `serve` with each connection.
async fn report_of<F>(new_percent: u32, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Report
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let report = run(plan(address, new_percent), std::future::pending()).await;
    service.abort();
    assert_eq!(report.sent, 40);
    assert_eq!(report.answered + report.failures(), report.sent, "{report:?}");
    report
}

/// Answers up to `count` requests with `answer`.
async fn answer_times(stream: &mut TcpStream, answer: &[u8], count: usize) {
    let mut request = [0; 512];
    for _ in 0..count {
        if stream.read(&mut request).await.unwrap_or_default() == 0 {
            return;
        }
        stream.write_all(answer).await.unwrap();
    }
}

#[tokio::test]
async fn answers_are_counted_by_version_and_connections_are_kept() {
    let serve = |mut stream| async move { answer_times(&mut stream, ANSWER, 100).await };
    let report = report_of(25, serve).await;
    assert_eq!(report.answered, 40, "{report:?}");
    let [version] = report.versions.as_slice() else { panic!("{report:?}") };
    assert_eq!((version.version.as_str(), version.answers), ("1", 40));
    assert!(report.longest_gap_ms > 0.0 && report.latency_ms.max >= report.latency_ms.median);
    // Ten of their own. The pool grows past its four only while all of them are in use.
    assert!((14..40).contains(&report.connections), "{report:?}");
    assert_eq!(report.closed_idle, 0);
}

/// Goal: a connection that is closed under a request is a failure, one that is closed before is
/// not.
#[tokio::test]
async fn connections_that_end_are_distinguished() {
    let closing = |mut stream| async move { answer_times(&mut stream, ANSWER, 1).await };
    let report = report_of(100, closing).await;
    assert_eq!(report.answered, 40, "{report:?}");

    let silent = |mut stream: TcpStream| async move {
        drop(stream.read(&mut [0; 512]).await);
    };
    let report = report_of(50, silent).await;
    assert_eq!(report.failed, BTreeMap::from([(Failure::Closed, 40)]), "{report:?}");
    assert!(report.samples[0].contains("0 bytes"), "{report:?}");

    let polite = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let serve = move |mut stream| async move { answer_times(&mut stream, polite, 1).await };
    let report = report_of(0, serve).await;
    assert_eq!((report.answered, report.told_to_close), (40, 40), "{report:?}");
}

#[tokio::test]
async fn errors_and_nonsense_are_failures() {
    for (answer, failure) in [
        (&b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"[..], Failure::ServerError),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", Failure::Strange),
        (b"hello\r\n\r\n", Failure::Strange),
    ] {
        let serve = move |mut stream| async move { answer_times(&mut stream, answer, 1).await };
        let report = report_of(50, serve).await;
        assert_eq!(report.failed, BTreeMap::from([(failure, 40)]), "{report:?}");
    }
}

#[tokio::test]
async fn nobody_there_is_a_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let report = run(plan(address, 50), std::future::pending()).await;
    assert_eq!(report.failed, BTreeMap::from([(Failure::Refused, 40)]), "{report:?}");
}

/// Goal: a service that stands still gets the same number of requests.
#[tokio::test]
async fn rate_does_not_depend_on_the_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plan = Plan { timeout: Duration::from_millis(50), ..plan(address, 50) };
    let report = run(plan, std::future::pending()).await;
    assert_eq!(report.failed, BTreeMap::from([(Failure::TimedOut, 40)]), "{report:?}");
}
