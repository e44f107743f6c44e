//! Device nodes: made by udev, or by LVM where there is none, sooner or later.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::stat::{major, minor};
use tokio::{
    task,
    time::{Instant, sleep},
};

use super::report::Row;
use crate::volume::{Error, ioctl};

/// A busy udev takes seconds.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// The node of an active volume, when it is there.
pub(super) async fn of(row: &Row) -> Result<PathBuf, Error> {
    let path = Path::new(&row.path);
    if row.device == (0, 0) {
        return Err(Error::io("open", path)(io::Error::other(
            "LVM did not activate it",
        )));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let candidates = [path, Path::new(&row.mapper_path)];
        if let Some(node) = candidates.into_iter().find(|it| is_node(it, row.device)) {
            return Ok(node.to_owned());
        }
        if Instant::now() >= deadline {
            let (major, minor) = row.device;
            return Err(Error::io("open", path)(io::Error::other(format!(
                "there is no device node {major}:{minor} by this name, nor {}; is the host's /dev \
                 here, and does udev run?",
                row.mapper_path
            ))));
        }
        sleep(POLL).await;
    }
}

/// Writes out what was written to a device, or to a filesystem mounted from it, and is not there yet.
/// It only saves time: LVM has the same done when it suspends the device, but while it holds the group. It
/// has the device open meanwhile.
pub(super) async fn flush(path: &Path) {
    let node = path.to_owned();
    let flushed = task::spawn_blocking(move || ioctl::flush_block_device(&File::open(node)?)).await;
    if let Ok(Err(error)) = flushed {
        tracing::debug!(path = %path.display(), %error, "not flushed");
    }
}

/// Whether this is the node of that device, and not one left from another.
fn is_node(path: &Path, device: (u32, u32)) -> bool {
    fs::metadata(path).is_ok_and(|about| {
        let number = about.rdev();
        about.file_type().is_block_device()
            && (major(number), minor(number)) == (device.0.into(), device.1.into())
    })
}
