//! ringback: an lvmd that sends logical volumes to S3 and brings them back.
//!
//! A request comes in over gRPC ([`service`]), is read into one type of our own whatever its
//! dialect ([`dialect`], [`request`], [`names`]), and carried out by the [`daemon`]: at once on a
//! volume group ([`groups`], [`volume`], [`rooms`]), or as a job that outlives the call ([`jobs`]).
//!
//! The command line ([`cli`]) asks a daemon, or works on devices and files itself ([`direct`]).

pub mod cli;
pub mod config;
pub mod core_dumps;
pub mod daemon;
pub mod dialect;
pub mod direct;
pub mod failure;
pub mod groups;
pub mod jobs;
pub mod metrics;
pub mod names;
mod planted;
pub mod request;
pub mod rooms;
pub mod serve;
pub mod service;
mod service_manager;
pub mod volume;
