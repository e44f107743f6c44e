//! The ring thread: it submits and reaps, and does nothing else.
//!
//! All operations are awaited before the runtime is left: dropping the future of one does not
//! cancel it, and the kernel would go on writing into memory that is no longer ours.

use std::{
    fs::File,
    io,
    ops::Range,
    rc::Rc,
    sync::{Arc, mpsc as std_mpsc},
};

use tokio::sync::{Semaphore, mpsc};
use tokio_uring::{
    Runtime,
    buf::{
        BoundedBuf, IoBuf, IoBufMut,
        fixed::{FixedBuf, FixedBufRegistry},
    },
};

use super::{Mode, Open, Request, Transfer, rounded_up, spawn_named};
use crate::arena::{Arena, Slot};

/// The kernel takes no more buffers than `UIO_MAXIOV`; slots beyond are used unregistered.
const REGISTERED_MAX: usize = 1024;

/// What became of the attempt to start a ring.
pub(super) enum Started {
    Ring(Mode),
    /// The host allows no ring; the receiver comes back for another engine.
    Forbidden(mpsc::Receiver<Request>, io::Error),
}

/// Starts a ring thread for `file`.
pub(super) fn start(
    file: File,
    arena: &Arena,
    depth: usize,
    requests: mpsc::Receiver<Request>,
    open: Open,
) -> io::Result<Started> {
    let (ready, started) = std_mpsc::channel();
    let arena = arena.clone();
    spawn_named("ringback-ring", move || {
        run(file, &arena, depth, requests, &ready);
        drop(open);
    })?;
    started
        .recv()
        .map_err(|_| io::Error::other("the ring thread ended before it was ready"))
}

fn run(
    file: File,
    arena: &Arena,
    depth: usize,
    requests: mpsc::Receiver<Request>,
    ready: &std_mpsc::Sender<Started>,
) {
    // A closed channel means that `start` has given up waiting; there is nobody to tell.
    let runtime = match new_runtime(depth) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Started::Forbidden(requests, error));
            return;
        }
    };
    runtime.block_on(async {
        let buffers = Buffers::register(arena);
        let _ = ready.send(Started::Ring(buffers.mode()));
        serve(file, &Rc::new(buffers), depth, requests).await;
    });
}

/// A ring with room for `depth` operations; only this thread ever enters it.
fn new_runtime(depth: usize) -> io::Result<Runtime> {
    let entries =
        u32::try_from(depth.next_power_of_two().clamp(8, 4096)).expect("clamped to a few thousand");
    let mut ring = tokio_uring::uring_builder();
    ring.setup_single_issuer().setup_coop_taskrun();
    Runtime::new(tokio_uring::builder().entries(entries).uring_builder(&ring))
        // Kernels before 6.0 know neither flag.
        .or_else(|_| Runtime::new(tokio_uring::builder().entries(entries)))
}

async fn serve(
    file: File,
    buffers: &Rc<Buffers>,
    depth: usize,
    mut requests: mpsc::Receiver<Request>,
) {
    let file = Rc::new(tokio_uring::fs::File::from_std(file));
    let in_flight = Arc::new(Semaphore::new(depth));
    let all = u32::try_from(depth).expect("depths are small");
    while let Some(request) = requests.recv().await {
        let permit = Arc::clone(&in_flight).acquire_owned().await;
        let (file, buffers) = (Rc::clone(&file), Rc::clone(buffers));
        tokio_uring::spawn(async move {
            execute(&file, &buffers, request).await;
            drop(permit);
        });
    }
    // Drain: every permit is back when every operation has ended.
    let _all = in_flight.acquire_many(all).await;
}

async fn execute(file: &tokio_uring::fs::File, buffers: &Buffers, request: Request) {
    match request {
        Request::Read(transfer) => move_all(file, buffers, Direction::Read, transfer).await,
        Request::Write(transfer) => move_all(file, buffers, Direction::Write, transfer).await,
        Request::Flush(reply) => {
            let _ = reply.send(file.sync_data().await);
        }
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

/// Carries a transfer out, however many operations the kernel takes for it, and answers.
async fn move_all(
    file: &tokio_uring::fs::File,
    buffers: &Buffers,
    direction: Direction,
    transfer: Transfer,
) {
    let mut buffer = buffers.lend(transfer.slot);
    let end = match direction {
        Direction::Read => rounded_up(transfer.range.end),
        Direction::Write => transfer.range.end,
    };
    let mut at = transfer.range.start;
    let mut result = Ok(());
    while at < transfer.range.end {
        let offset = transfer.offset + (at - transfer.range.start) as u64;
        let (moved, back) = buffer.step(file, direction, at..end, offset).await;
        buffer = back;
        match moved {
            Ok(0) => {
                result = Err(io::ErrorKind::UnexpectedEof.into());
                break;
            }
            Ok(bytes) => at += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    // A caller that has gone away wants no answer; the slot goes home by its drop.
    let _ = transfer.reply.send(result.map(|()| buffer.take_back()));
}

/// The arena as this ring knows it.
struct Buffers(Option<FixedBufRegistry<ArenaBuffer>>);

impl Buffers {
    /// Registers the arena with the ring; goes on without when the kernel refuses.
    fn register(arena: &Arena) -> Self {
        let slots = arena.slots().min(REGISTERED_MAX);
        let registry = FixedBufRegistry::new((0..slots).map(|index| ArenaBuffer {
            arena: arena.clone(),
            index,
        }));
        match registry.register() {
            Ok(()) => Self(Some(registry)),
            Err(error) => {
                tracing::warn!(
                    %error,
                    bytes = slots * arena.slot_bytes(),
                    "buffers are not registered with io_uring (see RLIMIT_MEMLOCK); going on \
                     without, at a higher CPU cost"
                );
                Self(None)
            }
        }
    }

    fn mode(&self) -> Mode {
        match self.0 {
            Some(_) => Mode::UringRegistered,
            None => Mode::UringUnregistered,
        }
    }

    fn lend(&self, slot: Slot) -> Lent {
        match &self.0 {
            Some(registry) if slot.index() < REGISTERED_MAX => {
                let fixed = registry
                    .check_out(slot.index())
                    .expect("a slot has one owner, so its buffer is checked out once at a time");
                Lent::Registered(fixed, slot)
            }
            _ => Lent::Plain(slot),
        }
    }
}

/// A slot while its memory is the kernel's.
enum Lent {
    /// The slot only stands by, so that nobody else gets it.
    Registered(FixedBuf, Slot),
    Plain(Slot),
}

impl Lent {
    /// One operation on the given range of the slot.
    async fn step(
        self,
        file: &tokio_uring::fs::File,
        direction: Direction,
        range: Range<usize>,
        offset: u64,
    ) -> (io::Result<usize>, Self) {
        match (self, direction) {
            (Self::Registered(fixed, slot), Direction::Read) => {
                let (moved, part) = file.read_fixed_at(fixed.slice(range), offset).await;
                (moved, Self::Registered(part.into_inner(), slot))
            }
            (Self::Registered(fixed, slot), Direction::Write) => {
                let (moved, part) = file.write_fixed_at(fixed.slice(range), offset).await;
                (moved, Self::Registered(part.into_inner(), slot))
            }
            (Self::Plain(slot), Direction::Read) => {
                let (moved, part) = file.read_at(slot.slice(range), offset).await;
                (moved, Self::Plain(part.into_inner()))
            }
            (Self::Plain(slot), Direction::Write) => {
                let (moved, part) = file.write_at(slot.slice(range), offset).submit().await;
                (moved, Self::Plain(part.into_inner()))
            }
        }
    }

    fn take_back(self) -> Slot {
        match self {
            Self::Registered(_, slot) | Self::Plain(slot) => slot,
        }
    }
}

/// One slot's memory, as the registry wants it: present for the arena's whole life.
struct ArenaBuffer {
    arena: Arena,
    index: usize,
}

// SAFETY: the memory is mapped as long as `arena` is held and never moves; fresh mappings are
// zero, so all of it is initialised. Who may touch it when is decided by `Slot`, and `lend`
// checks a buffer out only for a slot's owner.
unsafe impl IoBuf for ArenaBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.arena.slot_memory(self.index).as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.arena.slot_bytes()
    }

    fn bytes_total(&self) -> usize {
        self.arena.slot_bytes()
    }
}

// SAFETY: as above; all bytes are initialised, so `set_init` has nothing to keep.
unsafe impl IoBufMut for ArenaBuffer {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.arena.slot_memory(self.index).as_ptr()
    }

    unsafe fn set_init(&mut self, _bytes: usize) {}
}

// SAFETY: a slot's memory stays where it is when the slot moves, is initialised as a whole, and
// is given back only when the slot is dropped, which the kernel's use precedes.
unsafe impl IoBuf for Slot {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }

    fn bytes_total(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above; all bytes are initialised, so `set_init` has nothing to keep.
unsafe impl IoBufMut for Slot {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    unsafe fn set_init(&mut self, _bytes: usize) {}
}
