//! An object that comes in parts: each is written at its place in a draft.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::timeout;

use super::{
    super::{Payload, StoreError, Upload},
    FolderStore,
    draft::{Draft, Published, Purpose},
};

/// How long the end of an upload that is given up is waited for; the next run tries again.
const ABORT_PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct FileUpload {
    store: FolderStore,
    object: String,
    part_bytes: u64,
    draft: Arc<Draft>,
    /// Lengths of the parts that are there.
    parts: Mutex<BTreeMap<i32, u64>>,
}

impl FileUpload {
    pub(super) async fn begin(
        store: &FolderStore,
        object: &str,
        part_bytes: u64,
    ) -> Result<Self, StoreError> {
        let (root, name) = (Arc::clone(&store.root), object.to_owned());
        let begun = store.call(move |_| Draft::begin(&root, &name, Purpose::Upload));
        Ok(Self {
            store: store.clone(),
            object: object.to_owned(),
            part_bytes,
            draft: Arc::new(begun.await?),
            parts: Mutex::default(),
        })
    }

    /// Whether the parts are those of an object of so many bytes.
    fn is_whole(&self, bytes: u64) -> bool {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one_size = parts
            .values()
            .rev()
            .skip(1)
            .all(|it| *it == self.part_bytes);
        let in_a_row = (1..).zip(parts.keys()).all(|(n, part)| n == *part);
        of_one_size && in_a_row && parts.values().sum::<u64>() == bytes
    }

    fn refused(&self, reason: String) -> StoreError {
        StoreError::Refused {
            object: self.store.root.shown(&self.object),
            endpoint: self.store.path.to_string(),
            reason,
        }
    }
}

#[async_trait]
impl Upload for FileUpload {
    async fn part(&self, number: i32, payload: Payload) -> Result<(), StoreError> {
        let bytes = payload.len();
        let before = u64::try_from(number).ok().and_then(|it| it.checked_sub(1));
        let Some(before) = before.filter(|_| bytes <= self.part_bytes) else {
            return Err(self.refused(format!("part {number} of {bytes} bytes is none of it")));
        };
        let (draft, offset) = (Arc::clone(&self.draft), before * self.part_bytes);
        let written = self.store.call(move |_| draft.write(&payload, offset));
        written.await?;
        self.store.meter.add_sent(bytes);
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(number, bytes);
        Ok(())
    }

    async fn complete(&self, bytes: u64) -> Result<(), StoreError> {
        if !self.is_whole(bytes) {
            return Err(self.refused(format!("its parts are not {bytes} bytes without a gap")));
        }
        let draft = Arc::clone(&self.draft);
        match self.store.call(move |_| draft.publish()).await? {
            Published::Done => Ok(()),
            Published::Taken | Published::Swept => {
                Err(self.refused("the upload was given up by somebody else".into()))
            }
        }
    }

    async fn abort(&self) {
        let draft = Arc::clone(&self.draft);
        let removed = self.store.call(move |_| {
            draft.remove();
            Ok(())
        });
        if timeout(ABORT_PATIENCE, removed).await.is_err() {
            tracing::warn!(
                object = self.object,
                "an unfinished file stays behind; the next run removes it"
            );
        }
    }
}
