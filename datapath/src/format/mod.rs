//! What lies in a repository, to the byte. `docs/formats/` describes the same for strangers.
//!
//! This module knows no store and no network: it turns messages into objects and back, and
//! checks everything it is given.

pub mod domain;
#[cfg(test)]
mod examples;
pub(crate) mod key_slot;
pub mod name;
pub mod object;
pub mod pack;
pub mod tree;

/// Why bytes that were read are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The object does not begin with ringback's magic.
    #[error("is not an object of ringback; something else lies at this path, choose another")]
    Foreign,
    /// Written by a later ringback.
    #[error("has {what} {found}, which this ringback does not know; a newer one wrote it")]
    Newer {
        /// What is newer.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// Belongs to another repository, or is another object.
    #[error("is not the object expected here: {0}")]
    Misplaced(&'static str),
    /// Damaged: bytes changed, missing or too many.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
}
