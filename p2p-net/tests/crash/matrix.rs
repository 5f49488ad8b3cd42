//! One script, failing at each of its operations in each way.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use disk::Record;
use disk::simulated::Disk;
use disk::{Operation, Verdict, Watching, watch};
use rustix::io::Errno;

use super::{Expected, Fault, Host, Promises, Sample, folder};

/// States of the disk looked at for each moment of a power loss.
const SEEDS: u64 = 6;

/// How often an agent tries again what a failing disk refused.
const TRIES: usize = 4;

/// The first build is fetched and switched to, then the second; the first is removed.
fn script(host: &mut Host<'_>) -> Result<(), Fault> {
    host.reach(0)?;
    host.reach(1)
}

/// Everything that went well.
struct Run {
    record: Record,
    promises: Promises,
}

fn run_of_script() -> Run {
    let folder = folder();
    let watching = watch(folder.path(), |_: usize, _: &Operation| Verdict::Pass).unwrap();
    let samples = Sample::all();
    let count = || watching.count();
    let mut host = Host::open(folder.path(), &samples, &count).unwrap();
    script(&mut host).unwrap();
    host.check_settled(1, "without any fault");
    Run { record: watching.record(), promises: host.promises.clone() }
}

/// Goes on with what is in `root` after a crash until the goal is reached.
fn recover(root: &Path, expected: &Expected, context: &str) {
    // For the speed: nothing is really synced.
    let _watching = watch(root, |_: usize, _: &Operation| Verdict::Pass).unwrap();
    let samples = Sample::all();
    let mut host = Host::open(root, &samples, &|| 0)
        .unwrap_or_else(|error| panic!("{context}: cannot open: {error:?}"));
    host.check(expected, context);
    host.reach(1).unwrap_or_else(|error| panic!("{context}: {error:?}"));
    host.check_settled(1, context);
}

#[test]
fn power_loss_at_every_operation_is_recovered_from() {
    let Run { record, promises } = run_of_script();
    for at in 0..=record.operations.len() {
        let (disk, expected) = (Disk::after(&record, at), promises.after(at));
        let before = at.checked_sub(1).map(|last| &record.operations[last].operation);
        let context = format!("power lost after operation {at}, {before:?}");
        recover_after_power_loss(&disk, &expected, &context);
    }
}

#[test]
fn kill_at_every_operation_is_recovered_from() {
    let Run { record, promises } = run_of_script();
    for at in 0..=record.operations.len() {
        let folder = folder();
        Disk::after(&record, at).current().write(folder.path()).unwrap();
        let context = format!("killed before operation {at}");
        recover(folder.path(), &promises.after(at), &context);
    }
}

/// Runs the script under `verdict`, trying again as an agent does, and checks that it gets there
/// and that what it got to survives a loss of power.
fn survive(
    verdict: impl FnMut(usize, &Operation) -> Verdict + Send + 'static,
    heal: &dyn Fn(),
    context: &str,
) {
    let folder = folder();
    let watching = watch(folder.path(), verdict).unwrap();
    let samples = Sample::all();
    let count = || watching.count();
    let outcome = persist(folder.path(), &samples, &count, heal);
    let mut host = outcome.unwrap_or_else(|error| panic!("{context}: {error:?}"));
    // What was swept only at the next start is no fault of the disk's.
    let promises = std::mem::take(&mut host.promises);
    drop(host);
    check_after_power_loss(&watching, &promises, context);
    drop(watching);
    recover(folder.path(), &Expected::default(), context);
}

fn check_after_power_loss(watching: &Watching, promises: &Promises, context: &str) {
    let record = watching.record();
    let (disk, expected) =
        (Disk::after(&record, watching.count()), promises.after(watching.count()));
    recover_after_power_loss(&disk, &expected, &format!("{context}, power lost at the end"));
}

/// A host comes back from each of the states that a loss of power can leave of `disk`.
fn recover_after_power_loss(disk: &Disk, expected: &Expected, context: &str) {
    let mut seen = vec![];
    for seed in 0..SEEDS {
        let tree = disk.after_power_loss(seed);
        if seen.contains(&tree) {
            continue;
        }
        let folder = folder();
        tree.write(folder.path()).unwrap();
        seen.push(tree);
        recover(folder.path(), expected, &format!("{context}, seed {seed}"));
    }
}

fn persist<'a>(
    root: &Path,
    samples: &'a [Sample],
    count: &'a dyn Fn() -> usize,
    heal: &dyn Fn(),
) -> Result<Host<'a>, Fault> {
    let mut open = Err("never tried".into());
    for _ in 0..TRIES {
        open = Host::open(root, samples, count).map_err(Fault::from);
        if open.is_ok() {
            break;
        }
        heal();
    }
    let mut host = open?;
    let mut outcome = Ok(());
    for _ in 0..TRIES {
        outcome = script(&mut host);
        if outcome.is_ok() {
            break;
        }
        heal();
    }
    outcome.map(|()| host)
}

#[test]
fn error_at_every_operation_is_survived_by_trying_again() {
    let count = run_of_script().record.operations.len();
    for at in 0..count {
        for errno in [Errno::IO, Errno::NOSPC] {
            let verdict = move |number: usize, _: &Operation| {
                if number == at { Verdict::Fail(errno) } else { Verdict::Pass }
            };
            survive(verdict, &|| (), &format!("{errno:?} at operation {at}"));
        }
    }
}

#[test]
fn write_torn_by_an_error_is_survived_by_trying_again() {
    let record = run_of_script().record;
    let writes = record.operations.iter().enumerate().filter_map(|(at, recorded)| {
        let Operation::Write { bytes, .. } = &recorded.operation else { return None };
        Some((at, bytes.len()))
    });
    for (at, size) in writes {
        let verdict = move |number: usize, _: &Operation| {
            let torn = Verdict::Tear { bytes: size / 2, errno: Errno::IO };
            if number == at { torn } else { Verdict::Pass }
        };
        survive(verdict, &|| (), &format!("write {at} torn"));
    }
}

#[test]
fn full_or_read_only_disk_is_survived_once_it_is_mended() {
    let count = run_of_script().record.operations.len();
    for at in 0..count {
        for errno in [Errno::NOSPC, Errno::ROFS] {
            let is_mended = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&is_mended);
            let verdict = move |number: usize, operation: &Operation| {
                let is_refused = errno == Errno::ROFS || operation.takes_space();
                if number >= at && is_refused && !seen.load(Ordering::Relaxed) {
                    Verdict::Fail(errno)
                } else {
                    Verdict::Pass
                }
            };
            let mend = || is_mended.store(true, Ordering::Relaxed);
            survive(verdict, &mend, &format!("{errno:?} from operation {at} on"));
        }
    }
}

/// Goal: a disk that takes nothing more gets room by a removal, at every failure on the way as
/// well.
#[test]
fn full_disk_gets_room_by_removing_a_build() {
    for fault_at in 0..40 {
        let folder = folder();
        let samples = Sample::all();
        let mut host = Host::open(folder.path(), &samples, &|| 0).unwrap();
        host.fetch(0).unwrap();
        host.reach_beside(1).unwrap();
        drop(host);
        let verdict = move |number: usize, operation: &Operation| match operation {
            _ if number == fault_at => Verdict::Stop,
            operation if operation.takes_space() => Verdict::Fail(Errno::NOSPC),
            _ => Verdict::Pass,
        };
        let watching = watch(folder.path(), verdict).unwrap();
        let count = || watching.count();
        let Ok(mut host) = Host::open(folder.path(), &samples, &count) else { continue };
        let removed = host.remove(0);
        let context = format!("stopped at operation {fault_at}");
        assert!(removed.is_ok() || !watching.has_power(), "{context}: {removed:?}");
        let promises = std::mem::take(&mut host.promises);
        drop(host);
        check_after_power_loss(&watching, &promises, &context);
    }
}
