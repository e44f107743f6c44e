//! Somebody who writes to a volume all the time, and notes how long a write took.

use std::{
    fs::File,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::libc::{O_DIRECT, O_DSYNC};

const BLOCK_BYTES: usize = 4096;
/// So many blocks are written in turn.
const BLOCKS: u64 = 256;

/// Writes what is there already, one block at a time, each durable before the next.
pub(crate) struct Writer {
    told: Arc<Told>,
    thread: JoinHandle<Duration>,
}

#[derive(Default)]
struct Told {
    writes: AtomicU64,
    is_over: AtomicBool,
}

impl Writer {
    /// Writes the mebibyte at `offset`.
    pub(crate) fn start(volume: &Path, offset: u64) -> Self {
        let mut options = File::options();
        options.read(true).write(true);
        options.custom_flags(O_DIRECT | O_DSYNC);
        let device = options.open(volume).expect("opens");
        let told = Arc::<Told>::default();
        let telling = Arc::clone(&told);
        Self {
            told,
            thread: thread::spawn(move || write(&device, offset, &telling)),
        }
    }

    /// How many writes have ended so far.
    pub(crate) fn writes(&self) -> u64 {
        self.told.writes.load(Ordering::SeqCst)
    }

    /// Ends it; the longest time that a write took.
    pub(crate) fn longest(self) -> Duration {
        self.told.is_over.store(true, Ordering::SeqCst);
        self.thread.join().expect("it writes to its end")
    }
}

fn write(device: &File, offset: u64, told: &Told) -> Duration {
    let mut room = vec![0; 2 * BLOCK_BYTES];
    let start = room.as_ptr().align_offset(BLOCK_BYTES);
    let block = &mut room[start..start + BLOCK_BYTES];
    let mut longest = Duration::ZERO;
    for number in (0..BLOCKS).cycle() {
        let at = offset + number * BLOCK_BYTES as u64;
        let begun = Instant::now();
        device.read_exact_at(block, at).expect("reads");
        device.write_all_at(block, at).expect("writes");
        longest = longest.max(begun.elapsed());
        told.writes.fetch_add(1, Ordering::SeqCst);
        if told.is_over.load(Ordering::SeqCst) {
            break;
        }
        // There may be one CPU, for the backup as well.
        thread::sleep(Duration::from_millis(5));
    }
    longest
}
