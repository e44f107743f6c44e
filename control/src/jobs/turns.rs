//! Who may move data now.
//!
//! Memory is shared out beforehand: the configuration divides one budget by the number of turns.
//! Restores have turns of their own, because somebody waits for each of them and a backup can
//! take hours. Within a kind, turns are given in the order in which they were asked for.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};

use crate::{config::DatapathSettings, names::VolumeName};

/// Turns of all jobs.
pub struct Turns {
    /// Backups of one volume to one repository: the second adopts what the first had sent.
    of_volume: OneAtATime<Destination>,
    backups: Semaphore,
    restores: Semaphore,
}

/// Where a backup goes from and to: group, volume, repository and endpoint.
pub type Destination = (String, VolumeName, String, Option<String>);

/// A backup's turn; over when it is dropped.
pub struct BackupTurn<'a> {
    _alone: OwnedMutexGuard<()>,
    _turn: SemaphorePermit<'a>,
}

impl Turns {
    /// As many as the configuration says.
    pub fn new(settings: &DatapathSettings) -> Self {
        Self {
            of_volume: OneAtATime::default(),
            backups: Semaphore::new(settings.backups_max as usize),
            restores: Semaphore::new(settings.restores_max as usize),
        }
    }

    /// Waits for a backup's turn, first among those of its destination.
    pub async fn backup(&self, destination: Destination) -> BackupTurn<'_> {
        BackupTurn {
            _alone: self.of_volume.enter(destination).await,
            _turn: acquire(&self.backups).await,
        }
    }

    /// Waits for a restore's turn.
    pub async fn restore(&self) -> SemaphorePermit<'_> {
        acquire(&self.restores).await
    }
}

async fn acquire(turns: &Semaphore) -> SemaphorePermit<'_> {
    turns
        .acquire()
        .await
        .expect("the semaphore is never closed")
}

/// Lets one at a time deal with each thing.
struct OneAtATime<K>(Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>);

impl<K> Default for OneAtATime<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> OneAtATime<K> {
    /// Waits until nobody else deals with `key`, in the order of those who ask.
    async fn enter(&self, key: K) -> OwnedMutexGuard<()> {
        let door = {
            let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody waits at a door that only the map knows.
            doors.retain(|_, door| Arc::strong_count(door) > 1);
            Arc::clone(doors.entry(key).or_default())
        };
        door.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn two_wait_for_each_other_only_at_the_same_door() {
        let doors = OneAtATime::default();
        let inside = doors.enter("a").await;
        assert!(doors.enter("b").now_or_never().is_some());
        assert!(doors.enter("a").now_or_never().is_none());
        drop(inside);
        assert!(doors.enter("a").now_or_never().is_some());
    }
}
