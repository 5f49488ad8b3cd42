//! Objects that are sent in parts.
//!
//! [`Uploads`] are those whose id and parts outlive the process, so that another can go on;
//! [`StreamedWrite`] is for folders, which have none and need none. Invariant: the object appears
//! whole when its upload is completed, and not before.

use bytes::Bytes;
use object_store::multipart::{MultipartStore, PartId};
use object_store::{Error as Answer, MultipartUpload, ObjectStoreExt as _, PutPayload};

use super::BlobStore;
use super::error::{Meaning, StoreError, classify};
use super::retry::Work;

/// Bytes of a part, and of an object that is sent in one go. Stores take 5 MiB at least; more would
/// be sent again when the way breaks.
pub(crate) const PART_BYTES: u64 = 8 << 20;

/// How long a store may take to make one object of parts.
const COMPLETE_STALLS: u32 = 10;

/// The uploads of a store whose uploads can be resumed.
#[derive(Clone, Copy)]
pub(crate) struct Uploads<'a> {
    store: &'a BlobStore,
    parts: &'a dyn MultipartStore,
}

/// What became of an upload.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Known<T> {
    /// The store knows it.
    Yes(T),
    /// The store does not know it any more: it was completed, aborted, or cleaned away.
    No,
}

/// Answers to an upload that is not there, or not whole.
const GONE: [&str; 4] = ["NoSuchUpload", "InvalidPart", "InvalidBlockList", "InvalidBlobOrBlock"];

fn is_gone(answer: &Answer) -> bool {
    let text = format!("{answer:?}");
    classify(answer) == Meaning::NotFound || GONE.iter().any(|code| text.contains(code))
}

impl<'a> Uploads<'a> {
    /// `None` if the store's uploads cannot be resumed.
    pub(crate) fn of(store: &'a BlobStore) -> Option<Self> {
        let parts = store.place().parts.as_deref()?;
        Some(Self { store, parts })
    }

    /// Begins an upload; returns its id.
    pub(crate) async fn begin(&self, key: &str) -> Result<String, StoreError> {
        self.store.check_writable()?;
        let path = self.store.path(key);
        let begin = || self.parts.create_multipart(&path);
        let answer = self.store.ask("write", key, Work::Answer, begin);
        answer.await?.map_err(|answer| self.store.refused("write", key, answer))
    }

    /// Sends a part; returns what the store calls it.
    pub(crate) async fn send(
        &self,
        key: &str,
        id: &str,
        position: usize,
        bytes: Bytes,
    ) -> Result<Known<String>, StoreError> {
        let path = self.store.path(key);
        let id = id.to_owned();
        let work = Work::Body(bytes.len() as u64);
        let put = || {
            let payload = PutPayload::from_bytes(bytes.clone());
            self.parts.put_part(&path, &id, position, payload)
        };
        match self.store.ask("write", key, work, put).await? {
            Ok(part) => Ok(Known::Yes(part.content_id)),
            Err(answer) if is_gone(&answer) => Ok(Known::No),
            Err(answer) => Err(self.store.refused("write", key, answer)),
        }
    }

    /// Makes the object out of its parts.
    pub(crate) async fn complete(
        &self,
        key: &str,
        id: &str,
        parts: &[String],
    ) -> Result<Known<()>, StoreError> {
        let path = self.store.path(key);
        let id = id.to_owned();
        let complete = || {
            let parts = parts.iter().map(|part| PartId { content_id: part.clone() }).collect();
            self.parts.complete_multipart(&path, &id, parts)
        };
        match self.store.ask("write", key, Work::Long(COMPLETE_STALLS), complete).await? {
            Ok(_) => Ok(Known::Yes(())),
            Err(answer) if is_gone(&answer) => Ok(Known::No),
            Err(answer) => Err(self.store.refused("write", key, answer)),
        }
    }

    /// Lets the store throw the parts away. What goes wrong is the store's to clean up later.
    pub(crate) async fn abort(&self, key: &str, id: &str) {
        let (path, id) = (self.store.path(key), id.to_owned());
        let abort = || self.parts.abort_multipart(&path, &id);
        let aborted = self.store.ask("remove", key, Work::Answer, abort).await;
        tracing::debug!("{}: abort of the upload of {key}: {aborted:?}", self.store);
    }
}

/// An object that is written as it comes, without ever being held whole.
pub(crate) struct StreamedWrite<'a> {
    store: &'a BlobStore,
    key: &'a str,
    upload: Box<dyn MultipartUpload>,
}

impl<'a> StreamedWrite<'a> {
    pub(crate) async fn begin(store: &'a BlobStore, key: &'a str) -> Result<Self, StoreError> {
        store.check_writable()?;
        let upload = store.place().objects.put_multipart(&store.path(key)).await;
        let upload = upload.map_err(|answer| store.refused("write", key, answer))?;
        Ok(Self { store, key, upload })
    }

    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let written = self.upload.put_part(PutPayload::from_bytes(bytes)).await;
        written.map_err(|answer| self.store.refused("write", self.key, answer))
    }

    pub(crate) async fn finish(mut self) -> Result<(), StoreError> {
        let finished = self.upload.complete().await.map(drop);
        finished.map_err(|answer| self.store.refused("write", self.key, answer))
    }
}
