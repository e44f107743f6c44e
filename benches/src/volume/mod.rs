//! The volumes that are backed up: made from seeds, once, and kept.
//!
//! Volumes are files here, every byte of them allocated, or a device that is given. A file that is
//! no longer what it was when it was made, because a run that had changed it was ended, is noticed
//! by its hash and made again.

mod aged;
mod changes;
mod database;
pub mod patterns;

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use ringback_datapath::device;
use serde::{Deserialize, Serialize};

pub use self::changes::Changes;
use crate::{
    error::{Error, Located},
    units::MIB,
};

/// Changes when volumes of the same name shall have other bytes.
const RECIPE: u32 = 1;

/// What is in a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Half random, a quarter text that compresses well, a quarter zeros, in runs of 16 MiB.
    Mixed,
    /// Random throughout.
    Random,
    /// An ext4 filesystem that was filled, half emptied and filled again.
    Aged,
    /// An ext4 filesystem with an SQLite database that was written to in random order.
    Database,
}

/// A volume that is ready to be backed up.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of all of it, hexadecimal.
    pub blake3: String,
    /// What is in it, for people.
    pub content: String,
    /// Whether it is ours to write to.
    pub may_change: bool,
}

/// What is written beside a volume when it is whole.
#[derive(Serialize, Deserialize)]
struct Recorded {
    bytes: u64,
    blake3: String,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::Random => "random",
            Self::Aged => "aged",
            Self::Database => "database",
        }
    }

    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Mixed => "mixed: half random, a quarter compressible text, a quarter zeros",
            Self::Random => "random",
            Self::Aged => "aged: an ext4 filesystem, filled, half emptied, filled again",
            Self::Database => "database: an SQLite file on ext4, written to in random order",
        }
    }

    /// The volume of this kind and size in `folder`, made now if it is not there as it should be.
    pub fn volume(self, size_mib: u64, folder: &Path) -> Result<Volume, Error> {
        let stem = format!("{}-{size_mib}-{RECIPE}", self.name());
        let path = folder.join(format!("{stem}.img"));
        let note = folder.join(format!("{stem}.json"));
        let recorded = match recorded(&note) {
            Some(recorded) if is_as_recorded(&path, &recorded) => recorded,
            _ => self.make(size_mib, &path, &note)?,
        };
        Ok(Volume {
            path,
            bytes: recorded.bytes,
            blake3: recorded.blake3,
            content: self.describe().to_owned(),
            may_change: true,
        })
    }

    fn make(self, size_mib: u64, path: &Path, note: &Path) -> Result<Recorded, Error> {
        eprintln!("making the volume {} ...", path.display());
        let _ = fs::remove_file(note);
        self.fill(size_mib, path)?;
        let recorded = Recorded {
            bytes: size_mib * MIB,
            blake3: hash(path)?,
        };
        let json = serde_json::to_vec(&recorded).expect("plain values");
        fs::write(note, json).at("write", note)?;
        Ok(recorded)
    }

    /// Writes a new volume of this kind at `path`.
    pub fn fill(self, size_mib: u64, path: &Path) -> Result<(), Error> {
        let bytes = size_mib * MIB;
        match self {
            Self::Mixed => write_runs(path, bytes, patterns::mixed_run),
            Self::Random => write_runs(path, bytes, patterns::random_run),
            Self::Aged => aged::make(path, bytes),
            Self::Database => database::make(path, bytes),
        }
    }
}

/// Makes a volume at `path` with the help of a folder beside it, which is gone afterwards.
fn with_scratch(path: &Path, make: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let scratch = path.with_extension("files");
    let _ = fs::remove_dir_all(&scratch);
    let made = make(&scratch);
    let _ = fs::remove_dir_all(&scratch);
    made
}

impl Volume {
    /// Size of a file or a device, in bytes.
    pub fn size_of(path: &Path) -> Result<u64, Error> {
        Ok(device::open_for_read(path, false)?.size_bytes)
    }

    /// A device, or a file of somebody else's: it is read as it is.
    pub fn given(path: &Path) -> Result<Self, Error> {
        let bytes = Self::size_of(path)?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
            blake3: hash(path)?,
            content: "what the device holds".to_owned(),
            may_change: false,
        })
    }
}

fn recorded(note: &Path) -> Option<Recorded> {
    serde_json::from_slice(&fs::read(note).ok()?).ok()
}

fn is_as_recorded(path: &Path, recorded: &Recorded) -> bool {
    let has_size = fs::metadata(path).is_ok_and(|about| about.len() == recorded.bytes);
    has_size && hash(path).is_ok_and(|found| found == recorded.blake3)
}

/// Writes a file in runs of at most 16 MiB; `fill` makes each from its number.
fn write_runs(path: &Path, bytes: u64, fill: fn(u64, &mut [u8])) -> Result<(), Error> {
    let mut file = File::create(path).at("make", path)?;
    let mut run = vec![0; patterns::RUN_BYTES];
    let mut left = bytes;
    let mut number = 0;
    while left > 0 {
        let len = run.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        fill(number, &mut run[..len]);
        file.write_all(&run[..len]).at("write", path)?;
        left -= len as u64;
        number += 1;
    }
    file.sync_all().at("sync", path)
}

/// BLAKE3 of a file or device, hexadecimal.
pub fn hash(path: &Path) -> Result<String, Error> {
    hash_start(path, u64::MAX)
}

/// BLAKE3 of its first `bytes`, or of all of it when it is shorter.
pub fn hash_start(path: &Path, bytes: u64) -> Result<String, Error> {
    let mut file = File::open(path).at("open", path)?.take(bytes);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).at("read", path)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            len => hasher.update(&buffer[..len]),
        };
    }
}

/// Makes the next reader of a file go to the disk: what is cached of it is written and dropped.
pub fn drop_from_cache(path: &Path) -> Result<(), Error> {
    let file = File::open(path).at("open", path)?;
    file.sync_all().at("sync", path)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .map_err(io::Error::from)
        .at("drop from the cache", path)
}

/// Allocates what is still a hole in a file, so that reading it costs what reading a device costs.
fn fill_holes(path: &Path, bytes: u64) -> Result<(), Error> {
    let copy = path.with_extension("filled");
    let mut from = File::open(path).at("open", path)?;
    let mut to = BufWriter::with_capacity(1 << 20, File::create(&copy).at("make", &copy)?);
    let copied = io::copy(&mut Read::by_ref(&mut from).take(bytes), &mut to).at("write", &copy)?;
    if copied != bytes {
        return Err(Error::Other(format!("{} is not whole", path.display())));
    }
    let to = to.into_inner().map_err(io::IntoInnerError::into_error);
    to.at("write", &copy)?.sync_all().at("sync", &copy)?;
    fs::rename(&copy, path).at("rename", &copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_made_once_and_again_when_it_was_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Workload::Mixed.volume(33, folder.path()).expect("made");
        assert_eq!(first.bytes, 33 << 20);
        let written = fs::metadata(&first.path).and_then(|it| it.modified());
        let again = Workload::Mixed.volume(33, folder.path()).expect("found");
        assert_eq!(again.blake3, first.blake3);
        let kept = fs::metadata(&first.path).and_then(|it| it.modified());
        assert_eq!(
            written.expect("time"),
            kept.expect("time"),
            "not made again"
        );

        Changes::apply(&first, 7, 3).expect("changed");
        assert_ne!(hash(&first.path).expect("hash"), first.blake3);
        let restored = Workload::Mixed.volume(33, folder.path()).expect("made");
        assert_eq!(hash(&restored.path).expect("hash"), first.blake3);
    }
}
