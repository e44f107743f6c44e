//! Where a job can be killed, and how it is known that it was there.

use std::{fmt, path::Path};

use ringback_endpoint::{Moment, Stop};

use crate::tracer::Call;

/// A part of what the daemon does. In the order in which it does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// A backup holds the volume still: flush, reflink, or the copy that stands in for it.
    Snapshot,
    /// It reads, and the store has not acknowledged any part.
    Read,
    /// A part of a pack goes up.
    Part,
    /// A pack is completed.
    Complete,
    /// What describes the backup goes up: index, tree, ref set.
    Description,
    /// The commit.
    LogPut,
    /// The snapshot is removed.
    Release,
    /// A restore makes the volume's folder in `pending`.
    Pending,
    /// It fetches chunks.
    Fetch,
    /// It writes them.
    Write,
    /// It publishes the volume: sync, loop device, rename, sync.
    Rename,
    /// A start sweeps and attaches.
    Sweep,
    /// CreateLV of an empty volume.
    Create,
    /// RemoveLV.
    Remove,
    /// ResizeLV.
    Resize,
    /// CreateLVSnapshot.
    Snapshots,
}

use Phase::*;

/// The phase that a system call belongs to, given the group's folder.
pub(crate) type PhaseOf = fn(&Call, &Path) -> Phase;

impl Phase {
    /// Those of a backup, which are hit in order.
    pub(crate) const OF_BACKUPS: [Phase; 7] =
        [Snapshot, Read, Part, Complete, Description, LogPut, Release];
    pub(crate) const OF_RESTORES: [Phase; 4] = [Pending, Fetch, Write, Rename];
    pub(crate) const OF_CALLS: [Phase; 4] = [Create, Remove, Resize, Snapshots];

    /// Every phase.
    pub(crate) fn all() -> impl Iterator<Item = Phase> {
        Self::OF_BACKUPS
            .into_iter()
            .chain(Self::OF_RESTORES)
            .chain([Sweep])
            .chain(Self::OF_CALLS)
    }

    fn name(self) -> &'static str {
        match self {
            Snapshot => "snapshot",
            Read => "read",
            Part => "part",
            Complete => "complete",
            Description => "description-put",
            LogPut => "log-put",
            Release => "snapshot-release",
            Pending => "pending-volume",
            Fetch => "restore-get",
            Write => "restore-write",
            Rename => "rename",
            Sweep => "sweep",
            Create => "create-lv",
            Remove => "remove-lv",
            Resize => "resize-lv",
            Snapshots => "create-lv-snapshot",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::all().find(|phase| phase.name() == name)
    }

    /// The requests that this phase consists of, by operation and part of their path; none when
    /// it consists of system calls.
    pub(crate) fn requests(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Part => &[("UploadPart", "/data/")],
            Complete => &[("CompleteMultipartUpload", "/data/")],
            Description => &[
                ("PutObject", "/index/"),
                ("PutObject", "/tree/"),
                ("PutObject", "/refs/"),
            ],
            LogPut => &[("PutObject", "/log/")],
            Fetch => &[("GetObject", "/data/")],
            _ => &[],
        }
    }

    /// The phase of a backup that a system call belongs to.
    pub(crate) fn of_backup(call: &Call, group: &Path) -> Phase {
        let temporary = group.join("temporary");
        match (call.name, &call.path) {
            ("io_uring_enter", _) => {
                let copies = |path: &std::path::PathBuf| path.starts_with(&temporary);
                if call.open_for_writing.iter().any(copies) {
                    Snapshot
                } else {
                    Read
                }
            }
            ("unlink", Some(path)) if path.starts_with(&temporary) => Release,
            _ => Snapshot,
        }
    }

    /// The phase of a restore that a system call belongs to.
    pub(crate) fn of_restore(call: &Call, group: &Path) -> Phase {
        let Some(path) = &call.path else {
            return Write;
        };
        let pending = group.join("pending");
        let publishes = match call.name {
            "fsync" => !path.ends_with("volume.json"),
            "rename" | "renameat" => true,
            _ => !path.starts_with(&pending),
        };
        if publishes { Rename } else { Pending }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One kill: in which phase, at which of its points, counted from 0. A request is two points: it
/// has arrived, and it was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blow {
    pub(crate) phase: Phase,
    pub(crate) point: usize,
}

impl Blow {
    /// Where the store is to stop for it; `None` when it hits a system call.
    pub(crate) fn stop(self) -> Option<Stop> {
        let requests = self.phase.requests();
        let (operation, path) = requests.get(self.point / 2 % requests.len().max(1))?;
        Some(Stop {
            operation: (*operation).to_owned(),
            path_contains: (*path).to_owned(),
            nth: 1 + (self.point / 2 / requests.len()) as u64,
            moment: match self.point % 2 {
                0 => Moment::Arrived,
                _ => Moment::Applied,
            },
        })
    }
}
