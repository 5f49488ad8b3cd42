//! One store: requests that are tried again, objects read by ranges, and what a refusal means.
//!
//! [`place`] makes the client, [`retry`] decides how long to try, [`error`] reads refusals.
//! Invariant: an object is created or not, never partly. That something was created is believed
//! only once it is seen there: stores answer "exists" to a create that met a delete in flight.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use object_store::path::Path;
use object_store::{
    Error as Answer, GetOptions, GetRange, ObjectMeta, ObjectStoreExt as _, PutMode, PutOptions,
    PutPayload,
};
use tokio::time::{Instant, timeout};

use crate::format::keys;

pub(crate) mod error;
pub(crate) mod place;
pub(crate) mod retry;
pub(crate) mod uploads;

use self::error::{Failure, Meaning, StoreError, classify};
use self::place::{Kind, Place};
use self::retry::{Pace, Patience, Tries, Work};

/// Bytes asked for at once. Half as many would make twice as many requests, which stores charge
/// for; twice as many would hold more in memory than a try is worth.
pub(crate) const RANGE_BYTES: u64 = 8 << 20;

/// What the store is opened for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Access {
    /// Reading builds. Writes nothing, and needs no permission to list.
    #[default]
    Read,
    /// Publishing, sweeping and repairing too.
    Write,
}

/// How to open a store.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// What for.
    pub access: Access,
    /// Settings of the client by the names that the crate `object_store` gives them, such as
    /// `aws_endpoint`. They come before the environment.
    pub settings: Vec<(String, String)>,
    /// How long to wait for the store.
    pub patience: Patience,
}

/// A store of builds: a folder, or a bucket. Cheap to clone.
#[derive(Clone)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    place: Place,
    access: Access,
    patience: Patience,
    pace: Pace,
}

impl fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlobStore").field(&self.inner.name).finish()
    }
}

impl fmt::Display for BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.name)
    }
}

/// Whether something was created.
#[derive(Debug)]
pub(crate) enum Created {
    Now,
    /// Something is there already.
    Before,
}

/// An object that a listing named.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) bytes: u64,
    /// By the store's clock.
    pub(crate) modified: SystemTime,
}

impl BlobStore {
    /// Opens the store that `url` names: a folder, `file://`, `s3://`, `gs://`, `az://`, or
    /// `http(s)://`, which can only be read. For writing, a folder is made if it is missing.
    ///
    /// # Errors
    ///
    /// What is wrong with the name, the credentials, the bucket, the permissions, or the store: one
    /// that overwrites what it should only create is refused for writing.
    pub async fn open(url: &str, options: &OpenOptions) -> Result<Self, StoreError> {
        let place = place::open(url, options)?;
        let inner = Inner {
            name: place::display(url),
            place,
            access: options.access,
            patience: options.patience,
            pace: Pace::default(),
        };
        let store = Self { inner: Arc::new(inner) };
        if options.access == Access::Write {
            store.list_some(keys::BUILDS, 1).await?;
            store.probe().await?;
        }
        Ok(store)
    }

    /// Finds out whether the store refuses to create what is there.
    async fn probe(&self) -> Result<(), StoreError> {
        // Where an earlier probe left its object, the first answer is proof enough.
        for _ in 0..2 {
            let bytes = Bytes::from_static(b"may be overwritten by no one\n");
            if let Created::Before = self.create(keys::PROBE, bytes).await? {
                return Ok(());
            }
        }
        Err(StoreError::IgnoresPreconditions { store: self.to_string() })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.inner.place
    }

    pub(crate) fn path(&self, key: &str) -> Path {
        let base = self.inner.place.base.parts();
        base.chain(Path::from(key).parts()).collect()
    }

    /// Whether another try may end otherwise. A folder says at once what is wrong with it.
    fn is_passing(&self, answer: &Answer) -> bool {
        self.inner.place.kind != Kind::Folder && classify(answer) == Meaning::Passing
    }

    /// The error for an answer that another try will not change.
    pub(crate) fn refused(&self, operation: &'static str, key: &str, answer: Answer) -> StoreError {
        let store = self.to_string();
        let meaning = classify(&answer);
        let source = answer.into();
        match meaning {
            Meaning::NoBucket => StoreError::NoBucket { store, source },
            Meaning::NotFound => StoreError::NotFound { store, key: key.to_owned() },
            Meaning::Credentials => StoreError::Credentials { store, source },
            Meaning::Forbidden => StoreError::Forbidden { store, operation, source },
            Meaning::Exists | Meaning::Lasting | Meaning::Passing => {
                StoreError::Refused { store, operation, key: key.to_owned(), source }
            }
        }
    }

    fn gave_up(
        &self,
        operation: &'static str,
        key: &str,
        after: Duration,
        source: Failure,
    ) -> StoreError {
        StoreError::GaveUp {
            store: self.to_string(),
            operation,
            key: key.to_owned(),
            after,
            source,
        }
    }

    /// Asks until there is an answer that lasts. A try has the time that `work` needs.
    pub(crate) async fn ask<T, F>(
        &self,
        operation: &'static str,
        key: &str,
        work: Work,
        mut request: impl FnMut() -> F,
    ) -> Result<Result<T, Answer>, StoreError>
    where
        F: Future<Output = Result<T, Answer>>,
    {
        let mut tries = Tries::new(self.inner.patience);
        loop {
            let limit = self.inner.pace.limit(&self.inner.patience, work);
            let started = Instant::now();
            let failure = match timeout(limit, request()).await {
                Ok(Ok(value)) => {
                    self.inner.pace.on_done(work, started.elapsed());
                    return Ok(Ok(value));
                }
                Ok(Err(answer)) if !self.is_passing(&answer) => return Ok(Err(answer)),
                Ok(Err(answer)) => Failure::Answer(answer.into()),
                Err(_) => {
                    self.inner.pace.on_late(work);
                    Failure::Stalled(limit)
                }
            };
            tracing::debug!("{self}: cannot {operation} {key}: {failure}");
            if let Err(after) = tries.pause().await {
                return Err(self.gave_up(operation, key, after, failure));
            }
        }
    }

    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        match self.inner.access {
            Access::Write => Ok(()),
            Access::Read => Err(StoreError::ReadOnly { store: self.to_string() }),
        }
    }

    /// Creates the object unless something is there. Whoever gets [`Created::Before`] may have
    /// created it himself, by a try whose answer was lost.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        self.check_writable()?;
        let work = Work::Body(bytes.len() as u64);
        let path = self.path(key);
        let mut tries = Tries::new(self.inner.patience);
        loop {
            let put = || {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                let payload = PutPayload::from_bytes(bytes.clone());
                self.inner.place.objects.put_opts(&path, payload, options)
            };
            match self.ask("write", key, work, put).await? {
                Ok(_) => return Ok(Created::Now),
                Err(answer) if classify(&answer) == Meaning::Exists => {}
                Err(answer) => return Err(self.refused("write", key, answer)),
            }
            // "Exists" is also the answer to a create that met a delete in flight.
            if self.head(key).await?.is_some() {
                return Ok(Created::Before);
            }
            let again = tries.pause().await;
            again.map_err(|after| self.gave_up("write", key, after, Failure::Contradiction))?;
        }
    }

    /// Writes the object, over whatever is there.
    pub(crate) async fn write(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.check_writable()?;
        let work = Work::Body(bytes.len() as u64);
        let path = self.path(key);
        let put = || self.inner.place.objects.put(&path, PutPayload::from_bytes(bytes.clone()));
        let answer = self.ask("write", key, work, put).await?;
        answer.map(drop).map_err(|answer| self.refused("write", key, answer))
    }

    /// Removes the object if it is there.
    pub(crate) async fn remove(&self, key: &str) -> Result<(), StoreError> {
        self.check_writable()?;
        let path = self.path(key);
        let remove = || self.inner.place.objects.delete(&path);
        match self.ask("remove", key, Work::Answer, remove).await? {
            Ok(()) => Ok(()),
            Err(answer) if classify(&answer) == Meaning::NotFound => Ok(()),
            Err(answer) => Err(self.refused("remove", key, answer)),
        }
    }

    /// What is known of the object; `None` if it is not there.
    pub(crate) async fn head(&self, key: &str) -> Result<Option<Listed>, StoreError> {
        let path = self.path(key);
        match self
            .ask("look up", key, Work::Answer, || self.inner.place.objects.head(&path))
            .await?
        {
            Ok(found) => Ok(Some(self.listed(&found))),
            Err(answer) if classify(&answer) == Meaning::NotFound => Ok(None),
            Err(answer) => Err(self.refused("look up", key, answer)),
        }
    }

    fn listed(&self, found: &ObjectMeta) -> Listed {
        let base = &self.inner.place.base;
        let key = match found.location.prefix_match(base) {
            Some(parts) => parts.collect::<Path>().to_string(),
            None => found.location.to_string(),
        };
        Listed { key, bytes: found.size, modified: found.last_modified.into() }
    }

    /// Everything whose key begins with this name and a slash, by key.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.list_some(prefix, usize::MAX).await
    }

    async fn list_some(&self, prefix: &str, most: usize) -> Result<Vec<Listed>, StoreError> {
        if self.inner.place.kind == Kind::Web {
            return Err(StoreError::NoListing { store: self.to_string() });
        }
        let path = self.path(prefix);
        // A listing starts over when it breaks: it comes in pages of a thousand, each a request.
        let list = || async {
            let mut found = vec![];
            let mut listing = self.inner.place.objects.list(Some(&path)).take(most);
            while let Some(next) = listing.next().await {
                found.push(self.listed(&next?));
            }
            Ok(found)
        };
        let answer = self.ask("list", prefix, Work::Long(4), list).await?;
        let mut found = match answer {
            Ok(found) => found,
            // An empty folder is not there.
            Err(answer) if classify(&answer) == Meaning::NotFound => vec![],
            Err(answer) => return Err(self.refused("list", prefix, answer)),
        };
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// These bytes of an object, all of them.
    pub(crate) async fn read_range(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<Bytes, StoreError> {
        let mut reading = Reading::new(self, key, range);
        reading.run().await
    }

    /// The whole object, of at most so many bytes.
    pub(crate) async fn read_all(&self, key: &str, most: u64) -> Result<Bytes, StoreError> {
        let Some(found) = self.head(key).await? else {
            // The answer does not say whether it is the bucket that is missing.
            if let Err(error @ StoreError::NoBucket { .. }) = self.list_some(keys::BUILDS, 1).await
            {
                return Err(error);
            }
            return Err(StoreError::NotFound { store: self.to_string(), key: key.to_owned() });
        };
        if found.bytes > most {
            let (store, key) = (self.to_string(), key.to_owned());
            return Err(StoreError::WrongLength {
                store,
                key,
                actual: found.bytes,
                expected: most,
            });
        }
        let mut bytes = BytesMut::new();
        let mut start = 0;
        while start < found.bytes {
            let end = found.bytes.min(start + RANGE_BYTES);
            bytes.extend_from_slice(&self.read_range(key, start..end).await?);
            start = end;
        }
        Ok(bytes.freeze())
    }

    /// The store's time, by an object written for that.
    pub(crate) async fn now(&self) -> Result<SystemTime, StoreError> {
        self.write(keys::CLOCK, Bytes::new()).await?;
        let written = self.head(keys::CLOCK).await?;
        let store = self.to_string();
        let key = keys::CLOCK.to_owned();
        Ok(written.ok_or(StoreError::NotFound { store, key })?.modified)
    }
}

/// One object or range being read, over as many tries as it takes.
struct Reading<'a> {
    store: &'a BlobStore,
    key: &'a str,
    path: Path,
    range: Range<u64>,
    bytes: BytesMut,
}

/// How a try ended.
enum Broken {
    Lasting(StoreError),
    Passing(Failure),
}

impl<'a> Reading<'a> {
    fn new(store: &'a BlobStore, key: &'a str, range: Range<u64>) -> Self {
        Self { store, key, path: store.path(key), range, bytes: BytesMut::new() }
    }

    async fn run(&mut self) -> Result<Bytes, StoreError> {
        let mut tries = Tries::new(self.store.inner.patience);
        loop {
            let before = self.bytes.len();
            let failure = match self.read_on().await {
                Ok(()) => return Ok(self.bytes.split().freeze()),
                Err(Broken::Lasting(error)) => return Err(error),
                Err(Broken::Passing(failure)) => failure,
            };
            tracing::debug!("{}: reading {} broke off: {failure}", self.store, self.key);
            if self.bytes.len() > before {
                tries.on_progress();
            }
            if let Err(after) = tries.pause().await {
                return Err(self.store.gave_up("read", self.key, after, failure));
            }
        }
    }

    /// Reads from where the last try ended.
    async fn read_on(&mut self) -> Result<(), Broken> {
        let stall = self.store.inner.patience.stall;
        let had = self.bytes.len() as u64;
        let range = GetRange::Bounded(self.range.start + had..self.range.end);
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let request = self.store.inner.place.objects.get_opts(&self.path, options);
        let found = match timeout(stall, request).await {
            Ok(Ok(found)) => found,
            Ok(Err(answer)) if self.store.is_passing(&answer) => {
                return Err(Broken::Passing(Failure::Answer(answer.into())));
            }
            Ok(Err(answer)) => return Err(self.lasting(answer)),
            Err(_) => return Err(Broken::Passing(Failure::Stalled(stall))),
        };
        if self.range.end > found.meta.size {
            return Err(self.wrong_length(found.meta.size, self.range.end));
        }
        let end = self.range.end - self.range.start;
        let mut body = found.into_stream();
        loop {
            match timeout(stall, body.next()).await {
                Ok(Some(Ok(bytes))) => self.bytes.extend_from_slice(&bytes),
                Ok(Some(Err(answer))) => {
                    return Err(Broken::Passing(Failure::Answer(answer.into())));
                }
                Ok(None) => break,
                Err(_) => return Err(Broken::Passing(Failure::Stalled(stall))),
            }
        }
        match self.bytes.len() as u64 {
            actual if actual == end => Ok(()),
            actual if actual < end => {
                Err(Broken::Passing(Failure::CutOff { actual, expected: end }))
            }
            actual => Err(self.wrong_length(actual, end)),
        }
    }

    fn wrong_length(&self, actual: u64, expected: u64) -> Broken {
        let (store, key) = (self.store.to_string(), self.key.to_owned());
        Broken::Lasting(StoreError::WrongLength { store, key, actual, expected })
    }

    fn lasting(&self, answer: Answer) -> Broken {
        Broken::Lasting(self.store.refused("read", self.key, answer))
    }
}
