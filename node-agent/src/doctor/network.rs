//! Checks of ports, buffers and the way to the seeders.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use p2p_net::SeederAddress;

use super::Finding;
use crate::config::AppConfig;
use crate::sockets::SocketAddress;

/// What QUIC asks for; with less, packets are lost at high rates.
const UDP_BUFFER_WANTED: u64 = 2 << 20;

/// Time for a seeder to answer. It is in the region.
const SEEDER_MAX: Duration = Duration::from_secs(3);

/// Whether the kernel grants the buffers that QUIC asks for.
pub(super) fn udp_buffers() -> Vec<Finding> {
    ["rmem_max", "wmem_max"].into_iter().map(|name| {
        let read = fs::read_to_string(format!("/proc/sys/net/core/{name}"));
        udp_buffer(name, read.ok().and_then(|text| text.trim().parse().ok()))
    }).collect()
}

fn udp_buffer(name: &str, bytes: Option<u64>) -> Finding {
    match bytes {
        Some(bytes) if bytes < UDP_BUFFER_WANTED => Finding::warning(
            "buffers",
            format!("net.core.{name} is {bytes}; QUIC is slow over long or fast links with it"),
            format!("sysctl -w net.core.{name}={UDP_BUFFER_WANTED}, and keep it in /etc/sysctl.d/shoal.conf"),
        ),
        Some(bytes) => Finding::ok("buffers", format!("net.core.{name} is {bytes}")),
        None => Finding::ok("buffers", format!("net.core.{name} cannot be read here")),
    }
}

/// Whether the node can listen, over UDP and TCP.
pub(super) fn listen_address(address: SocketAddr, is_running: bool) -> Finding {
    let bound = UdpSocket::bind(address).and_then(|_| TcpListener::bind(address)).map(|_| ());
    bindable("listen", &address.to_string(), bound, is_running && address.port() != 0)
}

/// Whether the sockets of an app can be bound.
pub(super) fn sockets(app: &str, config: &AppConfig, is_running: bool) -> Vec<Finding> {
    let mut findings = vec![];
    for (name, address) in &config.sockets {
        let bound = match address {
            SocketAddress::Tcp(address) => TcpListener::bind(address).map(|_| ()),
            SocketAddress::Udp(address) => UdpSocket::bind(address).map(|_| ()),
            SocketAddress::Unix(path) => match path.parent() {
                Some(parent) if parent.is_dir() => Ok(()),
                _ => Err(io::Error::other("its directory is not there")),
            },
        };
        let what = format!("app {app}, socket {name}: {}", super::super::config::socket_text(address));
        findings.push(bindable("sockets", &what, bound, is_running));
    }
    findings
}

fn bindable(
    check: &'static str,
    what: &str,
    bound: io::Result<()>,
    is_held: bool,
) -> Finding {
    match bound {
        Ok(()) => Finding::ok(check, format!("{what} is free")),
        Err(error) if is_held && error.kind() == io::ErrorKind::AddrInUse => {
            Finding::ok(check, format!("{what} is in use, as it should be while the agent runs"))
        }
        Err(error) => {
            let next = match error.kind() {
                io::ErrorKind::AddrInUse => "find who has it (ss -lnptu), and stop that one or choose another address",
                io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
                io::ErrorKind::AddrNotAvailable => "this machine has no such address (ip address); correct the configuration",
                _ => "correct the address in the configuration",
            };
            Finding::problem(check, format!("{what} cannot be bound: {error}"), next)
        }
    }
}

/// Whether somebody answers at the seeder's address.
pub(super) async fn seeder(address: &SeederAddress) -> Finding {
    let shown = address.to_string();
    // Chunks travel over TCP at the same port where they can; who listens there is a seeder that
    // runs. Over UDP, only the holder of the key answers, and only to one that speaks QUIC.
    let dialled = tokio::time::timeout(SEEDER_MAX, tokio::net::TcpStream::connect(address.socket));
    let next = "check that it runs and that nothing blocks UDP and TCP to it; without any seeder this host runs what it has and gets nothing new";
    match dialled.await {
        Ok(Ok(_)) => Finding::ok("seeder", format!("{shown} answers")),
        Ok(Err(error)) => Finding::warning("seeder", format!("{shown} does not answer over TCP: {error}"), next),
        Err(_elapsed) => Finding::warning("seeder", format!("{shown} does not answer over TCP within {SEEDER_MAX:?}"), next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn small_buffers_are_a_warning_with_the_command() {
        let finding = udp_buffer("rmem_max", Some(212_992));
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.next_step.contains("sysctl -w net.core.rmem_max="), "{finding}");
        assert_eq!(udp_buffer("rmem_max", Some(UDP_BUFFER_WANTED)).verdict, Verdict::Ok);
    }

    #[test]
    fn address_in_use_is_a_problem_unless_the_agent_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(listen_address(address, false).verdict, Verdict::Problem);
        assert_eq!(listen_address(address, true).verdict, Verdict::Ok);
        let mut app = AppConfig::default();
        app.sockets.insert("http".into(), SocketAddress::Tcp(address));
        app.sockets.insert("admin".into(), SocketAddress::Unix("/nowhere/x.sock".into()));
        let found = sockets("web", &app, false);
        assert!(found.iter().all(|finding| finding.verdict == Verdict::Problem), "{found:?}");
        assert!(found[1].text.contains("socket http") && found[1].next_step.contains("ss -lnptu"));
        drop(listener);
        let foreign = "203.0.113.1:1".parse().unwrap();
        assert!(listen_address(foreign, true).next_step.contains("ip address"));
    }

    #[tokio::test]
    async fn seeder_is_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address: SeederAddress = format!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo").parse().unwrap();
        assert_eq!(seeder(&address).await.verdict, Verdict::Ok);
        drop(listener);
        assert_eq!(seeder(&address).await.verdict, Verdict::Warning);
    }
}
