//! One link, shared in equal parts by all that is on it: when each download ends.
//!
//! Exact integer arithmetic. Invariant: while anything is on the link, the parts of all add up to
//! what the link gives to so many.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Something that the link has to carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Job {
    /// Nanoseconds from the beginning of the run.
    pub(super) starts_at: u64,
    pub(super) bytes: u64,
}

/// What came of the jobs of a link.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Carried {
    /// When each ended, in the order of the jobs.
    pub(super) ends_at: Vec<u64>,
    /// Most jobs on the link at once.
    pub(super) sharers_max: usize,
    /// Nanoseconds in which there was at least one.
    pub(super) busy: u64,
}

/// Works off `jobs`, which are in the order of their starts. `rate_of` says what each of so many
/// jobs gets, in bytes per second; never zero.
pub(super) fn carry(jobs: &[Job], rate_of: impl Fn(usize) -> u64) -> Carried {
    let mut link = Link {
        active: BinaryHeap::new(),
        now: 0,
        given: 0,
        carried: Carried { ends_at: vec![0; jobs.len()], ..Carried::default() },
        rate_of,
    };
    for (index, job) in jobs.iter().enumerate() {
        link.advance(job.starts_at);
        let goal = link.given + u128::from(job.bytes) * NANOS_PER_SECOND;
        link.active.push(Reverse((goal, index)));
        link.carried.sharers_max = link.carried.sharers_max.max(link.active.len());
    }
    link.advance(u64::MAX);
    link.carried
}

struct Link<R> {
    /// The value of `given` at which each job ends; the next one to end on top.
    active: BinaryHeap<Reverse<(u128, usize)>>,
    now: u64,
    /// What a job that was on the link from the beginning has got: byte-nanoseconds per second.
    given: u128,
    carried: Carried,
    rate_of: R,
}

impl<R: Fn(usize) -> u64> Link<R> {
    fn advance(&mut self, until: u64) {
        while let Some(Reverse((goal, index))) = self.active.peek().copied() {
            let rate = u128::from((self.rate_of)(self.active.len()).max(1));
            let takes = goal.saturating_sub(self.given).div_ceil(rate);
            let ends_at = u64::try_from(u128::from(self.now) + takes).unwrap_or(u64::MAX);
            let end = ends_at.min(until);
            self.given += u128::from(end - self.now) * rate;
            self.carried.busy += end - self.now;
            self.now = end;
            if ends_at > until {
                return;
            }
            self.carried.ends_at[index] = ends_at;
            self.active.pop();
        }
        self.now = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn job(second: u64, bytes: u64) -> Job {
        Job { starts_at: second * SECOND, bytes }
    }

    fn ends(jobs: &[Job]) -> Vec<u64> {
        carry(jobs, |sharers| 12 / sharers as u64).ends_at.iter().map(|at| at / SECOND).collect()
    }

    #[test]
    fn jobs_share_in_equal_parts() {
        assert_eq!(ends(&[job(0, 24)]), [2]);
        assert_eq!(ends(&[job(0, 24), job(0, 24)]), [4, 4]);
        // Alone for a second, then half each until the first is done, then alone again.
        assert_eq!(ends(&[job(0, 24), job(1, 24)]), [3, 4]);
        assert_eq!(ends(&[job(0, 12), job(5, 12)]), [1, 6]);
    }

    #[test]
    fn idle_time_is_not_busy_and_sharers_are_counted() {
        let carried = carry(&[job(0, 12), job(5, 12), job(5, 12)], |sharers| 12 / sharers as u64);
        assert_eq!((carried.busy, carried.sharers_max), (3 * SECOND, 2));
        assert_eq!(carry(&[], |_| 1), Carried::default());
    }
}
