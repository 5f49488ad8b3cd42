//! How fast a program prints, and whether that is more than the operator allows.
//!
//! Pure: the time and how much was printed are arguments. Too much is a verdict of the health gate
//! while a build is judged, and a warning afterwards; `health_watch` knows which of the two it is.
//!
//! Invariant: a program is never said to have printed more than it did within the time that is
//! named. Where looks are rare, the time looked at gets shorter, never longer.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use p2p_core::ByteRate;
use tokio::time::Instant;

use goal_state::bytes_text;

/// Time over which a rate is averaged. Programs that dump their settings or fill a cache when they
/// start print in bursts of a second or two; half of this would take such a burst for a flood,
/// twice of it would be longer than the health gate of most apps.
pub const OUTPUT_WINDOW: Duration = Duration::from_secs(10);

/// Least time between two samples that are kept, so that a program that is looked at often has no
/// more of them than one that is not.
const SAMPLE_SPACING: Duration = OUTPUT_WINDOW.checked_div(64).expect("it is not zero");

/// A program that prints too much, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Flood {
    bytes: u64,
    time: Duration,
    limit: u64,
    noted_at: Instant,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct FloodWatch {
    /// What had been printed when, oldest first; never empty, and nothing older than
    /// [`OUTPUT_WINDOW`] but the newest.
    samples: VecDeque<(Instant, u64)>,
    flood: Option<Flood>,
}

impl FloodWatch {
    /// A program of which nothing is counted yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { samples: VecDeque::from([(now, 0)]), flood: None }
    }

    /// The flood that goes on; `None` while the program prints no more than it may.
    pub(crate) const fn flood(&self) -> Option<&Flood> {
        self.flood.as_ref()
    }

    /// Up to `now`, `written` bytes were printed in all. `limit`: how fast that may be.
    pub(crate) fn on_look(&mut self, now: Instant, written: u64, limit: Option<ByteRate>) {
        self.keep(now, written);
        let Some(limit) = limit else {
            self.flood = None;
            return;
        };
        let limit = limit.get().saturating_mul(OUTPUT_WINDOW.as_secs());
        let (since, before) = self.samples[0];
        let (bytes, time) = (written.saturating_sub(before), now.saturating_duration_since(since));
        match &self.flood {
            None if bytes <= limit => {}
            // It ends only well below the limit: one that prints just as much as it may is not
            // reported again and again.
            Some(_) if bytes <= limit / 2 => self.flood = None,
            // What people read does not change with every look.
            Some(known) if known.limit == limit && now < known.noted_at + OUTPUT_WINDOW => {}
            _ => self.flood = Some(Flood { bytes, time, limit, noted_at: now }),
        }
    }

    fn keep(&mut self, now: Instant, written: u64) {
        let count = self.samples.len();
        if count >= 2 && self.samples[count - 1].0 < self.samples[count - 2].0 + SAMPLE_SPACING {
            self.samples[count - 1] = (now, written);
        } else {
            self.samples.push_back((now, written));
        }
        while self.samples.len() > 1 && self.samples[0].0 + OUTPUT_WINDOW < now {
            self.samples.pop_front();
        }
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "wrote {} of output in {:.1} s (limit {} in {} s, max_output_rate)",
            bytes_text(self.bytes),
            self.time.as_secs_f64(),
            bytes_text(self.limit),
            OUTPUT_WINDOW.as_secs()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    /// 1000 KiB in ten seconds.
    fn limit() -> Option<ByteRate> {
        ByteRate::new(100 * KIB)
    }

    /// Times in milliseconds, and how many KiB were printed in all by then.
    type Looks<'a> = &'a [(u64, u64)];

    /// Looks at these times.
    fn looks(times: Looks<'_>) -> FloodWatch {
        let start = Instant::now();
        let mut watch = FloodWatch::new(start);
        for (milliseconds, kib) in times.iter().copied() {
            let now = start + Duration::from_millis(milliseconds);
            watch.on_look(now, kib * KIB, limit());
        }
        watch
    }

    #[test]
    fn only_more_than_the_limit_within_the_window_is_a_flood() {
        let cases: [(&str, Looks<'_>, bool); 10] = [
            ("nothing", &[(2_000, 0), (6_000, 0)], false),
            ("a burst up to the limit", &[(1_000, 1_000)], false),
            ("one more byte would do", &[(1_000, 1_001)], true),
            (
                "just as much as it may, for long",
                &[(4_000, 400), (8_000, 800), (12_000, 1_200), (16_000, 1_600), (20_000, 2_000)],
                false,
            ),
            ("twice of it", &[(4_000, 800), (8_000, 1_600)], true),
            ("two bursts far from each other", &[(1_000, 900), (12_000, 1_800)], false),
            ("two bursts near each other", &[(1_000, 900), (4_000, 900), (10_000, 1_800)], true),
            ("quiet for long, then a flood", &[(60_000, 0), (61_000, 1_100)], true),
            // How it is spread over the minute is not known.
            ("a look after a minute", &[(60_000, 9_000)], false),
            ("over", &[(1_000, 2_000), (5_000, 2_000), (12_000, 2_100)], false),
        ];
        for (name, times, expected) in cases {
            let watch = looks(times);
            assert_eq!(watch.flood().is_some(), expected, "{name}: {watch:?}");
        }
    }

    #[test]
    fn flood_is_shown_with_its_figures() {
        let shown = |times: &[(u64, u64)]| looks(times).flood().unwrap().to_string();
        let limit = "(limit 1000.0 KiB in 10 s, max_output_rate)";
        assert_eq!(shown(&[(250, 1_024)]), format!("wrote 1.0 MiB of output in 0.2 s {limit}"));
        let long = [(4_000, 9_216), (8_000, 18_432), (13_000, 29_696)];
        // First shown after four seconds: kept until there is news for people.
        assert_eq!(shown(&long), format!("wrote 9.0 MiB of output in 4.0 s {limit}"));
        let longer = [&long[..], &[(14_500, 35_840)]].concat();
        assert_eq!(shown(&longer), format!("wrote 17.0 MiB of output in 6.5 s {limit}"));
    }

    #[test]
    fn flood_ends_well_below_the_limit() {
        let mut times = vec![(1_000, 1_100), (2_000, 1_100), (10_900, 1_800), (11_500, 1_801)];
        assert!(looks(&times).flood().is_some(), "701 KiB in the last ten seconds");
        times.push((21_000, 1_801));
        assert!(looks(&times).flood().is_none());
    }

    #[test]
    fn without_a_limit_there_is_no_flood() {
        let mut watch = looks(&[(1_000, 5_000)]);
        assert!(watch.flood().is_some());
        watch.on_look(Instant::now() + Duration::from_secs(2), 90_000 * KIB, None);
        assert_eq!(watch.flood(), None);
    }

    #[test]
    fn samples_are_few_however_often_it_is_looked_at() {
        let times: Vec<_> = (0..60_000).map(|millisecond| (millisecond, millisecond)).collect();
        let watch = looks(&times);
        assert!(watch.samples.len() <= 70, "{}", watch.samples.len());
        assert!(watch.flood().is_some());
    }
}
