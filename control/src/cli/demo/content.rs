//! Real data for the demo's volume: an ext4 filesystem with files of this machine where mkfs is
//! there, else the files themselves, one behind the other.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::RangeInclusive,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::cli::exit::CliError;

/// Where files are taken from, in this order.
const SOURCES: [&str; 5] = ["/usr/share", "/usr/lib", "/usr/bin", "/opt", "/etc"];
/// Many tiny files take long to copy and show nothing; large ones would be most of the demo.
const FILE_BYTES: RangeInclusive<u64> = 16 << 10..=32 << 20;
/// mkfs searches a whole folder for each file it adds.
const FOLDER_FILES_MAX: usize = 200;
/// What is added between the backups.
const CHANGE_BYTES: u64 = 6 << 20;
const BLOCK: usize = 1 << 20;

/// What the volume was filled with.
#[derive(Clone)]
pub(super) struct Content {
    kind: Kind,
    /// Files that are not in the volume yet.
    more: PathBuf,
    files: usize,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ext4,
    Raw,
}

/// BLAKE3, hexadecimal.
pub(super) struct Hash(pub(super) String);

/// Fills the volume with about `bytes` bytes of files; what was put there, and how much.
pub(super) fn fill(device: &Path, scratch: &Path, bytes: u64) -> Result<(Content, u64), CliError> {
    let (first, more) = (scratch.join("first"), scratch.join("more"));
    let mut wanted = Gatherer::new(&first, bytes)?;
    let mut later = Gatherer::new(&more, CHANGE_BYTES)?;
    for source in SOURCES {
        gather(Path::new(source), &mut wanted, &mut later);
    }
    if wanted.bytes == 0 {
        return Err(CliError::failed(format!(
            "there are no files to read in {SOURCES:?}"
        )));
    }
    let kind = match program("mkfs.ext4") {
        Some(mkfs) => {
            make_ext4(&mkfs, &first, device)?;
            Kind::Ext4
        }
        None => {
            write_raw(&first, device)?;
            Kind::Raw
        }
    };
    fs::remove_dir_all(&first).map_err(|error| failed("remove", &first, &error))?;
    let content = Content {
        kind,
        more,
        files: wanted.files,
        bytes: wanted.bytes,
    };
    Ok((content, wanted.bytes))
}

impl Content {
    pub(super) fn describe(&self) -> String {
        let how = match self.kind {
            Kind::Ext4 => "in an ext4 filesystem",
            Kind::Raw => "one behind the other",
        };
        format!("{} files of this machine, {how}", self.files)
    }

    /// Adds a few files to the volume; how much was written, and a note.
    pub(super) fn change(&self, device: &Path) -> Result<(u64, String), CliError> {
        let files = files_of(&self.more)?;
        let bytes = files.iter().map(|(_, bytes)| bytes).sum();
        let debugfs = program("debugfs").filter(|_| self.kind == Kind::Ext4);
        match debugfs {
            Some(debugfs) => {
                for (number, (path, _)) in files.iter().enumerate() {
                    let request = format!("write \"{}\" later-{number}", path.display());
                    run(Command::new(&debugfs)
                        .arg("-w")
                        .arg("-R")
                        .arg(request)
                        .arg(device))?;
                }
            }
            None => {
                let target = open_for_write(device)?;
                let mut at = self.bytes / 2 / BLOCK as u64 * BLOCK as u64;
                for (path, len) in &files {
                    let data = fs::read(path).map_err(|error| failed("read", path, &error))?;
                    target
                        .write_all_at(&data, at)
                        .map_err(|error| failed("write", device, &error))?;
                    at += len;
                }
            }
        }
        Ok((bytes, format!("{} more files", files.len())))
    }

    /// What else can be said of a restored volume.
    pub(super) fn check(&self, device: &Path) -> Result<String, CliError> {
        let fsck = program("e2fsck").filter(|_| self.kind == Kind::Ext4);
        match fsck {
            Some(fsck) => {
                run(Command::new(fsck).arg("-fn").arg(device))?;
                Ok("; e2fsck finds it clean".to_owned())
            }
            None => Ok(String::new()),
        }
    }
}

/// Copies files into a folder until it has enough.
struct Gatherer {
    folder: PathBuf,
    wanted: u64,
    bytes: u64,
    files: usize,
}

impl Gatherer {
    fn new(folder: &Path, wanted: u64) -> Result<Self, CliError> {
        fs::create_dir_all(folder).map_err(|error| failed("make", folder, &error))?;
        Ok(Self {
            folder: folder.to_owned(),
            wanted,
            bytes: 0,
            files: 0,
        })
    }

    /// Whether it took the file; one that cannot be read is passed over.
    fn take(&mut self, path: &Path, bytes: u64) -> bool {
        // A filesystem needs some of the room for itself.
        if self.bytes + bytes > self.wanted {
            return false;
        }
        let folder = self
            .folder
            .join(format!("{:03}", self.files / FOLDER_FILES_MAX));
        let to = folder.join(format!("{:03}", self.files % FOLDER_FILES_MAX));
        if fs::create_dir_all(&folder)
            .and_then(|()| fs::copy(path, to))
            .is_err()
        {
            return true;
        }
        self.bytes += bytes;
        self.files += 1;
        true
    }
}

/// Walks a folder in order of names, following no links.
fn gather(folder: &Path, wanted: &mut Gatherer, later: &mut Gatherer) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(found) = path.symlink_metadata() else {
            continue;
        };
        if found.is_dir() {
            gather(&path, wanted, later);
        } else if found.is_file() && FILE_BYTES.contains(&found.size()) {
            let taken = wanted.take(&path, found.size()) || later.take(&path, found.size());
            if !taken && wanted.bytes * 100 > wanted.wanted * 98 {
                return;
            }
        }
    }
}

fn make_ext4(mkfs: &Path, folder: &Path, device: &Path) -> Result<(), CliError> {
    run(Command::new(mkfs)
        .args(["-q", "-F", "-E", "lazy_itable_init=1", "-d"])
        .arg(folder)
        .arg(device))
}

fn write_raw(folder: &Path, device: &Path) -> Result<(), CliError> {
    let mut target = open_for_write(device)?;
    for (path, _) in files_of(folder)? {
        let copied = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut target));
        copied.map_err(|error| failed("copy", &path, &error))?;
    }
    target
        .flush()
        .map_err(|error| failed("write", device, &error))
}

/// The files that a [`Gatherer`] put into `folder`, and their sizes.
fn files_of(folder: &Path) -> Result<Vec<(PathBuf, u64)>, CliError> {
    let list = || -> io::Result<Vec<(PathBuf, u64)>> {
        let mut files = Vec::new();
        for inner in fs::read_dir(folder)? {
            for entry in fs::read_dir(inner?.path())? {
                let entry = entry?;
                files.push((entry.path(), entry.metadata()?.size()));
            }
        }
        files.sort();
        Ok(files)
    };
    list().map_err(|error| failed("list", folder, &error))
}

/// Compares all bytes of two volumes; their common hash and size.
pub(super) fn compare(left: &Path, right: &Path) -> Result<(Hash, u64), CliError> {
    let (mut left_file, mut right_file) = (open(left)?, open(right)?);
    let (mut a, mut b) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    loop {
        let len = read_block(&mut left_file, &mut a).map_err(|e| failed("read", left, &e))?;
        let other = read_block(&mut right_file, &mut b).map_err(|e| failed("read", right, &e))?;
        if a[..len] != b[..other] {
            return Err(CliError::failed(format!(
                "the restored volume differs from the original near byte {offset}"
            )));
        }
        if len == 0 {
            return Ok((Hash(hasher.finalize().to_hex().to_string()), offset));
        }
        hasher.update(&a[..len]);
        offset += len as u64;
    }
}

fn read_block(file: &mut File, block: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < block.len() {
        match file.read(&mut block[len..])? {
            0 => break,
            read => len += read,
        }
    }
    Ok(len)
}

fn open(path: &Path) -> Result<File, CliError> {
    File::open(path).map_err(|error| failed("open", path, &error))
}

/// For writing from the beginning, without making or cutting anything.
fn open_for_write(path: &Path) -> Result<File, CliError> {
    let open = || -> io::Result<File> {
        let mut file = File::options().write(true).open(path)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    };
    open().map_err(|error| failed("open", path, &error))
}

fn failed(what: &str, path: &Path, error: &io::Error) -> CliError {
    CliError::failed(format!("cannot {what} {}: {error}", path.display()))
}

/// A program in the path, or where administrators' programs are.
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

fn run(command: &mut Command) -> Result<(), CliError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| CliError::failed(format!("cannot run {name}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(CliError::failed(format!(
        "{name} failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )))
}
