//! Where a group lies.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder for a group, and one beside it.
pub(crate) struct Place {
    pub(crate) group: PathBuf,
    pub(crate) beside: PathBuf,
    devices: Devices,
}

/// Whether volumes have devices.
enum Devices {
    None(#[expect(dead_code, reason = "deleted with it")] TempDir),
    #[cfg(feature = "privileged")]
    Loop(crate::devices::Mounted),
}

impl Place {
    /// A folder that needs no root: its volumes have no devices.
    pub(crate) fn ordinary() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self {
            group: folder.path().join("group"),
            beside: folder.path().to_owned(),
            devices: Devices::None(folder),
        }
    }

    /// On a filesystem of its own, with loop devices.
    #[cfg(feature = "privileged")]
    pub(crate) fn mounted(mounted: crate::devices::Mounted) -> Self {
        Self {
            group: mounted.folder.path.clone(),
            beside: mounted.folder.temporary.path().to_owned(),
            devices: Devices::Loop(mounted),
        }
    }

    /// Whether its files can share blocks; in an ordinary folder nobody knows.
    pub(crate) fn has_reflinks(&self) -> bool {
        match &self.devices {
            Devices::None(_) => false,
            #[cfg(feature = "privileged")]
            Devices::Loop(mounted) => mounted.has_reflinks,
        }
    }

    /// The device class, for the configuration.
    pub(crate) fn class(&self) -> String {
        let attach = match self.devices {
            Devices::None(_) => "never",
            #[cfg(feature = "privileged")]
            Devices::Loop(_) => "auto",
        };
        format!(
            "- {{ name: fast, default: true, spare-gb: 0, directory: {}, attach: {attach} }}\n",
            self.group.display()
        )
    }

    /// Asserts that each of these volumes has its device, and nothing else of the group has one.
    pub(crate) fn assert_devices_are_those_of<'a>(&self, volumes: impl Iterator<Item = &'a Path>) {
        match &self.devices {
            Devices::None(_) => {
                for path in volumes {
                    assert!(path.starts_with(&self.group), "{}", path.display());
                }
            }
            #[cfg(feature = "privileged")]
            Devices::Loop(mounted) => mounted.assert_devices_are_those_of(volumes),
        }
    }
}
