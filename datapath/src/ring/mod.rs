//! Block I/O on one open file: requests go in, completions come out.
//!
//! A [`BlockQueue`] is served by threads of its own: one `tokio_uring` ring thread, or, where the
//! host forbids io_uring and in the tests that hold one against the other, a few threads that
//! `pread` and `pwrite`. Nothing but I/O is done on them.
//!
//! Ordering rule: a request in flight owns its buffer. A caller that stops waiting changes
//! nothing: the request runs to its end, then its slot goes home. Dropping the queue lets
//! everything in flight finish before the file is closed; [`BlockQueue::closed`] tells when.

mod sync;
mod uring;

use std::{fs::File, io, ops::Range, thread};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    arena::{Arena, SLOT_ALIGNMENT, Slot},
    error::Error,
    settings::Settings,
    tasks::{blocking, let_go},
};

/// What moves the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoEngine {
    /// io_uring, with the arena registered when the memlock limit allows.
    #[default]
    Uring,
    /// `pread` and `pwrite` on a few threads.
    Sync,
}

/// How a queue came to work, for the log and the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// io_uring on registered buffers.
    UringRegistered,
    /// io_uring; the kernel refused to register the buffers (memlock limit).
    UringUnregistered,
    /// The synchronous twin.
    Sync,
}

/// Block I/O on one open file.
pub struct BlockQueue {
    requests: mpsc::Sender<Request>,
    mode: Mode,
    open: watch::Receiver<()>,
}

/// Held by the threads of a queue until they have let go of the file.
type Open = watch::Sender<()>;

enum Request {
    Read(Transfer),
    Write(Transfer),
    Flush(oneshot::Sender<io::Result<()>>),
}

/// A read or write at `offset`, into or from `range` of the slot.
struct Transfer {
    slot: Slot,
    range: Range<usize>,
    offset: u64,
    reply: oneshot::Sender<io::Result<Slot>>,
}

impl BlockQueue {
    /// Starts the threads that serve `file`, with at most `depth` requests in flight.
    ///
    /// Every slot in later requests must come from `arena`. When io_uring is asked for and the
    /// host forbids it, the synchronous twin takes over; [`BlockQueue::mode`] tells.
    pub fn open(file: File, arena: &Arena, engine: IoEngine, depth: usize) -> io::Result<Self> {
        let depth = depth.max(1);
        let (requests, receiver) = mpsc::channel(depth);
        let (held, open) = watch::channel(());
        let mode = match engine {
            IoEngine::Uring => {
                match uring::start(file.try_clone()?, arena, depth, receiver, held.clone())? {
                    uring::Started::Ring(mode) => mode,
                    uring::Started::Forbidden(receiver, error) => {
                        tracing::warn!(%error, "io_uring is not available; reading and writing with threads");
                        sync::start(file, depth, receiver, &held)?
                    }
                }
            }
            IoEngine::Sync => sync::start(file, depth, receiver, &held)?,
        };
        Ok(Self {
            requests,
            mode,
            open,
        })
    }

    /// Allocates as many buffers of `slot_bytes` as `settings` allow and starts the threads that
    /// serve `file` with them, both of which may block for a while.
    pub(crate) async fn prepare(
        file: File,
        slot_bytes: usize,
        settings: &Settings,
        what: &'static str,
    ) -> Result<(Arena, Self), Error> {
        let slots = settings.slots(slot_bytes);
        let (engine, depth) = (settings.engine, settings.queue_depth);
        let prepared = blocking(move || {
            let arena = Arena::new(slots, slot_bytes)?;
            let queue = Self::open(file, &arena, engine, depth)?;
            Ok((arena, queue))
        });
        prepared
            .await?
            .map_err(|source| Error::System { what, source })
    }

    /// Ends when the queue has been dropped, nothing is in flight any more and the file is
    /// closed: only then is the volume free for others.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let_go(self.open.clone())
    }

    /// How this queue works.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Reads `len` bytes at `offset` into the beginning of `slot`.
    ///
    /// Fewer bytes than `len` before the end of the file are `UnexpectedEof`. `offset` must be a
    /// multiple of [`BLOCK_BYTES`](crate::device::BLOCK_BYTES); the read itself is rounded up to
    /// whole blocks, so that the odd end of a file can be read with O_DIRECT.
    pub async fn read(&self, slot: Slot, offset: u64, len: usize) -> io::Result<Slot> {
        self.transfer(slot, 0..len, offset, Request::Read).await
    }

    /// Writes `range` of `slot` at `offset`. With O_DIRECT all three numbers must be multiples of
    /// the device's block size.
    pub async fn write(&self, slot: Slot, range: Range<usize>, offset: u64) -> io::Result<Slot> {
        self.transfer(slot, range, offset, Request::Write).await
    }

    /// Makes everything written durable.
    pub async fn flush(&self) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        self.submit(Request::Flush(reply)).await?;
        answer.await.map_err(|_| stopped())?
    }

    async fn transfer(
        &self,
        slot: Slot,
        range: Range<usize>,
        offset: u64,
        request: fn(Transfer) -> Request,
    ) -> io::Result<Slot> {
        assert!(range.end <= slot.len(), "a transfer fits its slot");
        let (reply, answer) = oneshot::channel();
        self.submit(request(Transfer {
            slot,
            range,
            offset,
            reply,
        }))
        .await?;
        answer.await.map_err(|_| stopped())?
    }

    async fn submit(&self, request: Request) -> io::Result<()> {
        self.requests.send(request).await.map_err(|_| stopped())
    }
}

/// Where in its slot the I/O for a read of `len` bytes ends.
fn rounded_up(len: usize) -> usize {
    len.next_multiple_of(SLOT_ALIGNMENT)
}

fn stopped() -> io::Error {
    io::Error::other("the I/O thread of this file has ended")
}

fn spawn_named(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
}

#[cfg(test)]
mod tests;
