//! A pack's layout: where each record lies, and the footer in the end.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use ringback_datapath::format::{
    domain::Domain,
    name::{ObjectKind, PackName, SessionId},
    object::RepositoryId,
    pack::Layout,
};

use crate::bed::CHUNK;

const RECORDS: u32 = 512;

pub(crate) fn records_into_packs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packing");
    group.throughput(Throughput::Elements(u64::from(RECORDS)));
    let ids: Vec<[u8; 32]> = (0..RECORDS)
        .map(|number| *blake3::hash(&number.to_le_bytes()).as_bytes())
        .collect();
    let domain = Domain::plain(RepositoryId([2; 16]));
    group.bench_function("512 records and a footer", |bencher| {
        bencher.iter(|| {
            let name = PackName::random(SessionId([1; 8]), 0);
            let mut layout = Layout::new(ObjectKind::DataPack, name, &domain);
            for id in &ids {
                black_box(layout.push(id, CHUNK + 1));
            }
            layout.finish()
        });
    });
    group.finish();
}
