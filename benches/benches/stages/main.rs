//! The stages of the data path, each alone: `cargo bench -p ringback-benches [-- FILTER]`.
//!
//! Figures are per second of one thread, or of one device. What a stage is worth in a whole backup
//! shows `ringback-bench run`.

mod bed;
mod codec;
mod compute;
mod packing;
mod ring;
mod store;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    stages,
    compute::hash_and_zero_test,
    codec::compress,
    codec::decompress,
    codec::seal,
    codec::stretch,
    ring::read,
    ring::write,
    packing::records_into_packs,
    store::parts_up,
    store::ranges_down,
);
criterion_main!(stages);
