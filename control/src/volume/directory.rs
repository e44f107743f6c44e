//! The Directory group: volumes as sparse image files in a folder, for machines without LVM, for
//! development and for the demo.
//!
//! ```text
//! DIR/lock                       locked by the daemon that owns the group
//! DIR/volumes/NAME/image         a volume: its size is the file's
//! DIR/volumes/NAME/volume.json   its identity, tags and access
//! DIR/pending/NAME/...           the same, under construction or restore
//! DIR/trash/RANDOM               on its way out
//! DIR/temporary/RANDOM           backup snapshots
//! ```
//!
//! What is on disk is the truth; nothing is remembered. A folder is built in `pending` and made
//! durable there, and one rename publishes it: the rename is what reserves the name, too, as it
//! fails where a folder is. Removal is a rename into `trash`. So each moment a kill can hit leaves
//! either the whole volume or something that the next open sweeps. It sweeps what has a name and kind
//! of ours: anything else in these folders is somebody's, and stays.
//!
//! This file gives the calls their order; what they do is in [`group`].

use std::{
    panic,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use ringback_datapath::restore::Ground;
use tokio::{runtime::Handle, sync::Mutex, task};

use super::{
    Attach, BackupSnapshot, Changes, Error, FreeSpace, LayoutOptions, NewSnapshot, NewVolume,
    PendingVolume, Volume, VolumeGroup,
};
use crate::names::VolumeName;
use construction::Construction;
use group::Group;

mod construction;
mod frozen;
mod group;
mod layout;
mod recovery;
mod space;
#[cfg(test)]
mod tests;

/// A volume group in a folder. Clones are the same group; the last one gone gives up the folder.
#[derive(Debug, Clone)]
pub struct Directory {
    group: Arc<Group>,
    turn: Arc<Mutex<()>>,
}

impl Directory {
    /// Takes the folder, made if need be, for this process; sweeps what a killed daemon left
    /// unfinished, and attaches the volumes that are not. `changes` are told of what it does by itself.
    pub async fn open(
        root: impl Into<PathBuf>,
        attach: Attach,
        changes: &Changes,
    ) -> Result<Directory, Error> {
        let (root, changes) = (root.into(), changes.clone());
        let group = blocking(move || Group::open(&root, attach, changes)).await?;
        Ok(Directory {
            group: Arc::new(group),
            turn: Arc::default(),
        })
    }

    /// Detaches all volumes from their devices, so that the folder can be deleted or unmounted.
    /// Those in use stay attached; the first of them is the error.
    pub async fn detach_all(&self) -> Result<(), Error> {
        self.in_turn(|group| group.detach_all()).await
    }

    /// Runs `work`, which changes the group, when nothing else does. Once begun it runs to its
    /// end, whether or not the caller waits: blocking tasks are not cancelled.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Group>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let group = Arc::clone(&self.group);
        blocking(move || {
            let _turn = turn;
            work(&group)
        })
        .await
    }

    /// Runs `work`, which changes nothing, beside whatever else happens.
    async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Group>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let group = Arc::clone(&self.group);
        blocking(move || work(&group)).await
    }
}

#[async_trait]
impl VolumeGroup for Directory {
    async fn list(&self) -> Result<Vec<Volume>, Error> {
        self.beside(|group| group.list()).await
    }

    async fn get(&self, name: &VolumeName) -> Result<Option<Volume>, Error> {
        let name = name.clone();
        self.beside(move |group| group.get(&name)).await
    }

    async fn create(&self, new: NewVolume) -> Result<Volume, Error> {
        self.in_turn(move |group| Construction::begin(group, &new)?.publish())
            .await
    }

    async fn granted_bytes(&self, size_bytes: u64, _layout: &LayoutOptions) -> Result<u64, Error> {
        Ok(space::whole_blocks(size_bytes))
    }

    async fn create_pending(&self, new: NewVolume) -> Result<Box<dyn PendingVolume>, Error> {
        let construction = self
            .in_turn(move |group| Construction::begin(group, &new))
            .await?;
        Ok(Box::new(Pending {
            construction,
            directory: self.clone(),
        }))
    }

    async fn remove(&self, name: &VolumeName) -> Result<(), Error> {
        let name = name.clone();
        self.in_turn(move |group| group.remove(&name)).await
    }

    async fn resize(&self, name: &VolumeName, size_bytes: u64) -> Result<Volume, Error> {
        let name = name.clone();
        self.in_turn(move |group| group.resize(&name, size_bytes))
            .await
    }

    async fn snapshot(&self, new: NewSnapshot) -> Result<Volume, Error> {
        self.in_turn(move |group| group.snapshot(&new)).await
    }

    async fn freeze_for_backup(&self, volume: &Volume) -> Result<BackupSnapshot, Error> {
        // The flush that can take long happens beside other calls; the one in turn finds little.
        let flushed = volume.name.clone();
        self.beside(move |group| group.flush(&group.find(&flushed)?))
            .await?;
        let volume = volume.clone();
        self.in_turn(move |group| frozen::freeze(group, &volume))
            .await
    }

    async fn free(&self) -> Result<FreeSpace, Error> {
        self.beside(|group| group.free()).await
    }
}

/// A volume under restore. Its `Drop` is [`Construction`]'s.
#[derive(Debug)]
struct Pending {
    construction: Construction,
    directory: Directory,
}

#[async_trait]
impl PendingVolume for Pending {
    fn path(&self) -> &Path {
        self.construction.image()
    }

    fn ground(&self) -> Ground {
        Ground::Zeros
    }

    fn size_bytes(&self) -> u64 {
        self.construction.size_bytes()
    }

    async fn publish(self: Box<Self>) -> Result<Volume, Error> {
        let Pending {
            construction,
            directory,
        } = *self;
        directory.in_turn(move |_| construction.publish()).await
    }

    async fn discard(self: Box<Self>) -> Result<(), Error> {
        let Pending {
            construction,
            directory,
        } = *self;
        directory.in_turn(move |_| construction.discard()).await
    }
}

/// Deletes where it may block, without anybody waiting: for `Drop`. What a shutdown keeps it from
/// deleting lies in a part that is swept at the next open.
fn delete_aside(path: PathBuf, changes: Changes) {
    let delete = move || {
        if let Err(error) = layout::delete(&path) {
            tracing::warn!("left for the next start: {error}");
        }
        changes.tell();
    };
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(delete)),
        Err(_) => delete(),
    }
}

/// Runs filesystem calls where they may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failure) => match failure.try_into_panic() {
            Ok(payload) => panic::resume_unwind(payload),
            Err(_) => Err(Error::Unavailable {
                group: "directory".to_owned(),
                reason: "the daemon is shutting down".to_owned(),
            }),
        },
    }
}
