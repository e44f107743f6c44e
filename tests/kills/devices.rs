//! Groups on a filesystem of their own, with loop devices: ours, and one of somebody else's.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    harness::{GIB, MIB},
    support::{Folder, attached, run},
};

/// Room for the volumes' full sizes: a restored one has 1 GiB.
const FILESYSTEM_BYTES: u64 = 8 * GIB;

/// A filesystem, with a loop device in it that is not ringback's.
pub(crate) struct Mounted {
    pub(crate) folder: Folder,
    pub(crate) has_reflinks: bool,
    foreign_image: PathBuf,
    foreign_device: PathBuf,
}

impl Mounted {
    pub(crate) fn xfs() -> Self {
        Self::on(Folder::on_xfs(FILESYSTEM_BYTES), true)
    }

    pub(crate) fn ext4() -> Self {
        Self::on(Folder::on_ext4(FILESYSTEM_BYTES), false)
    }

    fn on(folder: Folder, has_reflinks: bool) -> Self {
        fs::create_dir_all(&folder.path).expect("makes the group's folder");
        let image = folder.path.join("disk.img");
        let file = File::create(&image).expect("makes another's image");
        file.set_len(MIB).expect("makes it large");
        run(Command::new("losetup").arg("--find").arg(&image));
        let device = device_of(&image);
        Self {
            foreign_device: device.expect("it was attached"),
            foreign_image: image,
            folder,
            has_reflinks,
        }
    }

    pub(crate) fn assert_devices_are_those_of<'a>(&self, volumes: impl Iterator<Item = &'a Path>) {
        assert_eq!(
            device_of(&self.foreign_image).as_ref(),
            Some(&self.foreign_device),
            "another's device"
        );
        let of_volumes: BTreeSet<PathBuf> = volumes.map(Path::to_owned).collect();
        let of_the_group: Vec<(PathBuf, PathBuf)> = attached()
            .into_iter()
            .filter(|(_, image)| image.starts_with(&self.folder.path))
            .filter(|(device, _)| *device != self.foreign_device)
            .collect();
        let devices: BTreeSet<PathBuf> = of_the_group
            .iter()
            .map(|(device, _)| device.clone())
            .collect();
        assert_eq!(devices, of_volumes, "loop devices: {of_the_group:?}");
        assert_eq!(devices.len(), of_the_group.len());
    }
}

fn device_of(image: &Path) -> Option<PathBuf> {
    let (device, _) = attached().into_iter().find(|(_, it)| it == image)?;
    Some(device)
}
