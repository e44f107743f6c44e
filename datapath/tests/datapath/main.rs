//! Volumes to a real endpoint and back.

mod answers;
mod generations;
mod restore_plan;
mod round_trip;
mod sessions;
mod support;
mod thrift;
mod trouble;
mod uploads;
