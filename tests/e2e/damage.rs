//! Restores that fail: each with the contract's code, and with nothing left of the volume.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use ringback_proto::{control::JobPhase, lvmd::data_source::S3};
use tonic::{Code, Status};

use crate::{
    client::{Client, assert_refused, asynchronous, backup, synchronous},
    harness::{Daemon, GIB, MIB},
    objects::{Objects, object_bytes},
    store::{Store, assert_same_content, fill},
};

/// Bytes before the first record of a pack, and before the body of a small object.
const HEADER_BYTES: u64 = 32;

/// A daemon with a volume `data`, and a store of files with its backup.
struct Bed {
    daemon: Daemon,
    client: Client,
    store: Store,
    objects: Objects,
}

impl Bed {
    async fn new() -> Self {
        let objects = Objects::new();
        let (daemon, store) = (Daemon::start(), objects.store().await);
        let client = daemon.client().await;
        let volume = client.create("data", 32 * MIB).await;
        fill(&volume.path, MIB, 12 * MIB, "content");
        client.back_up("data", &store.s3("monday")).await;
        Self {
            daemon,
            client,
            store,
            objects,
        }
    }

    /// The store as another process would find it: with what the files are now.
    async fn reopen(&mut self) {
        let elsewhere = Store::start().await;
        let store = std::mem::replace(&mut self.store, elsewhere);
        self.store = self.objects.reopened(store).await;
    }

    async fn restore(&self, s3: &S3) -> Result<(), Status> {
        self.client
            .restore("again", 1, &synchronous(s3))
            .await
            .map(drop)
    }

    /// Asserts that a restore fails with this code, waited for or not, and leaves nothing.
    async fn assert_fails(&self, s3: &S3, code: Code, says: &str) {
        assert_refused(self.restore(s3).await, code, says);
        self.assert_nothing_is_left().await;
        if self
            .client
            .restore("again", 1, &asynchronous(s3))
            .await
            .is_ok()
        {
            let end = self.client.end_of_restore("again").await;
            assert_eq!(end.phase(), JobPhase::Failed, "{says}");
            assert!(end.error.contains(says), "{}", end.error);
            let told = self.client.restore("again", 1, &asynchronous(s3)).await;
            assert_refused(told.map(drop), code, says);
        }
        self.assert_nothing_is_left().await;
    }

    async fn assert_nothing_is_left(&self) {
        assert_eq!(self.client.find("again").await, None);
        self.daemon.assert_nothing_is_left_of("again");
        self.client.create("again", MIB).await;
        self.client.remove("again").await.expect("it is removed");
    }
}

/// Flips a bit of an object; a second flip at the same place mends it.
pub(crate) fn flip(file: &Path, at: u64) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(file)
        .expect("opens the object");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("reads the object");
    file.write_all_at(&[byte[0] ^ 0x10], at)
        .expect("writes the object");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_is_data_loss_and_mended_it_restores() {
    let bed = Bed::new().await;
    let s3 = bed.store.s3("monday");
    for (kind, at, says) in [
        (
            "data/",
            Some(HEADER_BYTES + 1),
            "is damaged at byte 1048576: object data/",
        ),
        ("data/", None, "is damaged at byte "),
        ("tree/", Some(HEADER_BYTES + 1), "the object tree/"),
        ("log/", None, "the object log/0000000000000001"),
        ("repository", Some(HEADER_BYTES), "the object repository"),
    ] {
        let file = &bed.objects.of_kind(kind)[0];
        let at = at.unwrap_or(object_bytes(file) / 2);
        flip(file, at);
        bed.assert_fails(&s3, Code::DataLoss, says).await;
        flip(file, at);
    }
    bed.restore(&s3).await.expect("it is restored");
    let (data, again) = (
        bed.client.find("data").await,
        bed.client.find("again").await,
    );
    assert_same_content(
        &data.expect("is there").path,
        &again.expect("is there").path,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pack_is_data_loss() {
    for (kind, says) in [("data/", "is missing"), ("tree/", "is missing")] {
        let mut bed = Bed::new().await;
        for file in bed.objects.of_kind(kind) {
            fs::remove_file(file).expect("removes the object");
        }
        bed.reopen().await;
        bed.assert_fails(&bed.store.s3("monday"), Code::DataLoss, says)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_log_is_data_loss_for_every_backup() {
    let mut bed = Bed::new().await;
    for name in ["tuesday", "wednesday"] {
        bed.client
            .end_of(&backup(name, "data", &bed.store.s3(name)))
            .await;
    }
    fs::remove_file(&bed.objects.of_kind("log/")[1]).expect("removes the entry of tuesday");
    bed.reopen().await;
    for name in ["monday", "tuesday", "wednesday"] {
        let s3 = bed.store.s3(name);
        bed.assert_fails(&s3, Code::DataLoss, "the log has later entries")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let bed = Bed::new().await;
    for (path, says) in [
        ("backups/team/tuesday", "there is no backup \"tuesday\""),
        ("backups/other/monday", "there is no backup \"monday\""),
        (
            "no-such-bucket/team/monday",
            "there is no bucket \"no-such-bucket\"",
        ),
    ] {
        bed.assert_fails(&bed.store.at(path), Code::NotFound, says)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_the_store_does_not_take_are_denied() {
    let bed = Bed::new().await;
    let wrong_secret = S3 {
        secret_access_key: "wrong".to_owned(),
        ..bed.store.s3("monday")
    };
    let wrong_id = S3 {
        access_key_id: "NOBODY".to_owned(),
        ..bed.store.s3("monday")
    };
    for s3 in [wrong_secret, wrong_id] {
        bed.assert_fails(&s3, Code::PermissionDenied, "denies access")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_nobody_answers_for_is_unavailable() {
    let bed = Bed::new().await;
    let s3 = S3 {
        endpoint: "http://127.0.0.1:1".to_owned(),
        ..bed.store.s3("monday")
    };
    assert_refused(
        bed.restore(&s3).await,
        Code::Unavailable,
        "http://127.0.0.1:1",
    );
    bed.assert_nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_too_small_or_finds_no_room_is_refused() {
    let bed = Bed::new().await;
    bed.client.create("large", GIB + 4096).await;
    let large = bed.store.s3("large");
    bed.client.end_of(&backup("large", "large", &large)).await;
    bed.assert_fails(&large, Code::OutOfRange, "the backup 1073745920")
        .await;
    bed.client
        .restore("again", 2, &synchronous(&large))
        .await
        .expect("it is restored");

    let huge = synchronous(&bed.store.s3("monday"));
    let refused = bed.client.restore("huge", 1 << 20, &huge).await;
    assert_refused(refused, Code::ResourceExhausted, "bytes are needed");
    bed.daemon.assert_nothing_is_left_of("huge");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_once_and_then_the_restore_starts_anew() {
    let bed = Bed::new().await;
    let s3 = bed.store.s3("monday");
    let file = &bed.objects.of_kind("data/")[0];
    flip(file, object_bytes(file) / 2);
    bed.client
        .restore("again", 1, &asynchronous(&s3))
        .await
        .expect("it begins");
    bed.client.end_of_restore("again").await;
    flip(file, object_bytes(file) / 2);
    let told = bed.client.restore("again", 1, &asynchronous(&s3)).await;
    assert_refused(told, Code::DataLoss, "is damaged at byte");
    bed.client
        .restore("again", 1, &asynchronous(&s3))
        .await
        .expect("it begins anew");
    bed.client.end_of_restore("again").await;
    let (data, again) = (
        bed.client.find("data").await,
        bed.client.find("again").await,
    );
    assert_same_content(
        &data.expect("is there").path,
        &again.expect("is there").path,
    );
}
