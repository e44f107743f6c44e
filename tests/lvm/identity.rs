//! A volume is known by the uuid that LVM gives it, and not by its name.

use ringback_proto::{control::BackupStats, lvmd::StateType};

use crate::{
    client::backup,
    harness::MIB,
    store::fill,
    vg::{Bed, VG, field, run},
};

/// Fills a volume of 16 MiB with what is the same each time, but for the mebibyte 8.
fn write_data(volume: &str, seed: &str) {
    let device = format!("/dev/{VG}/{volume}");
    fill(&device, 0, 16 * MIB, "data");
    fill(&device, 8 * MIB, MIB, seed);
    run(&["sync"]);
}

/// Backs up, and tells what became of the bytes.
async fn back_up(bed: &Bed, volume: &str, name: &str) -> BackupStats {
    bed.client.back_up(volume, &bed.store.s3(name)).await;
    let info = bed.client.show(&bed.store.s3(name)).await;
    let info = info.expect("it is there");
    let uuid = field(volume, "lv_uuid");
    assert!(info.volume_identity.contains(&uuid), "{info:?}");
    info.stats.expect("has them")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_the_same_after_a_restart_and_a_rename_and_another_when_it_is_made_again() {
    let mut bed = Bed::new().await;
    bed.create("thick", "data", 16 * MIB).await;
    write_data("data", "one");
    let first = back_up(&bed, "data", "monday").await;
    assert_eq!((first.unchanged_bytes, first.new_bytes), (0, 16 * MIB));

    bed.restart().await;
    let log_before = bed.daemon.log().len();
    let uploads = || {
        let counters = bed.store.endpoint.counters();
        ["PutObject", "CreateMultipartUpload"].map(|it| counters.requests(it))
    };
    let before = uploads();
    let request = backup("a-backup", "data", &bed.store.s3("monday"));
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    assert_eq!(uploads(), before);
    let log = bed.daemon.log();
    assert!(!log[log_before..].contains("reading the volume"), "{log}");

    run(&["lvrename", VG, "data", "other"]);
    write_data("other", "two");
    let second = back_up(&bed, "other", "tuesday").await;
    assert_eq!(
        (second.unchanged_bytes, second.new_bytes),
        (15 * MIB, MIB),
        "its parent is monday"
    );

    bed.remove("thick", "other").await.expect("it is removed");
    bed.create("thin", "data", 16 * MIB).await;
    write_data("data", "one");
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    let says = "monday is taken by a backup of an earlier volume \"data\" (identity ";
    assert!(state.msg.contains(says), "{}", state.msg);
    bed.assert_left(&["data"]);
    let third = back_up(&bed, "data", "wednesday").await;
    assert_eq!(
        (third.unchanged_bytes, third.duplicate_bytes),
        (0, 16 * MIB),
        "it has no parent"
    );
}
