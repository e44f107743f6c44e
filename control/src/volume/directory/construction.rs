//! A volume's folder while it is being built, and the step that publishes it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    group::Group,
    layout::{self, Description, Part},
    space,
};
use crate::{
    names::{Tag, VolumeName},
    volume::{Error, NewVolume, Volume},
};

/// A folder in `pending`. While it exists, its name is taken; dropped unpublished, it goes.
#[derive(Debug)]
pub(super) struct Construction {
    group: Arc<Group>,
    name: VolumeName,
    size_bytes: u64,
    image: PathBuf,
    read_only: bool,
    finished: bool,
}

/// What a new folder is to say about its volume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) name: &'a VolumeName,
    pub(super) size_bytes: u64,
    pub(super) tags: &'a [Tag],
    pub(super) read_only: bool,
    /// The identity of the volume it is a snapshot of.
    pub(super) origin: Option<&'a str>,
}

impl Construction {
    /// Begins a volume of zeros.
    pub(super) fn begin(group: &Arc<Group>, new: &NewVolume) -> Result<Construction, Error> {
        let plan = Plan {
            name: &new.name,
            size_bytes: new.size_bytes,
            tags: &new.tags,
            read_only: false,
            origin: None,
        };
        Construction::begin_as(group, plan)
    }

    /// Reserves the name and the room, and fills the folder. To be called in turn.
    pub(super) fn begin_as(group: &Arc<Group>, plan: Plan<'_>) -> Result<Construction, Error> {
        let construction = Construction::reserve(group, plan)?;
        group.require_free(construction.size_bytes)?;
        layout::create_image(&construction.image, construction.size_bytes)?;
        let description = Description {
            identity: layout::random_uuid()?,
            tags: plan
                .tags
                .iter()
                .map(|tag| tag.as_str().to_owned())
                .collect(),
            read_only: plan.read_only,
            origin: plan.origin.map(str::to_owned),
        };
        layout::write_description(&construction.folder(), &description)?;
        Ok(construction)
    }

    fn reserve(group: &Arc<Group>, plan: Plan<'_>) -> Result<Construction, Error> {
        let taken = || Error::AlreadyExists(plan.name.clone());
        let published = group.layout.folder(Part::Volumes, plan.name);
        if fs::symlink_metadata(&published).is_ok() {
            return Err(taken());
        }
        let folder = group.layout.folder(Part::Pending, plan.name);
        match layout::create_folder(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(taken()),
            other => other.map_err(Error::io("create", &folder))?,
        }
        Ok(Construction {
            group: Arc::clone(group),
            name: plan.name.clone(),
            size_bytes: space::whole_blocks(plan.size_bytes),
            image: layout::image_in(&folder),
            read_only: plan.read_only,
            finished: false,
        })
    }

    pub(super) fn image(&self) -> &Path {
        &self.image
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Makes everything durable, attaches the image, and gives the volume its name. To be called
    /// in turn.
    pub(super) fn publish(mut self) -> Result<Volume, Error> {
        let image = File::open(&self.image).map_err(Error::io("open", &self.image))?;
        image.sync_all().map_err(Error::io("sync", &self.image))?;
        layout::sync_folder(&self.folder())?;
        // Attached first, so that a volume is never listed without the device it will have. A
        // kill in between leaves an attached image in `pending`: the sweep knows.
        let device = self.group.attach(&self.image, self.read_only)?;
        if let Err(error) = self.rename() {
            if let Some(Err(left)) = device.map(|device| device.detach()) {
                tracing::warn!(volume = %self.name, "its device stays attached: {left}");
            }
            return Err(error);
        }
        self.finished = true;
        layout::sync_folder(&self.group.layout.part(Part::Volumes))?;
        layout::sync_folder(&self.group.layout.part(Part::Pending))?;
        let volume = self.group.get(&self.name)?;
        volume.ok_or_else(|| Error::NotFound(self.name.clone()))
    }

    /// Removes it and waits for its room.
    pub(super) fn discard(mut self) -> Result<(), Error> {
        self.finished = true;
        let trash = self.group.layout.move_to_trash(&self.folder())?;
        layout::delete(&trash)
    }

    /// The rename fails where a folder with something in it is: nothing is ever replaced.
    fn rename(&self) -> Result<(), Error> {
        let folder = self.folder();
        let published = self.group.layout.folder(Part::Volumes, &self.name);
        fs::rename(&folder, published).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::NotADirectory => Error::AlreadyExists(self.name.clone()),
            _ => Error::io("publish", &folder)(error),
        })
    }

    fn folder(&self) -> PathBuf {
        self.group.layout.folder(Part::Pending, &self.name)
    }
}

impl Drop for Construction {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // The rename frees the name at once; deleting a large file takes its time elsewhere.
        match self.group.layout.move_to_trash(&self.folder()) {
            Ok(trash) => super::delete_aside(trash, self.group.changes.clone()),
            Err(error) => {
                tracing::warn!(volume = %self.name, "an unfinished volume is left behind: {error}");
            }
        }
    }
}
