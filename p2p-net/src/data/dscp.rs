//! Marks chunk traffic as background for routers that treat classes differently.
//!
//! The mark is the codepoint LE ("lower effort", RFC 8622), the sixth bit of the field that IPv4
//! calls type of service and IPv6 traffic class. CS1, which was used before, is what RFC 8622
//! replaces: old networks read it as a precedence above ordinary traffic, and routers that clear
//! precedence turn it into ordinary traffic, while LE passes both.
//!
//! A socket option is enough for TCP ([`apply_dscp`]). It is not for quinn, which writes the whole
//! field with every packet for the sake of its two ECN bits, and writes the rest as zero: so
//! [`udp_socket`] sends those packets itself, with both.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};
use socket2::{Domain, SockRef};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// LE in the upper six bits of the field; the lower two are those of ECN.
const LOWER_EFFORT: u8 = 0b00_0001 << 2;

/// How chunk traffic asks to be treated by the network.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum TrafficClass {
    /// Like any other traffic.
    #[default]
    Default,
    /// After all other traffic, where routers care. Elsewhere it changes nothing.
    Background,
}

/// The text is not the name of a class of traffic.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a class of traffic; expected background or default")]
pub struct ParseTrafficClassError {
    text: String,
}

impl FromStr for TrafficClass {
    type Err = ParseTrafficClassError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "default" => Ok(Self::Default),
            "background" => Ok(Self::Background),
            _ => Err(ParseTrafficClassError { text: text.into() }),
        }
    }
}

impl fmt::Display for TrafficClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::Background => "background",
        })
    }
}

/// Marks all that a socket sends, unless its user says otherwise packet by packet as quinn does.
pub(crate) fn apply_dscp(socket: &SockRef<'_>, class: TrafficClass) -> io::Result<()> {
    if class == TrafficClass::Default {
        return Ok(());
    }
    if socket.domain()? == Domain::IPV6 {
        socket.set_tclass_v6(LOWER_EFFORT.into())?;
    }
    // A socket of IPv6 uses this one for the peers that it reaches by IPv4.
    socket.set_tos_v4(LOWER_EFFORT.into())
}

/// The socket for a quinn endpoint. Must be called within a tokio runtime.
pub(crate) fn udp_socket(
    socket: std::net::UdpSocket,
    class: TrafficClass,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    if class == TrafficClass::Default {
        return quinn::TokioRuntime.wrap_udp_socket(socket);
    }
    apply_dscp(&SockRef::from(&socket), class)?;
    let state = UdpSocketState::new((&socket).into())?;
    Ok(Arc::new(MarkingSocket { io: UdpSocket::from_std(socket)?, state }))
}

/// Does what quinn's own socket does, except that packets keep their mark.
#[derive(Debug)]
struct MarkingSocket {
    io: UdpSocket,
    state: UdpSocketState,
}

impl MarkingSocket {
    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        loop {
            match send_marked(&self.io, transmit) {
                // Too long for the path: lost, as quinn expects of its probes.
                Ok(()) | Err(Errno::EMSGSIZE) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::WouldBlock.into()),
                // Such as a network card without segmentation: quinn knows what to do about it. It
                // is better to arrive without a mark than not at all.
                Err(_) => return self.state.send((&self.io).into(), transmit),
            }
        }
    }
}

fn send_marked(socket: &UdpSocket, transmit: &Transmit<'_>) -> Result<(), Errno> {
    let ecn = transmit.ecn.map_or(0, |ecn| ecn as u8);
    let field = LOWER_EFFORT | ecn;
    let wide_field = i32::from(field);
    let mark = match transmit.destination.ip().to_canonical() {
        IpAddr::V4(_) => ControlMessage::Ipv4Tos(&field),
        IpAddr::V6(_) => ControlMessage::Ipv6TClass(&wide_field),
    };
    let segment = transmit.segment_size.filter(|size| *size < transmit.contents.len());
    let segment = segment.map(|size| u16::try_from(size).unwrap_or(u16::MAX));
    let segment = segment.as_ref().map(ControlMessage::UdpGsoSegments);
    let (v4, v6) = match transmit.src_ip {
        Some(IpAddr::V4(ip)) => (Some(v4_source(ip)), None),
        Some(IpAddr::V6(ip)) => (None, Some(v6_source(ip))),
        None => (None, None),
    };
    let source = v4.as_ref().map(ControlMessage::Ipv4PacketInfo);
    let source = source.or(v6.as_ref().map(ControlMessage::Ipv6PacketInfo));
    let control: Vec<_> = [Some(mark), segment, source].into_iter().flatten().collect();
    let content = [IoSlice::new(transmit.contents)];
    let to = SockaddrStorage::from(transmit.destination);
    sendmsg(socket.as_raw_fd(), &content, &control, MsgFlags::empty(), Some(&to)).map(drop)
}

fn v4_source(ip: std::net::Ipv4Addr) -> libc::in_pktinfo {
    libc::in_pktinfo {
        ipi_ifindex: 0,
        // The system wants the order of the network, which is that of the octets in memory.
        ipi_spec_dst: nix::sys::socket::SockaddrIn::from(std::net::SocketAddrV4::new(ip, 0))
            .as_ref()
            .sin_addr,
        ipi_addr: libc::in_addr { s_addr: 0 },
    }
}

fn v6_source(ip: std::net::Ipv6Addr) -> libc::in6_pktinfo {
    libc::in6_pktinfo { ipi6_ifindex: 0, ipi6_addr: libc::in6_addr { s6_addr: ip.octets() } }
}

impl AsyncUdpSocket for MarkingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.send(transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let receive = || self.state.recv((&self.io).into(), bufs, meta);
            match self.io.try_io(Interest::READABLE, receive) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// One task's wait for room to send.
struct WritePoller {
    socket: Arc<MarkingSocket>,
    waiting: Option<Writable>,
}

impl UdpPoller for WritePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket.clone();
        let waiting =
            self.waiting.get_or_insert_with(|| Box::pin(async move { socket.io.writable().await }));
        let outcome = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(outcome)
    }
}

impl fmt::Debug for WritePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritePoller").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use quinn::udp::EcnCodepoint;

    use super::*;

    /// A socket that reports the field of each packet it gets.
    struct Witness(std::net::UdpSocket);

    impl Witness {
        fn new(address: &str) -> Self {
            let socket = std::net::UdpSocket::bind(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let options = SockRef::from(&socket);
            if socket.local_addr().unwrap().is_ipv6() {
                options.set_recv_tclass_v6(true).unwrap();
            }
            options.set_recv_tos_v4(true).unwrap();
            Self(socket)
        }

        /// The field of the next packet, and its length.
        fn next(&self) -> (u8, usize) {
            let mut buffer = [0; 4096];
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let mut control = nix::cmsg_space!(u8, i32);
            let fd = self.0.as_raw_fd();
            let message =
                recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty())
                    .unwrap();
            let field = message.cmsgs().unwrap().find_map(|message| match message {
                ControlMessageOwned::Ipv4Tos(field) => Some(field),
                ControlMessageOwned::Ipv6TClass(field) => u8::try_from(field).ok(),
                _ => None,
            });
            (field.unwrap(), message.bytes)
        }
    }

    fn transmit(to: SocketAddr, contents: &[u8], ecn: Option<EcnCodepoint>) -> Transmit<'_> {
        Transmit { destination: to, ecn, contents, segment_size: None, src_ip: None }
    }

    /// Sends as quinn would, waiting for room.
    async fn send(socket: &Arc<dyn AsyncUdpSocket>, transmit: &Transmit<'_>) {
        let mut poller = socket.clone().create_io_poller();
        loop {
            std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
            match socket.try_send(transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome.unwrap(),
            }
        }
    }

    fn socket(address: &str, class: TrafficClass) -> Arc<dyn AsyncUdpSocket> {
        let socket = std::net::UdpSocket::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        udp_socket(socket, class).unwrap()
    }

    /// Goal: every packet carries the mark beside its own ECN bits, over each kind of address.
    #[tokio::test]
    async fn packets_carry_mark_and_ecn() {
        let background = TrafficClass::Background;
        let cases = [
            ("127.0.0.1:0", "127.0.0.1:0", None),
            ("[::1]:0", "[::1]:0", None),
            // A socket for both families, to a peer of IPv4.
            ("[::]:0", "127.0.0.1:0", Some("::ffff:127.0.0.1")),
        ];
        for (from, at, ip) in cases {
            let (socket, witness) = (socket(from, background), Witness::new(at));
            let mut to = witness.0.local_addr().unwrap();
            to.set_ip(ip.map_or(to.ip(), |ip| ip.parse().unwrap()));
            for (ecn, field) in
                [(None, 0x04), (Some(EcnCodepoint::Ect0), 0x06), (Some(EcnCodepoint::Ce), 0x07)]
            {
                send(&socket, &transmit(to, b"chunk", ecn)).await;
                assert_eq!(witness.next(), (field, 5), "{from} {ecn:?}");
            }
        }
    }

    /// Goal: packets that the system cuts from one buffer are marked, and leave from the address
    /// that was asked for.
    #[tokio::test]
    async fn segments_carry_the_mark() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, witness) =
                (socket(address, TrafficClass::Background), Witness::new(address));
            if socket.max_transmit_segments() < 3 {
                continue;
            }
            let to = witness.0.local_addr().unwrap();
            let mut transmit = transmit(to, &[7; 2500], Some(EcnCodepoint::Ect0));
            transmit.segment_size = Some(1000);
            transmit.src_ip = Some(to.ip());
            send(&socket, &transmit).await;
            let seen = [witness.next(), witness.next(), witness.next()];
            assert_eq!(seen, [(0x06, 1000), (0x06, 1000), (0x06, 500)]);
        }
    }

    #[tokio::test]
    async fn traffic_without_a_class_is_not_marked() {
        let (socket, witness) =
            (socket("127.0.0.1:0", TrafficClass::Default), Witness::new("127.0.0.1:0"));
        let to = witness.0.local_addr().unwrap();
        send(&socket, &transmit(to, b"chunk", Some(EcnCodepoint::Ect0))).await;
        assert_eq!(witness.next(), (0x02, 5));
    }

    /// Goal: quinn's own socket undoes the option. Once it does not, most of this file can go.
    #[tokio::test]
    async fn socket_of_quinn_loses_the_mark() {
        let own = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        own.set_nonblocking(true).unwrap();
        apply_dscp(&SockRef::from(&own), TrafficClass::Background).unwrap();
        let (socket, witness) =
            (quinn::TokioRuntime.wrap_udp_socket(own).unwrap(), Witness::new("127.0.0.1:0"));
        let to = witness.0.local_addr().unwrap();
        for (ecn, field) in [(None, 0x00), (Some(EcnCodepoint::Ect0), 0x02)] {
            send(&socket, &transmit(to, b"chunk", ecn)).await;
            assert_eq!(witness.next(), (field, 5));
        }
    }

    /// Goal: the option alone marks what a plain socket sends.
    #[test]
    fn sockets_of_the_system_are_marked_by_the_option() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let witness = Witness::new(address);
            let socket = std::net::UdpSocket::bind(address).unwrap();
            let to = witness.0.local_addr().unwrap();
            apply_dscp(&SockRef::from(&socket), TrafficClass::Default).unwrap();
            socket.send_to(b"x", to).unwrap();
            assert_eq!(witness.next().0, 0);
            apply_dscp(&SockRef::from(&socket), TrafficClass::Background).unwrap();
            socket.send_to(b"x", to).unwrap();
            assert_eq!(witness.next().0, LOWER_EFFORT);
        }
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        apply_dscp(&SockRef::from(&tcp), TrafficClass::Background).unwrap();
        assert_eq!(SockRef::from(&tcp).tos_v4().unwrap(), u32::from(LOWER_EFFORT));
    }

    /// Goal: what quinn itself sends is marked, which its own socket would undo.
    #[tokio::test]
    async fn packets_of_a_data_plane_are_marked() {
        use crate::data::transport::Transport;
        use crate::data::{DataConfig, DataPlane};
        use crate::disk_priority::DiskPriority;
        use crate::identity::Identity;
        use p2p_core::{Contact, Location, PeerRole};

        let witness = Witness::new("127.0.0.1:0");
        let config = DataConfig {
            address: "127.0.0.1:0".parse().unwrap(),
            transport: Transport::Quic,
            traffic_class: TrafficClass::Background,
            disk_priority: DiskPriority::Normal,
            buffer_budget: crate::budget::BufferBudget::MIN,
            threads: std::num::NonZero::<usize>::MIN,
            limits: crate::data::limiter::SharedLimits::default(),
        };
        let (plane, _events) = DataPlane::start(&Identity::generate(), &config).unwrap();
        let data = witness.0.local_addr().unwrap();
        plane.dial(Contact {
            node: Identity::generate().node(),
            control: data,
            data,
            role: PeerRole::Host,
            location: Location::default(),
        });
        let (field, _) = tokio::task::spawn_blocking(move || witness.next()).await.unwrap();
        assert_eq!(field & !0b11, LOWER_EFFORT);
    }

    #[test]
    fn classes_are_read_and_shown() {
        for class in [TrafficClass::Default, TrafficClass::Background] {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        let error = "bulk".parse::<TrafficClass>().unwrap_err();
        assert!(error.to_string().contains("background"), "{error}");
    }
}
