//! One chunk size on a row of images.

use std::{collections::HashMap, fs::File, io::Read, path::Path};

use ringback_datapath::{
    chunk::{ChunkId, is_zero},
    format::{
        name::{PackName, SessionId},
        pack::Place,
    },
    ranges::{Limits, coalesce},
    settings::Settings,
};
use serde::Serialize;

use crate::{
    error::{Error, Located},
    units::TIB,
};

/// Chunks per leaf of the tree, as the format has it.
const LEAF_CHUNKS: usize = 512;
/// What a chunk takes in a leaf: 32 bytes of id, and numbers of 2 (position), 1 (pack), 2
/// (ordinal), 4 (offset) and 3 bytes (length).
const LEAF_ENTRY_BYTES: u64 = 44;
/// What a new chunk takes in its pack's footer, and again in an index segment: id and length.
const FOOTER_ENTRY_BYTES: u64 = 35;
/// What a chunk takes in an index that has reached its bound.
const INDEX_ENTRY_BYTES: u64 = 26;

/// What one size comes to.
#[derive(Debug, Clone, Serialize)]
pub struct SizeResults {
    /// The size.
    pub chunk_bytes: u32,
    /// Each image, deduplicated against itself and all before it.
    pub images: Vec<Image>,
    /// Ranged GETs for a restore of the last image.
    pub restore_requests: u64,
    /// What they fetch.
    pub restore_bytes: u64,
    /// What follows from the size alone.
    pub costs: Costs,
}

/// What one image adds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Image {
    /// Chunks that are not all zero.
    pub data_bytes: u64,
    /// Chunks that are.
    pub zero_bytes: u64,
    /// Chunks that were not there before.
    pub new_bytes: u64,
    /// The same, each compressed with LZ4 unless that makes it longer.
    pub lz4_bytes: u64,
    /// The same with zstd, level 1.
    pub zstd_bytes: u64,
    /// Leaves that are not those of the image before, footers and index segments.
    pub metadata_bytes: u64,
}

/// What a TiB of data costs, however it is arranged.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Costs {
    /// Memory of an index that knows all of it.
    pub index_memory_per_tib: u64,
    /// Leaves, footers and index segments.
    pub metadata_per_tib: u64,
}

impl Image {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            data_bytes: self.data_bytes + other.data_bytes,
            zero_bytes: self.zero_bytes + other.zero_bytes,
            new_bytes: self.new_bytes + other.new_bytes,
            lz4_bytes: self.lz4_bytes + other.lz4_bytes,
            zstd_bytes: self.zstd_bytes + other.zstd_bytes,
            metadata_bytes: self.metadata_bytes + other.metadata_bytes,
        }
    }
}

/// A chunk by the half of its id that the index keeps, too; `None` is zero.
type Key = Option<[u8; 16]>;

pub(super) struct Measurement {
    chunk_bytes: usize,
    places: HashMap<[u8; 16], Place>,
    packs: PackLayout,
    /// The chunks of the last image.
    last: Vec<Key>,
    images: Vec<Image>,
    zstd: zstd_safe::CCtx<'static>,
    compressed: Vec<u8>,
}

impl Measurement {
    pub(super) fn new(chunk_bytes: u32) -> Self {
        let chunk_bytes = chunk_bytes as usize;
        Self {
            chunk_bytes,
            places: HashMap::new(),
            packs: PackLayout::new(),
            last: Vec::new(),
            images: Vec::new(),
            zstd: zstd_safe::CCtx::create(),
            compressed: vec![0; zstd_safe::compress_bound(chunk_bytes)],
        }
    }

    /// Takes up the next image.
    pub(super) fn add(&mut self, path: &Path) -> Result<(), Error> {
        let mut file = File::open(path).at("open", path)?;
        let mut chunk = vec![0; self.chunk_bytes];
        let mut image = Image::default();
        let mut keys = Vec::with_capacity(self.last.len());
        loop {
            let len = read_full(&mut file, &mut chunk).at("read", path)?;
            if len == 0 {
                break;
            }
            keys.push(self.take(&chunk[..len], &mut image));
        }
        image.metadata_bytes += self.changed_leaves(&keys);
        self.last = keys;
        self.images.push(image);
        Ok(())
    }

    fn take(&mut self, chunk: &[u8], image: &mut Image) -> Key {
        let len = chunk.len() as u64;
        if is_zero(chunk) {
            image.zero_bytes += len;
            return None;
        }
        image.data_bytes += len;
        let id = ChunkId::of(chunk);
        let key = *id.0.first_chunk().expect("an id has 32 bytes");
        if !self.places.contains_key(&key) {
            image.new_bytes += len;
            image.metadata_bytes += 2 * FOOTER_ENTRY_BYTES;
            image.lz4_bytes += len.min(lz4_flex::block::compress(chunk).len() as u64) + 1;
            image.zstd_bytes += len.min(self.zstd_len(chunk)) + 1;
            self.places.insert(key, self.packs.append(chunk.len()));
        }
        Some(key)
    }

    fn zstd_len(&mut self, chunk: &[u8]) -> u64 {
        let compressed = self.zstd.compress(&mut self.compressed[..], chunk, 1);
        compressed.map_or(u64::MAX, |len| len as u64)
    }

    /// Bytes of leaves in which anything is not as it was.
    fn changed_leaves(&self, keys: &[Key]) -> u64 {
        let mut before = self.last.chunks(LEAF_CHUNKS);
        let changed = keys
            .chunks(LEAF_CHUNKS)
            .filter(|leaf| before.next() != Some(leaf));
        let entries: usize = changed.map(|leaf| leaf.iter().flatten().count()).sum();
        entries as u64 * LEAF_ENTRY_BYTES
    }

    pub(super) fn finish(self) -> SizeResults {
        let records = self.last.iter().flatten();
        let records = records.map(|key| (self.places[key], ())).collect();
        let ranges = coalesce(records, &Limits::CHUNKS);
        let chunks_per_tib = TIB / self.chunk_bytes as u64;
        SizeResults {
            chunk_bytes: u32::try_from(self.chunk_bytes).expect("it was a u32"),
            images: self.images,
            restore_requests: ranges.len() as u64,
            restore_bytes: ranges.iter().map(|range| range.end - range.start).sum(),
            costs: Costs {
                index_memory_per_tib: chunks_per_tib * INDEX_ENTRY_BYTES,
                metadata_per_tib: chunks_per_tib * (LEAF_ENTRY_BYTES + 2 * FOOTER_ENTRY_BYTES),
            },
        }
    }
}

/// Records one behind the other, in packs of the usual size.
struct PackLayout {
    pack: PackName,
    packs: u32,
    end: u32,
    ordinal: u32,
    pack_bytes: u32,
}

impl PackLayout {
    fn new() -> Self {
        Self {
            pack: PackName::random(SessionId([0; 8]), 0),
            packs: 0,
            end: 0,
            ordinal: 0,
            pack_bytes: Settings::default().data_packs.pack_bytes,
        }
    }

    fn append(&mut self, len: usize) -> Place {
        let stored_bytes = u32::try_from(len + 1).expect("at most 4 MiB and a codec");
        if self.end + stored_bytes > self.pack_bytes {
            self.packs += 1;
            self.pack = PackName::random(SessionId([0; 8]), self.packs);
            (self.end, self.ordinal) = (0, 0);
        }
        let place = Place {
            pack: self.pack,
            ordinal: self.ordinal,
            offset: self.end,
            stored_bytes,
        };
        self.end += stored_bytes;
        self.ordinal += 1;
        place
    }
}

/// Reads until the buffer is full or there is nothing more.
fn read_full(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..])? {
            0 => break,
            more => len += more,
        }
    }
    Ok(len)
}
