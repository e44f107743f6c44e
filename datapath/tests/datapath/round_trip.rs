//! Volumes of all kinds, and their second backup.

use std::{fs::File, os::unix::fs::FileExt};

use crate::support::{Bed, assert_same, noise};
use ringback_datapath::error::{Error, ErrorKind};

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_comes_back_byte_for_byte_with_its_holes() {
    let bed = Bed::new().await;
    let volume = bed.volume(
        "volume",
        256 * MIB,
        &[
            (0, noise(1, 30 << 20)),
            (100 * MIB + 4096, noise(2, 5000)),
            (200 * MIB, vec![0; 4 << 20]),
            (256 * MIB - 512, noise(3, 512)),
        ],
    );
    let committed = bed.backup(&volume, "one").await.expect("backup");
    let statistics = committed.commit.statistics.expect("statistics");
    let restored = bed.restore("one").await.expect("restore");
    assert_same(&volume, &restored);

    let sum = statistics.hole_bytes
        + statistics.zero_bytes
        + statistics.new_bytes
        + statistics.duplicate_bytes
        + statistics.unchanged_bytes;
    assert_eq!(sum, 256 * MIB, "{statistics:?}");
    assert!(statistics.hole_bytes > 200 * MIB, "{statistics:?}");
    assert!(statistics.zero_bytes >= 4 * MIB, "{statistics:?}");
    let blocks = std::os::unix::fs::MetadataExt::blocks(&restored.metadata().expect("stat"));
    assert!(blocks * 512 < 32 * MIB, "holes stay holes: {blocks}");
    let counters = bed.endpoint.counters();
    assert!(counters.requests("UploadPart") > 2, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_backup_sends_what_changed_and_no_more() {
    let bed = Bed::new().await;
    let volume = bed.volume("volume", 64 * MIB, &[(0, noise(1, 40 << 20))]);
    bed.backup(&volume, "one").await.expect("first");
    let file = File::options().write(true).open(&volume).expect("open");
    // One chunk changed, one copied from elsewhere, one made zero.
    file.write_all_at(&noise(9, 100), 10 * MIB).expect("write");
    let mut copied = vec![0; 64 << 10];
    File::open(&volume)
        .expect("open")
        .read_exact_at(&mut copied, 0)
        .expect("read");
    file.write_all_at(&copied, 50 * MIB).expect("write");
    file.write_all_at(&vec![0; 64 << 10], 20 * MIB)
        .expect("write");
    let second = bed.backup(&volume, "two").await.expect("second");
    let statistics = second.commit.statistics.expect("statistics");
    assert_eq!(statistics.new_bytes, 64 << 10);
    assert_eq!(statistics.duplicate_bytes, 64 << 10);
    assert_eq!(statistics.unchanged_bytes, 40 * MIB - (128 << 10));
    assert!(statistics.sent_bytes < 128 << 10, "{statistics:?}");
    let restored = bed.restore("two").await.expect("restore");
    assert_same(&volume, &restored);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_data_of_another_volume_is_not_sent_again() {
    let bed = Bed::new().await;
    let data = noise(1, 8 << 20);
    let first = bed.volume("first", 16 * MIB, &[(0, data.clone())]);
    let other = bed.volume("other", 32 * MIB, &[(16 * MIB, data)]);
    bed.backup(&first, "one").await.expect("first");
    let committed = bed.backup(&other, "two").await.expect("other");
    let statistics = committed.commit.statistics.expect("statistics");
    assert_eq!(
        (statistics.new_bytes, statistics.duplicate_bytes),
        (0, 8 * MIB)
    );
    assert_same(&other, &bed.restore("two").await.expect("restore"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_odd_empty_and_all_zero_volumes_come_back() {
    let bed = Bed::new().await;
    for (name, bytes, extents) in [
        ("one-sector", 512, vec![(0, noise(1, 512))]),
        (
            "odd",
            3 * MIB + 512,
            vec![(2 * MIB, noise(2, (1 << 20) + 512))],
        ),
        ("no-sectors", 70_001, vec![(0, noise(3, 70_001))]),
        ("one-byte", 1, vec![(0, vec![1])]),
        ("empty", 0, vec![]),
        ("zero", 8 * MIB, vec![(0, vec![0; 1 << 20])]),
    ] {
        let volume = bed.volume(name, bytes, &extents);
        bed.backup(&volume, name).await.expect(name);
        assert_same(&volume, &bed.restore(name).await.expect(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_is_refused_and_the_first_backup_stays() {
    let bed = Bed::new().await;
    let first = bed.volume("first", MIB, &[(0, noise(1, 1 << 20))]);
    let other = bed.volume("other", MIB, &[(0, noise(2, 1 << 20))]);
    bed.backup(&first, "one").await.expect("first");
    let error = bed.backup(&other, "one").await.expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::NameTaken, "{error}");
    assert_same(&first, &bed.restore("one").await.expect("restore"));
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_repository_all_get_their_commit() {
    let bed = Bed::new().await;
    bed.repository().await;
    let volumes: Vec<_> = (0..6)
        .map(|n| bed.volume(&format!("v{n}"), MIB, &[(0, noise(n, 1 << 20))]))
        .collect();
    let names: Vec<String> = (0..6).map(|n| format!("b{n}")).collect();
    let backups = volumes
        .iter()
        .zip(&names)
        .map(|(volume, name)| bed.backup(volume, name));
    let done = futures::future::join_all(backups).await;
    let mut slots: Vec<u64> = done
        .into_iter()
        .map(|it| it.expect("backup").slot.0)
        .collect();
    slots.sort_unstable();
    assert_eq!(slots, [1, 2, 3, 4, 5, 6]);
    for (volume, name) in volumes.iter().zip(&names) {
        assert_same(volume, &bed.restore(name).await.expect("restore"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() {
    let bed = Bed::new().await;
    let volume = bed.volume("volume", MIB, &[]);
    bed.backup(&volume, "one").await.expect("backup");
    let error = bed.restore("two").await.expect_err("no such backup");
    assert!(
        matches!(&error, Error::NoBackup { backup, .. } if backup == "two"),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
