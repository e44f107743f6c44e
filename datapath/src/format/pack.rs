//! Packs: a header, records one behind the other, and a footer that lists them.
//!
//! ```text
//! header 32 | record | record | ... | footer (protobuf PackFooter) | check 32 | footer length 4 LE | "RBPF"
//! ```
//!
//! A record of a data pack is a codec byte and the chunk; one of a tree pack is a node or a root.
//! A lost index can be rebuilt from footers alone; restores never read them. In an encrypted
//! repository each record is sealed by itself, and the footer.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use ringback_proto::repository::PackFooter;

use super::{
    FormatError,
    domain::Domain,
    name::{ObjectKind, PackName},
    object::{CHECK_BYTES, HEADER_BYTES, TAG_MISMATCH, check, check_header, header},
};
use crate::crypt::PackKey;

/// Bytes behind the check: the footer's length and the end mark.
pub const TRAILER_BYTES: usize = 8;
/// Offset of the first record.
const PAYLOAD_START: u32 = 32;
const _: () = assert!(PAYLOAD_START as usize == HEADER_BYTES);
pub(crate) const END_MARK: &[u8; 4] = b"RBPF";

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The pack.
    pub pack: PackName,
    /// Position among the pack's records.
    pub ordinal: u32,
    /// Offset of its first byte in the pack.
    pub offset: u32,
    /// Bytes it takes.
    pub stored_bytes: u32,
}

impl Place {
    /// Offset of the first byte behind it.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.stored_bytes)
    }
}

/// The layout of a pack while records are appended to it.
pub struct Layout {
    kind: ObjectKind,
    name: PackName,
    header: [u8; HEADER_BYTES],
    key: Option<Arc<PackKey>>,
    end: u32,
    ids: BytesMut,
    stored_bytes: Vec<u32>,
}

impl Layout {
    /// An empty pack.
    pub fn new(kind: ObjectKind, name: PackName, domain: &Domain) -> Self {
        Self {
            kind,
            name,
            header: header(kind, domain.epoch(), domain.id),
            key: pack_key(domain, kind, name),
            end: PAYLOAD_START,
            ids: BytesMut::new(),
            stored_bytes: Vec::new(),
        }
    }

    /// The pack's name.
    pub fn name(&self) -> PackName {
        self.name
    }

    /// The object's name in the repository.
    pub fn object(&self) -> String {
        self.name.object(self.kind)
    }

    /// The bytes before the first record.
    pub fn header(&self) -> Bytes {
        Bytes::copy_from_slice(&self.header)
    }

    /// What its records are to be sealed with; `None`: they are not.
    pub(crate) fn key(&self) -> Option<&Arc<PackKey>> {
        self.key.as_ref()
    }

    /// Bytes up to the end of the last record.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Number of records.
    pub fn records(&self) -> usize {
        self.stored_bytes.len()
    }

    /// Takes up a record; it must be appended where the place says.
    ///
    /// # Panics
    /// When the pack would pass 4 GiB; writers end packs long before.
    pub fn push(&mut self, id: &[u8; 32], stored_bytes: usize) -> Place {
        let stored_bytes = u32::try_from(stored_bytes).expect("a record is smaller than 4 GiB");
        let place = Place {
            pack: self.name,
            ordinal: u32::try_from(self.records()).expect("fewer records than bytes"),
            offset: self.end,
            stored_bytes,
        };
        self.end = self
            .end
            .checked_add(stored_bytes)
            .expect("a pack is smaller than 4 GiB");
        self.ids.put_slice(id);
        self.stored_bytes.push(stored_bytes);
        place
    }

    /// Ends the pack: the bytes behind the last record, and what the footer says.
    pub fn finish(self) -> (Bytes, PackFooter) {
        let footer = PackFooter {
            ids: self.ids.freeze(),
            stored_bytes: self.stored_bytes,
        };
        let message = footer.encode_to_vec();
        let body = match &self.key {
            None => message,
            Some(key) => key.seal_footer(&self.header, message),
        };
        let check = check(&self.header, &self.name.object(self.kind), &body);
        let mut tail = BytesMut::with_capacity(body.len() + CHECK_BYTES + TRAILER_BYTES);
        tail.put_slice(&body);
        tail.put_slice(&check);
        tail.put_u32_le(u32::try_from(body.len()).expect("a footer is smaller than its pack"));
        tail.put_slice(END_MARK);
        (tail.freeze(), footer)
    }
}

/// The key of a pack; `None`: its repository is not encrypted.
pub(crate) fn pack_key(domain: &Domain, kind: ObjectKind, name: PackName) -> Option<Arc<PackKey>> {
    let keys = domain.keys.as_ref()?;
    Some(Arc::new(keys.pack_key(&name.object(kind))))
}

/// Reads the footer of a pack, given its header and its last bytes.
///
/// `tail` may be longer than footer, check and trailer. `Ok(None)`: it is too short; the number
/// of bytes needed stands in the trailer, see [`tail_bytes`]. `object_bytes` is the pack's length.
pub fn read_footer(
    kind: ObjectKind,
    name: PackName,
    domain: &Domain,
    head: &[u8],
    tail: &[u8],
    object_bytes: u64,
) -> Result<Option<PackFooter>, FormatError> {
    check_header(head, kind, domain)?;
    let needed = tail_bytes(tail)?;
    let Some(start) = tail.len().checked_sub(needed) else {
        return Ok(None);
    };
    let (body, end) = tail[start..].split_at(needed - CHECK_BYTES - TRAILER_BYTES);
    if end[..CHECK_BYTES] != check(&head[..HEADER_BYTES], &name.object(kind), body) {
        return Err(FormatError::Damaged("the footer's check does not match"));
    }
    let mut body = body.to_vec();
    let message = match pack_key(domain, kind, name) {
        None => &body[..],
        Some(key) => key
            .open_footer(&head[..HEADER_BYTES], &mut body)
            .map_err(|_| TAG_MISMATCH)?,
    };
    let footer = PackFooter::decode(message)
        .map_err(|_| FormatError::Damaged("the footer is not the message"))?;
    if footer.ids.len() != footer.stored_bytes.len() * 32 {
        return Err(FormatError::Damaged("the footer's lists differ in length"));
    }
    let records: u64 = footer.stored_bytes.iter().copied().map(u64::from).sum();
    if HEADER_BYTES as u64 + records + needed as u64 != object_bytes {
        return Err(FormatError::Damaged(
            "the footer's records do not fill the pack",
        ));
    }
    Ok(Some(footer))
}

/// Longest footer: of some 7 million records.
pub const FOOTER_BYTES_MAX: u32 = 256 << 20;

/// How many bytes at a pack's end are footer, check and trailer, given its last bytes.
pub fn tail_bytes(tail: &[u8]) -> Result<usize, FormatError> {
    let trailer: &[u8; TRAILER_BYTES] = tail
        .last_chunk()
        .ok_or(FormatError::Damaged("shorter than a trailer"))?;
    if trailer[4..] != END_MARK[..] {
        return Err(FormatError::Damaged("the end mark is missing"));
    }
    let body = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]);
    if body > FOOTER_BYTES_MAX {
        return Err(FormatError::Damaged("its footer is over 256 MiB"));
    }
    Ok(body as usize + CHECK_BYTES + TRAILER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypt::Keys,
        format::{name::SessionId, object::RepositoryId},
    };

    const ID: RepositoryId = RepositoryId([7; 16]);
    const KIND: ObjectKind = ObjectKind::DataPack;

    fn domains() -> [Domain; 2] {
        let keys = Some(Arc::new(Keys::random()));
        [Domain::plain(ID), Domain { id: ID, keys }]
    }

    #[test]
    fn a_footer_lists_every_record_and_no_flipped_bit_in_it_goes_unnoticed() {
        for domain in domains() {
            let name = PackName::random(SessionId([1; 8]), 0);
            let mut layout = Layout::new(KIND, name, &domain);
            let head = layout.header();
            let first = layout.push(&[1; 32], 100);
            let second = layout.push(&[2; 32], 50);
            assert_eq!((first.offset, first.ordinal), (32, 0));
            assert_eq!((second.offset, second.ordinal), (132, 1));
            assert_eq!(second.end(), u64::from(layout.end()));
            let (tail, written) = layout.finish();
            let object_bytes = second.end() + tail.len() as u64;
            let read = |name, head: &[u8], tail: &[u8], object_bytes| {
                read_footer(KIND, name, &domain, head, tail, object_bytes)
            };
            assert_eq!(read(name, &head, &tail, object_bytes), Ok(Some(written)));
            assert!(read(name, &head, &tail, object_bytes + 1).is_err());
            assert_eq!(read(name, &head, &tail[4..], object_bytes), Ok(None));
            for bit in 0..tail.len() * 8 {
                let mut flipped = tail.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let read = read(name, &head, &flipped, object_bytes);
                assert!(!matches!(read, Ok(Some(_))), "bit {bit}");
            }
            for bit in 0..head.len() * 8 {
                let mut flipped = head.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(read(name, &flipped, &tail, object_bytes).is_err(), "{bit}");
            }
            let other = PackName::random(SessionId([1; 8]), 0);
            assert!(read(other, &head, &tail, object_bytes).is_err());
            // Nobody fetches a footer of any length.
            let mut long = tail.to_vec();
            let at = long.len() - TRAILER_BYTES;
            long[at..at + 4].copy_from_slice(&(FOOTER_BYTES_MAX + 1).to_le_bytes());
            assert!(tail_bytes(&long).is_err());
            long[at..at + 4].copy_from_slice(&FOOTER_BYTES_MAX.to_le_bytes());
            assert!(tail_bytes(&long).is_ok());
        }
    }

    #[test]
    fn a_footer_that_was_not_sealed_with_the_keys_is_refused_though_its_check_is_right() {
        let [_, encrypted] = domains();
        let [_, other] = domains();
        let name = PackName::random(SessionId([1; 8]), 0);
        let mut layout = Layout::new(KIND, name, &other);
        let head = layout.header();
        let end = layout.push(&[1; 32], 100).end();
        let (tail, _) = layout.finish();
        let object_bytes = end + tail.len() as u64;
        let read = read_footer(KIND, name, &encrypted, &head, &tail, object_bytes);
        assert_eq!(read, Err(TAG_MISMATCH));
    }
}
