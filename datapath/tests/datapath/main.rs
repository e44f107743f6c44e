//! Volumes to a real endpoint and back.

mod answers;
mod folder;
mod generations;
mod round_trip;
mod sessions;
mod stores;
mod support;
mod trouble;
mod uploads;
