//! What an open does about the time before it: sweeps what was cut off, attaches what was not.

use std::path::Path;

use nix::errno::Errno;

use super::{
    group::Group,
    layout::{self, Entry, Part},
};
use crate::{
    planted,
    volume::{
        Error,
        loopdev::{Attachments, Detached},
    },
};

impl Group {
    /// Brings the folder into the state that this process can go on from.
    pub(super) fn recover(&self) -> Result<(), Error> {
        self.sweep()?;
        self.attach_all()
    }

    /// Deletes what a killed daemon left unfinished. What is still in use is left to a later
    /// sweep, out of its part, so that no name stays taken; what has no name of ours is left
    /// alone.
    fn sweep(&self) -> Result<(), Error> {
        if planted::no_sweep() {
            return Ok(());
        }
        for part in [Part::Pending, Part::Temporary] {
            for path in self.layout.own_entries(part)? {
                tracing::info!(path = %path.display(), "sweeping what was left unfinished");
                self.layout.move_to_trash(&path)?;
            }
        }
        let attachments = self.attachments()?;
        for path in self.layout.own_entries(Part::Trash)? {
            if let Err(error) = sweep_one(&path, &attachments) {
                tracing::warn!(path = %path.display(), "left for the next start: {error}");
            }
        }
        Ok(())
    }

    /// Attaches what is not, and lets devices follow a resize that was cut off. One volume's
    /// trouble keeps no other from being served.
    fn attach_all(&self) -> Result<(), Error> {
        let attachments = self.attachments()?;
        for entry in self.published()? {
            if let Err(error) = self.attach_again(&entry, &attachments) {
                tracing::warn!(volume = %entry.name, "served without a device: {error}");
            }
        }
        Ok(())
    }

    fn attach_again(&self, entry: &Entry, attachments: &Attachments) -> Result<(), Error> {
        let mut is_attached = false;
        for device in attachments.of(&entry.metadata) {
            // A removal that was cut off may have told it to go at its last close.
            let kept = device.keep().map_err(Error::io("keep", &device.path()))?;
            if kept == Detached::InUse {
                is_attached = true;
                device
                    .follow_size()
                    .map_err(Error::io("resize", &device.path()))?;
            }
        }
        if !is_attached {
            self.attach(&entry.image, entry.description.read_only)?;
        }
        Ok(())
    }
}

/// Deletes a volume's folder or an image, detached first.
fn sweep_one(path: &Path, attachments: &Attachments) -> Result<(), Error> {
    for image in [path.to_owned(), layout::image_in(path)] {
        let Some(metadata) = layout::image_metadata(&image)? else {
            continue;
        };
        for device in attachments.of(&metadata) {
            let detached = device
                .detach()
                .map_err(Error::io("detach", &device.path()))?;
            if detached == Detached::InUse {
                return Err(Error::io("detach", &device.path())(Errno::EBUSY.into()));
            }
        }
    }
    layout::delete(path)
}
