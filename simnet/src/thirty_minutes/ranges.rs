//! Flags that are more than a number: a range of rates, a share, the sizes of waves.
//!
//! Invariant: a value of these types is one that a run can take: a range is not empty, a share is
//! above zero and at most all, waves grow and the last one is everybody.

use core::fmt;
use core::str::FromStr;

use p2p_core::{ByteRate, Prng};

/// Parts that make a whole in a [`Share`].
const WHOLE: u32 = 1_000_000;

/// Why a text is none of the values of this file.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// No rate, or the second is below the first.
    #[error("{text:?} is no range of rates; write it as 134Mbit..266Mbit, or one rate for all")]
    Rates {
        /// The text.
        text: String,
    },
    /// No percentage above zero and up to a hundred.
    #[error(
        "{text:?} is no share; write it as 1%, 0.5% or 100%, with up to four digits behind the point"
    )]
    Share {
        /// The text.
        text: String,
    },
    /// Not a rising list that ends with everybody.
    #[error(
        "{text:?} are no waves; write rising percentages that end with 100, such as 1,10,50,100"
    )]
    Waves {
        /// The text.
        text: String,
    },
}

/// Rates from which one is drawn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateRange {
    slowest: ByteRate,
    fastest: ByteRate,
}

impl RateRange {
    /// One of them, all equally likely.
    pub(crate) fn draw(self, prng: &mut Prng) -> ByteRate {
        let width = self.fastest.get() - self.slowest.get();
        let above = prng.below(width.saturating_add(1));
        ByteRate::new(self.slowest.get() + above).unwrap_or(self.slowest)
    }
}

impl FromStr for RateRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let no_range = || RangeError::Rates { text: text.to_owned() };
        let (slowest, fastest) = text.split_once("..").unwrap_or((text, text));
        let parse = |rate: &str| rate.parse::<ByteRate>().map_err(|_error| no_range());
        let range = Self { slowest: parse(slowest)?, fastest: parse(fastest)? };
        if range.slowest > range.fastest { Err(no_range()) } else { Ok(range) }
    }
}

/// A part of a whole: above nothing, at most everything.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Share(u32);

impl Share {
    /// So many hundredths; at least one, at most all.
    pub(crate) fn percent(percent: u32) -> Self {
        Self(percent.clamp(1, 100) * (WHOLE / 100))
    }

    /// This part of `whole`, rounded down.
    pub(crate) fn of(self, whole: u64) -> u64 {
        let part = u128::from(whole) * u128::from(self.0) / u128::from(WHOLE);
        u64::try_from(part).unwrap_or(whole)
    }

    /// The fewest of `whole` that are not less than this part.
    pub(crate) fn at_least_of(self, whole: u64) -> u64 {
        let parts = u128::from(whole) * u128::from(self.0);
        u64::try_from(parts.div_ceil(u128::from(WHOLE))).unwrap_or(whole)
    }

    /// Drawn around this share: twice itself times two uniform draws, twice. The mean is the share,
    /// small ones are common, none is above four times the share or above everything.
    pub(crate) fn draw_around(self, prng: &mut Prng) -> Self {
        let twice = 2 * u64::from(WHOLE) + 1;
        let product = prng.below(twice) * prng.below(twice) / u64::from(WHOLE);
        let parts = u64::from(self.0) * product / u64::from(WHOLE);
        Self(u32::try_from(parts).unwrap_or(WHOLE).clamp(1, WHOLE))
    }
}

impl FromStr for Share {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let no_share = || RangeError::Share { text: text.to_owned() };
        let number = text.strip_suffix('%').ok_or_else(no_share)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !are_digits(whole) || !are_digits(fraction) || fraction.len() > 4 {
            return Err(no_share());
        }
        let parts = format!("{whole}{fraction:0<4}").parse().map_err(|_error| no_share())?;
        if parts == 0 || parts > WHOLE { Err(no_share()) } else { Ok(Self(parts)) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 10_000, self.0 % 10_000);
        if fraction == 0 {
            return write!(f, "{whole}%");
        }
        let digits = format!("{fraction:04}");
        write!(f, "{whole}.{}%", digits.trim_end_matches('0'))
    }
}

/// What part of the hosts has switched after each wave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WaveShares(pub(crate) Vec<u32>);

impl FromStr for WaveShares {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let no_waves = || RangeError::Waves { text: text.to_owned() };
        let parse = |percent: &str| percent.trim().parse::<u32>().map_err(|_error| no_waves());
        let percents = text.split(',').map(parse).collect::<Result<Vec<u32>, _>>()?;
        let is_rising = percents.is_sorted_by(|before, after| before < after);
        let ends = (percents.first().copied(), percents.last().copied());
        let (Some(1..), Some(100), true) = (ends.0, ends.1, is_rising) else {
            return Err(no_waves());
        };
        Ok(Self(percents))
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::Seed;

    use super::*;

    #[test]
    fn rates_are_drawn_from_their_whole_range() {
        let range: RateRange = "10B..12B".parse().unwrap();
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let mut drawn: Vec<u64> = (0..100).map(|_| range.draw(&mut prng).get()).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, [10, 11, 12]);
        for text in ["", "fast", "2MB..1MB", "1MB..", "0..1MB"] {
            assert!(text.parse::<RateRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_read_exactly_and_written_back() {
        for (text, of_a_million) in [("1%", 10_000), ("0.5%", 5_000), ("100%", 1_000_000)] {
            let share: Share = text.parse().unwrap();
            assert_eq!((share.of(1_000_000), share.to_string().as_str()), (of_a_million, text));
        }
        for text in ["", "1", "0%", "101%", "-1%", "1.23456%", ".5%", "1.%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn drawn_shares_keep_their_mean() {
        let share: Share = "2%".parse().unwrap();
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let drawn: Vec<u64> =
            (0..10_000).map(|_| share.draw_around(&mut prng).of(1_000_000)).collect();
        let mean = drawn.iter().sum::<u64>() / 10_000;
        assert!((19_000..21_000).contains(&mean), "{mean}");
        assert!(drawn.iter().all(|&parts| (1..=80_000).contains(&parts)));
    }

    #[test]
    fn waves_rise_and_end_with_everybody() {
        assert_eq!("1,10, 50,100".parse(), Ok(WaveShares(vec![1, 10, 50, 100])));
        for text in ["", "1,10", "0,100", "10,10,100", "50,20,100", "1,x,100"] {
            assert!(text.parse::<WaveShares>().is_err(), "{text}");
        }
    }
}
