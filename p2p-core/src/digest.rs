//! BLAKE3-256 digests and the name of a build.
//!
//! A digest is written as 64 lower-case hexadecimal digits wherever a person or
//! a document meets it.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// A BLAKE3-256 digest of some bytes.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes `bytes` in one go.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Takes over a digest that was computed elsewhere, such as by an incremental hasher.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 64 {
            return Err(ParseDigestError::WrongLength { actual: text.chars().count() });
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = hex_value(pair[0])? << 4 | hex_value(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn hex_value(digit: u8) -> Result<u8, ParseDigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(ParseDigestError::NotHex),
    }
}

/// Why a text is not a digest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseDigestError {
    /// The text is cut off, or something else altogether.
    #[error("expected 64 hexadecimal digits, found {actual} characters")]
    WrongLength {
        /// Characters found.
        actual: usize,
    },
    /// A character is neither a decimal digit nor one of `a` to `f`.
    #[error("expected lower-case hexadecimal digits only")]
    NotHex,
}

/// The name of a build: the digest of its manifest's bytes, so that it names
/// every byte of the build.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BuildId(Digest);

impl BuildId {
    /// The build that a manifest with these bytes describes. Does not look into the bytes.
    pub fn of_manifest(bytes: &[u8]) -> Self {
        Self(Digest::of(bytes))
    }

    /// The build with this manifest digest.
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    /// The digest of the manifest.
    pub const fn digest(&self) -> &Digest {
        &self.0
    }

    /// The first twelve digits, for tables and logs where a person compares a handful of builds.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

impl FromStr for BuildId {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

// Documents for people (JSON) hold the hexadecimal form, wire messages (postcard) the bytes.
impl Serialize for BuildId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for BuildId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            Digest::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let build = BuildId::of_manifest(b"manifest");
        assert_eq!(build.to_string().parse(), Ok(build));
        assert_eq!(build.short(), build.to_string()[..12]);
    }

    #[test]
    fn wrong_texts_are_refused() {
        let long = "a".repeat(63);
        let upper = "A".repeat(64);
        let cases = [
            ("", ParseDigestError::WrongLength { actual: 0 }),
            (long.as_str(), ParseDigestError::WrongLength { actual: 63 }),
            (upper.as_str(), ParseDigestError::NotHex),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<BuildId>(), Err(expected), "{text}");
        }
    }
}
