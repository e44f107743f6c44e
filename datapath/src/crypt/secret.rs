//! Secret bytes.

use std::fmt;

use zeroize::Zeroizing;

use crate::format::name::random;

/// Bytes of every key.
pub(crate) const KEY_BYTES: usize = 32;

/// A key: wiped when it is dropped, never printed.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    /// A new one.
    pub(crate) fn random() -> Self {
        Self(Zeroizing::new(random()))
    }

    /// A key that `fill` writes.
    pub(crate) fn filled_by(fill: impl FnOnce(&mut [u8; KEY_BYTES])) -> Self {
        let mut key = Self(Zeroizing::new([0; KEY_BYTES]));
        fill(&mut key.0);
        key
    }

    /// `None` when it is not of a key's length.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Zeroizing::new).map(Self)
    }

    /// The key itself, for the one place that needs it.
    pub(crate) fn reveal(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
