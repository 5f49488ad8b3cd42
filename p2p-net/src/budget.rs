//! How much memory the chunks of a process may take, as people write it.
//!
//! Only the number; what holds it is `data/buffers.rs`. Invariant: a budget is never below
//! [`BufferBudget::MIN`], with which something still moves.

use std::fmt::{self, Display};
use std::str::FromStr;

use p2p_core::ByteRate;

/// Bytes of chunks in memory at once, half for what arrives and half for what is sent. What does
/// not fit waits: hosts ask for less, and senders read from the disk later.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BufferBudget {
    bytes: u64,
}

impl BufferBudget {
    /// Room for two of the largest chunks in each direction; with less, nothing would move.
    pub const MIN: Self = Self { bytes: 16 << 20 };

    /// What several downloads at 10 Gbit/s over a few milliseconds need.
    pub const DEFAULT: Self = Self { bytes: 64 << 20 };

    /// The budget in bytes.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }
}

impl Default for BufferBudget {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The text does not say how much memory there is to be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{text:?} is not an amount of memory of at least {}; write it as {}",
    BufferBudget::MIN,
    BufferBudget::DEFAULT
)]
pub struct ParseBufferBudgetError {
    text: String,
}

impl FromStr for BufferBudget {
    type Err = ParseBufferBudgetError;

    fn from_str(text: &str) -> Result<Self, ParseBufferBudgetError> {
        let wrong = || ParseBufferBudgetError { text: text.to_owned() };
        // A size is a rate without its per-second part.
        if text.contains("bit") || text.contains('/') {
            return Err(wrong());
        }
        let parsed: ByteRate = text.parse().ok().ok_or_else(wrong)?;
        let budget = Self { bytes: parsed.get() };
        if budget.bytes < Self::MIN.bytes { Err(wrong()) } else { Ok(budget) }
    }
}

impl Display for BufferBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bytes.is_multiple_of(1 << 20) {
            write!(f, "{}MiB", self.bytes >> 20)
        } else {
            write!(f, "{}B", self.bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_as_sizes_are_written() {
        let parse = |text: &str| text.parse::<BufferBudget>().map(BufferBudget::bytes);
        assert_eq!(parse("64MiB"), Ok(64 << 20));
        assert_eq!(parse("1GB"), Ok(1_000_000_000));
        for text in ["", "15MiB", "0", "64", "1Gbit", "64MiB/s", "much"] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains("at least 16MiB; write it as 64MiB"), "{said}");
        }
        for budget in [BufferBudget::default(), BufferBudget { bytes: 16_777_217 }] {
            assert_eq!(budget.to_string().parse(), Ok(budget));
        }
    }
}
