//! An encrypted repository with one backup of a volume of one short chunk: what is sealed in it.
//!
//! The examples' names have `sealed/` before the objects'.

use std::sync::Arc;

use prost::Message;
use ringback_proto::repository::{About, IndexSegment, IndexedPack, RefSet, Repository};

use super::{
    Backup, CHUNK_BYTES, Examples, ID, MONDAY_MS, Statistics, counting, owned, pack_name, session,
};
use crate::{
    chunk::ChunkId,
    codec::Codec,
    crypt::{Key, Keys, PackKey, Passphrase, Stretching},
    format::{
        domain::{Domain, KeyEpoch},
        key_slot::{KeySlot, SlotId, key_check},
        name::{ObjectKind, PackName, REPOSITORY, Slot, join_names, ref_set_object},
        object::{encode_clear, encode_salted},
        pack::{Layout, Place},
        tree::{Entry, Leaf, NodeRef},
    },
    store::location::Secret,
};

const PASSPHRASE: &str = "correct horse battery staple";
/// The one chunk of the volume: shorter than a chunk's size.
const CHUNK: &[u8] = &[b'B'; 512];
const SLOT: SlotId = SlotId(counting(0xb0));

/// A sealed pack in memory.
struct Pack {
    layout: Layout,
    key: Arc<PackKey>,
    bytes: Vec<u8>,
}

impl Pack {
    fn begin(kind: ObjectKind, name: PackName, domain: &Domain) -> Self {
        let layout = Layout::new(kind, name, domain);
        let key = Arc::clone(layout.key().expect("it is encrypted"));
        let bytes = layout.header().to_vec();
        Self { layout, key, bytes }
    }

    fn append(&mut self, id: [u8; 32], record: &[u8], rest: &[u8]) -> Place {
        let place = self.layout.push(&id, record.len() + rest.len() + 16);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record);
        let text = &mut self.bytes[start..];
        let behind = self.key.seal_record(place.ordinal, &id, text, rest);
        self.bytes.extend_from_slice(&behind);
        place
    }

    /// Adds the object to the examples.
    fn finish(mut self, examples: &mut Examples) -> ringback_proto::repository::PackFooter {
        let object = self.layout.object();
        let (tail, footer) = self.layout.finish();
        self.bytes.extend_from_slice(&tail);
        examples.insert(format!("name=sealed/{object}"), self.bytes.into());
        footer
    }
}

/// Frames a message, with a salt that counts up, and adds it to the examples.
fn frame(
    kind: ObjectKind,
    domain: &Domain,
    object: &str,
    message: &impl Message,
    examples: &mut Examples,
) {
    let bytes = encode_salted(kind, domain, object, message, || counting(0x00));
    examples.insert(format!("name=sealed/{object}"), bytes);
}

pub(super) fn add(examples: &mut Examples) {
    let key = |first| Key::from_slice(&counting::<32>(first)).expect("32 bytes");
    let keys = Arc::new(Keys::new(key(0x80), key(0xa0)));
    let domain = Domain {
        id: ID,
        keys: Some(Arc::clone(&keys)),
    };
    add_keys(&keys, examples);
    add_backup(&domain, examples);
}

/// `repository`, and one key slot.
fn add_keys(keys: &Keys, examples: &mut Examples) {
    let stretching = Stretching::with_salt(counting(0xc0));
    let mut repository = Repository {
        id: owned(ID.0),
        chunk_bytes: CHUNK_BYTES,
        created_ms: MONDAY_MS - 1000,
        stretching: Some(stretching.to_message()),
        ..Repository::default()
    };
    repository.key_check = owned(key_check(keys, ID, &repository));
    let (kind, epoch) = (ObjectKind::Repository, KeyEpoch::First);
    let bytes = encode_clear(kind, epoch, ID, REPOSITORY, &repository);
    examples.insert(format!("name=sealed/{REPOSITORY}"), bytes);

    let passphrase = Passphrase::new(Secret::new(PASSPHRASE)).expect("valid");
    let stretched = Arc::new(stretching.compute(&passphrase));
    let about = About {
        label: "first".into(),
        created_ms: MONDAY_MS - 1000,
    };
    let slot = KeySlot::encode(SLOT, ID, keys, &stretched, &about);
    examples.insert(format!("name=sealed/{}", SLOT.object()), slot);
}

fn add_backup(domain: &Domain, examples: &mut Examples) {
    let hashing = domain.hashing();
    let name = pack_name(session(1), 0xd0);
    let mut data = Pack::begin(ObjectKind::DataPack, name, domain);
    let id: ChunkId = hashing.chunk_id(CHUNK);
    let place = data.append(id.0, CHUNK, &[Codec::Raw.byte()]);
    let footer = data.finish(examples);

    let segment = pack_name(session(1), 0xf0);
    let indexed = IndexSegment {
        packs: vec![IndexedPack {
            name: owned(*name.as_bytes()),
            ids: footer.ids,
            stored_bytes: footer.stored_bytes,
        }],
    };
    let (kind, object) = (
        ObjectKind::IndexSegment,
        segment.object(ObjectKind::IndexSegment),
    );
    frame(kind, domain, &object, &indexed, examples);

    let backup = Backup {
        name: "monday",
        slot: 1,
        session: session(1),
        id: owned(counting::<16>(0x30)),
        nonce: owned(counting::<16>(0x40)),
        parent: bytes::Bytes::new(),
        created_ms: MONDAY_MS,
        volume_bytes: CHUNK.len() as u64,
        ref_set: owned(counting::<16>(0x20)),
        segments: vec![segment],
        statistics: Statistics {
            new_bytes: CHUNK.len() as u64,
            sent_bytes: 1000,
            ..Statistics::default()
        },
    };
    let mut tree = Pack::begin(ObjectKind::TreePack, pack_name(session(1), 0xe0), domain);
    let mut append = |node: &[u8]| {
        let id = hashing.node_id(node);
        let place = tree.append(id, node, &[]);
        NodeRef { id, place }
    };
    let position = 0;
    let entries = vec![Entry {
        position,
        id,
        place,
    }];
    let leaf = append(&Leaf { entries }.encode());
    let root = append(&backup.root(&leaf).encode_to_vec());
    tree.finish(examples);

    let set = RefSet {
        added_data: join_names([&name]),
        added_tree: join_names([&leaf.place.pack]),
        ..RefSet::default()
    };
    let object = ref_set_object(&counting(0x20));
    frame(ObjectKind::RefSet, domain, &object, &set, examples);

    let entry = backup.entry(bytes::Bytes::new(), &root);
    let object = Slot(1).object();
    frame(ObjectKind::LogEntry, domain, &object, &entry, examples);
}
