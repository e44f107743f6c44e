//! The log's decoders, for [`fuzzing`](crate::fuzzing).

use bytes::Bytes;
use prost::Message;
use ringback_proto::repository::{
    Checkpoint, Commit, CommitBlock, CommitList, Damage, LogEntry, Segments, SlottedCommit,
    log_entry::Kind,
};

use super::{
    checkpoint::{block_of, check_head, names_in, read_commits},
    history::History,
};
use crate::format::name::Slot;

const PACKS: &[u8] = &[9; 48];

/// Takes up an entry behind nothing.
pub(crate) fn take(entry: LogEntry) {
    let mut history = History::default();
    let kind = entry.kind.clone();
    if history.take(entry, Bytes::from_static(&[1; 32])).is_ok() {
        let kind = kind.expect("an entry without one is refused");
        // One that drops what it adds does not do what it says.
        let _ = history.slot_of(&kind);
        assert_eq!(history.head, Slot(1));
    }
}

/// Looks into a checkpoint as far as its own message goes.
pub(crate) fn sum(sum: &Checkpoint) {
    // Slots are those that a name can have.
    if let Some(slot) = Slot::parse(&format!("{:016x}", sum.slot))
        && check_head(sum, slot).is_ok()
    {
        let mut history = History::at(slot, sum.head_hash.clone());
        let entry = LogEntry {
            previous: sum.head_hash.clone(),
            kind: Some(Kind::Commit(commit("sunday"))),
            ..LogEntry::default()
        };
        let taken = history.take(entry, Bytes::from_static(&[1; 32]));
        taken.expect("there is a slot behind each checkpoint");
    }
    for name in ["", "monday", "\u{10ffff}"] {
        assert!(block_of(&sum.commits, name).len() <= 1);
    }
}

/// Reads a block of commits, and of names.
pub(crate) fn block(list: &CommitList, bytes: &[u8]) {
    let bytes = [Bytes::copy_from_slice(bytes)];
    let first = list.commits.first().and_then(|it| it.commit.as_ref());
    let block = CommitBlock {
        first_name: first.map_or_else(String::new, |it| it.name.clone()),
        record: None,
    };
    if let Ok(commits) = read_commits(&[block], &bytes, Slot(u64::MAX)) {
        assert_eq!(commits.len(), list.commits.len());
        let mut history = History::at(Slot(u64::MAX), Bytes::new());
        let _ = history.set_commits(commits);
    }
    let _ = names_in(&bytes);
}

fn commit(name: &str) -> Commit {
    Commit {
        id: Bytes::from_static(&[1; 16]),
        name: name.to_owned(),
        segments: Bytes::from_static(PACKS),
        ..Commit::default()
    }
}

/// An entry of each kind.
pub(crate) fn entries() -> Vec<Vec<u8>> {
    let packs = Bytes::from_static(PACKS);
    let segments = Segments {
        added: packs.clone(),
        dropped: packs.clone(),
    };
    let kinds = [
        Kind::Commit(commit("monday")),
        Kind::Segments(segments),
        Kind::Damage(Damage { packs }),
    ];
    let entry = |kind| LogEntry {
        previous: Bytes::new(),
        nonce: Bytes::from_static(&[2; 16]),
        kind: Some(kind),
    };
    kinds.map(|kind| entry(kind).encode_to_vec()).to_vec()
}

/// A checkpoint, and a block of it.
pub(crate) fn checkpoints() -> Vec<Vec<u8>> {
    let sum = Checkpoint {
        slot: 256,
        head_hash: Bytes::from_static(&[3; 32]),
        commits: vec![CommitBlock {
            first_name: "monday".to_owned(),
            record: None,
        }],
        commit_count: 2,
        ..Checkpoint::default()
    };
    let slotted = |slot, name| SlottedCommit {
        slot,
        commit: Some(commit(name)),
    };
    let list = CommitList {
        commits: vec![slotted(1, "monday"), slotted(2, "tuesday")],
    };
    vec![sum.encode_to_vec(), list.encode_to_vec()]
}
