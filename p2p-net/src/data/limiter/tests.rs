//! The limiter against a clock that only moves when everybody waits.

use std::cell::Cell;

use tokio::time::timeout;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rate(bytes: u64) -> Option<ByteRate> {
    ByteRate::new(bytes)
}

fn limiter(bytes: u64) -> Limiter {
    let limiter = Limiter::default();
    limiter.set_rate(rate(bytes));
    limiter
}

fn upload(bytes: u64) -> Limits {
    Limits { upload: rate(bytes), download: None }
}

fn both(app: Limits, node: Limits) -> (SharedLimits, SharedLimits, TransferLimits) {
    let (app, node) = (SharedLimits::new(app), SharedLimits::new(node));
    (app.clone(), node.clone(), TransferLimits::new(app, node))
}

/// Sends without end; what was let through is added up in `sent`.
async fn send(limits: &TransferLimits, sent: &Cell<u64>) {
    loop {
        let bytes = limits.admit_upload(1 << 20).await;
        sent.set(sent.get() + bytes as u64);
    }
}

/// What passes in `time`, less the burst and the slice that a limiter may be ahead.
async fn sent_in(time: Duration, limits: &TransferLimits) -> u64 {
    let sent = Cell::new(0);
    assert!(timeout(time, send(limits, &sent)).await.is_err());
    sent.get()
}

fn assert_about(found: u64, expected: u64) {
    let margin = expected / 8 + SLICE_BYTES_MAX;
    assert!(found.abs_diff(expected) <= margin, "{found} bytes, not about {expected}");
}

#[tokio::test(start_paused = true)]
async fn bytes_leave_at_the_rate_whoever_sends_them() {
    let limiter = limiter(1_000);
    let start = Instant::now();
    let sender = || async {
        for _ in 0..5 {
            limiter.admit(100).await;
        }
    };
    tokio::join!(sender(), sender());
    limiter.admit(0).await;
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_nothing_waits() {
    let start = Instant::now();
    let (_, _, limits) = both(Limits::default(), Limits::default());
    assert_eq!(limits.admit_upload(1 << 30).await, 1 << 30);
    limits.admit_download(1 << 30).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn pause_earns_a_burst_and_no_more() {
    let limiter = limiter(1_000_000);
    limiter.admit(1).await;
    sleep(SECOND * 60).await;
    let start = Instant::now();
    // The burst, and the one slice that may always pass ahead of its time.
    limiter.admit(25_000).await;
    limiter.admit(1_000_000).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    limiter.admit(0).await;
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn transfers_share_a_rate_evenly() {
    let (_, _, limits) = both(Limits::default(), upload(4 << 20));
    let sent = [const { Cell::new(0) }; 4];
    let senders = sent.iter().map(|sent| send(&limits, sent));
    assert!(timeout(SECOND * 4, futures::future::join_all(senders)).await.is_err());
    for sent in &sent {
        assert_about(sent.get(), 4 << 20);
    }
}

#[tokio::test(start_paused = true)]
async fn changed_rate_holds_for_those_who_wait() {
    let (_, node, limits) = both(Limits::default(), upload(1 << 20));
    let sent = Cell::new(0);
    let mut sending = std::pin::pin!(send(&limits, &sent));
    for (bytes, seconds) in [(1 << 20, 4), (16 << 20, 2), (64 << 10, 8), (4 << 20, 1)] {
        node.set(upload(bytes));
        let before = sent.get();
        assert!(timeout(SECOND * seconds, &mut sending).await.is_err());
        assert_about(sent.get() - before, bytes * u64::from(seconds));
    }
}

#[tokio::test(start_paused = true)]
async fn lifted_rate_lets_those_who_wait_go_at_once() {
    let limiter = limiter(1);
    limiter.admit(1_000_000).await;
    let start = Instant::now();
    let waiting = async {
        tokio::join!(limiter.admit(1), limiter.admit(1), limiter.admit(1));
        start.elapsed()
    };
    let lifting = async {
        sleep(SECOND).await;
        limiter.set_rate(None);
    };
    assert_eq!(tokio::join!(waiting, lifting).0, SECOND);
}

#[tokio::test(start_paused = true)]
async fn debt_is_paid_off_at_the_new_rate() {
    let limiter = limiter(100);
    limiter.admit(1_000).await;
    let start = Instant::now();
    let changing = async {
        sleep(SECOND * 5).await;
        limiter.set_rate(rate(1_000));
    };
    tokio::join!(limiter.admit(1), changing);
    // Half of it at the old rate, half at the new one.
    assert_eq!(start.elapsed(), Duration::from_millis(5_500));
}

#[tokio::test(start_paused = true)]
async fn rate_that_is_set_anew_holds_from_the_first_slice() {
    let (_, node, limits) = both(Limits::default(), Limits::default());
    limits.admit_upload(1 << 30).await;
    sleep(SECOND * 60).await;
    node.set(upload(1 << 20));
    assert_about(sent_in(SECOND * 4, &limits).await, 4 << 20);
}

#[tokio::test(start_paused = true)]
async fn lower_of_app_and_process_counts() {
    for (app, node, expected) in [(1, 4, 1), (4, 1, 1)] {
        let (_, _, limits) = both(upload(app << 20), upload(node << 20));
        assert_about(sent_in(SECOND * 4, &limits).await, (expected << 20) * 4);
    }
}

/// Goal: an app with a low cap leaves the rest of the process's rate to the others.
#[tokio::test(start_paused = true)]
async fn slow_app_does_not_hold_up_another() {
    let (_, node, slow) = both(upload(1 << 20), upload(4 << 20));
    let fast = TransferLimits::new(SharedLimits::default(), node);
    let (of_slow, of_fast) = (Cell::new(0), Cell::new(0));
    let sending = async { tokio::join!(send(&slow, &of_slow), send(&fast, &of_fast)) };
    assert!(timeout(SECOND * 4, sending).await.is_err());
    assert_about(of_slow.get(), 4 << 20);
    assert_about(of_fast.get(), 12 << 20);
}

#[tokio::test(start_paused = true)]
async fn directions_do_not_share_a_rate() {
    let limits = Limits { upload: rate(1 << 20), download: rate(2 << 20) };
    let (_, node, limits) = both(Limits::default(), limits);
    let start = Instant::now();
    limits.admit_download(4 << 20).await;
    limits.admit_download(1).await;
    assert_eq!(start.elapsed(), SECOND * 2);
    assert_about(sent_in(SECOND * 4, &limits).await, 4 << 20);
    node.set(upload(1 << 20));
    let start = Instant::now();
    limits.admit_download(1 << 30).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// Goal: a transfer that is cancelled while it waits takes nothing from the others.
#[tokio::test(start_paused = true)]
async fn cancelled_wait_costs_nothing() {
    let limiter = limiter(1_000);
    limiter.admit(1_000).await;
    let start = Instant::now();
    let first = timeout(SECOND / 2, limiter.admit(1_000_000));
    let second = timeout(SECOND / 4, limiter.admit(1_000_000));
    let third = limiter.admit(1);
    let (first, second, ()) = tokio::join!(first, second, third);
    assert!(first.is_err() && second.is_err());
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn low_rate_passes_in_small_slices() {
    let (_, _, limits) = both(Limits::default(), upload(64 << 10));
    assert_eq!(limits.admit_upload(1 << 20).await, 2 << 10);
    let (_, _, limits) = both(upload(1), Limits::default());
    assert_eq!(limits.admit_upload(1 << 20).await, 1 << 10);
    assert_eq!(limits.admit_upload(0).await, 0);
}
