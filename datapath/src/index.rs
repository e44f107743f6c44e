//! Deduplication: which chunks the repository holds, and where.
//!
//! The index only saves work. A chunk that it does not know is stored again; one that it places
//! wrongly would be found when it is read, by its id. Its memory is bounded: when it is full, the
//! oldest segments stay out.

use std::collections::HashMap;

use futures::{StreamExt, stream};
use ringback_proto::repository::{IndexSegment, IndexedPack};

use crate::{
    chunk::ChunkId,
    error::{Error, ErrorKind},
    format::{
        FormatError,
        name::{ObjectKind, PackName, SessionId},
        object::HEADER_BYTES,
        pack::Place,
    },
    packer::FinishedPack,
    repository::Repository,
    store::Payload,
};

/// What an entry takes in the hash table: 16 bytes of id, 16 of place, one of control, and the
/// table's load factor of 7/8.
pub const ENTRY_BYTES: usize = 38;
/// Segments fetched at once.
const FETCHES: usize = 4;
/// Segments that one commit may name: 2.3 KiB of its 4.
pub(crate) const SEGMENTS_MAX: u64 = 96;
/// Chunks per segment, unless a volume has so many that it would need more than
/// [`SEGMENTS_MAX`] segments.
const SEGMENT_CHUNKS: u64 = 1 << 16;

/// Chunks and their places, by 128 bits of the id.
pub struct DedupeIndex {
    packs: Vec<PackName>,
    places: HashMap<[u8; 16], ShortPlace>,
    capacity: usize,
}

#[derive(Clone, Copy)]
struct ShortPlace {
    pack: u32,
    ordinal: u32,
    offset: u32,
    stored_bytes: u32,
}

impl DedupeIndex {
    /// An empty index that takes at most `memory_bytes`.
    pub fn new(memory_bytes: usize) -> Self {
        Self {
            packs: Vec::new(),
            places: HashMap::new(),
            capacity: memory_bytes / ENTRY_BYTES,
        }
    }

    /// Takes up segments, the newest (last) first, until the index is full. One that is damaged
    /// is left out: the index only saves work.
    pub async fn load(
        &mut self,
        repository: &Repository,
        segments: &[PackName],
    ) -> Result<(), Error> {
        let mut fetched = stream::iter(segments.iter().rev().copied())
            .map(|name| fetch_segment(repository, name))
            .buffered(FETCHES);
        while let Some(fetched) = fetched.next().await {
            let added = fetched.and_then(|(object, segment)| {
                let mut packs = segment.packs.iter();
                packs
                    .try_for_each(|pack| self.add_pack(pack))
                    .map_err(|source| repository.refuse(&object, source))
            });
            match added {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(%error, "going on without an index segment");
                }
                added => added?,
            }
            if self.is_full() {
                tracing::warn!(
                    chunks = self.places.len(),
                    "the index of known chunks is full; some will be stored again"
                );
                break;
            }
        }
        Ok(())
    }

    /// Where a chunk lies.
    pub fn get(&self, id: &ChunkId) -> Option<Place> {
        let short = self.places.get(&key(id))?;
        Some(Place {
            pack: self.packs[short.pack as usize],
            ordinal: short.ordinal,
            offset: short.offset,
            stored_bytes: short.stored_bytes,
        })
    }

    /// Takes up a chunk, unless the index is full or knows it already.
    pub fn insert(&mut self, id: &ChunkId, place: Place) {
        if self.is_full() {
            return;
        }
        if self.packs.last() != Some(&place.pack) {
            self.packs.push(place.pack);
        }
        let pack = u32::try_from(self.packs.len() - 1).expect("fewer than 2^32 packs");
        self.places.entry(key(id)).or_insert(ShortPlace {
            pack,
            ordinal: place.ordinal,
            offset: place.offset,
            stored_bytes: place.stored_bytes,
        });
    }

    fn is_full(&self) -> bool {
        self.places.len() >= self.capacity
    }

    /// Takes up the chunks of a pack. Records lie one behind the other, so offsets follow from
    /// lengths.
    pub fn add_pack(&mut self, pack: &IndexedPack) -> Result<(), FormatError> {
        let name = PackName::from_slice(&pack.name)?;
        let (ids, rest) = pack.ids.as_chunks::<32>();
        if !rest.is_empty() || ids.len() != pack.stored_bytes.len() {
            return Err(FormatError::Damaged(
                "an index segment's lists differ in length",
            ));
        }
        let mut offset = HEADER_BYTES as u64;
        for (ordinal, (id, &stored_bytes)) in ids.iter().zip(&pack.stored_bytes).enumerate() {
            let place = Place {
                pack: name,
                ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
                offset: u32::try_from(offset)
                    .map_err(|_| FormatError::Damaged("an index segment's pack is over 4 GiB"))?,
                stored_bytes,
            };
            self.insert(&ChunkId(*id), place);
            offset += u64::from(stored_bytes);
        }
        Ok(())
    }
}

impl From<FinishedPack> for IndexedPack {
    fn from(pack: FinishedPack) -> Self {
        Self {
            name: bytes::Bytes::copy_from_slice(pack.name.as_bytes()),
            ids: pack.footer.ids,
            stored_bytes: pack.footer.stored_bytes,
        }
    }
}

fn key(id: &ChunkId) -> [u8; 16] {
    *id.0.first_chunk().expect("an id has 32 bytes")
}

pub(crate) async fn fetch_segment(
    repository: &Repository,
    name: PackName,
) -> Result<(String, IndexSegment), Error> {
    let object = name.object(ObjectKind::IndexSegment);
    let segment = repository
        .fetch(
            ObjectKind::IndexSegment,
            &object,
            "a commit names this index segment",
        )
        .await?;
    Ok((object, segment))
}

/// Writes the segments of one session.
pub struct SegmentWriter {
    repository: Repository,
    session: SessionId,
    chunks_max: u64,
    segment: IndexSegment,
    chunks: u64,
    written: Vec<PackName>,
}

impl SegmentWriter {
    /// A writer for a volume of so many chunks.
    pub fn new(repository: &Repository, session: SessionId, volume_chunks: u64) -> Self {
        Self {
            repository: repository.clone(),
            session,
            chunks_max: SEGMENT_CHUNKS.max(volume_chunks.div_ceil(SEGMENTS_MAX - 1)),
            segment: IndexSegment::default(),
            chunks: 0,
            written: Vec::new(),
        }
    }

    /// Takes up finished packs; stores a segment when one is full.
    pub async fn add(&mut self, packs: Vec<FinishedPack>) -> Result<(), Error> {
        for pack in packs {
            self.chunks += pack.footer.stored_bytes.len() as u64;
            self.segment.packs.push(pack.into());
            if self.chunks >= self.chunks_max {
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
        let sequence = u32::try_from(self.written.len()).expect("at most a hundred segments");
        let name = PackName::random(self.session, sequence);
        let object = name.object(ObjectKind::IndexSegment);
        let segment = std::mem::take(&mut self.segment);
        let bytes = self
            .repository
            .encode(ObjectKind::IndexSegment, &object, &segment);
        self.repository
            .store()
            .put(&object, Payload::from(bytes))
            .await?;
        self.written.push(name);
        self.chunks = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(pack: PackName, ordinal: u32) -> Place {
        Place {
            pack,
            ordinal,
            offset: 32 + ordinal * 100,
            stored_bytes: 100,
        }
    }

    #[test]
    fn a_full_index_forgets_nothing_and_takes_nothing_more() {
        let mut index = DedupeIndex::new(2 * ENTRY_BYTES);
        let pack = PackName::random(SessionId([1; 8]), 0);
        let ids: Vec<_> = (0..3u8).map(|n| ChunkId([n; 32])).collect();
        for (ordinal, id) in (0..).zip(&ids) {
            index.insert(id, place(pack, ordinal));
        }
        assert_eq!(index.get(&ids[0]), Some(place(pack, 0)));
        assert_eq!(index.get(&ids[1]), Some(place(pack, 1)));
        assert_eq!(index.get(&ids[2]), None);

        let mut roomy = DedupeIndex::new(1 << 10);
        roomy.insert(&ids[0], place(pack, 0));
        roomy.insert(&ids[0], place(pack, 7));
        assert_eq!(roomy.get(&ids[0]), Some(place(pack, 0)), "the newest first");
    }

    #[test]
    fn a_segment_places_records_one_behind_the_other() {
        let name = PackName::random(SessionId([1; 8]), 0);
        let pack = IndexedPack {
            name: bytes::Bytes::copy_from_slice(name.as_bytes()),
            ids: [[1u8; 32], [2; 32]].concat().into(),
            stored_bytes: vec![100, 100],
        };
        let mut index = DedupeIndex::new(1 << 20);
        index.add_pack(&pack).expect("well formed");
        assert_eq!(index.get(&ChunkId([2; 32])), Some(place(name, 1)));
        let odd = IndexedPack {
            stored_bytes: vec![100],
            ..pack
        };
        assert!(index.add_pack(&odd).is_err());
    }
}
