//! How busy a machine is: in all, and in its worst second.
//!
//! Counts only; two numbers per machine, however long the run is.

use p2p_core::Instant;

/// What one machine had to answer to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Load {
    /// Over the whole run.
    pub total: u32,
    /// In the worst of its seconds, counted from the start of the run.
    pub worst_second: u32,
    second: u32,
    in_second: u32,
}

impl Load {
    /// One more at `now`, which never goes back.
    pub(crate) fn note(&mut self, now: Instant) {
        let second = u32::try_from(now.as_nanos() / 1_000_000_000).unwrap_or(u32::MAX);
        if second != self.second {
            self.second = second;
            self.in_second = 0;
        }
        self.in_second = self.in_second.saturating_add(1);
        self.total = self.total.saturating_add(1);
        self.worst_second = self.worst_second.max(self.in_second);
    }
}

/// The worst of several machines, each number on its own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct WorstLoad {
    /// Of the machine with the highest sum.
    pub total: u32,
    /// Of the machine with the worst second.
    pub worst_second: u32,
}

impl WorstLoad {
    pub(crate) fn of(loads: &[Load]) -> Self {
        let worst = |number: fn(&Load) -> u32| loads.iter().map(number).max().unwrap_or(0);
        Self { total: worst(|load| load.total), worst_second: worst(|load| load.worst_second) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(seconds: &[u64]) -> Load {
        let mut load = Load::default();
        for second in seconds {
            load.note(Instant::from_nanos(second * 1_000_000_000 + 5));
        }
        load
    }

    #[test]
    fn worst_second_is_not_the_last() {
        let load = load(&[0, 0, 3, 3, 3, 4]);
        assert_eq!((load.total, load.worst_second), (6, 3));
    }

    #[test]
    fn worst_numbers_may_be_of_different_machines() {
        let worst = WorstLoad::of(&[load(&[0, 1, 2, 3]), load(&[5, 5])]);
        assert_eq!(worst, WorstLoad { total: 4, worst_second: 2 });
        assert_eq!(WorstLoad::of(&[]), WorstLoad::default());
    }
}
