//! Who reports under which name, and what that means: two nodes under one name, one node under two,
//! a name that went over to another node.
//!
//! Invariant: a name goes over from a node only if that node had fallen silent or said that it
//! stopped before the next one was first heard. Two that were heard side by side are *twins*: both
//! stay, whatever becomes of them, until one is forgotten. Knows the apps of each, not their rows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use goal_state::{AppName, CLOCK_OFF_MAX_MS, HostPhase, HostStatus, NAME_KEPT_MS};
use p2p_core::NodeId;

/// Most nodes under one name. A cloned image gives the same to a whole rack; more rows would tell
/// nobody more.
const NODES_PER_NAME_MAX: usize = 16;

/// Most nodes of which it is kept why their last report was refused: those that are in no row.
const REFUSED_MAX: usize = 4_096;

/// The beginning of a node's key, as [`NodeId`] prints it; nobody can make a second key with it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct NodeTag(Option<u64>);

impl NodeTag {
    /// The node of a row of which that is not known: a seeder of before wrote it.
    pub(super) const UNKNOWN: Self = Self(None);

    pub(super) fn of(node: NodeId) -> Self {
        Self::parse(&node.to_string())
    }

    pub(super) fn parse(text: &str) -> Self {
        Self(u64::from_str_radix(text, 16).ok())
    }

    /// The node of a row.
    pub(super) fn in_row(row: &HostStatus) -> Self {
        row.node.as_deref().map_or(Self::UNKNOWN, Self::parse)
    }

    /// As rows have it.
    pub(super) fn text(self) -> Option<String> {
        self.0.map(|tag| format!("{tag:016x}"))
    }
}

impl fmt::Display for NodeTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text().unwrap_or_else(|| "of unknown key".to_owned()))
    }
}

/// What a row says of the node that reported it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    at_ms: u64,
    is_stopped: bool,
    clock_off_ms: i64,
}

impl Heard {
    pub(super) fn of(row: &HostStatus) -> Self {
        Self {
            at_ms: row.received_at_ms,
            is_stopped: row.phase == HostPhase::Stopped,
            clock_off_ms: row.clock_off_ms().unwrap_or_default(),
        }
    }
}

/// One node under one name.
#[derive(Debug)]
struct Member {
    node: NodeTag,
    apps: Vec<AppName>,
    /// When it was last heard of.
    heard_at_ms: u64,
    /// Since when it has reported without a break of [`NAME_KEPT_MS`]; zero: since before the table
    /// was restored.
    since_ms: u64,
    /// Whether it said that it stops.
    is_stopped: bool,
    /// How far its clock is off; negative: behind.
    clock_off_ms: i64,
    company: Company,
    /// Whether it was said that the node has another name as well.
    is_clone_logged: bool,
}

/// Whether a node has its name for itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Company {
    Alone,
    /// It is one of several, as far as is known from before a restart.
    Twin,
    /// It is one of several, and that was said in the log.
    LoggedTwin,
}

impl Member {
    fn is_twin(&self) -> bool {
        self.company != Company::Alone
    }

    fn is_alive(&self, now_ms: u64) -> bool {
        !self.is_stopped && now_ms.saturating_sub(self.heard_at_ms) < NAME_KEPT_MS
    }

    /// Since when it reports if it does so at `now_ms`.
    fn since_ms_at(&self, now_ms: u64) -> u64 {
        let is_new = now_ms.saturating_sub(self.heard_at_ms) >= NAME_KEPT_MS;
        if is_new { now_ms } else { self.since_ms }
    }

    /// Whether each was heard after the other had begun.
    const fn overlaps(&self, other: &Self) -> bool {
        self.heard_at_ms >= other.since_ms && other.heard_at_ms >= self.since_ms
    }
}

/// Every name with the nodes that report under it, and why others are refused.
#[derive(Debug, Default)]
pub(super) struct Names {
    members: BTreeMap<Arc<str>, Vec<Member>>,
    /// The names under which each known node reports: one, unless something is wrong.
    by_node: BTreeMap<NodeTag, Vec<Arc<str>>>,
    /// When and why rows of a node were refused.
    refused: BTreeMap<NodeTag, (u64, String)>,
}

impl Names {
    /// The name as it is stored already, or a new one.
    pub(super) fn shared(&self, host: &str) -> Arc<str> {
        self.members.get_key_value(host).map_or_else(|| host.into(), |(name, _)| Arc::clone(name))
    }

    fn member(&self, host: &str, node: NodeTag) -> Option<&Member> {
        self.members.get(host)?.iter().find(|member| member.node == node)
    }

    fn member_mut(&mut self, host: &str, node: NodeTag) -> Option<&mut Member> {
        self.members.get_mut(host)?.iter_mut().find(|member| member.node == node)
    }

    fn names_of(&self, node: NodeTag) -> &[Arc<str>] {
        self.by_node.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Rows of a node, under all of its names.
    pub(super) fn row_count(&self, node: NodeTag) -> usize {
        let names = self.names_of(node).iter();
        names.filter_map(|host| self.member(host, node)).map(|member| member.apps.len()).sum()
    }

    /// How many others there are, if one more than these cannot report under the name.
    pub(super) fn others_if_full(&self, host: &str, node: NodeTag) -> Option<usize> {
        let members = self.members.get(host)?;
        let is_full = members.len() >= NODES_PER_NAME_MAX && self.member(host, node).is_none();
        is_full.then_some(members.len())
    }

    /// All rows under a name: the name, the node, the app.
    pub(super) fn rows_of(
        &self,
        host: &str,
    ) -> impl Iterator<Item = (Arc<str>, NodeTag, AppName)> + '_ {
        let found = self.members.get_key_value(host).into_iter();
        found.flat_map(|(host, members)| {
            members.iter().flat_map(move |member| {
                let row = move |app: &AppName| (Arc::clone(host), member.node, app.clone());
                member.apps.iter().map(row)
            })
        })
    }

    /// A row was put into the table.
    pub(super) fn on_row(&mut self, host: &Arc<str>, node: NodeTag, app: &AppName) {
        if let Some(member) = self.member_mut(host, node) {
            return member.apps.push(app.clone());
        }
        let member = Member {
            node,
            apps: vec![app.clone()],
            heard_at_ms: 0,
            since_ms: 0,
            is_stopped: true,
            clock_off_ms: 0,
            company: Company::Alone,
            is_clone_logged: false,
        };
        self.members.entry(Arc::clone(host)).or_default().push(member);
        if node != NodeTag::UNKNOWN {
            self.by_node.entry(node).or_default().push(Arc::clone(host));
        }
    }

    /// A row was removed from the table.
    pub(super) fn on_row_removed(&mut self, host: &str, node: NodeTag, app: &AppName) {
        let Some(members) = self.members.get_mut(host) else { return };
        for member in members.iter_mut().filter(|member| member.node == node) {
            member.apps.retain(|known| known != app);
        }
        let count = members.len();
        members.retain(|member| !member.apps.is_empty());
        if members.len() == count {
            return;
        }
        if let [last] = &mut members[..] {
            last.company = Company::Alone;
        }
        if members.is_empty() {
            self.members.remove(host);
        }
        if let Some(names) = self.by_node.get_mut(&node) {
            names.retain(|name| **name != *host);
            if names.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    /// A row was restored.
    pub(super) fn on_restored(&mut self, host: &str, node: NodeTag, heard: Heard) {
        if let Some(member) = self.member_mut(host, node) {
            member.heard_at_ms = member.heard_at_ms.max(heard.at_ms);
            member.is_stopped &= heard.is_stopped;
        }
    }

    /// All rows were restored: nodes under one name were twins before, or nearly.
    pub(super) fn settle_restored(&mut self) {
        for members in self.members.values_mut().filter(|members| members.len() > 1) {
            for member in members.iter_mut().filter(|member| member.node != NodeTag::UNKNOWN) {
                member.company = Company::Twin;
            }
        }
    }

    /// A row of a report was put into the table. `is_next`: not the first of the report. A host has
    /// stopped if all of its rows say so.
    pub(super) fn on_heard(&mut self, host: &str, node: NodeTag, heard: Heard, is_next: bool) {
        if let Some(member) = self.member_mut(host, node) {
            member.since_ms = member.since_ms_at(heard.at_ms);
            member.heard_at_ms = heard.at_ms;
            member.clock_off_ms = heard.clock_off_ms;
            member.is_stopped = heard.is_stopped && (member.is_stopped || !is_next);
        }
    }

    /// When a node was last heard of under a name under which it does not stop.
    pub(super) fn heard_at_ms(&self, node: NodeTag) -> Option<u64> {
        let members = self.names_of(node).iter().filter_map(|host| self.member(host, node));
        members.filter(|member| !member.is_stopped).map(|member| member.heard_at_ms).max()
    }

    /// Since when a node reports under a name without a break.
    pub(super) fn reports_since_ms(&self, host: &str, node: NodeTag) -> Option<u64> {
        self.member(host, node).map(|member| member.since_ms)
    }

    /// The holders, name and node, whose rows go because `node` reports as `host` at `now_ms`:
    /// those who had the name before, and the node itself under a name that it gave up.
    pub(super) fn taken_over(
        &self,
        now_ms: u64,
        host: &Arc<str>,
        node: NodeTag,
    ) -> Vec<(Arc<str>, NodeTag)> {
        let member = self.member(host, node);
        let since_ms = member.map_or(now_ms, |member| member.since_ms_at(now_ms));
        let is_over = |other: &&Member| {
            let is_gone = !other.is_alive(now_ms) && other.heard_at_ms < since_ms;
            other.node == NodeTag::UNKNOWN || (is_gone && !other.is_twin())
        };
        let others = self.members.get(host).into_iter().flatten();
        let others = others.filter(|other| other.node != node).filter(is_over);
        let before = others.map(|other| (Arc::clone(host), other.node));
        // Only one that said so: a second machine with the same key, which is down, has not.
        let is_renamed =
            |other: &Member| other.is_stopped && !other.is_twin() && other.heard_at_ms < since_ms;
        let names = self.names_of(node).iter().filter(|name| *name != host);
        let renamed = names.filter(|name| self.member(name, node).is_some_and(is_renamed));
        before.chain(renamed.map(|name| (Arc::clone(name), node))).collect()
    }

    /// Looks whether a node that was just heard meets others under its name, or itself under
    /// another. What is new of it, for the log.
    pub(super) fn meetings(&mut self, now_ms: u64, host: &str, node: NodeTag) -> Vec<String> {
        let mut news = Vec::new();
        let Some(members) = self.members.get_mut(host) else { return news };
        let Some(own) = members.iter().position(|member| member.node == node) else { return news };
        let mut own = members.swap_remove(own);
        for other in members.iter_mut() {
            let is_known = other.node != NodeTag::UNKNOWN;
            if is_known && other.is_alive(now_ms) && own.is_alive(now_ms) && own.overlaps(other) {
                let is_logged = |member: &Member| member.company == Company::LoggedTwin;
                let was_logged = is_logged(&own) && is_logged(other);
                (own.company, other.company) = (Company::LoggedTwin, Company::LoggedTwin);
                if !was_logged {
                    news.push(format!(
                        "two nodes report as host {host}: {} and {node}; give each host its own \
                         name",
                        other.node
                    ));
                }
            }
        }
        members.push(own);
        let others = self.clones(now_ms, host, node);
        if let Some(other) = others.first()
            && let Some(own) = self.member_mut(host, node)
            && !std::mem::replace(&mut own.is_clone_logged, true)
        {
            news.push(clone_text(&format!("node {node} reports"), host, other));
            if let Some(other) = self.member_mut(other, node) {
                other.is_clone_logged = true;
            }
        }
        news
    }

    /// Other names under which a node reports at the same time.
    fn clones(&self, now_ms: u64, host: &str, node: NodeTag) -> Vec<Arc<str>> {
        let Some(own) = self.member(host, node) else { return Vec::new() };
        let is_clone = |name: &&Arc<str>| {
            let other = self.member(name, node);
            ***name != *host
                && other.is_some_and(|other| other.is_alive(now_ms) && other.overlaps(own))
        };
        self.names_of(node).iter().filter(is_clone).cloned().collect()
    }

    /// Rows of a node were refused.
    pub(super) fn on_refused(&mut self, now_ms: u64, node: NodeTag, why: String) {
        if self.refused.len() >= REFUSED_MAX && !self.refused.contains_key(&node) {
            self.refused.retain(|_, (at_ms, _)| now_ms.saturating_sub(*at_ms) < NAME_KEPT_MS);
            if self.refused.len() >= REFUSED_MAX {
                return;
            }
        }
        self.refused.insert(node, (now_ms, why));
    }

    /// What is to be told to a node, the most important first.
    pub(super) fn notes(&self, now_ms: u64, node: NodeTag) -> Vec<String> {
        let mut notes = Vec::new();
        let refused = self.refused.get(&node);
        let is_fresh = |(at_ms, _): &&(u64, String)| now_ms.saturating_sub(*at_ms) < NAME_KEPT_MS;
        if let Some((_, why)) = refused.filter(is_fresh) {
            notes.push(format!("the seeder leaves out rows that this host reports: {why}"));
        }
        for host in self.names_of(node) {
            let Some(own) = self.member(host, node) else { continue };
            let others = self.members.get(host).into_iter().flatten();
            let is_twin = |other: &&Member| {
                other.node != node && other.is_twin() && own.is_twin() && other.is_alive(now_ms)
            };
            if let Some(other) = others.filter(is_twin).find(|_| own.is_alive(now_ms)) {
                notes.push(format!(
                    "two nodes report as host {host}: this one, {node}, and {}; give each host \
                     its own name",
                    other.node
                ));
            }
            if let Some(other) = self.clones(now_ms, host, node).first() {
                notes.push(clone_text("this node reports", host, other));
            }
            notes.extend(clock_text(own.clock_off_ms));
        }
        notes.dedup();
        notes
    }
}

fn clone_text(who: &str, host: &str, other: &str) -> String {
    // The same words whichever of the two names reports.
    let (first, second) = if host < other { (host, other) } else { (other, host) };
    format!(
        "{who} as host {first} and as host {second}: two machines have one key; on one of them \
         stop the agent, remove node.key from its state directory and start it again"
    )
}

/// What is to be said of a clock that is off; `None` if it is not.
fn clock_text(off_ms: i64) -> Option<String> {
    if off_ms.unsigned_abs() <= CLOCK_OFF_MAX_MS {
        return None;
    }
    let side = if off_ms < 0 { "behind" } else { "ahead of" };
    let minutes = (off_ms.unsigned_abs() + 30_000) / 60_000;
    Some(format!("this host's clock is {minutes} min {side} the seeder's; set it, or run NTP"))
}
