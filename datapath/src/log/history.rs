//! What the log says up to a slot: the sum of its entries.

use std::collections::{BTreeSet, HashMap, HashSet};

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
    /// The backups, in the order of their slots; no two have the same name.
    pub(super) commits: Vec<Committed>,
    /// Their positions, by name.
    by_name: HashMap<String, usize>,
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
    /// One that begins at a checkpoint, with nothing of what that says.
    pub(super) fn at(head: Slot, head_hash: Bytes) -> Self {
        Self {
            head,
            head_hash,
            ..Self::default()
        }
    }

    /// Takes up the commits of a checkpoint, in any order.
    pub(super) fn set_commits(&mut self, mut commits: Vec<Committed>) -> Result<(), FormatError> {
        commits.sort_by_key(|it| it.slot);
        if !commits.into_iter().all(|it| self.push(it)) {
            return Err(FormatError::Damaged(
                "two of its commits have the same name",
            ));
        }
        Ok(())
    }

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
        self.push(Committed { slot, commit });
        Ok(())
    }

    /// Of two backups of a name the first counts; whether it is this one.
    fn push(&mut self, committed: Committed) -> bool {
        let name = &committed.commit.name;
        let is_new = !self.by_name.contains_key(name);
        if is_new {
            self.by_name.insert(name.clone(), self.commits.len());
            self.commits.push(committed);
        }
        is_new
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
        self.by_name.get(name).map(|&at| &self.commits[at])
    }

    /// Whether what an entry does is done, for entries that a checkpoint stands for: those have no
    /// nonce any more. The slot up to which it is known to be.
    ///
    /// Segments that took others' place and were themselves replaced since are not found: to enter
    /// twice makes the index no less true.
    pub(super) fn slot_of(&self, kind: &Kind) -> Option<Slot> {
        let is_in = |table: &Bytes, has: &dyn Fn(&PackName) -> bool| {
            pack_table(table).is_ok_and(|names| names.iter().all(has))
        };
        match kind {
            Kind::Commit(commit) => self
                .find(&commit.name)
                .filter(|it| it.commit.id == commit.id)
                .map(|it| it.slot),
            Kind::Segments(segments) => {
                let live: HashSet<&PackName> = self.segments.iter().collect();
                let has_none = |name: &PackName| !live.contains(name);
                let done = is_in(&segments.added, &|name| live.contains(name))
                    && is_in(&segments.dropped, &has_none);
                done.then_some(self.head)
            }
            Kind::Damage(damage) => {
                is_in(&damage.packs, &|name| self.marked.contains(name)).then_some(self.head)
            }
        }
    }
}
