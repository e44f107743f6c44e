//! Other copies of chunks that are damaged: whether there are any, and whether they are whole.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::packs::is_whole;
use crate::{
    chunk::ChunkId,
    error::Error,
    format::{name::PackName, pack::Place},
    index::places_of,
    log::Log,
    repository::Repository,
};

/// Chunks looked for side by side.
const AT_ONCE: usize = 8;
/// Chunks that are remembered, for the next backup that has them, too: 64 MiB.
const REMEMBERED_MAX: usize = 1 << 20;

/// See the module.
pub(super) struct Copies<'a> {
    repository: &'a Repository,
    log: &'a Log,
    /// The pack in which a damaged chunk is whole; `None`: there is none.
    known: HashMap<ChunkId, Option<PackName>>,
}

impl<'a> Copies<'a> {
    pub(super) fn new(repository: &'a Repository, log: &'a Log) -> Self {
        Self {
            repository,
            log,
            known: HashMap::new(),
        }
    }

    /// Looks for copies of these chunks elsewhere than where they are damaged.
    pub(super) async fn look_for(
        &mut self,
        damaged: impl Iterator<Item = (ChunkId, Place)>,
    ) -> Result<(), Error> {
        if self.known.len() > REMEMBERED_MAX {
            self.known.clear();
        }
        let damaged: Vec<_> = damaged.collect();
        let unknown: HashSet<ChunkId> = damaged
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| !self.known.contains_key(id))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let repository = self.repository;
        let mut places = places_of(repository, self.log, &unknown).await?;
        for (id, damaged) in &damaged {
            if let Some(places) = places.get_mut(id) {
                places.retain(|place| place != damaged);
            }
        }
        let places = &places;
        let mut found = stream::iter(unknown)
            .map(|id| async move {
                for place in places.get(&id).into_iter().flatten() {
                    if is_whole(repository, place, &id).await? {
                        return Ok((id, Some(place.pack)));
                    }
                }
                Ok::<_, Error>((id, None))
            })
            .buffer_unordered(AT_ONCE);
        while let Some((id, pack)) = found.try_next().await? {
            self.known.insert(id, pack);
        }
        Ok(())
    }

    /// The pack in which a chunk that was looked for is whole.
    pub(super) fn of(&self, id: &ChunkId) -> Option<PackName> {
        self.known.get(id).copied().flatten()
    }
}
