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

use crate::config::DatapathSettings;

/// Turns of all jobs.
pub struct Turns {
    backups: Semaphore,
    restores: Semaphore,
}

impl Turns {
    /// As many as the configuration says.
    pub fn new(settings: &DatapathSettings) -> Self {
        Self {
            backups: Semaphore::new(settings.backups_max as usize),
            restores: Semaphore::new(settings.restores_max as usize),
        }
    }

    /// Waits for a backup's turn.
    pub async fn backup(&self) -> SemaphorePermit<'_> {
        acquire(&self.backups).await
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
pub struct OneAtATime<K>(Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>);

impl<K> Default for OneAtATime<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> OneAtATime<K> {
    /// Waits until nobody else deals with `key`, in the order of those who ask.
    pub async fn enter(&self, key: K) -> OwnedMutexGuard<()> {
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
