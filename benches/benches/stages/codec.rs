//! What is done to new chunks, and undone in a restore: compressing, and sealing. And what a passphrase costs.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use ringback_benches::volume::patterns;
use ringback_datapath::{
    codec::{Codec, Compressor, Decompressor, Effort, ZstdLevel},
    crypt::{Keys, Passphrase, Stretching},
    store::location::Secret,
};

use crate::bed::{CHUNK, noise};

/// From light to as hard as it gets.
const EFFORTS: [Effort; 5] = [Effort::Lz4, zstd(1), zstd(3), zstd(9), zstd(ZstdLevel::MAX)];

const fn zstd(level: u8) -> Effort {
    Effort::Zstd(ZstdLevel::new(level).expect("there is such a level"))
}

/// Words: zstd makes a fourth or fifth of them.
fn text() -> Vec<u8> {
    let mut bytes = vec![0; CHUNK];
    patterns::text(0, &mut bytes);
    bytes
}

pub(crate) fn compress(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compress");
    group
        .throughput(Throughput::Bytes(CHUNK as u64))
        .sample_size(10);
    for (content, chunk) in [("text", text()), ("noise", noise(CHUNK))] {
        for effort in EFFORTS {
            let mut compressor = Compressor::new();
            group.bench_function(format!("{content}, {effort}"), |bencher| {
                bencher.iter(|| {
                    let made = compressor.compress(effort, black_box(&chunk), CHUNK - 1);
                    made.map(|(_, bytes)| bytes.len())
                });
            });
        }
    }
    group.finish();
}

pub(crate) fn decompress(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decompress");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let (chunk, mut compressor) = (text(), Compressor::new());
    for effort in EFFORTS {
        let (codec, payload) = compressor
            .compress(effort, &chunk, CHUNK - 1)
            .map(|(codec, bytes)| (codec, bytes.to_vec()))
            .expect("text becomes smaller");
        group.bench_function(format!("text, {effort}"), |bencher| {
            bencher.iter(|| undo(codec, black_box(&payload)));
        });
    }
    group.finish();
}

fn undo(codec: Codec, payload: &[u8]) -> usize {
    Decompressor::with(|decompressor| {
        let chunk = decompressor.decompress(codec, payload, CHUNK);
        chunk.expect("it was compressed").len()
    })
}

pub(crate) fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let key = Keys::random().pack_key("data/bench");
    let id = [7; 32];
    let chunk = noise(CHUNK);
    group.bench_function("seal a record", |bencher| {
        // Each ordinal seals once, as each nonce does.
        let (mut record, mut ordinal) = (chunk.clone(), 0);
        bencher.iter(|| {
            ordinal += 1;
            key.seal_record(ordinal, &id, black_box(&mut record), &[0])
        });
    });
    let mut sealed = chunk.clone();
    let behind = key.seal_record(0, &id, &mut sealed, &[0]);
    sealed.extend(behind);
    group.bench_function("open a record", |bencher| {
        bencher.iter_batched_ref(
            || sealed.clone(),
            |record| {
                let opened = key.open_record(0, &id, record);
                opened.expect("it was sealed so").len()
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

pub(crate) fn stretch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stretch");
    group.sample_size(10);
    let text = Secret::new("correct horse battery staple".to_owned());
    let passphrase = Passphrase::new(text).expect("a passphrase");
    group.bench_function("a passphrase", |bencher| {
        bencher.iter(|| Stretching::with_salt([1; 16]).compute(black_box(&passphrase)));
    });
    group.finish();
}
