//! The stages of the data path, each alone.
//!
//! `cargo bench -p ringback-benches`; figures are per second of one thread, or of one device.

use std::{fs::File, hint::black_box, os::unix::fs::FileExt, sync::Arc};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::{StreamExt, TryStreamExt, stream};
use ringback_datapath::{
    arena::Arena,
    chunk::is_zero,
    crypt::Hashing,
    device,
    ring::{BlockQueue, IoEngine},
};
use tokio::runtime::Runtime;

const CHUNK: usize = 256 << 10;
const FILE_CHUNKS: u64 = 512;

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn compute(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compute");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let (data, zeros) = (noise(CHUNK), vec![0; CHUNK]);
    group.bench_function("hash a chunk", |bencher| {
        bencher.iter(|| Hashing::PLAIN.chunk_id(black_box(&data)));
    });
    group.bench_function("zero test, all zero", |bencher| {
        bencher.iter(|| is_zero(black_box(&zeros)));
    });
    group.bench_function("zero test, data", |bencher| {
        bencher.iter(|| is_zero(black_box(&data)));
    });
    group.finish();
}

/// Reads a 128 MiB file once, O_DIRECT, by engine and depth.
fn ring_read(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("volume");
    let file = File::create(&path).expect("makes a file");
    let data = noise(CHUNK);
    for chunk in 0..FILE_CHUNKS {
        file.write_all_at(&data, chunk * CHUNK as u64)
            .expect("writes");
    }
    file.sync_all().expect("syncs");

    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(FILE_CHUNKS * CHUNK as u64));
    group.sample_size(10);
    for engine in [IoEngine::Uring, IoEngine::Sync] {
        for depth in [1, 8, 32] {
            let arena = Arena::new(depth, CHUNK).expect("buffers");
            let file = device::open_for_read(&path, true).expect("opens").file;
            let queue = Arc::new(BlockQueue::open(file, &arena, engine, depth).expect("a queue"));
            let id = BenchmarkId::new(format!("{:?}", queue.mode()), format!("depth {depth}"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| runtime.block_on(read_all(&arena, &queue, depth)));
            });
        }
    }
    group.finish();
}

async fn read_all(arena: &Arena, queue: &BlockQueue, depth: usize) {
    stream::iter(0..FILE_CHUNKS)
        .map(|chunk| async move {
            let slot = arena.acquire().await;
            queue.read(slot, chunk * CHUNK as u64, CHUNK).await
        })
        .buffer_unordered(depth)
        .try_for_each(|slot| async move {
            black_box(&slot[..]);
            Ok(())
        })
        .await
        .expect("reads");
}

criterion_group!(stages, compute, ring_read);
criterion_main!(stages);
