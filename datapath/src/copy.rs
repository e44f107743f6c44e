//! Copies a volume to another, holes left out: the snapshot of those who have no better one.

use std::{io, path::Path, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    arena::{Arena, SLOT_ALIGNMENT},
    chunk::is_zero,
    device::{self, Device, DeviceError, Extent},
    error::Error,
    progress::Progress,
    ring::BlockQueue,
    settings::Settings,
    stop::Stop,
    tasks::blocking,
};

/// Bytes per read and write: large enough that no device gains from more.
const STEP_BYTES: usize = 1 << 20;
/// Buffers, and steps in flight.
const DEPTH: usize = 8;

/// Copies all data of `from` to `to`, which must read as zeros and be at least as large.
///
/// Reads and writes pass the page cache by and go through io_uring like a backup's. When this
/// returns, however it ends, both files are closed.
pub async fn run(
    from: &Path,
    to: &Path,
    settings: &Settings,
    progress: &Arc<Progress>,
    stop: &Stop,
) -> Result<(), Error> {
    let (source, target, extents) = open(from, to, settings.direct).await?;
    if target.size_bytes < source.size_bytes {
        return Err(Error::TooSmall {
            volume_bytes: target.size_bytes,
            backup_bytes: source.size_bytes,
        });
    }
    let steps = steps(&extents);
    progress.set_total(steps.iter().map(|step| step.end - step.start).sum());
    let short_end = target.short_end()?;
    let engine = settings.engine;
    let copy = blocking(move || {
        let arena = Arena::new(DEPTH, STEP_BYTES)?;
        io::Result::Ok(Copy {
            source_bytes: source.size_bytes,
            whole_blocks_bytes: target.whole_blocks_bytes(),
            reader: BlockQueue::open(source.file, &arena, engine, DEPTH)?,
            writer: BlockQueue::open(target.file, &arena, engine, DEPTH)?,
            arena,
        })
    })
    .await?
    .map_err(|source| Error::System {
        what: "prepare to copy the volume",
        source,
    })?;
    let (source_closed, target_closed) = (copy.reader.closed(), copy.writer.closed());
    // Half a copy is of no use to a later run, so there is no winding up.
    let copied = stop.unless_asked(copy.all(steps, progress)).await;
    // However it ended: the caller may remove either when this returns.
    drop(copy);
    source_closed.await;
    target_closed.await;
    match short_end {
        Some(end) => copied.and(end.cut().await),
        None => copied,
    }
}

async fn open(
    from: &Path,
    to: &Path,
    direct: bool,
) -> Result<(Device, Device, Vec<Extent>), Error> {
    let (from, to) = (from.to_owned(), to.to_owned());
    let opened = blocking(move || {
        let source = device::open_for_read(&from, direct)?;
        let target = device::open_for_write(&to)?;
        let extents = source.data_extents()?;
        Ok::<_, DeviceError>((source, target, extents))
    });
    Ok(opened.await??)
}

struct Copy {
    arena: Arena,
    reader: BlockQueue,
    writer: BlockQueue,
    source_bytes: u64,
    whole_blocks_bytes: u64,
}

impl Copy {
    async fn all(&self, steps: Vec<Extent>, progress: &Progress) -> Result<(), Error> {
        stream::iter(steps)
            .map(|step| self.step(step, progress))
            .buffer_unordered(DEPTH)
            .try_collect::<()>()
            .await?;
        self.writer.flush().await.map_err(|source| Error::System {
            what: "flush the copy",
            source,
        })
    }

    async fn step(&self, step: Extent, progress: &Progress) -> Result<(), Error> {
        let offset = step.start;
        let len = usize::try_from(step.end - step.start).expect("at most a step");
        let slot = self.arena.acquire().await;
        let read = self.reader.read(slot, offset, len).await;
        let mut slot = read.map_err(Error::of_read(offset))?;
        progress.add_volume_io(len as u64);
        if !is_zero(&slot[..len]) {
            let padded = self.pad_to_block(&mut slot, len, step);
            let written = self.writer.write(slot, 0..padded, offset).await;
            written.map_err(Error::of_write(offset))?;
        }
        progress.add_done(len as u64);
        Ok(())
    }

    /// As a restore's: only behind the source's end is there nothing but zeros.
    fn pad_to_block(&self, slot: &mut [u8], len: usize, step: Extent) -> usize {
        let padded = len.next_multiple_of(SLOT_ALIGNMENT);
        let fits = step.start + padded as u64 <= self.whole_blocks_bytes;
        if step.end != self.source_bytes || !fits {
            return len;
        }
        slot[len..padded].fill(0);
        padded
    }
}

/// Extents in pieces that begin at multiples of a step.
fn steps(extents: &[Extent]) -> Vec<Extent> {
    let step = STEP_BYTES as u64;
    let mut steps: Vec<Extent> = Vec::new();
    for extent in extents {
        // Filesystem blocks may be smaller than ours: begin at a multiple, but never before the
        // end of the piece before.
        let mut start = extent.start / device::BLOCK_BYTES * device::BLOCK_BYTES;
        start = start.max(steps.last().map_or(0, |last| last.end));
        while start < extent.end {
            let end = ((start / step + 1) * step).min(extent.end);
            steps.push(Extent { start, end });
            start = end;
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt};

    use super::*;

    #[tokio::test]
    async fn a_copy_has_the_same_bytes_and_keeps_holes() {
        let directory = tempfile::tempdir().expect("tempdir");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let bytes = (64 << 20) + 4096 + 77;
        for path in [&from, &to] {
            File::create_new(path)
                .and_then(|file| file.set_len(bytes))
                .expect("create");
        }
        let source = File::options().write(true).open(&from).expect("open");
        for (offset, len) in [
            (0u64, 5000usize),
            (10 << 20, 3 << 20),
            (64 << 20, 4096 + 77),
        ] {
            let data: Vec<u8> = (1..=251).cycle().take(len).collect();
            source.write_all_at(&data, offset).expect("write");
        }
        let progress = Arc::default();
        let settings = Settings::default();
        run(&from, &to, &settings, &progress, &Stop::default())
            .await
            .expect("copy");
        assert!(std::fs::read(&from).expect("read") == std::fs::read(&to).expect("read"));
        assert!(progress.volume_io_bytes() < 8 << 20);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&to).expect("stat"));
        assert!(blocks * 512 < 8 << 20, "{blocks}");
    }
}
