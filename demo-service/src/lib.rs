//! The small HTTP service that `shoal demo` deploys: it says which version of itself runs.
//!
//! Owns one listening socket. What it says is read once at the start, so that a running service
//! keeps telling the version it was started as, even after its files were replaced. Runs from the
//! root of its build, which holds the file [`VERSION_FILE`].

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The name under which the service's executable lies in a build.
pub const PROGRAM: &str = "demo-service";

/// The file in the root of the build that holds the version, one line.
pub const VERSION_FILE: &str = "VERSION";

/// How long open requests may go on after SIGTERM: shorter than the grace an agent gives before
/// it kills, long enough for any answer of this service.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What the service tells about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The text of the version file, without surrounding white space.
    pub version: String,
    /// The host's name; `SHOAL_HOST`, or else the system's name.
    pub host: String,
    /// The build it was started from; `SHOAL_BUILD`, or `unknown`.
    pub build: String,
}

/// Why the arguments are not those of the service.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("usage: {PROGRAM} --listen IP:PORT{}", given.as_ref().map_or_else(String::new, |given| format!("; found {given:?}")))]
pub struct ArgumentError {
    /// What was found in place of the address; `None` if nothing was.
    given: Option<String>,
}

impl Identity {
    /// Reads the version of the build whose root is `root`, and host and build from the
    /// environment.
    ///
    /// # Errors
    ///
    /// If the version file cannot be read.
    pub fn load(root: &Path) -> io::Result<Self> {
        let system_name = || fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let host = env::var("SHOAL_HOST").ok().or_else(system_name);
        Ok(Self {
            version: fs::read_to_string(root.join(VERSION_FILE))?.trim().to_owned(),
            host: host.map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned()),
            build: env::var("SHOAL_BUILD").unwrap_or_else(|_| "unknown".to_owned()),
        })
    }
}

/// Answers `GET /version`, `GET /healthz` and `GET /` on `listener` until `stop` is ready, then
/// finishes open requests.
///
/// # Errors
///
/// If the socket fails.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let Identity { version, host, build } = identity;
    let line = format!("version {version} on {host}, build {build}\n");
    let version = format!("{version}\n");
    let routes = Router::new()
        .route("/", get(move || async { line }))
        .route("/version", get(move || async { version }))
        .route("/healthz", get(|| async { "ok\n" }));
    axum::serve(listener, routes).with_graceful_shutdown(stop).await
}

/// Runs the service as a process: `arguments` are those behind the program's name. Prints one line
/// with its address once it answers there. Ends on SIGTERM or SIGINT.
///
/// # Errors
///
/// If the arguments are wrong, the version file is missing or the address is taken; the text says
/// what to do.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let listen = parse_listen(arguments)?;
    let root = find_root();
    let identity = Identity::load(&root).with_context(|| {
        let path = root.join(VERSION_FILE);
        format!("cannot read {}; start {PROGRAM} in the root of its build", path.display())
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot listen on {listen}; choose a free address with --listen")
        })?;
        let address = listener.local_addr().context("cannot tell the address")?;
        writeln!(io::stdout(), "listening on {address}").context("cannot print the address")?;
        let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = serve(listener, identity, async {
            // An error means that the sender is gone, which is a reason to stop as well.
            drop(stopped.await);
        });
        let limit = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            drop(stopping);
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            served = serving => served.context("the service's socket failed"),
            () = limit => Ok(()),
        }
    })
}

/// Accepts `--listen ADDRESS` and `--listen=ADDRESS`, nothing else.
fn parse_listen(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<SocketAddr, ArgumentError> {
    let texts: Vec<String> =
        arguments.into_iter().map(|text| text.to_string_lossy().into_owned()).collect();
    let address = match texts.as_slice() {
        [flag, address] if flag == "--listen" => Some(address.as_str()),
        [joined] => joined.strip_prefix("--listen="),
        _ => None,
    };
    address
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| ArgumentError { given: (!texts.is_empty()).then(|| texts.join(" ")) })
}

/// The working directory if the version file is there, else the directory of the executable.
fn find_root() -> PathBuf {
    if Path::new(VERSION_FILE).exists() {
        return PathBuf::from(".");
    }
    let executable = env::current_exe().ok();
    executable.as_deref().and_then(Path::parent).map_or_else(|| PathBuf::from("."), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    fn strings(arguments: &[&str]) -> Vec<OsString> {
        arguments.iter().map(OsString::from).collect()
    }

    #[test]
    fn arguments_are_one_address() {
        let address = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(parse_listen(strings(&["--listen", "127.0.0.1:8080"])), Ok(address));
        assert_eq!(parse_listen(strings(&["--listen=127.0.0.1:8080"])), Ok(address));
        let wrong: [&[&str]; 4] =
            [&[], &["--listen"], &["--listen", "8080"], &["--listen", "127.0.0.1:1", "more"]];
        for arguments in wrong {
            let error = parse_listen(strings(arguments)).unwrap_err();
            assert!(error.to_string().contains("--listen IP:PORT"), "{error}");
            assert_eq!(error.given.is_none(), arguments.is_empty(), "{error}");
        }
    }

    #[test]
    fn version_is_read_from_the_root_of_the_build() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Identity::load(folder.path()).is_err());
        fs::write(folder.path().join(VERSION_FILE), "2\n").unwrap();
        assert_eq!(Identity::load(folder.path()).unwrap().version, "2");
    }

    /// Goal: each path answers over a real socket, and the service ends when told.
    /// Method: plain HTTP requests on a free port; the task must end after the stop.
    #[tokio::test]
    async fn service_answers_and_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity =
            Identity { version: "7".into(), host: "host-3".into(), build: "ab12".into() };
        let (stop, stopped) = oneshot::channel::<()>();
        let service = tokio::spawn(serve(listener, identity, async {
            drop(stopped.await);
        }));

        let cases = [
            ("/version", "200 OK", "7\n"),
            ("/healthz", "200 OK", "ok\n"),
            ("/", "200 OK", "version 7 on host-3, build ab12\n"),
            ("/other", "404 Not Found", ""),
        ];
        for (path, status, body) in cases {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
        }

        stop.send(()).unwrap();
        service.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
