//! `encryption_key` of a request: repositories that only who knows it can read.

use ringback_proto::{
    control::ListBackupsRequest,
    lvmd::{StateType, data_source::S3},
};
use tonic::Code;

use crate::{
    client::{Client, assert_refused, asynchronous, backup, ok, synchronous},
    harness::{Daemon, MIB, class},
    store::{Store, assert_same_content, fill},
};

const KEY: &str = "correct horse battery staple";

/// A daemon that logs each stretching, a store, and a volume `data`.
async fn bed() -> (Daemon, Client, Store, String) {
    let log = vec![("RINGBACK_LOG", "ringback_datapath=debug".to_owned())];
    let daemon = Daemon::in_environment(log, |folder| class("fast", folder, 0, true));
    let (client, store) = (daemon.client().await, Store::start().await);
    let path = client.create("data", 64 * MIB).await.path;
    fill(&path, MIB, 2 * MIB, "content");
    (daemon, client, store, path)
}

fn with_key(s3: S3, key: &str) -> S3 {
    S3 {
        encryption_key: key.to_owned(),
        ..s3
    }
}

fn stretchings(daemon: &Daemon) -> usize {
    daemon.log().matches("stretching a passphrase").count()
}

async fn fails(client: &Client, name: &str, s3: &S3, says: &str) {
    let state = client.end_of(&backup(name, "data", s3)).await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    assert!(state.msg.contains(says), "{}", state.msg);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_a_key_comes_back_with_it_and_for_nobody_else() {
    let (daemon, client, store, path) = bed().await;
    let s3 = with_key(store.s3("monday"), KEY);
    client.back_up("data", &s3).await;
    assert_eq!(stretchings(&daemon), 1, "made, opened, backed up");
    let restored = client.restore("again", 1, &synchronous(&s3)).await;
    assert_same_content(&path, &restored.expect("restored").path);
    assert_eq!(client.show(&s3).await.expect("shown").name, "monday");
    let list = |s3: &S3| {
        let request = ListBackupsRequest {
            repository: Some(S3 {
                path: "s3://backups/team".to_owned(),
                ..s3.clone()
            }),
        };
        let mut own = client.own.clone();
        async move { own.list_backups(request).await }
    };
    assert_eq!(ok(list(&s3).await).backups.len(), 1);
    assert_eq!(stretchings(&daemon), 1, "it was stretched a moment ago");

    for (n, (key, says)) in [
        ("", "is encrypted; give its passphrase"),
        ("wrong", "the passphrase is none of those that open"),
        ("correct horse battery staple ", "is none of those"),
    ]
    .into_iter()
    .enumerate()
    {
        let wrong = with_key(store.s3("monday"), key);
        for source in [synchronous(&wrong), asynchronous(&wrong)] {
            let refused = client.restore("other", 1, &source).await;
            assert_refused(refused, Code::PermissionDenied, says);
        }
        daemon.assert_nothing_is_left_of("other");
        assert_refused(client.show(&wrong).await, Code::PermissionDenied, says);
        assert_refused(list(&wrong).await, Code::PermissionDenied, says);
        let other = S3 {
            path: store.s3("tuesday").path,
            ..wrong
        };
        fails(&client, "other", &other, says).await;
        assert_eq!(stretchings(&daemon), 1 + n, "once for each wrong key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_a_repository_without_one_is_denied_and_the_repository_stays_as_it_is() {
    let (daemon, client, store, path) = bed().await;
    client.back_up("data", &store.s3("monday")).await;
    let before = store.endpoint.counters().requests("PutObject");
    let says = "is not encrypted";
    let s3 = with_key(store.s3("tuesday"), KEY);
    fails(&client, "other", &s3, says).await;
    let s3 = with_key(store.s3("monday"), KEY);
    let refused = client.restore("other", 1, &synchronous(&s3)).await;
    assert_refused(refused, Code::PermissionDenied, says);
    assert_eq!(store.endpoint.counters().requests("PutObject"), before);
    assert_eq!(stretchings(&daemon), 0);
    let source = synchronous(&store.s3("monday"));
    let plain = client.restore("again", 1, &source).await;
    assert_same_content(&path, &plain.expect("restored").path);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_polls_a_complete_backup_with_another_key_is_not_told_of_it() {
    let (_daemon, client, store, _) = bed().await;
    let request = |key| backup("nightly", "data", &with_key(store.s3("monday"), key));
    let state = client.end_of(&request(KEY)).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    for key in ["", "wrong"] {
        let state = client.end_of(&request(key)).await;
        assert_eq!(state.state(), StateType::Error, "{key:?}: {}", state.msg);
    }
    let state = client.end_of(&request(KEY)).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
}
