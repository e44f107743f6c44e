//! Starting, stopping, credentials, restarts.

use aws_sdk_s3::config::RequestChecksumCalculation;
use ringback_endpoint::{Backing, Endpoint, Error, Options};

use crate::bed::{
    BUCKET, Bed, client, client_with, get, on_both_backings, partial_count, refusal, reply, start,
};

on_both_backings! {
    async fn a_wrong_secret_is_refused(bed: &Bed) {
        let client = client_with(&bed.endpoint, "wrong", RequestChecksumCalculation::WhenRequired);
        let put = client.put_object().bucket(BUCKET).key("key").body(b"bytes".to_vec().into());
        assert_eq!(refusal(put.send().await), reply(403, "SignatureDoesNotMatch"));
        assert_eq!(refusal(client.list_buckets().send().await), reply(403, "SignatureDoesNotMatch"));
        assert_eq!(bed.get("key").await, None);
        assert_eq!(bed.endpoint.counters().refused, 2);
    }
}

#[tokio::test]
async fn credentials_are_random_unless_given() {
    let (one, other) = (start(Backing::Memory).await, start(Backing::Memory).await);
    assert_ne!(one.access_key_id(), other.access_key_id());
    assert_ne!(one.secret_access_key(), other.secret_access_key());
    assert!(!format!("{one:?}").contains(one.secret_access_key()));

    let given = Options {
        access_key_id: Some("id".to_owned()),
        secret_access_key: Some("secret".to_owned()),
        ..Options::default()
    };
    let given = Endpoint::start(given).await.unwrap();
    assert_eq!(
        (given.access_key_id(), given.secret_access_key()),
        ("id", "secret")
    );
    client(&given).list_buckets().send().await.unwrap();
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let endpoint = start(Backing::Memory).await;
    let bind = endpoint
        .url()
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    let taken = Endpoint::start(Options {
        bind,
        ..Options::default()
    })
    .await;
    assert!(matches!(taken, Err(Error::Bind { address, .. }) if address == bind));
    let bucket = Endpoint::start(Options {
        buckets: vec!["../x".to_owned()],
        ..Options::default()
    })
    .await;
    assert!(matches!(bucket, Err(Error::Bucket { name, .. }) if name == "../x"));
    let folder = Backing::Folder("/proc/no/such/place".into());
    let folder = Endpoint::start(Options {
        backing: folder,
        ..Options::default()
    })
    .await;
    assert!(matches!(folder, Err(Error::Folder { .. })));
}

#[tokio::test]
async fn shutdown_ends_open_connections() {
    let bed = Bed::memory().await;
    bed.put("key", "bytes").await;
    let held = bed.endpoint.hold_replies();
    let pending = tokio::spawn(bed.client.get_object().bucket(BUCKET).key("key").send());
    while bed.endpoint.counters().requests("GetObject") == 0 {
        tokio::task::yield_now().await;
    }
    bed.endpoint.shutdown().await;
    assert_eq!(refusal(pending.await.unwrap()).0, 0, "no reply at all");
    drop(held);
    bed.client
        .list_buckets()
        .send()
        .await
        .expect_err("nobody listens");
}

#[tokio::test]
async fn a_folder_survives_a_restart_with_everything_that_was_complete() {
    let dir = tempfile::tempdir().unwrap();
    let backing = Backing::Folder(dir.path().join("made/on/demand"));
    let endpoint = start(backing.clone()).await;
    let before = client(&endpoint);
    let long = "long/".repeat(200);
    for key in ["a", "a/b", "..", &long] {
        for version in ["old", "new"] {
            let put = before
                .put_object()
                .bucket(BUCKET)
                .key(key)
                .metadata("version", version);
            put.body(format!("{version} {key}").into_bytes().into())
                .send()
                .await
                .unwrap();
        }
    }
    before
        .put_object()
        .bucket(BUCKET)
        .key("deleted")
        .send()
        .await
        .unwrap();
    before
        .delete_object()
        .bucket(BUCKET)
        .key("deleted")
        .send()
        .await
        .unwrap();
    before.create_bucket().bucket("empty").send().await.unwrap();
    let upload = before
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("unfinished")
        .send()
        .await
        .unwrap();
    let part = before
        .upload_part()
        .bucket(BUCKET)
        .key("unfinished")
        .upload_id(upload.upload_id().unwrap());
    part.part_number(1)
        .body(b"part".to_vec().into())
        .send()
        .await
        .unwrap();
    let head_before = before
        .head_object()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await
        .unwrap();

    let in_use = Endpoint::start(Options {
        backing: backing.clone(),
        ..Options::default()
    })
    .await;
    assert!(matches!(in_use, Err(Error::FolderInUse { .. })));
    endpoint.shutdown().await;

    let endpoint = start(backing).await;
    let after = client(&endpoint);
    for key in ["a", "a/b", "..", &long] {
        assert_eq!(
            get(&after, key).await.unwrap(),
            format!("new {key}").into_bytes()
        );
    }
    let head_after = after
        .head_object()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await
        .unwrap();
    assert_eq!(head_after.e_tag(), head_before.e_tag());
    assert_eq!(head_after.last_modified(), head_before.last_modified());
    assert_eq!(head_after.metadata().unwrap()["version"], "new");
    assert_eq!(
        after
            .list_objects_v2()
            .bucket(BUCKET)
            .send()
            .await
            .unwrap()
            .key_count(),
        Some(4)
    );
    after.head_bucket().bucket("empty").send().await.unwrap();
    assert!(
        after
            .list_multipart_uploads()
            .bucket(BUCKET)
            .send()
            .await
            .unwrap()
            .uploads()
            .is_empty()
    );
    assert_eq!(partial_count(&dir.path().join("made/on/demand")), 0);
    let again = after
        .put_object()
        .bucket(BUCKET)
        .key("a")
        .if_none_match("*")
        .send()
        .await;
    assert_eq!(refusal(again), reply(412, "PreconditionFailed"));
}
