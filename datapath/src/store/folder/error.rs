//! What a filesystem did not do, in sentences that say what would be right.

use std::{io, path::PathBuf};

use nix::errno::Errno;

/// What kind of trouble it is, which tells the caller what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FolderTrouble {
    /// The repository's folder is not there.
    Absent,
    /// This user may not, or nobody may for now.
    Denied,
    /// There is no room.
    Full,
    /// A server behind the mount does not answer.
    Silent,
    /// The disk, or what lies between it and us, has failed.
    Broken,
    /// A filesystem, or a place in it, that cannot hold a repository.
    Unsuitable,
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {reason}", path.display())]
pub struct FolderError {
    what: &'static str,
    path: PathBuf,
    reason: String,
    trouble: FolderTrouble,
}

impl FolderError {
    pub(super) fn new(
        what: &'static str,
        path: PathBuf,
        trouble: FolderTrouble,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            what,
            path,
            reason: reason.into(),
            trouble,
        }
    }

    /// What the system said, and what can be done about it.
    pub(super) fn of(what: &'static str, path: PathBuf, error: &io::Error) -> Self {
        let (trouble, advice) = match error.raw_os_error().map(Errno::from_raw) {
            Some(errno) => judge(errno),
            None => (FolderTrouble::Broken, ""),
        };
        let separator = if advice.is_empty() { "" } else { "; " };
        Self::new(what, path, trouble, format!("{error}{separator}{advice}"))
    }

    /// What kind of trouble it is.
    pub fn trouble(&self) -> FolderTrouble {
        self.trouble
    }
}

fn judge(errno: Errno) -> (FolderTrouble, &'static str) {
    use FolderTrouble::{Absent, Broken, Denied, Full, Silent, Unsuitable};
    match errno {
        Errno::ENOENT => (
            Absent,
            "mount the disk that it lies on, or make it: a repository is made in a folder that is \
             there",
        ),
        Errno::ENOTDIR | Errno::EISDIR => (
            Unsuitable,
            "something else lies where a folder or an object should be; choose another place",
        ),
        Errno::EACCES | Errno::EPERM => (Denied, "owner and mode should let this user do it"),
        Errno::EROFS => (
            Denied,
            "it is mounted read-only, as a filesystem becomes by itself when its disk fails; mount \
             it for writing",
        ),
        Errno::ENOSPC => (Full, "make room there"),
        Errno::EDQUOT => (Full, "make room, or have the quota raised"),
        Errno::EFBIG => (
            Unsuitable,
            "the filesystem, or this process (ulimit -f), takes no file so large",
        ),
        Errno::ENAMETOOLONG => (
            Unsuitable,
            "the filesystem takes no name or path so long; choose a shorter one, or another \
             filesystem",
        ),
        Errno::ESTALE => (
            Silent,
            "the server behind this mount does not know it any more; mount it again",
        ),
        Errno::ETIMEDOUT
        | Errno::EHOSTDOWN
        | Errno::EHOSTUNREACH
        | Errno::ENETUNREACH
        | Errno::ECONNREFUSED
        | Errno::ECONNRESET
        | Errno::ECONNABORTED
        | Errno::ENOTCONN
        | Errno::ENOLCK => (Silent, "the server behind this mount does not answer"),
        Errno::EIO
        | Errno::ENODEV
        | Errno::ENXIO
        | Errno::ENOMEDIUM
        | Errno::ESHUTDOWN
        | Errno::EUCLEAN => (
            Broken,
            "the disk has failed or was taken away; the kernel's log says more",
        ),
        _ => (Broken, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_of_a_disk_names_the_path_and_the_cause_and_what_would_be_right() {
        use FolderTrouble::{Absent, Broken, Denied, Full, Silent, Unsuitable};
        for (errno, trouble, says) in [
            (Errno::ENOENT, Absent, "mount the disk that it lies on"),
            (Errno::EACCES, Denied, "should let this user"),
            (Errno::EROFS, Denied, "mounted read-only"),
            (Errno::ENOSPC, Full, "make room there"),
            (Errno::EDQUOT, Full, "quota"),
            (Errno::EIO, Broken, "failed or was taken away"),
            (Errno::ENODEV, Broken, "failed or was taken away"),
            (Errno::ESTALE, Silent, "mount it again"),
            (Errno::ETIMEDOUT, Silent, "does not answer"),
            (Errno::ENAMETOOLONG, Unsuitable, "name or path so long"),
            (Errno::EFBIG, Unsuitable, "no file so large"),
        ] {
            let error = FolderError::of("write", "/mnt/usb/repo/log".into(), &errno.into());
            assert_eq!(error.trouble(), trouble, "{errno}");
            let sentence = error.to_string();
            let begin = "cannot write /mnt/usb/repo/log: ";
            assert!(sentence.starts_with(begin), "{sentence}");
            assert!(sentence.contains(says), "{sentence}");
        }
    }
}
