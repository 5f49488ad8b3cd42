//! A named, portable random number generator: xoshiro256** seeded through splitmix64.
//!
//! Owned code instead of `rand`, whose small generators may change their output between versions,
//! which would break every recorded simulation. Not for secrets.
//! Source: Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2019.

/// What a generator starts from. Equal seeds give equal draws, on every platform.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seed(u64);

impl Seed {
    /// The seed with this number.
    pub const fn from_u64(seed: u64) -> Self {
        Self(seed)
    }

    /// The number behind the seed, to print with a failure.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A stream of random numbers. One per node and purpose, so that a new draw in one place does not
/// shift every other.
#[derive(Clone, Debug)]
pub struct Prng {
    state: [u64; 4],
}

impl Prng {
    /// The stream of `seed`.
    pub fn from_seed(seed: Seed) -> Self {
        let mut mixer = seed.0;
        let mut split_mix = || {
            mixer = mixer.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = mixer;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        };
        Self { state: [split_mix(), split_mix(), split_mix(), split_mix()] }
    }

    /// A new stream that is independent of what is drawn from this one afterwards.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self::from_seed(Seed(self.next_u64()))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let result = self.state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = self.state[1] << 17;
        self.state[2] ^= self.state[0];
        self.state[3] ^= self.state[1];
        self.state[1] ^= self.state[2];
        self.state[0] ^= self.state[3];
        self.state[2] ^= shifted;
        self.state[3] = self.state[3].rotate_left(45);
        result
    }

    /// A number below `bound`. The bias of the multiply-shift is below 2^-32 for the small bounds
    /// in use here, so no draw is rejected and every call takes exactly one step.
    ///
    /// # Panics
    ///
    /// If `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below zero");
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A position in a collection of `count` items.
    ///
    /// # Panics
    ///
    /// If `count` is zero.
    pub fn index_below(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap_or(0)
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index_below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the stream never changes, or recorded seeds lose their meaning.
    #[test]
    fn stream_of_a_seed_is_fixed() {
        let mut prng = Prng::from_seed(Seed::from_u64(7));
        let drawn = [prng.next_u64(), prng.next_u64(), prng.below(1000)];
        let mut again = Prng::from_seed(Seed::from_u64(7));
        assert_eq!(drawn, [again.next_u64(), again.next_u64(), again.below(1000)]);
        assert_ne!(drawn[0], Prng::from_seed(Seed::from_u64(8)).next_u64());
    }

    #[test]
    fn draws_below_a_bound_reach_every_value() {
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let mut seen = [0_u32; 7];
        for _ in 0..7_000 {
            seen[prng.index_below(7)] += 1;
        }
        assert!(seen.iter().all(|&count| (800..1_200).contains(&count)), "{seen:?}");
    }

    #[test]
    fn shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        Prng::from_seed(Seed::from_u64(3)).shuffle(&mut items);
        assert_ne!(items[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
