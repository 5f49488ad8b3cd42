//! A node's key, on which its name, its certificates and every connection rest.
//!
//! The key file holds the 32 secret bytes of an ed25519 key behind a line that says what it is, is
//! readable by its owner only, and is written whole or not at all.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use disk::{DiskFile, Open};
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use p2p_core::NodeId;

const HEADER: &[u8] = b"shoal ed25519 secret key\n";

/// An ed25519 key pair, and with it the node's [`NodeId`] and libp2p `PeerId`.
#[derive(Clone, Debug)]
pub struct Identity {
    keypair: Keypair,
    node: NodeId,
}

/// Why a node has no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot use the key file {}", path.display())]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not one that Shoal wrote, or was cut off.
    #[error("{} is not a Shoal key file; move it away to get a new key, which is a new name", path.display())]
    Malformed {
        /// The key file.
        path: PathBuf,
    },
    /// Others than its owner can read the key.
    #[error("{} can be read by others (mode {mode:o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl Identity {
    /// A new key that lives as long as the process.
    pub fn generate() -> Self {
        Self::of(ed25519::Keypair::generate())
    }

    /// The key in `path`, or a new one stored there if the file does not exist.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written, is damaged, or is readable by others. A damaged file
    /// is never replaced: the key is the node's name.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io { path: path.into(), source };
        match fs::read(path) {
            Ok(bytes) => {
                let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(IdentityError::Exposed { path: path.into(), mode });
                }
                let secret = bytes.strip_prefix(HEADER).map(<[u8]>::to_vec);
                secret
                    .and_then(|bytes| ed25519::SecretKey::try_from_bytes(bytes).ok())
                    .map(|secret| Self::of(secret.into()))
                    .ok_or_else(|| IdentityError::Malformed { path: path.into() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keypair = ed25519::Keypair::generate();
                store(path, keypair.secret().as_ref()).map_err(io)?;
                Ok(Self::of(keypair))
            }
            Err(error) => Err(io(error)),
        }
    }

    /// The node's name in the protocol.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The node's name in libp2p.
    pub fn peer_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    pub(crate) const fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    fn of(keypair: ed25519::Keypair) -> Self {
        let node = NodeId::from_bytes(keypair.public().to_bytes());
        Self { keypair: keypair.into(), node }
    }
}

/// Writes beside the target and links it into place, so that a crash leaves no half key and two
/// starting processes agree on one.
fn store(path: &Path, secret: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = DiskFile::open(&temporary, Open::Empty(0o600))?;
    file.write_all(HEADER)?;
    file.write_all(secret)?;
    file.sync_all()?;
    let linked = disk::hard_link(&temporary, path);
    disk::remove_file(&temporary)?;
    linked?;
    disk::sync_dir(directory)
}

/// The libp2p name of a node; `None` if the bytes are not a point of the curve.
pub(crate) fn peer_id_of(node: NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// A node's name as people see it: the libp2p one, as in a seeder's address.
pub(crate) fn name_of(node: NodeId) -> String {
    peer_id_of(node).map_or_else(|| node.to_string(), |peer| peer.to_string())
}

/// The node behind a libp2p name; `None` if its key is not an ed25519 key.
pub(crate) fn node_of(peer: &PeerId) -> Option<NodeId> {
    // A PeerId of a short key is the identity multihash (code 0) of the encoded public key.
    let multihash = peer.as_ref();
    if multihash.code() != 0 {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
    Some(NodeId::from_bytes(key.try_into_ed25519().ok()?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_survives_a_restart_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let first = Identity::load_or_create(&path).unwrap();
        assert_eq!(Identity::load_or_create(&path).unwrap().node(), first.node());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn damaged_or_exposed_key_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        Identity::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Exposed { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"shoal ed25519 secret key\nshort").unwrap();
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Malformed { .. })));
        assert!(path.exists());
    }

    #[test]
    fn names_convert_both_ways() {
        let identity = Identity::generate();
        assert_eq!(peer_id_of(identity.node()), Some(identity.peer_id()));
        assert_eq!(node_of(&identity.peer_id()), Some(identity.node()));
    }
}
