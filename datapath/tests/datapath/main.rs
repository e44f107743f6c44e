//! Volumes to a real endpoint and back.

mod answers;
mod compression;
mod generations;
mod round_trip;
mod sessions;
mod support;
mod trouble;
mod uploads;
