//! Real LVM on real disks of a throw-away guest, which `tests/vm/run` boots (see tests/vm/README.md):
//!
//! ```console
//! $ CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/tests/vm/run \
//!       cargo test -p ringback --features lvm --test lvm -- --test-threads=1
//! ```

mod bed;
#[path = "../e2e/client.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod client;
mod crashes;
mod disk_errors;
mod edges;
mod filesystems;
mod guest;
#[path = "../e2e/harness.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod harness;
mod meanwhile;
mod model;
mod mounted;
mod paths;
mod repository;
mod restores;
mod snapshots;
#[path = "../e2e/store.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod store;
mod tools;
#[path = "../e2e/valve.rs"]
mod valve;
mod vg;
mod volumes;
