//! The file of contacts: whom this host knew when it last downloaded something into the store.
//!
//! One small file per store, not one per build: the hosts of the last build are where the next one
//! will be. Layout: `shoalct`, one byte of version, the encoded contacts, and the BLAKE3 digest of
//! all before it (32 bytes). Soft state: whatever is wrong with it is said and ignored. All calls
//! block.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use p2p_core::wire::{self, CONTACTS_MAX, CONTROL_BYTES_MAX};
use p2p_core::{Contact, Digest};

use super::durable;
use super::error::StoreError;

const MAGIC: &[u8; 7] = b"shoalct";

/// Raised whenever an older Shoal would misread the file.
const VERSION: u8 = 1;

/// Replaces the file at `path`, by way of `scratch`. Past [`CONTACTS_MAX`] contacts are left out.
///
/// # Errors
///
/// The system's reason; the old file is still there.
pub(super) fn write(path: &Path, scratch: &Path, contacts: &[Contact]) -> Result<(), StoreError> {
    durable::replace_file(path, scratch, &encode(contacts))
}

/// Reads the file at `path`; empty if there is none, or it is damaged or of another version.
pub(super) fn read(path: &Path) -> Vec<Contact> {
    let read = || {
        // Nobody but a damaged disk makes it longer than this.
        let bytes_max = u64::try_from(CONTROL_BYTES_MAX * 2).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    match read() {
        Ok(bytes) => decode(&bytes).unwrap_or_else(|| {
            tracing::warn!(?path, "the file of contacts is damaged; it is ignored and replaced");
            Vec::new()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(?path, %error, "cannot read the file of contacts; it is ignored");
            Vec::new()
        }
    }
}

fn encode(contacts: &[Contact]) -> Vec<u8> {
    let mut bytes = header();
    bytes.extend(wire::encode(&&contacts[..contacts.len().min(CONTACTS_MAX)]));
    let digest = Digest::of(&bytes);
    bytes.extend(digest.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<Contact>> {
    let (body, digest) = bytes.split_last_chunk::<32>()?;
    let is_whole = Digest::of(body) == Digest::from_bytes(*digest);
    let contacts = body.strip_prefix(header().as_slice()).filter(|_| is_whole)?;
    wire::decode_contacts(contacts).ok()
}

fn header() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.push(VERSION);
    bytes
}

#[cfg(test)]
mod tests {
    use p2p_core::{Location, NodeId, PeerRole};

    use super::*;

    fn contacts(count: usize) -> Vec<Contact> {
        let contact = |number: usize| Contact {
            node: NodeId::from_bytes([u8::try_from(number % 256).unwrap(); 32]),
            control: "10.0.0.1:7".parse().unwrap(),
            data: "[::1]:8".parse().unwrap(),
            role: PeerRole::Host,
            location: Location::named("zone", "rack"),
        };
        (0..count).map(contact).collect()
    }

    #[test]
    fn contacts_round_trip_up_to_the_limit() {
        for count in [0, 1, CONTACTS_MAX] {
            assert_eq!(decode(&encode(&contacts(count))), Some(contacts(count)));
        }
        let more = encode(&contacts(CONTACTS_MAX + 1));
        assert_eq!(decode(&more), Some(contacts(CONTACTS_MAX)));
        assert!(more.len() < CONTROL_BYTES_MAX);
    }

    /// Goal: a file that a crash or a bad disk left reads as empty, never as a wrong contact and
    /// never as an error.
    #[test]
    fn damaged_file_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let (path, scratch) = (folder.path().join("contacts"), folder.path().join("new"));
        assert_eq!(read(&path), [], "no file");
        write(&path, &scratch, &contacts(2)).unwrap();
        assert_eq!(read(&path), contacts(2));
        let good = std::fs::read(&path).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            assert_eq!(decode(&bad), None, "byte {position} flipped");
            assert_eq!(decode(&good[..position]), None, "cut at {position}");
        }
        std::fs::write(&path, &good[1..]).unwrap();
        assert_eq!(read(&path), []);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(read(&path), [], "a directory");
    }
}
