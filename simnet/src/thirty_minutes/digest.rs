//! Everything that a run decided, folded into one number, which shows whether two
//! runs were the same.

use core::fmt;
use core::time::Duration;

/// A 64-bit digest of words and texts, in their order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Digest {
    /// The same step as in the digest of a fleet's trace.
    pub(crate) const fn fold(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    pub(crate) fn fold_time(&mut self, time: Option<Duration>) {
        let nanos = time.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1));
        self.fold(nanos.unwrap_or(u64::MAX));
    }

    pub(crate) fn fold_text(&mut self, text: &str) {
        for byte in text.bytes() {
            self.fold(u64::from(byte));
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
