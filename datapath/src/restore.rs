//! A restore: from a commit to a volume that holds the same bytes.
//!
//! Ordering rule: no byte reaches the volume before its chunk's hash was checked.

use std::{path::Path, sync::Arc};

use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use ringback_proto::repository::{Root, Statistics};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    arena::{Arena, Slot},
    chunk::{CODEC_RAW, ChunkId, ChunkIndex, ChunkSize, is_zero},
    device::{self, BLOCK_BYTES, Device},
    error::Error,
    format::{
        FormatError,
        name::ObjectKind,
        pack::Place,
        tree::{NodeRef, height_for},
    },
    log::{Committed, Log},
    progress::Progress,
    ranges::{Limits, Range, coalesce},
    repository::{FETCH_TRIES, Repository},
    ring::BlockQueue,
    settings::Settings,
    stages::Stage,
    stop::Stop,
    store::{Download, StoreError},
    tasks::{blocking, joined},
    tree::{LeafAt, Tree, fetch_nodes},
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

    fn damaged(&self, wanted: &Wanted, place: &Place, reason: &str) -> Error {
        Error::Chunk {
            backup: self.name.clone(),
            volume: self.root.volume_handle.clone(),
            offset: wanted.index.offset(self.chunk_size),
            object: place.pack.object(ObjectKind::DataPack),
            reason: reason.to_owned(),
        }
    }
}

/// Everything about a tree's size follows from the volume's: what does not fit is damaged.
fn check_root(root: &Root) -> Result<(ChunkSize, Tree), FormatError> {
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

/// Writes the backup to the volume at `target`, which must read as zeros throughout and be at
/// least as large; when this returns without an error, the data is durable. However it ends,
/// nothing is written any more and the volume is closed.
pub async fn run(
    repository: &Repository,
    backup: &Backup,
    target: &Path,
    settings: &Settings,
    progress: &Arc<Progress>,
    stop: &Stop,
) -> Result<(), Error> {
    let device = open(target).await?;
    if device.size_bytes < backup.volume_bytes() {
        return Err(Error::TooSmall {
            volume_bytes: device.size_bytes,
            backup_bytes: backup.volume_bytes(),
        });
    }
    progress.set_total(backup.stored_bytes());
    let (whole_blocks_bytes, direct) = (device.whole_blocks_bytes(), device.direct);
    let short_end = device.short_end()?;
    let slot_bytes = backup.chunk_size.buffer_bytes();
    let what = "prepare to write the volume";
    let (arena, queue) = BlockQueue::prepare(device.file, slot_bytes, settings, what).await?;
    tracing::info!(mode = ?queue.mode(), direct, "writing the volume");

    let closed = queue.closed();
    let restore = Arc::new(Restore {
        repository: repository.clone(),
        backup: backup.clone(),
        arena,
        queue,
        whole_blocks_bytes,
        progress: Arc::clone(progress),
    });
    let restored = stop
        .unless_asked(restore.fetch_and_write(settings.queue_depth))
        .await;
    drop(restore);
    closed.await;
    match short_end {
        Some(end) => restored.and(end.cut().await),
        None => restored,
    }
}

async fn open(target: &Path) -> Result<Device, Error> {
    let target = target.to_owned();
    Ok(blocking(move || device::open_for_write(&target)).await??)
}

struct Restore {
    repository: Repository,
    backup: Backup,
    arena: Arena,
    queue: BlockQueue,
    /// See [`Device::whole_blocks_bytes`].
    whole_blocks_bytes: u64,
    progress: Arc<Progress>,
}

/// Where a chunk belongs, and what it must be.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    index: ChunkIndex,
    id: ChunkId,
}

/// A chunk as it came from the store; nobody has looked at it yet.
struct FetchedChunk {
    slot: Slot,
    len: usize,
    codec: u8,
    place: Place,
    /// One place in the volume, or several with equal content.
    wanted: Vec<Wanted>,
}

/// A chunk whose bytes match the id that the backup's tree gives it.
struct VerifiedChunk {
    slot: Slot,
    len: usize,
    wanted: Vec<Wanted>,
}

impl FetchedChunk {
    /// Computes; not for a ring thread.
    fn verify(self) -> Result<VerifiedChunk, Self> {
        let id = ChunkId::of(&self.slot[..self.len]);
        if self.codec == CODEC_RAW && self.wanted.iter().all(|wanted| wanted.id == id) {
            Ok(VerifiedChunk {
                slot: self.slot,
                len: self.len,
                wanted: self.wanted,
            })
        } else {
            Err(self)
        }
    }
}

impl Restore {
    async fn fetch_and_write(self: &Arc<Self>, depth: usize) -> Result<(), Error> {
        let (fetched, chunks) = mpsc::channel(depth);
        tokio::try_join!(self.fetch_all(fetched), self.write_all(chunks, depth))?;
        let _inside = self.progress.enter(Stage::Flush);
        self.queue.flush().await.map_err(|source| Error::System {
            what: "flush the volume",
            source,
        })
    }

    /// Plans batch by batch and lets as many ranges come in at once as the throttle allows.
    async fn fetch_all(self: &Arc<Self>, fetched: mpsc::Sender<FetchedChunk>) -> Result<(), Error> {
        let tree = self.backup.tree;
        let (_, mut batches) = tree.leaf_batches(&self.repository).await?;
        let mut fetching = JoinSet::new();
        while let Some(batch) = batches.next().await? {
            for range in self.plan(&batch) {
                let permit = self.repository.store().throttle().acquire().await;
                let (this, fetched) = (Arc::clone(self), fetched.clone());
                fetching.spawn(async move {
                    let result = this.fetch_range(range, &fetched).await;
                    drop(permit);
                    result
                });
                while let Some(done) = fetching.try_join_next() {
                    joined(done)??;
                }
            }
        }
        while let Some(done) = fetching.join_next().await {
            joined(done)??;
        }
        Ok(())
    }

    fn plan(&self, batch: &[LeafAt]) -> Vec<Range<Wanted>> {
        let records = batch
            .iter()
            .flat_map(|at| {
                at.leaf.entries.iter().map(|entry| {
                    let wanted = Wanted {
                        index: at.chunk_index(entry),
                        id: entry.id,
                    };
                    (entry.place, wanted)
                })
            })
            .collect();
        coalesce(records, &Limits::CHUNKS)
    }

    async fn fetch_range(
        &self,
        range: Range<Wanted>,
        fetched: &mpsc::Sender<FetchedChunk>,
    ) -> Result<(), Error> {
        let object = range.pack.object(ObjectKind::DataPack);
        let (place, wanted) = &range.records[0];
        let mut stream = RecordStream {
            download: self
                .repository
                .store()
                .get_range(&object, range.start, range.end)
                .await
                .map_err(|error| self.located(error.into(), wanted, place))?,
            piece: bytes::Bytes::new(),
            position: range.start,
        };
        for (place, wanted) in group_by_place(range.records) {
            let len = self.expected_len(&place, &wanted)?;
            let waiting = self.progress.enter(Stage::Buffer);
            let mut slot = self.arena.acquire().await;
            drop(waiting);
            let record = async {
                stream.skip_to(u64::from(place.offset)).await?;
                stream.read_record(&mut slot[..len]).await
            };
            let codec = record
                .await
                .map_err(|error| self.located(error, &wanted[0], &place))?;
            let chunk = FetchedChunk {
                slot,
                len,
                codec,
                place,
                wanted,
            };
            if fetched.send(chunk).await.is_err() {
                // The writing side has failed and says why.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Names what an object that is not there, or not whole, is needed for.
    fn located(&self, error: Error, wanted: &Wanted, place: &Place) -> Error {
        match error {
            Error::Store(StoreError::NotFound { .. }) => {
                self.backup.damaged(wanted, place, "is missing")
            }
            Error::Store(StoreError::TooShort { .. }) => {
                self.backup.damaged(wanted, place, "is cut off")
            }
            other => other,
        }
    }

    /// Length of the chunk, when the record can hold just that.
    fn expected_len(&self, place: &Place, wanted: &[Wanted]) -> Result<usize, Error> {
        let size = self.backup.chunk_size;
        let volume_bytes = self.backup.volume_bytes();
        for wanted in wanted {
            let len = size.len_of(wanted.index, volume_bytes);
            if len == 0 || place.stored_bytes as usize != len + 1 {
                let reason = "has a record of the wrong length";
                return Err(self.backup.damaged(wanted, place, reason));
            }
        }
        Ok(place.stored_bytes as usize - 1)
    }

    /// Verifies and writes what comes in, until nothing comes any more.
    async fn write_all(
        self: &Arc<Self>,
        chunks: mpsc::Receiver<FetchedChunk>,
        depth: usize,
    ) -> Result<(), Error> {
        let hashing = std::thread::available_parallelism().map_or(2, usize::from) * 2;
        into_stream(chunks)
            .map(|chunk| self.verify(chunk))
            .buffer_unordered(hashing)
            .map_ok(|chunk| self.write(chunk))
            .try_buffer_unordered(depth)
            .try_collect::<()>()
            .await
    }

    /// Fetches a chunk that does not match again before it calls it damaged.
    async fn verify(&self, mut chunk: FetchedChunk) -> Result<VerifiedChunk, Error> {
        for tries in 1.. {
            let inside = self.progress.enter(Stage::Verify);
            match blocking(move || (chunk.verify(), inside).0).await? {
                Ok(verified) => return Ok(verified),
                Err(mismatch) => chunk = mismatch,
            }
            if tries == FETCH_TRIES {
                break;
            }
            if let Err(error) = self.fetch_again(&mut chunk).await {
                return Err(self.located(error, &chunk.wanted[0], &chunk.place));
            }
        }
        let reason = match chunk.codec {
            CODEC_RAW => "does not hold the bytes that the backup's tree names".to_owned(),
            other => format!("has codec {other}, which this ringback does not know"),
        };
        Err(self.backup.damaged(&chunk.wanted[0], &chunk.place, &reason))
    }

    async fn fetch_again(&self, chunk: &mut FetchedChunk) -> Result<(), Error> {
        let place = chunk.place;
        let object = place.pack.object(ObjectKind::DataPack);
        tracing::warn!(
            object,
            offset = place.offset,
            "a chunk came in damaged; fetching it again"
        );
        let start = u64::from(place.offset);
        let store = self.repository.store();
        let mut stream = RecordStream {
            download: store.get_range(&object, start, place.end()).await?,
            piece: bytes::Bytes::new(),
            position: start,
        };
        chunk.codec = stream.read_record(&mut chunk.slot[..chunk.len]).await?;
        Ok(())
    }

    async fn write(&self, chunk: VerifiedChunk) -> Result<(), Error> {
        let VerifiedChunk {
            mut slot,
            len,
            wanted,
        } = chunk;
        for wanted in wanted {
            let chunk_offset = wanted.index.offset(self.backup.chunk_size);
            let padded = self.pad_to_block(&mut slot, len, chunk_offset);
            let range = nonzero_blocks(&slot[..padded]);
            let offset = chunk_offset + range.start as u64;
            let _inside = self.progress.enter(Stage::Write);
            slot = self
                .queue
                .write(slot, range, offset)
                .await
                .map_err(Error::of_write(offset))?;
            self.progress.add_volume_io(len as u64);
            self.progress.add_done(len as u64);
        }
        Ok(())
    }

    /// O_DIRECT writes whole blocks: the odd end of a volume is filled up with the zeros that
    /// lie behind it anyway.
    fn pad_to_block(&self, slot: &mut Slot, len: usize, offset: u64) -> usize {
        let block = usize::try_from(BLOCK_BYTES).expect("4096");
        let padded = len.next_multiple_of(block);
        if offset + padded as u64 > self.whole_blocks_bytes {
            return len;
        }
        slot[len..padded].fill(0);
        padded
    }
}

/// The blocks from the first to the last that is not all zero: the target is zero already, so
/// that the zeros around them need not be written, and its holes stay finer than chunks.
fn nonzero_blocks(bytes: &[u8]) -> std::ops::Range<usize> {
    let block = usize::try_from(BLOCK_BYTES).expect("4096");
    let has_data = |block: &[u8]| !is_zero(block);
    let Some(first) = bytes.chunks(block).position(has_data) else {
        return 0..0;
    };
    let behind = bytes
        .chunks(block)
        .rposition(has_data)
        .map_or(first, |last| last + 1);
    first * block..(behind * block).min(bytes.len())
}

fn into_stream<T>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}

/// Records by ascending offset; equal places become one.
fn group_by_place(records: Vec<(Place, Wanted)>) -> Vec<(Place, Vec<Wanted>)> {
    let mut groups: Vec<(Place, Vec<Wanted>)> = Vec::new();
    for (place, wanted) in records {
        match groups.last_mut() {
            Some((last, all)) if *last == place => all.push(wanted),
            _ => groups.push((place, vec![wanted])),
        }
    }
    groups
}

/// A download, read by position.
struct RecordStream {
    download: Box<dyn Download>,
    piece: bytes::Bytes,
    position: u64,
}

impl RecordStream {
    /// Passes over bytes that nobody wants.
    async fn skip_to(&mut self, offset: u64) -> Result<(), Error> {
        while self.position < offset {
            self.fill().await?;
            let left = usize::try_from(offset - self.position).unwrap_or(usize::MAX);
            let passed = left.min(self.piece.len());
            bytes::Buf::advance(&mut self.piece, passed);
            self.position += passed as u64;
        }
        Ok(())
    }

    /// Reads the chunk of the record that begins here; its codec.
    async fn read_record(&mut self, chunk: &mut [u8]) -> Result<u8, Error> {
        let mut codec = [CODEC_RAW];
        self.read(&mut codec).await?;
        self.read(chunk).await?;
        Ok(codec[0])
    }

    async fn read(&mut self, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            self.fill().await?;
            let len = buffer.len().min(self.piece.len());
            let (now, later) = buffer.split_at_mut(len);
            now.copy_from_slice(&self.piece[..len]);
            bytes::Buf::advance(&mut self.piece, len);
            self.position += len as u64;
            buffer = later;
        }
        Ok(())
    }

    /// Makes sure that there is a byte.
    async fn fill(&mut self) -> Result<(), Error> {
        while self.piece.is_empty() {
            self.piece = self.download.next().await?.ok_or(Error::System {
                what: "read a record: it lies outside the range asked for",
                source: std::io::ErrorKind::UnexpectedEof.into(),
            })?;
        }
        Ok(())
    }
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

    #[test]
    fn zeros_around_the_data_are_not_written_and_all_data_is() {
        let mut bytes = vec![0u8; 5 * 4096 + 512];
        assert_eq!(nonzero_blocks(&bytes), 0..0);
        bytes[4096] = 1;
        assert_eq!(nonzero_blocks(&bytes), 4096..8192);
        bytes[3 * 4096 - 1] = 1;
        assert_eq!(nonzero_blocks(&bytes), 4096..3 * 4096);
        bytes[5 * 4096 + 511] = 1;
        assert_eq!(nonzero_blocks(&bytes), 4096..5 * 4096 + 512);
    }
}
