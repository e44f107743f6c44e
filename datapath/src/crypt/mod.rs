//! Keys, and what is done with them: passphrases, their stretching, key derivation, sealing, keyed
//! ids. `docs/formats/encryption.md` describes all of it to the byte.
//!
//! This module knows no object and no store. What is secret is of a type that does not print and
//! is wiped when it is dropped.
//!
//! Ordering rule: a key and a nonce seal one text. Object keys are derived with a new salt for each
//! text; pack keys from a name that is never used twice, and each record has its ordinal for a nonce.

mod hashing;
mod keys;
mod passphrase;
mod seal;
mod secret;
mod stretch;

pub use hashing::Hashing;
pub use keys::{Keys, PackKey};
pub(crate) use keys::{SALT_BYTES, slot_key};
pub use passphrase::{InvalidPassphrase, Passphrase};
pub(crate) use seal::TAG_BYTES;
pub use seal::TagMismatch;
pub(crate) use secret::KEY_BYTES;
pub use secret::Key;
pub(crate) use stretch::Stretched;
pub use stretch::Stretching;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
