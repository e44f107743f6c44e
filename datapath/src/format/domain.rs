//! What the objects of one repository have in common.

use std::sync::Arc;

use super::object::RepositoryId;
use crate::crypt::{Hashing, Keys};

/// A repository as its objects know it: the id in their headers, and the keys that seal them if it
/// is encrypted. Clones share the keys.
#[derive(Debug, Clone)]
pub struct Domain {
    /// What every header carries.
    pub id: RepositoryId,
    /// `None`: it is not encrypted.
    pub(crate) keys: Option<Arc<Keys>>,
}

/// Which keys sealed an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum KeyEpoch {
    /// None: it is not sealed.
    None = 0,
    /// Those of its repository.
    First = 1,
}

impl Domain {
    /// A repository that is not encrypted.
    pub fn plain(id: RepositoryId) -> Self {
        Self { id, keys: None }
    }

    /// What the headers of its objects say.
    pub(crate) fn epoch(&self) -> KeyEpoch {
        match self.keys {
            None => KeyEpoch::None,
            Some(_) => KeyEpoch::First,
        }
    }

    /// How it makes ids.
    pub fn hashing(&self) -> Hashing {
        Hashing::with(self.keys.as_ref())
    }
}
