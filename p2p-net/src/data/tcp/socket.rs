//! TCP sockets for the data plane, and the TLS handshake on them.
//!
//! Invariant: a stream that comes out of here has proved the key of its far end. Moves no frame:
//! that is the pump's.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::debug;

use crate::data::Callee;
use crate::data::buffers::Buffers;
use crate::data::dscp::{TrafficClass, apply_dscp};
use crate::data::transport::IDLE_TIME;
use crate::tls::TlsIdentity;

use super::patient::Patient;
use super::{Pump, TcpConnection, make};

/// Bytes handed to the system that it has not sent yet. They stand before any message, so this is
/// what a message waits for behind chunks; half of it leaves gaps at 10 Gbit/s.
const UNSENT_MAX: usize = 128 << 10;

sockopt_impl!(
    /// How much may wait unsent in the system before the socket counts as full.
    NotSentLowWater,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_NOTSENT_LOWAT,
    usize
);

/// A connection whose handshake is done.
pub(in crate::data) type Stream = TlsStream<Patient>;

/// Listens at `address`.
pub(in crate::data) fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without this a seeder could not take its port again for a minute after a restart.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Connects to `node` and nobody else.
pub(in crate::data) async fn dial(
    tls: &TlsIdentity,
    Callee { node, address }: Callee,
    class: TrafficClass,
) -> Result<Stream, String> {
    let config = tls.tcp_client_config(node).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    prepare(&stream, class);
    // The name is never looked at: the certificate proves a key, not a name.
    let name = ServerName::IpAddress(address.ip().into());
    let connected = TlsConnector::from(config).connect(name, Patient::new(stream)).await;
    connected.map(TlsStream::Client).map_err(|error| error.to_string())
}

/// Shakes hands with a node that called.
pub(in crate::data) async fn accept(
    tls: &TlsIdentity,
    stream: TcpStream,
    class: TrafficClass,
) -> io::Result<Stream> {
    let config = tls.tcp_server_config().map_err(io::Error::other)?;
    prepare(&stream, class);
    TlsAcceptor::from(config).accept(Patient::new(stream)).await.map(TlsStream::Server)
}

/// What the far end proved itself with.
pub(in crate::data) fn certificates(stream: &Stream) -> &[CertificateDer<'static>] {
    stream.get_ref().1.peer_certificates().unwrap_or_default()
}

/// A connection of a stream whose handshake is done, and what moves its bytes.
pub(in crate::data) fn carry(
    stream: Stream,
    buffers: Arc<Buffers>,
) -> io::Result<(TcpConnection, Pump<Stream>)> {
    let remote = stream.get_ref().0.peer_addr()?;
    let outstanding = stream.get_ref().0.outstanding();
    let (connection, mut pump) = make(stream, remote, buffers);
    pump.outstanding = outstanding;
    Ok((connection, pump))
}

fn prepare(stream: &TcpStream, class: TrafficClass) {
    let socket = SockRef::from(stream);
    let outcome = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_user_timeout(Some(IDLE_TIME)))
        .and_then(|()| apply_dscp(&socket, class))
        .and_then(|()| Ok(setsockopt(stream, NotSentLowWater, &UNSENT_MAX)?));
    if let Err(error) = outcome {
        // It works without, only less well.
        debug!(%error, "the system does not take a socket option");
    }
}
