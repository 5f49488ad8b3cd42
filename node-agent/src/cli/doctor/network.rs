//! Checks of ports, buffers and the way to the seeders.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use p2p_net::{PeerOutcome, SeederAddress, SocketBuffers};
use tokio::time::timeout;

use super::Finding;
use crate::config::{AppConfig, socket_text};
use crate::host::sockets::SocketAddress;
use goal_state::bytes_text;

/// Enough to see that bytes arrive.
const SAMPLE_BYTES: u64 = 64 * 1024;

/// Time for a seeder to answer over all transports: more than the measurements themselves take.
const SEEDER_MAX: Duration = Duration::from_secs(45);

/// Whether the kernel grants the buffers that QUIC asks for.
pub(super) fn udp_buffers() -> Vec<Finding> {
    match p2p_net::socket_buffers() {
        Ok(SocketBuffers { asked, receive, send }) => {
            vec![udp_buffer("rmem_max", asked, receive), udp_buffer("wmem_max", asked, send)]
        }
        Err(error) => vec![Finding::problem(
            "buffers",
            format!("the system gives no UDP socket: {error}"),
            "look at the limits of the unit (RestrictAddressFamilies=, LimitNOFILE=)",
        )],
    }
}

fn udp_buffer(name: &str, asked: u64, granted: u64) -> Finding {
    let text =
        format!("{} of {} granted (net.core.{name})", bytes_text(granted), bytes_text(asked));
    if granted >= asked {
        return Finding::ok("buffers", text);
    }
    let next = format!(
        "QUIC loses packets at high rates: sysctl -w net.core.{name}={asked}, and keep it in /etc/sysctl.d/shoal.conf"
    );
    Finding::warning("buffers", text, next)
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
        let what = format!("app {app}, socket {name}: {}", socket_text(address));
        findings.push(bindable("sockets", &what, bound, is_running));
    }
    findings
}

fn bindable(check: &'static str, what: &str, bound: io::Result<()>, is_held: bool) -> Finding {
    match bound {
        Ok(()) => Finding::ok(check, format!("{what} is free")),
        Err(error) if is_held && error.kind() == io::ErrorKind::AddrInUse => {
            Finding::ok(check, format!("{what} is in use, as it should be while the agent runs"))
        }
        Err(error) => {
            let next = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "find who has it (ss -lnptu), and stop that one or choose another address"
                }
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need root or CAP_NET_BIND_SERVICE"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "this machine has no such address (ip address); correct the configuration"
                }
                _ => "correct the address in the configuration",
            };
            Finding::problem(check, format!("{what} cannot be bound: {error}"), next)
        }
    }
}

/// Whether the seeder answers with its key, and over which transports chunks come.
pub(super) async fn seeder(address: SeederAddress) -> Finding {
    let shown = address.to_string();
    let asked = tokio::task::spawn_blocking(move || p2p_net::measure_peer(address, SAMPLE_BYTES));
    let next = "check that it runs and that nothing blocks its ports; without any seeder this host runs what it has and gets nothing new";
    let rates = match timeout(SEEDER_MAX, asked).await {
        Ok(Ok(Ok(rates))) => rates,
        Ok(Ok(Err(error))) => {
            return Finding::problem("seeder", command_line::describe(&error.into()), next);
        }
        Ok(Err(_)) | Err(_) => {
            let text = format!("{shown} does not answer within {SEEDER_MAX:?}");
            return Finding::problem("seeder", text, next);
        }
    };
    let failed: Vec<String> = rates
        .iter()
        .filter_map(|rate| match &rate.outcome {
            PeerOutcome::Failed { reason } => Some(format!("{:?}: {reason}", rate.transport)),
            PeerOutcome::Measured { .. } => None,
        })
        .collect();
    let lost = failed.join("; ");
    match failed.len() {
        0 => Finding::ok("seeder", format!("{shown} answers over QUIC and TCP")),
        1 => Finding::warning(
            "seeder",
            format!("{shown} answers, but not over {lost}"),
            "chunks take the other way; open this one for speed",
        ),
        _ => {
            Finding::problem("seeder", format!("{shown} answers, but no chunk comes: {lost}"), next)
        }
    }
}

#[cfg(test)]
mod tests {
    use p2p_net::{Identity, Node, NodeConfig};

    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn small_buffers_are_a_warning_with_the_command() {
        let finding = udp_buffer("rmem_max", 2 << 20, 212_992);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.next_step.contains("sysctl -w net.core.rmem_max=2097152"), "{finding}");
        assert_eq!(udp_buffer("rmem_max", 7, 7).verdict, Verdict::Ok);
        assert_eq!(udp_buffers().len(), 2);
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

    #[tokio::test(flavor = "multi_thread")]
    async fn seeder_is_dialled() {
        let config = NodeConfig::host(Identity::generate(), "127.0.0.1:0".parse().unwrap());
        let node = Node::start(config).await.unwrap();
        let address = node.address();
        let finding = seeder(address).await;
        assert_eq!(finding.verdict, Verdict::Ok, "{finding}");
        node.shutdown().await;
    }
}
