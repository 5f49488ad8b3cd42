//! Random scripts on disks that fail at random: errors, torn writes, kills, losses of power and
//! flipped bits, one after the other on one host.
//!
//! A seed reproduces a run. One that failed is repeated by the command that it prints.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use disk::simulated::{Disk, flip_bit};
use disk::{Operation, Outcome, Recorded, Tree, Verdict, watch};
use p2p_core::{Prng, Seed};
use rustix::io::Errno;

use super::{Expected, Fault, Host, Promise, Promises, Sample, folder};

/// Runs in CI. Each takes a few dozen milliseconds.
const RUNS: u64 = 400;

/// Repeats one run; see the command that a failure prints.
const SEED_VARIABLE: &str = "SHOAL_DISK_SEED";

/// How many runs, instead of those of CI.
const RUNS_VARIABLE: &str = "SHOAL_DISK_RUNS";

/// Crashes of one host after each other.
const CRASHES: usize = 3;

/// Most operations before a crash; a build takes about eighty.
const OPERATIONS_MAX: u64 = 250;

/// What a failure shows of each life of the host: its last operations.
const OPERATIONS_SHOWN: usize = 50;

/// Most commands before a crash, so that a host that can do nothing comes to an end.
const COMMANDS_MAX: usize = 60;

fn for_each_seed(name: &str, mut run: impl FnMut(u64)) {
    let chosen = std::env::var(SEED_VARIABLE).ok();
    let number = |text: String| text.parse::<u64>().expect("the variable holds a number");
    let seeds = match chosen {
        Some(seed) => {
            let seed = number(seed);
            seed..=seed
        }
        None => 1..=std::env::var(RUNS_VARIABLE).map_or(RUNS, number),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        // What went wrong was printed by the panic.
        assert!(
            outcome.is_ok(),
            "seed {seed} failed; to repeat it: \
             {SEED_VARIABLE}={seed} cargo nextest run -p p2p-net crash::random::{name}"
        );
    }
}

/// How the disk treats operations until the crash.
fn verdicts(prng: &mut Prng) -> impl FnMut(usize, &Operation) -> Verdict + Send + use<> {
    let mut prng = prng.split();
    let stop_at = usize::try_from(prng.below(OPERATIONS_MAX)).unwrap();
    // Half of the time the disk is sound until the crash, else every so manieth operation fails.
    let error_in = if prng.below(2) == 0 { None } else { Some(10 + prng.below(150)) };
    // Now and then the disk is full for a while.
    let full_from = usize::try_from(prng.below(4 * OPERATIONS_MAX)).unwrap();
    let full_until = full_from + usize::try_from(prng.below(100)).unwrap();
    move |number, operation| {
        if number >= stop_at {
            return Verdict::Stop;
        }
        if (full_from..full_until).contains(&number) && operation.takes_space() {
            return Verdict::Fail(Errno::NOSPC);
        }
        match (error_in, operation) {
            (Some(error_in), _) if prng.below(error_in) != 0 => Verdict::Pass,
            (None, _) => Verdict::Pass,
            (_, Operation::Write { bytes, .. }) => {
                Verdict::Tear { bytes: prng.index_below(bytes.len() + 1), errno: Errno::IO }
            }
            _ => Verdict::Fail(Errno::IO),
        }
    }
}

/// One thing that an agent may do.
fn command(host: &mut Host<'_>, prng: &mut Prng) -> Result<(), Fault> {
    let sample = prng.index_below(3);
    match prng.below(10) {
        0..=3 => drop(host.fetch_some(sample, prng.index_below(8))?),
        4..=5 => drop(host.fetch(sample)?),
        6..=7 => host.reach(sample)?,
        // Never what `current` may lead to.
        _ if host.may_remove(sample) => host.remove(sample)?,
        _ => {}
    }
    Ok(())
}

/// What a crash left, and what must be found there.
struct Left {
    tree: Tree,
    expected: Expected,
    log: String,
}

/// A host works on what the last crash left, until the next.
fn live_until_crash(left: &Left, samples: &[Sample], prng: &mut Prng) -> Left {
    let mut promises = look(left, samples);
    let folder = folder();
    left.tree.write(folder.path()).unwrap();
    let watching = watch(folder.path(), verdicts(prng)).unwrap();
    let count = || watching.count();
    let mut log = left.log.clone();
    // A process ends by a kill, or by the end of its host.
    while watching.has_power() {
        let Ok(mut host) = Host::open(folder.path(), samples, &count) else { continue };
        host.promises = promises;
        let commands = 1 + prng.index_below(COMMANDS_MAX);
        for _ in 0..commands {
            let outcome = command(&mut host, prng);
            if let (Err(error), true) = (outcome, watching.has_power()) {
                writeln!(log, "  at {}: {error:?}", watching.count()).unwrap();
            }
        }
        promises = std::mem::take(&mut host.promises);
        writeln!(log, "  process ends at {}", watching.count()).unwrap();
    }
    let at = watching.count();
    let record = watching.record();
    let disk = Disk::after(&record, at);
    let seed = prng.next_u64();
    let tree = if prng.below(4) == 0 { disk.current() } else { disk.after_power_loss(seed) };
    writeln!(log, "crash at {at}; promises {:?}", promises.made).unwrap();
    let first = at.saturating_sub(OPERATIONS_SHOWN);
    for (number, Recorded { operation, outcome }) in
        record.operations.iter().enumerate().skip(first)
    {
        writeln!(log, "  {number} {} {outcome:?}", shown(operation)).unwrap();
    }
    let mut expected = promises.after(at);
    if record.operations.iter().any(costs_chunks) {
        expected.checkpoints.fill(None);
    }
    Left { tree, expected, log }
}

/// Without the bytes.
fn shown(operation: &Operation) -> String {
    match operation {
        Operation::Write { path, offset, bytes, .. } => {
            format!("Write {} {offset}+{}", path.display(), bytes.len())
        }
        other => format!("{other:?}"),
    }
}

/// A failed sync of a file costs chunks that were safe before, because the file is thrown away; and
/// a file that cannot be opened when the build is read back counts as damaged.
fn costs_chunks(recorded: &Recorded) -> bool {
    let is_costly = match &recorded.operation {
        Operation::SyncDirectory { .. } => false,
        Operation::Open { how, .. } => !how.creates(),
        operation => operation.is_sync(),
    };
    is_costly && recorded.outcome != Outcome::Done
}

/// Goal: whatever happens, what was promised is there after the next start, and the host gets to
/// its goal with nothing left over.
#[test]
fn host_survives_random_crashes() {
    let samples = Sample::all();
    for_each_seed("host_survives_random_crashes", |seed| {
        let mut prng = Prng::from_seed(Seed::from_u64(seed));
        let nothing =
            Left { tree: Tree::default(), expected: Expected::default(), log: String::new() };
        let mut left = nothing;
        for _ in 0..CRASHES {
            left = live_until_crash(&left, &samples, &mut prng);
        }
        settle(&left, &samples, prng.index_below(3));
    });
}

/// Checks a copy of what the crash left, on a sound disk.
fn look(left: &Left, samples: &[Sample]) -> Promises {
    let folder = folder();
    left.tree.write(folder.path()).unwrap();
    let _watching = watch(folder.path(), |_: usize, _: &Operation| Verdict::Pass).unwrap();
    let host = Host::open(folder.path(), samples, &|| 0).unwrap();
    host.check(&left.expected, &left.log);
    host.carry_over(&left.expected)
}

fn settle(left: &Left, samples: &[Sample], goal: usize) {
    let folder = folder();
    left.tree.write(folder.path()).unwrap();
    let _watching = watch(folder.path(), |_: usize, _: &Operation| Verdict::Pass).unwrap();
    let mut host = Host::open(folder.path(), samples, &|| 0).unwrap();
    host.check(&left.expected, &left.log);
    host.reach(goal).unwrap_or_else(|error| panic!("{}: {error:?}", left.log));
    host.check_settled(goal, &left.log);
}

/// Goal: a bit that the disk flips in what was synced is found, named and made good by fetching.
#[test]
fn flipped_bits_are_found_and_made_good() {
    let samples = Sample::all();
    let folder = folder();
    let mut host = Host::open(folder.path(), &samples, &|| 0).unwrap();
    host.fetch(0).unwrap();
    host.fetch_some(1, 4).unwrap();
    let sound = Tree::read(folder.path()).unwrap();
    let mut found = BTreeSet::new();
    for_each_seed("flipped_bits_are_found_and_made_good", |seed| {
        let folder = super::folder();
        let mut tree = sound.clone();
        let (path, position) = flip_bit(&mut tree, seed, |_| true).unwrap();
        tree.write(folder.path()).unwrap();
        let context = format!("byte {position} of {}", path.display());
        let _watching = watch(folder.path(), |_: usize, _: &Operation| Verdict::Pass).unwrap();
        let mut host = Host::open(folder.path(), &samples, &|| 0).unwrap();
        let is_in_build = path.starts_with("state/apps/web/builds");
        assert_eq!(host.find_damage(0), is_in_build, "{context}");
        if is_in_build {
            host.remove(0).unwrap();
        }
        for goal in [0, 1] {
            host.reach(goal).unwrap_or_else(|error| panic!("{context}: {error:?}"));
            host.check_settled(goal, &context);
        }
        found.insert(path);
    });
    let kinds = ["data", "bin/run", "bitmap", "manifest"];
    let has_kind = |kind: &&str| found.iter().any(|path: &PathBuf| path.ends_with(kind));
    if std::env::var_os(SEED_VARIABLE).is_none() {
        assert!(kinds.iter().all(has_kind), "{found:?}");
    }
}

impl Host<'_> {
    /// Whether the build is not in the way of a switch that was begun.
    fn may_remove(&self, sample: usize) -> bool {
        !self.is_in_doubt && self.current() != Some(sample)
    }

    /// Promises that hold from the start of this process on.
    fn carry_over(&self, expected: &Expected) -> Promises {
        let mut promises = Promises::default();
        let mut promise = |promise| promises.made.push((0, promise));
        for id in self.store.list().unwrap() {
            promise(Promise::Complete(self.index_of(id)));
        }
        for (sample, chunks) in expected.checkpoints.iter().enumerate() {
            let is_staged = self.store.build(self.samples[sample].id).unwrap().is_none();
            if let (Some(chunks), true) = (chunks, is_staged) {
                promise(Promise::Checkpoint(sample, chunks.clone()));
            }
        }
        for removed in &expected.removed {
            promise(Promise::Removed(*removed));
        }
        if let Some(current) = self.current() {
            promise(Promise::SwitchBegins(current));
            promise(Promise::Switched(current));
        }
        promises
    }

    /// Whether the build is damaged in any of its parts, as a check of it says.
    fn find_damage(&self, sample: usize) -> bool {
        let Sample { id, manifest, .. } = &self.samples[sample];
        let Ok(Some(build)) = self.store.build(*id) else { return true };
        manifest.layout().indices().any(|chunk| {
            let expected = manifest.chunks()[chunk.as_usize()].digest;
            !build.read_chunk(chunk).is_ok_and(|bytes| p2p_core::Digest::of(&bytes) == expected)
        })
    }
}
