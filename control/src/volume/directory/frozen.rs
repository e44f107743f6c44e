//! A volume's content held still for a backup: a reflink where the filesystem has it.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;

use super::{
    blocking,
    group::{Group, is_without_reflink},
    layout::{self, Entry, Part},
    space,
};
use crate::volume::{BackupSnapshot, Error, Frozen, Hold, Volume, ioctl};

/// A file in `temporary` that goes away with its backup.
#[derive(Debug)]
struct TemporaryImage {
    path: PathBuf,
    removed: bool,
    /// Keeps the folder ours until the file is gone.
    group: Arc<Group>,
}

/// Takes the snapshot, or makes the place for a copy. To be called in turn.
pub(super) fn freeze(group: &Arc<Group>, found: &Volume) -> Result<BackupSnapshot, Error> {
    let volume = group.find(&found.name)?;
    if volume.description.identity != found.identity {
        return Err(Error::Replaced(found.name.clone()));
    }
    let temporary = TemporaryImage::create(group)?;
    group.flush(&volume)?;
    let created_at = SystemTime::now();
    match reflink(&volume.image, &temporary.path) {
        Ok(()) => Ok(snapshot(group, &volume, temporary, created_at)?),
        Err(error) if is_without_reflink(&error) => copy(group, &volume, temporary, created_at),
        Err(error) => Err(Error::io("snapshot", &volume.image)(error)),
    }
}

fn snapshot(
    group: &Group,
    volume: &Entry,
    temporary: TemporaryImage,
    created_at: SystemTime,
) -> Result<BackupSnapshot, Error> {
    let frozen = Frozen::Snapshot(temporary.path.clone());
    let size_bytes = volume.metadata.len();
    let mut snapshot = BackupSnapshot::new(frozen, size_bytes, created_at, Box::new(temporary));
    let free_bytes = group.free()?.free_bytes;
    let shared_bytes = space::allocated_bytes(&volume.metadata);
    if free_bytes < shared_bytes {
        snapshot.warning = Some(format!(
            "while the backup runs, overwriting volume {} takes new room: up to {shared_bytes} \
             bytes, and {free_bytes} are free in {}",
            volume.name,
            group.layout.root().display(),
        ));
    }
    Ok(snapshot)
}

fn copy(
    group: &Group,
    volume: &Entry,
    temporary: TemporaryImage,
    created_at: SystemTime,
) -> Result<BackupSnapshot, Error> {
    let copied_bytes = space::allocated_bytes(&volume.metadata);
    group.promise_copy(&temporary.path, copied_bytes)?;
    let size_bytes = volume.metadata.len();
    temporary.set_size(size_bytes)?;
    let frozen = Frozen::NeedsCopy {
        from: volume.image.clone(),
        to: temporary.path.clone(),
    };
    let mut snapshot = BackupSnapshot::new(frozen, size_bytes, created_at, Box::new(temporary));
    snapshot.warning = Some(format!(
        "the filesystem of {} has no reflinks, so volume {} is copied while it can be written to: \
         the backup is consistent only if nothing writes to it meanwhile",
        group.layout.root().display(),
        volume.name,
    ));
    Ok(snapshot)
}

fn reflink(from: &Path, to: &Path) -> io::Result<()> {
    let to = File::options().write(true).open(to)?;
    ioctl::reflink(&File::open(from)?, &to)
}

impl TemporaryImage {
    fn create(group: &Arc<Group>) -> Result<TemporaryImage, Error> {
        let path = group.layout.random(Part::Temporary)?;
        layout::create_image(&path, 0)?;
        Ok(TemporaryImage {
            path,
            removed: false,
            group: Arc::clone(group),
        })
    }

    fn set_size(&self, size_bytes: u64) -> Result<(), Error> {
        let file = File::options().write(true).open(&self.path);
        file.and_then(|file| file.set_len(size_bytes))
            .map_err(Error::io("resize", &self.path))
    }
}

#[async_trait]
impl Hold for TemporaryImage {
    async fn release(mut self: Box<Self>) -> Result<(), Error> {
        blocking(move || {
            self.removed = true;
            layout::delete(&self.path)
        })
        .await
    }
}

impl Drop for TemporaryImage {
    fn drop(&mut self) {
        self.group.forget_copy(&self.path);
        if !self.removed {
            super::delete_aside(self.path.clone(), self.group.changes.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::{
        names::VolumeName,
        volume::{
            Attach, Changes, LayoutOptions, NewVolume, directory::construction::Construction,
        },
    };

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_copy_has_the_room_promised_that_it_has_not_taken_yet() {
        let folder = tempfile::tempdir().expect("a folder");
        let group = Group::open(folder.path(), Attach::Never, Changes::default());
        let group = Arc::new(group.expect("opens"));
        let name = VolumeName::parse("data").expect("a name");
        let new = NewVolume {
            name: name.clone(),
            size_bytes: 64 * MIB,
            tags: Vec::new(),
            layout: LayoutOptions::default(),
        };
        let volume = Construction::begin(&group, &new).expect("begins").publish();
        let content = vec![1; 2 << 20];
        let write = |path: &Path, bytes: &[u8]| {
            let file = File::options().write(true).open(path).expect("opens");
            file.write_all_at(bytes, 0).expect("writes");
            file.sync_all().expect("is on the disk");
        };
        write(&volume.expect("is made").path, &content);
        let promised = || group.promised_bytes().expect("is known");
        let before = promised();

        let volume = group.find(&name).expect("is there");
        let temporary = TemporaryImage::create(&group).expect("is made");
        let path = temporary.path.clone();
        let copied = copy(&group, &volume, temporary, SystemTime::now()).expect("has room");
        assert_eq!(promised(), before + 2 * MIB);
        write(&path, &content[..1 << 20]);
        assert_eq!(promised(), before + MIB);
        write(&path, &content);
        assert_eq!(promised(), before);
        drop(copied);
        assert_eq!(promised(), before);
    }
}
