//! What bounds a job.

use std::path::PathBuf;

use crate::{
    chunk::ChunkSize, codec::Compression, error::Error, packer::PackSizes, ring::IoEngine,
};

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
    /// How hard new chunks are compressed.
    pub compression: Compression,
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
            compression: Compression::Auto,
        }
    }
}

/// Compressors take at most this part of the buffers, but there is always one.
const COMPRESSORS_SHARE: usize = 4;

impl Settings {
    /// How many chunks are compressed at a time, and the bytes of the buffers that this takes: two
    /// for each processor, so that none idles while the oldest chunk is waited for. Refuses what
    /// leaves too little for the chunks themselves.
    pub(crate) fn compressors(&self, size: ChunkSize) -> Result<(usize, usize), Error> {
        let each = self.compression.memory_bytes(size.buffer_bytes());
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let affordable = (self.buffer_bytes / COMPRESSORS_SHARE).checked_div(each);
        let count = (2 * processors)
            .min(affordable.unwrap_or(usize::MAX))
            .max(1);
        let slots_bytes = self.slots_min(size.buffer_bytes()) * size.buffer_bytes();
        let needed = each + slots_bytes;
        // Buffers that a part alone does not fit are not refused because of compression.
        if count == 1 && slots_bytes <= self.buffer_bytes && needed > self.buffer_bytes {
            return Err(Error::TooLittleMemory {
                compression: self.compression.to_string(),
                chunk_kib: size.buffer_bytes() >> 10,
                needed_mib: needed.div_ceil(1 << 20),
                buffers_mib: self.buffer_bytes >> 20,
            });
        }
        Ok((count, count * each))
    }

    /// Slots of `slot_bytes` that fit the buffers.
    ///
    /// At least what a part holds back until it is full, which may take twice its bytes
    /// ([`PartBuffer`](crate::part)), the slot that it shares with the part before, and the one that
    /// fills it: with fewer a backup would wait for itself.
    pub(crate) fn slots(&self, slot_bytes: usize) -> usize {
        (self.buffer_bytes / slot_bytes).max(self.slots_min(slot_bytes))
    }

    fn slots_min(&self, slot_bytes: usize) -> usize {
        2 * (self.data_packs.part_bytes as usize).div_ceil(slot_bytes) + 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_keep_to_their_bytes_and_always_hold_more_than_two_parts() {
        let mut settings = Settings::default();
        assert_eq!(settings.slots(256 << 10) * (256 << 10), 96 << 20);
        // Few large buffers, however deep the queue.
        assert_eq!(settings.slots(4 << 20) * (4 << 20), 96 << 20);
        settings.data_packs.part_bytes = 512 << 20;
        assert!(settings.slots(64 << 10) > (1 << 30) / (64 << 10));
    }

    fn settings(compression: &str, buffer_bytes: usize) -> Settings {
        Settings {
            compression: compression.parse().expect("a compression"),
            buffer_bytes,
            ..Settings::default()
        }
    }

    #[test]
    fn compressors_leave_three_quarters_of_the_buffers_unless_there_is_only_one() {
        for compression in ["auto", "none", "lz4", "zstd-9", "zstd-19"] {
            for (chunk_bytes, buffer_bytes) in [
                (64 << 10, 2 << 20),
                (64 << 10, 24 << 20),
                (256 << 10, 96 << 20),
                (4 << 20, 96 << 20),
                (4 << 20, 128 << 20),
            ] {
                let size = ChunkSize::new(chunk_bytes).expect("valid");
                let settings = settings(compression, buffer_bytes);
                let Ok((count, bytes)) = settings.compressors(size) else {
                    assert_eq!(
                        (compression, chunk_bytes, buffer_bytes),
                        ("zstd-19", 4 << 20, 96 << 20),
                        "the one that is refused"
                    );
                    continue;
                };
                assert!(count >= 1);
                assert!(
                    count == 1 || bytes <= buffer_bytes / 4,
                    "{compression} {chunk_bytes}"
                );
                let slots = settings.slots_min(chunk_bytes as usize) * chunk_bytes as usize;
                assert!(
                    slots > buffer_bytes || bytes + slots <= buffer_bytes,
                    "{compression} {chunk_bytes}"
                );
            }
        }
    }

    #[test]
    fn what_takes_more_memory_than_there_is_is_refused_with_what_would_do() {
        let size = ChunkSize::new(4 << 20).expect("valid");
        assert!(settings("zstd-9", 96 << 20).compressors(size).is_ok());
        let refused = settings("zstd-10", 96 << 20).compressors(size);
        assert_eq!(
            refused.expect_err("too little").to_string(),
            "compressing chunks of 4096 KiB with zstd-10 takes 101 MiB, and a backup has 96 MiB of \
             buffers; give it more memory, or choose zstd-9 or lighter"
        );
    }
}
