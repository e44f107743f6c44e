//! What several benches need.

use bytes::Bytes;
use ringback_benches::volume::patterns;

/// The usual chunk size.
pub(crate) const CHUNK: usize = 256 << 10;

/// Bytes that nothing compresses and no two chunks share.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    patterns::random("bench", len as u64, &mut bytes);
    bytes
}

/// The same, to be shared.
pub(crate) fn shared_noise(len: usize) -> Bytes {
    noise(len).into()
}
