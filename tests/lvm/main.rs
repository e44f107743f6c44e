//! The daemon on real LVM, thick and thin: `tests/vm/run` gives the device-mapper.
//!
//! All tests share the guest's one volume group: `--test-threads=1`.

#[path = "../e2e/client.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod client;
mod crashes;
mod filesystems;
#[path = "../e2e/harness.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod harness;
mod restores;
mod snapshots;
#[path = "../e2e/store.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod store;
#[path = "../e2e/valve.rs"]
mod valve;
mod vg;
mod volumes;
