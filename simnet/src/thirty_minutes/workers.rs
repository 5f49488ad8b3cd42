//! Jobs on several threads, results in the order of the jobs.
//!
//! Invariant: no job learns which thread runs it or what runs beside it, so the number of threads
//! changes nothing but the time. What a job used is freed when it ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Runs `work` on every job, on at most `threads` threads. `on_done` sees each result when it
/// comes, in whatever order that is.
pub(crate) fn run_all<J: Sync, R: Send>(
    threads: usize,
    jobs: &[J],
    work: impl Fn(&J) -> R + Sync,
    mut on_done: impl FnMut(&R),
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::sync_channel(jobs.len());
    let mut results: Vec<Option<R>> = jobs.iter().map(|_| None).collect();
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            let sender = sender.clone();
            let (next, work) = (&next, &work);
            scope.spawn(move || work_off(next, jobs, work, &sender));
        }
        drop(sender);
        for (index, result) in receiver {
            on_done(&result);
            results[index] = Some(result);
        }
    });
    results
        .into_iter()
        .map(|result| result.expect("every job ended, or the scope panicked"))
        .collect()
}

fn work_off<J, R>(
    next: &AtomicUsize,
    jobs: &[J],
    work: impl Fn(&J) -> R,
    results: &mpsc::SyncSender<(usize, R)>,
) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(job) = jobs.get(index) else { return };
        // Fails only if nobody waits for results any more.
        if results.send((index, work(job))).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let jobs: Vec<u32> = (0..50).collect();
        for threads in [1, 3, 100] {
            let mut seen = 0;
            let squares = run_all(threads, &jobs, |job| job * job, |_| seen += 1);
            assert_eq!(squares, jobs.iter().map(|job| job * job).collect::<Vec<_>>());
            assert_eq!(seen, 50);
        }
        assert!(run_all(2, &[], |job: &u32| *job, |_| {}).is_empty());
    }
}
