//! A backup, from a frozen volume to a commit.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use prost::Message;
use ringback_proto::repository::{Commit, Root, Statistics};

use crate::{
    chunk::{ChunkIndex, ChunkSize, Hashed, HashedChunk},
    device::{self, Device, DeviceError, Extent},
    error::{Error, ErrorKind},
    format::{
        name::{ObjectKind, PackName, SessionId, join_names, pack_table, random},
        pack::Place,
        tree::{Entry, LEAF_CHUNKS, NodeRef, node_id},
    },
    index::{DedupeIndex, SegmentWriter},
    log::{Committed, Log},
    packer::{PackSizes, PackWriter},
    progress::Progress,
    reader::{ReadPlan, VolumeReader},
    refs::{self, Packs, StoredSet},
    repository::Repository,
    restore::Backup,
    settings::Settings,
    tasks::blocking,
    tree::{LeafAt, LeafBatches, TreeWriter, WrittenTree},
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
    let (device, extents) = open(volume, settings.direct).await?;
    let volume_bytes = device.size_bytes;
    let plan = ReadPlan::new(size, volume_bytes, &extents);
    progress.set_total(volume_bytes);

    let parent = Parent::of(repository, log, &subject.volume_identity).await?;
    let writer = Writer::begin(repository, log, &parent, volume_bytes, settings).await?;
    let hole_bytes = volume_bytes - plan.bytes();
    let reader = VolumeReader::open(device, size, settings).await?;
    let closed = reader.closed();
    let chunks = reader.read_and_hash(plan, progress);
    let written = writer
        .write_all(chunks, &parent, hole_bytes, progress)
        .await;
    // However it ended: the caller may remove the snapshot when this returns.
    closed.await;
    let commit = written?
        .into_commit(repository, &parent, volume_bytes, size, subject)
        .await?;
    let committed = log.append(commit).await?;
    progress.set_done(volume_bytes);
    Ok(committed)
}

/// Opens the volume and asks which ranges of it hold data.
async fn open(volume: &Path, direct: bool) -> Result<(Device, Vec<Extent>), Error> {
    let volume = volume.to_owned();
    let opened = blocking(move || {
        let device = device::open_for_read(&volume, direct)?;
        let extents = device.data_extents()?;
        Ok::<_, DeviceError>((device, extents))
    });
    Ok(opened.await??)
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
        let backup = unless_damaged(Backup::read(repository, committed).await)?;
        let packs = StoredSet::fetch(repository, &committed.commit.ref_set).await;
        Ok(Self {
            commit_id: committed.commit.id.clone(),
            backup,
            packs: unless_damaged(packs)?,
        })
    }
}

/// Damage to an earlier backup must not keep this one from being made: it only costs work.
fn unless_damaged<T>(read: Result<T, Error>) -> Result<Option<T>, Error> {
    match read {
        Err(error) if error.kind() == ErrorKind::Damaged => {
            tracing::warn!(%error, "going on without what the last backup would save");
            Ok(None)
        }
        read => read.map(Some),
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
            Some(backup) => unless_damaged(backup.tree().leaf_batches(self.repository).await)?,
            None => None,
        }
        .map(|(inner, leaves)| {
            inner.into_iter().for_each(|node| self.tree.know(node));
            ParentCursor::new(leaves)
        });
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
                    let at_parent = self.at_parent(&mut before, index).await?;
                    self.write(chunk, at_parent).await?;
                    index
                }
            };
            progress.set_done(index.offset(size) + size.len_of(index, self.volume_bytes) as u64);
        }
        self.finish().await
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
struct ParentCursor {
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
            match self.batches.next().await? {
                Some(batch) => self.leaves = batch.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::atomic::Ordering};

    use super::*;
    use crate::{repository::FETCH_TRIES, restore, store::fake::FakeStore};

    /// A repository in memory and a volume of a few chunks.
    struct Bed {
        store: Arc<FakeStore>,
        repository: Repository,
        folder: tempfile::TempDir,
        settings: Settings,
    }

    impl Bed {
        async fn new() -> Self {
            let store = Arc::new(FakeStore::new());
            let size = ChunkSize::new(64 << 10).expect("valid");
            let repository = Repository::open_or_create(Arc::clone(&store) as _, size)
                .await
                .expect("made");
            let bed = Self {
                store,
                repository,
                folder: tempfile::tempdir().expect("tempdir"),
                settings: Settings {
                    buffer_bytes: 2 << 20,
                    queue_depth: 4,
                    ..Settings::default()
                },
            };
            let bytes: Vec<u8> = (0..5u8).flat_map(|n| vec![n + 1; 64 << 10]).collect();
            fs::write(bed.volume(), bytes).expect("write");
            bed
        }

        fn volume(&self) -> std::path::PathBuf {
            self.folder.path().join("volume")
        }

        async fn back_up(&self, name: &str) -> Statistics {
            let mut log = Log::replay(&self.repository).await.expect("replay");
            let subject = Subject {
                name: name.to_owned(),
                request_name: name.to_owned(),
                volume_handle: "volume".to_owned(),
                volume_identity: "volume".to_owned(),
                created_ms: 0,
            };
            let (volume, progress) = (self.volume(), Arc::default());
            run(
                &self.repository,
                &mut log,
                &volume,
                &subject,
                &self.settings,
                &progress,
            )
            .await
            .expect(name)
            .commit
            .statistics
            .expect("statistics")
        }

        async fn restore(&self, name: &str) -> Result<(), Error> {
            let backup = Backup::open(&self.repository, name).await?;
            let target = self.folder.path().join(name);
            let file = fs::File::create_new(&target).expect("create");
            file.set_len(backup.volume_bytes()).expect("set_len");
            let progress = Arc::default();
            restore::run(
                &self.repository,
                &backup,
                &target,
                &self.settings,
                &progress,
            )
            .await?;
            assert!(fs::read(self.volume()).expect("read") == fs::read(target).expect("read"));
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_backup_is_made_although_the_one_before_is_damaged() {
        for lost in ["tree/", "refs/", "index/"] {
            let bed = Bed::new().await;
            bed.back_up("first").await;
            assert!(bed.store.lose(lost) > 0, "{lost}");
            let second = bed.back_up("second").await;
            assert_eq!(
                second.new_bytes, 0,
                "{lost}: either of two ways saves the work"
            );
            bed.restore("second").await.expect(lost);
        }
    }

    #[tokio::test]
    async fn a_chunk_that_comes_in_wrong_is_fetched_again_whichever_byte_it_is() {
        let bed = Bed::new().await;
        bed.back_up("one").await;
        // The first byte asked for is a codec.
        let tries = u32::try_from(FETCH_TRIES).expect("few");
        bed.store.flips.store(tries - 1, Ordering::Relaxed);
        bed.restore("one")
            .await
            .expect("the last time it comes right");
        fs::remove_file(bed.folder.path().join("one")).expect("remove");
        bed.store.flips.store(tries, Ordering::Relaxed);
        let error = bed.restore("one").await.expect_err("never right");
        assert!(error.to_string().contains("has codec 1"), "{error}");
    }

    #[tokio::test]
    async fn a_lost_or_cut_pack_is_named_with_backup_volume_and_offset() {
        let bed = Bed::new().await;
        bed.back_up("one").await;
        let whole = bed.store.objects().clone();
        for cut in [true, false] {
            *bed.store.objects() = whole.clone();
            for (name, bytes) in bed.store.objects().iter_mut() {
                if name.starts_with("data/") && cut {
                    bytes.truncate(100_000);
                }
            }
            if !cut {
                bed.store.lose("data/");
            }
            let error = bed.restore("one").await.expect_err("damaged");
            assert!(matches!(error, Error::Chunk { .. }), "{error}");
            fs::remove_file(bed.folder.path().join("one")).expect("remove");
        }
    }
}
