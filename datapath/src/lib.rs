//! Volumes to an S3 repository and back.
//!
//! A backup ([`backup::run`]): snapshot, extents to read ([`device`]), ring reader ([`ring`],
//! [`reader`]), hash ([`chunk`]), dedupe ([`index`]), compress ([`codec`], [`record`]), pack and parallel
//! parts ([`packer`]), tree
//! ([`tree`]), ref set ([`refs`]), commit ([`log`]).
//!
//! A restore ([`restore::run`]): tree, plan ([`ranges`]), parallel ranged GETs, decompress,
//! verify, ring writer, flush.
//!
//! A verification ([`verify::run`]): what the backups need is there, and is what it should be. A
//! repair ([`repair::run`]): what is not is marked, the index is made anew, and what is lost is told.
//!
//! What lies in the store is in [`format`]; how it gets there in [`store`] and [`repository`]; what
//! seals it in [`crypt`], and who may open it in [`keys`].
//! This crate knows nothing of gRPC, YAML or LVM.

pub mod arena;
pub mod backup;
pub mod chunk;
pub mod codec;
pub mod copy;
pub mod crypt;
#[cfg(test)]
mod damage;
pub mod device;
pub mod error;
mod footers;
pub mod format;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod index;
pub mod keys;
pub mod log;
pub mod packer;
mod parent;
mod part;
pub mod progress;
pub mod ranges;
pub mod reader;
pub mod record;
pub mod refs;
pub mod repair;
pub mod repository;
pub mod restore;
pub mod ring;
pub mod session;
pub mod settings;
pub mod stages;
pub mod stop;
pub mod store;
mod tasks;
pub mod tree;
pub mod verify;
mod window;
mod writer;
