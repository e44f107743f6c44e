//! The way to a history: from the highest checkpoint that is whole, and the entries behind it.
//!
//! Ordering rule: slots die only under the second highest checkpoint. So a reader whom a truncation
//! overtakes finds a higher checkpoint than it had seen, and begins again from there.

use super::{
    Log,
    checkpoint::{self, Scope},
    history::History,
};
use crate::{
    error::{Error, ErrorKind},
    format::name::Slot,
    repository::Repository,
};

/// A checkpoint that cannot be used.
struct Damaged {
    slot: Slot,
    error: Error,
}

/// What the log says now.
pub(super) async fn replay(repository: &Repository, scope: Scope<'_>) -> Result<History, Error> {
    let mut slots = checkpoint::slots(repository).await?;
    loop {
        let replayed = replay_from(repository, &slots, scope).await;
        let Err(error) = &replayed else {
            return replayed;
        };
        if error.kind() != ErrorKind::Damaged {
            return replayed;
        }
        let now = checkpoint::slots(repository).await?;
        if now.last() <= slots.last() {
            return replayed;
        }
        slots = now;
    }
}

async fn replay_from(
    repository: &Repository,
    slots: &[Slot],
    scope: Scope<'_>,
) -> Result<History, Error> {
    let (history, highest_damaged) = highest_whole(repository, slots, scope).await?;
    let mut log = Log {
        repository: repository.clone(),
        history,
    };
    let followed = log.follow(None).await;
    let Some(damaged) = highest_damaged else {
        return followed.map(|_| log.history);
    };
    let reaches = log.history.head >= damaged.slot;
    match followed {
        Ok(_) if reaches => Ok(log.history),
        Err(error) if reaches || error.kind() != ErrorKind::Damaged => Err(error),
        followed => {
            let log_ends = log.history.head.0;
            let because = followed.err().map(|error| error.to_string());
            tracing::warn!(
                log_ends,
                because,
                "the log does not reach a damaged checkpoint"
            );
            Err(damaged.error)
        }
    }
}

/// What the highest checkpoint says that is whole, and the highest above it, which is not.
async fn highest_whole(
    repository: &Repository,
    slots: &[Slot],
    scope: Scope<'_>,
) -> Result<(History, Option<Damaged>), Error> {
    let mut highest_damaged = None;
    for &slot in slots.iter().rev() {
        match checkpoint::read(repository, slot, scope).await {
            Ok(history) => return Ok((history, highest_damaged)),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                tracing::warn!(%error, "going on without a checkpoint");
                highest_damaged.get_or_insert(Damaged { slot, error });
            }
            Err(error) => return Err(error),
        }
    }
    Ok((History::default(), highest_damaged))
}
