//! The back of a backup: sends what is new and describes all of it.

use std::{collections::BTreeSet, time::Instant};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use prost::Message;
use ringback_proto::repository::{Commit, Root, Statistics};

use crate::{
    backup::Subject,
    chunk::{ChunkIndex, ChunkSize, EncodedChunk, Hashed, HashedChunk},
    error::Error,
    format::{
        name::{ObjectKind, PackName, SessionId, join_names, random},
        pack::Place,
        tree::{Entry, NodeRef},
    },
    index::{DedupeIndex, SegmentCache, SegmentWriter},
    log::Log,
    packer::{PackSizes, PackWriter},
    parent::{Parent, ParentCursor, unless_damaged},
    progress::Progress,
    record::Record,
    refs::{self, Packs},
    repository::Repository,
    session::Session,
    settings::Settings,
    stages::Stage,
    stop::Stop,
    tree::{TreeWriter, WrittenTree},
    window::{Settled, Step, Turn, Window},
};

/// Logical sector size that roots record: volumes are addressed in 512-byte sectors.
const SECTOR_BYTES: u32 = 512;
/// Segments that an entry names beside a commit: 2.3 KiB of its 4.
const SEGMENTS_IN_COMMIT_MAX: usize = 96;
/// Nodes are small: a few thousand of them make a pack.
const TREE_PACKS: PackSizes = PackSizes {
    pack_bytes: 64 << 20,
    part_bytes: 8 << 20,
};

/// Sends what is new and describes all of it.
pub(crate) struct Writer<'a> {
    repository: &'a Repository,
    session: Session,
    volume_bytes: u64,
    /// Packs that were found damaged. One that is marked while this backup runs may still be
    /// referred to: its chunks heal with the next backup, as those of earlier ones do.
    marked: BTreeSet<PackName>,
    index: DedupeIndex,
    window: Window,
    data: PackWriter,
    segments: SegmentWriter,
    tree: TreeWriter,
    statistics: Statistics,
}

/// Everything but the commit: durable, and not yet visible.
pub(crate) struct Written {
    session: SessionId,
    tree: WrittenTree,
    segments: Vec<PackName>,
    statistics: Statistics,
}

impl<'a> Writer<'a> {
    /// Takes up what the repository is known to hold.
    pub(crate) async fn begin(
        repository: &'a Repository,
        log: &Log,
        session: Session,
        volume_bytes: u64,
        settings: &Settings,
        window: Window,
    ) -> Result<Self, Error> {
        let segments = log.segments();
        let mut cache =
            SegmentCache::open(settings.index_cache.as_ref(), repository, segments).await;
        let marked = log.marked().clone();
        let mut index = left_chunks(repository, &session, &marked, settings.index_bytes).await?;
        index
            .load(repository, segments, &marked, &mut cache)
            .await?;
        let id = session.id;
        let (adopted_packs, adopted_bytes) = session.left();
        tracing::info!(
            session = hex::encode(id.0),
            adopted_packs,
            adopted_bytes,
            "a session begins"
        );
        let chunks = repository.chunk_size().chunks_in(volume_bytes);
        let tree_packs = PackWriter::new(repository, id, ObjectKind::TreePack, TREE_PACKS);
        Ok(Self {
            repository,
            session,
            volume_bytes,
            marked,
            index,
            window,
            data: PackWriter::new(repository, id, ObjectKind::DataPack, settings.data_packs),
            segments: SegmentWriter::new(repository, id, cache),
            tree: TreeWriter::new(tree_packs, repository.hashing(), chunks),
            statistics: Statistics::default(),
        })
    }

    /// Sends what is new, until there is nothing more or it is told to stop.
    pub(crate) async fn write_all(
        mut self,
        chunks: impl Stream<Item = Result<Hashed, Error>>,
        parent: &Parent,
        hole_bytes: u64,
        progress: &Progress,
        stop: &Stop,
    ) -> Result<Written, Error> {
        self.statistics.hole_bytes = hole_bytes;
        match self.write_chunks(chunks, parent, progress, stop).await {
            Ok(()) => self.finish().await,
            Err(Error::Stopped) => {
                // What is whole in the store is not sent again by the next run.
                self.data.finish().await?;
                Err(Error::Stopped)
            }
            Err(error) => Err(error),
        }
    }

    async fn write_chunks(
        &mut self,
        chunks: impl Stream<Item = Result<Hashed, Error>>,
        parent: &Parent,
        progress: &Progress,
        stop: &Stop,
    ) -> Result<(), Error> {
        let mut before = parent.cursor(self.repository, &mut self.tree).await?;
        let size = self.repository.chunk_size();
        let mut chunks = std::pin::pin!(chunks);
        while let Some(step) = stop.unless_asked(self.window.next(&mut chunks)).await? {
            let index = match step {
                Step::Settle(turn) => {
                    let _inside = progress.enter(Stage::HandOver);
                    self.settle(turn).await?;
                    continue;
                }
                Step::Decide(Hashed::Zero(index, len)) => {
                    self.statistics.zero_bytes += len as u64;
                    index
                }
                Step::Decide(Hashed::Data(chunk)) => {
                    let index = chunk.index();
                    let at_parent = self.at_parent(&mut before, index).await?;
                    self.decide(chunk, at_parent);
                    index
                }
            };
            progress.set_done(index.offset(size) + size.len_of(index, self.volume_bytes) as u64);
        }
        Ok(())
    }

    /// The parent's chunk at this place; none from a damaged leaf on.
    async fn at_parent(
        &mut self,
        before: &mut Option<ParentCursor>,
        index: ChunkIndex,
    ) -> Result<Option<Entry>, Error> {
        let Some(cursor) = before else {
            return Ok(None);
        };
        let found = unless_damaged(cursor.seek(index, &mut self.tree).await)?;
        if found.is_none() {
            *before = None;
        }
        Ok(found.flatten())
    }

    /// Dedupes a chunk against the parent's at the same place, then against the repository, then
    /// against the new ones on their way there.
    fn decide(&mut self, chunk: HashedChunk, at_parent: Option<Entry>) {
        let (index, id, bytes) = (chunk.index(), chunk.id(), chunk.bytes());
        let is_unchanged =
            |entry: &Entry| entry.id == id && !self.marked.contains(&entry.place.pack);
        if let Some(entry) = at_parent.filter(is_unchanged) {
            self.statistics.unchanged_bytes += bytes;
            self.window.push_known(index, id, entry.place);
        } else if let Some(place) = self.index.get(&id) {
            self.statistics.duplicate_bytes += bytes;
            self.window.push_known(index, id, place);
        } else if self.window.push_unknown(chunk) {
            self.statistics.duplicate_bytes += bytes;
        } else {
            self.statistics.new_bytes += bytes;
        }
    }

    /// Stores a chunk whose turn it is, if it is new, and puts it into the tree.
    async fn settle(&mut self, turn: Turn) -> Result<(), Error> {
        let Turn { index, id, content } = turn;
        let place = match content {
            Settled::Known(place) => place,
            Settled::New(encoded) => self.store(encoded).await?,
        };
        self.tree.push(index, id, place).await
    }

    async fn store(&mut self, chunk: EncodedChunk) -> Result<Place, Error> {
        let EncodedChunk { id, bytes, record } = chunk;
        let since = Instant::now();
        let place = self.data.append(&id.0, record).await?;
        self.window.tell(&id, place, bytes, since.elapsed());
        self.statistics.packed_bytes += u64::from(place.stored_bytes);
        self.index.insert(&id, place);
        self.segments.add(self.data.take_finished()).await?;
        Ok(place)
    }

    async fn finish(mut self) -> Result<Written, Error> {
        self.segments.add(self.data.finish().await?).await?;
        let tree = self.tree.finish().await?;
        let (session, used) = (&self.session, &tree.data_packs);
        index_adopted(self.repository, session, used, &mut self.segments).await?;
        let segments = self.segments.finish().await?;
        let (known, left_out) = (self.index.len(), self.index.left_out());
        tracing::debug!(
            known,
            left_out,
            "chunks in the index, and those it had no room for"
        );
        Ok(Written {
            session: self.session.id,
            tree,
            segments,
            statistics: self.statistics,
        })
    }
}

impl Written {
    /// Stores root and ref set; what is left is to append the commit, and after it the segments that it
    /// has no room for.
    pub(crate) async fn into_commit(
        mut self,
        repository: &Repository,
        parent: &Parent,
        volume_bytes: u64,
        size: ChunkSize,
        subject: &Subject,
    ) -> Result<(Commit, Vec<PackName>), Error> {
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
        let root = store_root(repository, &mut self.tree, &root).await?;
        self.tree.packer.finish().await?;
        let packs = Packs {
            data: self.tree.data_packs,
            tree: self.tree.tree_packs,
        };
        let ref_set = refs::store(repository, &packs, parent.packs.as_ref()).await?;
        let mut segments = self.segments;
        let later = segments.split_off(segments.len().min(SEGMENTS_IN_COMMIT_MAX));
        let commit = Commit {
            id: Bytes::copy_from_slice(&random::<16>()),
            name: subject.name.clone(),
            request_name: subject.request_name.clone(),
            volume_handle: subject.volume_handle.clone(),
            volume_identity: subject.volume_identity.clone(),
            roots: vec![root.to_message()],
            ref_set,
            session: Bytes::copy_from_slice(&self.session.0),
            segments: join_names(&segments),
            volume_bytes,
            created_ms: subject.created_ms,
            chunk_bytes: size.bytes(),
            statistics: Some(self.statistics),
        };
        Ok((commit, later))
    }
}

async fn store_root(
    repository: &Repository,
    tree: &mut WrittenTree,
    root: &Root,
) -> Result<NodeRef, Error> {
    let bytes = root.encode_to_vec();
    let id = repository.hashing().node_id(&bytes);
    let place = tree.packer.append(&id, Record::node(bytes)).await?;
    tree.tree_packs.insert(place.pack);
    Ok(NodeRef { id, place })
}

/// The index of what earlier runs left, which comes before what does not fit.
async fn left_chunks(
    repository: &Repository,
    session: &Session,
    marked: &BTreeSet<PackName>,
    memory_bytes: usize,
) -> Result<DedupeIndex, Error> {
    let mut index = DedupeIndex::new(memory_bytes);
    let mut adopted = std::pin::pin!(session.adopted(repository, |pack| !marked.contains(pack)));
    while let Some(pack) = adopted.try_next().await? {
        let object = pack.name.object(ObjectKind::DataPack);
        index
            .add_pack(&pack.into())
            .map_err(|source| repository.refuse(&object, source))?;
    }
    Ok(index)
}

/// Packs of earlier runs that a backup refers to are a backup's from now on: all shall find what
/// is in them.
async fn index_adopted(
    repository: &Repository,
    session: &Session,
    used: &BTreeSet<PackName>,
    segments: &mut SegmentWriter,
) -> Result<(), Error> {
    let adopted = session.adopted(repository, |pack| used.contains(pack));
    let mut adopted = std::pin::pin!(adopted);
    while let Some(pack) = adopted.try_next().await? {
        segments.add(vec![pack]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::fake::FakeStore;

    #[tokio::test]
    async fn a_backup_of_any_number_of_segments_is_committed_and_all_of_them_count() {
        let repository = Arc::new(FakeStore::new()).repository().await;
        let size = repository.chunk_size();
        let mut log = Log::replay(&repository).await.expect("replays");
        for (n, count) in [0, 96, 97, 5000].into_iter().enumerate() {
            let session = SessionId::random();
            let packer = PackWriter::new(&repository, session, ObjectKind::TreePack, TREE_PACKS);
            let tree = TreeWriter::new(packer, repository.hashing(), 0);
            let segments: Vec<PackName> = (0..count)
                .map(|sequence| PackName::random(session, sequence))
                .collect();
            let written = Written {
                session,
                tree: tree.finish().await.expect("empty"),
                segments: segments.clone(),
                statistics: Statistics::default(),
            };
            // Names as long as they may be.
            let subject = Subject {
                name: format!("{n}{}", "n".repeat(400)),
                request_name: "r".repeat(400),
                volume_handle: "h".repeat(100),
                volume_identity: "i".repeat(100),
                created_ms: u64::MAX,
            };
            let parent = Parent::of(&repository, &log, &subject.volume_identity).await;
            let parent = parent.expect("read");
            let before = log.segments().len();
            let committed = written.into_commit(&repository, &parent, 0, size, &subject);
            let (commit, later) = committed.await.expect("stored");
            log.append(commit).await.expect("it has room");
            log.exchange_segments(&later, &[]).await.expect("appended");
            let replayed = Log::replay(&repository).await.expect("replays");
            assert_eq!(replayed.segments()[before..], segments, "{count}");
        }
    }
}
