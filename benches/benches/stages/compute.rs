//! What is computed on every chunk.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use ringback_datapath::{chunk::is_zero, crypt::Hashing};

use crate::bed::{CHUNK, noise};

pub(crate) fn hash_and_zero_test(criterion: &mut Criterion) {
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
