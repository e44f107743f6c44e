//! Backups stopped in the midst of their data: what they tell, and what ends them.

use std::time::{Duration, Instant};

use ringback_proto::lvmd::{CreateBackupRequest, Empty, StateType, data_source::S3};
use tonic::Code;

use crate::{
    backups::{assert_ends_in_error, bed},
    client::{Client, assert_refused, backup, ok, synchronous},
    harness::{Daemon, GIB, MIB, ended_well},
    store::{Store, assert_same_content},
    valve::Valve,
};

/// From SIGTERM to SIGKILL, as Kubernetes has it unless told otherwise.
const GRACE: Duration = Duration::from_secs(30);

/// Starts a backup of `data` that stops in the midst of its data.
async fn shut_in_the_midst(client: &Client, store: &Store) -> (Valve, CreateBackupRequest) {
    let valve = Valve::to(store).await;
    let request = backup("monday", "data", &valve.through(store.s3("monday")));
    let state = client.poll(&request).await.expect("it starts");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    valve.is_shut().await;
    (valve, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_backup_tells_how_far_it_is_and_keeps_its_name_from_others() {
    let (_daemon, client, store) = bed().await;
    let (valve, request) = shut_in_the_midst(&client, &store).await;
    let state = client.poll(&request).await.expect("it runs");
    assert_eq!(state.state(), StateType::Inprogress);
    for part in [" % of 64.0 MiB, ", "/s, ", " over the wire, ", "left"] {
        assert!(state.msg.contains(part), "{}", state.msg);
    }
    client.create("other", MIB).await;
    for other in [
        backup("monday", "other", &valve.through(store.s3("monday"))),
        backup("monday", "data", &valve.through(store.s3("tuesday"))),
        backup("monday", "fast/data", &valve.through(store.s3("monday"))),
    ] {
        let refused = client.poll(&other).await;
        assert_refused(
            refused,
            Code::Aborted,
            "belongs to a running backup of \"data\"",
        );
    }
    valve.open();
    let state = client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_backups_that_want_a_name_at_the_same_moment_one_is_aborted() {
    let (_daemon, client, store) = bed().await;
    client.create("other", MIB).await;
    let _held = store.endpoint.hold_replies();
    for name in 0..20 {
        let name = name.to_string();
        let (one, other) = (
            backup(&name, "data", &store.s3(&name)),
            backup(&name, "other", &store.s3(&name)),
        );
        let (one, other) = tokio::join!(client.poll(&one), client.poll(&other));
        let (started, refused) = if one.is_ok() {
            (one, other)
        } else {
            (other, one)
        };
        assert_eq!(started.expect("one starts").state(), StateType::Inprogress);
        assert_refused(refused, Code::Aborted, "belongs to a running backup");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credentials_of_a_poll_replace_those_of_the_job() {
    let (_daemon, client, store) = bed().await;
    let (valve, request) = shut_in_the_midst(&client, &store).await;
    let revoked = valve.through(S3 {
        secret_access_key: "revoked".to_owned(),
        ..store.s3("monday")
    });
    let revoked = backup("monday", "data", &revoked);
    let state = client.poll(&revoked).await.expect("it runs");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    valve.open();
    assert_ends_in_error(&client, &revoked, "denies access").await;
    let state = client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_the_volume_cancels_its_backup() {
    let (daemon, client, store) = bed().await;
    let (valve, request) = shut_in_the_midst(&client, &store).await;
    client.remove("data").await.expect("it is removed");
    daemon.assert_nothing_is_left_of("data");
    let state = client.poll(&request).await.expect("it is told");
    assert_eq!(state.state(), StateType::Error);
    assert!(
        state.msg.contains("the volume was removed"),
        "{}",
        state.msg
    );
    valve.open();
    assert_refused(
        client.poll(&request).await,
        Code::NotFound,
        "there is no such volume",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_made_again_under_its_name_is_not_told_what_became_of_the_earlier_one() {
    let (_daemon, client, store) = bed().await;
    let (valve, request) = shut_in_the_midst(&client, &store).await;
    client.remove("data").await.expect("it is removed");
    client.create("data", MIB).await;
    valve.open();
    let state = client.poll(&request).await.expect("it starts");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    let state = client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_the_volume_cancels_a_backup_that_waits_for_the_store() {
    let (daemon, client, store) = bed().await;
    let request = backup("monday", "data", &store.s3("monday"));
    let held = store.endpoint.hold_replies();
    let state = client.poll(&request).await.expect("it starts");
    assert_eq!(
        (state.state(), &state.msg[..]),
        (StateType::Inprogress, "preparing")
    );
    client.remove("data").await.expect("it is removed");
    daemon.assert_nothing_is_left_of("data");
    let state = client.poll(&request).await.expect("it is told");
    assert!(
        state.msg.contains("the volume was removed"),
        "{}",
        state.msg
    );
    drop(held);
    assert_refused(
        client.poll(&request).await,
        Code::NotFound,
        "there is no such volume",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_cut_off_is_begun_again_by_the_next_call() {
    let (mut daemon, mut client, store) = bed().await;
    for kill in [true, false] {
        let (valve, _) = shut_in_the_midst(&client, &store).await;
        assert_eq!(daemon.entries("fast", "temporary").len(), 1, "the snapshot");
        if kill {
            daemon.kill();
        } else {
            assert_ends_soon(&mut daemon, &client).await;
        }
        drop(valve);
        daemon.restart();
        client = daemon.client().await;
        assert_eq!(client.list().await.len(), 1);
        assert_eq!(daemon.entries("fast", "temporary"), [""; 0]);
    }
    let request = backup("monday", "data", &store.s3("monday"));
    let state = client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    let source = synchronous(&store.s3("monday"));
    let again = client
        .restore("again", 1, &source)
        .await
        .expect("it is restored");
    assert_eq!(again.size_bytes.unsigned_abs(), GIB);
    let data = client.find("data").await.expect("it is there");
    assert_same_content(&data.path, &again.path);
}

/// SIGTERM with a backup whose store is silent: Watch streams end, the socket goes, and so does the
/// process, within the time that Kubernetes gives a container.
async fn assert_ends_soon(daemon: &mut Daemon, client: &Client) {
    let mut states = ok(client.clone().vg.watch(Empty {}).await);
    states.message().await.expect("the first comes at once");
    let told = Instant::now();
    let status = daemon.terminate().await;
    assert!(ended_well(status), "{status}");
    assert!(told.elapsed() < GRACE, "{:?}", told.elapsed());
    assert_refused(states.message().await, Code::Unavailable, "stopping");
    assert!(!daemon.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_daemon_tells_no_poll_that_the_backup_failed() {
    let (mut daemon, client, store) = bed().await;
    let (_valve, request) = shut_in_the_midst(&client, &store).await;
    let polls = async {
        let mut states = Vec::new();
        while let Ok(state) = client.poll(&request).await {
            states.push((state.state(), state.msg));
        }
        states
    };
    let (states, status) = tokio::join!(polls, daemon.terminate());
    assert!(ended_well(status), "{status}");
    // Its callers would take it as final; after a restart the backup is begun again.
    let failed = states
        .iter()
        .find(|(state, _)| *state != StateType::Inprogress);
    assert_eq!(failed, None);
}
