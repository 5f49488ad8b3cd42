//! A TCP stream that is woken when there is something worth waking for.
//!
//! While the rest of a chunk is on its way, every packet would wake the process, which costs more
//! than the packet. So the reader says how much is certain to come ([`Outstanding`]), and the
//! system holds its notice back until that much is there (`SO_RCVLOWAT`). Reads never wait for it:
//! what is there is taken.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;

/// Bytes taken from the system at once. TLS asks for little at a time.
const READ_BYTES: usize = 64 << 10;

/// Most bytes that a notice is held back for: three records of TLS. More would leave this end idle
/// on fast links while the other fills the window.
const LOW_WATER_MAX: usize = 48 << 10;

/// A record of TLS at its largest. This much may have been taken from the system and be waiting for
/// the rest of its record.
const RECORD_BYTES_MAX: usize = (16 << 10) + 256;

sockopt_impl!(
    /// How much must have arrived before the socket counts as readable.
    ReceiveLowWater,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    usize
);

/// What the reader knows is still to come; shared with the stream below the encryption.
#[derive(Clone, Debug, Default)]
pub(in crate::data) struct Outstanding {
    low_water: Arc<AtomicUsize>,
}

impl Outstanding {
    /// At least `bytes` more, after decryption, are on their way without a pause.
    pub(super) fn set(&self, bytes: usize) {
        let low_water = bytes.saturating_sub(RECORD_BYTES_MAX).clamp(1, LOW_WATER_MAX);
        self.low_water.store(low_water, Ordering::Relaxed);
    }
}

/// A TCP stream that heeds what is expected.
#[derive(Debug)]
pub(in crate::data) struct Patient {
    stream: BufReader<TcpStream>,
    outstanding: Outstanding,
    /// What the socket was last set to.
    low_water: usize,
}

impl Patient {
    pub(super) fn new(stream: TcpStream) -> Self {
        let stream = BufReader::with_capacity(READ_BYTES, stream);
        Self { stream, outstanding: Outstanding::default(), low_water: 1 }
    }

    /// Where the reader says what it expects.
    pub(in crate::data) fn outstanding(&self) -> Outstanding {
        self.outstanding.clone()
    }

    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().peer_addr()
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending() {
            let wanted = self.outstanding.low_water.load(Ordering::Relaxed).max(1);
            // Lowering it makes the system look at once whether enough is there already.
            if wanted != self.low_water {
                setsockopt(self.stream.get_ref(), ReceiveLowWater, &wanted)?;
                self.low_water = wanted;
            }
        }
        read
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.get_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.get_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    async fn pair() -> (Patient, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Patient::new(near), listener.accept().await.unwrap().0)
    }

    /// Goal: while much is expected, a small part of it wakes nobody and all of it does; once no
    /// more is expected, the small part wakes the reader too.
    #[tokio::test]
    async fn notice_is_held_back_until_it_is_worth_it() {
        let (mut near, mut far) = pair().await;
        let outstanding = near.outstanding();
        let mut buffer = vec![0; 256 << 10];
        outstanding.set(LOW_WATER_MAX + RECORD_BYTES_MAX);
        // Waits, so that the socket is set.
        assert!(timeout(Duration::from_millis(1), near.read(&mut buffer)).await.is_err());
        far.write_all(&[1; 100]).await.unwrap();
        let held = timeout(Duration::from_millis(50), near.read(&mut buffer)).await;
        assert!(held.is_err(), "woken for {held:?}");
        outstanding.set(0);
        assert_eq!(near.read(&mut buffer).await.unwrap(), 100);

        outstanding.set(LOW_WATER_MAX + RECORD_BYTES_MAX);
        let writing = far.write_all(&buffer[..LOW_WATER_MAX]);
        let mut received = 0;
        let reading = async {
            let mut bytes = vec![0; 256 << 10];
            while received < LOW_WATER_MAX {
                received += near.read(&mut bytes).await.unwrap();
            }
        };
        tokio::join!(writing, reading).0.unwrap();
    }
}
