//! What lies where in a Directory group's folder, and how it is changed durably.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    names::VolumeName,
    volume::{Error, ownership},
};

/// A program that the last owner was about to run has its lock for a moment more: from fork(2) to
/// execve(2), which closes it.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

const IMAGE: &str = "image";
const DESCRIPTION: &str = "volume.json";

/// The folder of a group, locked for this process.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    /// Holds the lock for as long as it is open.
    _lock: File,
}

/// The parts of a group's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Volumes,
    Pending,
    Trash,
    Temporary,
}

/// A volume's `volume.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    /// A random UUID.
    pub(super) identity: String,
    pub(super) tags: Vec<String>,
    /// Whether its device refuses writes.
    #[serde(default)]
    pub(super) read_only: bool,
    /// The identity of the volume it is a snapshot of: they may share blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<String>,
}

/// A volume's folder, read.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: VolumeName,
    pub(super) image: PathBuf,
    pub(super) metadata: Metadata,
    pub(super) description: Description,
}

impl Part {
    const ALL: [Part; 4] = [Part::Volumes, Part::Pending, Part::Trash, Part::Temporary];

    fn folder_name(self) -> &'static str {
        match self {
            Part::Volumes => "volumes",
            Part::Pending => "pending",
            Part::Trash => "trash",
            Part::Temporary => "temporary",
        }
    }
}

impl Layout {
    /// Makes the folders that are missing and takes the lock.
    pub(super) fn open(root: &Path) -> Result<Layout, Error> {
        make_folders(root)?;
        let root = root.canonicalize().map_err(Error::io("resolve", root))?;
        let group = root.display().to_string();
        let lock = ownership::take(&root.join("lock"), &group, "", LOCK_PATIENCE)?;
        let layout = Layout { root, _lock: lock };
        for part in Part::ALL {
            make_folders(&layout.part(part))?;
        }
        sync_folder(&layout.root)?;
        Ok(layout)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn part(&self, part: Part) -> PathBuf {
        self.root.join(part.folder_name())
    }

    /// The folder of a volume, in `volumes` or `pending`.
    pub(super) fn folder(&self, part: Part, name: &VolumeName) -> PathBuf {
        self.part(part).join(name.as_str())
    }

    /// A path in `trash` or `temporary` that nothing else has.
    pub(super) fn random(&self, part: Part) -> Result<PathBuf, Error> {
        Ok(self.part(part).join(random_uuid()?))
    }

    /// What lies in one part, by file name.
    pub(super) fn entries(&self, part: Part) -> Result<BTreeMap<String, PathBuf>, Error> {
        let folder = self.part(part);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Unavailable {
                    group: self.root.display().to_string(),
                    reason: format!("the folder {} is gone", folder.display()),
                });
            }
            other => other.map_err(Error::io("list", &folder))?,
        };
        let mut found = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &folder))?;
            let file_name = entry.file_name().to_string_lossy().into_owned();
            found.insert(file_name, entry.path());
        }
        Ok(found)
    }

    /// What lies in one part and has the name and kind of what is made there; the rest is somebody
    /// else's.
    pub(super) fn own_entries(&self, part: Part) -> Result<Vec<PathBuf>, Error> {
        let entries = self.entries(part)?.into_iter();
        let own = entries.filter(|(file_name, path)| {
            let is_folder = fs::symlink_metadata(path).is_ok_and(|it| it.is_dir());
            match part {
                Part::Volumes | Part::Pending => is_folder && name_of(file_name).is_some(),
                Part::Temporary => !is_folder && is_uuid(file_name),
                Part::Trash => is_uuid(file_name),
            }
        });
        Ok(own.map(|(_, path)| path).collect())
    }

    /// The volume in `folder`; `None` when it holds no image.
    pub(super) fn read(&self, name: VolumeName, folder: &Path) -> Result<Option<Entry>, Error> {
        let image = image_in(folder);
        let Some(metadata) = image_metadata(&image)? else {
            return Ok(None);
        };
        let Some(description) = read_description(folder)? else {
            // Removed since the look at the image; or never described, which its owner must see.
            return match image_metadata(&image)? {
                None => Ok(None),
                Some(_) => Err(Error::io("read", &folder.join(DESCRIPTION))(
                    io::ErrorKind::NotFound.into(),
                )),
            };
        };
        Ok(Some(Entry {
            name,
            image,
            metadata,
            description,
        }))
    }

    /// Takes something out of its part, in one step; returns where it lies now.
    pub(super) fn move_to_trash(&self, path: &Path) -> Result<PathBuf, Error> {
        let trash = self.random(Part::Trash)?;
        fs::rename(path, &trash).map_err(Error::io("move to the trash", path))?;
        if let Some(parent) = path.parent() {
            sync_folder(parent)?;
        }
        Ok(trash)
    }
}

pub(super) fn image_in(folder: &Path) -> PathBuf {
    folder.join(IMAGE)
}

/// The image's metadata; `None` when there is no image.
pub(super) fn image_metadata(image: &Path) -> Result<Option<Metadata>, Error> {
    match fs::symlink_metadata(image) {
        Ok(metadata) => Ok(metadata.is_file().then_some(metadata)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::io("inspect", image)(error)),
    }
}

/// The description; `None` when there is none.
pub(super) fn read_description(folder: &Path) -> Result<Option<Description>, Error> {
    let path = folder.join(DESCRIPTION);
    let text = match fs::read(&path) {
        Err(error) if is_absent(&error) => return Ok(None),
        other => other.map_err(Error::io("read", &path))?,
    };
    let description =
        serde_json::from_slice(&text).map_err(|source| Error::Damaged { path, source })?;
    Ok(Some(description))
}

/// Writes the description of a volume that has none yet, durably but for its folder's entry.
pub(super) fn write_description(folder: &Path, description: &Description) -> Result<(), Error> {
    let path = folder.join(DESCRIPTION);
    let text = serde_json::to_vec_pretty(description)
        .expect("strings and booleans are always written as JSON");
    let write = || {
        let mut file = private().write(true).create_new(true).open(&path)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    write().map_err(Error::io("write", &path))
}

/// Makes a sparse file of this size.
pub(super) fn create_image(image: &Path, size_bytes: u64) -> Result<(), Error> {
    let create = || {
        private()
            .write(true)
            .create_new(true)
            .open(image)?
            .set_len(size_bytes)
    };
    create().map_err(Error::io("create", image))
}

/// Deletes a folder or file; nothing there is fine.
pub(super) fn delete(path: &Path) -> Result<(), Error> {
    let delete = || match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match delete() {
        Err(error) if is_absent(&error) => Ok(()),
        other => other.map_err(Error::io("delete", path)),
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io("sync", folder))
}

/// Makes a folder that must not be there yet.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)
}

/// A random (version 4) UUID.
pub(super) fn random_uuid() -> Result<String, Error> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::io("read", Path::new("/dev/urandom"))(io::Error::other(error.to_string()))
    })?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex::encode(bytes);
    let groups = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    Ok(groups.join("-"))
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lens = groups.iter().map(|group| group.len());
    let mut digits = groups.iter().flat_map(|group| group.bytes());
    lens.eq([8, 4, 4, 4, 12]) && digits.all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// The volume name that a folder's name is.
pub(super) fn name_of(file_name: &str) -> Option<VolumeName> {
    VolumeName::parse(file_name).ok()
}

fn make_folders(folder: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(folder)
        .map_err(Error::io("create", folder))
}

/// Volumes are nobody else's business.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
