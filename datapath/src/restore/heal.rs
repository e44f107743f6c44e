//! Chunks that are damaged where the backup's tree has them, taken from where else they lie.
//!
//! A later backup that meets data which was found damaged stores it again. So what cannot be read in
//! its place is noted while all else is restored, and then looked for: one reading of the index
//! segments tells every other place of these chunks. What is found is checked as any other chunk.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use super::{
    Restore,
    fetch::objection,
    plan::{Wanted, chunk_bytes},
    verify::{FetchedChunk, Verified},
};
use crate::{
    chunk::ChunkId,
    error::{Error, ErrorKind},
    format::{name::PackName, pack::Place},
    index::{fetch_segment, places_in},
    log::Log,
    repository::Repository,
};

/// Broken chunks that are remembered: 100 MiB of them. With more, there is little left to heal.
const BROKEN_MAX: usize = 1 << 20;

/// A chunk that cannot be read where the tree has it, and why.
pub(super) struct Broken {
    pub(super) wanted: Vec<Wanted>,
    pub(super) place: Place,
    pub(super) error: Error,
}

/// Those of one restore.
#[derive(Default)]
pub(super) struct BrokenChunks(Mutex<Vec<Broken>>);

/// Places of chunks, the likeliest to be whole first.
type Places = HashMap<ChunkId, Vec<Place>>;

impl BrokenChunks {
    /// Remembers one; what is not damage, or is too much of it, ends the restore.
    pub(super) fn note(&self, broken: Broken) -> Result<(), Error> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if broken.error.kind() != ErrorKind::Damaged || all.len() == BROKEN_MAX {
            return Err(broken.error);
        }
        all.push(broken);
        Ok(())
    }

    fn take(&self) -> Vec<Broken> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Restore {
    /// Remembers that nothing of these can be read, for a reason that is damage.
    pub(super) fn give_up(
        &self,
        records: impl IntoIterator<Item = (Place, Vec<Wanted>)>,
        error: Error,
    ) -> Result<(), Error> {
        let Some(reason) = objection(&error) else {
            return Err(error);
        };
        for (place, wanted) in records {
            let error = self.backup.damaged(&wanted[0], &place, &reason);
            self.broken.note(Broken {
                wanted,
                place,
                error,
            })?;
        }
        Ok(())
    }

    /// Restores what was broken from other places; the first chunk that is whole nowhere is the
    /// error.
    pub(super) async fn heal(&self) -> Result<(), Error> {
        let broken = self.broken.take();
        if broken.is_empty() {
            return Ok(());
        }
        let ids = broken.iter().map(|it| it.wanted[0].id).collect();
        let places = places_of(&self.repository, &ids).await?;
        for it in broken {
            self.heal_one(it, &places).await?;
        }
        Ok(())
    }

    async fn heal_one(&self, broken: Broken, places: &Places) -> Result<(), Error> {
        let Broken {
            wanted,
            place,
            error,
        } = broken;
        let others = places.get(&wanted[0].id).into_iter().flatten();
        // A range that broke off has said nothing of what lies behind in its pack.
        for candidate in std::iter::once(&place).chain(others.filter(|other| **other != place)) {
            if self.restore_from(candidate, &wanted).await? {
                if *candidate != place {
                    tracing::warn!(%error, healed_from = ?candidate.pack, "a chunk is whole elsewhere");
                }
                return Ok(());
            }
        }
        Err(error)
    }

    /// Whether the chunk is whole in this place; then it is written.
    async fn restore_from(&self, place: &Place, wanted: &[Wanted]) -> Result<bool, Error> {
        let Ok(len) = chunk_bytes(&self.backup, self.repository.shape(), place, wanted) else {
            return Ok(false);
        };
        let slot = self.arena.acquire().await;
        let record = match self.fetch_record(place, &wanted[0].id, slot).await {
            Ok(record) => record,
            Err(error) if objection(&error).is_some() => return Ok(false),
            Err(error) => return Err(error),
        };
        let chunk = FetchedChunk {
            record,
            place: *place,
            len,
            wanted: wanted.to_vec(),
        };
        match self.check(chunk).await? {
            Verified::Whole(chunk) => self.write(chunk).await.map(|()| true),
            Verified::Broken(_) => Ok(false),
        }
    }
}

/// Where the live index segments have these chunks, those in marked packs last.
async fn places_of(repository: &Repository, ids: &HashSet<ChunkId>) -> Result<Places, Error> {
    let log = Log::replay(repository).await?;
    let mut places = Places::new();
    for &name in log.segments().iter().rev() {
        match add_segment(repository, name, ids, &mut places).await {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                tracing::warn!(%error, "looking for whole chunks without an index segment");
            }
            added => added?,
        }
    }
    for each in places.values_mut() {
        each.sort_by_key(|place| log.marked().contains(&place.pack));
    }
    Ok(places)
}

async fn add_segment(
    repository: &Repository,
    name: PackName,
    ids: &HashSet<ChunkId>,
    places: &mut Places,
) -> Result<(), Error> {
    let (object, segment) = fetch_segment(repository, name).await?;
    for pack in &segment.packs {
        let found = places_in(pack).map_err(|source| repository.refuse(&object, source))?;
        for (id, place) in found.filter(|(id, _)| ids.contains(id)) {
            places.entry(id).or_default().push(place);
        }
    }
    Ok(())
}
