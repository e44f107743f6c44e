//! The daemon from outside: the real program, real gRPC, a real S3 endpoint. No root needed.

mod backups;
mod calm;
mod client;
mod damage;
mod harness;
mod refusals;
mod restores;
mod secrets;
mod socket;
mod sources;
mod store;
mod valve;
mod volumes;
mod watch;
