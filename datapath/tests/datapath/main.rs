//! Volumes to a real endpoint and back.

mod answers;
mod compression;
mod folder;
mod generations;
mod keys;
mod restore_plan;
mod round_trip;
mod sealed;
mod sessions;
mod stores;
mod support;
mod thrift;
mod trouble;
mod uploads;
