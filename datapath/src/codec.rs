//! Compression of chunks, and the way back.
//!
//! What is owned here: the codecs, how hard each is tried, and the memory that it takes. What a
//! record is, and when a chunk is worth it, is for [`record`](crate::record).
//!
//! Ordering rule: nothing here is trusted. What comes out of [`Decompressor::decompress`] is no
//! longer than was asked for, whatever the bytes say, and means nothing before its id was checked.

use std::{cell::RefCell, fmt, str::FromStr};

use zstd_safe::{CCtx, CParameter, DCtx};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[error("{0:?} is no compression; it should be auto, none, lz4, or zstd-1 to zstd-19")]
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

/// The memory that compressing one chunk takes, used again for the next.
pub(crate) struct Compressor {
    zstd: CCtx<'static>,
    output: Vec<u8>,
}

impl Compressor {
    pub(crate) fn new() -> Self {
        Self {
            zstd: CCtx::create(),
            output: Vec::new(),
        }
    }

    /// The chunk compressed into at most `bytes_max`; `None` when it does not become so small.
    pub(crate) fn compress(
        &mut self,
        effort: Effort,
        chunk: &[u8],
        bytes_max: usize,
    ) -> Option<(Codec, &[u8])> {
        let (codec, len) = match effort {
            Effort::None => return None,
            Effort::Lz4 => (Codec::Lz4, self.lz4(chunk)?),
            Effort::Zstd(level) => (Codec::Zstd, self.zstd(level, chunk, bytes_max)?),
        };
        (len <= bytes_max).then(|| (codec, &self.output[..len]))
    }

    fn lz4(&mut self, chunk: &[u8]) -> Option<usize> {
        let room = lz4_flex::block::get_maximum_output_size(chunk.len());
        self.output.resize(room.max(self.output.len()), 0);
        lz4_flex::block::compress_into(chunk, &mut self.output).ok()
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
pub(crate) struct NotCompressed;

/// The memory that decompressing one chunk takes: the chunk, and for zstd about 160 KiB of tables.
pub(crate) struct Decompressor {
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
    pub(crate) fn with<T>(work: impl FnOnce(&mut Self) -> T) -> T {
        DECOMPRESSOR.with_borrow_mut(work)
    }

    /// What `payload` holds, if that is at most `bytes_max`. Takes no more memory than that,
    /// whatever the payload says of itself: both decoders write into a buffer of that length, with
    /// no window of their own.
    pub(crate) fn decompress(
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
