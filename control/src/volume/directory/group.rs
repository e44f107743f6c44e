//! The verbs of a Directory group, as blocking calls.
//!
//! Those that change something are to be called in turn (see [`super::Directory`]).

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::errno::Errno;

use super::{
    construction::{Construction, Plan},
    layout::{self, Entry, Layout, Part},
    space,
};
use crate::{
    names::VolumeName,
    volume::{
        Attach, Changes, Error, FreeSpace, NewSnapshot, Volume, ioctl,
        loopdev::{Access, AttachError, Attachments, Detached, LoopDevice},
    },
};

/// A group that this process owns.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) layout: Layout,
    attach: Attach,
    attach_refused: AtomicBool,
    skipped: Mutex<HashSet<PathBuf>>,
    /// What copies that stand in for snapshots will take, by their paths.
    copies: Mutex<HashMap<PathBuf, u64>>,
    pub(super) changes: Changes,
}

impl Group {
    /// Takes the folder, sweeps it and attaches its volumes.
    pub(super) fn open(root: &Path, attach: Attach, changes: Changes) -> Result<Group, Error> {
        let group = Group {
            layout: Layout::open(root)?,
            attach,
            attach_refused: AtomicBool::new(false),
            skipped: Mutex::default(),
            copies: Mutex::default(),
            changes,
        };
        group.recover()?;
        Ok(group)
    }

    pub(super) fn list(&self) -> Result<Vec<Volume>, Error> {
        let entries = self.published()?;
        // What is published is attached already, so this knows of it.
        let attachments = self.attachments()?;
        Ok(entries
            .into_iter()
            .map(|entry| volume(entry, &attachments))
            .collect())
    }

    pub(super) fn get(&self, name: &VolumeName) -> Result<Option<Volume>, Error> {
        let folder = self.layout.folder(Part::Volumes, name);
        let Some(entry) = self.layout.read(name.clone(), &folder)? else {
            return Ok(None);
        };
        Ok(Some(volume(entry, &self.attachments()?)))
    }

    /// The published volume that there must be.
    pub(super) fn find(&self, name: &VolumeName) -> Result<Entry, Error> {
        let folder = self.layout.folder(Part::Volumes, name);
        let entry = self.layout.read(name.clone(), &folder)?;
        entry.ok_or_else(|| Error::NotFound(name.clone()))
    }

    pub(super) fn remove(&self, name: &VolumeName) -> Result<(), Error> {
        let entry = self.find(name)?;
        let attached = self.attachments()?.of(&entry.metadata).len();
        let folder = self.layout.folder(Part::Volumes, name);
        let detached = self.detach(&entry);
        let trash = detached
            .and_then(|()| self.layout.move_to_trash(&folder))
            .inspect_err(|_| {
                if entry.image.exists() {
                    self.attach_to_as_many(&entry, attached);
                }
            })?;
        if let Err(error) = layout::delete(&trash) {
            // The volume is gone; only its room is not free yet.
            tracing::warn!(volume = %name, "left for the next start to delete: {error}");
        }
        Ok(())
    }

    pub(super) fn resize(&self, name: &VolumeName, size_bytes: u64) -> Result<Volume, Error> {
        let entry = self.find(name)?;
        let size_bytes = space::whole_blocks(size_bytes);
        let present_bytes = entry.metadata.len();
        let Some(growth_bytes) = size_bytes.checked_sub(present_bytes) else {
            return Err(Error::TooSmall {
                name: name.clone(),
                size_bytes: present_bytes,
            });
        };
        self.require_free(growth_bytes)?;
        grow(&entry.image, size_bytes).map_err(Error::io("resize", &entry.image))?;
        for device in self.attachments()?.of(&entry.metadata) {
            device
                .follow_size()
                .map_err(Error::io("resize", &device.path()))?;
        }
        self.get(name)?.ok_or_else(|| Error::NotFound(name.clone()))
    }

    pub(super) fn snapshot(self: &Arc<Self>, new: &NewSnapshot) -> Result<Volume, Error> {
        let source = self.find(&new.source)?;
        let source_bytes = source.metadata.len();
        let size_bytes = new.size_bytes.unwrap_or(source_bytes);
        if size_bytes < source_bytes {
            return Err(Error::TooSmall {
                name: new.source.clone(),
                size_bytes: source_bytes,
            });
        }
        let plan = Plan {
            name: &new.name,
            size_bytes,
            tags: &new.tags,
            read_only: !new.writable,
            origin: Some(&source.description.identity),
        };
        let construction = Construction::begin_as(self, plan)?;
        self.flush(&source)?;
        clone_image(
            &source.image,
            construction.image(),
            construction.size_bytes(),
        )
        .map_err(|error| self.snapshot_error(error, &source.image))?;
        construction.publish()
    }

    pub(super) fn free(&self) -> Result<FreeSpace, Error> {
        space::free(&self.layout, self.promised_bytes()?)
    }

    /// What volumes and copies may still take.
    pub(super) fn promised_bytes(&self) -> Result<u64, Error> {
        let mut promised_bytes = space::promised_bytes(&self.layout)?;
        for (copy, bytes) in &*self.copies() {
            promised_bytes = promised_bytes.saturating_add(space::unwritten_bytes(copy, *bytes)?);
        }
        Ok(promised_bytes)
    }

    /// Keeps the room that a copy will take, until it is forgotten.
    pub(super) fn promise_copy(&self, copy: &Path, bytes: u64) -> Result<(), Error> {
        self.require_free(bytes)?;
        self.copies().insert(copy.to_owned(), bytes);
        Ok(())
    }

    pub(super) fn forget_copy(&self, copy: &Path) {
        self.copies().remove(copy);
    }

    fn copies(&self) -> MutexGuard<'_, HashMap<PathBuf, u64>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what there is no room for.
    pub(super) fn require_free(&self, needed_bytes: u64) -> Result<(), Error> {
        let free_bytes = self.free()?.free_bytes;
        if needed_bytes > free_bytes {
            return Err(Error::NoSpace {
                needed_bytes,
                free_bytes,
            });
        }
        Ok(())
    }

    /// Brings all that was written to the volume into its image, and the image onto the disk.
    pub(super) fn flush(&self, entry: &Entry) -> Result<(), Error> {
        for device in self.attachments()?.of(&entry.metadata) {
            device.flush().map_err(Error::io("flush", &device.path()))?;
        }
        File::open(&entry.image)
            .and_then(|image| image.sync_all())
            .map_err(Error::io("sync", &entry.image))
    }

    /// Attaches an image, where that is wanted and possible.
    pub(super) fn attach(
        &self,
        image: &Path,
        read_only: bool,
    ) -> Result<Option<LoopDevice>, Error> {
        if self.attach == Attach::Never {
            return Ok(None);
        }
        let access = if read_only {
            Access::ReadOnly
        } else {
            Access::Writable
        };
        match LoopDevice::attach(image, access) {
            Ok(device) => Ok(Some(device)),
            Err(AttachError::Impossible(error)) => {
                if !self.attach_refused.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        group = %self.layout.root().display(),
                        "loop devices cannot be used here, so volumes have no device: {error}"
                    );
                }
                Ok(None)
            }
            Err(AttachError::Failed(error)) => Err(Error::io("attach", image)(error)),
        }
    }

    pub(super) fn detach_all(&self) -> Result<(), Error> {
        let mut first_failure = Ok(());
        for entry in self.published()? {
            first_failure = first_failure.and(self.detach(&entry));
        }
        first_failure
    }

    fn detach(&self, entry: &Entry) -> Result<(), Error> {
        for device in self.attachments()?.of(&entry.metadata) {
            match device
                .detach()
                .map_err(Error::io("detach", &device.path()))?
            {
                Detached::Complete => {}
                Detached::InUse => return Err(Error::InUse(entry.name.clone())),
            }
        }
        Ok(())
    }

    /// Gives a volume that stays a device again for each that was detached before another one was in use.
    fn attach_to_as_many(&self, entry: &Entry, before: usize) {
        let attach = || {
            for _ in self.attachments()?.of(&entry.metadata).len()..before {
                self.attach(&entry.image, entry.description.read_only)?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = attach() {
            tracing::warn!(volume = %entry.name, "it has lost a device: {error}");
        }
    }

    /// The volumes, without what only looks like one.
    pub(super) fn published(&self) -> Result<Vec<Entry>, Error> {
        let folders = self.layout.entries(Part::Volumes)?;
        let read = folders.iter().filter_map(|(file_name, folder)| {
            let Some(name) = layout::name_of(file_name) else {
                self.skip(folder, "its name is no volume's");
                return None;
            };
            match self.layout.read(name, folder) {
                Ok(Some(entry)) => Some(entry),
                // Removed while we looked, or not ours.
                Ok(None) if !folder.exists() => None,
                Ok(None) => {
                    self.skip(folder, "it holds no image");
                    None
                }
                Err(error) => {
                    self.skip(folder, &error.to_string());
                    None
                }
            }
        });
        Ok(read.collect())
    }

    /// Says once that something in `volumes` is not listed. Its name stays taken.
    fn skip(&self, folder: &Path, reason: &str) {
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        if skipped.insert(folder.to_owned()) {
            tracing::warn!(path = %folder.display(), "not listed as a volume: {reason}");
        }
    }

    pub(super) fn attachments(&self) -> Result<Attachments, Error> {
        Attachments::find().map_err(Error::io("list", Path::new("/sys/block")))
    }

    fn snapshot_error(&self, error: io::Error, image: &Path) -> Error {
        if !is_without_reflink(&error) {
            return Error::io("snapshot", image)(error);
        }
        Error::Unsupported(format!(
            "the filesystem of {} has no reflinks, so its volumes have no snapshots; \
             xfs and btrfs have them",
            self.layout.root().display()
        ))
    }
}

/// Whether a reflink failed because the filesystem does not have them.
pub(super) fn is_without_reflink(error: &io::Error) -> bool {
    let without = [
        Errno::EOPNOTSUPP,
        Errno::ENOTTY,
        Errno::ENOSYS,
        Errno::EXDEV,
        Errno::EINVAL,
    ];
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.is_some_and(|errno| without.contains(&errno))
}

fn volume(entry: Entry, attachments: &Attachments) -> Volume {
    let permission = if entry.description.read_only {
        'r'
    } else {
        'w'
    };
    // The device may be detached while we ask: then it has no numbers any more.
    let active = attachments
        .of(&entry.metadata)
        .first()
        .and_then(|device| Some((device.path(), device.device_numbers().ok()?)));
    let state = if active.is_some() { 'a' } else { '-' };
    let (path, device) = active.unwrap_or((entry.image, (0, 0)));
    Volume {
        name: entry.name,
        identity: entry.description.identity,
        size_bytes: entry.metadata.len(),
        device,
        tags: entry.description.tags,
        path,
        attr: format!("-{permission}i-{state}-----"),
    }
}

fn grow(image: &Path, size_bytes: u64) -> io::Result<()> {
    let image = File::options().write(true).open(image)?;
    image.set_len(size_bytes)?;
    image.sync_all()
}

fn clone_image(from: &Path, to: &Path, size_bytes: u64) -> io::Result<()> {
    let to = File::options().write(true).open(to)?;
    to.set_len(0)?;
    ioctl::reflink(&File::open(from)?, &to)?;
    to.set_len(size_bytes)
}
