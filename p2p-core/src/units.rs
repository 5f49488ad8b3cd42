//! Quantities whose unit the type carries.
//!
//! Invariant: arithmetic is exact, and what has to be rounded is rounded so that no limit is
//! exceeded. How people write rates is in `rate.rs`.

use core::num::NonZero;
use core::time::Duration;

/// A transfer rate, in bytes per second.
///
/// Never zero: a link that carries nothing is an absent link (`Option::None`), so no division can
/// turn "stopped" into "infinitely fast".
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ByteRate(NonZero<u64>);

impl ByteRate {
    /// A rate of `bytes_per_second`; `None` for zero.
    pub const fn new(bytes_per_second: u64) -> Option<Self> {
        match NonZero::new(bytes_per_second) {
            Some(rate) => Some(Self(rate)),
            None => None,
        }
    }

    /// Bytes per second.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// How long `bytes` occupy a link of this rate.
    ///
    /// Rounds up to a whole nanosecond, so that back-to-back sends never exceed the rate.
    pub fn occupancy(self, bytes: u64) -> Duration {
        const NANOS_PER_SECOND: u128 = 1_000_000_000;
        let nanos = (u128::from(bytes) * NANOS_PER_SECOND).div_ceil(u128::from(self.get()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_rounds_up() {
        let rate = ByteRate::new(3).unwrap();
        assert_eq!(rate.occupancy(1), Duration::from_nanos(333_333_334));
        assert_eq!(rate.occupancy(0), Duration::ZERO);
        assert_eq!(ByteRate::new(0), None);
    }
}
