//! Blocks from and to a file with O_DIRECT, by engine, block size and depth of the queue.

use std::{fs::File, hint::black_box, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures::{StreamExt, TryStreamExt, stream};
use ringback_datapath::{
    arena::{Arena, Slot},
    device,
    ring::{BlockQueue, IoEngine},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::bed::noise;

const FILE_BYTES: u64 = 128 << 20;
const BLOCKS: [usize; 3] = [64 << 10, 256 << 10, 1 << 20];
const DEPTHS: [usize; 3] = [1, 8, 32];

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

/// Reads a file of 128 MiB once.
pub(crate) fn read(criterion: &mut Criterion) {
    transfer(criterion, "ring read", Direction::Read);
}

/// Writes over a file of 128 MiB once; not flushed.
pub(crate) fn write(criterion: &mut Criterion) {
    transfer(criterion, "ring write", Direction::Write);
}

fn transfer(criterion: &mut Criterion, name: &str, direction: Direction) {
    let (_folder, path) = volume();
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(FILE_BYTES));
    group.sample_size(10);
    for engine in [IoEngine::Uring, IoEngine::Sync] {
        for block in BLOCKS {
            for depth in DEPTHS {
                let arena = Arena::new(depth, block).expect("buffers");
                let file = device::open_for_write(&path).expect("opens").file;
                let queue = BlockQueue::open(file, &arena, engine, depth).expect("a queue");
                let queue = Arc::new(queue);
                let parameters = format!("{} KiB, depth {depth}", block >> 10);
                let id = BenchmarkId::new(format!("{:?}", queue.mode()), parameters);
                group.bench_function(id, |bencher| {
                    let pass = || pass(&arena, &queue, depth, direction);
                    bencher.iter(|| runtime.block_on(pass()));
                });
            }
        }
    }
    group.finish();
}

/// A file whose blocks are all allocated and written.
fn volume() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("volume");
    let file = File::create(&path).expect("makes a file");
    let data = noise(1 << 20);
    for offset in (0..FILE_BYTES).step_by(data.len()) {
        file.write_all_at(&data, offset).expect("writes");
    }
    file.sync_all().expect("syncs");
    (folder, path)
}

async fn pass(arena: &Arena, queue: &BlockQueue, depth: usize, direction: Direction) {
    let block = arena.slot_bytes();
    stream::iter((0..FILE_BYTES).step_by(block))
        .map(|offset| async move {
            let slot: Slot = arena.acquire().await;
            match direction {
                Direction::Read => queue.read(slot, offset, block).await,
                Direction::Write => queue.write(slot, 0..block, offset).await,
            }
        })
        .buffer_unordered(depth)
        .try_for_each(|slot| async move {
            black_box(&slot[..]);
            Ok(())
        })
        .await
        .expect("transfers");
}
