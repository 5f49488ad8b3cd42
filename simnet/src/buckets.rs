//! Amounts over time in a bounded number of buckets, however long a run is.
//!
//! Buckets are equally wide; when one would be needed past `BUCKETS_MAX`, they are merged in pairs,
//! so that all become twice as wide. Invariant: sums are exact, nothing is sampled.

use core::time::Duration;

use p2p_core::Instant;

/// Most buckets. Finer than a picture shows, and small beside any fleet.
const BUCKETS_MAX: usize = 1_000;

/// Width of the first buckets. A run that ends within a second has few points, and needs no more.
const FIRST_WIDTH: Duration = Duration::from_millis(1);

/// `LANES` amounts that are counted side by side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Buckets<const LANES: usize> {
    width: Duration,
    amounts: Vec<[u64; LANES]>,
}

impl<const LANES: usize> Default for Buckets<LANES> {
    fn default() -> Self {
        Self { width: FIRST_WIDTH, amounts: Vec::new() }
    }
}

impl<const LANES: usize> Buckets<LANES> {
    /// Time that each bucket covers. The first begins at zero.
    pub const fn width(&self) -> Duration {
        self.width
    }

    /// What was counted in each bucket.
    pub fn amounts(&self) -> &[[u64; LANES]] {
        &self.amounts
    }

    /// Counts `amount` at `at`.
    pub(crate) fn add(&mut self, at: Instant, lane: usize, amount: u64) {
        let bucket = self.bucket_of(at);
        self.amounts[bucket][lane] += amount;
    }

    /// Counts the nanoseconds from `from` until `until`, each where it belongs.
    pub(crate) fn add_span(&mut self, from: Instant, until: Instant, lane: usize) {
        self.on_span(from, until, |amounts, nanos| amounts[lane] += nanos);
    }

    /// Takes back what [`Self::add_span`] counted.
    pub(crate) fn take_span(&mut self, from: Instant, until: Instant, lane: usize) {
        self.on_span(from, until, |amounts, nanos| amounts[lane] -= nanos);
    }

    fn on_span(
        &mut self,
        from: Instant,
        until: Instant,
        mut change: impl FnMut(&mut [u64; LANES], u64),
    ) {
        if from >= until {
            return;
        }
        // The last bucket first: it may change the width of all.
        let (last, first) = (self.bucket_of(until), self.bucket_of(from));
        let width = self.width_nanos();
        let (from, until) = (from.as_nanos(), until.as_nanos());
        for (bucket, amounts) in (first as u64..).zip(&mut self.amounts[first..=last]) {
            let (begin, end) = (bucket * width, (bucket + 1) * width);
            change(amounts, until.min(end).saturating_sub(from.max(begin)));
        }
    }

    fn width_nanos(&self) -> u64 {
        u64::try_from(self.width.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The bucket of a time, made if it is not there.
    fn bucket_of(&mut self, at: Instant) -> usize {
        loop {
            let bucket = usize::try_from(at.as_nanos() / self.width_nanos()).unwrap_or(usize::MAX);
            if bucket < BUCKETS_MAX {
                if bucket >= self.amounts.len() {
                    self.amounts.resize(bucket + 1, [0; LANES]);
                }
                return bucket;
            }
            self.merge_pairs();
        }
    }

    fn merge_pairs(&mut self) {
        let pair_sum = |pair: &[[u64; LANES]]| {
            core::array::from_fn(|lane| pair.iter().map(|amounts| amounts[lane]).sum())
        };
        self.amounts = self.amounts.chunks(2).map(pair_sum).collect();
        self.width *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_start(Duration::from_millis(millis))
    }

    fn sum(buckets: &Buckets<1>) -> u64 {
        buckets.amounts().iter().map(|[amount]| amount).sum()
    }

    /// Goal: memory is bounded and nothing is lost, whatever the length of the run.
    /// Method: a count per second for a day, and one far behind all others.
    #[test]
    fn buckets_are_bounded_and_keep_every_count() {
        let mut buckets = Buckets::<1>::default();
        for second in 0..86_400 {
            buckets.add(at(second * 1_000), 0, 1);
            assert!(buckets.amounts().len() <= BUCKETS_MAX);
        }
        assert_eq!(sum(&buckets), 86_400);
        assert!(buckets.amounts().len() > BUCKETS_MAX / 2);
        buckets.add(at(86_400_000 * 365), 0, 1);
        assert_eq!(sum(&buckets), 86_401);
        assert!(buckets.amounts().len() <= BUCKETS_MAX);
    }

    #[test]
    fn span_is_counted_where_it_lies() {
        let mut buckets = Buckets::<2>::default();
        let half = |millis: u64| Instant::from_start(Duration::from_micros(millis * 1_000 + 500));
        buckets.add_span(half(0), half(2), 1);
        let expected = [[0, 500_000], [0, 1_000_000], [0, 500_000]];
        assert_eq!(buckets.amounts(), expected);
        buckets.add_span(at(1), at(1), 1);
        assert_eq!(buckets.amounts(), expected);
    }

    /// Goal: what is cancelled is gone, also when the buckets were merged in between.
    #[test]
    fn span_taken_back_leaves_nothing() {
        let mut buckets = Buckets::<1>::default();
        buckets.add_span(at(3), at(777), 0);
        buckets.add(at(50_000), 0, 7);
        buckets.take_span(at(100), at(777), 0);
        assert_eq!(sum(&buckets), 97_000_000 + 7);
        buckets.take_span(at(3), at(100), 0);
        assert_eq!(sum(&buckets), 7);
    }
}
