//! The bytes of objects and parts: ropes in memory, or files.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::stream::{iter, try_unfold};
use s3s::StdError;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};

/// How much of a file is read at a time: large enough to make the hop to a blocking thread cheap.
const READ_LEN: u64 = 1024 * 1024; // 1 MiB

/// Bytes in pieces, as they came from the network. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rope {
    pieces: Arc<[Bytes]>,
    /// Where each piece ends, for binary search.
    ends: Arc<[u64]>,
}

impl Rope {
    pub(crate) fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let pieces: Arc<[Bytes]> = pieces
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .collect();
        let mut end = 0;
        let ends = pieces.iter().map(|piece| {
            end += piece.len() as u64;
            end
        });
        Self {
            ends: ends.collect(),
            pieces,
        }
    }

    /// One rope after the other, without copying bytes.
    pub(crate) fn join<'a>(ropes: impl IntoIterator<Item = &'a Self>) -> Self {
        Self::new(
            ropes
                .into_iter()
                .flat_map(|rope| rope.pieces.iter().cloned()),
        )
    }

    pub(crate) fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The bytes of `range`, which must lie within the rope, as slices of the pieces.
    pub(crate) fn slices(&self, range: &Range<u64>) -> Vec<Bytes> {
        let first = self.ends.partition_point(|end| *end <= range.start);
        self.pieces[first..]
            .iter()
            .zip(&self.ends[first..])
            .map(|(piece, end)| (piece, end - piece.len() as u64))
            .take_while(|(_, start)| *start < range.end)
            .map(|(piece, start)| {
                let from = to_usize(range.start.saturating_sub(start));
                let to = to_usize(range.end - start).min(piece.len());
                piece.slice(from..to)
            })
            .collect()
    }
}

/// A file that is removed when the last reference to it goes, unless it was moved to its final
/// place.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    path: PathBuf,
}

impl TemporaryFile {
    /// Takes charge of the file at `path`, which may not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the file to its final place, replacing what is there.
    pub(crate) fn persist(mut self, place: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, place)?;
        self.path = PathBuf::new();
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove a temporary file");
        }
    }
}

/// Bytes received whole, not yet an object: a part, or an object about to be inserted.
#[derive(Debug)]
pub(crate) enum Draft {
    Memory(Rope),
    File { file: TemporaryFile, len: u64 },
}

impl Draft {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Memory(rope) => rope.len(),
            Self::File { len, .. } => *len,
        }
    }
}

/// The bytes of an object.
#[derive(Debug)]
pub(crate) enum Content {
    Memory(Rope),
    /// The first `len` bytes of the file.
    File {
        path: PathBuf,
        len: u64,
    },
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Memory(rope) => rope.len(),
            Self::File { len, .. } => *len,
        }
    }

    /// Takes hold of the bytes. What is replaced or deleted afterwards can still be read.
    pub(crate) fn open(&self) -> io::Result<Reader> {
        match self {
            Self::Memory(rope) => Ok(Reader::Memory(rope.clone())),
            Self::File { path, .. } => Ok(Reader::File(Arc::new(File::open(path)?))),
        }
    }
}

/// The bytes of one version of an object, for as long as a reply takes.
pub(crate) enum Reader {
    Memory(Rope),
    File(Arc<File>),
}

impl Reader {
    /// Streams `range`, which must lie within the content.
    pub(crate) fn stream(self, range: Range<u64>) -> StreamingBlob {
        let remaining = to_usize(range.end - range.start);
        let pieces: Pieces = match self {
            Self::Memory(rope) => Box::pin(iter(rope.slices(&range).into_iter().map(Ok))),
            Self::File(file) => Box::pin(try_unfold((file, range), |(file, range)| async move {
                if range.is_empty() {
                    return Ok(None);
                }
                let end = range.end.min(range.start + READ_LEN);
                let piece = read_file(Arc::clone(&file), range.start..end).await?;
                Ok(Some((piece, (file, end..range.end))))
            })),
        };
        StreamingBlob::new(SizedStream { pieces, remaining })
    }
}

async fn read_file(file: Arc<File>, range: Range<u64>) -> Result<Bytes, StdError> {
    let read = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; to_usize(range.end - range.start)];
        file.read_exact_at(&mut buffer, range.start)
            .map(|()| Bytes::from(buffer))
    });
    Ok(read.await??)
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, StdError>> + Send + Sync>>;

/// A stream that knows how many bytes it will give, so that the reply has a Content-Length.
struct SizedStream {
    pieces: Pieces,
    remaining: usize,
}

impl Stream for SizedStream {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = std::task::ready!(self.pieces.as_mut().poll_next(context)?);
        self.remaining -= piece.as_ref().map_or(0, Bytes::len);
        Poll::Ready(piece.map(Ok))
    }
}

impl ByteStream for SizedStream {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.remaining)
    }
}

/// For lengths of what is, or is about to be, in memory.
fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("a 64-bit machine: io_uring and LVM leave no other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_of_a_rope_reads_like_the_flat_bytes() {
        let flat: Vec<u8> = (0..40).collect();
        let rope = Rope::new(
            [0..7, 7..7, 7..8, 8..30, 30..40].map(|range| Bytes::copy_from_slice(&flat[range])),
        );
        assert_eq!(rope.len(), 40);
        for start in 0..=40_usize {
            for end in start..=40 {
                let slices = rope.slices(&(start as u64..end as u64));
                assert_eq!(slices.concat(), &flat[start..end], "{start}..{end}");
            }
        }
    }

    #[test]
    fn joined_ropes_share_their_bytes() {
        let rope = Rope::new([Bytes::from(vec![1; 100])]);
        let joined = Rope::join([&rope, &rope]);
        assert_eq!(joined.len(), 200);
        assert_eq!(
            joined.slices(&(0..100))[0].as_ptr(),
            rope.slices(&(0..100))[0].as_ptr()
        );
    }
}
