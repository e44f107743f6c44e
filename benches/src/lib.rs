//! What measures ringback: whole workloads side by side with limits and peers, and chunk sizes.
//!
//! `cargo run --release -p ringback-benches -- run` does all of the former in one go ([`run`]): it
//! makes a volume ([`volume`]), lets each contender ([`contender`]) back it up to the same sink
//! ([`sink`]) and restore it, round by round, as a process of its own whose time, CPU, memory and
//! I/O are measured from outside ([`measure`]), and shows what came out ([`results`]) as a table
//! ([`table`]) and as a page with plots ([`report`]).
//!
//! The limits that everything is held against: what the disk does ([`contender::fio`]), and what a
//! client does that moves the same bytes and computes nothing ([`raw`]).
//!
//! [`chunk_sizes`] tells from a row of images what each chunk size would save and cost.
//!
//! Benches of single stages are in `benches/stages`: `cargo bench -p ringback-benches`.

pub mod chunk_sizes;
pub mod contender;
pub mod error;
pub mod measure;
pub mod raw;
pub mod report;
pub mod results;
pub mod run;
pub mod sink;
pub mod statistics;
pub mod table;
pub mod units;
pub mod volume;
