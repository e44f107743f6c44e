//! Session tokens that expire while a job runs.

use std::sync::{Arc, Mutex};

use ringback_proto::{
    control::JobPhase,
    lvmd::{StateType, data_source::S3},
};
use tonic::Code;

use crate::{
    client::{Client, assert_refused, asynchronous, backup, synchronous},
    harness::{Daemon, MIB, class, wait_for},
    store::{Store, assert_same_content, fill},
    valve::Valve,
    ways::credentials_server,
};

const FIRST: &str = "the-first-token";
const SECOND: &str = "the-second-token";

fn with_token(s3: &S3, token: &str) -> S3 {
    S3 {
        session_token: token.to_owned(),
        ..s3.clone()
    }
}

/// A volume with data; where it is.
async fn volume(client: &Client) -> String {
    let volume = client.create("data", 64 * MIB).await;
    fill(&volume.path, 0, 48 * MIB, "data");
    volume.path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_token_expires_waits_for_a_poll_to_bring_another() {
    let (daemon, store) = (Daemon::start(), Store::start().await);
    let client = daemon.client().await;
    let original = volume(&client).await;
    for refusal in [
        "ExpiredToken",
        "TokenRefreshRequired",
        // So do stores other than AWS say it.
        "InvalidAccessKeyId",
    ] {
        store.endpoint.want_session_token(FIRST, refusal);
        let valve = Valve::to(&store).await;
        // Repositories of their own, for all of the data is to go up each time.
        let s3 = valve.through(store.at(&format!("s3://backups/{refusal}/monday")));
        let first = backup(refusal, "data", &with_token(&s3, FIRST));
        client.poll(&first).await.expect("it begins");
        valve.is_shut().await;
        store.endpoint.want_session_token(SECOND, refusal);
        valve.open();
        // Polls that bring the old one change nothing.
        wait_for("a backup that waits", async || {
            let state = client.poll(&first).await.expect("it can be polled");
            assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
            let waits = state.msg.contains("waiting for other credentials");
            waits.then_some(())
        })
        .await;
        let second = with_token(&s3, SECOND);
        let state = client.end_of(&backup(refusal, "data", &second)).await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
        let restored = client.restore("again", 1, &synchronous(&second)).await;
        assert_same_content(&original, &restored.expect("it is restored").path);
        client.remove("again").await.expect("it is removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_whose_token_expires_waits_for_a_repeated_call_to_bring_another() {
    let (daemon, store) = (Daemon::start(), Store::start().await);
    let client = daemon.client().await;
    let original = volume(&client).await;
    client.back_up("data", &store.s3("monday")).await;
    store.endpoint.want_session_token(FIRST, "ExpiredToken");
    let valve = Valve::to(&store).await;
    let s3 = valve.through(store.s3("monday"));
    let waiting = {
        let (client, first) = (client.clone(), synchronous(&with_token(&s3, FIRST)));
        tokio::spawn(async move { client.restore("again", 1, &first).await })
    };
    valve.is_shut().await;
    store.endpoint.want_session_token(SECOND, "ExpiredToken");
    let refused = store.endpoint.counters().refused;
    valve.open();
    wait_for("a refusal", async || {
        (store.endpoint.counters().refused > refused).then_some(())
    })
    .await;
    let second = synchronous(&with_token(&s3, SECOND));
    let joined = client.restore("again", 1, &second).await;
    let restored = joined.expect("the call with the new token joins");
    let waited = waiting.await.expect("the call ends");
    assert_eq!(waited.expect("it is restored").name, restored.name);
    assert_same_content(&original, &restored.path);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_brings_no_credentials_leaves_the_job_those_that_it_has() {
    let (daemon, store) = (Daemon::start(), Store::start().await);
    let client = daemon.client().await;
    let original = volume(&client).await;
    let without = |s3: &S3| S3 {
        access_key_id: String::new(),
        secret_access_key: String::new(),
        ..s3.clone()
    };
    let valve = Valve::to(&store).await;
    let s3 = valve.through(store.s3("monday"));
    let (first, second) = (backup("monday", "data", &s3), without(&s3));
    client.poll(&first).await.expect("it begins");
    valve.is_shut().await;
    let second = backup("monday", "data", &second);
    let state = client.poll(&second).await.expect("it can be polled");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    valve.open();
    let state = client.end_of(&first).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);

    let valve = Valve::to(&store).await;
    let s3 = valve.through(store.s3("monday"));
    let begun = client.restore("again", 1, &asynchronous(&s3)).await;
    begun.expect("it begins");
    valve.is_shut().await;
    let source = asynchronous(&without(&s3));
    let joined = client.restore("again", 1, &source).await;
    joined.expect("it goes on");
    valve.open();
    let end = client.end_of_restore("again").await;
    assert_eq!(end.phase(), JobPhase::Done, "{}", end.error);
    let restored = client.find("again").await.expect("it is there");
    assert_same_content(&original, &restored.path);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_nobody_can_renew_or_that_never_was_one_is_refused_at_once() {
    let (daemon, store) = (Daemon::start(), Store::start().await);
    let client = daemon.client().await;
    client.create("data", MIB).await;
    let s3 = with_token(&store.s3("monday"), FIRST);
    store.endpoint.want_session_token(SECOND, "ExpiredToken");
    // This call is the only one that there will be.
    let shown = client.show(&s3).await;
    assert_refused(shown, Code::PermissionDenied, "(ExpiredToken)");
    store.endpoint.want_session_token(SECOND, "InvalidToken");
    let state = client.end_of(&backup("nightly", "data", &s3)).await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    assert!(state.msg.contains("(InvalidToken)"), "{}", state.msg);
    let restored = client.restore("again", 1, &synchronous(&s3)).await;
    assert_refused(restored, Code::PermissionDenied, "(InvalidToken)");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_chain_is_asked_again_when_its_token_expires() {
    let store = Store::start().await;
    let token = Arc::new(Mutex::new(FIRST.to_owned()));
    let givers = credentials_server(
        store.endpoint.access_key_id(),
        store.endpoint.secret_access_key(),
        Arc::clone(&token),
    )
    .await;
    let environment = vec![(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        format!("http://127.0.0.1:{givers}/role"),
    )];
    let daemon = Daemon::in_environment(environment, |it| class("fast", it, 0, true));
    let client = daemon.client().await;
    let original = volume(&client).await;
    store.endpoint.want_session_token(FIRST, "ExpiredToken");
    let valve = Valve::to(&store).await;
    let s3 = S3 {
        access_key_id: String::new(),
        secret_access_key: String::new(),
        ..valve.through(store.s3("monday"))
    };
    let request = backup("nightly", "data", &s3);
    client.poll(&request).await.expect("it begins");
    valve.is_shut().await;
    store.endpoint.want_session_token(SECOND, "ExpiredToken");
    *token.lock().expect("no panic") = SECOND.to_owned();
    valve.open();
    let state = client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    let restored = client.restore("again", 1, &synchronous(&s3)).await;
    assert_same_content(&original, &restored.expect("it is restored").path);
}
