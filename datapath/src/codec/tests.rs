use proptest::prelude::*;

use super::*;

const KIB: usize = 1 << 10;

/// Text of few words, which every codec makes smaller.
fn text(len: usize) -> Vec<u8> {
    let words = ["the ", "quick ", "brown ", "fox ", "jumps ", "over\n"];
    let mut state = 1u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        words[(state >> 24) as usize % words.len()]
    })
    .flat_map(str::bytes)
    .take(len)
    .collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn efforts() -> impl Iterator<Item = Effort> {
    let levels = (1..=ZstdLevel::MAX).filter_map(ZstdLevel::new);
    std::iter::once(Effort::Lz4).chain(levels.map(Effort::Zstd))
}

fn compressed(effort: Effort, chunk: &[u8]) -> (Codec, Vec<u8>) {
    let mut compressor = Compressor::new();
    let (codec, payload) = compressor
        .compress(effort, chunk, chunk.len())
        .expect("it becomes smaller");
    (codec, payload.to_vec())
}

fn decompressed(codec: Codec, payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, NotCompressed> {
    Decompressor::with(|it| it.decompress(codec, payload, bytes_max).map(<[u8]>::to_vec))
}

/// A frame that says of itself what it likes.
fn zstd_frame(plain: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; zstd_safe::compress_bound(plain.len())];
    let len = zstd_safe::compress(&mut frame[..], plain, 3).expect("it has room");
    frame.truncate(len);
    frame
}

#[test]
fn each_effort_makes_text_smaller_and_comes_back() {
    let mut compressor = Compressor::new();
    for len in [64 * KIB, 256 * KIB, 5000, 64 * KIB] {
        let chunk = text(len);
        for effort in efforts() {
            let (codec, payload) = compressor
                .compress(effort, &chunk, len / 2)
                .unwrap_or_else(|| panic!("{effort} of {len}"));
            let payload = payload.to_vec();
            assert!(
                decompressed(codec, &payload, len) == Ok(chunk.clone()),
                "{effort}"
            );
        }
    }
}

#[test]
fn what_does_not_become_small_enough_is_given_up() {
    let (noise, text) = (noise(256 * KIB), text(256 * KIB));
    let mut compressor = Compressor::new();
    for effort in efforts() {
        assert!(
            compressor.compress(effort, &noise, 255 * KIB).is_none(),
            "{effort}"
        );
        assert!(
            compressor.compress(effort, &text, 100).is_none(),
            "{effort}"
        );
    }
    assert!(
        compressor
            .compress(Effort::None, &text, 256 * KIB)
            .is_none()
    );
}

#[test]
fn a_chunk_longer_than_asked_for_is_refused_and_takes_no_more_memory() {
    let zeros = vec![0; 64 << 20];
    for effort in [Effort::Lz4, Effort::Zstd(PROBE_LEVEL)] {
        let (codec, bomb) = compressed(effort, &zeros);
        assert!(bomb.len() < 512 * KIB);
        for bytes_max in [0, 64 * KIB, zeros.len() - 1] {
            assert_eq!(decompressed(codec, &bomb, bytes_max), Err(NotCompressed));
        }
        Decompressor::with(|decompressor| {
            decompressor.output = Vec::new();
            assert!(decompressor.decompress(codec, &bomb, 64 * KIB).is_err());
            assert!(decompressor.output.capacity() <= 64 * KIB);
            let memory = decompressor.zstd.sizeof() + decompressor.output.capacity();
            assert!(memory <= Decompressor::memory_bytes(64 * KIB));
        });
    }
}

#[test]
fn a_frame_that_asks_for_a_large_window_gets_none() {
    // Magic number; a descriptor without a size; a window of 2^41 bytes; one raw block of 3 bytes,
    // the last.
    let mut frame = ZSTD_MAGIC.to_vec();
    frame.extend([0x00, 0xf8, 0x19, 0x00, 0x00, b'a', b'b', b'c']);
    let before = Decompressor::with(|it| it.zstd.sizeof());
    let outcome = decompressed(Codec::Zstd, &frame, 64 * KIB);
    assert!(outcome.is_err() || outcome == Ok(b"abc".to_vec()));
    assert_eq!(Decompressor::with(|it| it.zstd.sizeof()), before);
}

#[test]
fn only_one_zstd_frame_and_nothing_else_is_read() {
    let frame = zstd_frame(b"a chunk, a chunk, a chunk");
    assert!(decompressed(Codec::Zstd, &frame, 100).is_ok());
    // A frame that is to be skipped, with four bytes in it.
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    let nothing = zstd_frame(b"");
    for odd in [
        [&frame[..], &frame].concat(),
        [&frame[..], &nothing].concat(),
        [&frame[..], &skipped].concat(),
        [&skipped[..], &frame].concat(),
        [&frame[..], b"\0"].concat(),
        skipped,
        frame[..frame.len() - 1].to_vec(),
        Vec::new(),
    ] {
        assert_eq!(
            decompressed(Codec::Zstd, &odd, 100),
            Err(NotCompressed),
            "{odd:?}"
        );
    }
}

#[test]
fn compressors_keep_to_the_memory_that_is_reckoned_for_them() {
    for chunk_bytes in [64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, 4096 * KIB] {
        // Tables depend on the length alone.
        let chunk = vec![0; chunk_bytes];
        for effort in efforts() {
            let mut compressor = Compressor::new();
            compressor.compress(effort, &chunk, chunk_bytes);
            let used = match effort {
                Effort::Lz4 => LZ4_TABLE_BYTES,
                _ => compressor.zstd.sizeof(),
            } + compressor.output.capacity();
            let reckoned = Compression::Fixed(effort).memory_bytes(chunk_bytes);
            assert!(
                used <= reckoned,
                "{effort} of {chunk_bytes}: {used} > {reckoned}"
            );
            let is_auto = !matches!(effort, Effort::Zstd(level) if level > EAGER_LEVEL_MAX);
            assert!(!is_auto || used <= Compression::Auto.memory_bytes(chunk_bytes));
        }
    }
}

#[test]
fn each_compression_has_one_name() {
    let fixed = efforts().chain([Effort::None]).map(Compression::Fixed);
    for compression in fixed.chain([Compression::Auto]) {
        assert_eq!(compression.to_string().parse(), Ok(compression));
    }
    for odd in [
        "", "zstd", "zstd-0", "zstd-20", "zstd-03", "zstd-+3", "LZ4", "gzip",
    ] {
        let error = odd.parse::<Compression>().expect_err(odd).to_string();
        assert!(
            error.starts_with(&format!("{odd:?} is no compression")),
            "{error}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_decompressed_to_no_more_than_asked_for_or_refused(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        bytes_max in 0..2000usize,
    ) {
        let framed = [ZSTD_MAGIC, &payload].concat();
        for (codec, payload) in [(Codec::Lz4, &payload), (Codec::Zstd, &payload), (Codec::Zstd, &framed)] {
            if let Ok(plain) = decompressed(codec, payload, bytes_max) {
                prop_assert!(plain.len() <= bytes_max);
            }
        }
    }
}
