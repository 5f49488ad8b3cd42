//! What goes wrong in a scenario: kinds that are switched on or off, each with a few numbers.
//!
//! Plain values. Who is hit and when is drawn from the seed when the fleet is made; each kind is
//! carried out by a file of its own below `fleet/`. [`Faults::drawn`] switches kinds at random.

use core::time::Duration;

use p2p_core::{ByteRate, Prng, Seed};

/// How much slower slow hosts, slow disks and thin uplinks are than others. An order of magnitude
/// is what a broken fan, a worn disk or a link that fell back to its lowest mode cost.
pub(crate) const SLOW_FACTOR: u64 = 8;

/// Shares that [`Faults::drawn`] gives a kind that it switches on, in percent. More than a fifth of
/// a fleet broken in one way is another scenario.
const DRAWN_PERCENT_MAX: u64 = 20;

/// Most packets that a link may lose. Beyond it a connection does not live.
pub(crate) const LOSS_PERCENT_MAX: u32 = 50;

/// What goes wrong. Each kind is off unless it is asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Faults {
    /// Hosts that crash and return.
    pub crashes: Option<Crashes>,
    /// Share of the hosts that crash and never return, in percent. Others than those of `crashes`.
    pub vanish_percent: u32,
    /// Share of the hosts whose link has an eighth of the rate, in percent.
    pub slow_percent: u32,
    /// Share of the hosts whose disk has an eighth of the rate, in percent.
    pub slow_disk_percent: u32,
    /// Share of the hosts that can send only an eighth of what they can receive, in percent.
    pub asymmetric_percent: u32,
    /// Hosts whose links lose packets.
    pub loss: Option<Loss>,
    /// Share of the hosts that lie, in percent: half of them send wrong bytes, half offer every
    /// chunk from the start and never answer when asked for one that they lack.
    pub liars_percent: u32,
    /// Share of the hosts that start only when the others should be done, in percent.
    pub late_percent: u32,
    /// One rack is cut off from everything else for this long.
    pub rack_outage: Option<Duration>,
    /// One zone is cut off from everything else for this long.
    pub zone_outage: Option<Duration>,
    /// The seeders die as soon as the hosts together have every chunk.
    pub seeders_die_after_first_copy: bool,
    /// The trackers die when the hosts have this share of all chunks that they want, in percent.
    pub trackers_die_at_percent: Option<u32>,
}

/// Hosts that crash and return with every chunk that they had stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Crashes {
    /// Share of the hosts, in percent. Each crashes once, at a time drawn from the seed within the
    /// bound of the scenario.
    pub percent: u32,
    /// How long a host stays away.
    pub downtime: Duration,
}

/// Links that lose packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Loss {
    /// Share of the hosts behind such links, in percent.
    pub percent: u32,
    /// Share of the packets that are lost, in percent, in both directions.
    pub lost_percent: u32,
}

impl Faults {
    /// Every share with the flag that sets it.
    pub(crate) fn percents(&self) -> [(&'static str, u32); 9] {
        [
            ("--crash", self.crashes.map_or(0, |crashes| crashes.percent)),
            ("--vanish", self.vanish_percent),
            ("--slow-hosts", self.slow_percent),
            ("--slow-disks", self.slow_disk_percent),
            ("--asymmetric", self.asymmetric_percent),
            ("--lossy", self.loss.map_or(0, |loss| loss.percent)),
            ("--liars", self.liars_percent),
            ("--late", self.late_percent),
            ("--tracker-dies-at", self.trackers_die_at_percent.unwrap_or(0)),
        ]
    }

    /// Whether trackers stop answering at some time.
    pub(crate) const fn end_trackers(&self) -> bool {
        self.seeders_die_after_first_copy || self.trackers_die_at_percent.is_some()
    }

    /// How much longer than others the weakest host takes, as a factor.
    pub(crate) const fn slowdown(&self) -> u32 {
        let is_slow = self.slow_percent > 0 || self.slow_disk_percent > 0;
        #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
        let factor = SLOW_FACTOR as u32;
        // A lossy link can be slow as well.
        let is_lossy = self.loss.is_some();
        (if is_slow { factor } else { 1 }) * (if is_lossy { factor } else { 1 })
    }

    /// Time that the kinds which end by themselves add to a run at most.
    pub fn span(&self) -> Duration {
        let downtime = self.crashes.map(|crashes| crashes.downtime);
        [downtime, self.rack_outage, self.zone_outage].into_iter().flatten().sum()
    }

    /// Switches each kind on or off by the seed, with numbers that any fleet survives.
    ///
    /// Kinds that no protocol survives together are not drawn together: a host that starts late
    /// needs a tracker, so nothing ends the trackers then.
    pub fn drawn(seed: u64, (racks, zones): (u32, u32)) -> Self {
        let mut prng = Prng::from_seed(Seed::from_u64(seed)).split();
        let mut percent = || {
            let share = 1 + prng.below(DRAWN_PERCENT_MAX);
            let is_on = prng.below(2) == 1;
            if is_on { u32::try_from(share).unwrap_or(0) } else { 0 }
        };
        let crashes = Crashes { percent: percent(), downtime: Duration::from_secs(3) };
        let loss = Loss { percent: percent(), lost_percent: 2 };
        let mut faults = Self {
            crashes: Some(crashes).filter(|crashes| crashes.percent > 0),
            vanish_percent: percent() / 4,
            slow_percent: percent() / 2,
            slow_disk_percent: percent() / 2,
            asymmetric_percent: percent(),
            loss: Some(loss).filter(|loss| loss.percent > 0),
            liars_percent: percent() / 4,
            late_percent: percent(),
            ..Self::default()
        };
        let outage = |seconds| Some(Duration::from_secs(seconds)).filter(|span| !span.is_zero());
        if racks > 1 && prng.below(2) == 1 {
            faults.rack_outage = outage(prng.below(40));
        }
        if zones > 1 && prng.below(2) == 1 {
            faults.zone_outage = outage(prng.below(40));
        }
        if faults.late_percent == 0 {
            faults.trackers_die_at_percent =
                u32::try_from(10 + prng.below(80)).ok().filter(|_| prng.below(2) == 1);
            faults.seeders_die_after_first_copy = prng.below(2) == 1;
        }
        faults
    }
}

/// What a link that loses packets carries of chunks, out of `rate`.
///
/// What is lost is sent again, and a congestion controller of the classic kind keeps each
/// connection to `1.22 * packet / (round trip * sqrt(loss))` at most (Mathis et al., 1997); a host
/// is taken to keep several connections busy.
pub(crate) fn lossy_rate(rate: ByteRate, lost_percent: u32, latency: Duration) -> ByteRate {
    const PACKET: u128 = 1_400;
    const CONNECTIONS: u128 = 4;
    let left = u128::from(rate.get()) * u128::from(100 - lost_percent.min(99)) / 100;
    let round_trip = (latency * 2).as_nanos().max(1);
    // The root of the loss in thousandths: sqrt(percent / 100) = sqrt(percent * 10^4) / 1000.
    let root = u128::from((u64::from(lost_percent) * 10_000).isqrt()).max(1);
    let nanos = 1_000_000_000;
    let controlled = CONNECTIONS * 122 * PACKET * nanos * 1_000 / (100 * round_trip * root);
    let bytes = u64::try_from(left.min(controlled)).unwrap_or(u64::MAX).max(1);
    ByteRate::new(bytes).unwrap_or(rate)
}

/// `rate` of a link or disk that is slow.
pub(crate) fn slow_rate(rate: ByteRate) -> ByteRate {
    ByteRate::new((rate.get() / SLOW_FACTOR).max(1)).unwrap_or(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_costs_what_is_sent_again_and_what_congestion_control_takes() {
        let rate = |bytes| ByteRate::new(bytes).unwrap();
        // Far below what the controller allows: only the lost tenth.
        assert_eq!(lossy_rate(rate(1_000), 10, Duration::from_micros(500)), rate(900));
        // 4 * 1.22 * 1400 bytes / (1 ms * sqrt(0.04)) = 34.16 MB/s.
        assert_eq!(lossy_rate(rate(125_000_000), 4, Duration::from_micros(500)), rate(34_160_000));
    }

    /// Goal: every kind is drawn by some seed and left out by others.
    #[test]
    fn drawn_faults_have_every_kind() {
        let drawn: Vec<Faults> = (0..100).map(|seed| Faults::drawn(seed, (4, 2))).collect();
        let kinds: [fn(&Faults) -> bool; 12] = [
            |faults| faults.crashes.is_some(),
            |faults| faults.vanish_percent > 0,
            |faults| faults.slow_percent > 0,
            |faults| faults.slow_disk_percent > 0,
            |faults| faults.asymmetric_percent > 0,
            |faults| faults.loss.is_some(),
            |faults| faults.liars_percent > 0,
            |faults| faults.late_percent > 0,
            |faults| faults.rack_outage.is_some(),
            |faults| faults.zone_outage.is_some(),
            |faults| faults.seeders_die_after_first_copy,
            |faults| faults.trackers_die_at_percent.is_some(),
        ];
        for (kind, is_on) in kinds.iter().enumerate() {
            let count = drawn.iter().filter(|faults| is_on(faults)).count();
            assert!((5..95).contains(&count), "kind {kind} was drawn {count} times");
        }
        assert!(drawn.iter().all(|faults| faults.late_percent == 0 || !faults.end_trackers()));
    }
}
