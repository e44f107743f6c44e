//! What needs root, loop devices and filesystems of its own:
//! `cargo test -p ringback --features privileged --test privileged`.

mod backup;
mod bed;
mod directory;
mod folder;
mod full_disk;
mod standalone;
mod support;
