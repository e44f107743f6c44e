//! Deduplication: which chunks the repository holds, and where.
//!
//! The index only saves work. A chunk that it does not know is stored again; one that it places
//! wrongly would be found when it is read, by its id. Its memory is bounded ([`table`]): when it is
//! full, the oldest segments stay out. Segments once fetched are kept on this host's disk
//! ([`cache`]), as they lie in the store.
//!
//! Ordering rule: which segments count is what the log says. A copy of one that the log does not
//! name is not used; a copy of one that it names is used only when it passes the checks that the
//! object in the store would have to pass.

mod blocks;
mod cache;
mod elsewhere;
mod segment;
mod shelf;
mod slots;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use ringback_proto::repository::IndexedPack;

pub(crate) use self::{cache::SegmentCache, elsewhere::places_of, segment::fetch_segment};
pub use self::{segment::SegmentWriter, table::DedupeIndex};
use crate::{
    chunk::ChunkId,
    error::{Error, ErrorKind},
    format::{
        FormatError,
        name::{ObjectKind, PackName},
        object::HEADER_BYTES,
        pack::Place,
    },
    repository::Repository,
};

/// Segments fetched at once.
const FETCHES: usize = 4;

impl DedupeIndex {
    /// Takes up segments, the newest (last) first, until the index is full; an eighth of it stays
    /// free for what is stored from now on. One that is damaged is left out: the index only saves
    /// work.
    pub(crate) async fn load(
        &mut self,
        repository: &Repository,
        segments: &[PackName],
        marked: &BTreeSet<PackName>,
        cache: &mut SegmentCache,
    ) -> Result<(), Error> {
        self.keep_an_eighth_free(true);
        let taken_up = self.take_up(repository, segments, marked, cache).await;
        self.keep_an_eighth_free(false);
        let not_read = taken_up?;
        if self.left_out() > 0 {
            tracing::warn!(
                known_chunks = self.len(),
                left_out_chunks = self.left_out(),
                left_out_segments = not_read,
                "the index of known chunks is full; what only the oldest backups have may be \
                 stored again"
            );
        }
        Ok(())
    }

    /// How many of the segments were not even looked at.
    async fn take_up(
        &mut self,
        repository: &Repository,
        segments: &[PackName],
        marked: &BTreeSet<PackName>,
        cache: &mut SegmentCache,
    ) -> Result<usize, Error> {
        let reader = &cache.reader();
        let mut fetched = stream::iter(segments.iter().copied().enumerate().rev())
            .map(|(position, name)| async move {
                (position, name, reader.get_or_fetch(repository, name).await)
            })
            .buffered(FETCHES);
        while let Some((position, name, fetched)) = fetched.next().await {
            let added = match fetched {
                Ok(fetched) => {
                    if let Some(bytes) = fetched.news {
                        cache.keep(name, position, bytes).await;
                    }
                    self.add_packs(&fetched.segment.packs, marked)
                        .map_err(|source| repository.refuse(&object_of(name), source))
                }
                Err(error) => Err(error),
            };
            match added {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(%error, "going on without an index segment");
                }
                added => added?,
            }
            if self.left_out() > 0 {
                return Ok(position);
            }
        }
        Ok(0)
    }

    /// Takes up the chunks of packs that are not marked: of equal chunks one may lie in a pack that
    /// is, and another in one that is whole.
    fn add_packs(
        &mut self,
        packs: &[IndexedPack],
        marked: &BTreeSet<PackName>,
    ) -> Result<(), FormatError> {
        for pack in packs {
            if !marked.contains(&PackName::from_slice(&pack.name)?) {
                self.add_pack(pack)?;
            }
        }
        Ok(())
    }

    /// Takes up the chunks of a pack.
    pub fn add_pack(&mut self, pack: &IndexedPack) -> Result<(), FormatError> {
        for (id, place) in places_in(pack)? {
            self.insert(&id, place);
        }
        Ok(())
    }
}

/// The chunks of a pack and where they lie. Records lie one behind the other, so offsets follow
/// from lengths.
pub(crate) fn places_in(
    pack: &IndexedPack,
) -> Result<impl Iterator<Item = (ChunkId, Place)>, FormatError> {
    let name = PackName::from_slice(&pack.name)?;
    let (ids, rest) = pack.ids.as_chunks::<32>();
    if !rest.is_empty() || ids.len() != pack.stored_bytes.len() {
        return Err(FormatError::Damaged(
            "an index segment's lists differ in length",
        ));
    }
    let records: u64 = pack.stored_bytes.iter().copied().map(u64::from).sum();
    if HEADER_BYTES as u64 + records > u64::from(u32::MAX) {
        return Err(FormatError::Damaged(
            "an index segment's pack is over 4 GiB",
        ));
    }
    let mut offset = u32::try_from(HEADER_BYTES).expect("32");
    let records = (0..).zip(ids.iter().zip(&pack.stored_bytes));
    Ok(records.map(move |(ordinal, (id, &stored_bytes))| {
        let place = Place {
            pack: name,
            ordinal,
            offset,
            stored_bytes,
        };
        offset += stored_bytes;
        (ChunkId(*id), place)
    }))
}

fn object_of(segment: PackName) -> String {
    segment.object(ObjectKind::IndexSegment)
}
