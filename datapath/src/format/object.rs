//! The frame around every metadata object: a clear header before the body, a check behind it.
//!
//! The check covers the object's name, so that an object that lies under another's name is
//! noticed as well as one whose bytes changed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use super::{FormatError, name::ObjectKind};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 32;
/// Bytes of the check: BLAKE3.
pub const CHECK_BYTES: usize = 32;
/// The format version that this code writes and reads.
pub const FORMAT_VERSION: u8 = 1;

const MAGIC: &[u8; 8] = b"RINGBACK";
/// No key: the body is not encrypted.
const KEY_EPOCH_NONE: u16 = 0;

/// 128 random bits that all objects of one repository carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RepositoryId(pub [u8; 16]);

/// The header of an object: magic 8, kind 1, version 1, key epoch 2 (little-endian), zero 4,
/// repository id 16.
pub(crate) fn header(kind: ObjectKind, repository: RepositoryId) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8] = kind as u8;
    header[9] = FORMAT_VERSION;
    header[10..12].copy_from_slice(&KEY_EPOCH_NONE.to_le_bytes());
    header[16..].copy_from_slice(&repository.0);
    header
}

/// Checks a header; `repository` is `None` for the object that tells the id.
pub(crate) fn check_header(
    bytes: &[u8],
    kind: ObjectKind,
    repository: Option<RepositoryId>,
) -> Result<RepositoryId, FormatError> {
    let header: &[u8; HEADER_BYTES] = bytes
        .get(..HEADER_BYTES)
        .and_then(|head| head.try_into().ok())
        .ok_or(FormatError::Damaged("shorter than a header"))?;
    if header[..8] != MAGIC[..] {
        return Err(FormatError::Foreign);
    }
    if header[9] != FORMAT_VERSION {
        return Err(FormatError::Newer {
            what: "format version",
            found: header[9].into(),
        });
    }
    let epoch = u16::from_le_bytes([header[10], header[11]]);
    if epoch != KEY_EPOCH_NONE {
        return Err(FormatError::Newer {
            what: "key epoch",
            found: epoch.into(),
        });
    }
    if header[8] != kind as u8 {
        return Err(FormatError::Misplaced("its header names another kind"));
    }
    if header[12..16] != [0; 4] {
        return Err(FormatError::Damaged(
            "reserved bytes of the header are not zero",
        ));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&header[16..]);
    let id = RepositoryId(id);
    match repository {
        Some(expected) if expected != id => {
            Err(FormatError::Misplaced("it belongs to another repository"))
        }
        _ => Ok(id),
    }
}

/// BLAKE3 over header, name (its length before it, u64 little-endian) and body.
pub(crate) fn check(header: &[u8], name: &str, body: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    hasher.update(body);
    *hasher.finalize().as_bytes()
}

/// Frames a message as the object `name`.
pub(crate) fn encode(
    kind: ObjectKind,
    repository: RepositoryId,
    name: &str,
    message: &impl Message,
) -> Bytes {
    let mut object = BytesMut::with_capacity(HEADER_BYTES + message.encoded_len() + CHECK_BYTES);
    object.put_slice(&header(kind, repository));
    message
        .encode(&mut object)
        .expect("a BytesMut grows as needed");
    let check = check(&object[..HEADER_BYTES], name, &object[HEADER_BYTES..]);
    object.put_slice(&check);
    object.freeze()
}

/// Reads the object `name` back; see [`check_header`] for `repository`.
pub(crate) fn decode<M: Message + Default>(
    kind: ObjectKind,
    repository: Option<RepositoryId>,
    name: &str,
    mut object: Bytes,
) -> Result<(RepositoryId, M), FormatError> {
    let id = check_header(&object, kind, repository)?;
    if object.len() < HEADER_BYTES + CHECK_BYTES {
        return Err(FormatError::Damaged("shorter than header and check"));
    }
    let found = object.split_off(object.len() - CHECK_BYTES);
    if found != check(&object[..HEADER_BYTES], name, &object[HEADER_BYTES..])[..] {
        return Err(FormatError::Damaged(
            "its check does not match its bytes and name",
        ));
    }
    object.advance(HEADER_BYTES);
    let message =
        M::decode(object).map_err(|_| FormatError::Damaged("its body is not the message"))?;
    Ok((id, message))
}

#[cfg(test)]
mod tests {
    use ringback_proto::repository::RefSet;

    use super::*;

    const ID: RepositoryId = RepositoryId([7; 16]);

    fn read(object: Bytes, name: &str) -> Result<RefSet, FormatError> {
        decode(ObjectKind::RefSet, Some(ID), name, object).map(|(_, set)| set)
    }

    #[test]
    fn an_object_reads_back_and_no_flipped_bit_nor_cut_goes_unnoticed() {
        let set = RefSet {
            depth: 3,
            ..RefSet::default()
        };
        let object = encode(ObjectKind::RefSet, ID, "refs/a", &set);
        assert_eq!(read(object.clone(), "refs/a"), Ok(set));
        for bit in 0..object.len() * 8 {
            let mut flipped = object.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(flipped.into(), "refs/a").is_err(), "bit {bit}");
        }
        for len in 0..object.len() {
            assert!(read(object.slice(..len), "refs/a").is_err(), "cut at {len}");
        }
    }

    #[test]
    fn an_object_under_another_name_kind_or_repository_is_refused() {
        let object = encode(ObjectKind::RefSet, ID, "refs/a", &RefSet::default());
        assert!(read(object.clone(), "refs/b").is_err());
        let other_kind = encode(ObjectKind::LogEntry, ID, "refs/a", &RefSet::default());
        assert!(matches!(
            read(other_kind, "refs/a"),
            Err(FormatError::Misplaced(_))
        ));
        let elsewhere = RepositoryId([8; 16]);
        assert!(matches!(
            decode::<RefSet>(ObjectKind::RefSet, Some(elsewhere), "refs/a", object),
            Err(FormatError::Misplaced(_))
        ));
        assert_eq!(
            read(Bytes::from_static(&[b'x'; 100]), "refs/a"),
            Err(FormatError::Foreign)
        );
    }

    #[test]
    fn a_newer_version_is_refused_by_that_name() {
        let mut object = encode(ObjectKind::RefSet, ID, "refs/a", &RefSet::default()).to_vec();
        object[9] = 2;
        let error = read(object.into(), "refs/a").expect_err("newer");
        assert!(
            error.to_string().contains("a newer one wrote it"),
            "{error}"
        );
    }
}
