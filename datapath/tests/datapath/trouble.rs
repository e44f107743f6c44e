//! Stores that stop answering, and jobs that are given up.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use ringback_datapath::{error::ErrorKind, store::ObjectStore};
use ringback_endpoint::{Fault, FaultPlan};
use tokio::time::{sleep, timeout};

use crate::support::{Bed, Client, assert_same, noise};

const MIB: u64 = 1 << 20;
/// Far more than any of this takes, and less than forever.
const NOT_FOREVER: Duration = Duration::from_secs(60);

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(NOT_FOREVER, waiting).await.expect(what);
}

fn large_volume(bed: &Bed) -> std::path::PathBuf {
    bed.volume("volume", 64 * MIB, &[(0, noise(1, 60 << 20))])
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_on_where_they_were_when_withheld_replies_come() {
    let bed = Arc::new(Bed::new().await);
    let volume = large_volume(&bed);
    let backup = tokio::spawn({
        let (bed, volume) = (Arc::clone(&bed), volume.clone());
        async move { bed.backup(&volume, "one").await }
    });
    until("parts go up", || {
        bed.endpoint.counters().requests("UploadPart") > 0
    })
    .await;
    let held = bed.endpoint.hold_replies();
    sleep(Duration::from_secs(1)).await;
    assert!(!backup.is_finished());
    drop(held);
    let done = timeout(NOT_FOREVER, backup).await.expect("goes on");
    done.expect("join").expect("backup");

    let before = bed.endpoint.counters().requests("GetObject");
    let restore = tokio::spawn({
        let bed = Arc::clone(&bed);
        async move { bed.restore("one").await }
    });
    until("ranges come in", || {
        bed.endpoint.counters().requests("GetObject") > before + 4
    })
    .await;
    let held = bed.endpoint.hold_replies();
    sleep(Duration::from_secs(1)).await;
    drop(held);
    let done = timeout(NOT_FOREVER, restore).await.expect("goes on");
    assert_same(&volume, &done.expect("join").expect("restore"));
}

/// Ends the endpoint in the middle of what `job` does; tells how that ended.
async fn cut_off<T>(
    bed: Bed,
    operation: &str,
    count: u64,
    job: impl AsyncFnOnce(&Client) -> T,
) -> T {
    let client = bed.client(Duration::from_secs(2));
    let ending = async {
        until("the job is at work", || {
            bed.endpoint.counters().requests(operation) >= count
        })
        .await;
        bed.endpoint.shutdown().await;
    };
    let both = async { tokio::join!(job(&client), ending).0 };
    timeout(NOT_FOREVER, both).await.expect("the job ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_store_goes_away_ends_with_an_error() {
    let bed = Bed::new().await;
    let volume = large_volume(&bed);
    let result = cut_off(bed, "UploadPart", 2, async |client| {
        client.backup(&volume, "one").await
    })
    .await;
    let error = result.map(|it| it.slot).expect_err("no store");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_whose_store_goes_away_ends_with_an_error() {
    let bed = Bed::new().await;
    let volume = large_volume(&bed);
    bed.backup(&volume, "one").await.expect("backup");
    let before = bed.endpoint.counters().requests("GetObject");
    let target = bed.folder.path().join("restored");
    let result = cut_off(bed, "GetObject", before + 4, async |client| {
        client.restore("one", &target).await
    })
    .await;
    let error = result.expect_err("no store");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_shrinks_while_it_is_backed_up_is_no_backup() {
    let bed = Arc::new(Bed::new().await);
    let volume = large_volume(&bed);
    let backup = tokio::spawn({
        let (bed, volume) = (Arc::clone(&bed), volume.clone());
        async move { bed.backup(&volume, "one").await.map(drop) }
    });
    until("parts go up", || {
        bed.endpoint.counters().requests("UploadPart") > 0
    })
    .await;
    // Buffers are far smaller than the volume: its end has not been read.
    let held = bed.endpoint.hold_replies();
    let file = std::fs::File::options().write(true).open(&volume);
    file.expect("open").set_len(20 * MIB).expect("shrinks");
    drop(held);
    let error = backup.await.expect("join").expect_err("no backup");
    assert!(
        error.to_string().contains("it was shrunk meanwhile"),
        "{error}"
    );
    let gone = bed.restore("one").await.expect_err("no backup");
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_slowed_down_is_used_in_full_again_when_it_serves_again() {
    let bed = Bed::new().await;
    let store = bed.client(Duration::from_secs(30)).store().await;
    let most = store.throttle().max();
    let slow_down = FaultPlan::always(Fault::SlowDown);
    bed.endpoint.set_faults(Some(slow_down));
    let put = tokio::spawn({
        let store = store.clone();
        async move { store.put("one", Bytes::from_static(b"1").into()).await }
    });
    // At most one cut a second.
    until("two cuts", || store.throttle().limit() <= most / 4).await;
    bed.endpoint.set_faults(None);
    put.await.expect("join").expect("it is stored");
    for _ in 0..most * most {
        let payload = Bytes::from_static(b"2").into();
        store.put("two", payload).await.expect("it is stored");
    }
    assert_eq!(store.throttle().limit(), most);
}

fn open_descriptors_of(path: &Path) -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("fds")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target == path)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_given_up_leaves_no_upload_and_no_open_volume() {
    let bed = Arc::new(Bed::new().await);
    let volume = large_volume(&bed);
    for round in 0..5u64 {
        let before = bed.endpoint.counters();
        let backup = tokio::spawn({
            let (bed, volume) = (Arc::clone(&bed), volume.clone());
            async move { bed.backup(&volume, "one").await.map(drop) }
        });
        until("parts go up", || {
            bed.endpoint.counters().requests("UploadPart")
                > before.requests("UploadPart") + round % 3
        })
        .await;
        backup.abort();
        let _ = backup.await;
        until("uploads are aborted and the volume is closed", || {
            let counters = bed.endpoint.counters();
            let ended = counters.requests("AbortMultipartUpload")
                + counters.requests("CompleteMultipartUpload");
            counters.requests("CreateMultipartUpload") <= ended && open_descriptors_of(&volume) == 0
        })
        .await;
    }
    bed.backup(&volume, "one").await.expect("backup");
    assert_same(&volume, &bed.restore("one").await.expect("restore"));
}
