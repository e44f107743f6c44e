//! Sources: a device or a file to be backed up, which must stand still meanwhile.

use std::{
    fs::{self, File, Metadata},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{failed, identity, refused, users};
use crate::failure::Failure;

/// What to do about a source that may change while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// It is refused.
    Refuse,
    /// It is read as it is; the backup may be torn.
    Accept,
}

/// A source that may be read. While this lives, a device is not mounted by anybody else unless it
/// already was.
pub(super) struct Source {
    /// Where it is, links followed.
    pub(super) path: PathBuf,
    /// What it is.
    pub(super) identity: String,
    /// Why the backup may be torn, if it may.
    pub(super) warning: Option<String>,
    before: State,
    _claim: File,
}

/// What shows that a file changed.
#[derive(PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    bytes: u64,
    /// `None` for devices, whose nodes do not know.
    modified: Option<SystemTime>,
}

impl Source {
    /// Opens what is at `path`, unless it is in use.
    pub(super) fn open(path: &Path, motion: Motion) -> Result<Self, Failure> {
        let path = fs::canonicalize(path).map_err(|error| failed("find", path, &error))?;
        let about = fs::metadata(&path).map_err(|error| failed("inspect", &path, &error))?;
        let (claim, uses) = if about.file_type().is_block_device() {
            claim_device(&path, &about)?
        } else if about.is_file() {
            let file = File::open(&path).map_err(|error| failed("open", &path, &error))?;
            (file, None)
        } else {
            return Err(Failure::new(
                tonic::Code::InvalidArgument,
                format!(
                    "{} is neither a block device nor a regular file; ringback backs up whole \
                     volumes",
                    path.display()
                ),
            ));
        };
        let uses = uses.or_else(|| written_by(&about));
        let warning = match (uses, motion) {
            (None, _) => None,
            (Some(uses), Motion::Refuse) => return Err(in_use(&path, &about, &uses)),
            (Some(uses), Motion::Accept) => Some(format!(
                "{uses}, and may have changed while it was read: the backup is not certain to be \
                 one moment's state, nor crash-consistent"
            )),
        };
        Ok(Self {
            identity: identity::of(&path, &about),
            before: State::of(&about),
            path,
            warning,
            _claim: claim,
        })
    }

    /// What has become of the source since it was opened, if anything has.
    pub(super) fn change(&self) -> Option<String> {
        let Ok(now) = fs::metadata(&self.path) else {
            return Some("is no longer there".to_owned());
        };
        let (before, now) = (&self.before, State::of(&now));
        if *before == now {
            return None;
        }
        Some(
            if (before.device, before.inode) != (now.device, now.inode) {
                "was replaced by another".to_owned()
            } else if before.bytes != now.bytes {
                format!("went from {} to {} bytes", before.bytes, now.bytes)
            } else {
                "was written to".to_owned()
            },
        )
    }
}

impl State {
    fn of(about: &Metadata) -> Self {
        let is_device = about.file_type().is_block_device();
        Self {
            device: if is_device { about.rdev() } else { about.dev() },
            inode: if is_device { 0 } else { about.ino() },
            bytes: about.len(),
            modified: about.modified().ok().filter(|_| !is_device),
        }
    }
}

/// A device, for us alone if it is free; otherwise who has it.
fn claim_device(path: &Path, about: &Metadata) -> Result<(File, Option<String>), Failure> {
    let open_failed = |error| failed("open", path, &error);
    match users::claim(path, false).map_err(open_failed)? {
        Some(file) => Ok((file, None)),
        None => {
            let file = File::open(path).map_err(open_failed)?;
            Ok((file, Some(users::of_device(about))))
        }
    }
}

fn written_by(about: &Metadata) -> Option<String> {
    let writers = users::writers(about);
    (!writers.is_empty()).then(|| format!("{} has it open for writing", writers.join(", ")))
}

fn in_use(path: &Path, about: &Metadata, uses: &str) -> Failure {
    let is_logical_volume = fs::read_to_string(users::sys_folder(about).join("dm/uuid"))
        .is_ok_and(|uuid| uuid.starts_with("LVM-"));
    let instead = if is_logical_volume {
        "back up a snapshot of it (lvcreate --snapshot; ringback does not yet take one by itself)"
    } else {
        "free it first"
    };
    refused(format!(
        "{} is in use: {uses}. A backup of what changes meanwhile may be torn: {instead}, or take \
         it as it is with --live",
        path.display()
    ))
}
