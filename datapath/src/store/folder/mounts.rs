//! Disks that should be mounted and are not.
//!
//! A folder below an empty mount point lies on the host's own disk, and looks no different. Whoever
//! wrote the mount point into /etc/fstab has said that it is another disk's.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// The mount point above `folder`, or the folder itself, that this host's /etc/fstab names and at
/// which nothing is mounted.
pub(super) fn missing_above(folder: &Path) -> Option<PathBuf> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    missing(&read("/etc/fstab"), &read("/proc/self/mountinfo"), folder)
}

fn missing(fstab: &str, mountinfo: &str, folder: &Path) -> Option<PathBuf> {
    let wanted = fstab
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| path(line, 1));
    let mounted: Vec<PathBuf> = mountinfo.lines().filter_map(|line| path(line, 4)).collect();
    // Without a list of what is mounted nothing can be said.
    wanted
        .filter(|point| folder.starts_with(point) && !mounted.is_empty())
        .find(|point| !mounted.contains(point))
}

/// The absolute path in one of a line's fields, its octal escapes (`\040`) decoded.
fn path(line: &str, field: usize) -> Option<PathBuf> {
    let text = line.split_whitespace().nth(field)?;
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let escaped = rest
            .get(1..4)
            .filter(|_| *first == b'\\')
            .and_then(|it| u8::from_str_radix(std::str::from_utf8(it).ok()?, 8).ok());
        decoded.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() {
            &rest[4..]
        } else {
            behind
        };
    }
    // Components, so that a slash at the end means nothing.
    let path: PathBuf = Path::new(&OsString::from_vec(decoded))
        .components()
        .collect();
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FSTAB: &str = "\
# <file system>  <mount point>  <type>
UUID=1 / ext4 defaults 0 1
  # LABEL=old /mnt/old ext4 defaults 0 0
LABEL=usb /mnt/usb/ ext4 noauto,nofail 0 0
LABEL=two /mnt/my\\040disk vfat noauto 0 0
UUID=2 none swap sw 0 0
";
    const ROOT: &str = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n";

    fn of(mountinfo: &str, folder: &str) -> Option<String> {
        let point = missing(FSTAB, mountinfo, Path::new(folder))?;
        Some(point.display().to_string())
    }

    #[test]
    fn a_disk_that_fstab_names_and_that_is_not_mounted_is_missed_where_it_matters() {
        for (folder, point) in [
            ("/mnt/usb", Some("/mnt/usb")),
            ("/mnt/usb/repo/vms", Some("/mnt/usb")),
            ("/mnt/my disk/repo", Some("/mnt/my disk")),
            ("/mnt/usb-2/repo", None),
            ("/mnt/old/repo", None),
            ("/mnt", None),
            ("/srv/repo", None),
        ] {
            assert_eq!(of(ROOT, folder).as_deref(), point, "{folder}");
        }
        let usb = "90 22 8:17 / /mnt/usb rw - ext4 /dev/sdb1 rw\n";
        let two = "91 22 8:18 / /mnt/my\\040disk rw - vfat /dev/sdb2 rw\n";
        let all = format!("{ROOT}{usb}{two}");
        assert_eq!(of(&all, "/mnt/usb/repo"), None);
        assert_eq!(of(&all, "/mnt/my disk/repo"), None);
        assert_eq!(of("", "/mnt/usb/repo"), None, "a host that does not tell");
    }
}
