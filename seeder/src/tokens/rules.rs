//! What the table of tokens is told of the region: how large groups are and which of their hosts do
//! not serve, which rollouts have halted, and which goals were read.
//!
//! Owns the reasons for which nobody is granted a token whatever the table has. Made anew at each
//! look of [`crate::judge`]; takes no token back. Pure.

use std::collections::BTreeMap;
use std::fmt;

use goal_state::{AppName, TokenAnswer, TokenRequest};
use p2p_core::NodeId;

use crate::tokens::{RETRY_HALTED, RETRY_MIN, millis};

/// What is known of the region beyond requests: how large groups are, and which rollouts have
/// halted. The default is that of a seeder without a goal store: nothing is known, and every app
/// is granted tokens.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TokenRules {
    /// The hosts of each group, of those that report their app or did.
    pub(crate) groups: BTreeMap<PoolKey, Group>,
    /// Rollouts of which nobody else may begin to switch.
    pub(crate) stops: BTreeMap<AppName, Stop>,
    /// Apps whose goals were looked at: the generation that was read, or why none could be. Others
    /// wait until they are: the rollout may have halted. `None`: there are no goals to look at.
    pub(crate) known: Option<BTreeMap<AppName, Result<u64, String>>>,
    /// Why goals cannot be looked at just now, if they cannot.
    pub(crate) trouble: Option<String>,
}

/// Apps that tokens were asked for lately, each with the latest generation that hosts named.
pub(crate) type AskedApps = BTreeMap<AppName, u64>;

/// A halt, as seen from a host that asks. Hosts that know of the halt have a later generation;
/// they ask for restarts only, which go on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Stop {
    /// The generation that made the build the goal.
    pub(crate) since: u64,
    /// The last generation of which hosts did not know that it halts.
    pub(crate) last: u64,
    /// Why it halted.
    pub(crate) reason: String,
}

/// Whose tokens.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct PoolKey {
    pub(crate) app: AppName,
    /// Empty for hosts without a group.
    pub(crate) group: String,
}

/// The hosts of one app and group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Group {
    /// How many there are, those that are down included.
    pub(crate) size: usize,
    /// Those that do not serve without a token: each takes the place of one.
    pub(crate) down: BTreeMap<DownKey, DownHost>,
}

/// How a host that is down is found: by its key as rows have it, or by its name where its row does
/// not say who it is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum DownKey {
    Node(String),
    Name(String),
}

/// A host that does not serve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DownHost {
    /// Its name.
    pub(crate) host: String,
    /// Whether it is away, or else its program fails.
    pub(crate) is_away: bool,
}

impl Group {
    /// Counts a host in.
    pub(crate) fn add(&mut self, node: Option<&str>, down: Option<DownHost>) {
        self.size += 1;
        if let Some(down) = down {
            let of_name = || DownKey::Name(down.host.clone());
            let key = node.map_or_else(of_name, |node| DownKey::Node(node.to_owned()));
            self.down.insert(key, down);
        }
    }

    /// What is known of this host if it is one of those that are down.
    pub(crate) fn down(&self, node: NodeId, host: &str) -> Option<&DownHost> {
        if self.down.is_empty() {
            return None;
        }
        let of_node = self.down.get(&DownKey::Node(node.to_string()));
        of_node.or_else(|| self.down.get(&DownKey::Name(host.to_owned())))
    }
}

impl fmt::Display for DownHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.is_away { "is away" } else { "has a program that fails" };
        write!(f, "{} {how}", self.host)
    }
}

impl TokenRules {
    /// Whether the goal that the request names was read, or there are none to read: a host that
    /// names another says nothing about how many hosts may be down.
    pub(super) fn has_read(&self, request: &TokenRequest) -> bool {
        let Some(known) = &self.known else { return true };
        let read = known.get(&request.app).and_then(|read| read.as_ref().ok());
        read.is_some_and(|read| *read >= request.generation)
    }

    /// Why nothing new is granted for this request, if it is not.
    pub(super) fn stop(&self, request: &TokenRequest) -> Option<TokenAnswer> {
        let stop = self.stops.get(&request.app);
        let stop = stop.filter(|stop| (stop.since..=stop.last).contains(&request.generation));
        if let Some(stop) = stop {
            let reason = format!("the rollout is halted: {}", stop.reason);
            return Some(TokenAnswer::Waiting { reason, retry_ms: millis(RETRY_HALTED) });
        }
        let app = &request.app;
        let (reason, retry) = match (self.known.as_ref()?.get(app), &self.trouble) {
            (Some(Ok(read)), _) if *read >= request.generation => return None,
            (Some(Err(reason)), _) => (reason.clone(), RETRY_HALTED),
            (_, Some(trouble)) => {
                (format!("the seeder cannot read the goal of {app}: {trouble}"), RETRY_MIN)
            }
            (Some(Ok(read)), None) => (
                format!(
                    "the host follows goal {} of {app}, and the seeder has read goal {read} so far",
                    request.generation
                ),
                RETRY_MIN,
            ),
            (None, None) => (format!("the seeder has not read the goal of {app} yet"), RETRY_MIN),
        };
        Some(TokenAnswer::Waiting { reason, retry_ms: millis(retry) })
    }
}
