//! Device nodes: made by udev, or by LVM where there is none, sooner or later.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::stat::{major, minor};
use tokio::time::{Instant, sleep};

use super::report::Row;
use crate::volume::Error;

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

/// Whether this is the node of that device, and not one left from another.
fn is_node(path: &Path, device: (u32, u32)) -> bool {
    fs::metadata(path).is_ok_and(|about| {
        let number = about.rdev();
        about.file_type().is_block_device()
            && (major(number), minor(number)) == (device.0.into(), device.1.into())
    })
}
