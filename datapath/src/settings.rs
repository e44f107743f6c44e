//! What bounds a job.

use std::path::PathBuf;

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
    /// A backup cuts its data into at least so many of them, unless they get very small.
    pub packs_min: u32,
    /// Memory for the index of known chunks, in bytes.
    pub index_bytes: usize,
    /// Copies of index segments on this host; `None`: all are fetched each time.
    pub index_cache: Option<CacheSettings>,
    /// Chunk size of repositories that are made anew.
    pub chunk_bytes: u32,
    /// Parts and ranged GETs under way at once.
    pub transfers_max: usize,
}

/// Where copies of index segments are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// Made when it is needed. It must belong to the user of this process, and nobody else may
    /// write to it.
    pub folder: PathBuf,
    /// What all copies together take, of whatever repository; the oldest go first.
    pub bytes_max: u64,
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
            packs_min: 64,
            index_bytes: 64 << 20,
            index_cache: None,
            chunk_bytes: 256 << 10,
            transfers_max: 8,
        }
    }
}

impl Settings {
    /// Slots of `slot_bytes` that fit the buffers.
    ///
    /// At least what a part holds back until it is full, the slot that it shares with the part
    /// before, and the one that fills it: with fewer a backup would wait for itself.
    pub(crate) fn slots(&self, slot_bytes: usize) -> usize {
        let part_slots = (self.data_packs.part_bytes as usize).div_ceil(slot_bytes);
        (self.buffer_bytes / slot_bytes).max(part_slots + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_keep_to_their_bytes_and_always_hold_more_than_a_part() {
        let mut settings = Settings::default();
        assert_eq!(settings.slots(256 << 10) * (256 << 10), 96 << 20);
        // Few large buffers, however deep the queue.
        assert_eq!(settings.slots(4 << 20) * (4 << 20), 96 << 20);
        settings.data_packs.part_bytes = 512 << 20;
        assert!(settings.slots(64 << 10) > (512 << 20) / (64 << 10));
    }
}
