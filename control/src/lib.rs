//! placeholder

pub mod config;
pub mod dialect;
pub mod names;
pub mod request;
pub mod volume;
