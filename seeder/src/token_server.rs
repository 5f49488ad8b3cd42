//! Answers hosts that ask for tokens, and keeps the table of them on disk.
//!
//! Invariant: a host learns of its token only after the stored table has it. If the disk fails,
//! nothing new is granted; hosts that finish, roll back or give back need nothing from here. What
//! is decided is in [`crate::tokens`]; what is known of groups and halted rollouts comes from
//! [`crate::judging`] over a [`Desk`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use disk::Durability;
use goal_state::{AppName, LEASE_MAX, TokenAnswer, TokenRequest, granting_seeder};
use p2p_core::NodeId;
use p2p_net::Ask;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::tokens::{AskedApps, Handled, TokenLimits, TokenRules, TokenTable, named, refused};

/// The table's file in the state directory.
const FILE: &str = "tokens.json";

/// Requests that share one write of the table. More would keep the first of them waiting.
const BATCH_MAX: usize = 256;

/// When a host comes again whose token could not be stored.
const RETRY_UNSTORED_MS: u64 = 5_000;

/// Most apps whose goals are looked at because hosts ask for tokens. Hosts name them, so there is a
/// bound; tokens of apps beyond it wait.
const ASKED_APPS_MAX: usize = 10_000;

/// What the table of tokens and whoever looks at goals and reports tell each other.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Apps that tokens were asked for lately.
    pub(crate) asked: watch::Sender<AskedApps>,
    /// What is known of the region.
    pub(crate) rules: watch::Receiver<TokenRules>,
}

/// The table and its file.
#[derive(Debug)]
pub(crate) struct TokenServer {
    path: PathBuf,
    table: TokenTable,
    started: Instant,
    /// This seeder and the others of the region.
    seeders: Vec<NodeId>,
    /// When tokens of each app were asked for last, and the latest generation named.
    asked: BTreeMap<AppName, (Duration, u64)>,
    is_failing: bool,
}

impl TokenServer {
    /// Reads the table. To be called before the node's key is made: a seeder without a key has
    /// granted nothing yet, one without a table has lost it.
    ///
    /// # Errors
    ///
    /// If the file of a new seeder cannot be written. A damaged file is no error: nothing is
    /// granted for a while then.
    pub(crate) fn open(directory: &Path, key: &Path) -> io::Result<Self> {
        let path = directory.join(FILE);
        let limits = TokenLimits::REGION;
        if !key.try_exists()? {
            let table = TokenTable::new(limits);
            replace(&path, &table.document(Duration::ZERO).unwrap_or_default())?;
        }
        let table = match fs::read(&path) {
            Ok(bytes) => {
                TokenTable::restored(Duration::ZERO, limits, &bytes).map_err(io::Error::other)
            }
            Err(error) => Err(error),
        };
        let table = table.unwrap_or_else(|error| {
            tracing::warn!(
                %error,
                path = %path.display(),
                "the table of tokens is lost; none is granted until those that may be out have run out"
            );
            TokenTable::lost(Duration::ZERO, limits)
        });
        let (started, asked) = (Instant::now(), BTreeMap::new());
        Ok(Self { path, table, started, seeders: vec![], asked, is_failing: false })
    }

    /// Names the seeders of the region, this one included: each grants the tokens of some groups.
    pub(crate) fn set_seeders(&mut self, seeders: impl Iterator<Item = NodeId>) {
        self.seeders = seeders.collect();
    }

    /// Answers requests for tokens that node `own` received, until no more can come.
    pub(crate) async fn run(mut self, own: NodeId, mut asks: mpsc::Receiver<Ask>, desk: Desk) {
        let Desk { asked, mut rules } = desk;
        self.table.set_rules(rules.borrow_and_update().clone());
        while let Some(first) = asks.recv().await {
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX
                && let Ok(ask) = asks.try_recv()
            {
                batch.push(ask);
            }
            if rules.has_changed().unwrap_or(false) {
                self.table.set_rules(rules.borrow_and_update().clone());
            }
            self.answer(own, batch).await;
            let apps = self.apps_asked();
            asked.send_if_modified(|shown| {
                let is_news = *shown != apps;
                *shown = apps;
                is_news
            });
        }
    }

    /// The apps that hosts still ask for, or hold tokens of.
    fn apps_asked(&mut self) -> AskedApps {
        let now = self.started.elapsed();
        self.asked.retain(|_, (at, _)| now.saturating_sub(*at) <= LEASE_MAX);
        self.asked.iter().map(|(app, (_, generation))| (app.clone(), *generation)).collect()
    }

    async fn answer(&mut self, own: NodeId, batch: Vec<Ask>) {
        let now = self.started.elapsed();
        let mut handled = vec![];
        for ask in batch {
            let answer = self.handle(now, own, &ask);
            handled.push((ask, answer));
        }
        let trouble = self.store(now).await;
        for (ask, Handled { mut answer, needs_disk }) in handled {
            if let Some(trouble) = trouble.as_ref().filter(|_| needs_disk) {
                let reason = format!("the seeder cannot store tokens: {trouble}");
                answer = TokenAnswer::Waiting { reason, retry_ms: RETRY_UNSTORED_MS };
            }
            ask.answer(answer.to_json());
        }
    }

    fn handle(&mut self, now: Duration, own: NodeId, ask: &Ask) -> Handled {
        let answer = match TokenRequest::from_json(&ask.body) {
            Err(error) => refused(format!("the request for a token is not valid: {error}")),
            Ok(request) => {
                let seeders = self.seeders.iter().copied();
                let granting = granting_seeder(&request.app, &request.group, seeders);
                if granting == Some(own) {
                    let has_room = self.asked.len() < ASKED_APPS_MAX;
                    if has_room || self.asked.contains_key(&request.app) {
                        let asked = self.asked.entry(request.app.clone()).or_default();
                        *asked = (now, asked.1.max(request.generation));
                    }
                    return self.table.handle(now, ask.node, &request);
                }
                let granting = granting.map_or_else(String::new, |seeder| seeder.to_string());
                refused(format!(
                    "seeder {own} does not grant tokens of {} to {}, by its list {granting} does; \
                     give all hosts and seeders of the region one list of seeders",
                    request.app,
                    named(&request.group)
                ))
            }
        };
        Handled { answer, needs_disk: false }
    }

    /// Stores what has changed. Returns why it could not, if it could not.
    async fn store(&mut self, now: Duration) -> Option<String> {
        let bytes = self.table.document(now)?;
        let path = self.path.clone();
        let written = spawn_blocking(move || replace(&path, &bytes)).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => {
                self.table.on_stored();
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("the table of tokens is stored again");
                }
                None
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    let path = self.path.display();
                    tracing::warn!(%error, %path, "cannot store the table of tokens, none is granted");
                }
                Some(error.to_string())
            }
        }
    }
}

/// Replaces a file by another that is durable, name and bytes, when this returns.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    disk::replace_file(path, &disk::scratch_beside(path, ".new"), bytes, Durability::Synced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_that_is_lost_is_known_from_one_that_never_was() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("node.key");
        let is_quiet = |server: &TokenServer| server.table.is_quiet(Duration::from_secs(1));
        let server = TokenServer::open(folder.path(), &key).unwrap();
        assert!(!is_quiet(&server), "a new seeder has granted nothing");
        // Killed before it had made its key, it is still new.
        assert!(!is_quiet(&TokenServer::open(folder.path(), &key).unwrap()));
        fs::write(&key, "key").unwrap();
        assert!(!is_quiet(&TokenServer::open(folder.path(), &key).unwrap()));
        let path = folder.path().join(FILE);
        for damage in ["", "{", r#"{"version":2,"pools":[]}"#] {
            fs::write(&path, damage).unwrap();
            assert!(is_quiet(&TokenServer::open(folder.path(), &key).unwrap()), "{damage}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damage, "left for a person to look at");
        }
        fs::remove_file(&path).unwrap();
        assert!(is_quiet(&TokenServer::open(folder.path(), &key).unwrap()));
    }

    #[tokio::test]
    async fn disk_that_fails_is_reported_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state");
        fs::create_dir(&directory).unwrap();
        let mut server = TokenServer::open(&directory, &directory.join("node.key")).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        server.table = TokenTable::new(TokenLimits::REGION);
        let trouble = server.store(Duration::ZERO).await.unwrap();
        assert!(trouble.contains("No such file"), "{trouble}");
        fs::create_dir(&directory).unwrap();
        assert_eq!(server.store(Duration::ZERO).await, None);
        assert!(directory.join(FILE).exists());
        assert_eq!(server.table.document(Duration::ZERO), None, "nothing more to store");
    }
}
