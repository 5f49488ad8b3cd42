//! Permission to be down: a host with `max_unavailable` in its goal asks the seeder for a token
//! before it starts a switch, and gives it back when the switch is over.
//!
//! Invariant: a switch starts only while a token is held; finishing one and rolling back need none,
//! so a lost seeder never leaves a host half way.
//!
//! Invariant: a host never believes longer that it holds a token than the seeder does. Its time is
//! counted from before it asked, by a clock that goes on while the machine sleeps, and ends early.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use goal_state::{
    AppName, HostCount, LEASE_MAX, TOKEN_TOPIC, TokenAct, TokenAnswer, TokenRequest,
    granting_seeder, now_ms,
};
use p2p_core::NodeId;
use p2p_net::{Node, SeederAddress};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use crate::backoff::{Backoff, jittered};

/// The time limit that hosts wish for. Long enough that a seeder can be restarted, or the network
/// be away for some seconds, while hosts go on; short enough that a host that died does not hold up
/// the others for long.
pub(crate) const LEASE_DEFAULT: Duration = Duration::from_mins(1);

/// Time for an answer. A seeder stores a token before it grants it, and its disk may be busy.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Waits after requests that were not answered.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Bounds of what a seeder may order a host to wait.
const ORDERED_WAIT_MIN: Duration = Duration::from_millis(50);
const ORDERED_WAIT_MAX: Duration = Duration::from_mins(1);

/// What a token is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenWish {
    /// The app.
    pub app: AppName,
    /// Generation of the goal.
    pub generation: u64,
    /// Most hosts of the group that may hold a token at once.
    pub max_unavailable: HostCount,
}

/// Where a wish stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenState {
    /// Not granted yet, with the reason for people.
    Waiting {
        /// Such as "2 of 2 tokens of group z1 are out" or "no seeder answers".
        reason: String,
    },
    /// Held; it is renewed until it is given back.
    Held,
}

/// Where tokens come from.
pub trait TokenDesk: Clone + Send + 'static {
    /// A wish under way or a token held. Dropping it gives the token back.
    type Hold: TokenHold;
    /// Starts to ask; does not wait.
    fn ask(&self, wish: TokenWish) -> Self::Hold;
}

/// A wish under way or a token held.
pub trait TokenHold: Send {
    /// Where it stands now. A token whose time ran out is waited for again.
    fn state(&self) -> TokenState;
    /// Waits until the state changes. Cancel safe.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
    /// Says that the build failed here: whoever grants tokens is told when this one is given back.
    fn note_failure(&self);
}

/// Tokens that a seeder grants. Cheap to clone; all clones are of one host.
#[derive(Clone, Debug)]
pub struct SeederTokens {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: Node,
    host: String,
    group: String,
    seeders: Vec<NodeId>,
    lease: Duration,
    /// Number of the next wish. Begins with the time, so that those of a later process are higher;
    /// if the clock was set back, the seeder keeps the host waiting until the old token has run
    /// out.
    next_wish: AtomicU64,
}

impl SeederTokens {
    /// Tokens of `group` for the host named `host`, granted by one of `seeders`: which one depends
    /// on the app. Without seeders nothing is ever granted.
    pub fn new(node: Node, host: String, group: String, seeders: &[SeederAddress]) -> Self {
        let seeders = seeders.iter().map(|seeder| seeder.node).collect();
        let next_wish = AtomicU64::new(now_ms().saturating_mul(1_000));
        let lease = LEASE_DEFAULT;
        Self { shared: Arc::new(Shared { node, host, group, seeders, lease, next_wish }) }
    }

    /// As this, with another time limit, within what seeders grant.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        let Shared { node, host, group, seeders, .. } = &*self.shared;
        let next_wish = AtomicU64::new(self.shared.next_wish.load(Ordering::Relaxed));
        let (node, host) = (node.clone(), host.clone());
        let (group, seeders) = (group.clone(), seeders.clone());
        Self { shared: Arc::new(Shared { node, host, group, seeders, lease, next_wish }) }
    }
}

impl TokenDesk for SeederTokens {
    type Hold = SeederHold;

    /// # Panics
    ///
    /// Outside a tokio runtime.
    fn ask(&self, wish: TokenWish) -> SeederHold {
        let first = Standing::Waiting { reason: "the seeder was not asked yet".into() };
        let (standing, shown) = watch::channel(first);
        let stop = CancellationToken::new();
        let has_failed = Arc::new(AtomicBool::new(false));
        let seeder = granting_seeder(&wish.app, &self.shared.group, self.shared.seeders.clone());
        if let Some(seeder) = seeder {
            let number = self.shared.next_wish.fetch_add(1, Ordering::Relaxed);
            let shared = self.shared.clone();
            let has_failed = Arc::clone(&has_failed);
            let asking = Asking { shared, seeder, wish, number, standing, has_failed };
            tokio::spawn(asking.run(stop.clone()));
        } else {
            let reason = "no seeder is configured that could grant a token".into();
            standing.send_replace(Standing::Waiting { reason });
        }
        let known = state_of(&shown.borrow());
        SeederHold { standing: shown, known, has_failed, _stop: stop.drop_guard() }
    }
}

/// What a seeder said last.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Standing {
    Waiting {
        reason: String,
    },
    /// By [`uptime`].
    Held {
        until: Duration,
    },
}

/// A wish that a task follows in the background.
#[derive(Debug)]
pub struct SeederHold {
    standing: watch::Receiver<Standing>,
    /// What [`TokenHold::changed`] compares with.
    known: TokenState,
    has_failed: Arc<AtomicBool>,
    _stop: DropGuard,
}

impl TokenHold for SeederHold {
    fn state(&self) -> TokenState {
        state_of(&self.standing.borrow())
    }

    async fn changed(&mut self) {
        loop {
            let standing = self.standing.borrow_and_update().clone();
            let state = state_of(&standing);
            if state != self.known {
                self.known = state;
                return;
            }
            let ends = async {
                match standing {
                    Standing::Held { until } => sleep(until.saturating_sub(uptime())).await,
                    Standing::Waiting { .. } => std::future::pending().await,
                }
            };
            let news = async {
                if self.standing.changed().await.is_err() {
                    // Nobody asks any more, so all that can come is the end of the token's time.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = news => {}
                () = ends => {}
            }
        }
    }

    fn note_failure(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }
}

fn state_of(standing: &Standing) -> TokenState {
    match standing {
        Standing::Held { until } if uptime() < *until => TokenState::Held,
        Standing::Held { .. } => {
            let reason = "the token ran out before the seeder renewed it".into();
            TokenState::Waiting { reason }
        }
        Standing::Waiting { reason } => TokenState::Waiting { reason: reason.clone() },
    }
}

/// The task behind a [`SeederHold`].
struct Asking {
    shared: Arc<Shared>,
    seeder: NodeId,
    wish: TokenWish,
    number: u64,
    standing: watch::Sender<Standing>,
    has_failed: Arc<AtomicBool>,
}

impl Asking {
    /// Asks until it is told to stop, then gives the token back.
    async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut may_hold_until = Duration::ZERO;
        loop {
            let asked_at = uptime();
            let is_held = self.held_until().is_some_and(|until| asked_at < until);
            let act = if is_held { TokenAct::Renew } else { TokenAct::Ask };
            // It may be granted even if the answer never comes.
            may_hold_until = may_hold_until.max(asked_at + ANSWER_TIME_MAX + LEASE_MAX);
            let answer = tokio::select! {
                () = stop.cancelled() => break,
                answer = self.say(act) => answer,
            };
            let wait = match answer {
                Ok(answer) => {
                    backoff.reset();
                    self.on_answer(asked_at, answer)
                }
                Err(reason) => {
                    self.on_silence(&reason);
                    backoff.after_failure()
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(jittered(wait)) => {}
            }
        }
        self.give_back(may_hold_until).await;
    }

    fn held_until(&self) -> Option<Duration> {
        match *self.standing.borrow() {
            Standing::Held { until } => Some(until),
            Standing::Waiting { .. } => None,
        }
    }

    /// Takes over what the seeder says; returns how long to wait before the next request.
    fn on_answer(&self, asked_at: Duration, answer: TokenAnswer) -> Duration {
        match answer {
            TokenAnswer::Granted { lease_ms } => {
                let lease = Duration::from_millis(lease_ms).min(LEASE_MAX);
                // Clocks differ by far less than this, and a longer wait does no harm.
                let until = asked_at + lease * 7 / 8;
                self.standing.send_replace(Standing::Held { until });
                lease / 3
            }
            TokenAnswer::Waiting { reason, retry_ms }
            | TokenAnswer::Refused { reason, retry_ms } => {
                self.wait_for(reason);
                Duration::from_millis(retry_ms).clamp(ORDERED_WAIT_MIN, ORDERED_WAIT_MAX)
            }
            TokenAnswer::Returned => {
                self.wait_for("the seeder gives no clear answer".into());
                RETRY_MAX
            }
        }
    }

    /// A token is held until its time is up, whether the seeder answers or not.
    fn on_silence(&self, reason: &str) {
        debug!(app = %self.wish.app, seeder = %self.seeder, reason, "no answer about a token");
        if self.held_until().is_none_or(|until| until <= uptime()) {
            let group = match self.shared.group.as_str() {
                "" => String::new(),
                group => format!(" of group {group}"),
            };
            self.wait_for(format!("no token{group} without the seeder: {reason}"));
        }
    }

    fn wait_for(&self, reason: String) {
        let news = Standing::Waiting { reason };
        self.standing.send_if_modified(|shown| {
            let is_news = *shown != news;
            *shown = news;
            is_news
        });
    }

    async fn say(&self, act: TokenAct) -> Result<TokenAnswer, String> {
        let request = TokenRequest {
            act,
            app: self.wish.app.clone(),
            group: self.shared.group.clone(),
            host: self.shared.host.clone(),
            wish: self.number,
            generation: self.wish.generation,
            max_unavailable: self.wish.max_unavailable,
            lease_ms: u64::try_from(self.shared.lease.as_millis()).unwrap_or(u64::MAX),
            has_failed: act == TokenAct::Return && self.has_failed.load(Ordering::Relaxed),
        };
        // A renewal that is lost must leave time for another.
        let limit = match act {
            TokenAct::Renew => ANSWER_TIME_MAX.min(self.shared.lease / 4),
            TokenAct::Ask | TokenAct::Return => ANSWER_TIME_MAX,
        };
        let asked = self.shared.node.ask(self.seeder, TOKEN_TOPIC, request.to_json());
        match timeout(limit, asked).await {
            Ok(Ok(body)) => TokenAnswer::from_json(&body)
                .map_err(|error| format!("its answer is not valid: {error}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the seeder does not answer in time".into()),
        }
    }

    /// Best effort: without it the token runs out by itself.
    async fn give_back(&self, may_hold_until: Duration) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        while uptime() < may_hold_until {
            match self.say(TokenAct::Return).await {
                Ok(_) => return,
                Err(reason) => {
                    debug!(app = %self.wish.app, reason, "the token could not be given back");
                    sleep(backoff.after_failure()).await;
                }
            }
        }
    }
}

/// Time since the machine started, sleep included: a host that slept through its time must not
/// think that it still has some.
fn uptime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}
