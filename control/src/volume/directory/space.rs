//! Room: what the filesystem has, less what its sparse volumes were promised.

use std::{
    fs::{File, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
};

use nix::sys::statvfs::statvfs;

use super::layout::{self, Layout, Part};
use crate::volume::{Error, FreeSpace, ioctl};

/// Sizes are multiples of this, so that direct I/O reaches the last byte whatever the disk's
/// sector is.
const BLOCK_BYTES: u64 = 4096;

/// `st_blocks` counts in these, whatever the filesystem's block size is.
const STAT_BLOCK_BYTES: u64 = 512;

/// The size of the volume that is made for this one.
pub(super) fn whole_blocks(size_bytes: u64) -> u64 {
    // A size that cannot be rounded up cannot be made either; the check for room refuses it.
    size_bytes
        .checked_next_multiple_of(BLOCK_BYTES)
        .unwrap_or(u64::MAX)
}

/// How many bytes of an image have blocks.
pub(super) fn allocated_bytes(image: &Metadata) -> u64 {
    image.blocks() * STAT_BLOCK_BYTES
}

/// The group's room without what is promised, never below zero.
pub(super) fn free(layout: &Layout, promised_bytes: u64) -> Result<FreeSpace, Error> {
    let root = layout.root();
    let filesystem =
        statvfs(root).map_err(|errno| Error::io("ask for the space of", root)(errno.into()))?;
    let available_bytes = filesystem.blocks_available() * filesystem.fragment_size();
    Ok(FreeSpace {
        free_bytes: available_bytes.saturating_sub(promised_bytes),
        size_bytes: filesystem.blocks() * filesystem.fragment_size(),
        snapshots_bytes: 0,
        pool: None,
    })
}

/// What the volumes may still take. `pending` comes first: a volume that is published meanwhile
/// counts twice rather than not at all.
pub(super) fn promised_bytes(layout: &Layout) -> Result<u64, Error> {
    let mut promised_bytes: u64 = 0;
    for part in [Part::Pending, Part::Volumes] {
        for folder in layout.entries(part)?.values() {
            promised_bytes = promised_bytes.saturating_add(growth_bytes(folder)?);
        }
    }
    Ok(promised_bytes)
}

/// What a file that will have this many bytes on the disk may still take.
pub(super) fn unwritten_bytes(file: &Path, bytes: u64) -> Result<u64, Error> {
    let metadata = layout::image_metadata(file)?;
    Ok(metadata.map_or(0, |it| bytes.saturating_sub(allocated_bytes(&it))))
}

/// What the volume in `folder` may still take: its holes, and for a snapshot the blocks that it
/// shares. Writing to a shared block, on either side, takes a new one.
fn growth_bytes(folder: &Path) -> Result<u64, Error> {
    let image = layout::image_in(folder);
    let Some(metadata) = layout::image_metadata(&image)? else {
        return Ok(0);
    };
    let holes_bytes = metadata.len().saturating_sub(allocated_bytes(&metadata));
    Ok(holes_bytes.saturating_add(shared_bytes(folder, &image)))
}

/// Zero unless it is a snapshot: the origin's side of the sharing is promised already, by being
/// allocated. A filesystem that cannot tell (it made the reflink, so it can) counts as none.
fn shared_bytes(folder: &Path, image: &Path) -> u64 {
    let is_snapshot = matches!(
        layout::read_description(folder),
        Ok(Some(description)) if description.origin.is_some()
    );
    if !is_snapshot {
        return 0;
    }
    File::open(image)
        .and_then(|image| ioctl::shared_bytes(&image))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_to_whole_blocks() {
        assert_eq!(whole_blocks(1), 4096);
        assert_eq!(whole_blocks(4096), 4096);
        assert_eq!(whole_blocks(4097), 8192);
        assert_eq!(whole_blocks(u64::MAX), u64::MAX);
    }
}
