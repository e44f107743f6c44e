//! The log: the order of a repository's backups, and what makes each of them exist.
//!
//! Ordering rule: an entry is appended after everything it refers to is durable, at exactly the
//! slot behind the last one replayed, and only if that slot was free. Lost races replay what came
//! between and decide again. Then the newest checkpoint is looked at: a writer that was asleep may
//! have written into a slot that was removed, where nobody reads.

mod checkpoint;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod history;
mod mend;
mod replay;
mod reserve;
mod truncate;
#[cfg(test)]
mod with_checkpoints;

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use ringback_proto::repository::{Commit, LogEntry, log_entry::Kind};

use crate::{
    error::{Error, ErrorKind},
    format::{
        FormatError,
        name::{LOG, ObjectKind, PackName, Slot, random},
    },
    repository::{Repository, is_worth_another_try},
    store::{PutNew, StoreError},
};

use checkpoint::Scope;
use history::History;

pub use history::Committed;
pub(crate) use reserve::LogFlaw;

/// An entry's object must stay small, so that any store takes it in one write.
const ENTRY_BYTES_MAX: usize = 4 << 10;
const TOO_LONG: FormatError = FormatError::Damaged("the entry is over 4 KiB; use shorter names");
/// Entries fetched at once in a replay.
const FETCHES: usize = 16;
/// A slot that is taken and cannot be seen is tried again so often, each time after a little more
/// time.
const CONFLICTS_MAX: u32 = 12;
const CONFLICT_WAIT: Duration = Duration::from_millis(100);

/// The log as replayed up to some slot.
pub struct Log {
    repository: Repository,
    history: History,
}

impl Log {
    /// Reads the whole log.
    pub async fn replay(repository: &Repository) -> Result<Self, Error> {
        Ok(Self {
            repository: repository.clone(),
            history: replay::replay(repository, Scope::Whole).await?,
        })
    }

    /// The backup of this name, by as little of the log as tells.
    pub async fn look_up(repository: &Repository, name: &str) -> Result<Option<Committed>, Error> {
        let history = replay::replay(repository, Scope::Backup(name)).await?;
        Ok(history.find(name).cloned())
    }

    /// All backups, in the order of their commits.
    pub fn commits(&self) -> &[Committed] {
        &self.history.commits
    }

    /// The backup of this name.
    pub fn find(&self, name: &str) -> Option<&Committed> {
        self.history.find(name)
    }

    /// The newest backup of this volume.
    pub fn latest_of(&self, volume_identity: &str) -> Option<&Committed> {
        self.commits()
            .iter()
            .rev()
            .find(|it| it.commit.volume_identity == volume_identity)
    }

    /// The index segments that count, the freshest last.
    pub(crate) fn segments(&self) -> &[PackName] {
        &self.history.segments
    }

    /// Data packs that were found damaged: nothing new may refer to them.
    pub(crate) fn marked(&self) -> &BTreeSet<PackName> {
        &self.history.marked
    }

    /// Appends a commit; when this returns, the backup exists.
    ///
    /// A backup of that name that came first is `NameTaken`.
    pub async fn append(&mut self, commit: Commit) -> Result<Committed, Error> {
        let repository = self.repository.clone();
        let slot = self
            .append_entry(|history| match history.find(&commit.name) {
                None => Ok(Kind::Commit(commit.clone())),
                Some(other) => Err(Error::NameTaken {
                    backup: commit.name.clone(),
                    repository: repository.store().describe(),
                    by: format!(
                        "{:?} requested as {:?}",
                        other.commit.volume_handle, other.commit.request_name
                    ),
                }),
            })
            .await?;
        Ok(Committed { slot, commit })
    }

    /// Appends an entry at the slot behind the head; `decide` says which, anew each time that
    /// somebody else's came first.
    async fn append_entry(
        &mut self,
        decide: impl Fn(&History) -> Result<Kind, Error>,
    ) -> Result<Slot, Error> {
        let nonce = Bytes::copy_from_slice(&random::<16>());
        let mut conflicts = 0;
        loop {
            let slot = self.history.head.next();
            let kind = decide(&self.history)?;
            let entry = LogEntry {
                previous: self.history.head_hash.clone(),
                nonce: nonce.clone(),
                kind: Some(kind.clone()),
            };
            let bytes = self.encode(slot, &entry)?;
            let put = self.repository.store().put_new(&slot.object(), bytes).await;
            // Whatever the answer, the slot tells: an entry with our nonce is ours. Even of a PUT that
            // was denied in the end a first try may have come through. In a folder what is seen is not
            // yet what is synced.
            let failure = match put {
                Ok(PutNew::Created | PutNew::Exists) => None,
                Err(error @ StoreError::Folder(_)) => return Err(error.into()),
                Err(error) => Some(error),
            };
            let found = match self.read_on(Some((&nonce, &kind))).await {
                Err(_) if failure.is_some() && self.history.head < slot => None,
                found => found?,
            };
            if let Some(found) = found
                && let Some((own, newest)) = self.confirm(found, &kind).await?
            {
                truncate::keep_short(&self.repository, &self.history, newest).await;
                return Ok(own);
            }
            if self.history.head < slot {
                if let Some(error) = failure {
                    return Err(error.into());
                }
                conflicts += 1;
                self.wait_for_other(slot, conflicts).await?;
            }
        }
    }

    /// Somebody else's PUT of the slot may still be under way, or have failed (both are status
    /// 409), or the store's list lags behind.
    async fn wait_for_other(&self, slot: Slot, conflicts: u32) -> Result<(), Error> {
        if conflicts > CONFLICTS_MAX {
            return Err(StoreError::Refused {
                object: slot.object(),
                endpoint: self.repository.store().describe(),
                reason: "it says that the object is there, and does not show it".into(),
            }
            .into());
        }
        tokio::time::sleep(CONFLICT_WAIT * conflicts).await;
        Ok(())
    }

    fn encode(&self, slot: Slot, entry: &LogEntry) -> Result<Bytes, Error> {
        let object = slot.object();
        let bytes = self.repository.encode(ObjectKind::LogEntry, &object, entry);
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(self.repository.refuse(&object, TOO_LONG));
        }
        Ok(bytes)
    }

    /// Reads what others appended since.
    pub async fn catch_up(&mut self) -> Result<(), Error> {
        self.read_on(None).await.map(drop)
    }

    /// Takes up the entries behind the head; the slot of the own one, known by its nonce, or by what
    /// it does if a checkpoint stands for it.
    async fn read_on(&mut self, own: Option<(&Bytes, &Kind)>) -> Result<Option<Slot>, Error> {
        let head = self.history.head;
        let followed = self.follow(own.map(|(nonce, _)| nonce)).await;
        match &followed {
            // Those behind the head may have been removed, which does not happen without a
            // checkpoint above them.
            Err(error) if error.kind() == ErrorKind::Damaged => {}
            _ => return followed,
        }
        if checkpoint::slots(&self.repository).await?.last() <= Some(&head) {
            return followed;
        }
        self.history = replay::replay(&self.repository, Scope::Whole).await?;
        Ok(own.and_then(|(_, kind)| self.history.slot_of(kind)))
    }

    /// Its slot, if the own entry found in this slot is in the log, and the newest checkpoint: the
    /// slot lies above that, or the entry is in the log that is read from there.
    async fn confirm(&mut self, found: Slot, kind: &Kind) -> Result<Option<(Slot, Slot)>, Error> {
        let slots = checkpoint::slots(&self.repository).await?;
        let newest = slots.last().copied().unwrap_or_default();
        if newest < found {
            return Ok(Some((found, newest)));
        }
        self.history = replay::replay(&self.repository, Scope::Whole).await?;
        Ok(self.history.slot_of(kind).map(|own| (own, newest)))
    }

    /// Takes up the entries behind the head, which must be there; the slot of the one with the
    /// nonce `own`.
    async fn follow(&mut self, own: Option<&Bytes>) -> Result<Option<Slot>, Error> {
        let mut found = None;
        let repository = self.repository.clone();
        let mut fetched = stream::iter(self.slots_behind().await?)
            .map(|slot| {
                let repository = repository.clone();
                async move {
                    let bytes = repository.store().get(&slot.object()).await?;
                    Ok::<_, Error>((slot, bytes))
                }
            })
            .buffered(FETCHES);
        while let Some((slot, bytes)) = fetched.try_next().await? {
            let nonce = self.take_up(slot, bytes).await?;
            if own == Some(&nonce) {
                found = Some(slot);
            }
        }
        Ok(found)
    }

    /// The slots behind the head that have an entry.
    async fn slots_behind(&self) -> Result<Vec<Slot>, Error> {
        let after = self.history.head.object();
        let listed = self.repository.store().list(LOG, Some(&after)).await?;
        let mut next = self.history.head.next();
        let mut slots = Vec::new();
        for entry in listed {
            let Some(slot) = entry.name.strip_prefix(LOG).and_then(Slot::parse) else {
                continue;
            };
            if slot != next {
                return Err(self
                    .repository
                    .missing(&next.object(), "the log has later entries"));
            }
            next = next.next();
            slots.push(slot);
        }
        Ok(slots)
    }

    /// Takes up the entry behind the head, as it came in or as it comes in again; its nonce.
    async fn take_up(&mut self, slot: Slot, mut bytes: Bytes) -> Result<Bytes, Error> {
        for tries in 1.. {
            let pushed = self.push(slot, bytes);
            if !is_worth_another_try(&pushed, tries) {
                return pushed;
            }
            bytes = self.repository.store().get(&slot.object()).await?;
        }
        unreachable!("the last try's outcome is returned")
    }

    fn push(&mut self, slot: Slot, bytes: Bytes) -> Result<Bytes, Error> {
        let object = slot.object();
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(self.repository.refuse(&object, TOO_LONG));
        }
        let hash = Bytes::copy_from_slice(blake3::hash(&bytes).as_bytes());
        let entry: LogEntry = self
            .repository
            .decode(ObjectKind::LogEntry, &object, bytes)?;
        let nonce = entry.nonce.clone();
        self.history
            .take(entry, hash)
            .map_err(|source| self.repository.refuse(&object, source))?;
        Ok(nonce)
    }
}

/// Whether an entry has room for these names, for checks before the work begins.
pub fn entry_fits(
    name: &str,
    request_name: &str,
    volume_handle: &str,
    volume_identity: &str,
) -> bool {
    // Ids, hashes, segments and numbers take under 3 KiB.
    let names = Commit {
        name: name.to_owned(),
        request_name: request_name.to_owned(),
        volume_handle: volume_handle.to_owned(),
        volume_identity: volume_identity.to_owned(),
        ..Commit::default()
    };
    names.encoded_len() < 1 << 10
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use super::*;
    use crate::store::fake::FakeStore;

    #[tokio::test]
    async fn an_entry_that_comes_in_damaged_is_fetched_again() {
        let store = Arc::new(FakeStore::new());
        let repository = store.repository().await;
        let mut log = Log::replay(&repository).await.expect("replay");
        for name in ["one", "two"] {
            let commit = Commit {
                id: Bytes::copy_from_slice(&random::<16>()),
                name: name.into(),
                ..Commit::default()
            };
            log.append(commit).await.expect("appended");
        }
        // The first two of these are both entries' first fetches.
        store.whole_flips.store(4, Ordering::Relaxed);
        let replayed = Log::replay(&repository).await.expect("replay");
        assert_eq!(replayed.commits().len(), 2);
    }

    #[tokio::test]
    async fn a_backup_whose_entry_is_there_exists_whatever_the_store_answered() {
        let store = Arc::new(FakeStore::new());
        let repository = store.repository().await;
        let mut log = Log::replay(&repository).await.expect("replay");
        let commit = |name: &str| Commit {
            id: Bytes::copy_from_slice(&random::<16>()),
            name: name.into(),
            ..Commit::default()
        };
        store.belied.store(1, Ordering::Relaxed);
        let committed = log.append(commit("one")).await.expect("appended");
        assert_eq!(committed.slot, Slot(1));
        *store.denied.lock().expect("not poisoned") = Some(LOG);
        let denied = log.append(commit("two")).await.expect_err("denied");
        assert_eq!(denied.kind(), ErrorKind::Denied);
        let replayed = Log::replay(&repository).await.expect("replay");
        assert_eq!(replayed.commits(), [committed]);
    }

    #[tokio::test]
    async fn a_slot_that_somebody_else_was_about_to_take_is_tried_again_after_a_while() {
        let store = Arc::new(FakeStore::new());
        let repository = store.repository().await;
        let mut log = Log::replay(&repository).await.expect("replay");
        store.conflicts.store(3, Ordering::Relaxed);
        let begun = std::time::Instant::now();
        let commit = Commit {
            id: Bytes::copy_from_slice(&random::<16>()),
            name: "one".into(),
            ..Commit::default()
        };
        let committed = log.append(commit).await.expect("appended");
        assert_eq!(committed.slot, Slot(1));
        assert!(begun.elapsed() >= CONFLICT_WAIT * (1 + 2 + 3));
    }
}
