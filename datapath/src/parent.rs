//! The backup that a new one is compared with, walked beside the chunks that are read.
//!
//! It only saves work: damage to it is passed over.

use bytes::Bytes;

use crate::{
    chunk::ChunkIndex,
    error::{Error, ErrorKind},
    format::tree::{Entry, LEAF_CHUNKS},
    log::Log,
    refs::StoredSet,
    repository::Repository,
    restore::Backup,
    tree::{LeafAt, LeafBatches, TreeWriter},
};

/// The backup that this one is compared with: the volume's last, if there is one.
pub(crate) struct Parent {
    /// Its commit; empty: there is none.
    pub(crate) commit_id: Bytes,
    /// Its content, unless damaged.
    backup: Option<Backup>,
    /// Its set of packs, unless damaged.
    pub(crate) packs: Option<StoredSet>,
}

impl Parent {
    /// The newest backup of this volume.
    pub(crate) async fn of(
        repository: &Repository,
        log: &Log,
        identity: &str,
    ) -> Result<Self, Error> {
        let Some(committed) = log.latest_of(identity) else {
            return Ok(Self {
                commit_id: Bytes::new(),
                backup: None,
                packs: None,
            });
        };
        let backup = unless_damaged(Backup::read(repository, committed).await)?;
        let packs = StoredSet::fetch(repository, &committed.commit.ref_set).await;
        Ok(Self {
            commit_id: committed.commit.id.clone(),
            backup,
            packs: unless_damaged(packs)?,
        })
    }

    /// A walk over its leaves; its nodes are made known to `tree`.
    pub(crate) async fn cursor(
        &self,
        repository: &Repository,
        tree: &mut TreeWriter,
    ) -> Result<Option<ParentCursor>, Error> {
        let Some(backup) = &self.backup else {
            return Ok(None);
        };
        let begun = unless_damaged(backup.tree().leaf_batches(repository).await)?;
        Ok(begun.map(|(inner, leaves)| {
            inner.into_iter().for_each(|node| tree.know(node));
            ParentCursor::new(leaves)
        }))
    }
}

/// Damage to an earlier backup must not keep this one from being made: it only costs work.
pub(crate) fn unless_damaged<T>(read: Result<T, Error>) -> Result<Option<T>, Error> {
    match read {
        Err(error) if error.kind() == ErrorKind::Damaged => {
            tracing::warn!(%error, "going on without what the last backup would save");
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Walks the parent's leaves beside the chunks that are read.
pub(crate) struct ParentCursor {
    batches: LeafBatches,
    leaves: std::vec::IntoIter<LeafAt>,
    current: Option<LeafAt>,
}

impl ParentCursor {
    fn new(batches: LeafBatches) -> Self {
        Self {
            batches,
            leaves: Vec::new().into_iter(),
            current: None,
        }
    }

    /// The parent's chunk at this place; the leaves passed on the way are made known to `tree`.
    pub(crate) async fn seek(
        &mut self,
        index: ChunkIndex,
        tree: &mut TreeWriter,
    ) -> Result<Option<Entry>, Error> {
        let wanted = index.0 / LEAF_CHUNKS;
        while self.current.as_ref().is_none_or(|at| at.index < wanted) {
            match self.next_leaf().await? {
                Some(leaf) => {
                    tree.know(leaf.node);
                    self.current = Some(leaf);
                }
                None => return Ok(None),
            }
        }
        let Some(at) = self.current.as_ref().filter(|at| at.index == wanted) else {
            return Ok(None);
        };
        let position = u32::try_from(index.0 % LEAF_CHUNKS).expect("below 512");
        let found = at
            .leaf
            .entries
            .binary_search_by_key(&position, |entry| entry.position);
        Ok(found.ok().map(|entry| at.leaf.entries[entry]))
    }

    async fn next_leaf(&mut self) -> Result<Option<LeafAt>, Error> {
        loop {
            if let Some(leaf) = self.leaves.next() {
                return Ok(Some(leaf));
            }
            match self.batches.next().await? {
                Some(batch) => self.leaves = batch.into_iter(),
                None => return Ok(None),
            }
        }
    }
}
