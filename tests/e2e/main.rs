//! The daemon from outside: the real program, real gRPC, a real S3 endpoint. No root needed.

mod backups;
mod bad_input;
mod calm;
mod client;
mod command_line;
mod compression;
mod concurrency;
mod damage;
mod encryption;
mod faults;
#[expect(dead_code, reason = "the kill tests ask for more")]
mod harness;
mod metrics;
mod networks;
mod objects;
mod places;
mod probes;
mod refusals;
mod restores;
mod resume;
mod running_backups;
mod secrets;
mod socket;
mod sources;
mod standalone;
mod store;
mod tokens;
mod transfers;
mod valve;
mod volumes;
mod watch;
mod ways;
