//! Many backups of one volume, each held against a plain vector of its bytes.

use std::{fs::File, os::unix::fs::FileExt};

use crate::support::{Bed, assert_same, noise};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 64 << 10;
const BLOCK: u64 = 4096;
const VOLUME_MAX: u64 = 24 * MIB;

/// What happens to a volume between two backups. Positions are taken modulo its size.
#[derive(Debug, Clone)]
enum Change {
    /// Data that there is nowhere else.
    Write { at: u64, len: usize, seed: u64 },
    /// Data that there is somewhere else: a copy of some chunks.
    Copy { from: u64, to: u64, chunks: u64 },
    /// Zeros, written.
    Zero { at: u64, len: usize },
    /// Grown or shrunk.
    Resize { blocks: u64 },
}

fn changes() -> impl Strategy<Value = Change> {
    let at = 0..VOLUME_MAX;
    prop_oneof![
        3 => (at.clone(), 1..9_000_000usize, 0..6u64)
            .prop_map(|(at, len, seed)| Change::Write { at, len, seed }),
        2 => (0..384u64, 0..384u64, 1..100u64)
            .prop_map(|(from, to, chunks)| Change::Copy { from, to, chunks }),
        1 => (at, 1..2_000_000usize).prop_map(|(at, len)| Change::Zero { at, len }),
        1 => (1..VOLUME_MAX / BLOCK).prop_map(|blocks| Change::Resize { blocks }),
    ]
}

/// Carries a change out on the model and tells which bytes are to be written.
fn apply(model: &mut Vec<u8>, change: &Change) -> Option<(usize, usize)> {
    let size = model.len();
    let fit = |at: u64, len: usize| {
        let start = usize::try_from(at).expect("small") % size;
        (start, (start + len).min(size))
    };
    let (start, end) = match *change {
        Change::Write { at, len, seed } => {
            let (start, end) = fit(at, len);
            model[start..end].copy_from_slice(&noise(seed, end - start));
            (start, end)
        }
        Change::Copy { from, to, chunks } => {
            let len = usize::try_from(chunks * CHUNK).expect("small");
            let (from, from_end) = fit(from * CHUNK, len);
            let (start, end) = fit(to * CHUNK, from_end - from);
            model.copy_within(from..from + (end - start), start);
            (start, end)
        }
        Change::Zero { at, len } => {
            let (start, end) = fit(at, len);
            model[start..end].fill(0);
            (start, end)
        }
        Change::Resize { blocks } => {
            model.resize(usize::try_from(blocks * BLOCK).expect("small"), 0);
            return None;
        }
    };
    Some((start, end))
}

async fn generations_come_back(mut bed: Bed, generations: &[Vec<Change>]) {
    // Hardly more buffers than a part: every limit is met.
    bed.settings.buffer_bytes = 1;
    bed.settings.queue_depth = 3;
    bed.settings.data_packs.part_bytes = 5 << 20;
    bed.settings.data_packs.pack_bytes = 7 << 20;
    bed.settings.transfers_max = 2;
    let mut model = vec![0; 16 << 20];
    let path = bed.volume("volume", model.len() as u64, &[]);
    let file = File::options().write(true).open(&path).expect("open");
    for (number, changes) in generations.iter().enumerate() {
        for change in changes {
            match apply(&mut model, change) {
                Some((start, end)) => file
                    .write_all_at(&model[start..end], start as u64)
                    .expect("write"),
                None => file.set_len(model.len() as u64).expect("resize"),
            }
        }
        let name = format!("generation-{number}");
        let compression = ["zstd-1", "none", "lz4", "zstd-3"][number % 4];
        bed.settings.compression = compression.parse().expect("a compression");
        let committed = bed.backup(&path, &name).await.expect("backup");
        let s = committed.commit.statistics.expect("statistics");
        assert_eq!(
            s.hole_bytes + s.zero_bytes + s.unchanged_bytes + s.duplicate_bytes + s.new_bytes,
            model.len() as u64,
            "{s:?}"
        );
        let restored = std::fs::read(bed.restore(&name).await.expect("restore")).expect("read");
        assert!(restored == model, "{name} came back with other bytes");
    }
}

/// So many, unless PROPTEST_CASES says otherwise.
fn cases(usual: u32) -> u32 {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default().cases,
        None => usual,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(12), max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn every_generation_of_a_changing_volume_comes_back(
        generations in proptest::collection::vec(proptest::collection::vec(changes(), 0..5), 1..7),
    ) {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        runtime.block_on(async { generations_come_back(Bed::new().await, &generations).await });
    }

    #[test]
    fn every_generation_comes_back_from_an_encrypted_repository(
        generations in proptest::collection::vec(proptest::collection::vec(changes(), 0..5), 1..5),
    ) {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        runtime.block_on(async { generations_come_back(Bed::encrypted().await, &generations).await });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_with_inner_nodes_comes_back_grown_and_shrunk() {
    let bed = Bed::new().await;
    // At 64 KiB a leaf describes 32 MiB and a parent of leaves 4 GiB.
    let volume = bed.volume(
        "volume",
        9 << 30,
        &[
            (0, noise(1, 200_000)),
            ((32 << 20) - 4096, noise(2, 8192)),
            ((4 << 30) - 4096, noise(3, 8192)),
            ((9 << 30) - 4096, noise(4, 4096)),
        ],
    );
    bed.backup(&volume, "first").await.expect("first");
    let file = File::options().write(true).open(&volume).expect("open");
    file.write_all_at(&noise(5, 4096), 6 << 30).expect("write");
    file.set_len(20 << 30).expect("grow");
    let grown = bed.backup(&volume, "grown").await.expect("grown");
    let statistics = grown.commit.statistics.expect("statistics");
    assert_eq!(statistics.new_bytes, CHUNK, "{statistics:?}");
    assert_same_sparse(&volume, &bed.restore("grown").await.expect("restore"));
    file.set_len(30 << 20).expect("shrink");
    bed.backup(&volume, "shrunk").await.expect("shrunk");
    assert_same(&volume, &bed.restore("shrunk").await.expect("restore"));
    bed.backup(&volume, "again").await.expect("again");
    assert_same(&volume, &bed.restore("again").await.expect("restore"));
}

/// Compares where either file has data.
fn assert_same_sparse(left: &std::path::Path, right: &std::path::Path) {
    let open = |path| ringback_datapath::device::open_for_read(path, false).expect("open");
    let (left, right) = (open(left), open(right));
    assert_eq!(left.size_bytes, right.size_bytes);
    for device in [&left, &right] {
        for extent in device.data_extents().expect("extents") {
            let len = usize::try_from(extent.end - extent.start).expect("small");
            let (mut a, mut b) = (vec![0; len], vec![0; len]);
            left.file.read_exact_at(&mut a, extent.start).expect("read");
            right
                .file
                .read_exact_at(&mut b, extent.start)
                .expect("read");
            assert!(a == b, "{extent:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_ref_sets_longer_than_its_limit_starts_over() {
    let bed = Bed::new().await;
    let volume = bed.volume("volume", MIB, &[(0, noise(1, 1 << 20))]);
    let file = File::options().write(true).open(&volume).expect("open");
    for number in 0..67u64 {
        file.write_all_at(&number.to_le_bytes(), number % 16 * CHUNK)
            .expect("write");
        bed.backup(&volume, &number.to_string())
            .await
            .expect("backup");
    }
    assert_same(&volume, &bed.restore("66").await.expect("restore"));
}
