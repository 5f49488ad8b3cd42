//! Which hosts may be down: the table of tokens that this seeder granted.
//!
//! Invariants: of one app and group no more tokens are out than `max_unavailable` of the newest
//! goal seen, save for those that were out before it was lowered; hosts that do not serve take the
//! places of tokens, so that a host which serves begins only while fewer are away; a token counts
//! as out until its host returns it or its time is up, whatever happens to this seeder; no table
//! grows without bound; nothing new is granted for a rollout that has halted, nor for a goal that
//! the seeder has not read or cannot read any more ([`TokenRules`]). Does no IO and reads no clock:
//! [`crate::token_server`] makes grants durable before hosts learn of them.
//!
//! Times are spans since any fixed moment of a clock that never jumps. None is stored: after a
//! restart every token counts for its whole time again, which is longer than its host believes.

use std::collections::BTreeMap;
use std::time::Duration;

use goal_state::{AppName, HostCount, LEASE_MAX, TokenAct, TokenAnswer, TokenRequest};
use p2p_core::{Digest, NodeId};
use serde::{Deserialize, Serialize};

pub(crate) use crate::tokens::rules::{AskedApps, DownHost, Group, PoolKey, Stop, TokenRules};

mod rules;

/// How soon a host that is among the next in line asks again: short compared with the time of a
/// switch.
const RETRY_MIN: Duration = Duration::from_millis(500);

/// How seldom the last of a long queue asks. Where so many hosts wait that this bound is reached,
/// the seeder gets a few hundred requests a second.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What each host ahead adds to the time until the next request.
const RETRY_PER_HOST: Duration = Duration::from_millis(20);

/// How long a host that waits may be silent beyond three of its retries.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// When a host that was refused asks again: time for a person to fix something.
const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// When a host asks again whose rollout has halted: time for a person to decide.
const RETRY_HALTED: Duration = Duration::from_secs(5);

/// How long the place of a host whose build failed stays taken after it gave its token back: time
/// for its report to be judged, also by another seeder, before the next host begins.
const FAILED_KEPT: Duration = Duration::from_secs(10);

/// Hosts that are named in a reason, of each kind.
const NAMED_MAX: usize = 3;

/// The version of the stored document.
const VERSION: u32 = 1;

/// How large the table may grow.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "the name of every limit ends in max")]
pub(crate) struct TokenLimits {
    /// Pairs of app and group.
    pub(crate) pools_max: usize,
    /// Tokens and waiting hosts of all pools.
    pub(crate) entries_max: usize,
    /// Of these, those of one node: apps per host.
    pub(crate) entries_per_node_max: usize,
}

impl TokenLimits {
    /// For a region of the largest fleet we know, where a part of the hosts waits at a time.
    pub(crate) const REGION: Self =
        Self { pools_max: 10_000, entries_max: 100_000, entries_per_node_max: 64 };
}

/// The tokens that are out, and who waits.
#[derive(Debug)]
pub(crate) struct TokenTable {
    limits: TokenLimits,
    rules: TokenRules,
    pools: BTreeMap<PoolKey, Pool>,
    entries: usize,
    entries_of_node: BTreeMap<NodeId, usize>,
    /// Until then nothing is granted: what was granted before is not known.
    quiet_until: Option<Duration>,
    /// Whether the stored document says less than it should.
    is_dirty: bool,
}

/// The outcome of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Handled {
    /// What to answer the host.
    pub(crate) answer: TokenAnswer,
    /// Whether the table must be stored before the host is answered.
    pub(crate) needs_disk: bool,
}

/// Why a stored document is not used. Nothing is granted then until every token that may be out has
/// run out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenFileError {
    /// Not JSON, or not the fields.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Written by a newer seeder.
    #[error("its version is {version}, expected {VERSION}")]
    Version {
        /// The version found.
        version: u32,
    },
    /// No node has such a key.
    #[error("{text:?} is not the key of a node")]
    Node {
        /// What stands there.
        text: String,
    },
}

/// The tokens of one app and group.
#[derive(Debug)]
struct Pool {
    /// The highest generation seen.
    generation: u64,
    /// What it says.
    max_unavailable: HostCount,
    holders: BTreeMap<NodeId, Holder>,
    /// Hosts that hold nothing any more, and whose places stay taken for a while.
    leaving: BTreeMap<NodeId, Leaving>,
    /// Longest waiting first.
    waiting: Vec<Waiter>,
}

#[derive(Debug)]
struct Holder {
    host: String,
    wish: u64,
    lease: Duration,
    until: Duration,
    is_stored: bool,
    /// Whether it is one of the hosts that are down: as the rules say, or as it was when it asked.
    is_down: bool,
}

/// A host whose build failed, or that let its time run out. Of the first the report is on its way;
/// the second may be gone with its machine, and counts as away only once its silence is noticed.
#[derive(Debug)]
struct Leaving {
    host: String,
    until: Duration,
    has_failed: bool,
    /// As [`Holder::is_down`].
    is_down: bool,
}

#[derive(Debug)]
struct Waiter {
    node: NodeId,
    wish: u64,
    /// Whether its program failed when it asked: it needs no place beyond its own.
    is_down: bool,
    /// Whether the rules count it among those that are down.
    is_counted: bool,
    forgotten_at: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    pools: Vec<StoredPool>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredPool {
    app: AppName,
    group: String,
    generation: u64,
    max_unavailable: HostCount,
    holders: Vec<StoredHolder>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredHolder {
    node: String,
    host: String,
    wish: u64,
    lease_ms: u64,
}

impl TokenTable {
    /// The table of a seeder that never granted anything.
    pub(crate) fn new(limits: TokenLimits) -> Self {
        Self {
            limits,
            rules: TokenRules::default(),
            pools: BTreeMap::new(),
            entries: 0,
            entries_of_node: BTreeMap::new(),
            quiet_until: None,
            is_dirty: true,
        }
    }

    /// The table of a seeder that lost what it had granted: it grants nothing until all of that has
    /// expired.
    pub(crate) fn lost(now: Duration, limits: TokenLimits) -> Self {
        let quiet_until = Some(now.saturating_add(LEASE_MAX));
        Self { quiet_until, is_dirty: false, ..Self::new(limits) }
    }

    /// The table of a seeder that was restarted.
    ///
    /// # Errors
    ///
    /// The bytes are not what [`Self::document`] made.
    pub(crate) fn restored(
        now: Duration,
        limits: TokenLimits,
        bytes: &[u8],
    ) -> Result<Self, TokenFileError> {
        let document: Document = serde_json::from_slice(bytes)?;
        if document.version != VERSION {
            return Err(TokenFileError::Version { version: document.version });
        }
        let mut table = Self { is_dirty: false, ..Self::new(limits) };
        for stored in document.pools {
            let mut holders = BTreeMap::new();
            for holder in stored.holders {
                let StoredHolder { node, host, wish, lease_ms } = holder;
                let Ok(digest) = node.parse::<Digest>() else {
                    return Err(TokenFileError::Node { text: node });
                };
                let node = NodeId::from_bytes(*digest.as_bytes());
                let lease = Duration::from_millis(lease_ms).min(LEASE_MAX);
                let until = now + lease;
                let (is_stored, is_down) = (true, false);
                holders.insert(node, Holder { host, wish, lease, until, is_stored, is_down });
            }
            for node in holders.keys() {
                table.entries += 1;
                *table.entries_of_node.entry(*node).or_default() += 1;
            }
            let StoredPool { app, group, generation, max_unavailable, .. } = stored;
            let (leaving, waiting) = (BTreeMap::new(), vec![]);
            let pool = Pool { generation, max_unavailable, holders, leaving, waiting };
            table.pools.insert(PoolKey { app, group }, pool);
        }
        Ok(table)
    }

    /// Takes over what is known of the region now. Takes no token back.
    pub(crate) fn set_rules(&mut self, rules: TokenRules) {
        for (key, pool) in &mut self.pools {
            let group = rules.groups.get(key);
            let is_down = |node: &NodeId, host: &str| {
                group.is_some_and(|group| group.down(*node, host).is_some())
            };
            for (node, holder) in &mut pool.holders {
                holder.is_down = is_down(node, &holder.host);
            }
            for (node, leaving) in &mut pool.leaving {
                leaving.is_down = is_down(node, &leaving.host);
            }
        }
        self.rules = rules;
    }

    /// Decides on a request of `node`.
    pub(crate) fn handle(
        &mut self,
        now: Duration,
        node: NodeId,
        request: &TokenRequest,
    ) -> Handled {
        let key = PoolKey { app: request.app.clone(), group: request.group.clone() };
        self.expire(now, &key);
        if request.act == TokenAct::Return {
            self.give_back(now, &key, node, request);
            return unstored(TokenAnswer::Returned);
        }
        if let Err(reason) = self.make_room(now, &key, node) {
            return unstored(refused(reason));
        }
        let is_quiet = self.is_quiet(now);
        let is_read = self.rules.has_read(request);
        let pool = self.pools.entry(key.clone()).or_insert_with(|| Pool::new(request, is_read));
        if is_read {
            let size = self.rules.groups.get(&key).map(|group| group.size);
            self.is_dirty |= pool.learn(request, size);
        }
        if let Some(holder) = pool.holders.get_mut(&node) {
            let handled = holder.renew(now, request, is_quiet);
            self.is_dirty |= handled.needs_disk;
            return handled;
        }
        let is_forgotten = is_quiet && request.act == TokenAct::Renew;
        if let Some(answer) = self.rules.stop(request).filter(|_| !is_forgotten) {
            // It must not hold up hosts that may go on.
            self.give_back(now, &key, node, request);
            return unstored(answer);
        }
        self.queue(now, &key, node, request)
    }

    /// Decides on a request of a host that holds no token, and that nothing else keeps back.
    fn queue(
        &mut self,
        now: Duration,
        key: &PoolKey,
        node: NodeId,
        request: &TokenRequest,
    ) -> Handled {
        let is_quiet = self.is_quiet(now);
        let group = self.rules.groups.get(key);
        let down = group.and_then(|group| group.down(node, &request.host));
        // Who asks is not away, whatever its last row says: that is old, as all rows are when this
        // seeder was just started.
        let is_down = down.is_some_and(|down| !down.is_away);
        let is_counted = down.is_some();
        let pool = self.pools.get_mut(key).expect("the request made it");
        let waiter = Waiter { node, wish: request.wish, is_down, is_counted, forgotten_at: now };
        let place = match pool.place(now, waiter) {
            Ok((place, is_new)) => {
                if is_new {
                    self.entries += 1;
                    *self.entries_of_node.entry(node).or_default() += 1;
                }
                place
            }
            Err(stale) => return unstored(stale),
        };
        let free = pool.free(place, group);
        // A host that renews a token that this seeder forgot was granted it under the same limit.
        let is_known_to_host = is_quiet && request.act == TokenAct::Renew && free > 0;
        if is_known_to_host || (!is_quiet && pool.ahead_of(place, is_down) < free) {
            let was_leaving = pool.grant(now, place, request);
            self.is_dirty |= !is_quiet;
            if was_leaving {
                self.forget(node);
            }
            let lease_ms = millis(request.lease());
            return Handled { answer: TokenAnswer::Granted { lease_ms }, needs_disk: !is_quiet };
        }
        let left = self.quiet_until.and_then(|until| until.checked_sub(now)).filter(|_| is_quiet);
        unstored(pool.wait(place, left, &request.group, group))
    }

    /// What has to be stored, if anything has changed that must be known after a restart; until
    /// [`Self::on_stored`] it is asked for again. Nothing while the table is not known to be whole:
    /// a document that lacks tokens would be taken for the truth.
    pub(crate) fn document(&self, now: Duration) -> Option<Vec<u8>> {
        if !self.is_dirty || self.is_quiet(now) {
            return None;
        }
        let stored = |(key, pool): (&PoolKey, &Pool)| StoredPool {
            app: key.app.clone(),
            group: key.group.clone(),
            generation: pool.generation,
            max_unavailable: pool.max_unavailable,
            holders: pool.holders.iter().map(Holder::stored).collect(),
        };
        let document =
            Document { version: VERSION, pools: self.pools.iter().map(stored).collect() };
        let mut bytes = serde_json::to_vec_pretty(&document).expect("it has only text and numbers");
        bytes.push(b'\n');
        Some(bytes)
    }

    /// The last [`Self::document`] is on disk, and nothing was handled since it was made.
    pub(crate) fn on_stored(&mut self) {
        self.is_dirty = false;
        for holder in self.pools.values_mut().flat_map(|pool| pool.holders.values_mut()) {
            holder.is_stored = true;
        }
    }

    pub(crate) fn is_quiet(&self, now: Duration) -> bool {
        self.quiet_until.is_some_and(|until| now < until)
    }

    fn expire(&mut self, now: Duration, key: &PoolKey) {
        let Some(pool) = self.pools.get_mut(key) else { return };
        let waited = pool.waiting.iter().filter(|waiter| waiter.forgotten_at <= now);
        let mut gone: Vec<NodeId> = waited.map(|waiter| waiter.node).collect();
        pool.waiting.retain(|waiter| waiter.forgotten_at > now);
        for (node, holder) in pool.holders.extract_if(.., |_, holder| holder.until <= now) {
            let Holder { host, lease, until, is_down, .. } = holder;
            let leaving = Leaving { host, until: until + lease, has_failed: false, is_down };
            gone.extend(pool.leaving.insert(node, leaving).map(|_| node));
        }
        let left = pool.leaving.extract_if(.., |_, leaving| leaving.until <= now);
        gone.extend(left.map(|(node, _)| node));
        for node in gone {
            self.forget(node);
        }
    }

    /// The host of `request` wants nothing any more, or gets nothing.
    fn give_back(&mut self, now: Duration, key: &PoolKey, node: NodeId, request: &TokenRequest) {
        let Some(pool) = self.pools.get_mut(key) else { return };
        let wish = request.wish;
        let waiting = pool.waiting.len();
        pool.waiting.retain(|waiter| waiter.node != node || waiter.wish > wish);
        let mut gone = waiting - pool.waiting.len();
        // It was heard of again.
        if request.act == TokenAct::Return
            && pool.leaving.get(&node).is_some_and(|leaving| !leaving.has_failed)
        {
            pool.leaving.remove(&node);
            gone += 1;
        }
        // A message about an earlier wish that was late on its way takes no token of a later one.
        let holds = pool.holders.get(&node).is_some_and(|holder| holder.wish <= wish);
        if let Some(holder) = holds.then(|| pool.holders.remove(&node)).flatten() {
            self.is_dirty = true;
            gone += 1;
            if request.has_failed {
                let Holder { host, is_down, .. } = holder;
                let until = now + FAILED_KEPT;
                let leaving = Leaving { host, until, has_failed: true, is_down };
                let is_known = pool.leaving.insert(node, leaving).is_some();
                gone -= usize::from(!is_known);
            }
        }
        for _ in 0..gone {
            self.forget(node);
        }
    }

    /// One entry of `node` is gone.
    fn forget(&mut self, node: NodeId) {
        self.entries -= 1;
        if let Some(count) = self.entries_of_node.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.entries_of_node.remove(&node);
            }
        }
    }

    /// Checks the limits before an entry is added; sweeps the table if they are reached.
    fn make_room(&mut self, now: Duration, key: &PoolKey, node: NodeId) -> Result<(), String> {
        if self.pools.get(key).is_some_and(|pool| pool.knows(node)) {
            return Ok(());
        }
        let is_full = |table: &Self| {
            let is_new = !table.pools.contains_key(key);
            let of_node = table.entries_of_node.get(&node).copied().unwrap_or_default();
            table.entries >= table.limits.entries_max
                || of_node >= table.limits.entries_per_node_max
                || (is_new && table.pools.len() >= table.limits.pools_max)
        };
        if is_full(self) {
            let keys: Vec<_> = self.pools.keys().cloned().collect();
            for key in &keys {
                self.expire(now, key);
            }
            self.pools.retain(|_, pool| !pool.is_empty());
        }
        if is_full(self) {
            let TokenLimits { pools_max, entries_max, entries_per_node_max } = self.limits;
            return Err(format!(
                "the seeder's table of tokens is full (at most {entries_max} hosts, \
                 {entries_per_node_max} apps of one host, {pools_max} groups); use smaller groups \
                 or more seeders"
            ));
        }
        Ok(())
    }
}

impl Pool {
    /// A pool with what `request` says, which the first goal that is read replaces if this one was
    /// not.
    const fn new(request: &TokenRequest, is_read: bool) -> Self {
        Self {
            generation: if is_read { request.generation } else { 0 },
            max_unavailable: request.max_unavailable,
            holders: BTreeMap::new(),
            leaving: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.leaving.is_empty() && self.waiting.is_empty()
    }

    fn knows(&self, node: NodeId) -> bool {
        self.holders.contains_key(&node) || self.waiting.iter().any(|waiter| waiter.node == node)
    }

    /// Takes over the limit of a newer goal. Returns whether it did. Of two limits of one
    /// generation the lower one holds.
    fn learn(&mut self, request: &TokenRequest, size: Option<usize>) -> bool {
        let is_newer = request.generation > self.generation;
        let is_lower = request.generation == self.generation
            && self.limit(request.max_unavailable, size) < self.max(size);
        if is_newer || is_lower {
            self.generation = request.generation;
            self.max_unavailable = request.max_unavailable;
        }
        is_newer || is_lower
    }

    /// How many hosts the group has, as far as is known: not fewer than are here.
    fn size(&self, known: Option<usize>) -> Option<usize> {
        known.map(|known| known.max(self.holders.len() + self.waiting.len()))
    }

    /// How many tokens `count` means. A share of nobody knows how many is one host.
    fn limit(&self, count: HostCount, known: Option<usize>) -> usize {
        count.of(self.size(known).unwrap_or(0))
    }

    fn max(&self, known: Option<usize>) -> usize {
        self.limit(self.max_unavailable, known)
    }

    /// How many places are free for a host like the one at this place of the queue. One that serves
    /// must find one that neither a token has nor a host that does not serve; one whose program
    /// fails takes its own with it.
    fn free(&self, place: usize, group: Option<&Group>) -> usize {
        let Waiter { node, is_down, is_counted, .. } = self.waiting[place];
        let max = self.max(group.map(|group| group.size));
        let kept = self.leaving.iter().filter(|(other, _)| **other != node);
        let kept = kept.filter(|(_, leaving)| is_down || !leaving.is_down).count();
        let taken = if is_down {
            self.holders.len() + kept
        } else {
            let serve = self.holders.values().filter(|holder| !holder.is_down).count();
            let down = group.map_or(0, |group| group.down.len());
            down - usize::from(is_counted) + serve + kept
        };
        max.saturating_sub(taken)
    }

    /// How many of those who wait before this `place` want a place of the same kind.
    fn ahead_of(&self, place: usize, is_down: bool) -> usize {
        self.waiting[..place].iter().filter(|waiter| waiter.is_down == is_down).count()
    }

    /// Returns the place of the waiter, and whether it is new there.
    fn place(&mut self, now: Duration, mut waiter: Waiter) -> Result<(usize, bool), TokenAnswer> {
        let known = self.waiting.iter().position(|known| known.node == waiter.node);
        let place = known.unwrap_or(self.waiting.len());
        waiter.forgotten_at = now + retry_at(place) * 3 + SILENCE_MAX;
        match self.waiting.get_mut(place) {
            Some(known) if known.wish > waiter.wish => return Err(stale()),
            Some(known) => *known = waiter,
            None => self.waiting.push(waiter),
        }
        Ok((place, known.is_none()))
    }

    /// Gives the host at this place a token. Returns whether a place had been kept for it.
    fn grant(&mut self, now: Duration, place: usize, request: &TokenRequest) -> bool {
        let Waiter { node, wish, is_counted: is_down, .. } = self.waiting.remove(place);
        let (host, lease) = (request.host.clone(), request.lease());
        let (until, is_stored) = (now + lease, false);
        self.holders.insert(node, Holder { host, wish, lease, until, is_stored, is_down });
        self.leaving.remove(&node).is_some()
    }

    fn wait(
        &self,
        place: usize,
        quiet: Option<Duration>,
        name: &str,
        group: Option<&Group>,
    ) -> TokenAnswer {
        let reason = if let Some(left) = quiet {
            let left = left.as_secs() + 1;
            format!(
                "the seeder lost its table of tokens and waits {left} s until those that may be \
                 out have run out"
            )
        } else {
            let queue = self.queue_of(place, &named(name), group.map(|group| group.size));
            format!("{queue}{}{}", self.kept(), self.down_of(group))
        };
        TokenAnswer::Waiting { reason, retry_ms: millis(retry_at(place)) }
    }

    /// Such as "2 of 2 tokens of group z1 are out (h1, h2; 25% of 8 hosts), 3 hosts are ahead".
    fn queue_of(&self, place: usize, name: &str, known: Option<usize>) -> String {
        let ahead = match place {
            0 => String::new(),
            1 => ", 1 host is ahead".to_owned(),
            _ => format!(", {place} hosts are ahead"),
        };
        let (share, unknown) = match (self.max_unavailable, self.size(known)) {
            (HostCount::Hosts(_), _) => (None, String::new()),
            (share, Some(size)) => (Some(format!("{share} of {size} hosts")), String::new()),
            (HostCount::Percent(_), None) => (
                None,
                format!("; the seeder does not know the size of {name} yet, so one host at a time"),
            ),
        };
        let (out, max) = (self.holders.len(), self.max(known));
        let names = self.holders.values().map(|holder| holder.host.as_str());
        let notes: Vec<String> = some_of(names).into_iter().chain(share).collect();
        let notes =
            if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
        format!("{out} of {max} tokens of {name} are out{notes}{ahead}{unknown}")
    }

    /// Such as "; a place is kept for h3, where the build failed".
    fn kept(&self) -> String {
        let names = |has_failed| {
            let of_kind = self.leaving.values().filter(move |host| host.has_failed == has_failed);
            some_of(of_kind.map(|leaving| leaving.host.as_str()))
        };
        let failed = names(true).map(|names| {
            format!("; until it is judged, a place is kept for {names}, where the build failed")
        });
        let lost = names(false).map(|names| {
            format!("; a place is kept for {names}, whose token ran out: it may be gone")
        });
        failed.into_iter().chain(lost).collect()
    }

    /// Such as "; 2 hosts do not serve and take places (h3 is away, h4 has a program that fails)".
    fn down_of(&self, group: Option<&Group>) -> String {
        let Some(group) = group else { return String::new() };
        let holders = self.holders.values().filter(|holder| holder.is_down);
        let with_token: Vec<&str> = holders.map(|holder| holder.host.as_str()).collect();
        let count = group.down.len().saturating_sub(with_token.len());
        let many = match count {
            0 => return String::new(),
            1 => "1 host does not serve and takes a place".to_owned(),
            count => format!("{count} hosts do not serve and take places"),
        };
        // Each host that waits asks, and of all kinds there may be thousands: a few are looked at.
        let some = group.down.values().take(with_token.len().min(NAMED_MAX) + NAMED_MAX);
        let mut names: Vec<String> = some
            .filter(|down| !with_token.contains(&down.host.as_str()))
            .map(ToString::to_string)
            .collect();
        names.sort();
        names.truncate(NAMED_MAX);
        let more = count.saturating_sub(names.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("; {many} ({}{more})", names.join(", "))
    }
}

/// Some names of a list, and how many more there are; `None` if it is empty.
fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<&str> = names.collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    (!names.is_empty()).then(|| format!("{named}{more}"))
}

/// A group in a sentence.
pub(crate) fn named(group: &str) -> String {
    if group.is_empty() { "the hosts without a group".into() } else { format!("group {group}") }
}

impl Holder {
    fn renew(&mut self, now: Duration, request: &TokenRequest, is_quiet: bool) -> Handled {
        if request.wish < self.wish {
            return unstored(stale());
        }
        let lease = request.lease();
        // What is stored must be as long as what the host was promised.
        self.is_stored &= lease <= self.lease && request.wish == self.wish;
        self.wish = request.wish;
        // A shorter time takes nothing back that was promised.
        self.until = self.until.max(now + lease);
        self.lease = self.lease.max(lease);
        let answer = TokenAnswer::Granted { lease_ms: millis(lease) };
        Handled { answer, needs_disk: !self.is_stored && !is_quiet }
    }

    fn stored((node, holder): (&NodeId, &Self)) -> StoredHolder {
        StoredHolder {
            node: Digest::from_bytes(*node.as_bytes()).to_string(),
            host: holder.host.clone(),
            wish: holder.wish,
            lease_ms: millis(holder.lease),
        }
    }
}

/// When a host at this place of the queue asks again.
fn retry_at(place: usize) -> Duration {
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    (RETRY_MIN + RETRY_PER_HOST.saturating_mul(place)).min(RETRY_MAX)
}

/// An answer that changes nothing that is stored.
const fn unstored(answer: TokenAnswer) -> Handled {
    Handled { answer, needs_disk: false }
}

/// The answer to a host that cannot be served as things are.
pub(crate) fn refused(reason: String) -> TokenAnswer {
    TokenAnswer::Refused { reason, retry_ms: millis(RETRY_REFUSED) }
}

fn stale() -> TokenAnswer {
    let reason = "a later request of this host came first".to_owned();
    TokenAnswer::Waiting { reason, retry_ms: millis(RETRY_MIN) }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
