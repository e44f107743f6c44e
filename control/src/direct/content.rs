//! What lies on a target already. Whatever is not zero counts; a name for it is sought where
//! util-linux is installed.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
};

use nix::unistd::{Whence, lseek64};
use ringback_datapath::chunk::is_zero;

/// Filesystems, partition tables, RAID and LVM labels lie within this of a device's ends.
const EDGE_BYTES: u64 = 1 << 20;
/// Where blkid may be, for users whose PATH does not say.
const BLKID: [&str; 3] = ["blkid", "/usr/sbin/blkid", "/sbin/blkid"];

/// Whether a device's first and last MiB are all zero.
pub(super) fn has_blank_edges(device: &File) -> io::Result<bool> {
    let end = lseek64(device, 0, Whence::SeekEnd)?;
    let end = u64::try_from(end).map_err(io::Error::other)?;
    let edge = EDGE_BYTES.min(end);
    Ok(is_blank(device, 0, edge)? && is_blank(device, end - edge, edge)?)
}

fn is_blank(device: &File, offset: u64, bytes: u64) -> io::Result<bool> {
    let mut buffer = vec![0; usize::try_from(bytes).expect("a mebibyte")];
    device.read_exact_at(&mut buffer, offset)?;
    Ok(is_zero(&buffer))
}

/// Whether a file holds no data at all: it is empty, or one hole.
pub(super) fn is_hole(file: &File) -> io::Result<bool> {
    match lseek64(file, 0, Whence::SeekData) {
        Ok(_) => Ok(false),
        Err(nix::errno::Errno::ENXIO) => Ok(true),
        // The filesystem does not know; only no bytes are surely no data.
        Err(nix::errno::Errno::EINVAL) => Ok(file.metadata()?.len() == 0),
        Err(error) => Err(error.into()),
    }
}

/// What lies there, in words: `an ext4 filesystem`. `None` when nobody knows.
pub(super) fn name(path: &Path) -> Option<String> {
    BLKID.iter().find_map(|program| {
        let output = Command::new(program)
            .args(["-p", "-o", "export", "--"])
            .arg(path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        in_words(&String::from_utf8_lossy(&output.stdout))
    })
}

/// Reads what `blkid -p -o export` prints.
fn in_words(export: &str) -> Option<String> {
    let value = |key: &str| {
        let found = export
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.filter(|value| !value.is_empty())
    };
    let label = value("LABEL").map_or_else(String::new, |label| format!(" named {label:?}"));
    if let Some(kind) = value("TYPE") {
        return Some(match (value("USAGE"), kind) {
            (Some("filesystem"), _) => format!("a filesystem ({kind}){label}"),
            (_, "swap") => format!("swap space{label}"),
            (_, "LVM2_member") => "a physical volume of LVM".to_owned(),
            (Some("raid"), _) => format!("a member of a RAID ({kind})"),
            (Some("crypto"), _) => format!("an encrypted volume ({kind})"),
            _ => format!("{kind} data{label}"),
        });
    }
    value("PTTYPE").map(|kind| format!("a partition table ({kind})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blkid_prints_is_put_into_words() {
        for (export, words) in [
            (
                "DEVNAME=/dev/loop0\nLABEL=my data\nUUID=1\nTYPE=ext4\nUSAGE=filesystem\n",
                Some("a filesystem (ext4) named \"my data\""),
            ),
            ("TYPE=swap\nUSAGE=other\nVERSION=1\n", Some("swap space")),
            (
                "TYPE=LVM2_member\nUSAGE=raid\n",
                Some("a physical volume of LVM"),
            ),
            (
                "TYPE=linux_raid_member\nUSAGE=raid\n",
                Some("a member of a RAID (linux_raid_member)"),
            ),
            (
                "TYPE=crypto_LUKS\nUSAGE=crypto\n",
                Some("an encrypted volume (crypto_LUKS)"),
            ),
            ("PTUUID=1\nPTTYPE=gpt\n", Some("a partition table (gpt)")),
            ("", None),
        ] {
            assert_eq!(in_words(export).as_deref(), words, "{export}");
        }
    }

    #[test]
    fn one_byte_near_either_end_of_a_device_is_content() {
        let file = tempfile::tempfile().expect("a file");
        for bytes in [5 << 20, (1 << 20) - 7] {
            file.set_len(0).expect("empties");
            file.set_len(bytes).expect("grows");
            assert!(has_blank_edges(&file).expect("reads"));
            for at in [0, bytes - 1, 1000, bytes.saturating_sub(EDGE_BYTES)] {
                file.write_all_at(&[1], at).expect("writes");
                assert!(!has_blank_edges(&file).expect("reads"), "{at} of {bytes}");
                file.write_all_at(&[0], at).expect("writes");
            }
        }
    }

    #[test]
    fn a_file_of_holes_is_one_and_a_file_of_written_zeros_is_not() {
        let file = tempfile::tempfile().expect("a file");
        assert!(is_hole(&file).expect("looks"));
        file.set_len(1 << 20).expect("grows");
        assert!(is_hole(&file).expect("looks"));
        file.write_all_at(&[0; 4096], 4096).expect("writes");
        assert!(!is_hole(&file).expect("looks"));
    }
}
