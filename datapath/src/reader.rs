//! The front of a backup: extents to chunks to hashes, in the volume's order, many at a time.

use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt, stream};

use crate::{
    arena::Arena,
    chunk::{ChunkIndex, ChunkSize, Hashed, RawChunk},
    crypt::Hashing,
    device::{Device, Extent},
    error::Error,
    progress::Progress,
    ring::BlockQueue,
    settings::Settings,
    tasks::blocking,
};

/// Which chunks of a volume to read.
pub struct ReadPlan {
    size: ChunkSize,
    volume_bytes: u64,
    /// Ranges of chunk indexes, ascending, not touching.
    runs: Vec<std::ops::Range<u64>>,
}

impl ReadPlan {
    /// Rounds extents out to chunks.
    pub fn new(size: ChunkSize, volume_bytes: u64, extents: &[Extent]) -> Self {
        let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
        let chunk = u64::from(size.bytes());
        for extent in extents {
            let end = extent.end.min(volume_bytes).div_ceil(chunk);
            let start = (extent.start / chunk).min(end);
            match runs.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ if start < end => runs.push(start..end),
                _ => {}
            }
        }
        Self {
            size,
            volume_bytes,
            runs,
        }
    }

    /// Bytes that will be read.
    pub fn bytes(&self) -> u64 {
        self.runs
            .iter()
            .map(|run| {
                let start = ChunkIndex(run.start).offset(self.size);
                let end = ChunkIndex(run.end).offset(self.size);
                end.min(self.volume_bytes) - start
            })
            .sum()
    }

    fn chunks(self) -> impl Iterator<Item = (ChunkIndex, usize)> {
        self.runs.into_iter().flatten().map(move |index| {
            let index = ChunkIndex(index);
            (index, self.size.len_of(index, self.volume_bytes))
        })
    }
}

/// A volume and the buffers to read it with.
pub struct VolumeReader {
    arena: Arena,
    queue: BlockQueue,
    depth: usize,
}

impl VolumeReader {
    /// Prepares to read `device` in chunks of `size`.
    pub async fn open(device: Device, size: ChunkSize, settings: &Settings) -> Result<Self, Error> {
        let what = "prepare to read the volume";
        let direct = device.direct;
        let (arena, queue) =
            BlockQueue::prepare(device.file, size.buffer_bytes(), settings, what).await?;
        tracing::info!(mode = ?queue.mode(), direct, "reading the volume");
        Ok(Self {
            arena,
            queue,
            depth: settings.queue_depth,
        })
    }

    /// See [`BlockQueue::closed`].
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.queue.closed()
    }

    /// The buffers that the chunks are in.
    pub fn arena(&self) -> Arena {
        self.arena.clone()
    }

    /// Reads and hashes what the plan names.
    ///
    /// Slots are taken in the volume's order, so that the oldest chunk is never the one to wait.
    pub fn read_and_hash(
        self,
        plan: ReadPlan,
        hashing: Hashing,
        progress: &Arc<Progress>,
    ) -> impl Stream<Item = Result<Hashed, Error>> + use<> {
        let Self {
            arena,
            queue,
            depth,
        } = self;
        let size = plan.size;
        let queue = Arc::new(queue);
        let progress = Arc::clone(progress);
        let threads = std::thread::available_parallelism().map_or(2, usize::from) * 2;
        stream::iter(plan.chunks())
            .then(move |(index, len)| {
                let arena = arena.clone();
                async move { (index, len, arena.acquire().await) }
            })
            .map(move |(index, len, slot)| {
                let (queue, progress) = (Arc::clone(&queue), Arc::clone(&progress));
                async move {
                    let offset = index.offset(size);
                    let slot = queue
                        .read(slot, offset, len)
                        .await
                        .map_err(Error::of_read(offset))?;
                    progress.add_volume_io(len as u64);
                    Ok(RawChunk { index, slot, len })
                }
            })
            .buffered(depth)
            .map_ok(move |chunk| {
                let hashing = hashing.clone();
                blocking(move || chunk.hash(&hashing))
            })
            .try_buffered(threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_rounded_out_to_chunks_and_each_chunk_is_read_once() {
        let size = ChunkSize::new(64 << 10).expect("valid");
        let chunk = u64::from(size.bytes());
        let volume = 10 * chunk + 512;
        let extent = |start, end| Extent { start, end };
        let plan = ReadPlan::new(
            size,
            volume,
            &[
                extent(1, 2),
                extent(chunk - 1, chunk + 1),
                extent(5 * chunk, 6 * chunk),
                extent(10 * chunk, volume),
            ],
        );
        assert_eq!(plan.bytes(), 3 * chunk + 512);
        let chunks: Vec<_> = plan.chunks().map(|(index, len)| (index.0, len)).collect();
        let full = size.buffer_bytes();
        assert_eq!(chunks, [(0, full), (1, full), (5, full), (10, 512)]);
    }
}
