//! The small HTTP service that `shoal demo` deploys: it says which version of itself runs.
//!
//! A program as agents like it: takes its listening socket from the agent (or opens one itself),
//! says when it is ready, and on SIGTERM stops without losing a request (`http`). If its build says
//! so, it is one of the programs that agents have to live with (`behaviour`). Runs from the root of
//! its build, which holds the file [`VERSION_FILE`].

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::Context as _;
use command_line::{Hangup, Signals};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::TcpListener;

mod behaviour;
mod http;
mod service;

use behaviour::Behaviour;
pub use behaviour::{BEHAVIOUR_FILE, Behaviours};
pub use http::{Listening, serve};
pub use service::{Identity, Service, VERSION_FILE};

/// The name under which the service's executable lies in a build.
pub const PROGRAM: &str = "demo-service";

/// Which of the sockets that an agent hands over is meant, if there are several with names.
pub const SOCKET_NAME: &str = "http";

/// Why the arguments are not those of the service.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "usage: {PROGRAM} --listen IP:PORT (or none, with a socket handed over in LISTEN_FDS){}",
    given.as_ref().map_or_else(String::new, |given| format!("; found {given:?}"))
)]
struct ArgumentError {
    /// What was found in place of the address; `None` if nothing was.
    given: Option<String>,
}

/// Runs the service as a process: `arguments` are those behind the program's name. Prints one line
/// with its address once it answers there. Ends on SIGTERM or SIGINT.
///
/// # Errors
///
/// If the arguments are wrong, the version file is missing or the address is taken; the text says
/// what to do. Also if its behaviour is to crash.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let mut handed_over = take_socket().context("cannot use the socket in LISTEN_FDS")?;
    let listen = parse_listen(arguments)?;
    if listen.is_none() && handed_over.is_none() {
        return Err(ArgumentError { given: None }.into());
    }
    let root = find_root();
    let identity = Identity::load(&root).with_context(|| {
        let path = root.join(VERSION_FILE);
        format!("cannot read {}; start {PROGRAM} in the root of its build", path.display())
    })?;
    let behaviours = Behaviours::load(&root).context("cannot tell how to behave")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::catch(Hangup::Uncaught)?;
        let ignores = behaviours.has(Behaviour::IgnoreTerm);
        let mut stop = async || {
            if ignores {
                std::future::pending::<()>().await;
            }
            signals.stop().await;
        };
        let leaked = begin(&behaviours)?;
        tokio::select! {
            () = get_ready(&behaviours) => {}
            () = stop() => return Ok(()),
        }
        let listening = match handed_over.take() {
            Some(socket) => Listening { socket: TcpListener::from_std(socket)?, is_shared: true },
            None => listen_on(listen.expect("one of both was given")).await?,
        };
        let address = listening.socket.local_addr().context("cannot tell the address")?;
        writeln!(io::stdout(), "listening on {address}").context("cannot print the address")?;
        if behaviours.has(Behaviour::FillLog) {
            std::thread::spawn(|| print_lines(Duration::ZERO));
        }
        if let Some(time) = behaviours.chatty() {
            std::thread::spawn(move || print_lines(time));
        }
        if !behaviours.has(Behaviour::HangHealth) {
            say(&[NotifyState::Ready]);
        }
        let crash = crash(behaviours.crash_after());
        let stopped = async {
            stop().await;
            say(&[NotifyState::Stopping]);
        };
        let served = tokio::select! {
            served = serve(listening, Service { identity, behaviours }, stopped) => served,
            crashed = crash => return crashed,
        };
        // The child is leaked on purpose.
        drop(leaked);
        served.context("the service's socket failed")
    })
}

/// Misbehaves as soon as it runs. Returns the child that it leaks.
fn begin(behaviours: &Behaviours) -> anyhow::Result<Option<Child>> {
    anyhow::ensure!(!behaviours.has(Behaviour::CrashAtStart), "crashed at the start, as told");
    if !behaviours.has(Behaviour::LeakChild) {
        return Ok(None);
    }
    let script = "trap '' TERM; while :; do sleep 60; done";
    let child = Command::new("/bin/sh").args(["-c", script]).spawn();
    child.map(Some).context("cannot start the process to leak")
}

/// Prints line by line with a pause after each; without a pause it is a program that logs an error
/// in a loop.
#[expect(
    clippy::disallowed_methods,
    reason = "the pause is for the pace, there is nothing to wait for"
)]
fn print_lines(pause: Duration) {
    let mut number = 0_u64;
    let mut output = io::stdout();
    while writeln!(output, "error {number}: cannot reach the database, trying again").is_ok() {
        number += 1;
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

/// Waits for the moment at which the service shall listen.
async fn get_ready(behaviours: &Behaviours) {
    if behaviours.has(Behaviour::NeverReady) {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(behaviours.slow_start().unwrap_or(Duration::ZERO)).await;
}

async fn crash(after: Option<Duration>) -> anyhow::Result<()> {
    match after {
        Some(after) => tokio::time::sleep(after).await,
        None => std::future::pending().await,
    }
    anyhow::bail!(
        "crashed after {}, as told",
        humantime::format_duration(after.unwrap_or_default())
    )
}

async fn listen_on(address: SocketAddr) -> anyhow::Result<Listening> {
    let socket = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; choose a free address with --listen")
    })?;
    Ok(Listening { socket, is_shared: false })
}

/// Notifies whoever started the service, if it wants to know.
fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        // Only the log is left to say it in; a service does not fail because nobody listens.
        drop(writeln!(io::stderr(), "{PROGRAM}: cannot write to NOTIFY_SOCKET: {error}"));
    }
}

/// The socket that was handed over, if any: the one with our name, or else the first.
fn take_socket() -> io::Result<Option<std::net::TcpListener>> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let index = names.split(':').position(|name| name == SOCKET_NAME).unwrap_or(0);
    let Some(socket) = ListenFd::from_env().take_tcp_listener(index)? else { return Ok(None) };
    socket.set_nonblocking(true)?;
    Ok(Some(socket))
}

/// Accepts `--listen ADDRESS` and `--listen=ADDRESS`, or nothing.
fn parse_listen(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Option<SocketAddr>, ArgumentError> {
    let texts: Vec<String> =
        arguments.into_iter().map(|text| text.to_string_lossy().into_owned()).collect();
    let address = match texts.as_slice() {
        [] => return Ok(None),
        [flag, address] if flag == "--listen" => Some(address.as_str()),
        [joined] => joined.strip_prefix("--listen="),
        _ => None,
    };
    let address = address.and_then(|address| address.parse().ok());
    address.map(Some).ok_or_else(|| ArgumentError { given: Some(texts.join(" ")) })
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
mod tests;
