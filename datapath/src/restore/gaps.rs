//! What lies between a backup's chunks reads as zeros: on a volume that holds something else, it
//! is made so.
//!
//! Chunks come in the volume's order from the tree, so each gap is known when the next chunk is,
//! and is zeroed while chunks are under way. Gaps and chunks never share a byte.

use std::{fs::File, ops::Range, sync::Arc};

use tokio::sync::watch;

use super::Backup;
use crate::{
    device::{self, BLOCK_BYTES, Device},
    error::Error,
    tasks::{blocking, let_go},
    tree::LeafAt,
};

/// Zeroed at once: a restore that is told to end waits for no more than this.
const STEP_BYTES: u64 = 64 << 20;

/// What a volume holds before a backup is restored to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Zeros throughout.
    Zeros,
    /// Anything: data of others that had the disk before, say.
    Stale,
    /// Zeros, but the first write to a block of so many bytes brings up what the disk held in the
    /// rest of it: a thin volume whose pool does not zero new blocks.
    StaleBlocks(u64),
}

/// The volume, open for as long as anybody may be zeroing it. The file is closed before `open` goes.
struct Opened {
    file: File,
    open: watch::Sender<()>,
}

/// The gaps of one restore, from the volume's beginning to its end.
pub(super) struct Gaps {
    ground: Ground,
    volume: Arc<Opened>,
    device_bytes: u64,
    backup_bytes: u64,
    chunk_bytes: u64,
    /// All before is dealt with.
    done: u64,
}

impl Gaps {
    /// Those of a backup on this device; `None` where all is zero already.
    pub(super) fn of(
        ground: Ground,
        backup: &Backup,
        device: &Device,
    ) -> Result<Option<Self>, Error> {
        if ground == Ground::Zeros {
            return Ok(None);
        }
        let file = device.file.try_clone().map_err(|source| Error::System {
            what: "open the volume again",
            source,
        })?;
        Ok(Some(Self {
            ground,
            volume: Arc::new(Opened {
                file,
                open: watch::Sender::default(),
            }),
            device_bytes: device.size_bytes,
            backup_bytes: backup.volume_bytes(),
            chunk_bytes: backup.chunk_size().bytes().into(),
            done: 0,
        }))
    }

    /// Ends when these gaps have been dropped, nothing is being zeroed any more and the volume is
    /// closed.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let_go(self.volume.open.subscribe())
    }

    /// Zeroes what lies before and between the chunks of these leaves.
    pub(super) async fn zero_up_to(&mut self, batch: &[LeafAt]) -> Result<(), Error> {
        for at in batch {
            for entry in &at.leaf.entries {
                let start = at.chunk_index(entry).0.saturating_mul(self.chunk_bytes);
                self.zero(self.done..start, start).await?;
                self.done = (start + self.chunk_bytes).min(self.written_bytes());
            }
        }
        Ok(())
    }

    /// Where what is written ends. The last chunk may be short; it is written by the whole block, unless the
    /// volume has no whole one there.
    fn written_bytes(&self) -> u64 {
        let whole = self.backup_bytes.next_multiple_of(BLOCK_BYTES);
        if whole > self.device_bytes {
            return self.backup_bytes;
        }
        whole
    }

    /// Zeroes what lies behind the last chunk.
    pub(super) async fn zero_the_rest(self) -> Result<(), Error> {
        self.zero(self.done..self.device_bytes, u64::MAX).await
    }

    /// `next` is where the next chunk begins.
    async fn zero(&self, gap: Range<u64>, next: u64) -> Result<(), Error> {
        for stale in stale_parts(self.ground, gap, next) {
            let mut start = stale.start;
            while start < stale.end {
                let step = STEP_BYTES.min(stale.end - start);
                let volume = Arc::clone(&self.volume);
                blocking(move || device::zero_range(&volume.file, start, step))
                    .await?
                    .map_err(|source| Error::Io {
                        what: "fill with zeros from",
                        offset: start,
                        source,
                    })?;
                start += step;
            }
        }
        Ok(())
    }
}

/// The parts of a gap that may not read as zeros once the chunks around it are written.
fn stale_parts(ground: Ground, gap: Range<u64>, next: u64) -> Vec<Range<u64>> {
    let all = match ground {
        Ground::Zeros => vec![],
        Ground::Stale => vec![gap],
        Ground::StaleBlocks(block_bytes) => {
            // The rest of the block that the chunk before ends in, and of the one that the next
            // begins in; which may be one.
            let head = gap.start..gap.start.next_multiple_of(block_bytes).min(gap.end);
            let tail = (next / block_bytes * block_bytes).max(head.end)..gap.end;
            vec![head, tail]
        }
    };
    all.into_iter().filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const KIB: u64 = 1 << 10;

    fn gaps(backup_bytes: u64, device_bytes: u64) -> Gaps {
        Gaps {
            ground: Ground::Stale,
            volume: Arc::new(Opened {
                file: tempfile::tempfile().expect("a file"),
                open: watch::Sender::default(),
            }),
            device_bytes,
            backup_bytes,
            chunk_bytes: 0,
            done: 0,
        }
    }

    #[test]
    fn the_last_block_counts_as_written_only_if_the_volume_has_all_of_it() {
        let written = |backup, device| gaps(backup * KIB, device * KIB).written_bytes();
        assert_eq!(written(1025, 4096), 1028 * KIB);
        assert_eq!(written(1025, 1028), 1028 * KIB);
        assert_eq!(written(1025, 1026), 1025 * KIB);
        assert_eq!(written(1024, 1024), 1024 * KIB);
    }

    #[tokio::test]
    async fn gaps_are_closed_when_nothing_is_being_zeroed_any_more() {
        let gaps = gaps(0, 0);
        let mut closed = Box::pin(gaps.closed());
        let being_zeroed = Arc::clone(&gaps.volume);
        drop(gaps);
        assert_eq!(closed.as_mut().now_or_never(), None);
        drop(being_zeroed);
        closed.await;
    }

    /// Beginnings and ends in KiB.
    fn parts(ground: Ground, gap: Range<u64>, next: u64) -> Vec<(u64, u64)> {
        stale_parts(
            ground,
            gap.start * KIB..gap.end * KIB,
            next.saturating_mul(KIB),
        )
        .into_iter()
        .map(|part| (part.start / KIB, part.end / KIB))
        .collect()
    }

    #[test]
    fn on_stale_ground_a_gap_is_zeroed_whole_and_on_zeros_not_at_all() {
        assert_eq!(parts(Ground::Stale, 64..256, 256), [(64, 256)]);
        assert_eq!(parts(Ground::Stale, 0..1024, u64::MAX), [(0, 1024)]);
        assert_eq!(parts(Ground::Stale, 64..64, 64), []);
        assert_eq!(parts(Ground::Zeros, 64..256, 256), []);
    }

    #[test]
    fn on_stale_blocks_the_rests_of_the_blocks_around_a_gap_are_zeroed() {
        let ground = Ground::StaleBlocks(192 * KIB);
        // Chunks 64..128 and 512..576 in blocks of 192.
        assert_eq!(parts(ground, 128..512, 512), [(128, 192), (384, 512)]);
        assert_eq!(parts(ground, 0..64, 64), [(0, 64)]);
        // One block around the whole gap.
        assert_eq!(parts(ground, 256..320, 320), [(256, 320)]);
        // Nothing was written before, and chunks that begin with a block need nothing.
        assert_eq!(parts(ground, 0..192, 192), []);
        // Behind the last chunk.
        assert_eq!(parts(ground, 256..4096, u64::MAX), [(256, 384)]);
        assert_eq!(parts(ground, 384..4096, u64::MAX), []);
        assert_eq!(parts(ground, 0..4096, u64::MAX), []);
    }
}
