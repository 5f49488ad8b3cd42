//! A small source of numbers whose sequence never changes: `SplitMix64` (Steele, Lea, Flood 2014).
//!
//! Of its own, because this crate depends on nothing of Shoal, and because a seed that a failing
//! test prints must give the same disk for ever.

#[derive(Clone, Debug)]
pub(super) struct Prng {
    state: u64,
}

impl Prng {
    pub(super) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        usize::try_from(self.next() % bound).expect("it is less than a usize")
    }
}

/// How likely it is that something not synced was kept. Half of the disks keep all or nothing of a
/// kind, because the faults that matter most are those where one kind is there without the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance {
    in_256: u64,
}

impl Chance {
    pub(super) const fn draw(prng: &mut Prng) -> Self {
        let in_256 = match prng.next() % 4 {
            0 => 0,
            1 => 256,
            _ => prng.next() % 257,
        };
        Self { in_256 }
    }

    pub(super) const fn hits(self, prng: &mut Prng) -> bool {
        prng.next() % 256 < self.in_256
    }
}
