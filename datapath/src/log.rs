//! The log: the order of a repository's backups, and what makes each of them exist.
//!
//! Ordering rule: a commit is appended after everything it refers to is durable, at exactly the
//! slot behind the last one replayed, and only if that slot was free. Lost races replay what came
//! between and decide again.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use ringback_proto::repository::{Commit, LogEntry, log_entry::Kind};

use crate::{
    error::Error,
    format::{
        FormatError,
        name::{CHECKPOINT, LOG, ObjectKind, Slot, random},
    },
    repository::{Repository, is_worth_another_try},
    store::{PutNew, StoreError},
};

/// An entry's object must stay small, so that any store takes it in one write.
const ENTRY_BYTES_MAX: usize = 4 << 10;
/// Entries fetched at once in a replay.
const FETCHES: usize = 16;
/// A slot that is taken and cannot be seen is tried again so often, each time after a little more
/// time.
const CONFLICTS_MAX: u32 = 12;
const CONFLICT_WAIT: Duration = Duration::from_millis(100);

/// A backup and its slot.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Where in the log.
    pub slot: Slot,
    /// What was committed.
    pub commit: Commit,
}

/// The log as replayed up to some slot.
pub struct Log {
    repository: Repository,
    commits: Vec<Committed>,
    head: Slot,
    /// BLAKE3 of the head's object; empty before the first.
    head_hash: Bytes,
}

impl Log {
    /// Reads the whole log.
    pub async fn replay(repository: &Repository) -> Result<Self, Error> {
        let mut log = Self {
            repository: repository.clone(),
            commits: Vec::new(),
            head: Slot(0),
            head_hash: Bytes::new(),
        };
        log.catch_up().await?;
        Ok(log)
    }

    /// All backups, in the order of their commits.
    pub fn commits(&self) -> &[Committed] {
        &self.commits
    }

    /// The backup of this name.
    pub fn find(&self, name: &str) -> Option<&Committed> {
        self.commits.iter().find(|it| it.commit.name == name)
    }

    /// The newest backup of this volume.
    pub fn latest_of(&self, volume_identity: &str) -> Option<&Committed> {
        self.commits
            .iter()
            .rev()
            .find(|it| it.commit.volume_identity == volume_identity)
    }

    /// Appends a commit; when this returns, the backup exists.
    ///
    /// A backup of that name that came first is `NameTaken`.
    pub async fn append(&mut self, commit: Commit) -> Result<Committed, Error> {
        let nonce = Bytes::copy_from_slice(&random::<16>());
        let mut conflicts = 0;
        loop {
            self.check_name_is_free(&commit)?;
            let slot = Slot(self.head.0 + 1);
            let entry = LogEntry {
                previous: self.head_hash.clone(),
                nonce: nonce.clone(),
                kind: Some(Kind::Commit(commit.clone())),
            };
            let bytes = self.encode(slot, &entry)?;
            let store = self.repository.store();
            match store.put_new(&slot.object(), bytes.clone()).await {
                Ok(PutNew::Created) => self.push(slot, bytes)?,
                Ok(PutNew::Exists) => {
                    self.catch_up().await?;
                    if self.head < slot {
                        conflicts += 1;
                        self.wait_for_other(slot, conflicts).await?;
                    }
                }
                // The answer was lost, the entry perhaps not: the slot tells.
                Err(StoreError::Unreachable { endpoint, reason }) => {
                    self.catch_up().await?;
                    if self.head < slot {
                        return Err(StoreError::Unreachable { endpoint, reason }.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
            // Whether the PUT was acknowledged or not: an entry with our commit is ours.
            let found = self
                .commits
                .iter()
                .rev()
                .find(|it| it.commit.id == commit.id);
            if let Some(committed) = found.cloned() {
                self.check_no_checkpoints().await?;
                return Ok(committed);
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

    fn check_name_is_free(&self, commit: &Commit) -> Result<(), Error> {
        match self.find(&commit.name) {
            None => Ok(()),
            Some(other) => Err(Error::NameTaken {
                backup: commit.name.clone(),
                repository: self.repository.store().describe(),
                by: format!(
                    "{:?} requested as {:?}",
                    other.commit.volume_handle, other.commit.request_name
                ),
            }),
        }
    }

    fn encode(&self, slot: Slot, entry: &LogEntry) -> Result<Bytes, Error> {
        let object = slot.object();
        let bytes = self.repository.encode(ObjectKind::LogEntry, &object, entry);
        if bytes.len() > ENTRY_BYTES_MAX {
            let too_long = FormatError::Damaged("the entry is over 4 KiB; use shorter names");
            return Err(self.repository.refuse(&object, too_long));
        }
        Ok(bytes)
    }

    /// Reads what others appended since.
    pub async fn catch_up(&mut self) -> Result<(), Error> {
        self.check_no_checkpoints().await?;
        let after = self.head.object();
        let listed = self.repository.store().list(LOG, Some(&after)).await?;
        let mut next = self.head.0 + 1;
        let mut slots = Vec::new();
        for entry in listed {
            let Some(slot) = entry.name.strip_prefix(LOG).and_then(Slot::parse) else {
                continue;
            };
            if slot.0 != next {
                return Err(self
                    .repository
                    .missing(&Slot(next).object(), "the log has later entries"));
            }
            next += 1;
            slots.push(slot);
        }
        let repository = self.repository.clone();
        let mut fetched = stream::iter(slots)
            .map(|slot| {
                let repository = repository.clone();
                async move {
                    let bytes = repository.store().get(&slot.object()).await?;
                    Ok::<_, Error>((slot, bytes))
                }
            })
            .buffered(FETCHES);
        while let Some((slot, bytes)) = fetched.try_next().await? {
            self.take_up(slot, bytes).await?;
        }
        Ok(())
    }

    /// Takes up the entry behind the head, as it came in or as it comes in again.
    async fn take_up(&mut self, slot: Slot, mut bytes: Bytes) -> Result<(), Error> {
        for tries in 1.. {
            let pushed = self.push(slot, bytes);
            if !is_worth_another_try(&pushed, tries) {
                return pushed;
            }
            bytes = self.repository.store().get(&slot.object()).await?;
        }
        unreachable!("the last try's outcome is returned")
    }

    /// Takes up the entry behind the head.
    fn push(&mut self, slot: Slot, bytes: Bytes) -> Result<(), Error> {
        let object = slot.object();
        let refuse = |source| self.repository.refuse(&object, source);
        let hash = Bytes::copy_from_slice(blake3::hash(&bytes).as_bytes());
        let entry: LogEntry = self
            .repository
            .decode(ObjectKind::LogEntry, &object, bytes)?;
        if entry.previous != self.head_hash {
            return Err(refuse(FormatError::Damaged(
                "it does not continue the entry before it",
            )));
        }
        match entry.kind {
            Some(Kind::Commit(commit)) => self.commits.push(Committed { slot, commit }),
            None => {
                return Err(refuse(FormatError::Newer {
                    what: "a kind of entry in slot",
                    found: slot.0,
                }));
            }
        }
        self.head = slot;
        self.head_hash = hash;
        Ok(())
    }

    /// This version writes none, and cannot tell what a truncated log still holds.
    async fn check_no_checkpoints(&self) -> Result<(), Error> {
        let listed = self.repository.store().list(CHECKPOINT, None).await?;
        match listed.last() {
            None => Ok(()),
            Some(last) => Err(self.repository.refuse(
                &last.name,
                FormatError::Newer {
                    what: "a checkpoint; checkpoints in this repository:",
                    found: listed.len() as u64,
                },
            )),
        }
    }
}

/// Length of an entry with nothing in it but these names, for checks before the work begins.
pub fn entry_fits(name: &str, request_name: &str, volume_handle: &str) -> bool {
    // Ids, hashes, segments and numbers take under 3 KiB.
    let names = Commit {
        name: name.to_owned(),
        request_name: request_name.to_owned(),
        volume_handle: volume_handle.to_owned(),
        ..Commit::default()
    };
    names.encoded_len() < 1 << 10
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use super::*;
    use crate::{chunk::ChunkSize, store::fake::FakeStore};

    #[tokio::test]
    async fn an_entry_that_comes_in_damaged_is_fetched_again() {
        let store = Arc::new(FakeStore::new());
        let size = ChunkSize::new(64 << 10).expect("valid");
        let repository = Repository::open_or_create(Arc::clone(&store) as _, size, None)
            .await
            .expect("made");
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
    async fn a_slot_that_somebody_else_was_about_to_take_is_tried_again_after_a_while() {
        let store = Arc::new(FakeStore::new());
        let size = ChunkSize::new(64 << 10).expect("valid");
        let repository = Repository::open_or_create(Arc::clone(&store) as _, size, None)
            .await
            .expect("made");
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
