//! Chunks that are damaged where the backup's tree names them: other copies, and how they are come
//! by.
//!
//! Equal data of another volume may have been stored twice, and a backup stores what lies in a
//! marked pack again. The index segments know. They are read only when something is damaged, for
//! many chunks at a time; a copy is checked as any chunk is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Restore, plan::Wanted};
use crate::{
    error::Error,
    format::{
        name::{ObjectKind, PackName},
        pack::Place,
    },
    index::places_of,
    log::Log,
    record::Flaw,
    store::StoreError,
};

/// Chunks healed side by side.
const AT_ONCE: usize = 8;
/// The first damage is looked into at once, for a restore that cannot succeed shall not take long;
/// the more there is, the more of it is looked for with one reading of the index.
const MANY_FIRST: usize = 1;
const MANY_FACTOR: usize = 16;

/// What keeps a chunk from being read at a place.
pub(super) struct Loss {
    reason: Arc<str>,
    /// Whether it may be there all the same, when it is asked for by itself.
    worth_another_look: bool,
}

/// A chunk that is wanted and could not be read where the tree says.
struct Lost {
    wanted: Wanted,
    place: Place,
    reason: Arc<str>,
    worth_another_look: bool,
}

/// Chunks that are still to be healed.
pub(super) struct Losses {
    inner: Mutex<Inner>,
    /// So many at most, beside those that are under way.
    max: usize,
}

struct Inner {
    lost: Vec<Lost>,
    /// When there are so many, they are many.
    many: usize,
}

impl Loss {
    /// A record that is there, and is not the chunk.
    pub(super) fn of(flaw: Flaw) -> Self {
        Self {
            reason: flaw.to_string().into(),
            worth_another_look: false,
        }
    }

    /// Takes damage to a pack out of the errors of its store.
    pub(super) fn in_store(error: Error) -> Result<Self, Error> {
        let (reason, worth_another_look) = match error {
            Error::Store(StoreError::NotFound { .. }) => ("is missing".into(), false),
            Error::Store(StoreError::TooShort { .. }) => ("is cut off".into(), true),
            Error::Store(StoreError::Unreadable { reason, .. }) => {
                (format!("cannot be read: {reason}").into(), true)
            }
            other => return Err(other),
        };
        Ok(Self {
            reason,
            worth_another_look,
        })
    }
}

impl Losses {
    /// None yet; a reading of the index for many of them keeps about so many bytes of it.
    pub(super) fn within(index_bytes: usize) -> Self {
        let inner = Inner {
            lost: Vec::new(),
            many: MANY_FIRST,
        };
        Self {
            inner: Mutex::new(inner),
            // What is lost, its id once more, and two places.
            max: (index_bytes / (2 * size_of::<Lost>() + 4 * size_of::<Place>())).max(1),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, lost: Lost) {
        self.with(|inner| inner.lost.push(lost));
    }

    fn take(&self) -> Vec<Lost> {
        self.with(|inner| std::mem::take(&mut inner.lost))
    }

    fn take_if_many(&self) -> Vec<Lost> {
        self.with(|inner| {
            if inner.lost.len() < inner.many {
                return Vec::new();
            }
            inner.many = inner.many.saturating_mul(MANY_FACTOR).min(self.max);
            std::mem::take(&mut inner.lost)
        })
    }
}

impl Restore {
    /// Notes that a chunk cannot be read at its place.
    pub(super) fn lose(&self, place: Place, wanted: Vec<Wanted>, loss: &Loss) {
        // What is wanted in several places need not be the same chunk, in a tree that is damaged.
        let worth_another_look = loss.worth_another_look || wanted.len() > 1;
        for wanted in wanted {
            self.lost.push(Lost {
                wanted,
                place,
                reason: Arc::clone(&loss.reason),
                worth_another_look,
            });
        }
    }

    /// Notes it of all these, if the store's error is damage to their pack.
    pub(super) fn lose_all(
        &self,
        groups: impl Iterator<Item = (Place, Vec<Wanted>)>,
        error: Error,
    ) -> Result<(), Error> {
        let loss = Loss::in_store(error)?;
        groups.for_each(|(place, wanted)| self.lose(place, wanted, &loss));
        Ok(())
    }

    /// Heals what was lost so far, if it is worth the while.
    pub(super) async fn heal_if_many(&self) -> Result<(), Error> {
        self.heal_all(self.lost.take_if_many()).await
    }

    /// Heals what was lost so far.
    pub(super) async fn heal(&self) -> Result<(), Error> {
        self.heal_all(self.lost.take()).await
    }

    async fn heal_all(&self, mut lost: Vec<Lost>) -> Result<(), Error> {
        if lost.is_empty() {
            return Ok(());
        }
        lost.sort_by_key(|it| it.wanted.index);
        let log = Log::replay(&self.repository).await?;
        let chunks = lost.iter().map(|it| it.wanted.id).collect();
        let places = &places_of(&self.repository, &log, &chunks).await?;
        let mut healed: BTreeMap<(PackName, PackName), u64> = BTreeMap::new();
        let mut healing = stream::iter(lost)
            .map(|lost| async move {
                let others = places.get(&lost.wanted.id).map_or(&[][..], Vec::as_slice);
                self.heal_one(&lost, others).await
            })
            .buffered(AT_ONCE);
        while let Some(packs) = healing.try_next().await? {
            *healed.entry(packs).or_default() += 1;
        }
        for ((damaged, other), chunks) in healed {
            if damaged != other {
                tracing::warn!(
                    damaged = damaged.object(ObjectKind::DataPack),
                    copies_in = other.object(ObjectKind::DataPack),
                    chunks,
                    "chunks that are damaged were restored from other copies"
                );
            }
        }
        Ok(())
    }

    /// Writes a chunk from the first place where it is whole; the pack where it should be, and that
    /// where it was.
    async fn heal_one(&self, lost: &Lost, others: &[Place]) -> Result<(PackName, PackName), Error> {
        let own = lost.worth_another_look.then_some(&lost.place);
        let others = others.iter().filter(|place| **place != lost.place);
        for place in own.into_iter().chain(others) {
            let Ok(fetched) = self.fetch_one(place, lost.wanted).await? else {
                continue;
            };
            if let Ok(verified) = self.check(fetched).await? {
                self.write(verified).await?;
                return Ok((lost.place.pack, place.pack));
            }
        }
        Err(self
            .backup
            .damaged(&lost.wanted, &lost.place, &*lost.reason))
    }
}
