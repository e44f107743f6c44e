//! Targets: where a backup is restored to, and what may be lost by it.
//!
//! A device that the kernel uses is never written to. Whatever holds data is written over only
//! when the caller says so. A file comes into being under another name and takes its own when it
//! is whole; a device cannot.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, fchown},
    path::{Path, PathBuf},
};

use nix::{
    sys::statvfs::fstatvfs,
    unistd::{Whence, lseek64},
};
use ringback_datapath::{device, progress::Progress, restore::Ground, stop::Stop};
use tempfile::{NamedTempFile, PersistError};
use tonic::Code;

use super::{content, draft, failed, refused, thin::Thin, users};
use crate::failure::Failure;

/// Zeroed at once: between two of these a restore can be given up.
const ZERO_STEP_BYTES: u64 = 256 << 20;

/// A place that may be written to.
pub(super) enum Target {
    Device(DeviceTarget),
    File(FileTarget),
}

/// A block device that nobody else can mount meanwhile.
pub(super) struct DeviceTarget {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    claim: File,
}

/// A regular file, there or not.
pub(super) struct FileTarget {
    pub(super) path: PathBuf,
    /// What it takes the place of.
    replaced: Option<Metadata>,
    /// Size of a file of holes that was made for this.
    pub(super) made_bytes: u64,
}

impl Target {
    /// Judges what is at `path`. Nothing is written.
    pub(super) fn judge(path: &Path, overwrite: bool) -> Result<Self, Failure> {
        let about = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return new_file(path),
            Err(error) => return Err(failed("inspect", path, &error)),
            Ok(_) => fs::metadata(path).map_err(|error| failed("follow the link", path, &error))?,
        };
        let path = fs::canonicalize(path).map_err(|error| failed("find", path, &error))?;
        if about.file_type().is_block_device() {
            judge_device(path, &about, overwrite).map(Self::Device)
        } else if about.is_file() {
            judge_file(path, about, overwrite).map(Self::File)
        } else {
            Err(Failure::new(
                Code::InvalidArgument,
                format!(
                    "{} is neither a block device nor a regular file; name one, or a file that is \
                     not there yet",
                    path.display()
                ),
            ))
        }
    }
}

fn new_file(path: &Path) -> Result<Target, Failure> {
    let Some(name) = path.file_name() else {
        let message = format!("{} names no file", path.display());
        return Err(Failure::new(Code::InvalidArgument, message));
    };
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = fs::canonicalize(folder).map_err(|error| failed("find", folder, &error))?;
    Ok(Target::File(FileTarget {
        path: folder.join(name),
        replaced: None,
        made_bytes: 0,
    }))
}

fn judge_device(path: PathBuf, about: &Metadata, overwrite: bool) -> Result<DeviceTarget, Failure> {
    let claimed = users::claim(&path, true).map_err(|error| failed("open", &path, &error))?;
    let claim = claimed.ok_or_else(|| in_use(&path, &users::of_device(about)))?;
    check_writers(&path, about)?;
    let inspect_failed = |error: io::Error| failed("inspect", &path, &error);
    if !overwrite && !content::has_blank_edges(&claim).map_err(inspect_failed)? {
        let found = content::name(&path)
            .unwrap_or_else(|| "data (its first or last MiB is not all zeros)".to_owned());
        return Err(holds(&path, &found));
    }
    let end = lseek64(&claim, 0, Whence::SeekEnd).map_err(|error| inspect_failed(error.into()))?;
    let bytes = u64::try_from(end).map_err(|error| inspect_failed(io::Error::other(error)))?;
    Ok(DeviceTarget { path, bytes, claim })
}

fn judge_file(path: PathBuf, about: Metadata, overwrite: bool) -> Result<FileTarget, Failure> {
    check_writers(&path, &about)?;
    let is_hole = File::open(&path)
        .and_then(|file| content::is_hole(&file))
        .map_err(|error| failed("inspect", &path, &error))?;
    if !is_hole && !overwrite {
        let found = content::name(&path).unwrap_or_else(|| "data".to_owned());
        return Err(holds(&path, &found));
    }
    Ok(FileTarget {
        path,
        made_bytes: if is_hole { about.len() } else { 0 },
        replaced: Some(about),
    })
}

fn check_writers(path: &Path, about: &Metadata) -> Result<(), Failure> {
    let writers = users::writers(about);
    if writers.is_empty() {
        return Ok(());
    }
    let uses = format!("{} has it open for writing", writers.join(", "));
    Err(in_use(path, &uses))
}

fn in_use(path: &Path, uses: &str) -> Failure {
    refused(format!(
        "{} is in use: {uses}. Free it first; nothing is restored over what is in use",
        path.display()
    ))
}

fn holds(path: &Path, found: &str) -> Failure {
    refused(format!(
        "{} holds {found}, which a restore would destroy; choose another target, or pass \
         --overwrite",
        path.display()
    ))
}

impl DeviceTarget {
    /// Makes all of it read as zeros, as restores need it: from here on what it held is lost. What
    /// it is like then. Told to stop, it ends early.
    pub(super) fn zero(&self, zeroing: &Progress, stop: &Stop) -> Result<Ground, Failure> {
        zeroing.set_total(self.bytes);
        let (mut start, mut ground) = (0, Ground::Zeros);
        if let Some(thin) = Thin::of(&self.claim) {
            start = thin.empty(&self.claim, self.bytes, stop);
            if start > 0 {
                ground = thin.ground();
            }
        }
        zeroing.add_done(start);
        while start < self.bytes && !stop.is_asked() {
            let step = ZERO_STEP_BYTES.min(self.bytes - start);
            device::zero_range(&self.claim, start, step)
                .map_err(|error| failed("fill with zeros", &self.path, &error))?;
            start += step;
            zeroing.add_done(step);
        }
        Ok(ground)
    }
}

/// A file that is being filled. Dropped unfinished, it is gone.
pub(super) struct Unfinished {
    target: FileTarget,
    file: NamedTempFile,
}

impl FileTarget {
    /// Makes the file, all holes, under another name beside its own.
    pub(super) fn begin(self, bytes: u64, stored_bytes: u64) -> Result<Unfinished, Failure> {
        let folder = self.path.parent().expect("a file lies in a folder");
        let make_failed = |error: io::Error| failed("make a file in", folder, &error);
        let name = self.path.file_name().unwrap_or_default();
        let file = draft::begin(folder, name).map_err(make_failed)?;
        check_room(&self.path, file.as_file(), stored_bytes)?;
        file.as_file().set_len(bytes).map_err(make_failed)?;
        if let Some(replaced) = &self.replaced {
            // Who may not give files away keeps this one.
            let _ = fchown(file.as_file(), Some(replaced.uid()), Some(replaced.gid()));
        }
        Ok(Unfinished { target: self, file })
    }
}

fn check_room(path: &Path, file: &File, needed_bytes: u64) -> Result<(), Failure> {
    let space = fstatvfs(file).map_err(|error| failed("inspect", path, &error.into()))?;
    let free_bytes = space
        .blocks_available()
        .saturating_mul(space.fragment_size());
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    Err(Failure::new(
        Code::ResourceExhausted,
        format!(
            "the backup's data takes {needed_bytes} bytes, the filesystem of {} has {free_bytes} \
             free",
            path.display()
        ),
    ))
}

impl Unfinished {
    /// Where it is for now.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Gives the file its name, for good, unless something has got in its way.
    pub(super) fn publish(self) -> Result<(), Failure> {
        let Self { target, file } = self;
        let path = &target.path;
        let name_failed =
            |error: io::Error| failed("give the restored file its name", path, &error);
        let named = match &target.replaced {
            None => file.persist_noclobber(path),
            Some(replaced) => {
                file.as_file()
                    .set_permissions(replaced.permissions())
                    .map_err(name_failed)?;
                if let Err(refusal) = check_unused(path, replaced) {
                    return Err(kept(file, refusal));
                }
                file.persist(path)
            }
        };
        match named {
            Err(PersistError { error, file }) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(kept(file, changed_meanwhile(path)));
            }
            named => named.map_err(|error| name_failed(error.error))?,
        };
        let folder = path.parent().expect("a file lies in a folder");
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(name_failed)
    }
}

/// Keeps what was restored by a name of its own, when it cannot have the one that it was made for.
fn kept(file: NamedTempFile, mut refusal: Failure) -> Failure {
    if let Ok(path) = draft::keep(file) {
        let told = format!("; what was restored is {}", path.display());
        refusal.message.push_str(&told);
    }
    refusal
}

/// The last look at what is about to be replaced.
fn check_unused(path: &Path, before: &Metadata) -> Result<(), Failure> {
    check_writers(path, before)?;
    if is_as_it_was(path, before) {
        return Ok(());
    }
    Err(changed_meanwhile(path))
}

fn is_as_it_was(path: &Path, before: &Metadata) -> bool {
    fs::symlink_metadata(path).is_ok_and(|now| {
        let facts = |it: &Metadata| (it.dev(), it.ino(), it.len(), it.mtime(), it.mtime_nsec());
        facts(&now) == facts(before)
    })
}

fn changed_meanwhile(path: &Path) -> Failure {
    refused(format!(
        "{} was made or changed by somebody else while the backup was restored; nothing was \
         written over",
        path.display()
    ))
}
