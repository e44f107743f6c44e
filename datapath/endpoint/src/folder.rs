//! Objects as files below a folder.
//!
//! ```text
//! FOLDER/.lock               held by the endpoint that has the folder
//! FOLDER/.partial/           bodies on their way in and parts of uploads; emptied at start
//! FOLDER/BUCKET/NAME         one object: its bytes, then a trailer
//! ```
//!
//! NAME is the key with all but letters, digits, `-`, `_` and inner dots percent-escaped, slashes
//! too: one flat folder per bucket, in which `..`, empty components or a key `a` next to a key
//! `a/b` are nothing special. Names that would be too long are cut and end in `~` and an id. What
//! counts is the key in the trailer:
//!
//! ```text
//! bytes | attributes in JSON | length of the JSON, u32 LE | length of the bytes, u64 LE | "rbobject"
//! ```
//!
//! A file appears under its name by a rename when it is complete, so that the end of the process at
//! any time leaves old or new.

use std::fmt::Write as _;
use std::fs::{self, DirEntry, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::Error;
use crate::content::{Content, Draft, TemporaryFile};
use crate::store::{Attributes, Object, Part};

const LOCK_NAME: &str = ".lock";
const PARTIAL_NAME: &str = ".partial";
const MAGIC: &[u8; 8] = b"rbobject";
const TAIL_LEN: usize = 4 + 8 + MAGIC.len();

/// Linux allows 255 bytes; the rest is room for `~` and an id.
const NAME_LEN_MAX: usize = 200;

/// The attributes of one object take at most S3's 2 KiB of metadata, a key, and some digests.
const ATTRIBUTES_LEN_MAX: u32 = 64 * 1024;

/// A folder that belongs to this process until it is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if need be, locks it, and throws away what earlier processes left
    /// unfinished.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let folder_error = |source| Error::Folder {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(folder_error)?;
        let lock = File::create(path.join(LOCK_NAME)).map_err(folder_error)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::FolderInUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(folder_error(source)),
        }
        let partial = path.join(PARTIAL_NAME);
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(folder_error)?;
        }
        fs::create_dir(&partial).map_err(folder_error)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where a body may be written while it comes in. The file does not exist yet.
    pub(crate) fn temporary(&self, id: &str) -> TemporaryFile {
        TemporaryFile::new(self.path.join(PARTIAL_NAME).join(id))
    }

    pub(crate) fn create_bucket(&self, name: &str) -> io::Result<()> {
        fs::create_dir(self.path.join(name))
    }

    /// The buckets there are, with their ages.
    pub(crate) fn buckets(&self) -> Result<Vec<(String, SystemTime)>, Error> {
        let mut buckets = Vec::new();
        for entry in entries(&self.path)? {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let is_folder = entry.file_type().is_ok_and(|found| found.is_dir());
            if is_folder && s3s::path::check_bucket_name(&name) {
                let metadata = entry
                    .metadata()
                    .and_then(|metadata| metadata.created().or(metadata.modified()));
                buckets.push((name, metadata.unwrap_or(SystemTime::UNIX_EPOCH)));
            }
        }
        Ok(buckets)
    }

    /// The objects in a bucket. Files that are none are left alone, with a warning.
    pub(crate) fn objects(&self, bucket: &str) -> Result<Vec<Object>, Error> {
        let mut objects = Vec::new();
        for entry in entries(&self.path.join(bucket))? {
            let path = entry.path();
            match read_trailer(&path) {
                Ok((attributes, len)) => objects.push(Object {
                    attributes,
                    content: Content::File { path, len },
                }),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "not an object, passed over");
                }
            }
        }
        Ok(objects)
    }

    /// The place of a new object. `id` is unique to it.
    pub(crate) fn place(&self, bucket: &str, key: &str, id: &str) -> PathBuf {
        let mut name = escape(key);
        if name.len() > NAME_LEN_MAX {
            name.truncate(NAME_LEN_MAX);
            name = format!("{name}~{id}");
        }
        self.path.join(bucket).join(name)
    }

    /// Appends the trailer to a file that holds the bytes of an object.
    pub(crate) fn seal(file: &TemporaryFile, len: u64, attributes: &Attributes) -> io::Result<()> {
        let json = serde_json::to_vec(attributes)?;
        let json_len = u32::try_from(json.len()).map_err(io::Error::other)?;
        let mut trailer = json;
        trailer.extend_from_slice(&json_len.to_le_bytes());
        trailer.extend_from_slice(&len.to_le_bytes());
        trailer.extend_from_slice(MAGIC);
        OpenOptions::new()
            .append(true)
            .open(file.path())?
            .write_all(&trailer)
    }

    /// Copies the bytes of parts, one after the other, into a new file: in the kernel, or shared
    /// where the file system can.
    pub(crate) fn join(file: TemporaryFile, parts: &[Arc<Part>]) -> io::Result<Draft> {
        let mut joined = File::create_new(file.path())?;
        let mut len = 0;
        for part in parts {
            let Draft::File { file: part, .. } = &part.draft else {
                return Err(io::Error::other(
                    "a part in memory in a store with a folder",
                ));
            };
            len += io::copy(&mut File::open(part.path())?, &mut joined)?;
        }
        Ok(Draft::File { file, len })
    }
}

fn entries(path: &Path) -> Result<Vec<DirEntry>, Error> {
    let folder_error = |source| Error::Folder {
        path: path.to_owned(),
        source,
    };
    fs::read_dir(path)
        .map_err(folder_error)?
        .collect::<io::Result<_>>()
        .map_err(folder_error)
}

fn read_trailer(path: &Path) -> io::Result<(Attributes, u64)> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut file = File::open(path)?;
    let file_len = file.metadata()?.len();
    let Some(tail_start) = file_len.checked_sub(TAIL_LEN as u64) else {
        return Err(damaged("too short"));
    };
    let (mut json_len, mut len, mut magic) = ([0; 4], [0; 8], [0; 8]);
    file.seek(SeekFrom::Start(tail_start))?;
    file.read_exact(&mut json_len)?;
    file.read_exact(&mut len)?;
    file.read_exact(&mut magic)?;
    let (json_len, len) = (u32::from_le_bytes(json_len), u64::from_le_bytes(len));
    let lens_agree = len.checked_add(u64::from(json_len)) == Some(tail_start);
    if magic != *MAGIC || json_len > ATTRIBUTES_LEN_MAX || !lens_agree {
        return Err(damaged("no trailer"));
    }
    file.seek(SeekFrom::Start(len))?;
    let attributes = serde_json::from_reader(file.take(u64::from(json_len)))?;
    Ok((attributes, len))
}

fn escape(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if !name.is_empty() => name.push('.'),
            _ => write!(name, "%{byte:02X}").expect("writing to a String does not fail"),
        }
    }
    name
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_safe_distinct_and_short() {
        let long = "long/".repeat(200);
        let keys = [
            "a", "a/b", "a//b", "/", "..", "../a", ".hidden", "a~b", "a%2Fb", "ä", "A", "a.", &long,
        ];
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        folder.create_bucket("bucket").unwrap();
        let names: BTreeSet<String> = keys
            .iter()
            .map(|key| {
                let place = folder.place("bucket", key, "0123456789abcdef");
                assert_eq!(
                    place.parent().unwrap(),
                    dir.path().join("bucket"),
                    "{key:?} escapes"
                );
                File::create_new(&place).unwrap();
                place.file_name().unwrap().to_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(names.len(), keys.len());
        assert!(
            names
                .iter()
                .all(|name| !name.starts_with('.') && name.len() < 255)
        );
    }

    #[test]
    fn a_folder_has_one_endpoint_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert!(matches!(
            Folder::open(dir.path()),
            Err(Error::FolderInUse { .. })
        ));
        drop(folder);
        Folder::open(dir.path()).unwrap();
    }

    #[test]
    fn a_cut_or_foreign_file_is_not_an_object() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for bytes in [
            b"".as_slice(),
            b"short",
            &[0; 100],
            b"....................rbobject",
        ] {
            fs::write(&path, bytes).unwrap();
            assert!(read_trailer(&path).is_err());
        }
    }
}
