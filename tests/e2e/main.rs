//! The daemon from outside: the real program, real gRPC, a real S3 endpoint. No root needed.

mod backups;
mod client;
mod harness;
mod refusals;
mod restores;
mod socket;
mod sources;
mod store;
mod valve;
mod volumes;
mod watch;
