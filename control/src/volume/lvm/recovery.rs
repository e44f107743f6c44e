//! What an open does about the time before it.

use std::sync::Arc;

use super::{
    group::Group,
    ours::{Purpose, has_own_name},
};
use crate::{planted, volume::Error};

impl Group {
    /// Removes what a killed daemon left unfinished, and takes the mark off what it had finished.
    /// What cannot be removed is not listed, and is tried again.
    pub(super) async fn recover(self: &Arc<Self>) -> Result<(), Error> {
        let report = self.report().await?;
        if planted::no_sweep() {
            return Ok(());
        }
        for row in &report.rows {
            let (volume, group) = (&row.name, self.name());
            if row.is_suspended() {
                tracing::warn!(
                    group,
                    volume,
                    "its device is suspended, and whoever uses it waits; `dmsetup resume {}` if no \
                     command of LVM is at work",
                    row.mapper_path
                );
            }
            if let Some(purpose) = Purpose::of(row) {
                tracing::info!(group, volume, ?purpose, "sweeping what was left unfinished");
                if let Err(error) = self.remove_own(volume).await {
                    tracing::warn!(group, volume, "removing it is tried again: {error}");
                }
            } else if let Some(purpose) = Purpose::left_on(row) {
                tracing::info!(group, volume, "finishing what was published");
                if let Err(trouble) = self.finish(volume, purpose).await {
                    let error = Error::from(trouble);
                    tracing::warn!(group, volume, "its tag is left for the next start: {error}");
                }
            } else if has_own_name(row) {
                tracing::warn!(
                    group,
                    volume,
                    "not listed: its name is one of ringback's, but it is not tagged as such"
                );
            }
        }
        Ok(())
    }
}
