//! Opening volumes: O_DIRECT, sizes, and which ranges of them hold data.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, OFlag, fallocate},
    unistd::{Whence, lseek64},
};

use crate::{error::Error, tasks::blocking};

/// What O_DIRECT transfers are aligned to. Every device we meet takes 4096; smaller blocks divide
/// it, and volumes are multiples of it, but for image files of any size.
pub const BLOCK_BYTES: u64 = 4096;

/// An opened volume.
pub struct Device {
    /// The open file.
    pub file: File,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether reads and writes pass the page cache by.
    pub direct: bool,
    path: PathBuf,
    is_block_device: bool,
}

/// The end of an image file inside a block. O_DIRECT cannot write it but by the whole block, which
/// makes the file longer: it is to be cut again.
pub(crate) struct ShortEnd {
    file: File,
    size_bytes: u64,
}

impl ShortEnd {
    /// Gives the file its size back, for good.
    pub(crate) async fn cut(self) -> Result<(), Error> {
        let cut = blocking(move || {
            self.file.set_len(self.size_bytes)?;
            self.file.sync_data()
        });
        cut.await?.map_err(|source| Error::System {
            what: "cut the volume to its size",
            source,
        })
    }
}

/// A range of bytes of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
}

/// A failure to open or to inspect a volume.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}")]
pub struct DeviceError {
    /// What was tried.
    pub what: &'static str,
    /// The volume.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Opens a volume for reading; `direct` false only to show the difference.
pub fn open_for_read(path: &Path, direct: bool) -> Result<Device, DeviceError> {
    open(path, OpenOptions::new().read(true), direct)
}

/// Opens a volume for reading and writing, with O_DIRECT.
pub fn open_for_write(path: &Path) -> Result<Device, DeviceError> {
    open(path, OpenOptions::new().read(true).write(true), true)
}

fn open(path: &Path, options: &mut OpenOptions, direct: bool) -> Result<Device, DeviceError> {
    let failed = |what, source| DeviceError {
        what,
        path: path.to_owned(),
        source,
    };
    let (file, direct) =
        open_file(path, options, direct).map_err(|source| failed("open", source))?;
    let is_block_device = file
        .metadata()
        .map_err(|source| failed("inspect", source))?
        .file_type()
        .is_block_device();
    // Works on files and block devices alike, where the length of the latter's inode is 0.
    let end = lseek64(&file, 0, Whence::SeekEnd).map_err(|e| failed("size", e.into()))?;
    let size_bytes =
        u64::try_from(end).map_err(|_| failed("size", io::ErrorKind::InvalidData.into()))?;
    Ok(Device {
        file,
        size_bytes,
        direct,
        path: path.to_owned(),
        is_block_device,
    })
}

/// Falls back to the page cache where the filesystem knows no O_DIRECT, and says so.
fn open_file(path: &Path, options: &mut OpenOptions, direct: bool) -> io::Result<(File, bool)> {
    if !direct {
        return options.open(path).map(|file| (file, false));
    }
    match options.custom_flags(OFlag::O_DIRECT.bits()).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            tracing::warn!(
                path = %path.display(),
                "the filesystem refuses O_DIRECT; reading and writing through the page cache"
            );
            options.custom_flags(0).open(path).map(|file| (file, false))
        }
        opened => opened.map(|file| (file, true)),
    }
}

/// Makes a range of an open volume read as zeros: first the way that gives the space back; devices
/// that cannot, write zeros.
pub fn zero_range(volume: &File, start: u64, bytes: u64) -> io::Result<()> {
    let offset = |bytes| i64::try_from(bytes).map_err(io::Error::other);
    let (start, bytes) = (offset(start)?, offset(bytes)?);
    let keep_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep_size;
    match fallocate(volume, punch, start, bytes) {
        Err(Errno::EOPNOTSUPP) => {
            let zero = FallocateFlags::FALLOC_FL_ZERO_RANGE | keep_size;
            Ok(fallocate(volume, zero, start, bytes)?)
        }
        done => Ok(done?),
    }
}

impl Device {
    /// The ranges that may hold data, ascending. What lies between them reads as zeros.
    ///
    /// Image files are asked with SEEK_DATA and SEEK_HOLE; block devices do not know them and are
    /// one range, as are filesystems that do not.
    pub fn data_extents(&self) -> Result<Vec<Extent>, DeviceError> {
        let whole = Extent {
            start: 0,
            end: self.size_bytes,
        };
        if self.is_block_device {
            return Ok(vec![whole]);
        }
        let mut extents = Vec::new();
        let mut position = 0;
        while position < self.size_bytes {
            let start = match self.seek(position, Whence::SeekData) {
                Ok(start) => start,
                Err(Errno::ENXIO) => break,
                Err(Errno::EINVAL) => return Ok(vec![whole]),
                Err(errno) => return Err(self.failed("find the data in", errno)),
            };
            let end = self
                .seek(start, Whence::SeekHole)
                .map_err(|errno| self.failed("find the holes in", errno))?;
            extents.push(Extent { start, end });
            position = end;
        }
        Ok(extents)
    }

    /// Up to here whole blocks can be written; see [`ShortEnd`].
    pub(crate) fn whole_blocks_bytes(&self) -> u64 {
        if self.is_block_device {
            return self.size_bytes;
        }
        self.size_bytes
            .checked_next_multiple_of(BLOCK_BYTES)
            .unwrap_or(self.size_bytes)
    }

    /// What is needed when the last bytes are no whole block.
    pub(crate) fn short_end(&self) -> Result<Option<ShortEnd>, DeviceError> {
        if self.is_block_device || self.size_bytes.is_multiple_of(BLOCK_BYTES) {
            return Ok(None);
        }
        let file = self.file.try_clone().map_err(|source| DeviceError {
            what: "open",
            path: self.path.clone(),
            source,
        })?;
        let size_bytes = self.size_bytes;
        Ok(Some(ShortEnd { file, size_bytes }))
    }

    fn seek(&self, position: u64, whence: Whence) -> Result<u64, Errno> {
        let position = i64::try_from(position).map_err(|_| Errno::EOVERFLOW)?;
        let found = lseek64(&self.file, position, whence)?;
        u64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }

    fn failed(&self, what: &'static str, errno: Errno) -> DeviceError {
        DeviceError {
            what,
            path: self.path.clone(),
            source: errno.into(),
        }
    }

    /// Descriptor number, by which `/proc/PID/fdinfo` shows this file.
    pub fn descriptor(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_of_an_image_are_not_among_its_extents() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("image");
        let file = File::create_new(&path).expect("create");
        file.set_len(64 << 20).expect("set_len");
        file.write_all_at(&[1; 4096], 16 << 20).expect("write");
        let device = open_for_read(&path, true).expect("open");
        assert_eq!(device.size_bytes, 64 << 20);
        let extents = device.data_extents().expect("extents");
        let mapped: u64 = extents.iter().map(|e| e.end - e.start).sum();
        assert!((4096..1 << 20).contains(&mapped), "{extents:?}");
        assert!(
            extents
                .iter()
                .any(|e| e.start <= 16 << 20 && e.end > 16 << 20)
        );
    }

    #[test]
    fn an_empty_image_has_no_extents() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("image");
        let file = File::create_new(&path).expect("create");
        file.set_len(1 << 20).expect("set_len");
        let device = open_for_read(&path, true).expect("open");
        assert_eq!(device.data_extents().expect("extents"), []);
    }
}
