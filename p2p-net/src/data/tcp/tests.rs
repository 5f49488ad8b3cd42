//! Connections over a pipe in memory, and over one whose far end is played by the test.

use p2p_core::BuildId;
use p2p_core::wire::RequestId;
use tokio::io::DuplexStream;

use super::*;
use crate::data::frame::TransferKind;

/// Bytes that the pipe holds: small, so that what is written waits.
const PIPE_BYTES: usize = 64 << 10;

fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(PIPE_BYTES)
}

/// A connection whose pump runs until the test ends.
fn start(stream: DuplexStream) -> (TcpConnection, Arc<Buffers>) {
    let buffers = Buffers::new(crate::budget::BufferBudget::MIN);
    let remote = "192.0.2.1:1".parse().unwrap();
    let (connection, pump) = make(stream, remote, buffers.clone());
    tokio::spawn(pump.run());
    (connection, buffers)
}

fn pair() -> (TcpConnection, TcpConnection, Arc<Buffers>) {
    let (near, far) = pipe();
    let (near, _) = start(near);
    let (far, buffers) = start(far);
    (near, far, buffers)
}

fn header(request: u64) -> TransferHeader {
    let kind = TransferKind::Chunk { request: RequestId(request), chunk: 0 };
    TransferHeader { build: BuildId::of_manifest(b"x"), kind }
}

fn sample(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|i| u8::try_from(i % 251).unwrap() ^ seed).collect()
}

async fn send(connection: &TcpConnection, request: u64, bytes: Vec<u8>) -> Result<bool, Lost> {
    let mut tx = connection.open_transfer(header(request)).await?;
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        tx.write(bytes.split_to(bytes.len().min(SEGMENT_BYTES as usize))).await?;
    }
    tx.finish().await
}

async fn read(rx: &mut TcpRx, buffers: &Arc<Buffers>) -> Result<Vec<u8>, Lost> {
    let mut bytes = Vec::new();
    while let Some(segment) = rx.next_segment(buffers).await? {
        bytes.extend_from_slice(segment.as_ref());
    }
    Ok(bytes)
}

/// Goal: transfers that share a connection arrive whole, each under its own header, and their
/// senders learn it.
#[tokio::test]
async fn transfers_side_by_side_arrive_whole() {
    let (near, far, buffers) = pair();
    let sizes = [0, 1, SEGMENT_BYTES as usize, 1_000_000, 300_001];
    let sending = (1..).zip(sizes).map(|(request, size)| {
        let seed = u8::try_from(request).unwrap();
        send(&near, request, sample(size, seed))
    });
    let receiving = async {
        let mut received = BTreeMap::new();
        for _ in sizes {
            let mut rx = far.accept_transfer().await.unwrap();
            let header = TransferHeader::decode(&rx.header().await.unwrap()).unwrap();
            let buffers = buffers.clone();
            let reading = tokio::spawn(async move { read(&mut rx, &buffers).await });
            let TransferKind::Chunk { request, .. } = header.kind else { panic!("{header:?}") };
            received.insert(request.0, reading);
        }
        received
    };
    let (delivered, received) = tokio::join!(futures::future::join_all(sending), receiving);
    assert_eq!(delivered, [Ok(true); 5]);
    for ((request, reading), size) in received.into_iter().zip(sizes) {
        let bytes = reading.await.unwrap().unwrap();
        assert!(bytes == sample(size, u8::try_from(request).unwrap()), "transfer {request}");
    }
}

/// Goal: half a chunk never looks whole.
#[tokio::test]
async fn transfer_that_its_sender_drops_is_broken() {
    let (near, far, buffers) = pair();
    let mut tx = near.open_transfer(header(1)).await.unwrap();
    for _ in 0..2 {
        tx.write(sample(1000, 0).into()).await.unwrap();
    }
    let mut rx = far.accept_transfer().await.unwrap();
    drop(tx);
    assert_eq!(read(&mut rx, &buffers).await, Err(Lost));
}

/// Goal: a receiver that wants no more is sent no more, and the rest of the connection goes on.
#[tokio::test]
async fn refused_transfer_ends_and_others_go_on() {
    let (near, far, buffers) = pair();
    let mut refused = near.open_transfer(header(1)).await.unwrap();
    let segment = Bytes::from(sample(SEGMENT_BYTES as usize, 0));
    for _ in 0..2 {
        refused.write(segment.clone()).await.unwrap();
    }
    drop(far.accept_transfer().await.unwrap());
    while refused.write(segment.clone()).await.is_ok() {}
    drop(refused);
    let receiving = async {
        let mut rx = far.accept_transfer().await.unwrap();
        read(&mut rx, &buffers).await
    };
    let (sent, received) = tokio::join!(send(&near, 2, sample(9, 9)), receiving);
    assert_eq!((sent, received), (Ok(true), Ok(sample(9, 9))));
}

/// Goal: a message does not wait until the chunks before it are through.
/// Method: nobody reads the chunk, so that it fills every queue; then a message is sent.
#[tokio::test]
async fn message_overtakes_chunks() {
    let (near, far) = pipe();
    let (near, _) = start(near);
    let (mut messages, _keep) = near.open_messages(true).await.unwrap();
    let mut tx = near.open_transfer(header(1)).await.unwrap();
    let segment = Bytes::from(sample(SEGMENT_BYTES as usize, 0));
    for _ in 0..DATA_MAX {
        tx.write(segment.clone()).await.unwrap();
    }
    // The pump is stuck in the first segment, as the pipe is full and nobody reads it.
    let blocked = futures::poll!(std::pin::pin!(tx.write(segment.clone())));
    assert!(blocked.is_pending());
    messages.send(b"LLLLnews".to_vec()).await.unwrap();

    let mut far = far;
    let mut before = 0;
    loop {
        let mut head = [0; HEAD_BYTES];
        far.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) | usize::from(head[2]) << 8 | usize::from(head[3]) << 16;
        let mut payload = vec![0; length];
        far.read_exact(&mut payload).await.unwrap();
        match head[0] {
            MESSAGE => break assert_eq!(payload, b"news"),
            DATA => before += 1,
            _ => {}
        }
    }
    assert!(before <= 1, "{before} segments went before the message");
}

/// Goal: the stream of messages carries them in order, and their end is seen.
#[tokio::test]
async fn messages_arrive_in_order_and_the_last_is_followed_by_the_end() {
    let (near, far, _) = pair();
    let (mut tx, _) = near.open_messages(true).await.unwrap();
    let (_, mut rx) = far.open_messages(false).await.unwrap();
    for number in 0..200_u8 {
        tx.send(vec![0, 0, 0, 0, number]).await.unwrap();
        let mut frame = Vec::new();
        rx.next(&mut frame).await.unwrap();
        assert_eq!(frame, [number]);
    }
    let finishing = tokio::spawn(tx.finish());
    assert_eq!(rx.next(&mut Vec::new()).await, Err(MessageFault::Lost));
    far.close("done");
    finishing.await.unwrap();
    assert!(near.close_reason().is_some());
}

/// Goal: what no correct node sends ends the connection, and the reason says what it was.
#[tokio::test]
async fn peer_that_breaks_the_rules_is_hung_up_on() {
    let opening = |transfer| {
        let mut bytes = head(OPEN, TransferHeader::BYTES, transfer).to_vec();
        bytes.extend_from_slice(&header(1).encode());
        bytes
    };
    let flood = (0..=TRANSFERS_MAX).flat_map(opening).collect();
    let cases: [(Vec<u8>, &str); 6] = [
        (head(99, 0, 0).to_vec(), "unknown kind"),
        (head(END, 1, 0).to_vec(), "unknown kind"),
        (head(MESSAGE, FRAME_BYTES_MAX + 1, 0).to_vec(), "message beyond the limit"),
        (head(DATA, SEGMENT_BYTES as usize + 1, 0).to_vec(), "segment beyond the limit"),
        ([opening(7), opening(7)].concat(), "opened a transfer twice"),
        (flood, "must not open"),
    ];
    for (bytes, reason) in cases {
        let (near, mut far) = pipe();
        let (near, _) = start(near);
        far.write_all(&bytes).await.unwrap();
        near.shared.closed.cancelled().await;
        let said = near.close_reason().unwrap();
        assert!(said.contains(reason), "{said:?} instead of {reason:?}");
        assert!(near.open_transfer(header(1)).await.is_err());
        assert!(near.accept_transfer().await.is_err());
    }
}

/// Goal: a connection whose far end is gone ends by itself; one that is only idle stays.
#[tokio::test(start_paused = true)]
async fn silent_peer_is_given_up_and_idle_one_is_not() {
    let (near, far) = pipe();
    let (idle, _) = start(near);
    let (other, _) = start(far);
    let (near, _silent) = pipe();
    let (deserted, _) = start(near);
    tokio::time::sleep(4 * IDLE_TIME).await;
    assert_eq!(deserted.close_reason().as_deref(), Some("the peer is silent"));
    assert_eq!((idle.close_reason(), other.close_reason()), (None, None));
}

/// Goal: when a connection ends, nobody who uses it waits for ever.
#[tokio::test]
async fn end_of_the_connection_reaches_everybody() {
    let (near, far, buffers) = pair();
    let (_tx, mut messages) = near.open_messages(true).await.unwrap();
    let mut tx = near.open_transfer(header(1)).await.unwrap();
    for _ in 0..2 {
        tx.write(sample(10, 0).into()).await.unwrap();
    }
    let mut rx = far.accept_transfer().await.unwrap();
    far.close("test");
    assert_eq!(messages.next(&mut Vec::new()).await, Err(MessageFault::Lost));
    assert_eq!(tx.finish().await, Err(Lost));
    assert_eq!(read(&mut rx, &buffers).await, Err(Lost));
    assert!(near.accept_transfer().await.is_err());
    assert_eq!(near.close_reason().as_deref(), Some("the peer ended the connection"));
}
