//! What people know.

use crate::store::location::Secret;

/// Longest passphrase: beyond it, it is a file given by mistake.
const PASSPHRASE_BYTES_MAX: usize = 1024;

/// A passphrase, taken as its bytes. Wiped when it is dropped, never printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passphrase(Secret);

/// Why a text is no passphrase; a predicate of what held it, without the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has {bytes} bytes; a passphrase has 1 to {PASSPHRASE_BYTES_MAX}")]
pub struct InvalidPassphrase {
    bytes: usize,
}

impl Passphrase {
    /// Checks a passphrase.
    pub fn new(text: Secret) -> Result<Self, InvalidPassphrase> {
        let bytes = text.reveal().len();
        if (1..=PASSPHRASE_BYTES_MAX).contains(&bytes) {
            Ok(Self(text))
        } else {
            Err(InvalidPassphrase { bytes })
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.reveal().as_bytes()
    }

    /// The text, for a request to somebody who opens the repository.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_has_1_to_1024_bytes_and_is_shown_by_neither_its_errors_nor_debug() {
        for (bytes, is_one) in [(0, false), (1, true), (1024, true), (1025, false)] {
            let made = Passphrase::new(Secret::new("x".repeat(bytes)));
            assert_eq!(made.is_ok(), is_one, "{bytes}");
            assert!(!format!("{made:?}").contains('x'));
        }
    }
}
