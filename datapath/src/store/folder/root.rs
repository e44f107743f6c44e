//! The repository's folder, and the system calls on what is in it.
//!
//! The folder is held open, and everything is named from there: whatever is mounted, unmounted or
//! renamed while a job runs, all of it goes to the one folder that it began with. Calls block.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, RenameFlags, open, openat, renameat, renameat2},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat},
    unistd::{UnlinkatFlags, linkat, unlinkat},
};

use super::{
    super::{StoreError, location::RESERVED, url::FolderPath},
    error::{FolderError, FolderTrouble},
};

/// Where temporary files lie: on the same filesystem as the objects, and below no object's name.
pub(super) const UPLOADS: &str = ".uploads";

/// Objects are parts of whole disks: they are for their owner alone.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o600);
const FOLDER_MODE: Mode = Mode::from_bits_truncate(0o700);
const FOLDER_FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// See the module. Names are relative, their components separated by slashes; the empty name is the
/// folder itself.
pub(super) struct Root {
    folder: OwnedFd,
    path: PathBuf,
    /// Some filesystems count no links, not even of what is there.
    counts_links: bool,
    /// Folders that are there for good: their entries, and those above, were synced by us.
    durable: Mutex<HashSet<String>>,
}

impl Root {
    /// Opens a folder that is there.
    pub(super) fn open(path: &FolderPath) -> Result<Self, StoreError> {
        let path = path.as_path();
        let failed = |error: io::Error| FolderError::of("open the folder", path.to_owned(), &error);
        let folder =
            open(path, FOLDER_FLAGS, Mode::empty()).map_err(|error| failed(error.into()))?;
        let about = fstat(&folder).map_err(|error| failed(error.into()))?;
        let real = path.canonicalize().map_err(failed)?;
        check_surroundings(&real)?;
        Ok(Self {
            folder,
            path: path.to_owned(),
            counts_links: about.st_nlink > 0,
            durable: Mutex::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The whole path of an object, for messages.
    pub(super) fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// A new file, to be read and written.
    pub(super) fn create(&self, name: &str) -> Result<File, StoreError> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        openat(&self.folder, name, flags, FILE_MODE)
            .map(File::from)
            .map_err(|errno| self.failed("make", name, errno))
    }

    /// A file of ours that is there. Where locks lie with a server, only who may write gets one.
    pub(super) fn open_to_lock(&self, name: &str) -> Result<File, Errno> {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(&self.folder, name, flags, Mode::empty()).map(File::from)
    }

    /// An object that is there, to be read.
    pub(super) fn open_object(&self, name: &str) -> Result<(File, u64), StoreError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let opened = openat(&self.folder, name, flags, Mode::empty());
        let file = opened.map_err(|errno| self.object_failed(name, errno))?;
        let about = fstat(&file).map_err(|errno| self.object_failed(name, errno))?;
        Ok((file.into(), self.length(name, &about)?))
    }

    /// Length of an object.
    pub(super) fn size(&self, name: &str) -> Result<u64, StoreError> {
        let about = self.about(name);
        let about = about.map_err(|errno| self.object_failed(name, errno))?;
        self.length(name, &about)
    }

    /// What lies at a name; links are not followed.
    pub(super) fn about(&self, name: &str) -> Result<FileStat, Errno> {
        fstatat(&self.folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Only regular files are objects.
    fn length(&self, name: &str, about: &FileStat) -> Result<u64, StoreError> {
        match u64::try_from(about.st_size) {
            Ok(bytes) if kind(about) == SFlag::S_IFREG => Ok(bytes),
            _ => Err(self.not_found(name)),
        }
    }

    /// Gives a file another name, in place of what has it.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        renameat(&self.folder, from, &self.folder, to)
    }

    /// The same, unless the name is taken (`EEXIST`).
    pub(super) fn rename_to_new(&self, from: &str, to: &str) -> Result<(), Errno> {
        let flags = RenameFlags::RENAME_NOREPLACE;
        renameat2(&self.folder, from, &self.folder, to, flags)
    }

    /// Gives a file a second name, unless that is taken (`EEXIST`).
    pub(super) fn link(&self, from: &str, to: &str) -> Result<(), Errno> {
        linkat(&self.folder, from, &self.folder, to, AtFlags::empty())
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Errno> {
        unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir)
    }

    /// Makes the folders above `name`, and makes it sure that they stay.
    ///
    /// Folders that somebody else has made are synced as well, for whoever it was may have been
    /// killed before.
    pub(super) fn prepare_for(&self, name: &str) -> Result<(), StoreError> {
        self.keep_itself()?;
        let ends = name.match_indices('/').map(|(end, _)| end);
        for folder in ends.map(|end| &name[..end]) {
            if self.durable().contains(folder) {
                continue;
            }
            self.make_folder(folder)?;
            self.sync_folder_of(folder)?;
            self.durable().insert(folder.to_owned());
        }
        Ok(())
    }

    pub(super) fn open_folder(&self, name: &str) -> Result<OwnedFd, Errno> {
        let place = if name.is_empty() { "." } else { name };
        openat(&self.folder, place, FOLDER_FLAGS, Mode::empty())
    }

    /// A folder that is there when this returns, for now at least.
    pub(super) fn make_folder(&self, name: &str) -> Result<(), StoreError> {
        match mkdirat(&self.folder, name, FOLDER_MODE) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(self.failed("make the folder", name, errno)),
        }
    }

    /// Makes it sure that names in the folder of `name` stay as they are.
    pub(super) fn sync_folder_of(&self, name: &str) -> Result<(), StoreError> {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let synced = self.open_folder(folder).and_then(|it| sync_folder(&it));
        synced.map_err(|errno| self.failed("sync the folder", folder, errno))
    }

    /// Folders are no longer taken to be there: an object could not be put into one.
    pub(super) fn forget_folders(&self) {
        self.durable().clear();
    }

    /// Whoever made the repository's own folder did not sync it. Above a mount point lies another
    /// filesystem, which has nothing to keep.
    fn keep_itself(&self) -> Result<(), StoreError> {
        if self.durable().contains("") {
            return Ok(());
        }
        let synced = self.open_folder("..").and_then(|above| {
            if fstat(&above)?.st_dev == fstat(&self.folder)?.st_dev {
                sync_folder(&above)?;
            }
            Ok(())
        });
        match synced {
            // Not even to be read by this user.
            Ok(()) | Err(Errno::EACCES | Errno::EPERM) => {}
            Err(errno) => return Err(self.failed("sync the folder above", "", errno)),
        }
        self.durable().insert(String::new());
        Ok(())
    }

    pub(super) fn not_found(&self, name: &str) -> StoreError {
        StoreError::NotFound {
            object: self.shown(name),
        }
    }

    pub(super) fn too_short(&self, name: &str) -> StoreError {
        StoreError::TooShort {
            object: self.shown(name),
        }
    }

    pub(super) fn failed(
        &self,
        what: &'static str,
        name: &str,
        error: impl Into<io::Error>,
    ) -> StoreError {
        if let Err(gone) = self.check_is_there() {
            return gone;
        }
        let path = if name.is_empty() {
            self.path.clone()
        } else {
            self.path.join(name)
        };
        let error = error.into();
        if error.raw_os_error() == Some(Errno::ENOENT as i32) {
            let reason = "a folder above it was removed meanwhile";
            return FolderError::new(what, path, FolderTrouble::Broken, reason).into();
        }
        FolderError::of(what, path, &error).into()
    }

    /// An object could not be looked at.
    fn object_failed(&self, name: &str, errno: Errno) -> StoreError {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => self
                .check_is_there()
                .err()
                .unwrap_or_else(|| self.not_found(name)),
            errno => self.failed("open", name, errno),
        }
    }

    /// An object's bytes could not be read: they alone, or nothing any more.
    pub(super) fn unreadable(&self, name: &str, error: &io::Error) -> StoreError {
        let is_of_the_disk = error.raw_os_error() == Some(Errno::EIO as i32);
        if is_of_the_disk && sync_folder(&self.folder).is_ok() {
            return StoreError::Unreadable {
                object: self.shown(name),
                reason: error.to_string(),
            };
        }
        FolderError::of("read", self.path.join(name), error).into()
    }

    /// A folder that was removed while we have it open is empty for ever.
    pub(super) fn check_is_there(&self) -> Result<(), StoreError> {
        match fstat(&self.folder) {
            Ok(about) if about.st_nlink > 0 || !self.counts_links => Ok(()),
            Ok(_) => {
                let reason = "it was removed; nothing can be kept there any more";
                let path = self.path.clone();
                Err(FolderError::new("use the folder", path, FolderTrouble::Absent, reason).into())
            }
            Err(errno) => {
                Err(FolderError::of("use the folder", self.path.clone(), &errno.into()).into())
            }
        }
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<String>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One repository does not lie among the objects of another.
fn check_surroundings(path: &Path) -> Result<(), StoreError> {
    for (above, below) in path.ancestors().skip(1).zip(path.ancestors()) {
        let name = below.file_name().and_then(|name| name.to_str());
        let is_kept = name.is_some_and(|name| RESERVED.contains(&name) || name == UPLOADS);
        if is_kept && above.join("repository").is_file() {
            let reason = format!(
                "it lies in the repository at {}, which keeps {} for itself; choose another folder",
                above.display(),
                below.display()
            );
            let path = path.to_owned();
            return Err(FolderError::new(
                "use the folder",
                path,
                FolderTrouble::Unsuitable,
                reason,
            )
            .into());
        }
    }
    Ok(())
}

/// Some network filesystems have nothing to do there and say that it is invalid.
fn sync_folder(folder: &OwnedFd) -> Result<(), Errno> {
    match nix::unistd::fsync(folder) {
        Err(Errno::EINVAL) => Ok(()),
        synced => synced,
    }
}

/// A file's type.
pub(super) fn kind(about: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(about.st_mode & SFlag::S_IFMT.bits())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::store::url::RepositoryUrl;

    #[test]
    fn bytes_that_cannot_be_read_in_a_folder_that_is_well_are_damage_to_their_object() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("file://{}", folder.path().display());
        let Ok(RepositoryUrl::Folder(path)) = RepositoryUrl::parse(&url) else {
            panic!("{url} is a file URL");
        };
        let root = Root::open(&path).expect("opens");
        // Nothing is mapped at 0: the kernel says EIO, as of a sector that is gone.
        let memory = File::open("/proc/self/mem").expect("opens");
        let error = memory.read_at(&mut [0], 0).expect_err("cannot be read");
        let unreadable = root.unreadable("data/1/1", &error);
        assert!(matches!(unreadable, StoreError::Unreadable { .. }));
        assert_eq!(
            unreadable.to_string(),
            format!(
                "the object {}/data/1/1 cannot be read: Input/output error (os error 5)",
                folder.path().display()
            )
        );
        let stale = root.unreadable("data/1/1", &Errno::ESTALE.into());
        assert!(matches!(stale, StoreError::Folder(_)), "{stale}");
    }
}
