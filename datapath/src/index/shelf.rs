//! The folder of the cache: which files there are, which go when there is no room.
//!
//! ```text
//! FOLDER/REPOSITORY/SEGMENT            copies; both names are hexadecimal
//! FOLDER/REPOSITORY/SEGMENT.RANDOM     one that is being written
//! ```
//!
//! Files come into being by a rename, so that a reader finds whole ones or none; nothing is synced,
//! for what a power cut leaves does not pass its checks. Several processes may use the folder at
//! once: each looks when it begins, so that for a while there may be more than the bound, and a
//! file that another removed is as good as one never written. What is not named like a file of the
//! cache is left alone.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, DirEntry, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use nix::{fcntl::OFlag, unistd::geteuid};

use crate::{
    format::{
        name::{PACK_NAME_BYTES, PackName, random},
        object::RepositoryId,
    },
    settings::CacheSettings,
};

/// Files that nobody has finished for so long, nobody will.
const ABANDONED_AGE: Duration = Duration::from_secs(3600);
/// Neither groups nor others may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The folder as one repository's backup sees it.
pub(super) struct Shelf {
    folder: PathBuf,
    bytes_max: u64,
    /// Of all copies, of whatever repository.
    bytes: u64,
    /// This repository's copies, by position among the live segments: the first go first.
    ours: BTreeMap<usize, Copy>,
    /// Those of other repositories, which go before; the oldest last.
    others: Vec<Copy>,
}

struct Copy {
    path: PathBuf,
    bytes: u64,
}

impl Shelf {
    /// Makes the folder if need be, looks what is in it, and removes what is of no use.
    pub(super) fn open(
        settings: &CacheSettings,
        repository: RepositoryId,
        live: &[PackName],
    ) -> io::Result<Self> {
        let own_folder = settings.folder.join(hex::encode(repository.0));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&own_folder)?;
        check_private(&settings.folder)?;
        let mut shelf = Self {
            folder: own_folder,
            bytes_max: settings.bytes_max,
            bytes: 0,
            ours: BTreeMap::new(),
            others: Vec::new(),
        };
        shelf.look_at_ours(live)?;
        shelf.look_at_others(&settings.folder)?;
        shelf.make_room(0, usize::MAX)?;
        Ok(shelf)
    }

    /// This repository's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a copy, if there is room for it without removing one of a later position.
    pub(super) fn keep(&mut self, name: PackName, position: usize, bytes: &[u8]) -> io::Result<()> {
        let path = file_of(&self.folder, name);
        if let Some(useless) = self.ours.remove(&position) {
            self.remove(&useless)?;
        }
        let len = bytes.len() as u64;
        if !self.make_room(len, position)? {
            return Ok(());
        }
        write(&path, bytes)?;
        self.bytes += len;
        self.ours.insert(position, Copy { path, bytes: len });
        Ok(())
    }

    /// Removes copies until there is room for so many bytes, of this repository only those before
    /// `position`; whether there is.
    fn make_room(&mut self, bytes: u64, position: usize) -> io::Result<bool> {
        while self.bytes.saturating_add(bytes) > self.bytes_max {
            let first_of_ours = self.ours.first_entry().filter(|it| *it.key() < position);
            let victim = match self.others.pop() {
                Some(other) => other,
                None => match first_of_ours {
                    Some(ours) => ours.remove(),
                    None => return Ok(false),
                },
            };
            self.remove(&victim)?;
        }
        Ok(true)
    }

    fn remove(&mut self, copy: &Copy) -> io::Result<()> {
        remove(&copy.path)?;
        self.bytes -= copy.bytes;
        Ok(())
    }

    fn look_at_ours(&mut self, live: &[PackName]) -> io::Result<()> {
        let positions: BTreeMap<_, _> = live.iter().zip(0..).collect();
        for (name, copy, _) in copies(&self.folder)? {
            match positions.get(&name) {
                Some(&position) => {
                    self.bytes += copy.bytes;
                    self.ours.insert(position, copy);
                }
                None => remove(&copy.path)?,
            }
        }
        Ok(())
    }

    fn look_at_others(&mut self, folder: &Path) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let is_repository = hex_name::<16>(&path).is_some() && path != self.folder;
            if is_repository && fs::symlink_metadata(&path)?.is_dir() {
                found.extend(copies(&path)?);
            }
        }
        found.sort_by_key(|(_, _, written)| std::cmp::Reverse(*written));
        self.bytes += found.iter().map(|(_, copy, _)| copy.bytes).sum::<u64>();
        self.others = found.into_iter().map(|(_, copy, _)| copy).collect();
        Ok(())
    }
}

/// Where a segment's copy lies in its repository's folder.
pub(super) fn file_of(folder: &Path, name: PackName) -> PathBuf {
    folder.join(hex::encode(name.as_bytes()))
}

/// Reads a copy. What is not a regular file is an error, and nothing that one could wait for.
pub(super) fn read(path: &Path) -> io::Result<Bytes> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut file = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// A check proves that a copy is what was written, not who wrote it: where others may write, they
/// could forge one that makes backups refer to the wrong chunks.
fn check_private(folder: &Path) -> io::Result<()> {
    let metadata = fs::metadata(folder)?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(io::Error::other("the folder belongs to another user"));
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(io::Error::other(
            "others may write to the folder; take the permission from them (chmod go-w)",
        ));
    }
    Ok(())
}

/// The copies in a repository's folder, with the time when each was written. Files that were
/// abandoned half written are removed.
fn copies(folder: &Path) -> io::Result<Vec<(PackName, Copy, SystemTime)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Some((metadata, written)) = regular(&entry) else {
            continue;
        };
        let path = entry.path();
        if path.extension().is_some() {
            let is_ours = hex_name::<PACK_NAME_BYTES>(&path.with_extension("")).is_some();
            if is_ours && written.elapsed().is_ok_and(|age| age > ABANDONED_AGE) {
                remove(&path)?;
            }
        } else if let Some(name) = hex_name::<PACK_NAME_BYTES>(&path) {
            let name = PackName::from_slice(&name).expect("it has the length of a name");
            let bytes = metadata.len();
            found.push((name, Copy { path, bytes }, written));
        }
    }
    Ok(found)
}

/// What is known of a regular file; one that another process removed meanwhile is none.
fn regular(entry: &DirEntry) -> Option<(fs::Metadata, SystemTime)> {
    let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
    let written = metadata.modified().ok()?;
    Some((metadata, written))
}

/// The bytes that a file's name stands for, in the one form that names have here.
fn hex_name<const N: usize>(path: &Path) -> Option<[u8; N]> {
    let name = path.file_name()?.to_str()?;
    let mut bytes = [0; N];
    hex::decode_to_slice(name, &mut bytes).ok()?;
    (hex::encode(bytes) == name).then_some(bytes)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension(hex::encode(random::<8>()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // What failed first is told; a file that stays behind goes when it is old.
        let _ = remove(&unfinished);
    }
    written
}

/// Removes a file, if another process did not do so before.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
