//! Keeping the log short: a checkpoint every so many entries, then the entries go that nobody needs.
//!
//! Ordering rule: an entry is deleted only when two checkpoints that stand for it were read back
//! whole, the lowest entry first. Whoever reads by a damaged highest checkpoint still has the
//! one below and all entries behind that. A writer that was asleep and writes into a removed slot
//! finds a checkpoint above it (see [`super::Log::confirm`]).

use std::time::Duration;

use super::{
    checkpoint::{self, Scope},
    history::{Committed, History},
};
use crate::{
    error::Error,
    format::{
        FormatError,
        name::{LOG, Slot},
    },
    repository::Repository,
    store::StoreError,
};

/// Entries behind the newest checkpoint, before there is another one.
pub(super) const INTERVAL: u64 = 256;
/// A backup is done when its entry is in the log; this is how long it waits for what is left to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes a checkpoint of this history if it is time, and removes what that makes superfluous. All
/// that may fail: the next writer tries again.
pub(super) async fn keep_short(repository: &Repository, history: &History, newest: Slot) {
    if history.head.0 < newest.0 + INTERVAL {
        return;
    }
    let work = async {
        checkpoint::write(repository, history).await?;
        truncate(repository, history).await
    };
    let slot = history.head.0;
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(removed)) => tracing::info!(slot, removed, "summed up the log in a checkpoint"),
        Ok(Err(error)) => tracing::warn!(slot, %error, "cannot keep the log short"),
        Err(_) => tracing::warn!(
            slot,
            "gave up keeping the log short for now: it takes too long"
        ),
    }
}

/// Removes the entries that the second highest checkpoint stands for; how many.
pub(super) async fn truncate(repository: &Repository, history: &History) -> Result<usize, Error> {
    let slots = checkpoint::slots(repository).await?;
    let [.., second, highest] = slots[..] else {
        return Ok(0);
    };
    for slot in [second, highest] {
        let sum = checkpoint::read(repository, slot, Scope::Whole).await?;
        compare(repository, history, &sum)?;
        compare_entry(repository, &sum).await?;
    }
    let listed = repository.store().list(LOG, None).await?;
    let mut removed = 0;
    for entry in listed {
        let slot = entry.name.strip_prefix(LOG).and_then(Slot::parse);
        if slot.is_none_or(|slot| slot == Slot(0)) {
            continue;
        }
        if slot > Some(second) {
            break;
        }
        match repository.store().delete(&entry.name).await {
            Ok(()) => removed += 1,
            // Writers need no right to delete. Somebody else may have it.
            Err(StoreError::Denied { .. }) => return Ok(removed),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(removed)
}

/// Holds a checkpoint against what is known of the log.
pub(super) fn compare(
    repository: &Repository,
    history: &History,
    sum: &History,
) -> Result<(), Error> {
    let up_to = sum.head.min(history.head);
    let commits_of = |it: &History| -> Vec<Committed> {
        let commits = it.commits.iter().filter(|it| it.slot <= up_to);
        commits.cloned().collect()
    };
    if commits_of(history) == commits_of(sum) {
        return Ok(());
    }
    let differs = FormatError::Damaged("it says of backups what the log does not say");
    Err(repository.refuse(&sum.head.checkpoint(), differs))
}

/// Holds a checkpoint against its entry, if that is still there.
async fn compare_entry(repository: &Repository, sum: &History) -> Result<(), Error> {
    match repository.store().get(&sum.head.object()).await {
        Ok(entry) if blake3::hash(&entry).as_bytes()[..] != sum.head_hash[..] => {
            let differs = FormatError::Damaged("the entry in its slot is another");
            Err(repository.refuse(&sum.head.checkpoint(), differs))
        }
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
