//! Data sources that cannot be served, in backups and restores alike: refused with the field's
//! name before the store hears of anything.

use ringback_proto::{
    control::{ListBackupsRequest, ShowBackupRequest},
    lvmd::{Backup, CreateBackupRequest, DataSource, data_source::S3},
};
use tonic::Code;

use crate::{
    client::{Client, assert_refused, backup, ok, synchronous, with_source},
    harness::{Daemon, MIB, class},
    store::Store,
};

type Change = fn(&mut S3);

/// What can be wrong with where and how, and what the sentence says; it begins with the field.
const MALFORMED: [(Change, &str); 36] = [
    (|s3| s3.path = String::new(), "path \"\" is empty"),
    (
        |s3| s3.path = "s3://backups".into(),
        "path \"s3://backups\" has a bucket but no",
    ),
    (
        |s3| s3.path = "/backups/monday".into(),
        "path \"/backups/monday\" begins with a slash",
    ),
    (
        |s3| s3.path = "backups//monday".into(),
        "path \"backups//monday\" has an empty component",
    ),
    (
        |s3| s3.path = "backups/monday/".into(),
        "path \"backups/monday/\" has an empty component",
    ),
    (
        |s3| s3.path = "backups/../monday".into(),
        "path \"backups/../monday\" has the component",
    ),
    (
        |s3| s3.path = "backups/data/monday".into(),
        "path \"backups/data/monday\" has the component",
    ),
    (
        |s3| s3.path = "backups/monday?a=b".into(),
        "path \"backups/monday?a=b\" has the character",
    ),
    (
        |s3| s3.path = "http://backups/monday".into(),
        "path \"http://backups/monday\" has a scheme",
    ),
    (
        |s3| s3.path = "s3://id:hush@backups/monday".into(),
        "path \"s3://***@backups/monday\" has",
    ),
    (
        |s3| s3.path = "id:hush@s3://backups/monday".into(),
        "path \"***@s3://backups/monday\" has a scheme",
    ),
    (
        |s3| s3.endpoint = "id:hush@https://host".into(),
        "endpoint \"***@https://host\"",
    ),
    (
        |s3| s3.http_proxy = "id:hush@http://proxy:3128".into(),
        "http_proxy \"***@http://proxy:3128\"",
    ),
    (
        |s3| s3.endpoint = "127.0.0.1:9000".into(),
        "endpoint \"127.0.0.1:9000\" should be",
    ),
    (
        |s3| s3.endpoint = "ftp://host".into(),
        "endpoint \"ftp://host\" should be",
    ),
    (|s3| s3.endpoint = "http://".into(), "endpoint \"http://\""),
    (
        |s3| s3.endpoint = "http://host/path".into(),
        "endpoint \"http://host/path\" has a path",
    ),
    (
        |s3| s3.endpoint = "http://id:hush@host".into(),
        "endpoint \"http://***@host\" has",
    ),
    (
        |s3| s3.endpoint = "http://host?region=x".into(),
        "endpoint \"http://host?region=x\" has a path or query",
    ),
    (
        |s3| s3.endpoint = "http://:9000".into(),
        "endpoint \"http://:9000\"",
    ),
    (
        |s3| s3.endpoint = "http://host:0".into(),
        "endpoint \"http://host:0\" has a port that is none; a port is a number from 1 to 65535",
    ),
    (
        |s3| s3.endpoint = "http://host:70000".into(),
        "endpoint \"http://host:70000\" has a port that is none",
    ),
    (
        |s3| s3.endpoint = "http://host:".into(),
        "endpoint \"http://host:\" has a port that is none",
    ),
    (
        |s3| s3.endpoint = "http://[::1]:0".into(),
        "endpoint \"http://[::1]:0\" has a port that is none",
    ),
    (
        |s3| s3.endpoint = "http://[::1".into(),
        "endpoint \"http://[::1\" is not a URL",
    ),
    (
        |s3| s3.endpoint = "http://ho st".into(),
        "endpoint \"http://ho st\" is not a URL",
    ),
    (
        |s3| s3.https_proxy = "http://hush:hu/sh@proxy:1".into(),
        "https_proxy \"http://***@proxy:1\" has a path, query or fragment",
    ),
    (
        |s3| s3.https_proxy = "http://hush:12/hush@proxy".into(),
        "https_proxy \"http://***@proxy\" has a path, query or fragment",
    ),
    (
        |s3| s3.http_proxy = "http://hush:hush@proxy:70000".into(),
        "http_proxy \"http://***@proxy:70000\" has a port that is none",
    ),
    (
        |s3| s3.http_proxy = "http://proxy/path".into(),
        "http_proxy \"http://proxy/path\" has a path",
    ),
    (
        |s3| s3.http_proxy = "proxy".into(),
        "http_proxy \"proxy\" should be",
    ),
    (
        |s3| s3.https_proxy = "socks5://hush@proxy".into(),
        "https_proxy \"socks5://***@proxy\"",
    ),
    (
        |s3| s3.access_key_id = String::new(),
        "access_key_id is empty though secret_access_key",
    ),
    (
        |s3| s3.secret_access_key = String::new(),
        "secret_access_key is empty though access_key_id",
    ),
    (
        |s3| (s3.access_key_id, s3.session_token) = (String::new(), "hush".into()),
        "access_key_id is empty though",
    ),
    (
        |s3| {
            (s3.access_key_id, s3.secret_access_key) = (String::new(), String::new());
            s3.session_token = "hush".into();
        },
        "access_key_id is empty though session_token",
    ),
];

async fn bed() -> (Daemon, Client, Store) {
    let (daemon, store) = (Daemon::start(), Store::start().await);
    let client = daemon.client().await;
    client.create("data", MIB).await;
    (daemon, client, store)
}

/// Asserts that all calls that take `s3` refuse it with these words, and that nothing was made.
async fn assert_refused_by_all(client: &Client, s3: &S3, code: Code, says: &str) {
    let poll = client.poll(&backup("nightly", "data", s3)).await;
    assert_refused(poll, code, says);
    let restore = client.restore("again", 1, &synchronous(s3)).await;
    assert_refused(restore, code, says);
    let repository = ListBackupsRequest {
        repository: Some(s3.clone()),
    };
    let listed = client.clone().own.list_backups(repository).await;
    assert_refused(listed, code, says);
    assert_refused(client.show(s3).await, code, says);
}

#[tokio::test]
async fn a_malformed_place_or_way_is_refused_with_the_fields_name_and_no_secret() {
    let (daemon, client, store) = bed().await;
    for (change, says) in MALFORMED {
        let mut s3 = store.s3("monday");
        change(&mut s3);
        let poll = client.poll(&backup("nightly", "data", &s3)).await;
        let restore = client.restore("again", 1, &synchronous(&s3)).await;
        for (answer, prefix) in [
            (poll.map(drop), "backup.data_source.s3"),
            (restore.map(drop), "data_source.s3"),
        ] {
            let status = answer.expect_err(says);
            assert_eq!(status.code(), Code::InvalidArgument, "{says}");
            let wanted = format!("{prefix}.{says}");
            assert!(
                status.message().starts_with(&wanted),
                "{wanted}: {}",
                status.message()
            );
            assert!(!status.message().contains("hush"), "{}", status.message());
        }
    }
    assert_eq!(store.requests(), 0);
    daemon.assert_nothing_is_left_of("again");
}

#[tokio::test]
async fn a_message_that_is_absent_is_named() {
    let (daemon, client, store) = bed().await;
    let with = |data_source| CreateBackupRequest {
        backup: Some(Backup {
            name: "nightly".to_owned(),
            volume_handle: "data".to_owned(),
            data_source,
        }),
    };
    let nowhere = DataSource {
        synchronous_restore: true,
        r#type: None,
    };
    for (request, says) in [
        (CreateBackupRequest { backup: None }, "backup is absent"),
        (with(None), "backup.data_source is absent"),
        (
            with(Some(nowhere.clone())),
            "backup.data_source.s3 is absent",
        ),
    ] {
        assert_refused(client.poll(&request).await, Code::InvalidArgument, says);
    }
    let restore = client
        .clone()
        .lv
        .create_lv(with_source("again", 1, &nowhere))
        .await;
    assert_refused(restore, Code::InvalidArgument, "data_source.s3 is absent");
    let listed = client
        .clone()
        .own
        .list_backups(ListBackupsRequest::default())
        .await;
    assert_refused(listed, Code::InvalidArgument, "repository is absent");
    let shown = client
        .clone()
        .own
        .show_backup(ShowBackupRequest::default())
        .await;
    assert_refused(shown, Code::InvalidArgument, "backup is absent");
    assert_eq!(store.requests(), 0);
    daemon.assert_nothing_is_left_of("again");
}

#[tokio::test]
async fn a_backup_needs_a_name_and_a_handle_that_fit() {
    let (_daemon, client, store) = bed().await;
    let long = "x".repeat(1025);
    let s3 = store.s3("monday");
    for (name, handle, says) in [
        ("", "data", "backup.name \"\" is empty"),
        (&long, "data", "has 1025 bytes"),
        (&long[..1020], "data", "more than 1000 bytes together"),
        (
            "nightly",
            "",
            "backup.volume_handle \"\" is not lv or vg/lv",
        ),
        (
            "nightly",
            "fast/",
            "backup.volume_handle \"fast/\" is not lv or vg/lv",
        ),
        (
            "nightly",
            "/dev/fast/data",
            "backup.volume_handle \"/dev/fast/data\" has more than one",
        ),
        (
            "nightly",
            "../data",
            "backup.volume_handle \"../data\" is not lv or vg/lv",
        ),
        (
            "nightly",
            "fast/pvmove0",
            "backup.volume_handle \"fast/pvmove0\" is not lv or vg/lv",
        ),
    ] {
        let refused = client.poll(&backup(name, handle, &s3)).await;
        assert_refused(refused, Code::InvalidArgument, says);
    }
    assert_eq!(store.requests(), 0);
}

#[tokio::test]
async fn a_server_may_insist_on_verified_certificates() {
    let daemon = Daemon::with(|folder| {
        class("fast", folder, 0, true) + "s3: { region: us-east-1, require-verify-tls: true }\n"
    });
    let (client, store) = (daemon.client().await, Store::start().await);
    client.create("data", MIB).await;
    let s3 = S3 {
        verify_tls: false,
        ..store.s3("monday")
    };
    assert_refused_by_all(&client, &s3, Code::InvalidArgument, "verify_tls is false").await;
    assert_eq!(store.requests(), 0);
    daemon.assert_nothing_is_left_of("again");
    client.back_up("data", &store.s3("monday")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_the_store_is_not_found_by_list_and_show() {
    let (_daemon, client, store) = bed().await;
    let listed = |path: &str| {
        let request = ListBackupsRequest {
            repository: Some(store.at(path)),
        };
        let mut own = client.own.clone();
        async move { own.list_backups(request).await }
    };
    let missing = listed("s3://backups/team").await;
    assert_refused(missing, Code::NotFound, "there is no repository");
    let missing = listed("s3://no-such-bucket/team").await;
    assert_refused(missing, Code::NotFound, "there is no bucket");
    for name in ["monday", "tuesday"] {
        client.end_of(&backup(name, "data", &store.s3(name))).await;
    }
    let backups = ok(listed("s3://backups/team").await).backups;
    let names: Vec<(&str, u64)> = backups.iter().map(|it| (&it.name[..], it.slot)).collect();
    assert_eq!(names, [("monday", 1), ("tuesday", 2)]);
    let missing = client.show(&store.s3("wednesday")).await;
    assert_refused(missing, Code::NotFound, "there is no backup \"wednesday\"");
    let wrong = S3 {
        secret_access_key: "wrong".to_owned(),
        ..store.s3("monday")
    };
    assert_refused(
        client.show(&wrong).await,
        Code::PermissionDenied,
        "denies access",
    );
}
