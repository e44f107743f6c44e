//! The raw limit: a client that moves the bytes of a volume to the sink and back, and nothing else.
//!
//! No hash, no check, no index, no order: a few threads read 8 MiB each with O_DIRECT and PUT them
//! as an object, or GET a range and write it. What a backup does beside that is what its time over
//! this limit goes to.

use std::{
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use clap::{Args, Subcommand};
use futures::executor::block_on;
use ringback_datapath::{
    arena::{Arena, Slot},
    device::{self, Device},
};

use crate::{
    error::{Error, Located},
    sink::{Address, Bucket},
};

/// What one thread moves at a time.
pub const PIECE_BYTES: u64 = 8 << 20;

/// What the raw limit is asked to do, in a process of its own.
#[derive(Subcommand)]
pub enum Raw {
    /// Read the volume and PUT all of it.
    Put(Work),
    /// Read the volume and forget it.
    Read(Work),
    /// GET all of it and write it to a volume.
    Get(Work),
}

/// From where to where.
#[derive(Args)]
pub struct Work {
    /// The volume that is read, or written.
    #[arg(long)]
    volume: PathBuf,
    /// How much of it; a volume that is written may be larger.
    #[arg(long)]
    bytes: u64,
    /// The store; credentials come from the environment.
    #[arg(long)]
    endpoint: String,
    /// The bucket.
    #[arg(long)]
    bucket: String,
    /// Where in the bucket.
    #[arg(long)]
    prefix: String,
    /// Threads, each with a connection.
    #[arg(long, default_value_t = 8)]
    transfers: usize,
}

impl Raw {
    /// Does it.
    pub fn run(&self) -> Result<(), Error> {
        match self {
            Self::Put(work) => {
                work.read_volume(|work, bucket, piece, bytes| bucket.put(&work.key(piece), bytes))
            }
            Self::Read(work) => work.read_volume(|_, _, _, _| Ok(())),
            Self::Get(work) => work.fill_volume(),
        }
    }
}

impl Work {
    fn key(&self, piece: u64) -> String {
        format!("{}/{piece:06}", self.prefix)
    }

    fn bucket(&self) -> Result<Bucket, Error> {
        let address = Address::from_environment(&self.endpoint, &self.bucket)?;
        Bucket::at(&address)
    }

    fn read_volume(
        &self,
        give: fn(&Self, &Bucket, u64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let device = device::open_for_read(&self.volume, true)?;
        self.for_each_piece(&device, |bucket, piece, range, slot| {
            let bytes = &mut slot[..range];
            let offset = piece * PIECE_BYTES;
            device
                .file
                .read_exact_at(bytes, offset)
                .at("read", &self.volume)?;
            give(self, bucket, piece, bytes)
        })
    }

    fn fill_volume(&self) -> Result<(), Error> {
        let device = device::open_for_write(&self.volume)?;
        self.for_each_piece(&device, |bucket, piece, range, slot| {
            let bytes = &mut slot[..range];
            bucket.get(&self.key(piece), 0, bytes)?;
            let offset = piece * PIECE_BYTES;
            device
                .file
                .write_all_at(bytes, offset)
                .at("write", &self.volume)
        })?;
        device.file.sync_all().at("sync", &self.volume)
    }

    /// Shares the pieces of a volume out to threads, each with a buffer of its own.
    fn for_each_piece(
        &self,
        device: &Device,
        work: impl Fn(&Bucket, u64, usize, &mut Slot) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let bucket = self.bucket()?;
        let (bytes, next) = (device.size_bytes.min(self.bytes), AtomicU64::new(0));
        let piece_bytes = usize::try_from(PIECE_BYTES).expect("8 MiB");
        let arena = Arena::new(self.transfers, piece_bytes).at("map", Path::new("memory"))?;
        let worker = || {
            let mut slot = block_on(arena.acquire());
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                let left = bytes.saturating_sub(piece * PIECE_BYTES);
                if left == 0 {
                    return Ok(());
                }
                let len = usize::try_from(left).map_or(piece_bytes, |left| left.min(piece_bytes));
                work(&bucket, piece, len, &mut slot)?;
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.transfers).map(|_| scope.spawn(worker)).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("a worker returns its errors"))
        })
    }
}
