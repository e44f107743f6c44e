//! What a record of a pack is, how it comes about, and how it is opened.
//!
//! ```text
//!              not sealed             sealed
//! data pack    codec byte | payload   (payload | codec byte) | tag
//! tree pack    node                   (node) | tag
//! ```
//!
//! The payload is the chunk, or the chunk compressed. A record is as long as its chunk and one byte,
//! or shorter; sealed it is a tag longer. The codec comes behind a payload that is sealed, so that a
//! raw chunk is sealed where it lies and read back to where it is written from. On both ways it stays in one slot of
//! the job's arena: compressing and decompressing go through a buffer of the thread's and back into
//! the slot, so that a job never holds more than its arena and a chunk per thread.
//!
//! Ordering rule: a record is changed in place until it is [put into](Record::put_into) a part, and
//! never after. It is sealed there, once, when pack and ordinal are known. What is read is a chunk only when [`open`](StoredRecord::open) says so *and* its id
//! was checked.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    arena::{SLOT_ALIGNMENT, Slot},
    chunk::ChunkId,
    codec::{Codec, Compressor, Decompressor, Effort},
    crypt::{Hashing, PackKey, TAG_BYTES},
    format::pack::Place,
    part::PartBuffer,
};

/// Bytes of a chunk's record that are not payload: the codec.
const CODEC_BYTES: usize = 1;

/// Whether records are sealed, which makes them longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    Sealed,
}

impl Shape {
    /// Of the records of a pack with this key.
    pub(crate) fn of<K>(key: Option<&K>) -> Self {
        match key {
            None => Self::Plain,
            Some(_) => Self::Sealed,
        }
    }

    fn tag_bytes(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Sealed => TAG_BYTES,
        }
    }

    /// Bytes of a chunk's record that are not payload.
    pub(crate) fn overhead_bytes(self) -> usize {
        CODEC_BYTES + self.tag_bytes()
    }

    /// The most bytes that the record of a chunk of `chunk_bytes` takes.
    pub(crate) fn record_bytes_max(self, chunk_bytes: usize) -> usize {
        chunk_bytes + self.overhead_bytes()
    }

    /// Bytes of a slot that any record of chunks of `chunk_bytes` can be read into and opened in:
    /// what is sealed comes with its tag.
    pub(crate) fn slot_bytes(self, chunk_bytes: usize) -> usize {
        match self {
            Self::Plain => chunk_bytes,
            Self::Sealed => chunk_bytes + SLOT_ALIGNMENT,
        }
    }
}

/// What comes before a raw chunk, which stays where it is.
const RAW_CODEC: &[u8] = &[Codec::Raw.byte()];

/// Bytes kept free before a compressed payload in its slot, for the codec byte.
const HEADROOM_BYTES: usize = 1;

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
    pub(crate) fn stored_bytes(&self, shape: Shape) -> usize {
        match &self.0 {
            Body::Raw { len, .. } | Body::Compressed { len, .. } => len + shape.overhead_bytes(),
            Body::Node(bytes) => bytes.len() + shape.tag_bytes(),
        }
    }

    /// Seals it, if its pack has a key, and puts its bytes into a part, which from then on nobody
    /// changes.
    pub(crate) fn put_into(self, part: &mut PartBuffer, seal: Option<&Seal>) {
        match seal {
            None => self.put_plain(part),
            Some(seal) => self.put_sealed(part, seal),
        }
    }

    fn put_sealed(self, part: &mut PartBuffer, seal: &Seal) {
        match self.0 {
            Body::Raw { mut slot, len } => {
                let behind = seal.seal(&mut slot[..len], &[Codec::Raw.byte()]);
                part.push(Bytes::from_owner(slot).slice(..len));
                part.push(behind.into());
            }
            Body::Compressed {
                codec,
                mut slot,
                len,
            } => {
                let end = HEADROOM_BYTES + len;
                let behind = seal.seal(&mut slot[HEADROOM_BYTES..end], &[codec.byte()]);
                slot[end..][..behind.len()].copy_from_slice(&behind);
                part.push_slot(slot, HEADROOM_BYTES..end + behind.len());
            }
            Body::Node(mut bytes) => {
                let tag = seal.seal(&mut bytes, &[]);
                bytes.extend_from_slice(&tag);
                part.push(bytes.into());
            }
        }
    }

    fn put_plain(self, part: &mut PartBuffer) {
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

/// What a record is sealed with: the key of its pack, its ordinal and its id.
#[derive(Debug, Clone)]
pub(crate) struct Seal {
    key: Arc<PackKey>,
    ordinal: u32,
    id: [u8; 32],
}

impl Seal {
    /// That of the record at this place, in a pack with this key; `None`: it is not sealed.
    pub(crate) fn of(key: Option<&Arc<PackKey>>, place: &Place, id: &[u8; 32]) -> Option<Self> {
        let key = Arc::clone(key?);
        let (ordinal, id) = (place.ordinal, *id);
        Some(Self { key, ordinal, id })
    }

    fn seal(&self, record: &mut [u8], rest: &[u8]) -> Vec<u8> {
        self.key.seal_record(self.ordinal, &self.id, record, rest)
    }

    fn open<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], Flaw> {
        let opened = self.key.open_record(self.ordinal, &self.id, sealed);
        opened.map_err(|_| Flaw::Tag)
    }

    /// Opens the record of a chunk: codec and length of the payload, which is at its beginning.
    fn open_chunk(&self, sealed: &mut [u8]) -> Result<(u8, usize), Flaw> {
        let (codec, payload) = self.open(sealed)?.split_last().ok_or(Flaw::Length)?;
        Ok((*codec, payload.len()))
    }

    /// Opens the record of a tree node: the node is at its beginning.
    pub(crate) fn open_node(&self, sealed: &mut [u8]) -> Result<usize, Flaw> {
        Ok(self.open(sealed)?.len())
    }
}

/// A record of a data pack as it came from the store; nobody has looked at it yet.
pub(crate) struct StoredRecord {
    pub(crate) head: Head,
    /// The rest of the record is its first `len` bytes: the payload, or all of it if it is sealed.
    pub(crate) slot: Slot,
    pub(crate) len: usize,
}

/// What says how the payload of a record is to be read.
pub(crate) enum Head {
    /// The codec, read from before the payload.
    Plain(u8),
    /// The codec is sealed with the payload.
    Sealed(Box<Seal>),
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It was not sealed with the repository's keys, in this place, as it is.
    Tag,
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
            Self::Tag => f.write_str("has a record that was not sealed with the repository's keys"),
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
        let (codec, len) = match &self.head {
            Head::Plain(codec) => (*codec, self.len),
            Head::Sealed(seal) => seal.open_chunk(&mut self.slot[..self.len])?,
        };
        let codec = Codec::from_byte(codec).ok_or(Flaw::Codec(codec))?;
        if codec == Codec::Raw {
            let is_whole = len == chunk_bytes;
            return is_whole.then_some(()).ok_or(Flaw::Length);
        }
        if len >= chunk_bytes {
            return Err(Flaw::Length);
        }
        Decompressor::with(|decompressor| {
            let chunk = decompressor
                .decompress(codec, &self.slot[..len], chunk_bytes)
                .ok()
                .filter(|chunk| chunk.len() == chunk_bytes)
                .ok_or(Flaw::Payload(codec))?;
            self.slot[..chunk_bytes].copy_from_slice(chunk);
            Ok(())
        })
    }
}

/// Whether a whole record of a data pack holds the chunk `id`, for those who do not know its
/// length: chunks have at most `chunk_bytes`. Opens it in place. Computes; not for a ring thread.
pub(crate) fn check(
    record: &mut [u8],
    seal: Option<&Seal>,
    id: &ChunkId,
    hashing: &Hashing,
    chunk_bytes: usize,
) -> Result<(), Flaw> {
    let (codec, payload) = match seal {
        None => record.split_first().ok_or(Flaw::Length)?,
        Some(seal) => seal.open(record)?.split_last().ok_or(Flaw::Length)?,
    };
    let (codec, payload): (u8, &[u8]) = (*codec, payload);
    if payload.len() > chunk_bytes {
        return Err(Flaw::Length);
    }
    let codec = Codec::from_byte(codec).ok_or(Flaw::Codec(codec))?;
    let found = match codec {
        Codec::Raw => hashing.chunk_id(payload),
        _ => Decompressor::with(|decompressor| {
            let chunk = decompressor.decompress(codec, payload, chunk_bytes);
            let chunk = chunk.ok().filter(|chunk| chunk.len() > payload.len());
            let id = chunk.map(|chunk| hashing.chunk_id(chunk));
            id.ok_or(Flaw::Payload(codec))
        })?,
    };
    (found == *id).then_some(()).ok_or(Flaw::OtherBytes)
}

#[cfg(test)]
mod tests;
