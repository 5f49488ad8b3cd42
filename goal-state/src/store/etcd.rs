//! A goal store in etcd: keys `PREFIX/goals/APP`, `PREFIX/status/WRITER` and
//! `PREFIX/forgotten/DIGEST`.
//!
//! Invariants: a goal is written only over the revision it was computed from; every wait has an
//! end; no leases, nothing per host. One member is used at a time and the next one after a failure,
//! so that a member that is down costs one failed attempt and not every second request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error as EtcdError, GetOptions, KeyValue, Txn,
    TxnOp, TxnOpResponse,
};
use tokio::sync::Mutex;

use crate::documents::app_name::AppName;
use crate::documents::goal::Goal;
use crate::documents::history::ChangeOrder;
use crate::documents::inventory::{Forgotten, StatusDocuments, WrittenRows};
use crate::documents::status::{HostStatus, status_from_json, status_to_json};
use crate::store::board::GoalUpdate;
use crate::store::change::{GoalChange, GoalList, parse_goal};
use crate::store::damage_log::DamageLog;
use crate::store::error::{GoalReadError, GoalStoreError, one_line};
use crate::store::url::GoalUrl;

/// Most bytes of one value: etcd's default for a whole request, less room for the key and framing.
pub(crate) const VALUE_BYTES_MAX: usize = (1 << 20) + (1 << 19) - (1 << 12);

/// Values asked for at once: as many of the largest ones as fit into [`ANSWER_BYTES_MAX`].
const PAGE_VALUES: i64 = 8;
/// Small values asked for at once.
const PAGE_SMALL_VALUES: i64 = 1_000;
/// Most bytes of one answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Keys read in one transaction: below etcd's default of 128 operations.
const READ_KEYS_MAX: usize = 100;

/// Attempts to change a goal. Each one that fails means that another one succeeded, so this many
/// operators would have to deploy one app at the same moment.
const CHANGE_ATTEMPTS_MAX: u32 = 64;

/// How long the parts of a request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// To connect to a member.
    pub(crate) connect: Duration,
    /// For the answer to a request, including the time to connect if that is needed.
    pub(crate) request: Duration,
    /// Between two pings on a connection with an open watch. etcd closes connections that ping more
    /// often than every 5 s, or that ping at all while nothing is open.
    pub(crate) ping: Duration,
}

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(3),
    request: Duration::from_secs(5),
    ping: Duration::from_secs(10),
};

pub(crate) mod watch;

/// A store in etcd. Cheap to clone; clones share a connection.
#[derive(Clone, Debug)]
pub(crate) struct EtcdStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoints: Vec<String>,
    /// Empty or ending in a slash.
    prefix: String,
    url: String,
    patience: Patience,
    member: Mutex<Member>,
    damage: DamageLog,
}

/// The member of the cluster that is used now.
struct Member {
    /// Counts the members used so far; which one it is follows from it.
    turn: usize,
    /// Made when first needed.
    client: Option<Client>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("turn", &self.turn).finish_non_exhaustive()
    }
}

/// The goals of some apps, all at least as new as `revision`.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) updates: Vec<GoalUpdate>,
    pub(crate) revision: i64,
}

/// Why one attempt of a request failed.
enum Failure {
    /// The member did not answer in time. The request may have been carried out.
    TimedOut,
    /// The member could not be reached or cannot serve. The request may have been carried out.
    Unavailable(String),
    /// The member said no.
    Refused(String),
}

impl EtcdStore {
    pub(crate) fn new(endpoints: Vec<String>, prefix: &str) -> Self {
        Self::with_patience(endpoints, prefix, PATIENCE)
    }

    pub(crate) fn with_patience(endpoints: Vec<String>, prefix: &str, patience: Patience) -> Self {
        let prefix = prefix.trim_matches('/').to_owned();
        let url =
            GoalUrl::Etcd { endpoints: endpoints.clone(), prefix: prefix.clone() }.to_string();
        let prefix = if prefix.is_empty() { prefix } else { prefix + "/" };
        let member = Mutex::new(Member { turn: 0, client: None });
        let damage = DamageLog::default();
        Self { shared: Arc::new(Shared { endpoints, prefix, url, patience, member, damage }) }
    }

    fn goal_key(&self, app: &AppName) -> String {
        format!("{}goals/{app}", self.shared.prefix)
    }

    /// What the keys of all goals start with.
    pub(crate) fn goals_prefix(&self) -> String {
        format!("{}goals/", self.shared.prefix)
    }

    pub(crate) async fn goal(&self, app: &AppName) -> Result<Option<Goal>, GoalStoreError> {
        let key = self.goal_key(app);
        let answer = self.request(|client| get(client, key.clone(), GetOptions::new())).await?;
        answer.kvs().first().map(|found| self.parse(app, found)).transpose()
    }

    /// Reads the goal of `app` out of the value of its key.
    pub(crate) fn parse(&self, app: &AppName, found: &KeyValue) -> Result<Goal, GoalStoreError> {
        let key = String::from_utf8_lossy(found.key());
        let remedy =
            format!("repair the value, or remove it with: etcdctl del {key}, and deploy again");
        parse_goal(app, &self.place(&key), found.value(), &remedy)
    }

    fn place(&self, key: &str) -> String {
        format!("key {key} of {}", self.shared.url)
    }

    pub(crate) async fn goals(&self) -> Result<GoalList, GoalStoreError> {
        let prefix = self.goals_prefix();
        let mut list = GoalList::default();
        for found in self.list(&prefix, PAGE_VALUES).await? {
            let key = String::from_utf8_lossy(found.key());
            match key.strip_prefix(&prefix).unwrap_or(&key).parse::<AppName>() {
                Ok(app) => {
                    let read = self.parse(&app, &found).map(Some);
                    list.take(app, read);
                }
                Err(error) => {
                    let reason = format!("{error}; remove it with: etcdctl del {key}");
                    list.take_nameless(self.place(&key), reason);
                }
            }
        }
        Ok(list)
    }

    /// All keys that start with `prefix`, which ends in a slash. Read page by page; what changes in
    /// between may be seen in its old or new state.
    async fn list(&self, prefix: &str, page: i64) -> Result<Vec<KeyValue>, GoalStoreError> {
        // '0' follows '/' in ASCII.
        let end = format!("{}0", prefix.trim_end_matches('/'));
        let mut from = prefix.as_bytes().to_vec();
        let mut found = Vec::new();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(page);
            let mut page =
                self.request(|client| get(client, from.clone(), options.clone())).await?;
            let is_last = !page.more();
            found.extend(page.take_kvs());
            match found.last() {
                Some(last) if !is_last => from = [last.key(), b"\0"].concat(),
                _ => return Ok(found),
            }
        }
    }

    /// The goals of `apps` with the revision to watch from.
    pub(crate) async fn snapshot(
        &self,
        apps: impl IntoIterator<Item = &AppName>,
    ) -> Result<Snapshot, GoalStoreError> {
        let apps: Vec<&AppName> = apps.into_iter().collect();
        let mut snapshot = Snapshot { updates: Vec::new(), revision: i64::MAX };
        for apps in apps.chunks(READ_KEYS_MAX) {
            let reads: Vec<_> =
                apps.iter().map(|app| TxnOp::get(self.goal_key(app), None)).collect();
            let answer = self.request(|client| transact(client, reads.clone())).await?;
            // The oldest of several: a watch from there repeats what was read, and loses nothing.
            let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            snapshot.revision = snapshot.revision.min(revision);
            for (app, read) in apps.iter().zip(answer.op_responses()) {
                let TxnOpResponse::Get(read) = read else { continue };
                let goal = read.kvs().first().map(|found| self.parse(app, found)).transpose();
                let goal = goal.map_err(GoalReadError::from);
                snapshot.updates.push(GoalUpdate { app: (*app).clone(), goal });
            }
        }
        Ok(snapshot)
    }

    pub(crate) async fn change_goal(
        &self,
        app: &AppName,
        change: GoalChange,
        order: ChangeOrder,
    ) -> Result<Goal, GoalStoreError> {
        let key = self.goal_key(app);
        let answer = self.request(|client| get(client, key.clone(), GetOptions::new())).await?;
        let mut found = answer.kvs().first().cloned();
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let before = found.as_ref().map(|found| self.parse(app, found)).transpose()?;
            let goal = change.apply(app, before.as_ref(), &order)?;
            // A key that is not there has modification revision 0.
            let revision = found.as_ref().map_or(0, KeyValue::mod_revision);
            match self.swap(&key, revision, goal.to_json()).await? {
                Swap::Done => return Ok(goal),
                Swap::Overtaken { now } => found = now,
            }
        }
        Err(GoalStoreError::Contended { app: app.clone(), attempts: CHANGE_ATTEMPTS_MAX })
    }

    /// Writes `value` if the key still is at `revision`.
    async fn swap(&self, key: &str, revision: i64, value: Vec<u8>) -> Result<Swap, GoalStoreError> {
        self.check_size(key, &value)?;
        let is_same = Compare::mod_revision(key, CompareOp::Equal, revision);
        let txn = Txn::new()
            .when([is_same])
            .and_then([TxnOp::put(key, value.clone(), None)])
            .or_else([TxnOp::get(key, None)]);
        let attempts = AtomicU32::new(0);
        let answer = self
            .request(|mut client| {
                attempts.fetch_add(1, Ordering::Relaxed);
                let txn = txn.clone();
                async move { client.txn(txn).await }
            })
            .await?;
        if answer.succeeded() {
            return Ok(Swap::Done);
        }
        let now = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(mut read) => read.take_kvs().into_iter().next(),
            _ => None,
        });
        // An attempt that failed on the way back was carried out nevertheless. If no attempt
        // failed, an equal value is that of another operator, who deployed the same in the same
        // millisecond.
        let is_ours = now.as_ref().is_some_and(|now| now.value() == value);
        if is_ours && attempts.into_inner() > 1 {
            return Ok(Swap::Done);
        }
        Ok(Swap::Overtaken { now })
    }

    fn check_size(&self, key: &str, value: &[u8]) -> Result<(), GoalStoreError> {
        let (bytes, bytes_max) = (value.len(), VALUE_BYTES_MAX);
        if bytes > bytes_max {
            return Err(GoalStoreError::TooLarge { place: self.place(key), bytes, bytes_max });
        }
        Ok(())
    }

    pub(crate) async fn put_status(
        &self,
        writer: &str,
        rows: &[HostStatus],
    ) -> Result<(), GoalStoreError> {
        let key = format!("{}status/{writer}", self.shared.prefix);
        let value = status_to_json(rows);
        self.check_size(&key, &value)?;
        self.request(|mut client| {
            let (key, value) = (key.clone(), value.clone());
            async move { client.put(key, value, None).await }
        })
        .await?;
        Ok(())
    }

    /// The status documents of everybody, or those of one who writes several.
    pub(crate) async fn status_documents(
        &self,
        writer: Option<&str>,
    ) -> Result<StatusDocuments, GoalStoreError> {
        let all = format!("{}status/", self.shared.prefix);
        let prefix = writer.map_or_else(|| all.clone(), |writer| format!("{all}{writer}/"));
        let mut documents = Vec::new();
        // One damaged document must not hide all other hosts.
        let mut damage = BTreeMap::new();
        for found in self.list(&prefix, PAGE_VALUES).await? {
            match status_from_json(found.value()) {
                Ok(rows) => {
                    let key = String::from_utf8_lossy(found.key());
                    let writer = key.strip_prefix(&all).unwrap_or(&key).to_owned();
                    documents.push(WrittenRows { writer, rows });
                }
                Err(error) => {
                    let key = String::from_utf8_lossy(found.key()).into_owned();
                    damage.insert(key, error.to_string());
                }
            }
        }
        let damaged = damage.len();
        self.shared.damage.note(writer.unwrap_or_default(), damage);
        Ok(StatusDocuments { read: documents, damaged })
    }

    fn forgotten_key(&self, host: &str) -> String {
        format!("{}forgotten/{}", self.shared.prefix, Forgotten::document_name(host))
    }

    pub(crate) async fn forget(&self, forgotten: &Forgotten) -> Result<(), GoalStoreError> {
        let (key, value) = (self.forgotten_key(&forgotten.host), forgotten.to_json());
        self.request(|mut client| {
            let (key, value) = (key.clone(), value.clone());
            async move { client.put(key, value, None).await }
        })
        .await?;
        Ok(())
    }

    pub(crate) async fn forgotten(&self) -> Result<Vec<Forgotten>, GoalStoreError> {
        let prefix = format!("{}forgotten/", self.shared.prefix);
        let mut list = Vec::new();
        for found in self.list(&prefix, PAGE_SMALL_VALUES).await? {
            match Forgotten::from_json(found.value()) {
                Ok(forgotten) => list.push(forgotten),
                Err(error) => tracing::warn!(
                    key = %String::from_utf8_lossy(found.key()), %error,
                    "skipped a damaged document of a host that was forgotten; remove the key"
                ),
            }
        }
        Ok(list)
    }

    pub(crate) async fn remember(&self, host: &str) -> Result<(), GoalStoreError> {
        let key = self.forgotten_key(host);
        self.request(|mut client| {
            let key = key.clone();
            async move { client.delete(key, None).await }
        })
        .await?;
        Ok(())
    }

    /// Sends a request to the member in use, and to the next ones if it fails. A single member is
    /// tried twice unless it let the time run out: the first attempt may have met a connection that
    /// broke while it was idle.
    pub(crate) async fn request<Answer, Call, Calling>(
        &self,
        call: Call,
    ) -> Result<Answer, GoalStoreError>
    where
        Call: Fn(Client) -> Calling,
        Calling: Future<Output = Result<Answer, EtcdError>>,
    {
        let Patience { request: patience, .. } = self.shared.patience;
        let members = self.shared.endpoints.len();
        let mut reason = String::new();
        for _ in 0..members.max(2) {
            let (turn, client) =
                self.client().await.map_err(|error| self.refused(one_line(&error)))?;
            let failure = match tokio::time::timeout(patience, call(client)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => classify(&error),
                Err(_) => Failure::TimedOut,
            };
            let may_try_again = match failure {
                Failure::Refused(reason) => return Err(self.refused(reason)),
                Failure::Unavailable(unavailable) => {
                    reason = unavailable;
                    true
                }
                Failure::TimedOut => {
                    reason = format!("no answer within {patience:?}");
                    members > 1
                }
            };
            self.give_up_member(turn).await;
            if !may_try_again {
                break;
            }
        }
        Err(GoalStoreError::Unreachable { url: self.shared.url.clone(), reason })
    }

    fn refused(&self, reason: String) -> GoalStoreError {
        GoalStoreError::Refused { url: self.shared.url.clone(), reason }
    }

    /// A client of the member in use, with the number to give it up by.
    pub(crate) async fn client(&self) -> Result<(usize, Client), EtcdError> {
        let mut member = self.shared.member.lock().await;
        if let Some(client) = &member.client {
            return Ok((member.turn, client.clone()));
        }
        let Patience { connect, request, ping } = self.shared.patience;
        let options = ConnectOptions::new()
            .with_connect_timeout(connect)
            .with_tcp_keepalive(ping)
            .with_keep_alive(ping, request)
            .with_keep_alive_while_idle(false)
            // A member that lost its cluster fails at once, instead of serving a watch that is
            // silent.
            .with_require_leader(true);
        let endpoints = &self.shared.endpoints;
        let endpoint = endpoints.get(member.turn % endpoints.len().max(1)).ok_or_else(|| {
            EtcdError::InvalidArgs("the URL of the goal store names no endpoint".into())
        })?;
        // Only prepares the connection: it is made with the first request.
        let client = Client::connect([endpoint], Some(options)).await?;
        member.client = Some(client.clone());
        Ok((member.turn, client))
    }

    /// Turns to the next member, unless somebody else did since `turn`.
    pub(crate) async fn give_up_member(&self, turn: usize) {
        let mut member = self.shared.member.lock().await;
        if member.turn == turn {
            member.turn = turn.wrapping_add(1);
            member.client = None;
        }
    }
}

/// The outcome of a compare-and-swap.
enum Swap {
    Done,
    /// Somebody else changed the key; this is what it is now.
    Overtaken {
        now: Option<KeyValue>,
    },
}

async fn get(
    client: Client,
    key: impl Into<Vec<u8>>,
    options: GetOptions,
) -> Result<etcd_client::GetResponse, EtcdError> {
    client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX).get(key, Some(options)).await
}

async fn transact(
    client: Client,
    operations: Vec<TxnOp>,
) -> Result<etcd_client::TxnResponse, EtcdError> {
    let txn = Txn::new().and_then(operations);
    client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX).txn(txn).await
}

/// Sorts etcd's errors by whether another attempt can help.
fn classify(error: &EtcdError) -> Failure {
    let EtcdError::GRpcStatus(status) = error else {
        return match error {
            EtcdError::InvalidArgs(_) | EtcdError::InvalidUri(_) => {
                Failure::Refused(one_line(error))
            }
            _ => Failure::Unavailable(one_line(error)),
        };
    };
    let mut reason = status.message().to_owned();
    // The layers in between say "transport error"; the operating system's words are at the bottom.
    let mut source = std::error::Error::source(status);
    while let Some(deeper) = source.and_then(std::error::Error::source) {
        source = Some(deeper);
    }
    let cause = source.map(ToString::to_string).filter(|cause| !reason.contains(cause));
    if let Some(cause) = cause {
        reason = if reason.is_empty() { cause } else { format!("{reason}: {cause}") };
    }
    // The numbers of gRPC's status codes, which etcd-client does not re-export.
    match i32::from(status.code()) {
        8 if reason.contains("space exceeded") => Failure::Refused(format!(
            "{reason}; make room with: etcdctl compact REVISION, etcdctl defrag, etcdctl alarm \
             disarm"
        )),
        // Invalid argument, not found, already exists, permission, exhausted, precondition, range,
        // unimplemented, unauthenticated.
        3 | 5..=9 | 11 | 12 | 16 => Failure::Refused(reason),
        _ => Failure::Unavailable(reason),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::EtcdServer;

    const SHORT: Patience = Patience {
        connect: Duration::from_millis(300),
        request: Duration::from_millis(300),
        ping: Duration::from_secs(10),
    };

    fn app() -> AppName {
        "web".parse().unwrap()
    }

    /// Goal: a member that takes connections and never answers does not hang the caller.
    #[tokio::test]
    async fn silent_member_is_an_error_after_the_time_is_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let store = EtcdStore::with_patience(vec![endpoint.clone()], "shoal", SHORT);
        let error = store.goal(&app()).await.unwrap_err().to_string();
        assert!(error.contains(&format!("cannot reach the goal store etcd://{endpoint}/shoal")));
        assert!(error.contains("no answer within 300ms; check that etcd runs"), "{error}");
    }

    #[tokio::test]
    async fn missing_member_is_an_error_with_the_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        drop(listener);
        let store = EtcdStore::new(vec![endpoint], "");
        let error = store.status_documents(None).await.unwrap_err();
        assert!(matches!(error, GoalStoreError::Unreachable { .. }), "{error:?}");
        let expected =
            ": tcp connect error: Connection refused (os error 111); check that etcd runs";
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[tokio::test]
    async fn url_made_by_hand_without_endpoints_is_an_error() {
        let error = EtcdStore::new(vec![], "").goals().await.unwrap_err().to_string();
        assert!(error.contains("names no endpoint"), "{error}");
    }

    /// Goal: what is below our limit is below etcd's.
    #[tokio::test]
    async fn value_at_the_limit_is_taken() {
        let etcd = EtcdServer::start().await;
        let store = EtcdStore::new(vec![etcd.endpoint()], "shoal");
        let mut row = HostStatus::new("h", app());
        row.message = Some(String::new());
        let frame = status_to_json(std::slice::from_ref(&row)).len();
        row.message = Some("m".repeat(VALUE_BYTES_MAX - frame));
        store.put_status("seeder/0", &[row.clone()]).await.unwrap();
        assert_eq!(store.status_documents(None).await.unwrap().read[0].rows, [row.clone()]);
        row.message = Some("m".repeat(VALUE_BYTES_MAX - frame + 1));
        let error = store.put_status("seeder/0", &[row]).await.unwrap_err();
        assert!(matches!(error, GoalStoreError::TooLarge { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn value_over_the_limit_is_refused_before_anything_is_sent() {
        let store = EtcdStore::new(vec!["127.0.0.1:1".into()], "/shoal/");
        let mut row = HostStatus::new("h", app());
        row.message = Some("m".repeat(VALUE_BYTES_MAX));
        let error = store.put_status("seeder/0", &[row]).await.unwrap_err();
        assert!(matches!(error, GoalStoreError::TooLarge { .. }), "{error:?}");
        assert!(error.to_string().starts_with("key shoal/status/seeder/0 of etcd://"), "{error}");
    }
}
