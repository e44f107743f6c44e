//! The endpoint as the real AWS client sees it. Most tests run on both backings.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bed;
mod buckets;
mod conditions;
mod digests;
mod faults;
mod lifecycle;
mod listing;
mod multipart;
mod objects;
mod traffic;
