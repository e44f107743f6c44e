//! Checkpoints: what the log says up to a slot, so that nobody need read the entries below.
//!
//! The lists lie in blocks of a tree pack. Commits are sorted by name, and the checkpoint says with
//! which name each block begins, so that one ranged GET answers for one name.
//!
//! Ordering rule: a checkpoint is written when all of its blocks are durable, once, and never
//! changed.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use ringback_proto::repository::{
    Checkpoint, CommitBlock, CommitList, NodeRef as NodeRefMessage, SlottedCommit,
};

use super::history::{Committed, History};
use crate::{
    error::Error,
    format::{
        FormatError,
        name::{CHECKPOINT, ObjectKind, PackName, SessionId, Slot, join_names, pack_table},
        tree::NodeRef,
    },
    packer::{PackSizes, PackWriter},
    record::Record,
    repository::Repository,
    tree::fetch_nodes,
};

/// A block is ended when it has so many bytes: who looks for one name fetches a block.
const BLOCK_BYTES: usize = 64 << 10;
const PACK_SIZES: PackSizes = PackSizes {
    pack_bytes: 64 << 20,
    part_bytes: 8 << 20,
};

/// How much of a log is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    /// All of it.
    Whole,
    /// Whether there is a backup of this name. What else is in the blocks of a checkpoint stays out.
    Backup(&'a str),
}

/// The slots of the checkpoints there are, ascending.
pub(super) async fn slots(repository: &Repository) -> Result<Vec<Slot>, Error> {
    let listed = repository.store().list(CHECKPOINT, None).await?;
    let slots = listed
        .iter()
        .filter_map(|it| it.name.strip_prefix(CHECKPOINT).and_then(Slot::parse));
    Ok(slots.filter(|slot| *slot > Slot(0)).collect())
}

/// What the checkpoint of this slot says.
pub(super) async fn read(
    repository: &Repository,
    slot: Slot,
    scope: Scope<'_>,
) -> Result<History, Error> {
    let object = slot.checkpoint();
    let why = "the log below it may have been removed";
    let sum: Checkpoint = repository
        .fetch(ObjectKind::Checkpoint, &object, why)
        .await?;
    let refuse = |source| repository.refuse(&object, source);
    check_head(&sum, slot).map_err(refuse)?;
    let commits = match scope {
        Scope::Whole => &sum.commits[..],
        Scope::Backup(name) => block_of(&sum.commits, name),
    };
    let refs = commits.iter().map(|it| it.record.as_ref());
    let blocks = fetch(repository, &object, refs).await?;
    let commits = read_commits(commits, &blocks, slot).map_err(refuse)?;
    let mut history = History::at(slot, sum.head_hash.clone());
    history.set_commits(commits).map_err(refuse)?;
    if let Scope::Whole = scope {
        let [segments, marked] = [&sum.segments, &sum.marked].map(|it| it.iter().map(Some));
        history.segments =
            names_in(&fetch(repository, &object, segments).await?).map_err(refuse)?;
        let marked = names_in(&fetch(repository, &object, marked).await?).map_err(refuse)?;
        history.marked = ascending(&marked).map_err(refuse)?;
        check_counts(&sum, &history).map_err(refuse)?;
    }
    Ok(history)
}

pub(super) fn check_head(sum: &Checkpoint, slot: Slot) -> Result<(), FormatError> {
    if sum.slot != slot.0 {
        return Err(FormatError::Misplaced("it sums up to another slot"));
    }
    if sum.head_hash.len() != 32 {
        return Err(FormatError::Damaged("its hash of the log is not 32 bytes"));
    }
    Ok(())
}

/// The block that a name is in, if it is in any.
pub(super) fn block_of<'a>(blocks: &'a [CommitBlock], name: &str) -> &'a [CommitBlock] {
    let behind = blocks.partition_point(|block| block.first_name.as_str() <= name);
    &blocks[behind.saturating_sub(1)..behind]
}

async fn fetch<'a>(
    repository: &Repository,
    object: &str,
    refs: impl Iterator<Item = Option<&'a NodeRefMessage>>,
) -> Result<Vec<Bytes>, Error> {
    let refs: Vec<NodeRef> = refs
        .map(|it| NodeRef::from_message(it.ok_or(FormatError::Damaged("a block has no place"))?))
        .collect::<Result<_, _>>()
        .map_err(|source| repository.refuse(object, source))?;
    fetch_nodes(repository, &refs).await
}

/// The commits of some neighbouring blocks, sorted by name.
pub(super) fn read_commits(
    refs: &[CommitBlock],
    blocks: &[Bytes],
    up_to: Slot,
) -> Result<Vec<Committed>, FormatError> {
    let mut commits: Vec<Committed> = Vec::new();
    for (block, bytes) in refs.iter().zip(blocks) {
        let list = CommitList::decode(&bytes[..])
            .map_err(|_| FormatError::Damaged("a block of commits is not the message"))?;
        let first = commits.len();
        for it in list.commits {
            let commit = it
                .commit
                .ok_or(FormatError::Damaged("a commit is missing in a block"))?;
            let slot = Slot(it.slot);
            if !(Slot(1)..=up_to).contains(&slot) {
                return Err(FormatError::Damaged("a commit is of a slot behind it"));
            }
            let ascends = |before: &Committed| before.commit.name < commit.name;
            if !commits.last().is_none_or(ascends) {
                return Err(FormatError::Damaged(
                    "the names of its commits do not ascend",
                ));
            }
            commits.push(Committed { slot, commit });
        }
        let found = commits.get(first).map(|it| &it.commit.name);
        if found != Some(&block.first_name) {
            return Err(FormatError::Damaged("a block begins with another name"));
        }
    }
    Ok(commits)
}

pub(super) fn names_in(blocks: &[Bytes]) -> Result<Vec<PackName>, FormatError> {
    let tables = blocks.iter().map(|block| pack_table(block));
    Ok(tables.collect::<Result<Vec<_>, _>>()?.concat())
}

fn ascending(names: &[PackName]) -> Result<BTreeSet<PackName>, FormatError> {
    if !names.is_sorted_by(|a, b| a < b) {
        return Err(FormatError::Damaged(
            "the names of its marked packs do not ascend",
        ));
    }
    Ok(names.iter().copied().collect())
}

fn check_counts(sum: &Checkpoint, history: &History) -> Result<(), FormatError> {
    let found = [
        history.commits.len(),
        history.segments.len(),
        history.marked.len(),
    ];
    let said = [sum.commit_count, sum.segment_count, sum.marked_count];
    if found.map(|it| it as u64) != said {
        return Err(FormatError::Damaged(
            "its blocks do not hold as much as it says",
        ));
    }
    Ok(())
}

/// Writes the checkpoint of the history's head. Somebody else may have written it before.
pub(super) async fn write(repository: &Repository, history: &History) -> Result<(), Error> {
    let session = SessionId::random();
    let mut packer = PackWriter::new(repository, session, ObjectKind::TreePack, PACK_SIZES);
    let mut sum = Checkpoint {
        slot: history.head.0,
        head_hash: history.head_hash.clone(),
        commit_count: history.commits.len() as u64,
        segment_count: history.segments.len() as u64,
        marked_count: history.marked.len() as u64,
        ..Checkpoint::default()
    };
    for list in blocks_of(&history.commits) {
        let first_name = name_of(&list.commits[0]).to_owned();
        let record = Some(store(repository, &mut packer, list.encode_to_vec()).await?);
        sum.commits.push(CommitBlock { first_name, record });
    }
    for names in history.segments.chunks(NAMES_IN_BLOCK) {
        let block = join_names(names).to_vec();
        sum.segments
            .push(store(repository, &mut packer, block).await?);
    }
    let marked: Vec<PackName> = history.marked.iter().copied().collect();
    for names in marked.chunks(NAMES_IN_BLOCK) {
        let block = join_names(names).to_vec();
        sum.marked
            .push(store(repository, &mut packer, block).await?);
    }
    packer.finish().await?;
    let object = history.head.checkpoint();
    let bytes = repository.encode(ObjectKind::Checkpoint, &object, &sum);
    repository.store().put_new(&object, bytes).await?;
    Ok(())
}

const NAMES_IN_BLOCK: usize = BLOCK_BYTES / crate::format::name::PACK_NAME_BYTES;

fn name_of(it: &SlottedCommit) -> &str {
    it.commit.as_ref().map_or("", |commit| &commit.name)
}

/// The commits in order of their names, in blocks.
fn blocks_of(commits: &[Committed]) -> Vec<CommitList> {
    let mut sorted: Vec<SlottedCommit> = commits
        .iter()
        .map(|it| SlottedCommit {
            slot: it.slot.0,
            commit: Some(it.commit.clone()),
        })
        .collect();
    sorted.sort_by(|a, b| name_of(a).cmp(name_of(b)));
    let mut blocks: Vec<CommitList> = Vec::new();
    let mut bytes = BLOCK_BYTES;
    for it in sorted {
        if bytes >= BLOCK_BYTES {
            blocks.push(CommitList::default());
            bytes = 0;
        }
        bytes += it.encoded_len();
        let block = blocks.last_mut().expect("the first begins a block");
        block.commits.push(it);
    }
    blocks
}

async fn store(
    repository: &Repository,
    packer: &mut PackWriter,
    block: Vec<u8>,
) -> Result<NodeRefMessage, Error> {
    let id = repository.hashing().node_id(&block);
    let place = packer.append(&id, Record::node(block)).await?;
    Ok(NodeRef { id, place }.to_message())
}
