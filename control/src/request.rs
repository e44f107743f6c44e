//! What callers ask of us, in our own words.
//!
//! The values here are checked: names are LVM names, sizes fit, the store's address parses.
//! Nothing here knows of the wire or its dialects ([`crate::dialect`] does).

use ringback_datapath::{
    crypt::Passphrase,
    store::location::{BackupPath, StoreConfig},
};

use crate::{
    names::{Invalid, Tag, VolumeName, check_lvm_name},
    volume::Volume,
};

const GIB_SHIFT: u32 = 30;

/// The current dialect carries sizes as int64.
const SIZE_BYTES_MAX: u64 = i64::MAX.unsigned_abs();

/// A volume's size in bytes, neither zero nor over `i64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeSize(u64);

impl VolumeSize {
    /// A size in bytes; errors name `size_bytes`.
    pub fn from_bytes(bytes: u64) -> Result<Self, Invalid> {
        match bytes {
            0 => Err(Invalid::new(
                "size_bytes",
                bytes,
                "is no size; it should be over 0",
            )),
            1..=SIZE_BYTES_MAX => Ok(Self(bytes)),
            _ => Err(Invalid::new(
                "size_bytes",
                bytes,
                format!("is too large; a volume has at most {SIZE_BYTES_MAX} bytes"),
            )),
        }
    }

    /// A size in GiB; errors name `size_gb`.
    pub fn from_gib(gib: u64) -> Result<Self, Invalid> {
        const GIB_MAX: u64 = SIZE_BYTES_MAX >> GIB_SHIFT;
        match gib {
            0 => Err(Invalid::new(
                "size_gb",
                gib,
                "is no size; it should be over 0",
            )),
            1..=GIB_MAX => Ok(Self(gib << GIB_SHIFT)),
            _ => Err(Invalid::new(
                "size_gb",
                gib,
                format!("is too large; a volume has at most {GIB_MAX} GiB"),
            )),
        }
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// In GiB, rounded down.
    pub fn gib_floor(self) -> u64 {
        gib_floor(self.0)
    }
}

/// Bytes in GiB, rounded down.
pub fn gib_floor(bytes: u64) -> u64 {
    bytes >> GIB_SHIFT
}

/// The device class that a request names. Whether there is one is for the configuration to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ClassRef {
    /// None named: the default class.
    #[default]
    Default,
    /// The class of this name.
    Named(String),
}

impl From<String> for ClassRef {
    /// The empty name is the default class.
    fn from(name: String) -> Self {
        if name.is_empty() {
            Self::Default
        } else {
            Self::Named(name)
        }
    }
}

/// Make a volume, empty or from a backup.
#[derive(Debug, Clone)]
pub struct CreateVolume {
    /// The new volume's name.
    pub name: VolumeName,
    /// Its size.
    pub size: VolumeSize,
    /// Tags to put on it.
    pub tags: Vec<Tag>,
    /// Where to make it.
    pub device_class: ClassRef,
    /// Options of this lvcreate option class instead of the device class's own.
    pub option_class: Option<String>,
    /// The backup that it is to hold.
    pub source: Option<DataSource>,
}

/// A backup in a store: the place, the way there and the key.
#[derive(Debug, Clone)]
pub struct DataSource {
    /// Whether a restore is answered when the volume holds the backup, not at once.
    pub synchronous: bool,
    /// Which backup.
    pub backup: BackupPath,
    /// How to reach its store. No request names a region: the configuration does.
    pub store: StoreConfig,
    /// Passphrase of the repository; `None`: it is not encrypted.
    pub encryption_key: Option<Passphrase>,
}

/// Make a snapshot that is a volume of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSnapshot {
    /// The snapshot's name.
    pub name: VolumeName,
    /// Tags to put on it.
    pub tags: Vec<Tag>,
    /// The source's class.
    pub device_class: ClassRef,
    /// The volume to take it of.
    pub source: VolumeName,
    /// Whether it can be written.
    pub writable: bool,
    /// Its size; `None`: the source's.
    pub size: Option<VolumeSize>,
}

/// Remove a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveVolume {
    /// The volume.
    pub name: VolumeName,
    /// Its class.
    pub device_class: ClassRef,
}

/// Grow a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResizeVolume {
    /// The volume.
    pub name: VolumeName,
    /// Its class.
    pub device_class: ClassRef,
    /// The size that it should have.
    pub size: VolumeSize,
    /// What to do when it is larger already.
    pub shrink: ShrinkRule,
}

/// What a resize to less than the present size means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShrinkRule {
    /// It is an error, out of range.
    Refuse,
    /// The volume stays as it is, and the answer is its present size.
    Keep,
}

/// Start a backup, or ask how it does.
#[derive(Debug, Clone)]
pub struct CreateBackup {
    /// The caller's name of the backup, repeated in the answer.
    pub name: String,
    /// The volume.
    pub volume_handle: VolumeHandle,
    /// Where the backup goes.
    pub source: DataSource,
}

/// A volume, in a given group or in whichever has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeHandle {
    /// The volume group; `None`: all configured groups are searched.
    pub group: Option<String>,
    /// The volume.
    pub volume: VolumeName,
    text: String,
}

impl VolumeHandle {
    /// Parses `volume` or `group/volume`; errors name `volume_handle`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: String| Invalid::new("volume_handle", text, reason);
        let (group, volume) = match text.split_once('/') {
            Some((group, volume)) => (Some(group), volume),
            None => (None, text),
        };
        if volume.contains('/') {
            return Err(refuse(
                "has more than one slash; it should be lv or vg/lv".into(),
            ));
        }
        if let Some(group) = group {
            check_lvm_name(group)
                .map_err(|reason| refuse(format!("is not lv or vg/lv: the group {reason}")))?;
        }
        let volume = VolumeName::parse(volume).map_err(|invalid| {
            refuse(format!(
                "is not lv or vg/lv: the volume's name {}",
                invalid.reason
            ))
        })?;
        Ok(Self {
            group: group.map(str::to_owned),
            volume,
            text: text.to_owned(),
        })
    }

    /// The handle as it was sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A volume as replies describe it, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Device numbers, major and minor; 0:0 when it is not active.
    pub dev: (u32, u32),
    /// Its tags, ours left out.
    pub tags: Vec<String>,
    /// Path of the device or image file.
    pub path: String,
    /// Attributes as `lvs -o lv_attr` prints them.
    pub attr: String,
}

impl From<&Volume> for VolumeInfo {
    fn from(volume: &Volume) -> Self {
        Self {
            name: volume.name.as_str().to_owned(),
            size_bytes: volume.size_bytes,
            dev: volume.device,
            tags: volume.tags.clone(),
            path: volume.path.display().to_string(),
            attr: volume.attr.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_over_zero_and_fit_into_int64() {
        let largest_gib = i64::MAX.unsigned_abs() >> 30;
        assert_eq!(VolumeSize::from_gib(3).expect("valid").bytes(), 3 << 30);
        assert_eq!(
            VolumeSize::from_gib(largest_gib).expect("valid").bytes(),
            largest_gib << 30
        );
        for gib in [0, largest_gib + 1, u64::MAX >> 30, u64::MAX] {
            let error = VolumeSize::from_gib(gib).expect_err("no size").to_string();
            assert!(error.starts_with("size_gb "), "{error}");
        }
        assert!(VolumeSize::from_bytes(i64::MAX.unsigned_abs()).is_ok());
        for bytes in [0, i64::MAX.unsigned_abs() + 1, u64::MAX] {
            let error = VolumeSize::from_bytes(bytes)
                .expect_err("no size")
                .to_string();
            assert!(error.starts_with("size_bytes "), "{error}");
        }
    }

    #[test]
    fn gibibytes_are_rounded_down() {
        let under_two = VolumeSize::from_bytes((2 << 30) - 1).expect("valid");
        assert_eq!(under_two.gib_floor(), 1);
        assert_eq!(VolumeSize::from_bytes(512).expect("valid").gib_floor(), 0);
    }

    #[test]
    fn a_handle_is_a_volume_with_or_without_its_group() {
        let bare = VolumeHandle::parse("pvc-1").expect("valid");
        assert_eq!(
            (bare.group.as_deref(), bare.volume.as_str()),
            (None, "pvc-1")
        );
        let full = VolumeHandle::parse("vg-a/pvc-1").expect("valid");
        assert_eq!(
            (full.group.as_deref(), full.volume.as_str(), full.as_str()),
            (Some("vg-a"), "pvc-1", "vg-a/pvc-1")
        );
    }

    #[test]
    fn a_malformed_handle_is_refused_with_what_would_be_right() {
        for (handle, says) in [
            ("", "the volume's name is empty"),
            ("vg/", "the volume's name is empty"),
            ("/lv", "the group is empty"),
            ("/dev/vg/lv", "more than one slash"),
            ("../lv", "the group means a directory"),
            ("vg/pvmove0", "begins with \"pvmove\""),
            ("vg/a b", "has the character ' '"),
        ] {
            let error = VolumeHandle::parse(handle).expect_err(handle).to_string();
            assert!(error.contains(says), "{handle:?}: {error}");
            assert!(
                error.starts_with("volume_handle ") && error.contains("lv or vg/lv"),
                "{error}"
            );
        }
    }
}
