//! Every decoder of stored bytes, as a function that takes any bytes: for the fuzzer in `tests/fuzz`,
//! and for a test that feeds them what was changed at random.
//!
//! A decoder may refuse; it may not panic, nor take memory that its input does not pay for, nor read
//! something else out of what it has written. Where a check or a seal would stop whatever is not
//! right already, the bytes get the right one first.

mod vectors;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::FutureExt;
use prost::Message;
use ringback_proto::repository::{
    Checkpoint, CommitList, IndexSegment, IndexedPack, PackFooter, RefSet, Root,
};

use crate::{
    arena::Arena,
    chunk::ChunkId,
    codec::{Codec, Compressor, Decompressor, Effort, ZstdLevel},
    crypt::{Hashing, Key, Keys},
    format::{
        domain::{Domain, KeyEpoch},
        key_slot::{KeySlot, SlotId},
        name::{ObjectKind, PackName, REPOSITORY, SessionId, Slot, pack_table},
        object::{self, RepositoryId},
        pack::{END_MARK, Place, read_footer, tail_bytes},
        tree::{Entry, InnerNode, Leaf, NodeRef},
    },
    index::DedupeIndex,
    log,
    record::{Head, Seal, Shape, StoredRecord, check},
    refs::Packs,
    repository,
    restore::check_root,
    store::{
        location::Endpoint,
        url::{BackupUrl, RepositoryUrl},
    },
};

/// A decoder, and inputs that it takes.
pub struct Decoder {
    /// Its name, in words.
    pub name: &'static str,
    /// Decodes.
    pub run: fn(&[u8]),
    /// Well-formed inputs, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const DECODERS: &[Decoder] = &[
    decoder("object", any_object, objects),
    decoder("repository", repository_object, || {
        and(vectors::messages("repository"), &repository_message())
    }),
    decoder("key-slot", key_slot, || vectors::messages("keys")),
    decoder("log-entry", log_entry, || {
        [vectors::messages("log"), log::fuzzing::entries()].concat()
    }),
    decoder("checkpoint", checkpoint, || {
        let blocks = vectors::records("tree");
        let sums = vectors::messages("checkpoint");
        [sums, blocks, log::fuzzing::checkpoints()].concat()
    }),
    decoder("ref-set", ref_set, || {
        and(vectors::messages("refs"), &ref_sets().encode_to_vec())
    }),
    decoder("index-segment", index_segment, || {
        and(vectors::messages("index"), &segment().encode_to_vec())
    }),
    decoder("footer", footer, || {
        [vectors::footers("data"), vectors::footers("tree")].concat()
    }),
    decoder("record", record, records),
    decoder("sealed-record", sealed_record, records),
    decoder("leaf", leaf, || {
        and(vectors::records("tree"), &a_leaf().encode())
    }),
    decoder("inner-node", inner_node, || {
        and(vectors::records("tree"), &an_inner_node().encode())
    }),
    decoder("root", root, || {
        and(vectors::records("tree"), &a_root().encode_to_vec())
    }),
    decoder("name", name, names),
    decoder("url", url, urls),
];

/// Those of the vectors, and one with all fields.
fn and(mut seeds: Vec<Vec<u8>>, one: &[u8]) -> Vec<Vec<u8>> {
    seeds.push(one.to_vec());
    seeds
}

const fn decoder(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Decoder {
    Decoder { name, run, seeds }
}

const ID: RepositoryId = RepositoryId([7; 16]);
const CHUNK_BYTES: usize = 64 << 10;
const NAMED_BY_SESSION: [ObjectKind; 3] = [
    ObjectKind::DataPack,
    ObjectKind::TreePack,
    ObjectKind::IndexSegment,
];
const ALL_KINDS: [ObjectKind; 8] = [
    ObjectKind::Repository,
    ObjectKind::KeySlot,
    ObjectKind::DataPack,
    ObjectKind::TreePack,
    ObjectKind::IndexSegment,
    ObjectKind::RefSet,
    ObjectKind::LogEntry,
    ObjectKind::Checkpoint,
];

/// The same in every run: a seed, or an input that was found, may be sealed with them.
static KEYS: LazyLock<Arc<Keys>> = LazyLock::new(|| {
    let [seal, id] = [1, 2].map(|byte| Key::filled_by(|key| key.fill(byte)));
    Arc::new(Keys::new(seal, id))
});

fn sealed() -> Domain {
    Domain {
        id: ID,
        keys: Some(Arc::clone(&KEYS)),
    }
}

fn pack() -> PackName {
    PackName::from_slice(&[9; 24]).expect("24 bytes")
}

/// What is sealed has a pack of its own: a key and a nonce seal one text.
fn new_pack() -> PackName {
    PackName::random(SessionId([1; 8]), 0)
}

/// The message in an object, as it is read when header, check and seal are right.
fn framed<M: Message + Default + PartialEq>(kind: ObjectKind, body: &[u8]) -> Option<M> {
    let name = "objects/one";
    let [plain, opened] = [Domain::plain(ID), sealed()].map(|domain| {
        let mut salt = blake3::Hasher::new();
        salt.update(&[kind as u8]).update(body);
        let salt = *salt.finalize().as_bytes();
        let bytes = object::frame_text(kind, &domain, name, body.to_vec(), || salt);
        let message = object::decode::<M>(kind, &domain, name, bytes).ok()?;
        let again = object::encode(kind, &domain, name, &message);
        assert!(object::decode::<M>(kind, &domain, name, again).as_ref() == Ok(&message));
        Some(message)
    });
    assert!(plain == opened, "a seal changes nothing");
    plain
}

fn any_object(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    for kind in ALL_KINDS {
        for domain in [Domain::plain(ID), sealed()] {
            let _ = object::decode::<IndexSegment>(kind, &domain, "index/one", bytes.clone());
        }
        let _ = object::decode_clear::<IndexSegment>(kind, "index/one", bytes.clone());
    }
}

fn objects() -> Vec<Vec<u8>> {
    let made = |domain| object::encode(ObjectKind::IndexSegment, &domain, "index/one", &segment());
    let made = [Domain::plain(ID), sealed()].map(|domain| made(domain).to_vec());
    [vectors::objects(), made.to_vec()].concat()
}

fn repository_object(data: &[u8]) {
    let _ = repository::read(Bytes::copy_from_slice(data));
    for epoch in [KeyEpoch::None, KeyEpoch::First] {
        let header = object::header(ObjectKind::Repository, epoch, ID);
        let _ = repository::read(object::frame(header, REPOSITORY, data));
    }
}

fn repository_message() -> Vec<u8> {
    ringback_proto::repository::Repository {
        id: Bytes::copy_from_slice(&ID.0),
        chunk_bytes: 256 << 10,
        created_ms: 1,
        stretching: Some(ringback_proto::repository::Stretching {
            salt: Bytes::from_static(&[1; 16]),
            memory_kib: 64 << 10,
            iterations: 3,
            lanes: 4,
        }),
        key_check: Bytes::from_static(&[2; 32]),
    }
    .encode_to_vec()
}

fn key_slot(data: &[u8]) {
    let id = SlotId::of_object("keys/000102030405060708090a0b0c0d0e0f").expect("a slot's name");
    let _ = KeySlot::decode(id, Bytes::copy_from_slice(data));
    let header = object::header(ObjectKind::KeySlot, KeyEpoch::None, ID);
    if let Ok(slot) = KeySlot::decode(id, object::frame(header, &id.object(), data)) {
        assert!(slot.about(&KEYS).is_none(), "nobody has sealed it");
    }
}

fn log_entry(data: &[u8]) {
    if let Some(entry) = framed(ObjectKind::LogEntry, data) {
        log::fuzzing::take(entry);
    }
}

fn checkpoint(data: &[u8]) {
    if let Some(sum) = framed::<Checkpoint>(ObjectKind::Checkpoint, data) {
        log::fuzzing::sum(&sum);
    }
    if let Ok(list) = CommitList::decode(data) {
        log::fuzzing::block(&list, data);
    }
}

fn ref_set(data: &[u8]) {
    let Some(set) = framed::<RefSet>(ObjectKind::RefSet, data) else {
        return;
    };
    let mut packs = Packs::default();
    if packs.apply(&set).is_ok() {
        let mut again = Packs::default();
        again.apply(&packs.whole()).expect("it was written by us");
        assert_eq!(again, packs);
    }
}

fn ref_sets() -> RefSet {
    RefSet {
        added_data: Bytes::copy_from_slice(pack().as_bytes()),
        added_tree: Bytes::copy_from_slice(pack().as_bytes()),
        ..RefSet::default()
    }
}

fn index_segment(data: &[u8]) {
    let Some(segment) = framed::<IndexSegment>(ObjectKind::IndexSegment, data) else {
        return;
    };
    const BOUND: usize = 1 << 20;
    let mut index = DedupeIndex::new(BOUND);
    for pack in &segment.packs {
        let _ = index.add_pack(pack);
        assert!(index.bytes() <= BOUND, "its memory is bounded");
    }
}

fn segment() -> IndexSegment {
    IndexSegment {
        packs: vec![IndexedPack {
            name: Bytes::copy_from_slice(pack().as_bytes()),
            ids: Bytes::from_static(&[5; 64]),
            stored_bytes: vec![100, 200],
        }],
    }
}

fn footer(data: &[u8]) {
    let (kind, name) = (ObjectKind::DataPack, new_pack());
    let records: u64 = PackFooter::decode(data).map_or(0, |footer| {
        footer.stored_bytes.iter().copied().map(u64::from).sum()
    });
    for domain in [Domain::plain(ID), sealed()] {
        let head = object::header(kind, domain.epoch(), domain.id);
        let _ = tail_bytes(data);
        let _ = read_footer(kind, name, &domain, data, data, data.len() as u64);
        let _ = read_footer(kind, name, &domain, &head, data, data.len() as u64);
        let mut tail = match &domain.keys {
            None => data.to_vec(),
            Some(keys) => keys
                .pack_key(&name.object(kind))
                .seal_footer(&head, data.to_vec()),
        };
        let body = u32::try_from(tail.len()).expect("a fuzzer's inputs are short");
        tail.extend(object::check(&head, &name.object(kind), &tail));
        tail.extend(body.to_le_bytes());
        tail.extend(END_MARK);
        let pack_bytes = head.len() as u64 + records + tail.len() as u64;
        if let Ok(Some(footer)) = read_footer(kind, name, &domain, &head, &tail, pack_bytes) {
            assert_eq!(footer.ids.len(), footer.stored_bytes.len() * 32);
        }
    }
}

fn record(data: &[u8]) {
    let Some(chunk) = chunk_in(data) else {
        let taken = check(
            &mut data.to_vec(),
            None,
            &ChunkId([3; 32]),
            &Hashing::PLAIN,
            CHUNK_BYTES,
        );
        assert!(taken.is_err(), "it cannot be decompressed");
        return;
    };
    let id = Hashing::PLAIN.chunk_id(&chunk);
    for (id, taken) in [(id, true), (ChunkId([3; 32]), false)] {
        let checked = check(&mut data.to_vec(), None, &id, &Hashing::PLAIN, CHUNK_BYTES);
        assert_eq!(checked.is_ok(), taken);
    }
    let head = Head::Plain(data[0]);
    assert_opens(head, &data[CODEC_BYTES..], &chunk);
}

fn sealed_record(data: &[u8]) {
    let place = Place {
        pack: new_pack(),
        ..place()
    };
    let key = Arc::new(KEYS.pack_key(&place.pack.object(ObjectKind::DataPack)));
    let hashing = sealed().hashing();
    let chunk = chunk_in(data);
    let id = chunk
        .as_ref()
        .map_or(ChunkId([3; 32]), |chunk| hashing.chunk_id(chunk));
    let seal = Seal::of(Some(&key), &place, &id.0).expect("there is a key");
    let mut as_it_is = data.to_vec();
    let opened = check(&mut as_it_is, Some(&seal), &id, &hashing, CHUNK_BYTES);
    assert!(opened.is_err(), "nobody has sealed it");
    // The codec stands behind the payload here.
    let mut record = data.to_vec();
    record.rotate_left(CODEC_BYTES.min(data.len()));
    let behind = key.seal_record(place.ordinal, &id.0, &mut record, &[]);
    record.extend(behind);
    let checked = check(&mut record.clone(), Some(&seal), &id, &hashing, CHUNK_BYTES);
    assert_eq!(checked.is_ok(), chunk.is_some());
    if let Some(chunk) = chunk {
        assert_opens(Head::Sealed(Box::new(seal)), &record, &chunk);
    }
}

const CODEC_BYTES: usize = 1;

/// What is in a record: the chunk that it is to be taken for.
fn chunk_in(record: &[u8]) -> Option<Vec<u8>> {
    let (&codec, payload) = record.split_first()?;
    if payload.len() > CHUNK_BYTES {
        return None;
    }
    match Codec::from_byte(codec)? {
        Codec::Raw => Some(payload.to_vec()),
        codec => Decompressor::with(|decompressor| {
            let chunk = decompressor.decompress(codec, payload, CHUNK_BYTES).ok()?;
            assert!(chunk.len() <= CHUNK_BYTES);
            (chunk.len() > payload.len()).then(|| chunk.to_vec())
        }),
    }
}

/// As a restore opens it, which knows how long the chunk is to be.
fn assert_opens(head: Head, rest: &[u8], chunk: &[u8]) {
    let arena = Arena::new(1, Shape::Sealed.slot_bytes(CHUNK_BYTES)).expect("some memory");
    let mut slot = arena.acquire().now_or_never().expect("it has a slot");
    slot[..rest.len()].copy_from_slice(rest);
    let len = rest.len();
    let mut stored = StoredRecord { head, slot, len };
    assert_eq!(stored.open(chunk.len()), Ok(()));
    assert_eq!(&stored.slot[..chunk.len()], chunk);
}

fn records() -> Vec<Vec<u8>> {
    let chunk = b"the same again, and again, and again. ".repeat(40);
    let zstd = Effort::Zstd(ZstdLevel::new(3).expect("a level"));
    let mut compressor = Compressor::new();
    let mut records = vectors::records("data");
    records.push([&[Codec::Raw.byte()], &chunk[..]].concat());
    for effort in [Effort::Lz4, zstd] {
        let made = compressor.compress(effort, &chunk, chunk.len());
        let (codec, payload) = made.expect("it becomes smaller");
        records.push([&[codec.byte()], payload].concat());
    }
    records
}

fn place() -> Place {
    Place {
        pack: pack(),
        ordinal: 1,
        offset: 32,
        stored_bytes: 100,
    }
}

fn leaf(data: &[u8]) {
    if let Ok(leaf) = Leaf::decode(data) {
        assert_eq!(Leaf::decode(&leaf.encode()), Ok(leaf));
    }
}

fn a_leaf() -> Leaf {
    let entry = |position| Entry {
        position,
        id: ChunkId([4; 32]),
        place: place(),
    };
    Leaf {
        entries: vec![entry(1), entry(2), entry(511)],
    }
}

fn inner_node(data: &[u8]) {
    if let Ok(node) = InnerNode::decode(data) {
        assert_eq!(InnerNode::decode(&node.encode()), Ok(node));
    }
}

fn node() -> NodeRef {
    NodeRef {
        id: [6; 32],
        place: place(),
    }
}

fn an_inner_node() -> InnerNode {
    InnerNode {
        children: vec![(0, node()), (127, node())],
        data_packs: vec![pack()],
    }
}

fn root(data: &[u8]) {
    if let Ok(root) = Root::decode(data) {
        let _ = check_root(&root);
    }
}

fn a_root() -> Root {
    Root {
        volume_bytes: 64 << 20,
        chunk_bytes: 64 << 10,
        height: 1,
        top: Some(node().to_message()),
        ..Root::default()
    }
}

fn name(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        let _ = pack_table(data);
        return;
    };
    for kind in NAMED_BY_SESSION {
        if let Some(name) = PackName::parse(kind, text) {
            assert_eq!(name.object(kind), text);
        }
    }
    if let Some(id) = SlotId::of_object(text) {
        assert_eq!(id.object(), text);
    }
    if let Some(slot) = Slot::parse(text) {
        assert!(slot.object().ends_with(text));
    }
}

fn names() -> Vec<Vec<u8>> {
    let session = SessionId([1; 8]);
    let packs = [ObjectKind::DataPack, ObjectKind::TreePack]
        .map(|kind| PackName::random(session, 1).object(kind));
    let slots = ["00000000000000ff", "keys/000102030405060708090a0b0c0d0e0f"];
    let slots = slots.map(str::to_owned);
    packs
        .into_iter()
        .chain(slots)
        .map(String::into_bytes)
        .collect()
}

fn url(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if let Ok(url) = RepositoryUrl::parse(text) {
        assert_eq!(RepositoryUrl::parse(&url.to_string()), Ok(url));
    }
    if let Ok(url) = BackupUrl::parse(text) {
        assert_eq!(BackupUrl::parse(&url.to_string()), Ok(url));
    }
    let _ = Endpoint::parse(text);
}

fn urls() -> Vec<Vec<u8>> {
    [
        "s3://backups/vms/disk-monday",
        "backups/a/b/c",
        "file:///mnt/usb/vms/disk%20monday",
        "https://user@[::1]:9000/",
        "http://s3.example.net:80",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::{vectors::INPUT_BYTES, *};

    /// How many of each decoder.
    const INPUTS: u64 = 5000;

    /// Changes of one input, drawn from a seed: bits, cuts, repeats, and pieces of others.
    fn changed(seed: &[u8], draw: u64) -> Vec<u8> {
        let mut random = blake3::Hasher::new()
            .update(&draw.to_le_bytes())
            .update(seed)
            .finalize_xof();
        let mut bytes = seed.to_vec();
        for _ in 0..=draw % 4 {
            let mut drawn = [0; 4];
            random.fill(&mut drawn);
            let at = usize::from(u16::from_le_bytes([drawn[0], drawn[1]])) % (bytes.len() + 1);
            match drawn[2] % 5 {
                0 if at < bytes.len() => bytes[at] ^= 1 << (drawn[3] % 8),
                1 if at < bytes.len() => bytes[at] = drawn[3],
                2 => bytes.truncate(at),
                3 => bytes.insert(at, drawn[3]),
                _ => bytes.extend_from_within(at..),
            }
            bytes.truncate(INPUT_BYTES);
        }
        bytes
    }

    #[test]
    fn no_decoder_panics_at_what_it_takes_changed_at_random() {
        for decoder in DECODERS {
            let seeds = (decoder.seeds)();
            assert!(!seeds.is_empty(), "{} has seeds", decoder.name);
            let draws = INPUTS.div_ceil(seeds.len() as u64);
            for (number, seed) in seeds.iter().enumerate() {
                (decoder.run)(seed);
                for draw in 0..draws {
                    let input = changed(seed, draw);
                    let told = format!("{}, seed {number}, draw {draw}", decoder.name);
                    std::panic::catch_unwind(|| (decoder.run)(&input)).expect(&told);
                }
            }
        }
    }

    #[test]
    fn every_seed_is_taken_by_its_decoder() {
        let leaf = Leaf::decode(&a_leaf().encode());
        assert_eq!(leaf, Ok(a_leaf()));
        assert_eq!(
            InnerNode::decode(&an_inner_node().encode()),
            Ok(an_inner_node())
        );
        assert!(check_root(&a_root()).is_ok());
        assert!(Packs::default().apply(&ref_sets()).is_ok());
        let header = object::header(ObjectKind::Repository, KeyEpoch::First, ID);
        let message = object::frame(header, REPOSITORY, &repository_message());
        assert!(repository::read(message).is_ok());
        assert!(
            urls()
                .iter()
                .any(|it| BackupUrl::parse(str::from_utf8(it).expect("text")).is_ok())
        );
    }
}
