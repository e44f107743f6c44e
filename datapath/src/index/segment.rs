//! Index segments: what one backup tells the next ones about the chunks it stored.

use bytes::Bytes;
use ringback_proto::repository::{IndexSegment, IndexedPack};

use super::{cache::SegmentCache, object_of};
use crate::{
    error::Error,
    format::name::{ObjectKind, PackName, SessionId},
    packer::FinishedPack,
    repository::Repository,
    store::Payload,
};

/// A segment is ended when it has so many chunks: 2.3 MiB, or twice that if its last pack has many.
const SEGMENT_CHUNKS: usize = 1 << 16;

impl From<FinishedPack> for IndexedPack {
    fn from(pack: FinishedPack) -> Self {
        Self {
            name: Bytes::copy_from_slice(pack.name.as_bytes()),
            ids: pack.footer.ids,
            stored_bytes: pack.footer.stored_bytes,
        }
    }
}

pub(crate) async fn fetch_segment(
    repository: &Repository,
    name: PackName,
) -> Result<(String, IndexSegment), Error> {
    let object = object_of(name);
    let (_, segment) = fetch_object(repository, &object).await?;
    Ok((object, segment))
}

/// The object's bytes as they lie in the store, and what they say.
pub(super) async fn fetch_object(
    repository: &Repository,
    object: &str,
) -> Result<(Bytes, IndexSegment), Error> {
    let why = "a commit names this index segment";
    repository
        .fetch_object(ObjectKind::IndexSegment, object, why)
        .await
}

/// Writes the segments of one session.
pub struct SegmentWriter {
    repository: Repository,
    session: SessionId,
    cache: SegmentCache,
    segment: IndexSegment,
    chunks: usize,
    written: Vec<PackName>,
}

impl SegmentWriter {
    /// What it writes goes to the cache as well.
    pub(crate) fn new(repository: &Repository, session: SessionId, cache: SegmentCache) -> Self {
        Self {
            repository: repository.clone(),
            session,
            cache,
            segment: IndexSegment::default(),
            chunks: 0,
            written: Vec::new(),
        }
    }

    /// Takes up finished packs; stores a segment when one is full.
    pub async fn add(&mut self, packs: Vec<FinishedPack>) -> Result<(), Error> {
        for pack in packs {
            self.chunks += pack.footer.stored_bytes.len();
            self.segment.packs.push(pack.into());
            if self.chunks >= SEGMENT_CHUNKS {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Stores what is left; the names of all segments.
    pub async fn finish(mut self) -> Result<Vec<PackName>, Error> {
        if self.chunks > 0 {
            self.flush().await?;
        }
        Ok(self.written)
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let sequence = u32::try_from(self.written.len()).expect("fewer segments than packs");
        let name = PackName::random(self.session, sequence);
        let object = object_of(name);
        let segment = std::mem::take(&mut self.segment);
        let bytes = self
            .repository
            .encode(ObjectKind::IndexSegment, &object, &segment);
        self.repository
            .store()
            .put(&object, Payload::from(bytes.clone()))
            .await?;
        self.cache.keep_newest(name, bytes).await;
        self.written.push(name);
        self.chunks = 0;
        Ok(())
    }
}
