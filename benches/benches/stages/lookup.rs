//! The index of known chunks: taking them up, finding them, not finding others.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use ringback_datapath::{
    chunk::ChunkId,
    crypt::Hashing,
    format::{
        name::{PackName, SessionId},
        pack::Place,
    },
    index::DedupeIndex,
};

/// The chunks of a volume of 64 GiB, at the usual size.
const CHUNKS: u32 = 1 << 18;

pub(crate) fn index(criterion: &mut Criterion) {
    let known = chunks(0);
    let unknown = chunks(CHUNKS);
    let full = filled(&known);
    let mut group = criterion.benchmark_group("index");
    group.sample_size(20);
    group.throughput(Throughput::Elements(u64::from(CHUNKS)));
    group.bench_function("look up, known", |bencher| {
        bencher.iter(|| {
            known
                .iter()
                .filter(|(id, _)| full.get(id).is_some())
                .count()
        });
    });
    group.bench_function("look up, unknown", |bencher| {
        bencher.iter(|| {
            unknown
                .iter()
                .filter(|(id, _)| full.get(id).is_none())
                .count()
        });
    });
    group.bench_function("take up", |bencher| {
        bencher.iter_batched_ref(
            || known.clone(),
            |known| filled(known),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn filled(chunks: &[(ChunkId, Place)]) -> DedupeIndex {
    let mut index = DedupeIndex::new(64 << 20);
    for (id, place) in chunks {
        index.insert(black_box(id), *place);
    }
    index
}

fn chunks(from: u32) -> Vec<(ChunkId, Place)> {
    let pack = PackName::random(SessionId([1; 8]), 0);
    (from..from + CHUNKS)
        .map(|number| {
            let place = Place {
                pack,
                ordinal: number,
                offset: 32 + number,
                stored_bytes: 100,
            };
            (Hashing::PLAIN.chunk_id(&number.to_le_bytes()), place)
        })
        .collect()
}
