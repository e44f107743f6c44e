//! Compression of chunks, and the way back.
//!
//! What is owned here: the codecs, how hard each is tried, and the memory that it takes. What a
//! record is, and when a chunk is worth it, is for [`record`](crate::record).
//!
//! Ordering rule: nothing here is trusted. What comes out of [`Decompressor::decompress`] is no
//! longer than was asked for, whatever the bytes say, and means nothing before its id was checked.

mod auto;

use std::{cell::RefCell, fmt, str::FromStr};

use lz4_flex::block::CompressTable;
use zstd_safe::{CCtx, CParameter, DCtx};

pub(crate) use self::auto::{Pace, WaitFor};

/// How the payload of a record is to be read: the record's codec byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// The chunk as it is.
    Raw = 0,
    /// One LZ4 block, without a length before it.
    Lz4 = 1,
    /// One zstd frame, without a dictionary.
    Zstd = 2,
}

impl Codec {
    /// The byte that stands for it in a record.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// `None`: not known to this version.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Raw, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|codec| codec.byte() == byte)
    }
}

/// How hard to try to make a chunk smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Not at all.
    None,
    /// LZ4.
    Lz4,
    /// zstd, at this level.
    Zstd(ZstdLevel),
}

/// A level of zstd: 1, the fastest, to 19, the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZstdLevel(u8);

impl ZstdLevel {
    /// The highest level.
    pub const MAX: u8 = 19;

    /// `None` when there is no such level.
    pub const fn new(level: u8) -> Option<Self> {
        if 1 <= level && level <= Self::MAX {
            Some(Self(level))
        } else {
            None
        }
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd(level) => write!(f, "zstd-{}", level.0),
        }
    }
}

/// What to do about new chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As hard as the bottleneck makes it worth while.
    #[default]
    Auto,
    /// Always as hard.
    Fixed(Effort),
}

impl Compression {
    /// The texts that name one, for people.
    pub const NAMES: &str = "auto, none, lz4, or zstd-1 to zstd-19";

    /// The most memory that one compressor takes for chunks of `chunk_bytes`: tables of zstd, as
    /// measured, and the buffer it compresses into, which LZ4 wants a little larger than the chunk.
    pub(crate) fn memory_bytes(self, chunk_bytes: usize) -> usize {
        let tables = match self {
            Self::Fixed(Effort::None) => return 0,
            Self::Fixed(Effort::Lz4) => LZ4_TABLE_BYTES,
            Self::Fixed(Effort::Zstd(level)) if level > EAGER_LEVEL_MAX => {
                (32 * chunk_bytes + SPARE_BYTES).min(72 << 20)
            }
            Self::Auto | Self::Fixed(Effort::Zstd(_)) => {
                (16 * chunk_bytes + SPARE_BYTES).min(12 << 20)
            }
        };
        tables + lz4_flex::block::get_maximum_output_size(chunk_bytes)
    }
}

/// What zstd takes however small chunks are.
const SPARE_BYTES: usize = 128 << 10;
/// lz4_flex's table: 4096 positions of 4 bytes.
const LZ4_TABLE_BYTES: usize = 16 << 10;

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(effort) => effort.fmt(f),
        }
    }
}

/// A text that names no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no compression; it should be {names}", names = Compression::NAMES)]
pub struct UnknownCompression(String);

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let effort = match text {
            "auto" => return Ok(Self::Auto),
            "none" => Some(Effort::None),
            "lz4" => Some(Effort::Lz4),
            _ => zstd_level(text).map(Effort::Zstd),
        };
        effort
            .map(Self::Fixed)
            .ok_or_else(|| UnknownCompression(text.to_owned()))
    }
}

fn zstd_level(text: &str) -> Option<ZstdLevel> {
    let digits = text.strip_prefix("zstd-")?;
    let level: u8 = digits.parse().ok()?;
    // One name for one level: neither `zstd-03` nor `zstd-+3`.
    (level.to_string() == digits)
        .then(|| ZstdLevel::new(level))
        .flatten()
}

/// Higher levels of zstd take a tenth of a second and more for a chunk of 256 KiB, be there anything
/// to gain or not; up to this one they see at once that there is not.
const EAGER_LEVEL_MAX: ZstdLevel = ZstdLevel(9);
/// What tells whether there is anything to gain. LZ4 would be faster, but it finds only what is
/// repeated: it leaves base64, of which zstd saves a quarter.
const PROBE_LEVEL: ZstdLevel = ZstdLevel(1);

/// The memory that compressing one chunk takes, used again for the next. See
/// [`Compression::memory_bytes`].
pub struct Compressor {
    zstd: CCtx<'static>,
    lz4: CompressTable,
    output: Vec<u8>,
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Compressor {
    /// One that has compressed nothing yet.
    pub fn new() -> Self {
        Self {
            zstd: CCtx::create(),
            lz4: CompressTable::large(),
            output: Vec::new(),
        }
    }

    /// The chunk compressed into at most `bytes_max`; `None` when it does not become so small.
    pub fn compress(
        &mut self,
        effort: Effort,
        chunk: &[u8],
        bytes_max: usize,
    ) -> Option<(Codec, &[u8])> {
        let (codec, len) = match effort {
            Effort::None => return None,
            Effort::Lz4 => (Codec::Lz4, self.lz4(chunk)?),
            Effort::Zstd(level) => {
                if level > EAGER_LEVEL_MAX {
                    self.zstd(PROBE_LEVEL, chunk, bytes_max)?;
                }
                (Codec::Zstd, self.zstd(level, chunk, bytes_max)?)
            }
        };
        (len <= bytes_max).then(|| (codec, &self.output[..len]))
    }

    fn lz4(&mut self, chunk: &[u8]) -> Option<usize> {
        let room = lz4_flex::block::get_maximum_output_size(chunk.len());
        self.output.resize(room.max(self.output.len()), 0);
        lz4_flex::block::compress_into_with_table(chunk, &mut self.output, &mut self.lz4).ok()
    }

    fn zstd(&mut self, level: ZstdLevel, chunk: &[u8], bytes_max: usize) -> Option<usize> {
        self.output.resize(bytes_max.max(self.output.len()), 0);
        let level = CParameter::CompressionLevel(level.0.into());
        self.zstd
            .set_parameter(level)
            .expect("the level is in range");
        // An error means that it does not fit.
        self.zstd
            .compress2(&mut self.output[..bytes_max], chunk)
            .ok()
    }
}

/// The bytes are no chunk of at most the length asked for, compressed by this codec.
#[derive(Debug, PartialEq, Eq)]
pub struct NotCompressed;

/// The memory that decompressing one chunk takes. See [`Decompressor::memory_bytes`].
pub struct Decompressor {
    zstd: DCtx<'static>,
    output: Vec<u8>,
}

thread_local! {
    static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor {
        zstd: DCtx::create(),
        output: Vec::new(),
    });
}

impl Decompressor {
    /// Lends the one of this thread. tokio ends threads of its blocking pool that were idle for ten
    /// seconds, and it goes with them.
    pub fn with<T>(work: impl FnOnce(&mut Self) -> T) -> T {
        DECOMPRESSOR.with_borrow_mut(work)
    }

    /// The most memory that one takes: the chunk, and zstd's tables.
    pub(crate) fn memory_bytes(chunk_bytes: usize) -> usize {
        chunk_bytes + SPARE_BYTES
    }

    /// What `payload` holds, if that is at most `bytes_max`. Takes no more memory than that,
    /// whatever the payload says of itself: both decoders write into a buffer of that length, with
    /// no window of their own.
    pub fn decompress(
        &mut self,
        codec: Codec,
        payload: &[u8],
        bytes_max: usize,
    ) -> Result<&[u8], NotCompressed> {
        self.output.resize(bytes_max.max(self.output.len()), 0);
        let output = &mut self.output[..bytes_max];
        let len = match codec {
            Codec::Raw => return Err(NotCompressed),
            Codec::Lz4 => {
                lz4_flex::block::decompress_into(payload, output).map_err(|_| NotCompressed)?
            }
            Codec::Zstd => {
                // zstd would read several frames as one, and pass over frames that hold nothing.
                if !is_one_zstd_frame(payload) {
                    return Err(NotCompressed);
                }
                self.zstd
                    .decompress(output, payload)
                    .map_err(|_| NotCompressed)?
            }
        };
        Ok(&self.output[..len])
    }
}

/// Magic number of a zstd frame, as RFC 8878 has it; frames that are to be skipped have others.
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

fn is_one_zstd_frame(bytes: &[u8]) -> bool {
    bytes.starts_with(ZSTD_MAGIC) && zstd_safe::find_frame_compressed_size(bytes) == Ok(bytes.len())
}

#[cfg(test)]
mod tests;
