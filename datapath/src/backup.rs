//! A backup, from a frozen volume to a commit.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use ringback_proto::repository::{Commit, Root, Statistics};

use crate::{
    chunk::{ChunkIndex, ChunkSize, Hashed, HashedChunk},
    device,
    error::Error,
    format::{
        name::{ObjectKind, PackName, SessionId, join_names, pack_table, random},
        pack::Place,
        tree::{Entry, LEAF_CHUNKS, NodeRef, node_id},
    },
    index::{DedupeIndex, SegmentWriter},
    log::{Committed, Log},
    packer::{PackSizes, PackWriter},
    progress::Progress,
    reader::{ReadPlan, read_and_hash},
    refs::{self, Packs, StoredSet},
    repository::Repository,
    restore::Backup,
    settings::Settings,
    tree::{LeafAt, LeafBatch, TreeWriter, WrittenTree},
};

/// Logical sector size that roots record: volumes are addressed in 512-byte sectors.
const SECTOR_BYTES: u32 = 512;
/// Nodes are small: a few thousand of them make a pack.
const TREE_PACKS: PackSizes = PackSizes {
    pack_bytes: 64 << 20,
    part_bytes: 8 << 20,
};

/// What is backed up, and under which names.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Last component of the backup's path; unique in the repository.
    pub name: String,
    /// The name that its requester gave.
    pub request_name: String,
    /// How its requester names the volume.
    pub volume_handle: String,
    /// What the volume is, whatever it is called.
    pub volume_identity: String,
    /// When the snapshot was taken, milliseconds since 1970 UTC.
    pub created_ms: u64,
}

/// Backs up the frozen volume at `volume`; when this returns, the backup exists.
///
/// `log` is the repository's, as replayed. The volume must not change until this returns.
pub async fn run(
    repository: &Repository,
    log: &mut Log,
    volume: &Path,
    subject: &Subject,
    settings: &Settings,
    progress: &Arc<Progress>,
) -> Result<Committed, Error> {
    let size = repository.chunk_size();
    let device = device::open_for_read(volume, settings.direct)?;
    let volume_bytes = device.size_bytes;
    let plan = ReadPlan::new(size, volume_bytes, &device.data_extents()?);
    progress.set_total(volume_bytes);

    let parent = Parent::of(repository, log, &subject.volume_identity).await?;
    let hole_bytes = volume_bytes - plan.bytes();
    let chunks = read_and_hash(device, plan, settings, progress)?;
    let writer = Writer::begin(repository, log, &parent, volume_bytes, settings).await?;
    let written = writer
        .write_all(chunks, &parent, hole_bytes, progress)
        .await?;
    let commit = written
        .into_commit(repository, &parent, volume_bytes, size, subject)
        .await?;
    let committed = log.append(commit).await?;
    progress.set_done(volume_bytes);
    Ok(committed)
}

/// The backup that this one is compared with: the volume's last, if there is one.
struct Parent {
    commit_id: Bytes,
    backup: Option<Backup>,
    packs: Option<StoredSet>,
}

impl Parent {
    async fn of(repository: &Repository, log: &Log, identity: &str) -> Result<Self, Error> {
        let Some(committed) = log.latest_of(identity) else {
            return Ok(Self {
                commit_id: Bytes::new(),
                backup: None,
                packs: None,
            });
        };
        let backup = Backup::read(repository, committed).await?;
        let packs = StoredSet::fetch(repository, &committed.commit.ref_set).await?;
        Ok(Self {
            commit_id: committed.commit.id.clone(),
            backup: Some(backup).filter(|it| it.chunk_size() == repository.chunk_size()),
            packs: Some(packs),
        })
    }
}

/// Sends what is new and describes all of it.
struct Writer<'a> {
    repository: &'a Repository,
    session: SessionId,
    volume_bytes: u64,
    index: DedupeIndex,
    data: PackWriter,
    segments: SegmentWriter,
    tree: TreeWriter,
    statistics: Statistics,
}

/// Everything but the commit: durable, and not yet visible.
struct Written {
    session: SessionId,
    tree: WrittenTree,
    segments: Vec<PackName>,
    statistics: Statistics,
}

impl<'a> Writer<'a> {
    async fn begin(
        repository: &'a Repository,
        log: &Log,
        parent: &Parent,
        volume_bytes: u64,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let session = SessionId::random();
        let chunks = repository.chunk_size().chunks_in(volume_bytes);
        let index = DedupeIndex::load(
            repository,
            &live_segments(repository, log)?,
            settings.index_bytes,
        )
        .await?;
        let tree_packs = PackWriter::new(repository, session, ObjectKind::TreePack, TREE_PACKS);
        tracing::debug!(
            parent = parent.backup.is_some(),
            ?session,
            "a session begins"
        );
        Ok(Self {
            repository,
            session,
            volume_bytes,
            index,
            data: PackWriter::new(
                repository,
                session,
                ObjectKind::DataPack,
                settings.data_packs,
            ),
            segments: SegmentWriter::new(repository, session, chunks),
            tree: TreeWriter::new(tree_packs, chunks),
            statistics: Statistics::default(),
        })
    }

    async fn write_all(
        mut self,
        chunks: impl Stream<Item = Result<Hashed, Error>>,
        parent: &Parent,
        hole_bytes: u64,
        progress: &Progress,
    ) -> Result<Written, Error> {
        let mut before = match &parent.backup {
            Some(backup) => {
                let (inner, leaves) = backup.tree().leaf_batches(self.repository).await?;
                inner.into_iter().for_each(|node| self.tree.know(node));
                Some(ParentCursor::new(leaves.boxed()))
            }
            None => None,
        };
        self.statistics.hole_bytes = hole_bytes;
        let size = self.repository.chunk_size();
        let mut chunks = std::pin::pin!(chunks);
        while let Some(hashed) = chunks.try_next().await? {
            let index = match hashed {
                Hashed::Zero(index, len) => {
                    self.statistics.zero_bytes += len as u64;
                    index
                }
                Hashed::Data(chunk) => {
                    let index = chunk.index();
                    let at_parent = match &mut before {
                        Some(cursor) => cursor.seek(index, &mut self.tree).await?,
                        None => None,
                    };
                    self.write(chunk, at_parent).await?;
                    index
                }
            };
            progress.set_done(index.offset(size) + size.len_of(index, self.volume_bytes) as u64);
        }
        self.finish().await
    }

    /// Dedupes a chunk against the parent's at the same place, then against the repository;
    /// stores it when it is new.
    async fn write(&mut self, chunk: HashedChunk, at_parent: Option<Entry>) -> Result<(), Error> {
        let (index, id, bytes) = (chunk.index(), chunk.id(), chunk.bytes());
        let place = match at_parent.filter(|entry| entry.id == id) {
            Some(entry) => {
                self.statistics.unchanged_bytes += bytes;
                entry.place
            }
            None => match self.index.get(&id) {
                Some(place) => {
                    self.statistics.duplicate_bytes += bytes;
                    place
                }
                None => {
                    self.statistics.new_bytes += bytes;
                    self.store(chunk).await?
                }
            },
        };
        self.tree.push(index, id, place).await
    }

    async fn store(&mut self, chunk: HashedChunk) -> Result<Place, Error> {
        let sealed = chunk.into_new().seal();
        let place = self.data.append(&sealed.id.0, &sealed.record).await?;
        self.index.insert(&sealed.id, place);
        self.segments.add(self.data.take_finished()).await?;
        Ok(place)
    }

    async fn finish(mut self) -> Result<Written, Error> {
        self.segments.add(self.data.finish().await?).await?;
        let segments = self.segments.finish().await?;
        let tree = self.tree.finish().await?;
        Ok(Written {
            session: self.session,
            tree,
            segments,
            statistics: self.statistics,
        })
    }
}

impl Written {
    /// Stores root and ref set; what is left is to append the commit.
    async fn into_commit(
        mut self,
        repository: &Repository,
        parent: &Parent,
        volume_bytes: u64,
        size: ChunkSize,
        subject: &Subject,
    ) -> Result<Commit, Error> {
        self.statistics.sent_bytes = repository.store().meter().sent();
        let root = Root {
            volume_bytes,
            chunk_bytes: size.bytes(),
            sector_bytes: SECTOR_BYTES,
            created_ms: subject.created_ms,
            parent: parent.commit_id.clone(),
            height: self.tree.height,
            top: self.tree.top.map(|top| top.to_message()),
            statistics: Some(self.statistics),
            volume_handle: subject.volume_handle.clone(),
            volume_identity: subject.volume_identity.clone(),
        };
        let root = store_root(&mut self.tree, &root).await?;
        self.tree.packer.finish().await?;
        let packs = Packs {
            data: self.tree.data_packs,
            tree: self.tree.tree_packs,
        };
        let ref_set = refs::store(repository, &packs, parent.packs.as_ref()).await?;
        Ok(Commit {
            id: Bytes::copy_from_slice(&random::<16>()),
            name: subject.name.clone(),
            request_name: subject.request_name.clone(),
            volume_handle: subject.volume_handle.clone(),
            volume_identity: subject.volume_identity.clone(),
            roots: vec![root.to_message()],
            ref_set,
            session: Bytes::copy_from_slice(&self.session.0),
            segments: join_names(&self.segments),
            volume_bytes,
            created_ms: subject.created_ms,
            chunk_bytes: size.bytes(),
            statistics: Some(self.statistics),
        })
    }
}

async fn store_root(tree: &mut WrittenTree, root: &Root) -> Result<NodeRef, Error> {
    let bytes = Bytes::from(root.encode_to_vec());
    let id = node_id(&bytes);
    let place = tree.packer.append(&id, &[bytes]).await?;
    tree.tree_packs.insert(place.pack);
    Ok(NodeRef { id, place })
}

/// The segments of all backups, oldest first.
fn live_segments(repository: &Repository, log: &Log) -> Result<Vec<PackName>, Error> {
    let mut segments = Vec::new();
    for it in log.commits() {
        let names = pack_table(&it.commit.segments)
            .map_err(|source| repository.refuse(&it.slot.object(), source))?;
        segments.extend(names);
    }
    Ok(segments)
}

/// Walks the parent's leaves beside the chunks that are read.
struct ParentCursor<S> {
    batches: S,
    leaves: std::vec::IntoIter<LeafAt>,
    current: Option<LeafAt>,
}

impl<S: Stream<Item = LeafBatch> + Unpin> ParentCursor<S> {
    fn new(batches: S) -> Self {
        Self {
            batches,
            leaves: Vec::new().into_iter(),
            current: None,
        }
    }

    /// The parent's chunk at this place; the leaves passed on the way are made known to `tree`.
    async fn seek(
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
            match self.batches.try_next().await? {
                Some(batch) => self.leaves = batch.into_iter(),
                None => return Ok(None),
            }
        }
    }
}
