//! The ledger: what a seeder has given out.
//!
//! Each chunk leaves the seeder once before any leaves it twice, and no more than a few copies of
//! the build leave it in all. Invariant: a chunk that may be nowhere else is never kept back.

use core::time::Duration;

use crate::chunk_set::ChunkSet;
use crate::config::SwarmConfig;
use crate::layout::ChunkIndex;
use crate::pick::pick_any;
use crate::prng::Prng;
use crate::time::{Instant, smoothed};

/// The seeder's account of one build.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Chunks never given out, or only to peers that did not receive them.
    unserved: ChunkSet,
    /// When each chunk was last given out.
    served_at: Box<[Instant]>,
    /// What sending a chunk usually takes.
    send_time: Duration,
    /// A chunk is kept back for this long...
    reserve_min: Duration,
    /// ...or this many send times.
    reserve_factor: u32,
    /// Chunks given out, without those that did not arrive.
    given: u64,
    /// Past this many, only those who get nothing from hosts are given more.
    given_max: u64,
    /// How long whoever is referred to the hosts gets to find the chunk there.
    spent_wait: Duration,
}

/// The peer that asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    /// What it has; `None` if it has not said.
    pub(super) has: Option<&'a ChunkSet>,
    /// Nobody but us has given it anything for a while.
    pub(super) is_starving: bool,
}

/// What to answer a request with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ruling {
    /// Send this chunk: the one asked for, or one that the asker lacks and nobody was given.
    Send(ChunkIndex),
    /// The chunk is out there already; the swarm gets this long to bring it.
    Wait(Duration),
}

impl Ledger {
    pub(super) fn new(chunk_count: u32, config: &SwarmConfig) -> Self {
        let SwarmConfig { reserve_min, reserve_factor, copies_max, busy_named_max, .. } = *config;
        Self {
            unserved: ChunkSet::full(chunk_count),
            served_at: vec![Instant::ZERO; chunk_count as usize].into_boxed_slice(),
            send_time: Duration::ZERO,
            reserve_min,
            reserve_factor,
            given: 0,
            given_max: u64::from(chunk_count) * u64::from(copies_max),
            spent_wait: busy_named_max,
        }
    }

    /// Decides on a request for `asked`.
    pub(super) fn rule(
        &self,
        now: Instant,
        asked: ChunkIndex,
        asker: Asker<'_>,
        prng: &mut Prng,
    ) -> Ruling {
        if self.unserved.contains(asked) {
            return Ruling::Send(asked);
        }
        let useful = |i| self.unserved.word(i) & !asker.has.map_or(0, |have| have.word(i));
        if let Some(chunk) = pick_any(self.unserved.word_count(), prng, useful) {
            return Ruling::Send(chunk);
        }
        if self.given >= self.given_max && !asker.is_starving {
            return Ruling::Wait(self.spent_wait);
        }
        let reserve = self.reserve_min.max(self.send_time * self.reserve_factor);
        let free_at = self.served_at[asked.as_usize()].after(reserve);
        if free_at <= now { Ruling::Send(asked) } else { Ruling::Wait(free_at.since(now)) }
    }

    /// A chunk goes out.
    pub(super) fn note_start(&mut self, now: Instant, chunk: ChunkIndex) {
        self.unserved.remove(chunk);
        self.given += 1;
        self.served_at[chunk.as_usize()] = now;
    }

    /// What sending a chunk usually takes; zero before the first.
    pub(super) const fn send_time(&self) -> Duration {
        self.send_time
    }

    /// A chunk reached its asker after `took`.
    pub(super) fn note_delivered(&mut self, took: Duration) {
        self.send_time =
            if self.send_time.is_zero() { took } else { smoothed(self.send_time, took) };
    }

    /// A chunk did not reach its asker, so it may be nowhere.
    pub(super) fn note_failed(&mut self, chunk: ChunkIndex) {
        if self.unserved.insert(chunk) {
            self.given = self.given.saturating_sub(1);
        }
    }

    /// These chunks of word `i` are gone with the only peer that had them.
    pub(super) fn note_gone(&mut self, i: usize, chunks: u64) {
        let taken_back = self.unserved.insert_word(i, chunks).count_ones();
        self.given = self.given.saturating_sub(u64::from(taken_back));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ChunkLayout;
    use crate::prng::Seed;

    fn ledger(chunk_count: u32) -> Ledger {
        let reserve_min = Duration::from_secs(2);
        let config =
            SwarmConfig { reserve_min, reserve_factor: 10, copies_max: 2, ..SwarmConfig::seeder() };
        Ledger::new(chunk_count, &config)
    }

    const ANYBODY: Asker<'_> = Asker { has: None, is_starving: false };

    #[test]
    fn each_chunk_leaves_once_before_any_leaves_twice() {
        let layout = ChunkLayout::new([1; 3].into_iter()).unwrap();
        let chunk = |raw| layout.index(raw).unwrap();
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let mut ledger = ledger(3);
        let mut sent = Vec::new();
        for _ in 0..3 {
            let Ruling::Send(chunk) = ledger.rule(Instant::ZERO, chunk(0), ANYBODY, &mut prng)
            else {
                panic!("an unserved chunk was kept back");
            };
            ledger.note_start(Instant::ZERO, chunk);
            sent.push(chunk.get());
        }
        sent.sort_unstable();
        assert_eq!(sent, [0, 1, 2]);

        let later = Instant::from_start(Duration::from_secs(1));
        assert_eq!(
            ledger.rule(later, chunk(0), ANYBODY, &mut prng),
            Ruling::Wait(Duration::from_secs(1))
        );
        let free = Instant::from_start(Duration::from_secs(2));
        assert_eq!(ledger.rule(free, chunk(0), ANYBODY, &mut prng), Ruling::Send(chunk(0)));
    }

    #[test]
    fn chunk_that_did_not_arrive_is_given_again_at_once() {
        let layout = ChunkLayout::new([1; 2].into_iter()).unwrap();
        let chunk = layout.index(0).unwrap();
        let mut ledger = ledger(2);
        ledger.note_start(Instant::ZERO, chunk);
        ledger.note_failed(chunk);
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let ruling = ledger.rule(Instant::ZERO, chunk, ANYBODY, &mut prng);
        assert_eq!(ruling, Ruling::Send(chunk));
    }

    #[test]
    fn slow_sending_keeps_chunks_back_longer() {
        let layout = ChunkLayout::new([1].into_iter()).unwrap();
        let chunk = layout.index(0).unwrap();
        let mut ledger = ledger(1);
        ledger.note_start(Instant::ZERO, chunk);
        ledger.note_delivered(Duration::from_secs(1));
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let ruling = ledger.rule(Instant::ZERO, chunk, ANYBODY, &mut prng);
        assert_eq!(ruling, Ruling::Wait(Duration::from_secs(10)));
    }

    /// Goal: past the limit on copies, only peers that get nothing elsewhere are served, and a
    /// chunk that is nowhere else is given out all the same. Method: the limit is two copies of two
    /// chunks; asked at the limit, past it, and long after.
    #[test]
    fn copies_past_the_limit_are_for_the_starving_only() {
        let layout = ChunkLayout::new([1; 2].into_iter()).unwrap();
        let chunk = |raw| layout.index(raw).unwrap();
        let at = |second| Instant::from_start(Duration::from_secs(second));
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let mut ledger = ledger(2);
        for (second, raw) in [(0, 0), (0, 1), (10, 0), (20, 1)] {
            let ruling = ledger.rule(at(second), chunk(raw), ANYBODY, &mut prng);
            assert_eq!(ruling, Ruling::Send(chunk(raw)), "at {second} s");
            ledger.note_start(at(second), chunk(raw));
        }
        let mut rule = |ledger: &Ledger, second, raw, is_starving| {
            ledger.rule(at(second), chunk(raw), Asker { has: None, is_starving }, &mut prng)
        };
        assert_eq!(
            rule(&ledger, 1_000, 0, false),
            Ruling::Wait(SwarmConfig::seeder().busy_named_max)
        );
        assert_eq!(rule(&ledger, 1_000, 0, true), Ruling::Send(chunk(0)));
        assert_eq!(rule(&ledger, 21, 1, true), Ruling::Wait(Duration::from_secs(1)));
        ledger.note_failed(chunk(1));
        assert_eq!(rule(&ledger, 21, 1, false), Ruling::Send(chunk(1)));
    }
}
