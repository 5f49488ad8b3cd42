//! What programs say of themselves over `NOTIFY_SOCKET`, as they would to systemd (`sd_notify`).
//!
//! Owns the socket of one running program. Invariant: a message counts only if the kernel vouches
//! that it comes from the program's own process group and user. A program leads a session of its
//! own, and nobody joins a group of another session: whoever is in the group descends from the
//! program. The user decides about programs of earlier agents, which share a session.
//!
//! Only the socket's address outlives the agent: an adopted program keeps its `NOTIFY_SOCKET`, and
//! the next agent binds the same path again.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{SocketAddr, UnixDatagram as StdUnixDatagram};
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, sockopt};
use p2p_core::Digest;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::watch;
use tracing::debug;

use crate::host::hook::readable_line;
use crate::process::ProcessIdentity;

/// Longest path of a socket: what `sockaddr_un` holds, less the zero that ends it.
const PATH_BYTES_MAX: usize = 107;

/// Longest message, as in systemd. A longer one is dropped whole.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Most descriptors that the kernel lets one message carry (`SCM_MAX_FD`). Room for all of them: if
/// a message is cut, the credentials in it cannot be read either.
const DESCRIPTORS_MAX: usize = 253;

/// The socket on which one program is heard.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    address: Address,
    program: watch::Sender<Option<ProcessIdentity>>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Address {
    Path(PathBuf),
    /// A name outside the file system, for paths that are too long.
    Abstract(String),
}

/// One message of a program. Assignments that the agent does not know are left out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "one message may carry any of the assignments")]
pub struct NotifyMessage {
    /// The process that sent it, of the program's group.
    pub pid: u32,
    /// `READY=1`: it serves, or it has read its configuration again.
    pub is_ready: bool,
    /// `STOPPING=1`: it is about to end.
    pub is_stopping: bool,
    /// `RELOADING=1`: it reads its configuration again and says ready when it has.
    pub is_reloading: bool,
    /// `STATUS=`: what it does, for people; cut to a readable length.
    pub status: Option<String>,
    /// `MAINPID=`, if it names a process of the group.
    pub main_pid: Option<u32>,
}

/// Who sent a message, by the kernel's word.
#[derive(Clone, Copy, Debug)]
struct Sender {
    pid: u32,
    uid: u32,
}

/// A message as it came, and who sent it.
struct Received {
    text: Vec<u8>,
    sender: Option<Sender>,
    /// Descriptors that came with it. `systemd-notify` waits for them to be closed, so they are
    /// closed only after the sender was looked at.
    descriptors: Vec<RawFd>,
}

impl NotifySocket {
    /// Opens the socket at `path`, in place of what an earlier agent left there.
    ///
    /// A path that is too long for a socket is replaced by an abstract name made of it, so that the
    /// next agent finds the same. The program's user has to be able to enter the folder of `path`.
    /// Only that user may write to the socket's file; everybody if `user` is `None`, for a program
    /// that starts as root and may become somebody else. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn bind(path: &Path, user: Option<u32>) -> io::Result<Self> {
        let address = Address::of(path);
        let socket = match &address {
            Address::Path(path) => {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let socket = StdUnixDatagram::bind(path)?;
                // Others could keep the socket full. Whom the agent believes is another matter.
                let mode = if user.is_some() { 0o600 } else { 0o666 };
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
                if user.is_some_and(|user| user != rustix::process::geteuid().as_raw()) {
                    chown(path, user, None)?;
                }
                socket
            }
            Address::Abstract(name) => {
                StdUnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)?
            }
        };
        nix::sys::socket::setsockopt(&socket, sockopt::PassCred, &true)?;
        socket.set_nonblocking(true)?;
        let socket = UnixDatagram::from_std(socket)?;
        Ok(Self { socket, address, program: watch::Sender::new(None) })
    }

    /// Where the program is to speak, as the value of `NOTIFY_SOCKET`.
    pub fn address(&self) -> OsString {
        match &self.address {
            Address::Path(path) => path.into(),
            Address::Abstract(name) => format!("@{name}").into(),
        }
    }

    /// Whose messages count. Until it is called, messages wait in the socket.
    pub fn listen_to(&self, program: &ProcessIdentity) {
        self.program.send_replace(Some(program.clone()));
    }

    /// Waits for the next message of the program. Those of other processes are dropped.
    ///
    /// # Errors
    ///
    /// If the system refuses to read the socket, which it has no reason for.
    ///
    /// # Cancel safety
    ///
    /// No message is lost if the future is dropped.
    pub async fn next(&self) -> io::Result<NotifyMessage> {
        loop {
            self.program.subscribe().wait_for(Option::is_some).await.map_err(io::Error::other)?;
            let received = self.socket.async_io(Interest::READABLE, || self.receive()).await?;
            let message = self.judge(&received);
            for descriptor in received.descriptors {
                nix::unistd::close(descriptor).expect("the kernel gave it with this message");
            }
            if let Some(message) = message {
                return Ok(message);
            }
        }
    }

    /// Removes the socket's file, for a program that is gone for good.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn remove(self) -> io::Result<()> {
        match &self.address {
            Address::Path(path) => fs::remove_file(path),
            Address::Abstract(_) => Ok(()),
        }
    }

    fn receive(&self) -> io::Result<Received> {
        let mut text = vec![0; MESSAGE_BYTES_MAX + 1];
        let mut control = nix::cmsg_space!(UnixCredentials, [RawFd; DESCRIPTORS_MAX]);
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let raw = self.socket.as_raw_fd();
        let received = nix::sys::socket::recvmsg::<()>(raw, &mut parts, Some(&mut control), flags)?;
        let (mut sender, mut descriptors) = (None, vec![]);
        for part in received.cmsgs()? {
            match part {
                // A process of another pid namespace has the id 0 here.
                ControlMessageOwned::ScmCredentials(of) => {
                    sender = u32::try_from(of.pid()).ok().map(|pid| Sender { pid, uid: of.uid() });
                }
                ControlMessageOwned::ScmRights(passed) => descriptors.extend(passed),
                _ => {}
            }
        }
        let length = received.bytes;
        text.truncate(length);
        Ok(Received { text, sender, descriptors })
    }

    fn judge(&self, received: &Received) -> Option<NotifyMessage> {
        let program = self.program.borrow().clone()?;
        let is_member = |pid| program.has_member(pid).unwrap_or(false);
        let is_own = |sender: &Sender| is_member(sender.pid) && is_user_of(&program, sender.uid);
        let Some(Sender { pid, .. }) = received.sender.filter(is_own) else {
            let (sender, program) = (received.sender, program.pid);
            debug!(
                ?sender,
                program, "a stranger or a process that ended wrote to a program's notify socket"
            );
            return None;
        };
        if received.text.len() > MESSAGE_BYTES_MAX {
            debug!(pid, "the program sent a notification that is too long");
            return None;
        }
        let message = parse(pid, &String::from_utf8_lossy(&received.text));
        Some(NotifyMessage { main_pid: message.main_pid.filter(|pid| is_member(*pid)), ..message })
    }
}

/// Whether `user` may speak for the program. Root may do anything anyway, and a program that gives
/// up being root may leave a child that still is.
fn is_user_of(program: &ProcessIdentity, user: u32) -> bool {
    user == 0 || program.users().is_ok_and(|users| users.contains(&user))
}

impl Address {
    fn of(path: &Path) -> Self {
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() <= PATH_BYTES_MAX {
            return Self::Path(path.into());
        }
        Self::Abstract(format!("shoal/notify/{}", Digest::of(bytes)))
    }
}

fn parse(pid: u32, text: &str) -> NotifyMessage {
    let mut message = NotifyMessage { pid, ..NotifyMessage::default() };
    for line in text.lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => message.is_ready = true,
            Some(("STOPPING", "1")) => message.is_stopping = true,
            Some(("RELOADING", "1")) => message.is_reloading = true,
            Some(("STATUS", status)) => message.status = Some(readable_line(status)),
            Some(("MAINPID", number)) => message.main_pid = number.parse().ok(),
            _ => {}
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_read() {
        let silent = NotifyMessage { pid: 7, ..NotifyMessage::default() };
        for text in ["", "READY=0", "READY", "ready=1", "X_READY=1", "MAINPID=one", "READY=1 "] {
            assert_eq!(parse(7, text), silent, "{text}");
        }
        let text = "READY=1\nSTATUS=3 of 4 \x1b[1mshards\nMAINPID=12\nFDSTORE=1\nRELOADING=1\n";
        let all = NotifyMessage {
            is_ready: true,
            is_reloading: true,
            status: Some("3 of 4 [1mshards".into()),
            main_pid: Some(12),
            ..silent.clone()
        };
        assert_eq!(parse(7, text), all);
        assert_eq!(parse(7, "STOPPING=1"), NotifyMessage { is_stopping: true, ..silent });
    }
}
