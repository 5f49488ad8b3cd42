//! The listening sockets of an app: the agent holds them and hands them to each instance, so that
//! connections queue in the kernel while programs change.
//!
//! Owns binding, taking over from the program of an earlier agent, and the hand-over as systemd
//! does it (`LISTEN_FDS`, `LISTEN_FDNAMES`, `LISTEN_PID`).

use std::net::SocketAddr;
use std::path::PathBuf;

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
