//! Brings a pack from the publisher's disk into the store.
//!
//! Invariant: what the store calls an upload and its parts is on disk before the next request
//! depends on it, so that whoever goes on after a kill sends again what was under way, and no more.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::PublishError;
use super::tally::Tally;
use super::work::{OwnPack, UploadRecord, Work, WorkError};
use crate::format::keys;
use crate::store::BlobStore;
use crate::store::uploads::{Known, PART_BYTES, StreamedWrite, Uploads};

/// Parts of one pack on their way at a time. With half of them a far store leaves the uplink idle;
/// more cost memory and win nothing.
const PARTS_AT_ONCE: usize = 4;

/// How often an upload may vanish before its parts are all there.
const UPLOADS_MAX: usize = 5;

/// Sends packs of one publish.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) store: BlobStore,
    pub(super) work: Arc<Work>,
    pub(super) tally: Arc<Tally>,
}

impl Sender {
    /// Sends what the store does not have of the pack. Returns it as stored.
    pub(super) async fn send(&self, mut own: OwnPack) -> Result<OwnPack, PublishError> {
        self.bring(&mut own).await?;
        own.is_stored = true;
        own.upload = None;
        self.save(&own).await?;
        Ok(own)
    }

    async fn bring(&self, own: &mut OwnPack) -> Result<(), PublishError> {
        let key = keys::pack(&own.pack.digest);
        if self.is_there(own).await? {
            self.tally.on_sent(own.pack.bytes);
            return Ok(());
        }
        let Some(uploads) = Uploads::of(&self.store) else {
            return self.send_streamed(own, &key).await;
        };
        if own.pack.bytes <= PART_BYTES {
            let bytes = self.read(own, 0, own.pack.bytes).await?;
            self.store.write(&key, bytes).await?;
            self.tally.on_sent(own.pack.bytes);
            return Ok(());
        }
        for _ in 0..UPLOADS_MAX {
            if self.send_parts(uploads, own, &key).await? {
                return Ok(());
            }
            // Unknown there: completed by a try whose answer was lost, or thrown away.
            if self.is_there(own).await? {
                return Ok(());
            }
            own.upload = None;
            self.save(own).await?;
        }
        Err(PublishError::UploadsVanish { store: self.store.to_string(), key })
    }

    /// Whether the pack is in the store. It has its digest as its name, so its length is enough to
    /// tell it from one that is cut off.
    async fn is_there(&self, own: &OwnPack) -> Result<bool, PublishError> {
        let found = self.store.head(&keys::pack(&own.pack.digest)).await?;
        Ok(found.is_some_and(|found| found.bytes == own.pack.bytes))
    }

    async fn send_streamed(&self, own: &OwnPack, key: &str) -> Result<(), PublishError> {
        let mut writing = StreamedWrite::begin(&self.store, key).await?;
        let mut start = 0;
        while start < own.pack.bytes {
            let bytes = PART_BYTES.min(own.pack.bytes - start);
            writing.write(self.read(own, start, bytes).await?).await?;
            self.tally.on_sent(bytes);
            start += bytes;
        }
        Ok(writing.finish().await?)
    }

    /// Sends the parts that are missing and completes the upload; `false` if the store does not
    /// know it any more.
    async fn send_parts(
        &self,
        uploads: Uploads<'_>,
        own: &mut OwnPack,
        key: &str,
    ) -> Result<bool, PublishError> {
        let count = own.pack.bytes.div_ceil(PART_BYTES);
        let count = usize::try_from(count).expect("packs have a few parts");
        let mut upload = match own.upload.take() {
            Some(upload) if upload.parts.len() == count => upload,
            Some(upload) => {
                uploads.abort(key, &upload.id).await;
                self.begin(uploads, own, key, count).await?
            }
            None => self.begin(uploads, own, key, count).await?,
        };
        own.upload = Some(upload.clone());
        let id = upload.id.clone();
        let (known, missing): (Vec<usize>, Vec<usize>) =
            (0..count).partition(|position| upload.parts[*position].is_some());
        let bytes_of = |position: usize| {
            let start = position as u64 * PART_BYTES;
            (start, PART_BYTES.min(own.pack.bytes - start))
        };
        for position in known {
            self.tally.on_sent(bytes_of(position).1);
        }
        let sending = missing.into_iter().map(|position| {
            let (start, bytes) = bytes_of(position);
            let (id, own) = (&id, &*own);
            async move {
                let data = self.read(own, start, bytes).await?;
                let sent = uploads.send(key, id, position, data).await?;
                Ok::<_, PublishError>((position, bytes, sent))
            }
        });
        let mut sent = stream::iter(sending).buffer_unordered(PARTS_AT_ONCE);
        while let Some((position, bytes, part)) = sent.try_next().await? {
            let Known::Yes(part) = part else { return Ok(false) };
            upload.parts[position] = Some(part);
            let now = OwnPack { upload: Some(upload.clone()), ..own.clone() };
            self.save(&now).await?;
            self.tally.on_sent(bytes);
        }
        drop(sent);
        own.upload = Some(upload.clone());
        let parts: Vec<String> = upload.parts.into_iter().flatten().collect();
        Ok(uploads.complete(key, &id, &parts).await? == Known::Yes(()))
    }

    async fn begin(
        &self,
        uploads: Uploads<'_>,
        own: &OwnPack,
        key: &str,
        count: usize,
    ) -> Result<UploadRecord, PublishError> {
        let id = uploads.begin(key).await?;
        let upload = UploadRecord { id, parts: vec![None; count] };
        self.save(&OwnPack { upload: Some(upload.clone()), ..own.clone() }).await?;
        Ok(upload)
    }

    async fn save(&self, own: &OwnPack) -> Result<(), PublishError> {
        let (work, own) = (Arc::clone(&self.work), own.clone());
        Ok(super::blocking(move || work.save(&own)).await?)
    }

    async fn read(&self, own: &OwnPack, start: u64, bytes: u64) -> Result<Bytes, WorkError> {
        let (work, digest) = (Arc::clone(&self.work), own.pack.digest);
        let count = usize::try_from(bytes).expect("a part fits into memory");
        super::blocking(move || work.read_pack(&digest, start, count)).await.map(Bytes::from)
    }
}
