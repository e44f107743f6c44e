//! Compressed volumes and back, by each codec.

use std::path::PathBuf;

use ringback_datapath::{codec::Compression, log::Committed};
use ringback_proto::repository::Statistics;

use crate::support::{Bed, assert_same, noise};

const MIB: u64 = 1 << 20;
const CHUNK: usize = 64 << 10;

fn compression(name: &str) -> Compression {
    name.parse().expect("a compression")
}

/// Lines that differ, as those of a log do: every codec halves them at least.
fn text(seed: u64, len: usize) -> Vec<u8> {
    (seed..)
        .flat_map(|line| {
            format!(
                "2026-11-23 request {line} was answered in {} ms\n",
                line % 97
            )
            .into_bytes()
        })
        .take(len)
        .collect()
}

/// All kinds of chunks, next to each other: compressible, incompressible, equal, mixed, short.
fn mixed(bed: &Bed, name: &str) -> PathBuf {
    let mut data = Vec::new();
    for number in 0..60 {
        match number % 4 {
            0 => data.extend(text(number * 1_000_000, 3 * CHUNK)),
            1 => data.extend(noise(number, 2 * CHUNK)),
            2 => data.extend(text(7, CHUNK)),
            _ => {
                data.extend(noise(number, CHUNK / 2));
                data.extend(text(number, CHUNK / 2));
            }
        }
    }
    let bytes = data.len() as u64 + 4 * MIB + 512;
    let end = text(9, 512);
    bed.volume(name, bytes, &[(0, data), (bytes - 512, end)])
}

fn statistics(committed: &Committed) -> Statistics {
    committed.commit.statistics.expect("statistics")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_comes_back_from_every_codec_and_what_it_took_is_told() {
    let mut new_bytes = Vec::new();
    for name in ["none", "lz4", "zstd-1", "zstd-9", "zstd-19", "auto"] {
        let mut bed = Bed::new().await;
        bed.settings.compression = compression(name);
        let volume = mixed(&bed, "volume");
        let committed = bed.backup(&volume, "one").await.expect(name);
        let statistics = statistics(&committed);
        assert_same(&volume, &bed.restore("one").await.expect(name));

        new_bytes.push(statistics.new_bytes);
        let (new, packed) = (statistics.new_bytes, statistics.packed_bytes);
        match name {
            "none" => assert!((new..new + new / 1000).contains(&packed), "{statistics:?}"),
            _ => assert!(
                (new / 3..new * 3 / 4).contains(&packed),
                "{name} {statistics:?}"
            ),
        }
        // Footers, the tree and what is around them are the rest.
        let sent = statistics.sent_bytes;
        assert!(
            (packed..packed + packed / 50).contains(&sent),
            "{name} {statistics:?}"
        );
    }
    // 15 equal chunks are stored once, whether or not they were on their way together.
    new_bytes.dedup();
    assert_eq!(new_bytes.len(), 1, "{new_bytes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_by_one_codec_is_not_stored_again_by_another() {
    for (first, second) in [("none", "zstd-9"), ("zstd-3", "none"), ("lz4", "zstd-1")] {
        let mut bed = Bed::new().await;
        let (one, other) = (mixed(&bed, "one"), mixed(&bed, "other"));
        bed.settings.compression = compression(first);
        bed.backup(&one, "first").await.expect(first);
        bed.settings.compression = compression(second);
        let again = bed.backup(&one, "again").await.expect(second);
        let other_again = bed.backup(&other, "other").await.expect(second);
        for committed in [&again, &other_again] {
            let statistics = statistics(committed);
            assert_eq!((statistics.new_bytes, statistics.packed_bytes), (0, 0));
        }
        assert_same(&other, &bed.restore("other").await.expect("restore"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_equal_chunks_is_stored_as_one_however_hard_it_is_compressed() {
    for name in ["none", "zstd-19"] {
        let mut bed = Bed::new().await;
        bed.settings.compression = compression(name);
        let data: Vec<u8> = text(1, CHUNK).repeat(40);
        let volume = bed.volume("volume", 40 * CHUNK as u64, &[(0, data)]);
        let committed = bed.backup(&volume, "one").await.expect(name);
        let statistics = statistics(&committed);
        assert_eq!(
            (statistics.new_bytes, statistics.duplicate_bytes),
            (CHUNK as u64, 39 * CHUNK as u64),
            "{name}"
        );
        assert_same(&volume, &bed.restore("one").await.expect(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_records_by_the_thousand_fit_the_least_of_buffers() {
    let mut bed = Bed::new().await;
    // A part of 5 MiB from records of a kilobyte, and the fewest slots that there can be.
    bed.settings.buffer_bytes = 1;
    bed.settings.transfers_max = 1;
    bed.settings.compression = compression("zstd-1");
    let data: Vec<u8> = (0..3000u64)
        .flat_map(|number| {
            let mut chunk = vec![b'-'; CHUNK];
            chunk[..2000].copy_from_slice(&noise(number, 2000));
            chunk
        })
        .collect();
    let volume = bed.volume("volume", data.len() as u64, &[(0, data)]);
    let committed = bed.backup(&volume, "one").await.expect("backup");
    let statistics = statistics(&committed);
    assert!(statistics.packed_bytes > 6_000_000, "{statistics:?}");
    assert!(bed.endpoint.counters().requests("UploadPart") > 0);
    assert_same(&volume, &bed.restore("one").await.expect("restore"));
}
