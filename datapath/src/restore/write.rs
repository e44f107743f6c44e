//! Verified chunks to the volume, without the zeros around their data where zeros are already.

use super::{Ground, Restore, verify::VerifiedChunk};
use crate::{arena::Slot, chunk::is_zero, device::BLOCK_BYTES, error::Error, stages::Stage};

impl Restore {
    pub(super) async fn write(&self, chunk: VerifiedChunk) -> Result<(), Error> {
        let VerifiedChunk {
            mut slot,
            len,
            wanted,
        } = chunk;
        for wanted in wanted {
            let chunk_offset = wanted.index.offset(self.backup.chunk_size());
            let padded = self.pad_to_block(&mut slot, len, chunk_offset);
            let range = match self.ground {
                Ground::Zeros => nonzero_blocks(&slot[..padded]),
                Ground::Stale | Ground::StaleBlocks(_) => 0..padded,
            };
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

#[cfg(test)]
mod tests {
    use super::*;

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
