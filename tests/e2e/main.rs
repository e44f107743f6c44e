//! The daemon from outside: the real program, real gRPC, a real S3 endpoint. No root needed.

mod client;
mod harness;
mod refusals;
mod socket;
mod store;
mod volumes;
mod watch;
