//! What is sent: a few buffers, one behind the other, that are never joined.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use aws_smithy_types::body::SdkBody;
use base64::Engine;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use http_body::{Body, Frame, SizeHint};

/// Bytes in several buffers. Cloning copies no bytes.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    pieces: Vec<Bytes>,
    len: u64,
}

impl Payload {
    /// Appends a buffer.
    pub fn push(&mut self, piece: Bytes) {
        self.len += piece.len() as u64;
        self.pieces.push(piece);
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffers.
    pub(crate) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// CRC32C as S3 wants it in a header: big-endian, base64.
    pub(super) fn crc32c(&self) -> String {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        for piece in &self.pieces {
            digest.update(piece);
        }
        let crc = u32::try_from(digest.finalize()).expect("a CRC32 has 32 bits");
        base64::engine::general_purpose::STANDARD.encode(crc.to_be_bytes())
    }

    /// A body that the SDK can send again: each attempt streams the same buffers.
    pub(super) fn into_body(self) -> SdkBody {
        SdkBody::retryable(move || {
            SdkBody::from_body_1_x(ScatterBody {
                left: self.len,
                pieces: self.pieces.clone().into(),
            })
        })
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        let mut payload = Self::default();
        payload.push(bytes);
        payload
    }
}

/// Sends the buffers one by one, with the exact length known beforehand.
struct ScatterBody {
    pieces: VecDeque<Bytes>,
    left: u64,
}

impl Body for ScatterBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.pieces.pop_front().map(|piece| {
            self.left -= piece.len() as u64;
            Ok(Frame::data(piece))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_joined_bytes() {
        let mut payload = Payload::default();
        payload.push(Bytes::from_static(b"1234"));
        payload.push(Bytes::from_static(b"56789"));
        assert_eq!(payload.len(), 9);
        // The check value of CRC-32/ISCSI in the catalogue of CRC algorithms: 0xe3069283.
        assert_eq!(payload.crc32c(), "4waSgw==");
    }
}
