//! Clients that call the host by the socket's path.
//!
//! HTTP/2 requests name a host in `:authority`. Over a unix socket there is none, and several gRPC
//! libraries (those of Python, C++, Java, older ones of Go) put the socket's path there, escaped
//! or not. RFC 3986 has no such host, and the HTTP/2 library below tonic resets the stream. A
//! [`Lenient`] connection replaces the value on its way in: nobody behind it looks at it.
//!
//! Only header blocks are touched, and in them one string (RFC 9113 section 4.1, RFC 7541
//! section 6). The replacement is never longer, so that the entries of the compression table
//! keep their indexes for as long as the client uses them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use prost::bytes::{Buf, BufMut, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tonic::transport::server::{Connected, UdsConnectInfo};

const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
/// Frames of this length every peer takes.
const FRAME_BYTES_MAX: usize = 16 << 10;
/// Longer header blocks are passed on as they are, for the library to refuse.
const BLOCK_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 16 << 10;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Index of `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;
/// The name as a literal: its length and bytes, uncompressed and Huffman-coded.
const AUTHORITY_NAMES: [&[u8]; 2] = [
    b"\x0a:authority",
    &[0x80 | 8, 0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f],
];
/// A value of one byte, uncompressed.
const HOST: [u8; 2] = [1, b'd'];

/// A connection whose requests all name a host that parses.
pub(super) struct Lenient {
    stream: UnixStream,
    rewriter: Rewriter,
    input: BytesMut,
    output: BytesMut,
}

impl Lenient {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            rewriter: Rewriter::Preface,
            input: BytesMut::new(),
            output: BytesMut::new(),
        }
    }
}

impl AsyncRead for Lenient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.output.is_empty() {
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.input.put_slice(read.filled());
            this.rewriter.advance(&mut this.input, &mut this.output);
        }
        let len = this.output.len().min(buffer.remaining());
        buffer.put_slice(&this.output.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lenient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Lenient {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

/// Where in the client's bytes we are.
enum Rewriter {
    /// Before the first frame.
    Preface,
    /// At a frame's first byte.
    Frame,
    /// In a frame that is no matter of ours; so many bytes are left of it.
    Pass(usize),
    /// In a header block.
    Block(Block),
    /// What comes is not for us to understand.
    Opaque,
}

/// A header block under collection.
struct Block {
    flags: u8,
    stream: [u8; 4],
    fragments: BytesMut,
}

impl Rewriter {
    /// Moves all that is complete from `input` to `output`.
    fn advance(&mut self, input: &mut BytesMut, output: &mut BytesMut) {
        while self.step(input, output) {}
    }

    /// One piece; false when more input is needed.
    fn step(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> bool {
        match self {
            Self::Preface => {
                if input.len() < PREFACE_BYTES {
                    return false;
                }
                output.put(input.split_to(PREFACE_BYTES));
                *self = Self::Frame;
                true
            }
            Self::Frame => self.begin_frame(input, output),
            Self::Pass(left) => {
                let len = input.len().min(*left);
                output.put(input.split_to(len));
                *left -= len;
                if *left > 0 {
                    return false;
                }
                *self = Self::Frame;
                true
            }
            Self::Block(block) => {
                let Some((kind, flags, payload)) = take_frame(input) else {
                    return false;
                };
                block.fragments.put(payload);
                if kind != CONTINUATION || block.fragments.len() > BLOCK_BYTES_MAX {
                    // A violation, which the library is to answer: it gets the bytes unfinished.
                    block.emit(output, false);
                    *self = Self::Opaque;
                } else if flags & END_HEADERS != 0 {
                    block.emit(output, true);
                    *self = Self::Frame;
                }
                true
            }
            Self::Opaque => {
                output.put(input.split());
                false
            }
        }
    }

    fn begin_frame(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> bool {
        let Some(head) = input.first_chunk::<FRAME_HEAD_BYTES>() else {
            return false;
        };
        if head[3] != HEADERS {
            let left = FRAME_HEAD_BYTES + payload_len(head);
            *self = Self::Pass(left);
            return true;
        }
        let stream = [head[5], head[6], head[7], head[8]];
        if payload_len(head) > FRAME_BYTES_MAX {
            // A violation, which the library is to answer.
            *self = Self::Opaque;
            return true;
        }
        let Some((_, flags, payload)) = take_frame(input) else {
            return false;
        };
        let Some(fragment) = without_padding_and_priority(flags, payload) else {
            // Malformed: a header block of no bytes, which the library refuses.
            put_frame(output, HEADERS, flags & !(PADDED | PRIORITY), stream, &[]);
            return true;
        };
        let mut block = Block {
            flags: flags & !(PADDED | PRIORITY | END_HEADERS),
            stream,
            fragments: fragment,
        };
        if flags & END_HEADERS != 0 {
            block.emit(output, true);
        } else {
            *self = Self::Block(block);
        }
        true
    }
}

impl Block {
    /// Writes the block as one HEADERS frame and as many CONTINUATION frames as it takes.
    fn emit(&mut self, output: &mut BytesMut, is_whole: bool) {
        let block = self.fragments.split();
        let block = with_host_replaced(&block).unwrap_or_else(|| block.to_vec());
        let mut pieces = block.chunks(FRAME_BYTES_MAX).peekable();
        let first = pieces.next().unwrap_or_default();
        let end = |is_last: bool| if is_last && is_whole { END_HEADERS } else { 0 };
        let flags = self.flags | end(pieces.peek().is_none());
        put_frame(output, HEADERS, flags, self.stream, first);
        while let Some(piece) = pieces.next() {
            let flags = end(pieces.peek().is_none());
            put_frame(output, CONTINUATION, flags, self.stream, piece);
        }
    }
}

fn payload_len(head: &[u8; FRAME_HEAD_BYTES]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

/// Kind, flags and payload of the first frame, when all of it is there.
fn take_frame(input: &mut BytesMut) -> Option<(u8, u8, BytesMut)> {
    let head = input.first_chunk::<FRAME_HEAD_BYTES>()?;
    let (kind, flags, len) = (head[3], head[4], payload_len(head));
    if input.len() < FRAME_HEAD_BYTES + len {
        return None;
    }
    input.advance(FRAME_HEAD_BYTES);
    Some((kind, flags, input.split_to(len)))
}

fn put_frame(output: &mut BytesMut, kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) {
    output.put_uint(payload.len() as u64, 3);
    output.put_u8(kind);
    output.put_u8(flags);
    output.put_slice(&stream);
    output.put_slice(payload);
}

/// The header block fragment of a HEADERS frame.
fn without_padding_and_priority(flags: u8, mut payload: BytesMut) -> Option<BytesMut> {
    if flags & PADDED != 0 {
        let padding = usize::from(*payload.first()?);
        payload.advance(1);
        payload.truncate(payload.len().checked_sub(padding)?);
    }
    if flags & PRIORITY != 0 {
        // Deprecated, and of no use to us.
        payload.try_get_u32().ok()?;
        payload.try_get_u8().ok()?;
    }
    Some(payload)
}

/// The header block with the value of every literal `:authority` replaced; `None` when it is
/// malformed.
fn with_host_replaced(block: &[u8]) -> Option<Vec<u8>> {
    let mut replaced = Vec::with_capacity(block.len());
    let mut rest = block;
    while let Some(&first) = rest.first() {
        let field = rest;
        // How many bits of the first byte are the index, and whether strings follow it.
        let (index_bits, is_literal) = match first {
            0x80.. => (7, false),
            0x40..0x80 => (6, true),
            0x20..0x40 => (5, false),
            _ => (4, true),
        };
        let index = take_integer(&mut rest, index_bits)?;
        let mut is_authority = is_literal && index == AUTHORITY_INDEX;
        if is_literal && index == 0 {
            let name = rest;
            skip_string(&mut rest)?;
            is_authority = AUTHORITY_NAMES.contains(&&name[..name.len() - rest.len()]);
        }
        let before_value = field.len() - rest.len();
        if is_literal {
            skip_string(&mut rest)?;
        }
        let field = &field[..field.len() - rest.len()];
        let value = &field[before_value..];
        if is_authority && value.len() >= HOST.len() {
            replaced.extend_from_slice(&field[..before_value]);
            replaced.extend_from_slice(&HOST);
        } else {
            replaced.extend_from_slice(field);
        }
    }
    Some(replaced)
}

/// An integer with a prefix of so many bits (RFC 7541 section 5.1).
fn take_integer(rest: &mut &[u8], prefix_bits: u32) -> Option<usize> {
    let mask = (1 << prefix_bits) - 1;
    let mut value = usize::from(rest.try_get_u8().ok()?) & mask;
    if value < mask {
        return Some(value);
    }
    for shift in (0..28).step_by(7) {
        let byte = rest.try_get_u8().ok()?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A string, compressed or not (RFC 7541 section 5.2).
fn skip_string(rest: &mut &[u8]) -> Option<()> {
    let len = take_integer(rest, 7)?;
    *rest = rest.get(len..)?;
    Some(())
}

#[cfg(test)]
mod tests;
