//! Asks a web service at a fixed rate, and counts every request that is not answered as it should.
//!
//! The rate does not depend on the service: a request is sent when its time has come, whether or
//! not those before were answered, and its latency counts from that time. Half of the requests (see
//! [`Plan::new_percent`]) open a connection of their own, the others take turns on a pool of
//! connections that are kept alive.
//!
//! Invariant: nothing is tried again. A real client may, and would hide what is looked for here.
//! The one thing that does not count as a failure is a kept connection that was found closed
//! *before* a request was written to it; it is counted separately ([`Report::closed_idle`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

mod client;

use client::Pool;

/// Requests that may be under way at once; any more fail. Enough for seconds of a service that
/// stands still, and below the usual limit of open files.
const UNDER_WAY_MAX: usize = 900;

/// Texts of failures that a report keeps.
const SAMPLES_MAX: usize = 5;

/// What to ask, how often and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the service listens.
    pub address: SocketAddr,
    /// What is asked for; the body of the answer is taken for the version of the service.
    pub path: String,
    /// Requests per second, at least 1.
    pub rate: u32,
    /// The end comes after this time, or when the caller says so.
    pub duration: Duration,
    /// Connections that are kept alive.
    pub pool: usize,
    /// How many of a hundred requests open a connection of their own.
    pub new_percent: u32,
    /// A request that takes longer has failed.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How long requests were sent.
    pub seconds: f64,
    /// Requests whose time came.
    pub sent: u64,
    /// Those answered with a status of 200.
    pub answered: u64,
    /// All others, by what went wrong.
    pub failed: BTreeMap<Failure, u64>,
    /// The first few of them in words, with the time since the start.
    pub samples: Vec<String>,
    /// Kept connections that the service had closed before they were used again.
    pub closed_idle: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Answers that said the connection ends.
    pub told_to_close: u64,
    /// From the time at which a request was due to the end of its answer.
    pub latency_ms: Latency,
    /// The longest time without an answer.
    pub longest_gap_ms: f64,
    /// Which versions answered, by first appearance.
    pub versions: Vec<Version>,
}

/// What can be wrong with an answer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Nobody listened.
    Refused,
    /// The connection broke, before or in the answer.
    Reset,
    /// The connection ended without a whole answer.
    Closed,
    /// No answer in time.
    TimedOut,
    /// A status of 500 or above.
    ServerError,
    /// Another status than 200, or no HTTP.
    Strange,
    /// Not sent, because too many requests were under way.
    Overload,
}

/// Quantiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Half of the answers were faster.
    pub median: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// 999 of 1000 were faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// When a version of the service answered.
#[derive(Clone, Debug, Serialize)]
pub struct Version {
    /// The body of its answers.
    pub version: String,
    /// First answer, in milliseconds since the start.
    pub first_ms: u64,
    /// Last answer.
    pub last_ms: u64,
    /// How many.
    pub answers: u64,
}

impl Report {
    /// How many requests failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// A request that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) reason: String,
}

/// An answer with status 200.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: String,
    pub(crate) ends: bool,
}

/// Sends requests until the plan's time is over or `stop` is ready, waits for the last answers and
/// reports.
///
/// # Panics
///
/// If the plan's rate is zero.
pub async fn run(plan: Plan, stop: impl Future<Output = ()>) -> Report {
    let start = Instant::now();
    let tally = Arc::new(Mutex::new(Tally::new(start)));
    let pool = Arc::new(Pool::new(plan.address, plan.pool));
    let interval = Duration::from_secs(1) / plan.rate;
    let mut requests = JoinSet::new();
    let mut sent = 0_u32;
    tokio::pin!(stop);
    let plan = Arc::new(plan);
    loop {
        let due = start + interval * sent;
        if due - start >= plan.duration {
            break;
        }
        tokio::select! {
            () = sleep_until(due) => {}
            () = &mut stop => break,
        }
        while requests.try_join_next().is_some() {}
        if requests.len() >= UNDER_WAY_MAX {
            let reason = format!("{UNDER_WAY_MAX} requests are under way");
            tally.lock().on_failure(&Failed { failure: Failure::Overload, reason });
        } else {
            requests.spawn(ask(plan.clone(), pool.clone(), tally.clone(), (sent, due)));
        }
        sent += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    while requests.join_next().await.is_some() {}
    let mut tally = tally.lock();
    tally.report.seconds = seconds;
    tally.report.sent = u64::from(sent);
    (tally.report.connections, tally.report.closed_idle) = pool.counts();
    tally.finish()
}

/// One request, from the pool or on a connection of its own.
async fn ask(
    plan: Arc<Plan>,
    pool: Arc<Pool>,
    tally: Arc<Mutex<Tally>>,
    (number, due): (u32, Instant),
) {
    // Spread evenly: of each hundred in a row as many as asked for.
    let is_new =
        u64::from(number) * u64::from(plan.new_percent) % 100 + u64::from(plan.new_percent) >= 100;
    let exchange = async {
        let mut connection = if is_new { pool.open().await? } else { pool.take().await? };
        let answer = connection.ask(&plan.path, is_new).await?;
        Ok((answer, connection))
    };
    let outcome = timeout(plan.timeout, exchange).await.unwrap_or_else(|_| {
        Err(Failed {
            failure: Failure::TimedOut,
            reason: format!("no answer in {:?}", plan.timeout),
        })
    });
    let way = if is_new { "new" } else { "kept" };
    match outcome {
        Ok((answer, connection)) => {
            tally.lock().on_answer(due, &answer);
            match (is_new, answer.ends) {
                (true, _) => {}
                (false, true) => pool.lose(),
                (false, false) => pool.put(connection),
            }
        }
        Err(Failed { failure, reason }) => {
            if !is_new {
                pool.lose();
            }
            let reason = format!("{way} connection: {reason}");
            tally.lock().on_failure(&Failed { failure, reason });
        }
    }
}

/// A report in the making.
#[derive(Debug)]
struct Tally {
    start: Instant,
    last_answer: Instant,
    latencies: Vec<Duration>,
    longest_gap: Duration,
    report: Report,
}

impl Tally {
    fn new(start: Instant) -> Self {
        let (latencies, longest_gap) = (vec![], Duration::ZERO);
        Self { start, last_answer: start, latencies, longest_gap, report: Report::default() }
    }

    fn on_answer(&mut self, due: Instant, answer: &Answer) {
        let now = Instant::now();
        self.latencies.push(now - due);
        self.longest_gap = self.longest_gap.max(now - self.last_answer);
        self.last_answer = now;
        self.report.answered += 1;
        self.report.told_to_close += u64::from(answer.ends);
        let at_ms = self.at_ms(now);
        let versions = &mut self.report.versions;
        match versions.iter_mut().find(|known| known.version == answer.body) {
            Some(known) => {
                known.last_ms = at_ms;
                known.answers += 1;
            }
            None => versions.push(Version {
                version: answer.body.clone(),
                first_ms: at_ms,
                last_ms: at_ms,
                answers: 1,
            }),
        }
    }

    fn on_failure(&mut self, failed: &Failed) {
        *self.report.failed.entry(failed.failure).or_default() += 1;
        if self.report.samples.len() < SAMPLES_MAX {
            let at_ms = self.at_ms(Instant::now());
            let text = format!("after {at_ms} ms, {:?}: {}", failed.failure, failed.reason);
            self.report.samples.push(text);
        }
    }

    fn at_ms(&self, moment: Instant) -> u64 {
        u64::try_from((moment - self.start).as_millis()).unwrap_or(u64::MAX)
    }

    fn finish(&mut self) -> Report {
        self.latencies.sort_unstable();
        let quantile = |of_thousand: usize| {
            let index =
                (self.latencies.len() * of_thousand / 1000).min(self.latencies.len().max(1) - 1);
            self.latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
        };
        self.report.latency_ms = Latency {
            median: quantile(500),
            p99: quantile(990),
            p999: quantile(999),
            max: quantile(1000),
        };
        self.report.longest_gap_ms = self.longest_gap.as_secs_f64() * 1e3;
        self.report.clone()
    }
}

#[cfg(test)]
mod tests;
