//! What a seeder has given out, so that each chunk leaves it once before any leaves it twice.

use core::time::Duration;

use crate::chunk_set::ChunkSet;
use crate::layout::ChunkIndex;
use crate::pick::pick_any;
use crate::prng::Prng;
use crate::time::Instant;

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
    pub(super) fn new(chunk_count: u32, reserve_min: Duration, reserve_factor: u32) -> Self {
        Self {
            unserved: ChunkSet::full(chunk_count),
            served_at: vec![Instant::ZERO; chunk_count as usize].into_boxed_slice(),
            send_time: Duration::ZERO,
            reserve_min,
            reserve_factor,
        }
    }

    /// Decides on a request for `asked` by a peer that has `asker_has`.
    pub(super) fn rule(
        &self,
        now: Instant,
        asked: ChunkIndex,
        asker_has: Option<&ChunkSet>,
        prng: &mut Prng,
    ) -> Ruling {
        if self.unserved.contains(asked) {
            return Ruling::Send(asked);
        }
        let useful = |i| self.unserved.word(i) & !asker_has.map_or(0, |have| have.word(i));
        if let Some(chunk) = pick_any(self.unserved.word_count(), prng, useful) {
            return Ruling::Send(chunk);
        }
        let reserve = self.reserve_min.max(self.send_time * self.reserve_factor);
        let free_at = self.served_at[asked.as_usize()].after(reserve);
        if free_at <= now { Ruling::Send(asked) } else { Ruling::Wait(free_at.since(now)) }
    }

    /// A chunk goes out.
    pub(super) fn note_start(&mut self, now: Instant, chunk: ChunkIndex) {
        self.unserved.remove(chunk);
        self.served_at[chunk.as_usize()] = now;
    }

    /// What sending a chunk usually takes; zero before the first.
    pub(super) const fn send_time(&self) -> Duration {
        self.send_time
    }

    /// A chunk reached its asker after `took`.
    pub(super) fn note_delivered(&mut self, took: Duration) {
        self.send_time =
            if self.send_time.is_zero() { took } else { (self.send_time * 7 + took) / 8 };
    }

    /// A chunk did not reach its asker, so it may be nowhere.
    pub(super) fn note_failed(&mut self, chunk: ChunkIndex) {
        self.unserved.insert(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ChunkLayout;
    use crate::prng::Seed;

    fn ledger(chunk_count: u32) -> Ledger {
        Ledger::new(chunk_count, Duration::from_secs(2), 10)
    }

    #[test]
    fn each_chunk_leaves_once_before_any_leaves_twice() {
        let layout = ChunkLayout::new([1; 3].into_iter()).unwrap();
        let chunk = |raw| layout.index(raw).unwrap();
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let mut ledger = ledger(3);
        let none = ChunkSet::empty(3);
        let mut sent = Vec::new();
        for _ in 0..3 {
            let Ruling::Send(chunk) = ledger.rule(Instant::ZERO, chunk(0), Some(&none), &mut prng)
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
            ledger.rule(later, chunk(0), Some(&none), &mut prng),
            Ruling::Wait(Duration::from_secs(1))
        );
        let free = Instant::from_start(Duration::from_secs(2));
        assert_eq!(ledger.rule(free, chunk(0), Some(&none), &mut prng), Ruling::Send(chunk(0)));
    }

    #[test]
    fn chunk_that_did_not_arrive_is_given_again_at_once() {
        let layout = ChunkLayout::new([1; 2].into_iter()).unwrap();
        let chunk = layout.index(0).unwrap();
        let mut ledger = ledger(2);
        ledger.note_start(Instant::ZERO, chunk);
        ledger.note_failed(chunk);
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let ruling = ledger.rule(Instant::ZERO, chunk, None, &mut prng);
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
        let ruling = ledger.rule(Instant::ZERO, chunk, None, &mut prng);
        assert_eq!(ruling, Ruling::Wait(Duration::from_secs(10)));
    }
}
