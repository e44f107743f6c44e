//! Real LVM on real disks of a throw-away guest, which `tests/vm/run` boots (see tests/vm/README.md):
//!
//! ```console
//! $ CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/tests/vm/run \
//!       cargo test -p ringback --features lvm --test lvm -- --test-threads=1
//! ```

mod bed;
mod disk_errors;
mod guest;
mod mounted;
mod paths;
mod repository;
mod tools;
