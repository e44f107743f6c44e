//! Volumes to a real endpoint and back.

mod answers;
mod compression;
mod folder;
mod generations;
mod keys;
mod round_trip;
mod sealed;
mod sessions;
mod stores;
mod support;
mod trouble;
mod uploads;
