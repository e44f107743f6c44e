//! Request bodies coming in: read whole and verified, or not at all.

use std::io;

use bytes::Bytes;
use futures::StreamExt;
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3Request, S3Result, StdError, s3_error};
use tokio::io::AsyncWriteExt;

use crate::checksums::{Checksums, Claims};
use crate::content::{Draft, Rope, TemporaryFile};
use crate::store::Store;

/// S3's limit for one PUT and one part.
const BODY_LEN_MAX: u64 = 5 * 1024 * 1024 * 1024; // 5 GiB

/// Bodies up to this length are copied, so that small objects do not keep whole network buffers
/// alive.
const COPIED_LEN_MAX: usize = 64 * 1024;

/// A body that was read to its end and found to be what the request claimed.
pub(crate) struct ReceivedBody {
    pub(crate) draft: Draft,
    /// The digests that the request gave.
    pub(crate) checksums: Checksums,
}

/// Reads `body`, the body of `request`, into the store's backing. On any error nothing of it stays.
pub(crate) async fn receive<T>(
    store: &Store,
    request: &S3Request<T>,
    body: Option<StreamingBlob>,
    content_length: Option<i64>,
) -> S3Result<ReceivedBody> {
    let declared_len = content_length.and_then(|len| u64::try_from(len).ok());
    if declared_len.is_some_and(|len| len > BODY_LEN_MAX) {
        return Err(s3_error!(EntityTooLarge));
    }

    let mut claims = Claims::from_headers(&request.headers);
    let mut hasher = claims.hasher();
    let mut sink = Sink::open(store).await?;
    let mut len = 0;
    if let Some(mut body) = body {
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| cut_short(&error))?;
            len += piece.len() as u64;
            hasher.update(&piece);
            sink.write(piece).await?;
        }
    }

    if declared_len.is_some_and(|declared| declared != len) {
        return Err(s3_error!(IncompleteBody));
    }
    claims.read_trailers(request.trailing_headers.as_ref())?;
    let checksums = claims.verify(hasher)?;
    Ok(ReceivedBody {
        draft: sink.finish(len).await?,
        checksums,
    })
}

/// The body's stream failed: the connection was cut, the framing was broken, or the signed digest
/// did not match.
fn cut_short(error: &StdError) -> S3Error {
    // The type is private to s3s; its text is all there is to tell it by.
    if error.to_string().contains("Sha256Mismatch") {
        return s3_error!(
            BadDigest,
            "The provided x-amz-content-sha256 does not match what was computed."
        );
    }
    tracing::debug!(%error, "a request body ended early");
    s3_error!(IncompleteBody)
}

/// Where the bytes go while they come in.
enum Sink {
    Memory(Vec<Bytes>),
    File {
        writer: tokio::fs::File,
        file: TemporaryFile,
    },
}

impl Sink {
    async fn open(store: &Store) -> S3Result<Self> {
        let Some(folder) = store.folder() else {
            return Ok(Self::Memory(Vec::new()));
        };
        let file = folder.temporary(&store.next_id());
        let writer = tokio::fs::File::create_new(file.path())
            .await
            .map_err(S3Error::internal_error)?;
        Ok(Self::File { writer, file })
    }

    async fn write(&mut self, piece: Bytes) -> S3Result<()> {
        match self {
            Self::Memory(pieces) => pieces.push(piece),
            Self::File { writer, .. } => writer
                .write_all(&piece)
                .await
                .map_err(S3Error::internal_error)?,
        }
        Ok(())
    }

    async fn finish(self, len: u64) -> S3Result<Draft> {
        match self {
            Self::Memory(pieces) => Ok(Draft::Memory(Rope::new(compact(pieces)))),
            Self::File { mut writer, file } => {
                let flushed: io::Result<()> = writer.flush().await;
                flushed.map_err(S3Error::internal_error)?;
                Ok(Draft::File { file, len })
            }
        }
    }
}

fn compact(pieces: Vec<Bytes>) -> Vec<Bytes> {
    let len: usize = pieces.iter().map(Bytes::len).sum();
    if len <= COPIED_LEN_MAX {
        vec![pieces.concat().into()]
    } else {
        pieces
    }
}
