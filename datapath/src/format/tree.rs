//! Tree nodes: what chunk lies at each place of a volume, and where in the store.
//!
//! A leaf describes [`LEAF_CHUNKS`] neighbouring chunks, an inner node has [`INNER_CHILDREN`]
//! children. Zero chunks, and nodes with nothing below them, are left out. A node's id is the
//! BLAKE3 of its bytes, keyed in an encrypted repository, and a node is read only through a
//! reference that names the id.

use prost::Message;
use ringback_proto::repository::{Inner, Leaf as LeafMessage, NodeRef as NodeRefMessage};

use super::{
    FormatError,
    name::{PackName, join_names, pack_table},
    pack::Place,
};
use crate::chunk::{CHUNK_BYTES_MAX, ChunkId};

/// Chunks that one leaf describes: at about 45 bytes each, a leaf mostly stays under 32 KiB.
pub const LEAF_CHUNKS: u64 = 512;
/// Children of an inner node: 128 leaves of 256 KiB chunks are 16 GiB.
pub const INNER_CHILDREN: u64 = 128;
/// Longest node: an inner node whose leaves refer to as many packs as they have chunks.
pub const NODE_BYTES_MAX: u32 = 2 << 20;
const _: () = assert!(INNER_CHILDREN * (LEAF_CHUNKS * 24 + 128) < NODE_BYTES_MAX as u64);
/// Longest record of a chunk: the chunk, its codec byte, and room for an encryption's tag.
const RECORD_BYTES_MAX: u32 = CHUNK_BYTES_MAX + 64;
/// Levels above the leaves that a root may have: enough for 2^64 chunks.
pub const HEIGHT_MAX: u32 = 8;

/// A reference to a node: what it must hash to and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRef {
    /// BLAKE3 of the node's bytes.
    pub id: [u8; 32],
    /// Where it lies, in a tree pack.
    pub place: Place,
}

/// A stored chunk of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Position in the leaf.
    pub position: u32,
    /// The chunk.
    pub id: ChunkId,
    /// Where it lies, in a data pack.
    pub place: Place,
}

/// A leaf: its stored chunks, by ascending position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaf {
    /// At most [`LEAF_CHUNKS`].
    pub entries: Vec<Entry>,
}

/// An inner node: its children, by ascending position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InnerNode {
    /// At most [`INNER_CHILDREN`].
    pub children: Vec<(u32, NodeRef)>,
    /// Packs that the leaves below refer to, sorted; only in parents of leaves.
    pub data_packs: Vec<PackName>,
}

/// Levels above the leaves of a volume of so many chunks.
pub fn height_for(chunks: u64) -> u32 {
    let mut nodes = chunks.div_ceil(LEAF_CHUNKS);
    let mut height = 0;
    while nodes > 1 {
        nodes = nodes.div_ceil(INNER_CHILDREN);
        height += 1;
    }
    height
}

impl Leaf {
    /// The node's bytes; equal leaves have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = LeafMessage::default();
        let mut packs: Vec<PackName> = Vec::new();
        let mut ids = Vec::with_capacity(self.entries.len() * 32);
        for entry in &self.entries {
            // Neighbours mostly lie in the pack last used.
            let pack = packs
                .iter()
                .rposition(|pack| *pack == entry.place.pack)
                .unwrap_or_else(|| {
                    packs.push(entry.place.pack);
                    packs.len() - 1
                });
            message.positions.push(entry.position);
            ids.extend_from_slice(&entry.id.0);
            message
                .pack
                .push(u32::try_from(pack).expect("at most one pack per entry"));
            message.ordinals.push(entry.place.ordinal);
            message.offsets.push(entry.place.offset);
            message.stored_bytes.push(entry.place.stored_bytes);
        }
        message.packs = join_names(&packs);
        message.ids = ids.into();
        message.encode_to_vec()
    }

    /// Reads a leaf and checks that it is well formed.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let message = LeafMessage::decode(bytes)
            .map_err(|_| FormatError::Damaged("a leaf is not the message"))?;
        let packs = pack_table(&message.packs)?;
        let (ids, rest) = message.ids.as_chunks::<32>();
        let count = ids.len();
        let same_length = [
            message.positions.len(),
            message.pack.len(),
            message.ordinals.len(),
            message.offsets.len(),
            message.stored_bytes.len(),
        ]
        .iter()
        .all(|&len| len == count);
        if !same_length || !rest.is_empty() {
            return Err(FormatError::Damaged("a leaf's lists differ in length"));
        }
        check_positions(message.positions.iter().copied(), LEAF_CHUNKS)?;
        let mut entries = Vec::with_capacity(count);
        for (at, id) in ids.iter().enumerate() {
            let pack = *packs
                .get(message.pack[at] as usize)
                .ok_or(FormatError::Damaged(
                    "a leaf names a pack outside its table",
                ))?;
            if !(1..=RECORD_BYTES_MAX).contains(&message.stored_bytes[at]) {
                return Err(FormatError::Damaged(
                    "a leaf gives a chunk an impossible length",
                ));
            }
            entries.push(Entry {
                position: message.positions[at],
                id: ChunkId(*id),
                place: Place {
                    pack,
                    ordinal: message.ordinals[at],
                    offset: message.offsets[at],
                    stored_bytes: message.stored_bytes[at],
                },
            });
        }
        Ok(Self { entries })
    }
}

impl InnerNode {
    /// The node's bytes; equal nodes have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        Inner {
            positions: self
                .children
                .iter()
                .map(|(position, _)| *position)
                .collect(),
            children: self
                .children
                .iter()
                .map(|(_, child)| child.to_message())
                .collect(),
            data_packs: join_names(&self.data_packs),
        }
        .encode_to_vec()
    }

    /// Reads an inner node and checks that it is well formed.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let message = Inner::decode(bytes)
            .map_err(|_| FormatError::Damaged("an inner node is not the message"))?;
        if message.positions.len() != message.children.len() {
            return Err(FormatError::Damaged(
                "an inner node's lists differ in length",
            ));
        }
        check_positions(message.positions.iter().copied(), INNER_CHILDREN)?;
        let children = message
            .positions
            .iter()
            .zip(&message.children)
            .map(|(&position, child)| Ok((position, NodeRef::from_message(child)?)))
            .collect::<Result<_, FormatError>>()?;
        Ok(Self {
            children,
            data_packs: pack_table(&message.data_packs)?,
        })
    }
}

fn check_positions(
    positions: impl IntoIterator<Item = u32>,
    limit: u64,
) -> Result<(), FormatError> {
    let mut next = 0;
    for position in positions {
        if position < next || u64::from(position) >= limit {
            return Err(FormatError::Damaged(
                "a node's positions are out of order or range",
            ));
        }
        next = position + 1;
    }
    Ok(())
}

impl NodeRef {
    /// The stored form.
    pub fn to_message(&self) -> NodeRefMessage {
        NodeRefMessage {
            id: bytes::Bytes::copy_from_slice(&self.id),
            pack: join_names([&self.place.pack]),
            ordinal: self.place.ordinal,
            offset: self.place.offset,
            stored_bytes: self.place.stored_bytes,
        }
    }

    /// Reads the stored form.
    pub fn from_message(message: &NodeRefMessage) -> Result<Self, FormatError> {
        let id = message.id[..]
            .try_into()
            .map_err(|_| FormatError::Damaged("a node's id is not 32 bytes"))?;
        if !(1..=NODE_BYTES_MAX).contains(&message.stored_bytes) {
            return Err(FormatError::Damaged("a node has an impossible length"));
        }
        Ok(Self {
            id,
            place: Place {
                pack: PackName::from_slice(&message.pack)?,
                ordinal: message.ordinal,
                offset: message.offset,
                stored_bytes: message.stored_bytes,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::name::SessionId;

    fn entry(position: u32, pack: PackName) -> Entry {
        Entry {
            position,
            id: ChunkId([position.to_le_bytes()[0]; 32]),
            place: Place {
                pack,
                ordinal: position,
                offset: position * 262_145 + 32,
                stored_bytes: 262_145,
            },
        }
    }

    #[test]
    fn a_full_leaf_survives_its_bytes_and_stays_under_32_kib() {
        let packs: Vec<_> = (0..4)
            .map(|n| PackName::random(SessionId([1; 8]), n))
            .collect();
        let leaf = Leaf {
            entries: (0..512)
                .map(|at| entry(at, packs[at as usize / 128]))
                .collect(),
        };
        let bytes = leaf.encode();
        assert!(bytes.len() < 32 << 10, "{}", bytes.len());
        assert_eq!(Leaf::decode(&bytes), Ok(leaf));
    }

    #[test]
    fn a_leaf_out_of_order_or_out_of_range_is_damaged() {
        let pack = PackName::random(SessionId([1; 8]), 0);
        for positions in [[3, 3], [4, 2], [511, 512]] {
            let leaf = Leaf {
                entries: positions.iter().map(|&at| entry(at, pack)).collect(),
            };
            assert!(Leaf::decode(&leaf.encode()).is_err(), "{positions:?}");
        }
    }

    #[test]
    fn an_inner_node_survives_its_bytes() {
        let pack = PackName::random(SessionId([1; 8]), 0);
        let node = InnerNode {
            children: vec![(
                5,
                NodeRef {
                    id: [9; 32],
                    place: entry(1, pack).place,
                },
            )],
            data_packs: vec![pack],
        };
        assert_eq!(InnerNode::decode(&node.encode()), Ok(node));
    }

    #[test]
    fn height_grows_with_the_volume() {
        for (chunks, height) in [
            (0, 0),
            (1, 0),
            (LEAF_CHUNKS, 0),
            (LEAF_CHUNKS + 1, 1),
            (LEAF_CHUNKS * INNER_CHILDREN, 1),
            (LEAF_CHUNKS * INNER_CHILDREN + 1, 2),
        ] {
            assert_eq!(height_for(chunks), height, "{chunks}");
        }
        assert!(height_for(u64::MAX) <= HEIGHT_MAX);
    }
}
