//! Ranges of packs to records in slots, as many ranges at once as the store's throttle allows.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Restore,
    gaps::Gaps,
    heal::Loss,
    plan::{Wanted, chunk_bytes, group_by_place, plan},
    verify::FetchedChunk,
};
use crate::{
    arena::Slot,
    codec::Codec,
    error::Error,
    format::{name::ObjectKind, pack::Place},
    ranges::Range,
    record::{Head, Seal, StoredRecord},
    stages::Stage,
    store::Download,
    tasks::joined,
};

impl Restore {
    /// Plans batch by batch and lets as many ranges come in at once as the throttle allows. What
    /// lies between the chunks is zeroed meanwhile.
    pub(super) async fn fetch_all(
        self: &Arc<Self>,
        fetched: mpsc::Sender<FetchedChunk>,
        mut gaps: Option<Gaps>,
    ) -> Result<(), Error> {
        let tree = self.backup.tree();
        let (_, mut batches) = tree.leaf_batches(&self.repository).await?;
        let mut fetching = JoinSet::new();
        while let Some(batch) = batches.next().await? {
            if let Some(gaps) = &mut gaps {
                gaps.zero_up_to(&batch).await?;
            }
            for range in plan(&batch) {
                self.heal_if_many().await?;
                let permit = self.repository.store().throttle().acquire().await;
                let (this, fetched) = (Arc::clone(self), fetched.clone());
                fetching.spawn(async move {
                    let result = this.fetch_range(range, &fetched).await;
                    drop(permit);
                    result
                });
                while let Some(done) = fetching.try_join_next() {
                    joined(done)??;
                }
            }
        }
        if let Some(gaps) = gaps {
            gaps.zero_the_rest().await?;
        }
        while let Some(done) = fetching.join_next().await {
            joined(done)??;
        }
        Ok(())
    }

    async fn fetch_range(
        &self,
        range: Range<Wanted>,
        fetched: &mpsc::Sender<FetchedChunk>,
    ) -> Result<(), Error> {
        let object = range.pack.object(ObjectKind::DataPack);
        let store = self.repository.store();
        let opened = store.get_range(&object, range.start, range.end).await;
        let mut groups = group_by_place(range.records).into_iter();
        let download = match opened {
            Ok(download) => download,
            Err(error) => return self.lose_all(groups, error.into()),
        };
        let mut stream = RecordStream::new(download, range.start);
        let key = self.repository.pack_key(ObjectKind::DataPack, range.pack);
        while let Some((place, wanted)) = groups.next() {
            let shape = self.repository.shape();
            let len = match chunk_bytes(&self.backup, shape, &place, &wanted) {
                Ok(len) => len,
                Err(flaw) => {
                    self.lose(place, wanted, &Loss::of(flaw));
                    continue;
                }
            };
            let waiting = self.progress.enter(Stage::Buffer);
            let slot = self.arena.acquire().await;
            drop(waiting);
            let seal = Seal::of(key.as_ref(), &place, &wanted[0].id.0);
            let record = match stream.read_record(&place, slot, seal).await {
                Ok(record) => record,
                Err(error) => {
                    let rest = std::iter::once((place, wanted)).chain(groups);
                    return self.lose_all(rest, error);
                }
            };
            let chunk = FetchedChunk {
                record,
                place,
                len,
                wanted,
            };
            if fetched.send(chunk).await.is_err() {
                // The writing side has failed and says why.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Fetches one record by itself; what is wrong if that cannot be.
    pub(super) async fn fetch_one(
        &self,
        place: &Place,
        wanted: Wanted,
    ) -> Result<Result<FetchedChunk, Loss>, Error> {
        let len = match chunk_bytes(&self.backup, self.repository.shape(), place, &[wanted]) {
            Ok(len) => len,
            Err(flaw) => return Ok(Err(Loss::of(flaw))),
        };
        let slot = self.arena.acquire().await;
        let key = self.repository.pack_key(ObjectKind::DataPack, place.pack);
        let seal = Seal::of(key.as_ref(), place, &wanted.id.0);
        match self.fetch_record(place, slot, seal).await {
            Ok(record) => Ok(Ok(FetchedChunk {
                record,
                place: *place,
                len,
                wanted: vec![wanted],
            })),
            Err(error) => Loss::in_store(error).map(Err),
        }
    }

    /// Fetches a record once more, into the slot it was in.
    pub(super) async fn fetch_again(
        &self,
        record: StoredRecord,
        place: &Place,
    ) -> Result<StoredRecord, Error> {
        let object = place.pack.object(ObjectKind::DataPack);
        tracing::warn!(
            object,
            offset = place.offset,
            "a chunk came in damaged; fetching it again"
        );
        let seal = match record.head {
            Head::Plain(_) => None,
            Head::Sealed(seal) => Some(*seal),
        };
        self.fetch_record(place, record.slot, seal).await
    }

    async fn fetch_record(
        &self,
        place: &Place,
        slot: Slot,
        seal: Option<Seal>,
    ) -> Result<StoredRecord, Error> {
        let object = place.pack.object(ObjectKind::DataPack);
        let start = u64::from(place.offset);
        let store = self.repository.store();
        let download = store.get_range(&object, start, place.end()).await?;
        let mut stream = RecordStream::new(download, start);
        stream.read_record(place, slot, seal).await
    }
}

/// A download, read by position.
struct RecordStream {
    download: Box<dyn Download>,
    piece: Bytes,
    position: u64,
}

impl RecordStream {
    /// A download that begins at `position` of its object.
    fn new(download: Box<dyn Download>, position: u64) -> Self {
        Self {
            download,
            piece: Bytes::new(),
            position,
        }
    }

    /// Passes over bytes that nobody wants.
    async fn skip_to(&mut self, offset: u64) -> Result<(), Error> {
        while self.position < offset {
            self.fill().await?;
            let left = usize::try_from(offset - self.position).unwrap_or(usize::MAX);
            let passed = left.min(self.piece.len());
            self.piece.advance(passed);
            self.position += passed as u64;
        }
        Ok(())
    }

    /// Reads the record at this place, which fits the slot: the payload to its beginning, so that
    /// a raw chunk can be written from there.
    async fn read_record(
        &mut self,
        place: &Place,
        mut slot: Slot,
        seal: Option<Seal>,
    ) -> Result<StoredRecord, Error> {
        self.skip_to(place.offset.into()).await?;
        let mut len = place.stored_bytes as usize;
        let head = match seal {
            Some(seal) => Head::Sealed(Box::new(seal)),
            None => {
                let mut codec = [Codec::Raw.byte()];
                self.read(&mut codec).await?;
                len -= codec.len();
                Head::Plain(codec[0])
            }
        };
        self.read(&mut slot[..len]).await?;
        Ok(StoredRecord { head, slot, len })
    }

    async fn read(&mut self, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            self.fill().await?;
            let len = buffer.len().min(self.piece.len());
            let (now, later) = buffer.split_at_mut(len);
            now.copy_from_slice(&self.piece[..len]);
            self.piece.advance(len);
            self.position += len as u64;
            buffer = later;
        }
        Ok(())
    }

    /// Makes sure that there is a byte.
    async fn fill(&mut self) -> Result<(), Error> {
        while self.piece.is_empty() {
            self.piece = self.download.next().await?.ok_or(Error::System {
                what: "read a record: it lies outside the range asked for",
                source: std::io::ErrorKind::UnexpectedEof.into(),
            })?;
        }
        Ok(())
    }
}
