//! Runs of random tests: from which seeds, and what to do about one that failed.
//!
//! A seed alone reproduces a run. Knows nothing of what a run does.

/// A random test.
pub(super) struct Seeds {
    /// Runs in CI.
    pub(super) runs: u64,
    /// The variable that repeats one run.
    pub(super) seed_variable: &'static str,
    /// The variable that says how many runs, instead of those of CI.
    pub(super) runs_variable: &'static str,
    /// The test's module, for the command that a failure prints.
    pub(super) module: &'static str,
}

impl Seeds {
    /// Runs `run` with one seed after another.
    ///
    /// # Panics
    ///
    /// A run failed; the message has the command that repeats it.
    pub(super) fn run(&self, run: fn(u64)) {
        let Self { runs, seed_variable, runs_variable, module } = self;
        let number = |text: String| text.parse::<u64>().expect("the variable holds a number");
        let seeds = match std::env::var(seed_variable).map(number) {
            Ok(seed) => seed..=seed,
            Err(_) => 1..=std::env::var(runs_variable).map_or(*runs, number),
        };
        for seed in seeds {
            let outcome = std::panic::catch_unwind(|| run(seed));
            assert!(
                outcome.is_ok(),
                "seed {seed} failed; to repeat it: {seed_variable}={seed} cargo nextest run -p \
                 node-agent simulated::{module}"
            );
        }
    }
}
