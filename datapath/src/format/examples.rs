//! The examples on the pages of `docs/formats/`, built by this crate's code: a small repository
//! with two backups of one volume, one inner node, and objects of an encrypted repository
//! ([`sealed`]).
//!
//! A fenced block tagged `hex name=NAME` is the dump of the example of that name, to the letter;
//! every example is on a page, once. One tagged `hex record=NAME` is a record by itself.

mod sealed;

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use bytes::Bytes;
use prost::Message;
use ringback_proto::repository::{
    Checkpoint, Commit, CommitBlock, CommitList, Damage, IndexSegment, IndexedPack, LogEntry,
    PackFooter, RefSet, Repository as RepositoryMessage, Root, Segments, SlottedCommit, Statistics,
    log_entry::Kind,
};

use super::{
    domain::{Domain, KeyEpoch},
    name::{ObjectKind, PackName, REPOSITORY, SessionId, Slot, join_names, ref_set_object},
    object::{RepositoryId, decode, encode, encode_clear},
    pack::{Layout, Place},
    tree::{Entry, InnerNode, Leaf, NodeRef, height_for},
};
use crate::{
    chunk::{ChunkId, ChunkSize},
    codec::Codec,
    crypt::Hashing,
};

const ID: RepositoryId = RepositoryId(counting(0x10));
const CHUNK_BYTES: u32 = 64 << 10;
/// A chunk of `A`, a chunk of zeros, and a short one of `B`.
const VOLUME_BYTES: u64 = 2 * (64 << 10) + 512;
const MONDAY_MS: u64 = 1_750_000_000_000;
const TUESDAY_MS: u64 = MONDAY_MS + 24 * 60 * 60 * 1000;

/// Examples by tag: `name=` and an object's name, or `inner` for the node; `record=` and a codec.
type Examples = BTreeMap<String, Bytes>;

/// `first`, `first + 1`, and so on: bytes that are random in a real repository.
const fn counting<const N: usize>(first: u8) -> [u8; N] {
    let mut bytes = [first; N];
    let mut at = 1;
    while at < N {
        bytes[at] = bytes[at - 1].wrapping_add(1);
        at += 1;
    }
    bytes
}

fn session(number: u8) -> SessionId {
    SessionId([0x5e, 0x55, 0x10, 0, 0, 0, 0, number])
}

fn pack_name(session: SessionId, random_first: u8) -> PackName {
    let sequence = 0u32.to_be_bytes();
    let random = counting::<12>(random_first);
    PackName::from_slice(&[&session.0[..], &sequence, &random].concat()).expect("24 bytes")
}

fn owned<const N: usize>(bytes: [u8; N]) -> Bytes {
    Bytes::copy_from_slice(&bytes)
}

/// A pack in memory.
struct Pack {
    layout: Layout,
    bytes: Vec<u8>,
}

impl Pack {
    fn begin(kind: ObjectKind, name: PackName) -> Self {
        let layout = Layout::new(kind, name, &Domain::plain(ID));
        let bytes = layout.header().to_vec();
        Self { layout, bytes }
    }

    fn append(&mut self, id: [u8; 32], record: &[u8]) -> Place {
        self.bytes.extend_from_slice(record);
        self.layout.push(&id, record.len())
    }

    fn append_chunk(&mut self, chunk: &[u8]) -> (ChunkId, Place) {
        let id = Hashing::PLAIN.chunk_id(chunk);
        (
            id,
            self.append(id.0, &[&[Codec::Raw.byte()], chunk].concat()),
        )
    }

    fn append_node(&mut self, node: &[u8]) -> NodeRef {
        let id = Hashing::PLAIN.node_id(node);
        let place = self.append(id, node);
        NodeRef { id, place }
    }

    /// Adds the object to the examples.
    fn finish(mut self, examples: &mut Examples) -> PackFooter {
        let object = self.layout.object();
        let (tail, footer) = self.layout.finish();
        self.bytes.extend_from_slice(&tail);
        examples.insert(format!("name={object}"), self.bytes.into());
        footer
    }
}

/// What the two backups of the volume do not share.
struct Backup {
    name: &'static str,
    slot: u64,
    session: SessionId,
    id: Bytes,
    nonce: Bytes,
    parent: Bytes,
    created_ms: u64,
    volume_bytes: u64,
    ref_set: Bytes,
    segments: Vec<PackName>,
    statistics: Statistics,
}

impl Backup {
    fn root(&self, top: &NodeRef) -> Root {
        let size = ChunkSize::new(CHUNK_BYTES).expect("valid");
        Root {
            volume_bytes: self.volume_bytes,
            chunk_bytes: CHUNK_BYTES,
            sector_bytes: 512,
            created_ms: self.created_ms,
            parent: self.parent.clone(),
            height: height_for(size.chunks_in(self.volume_bytes)),
            top: Some(top.to_message()),
            statistics: Some(self.statistics),
            volume_handle: "data".into(),
            volume_identity: "2d7a1c9e-5b0f-4c38-9e61-0a4f7be3d512".into(),
        }
    }

    fn commit(&self, root: &NodeRef) -> Commit {
        Commit {
            id: self.id.clone(),
            name: self.name.into(),
            request_name: format!("nightly-{}", self.name),
            volume_handle: "data".into(),
            volume_identity: "2d7a1c9e-5b0f-4c38-9e61-0a4f7be3d512".into(),
            roots: vec![root.to_message()],
            ref_set: self.ref_set.clone(),
            session: owned(self.session.0),
            segments: join_names(&self.segments),
            volume_bytes: self.volume_bytes,
            created_ms: self.created_ms,
            chunk_bytes: CHUNK_BYTES,
            statistics: Some(self.statistics),
        }
    }

    fn entry(&self, previous: Bytes, root: &NodeRef) -> LogEntry {
        LogEntry {
            previous,
            nonce: self.nonce.clone(),
            kind: Some(Kind::Commit(self.commit(root))),
        }
    }

    fn append_to_log(&self, previous: Bytes, root: &NodeRef, examples: &mut Examples) -> Bytes {
        let entry = self.entry(previous, root);
        frame(
            ObjectKind::LogEntry,
            &Slot(self.slot).object(),
            &entry,
            examples,
        )
    }

    fn tree_pack(&self) -> Pack {
        Pack::begin(ObjectKind::TreePack, pack_name(self.session, 0xe0))
    }
}

/// Frames a message and adds it to the examples.
fn frame(kind: ObjectKind, object: &str, message: &impl Message, examples: &mut Examples) -> Bytes {
    let bytes = encode(kind, &Domain::plain(ID), object, message);
    examples.insert(format!("name={object}"), bytes.clone());
    bytes
}

fn examples() -> Examples {
    let mut examples = Examples::new();
    let repository = RepositoryMessage {
        id: owned(ID.0),
        chunk_bytes: CHUNK_BYTES,
        created_ms: MONDAY_MS - 1000,
        ..RepositoryMessage::default()
    };
    let (kind, epoch) = (ObjectKind::Repository, KeyEpoch::None);
    let bytes = encode_clear(kind, epoch, ID, REPOSITORY, &repository);
    examples.insert(format!("name={REPOSITORY}"), bytes);
    let (monday, leaf, previous) = add_monday(&mut examples);
    add_tuesday(&monday, &leaf, &previous, &mut examples);
    let repaired = add_segments(&monday, &mut examples);
    add_damage(&mut examples);
    add_checkpoint(&repaired, &mut examples);
    examples.insert("name=inner".into(), inner_node());
    examples.insert("record=lz4".into(), lz4_record().into());
    examples.insert("record=zstd".into(), zstd_record().into());
    sealed::add(&mut examples);
    examples
}

/// The first backup: everything is new.
fn add_monday(examples: &mut Examples) -> (Backup, NodeRef, Bytes) {
    let data_pack = data_pack();
    let mut data = Pack::begin(ObjectKind::DataPack, data_pack);
    let first = data.append_chunk(&[b'A'; CHUNK_BYTES as usize]);
    let last = data.append_chunk(&[b'B'; 512]);
    let footer = data.finish(examples);
    let entry = |position, (id, place)| Entry {
        position,
        id,
        place,
    };
    let leaf = Leaf {
        entries: vec![entry(0, first), entry(2, last)],
    };

    let segment = pack_name(session(1), 0xf0);
    let indexed = IndexSegment {
        packs: vec![IndexedPack {
            name: owned(*data_pack.as_bytes()),
            ids: footer.ids,
            stored_bytes: footer.stored_bytes,
        }],
    };
    let object = segment.object(ObjectKind::IndexSegment);
    frame(ObjectKind::IndexSegment, &object, &indexed, examples);

    let new_bytes = u64::from(CHUNK_BYTES) + 512;
    let monday = Backup {
        name: "monday",
        slot: 1,
        session: session(1),
        id: owned(counting::<16>(0x30)),
        nonce: owned(counting::<16>(0x40)),
        parent: Bytes::new(),
        created_ms: MONDAY_MS,
        volume_bytes: VOLUME_BYTES,
        ref_set: owned(counting::<16>(0x20)),
        segments: vec![segment],
        statistics: Statistics {
            hole_bytes: VOLUME_BYTES - new_bytes,
            new_bytes,
            sent_bytes: examples.values().map(|object| object.len() as u64).sum(),
            ..Statistics::default()
        },
    };
    let mut tree = monday.tree_pack();
    let leaf = tree.append_node(&leaf.encode());
    let root = tree.append_node(&monday.root(&leaf).encode_to_vec());
    tree.finish(examples);

    let set = RefSet {
        added_data: join_names([&data_pack]),
        added_tree: join_names([&leaf.place.pack]),
        ..RefSet::default()
    };
    let object = ref_set_object(&counting(0x20));
    frame(ObjectKind::RefSet, &object, &set, examples);
    let entry = monday.append_to_log(Bytes::new(), &root, examples);
    (monday, leaf, entry)
}

/// The second backup: nothing has changed, so the leaf serves again.
fn add_tuesday(monday: &Backup, leaf: &NodeRef, previous: &[u8], examples: &mut Examples) {
    let tuesday = Backup {
        name: "tuesday",
        slot: 2,
        session: session(2),
        id: owned(counting::<16>(0x60)),
        nonce: owned(counting::<16>(0x70)),
        parent: monday.id.clone(),
        created_ms: TUESDAY_MS,
        volume_bytes: VOLUME_BYTES,
        ref_set: owned(counting::<16>(0x50)),
        segments: Vec::new(),
        statistics: Statistics {
            hole_bytes: monday.statistics.hole_bytes,
            unchanged_bytes: monday.statistics.new_bytes,
            ..Statistics::default()
        },
    };
    let mut tree = tuesday.tree_pack();
    let root = tree.append_node(&tuesday.root(leaf).encode_to_vec());
    tree.finish(examples);

    let set = RefSet {
        parent: monday.ref_set.clone(),
        depth: 1,
        added_tree: join_names([&root.place.pack]),
        ..RefSet::default()
    };
    let object = ref_set_object(&counting(0x50));
    frame(ObjectKind::RefSet, &object, &set, examples);
    let previous = owned(*blake3::hash(previous).as_bytes());
    tuesday.append_to_log(previous, &root, examples);
}

/// BLAKE3 of the entry in a slot.
fn hash_of(slot: Slot, examples: &Examples) -> Bytes {
    let entry = &examples[&format!("name={}", slot.object())];
    owned(*blake3::hash(entry).as_bytes())
}

fn data_pack() -> PackName {
    pack_name(session(1), 0xd0)
}

/// An index segment that takes the place of monday's, and the entry that says so.
fn add_segments(monday: &Backup, examples: &mut Examples) -> PackName {
    let repaired = pack_name(session(3), 0xf0);
    let [of_monday, object] =
        [monday.segments[0], repaired].map(|it| it.object(ObjectKind::IndexSegment));
    let bytes = examples[&format!("name={of_monday}")].clone();
    let kind = ObjectKind::IndexSegment;
    let segment: IndexSegment =
        decode(kind, &Domain::plain(ID), &of_monday, bytes).expect("as written");
    frame(kind, &object, &segment, examples);
    let entry = LogEntry {
        previous: hash_of(Slot(2), examples),
        nonce: owned(counting::<16>(0x80)),
        kind: Some(Kind::Segments(Segments {
            added: join_names([&repaired]),
            dropped: join_names(&monday.segments),
        })),
    };
    frame(ObjectKind::LogEntry, &Slot(3).object(), &entry, examples);
    repaired
}

/// The entry that marks the data pack.
fn add_damage(examples: &mut Examples) {
    let entry = LogEntry {
        previous: hash_of(Slot(3), examples),
        nonce: owned(counting::<16>(0x90)),
        kind: Some(Kind::Damage(Damage {
            packs: join_names([&data_pack()]),
        })),
    };
    frame(ObjectKind::LogEntry, &Slot(4).object(), &entry, examples);
}

/// What the four entries say, in one block of each kind.
fn add_checkpoint(segment: &PackName, examples: &mut Examples) {
    let commits = [Slot(1), Slot(2)].map(|slot| {
        let object = slot.object();
        let bytes = examples[&format!("name={object}")].clone();
        let kind = ObjectKind::LogEntry;
        let entry: LogEntry = decode(kind, &Domain::plain(ID), &object, bytes).expect("as written");
        let Some(Kind::Commit(commit)) = entry.kind else {
            panic!("slot {slot} has a backup");
        };
        SlottedCommit {
            slot: slot.0,
            commit: Some(commit),
        }
    });
    let list = CommitList {
        commits: commits.to_vec(),
    };
    let mut blocks = Pack::begin(ObjectKind::TreePack, pack_name(session(4), 0xe0));
    let record = blocks.append_node(&list.encode_to_vec());
    let segments = blocks.append_node(&join_names([segment]));
    let marked = blocks.append_node(&join_names([&data_pack()]));
    blocks.finish(examples);
    let slot = Slot(4);
    let sum = Checkpoint {
        slot: slot.0,
        head_hash: hash_of(slot, examples),
        commits: vec![CommitBlock {
            first_name: "monday".into(),
            record: Some(record.to_message()),
        }],
        segments: vec![segments.to_message()],
        marked: vec![marked.to_message()],
        commit_count: 2,
        segment_count: 1,
        marked_count: 1,
    };
    let object = slot.checkpoint();
    frame(ObjectKind::Checkpoint, &object, &sum, examples);
}

/// The top of a volume of 1025 chunks of which the first and the last are 65,536 `A`: both leaves
/// that are not empty are the same node.
fn inner_node() -> Bytes {
    let mut data = Pack::begin(ObjectKind::DataPack, pack_name(session(1), 0xd0));
    let (id, place) = data.append_chunk(&[b'A'; CHUNK_BYTES as usize]);
    let leaf = Leaf {
        entries: vec![Entry {
            position: 0,
            id,
            place,
        }],
    };
    let mut tree = Pack::begin(ObjectKind::TreePack, pack_name(session(3), 0xe0));
    let leaf = tree.append_node(&leaf.encode());
    let inner = InnerNode {
        children: vec![(0, leaf), (2, leaf)],
        data_packs: vec![place.pack],
    };
    assert_eq!(height_for(1025), 1);
    inner.encode().into()
}

/// A chunk of 65,536 `A`, as LZ4 compresses it. What compressors write may change; that it is read
/// does not.
fn lz4_record() -> Vec<u8> {
    let (begin, end) = ([0x1f, b'A', 0x01, 0x00], [0xe6, 0x60]);
    [
        &[Codec::Lz4.byte()][..],
        &begin,
        &[0xff; 256],
        &end,
        &[b'A'; 6],
    ]
    .concat()
}

/// The same chunk, as zstd compresses it.
fn zstd_record() -> Vec<u8> {
    let header = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0xff];
    let block = [
        0x55, 0x00, 0x00, 0x10, 0x41, 0x41, 0x01, 0x00, 0xfb, 0x7f, 0x1d, 0x60, 0x01,
    ];
    [&[Codec::Zstd.byte()][..], &header, &block].concat()
}

/// As `hexdump -C` prints: `*` stands for lines that repeat the one above.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut above: &[u8] = &[];
    let mut repeats = false;
    for (line, row) in bytes.chunks(16).enumerate() {
        if row == above {
            if !std::mem::replace(&mut repeats, true) {
                text.push_str("*\n");
            }
            continue;
        }
        (above, repeats) = (row, false);
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let (left, right) = hex.split_at(hex.len().min(8));
        let shown: String = row
            .iter()
            .map(|&byte| match byte {
                b' '..=b'~' => char::from(byte),
                _ => '.',
            })
            .collect();
        let (offset, left, right) = (line * 16, left.join(" "), right.join(" "));
        writeln!(text, "{offset:08x}  {left:23}  {right:23}  |{shown}|")
            .expect("a String takes it");
    }
    writeln!(text, "{:08x}", bytes.len()).expect("a String takes it");
    text
}

/// The blocks tagged `hex` of all pages, and what else their tags say.
fn blocks_of_pages() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats");
    let mut blocks = Vec::new();
    for page in fs::read_dir(folder).expect("the folder of the pages") {
        let page = page.expect("a page").path();
        if page.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = fs::read_to_string(page).expect("a page is text");
        for block in text.split("```hex ").skip(1) {
            let (tag, rest) = block.split_once('\n').expect("a fence ends its line");
            let (dump, _) = rest.split_once("```").expect("a block is closed");
            blocks.push((tag.to_owned(), dump.to_owned()));
        }
    }
    blocks
}

#[test]
fn the_pages_show_what_the_code_writes() {
    let blocks = blocks_of_pages();
    let mut wrong = String::new();
    for (tag, bytes) in examples() {
        let wanted = dump(&bytes);
        let shown: Vec<&String> = blocks
            .iter()
            .filter(|(shown, _)| *shown == tag)
            .map(|(_, dump)| dump)
            .collect();
        if shown != [&wanted] {
            write!(wrong, "```hex {tag}\n{wanted}```\n").expect("a String takes it");
        }
    }
    assert!(
        wrong.is_empty(),
        "docs/formats must show once, to the letter:\n{wrong}"
    );
}

#[test]
fn the_pages_show_nothing_else() {
    let examples = examples();
    for (tag, _) in blocks_of_pages() {
        assert!(
            examples.contains_key(&tag),
            "no example has the tag {tag:?}"
        );
    }
}

#[test]
fn the_compressed_records_on_the_pages_are_read() {
    let id = Hashing::PLAIN.chunk_id(&[b'A'; CHUNK_BYTES as usize]);
    for mut record in [lz4_record(), zstd_record()] {
        let bytes_max = CHUNK_BYTES as usize;
        let checked = crate::record::check(&mut record, None, &id, &Hashing::PLAIN, bytes_max);
        assert_eq!(checked, Ok(()), "{record:x?}");
    }
}
