//! Switching and restarting, wave after wave.
//!
//! Invariant: nobody switches before it has verified the build, nor before its wave is open; a wave
//! opens a pause after the last host of the one before is done.

use core::time::Duration;

use p2p_core::Prng;

use super::ranges::WaveShares;

/// How a region switches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Waves {
    /// Which part of the hosts has switched after each wave.
    pub(crate) shares: WaveShares,
    /// From the end of a wave to the next one: the time in which its health is watched, and in
    /// which the order to go on travels.
    pub(crate) pause: Duration,
    /// What one host needs to switch, restart and be healthy.
    pub(crate) switch_time: Duration,
}

impl Waves {
    /// When each host runs the build, given when it has verified it. A wave with a host that never
    /// verifies is the last one.
    pub(crate) fn switched_at(
        &self,
        verified_at: &[Option<Duration>],
        prng: &mut Prng,
    ) -> Vec<Option<Duration>> {
        let mut order: Vec<usize> = (0..verified_at.len()).collect();
        prng.shuffle(&mut order);
        let mut switched_at = vec![None; verified_at.len()];
        let mut opens_at = Some(Duration::ZERO);
        let mut begin = 0;
        for percent in &self.shares.0 {
            // Up, so that the first wave of a small region is not empty.
            let end = (order.len() * *percent as usize).div_ceil(100);
            let mut done_at = opens_at;
            for host in &order[begin..end] {
                let starts_at = opens_at.zip(verified_at[*host]).map(|(open, at)| open.max(at));
                switched_at[*host] = starts_at.map(|at| at + self.switch_time);
                done_at = done_at.zip(switched_at[*host]).map(|(done, at)| done.max(at));
            }
            opens_at = done_at.map(|done| done + self.pause);
            begin = end;
        }
        switched_at
    }

    /// What all waves take if every host verified before the first.
    pub(crate) fn time_after_verification(&self) -> Duration {
        let waves = u32::try_from(self.shares.0.len()).unwrap_or(u32::MAX);
        self.switch_time * waves + self.pause * waves.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::Seed;

    use super::*;

    fn waves() -> Waves {
        Waves {
            shares: WaveShares(vec![10, 50, 100]),
            pause: Duration::from_secs(20),
            switch_time: Duration::from_secs(10),
        }
    }

    fn switched(verified_at: &[Option<Duration>]) -> Vec<Option<Duration>> {
        let mut prng = Prng::from_seed(Seed::from_u64(1));
        let mut times = waves().switched_at(verified_at, &mut prng);
        times.sort_unstable();
        times
    }

    #[test]
    fn each_wave_waits_for_the_one_before() {
        let times = switched(&[Some(Duration::from_secs(5)); 20]);
        let count = |seconds| {
            times.iter().filter(|time| **time == Some(Duration::from_secs(seconds))).count()
        };
        assert_eq!((count(15), count(45), count(75)), (2, 8, 10));
        let whole = Duration::from_secs(5) + waves().time_after_verification();
        assert_eq!(times.last(), Some(&Some(whole)));
    }

    #[test]
    fn host_that_never_verifies_halts_the_waves_after_its_own() {
        let mut verified_at = vec![Some(Duration::ZERO); 20];
        verified_at[3] = None;
        let never = switched(&verified_at).iter().filter(|time| time.is_none()).count();
        assert!([1, 11, 19].contains(&never), "{never} never switched");
    }
}
