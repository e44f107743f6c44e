//! Records to packs to the store: parts go up while later records are still being read.
//!
//! A pack that fits into one part is a plain PUT; a larger one is a multipart upload with one
//! fixed part size. The buffers of a part go home when the store has acknowledged it; that is
//! what bounds the memory in use.
//!
//! Ordering rule: a pack is handed out as finished only when the store has all of it.

use std::sync::Arc;

use ringback_proto::repository::PackFooter;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{
    error::Error,
    format::{
        name::{ObjectKind, PackName, SessionId},
        pack::{Layout, Place},
    },
    part::PartBuffer,
    record::{Record, Seal},
    repository::Repository,
    store::{ObjectStore, Payload, StoreError, Upload},
    tasks::joined,
};

/// Sizes of packs and parts.
#[derive(Debug, Clone, Copy)]
pub struct PackSizes {
    /// A pack is ended before it would pass this, if it does not have [`RECORDS_MAX`] before.
    pub pack_bytes: u32,
    /// All parts but a pack's last are of this size.
    pub part_bytes: u32,
}

/// However well its chunks compress, a pack has no more: what reads its footer, or the index segment
/// that repeats it, needs memory for all of it.
const RECORDS_MAX: usize = 1 << 16;

/// However little data there is, packs are not made smaller than this.
const SMALL_PACK_BYTES: u32 = 4 << 20;

impl PackSizes {
    /// Sizes for so many bytes of data: at least `packs_min` packs, within reason, for what a
    /// killed run had of packs that were not whole goes again.
    #[must_use]
    pub fn for_data(self, bytes: u64, packs_min: u32) -> Self {
        let share = bytes.div_ceil(u64::from(packs_min.max(1)));
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        Self {
            pack_bytes: share.max(SMALL_PACK_BYTES).min(self.pack_bytes),
            ..self
        }
    }

    /// Whether a record of this length is for the next pack.
    fn are_full(self, layout: &Layout, len: usize) -> bool {
        layout.end() as usize + len > self.pack_bytes as usize || layout.records() >= RECORDS_MAX
    }
}

/// Writes packs of one kind.
pub struct PackWriter {
    repository: Repository,
    session: SessionId,
    kind: ObjectKind,
    sizes: PackSizes,
    sequence: u32,
    open: Option<OpenPack>,
    uploads: JoinSet<Result<FinishedPack, Error>>,
    finished: Vec<FinishedPack>,
}

/// A pack that the store has whole.
pub struct FinishedPack {
    /// Its name.
    pub name: PackName,
    /// What lies in it.
    pub footer: PackFooter,
}

struct OpenPack {
    layout: Layout,
    part: PartBuffer,
    parts: mpsc::Sender<Part>,
}

enum Part {
    Full(Payload),
    Last(Payload, PackName, PackFooter),
}

impl PackWriter {
    /// A writer of packs of `kind` below `session`.
    pub fn new(
        repository: &Repository,
        session: SessionId,
        kind: ObjectKind,
        sizes: PackSizes,
    ) -> Self {
        Self {
            repository: repository.clone(),
            session,
            kind,
            sizes,
            sequence: 0,
            open: None,
            uploads: JoinSet::new(),
            finished: Vec::new(),
        }
    }

    /// Appends the record of the chunk or the node `id`, and tells where it will lie.
    ///
    /// Waits when the store falls behind. An upload that failed is reported here, or at the end.
    pub async fn append(&mut self, id: &[u8; 32], record: Record) -> Result<Place, Error> {
        let shape = self.repository.shape();
        let len = record.stored_bytes(shape);
        if self
            .open
            .as_ref()
            .is_some_and(|open| self.sizes.are_full(&open.layout, len))
        {
            self.end_pack().await?;
        }
        self.collect_finished()?;
        let sizes = self.sizes;
        let open = self.open_pack();
        let place = open.layout.push(id, len);
        // Pack and ordinal are known, and nobody else has the record's bytes.
        let seal = Seal::of(open.layout.key(), &place, id);
        record.put_into(&mut open.part, seal.as_ref());
        while let Some(part) = open.part.take_full(sizes.part_bytes) {
            if open.parts.send(Part::Full(part)).await.is_err() {
                return Err(self.failure().await);
            }
        }
        Ok(place)
    }

    /// Packs finished since the last call.
    pub fn take_finished(&mut self) -> Vec<FinishedPack> {
        std::mem::take(&mut self.finished)
    }

    /// Ends the last pack and waits until the store has them all; the packs not yet taken.
    pub async fn finish(mut self) -> Result<Vec<FinishedPack>, Error> {
        self.end_pack().await?;
        while let Some(ended) = self.uploads.join_next().await {
            self.finished.push(joined(ended)??);
        }
        Ok(self.finished)
    }

    fn open_pack(&mut self) -> &mut OpenPack {
        self.open.get_or_insert_with(|| {
            let name = PackName::random(self.session, self.sequence);
            self.sequence += 1;
            let layout = Layout::new(self.kind, name, self.repository.domain());
            let mut part = PartBuffer::default();
            part.push(layout.header());
            // One part waits here, one in the uploader's hand: enough to keep it busy.
            let (parts, receiver) = mpsc::channel(1);
            let uploader = Uploader {
                store: Arc::clone(self.repository.store()),
                object: layout.object(),
                part_bytes: u64::from(self.sizes.part_bytes),
                _unsettled: self.repository.store().background().token(),
            };
            self.uploads.spawn(uploader.run(receiver));
            OpenPack {
                layout,
                part,
                parts,
            }
        })
    }

    async fn end_pack(&mut self) -> Result<(), Error> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let OpenPack {
            layout,
            mut part,
            parts,
        } = open;
        let name = layout.name();
        let (tail, footer) = layout.finish();
        part.push(tail);
        while let Some(full) = part.take_full(self.sizes.part_bytes) {
            if parts.send(Part::Full(full)).await.is_err() {
                return Err(self.failure().await);
            }
        }
        let last = Part::Last(part.take_rest(), name, footer);
        if parts.send(last).await.is_err() {
            return Err(self.failure().await);
        }
        Ok(())
    }

    fn collect_finished(&mut self) -> Result<(), Error> {
        while let Some(ended) = self.uploads.try_join_next() {
            self.finished.push(joined(ended)??);
        }
        Ok(())
    }

    /// Why an uploader went away without being told to.
    async fn failure(&mut self) -> Error {
        while let Some(ended) = self.uploads.join_next().await {
            if let Err(error) = joined(ended).flatten() {
                return error;
            }
        }
        unreachable!("an uploader ends early only with an error")
    }
}

/// Sends one pack.
struct Uploader {
    store: Arc<dyn ObjectStore>,
    object: String,
    part_bytes: u64,
    /// The store is not settled before the upload has ended or is being aborted.
    _unsettled: TaskTrackerToken,
}

impl Uploader {
    async fn run(self, mut parts: mpsc::Receiver<Part>) -> Result<FinishedPack, Error> {
        match parts.recv().await {
            Some(Part::Last(payload, name, footer)) => {
                let _permit = self.store.throttle().acquire().await;
                self.store.put(&self.object, payload).await?;
                Ok(FinishedPack { name, footer })
            }
            Some(Part::Full(first)) => self.multipart(first, parts).await,
            None => std::future::pending().await,
        }
    }

    async fn multipart(
        self,
        first: Payload,
        mut parts: mpsc::Receiver<Part>,
    ) -> Result<FinishedPack, Error> {
        let upload = AbortUnlessDone {
            upload: Some(self.store.upload(&self.object, self.part_bytes).await?),
            background: self.store.background().clone(),
        };
        let mut sending = JoinSet::new();
        let mut number = 1;
        let mut bytes = 0;
        let mut next = Part::Full(first);
        let (name, footer) = loop {
            let (payload, end) = match next {
                Part::Full(payload) => (payload, None),
                Part::Last(payload, name, footer) => (payload, Some((name, footer))),
            };
            bytes += payload.len();
            self.send_part(&upload, number, payload, &mut sending).await;
            number += 1;
            while let Some(sent) = sending.try_join_next() {
                joined(sent)??;
            }
            if let Some(end) = end {
                break end;
            }
            next = match parts.recv().await {
                Some(part) => part,
                // The writer is gone; so is this task, in a moment.
                None => std::future::pending().await,
            };
        };
        while let Some(sent) = sending.join_next().await {
            joined(sent)??;
        }
        upload.complete(bytes).await?;
        Ok(FinishedPack { name, footer })
    }

    /// Waits for the right to a transfer, then lets the part go up by itself.
    async fn send_part(
        &self,
        upload: &AbortUnlessDone,
        number: i32,
        payload: Payload,
        sending: &mut JoinSet<Result<(), Error>>,
    ) {
        let permit = self.store.throttle().acquire().await;
        let upload = upload.get();
        sending.spawn(async move {
            let sent = upload.part(number, payload).await;
            drop(permit);
            sent.map_err(Error::from)
        });
    }
}

/// A multipart upload that is given up when it is dropped unfinished.
struct AbortUnlessDone {
    upload: Option<Arc<dyn Upload>>,
    background: TaskTracker,
}

impl AbortUnlessDone {
    fn get(&self) -> Arc<dyn Upload> {
        Arc::clone(self.upload.as_ref().expect("taken only when it ends"))
    }

    async fn complete(mut self, bytes: u64) -> Result<(), StoreError> {
        self.get().complete(bytes).await?;
        self.upload = None;
        Ok(())
    }
}

impl Drop for AbortUnlessDone {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            self.background.spawn(async move { upload.abort().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fake::FakeStore;

    #[tokio::test]
    async fn a_pack_is_ended_when_it_has_many_records_however_small_they_are() {
        let repository = Arc::new(FakeStore::new()).repository().await;
        let sizes = PackSizes {
            pack_bytes: 64 << 20,
            part_bytes: 8 << 20,
        };
        let session = SessionId::random();
        let mut writer = PackWriter::new(&repository, session, ObjectKind::TreePack, sizes);
        for _ in 0..2 * RECORDS_MAX + 1 {
            let record = Record::node(b"1".to_vec());
            writer.append(&[1; 32], record).await.expect("appended");
        }
        let packs = writer.finish().await.expect("stored");
        let mut records: Vec<usize> = packs
            .iter()
            .map(|it| it.footer.stored_bytes.len())
            .collect();
        records.sort_unstable();
        assert_eq!(records, [1, RECORDS_MAX, RECORDS_MAX]);
    }

    #[test]
    fn much_data_goes_in_large_packs_and_little_in_many() {
        let sizes = PackSizes {
            pack_bytes: 128 << 20,
            part_bytes: 8 << 20,
        };
        for (data, packs_min, pack_bytes) in [
            (0, 64, 4 << 20),
            (1 << 30, 64, 16 << 20),
            (1 << 30, 1, 128 << 20),
            (1 << 40, 64, 128 << 20),
            (u64::MAX, 1, 128 << 20),
        ] {
            assert_eq!(sizes.for_data(data, packs_min).pack_bytes, pack_bytes);
        }
    }
}
