//! Real LVM on real disks of throw-away guests: `tests/lvm/run` runs all of it, `tests/lvm/run edges` a module.
//! Guests are described in tests/vm/README.md.

mod bed;
#[path = "../e2e/client.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod client;
mod crashes;
mod disk_errors;
mod edges;
mod failures;
mod filesystems;
mod folders;
mod guest;
#[path = "../e2e/harness.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod harness;
mod identity;
mod layouts;
mod meanwhile;
mod metrics;
mod model;
mod mounted;
#[path = "../e2e/objects.rs"]
#[expect(dead_code, reason = "the end-to-end tests ask for more")]
mod objects;
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
mod writer;
