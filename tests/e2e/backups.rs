//! Backups: started by a call, asked about by the next ones, and known to the store for ever.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use ringback_proto::lvmd::{
    CreateBackupRequest, CreateLvRequest, LogicalVolume, StateType, data_source::S3,
};
use tonic::Code;

use crate::{
    client::{Client, assert_refused, backup, ok, sized_bytes},
    harness::{Daemon, MIB, class},
    store::{Store, fill},
};

/// A daemon with a volume `data` of 64 MiB, half of it data, and a store.
pub(crate) async fn bed() -> (Daemon, Client, Store) {
    let (daemon, store) = (Daemon::start(), Store::start().await);
    let client = daemon.client().await;
    let volume = client.create("data", 64 * MIB).await;
    fill(&volume.path, 4 * MIB, 32 * MIB, "content");
    (daemon, client, store)
}

/// A daemon with two classes of which `fast` is the default one, and a store.
async fn bed_of_two() -> (Daemon, Client, Store) {
    let daemon =
        Daemon::with(|folder| class("fast", folder, 0, true) + &class("slow", folder, 0, false));
    let (client, store) = (daemon.client().await, Store::start().await);
    (daemon, client, store)
}

/// Makes `data` in `slow`.
async fn create_slow(client: &Client) -> LogicalVolume {
    let slow = CreateLvRequest {
        device_class: "slow".to_owned(),
        ..sized_bytes("data", 2 * MIB)
    };
    let made = ok(client.clone().lv.create_lv(slow).await);
    made.volume.expect("the answer has the volume")
}

pub(crate) async fn assert_ends_in_error(
    client: &Client,
    request: &CreateBackupRequest,
    says: &str,
) {
    let state = client.end_of(request).await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    assert!(state.msg.contains(says), "{}", state.msg);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_started_by_one_call_and_stays_complete_for_the_next_ones() {
    let (_daemon, client, store) = bed().await;
    let request = backup("nightly", "data", &store.s3("monday"));
    let state = client.poll(&request).await.expect("it starts");
    assert_eq!(
        (&state.name[..], state.state()),
        ("nightly", StateType::Inprogress)
    );
    let state = client.end_of(&request).await;
    assert_eq!(
        (&state.name[..], state.state()),
        ("nightly", StateType::Complete)
    );
    assert!(
        state.msg.contains("64.0 MiB backed up: 32.0 MiB new"),
        "{}",
        state.msg
    );
    let requests = store.requests();
    assert_eq!(client.poll(&request).await.expect("it is known"), state);
    assert_eq!(
        store.requests(),
        requests,
        "what was just completed is remembered"
    );

    let info = client.show(&store.s3("monday")).await.expect("it is there");
    assert_eq!(
        (&info.name[..], &info.request_name[..]),
        ("monday", "nightly")
    );
    assert_eq!(info.volume_handle, "data");
    assert_eq!((info.size_bytes, info.slot), (64 * MIB, 1));
    let stats = info.stats.expect("has them");
    assert_eq!((stats.new_bytes, stats.hole_bytes), (32 * MIB, 32 * MIB));
    assert!(
        (32 * MIB..34 * MIB).contains(&stats.sent_bytes),
        "{stats:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_backup_sends_what_changed() {
    let (_daemon, client, store) = bed().await;
    client.back_up("data", &store.s3("monday")).await;
    let volume = client.find("data").await.expect("it is there");
    fill(&volume.path, 50 * MIB, MIB, "a change");
    let before = store.endpoint.counters().bytes_received;
    let request = backup("nightly", "data", &store.s3("tuesday"));
    let state = client.end_of(&request).await;
    assert!(
        state.msg.contains("1.0 MiB new, 32.0 MiB unchanged"),
        "{}",
        state.msg
    );
    let sent = store.endpoint.counters().bytes_received - before;
    assert!((MIB..2 * MIB).contains(&sent), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_the_store_knows_that_a_backup_is_complete() {
    let (mut daemon, client, store) = bed().await;
    let request = backup("nightly", "data", &store.s3("monday"));
    let complete = client.end_of(&request).await;
    let before = store.endpoint.counters();
    daemon.restart();
    let client = daemon.client().await;
    // What the store does not keep is the warning that the snapshot was a copy.
    let known = client.end_of(&request).await;
    assert_eq!(known.state(), StateType::Complete, "{}", known.msg);
    assert!(complete.msg.starts_with(&known.msg), "{}", known.msg);
    let after = store.endpoint.counters();
    assert_eq!(after.requests("PutObject"), before.requests("PutObject"));
    assert_eq!(after.requests("UploadPart"), before.requests("UploadPart"));

    client.remove("data").await.expect("it is removed");
    assert_eq!(client.poll(&request).await.expect("it is known"), known);
    daemon.restart();
    // Without the volume there is nothing to start: the store is asked at once.
    let client = daemon.client().await;
    assert_eq!(client.poll(&request).await.expect("it is known"), known);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_volume_nor_backup_is_not_found() {
    let (_daemon, client, store) = bed().await;
    for s3 in [
        store.s3("monday"),
        store.at("s3://no-such-bucket/team/monday"),
    ] {
        let refused = client.poll(&backup("nightly", "absent", &s3)).await;
        assert_refused(refused, Code::NotFound, "");
    }
    client.back_up("data", &store.s3("monday")).await;
    for (name, handle, path) in [
        ("a-backup", "absent", "monday"),
        ("another-name", "absent", "monday"),
        ("a-backup", "fast/absent", "tuesday"),
        ("a-backup", "no-such-group/data", "tuesday"),
    ] {
        let refused = client.poll(&backup(name, handle, &store.s3(path))).await;
        assert_refused(
            refused,
            Code::NotFound,
            "there is no such volume, nor a backup of it",
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_for_an_absent_volume_is_unavailable_within_seconds() {
    let (_daemon, client, store) = bed().await;
    let _held = store.endpoint.hold_replies();
    let closed = S3 {
        endpoint: "http://127.0.0.1:1".to_owned(),
        ..store.s3("monday")
    };
    let (silent, closed) = (
        backup("one", "absent", &store.s3("monday")),
        backup("other", "absent", &closed),
    );
    let started = Instant::now();
    let answers = tokio::join!(client.poll(&silent), client.poll(&closed));
    for answer in [answers.0, answers.1] {
        assert_refused(answer, Code::Unavailable, "");
    }
    assert!(
        started.elapsed() < Duration::from_secs(7),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_taken_is_an_error_that_says_by_what_and_is_told_once() {
    let (_daemon, client, store) = bed().await;
    client.back_up("data", &store.s3("monday")).await;
    client.create("other", MIB).await;
    let by_name = backup("another-name", "data", &store.s3("monday"));
    let by_volume = backup("a-backup", "other", &store.s3("monday"));
    for (request, says) in [
        (&by_name, "is taken by a backup named \"a-backup\""),
        (&by_volume, "is taken by a backup of volume \"data\""),
        // Told: it is tried again, and found to be the same.
        (&by_name, "is taken by a backup named \"a-backup\""),
    ] {
        let state = client.poll(request).await.expect("it starts");
        assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
        assert_ends_in_error(&client, request, says).await;
    }
    client.remove("data").await.expect("it is removed");
    client.create("data", MIB).await;
    let by_identity = backup("a-backup", "data", &store.s3("monday"));
    assert_ends_in_error(&client, &by_identity, "of an earlier volume \"data\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_made_again_under_its_name_is_not_told_of_the_earlier_ones_backup() {
    let (_daemon, client, store) = bed().await;
    client.back_up("data", &store.s3("monday")).await;
    let request = backup("a-backup", "data", &store.s3("monday"));
    client.remove("data").await.expect("it is removed");
    let state = client.poll(&request).await.expect("it was one");
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    client.create("data", MIB).await;
    assert_ends_in_error(&client, &request, "of an earlier volume \"data\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_backup_ended_is_told_also_when_its_volume_cannot_be_asked_about() {
    let (_daemon, client, store) = bed_of_two().await;
    let volume = client.create("data", MIB).await;
    client.back_up("data", &store.s3("monday")).await;
    let request = backup("a-backup", "data", &store.s3("monday"));
    create_slow(&client).await;
    let state = client.poll(&request).await.expect("it is told");
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);

    let record = Path::new(&volume.path).with_file_name("volume.json");
    assert!(record.exists(), "{record:?}");
    std::fs::write(record, "{").expect("damages it");
    let state = client.poll(&request).await.expect("it is told");
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_backup_ended_is_told_when_a_group_that_its_removed_volume_was_not_in_fails() {
    let (_daemon, client, store) = bed_of_two().await;
    client.create("data", MIB).await;
    client.back_up("data", &store.s3("monday")).await;
    let slow = create_slow(&client).await;
    let record = Path::new(&slow.path).with_file_name("volume.json");
    std::fs::write(record, "not a record").expect("writes");
    client.remove("data").await.expect("it is removed");
    let another = backup("another", "data", &store.s3("tuesday"));
    let failed = client.poll(&another).await.expect_err("nobody knows");
    assert!(failed.message().contains("volume.json"), "{failed}");
    let request = backup("a-backup", "data", &store.s3("monday"));
    let state = client.poll(&request).await.expect("that is known");
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_may_name_the_group_and_must_where_several_have_the_volume() {
    let (_daemon, client, store) = bed_of_two().await;
    create_slow(&client).await;
    // In one group alone: found wherever it is.
    client.back_up("data", &store.s3("monday")).await;
    client.create("data", MIB).await;
    let ambiguous = client
        .poll(&backup("nightly", "data", &store.s3("tuesday")))
        .await;
    assert_refused(
        ambiguous,
        Code::InvalidArgument,
        "several volume groups (fast, slow)",
    );
    client.back_up("slow/data", &store.s3("wednesday")).await;
    let info = client
        .show(&store.s3("wednesday"))
        .await
        .expect("it is there");
    assert_eq!(
        (&info.volume_handle[..], info.size_bytes),
        ("slow/data", 2 * MIB)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_the_store_is_a_state_and_not_a_grpc_error() {
    let (daemon, client, store) = bed().await;
    let wrong_secret = S3 {
        secret_access_key: "wrong".to_owned(),
        ..store.s3("monday")
    };
    let wrong_id = S3 {
        access_key_id: "NOBODY".to_owned(),
        ..store.s3("monday")
    };
    let no_bucket = store.at("s3://no-such-bucket/team/monday");
    for (s3, says) in [
        (wrong_secret, "denies access"),
        (wrong_id, "denies access"),
        (no_bucket, "there is no bucket \"no-such-bucket\""),
    ] {
        let request = backup("nightly", "data", &s3);
        assert_ends_in_error(&client, &request, says).await;
    }
    assert_eq!(daemon.entries("fast", "temporary"), [""; 0]);
    // None of it keeps the next one from being made.
    client.back_up("data", &store.s3("monday")).await;
}
