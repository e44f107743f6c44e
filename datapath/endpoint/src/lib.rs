//! A strict, linearizable S3 server in the process: for the demo, `serve --dev`, the tests and the
//! benches.
//!
//! Strict means that it does what the S3 documentation promises and what some stores let slide:
//! conditions are checked and the object inserted under one lock after the body was read whole,
//! digests are verified before anything is stored, part sizes and orders are enforced. What it does
//! not know it refuses with `NotImplemented`; it never ignores a request header that changes the
//! meaning of a request, with two exceptions: conditions on `CompleteMultipartUpload` are ignored,
//! as many stores do (a client must not rely on them), and so are storage classes, encryption, ACL
//! and tag headers.
//!
//! Where to look:
//!
//! - [`Endpoint`], [`Options`]: start, address, credentials, stop (`endpoint.rs`), connections
//!   (`server.rs`)
//! - the layer around the service, where every request passes: counting and withheld replies
//!   (`gate.rs`, `counters.rs`); faults on purpose: which ones is drawn in `faults.rs`, what
//!   happens to bodies is in `tamper.rs`; requests stopped at an exact moment (`stops.rs`)
//! - the operations: `s3.rs` is the table, `objects.rs`, `multipart.rs`, `listing.rs` do the work
//! - the state, and its one lock: `store.rs`; bytes of objects: `content.rs`; objects as files:
//!   `folder.rs`
//! - bodies coming in: `body.rs`, and their digests: `checksums.rs`

mod body;
mod checksums;
mod content;
mod counters;
mod endpoint;
mod faults;
mod folder;
mod gate;
mod listing;
mod multipart;
mod objects;
mod page;
mod s3;
mod server;
mod stops;
mod store;
mod tamper;
mod tokens;

pub use counters::{Counters, OperationCounters};
pub use endpoint::{Backing, Endpoint, Error, Options};
pub use faults::{Fault, FaultPlan, Outage};
pub use gate::HeldReplies;
pub use stops::{Moment, Stop, Stopped};
