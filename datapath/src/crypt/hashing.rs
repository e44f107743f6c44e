//! Ids of chunks and nodes.

use std::sync::Arc;

use super::Keys;
use crate::chunk::ChunkId;

/// How a repository makes ids of chunks and nodes: BLAKE3, keyed in an encrypted one, so that who
/// knows a chunk cannot tell from its id that it is there. Clones share the key.
#[derive(Debug, Clone, Default)]
pub struct Hashing(Option<Arc<Keys>>);

impl Hashing {
    /// That of a repository that is not encrypted.
    pub const PLAIN: Self = Self(None);

    /// That of a repository with these keys.
    pub(crate) fn with(keys: Option<&Arc<Keys>>) -> Self {
        Self(keys.cloned())
    }

    /// The id of a tree node.
    pub fn node_id(&self, node: &[u8]) -> [u8; 32] {
        let hash = match &self.0 {
            None => blake3::hash(node),
            Some(keys) => blake3::keyed_hash(keys.id_key().reveal(), node),
        };
        *hash.as_bytes()
    }

    /// The id of a chunk.
    pub fn chunk_id(&self, chunk: &[u8]) -> ChunkId {
        ChunkId(self.node_id(chunk))
    }
}
