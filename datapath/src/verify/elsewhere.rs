//! Other copies of chunks that are damaged where a tree has them: restores take these.

use std::collections::BTreeSet;

use super::packs::{Packs, TRIES, read_again};
use crate::{
    chunk::ChunkId,
    error::Error,
    format::name::PackName,
    index::{DedupeIndex, SegmentCache},
    log::Log,
    repository::Repository,
};

/// What the index of other copies may take: as much as a backup's by default.
const INDEX_BYTES: usize = 128 << 20;

/// Where the chunks of damaged packs lie as well; read when the first is asked for.
pub(super) struct Elsewhere<'a> {
    repository: &'a Repository,
    log: &'a Log,
    index: Option<DedupeIndex>,
}

impl<'a> Elsewhere<'a> {
    pub(super) fn new(repository: &'a Repository, log: &'a Log) -> Self {
        Self {
            repository,
            log,
            index: None,
        }
    }

    /// Whether a chunk is whole in a pack with nothing wrong.
    pub(super) async fn has(&mut self, packs: &Packs<'_>, id: &ChunkId) -> Result<bool, Error> {
        if self.index.is_none() {
            let shunned = self
                .log
                .marked()
                .union(&packs.odd_ones())
                .copied()
                .collect();
            self.index = Some(self.load(&shunned).await?);
        }
        let place = self.index.as_ref().and_then(|index| index.get(id));
        match place {
            Some(place) => Ok(read_again(self.repository, &place, id, TRIES)
                .await?
                .is_none()),
            None => Ok(false),
        }
    }

    async fn load(&self, shunned: &BTreeSet<PackName>) -> Result<DedupeIndex, Error> {
        let segments = self.log.segments();
        let mut no_cache = SegmentCache::open(None, self.repository, segments).await;
        let mut index = DedupeIndex::new(INDEX_BYTES);
        index
            .load(self.repository, segments, shunned, &mut no_cache)
            .await?;
        Ok(index)
    }
}
