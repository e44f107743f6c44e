//! What the log says up to a slot: the sum of its entries.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use ringback_proto::repository::{Commit, Damage, LogEntry, Segments, log_entry::Kind};

use crate::format::{
    FormatError,
    name::{PackName, Slot, pack_table},
};

/// A backup and its slot.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// Where in the log.
    pub slot: Slot,
    /// What was committed.
    pub commit: Commit,
}

/// What the entries up to the head say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct History {
    /// The backups, in the order of their slots.
    pub(super) commits: Vec<Committed>,
    /// Index segments, the freshest last.
    pub(super) segments: Vec<PackName>,
    /// Data packs that nothing new may refer to.
    pub(super) marked: BTreeSet<PackName>,
    /// The last slot taken up; 0: none.
    pub(super) head: Slot,
    /// BLAKE3 of the head's object; empty before the first.
    pub(super) head_hash: Bytes,
}

impl History {
    /// Takes up the entry behind the head, whose object has this hash.
    pub(super) fn take(&mut self, entry: LogEntry, hash: Bytes) -> Result<(), FormatError> {
        if entry.previous != self.head_hash {
            return Err(FormatError::Damaged(
                "it does not continue the entry before it",
            ));
        }
        let slot = self.head.next();
        match entry.kind {
            Some(Kind::Commit(commit)) => self.commit(slot, commit)?,
            Some(Kind::Segments(segments)) => self.exchange(&segments)?,
            Some(Kind::Damage(damage)) => self.mark(&damage)?,
            None => {
                return Err(FormatError::Newer {
                    what: "a kind of entry in slot",
                    found: slot.0,
                });
            }
        }
        self.head = slot;
        self.head_hash = hash;
        Ok(())
    }

    fn commit(&mut self, slot: Slot, commit: Commit) -> Result<(), FormatError> {
        self.segments.extend(pack_table(&commit.segments)?);
        self.commits.push(Committed { slot, commit });
        Ok(())
    }

    fn exchange(&mut self, segments: &Segments) -> Result<(), FormatError> {
        let added = pack_table(&segments.added)?;
        let dropped: HashSet<PackName> = pack_table(&segments.dropped)?.into_iter().collect();
        self.segments.retain(|name| !dropped.contains(name));
        self.segments.extend(added);
        Ok(())
    }

    fn mark(&mut self, damage: &Damage) -> Result<(), FormatError> {
        self.marked.extend(pack_table(&damage.packs)?);
        Ok(())
    }

    /// The backup of this name.
    pub(super) fn find(&self, name: &str) -> Option<&Committed> {
        self.commits.iter().find(|it| it.commit.name == name)
    }
}
