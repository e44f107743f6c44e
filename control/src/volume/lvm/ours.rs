//! What of a volume group is ours while it is under way: names that begin with a dot, and tags.
//!
//! Both must be there before anything is removed: a name alone may be somebody else's idea.

use std::io;

use super::report::Row;
use crate::{
    names::{RESERVED_PREFIX, RESERVED_TAG_PREFIX},
    volume::Error,
};

/// How a temporary volume is made active, and never again unless by us: a host that boots would find
/// the filesystem of another volume on it, under the same UUID.
pub(super) const KEPT_INACTIVE: [&str; 3] = ["--setactivationskip", "y", "--ignoreactivationskip"];

/// What a temporary volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is being filled with a backup.
    Restore,
    /// It is a snapshot that a backup reads.
    Backup,
    /// It will be a snapshot that somebody asked for.
    Snapshot,
}

impl Purpose {
    const ALL: [Purpose; 3] = [Purpose::Restore, Purpose::Backup, Purpose::Snapshot];

    /// The tag that such volumes have.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Purpose::Restore => "ringback-restore",
            Purpose::Backup => "ringback-backup",
            Purpose::Snapshot => "ringback-snapshot",
        }
    }

    /// A name that nothing else has. It is short: with its hyphens doubled and what LVM appends,
    /// it fits into every group that has room for a volume with a name of one letter.
    pub(super) fn random_name(self) -> Result<String, Error> {
        let mut random = [0_u8; 4];
        getrandom::fill(&mut random).map_err(|error| {
            Error::io("read", "/dev/urandom".as_ref())(io::Error::other(error.to_string()))
        })?;
        let letter = match self {
            Purpose::Restore => 'r',
            Purpose::Backup => 'b',
            Purpose::Snapshot => 's',
        };
        Ok(format!("{RESERVED_PREFIX}-{letter}{}", hex::encode(random)))
    }

    /// What this volume is for; `None` for what is not ours.
    pub(super) fn of(row: &Row) -> Option<Purpose> {
        if !has_own_name(row) {
            return None;
        }
        let tagged = |purpose: &Purpose| row.tags.iter().any(|tag| tag == purpose.tag());
        Purpose::ALL.into_iter().find(tagged)
    }

    /// The purpose that this volume had before it was published, when its tag is still there.
    pub(super) fn left_on(row: &Row) -> Option<Purpose> {
        if has_own_name(row) {
            return None;
        }
        let tagged = |purpose: &Purpose| row.tags.iter().any(|tag| tag == purpose.tag());
        Purpose::ALL.into_iter().find(tagged)
    }
}

/// Whether it has a name that volumes of callers cannot have.
pub(super) fn has_own_name(row: &Row) -> bool {
    row.name.starts_with(RESERVED_PREFIX)
}

/// Whether callers are not told of this tag.
pub(super) fn is_own_tag(tag: &str) -> bool {
    tag.starts_with(RESERVED_TAG_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::full, *};
    use crate::names::{SUFFIX_BYTES_MAX, VolumeName};

    #[test]
    fn names_are_random_fit_every_group_and_are_no_callers() {
        let name = Purpose::Backup.random_name().expect("random");
        assert_ne!(name, Purpose::Backup.random_name().expect("random"));
        assert!(VolumeName::parse(&name).is_err(), "{name}");
        let mapped = name.len() + name.matches('-').count() + "-real".len();
        assert!(mapped <= "x".len() + SUFFIX_BYTES_MAX, "{mapped}");
    }

    #[test]
    fn only_what_has_our_name_and_our_tag_is_ours() {
        let report = full();
        let purpose = |name: &str| Purpose::of(report.find(name).expect(name));
        assert_eq!(purpose(".ringback-b00000001"), Some(Purpose::Backup));
        assert_eq!(purpose(".ringback-b00000002"), Some(Purpose::Backup));
        assert_eq!(purpose(".ringback-r00000003"), Some(Purpose::Restore));
        assert_eq!(purpose(".ringback-not-ours"), None);
        assert_eq!(purpose("published"), None);
        let left = |name: &str| Purpose::left_on(report.find(name).expect(name));
        assert_eq!(left("published"), Some(Purpose::Restore));
        assert_eq!(left("thick"), None);
        assert_eq!(left(".ringback-r00000003"), None);
    }
}
