//! Who already listens where the agent wants to listen; for messages only, from what `/proc` shows.

use std::fmt;
use std::fs;

use super::SocketAddress;
use crate::process::all_pids;

/// A process that has a socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Holder {
    pid: u32,
    name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// A process that listens at `address`; `None` if there is none that this user may see.
pub(super) fn find(address: &SocketAddress) -> Option<Holder> {
    let inodes = match address {
        SocketAddress::Tcp(address) => by_port(&["tcp", "tcp6"], address.port(), "0A"),
        SocketAddress::Udp(address) => by_port(&["udp", "udp6"], address.port(), "07"),
        SocketAddress::Unix(path) => {
            let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
            let path = path.to_str()?;
            table.lines().filter_map(|line| parse_unix(line, path)).collect()
        }
    };
    let names: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    all_pids().ok()?.into_iter().find(|pid| has_one(*pid, &names)).map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Holder { pid, name: name.trim().into() }
    })
}

fn has_one(pid: u32, names: &[String]) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        fs::read_link(entry.path())
            .is_ok_and(|target| names.iter().any(|name| target.as_os_str() == name.as_str()))
    })
}

/// Inodes of the sockets in `state` at `port`, whatever their address: a socket at all addresses is
/// in the way of one at a single address too.
fn by_port(tables: &[&str], port: u16, state: &str) -> Vec<u64> {
    let tables = tables.iter().map(|table| fs::read_to_string(format!("/proc/net/{table}")));
    tables
        .flatten()
        .flat_map(|table| {
            table.lines().filter_map(|line| parse_ip(line, port, state)).collect::<Vec<_>>()
        })
        .collect()
}

/// A line of `/proc/net/tcp` and its like: number, local address, remote address, state, ...,
/// inode.
fn parse_ip(line: &str, port: u16, state: &str) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let is_it = u16::from_str_radix(local_port, 16).ok()? == port && *fields.get(3)? == state;
    if is_it { fields.get(9)?.parse().ok() } else { None }
}

/// A line of `/proc/net/unix`: number, references, protocol, flags, type, state, inode, path.
fn parse_unix(line: &str, path: &str) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if line.ends_with(&format!(" {path}")) { fields.get(6)?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 4242 1 0 100 0";
        assert_eq!(parse_ip(line, 8080, "0A"), Some(4242));
        assert_eq!(parse_ip(line, 8081, "0A"), None);
        assert_eq!(parse_ip(line, 8080, "01"), None);
        assert_eq!(parse_ip("  sl  local_address rem_address", 8080, "0A"), None);
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 17 /run/a b.sock";
        assert_eq!(parse_unix(line, "/run/a b.sock"), Some(17));
        assert_eq!(parse_unix(line, "/run/a"), None);
    }
}
