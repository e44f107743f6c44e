//! What is ours and could not be removed: something has it open, or LVM is out of order for a while.
//! It is tried again until it is gone, so that nothing waits for a restart.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use super::{command::Trouble, group::Group};
use crate::volume::Error;

/// How often it is tried again while nothing else is done to the group.
const INTERVAL: Duration = Duration::from_secs(60);

/// How many are tried again in a turn: each takes LVM some seconds while something has it open.
const TRIED_MAX: usize = 2;

impl Group {
    /// Removes what has this name of ours, if it came to be. When it cannot be removed, later turns try
    /// it again. To be called in turn.
    pub(super) async fn remove_own(self: &Arc<Self>, temporary: &str) -> Result<(), Error> {
        self.look_first().await;
        let removed = self.try_to_remove(temporary).await;
        if removed.is_err() {
            let is_first = {
                let mut left = self.left();
                left.push_back(temporary.to_owned());
                left.len() == 1
            };
            if is_first {
                self.try_again_from_time_to_time();
            }
        }
        removed
    }

    /// Tries again what could not be removed; whether some of it went. To be called in turn.
    pub(super) async fn remove_left(&self) -> bool {
        let tried: Vec<String> = self.left().iter().take(TRIED_MAX).cloned().collect();
        let mut has_gone = false;
        for temporary in tried {
            self.look_first().await;
            let removed = self.try_to_remove(&temporary).await;
            self.left().retain(|it| *it != temporary);
            match removed {
                Ok(()) => {
                    tracing::info!(group = self.name(), volume = temporary, "removed at last");
                    has_gone = true;
                }
                Err(error) => {
                    tracing::debug!(group = self.name(), volume = temporary, %error, "still there");
                    self.left().push_back(temporary);
                }
            }
        }
        has_gone
    }

    async fn try_to_remove(&self, temporary: &str) -> Result<(), Error> {
        match self.remove_any(temporary).await {
            Err(Trouble::Failed(failed))
                if failed.stderr.contains("Failed to find logical volume") =>
            {
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Until nothing is left, or the group is given up.
    fn try_again_from_time_to_time(self: &Arc<Self>) {
        let group = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                let Some(group) = group.upgrade() else {
                    return;
                };
                // Each turn begins with trying.
                let tried = group.in_turn(async || Ok(())).await;
                if tried.is_err() || group.left().is_empty() {
                    return;
                }
            }
        });
    }

    fn left(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
