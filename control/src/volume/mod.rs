//! Volume groups: where volumes live, and what can be done to them.
//!
//! [`VolumeGroup`] is all that the daemon knows of a group. It owns the volumes' life cycle and
//! their room; it does not own their content (the data path reads and writes that through the
//! paths handed out here), nor device classes and their spare room. Its ordering rule: a volume is
//! listed under its name only once its content can be read correctly, also after `kill -9`.

use std::{
    fmt,
    future::pending,
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use async_trait::async_trait;
use ringback_datapath::{backup::Still, device::Extent, restore::Ground};

use crate::names::{Tag, VolumeName};

mod changes;
pub mod directory;
mod ioctl;
mod loopdev;
pub mod lvm;
mod ownership;

pub use changes::Changes;
pub use directory::Directory;
pub(crate) use ioctl::{discard, loop_info};
pub use loopdev::Attach;

/// A place that holds volumes and gives them room.
///
/// Calls that change the group are serialised by it. A caller that goes away while one runs does
/// not stop it half-way: it runs to its end, or has not begun.
#[async_trait]
pub trait VolumeGroup: Send + Sync + 'static {
    /// The published volumes, ordered by name. While a change takes long it may be those of before, unless
    /// that makes one.
    async fn list(&self) -> Result<Vec<Volume>, Error>;

    /// The published volume of this name.
    async fn get(&self, name: &VolumeName) -> Result<Option<Volume>, Error>;

    /// The same for who does not act on it at once: while a change takes long it may be the volume of
    /// before, and is not known to be absent.
    async fn get_soon(&self, name: &VolumeName) -> Result<Soon, Error> {
        let found = self.get(name).await?;
        Ok(found.map_or(Soon::Absent, Soon::Found))
    }

    /// Makes a volume without content: no signature of any filesystem is found on it. It reads as
    /// zeros unless it is made of a disk's own extents, which keep what they held.
    async fn create(&self, new: NewVolume) -> Result<Volume, Error>;

    /// The size that a volume has of which so many bytes are asked for, laid out like this.
    async fn granted_bytes(&self, size_bytes: u64, layout: &LayoutOptions) -> Result<u64, Error>;

    /// Makes a volume that has no name yet, and reserves its name until the handle is gone.
    async fn create_pending(&self, new: NewVolume) -> Result<Box<dyn PendingVolume>, Error>;

    /// Removes a volume and gives its room back; refused while something uses the volume.
    async fn remove(&self, name: &VolumeName) -> Result<(), Error>;

    /// Grows a volume; its present size is granted as well, a smaller one is not.
    async fn resize(&self, name: &VolumeName, size_bytes: u64) -> Result<Volume, Error>;

    /// Refuses, as [`VolumeGroup::snapshot`] would, where there never are any.
    fn require_snapshots(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Makes a volume that begins as another one's content of this moment.
    async fn snapshot(&self, new: NewSnapshot) -> Result<Volume, Error>;

    /// Holds a volume's content of this moment still, for a backup to read. Another volume that has
    /// taken the name since this one was found is refused.
    async fn freeze_for_backup(&self, volume: &Volume) -> Result<BackupSnapshot, Error>;

    /// The room that is neither used by nor promised to a volume.
    async fn free(&self) -> Result<FreeSpace, Error>;

    /// The same; while a change takes long it may be that of before.
    async fn free_soon(&self) -> Result<FreeSpace, Error> {
        self.free().await
    }
}

/// A volume under restore: it has a place to write to, and no name until it is published.
///
/// Dropping it is [`PendingVolume::discard`] without waiting. What a killed daemon left of one is
/// swept when the group is opened again.
#[async_trait]
pub trait PendingVolume: fmt::Debug + Send + Sync {
    /// What to write to.
    fn path(&self) -> &Path;

    /// What it holds at first.
    fn ground(&self) -> Ground;

    /// How many bytes there are to write.
    fn size_bytes(&self) -> u64;

    /// Ends, with why, when it has to be discarded before it is full.
    async fn must_go(&self) -> String {
        pending().await
    }

    /// Makes the content durable and gives the volume its name, in one step that cannot be seen
    /// half done. When it fails, nothing is left of the volume.
    async fn publish(self: Box<Self>) -> Result<Volume, Error>;

    /// Removes it and frees its name.
    async fn discard(self: Box<Self>) -> Result<(), Error>;
}

/// A published volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name, unique in the group.
    pub name: VolumeName,
    /// What tells it from an earlier or later volume of the same name.
    pub identity: String,
    /// Its size.
    pub size_bytes: u64,
    /// Major and minor number of its block device; 0:0 while it has none.
    pub device: (u32, u32),
    /// Its tags.
    pub tags: Vec<String>,
    /// What to open for its content: a block device or an image file.
    pub path: PathBuf,
    /// Its attributes, as `lvs` prints them.
    pub attr: String,
}

/// What is known soon of a volume that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Soon {
    /// It is there.
    Found(Volume),
    /// It is not.
    Absent,
    /// A change is under way that may be making it.
    Unknown,
}

/// A volume to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name.
    pub name: VolumeName,
    /// Its least size; the group rounds up to what it can make.
    pub size_bytes: u64,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// How to lay it out, where the group has a choice.
    pub layout: LayoutOptions,
}

/// How to lay a volume out over a group's disks. A group without that choice ignores it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayoutOptions {
    /// Over how many physical volumes to stripe.
    pub stripes: Option<u32>,
    /// The stripe size, in `lvcreate`'s words.
    pub stripe_size: Option<String>,
    /// Further arguments of `lvcreate`.
    pub lvcreate_options: Vec<String>,
}

impl LayoutOptions {
    /// Whether the further arguments have this option of `lvcreate`, which takes each once.
    fn says(&self, names: [&str; 2]) -> bool {
        self.argument_of(&names).is_some()
    }

    /// The number of stripes, wherever it is said. Some kinds of RAID have several by themselves; a host
    /// whose lvm.conf says how many (`raid_stripe_all_devices`) is not asked.
    fn stripes(&self) -> u32 {
        let said = || self.argument_of(&["-i", "--stripes"])?.parse().ok();
        let own = || match self.argument_of(&["--type"]).unwrap_or_default() {
            kind if kind.starts_with("raid6") => 3,
            kind if ["raid0", "raid4", "raid5", "raid10"]
                .iter()
                .any(|it| kind.starts_with(it)) =>
            {
                2
            }
            _ => 1,
        };
        self.stripes.or_else(said).unwrap_or_else(own)
    }

    /// What follows an option among the further arguments, in the same word or in the next.
    fn argument_of(&self, names: &[&str]) -> Option<&str> {
        let words = &self.lvcreate_options;
        words.iter().enumerate().find_map(|(index, word)| {
            let next = || words.get(index + 1).map_or("", String::as_str);
            names
                .iter()
                .find_map(|name| match word.strip_prefix(name)? {
                    "" => Some(next()),
                    rest if name.starts_with("--") => rest.strip_prefix('='),
                    rest => Some(rest),
                })
        })
    }
}

/// A volume to make from another one's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name.
    pub name: VolumeName,
    /// The volume whose content it begins as.
    pub source: VolumeName,
    /// Its least size, at least the source's, if it is not to be that.
    pub size_bytes: Option<u64>,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// Whether it can be written to.
    pub writable: bool,
}

/// A group's room.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FreeSpace {
    /// What new volumes and growth may take.
    pub free_bytes: u64,
    /// The size of the group.
    pub size_bytes: u64,
    /// What our own snapshots take of the group; it is free again when their backups end.
    pub snapshots_bytes: u64,
    /// The pool, where the volumes' blocks come from one. `free_bytes` is then what may still be
    /// promised.
    pub pool: Option<PoolSpace>,
}

/// A thin pool's room.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolSpace {
    /// How much of its data is in use.
    pub data_percent: f64,
    /// How much of its metadata is in use.
    pub metadata_percent: f64,
    /// Its size.
    pub size_bytes: u64,
    /// What the group around it has free.
    pub group_free_bytes: u64,
}

/// A volume's content held still for one backup.
///
/// Dropping it is [`BackupSnapshot::release`] without waiting.
#[derive(Debug)]
pub struct BackupSnapshot {
    /// Where the content is, or how to get it there.
    pub frozen: Frozen,
    /// How many bytes there are to read.
    pub size_bytes: u64,
    /// What the operator should know about this backup.
    pub warning: Option<String>,
    /// The moment whose content it is.
    pub created_at: SystemTime,
    /// The ranges that may hold data, where the group knows them.
    pub extents: Option<Vec<Extent>>,
    hold: Box<dyn Hold>,
}

/// Where the content of a [`BackupSnapshot`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frozen {
    /// It can be read here.
    Snapshot(PathBuf),
    /// The group cannot snapshot: the data path is to copy `from` to `to` and then to read `to`,
    /// which is as large as `from` and all zeros at first.
    NeedsCopy {
        /// The volume itself.
        from: PathBuf,
        /// An empty file that goes away with the [`BackupSnapshot`].
        to: PathBuf,
    },
}

/// What a group keeps for a [`BackupSnapshot`]. Its `Drop` releases as well, without waiting.
#[async_trait]
pub trait Hold: fmt::Debug + Send + Sync {
    /// Removes what was kept.
    async fn release(self: Box<Self>) -> Result<(), Error>;

    /// Whether what was kept is still what it was; see [`Still`].
    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Ends, with why, when what was kept has to be released before it was read; see [`Still`].
    async fn must_go(&self) -> String {
        pending().await
    }

    /// Removes what was kept, if that helps before [`Hold::release`]; see [`Still`].
    async fn let_go(&self) {}
}

#[async_trait]
impl Still for BackupSnapshot {
    async fn check(&self) -> Result<(), String> {
        self.hold.check().await
    }

    async fn must_go(&self) -> String {
        self.hold.must_go().await
    }

    async fn let_go(&self) {
        self.hold.let_go().await;
    }
}

impl BackupSnapshot {
    /// A snapshot without a warning, taken at `created_at`, that lasts as long as `hold`.
    pub fn new(
        frozen: Frozen,
        size_bytes: u64,
        created_at: SystemTime,
        hold: Box<dyn Hold>,
    ) -> BackupSnapshot {
        BackupSnapshot {
            frozen,
            size_bytes,
            warning: None,
            created_at,
            extents: None,
            hold,
        }
    }

    /// Removes the snapshot and waits until its room is free again.
    pub async fn release(self) -> Result<(), Error> {
        self.hold.release().await
    }
}

/// Why a volume group did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No published volume has this name.
    #[error("there is no volume {0}")]
    NotFound(VolumeName),

    /// A volume, published or pending, has this name.
    #[error("there is already a volume {0}; choose another name")]
    AlreadyExists(VolumeName),

    /// The group has not enough room.
    #[error(
        "{needed_bytes} bytes are needed and {free_bytes} are free; ask for less, or make room"
    )]
    NoSpace {
        /// What the call needs.
        needed_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },

    /// The group has not enough room, in a sentence of its own.
    #[error("{0}")]
    Full(String),

    /// Less was asked for than the volume has, whether or not it had so much when that was decided.
    #[error("volume {name} has {size_bytes} bytes; ask for at least as many")]
    TooSmall {
        /// The volume.
        name: VolumeName,
        /// Its size.
        size_bytes: u64,
    },

    /// The volume that was meant is gone, and another one has its name.
    #[error(
        "volume {0} was replaced by another of the same name since this was asked for; ask again"
    )]
    Replaced(VolumeName),

    /// A backup of the volume has to end first.
    #[error("volume {0} cannot be changed while it is being backed up")]
    BeingBackedUp(VolumeName),

    /// The group cannot do this, whatever its state; the sentence says why.
    #[error("{0}")]
    Unsupported(String),

    /// Something has the volume's device open; nothing was changed.
    #[error("volume {0} is in use: its device is mounted or held open")]
    InUse(VolumeName),

    /// Another daemon owns the group, or what one began there goes on.
    #[error("{group} is already served by another ringback{or}")]
    Owned {
        /// The group.
        group: String,
        /// What else it may be.
        or: &'static str,
    },

    /// The group is not there (any more).
    #[error("volume group {group} is not available: {reason}")]
    Unavailable {
        /// The group.
        group: String,
        /// What is missing.
        reason: String,
    },

    /// What the group recorded about a volume cannot be read.
    #[error("{path} does not describe a volume: {source}")]
    Damaged {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// A command of LVM, or of a tool beside it, failed.
    #[error("{command} failed ({status}): {reason}")]
    Command {
        /// Which.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        reason: String,
    },

    /// A command of LVM said what nobody understands.
    #[error("the report of lvm {command} cannot be read: {source}")]
    Report {
        /// Which.
        command: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// The system refused an operation.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: what was being done to `path`.
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_in_one_word_or_in_two() {
        let layout = |words: &[&str]| LayoutOptions {
            lvcreate_options: words.iter().map(|&word| word.to_owned()).collect(),
            ..LayoutOptions::default()
        };
        for said in [
            &["-i", "3"][..],
            &["-i3"],
            &["--stripes", "3"],
            &["--stripes=3"],
        ] {
            let words = [&["--type", "raid5"], said].concat();
            assert_eq!(layout(&words).stripes(), 3, "{words:?}");
        }
        for odd in [&["-i"][..], &["--stripesize", "3"], &["--ignoremonitoring"]] {
            assert_eq!(layout(odd).stripes(), 1, "{odd:?}");
        }
        for (kind, stripes) in [("raid1", 1), ("raid5_ls", 2), ("raid10", 2), ("raid6", 3)] {
            assert_eq!(layout(&["--type", kind]).stripes(), stripes, "{kind}");
        }
        let of_class = LayoutOptions {
            stripes: Some(2),
            ..layout(&["-i3"])
        };
        assert_eq!(of_class.stripes(), 2);
        for said in [&["-Zn"][..], &["-Z", "n"], &["--zero", "n"], &["--zero=n"]] {
            assert!(layout(said).says(["-Z", "--zero"]), "{said:?}");
        }
        assert!(!layout(&["--zeroes", "n"]).says(["-Z", "--zero"]));
    }
}
