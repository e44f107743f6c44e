//! What a record of a pack is, how it comes about, and how it is opened.
//!
//! ```text
//! data pack   codec byte | payload      the payload is the chunk, or the chunk compressed
//! tree pack   the node
//! ```
//!
//! A record is as long as its chunk and one byte, or shorter. On both ways it stays in one slot of
//! the job's arena: compressing and decompressing go through a buffer of the thread's and back into
//! the slot, so that a job never holds more than its arena and a chunk per thread.
//!
//! Ordering rule: a record is changed in place until it is [put into](Record::put_into) a part, and
//! never after. What is read is a chunk only when [`open`](StoredRecord::open) says so *and* its id
//! was checked.

use std::fmt;

use bytes::Bytes;

use crate::{
    arena::Slot,
    chunk::ChunkId,
    codec::{Codec, Compressor, Decompressor, Effort},
    part::PartBuffer,
};

/// Bytes of a record that are not payload: the codec.
pub(crate) const OVERHEAD_BYTES: usize = 1;

/// What comes before a raw chunk, which stays where it is.
const RAW_CODEC: &[u8] = &[Codec::Raw.byte()];

/// Bytes kept free before a compressed payload in its slot, for the codec byte.
const HEADROOM_BYTES: usize = 1;

/// The most bytes that the record of a chunk of `chunk_bytes` takes.
pub(crate) fn record_bytes_max(chunk_bytes: usize) -> usize {
    chunk_bytes + OVERHEAD_BYTES
}

/// The longest payload that is worth to be decompressed at every restore: a sixteenth saved.
fn worthwhile_bytes(chunk_bytes: usize) -> usize {
    chunk_bytes - chunk_bytes.div_ceil(16)
}

/// A record on its way into a pack: owned, in memory that may still be changed.
pub struct Record(Body);

enum Body {
    /// The chunk as it is: the first `len` bytes of its slot.
    Raw { slot: Slot, len: usize },
    /// `len` bytes from [`HEADROOM_BYTES`] on. At least a sixteenth of the chunk, and the whole
    /// rest of the slot, is free behind them.
    Compressed {
        codec: Codec,
        slot: Slot,
        len: usize,
    },
    /// A tree node or a root.
    Node(Vec<u8>),
}

impl Record {
    /// The record of the chunk in the first `len` bytes of `slot`, which stay where they are.
    pub(crate) fn raw(slot: Slot, len: usize) -> Self {
        Self(Body::Raw { slot, len })
    }

    /// The record of the chunk in the first `len` bytes of `slot`: compressed, if that is worth it.
    /// Computes; not for a ring thread.
    pub(crate) fn compressed(
        mut slot: Slot,
        len: usize,
        effort: Effort,
        compressor: &mut Compressor,
    ) -> Self {
        let chunk = &slot[..len];
        match compressor.compress(effort, chunk, worthwhile_bytes(len)) {
            None => Self::raw(slot, len),
            Some((codec, payload)) => {
                let len = payload.len();
                slot[HEADROOM_BYTES..][..len].copy_from_slice(payload);
                Self(Body::Compressed { codec, slot, len })
            }
        }
    }

    /// The record of a tree node or a root.
    pub(crate) fn node(bytes: Vec<u8>) -> Self {
        Self(Body::Node(bytes))
    }

    /// Bytes that it takes in its pack.
    pub(crate) fn stored_bytes(&self) -> usize {
        match &self.0 {
            Body::Raw { len, .. } | Body::Compressed { len, .. } => len + OVERHEAD_BYTES,
            Body::Node(bytes) => bytes.len(),
        }
    }

    /// Puts its bytes into a part, which from then on nobody changes.
    pub(crate) fn put_into(self, part: &mut PartBuffer) {
        match self.0 {
            Body::Raw { slot, len } => {
                part.push(Bytes::from_static(RAW_CODEC));
                part.push(Bytes::from_owner(slot).slice(..len));
            }
            Body::Compressed {
                codec,
                mut slot,
                len,
            } => {
                slot[0] = codec.byte();
                part.push_slot(slot, 0..HEADROOM_BYTES + len);
            }
            Body::Node(bytes) => part.push(bytes.into()),
        }
    }
}

/// A record of a data pack as it came from the store; nobody has looked at it yet.
pub(crate) struct StoredRecord {
    pub(crate) codec: u8,
    /// The payload is its first `len` bytes.
    pub(crate) slot: Slot,
    pub(crate) len: usize,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It is longer than its chunk makes it, or it is not compressed and shorter.
    Length,
    /// Its codec is not known.
    Codec(u8),
    /// It cannot be decompressed to a chunk of the length that is due.
    Payload(Codec),
    /// It is another chunk.
    OtherBytes,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("has a record of the wrong length"),
            Self::Codec(codec) => write!(f, "has codec {codec}, which this ringback does not know"),
            Self::Payload(codec) => {
                let name = match codec {
                    Codec::Raw => "plain",
                    Codec::Lz4 => "LZ4",
                    Codec::Zstd => "zstd",
                };
                write!(
                    f,
                    "has a record that {name} does not decompress to a chunk of its length"
                )
            }
            Self::OtherBytes => f.write_str("does not hold the bytes that the backup's tree names"),
        }
    }
}

impl StoredRecord {
    /// Makes the first `chunk_bytes` of the slot the chunk that the record holds. The chunk is not
    /// to be trusted before its id was checked. Computes; not for a ring thread.
    pub(crate) fn open(&mut self, chunk_bytes: usize) -> Result<(), Flaw> {
        let codec = Codec::from_byte(self.codec).ok_or(Flaw::Codec(self.codec))?;
        if codec == Codec::Raw {
            let is_whole = self.len == chunk_bytes;
            return is_whole.then_some(()).ok_or(Flaw::Length);
        }
        if self.len >= chunk_bytes {
            return Err(Flaw::Length);
        }
        Decompressor::with(|decompressor| {
            let chunk = decompressor
                .decompress(codec, &self.slot[..self.len], chunk_bytes)
                .ok()
                .filter(|chunk| chunk.len() == chunk_bytes)
                .ok_or(Flaw::Payload(codec))?;
            self.slot[..chunk_bytes].copy_from_slice(chunk);
            Ok(())
        })
    }
}

/// Whether a whole record of a data pack holds the chunk `id`, for those who do not know its
/// length: chunks have at most `chunk_bytes`. Computes; not for a ring thread.
pub(crate) fn check(record: &[u8], id: &ChunkId, chunk_bytes: usize) -> Result<(), Flaw> {
    let (&codec, payload) = record.split_first().ok_or(Flaw::Length)?;
    if payload.len() > chunk_bytes {
        return Err(Flaw::Length);
    }
    let codec = Codec::from_byte(codec).ok_or(Flaw::Codec(codec))?;
    let found = match codec {
        Codec::Raw => ChunkId::of(payload),
        _ => Decompressor::with(|decompressor| {
            let chunk = decompressor.decompress(codec, payload, chunk_bytes);
            let chunk = chunk.ok().filter(|chunk| chunk.len() > payload.len());
            chunk.map(ChunkId::of).ok_or(Flaw::Payload(codec))
        })?,
    };
    (found == *id).then_some(()).ok_or(Flaw::OtherBytes)
}

#[cfg(test)]
mod tests;
