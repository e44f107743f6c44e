//! A chunk on its way into the store. Each stage has a type of its own:
//!
//! [`RawChunk`] (read) -> [`HashedChunk`] (hashed, not zero) -> [`NewChunk`] (dedupe does not know
//! it) -> [`EncodedChunk`] (as it will lie in a pack). What dedupe knows cannot be encoded.

use std::fmt;

use crate::{
    arena::Slot,
    codec::{Compressor, Effort},
    crypt::Hashing,
    record::Record,
};

/// Smallest chunk size.
pub const CHUNK_BYTES_MIN: u32 = 64 << 10;
/// Largest chunk size.
pub const CHUNK_BYTES_MAX: u32 = 4 << 20;

/// Bytes per chunk of a repository: a power of two, 64 KiB to 4 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSize(u32);

impl ChunkSize {
    /// `None` when `bytes` is no such power of two.
    pub fn new(bytes: u32) -> Option<Self> {
        let in_range = (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&bytes);
        (in_range && bytes.is_power_of_two()).then_some(Self(bytes))
    }

    /// As a number of bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// As the length of a buffer.
    pub fn buffer_bytes(self) -> usize {
        self.0 as usize
    }

    /// Number of chunks in a volume.
    pub fn chunks_in(self, volume_bytes: u64) -> u64 {
        volume_bytes.div_ceil(u64::from(self.0))
    }

    /// Length of a chunk of a volume: shorter than the chunk size for the last, perhaps.
    pub fn len_of(self, index: ChunkIndex, volume_bytes: u64) -> usize {
        let left = volume_bytes.saturating_sub(index.offset(self));
        usize::try_from(left.min(u64::from(self.0))).expect("a chunk's length fits memory")
    }
}

/// Position of a chunk in its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(pub u64);

impl ChunkIndex {
    /// Offset of its first byte in the volume; behind the end of any volume when there is no such
    /// offset, for damaged trees name such chunks.
    pub fn offset(self, size: ChunkSize) -> u64 {
        self.0.saturating_mul(u64::from(size.0))
    }
}

/// BLAKE3 of a chunk's plaintext, keyed in an encrypted repository:
/// [`Hashing`](crate::crypt::Hashing) makes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A chunk as read from a volume.
pub struct RawChunk {
    /// Where in the volume.
    pub index: ChunkIndex,
    /// Its bytes are the first `len`.
    pub slot: Slot,
    /// Length.
    pub len: usize,
}

/// What hashing made of a raw chunk.
pub enum Hashed {
    /// All zero; its buffer has gone home.
    Zero(ChunkIndex, usize),
    /// Anything else.
    Data(HashedChunk),
}

/// A chunk that is not all zero, and its id.
pub struct HashedChunk {
    index: ChunkIndex,
    id: ChunkId,
    slot: Slot,
    len: usize,
}

/// A chunk that the repository is not known to hold.
pub struct NewChunk(HashedChunk);

/// A chunk as it will lie in a pack.
pub struct EncodedChunk {
    pub(crate) id: ChunkId,
    /// Length of the chunk.
    pub(crate) bytes: u64,
    pub(crate) record: Record,
}

impl RawChunk {
    /// Tests for zero and hashes. Computes; not for a ring thread.
    pub fn hash(self, hashing: &Hashing) -> Hashed {
        let bytes = &self.slot[..self.len];
        if is_zero(bytes) {
            return Hashed::Zero(self.index, self.len);
        }
        Hashed::Data(HashedChunk {
            index: self.index,
            id: hashing.chunk_id(bytes),
            slot: self.slot,
            len: self.len,
        })
    }
}

impl HashedChunk {
    /// Where in the volume.
    pub fn index(&self) -> ChunkIndex {
        self.index
    }

    /// Its id.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.len as u64
    }

    /// States that dedupe does not know this chunk.
    pub(crate) fn into_new(self) -> NewChunk {
        NewChunk(self)
    }
}

impl NewChunk {
    /// Turns the chunk into what is stored, without copying it: the buffer goes home when the
    /// store has acknowledged the part that it is in.
    pub fn into_raw(self) -> EncodedChunk {
        self.encode(Record::raw)
    }

    /// Turns the chunk into what is stored: compressed, if that is worth it. Computes; not for a
    /// ring thread.
    pub(crate) fn compress(self, effort: Effort, compressor: &mut Compressor) -> EncodedChunk {
        self.encode(|slot, len| Record::compressed(slot, len, effort, compressor))
    }

    fn encode(self, record: impl FnOnce(Slot, usize) -> Record) -> EncodedChunk {
        let bytes = self.0.bytes();
        let HashedChunk { id, slot, len, .. } = self.0;
        EncodedChunk {
            id,
            bytes,
            record: record(slot, len),
        }
    }
}

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Blocks without an early exit inside vectorise; the exit between them is what makes a
    // chunk of data cheap.
    bytes
        .chunks(256)
        .all(|block| block.iter().fold(0, |seen, byte| seen | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arena::Arena, part::PartBuffer};

    #[test]
    fn one_bit_anywhere_makes_a_chunk_not_zero() {
        let mut bytes = vec![0u8; 4096 + 7];
        assert!(is_zero(&bytes));
        for at in [0, 255, 256, 4095, 4096, 4102] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
            bytes[at] = 0;
        }
        assert!(is_zero(&[]));
    }

    #[test]
    fn the_last_chunk_of_a_volume_may_be_short() {
        let size = ChunkSize::new(64 << 10).expect("valid");
        assert_eq!(size.chunks_in(65 << 10), 2);
        assert_eq!(size.len_of(ChunkIndex(0), 65 << 10), 64 << 10);
        assert_eq!(size.len_of(ChunkIndex(1), 65 << 10), 1 << 10);
        assert_eq!(size.chunks_in(0), 0);
        for beyond in [
            ChunkIndex(2),
            ChunkIndex((1 << 48) + 1),
            ChunkIndex(u64::MAX),
        ] {
            assert_eq!(size.len_of(beyond, 65 << 10), 0, "{beyond:?}");
        }
    }

    #[tokio::test]
    async fn a_raw_chunk_keeps_its_buffer_until_the_last_copy_of_its_part_is_gone() {
        let arena = Arena::new(1, 4096).expect("mmap");
        let mut slot = arena.acquire().await;
        slot.fill(5);
        let raw = RawChunk {
            index: ChunkIndex(0),
            slot,
            len: 4096,
        };
        let Hashed::Data(hashed) = raw.hash(&Hashing::PLAIN) else {
            panic!("not zero");
        };
        assert_eq!(hashed.id(), Hashing::PLAIN.chunk_id(&[5; 4096]));
        let mut part = PartBuffer::default();
        hashed
            .into_new()
            .into_raw()
            .record
            .put_into(&mut part, None);
        let copy = part.take_rest().pieces()[1].clone();
        drop(part);
        assert_eq!(copy, &[5u8; 4096][..]);
        let waiting = tokio::spawn(async move { arena.acquire().await.len() });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(copy);
        assert_eq!(waiting.await.expect("join"), 4096);
    }
}
