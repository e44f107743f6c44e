//! A backup that is to be read: from its commit to its root, which says how large all else is.

use prost::Message;
use ringback_proto::repository::{Root, Statistics};

use super::plan::Wanted;
use crate::{
    chunk::ChunkSize,
    error::Error,
    format::{
        FormatError,
        name::ObjectKind,
        pack::Place,
        tree::{NodeRef, height_for},
    },
    log::{Committed, Log},
    repository::Repository,
    tree::{Tree, fetch_nodes},
};

/// A committed backup of one volume, opened.
#[derive(Debug, Clone)]
pub struct Backup {
    name: String,
    root: Root,
    tree: Tree,
    chunk_size: ChunkSize,
}

impl Backup {
    /// Opens the backup `name`.
    pub async fn open(repository: &Repository, name: &str) -> Result<Self, Error> {
        let log = Log::replay(repository).await?;
        let committed = log.find(name).ok_or_else(|| Error::NoBackup {
            backup: name.to_owned(),
            repository: repository.store().describe(),
        })?;
        Self::read(repository, committed).await
    }

    /// Opens a backup that the log names.
    pub async fn read(repository: &Repository, committed: &Committed) -> Result<Self, Error> {
        let slot = committed.slot.object();
        let [root_ref] = &committed.commit.roots[..] else {
            let several = FormatError::Newer {
                what: "a number of volumes:",
                found: committed.commit.roots.len() as u64,
            };
            return Err(repository.refuse(&slot, several));
        };
        let refuse = |source| repository.refuse(&slot, source);
        let root_ref = NodeRef::from_message(root_ref).map_err(refuse)?;
        let bytes = fetch_nodes(repository, &[root_ref]).await?.remove(0);
        let root = Root::decode(bytes)
            .map_err(|_| refuse(FormatError::Damaged("its root is not the message")))?;
        let (chunk_size, tree) = check_root(&root).map_err(refuse)?;
        if chunk_size != repository.chunk_size() {
            let other = FormatError::Damaged("its chunk size is not the repository's");
            return Err(refuse(other));
        }
        Ok(Self {
            name: committed.commit.name.clone(),
            tree,
            root,
            chunk_size,
        })
    }

    /// Size of the volume in bytes.
    pub fn volume_bytes(&self) -> u64 {
        self.root.volume_bytes
    }

    /// Bytes that are stored, and that a restore writes.
    pub fn stored_bytes(&self) -> u64 {
        let Statistics {
            unchanged_bytes,
            duplicate_bytes,
            new_bytes,
            ..
        } = self.root.statistics.unwrap_or_default();
        unchanged_bytes
            .saturating_add(duplicate_bytes)
            .saturating_add(new_bytes)
    }

    pub(crate) fn tree(&self) -> Tree {
        self.tree
    }

    pub(crate) fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// That a chunk cannot be restored, and why.
    pub(super) fn damaged(
        &self,
        wanted: &Wanted,
        place: &Place,
        reason: &(impl ToString + ?Sized),
    ) -> Error {
        Error::Chunk {
            backup: self.name.clone(),
            volume: self.root.volume_handle.clone(),
            offset: wanted.index.offset(self.chunk_size),
            object: place.pack.object(ObjectKind::DataPack),
            reason: reason.to_string(),
        }
    }
}

/// Everything about a tree's size follows from the volume's: what does not fit is damaged.
pub(crate) fn check_root(root: &Root) -> Result<(ChunkSize, Tree), FormatError> {
    let size =
        ChunkSize::new(root.chunk_bytes).ok_or(FormatError::Damaged("its chunk size is none"))?;
    // No file or device can be larger.
    if i64::try_from(root.volume_bytes).is_err() {
        return Err(FormatError::Damaged("its volume has an impossible size"));
    }
    if root.height != height_for(size.chunks_in(root.volume_bytes)) {
        return Err(FormatError::Damaged(
            "its tree is not as high as its volume's size makes it",
        ));
    }
    let top = root.top.as_ref().map(NodeRef::from_message).transpose()?;
    let height = root.height;
    Ok((size, Tree { top, height }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_whose_tree_does_not_fit_its_volume_is_damaged() {
        let root = Root {
            volume_bytes: 64 << 20,
            chunk_bytes: 64 << 10,
            height: 1,
            ..Root::default()
        };
        assert!(check_root(&root).is_ok());
        for odd in [
            Root {
                height: 0,
                ..root.clone()
            },
            Root {
                height: u32::MAX,
                ..root.clone()
            },
            Root {
                chunk_bytes: 5,
                ..root.clone()
            },
            Root {
                volume_bytes: u64::MAX,
                height: 6,
                ..root
            },
        ] {
            assert!(check_root(&odd).is_err(), "{odd:?}");
        }
    }
}
