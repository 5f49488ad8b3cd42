//! Listening sockets that outlive the agent that bound them and each program that serves them.
//!
//! The programs are this test binary again: [`instance`] is their `main`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{Read as _, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use listenfd::ListenFd;
use node_agent::host::{HeldSockets, Launch, SocketAddress, SocketsError};
use node_agent::process::ProcessIdentity;
use node_agent::state::AppDir;
use rustix::process::Signal;

use crate::rig;

const INSTANCE_VARIABLE: &str = "TEST_SOCKETS_INSTANCE";

/// Only reached by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves on the sockets that it was handed until it is killed; does nothing as a test.
#[test]
fn instance() {
    let Ok(greeting) = env::var(INSTANCE_VARIABLE) else { return };
    let names = env::var("LISTEN_FDNAMES").unwrap();
    assert_eq!(env::var("LISTEN_PID").unwrap(), std::process::id().to_string());
    let answer = format!("{greeting} {} {names}", std::process::id());
    // Takes nothing if LISTEN_PID or LISTEN_FDS are wrong.
    let mut passed = ListenFd::from_env();
    assert_eq!(passed.len(), 3);
    let udp = passed.take_udp_socket(0).unwrap().unwrap();
    let tcp = passed.take_tcp_listener(1).unwrap().unwrap();
    let unix = passed.take_unix_listener(2).unwrap().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok((_, from)) = udp.recv_from(&mut [0; 9]) {
                udp.send_to(answer.as_bytes(), from).unwrap();
            }
        });
        scope.spawn(|| unix.incoming().for_each(|stream| give(stream.unwrap(), &answer)));
        tcp.incoming().for_each(|stream| give(stream.unwrap(), &answer));
    });
}

fn give(mut stream: impl Write, answer: &str) {
    stream.write_all(answer.as_bytes()).unwrap();
}

struct Instance {
    child: Child,
    identity: ProcessIdentity,
}

impl Instance {
    fn start(held: &HeldSockets, greeting: &str) -> Self {
        let program = env::current_exe().unwrap().to_str().unwrap().to_owned();
        let arguments = rig::only_test(module_path!(), "instance");
        let launch = Launch {
            exec: [vec![program], arguments.into()].concat(),
            environment: [(INSTANCE_VARIABLE.into(), greeting.into())].into(),
            sockets: exact(held),
            ..rig::launch(&[])
        };
        let app = AppDir::new("/nonexistent".into());
        let mut recipe = launch.recipe(rig::build(1), Path::new("/"), &app).unwrap();
        recipe.hand_over(held).unwrap();
        let started = recipe.start([Stdio::null(), Stdio::inherit()], |_, _| ()).unwrap();
        Self { child: started.child, identity: started.identity }
    }

    fn says(&self, greeting: &str) -> String {
        format!("{greeting} {} dns:http:web", self.child.id())
    }

    fn end(&mut self) {
        self.identity.signal_group(Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.end();
    }
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn wanted(folder: &Path) -> BTreeMap<String, SocketAddress> {
    [
        ("http".into(), SocketAddress::Tcp(any_port())),
        ("dns".into(), SocketAddress::Udp(any_port())),
        ("web".into(), SocketAddress::Unix(folder.join("web.sock"))),
    ]
    .into()
}

/// The configuration of an operator who knows which ports the system chose.
fn exact(held: &HeldSockets) -> BTreeMap<String, SocketAddress> {
    ["dns", "http", "web"].map(|name| (name.into(), held.address(name).unwrap())).into()
}

fn tcp(wanted: &BTreeMap<String, SocketAddress>) -> TcpStream {
    let SocketAddress::Tcp(address) = wanted["http"] else { panic!("{wanted:?}") };
    TcpStream::connect_timeout(&address, PATIENCE).unwrap()
}

fn answer_of(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn unix_answer(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn udp_answer(address: SocketAddr) -> String {
    let socket = UdpSocket::bind(any_port()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"?", address).unwrap();
    let mut answer = [0; 100];
    let length = socket.recv(&mut answer).unwrap();
    String::from_utf8(answer[..length].into()).unwrap()
}

fn failure(wanted: &BTreeMap<String, SocketAddress>) -> String {
    let error = HeldSockets::open(wanted, None).unwrap_err();
    assert!(matches!(error, SocketsError::Listen { .. }), "{error:?}");
    error.to_string()
}

fn one(name: &str, address: SocketAddress) -> BTreeMap<String, SocketAddress> {
    [(name.into(), address)].into()
}

/// Goal: no connection is refused or lost while agent and program are replaced one after the other.
/// Method: an agent's sockets are handed to a program and dropped; the next agent takes them from
/// the program, which is killed; a connection made meanwhile is answered by the next program.
#[test]
fn sockets_outlive_the_agent_and_each_program() {
    let folder = tempfile::tempdir().unwrap();
    let held = HeldSockets::open(&wanted(folder.path()), None).unwrap();
    let wanted = exact(&held);
    let waiting = tcp(&wanted);
    let mut first = Instance::start(&held, "first");
    assert_eq!(answer_of(waiting), first.says("first"));

    // The agent dies. Its program serves on, and nobody else can listen there.
    drop(held);
    assert_eq!(answer_of(tcp(&wanted)), first.says("first"));
    let (http, web) = (one("http", wanted["http"].clone()), one("web", wanted["web"].clone()));
    let words = format!("Address already in use (os error 98); process {} (", first.child.id());
    assert!(failure(&http).contains(&words), "{}", failure(&http));
    assert!(failure(&web).contains("; process "), "{}", failure(&web));

    let held = HeldSockets::open(&wanted, Some(&first.identity)).unwrap();
    assert_eq!(exact(&held), wanted);
    first.end();
    let waiting = tcp(&wanted);
    let second = Instance::start(&held, "second");
    assert_eq!(answer_of(waiting), second.says("second"));
    let SocketAddress::Unix(path) = &wanted["web"] else { panic!("{wanted:?}") };
    assert_eq!(unix_answer(path), second.says("second"));
    let SocketAddress::Udp(address) = wanted["dns"] else { panic!("{wanted:?}") };
    assert_eq!(udp_answer(address), second.says("second"));
}

#[test]
fn changed_configuration_keeps_the_sockets_that_stay() {
    let folder = tempfile::tempdir().unwrap();
    let held = HeldSockets::open(&wanted(folder.path()), None).unwrap();
    let mut changed = exact(&held);
    let mut first = Instance::start(&held, "first");
    assert_eq!(answer_of(tcp(&changed)), first.says("first"));
    drop(held);

    changed.insert("web".into(), SocketAddress::Unix(folder.path().join("other.sock")));
    let next = HeldSockets::open(&changed, Some(&first.identity)).unwrap();
    assert_eq!(exact(&next), changed);
    first.end();
    // A connection that nobody has accepted yet stays with the socket that is kept.
    let waiting = tcp(&changed);
    let instance = Instance::start(&next, "next");
    assert_eq!(answer_of(waiting), instance.says("next"));
    assert_eq!(unix_answer(&folder.path().join("other.sock")), instance.says("next"));
    assert!(UnixStream::connect(folder.path().join("web.sock")).is_err());
}

#[test]
fn only_a_stale_socket_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.sock");
    let wanted = one("web", SocketAddress::Unix(path.clone()));
    let other = UnixListener::bind(&path).unwrap();
    let words = failure(&wanted);
    assert!(words.contains(&format!("; process {} (", std::process::id())), "{words}");
    UnixStream::connect(&path).unwrap();
    drop(other);
    let held = HeldSockets::open(&wanted, None).unwrap();
    UnixStream::connect(&path).unwrap();
    drop(held);

    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    let words = failure(&wanted);
    assert!(
        words.ends_with("the file is not a socket; remove it or choose another path"),
        "{words}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn refusals_say_what_to_do() {
    let other = TcpListener::bind(any_port()).unwrap();
    let address = other.local_addr().unwrap();
    let own = std::process::id();
    let words = failure(&one("http", SocketAddress::Tcp(address)));
    let start = format!(
        "cannot listen on {address} (socket http): Address already in use (os error 98); process {own} ("
    );
    assert!(words.starts_with(&start), "{words}");
    let other = UdpSocket::bind(any_port()).unwrap();
    let words = failure(&one("dns", SocketAddress::Udp(other.local_addr().unwrap())));
    assert!(words.contains(&format!("; process {own} (")), "{words}");

    let foreign: SocketAddr = ([192, 0, 2, 1], 80).into();
    let words = failure(&one("http", SocketAddress::Tcp(foreign)));
    assert!(words.ends_with("; this host has no such address"), "{words}");
    for name in ["", "a:b", "a\nb"] {
        let error =
            HeldSockets::open(&one(name, SocketAddress::Tcp(any_port())), None).unwrap_err();
        assert!(matches!(error, SocketsError::Name { .. }), "{error}");
    }
}

#[test]
fn socket_of_a_program_whose_file_was_removed_is_bound_anew() {
    let folder = tempfile::tempdir().unwrap();
    let held = HeldSockets::open(&wanted(folder.path()), None).unwrap();
    let wanted = exact(&held);
    let instance = Instance::start(&held, "first");
    // The program has its sockets once it answers: before, they are those of the shell.
    assert_eq!(answer_of(tcp(&wanted)), instance.says("first"));
    let path = folder.path().join("web.sock");
    fs::remove_file(&path).unwrap();
    drop(held);
    let held = HeldSockets::open(&wanted, Some(&instance.identity)).unwrap();
    UnixStream::connect(&path).unwrap();
    assert_eq!(exact(&held), wanted);
}
