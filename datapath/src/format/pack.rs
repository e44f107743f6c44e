//! Packs: a header, records one behind the other, and a footer that lists them.
//!
//! ```text
//! header 32 | record | record | ... | footer (protobuf PackFooter) | check 32 | footer length 4 LE | "RBPF"
//! ```
//!
//! A record of a data pack is a codec byte and the chunk; one of a tree pack is a node or a root.
//! A lost index can be rebuilt from footers alone; restores never read them.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use ringback_proto::repository::PackFooter;

use super::{
    FormatError,
    name::{ObjectKind, PackName},
    object::{CHECK_BYTES, HEADER_BYTES, RepositoryId, check, check_header, header},
};

/// Bytes behind the check: the footer's length and the end mark.
pub const TRAILER_BYTES: usize = 8;
/// Offset of the first record.
const PAYLOAD_START: u32 = 32;
const _: () = assert!(PAYLOAD_START as usize == HEADER_BYTES);
const END_MARK: &[u8; 4] = b"RBPF";

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
    repository: RepositoryId,
    end: u32,
    ids: BytesMut,
    stored_bytes: Vec<u32>,
}

impl Layout {
    /// An empty pack.
    pub fn new(kind: ObjectKind, name: PackName, repository: RepositoryId) -> Self {
        Self {
            kind,
            name,
            repository,
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
        Bytes::copy_from_slice(&header(self.kind, self.repository))
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
        let body = footer.encode_to_vec();
        let check = check(
            &header(self.kind, self.repository),
            &self.name.object(self.kind),
            &body,
        );
        let mut tail = BytesMut::with_capacity(body.len() + CHECK_BYTES + TRAILER_BYTES);
        tail.put_slice(&body);
        tail.put_slice(&check);
        tail.put_u32_le(u32::try_from(body.len()).expect("a footer is smaller than its pack"));
        tail.put_slice(END_MARK);
        (tail.freeze(), footer)
    }
}

/// Reads the footer of a pack, given its header and its last bytes.
///
/// `tail` may be longer than footer, check and trailer. `Ok(None)`: it is too short; the number
/// of bytes needed stands in the trailer, see [`tail_bytes`]. `object_bytes` is the pack's length.
pub fn read_footer(
    kind: ObjectKind,
    name: PackName,
    repository: RepositoryId,
    head: &[u8],
    tail: &[u8],
    object_bytes: u64,
) -> Result<Option<PackFooter>, FormatError> {
    check_header(head, kind, Some(repository))?;
    let needed = tail_bytes(tail)?;
    let Some(start) = tail.len().checked_sub(needed) else {
        return Ok(None);
    };
    let (body, end) = tail[start..].split_at(needed - CHECK_BYTES - TRAILER_BYTES);
    if end[..CHECK_BYTES] != check(&head[..HEADER_BYTES], &name.object(kind), body) {
        return Err(FormatError::Damaged("the footer's check does not match"));
    }
    let footer = PackFooter::decode(body)
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

/// How many bytes at a pack's end are footer, check and trailer, given its last bytes.
pub fn tail_bytes(tail: &[u8]) -> Result<usize, FormatError> {
    let trailer: &[u8; TRAILER_BYTES] = tail
        .last_chunk()
        .ok_or(FormatError::Damaged("shorter than a trailer"))?;
    if trailer[4..] != END_MARK[..] {
        return Err(FormatError::Damaged("the end mark is missing"));
    }
    let body = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]);
    Ok(body as usize + CHECK_BYTES + TRAILER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::name::SessionId;

    const ID: RepositoryId = RepositoryId([7; 16]);

    #[test]
    fn a_footer_lists_every_record_and_no_flipped_bit_in_it_goes_unnoticed() {
        let name = PackName::random(SessionId([1; 8]), 0);
        let mut layout = Layout::new(ObjectKind::DataPack, name, ID);
        let head = layout.header();
        let first = layout.push(&[1; 32], 100);
        let second = layout.push(&[2; 32], 50);
        assert_eq!((first.offset, first.ordinal), (32, 0));
        assert_eq!((second.offset, second.ordinal), (132, 1));
        assert_eq!(second.end(), u64::from(layout.end()));
        let (tail, written) = layout.finish();
        let object_bytes = second.end() + tail.len() as u64;
        let kind = ObjectKind::DataPack;
        let read = |head: &[u8], tail: &[u8]| read_footer(kind, name, ID, head, tail, object_bytes);
        assert_eq!(read(&head, &tail), Ok(Some(written)));
        assert!(read_footer(kind, name, ID, &head, &tail, object_bytes + 1).is_err());
        assert_eq!(read(&head, &tail[4..]), Ok(None));
        for bit in 0..tail.len() * 8 {
            let mut flipped = tail.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(read(&head, &flipped), Ok(Some(_))), "bit {bit}");
        }
        let other = PackName::random(SessionId([1; 8]), 0);
        assert!(read_footer(kind, other, ID, &head, &tail, object_bytes).is_err());
    }
}
