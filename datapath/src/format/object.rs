//! The frame around every metadata object: a clear header before the body, a check behind it.
//!
//! The check covers the object's name, so that an object that lies under another's name is
//! noticed as well as one whose bytes changed. In an encrypted repository the body is a salt and
//! the sealed message; its tag covers all that, and who has no key cannot make it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use super::{
    FormatError,
    domain::{Domain, KeyEpoch},
    name::{ObjectKind, random},
};
use crate::crypt::{Keys, SALT_BYTES, TAG_BYTES};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 32;
/// Bytes of the check: BLAKE3.
pub const CHECK_BYTES: usize = 32;
/// The format version that this code writes and reads.
pub const FORMAT_VERSION: u8 = 1;

const MAGIC: &[u8; 8] = b"RINGBACK";

/// 128 random bits that all objects of one repository carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RepositoryId(pub [u8; 16]);

/// The header of an object: magic 8, kind 1, version 1, key epoch 2 (little-endian), zero 4,
/// repository id 16.
pub(crate) fn header(
    kind: ObjectKind,
    epoch: KeyEpoch,
    repository: RepositoryId,
) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8] = kind as u8;
    header[9] = FORMAT_VERSION;
    header[10..12].copy_from_slice(&(epoch as u16).to_le_bytes());
    header[16..].copy_from_slice(&repository.0);
    header
}

/// What a header says beside the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) epoch: KeyEpoch,
    pub(crate) repository: RepositoryId,
}

/// Reads a header of this kind.
pub(crate) fn read_header(bytes: &[u8], kind: ObjectKind) -> Result<Header, FormatError> {
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
    let epoch = match u16::from_le_bytes([header[10], header[11]]) {
        0 => KeyEpoch::None,
        1 => KeyEpoch::First,
        found => {
            return Err(FormatError::Newer {
                what: "key epoch",
                found: found.into(),
            });
        }
    };
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
    Ok(Header {
        epoch,
        repository: RepositoryId(id),
    })
}

/// Checks the header of an object of this repository.
pub(crate) fn check_header(
    bytes: &[u8],
    kind: ObjectKind,
    domain: &Domain,
) -> Result<(), FormatError> {
    let header = read_header(bytes, kind)?;
    if header.repository != domain.id {
        return Err(FormatError::Misplaced("it belongs to another repository"));
    }
    match (domain.epoch(), header.epoch) {
        (KeyEpoch::First, KeyEpoch::None) => Err(FormatError::Misplaced(
            "it is not encrypted, and its repository is",
        )),
        (KeyEpoch::None, KeyEpoch::First) => Err(FormatError::Misplaced(
            "it is encrypted, and its repository is not",
        )),
        _ => Ok(()),
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

/// Puts header and check around a body.
pub(crate) fn frame(header: [u8; HEADER_BYTES], name: &str, body: &[u8]) -> Bytes {
    let mut object = BytesMut::with_capacity(HEADER_BYTES + body.len() + CHECK_BYTES);
    object.put_slice(&header);
    object.put_slice(body);
    object.put_slice(&check(&header, name, body));
    object.freeze()
}

/// Takes header and check off; the body. The header is for the caller to read.
pub(crate) fn unframe(name: &str, mut object: Bytes) -> Result<Bytes, FormatError> {
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
    Ok(object)
}

/// Makes a message the object `name`, sealed if the repository is encrypted. In that case each
/// call gives other bytes.
pub(crate) fn encode(
    kind: ObjectKind,
    domain: &Domain,
    name: &str,
    message: &impl Message,
) -> Bytes {
    encode_salted(kind, domain, name, message, random)
}

/// The same with a salt of the caller's, which must be another for each content.
pub(super) fn encode_salted(
    kind: ObjectKind,
    domain: &Domain,
    name: &str,
    message: &impl Message,
    salt: impl FnOnce() -> [u8; SALT_BYTES],
) -> Bytes {
    // With room for the tag, so that sealing leaves no copy of it behind.
    let mut text = Vec::with_capacity(message.encoded_len() + TAG_BYTES);
    message.encode(&mut text).expect("a Vec grows as needed");
    frame_text(kind, domain, name, text, salt)
}

/// Makes the text of a message, or what is to be taken for one, the object `name`.
pub(crate) fn frame_text(
    kind: ObjectKind,
    domain: &Domain,
    name: &str,
    text: Vec<u8>,
    salt: impl FnOnce() -> [u8; SALT_BYTES],
) -> Bytes {
    let header = header(kind, domain.epoch(), domain.id);
    let body = match &domain.keys {
        None => text,
        Some(keys) => seal(keys, &header, name, salt(), text),
    };
    frame(header, name, &body)
}

/// Reads the object `name` of a repository back.
pub(crate) fn decode<M: Message + Default>(
    kind: ObjectKind,
    domain: &Domain,
    name: &str,
    object: Bytes,
) -> Result<M, FormatError> {
    check_header(&object, kind, domain)?;
    let header = object.slice(..HEADER_BYTES);
    let body = unframe(name, object)?;
    let message = match &domain.keys {
        None => body,
        Some(keys) => open(keys, &header, name, &body)?,
    };
    read_message(message)
}

/// Makes a message an object that is never sealed. `epoch` says which keys the object tells of.
pub(crate) fn encode_clear(
    kind: ObjectKind,
    epoch: KeyEpoch,
    repository: RepositoryId,
    name: &str,
    message: &impl Message,
) -> Bytes {
    let header = header(kind, epoch, repository);
    frame(header, name, &message.encode_to_vec())
}

/// Reads an object that is never sealed, whichever repository it belongs to.
pub(crate) fn decode_clear<M: Message + Default>(
    kind: ObjectKind,
    name: &str,
    object: Bytes,
) -> Result<(Header, M), FormatError> {
    let header = read_header(&object, kind)?;
    Ok((header, read_message(unframe(name, object)?)?))
}

fn read_message<M: Message + Default>(bytes: Bytes) -> Result<M, FormatError> {
    M::decode(bytes).map_err(|_| FormatError::Damaged("its body is not the message"))
}

/// Salt, sealed text, tag.
fn seal(keys: &Keys, header: &[u8], name: &str, salt: [u8; SALT_BYTES], text: Vec<u8>) -> Vec<u8> {
    let key = keys.object_key(&salt, name);
    [&salt[..], &key.seal_once(header, text)].concat()
}

fn open(keys: &Keys, header: &[u8], name: &str, body: &[u8]) -> Result<Bytes, FormatError> {
    let short = FormatError::Damaged("it is too short to be sealed");
    let (salt, sealed) = body.split_first_chunk::<SALT_BYTES>().ok_or(short)?;
    let mut sealed = BytesMut::from(sealed);
    let opened = keys.object_key(salt, name).open_once(header, &mut sealed);
    let len = opened.map_err(|_| TAG_MISMATCH)?.len();
    sealed.truncate(len);
    Ok(sealed.freeze())
}

/// Bytes that somebody without the keys has written or changed.
pub(crate) const TAG_MISMATCH: FormatError =
    FormatError::Damaged("it was not sealed with this repository's keys as it is");

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ringback_proto::repository::RefSet;

    use super::*;

    const ID: RepositoryId = RepositoryId([7; 16]);

    fn domains() -> [Domain; 2] {
        let keys = Some(Arc::new(Keys::random()));
        [Domain::plain(ID), Domain { id: ID, keys }]
    }

    fn read(domain: &Domain, object: Bytes, name: &str) -> Result<RefSet, FormatError> {
        decode(ObjectKind::RefSet, domain, name, object)
    }

    #[test]
    fn an_object_reads_back_and_no_flipped_bit_nor_cut_goes_unnoticed() {
        let set = RefSet {
            depth: 3,
            ..RefSet::default()
        };
        for domain in domains() {
            let object = encode(ObjectKind::RefSet, &domain, "refs/a", &set);
            assert_eq!(read(&domain, object.clone(), "refs/a"), Ok(set.clone()));
            for bit in 0..object.len() * 8 {
                let mut flipped = object.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let flipped = read(&domain, flipped.into(), "refs/a");
                assert!(flipped.is_err(), "bit {bit}");
            }
            for len in 0..object.len() {
                let cut = read(&domain, object.slice(..len), "refs/a");
                assert!(cut.is_err(), "cut at {len}");
            }
        }
    }

    #[test]
    fn an_object_under_another_name_kind_or_repository_is_refused() {
        for domain in domains() {
            let set = RefSet::default();
            let object = encode(ObjectKind::RefSet, &domain, "refs/a", &set);
            assert!(read(&domain, object.clone(), "refs/b").is_err());
            let other_kind = encode(ObjectKind::LogEntry, &domain, "refs/a", &set);
            assert!(matches!(
                read(&domain, other_kind, "refs/a"),
                Err(FormatError::Misplaced(_))
            ));
            let elsewhere = Domain {
                id: RepositoryId([8; 16]),
                ..domain.clone()
            };
            assert!(matches!(
                read(&elsewhere, object, "refs/a"),
                Err(FormatError::Misplaced(_))
            ));
            assert_eq!(
                read(&domain, Bytes::from_static(&[b'x'; 100]), "refs/a"),
                Err(FormatError::Foreign)
            );
        }
    }

    #[test]
    fn an_encrypted_repository_takes_no_object_that_is_not_sealed_and_the_other_way_round() {
        let [plain, encrypted] = domains();
        let set = RefSet::default();
        for (writer, reader) in [(&plain, &encrypted), (&encrypted, &plain)] {
            let object = encode(ObjectKind::RefSet, writer, "refs/a", &set);
            assert!(matches!(
                read(reader, object, "refs/a"),
                Err(FormatError::Misplaced(_))
            ));
        }
    }

    #[test]
    fn with_every_check_made_right_again_no_changed_bit_of_a_sealed_object_is_taken() {
        let [_, encrypted] = domains();
        let set = RefSet {
            depth: 3,
            ..RefSet::default()
        };
        let object = encode(ObjectKind::RefSet, &encrypted, "refs/a", &set);
        let body = HEADER_BYTES * 8..(object.len() - CHECK_BYTES) * 8;
        for bit in body {
            let mut changed = object.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let header = *changed.first_chunk().expect("a header");
            let body = &changed[HEADER_BYTES..object.len() - CHECK_BYTES];
            let forged = frame(header, "refs/a", body);
            assert_eq!(read(&encrypted, forged, "refs/a"), Err(TAG_MISMATCH));
        }
        let body = &object[HEADER_BYTES..object.len() - CHECK_BYTES];
        let moved = frame(*object.first_chunk().expect("a header"), "refs/b", body);
        assert_eq!(read(&encrypted, moved, "refs/b"), Err(TAG_MISMATCH));
    }

    #[test]
    fn equal_messages_never_make_equal_sealed_objects() {
        let [_, encrypted] = domains();
        let make = || encode(ObjectKind::RefSet, &encrypted, "refs/a", &RefSet::default());
        assert_ne!(make()[HEADER_BYTES..], make()[HEADER_BYTES..]);
    }

    #[test]
    fn a_newer_version_is_refused_by_that_name() {
        for domain in domains() {
            let object = encode(ObjectKind::RefSet, &domain, "refs/a", &RefSet::default());
            for (at, value) in [(9, 2), (10, 2), (11, 1)] {
                let mut newer = object.to_vec();
                newer[at] = value;
                let error = read(&domain, newer.into(), "refs/a").expect_err("newer");
                assert!(
                    error.to_string().contains("a newer one wrote it"),
                    "{error}"
                );
            }
        }
    }
}
