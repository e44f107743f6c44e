//! Bodies that do not arrive as they were sent.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use s3s::StdError;

/// What happens to a body on its way, at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tampering {
    None,
    /// This bit of the byte at `at` is the other.
    Flip {
        at: u64,
        bit: u32,
    },
    /// It ends before the byte at `at`, as if that were all.
    End {
        at: u64,
    },
    /// It breaks off before the byte at `at`.
    Break {
        at: u64,
    },
}

/// A body with its tampering.
pub(crate) struct Tampered<B> {
    body: B,
    position: u64,
    tampering: Tampering,
}

impl<B> Tampered<B> {
    pub(crate) fn new(body: B, tampering: Tampering) -> Self {
        Self {
            body,
            position: 0,
            tampering,
        }
    }

    /// The same body, none of which has passed, with this tampering.
    pub(crate) fn tamper(self, tampering: Tampering) -> Self {
        Self { tampering, ..self }
    }

    /// Bytes that may still pass.
    fn left(&self) -> u64 {
        match self.tampering {
            Tampering::None | Tampering::Flip { .. } => u64::MAX,
            Tampering::End { at } | Tampering::Break { at } => at - self.position,
        }
    }

    fn pass(&mut self, mut data: Bytes) -> Bytes {
        let left = usize::try_from(self.left()).unwrap_or(usize::MAX);
        data.truncate(left);
        let end = self.position + data.len() as u64;
        if let Tampering::Flip { at, bit } = self.tampering
            && (self.position..end).contains(&at)
        {
            let mut bytes = BytesMut::from(data);
            let index = usize::try_from(at - self.position).expect("within the piece");
            bytes[index] ^= 1 << bit;
            data = bytes.freeze();
        }
        self.position = end;
        data
    }
}

impl<B> HttpBody for Tampered<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    StdError: From<B::Error>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.left() == 0 {
            return match self.tampering {
                Tampering::Break { .. } => Poll::Ready(Some(Err("cut off on purpose".into()))),
                _ => poll_drained(&mut self.body, context),
            };
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context)?);
        Poll::Ready(frame.map(|frame| Ok(frame.map_data(|data| self.pass(data)))))
    }

    fn is_end_stream(&self) -> bool {
        match self.tampering {
            // There is an error to tell.
            Tampering::Break { .. } => false,
            _ => self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.tampering {
            Tampering::End { .. } => SizeHint::with_exact(self.left()),
            _ => self.body.size_hint(),
        }
    }
}

/// Reads a body to its end and throws it away: a connection that is closed on unread bytes is
/// reset, and a reply may be lost with it.
pub(crate) async fn drain(mut body: hyper::body::Incoming) {
    // The client may have hung up; there is nobody to tell.
    let _: Option<Result<Frame<Bytes>, StdError>> =
        std::future::poll_fn(|context| poll_drained(&mut body, context)).await;
}

fn poll_drained<B>(
    body: &mut B,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, StdError>>>
where
    B: HttpBody<Data = Bytes> + Unpin,
    StdError: From<B::Error>,
{
    while std::task::ready!(Pin::new(&mut *body).poll_frame(context)?).is_some() {}
    Poll::Ready(None)
}
