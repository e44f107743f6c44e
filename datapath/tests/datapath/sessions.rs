//! Backups that are stopped before their end, and those that go on with them.

use std::{
    fs::File,
    future::Future,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use ringback_datapath::{
    error::{Error, ErrorKind},
    stop::Stop,
    store::{Listed, ObjectStore},
};
use ringback_endpoint::{Moment, Stop as EndpointStop};

use crate::support::{Bed, assert_same, noise};

const MIB: u64 = 1 << 20;
const VOLUME_BYTES: u64 = 48 * MIB;
/// What packs are, cut into many.
const PACK_BYTES: u64 = 4 * MIB;
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests of a session beside its chunks: tree, segments, ref set, log.
const ASIDE_BYTES: u64 = MIB;

async fn bed() -> (Bed, PathBuf) {
    let mut bed = Bed::new().await;
    bed.settings.packs_min = 64;
    bed.settings.transfers_max = 2;
    let data = noise(1, usize::try_from(VOLUME_BYTES).expect("small"));
    let volume = bed.volume("volume", VOLUME_BYTES, &[(0, data)]);
    (bed, volume)
}

/// Packs of chunks in the store.
async fn packs(bed: &Bed) -> Vec<Listed> {
    let store = bed.client(PATIENCE).store().await;
    store.list("data/", None).await.expect("listed")
}

fn total(packs: &[Listed]) -> u64 {
    packs.iter().map(|pack| pack.bytes).sum()
}

/// Backs up until half of the volume has arrived, does this to it, and waits until the store is at rest.
async fn stop_half_way(bed: &Bed, volume: &Path, name: &str, how: impl Fn(&Stop)) {
    stop_after(bed, volume, name, VOLUME_BYTES / 2, how).await;
}

async fn stop_after(bed: &Bed, volume: &Path, name: &str, bytes: u64, how: impl Fn(&Stop)) {
    let stop = Stop::default();
    let client = bed.client(PATIENCE);
    let backup = client.stoppable_backup(volume, name, &stop);
    // Whatever the machine does meanwhile, no more gets through before the backup is told.
    let store_stops = |operation: &str, bytes_each| {
        bed.endpoint.stop_at(EndpointStop {
            operation: operation.to_owned(),
            path_contains: "/data/".to_owned(),
            nth: bytes / bytes_each,
            moment: Moment::Applied,
        })
    };
    let (packs, parts) = (
        store_stops("PutObject", PACK_BYTES),
        store_stops("UploadPart", bed.settings.data_packs.part_bytes.into()),
    );
    let stopped = async {
        tokio::select! {
            () = packs.reached() => (),
            () = parts.reached() => (),
        }
        how(&stop);
        drop((packs, parts));
    };
    let (backup, ()) = tokio::join!(backup, stopped);
    let error = backup.expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
    bed.store_is_idle().await;
}

/// Bytes that the endpoint receives while this is done.
async fn received<T>(bed: &Bed, work: impl Future<Output = Result<T, Error>>) -> u64 {
    let before = bed.endpoint.counters().bytes_received;
    work.await.expect("done");
    bed.endpoint.counters().bytes_received - before
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopped_backup_left_whole_is_not_sent_again_whatever_the_next_one_is_called() {
    for how in [Stop::halt, Stop::wind_up] {
        let (bed, volume) = bed().await;
        stop_half_way(&bed, &volume, "first", how).await;
        stop_after(&bed, &volume, "first", VOLUME_BYTES / 4, how).await;
        let left = packs(&bed).await;
        assert!(total(&left) > VOLUME_BYTES / 2, "{left:?}");
        let sent = received(&bed, bed.backup(&volume, "second")).await;
        assert!(
            sent < VOLUME_BYTES - total(&left) + ASIDE_BYTES,
            "{sent} bytes sent, {left:?} were there"
        );
        assert_same(&volume, &bed.restore("second").await.expect("restored"));

        // Adopted packs are a backup's like any other: another volume finds them.
        let data = std::fs::read(&volume).expect("read");
        let twin = bed.volume("twin", VOLUME_BYTES, &[(0, data)]);
        let sent = received(&bed, bed.backup(&twin, "twin")).await;
        assert!(sent < ASIDE_BYTES, "{sent}");
        assert_same(&volume, &bed.restore("twin").await.expect("restored"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn winding_up_makes_use_of_all_that_was_sent() {
    let (bed, volume) = bed().await;
    let begun = bed.endpoint.counters().bytes_received;
    stop_half_way(&bed, &volume, "one", Stop::wind_up).await;
    bed.backup(&volume, "one").await.expect("backed up");
    let sent = bed.endpoint.counters().bytes_received - begun;
    assert!(sent < VOLUME_BYTES + 2 * ASIDE_BYTES, "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halted_backup_leaves_no_upload_behind() {
    let (mut bed, volume) = bed().await;
    bed.settings.packs_min = 1;
    stop_half_way(&bed, &volume, "one", Stop::halt).await;
    assert!(bed.endpoint.counters().requests("CreateMultipartUpload") > 0);
    let store = bed.client(PATIENCE).store().await;
    assert_eq!(store.abandon_uploads("").await.expect("listed"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_a_killed_backup_are_given_up_by_the_next_one() {
    let (bed, volume) = bed().await;
    stop_half_way(&bed, &volume, "one", Stop::halt).await;
    let store = bed.client(PATIENCE).store().await;
    let pack = &packs(&bed).await[0].name;
    let session = pack.rsplit_once('/').expect("a folder").0;
    // As a killed process leaves it.
    store
        .upload(
            &format!("{session}/00000009-000000000000000000000000"),
            5 << 20,
        )
        .await
        .expect("begun");
    store
        .upload("data/another/1", 5 << 20)
        .await
        .expect("begun");
    bed.backup(&volume, "one").await.expect("backed up");
    assert_eq!(store.abandon_uploads("").await.expect("listed"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_of_a_stopped_backup_is_passed_over() {
    let (bed, volume) = bed().await;
    stop_half_way(&bed, &volume, "one", Stop::halt).await;
    let store = bed.client(PATIENCE).store().await;
    let left = packs(&bed).await;
    for (pack, len) in left.iter().zip([0, 31, 40, 1000]) {
        let bytes = store.get(&pack.name).await.expect("fetched").slice(..len);
        store.put(&pack.name, bytes.into()).await.expect("stored");
    }
    // Not a name that ringback gives.
    let session = left[0].name.rsplit_once('/').expect("a folder").0;
    let bytes = bytes::Bytes::from_static(b"foreign");
    let foreign = format!("{session}/foreign");
    store.put(&foreign, bytes.into()).await.expect("stored");
    bed.backup(&volume, "one").await.expect("backed up");
    assert_same(&volume, &bed.restore("one").await.expect("restored"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_is_backed_up_as_it_is_now() {
    let (bed, volume) = bed().await;
    stop_half_way(&bed, &volume, "one", Stop::halt).await;
    let file = File::options().write(true).open(&volume).expect("open");
    file.write_all_at(&noise(2, 5 << 20), 3 * MIB)
        .expect("write");
    bed.backup(&volume, "one").await.expect("backed up");
    assert_same(&volume, &bed.restore("one").await.expect("restored"));
}
