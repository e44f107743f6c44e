//! What a source is, whatever it is called: by this a backup finds the one before it.
//!
//! An identity outlives a reboot and a renaming. Two volumes that share one cost work and nothing
//! else: a backup's parent only saves reading and hashing twice what both hold.

use std::{
    fs::{self, Metadata},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    time::UNIX_EPOCH,
};

use super::users::sys_folder;

/// Longest identity, ours or given: it lies in the log's entries, which are small.
pub(super) const BYTES_MAX: usize = 200;

/// Of a source at its canonical path.
pub(super) fn of(path: &Path, source: &Metadata) -> String {
    let mut identity = if source.file_type().is_block_device() {
        of_device(&sys_folder(source))
    } else {
        of_file(source)
    }
    .unwrap_or_else(|| format!("path:{}:{}", machine(), path.display()));
    let end = identity.floor_char_boundary(BYTES_MAX);
    identity.truncate(end);
    identity
}

/// Inode and time of birth: a file that was replaced is another one, one that was renamed is not.
fn of_file(file: &Metadata) -> Option<String> {
    let born = file.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!(
        "file:{}:{}:{}",
        machine(),
        file.ino(),
        born.as_nanos()
    ))
}

/// What the device says of itself; `None` when it does not, as an unnamed virtual disk.
fn of_device(folder: &Path) -> Option<String> {
    let read = |name: &str| {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        let words: Vec<&str> = text.split_whitespace().collect();
        (!words.is_empty()).then(|| words.join(" "))
    };
    // A partition: its number on its disk, whose folder this one lies in.
    if let Some(number) = read("partition") {
        let disk = fs::canonicalize(folder).ok()?;
        let disk = of_device(disk.parent()?)?;
        return Some(format!("{disk}:part{number}"));
    }
    if let Some(image) = read("loop/backing_file") {
        return of_file(&fs::metadata(image).ok()?);
    }
    // Of a logical volume: LVM- and the UUIDs of its group and itself.
    let mapped = read("dm/uuid").map(|uuid| format!("dm:{uuid}"));
    mapped
        .or_else(|| read("md/uuid").map(|uuid| format!("md:{uuid}")))
        .or_else(|| read("wwid").map(|id| format!("disk:{id}")))
        .or_else(|| read("device/wwid").map(|id| format!("disk:{id}")))
        .or_else(|| read("serial").map(|id| format!("disk:{id}")))
        .or_else(|| read("device/serial").map(|id| format!("disk:{id}")))
}

/// Tells this host from others and gives its machine id, which is not to be published, not away.
fn machine() -> String {
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let derived = blake3::derive_key(
        "ringback 2026-11 identity of a host",
        id.trim_end().as_bytes(),
    );
    hex::encode(&derived[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(path: &Path) -> String {
        of(path, &fs::metadata(path).expect("is there"))
    }

    #[test]
    fn a_file_stays_the_same_when_it_is_renamed_or_written_and_not_when_it_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let (image, other) = (folder.path().join("image"), folder.path().join("other"));
        fs::write(&image, "x").expect("writes");
        let first = identity(&image);
        fs::write(&image, "longer").expect("writes");
        assert_eq!(identity(&image), first);
        fs::rename(&image, &other).expect("renames");
        assert_eq!(identity(&other), first);
        fs::write(&image, "x").expect("writes");
        assert_ne!(identity(&image), first);
    }

    #[test]
    fn devices_are_told_apart_by_what_they_say_of_themselves() {
        let sys = tempfile::tempdir().expect("a folder");
        let describe = |device: &str, files: &[(&str, &str)]| {
            let folder = sys.path().join(device);
            for (name, text) in files {
                let file = folder.join(name);
                fs::create_dir_all(file.parent().expect("has one")).expect("makes folders");
                fs::write(file, text).expect("writes");
            }
            of_device(&folder)
        };
        let lv = describe(
            "dm-0",
            &[("dm/uuid", "LVM-group1volume1\n"), ("dev", "253:0\n")],
        );
        assert_eq!(lv.as_deref(), Some("dm:LVM-group1volume1"));
        let disk = describe("sda", &[("device/wwid", "t10.ATA  Disk   A1\n")]);
        assert_eq!(disk.as_deref(), Some("disk:t10.ATA Disk A1"));
        let part = describe("sda/sda2", &[("partition", "2\n")]);
        assert_eq!(part.as_deref(), Some("disk:t10.ATA Disk A1:part2"));
        let named = describe("vda", &[("serial", "backup-disk")]);
        assert_eq!(named.as_deref(), Some("disk:backup-disk"));
        assert_eq!(describe("vdb", &[("serial", "\n")]), None);
    }
}
