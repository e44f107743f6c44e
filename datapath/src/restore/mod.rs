//! A restore: from a commit to a volume that holds the same bytes.
//!
//! [`Backup`] (root) -> plan (ranges of packs) -> fetch (records in slots) -> verify (open, check
//! the id) -> write. What is damaged at the place that the tree names is looked for elsewhere
//! (heal).
//!
//! Ordering rule: no byte reaches the volume before its chunk's hash was checked; zeros alone need
//! none.

mod backup;
mod fetch;
mod gaps;
mod heal;
mod plan;
mod verify;
mod write;

use std::{path::Path, sync::Arc};

use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::mpsc;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::backup::check_root;
pub use self::{backup::Backup, gaps::Ground};
use self::{gaps::Gaps, heal::Losses, verify::FetchedChunk};
use crate::{
    arena::Arena,
    codec::Decompressor,
    device::{self, Device},
    error::Error,
    progress::Progress,
    repository::Repository,
    ring::BlockQueue,
    settings::Settings,
    stages::Stage,
    stop::Stop,
    tasks::blocking,
};

/// What is restored to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The volume.
    pub path: &'a Path,
    /// What it holds now.
    pub ground: Ground,
}

impl<'a, P: AsRef<Path> + ?Sized> From<&'a P> for Target<'a> {
    /// A volume that reads as zeros throughout.
    fn from(path: &'a P) -> Self {
        Self {
            path: path.as_ref(),
            ground: Ground::Zeros,
        }
    }
}

/// Writes the backup to the volume at `target`, which must be at least as large, and zeros to all
/// else of it that does not read as zeros already; when this returns without an error, the data is
/// durable. However it ends, nothing is written any more and the volume is closed.
pub async fn run(
    repository: &Repository,
    backup: &Backup,
    target: impl Into<Target<'_>>,
    settings: &Settings,
    progress: &Arc<Progress>,
    stop: &Stop,
) -> Result<(), Error> {
    let Target { path, ground } = target.into();
    let device = open(path).await?;
    if device.size_bytes < backup.volume_bytes() {
        return Err(Error::TooSmall {
            volume_bytes: device.size_bytes,
            backup_bytes: backup.volume_bytes(),
        });
    }
    progress.set_total(backup.stored_bytes());
    let (whole_blocks_bytes, direct) = (device.whole_blocks_bytes(), device.direct);
    let short_end = device.short_end()?;
    let gaps = Gaps::of(ground, backup, &device)?;
    let chunk_bytes = backup.chunk_size().buffer_bytes();
    let slot_bytes = repository.shape().slot_bytes(chunk_bytes);
    // What decompressing takes is not there for slots.
    let verifiers_bytes = verifiers() * Decompressor::memory_bytes(chunk_bytes);
    let settings = &Settings {
        buffer_bytes: settings.buffer_bytes.saturating_sub(verifiers_bytes),
        ..settings.clone()
    };
    let what = "prepare to write the volume";
    let (arena, queue) = BlockQueue::prepare(device.file, slot_bytes, settings, what).await?;
    tracing::info!(mode = ?queue.mode(), direct, "writing the volume");

    let gaps_closed = gaps.as_ref().map(Gaps::closed);
    let closed = queue.closed();
    let restore = Arc::new(Restore {
        repository: repository.clone(),
        backup: backup.clone(),
        arena,
        queue,
        whole_blocks_bytes,
        ground,
        progress: Arc::clone(progress),
        lost: Losses::within(settings.index_bytes),
    });
    let restored = stop
        .unless_asked(restore.fetch_and_write(settings.queue_depth, gaps))
        .await;
    drop(restore);
    closed.await;
    if let Some(closed) = gaps_closed {
        closed.await;
    }
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
    ground: Ground,
    progress: Arc<Progress>,
    lost: Losses,
}

impl Restore {
    async fn fetch_and_write(
        self: &Arc<Self>,
        depth: usize,
        gaps: Option<Gaps>,
    ) -> Result<(), Error> {
        let (fetched, chunks) = mpsc::channel(depth);
        tokio::try_join!(self.fetch_all(fetched, gaps), self.write_all(chunks, depth))?;
        let _inside = self.progress.enter(Stage::Flush);
        self.queue.flush().await.map_err(|source| Error::System {
            what: "flush the volume",
            source,
        })
    }

    /// Verifies and writes what comes in, until nothing comes any more; then what was damaged, from
    /// elsewhere.
    async fn write_all(
        self: &Arc<Self>,
        chunks: mpsc::Receiver<FetchedChunk>,
        depth: usize,
    ) -> Result<(), Error> {
        into_stream(chunks)
            .map(|chunk| self.verify(chunk))
            .buffer_unordered(verifiers())
            .try_filter_map(async |verified| Ok(verified))
            .map_ok(|chunk| self.write(chunk))
            .try_buffer_unordered(depth)
            .try_collect::<()>()
            .await?;
        self.heal().await
    }
}

/// Chunks that are opened and hashed at a time.
fn verifiers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) * 2
}

fn into_stream<T>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}
