//! The bare pipeline over TCP with TLS 1.3: one blocking thread per end.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

use crate::files::{Destination, Source, offsets, request_size};
use crate::{REQUEST_BYTES, REQUESTS_IN_FLIGHT, announce, destination};

/// Bytes taken from the socket in one call. rustls asks for one record at a time, and a call per
/// record costs more than the copy.
const READ_BYTES: usize = 256 << 10;

/// A socket whose reads are collected, for rustls.
struct Buffered {
    reads: BufReader<TcpStream>,
}

impl Buffered {
    fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { reads: BufReader::with_capacity(READ_BYTES, socket) })
    }
}

impl Read for Buffered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads.read(buffer)
    }
}

impl Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reads.get_ref().write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.reads.get_ref().write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Serves one receiver to the end of its requests.
pub(crate) fn send(source: &Source, config: ServerConfig) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    announce(listener.local_addr()?)?;
    let (socket, _) = listener.accept()?;
    let mut connection = ServerConnection::new(Arc::new(config))?;
    connection.set_buffer_limit(Some(REQUEST_BYTES));
    let mut stream = StreamOwned::new(connection, Buffered::new(socket)?);
    stream.write_all(&source.size().to_le_bytes())?;
    stream.flush()?;
    let mut buffer = vec![0; REQUEST_BYTES];
    for _ in offsets(source.size()) {
        let mut offset = [0; 8];
        stream.read_exact(&mut offset)?;
        let count = source.read(u64::from_le_bytes(offset), &mut buffer)?;
        stream.write_all(&buffer[..count])?;
        stream.flush()?;
    }
    // The receiver hangs up when it has everything.
    drop(stream.read(&mut [0]));
    Ok(())
}

/// Asks for the whole file, a few requests at a time.
pub(crate) fn receive(
    address: SocketAddr,
    out: &Path,
    config: ClientConfig,
) -> anyhow::Result<Destination> {
    let connection = ClientConnection::new(Arc::new(config), "shoal".try_into()?)?;
    let socket = TcpStream::connect(address)?;
    let mut stream = StreamOwned::new(connection, Buffered::new(socket)?);
    let mut size = [0; 8];
    stream.read_exact(&mut size)?;
    let size = u64::from_le_bytes(size);
    let mut destination = destination(out, size)?;
    let mut asked = offsets(size);
    for offset in asked.by_ref().take(usize::try_from(REQUESTS_IN_FLIGHT)?) {
        stream.write_all(&offset.to_le_bytes())?;
    }
    stream.flush()?;
    let mut buffer = vec![0; REQUEST_BYTES];
    for offset in offsets(size) {
        let bytes = &mut buffer[..request_size(size, offset)];
        stream.read_exact(bytes)?;
        destination.write(offset, bytes)?;
        if let Some(next) = asked.next() {
            stream.write_all(&next.to_le_bytes())?;
            stream.flush()?;
        }
    }
    Ok(destination)
}
