//! Benches of the data path: `cargo bench -p ringback-benches`.
