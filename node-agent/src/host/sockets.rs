//! The listening sockets of an app: the agent holds them and hands them to each instance, so that
//! connections queue in the kernel while programs change.
//!
//! Owns binding and taking over from the program of an earlier agent. The hand-over to a process is
//! in `crate::host::start`.

mod holder;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::PidfdGetfdFlags;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::process::ProcessIdentity;

/// Where an app listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SocketAddress {
    /// A TCP address, `ADDRESS:PORT` in the configuration.
    Tcp(SocketAddr),
    /// A UDP address, `udp:ADDRESS:PORT` in the configuration.
    Udp(SocketAddr),
    /// A stream socket in the file system, `unix:/PATH` in the configuration.
    Unix(PathBuf),
}

/// Connections that wait in the kernel while programs change; the system's own limit
/// (`net.core.somaxconn`) holds where it is lower.
const BACKLOG: i32 = 4096;

/// First descriptor that is handed over, as `sd_listen_fds` expects it.
pub(crate) const LISTEN_FDS_START: i32 = 3;

/// Below it a port belongs to root, unless the system is configured otherwise.
const UNPRIVILEGED_PORT_MIN: u16 = 1024;

/// The listening sockets of one app, held open.
///
/// As long as this value or a program that has them lives, connections are accepted by the kernel.
/// Dropping it closes the agent's copies only.
#[derive(Debug, Default)]
pub struct HeldSockets {
    sockets: BTreeMap<String, Socket>,
}

/// Why the sockets of an app cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketsError {
    /// The name cannot be handed over in `LISTEN_FDNAMES`.
    #[error(
        "the socket name {name:?} is empty, longer than 255 bytes, or has a colon or a control character"
    )]
    Name {
        /// As configured.
        name: String,
    },
    /// The system refuses to listen there.
    #[error("cannot listen on {address} (socket {name}): {source}{advice}")]
    Listen {
        /// The socket's name.
        name: String,
        /// Where.
        address: SocketAddress,
        /// What the system said.
        #[source]
        source: io::Error,
        /// Who is in the way or what to do, after a semicolon; empty if nothing is known.
        advice: String,
    },
    /// The agent has too many files open.
    #[error("cannot pass the socket {name} on")]
    Duplicate {
        /// The socket's name.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl HeldSockets {
    /// Opens the sockets that an app wants, by name.
    ///
    /// Those that `running` has, the program that an earlier agent started, are taken over from it:
    /// connections that wait in them are not lost. The rest is bound anew. Taking over needs root,
    /// or the program's user where the system lets users look into their own processes.
    ///
    /// # Errors
    ///
    /// The first socket that cannot be had, and why. None is kept open then.
    pub fn open(
        wanted: &BTreeMap<String, SocketAddress>,
        running: Option<&ProcessIdentity>,
    ) -> Result<Self, SocketsError> {
        let mut foreign = Foreign::default();
        if let Some(running) = running.filter(|_| !wanted.is_empty()) {
            foreign.collect(running);
        }
        let mut sockets = BTreeMap::new();
        for (name, address) in wanted {
            if !is_name(name) {
                return Err(SocketsError::Name { name: name.clone() });
            }
            let socket = match foreign.take(address) {
                Some(socket) => socket,
                None => listen(address).map_err(|source| SocketsError::Listen {
                    name: name.clone(),
                    address: address.clone(),
                    advice: advice(address, &source, foreign.refusal.as_ref()),
                    source,
                })?,
            };
            sockets.insert(name.clone(), socket);
        }
        Ok(Self { sockets })
    }

    /// Whether there is nothing to hand over.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Where the socket `name` listens, with the port that the system chose if port 0 was wanted.
    pub fn address(&self, name: &str) -> Option<SocketAddress> {
        self.sockets.get(name).and_then(address_of)
    }

    /// Copies of the sockets in the order of their names, for one process.
    ///
    /// # Errors
    ///
    /// If the agent has too many files open.
    pub(crate) fn copies(&self) -> Result<Vec<OwnedFd>, SocketsError> {
        let copy = |(name, socket): (&String, &Socket)| {
            let copied = socket.as_fd().try_clone_to_owned();
            copied.map_err(|source| SocketsError::Duplicate { name: name.clone(), source })
        };
        self.sockets.iter().map(copy).collect()
    }

    /// The names of [`Self::copies`] as `LISTEN_FDNAMES` has them.
    pub(crate) fn names(&self) -> String {
        let names: Vec<_> = self.sockets.keys().map(String::as_str).collect();
        names.join(":")
    }
}

/// The names that `sd_listen_fds_with_names` can take apart.
fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.contains(|c: char| c == ':' || c.is_control())
}

/// Listening sockets of a running program and its group, copied out of it.
#[derive(Debug, Default)]
struct Foreign {
    sockets: Vec<(SocketAddress, Socket)>,
    /// Why nothing could be copied.
    refusal: Option<io::Error>,
}

impl Foreign {
    fn collect(&mut self, running: &ProcessIdentity) {
        // The leader first: it is the one that got them. A program may have passed them on and
        // closed its own copies.
        let members = running.members().unwrap_or_default();
        for pid in std::iter::once(running.pid).chain(members) {
            match copy_sockets(pid, running) {
                Ok(mut found) => self.sockets.append(&mut found),
                Err(error) => self.refusal = Some(error),
            }
        }
    }

    fn take(&mut self, wanted: &SocketAddress) -> Option<Socket> {
        let index = self.sockets.iter().position(|(address, _)| address == wanted)?;
        if let SocketAddress::Unix(path) = wanted
            && !path.exists()
        {
            // Somebody removed the file: nobody can connect to this socket any more.
            return None;
        }
        Some(self.sockets.swap_remove(index).1)
    }
}

/// The listening sockets of process `pid`, which has to be of the group of `running`.
fn copy_sockets(pid: u32, running: &ProcessIdentity) -> io::Result<Vec<(SocketAddress, Socket)>> {
    let Some(handle) = ProcessIdentity::of(pid)?.open()? else { return Ok(vec![]) };
    // After the handle was taken: from here on it is this process or none.
    if !running.has_member(pid)? {
        return Ok(vec![]);
    }
    let mut found = vec![];
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let (true, Some(number)) = (is_socket, number) else { continue };
        match rustix::process::pidfd_getfd(&handle, number, PidfdGetfdFlags::empty()) {
            Ok(copy) => {
                let socket = Socket::from(copy);
                found.extend(address_of(&socket).map(|address| (address, socket)));
            }
            // Closed since.
            Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Where `socket` listens; `None` for connections and other kinds.
fn address_of(socket: &Socket) -> Option<SocketAddress> {
    let address = socket.local_addr().ok()?;
    let is_stream = socket.r#type().ok()? == Type::STREAM;
    if is_stream && !socket.is_listener().ok()? {
        return None;
    }
    match address.as_socket() {
        Some(address) if is_stream => Some(SocketAddress::Tcp(address)),
        Some(address) => socket.peer_addr().is_err().then_some(SocketAddress::Udp(address)),
        None if is_stream => address.as_pathname().map(|path| SocketAddress::Unix(path.into())),
        None => None,
    }
}

/// A new socket at `address`, not inherited by programs unless it is handed to them.
fn listen(address: &SocketAddress) -> io::Result<Socket> {
    match address {
        SocketAddress::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
            // Connections of an earlier program that wait for their end do not block the port.
            socket.set_reuse_address(true)?;
            socket.bind(&(*address).into())?;
            socket.listen(BACKLOG)?;
            Ok(socket)
        }
        SocketAddress::Udp(address) => {
            // Without reuse of addresses, which would let two programs share a UDP port unnoticed.
            let socket = Socket::new(Domain::for_address(*address), Type::DGRAM, None)?;
            socket.bind(&(*address).into())?;
            Ok(socket)
        }
        SocketAddress::Unix(path) => {
            remove_stale(path)?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            // As systemd does: who may connect is said by the folder.
            fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
            socket.listen(BACKLOG)?;
            Ok(socket)
        }
    }
}

/// Removes a socket file that nobody listens on any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is not a socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        // A full backlog or missing rights: somebody may listen.
        Err(error) => Err(error),
    }
}

fn advice(address: &SocketAddress, source: &io::Error, refusal: Option<&io::Error>) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = match holder::find(address) {
                Some(holder) => format!("; {holder} has it"),
                None => "; a process has it that only root can see".into(),
            };
            let refusal = refusal.map(|error| {
                format!(
                    "; it cannot be taken over from the running program either: {error} (run the \
                     agent as root, or stop the program)"
                )
            });
            holder + &refusal.unwrap_or_default()
        }
        io::ErrorKind::PermissionDenied => match address {
            SocketAddress::Tcp(address) | SocketAddress::Udp(address)
                if address.port() < UNPRIVILEGED_PORT_MIN =>
            {
                "; low ports need root or the capability CAP_NET_BIND_SERVICE".into()
            }
            SocketAddress::Unix(_) => "; the agent's user must be able to write its folder".into(),
            _ => String::new(),
        },
        io::ErrorKind::AddrNotAvailable => "; this host has no such address".into(),
        io::ErrorKind::AlreadyExists => "; remove it or choose another path".into(),
        io::ErrorKind::NotFound => "; create its folder".into(),
        _ => String::new(),
    }
}
