//! Bytes on the data plane's streams.
//!
//! Message stream, both directions: `length: u32`, then the build's name (32 bytes) and an encoded
//! message, `length` bytes in all. Transfer stream: a [`TransferHeader`] of fixed size, then the
//! chunk's or manifest's bytes to the end of the stream. Integers are little-endian.

use p2p_core::wire::{self, MESSAGE_BYTES_MAX, Message, RequestId};
use p2p_core::{BuildId, Digest};

const NAME_BYTES: usize = 32;

/// Most bytes behind the length of a frame.
pub(crate) const FRAME_BYTES_MAX: usize = NAME_BYTES + MESSAGE_BYTES_MAX;

/// A message about a build, with its length in front.
pub(crate) fn encode_frame(build: BuildId, message: &Message) -> Vec<u8> {
    let message = wire::encode(message);
    let length = u32::try_from(NAME_BYTES + message.len()).expect("messages have a limit");
    let mut frame = Vec::with_capacity(4 + NAME_BYTES + message.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(build.digest().as_bytes());
    frame.extend_from_slice(&message);
    frame
}

/// The build and the message of a frame without its length; no message if it does not decode, no
/// build either if the frame is too short to name one.
pub(crate) fn decode_frame(frame: &[u8]) -> Option<(BuildId, Option<Message>)> {
    let (name, message) = frame.split_first_chunk::<NAME_BYTES>()?;
    let build = BuildId::from_digest(Digest::from_bytes(*name));
    Some((build, wire::decode_message(message).ok()))
}

/// What a transfer stream carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TransferKind {
    /// A chunk: the answer to this request.
    Chunk { request: RequestId, chunk: u32 },
    /// The build's manifest.
    Manifest,
    /// This many meaningless bytes, to measure how fast they arrive; see [`super::measure`].
    Measure { bytes: u64 },
}

/// The first bytes of a transfer stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TransferHeader {
    pub(crate) build: BuildId,
    pub(crate) kind: TransferKind,
}

const CHUNK: u8 = 1;
const MANIFEST: u8 = 2;
const MEASURE: u8 = 3;

impl TransferHeader {
    /// Kind, build, request and chunk; the last two are zero for a manifest. A measurement has its
    /// bytes in the place of the request.
    pub(crate) const BYTES: usize = 1 + NAME_BYTES + 8 + 4;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let (kind, request, chunk) = match self.kind {
            TransferKind::Chunk { request, chunk } => (CHUNK, request.0, chunk),
            TransferKind::Manifest => (MANIFEST, 0, 0),
            TransferKind::Measure { bytes } => (MEASURE, bytes, 0),
        };
        let mut bytes = [0; Self::BYTES];
        bytes[0] = kind;
        bytes[1..33].copy_from_slice(self.build.digest().as_bytes());
        bytes[33..41].copy_from_slice(&request.to_le_bytes());
        bytes[41..].copy_from_slice(&chunk.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (name, rest) = rest.split_first_chunk::<NAME_BYTES>()?;
        let (request, rest) = rest.split_first_chunk::<8>()?;
        let (chunk, _) = rest.split_first_chunk::<4>()?;
        let kind = match *kind {
            CHUNK => TransferKind::Chunk {
                request: RequestId(u64::from_le_bytes(*request)),
                chunk: u32::from_le_bytes(*chunk),
            },
            MANIFEST => TransferKind::Manifest,
            MEASURE => TransferKind::Measure { bytes: u64::from_le_bytes(*request) },
            _ => return None,
        };
        Some(Self { build: BuildId::from_digest(Digest::from_bytes(*name)), kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip() {
        let build = BuildId::of_manifest(b"x");
        let message = Message::Cancel { request: RequestId(3) };
        let frame = encode_frame(build, &message);
        assert_eq!(frame[..4], u32::try_from(frame.len() - 4).unwrap().to_le_bytes());
        assert_eq!(decode_frame(&frame[4..]), Some((build, Some(message))));
        assert_eq!(decode_frame(&frame[4..36]), Some((build, None)));
        assert_eq!(decode_frame(&frame[4..35]), None);
    }

    #[test]
    fn transfer_headers_round_trip() {
        let build = BuildId::of_manifest(b"x");
        let chunk = TransferKind::Chunk { request: RequestId(u64::MAX), chunk: 9 };
        let measure = TransferKind::Measure { bytes: 1 << 40 };
        for kind in [chunk, TransferKind::Manifest, measure] {
            let header = TransferHeader { build, kind };
            assert_eq!(TransferHeader::decode(&header.encode()), Some(header));
        }
        assert_eq!(TransferHeader::decode(&[0; TransferHeader::BYTES]), None);
    }
}
