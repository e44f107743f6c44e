//! What LVM's messages mean, for those that callers can do something about. Most of what they say
//! was asked for before the command ran; this is for what changed in between, and for layouts that
//! take more room than their size.

use super::command::{Failed, Trouble};
use crate::{names::VolumeName, volume::Error};

/// The error of a command that was to do something to this volume.
pub(super) fn about(name: &VolumeName, extent_bytes: u64) -> impl FnOnce(Trouble) -> Error {
    move |trouble| match trouble {
        Trouble::Failed(failed) => {
            understood(&failed, name, extent_bytes).unwrap_or_else(|| failed.into())
        }
        Trouble::Other(error) => error,
    }
}

fn understood(failed: &Failed, name: &VolumeName, extent_bytes: u64) -> Option<Error> {
    let said = &failed.stderr;
    if said.contains("already exists in volume group") {
        return Some(Error::AlreadyExists(name.clone()));
    }
    if said.contains(" in use.") || said.contains("is used by another device") {
        return Some(Error::InUse(name.clone()));
    }
    if let Some((needed, free)) = extents(said) {
        return Some(Error::NoSpace {
            needed_bytes: needed.saturating_mul(extent_bytes),
            free_bytes: free.saturating_mul(extent_bytes),
        });
    }
    let is_full = [
        "Insufficient suitable",
        "insufficient free",
        "reached threshold",
    ];
    if is_full.iter().any(|it| said.contains(it)) {
        return Some(Error::Full(Error::from(failed.clone()).to_string()));
    }
    None
}

/// How many extents are needed, and how many are free.
fn extents(said: &str) -> Option<(u64, u64)> {
    said.lines().find_map(|line| {
        let line = line.trim();
        if let Some((_, rest)) = line.split_once("has insufficient free space (") {
            let (free, rest) = rest.split_once(" extents): ")?;
            let (needed, _) = rest.split_once(" required")?;
            return Some((needed.parse().ok()?, free.parse().ok()?));
        }
        let (_, rest) = line.split_once("Insufficient free space: ")?;
        let (needed, rest) = rest.split_once(" extents needed, but only ")?;
        let (free, _) = rest.split_once(" available")?;
        Some((needed.parse().ok()?, free.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(stderr: &str) -> Error {
        let failed = Failed {
            command: "lvm lvcreate".to_owned(),
            status: "exit code 5".to_owned(),
            stderr: stderr.to_owned(),
        };
        let name = VolumeName::parse("data").expect("a name");
        about(&name, 4 << 20)(Trouble::Failed(failed))
    }

    #[test]
    fn what_lvm_2_03_says_is_understood() {
        for said in [
            "  Volume group \"vgtest\" has insufficient free space (300 extents): 5000 required.\n",
            "  Using stripesize of last segment 64.00 KiB\n  \
             Insufficient free space: 5000 extents needed, but only 300 available\n",
        ] {
            let no_space = error(said);
            assert!(
                matches!(
                    no_space,
                    Error::NoSpace {
                        needed_bytes: 20_971_520_000,
                        free_bytes: 1_258_291_200
                    }
                ),
                "{no_space}"
            );
        }
        for said in [
            "  Logical volume vgtest/thick in use.\n",
            "  Logical volume vgtest/thick contains a filesystem in use.\n",
            "  Logical volume vgtest/data is used by another device.\n",
        ] {
            assert!(matches!(error(said), Error::InUse(_)), "{said}");
        }
        let said = "  Logical Volume \"data\" already exists in volume group \"vgtest\"\n";
        assert!(matches!(error(said), Error::AlreadyExists(_)));
        for said in [
            "  Insufficient suitable allocatable extents for logical volume data: 2 more required\n",
            "  Cannot create new thin volume, free space in thin pool vgtest/pool reached \
             threshold.\n",
        ] {
            assert!(matches!(error(said), Error::Full(_)), "{said}");
        }
    }

    #[test]
    fn what_is_not_understood_is_passed_on_in_lvms_words() {
        let said = "  Cannot change VG vgtest while PVs are missing.\n";
        assert_eq!(
            error(said).to_string(),
            "lvm lvcreate failed (exit code 5): Cannot change VG vgtest while PVs are missing."
        );
    }
}
