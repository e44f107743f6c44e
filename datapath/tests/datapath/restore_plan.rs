//! How many requests a restore takes, and how much it fetches in vain.
//!
//! The table of docs/operations/restore-plan.md comes from here:
//!
//! ```text
//! RINGBACK_PLAN_MIB=2048 RINGBACK_PLAN_GENERATIONS=100 \
//!     cargo test --release -p ringback-datapath --test datapath restore_plan -- --nocapture
//! ```

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use ringback_datapath::{packer::PackSizes, settings::Settings};

use crate::support::{Bed, noise};

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 256 << 10;

/// What a restore took from the store, the log and the tree included.
struct Taken {
    gets: u64,
    bytes: u64,
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

/// The settings that a daemon has by default.
async fn bed() -> Bed {
    let mut bed = Bed::new().await;
    bed.settings = Settings {
        buffer_bytes: 32 << 20,
        ..Settings::default()
    };
    bed
}

fn fill(volume: &Path, first: u64, chunks: impl Iterator<Item = u64>) {
    let file = File::options().write(true).open(volume).expect("open");
    for (seed, chunk) in (first..).zip(chunks) {
        let len = usize::try_from(CHUNK).expect("small");
        file.write_all_at(&noise(seed, len), chunk * CHUNK)
            .expect("write");
    }
}

async fn restore(bed: &Bed, name: &str) -> Taken {
    let before = bed.endpoint.counters();
    let target = bed.restore(name).await.expect("restore");
    std::fs::remove_file(target).expect("remove");
    let after = bed.endpoint.counters();
    Taken {
        gets: after.requests("GetObject") - before.requests("GetObject"),
        bytes: after.bytes_sent - before.bytes_sent,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_backup_comes_back_in_one_get_for_8_to_16_mib() {
    let mut bed = bed().await;
    bed.settings.data_packs = PackSizes {
        pack_bytes: 64 << 20,
        part_bytes: 8 << 20,
    };
    bed.settings.packs_min = 1;
    let bytes = 200 * MIB;
    let volume = bed.volume("volume", bytes, &[]);
    fill(&volume, 0, 0..bytes / CHUNK);
    bed.backup(&volume, "fresh").await.expect("backup");
    let taken = restore(&bed, "fresh").await;
    // `repository`, the log, the root, a parent of leaves and the leaves take one each.
    let metadata = 5;
    let gets = taken.gets - metadata;
    assert!(gets <= bytes / (8 * MIB), "{gets}");
    assert!(gets >= bytes / (16 * MIB), "{gets}");
    assert!(taken.bytes < bytes + MIB, "{}", taken.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_volume_with_many_backups_takes_to_restore_stays_bounded() {
    let bytes = number("RINGBACK_PLAN_MIB", 128) * MIB;
    let generations = number("RINGBACK_PLAN_GENERATIONS", 10);
    let bed = bed().await;
    let chunks = bytes / CHUNK;
    let volume = bed.volume("volume", bytes, &[]);
    fill(&volume, 0, 0..chunks);
    println!("{bytes} bytes, 1 % of its chunks changed at random before each backup");
    println!("| backups | GETs | MiB per GET | fetched / needed |");
    println!("|---|---|---|---|");
    let mut gets_of_the_first = 0;
    for generation in 0..=generations {
        let name = generation.to_string();
        bed.backup(&volume, &name).await.expect("backup");
        if [0, 1, 3, 10, 30, 100].contains(&generation) || generation == generations {
            let taken = restore(&bed, &name).await;
            println!(
                "| {} | {} | {:.1} | {:.3} |",
                generation + 1,
                taken.gets,
                bytes as f64 / taken.gets as f64 / MIB as f64,
                taken.bytes as f64 / bytes as f64,
            );
            // The metadata takes a thousandth.
            assert!(taken.bytes <= bytes / 1000 * 1251, "{}", taken.bytes);
            if generation == 0 {
                gets_of_the_first = taken.gets;
            }
            // Each new pack takes its requests; holes in the old ones take none.
            let new_packs = 3 * generation;
            assert!(generation > 10 || taken.gets <= gets_of_the_first + new_packs);
        }
        let random = noise(
            generation,
            usize::try_from(chunks / 100 * 8).expect("small"),
        );
        let changed = random.as_chunks::<8>().0.iter();
        let seed = (generation + 1) * chunks;
        fill(
            &volume,
            seed,
            changed.map(|bytes| u64::from_le_bytes(*bytes) % chunks),
        );
    }
}
