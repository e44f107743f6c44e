//! Loop devices: image files as block devices, with direct I/O.
//!
//! The kernel is asked each time which device an image is attached to, by the image's inode: it
//! stays the same when the folder of the image is renamed, when the daemon restarts, and when it
//! sees the folder at another place (in a container). This module owns no state.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{errno::Errno, libc};

use super::ioctl::{self, LoopInfo};

/// Whether images become block devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// Where we may and the kernel can.
    Auto,
    /// Attach none. One attached by somebody else is still seen, and not removed while in use.
    Never,
}

/// Whether an attached image can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Writable,
    ReadOnly,
}

/// Why an image was not attached.
#[derive(Debug)]
pub(super) enum AttachError {
    /// This process on this machine cannot attach anything.
    Impossible(io::Error),
    /// It did not work this time.
    Failed(io::Error),
}

/// How a detach ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detached {
    /// The device lets its image go.
    Complete,
    /// Something uses the device; it is attached as before.
    InUse,
}

/// A loop device that has an image.
#[derive(Debug, Clone)]
pub(super) struct LoopDevice {
    number: u32,
}

/// An image file, whatever its path is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ImageId {
    device: u64,
    inode: u64,
}

/// Every attached image of this machine, with its devices.
#[derive(Debug, Default)]
pub(super) struct Attachments(HashMap<ImageId, Vec<LoopDevice>>);

/// How often to try when others take the free devices that the kernel names.
const ATTACH_TRIES: usize = 64;

/// How long another opener (udev looks at every new device) may hold up a detach.
const DETACH_PATIENCE: Duration = Duration::from_secs(3);
const DETACH_POLL: Duration = Duration::from_millis(10);

impl LoopDevice {
    /// Attaches the image to a device that was free, with direct I/O.
    pub(super) fn attach(image: &Path, access: Access) -> Result<LoopDevice, AttachError> {
        let control = open(Path::new("/dev/loop-control")).map_err(AttachError::sorted)?;
        let writable = access == Access::Writable;
        let file = OpenOptions::new()
            .read(true)
            .write(writable)
            .open(image)
            .map_err(AttachError::Failed)?;
        let info = info_for(image, access);
        for _ in 0..ATTACH_TRIES {
            let number = ioctl::loop_free_number(&control).map_err(AttachError::sorted)?;
            let device = LoopDevice { number };
            let node = OpenOptions::new()
                .read(true)
                .write(writable)
                .open(device.path())
                .map_err(AttachError::sorted)?;
            match ioctl::loop_attach(&node, &file, info) {
                Ok(()) => return Ok(device),
                Err(error) if is(&error, Errno::EBUSY) => {} // another process was faster
                Err(error) => return Err(AttachError::sorted(error)),
            }
        }
        Err(AttachError::Failed(Errno::EBUSY.into()))
    }

    /// The device's node.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.number))
    }

    /// Its major and minor number.
    pub(super) fn device_numbers(&self) -> io::Result<(u32, u32)> {
        let text = fs::read_to_string(self.sys_folder().join("dev"))?;
        parse_device_numbers(&text)
            .ok_or_else(|| io::Error::other(format!("{text:?} is not a device number")))
    }

    /// Makes the device as large as its image.
    pub(super) fn follow_size(&self) -> io::Result<()> {
        ioctl::loop_follow_size(&open(&self.path())?)
    }

    /// Brings everything written to the device, and to a filesystem mounted from it, to the image.
    pub(super) fn flush(&self) -> io::Result<()> {
        let node = open(&self.path())?;
        ioctl::flush_block_device(&node)?;
        node.sync_all()
    }

    /// Detaches the image, unless something uses the device.
    pub(super) fn detach(&self) -> io::Result<Detached> {
        let attached = self.backing_file();
        match self.let_go() {
            Err(error) if is(&error, Errno::EBUSY) => return Ok(Detached::InUse),
            Err(error) if is(&error, Errno::ENXIO) => return Ok(Detached::Complete),
            other => other?,
        }
        let deadline = Instant::now() + DETACH_PATIENCE;
        while self.backing_file().is_some_and(|now| Some(now) == attached) {
            if Instant::now() > deadline {
                return self.keep();
            }
            thread::sleep(DETACH_POLL);
        }
        Ok(Detached::Complete)
    }

    /// Tells the kernel to detach at the last close. The exclusive open fails with EBUSY when a
    /// mount or another exclusive opener has the device, and keeps them out while we are at it.
    fn let_go(&self) -> io::Result<()> {
        let node = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(self.path())?;
        ioctl::loop_detach(&node)
    }

    /// Takes a detach back that somebody's open descriptor keeps from happening, if there is one.
    pub(super) fn keep(&self) -> io::Result<Detached> {
        let undo = || {
            let node = open(&self.path())?;
            let mut info = ioctl::loop_info(&node)?;
            info.flags &= !ioctl::LO_FLAGS_AUTOCLEAR;
            ioctl::loop_set_info(&node, &info)
        };
        match undo() {
            Ok(()) => Ok(Detached::InUse),
            // They closed it just now.
            Err(error) if is(&error, Errno::ENXIO) => Ok(Detached::Complete),
            Err(error) => Err(error),
        }
    }

    /// The image's path, as far as the kernel can tell; `None` when nothing is attached.
    fn backing_file(&self) -> Option<String> {
        fs::read_to_string(self.sys_folder().join("loop/backing_file")).ok()
    }

    fn sys_folder(&self) -> PathBuf {
        PathBuf::from(format!("/sys/block/loop{}", self.number))
    }
}

impl Attachments {
    /// Asks the kernel. Devices that we may not open are left out: we could not use them either.
    pub(super) fn find() -> io::Result<Attachments> {
        let entries = match fs::read_dir("/sys/block") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other?,
        };
        let mut found: HashMap<ImageId, Vec<LoopDevice>> = HashMap::new();
        for entry in entries {
            let file_name = entry?.file_name();
            let Some(device) = file_name.to_str().and_then(loop_of) else {
                continue;
            };
            if let Some(image) = device.image() {
                found.entry(image).or_default().push(device);
            }
        }
        for devices in found.values_mut() {
            devices.sort_by_key(|device| device.number);
        }
        Ok(Attachments(found))
    }

    /// The devices that the image is attached to.
    pub(super) fn of(&self, image: &Metadata) -> &[LoopDevice] {
        let id = ImageId {
            device: image.dev(),
            inode: image.ino(),
        };
        self.0.get(&id).map_or(&[], Vec::as_slice)
    }
}

impl LoopDevice {
    fn image(&self) -> Option<ImageId> {
        self.backing_file()?; // opens no device that has nothing
        let info = ioctl::loop_info(&open(&self.path()).ok()?).ok()?;
        Some(ImageId {
            device: info.device,
            inode: info.inode,
        })
    }
}

impl AttachError {
    /// Sorts what the system said: without the driver, its nodes or the right to use them, no later
    /// try will go better.
    fn sorted(error: io::Error) -> AttachError {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENODEV | Errno::EACCES | Errno::EPERM) => {
                AttachError::Impossible(error)
            }
            _ => AttachError::Failed(error),
        }
    }
}

fn info_for(image: &Path, access: Access) -> LoopInfo {
    let mut info = LoopInfo::EMPTY;
    info.flags = ioctl::LO_FLAGS_DIRECT_IO;
    if access == Access::ReadOnly {
        info.flags |= ioctl::LO_FLAGS_READ_ONLY;
    }
    // The last byte stays zero: the kernel takes it for a C string.
    let room = info.file_name.len() - 1;
    let name = image.as_os_str().as_encoded_bytes().iter().take(room);
    for (slot, byte) in info.file_name.iter_mut().zip(name) {
        *slot = *byte;
    }
    info
}

/// Opens for reading only: closing a descriptor that could write makes udev look at the device.
fn open(node: &Path) -> io::Result<File> {
    File::open(node)
}

fn loop_of(block_device: &str) -> Option<LoopDevice> {
    let number = block_device.strip_prefix("loop")?.parse().ok()?;
    Some(LoopDevice { number })
}

fn parse_device_numbers(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim_end().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_read_as_the_kernel_prints_them() {
        assert_eq!(parse_device_numbers("7:12\n"), Some((7, 12)));
        assert_eq!(parse_device_numbers("7"), None);
        assert_eq!(parse_device_numbers(""), None);
    }

    #[test]
    fn only_loop_devices_are_taken_for_loop_devices() {
        assert_eq!(loop_of("loop3").map(|device| device.number), Some(3));
        assert!(loop_of("loop-control").is_none());
        assert!(loop_of("vda").is_none());
    }

    #[test]
    fn a_long_image_path_still_ends_in_a_zero_byte() {
        let info = info_for(Path::new(&"x".repeat(200)), Access::ReadOnly);
        assert_eq!(info.file_name[62..], [b'x', 0]);
        assert_eq!(
            info.flags,
            ioctl::LO_FLAGS_DIRECT_IO | ioctl::LO_FLAGS_READ_ONLY
        );
    }
}
