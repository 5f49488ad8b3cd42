//! Programs that speak for themselves, strangers that try to, and agents that come and go.
//!
//! The programs are this test binary again: [`speaker`] is their `main`.

use std::env;
use std::io::{IoSlice, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{ControlMessage, MsgFlags};
use node_agent::host::{NotifyMessage, NotifySocket};
use node_agent::process::ProcessIdentity;
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;

use crate::rig::{Rig, only_test, within};

const SPEAKER_VARIABLE: &str = "TEST_NOTIFY_SPEAKER";

/// Sends each line of its stdin as a message, `;` standing for the end of a line; then waits to be
/// killed. Does nothing as a test.
#[test]
fn speaker() {
    if env::var_os(SPEAKER_VARIABLE).is_none() {
        return;
    }
    for line in std::io::stdin().lines() {
        let name = env::var("NOTIFY_SOCKET").unwrap();
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).unwrap(),
            None => SocketAddr::from_pathname(&name).unwrap(),
        };
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to_addr(line.unwrap().replace(';', "\n").as_bytes(), &address).unwrap();
    }
}

struct Speaker {
    child: Child,
    identity: ProcessIdentity,
}

impl Speaker {
    fn start(socket: &NotifySocket) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(only_test(module_path!(), "speaker")).env(SPEAKER_VARIABLE, "1");
        command.env("NOTIFY_SOCKET", socket.address());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let child = command.spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        Self { child, identity }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_ref().unwrap(), "{line}").unwrap();
    }

    fn message(&self) -> NotifyMessage {
        NotifyMessage { pid: self.child.id(), ..NotifyMessage::default() }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.identity.signal_group(Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn program_is_heard_and_a_stranger_is_not() {
    let rig = Rig::new();
    let path = rig.path().join("notify");
    let socket = NotifySocket::bind(&path, None).unwrap();
    let stranger = UnixDatagram::unbound().unwrap();
    stranger.send_to(b"READY=1", &path).unwrap();
    let mut speaker = Speaker::start(&socket);
    // What it says before the agent knows who it is waits.
    speaker.say("READY=1;STATUS=serving");
    socket.listen_to(&speaker.identity);
    let message = within(socket.next()).await.unwrap();
    assert_eq!(
        message,
        NotifyMessage { is_ready: true, status: Some("serving".into()), ..speaker.message() }
    );

    stranger.send_to(b"STOPPING=1", &path).unwrap();
    let own = std::process::id();
    speaker.say(&format!("RELOADING=1;MAINPID={own}"));
    let message = within(socket.next()).await.unwrap();
    assert_eq!(message, NotifyMessage { is_reloading: true, ..speaker.message() }, "not ours");
    let pid = speaker.child.id();
    speaker.say(&format!("{}\nSTOPPING=1;MAINPID={pid}", "x".repeat(5000)));
    let message = within(socket.next()).await.unwrap();
    let expected = NotifyMessage { is_stopping: true, main_pid: Some(pid), ..speaker.message() };
    assert_eq!(message, expected);
}

/// Goal: a program that was started by an earlier agent is heard by the next one, at any path.
/// Method: the socket is dropped and bound again, once as a file and once where the path is longer
/// than the address of a socket may be.
#[tokio::test]
async fn program_is_heard_by_the_next_agent() {
    let rig = Rig::new();
    for name in ["notify".into(), "n".repeat(200)] {
        let path = rig.path().join(name);
        let socket = NotifySocket::bind(&path, None).unwrap();
        let mut speaker = Speaker::start(&socket);
        socket.listen_to(&speaker.identity);
        speaker.say("STATUS=first");
        assert_eq!(within(socket.next()).await.unwrap().status.unwrap(), "first");
        drop(socket);

        let socket = NotifySocket::bind(&path, None).unwrap();
        socket.listen_to(&speaker.identity);
        speaker.say("STATUS=second");
        assert_eq!(within(socket.next()).await.unwrap().status.unwrap(), "second");
        socket.remove().unwrap();
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn child_of_the_program_is_heard() {
    let rig = Rig::new();
    let socket = NotifySocket::bind(&rig.path().join("notify"), None).unwrap();
    // A shell that waits for the program, as a wrapper script does.
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" \"$@\"; exit", env::current_exe().unwrap().to_str().unwrap()]);
    command.args(only_test(module_path!(), "speaker")).env(SPEAKER_VARIABLE, "1");
    command.env("NOTIFY_SOCKET", socket.address());
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn();
    let child = child.unwrap();
    let identity = ProcessIdentity::of(child.id()).unwrap();
    let mut speaker = Speaker { child, identity };
    socket.listen_to(&speaker.identity);
    speaker.say("READY=1");
    let message = within(socket.next()).await.unwrap();
    assert!(message.is_ready);
    assert_ne!(message.pid, speaker.child.id());
}

/// Goal: `systemd-notify` returns, which waits until a descriptor that it sent is closed.
/// Method: this process is a member of its own group; the other end of a pipe is sent along.
#[tokio::test]
async fn descriptors_that_come_with_a_message_are_closed() {
    let rig = Rig::new();
    let path = rig.path().join("notify");
    let socket = NotifySocket::bind(&path, None).unwrap();
    let group = rustix::process::getpgrp().as_raw_nonzero().get();
    let Ok(group) = ProcessIdentity::of(u32::try_from(group).unwrap()) else {
        // The leader of the test runner's group is gone: there is no program to play.
        return;
    };
    socket.listen_to(&group);
    let (reader, writer) = std::io::pipe().unwrap();
    send_with(&path, b"READY=1\nBARRIER=1", &writer.into());
    let message = within(socket.next()).await.unwrap();
    assert_eq!((message.pid, message.is_ready), (std::process::id(), true));
    let reader = OwnedFd::from(reader);
    let mut reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader).unwrap();
    assert_eq!(within(reader.read(&mut [0])).await.unwrap(), 0, "the descriptor is still open");
}

fn send_with(path: &Path, text: &[u8], descriptor: &OwnedFd) {
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(path).unwrap();
    let passed = [descriptor.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&passed)];
    let parts = [IoSlice::new(text)];
    let flags = MsgFlags::empty();
    nix::sys::socket::sendmsg::<()>(socket.as_raw_fd(), &parts, &control, flags, None).unwrap();
}
