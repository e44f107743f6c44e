//! What bounds a job.

use crate::{packer::PackSizes, ring::IoEngine};

/// Plain, validated values; every job has its own buffers within them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What moves the blocks.
    pub engine: IoEngine,
    /// false only to show what O_DIRECT is good for.
    pub direct: bool,
    /// Reads or writes in flight on the volume.
    pub queue_depth: usize,
    /// Buffers of one job, in bytes.
    pub buffer_bytes: usize,
    /// Sizes of packs of chunks.
    pub data_packs: PackSizes,
    /// Memory for the index of known chunks, in bytes.
    pub index_bytes: usize,
    /// Chunk size of repositories that are made anew.
    pub chunk_bytes: u32,
    /// Parts and ranged GETs under way at once.
    pub transfers_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            engine: IoEngine::Uring,
            direct: true,
            queue_depth: 32,
            buffer_bytes: 96 << 20,
            data_packs: PackSizes {
                pack_bytes: 128 << 20,
                part_bytes: 8 << 20,
            },
            index_bytes: 128 << 20,
            chunk_bytes: 256 << 10,
            transfers_max: 8,
        }
    }
}

impl Settings {
    /// Slots of `slot_bytes` that fit the buffers.
    ///
    /// At least three parts and one queue of them, without which a backup could not go on; at
    /// most as many as io_uring registers.
    pub(crate) fn slots(&self, slot_bytes: usize) -> usize {
        const REGISTERED_MAX: usize = 1024;
        let part_slots = (self.data_packs.part_bytes as usize).div_ceil(slot_bytes);
        let least = 3 * part_slots + self.queue_depth;
        (self.buffer_bytes / slot_bytes).clamp(least.min(REGISTERED_MAX), REGISTERED_MAX)
    }
}
