//! The daemon from outside: the real program, real gRPC, a real S3 endpoint. No root needed.

mod client;
mod harness;
mod store;
mod volumes;
