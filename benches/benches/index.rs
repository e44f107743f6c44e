//! The index of known chunks, against the standard library's map with the same entries.
//!
//! `cargo bench -p ringback-benches --bench index`; figures are per chunk, on one thread. A chunk
//! of 256 KiB takes about 30 µs to hash.

use std::{collections::HashMap, hint::black_box};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringback_datapath::{
    chunk::ChunkId,
    format::{
        name::{PackName, SessionId},
        pack::Place,
    },
    index::DedupeIndex,
};

/// Room for the larger of the tables.
const MEMORY_BYTES: usize = 256 << 20;
const PER_PACK: u32 = 511;
/// Chunks looked up in one go.
const LOOK_UPS: u32 = 1 << 16;

fn id(number: u32) -> ChunkId {
    ChunkId::of(&number.to_le_bytes())
}

fn key(id: &ChunkId) -> [u8; 16] {
    *id.0.first_chunk().expect("an id has 32 bytes")
}

/// So many chunks in packs of 128 MiB.
fn chunks(count: u32) -> Vec<(ChunkId, Place)> {
    let session = SessionId([1; 8]);
    let packs: Vec<_> = (0..=count / PER_PACK)
        .map(|number| PackName::random(session, number))
        .collect();
    (0..count)
        .map(|number| {
            let ordinal = number % PER_PACK;
            let place = Place {
                pack: packs[(number / PER_PACK) as usize],
                ordinal,
                offset: 32 + ordinal * 262_145,
                stored_bytes: 262_145,
            };
            (id(number), place)
        })
        .collect()
}

fn index_of(chunks: &[(ChunkId, Place)]) -> DedupeIndex {
    let mut index = DedupeIndex::new(MEMORY_BYTES);
    for (id, place) in chunks {
        index.insert(id, *place);
    }
    index
}

fn fill(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("take up chunks");
    group.sample_size(10);
    for count in [1 << 16, 1 << 20] {
        let chunks = chunks(count);
        group.throughput(Throughput::Elements(count.into()));
        group.bench_function(BenchmarkId::new("index", count), |bencher| {
            bencher.iter_with_large_drop(|| index_of(&chunks));
        });
        group.bench_function(BenchmarkId::new("std's map", count), |bencher| {
            bencher.iter_with_large_drop(|| {
                let entries = chunks.iter().map(|(id, place)| (key(id), *place));
                entries.collect::<HashMap<_, _>>()
            });
        });
    }
    group.finish();
}

fn look_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("look up chunks");
    group.throughput(Throughput::Elements(LOOK_UPS.into()));
    for count in [1 << 16, 1 << 22] {
        let chunks = chunks(count);
        let index = index_of(&chunks);
        let map: HashMap<_, _> = chunks.iter().map(|(id, place)| (key(id), *place)).collect();
        // Known ones from everywhere in the table, and as many that nobody knows.
        let step = (count / LOOK_UPS) as usize;
        let known: Vec<ChunkId> = chunks.iter().step_by(step).map(|(id, _)| *id).collect();
        let unknown: Vec<ChunkId> = (0..LOOK_UPS).map(|number| id(u32::MAX - number)).collect();
        for (kind, ids) in [("known", known), ("unknown", unknown)] {
            let in_index = BenchmarkId::new(format!("index, {kind}"), count);
            group.bench_function(in_index, |bencher| {
                bencher.iter(|| ids.iter().filter_map(|id| index.get(black_box(id))).count());
            });
            let in_map = BenchmarkId::new(format!("std's map, {kind}"), count);
            group.bench_function(in_map, |bencher| {
                bencher.iter(|| {
                    let found = ids.iter().filter_map(|id| map.get(&key(black_box(id))));
                    found.count()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(index, fill, look_up);
criterion_main!(index);
