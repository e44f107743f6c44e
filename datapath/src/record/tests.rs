use futures::FutureExt;

use super::*;
use crate::{
    arena::Arena,
    crypt::Keys,
    format::name::{PackName, SessionId},
};

const CHUNK_BYTES: usize = 64 << 10;

fn arena() -> Arena {
    Arena::new(1, Shape::Sealed.slot_bytes(CHUNK_BYTES)).expect("mmap")
}

fn id_of(chunk: &[u8]) -> ChunkId {
    Hashing::PLAIN.chunk_id(chunk)
}

/// As verification does it, of a record that is not sealed.
fn check(record: &[u8], id: &ChunkId, chunk_bytes: usize) -> Result<(), Flaw> {
    super::check(&mut record.to_vec(), None, id, &Hashing::PLAIN, chunk_bytes)
}

fn slot(arena: &Arena) -> Slot {
    arena.acquire().now_or_never().expect("a slot is free")
}

/// Half of it random, so that it does not become very small.
fn chunk(len: usize) -> Vec<u8> {
    let mut bytes = vec![b'x'; len];
    let noise = &mut bytes[..len / 2];
    blake3::Hasher::new().finalize_xof().fill(noise);
    bytes
}

/// The record of a chunk, as it lies in a pack.
fn record_of(chunk: &[u8], effort: &str) -> Vec<u8> {
    record_sealed(chunk, effort, None)
}

fn record_sealed(chunk: &[u8], effort: &str, seal: Option<&Seal>) -> Vec<u8> {
    let crate::codec::Compression::Fixed(effort) = effort.parse().expect("a compression") else {
        panic!("an effort");
    };
    let arena = arena();
    let mut slot = slot(&arena);
    slot[..chunk.len()].copy_from_slice(chunk);
    let record = Record::compressed(slot, chunk.len(), effort, &mut Compressor::new());
    let stored_bytes = record.stored_bytes(Shape::of(seal));
    let mut part = PartBuffer::default();
    record.put_into(&mut part, seal);
    let bytes = part.take_rest().pieces().concat();
    assert_eq!(bytes.len(), stored_bytes);
    bytes
}

/// What a restore makes of a record.
fn opened(record: &[u8], chunk_bytes: usize) -> Result<Vec<u8>, Flaw> {
    let arena = arena();
    let mut stored = StoredRecord {
        head: Head::Plain(record[0]),
        slot: slot(&arena),
        len: record.len() - CODEC_BYTES,
    };
    stored.slot[..stored.len].copy_from_slice(&record[CODEC_BYTES..]);
    stored.open(chunk_bytes)?;
    Ok(stored.slot[..chunk_bytes].to_vec())
}

const EFFORTS: [(&str, Codec); 5] = [
    ("none", Codec::Raw),
    ("lz4", Codec::Lz4),
    ("zstd-1", Codec::Zstd),
    ("zstd-3", Codec::Zstd),
    ("zstd-19", Codec::Zstd),
];

#[test]
fn a_chunk_of_any_codec_and_length_comes_back() {
    for (effort, codec) in EFFORTS {
        for len in [CHUNK_BYTES, 4096, 512] {
            let chunk = chunk(len);
            let record = record_of(&chunk, effort);
            assert_eq!(record[0], codec.byte(), "{effort} {len}");
            assert!(
                codec == Codec::Raw || record.len() < len * 3 / 4,
                "{effort} {len}"
            );
            assert!(opened(&record, len) == Ok(chunk.clone()), "{effort} {len}");
            assert_eq!(check(&record, &id_of(&chunk), CHUNK_BYTES), Ok(()));
        }
    }
}

#[test]
fn a_chunk_that_hardly_becomes_smaller_stays_as_it_is() {
    let mut chunk = chunk(CHUNK_BYTES);
    let noise = &mut chunk[..CHUNK_BYTES / 32 * 31];
    blake3::Hasher::new().finalize_xof().fill(noise);
    for (effort, _) in EFFORTS {
        let record = record_of(&chunk, effort);
        assert_eq!(record.len(), CHUNK_BYTES + CODEC_BYTES, "{effort}");
        assert_eq!(record[0], Codec::Raw.byte());
    }
}

#[test]
fn a_record_of_another_length_is_refused() {
    for (effort, codec) in EFFORTS {
        let chunk = chunk(CHUNK_BYTES);
        let record = record_of(&chunk, effort);
        let flaw = match codec {
            Codec::Raw => Flaw::Length,
            codec => Flaw::Payload(codec),
        };
        assert_eq!(opened(&record, CHUNK_BYTES - 1), Err(flaw), "{effort}");
        assert_eq!(opened(&record, CHUNK_BYTES - 4096), Err(flaw), "{effort}");
        for cut in (CODEC_BYTES..record.len()).step_by(97) {
            let is_another = |flaw| flaw != Flaw::OtherBytes;
            assert!(
                opened(&record[..cut], CHUNK_BYTES).is_err_and(is_another),
                "{effort} {cut}"
            );
            assert!(check(&record[..cut], &id_of(&chunk), CHUNK_BYTES).is_err());
        }
        assert_eq!(check(&[], &id_of(&chunk), CHUNK_BYTES), Err(Flaw::Length));
    }
    // Compressed, and yet as long as the chunk.
    let chunk = chunk(4096);
    let record = record_of(&chunk, "lz4");
    assert_eq!(
        opened(&record, record.len() - CODEC_BYTES),
        Err(Flaw::Length)
    );
}

#[test]
fn no_flipped_bit_gives_other_bytes_under_the_chunks_id() {
    for (effort, _) in EFFORTS {
        let chunk = chunk(4096);
        let id = id_of(&chunk);
        let record = record_of(&chunk, effort);
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(opened) = opened(&flipped, chunk.len()) {
                // Bits without a meaning are in zstd's header.
                assert_eq!(opened == chunk, id_of(&opened) == id, "{effort} {bit}");
            }
            if check(&flipped, &id, CHUNK_BYTES).is_ok() {
                assert!(
                    opened(&flipped, chunk.len()) == Ok(chunk.clone()),
                    "{effort} {bit}"
                );
            }
        }
    }
}

#[test]
fn each_flaw_is_named() {
    let id = id_of(b"a");
    for (record, sentence) in [
        (
            &[3, b'a'][..],
            "has codec 3, which this ringback does not know",
        ),
        (
            &[0, b'b'],
            "does not hold the bytes that the backup's tree names",
        ),
        (
            &[1, b'b'],
            "has a record that LZ4 does not decompress to a chunk of its length",
        ),
        (
            &[2, b'b'],
            "has a record that zstd does not decompress to a chunk of its length",
        ),
        (&[0; CHUNK_BYTES + 2], "has a record of the wrong length"),
    ] {
        let flaw = check(record, &id, CHUNK_BYTES).expect_err(sentence);
        assert_eq!(flaw.to_string(), sentence);
    }
    assert_eq!(check(b"\0a", &id, CHUNK_BYTES), Ok(()));
}

/// A seal of a record in a pack of its own.
fn seal_of(chunk: &[u8]) -> Seal {
    let pack = PackName::random(SessionId([1; 8]), 0);
    let key = Arc::new(Keys::random().pack_key("data/1"));
    let place = Place {
        pack,
        ordinal: 7,
        offset: 32,
        stored_bytes: 1,
    };
    Seal::of(Some(&key), &place, &id_of(chunk).0).expect("there is a key")
}

fn opened_sealed(record: &[u8], seal: &Seal, chunk_bytes: usize) -> Result<Vec<u8>, Flaw> {
    let arena = arena();
    let mut stored = StoredRecord {
        head: Head::Sealed(Box::new(seal.clone())),
        slot: slot(&arena),
        len: record.len(),
    };
    stored.slot[..record.len()].copy_from_slice(record);
    stored.open(chunk_bytes)?;
    Ok(stored.slot[..chunk_bytes].to_vec())
}

#[test]
fn a_sealed_chunk_of_any_codec_and_length_comes_back_and_no_flipped_bit_is_taken() {
    for (effort, _) in EFFORTS {
        for len in [CHUNK_BYTES, 4096, 512] {
            let chunk = chunk(len);
            let seal = seal_of(&chunk);
            let record = record_sealed(&chunk, effort, Some(&seal));
            assert_eq!(record.len(), record_of(&chunk, effort).len() + TAG_BYTES);
            assert!(opened_sealed(&record, &seal, len) == Ok(chunk.clone()));
            let check = |record: &[u8]| {
                let (id, hashing) = (id_of(&chunk), Hashing::PLAIN);
                super::check(
                    &mut record.to_vec(),
                    Some(&seal),
                    &id,
                    &hashing,
                    CHUNK_BYTES,
                )
            };
            assert_eq!(check(&record), Ok(()), "{effort} {len}");
            for bit in (0..record.len() * 8).step_by(if len == 512 { 1 } else { 9973 }) {
                let mut flipped = record.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let opened = opened_sealed(&flipped, &seal, len);
                assert!(opened == Err(Flaw::Tag), "{effort} {bit}");
                assert_eq!(check(&flipped), Err(Flaw::Tag), "{effort} {bit}");
            }
            for cut in [0, 1, 15, 16, record.len() - 1] {
                let opened = opened_sealed(&record[..cut], &seal, len);
                assert!(opened == Err(Flaw::Tag), "{effort} {cut}");
            }
        }
    }
}
