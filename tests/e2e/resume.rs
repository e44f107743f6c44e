//! Backups that are cut off, and how much of them goes again.

use ringback_proto::lvmd::{CreateBackupRequest, StateType};

use crate::{
    client::{Client, backup, synchronous},
    harness::{Daemon, MIB, ended_well, wait_for},
    store::{Store, assert_same_content, fill},
};

const DATA_BYTES: u64 = 512 * MIB;

/// A daemon with a volume of data that is nowhere else.
async fn bed() -> (Daemon, Client, Store, CreateBackupRequest) {
    let (daemon, store) = (Daemon::start(), Store::start().await);
    let client = daemon.client().await;
    let volume = client.create("data", DATA_BYTES).await;
    fill(&volume.path, 0, DATA_BYTES, "resume");
    let request = backup("monday", "data", &store.s3("monday"));
    (daemon, client, store, request)
}

/// Starts the backup and waits until nine tenths of its data have arrived.
async fn nine_tenths(client: &Client, store: &Store, request: &CreateBackupRequest) {
    let state = client.poll(request).await.expect("it starts");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    wait_for("nine tenths of the data", async || {
        let received = store.endpoint.counters().bytes_received;
        (received >= DATA_BYTES / 10 * 9).then_some(())
    })
    .await;
}

/// Goes on with the backup; what share of the data arrives then, in percent.
async fn go_on(daemon: &Daemon, store: &Store, request: &CreateBackupRequest) -> u64 {
    let client = daemon.client().await;
    let before = store.endpoint.counters().bytes_received;
    let state = client.end_of(request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    let sent = store.endpoint.counters().bytes_received - before;
    let source = synchronous(&store.s3("monday"));
    let again = client.restore("again", 1, &source).await;
    let data = client.find("data").await.expect("it is there");
    assert_same_content(&data.path, &again.expect("restored").path);
    sent * 100 / DATA_BYTES
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_nine_tenths_the_next_run_sends_under_a_fifth() {
    let (mut daemon, client, store, request) = bed().await;
    nine_tenths(&client, &store, &request).await;
    daemon.kill();
    daemon.restart();
    let percent = go_on(&daemon, &store, &request).await;
    println!("{percent} % of the data went again or for the first time");
    assert!(percent < 20, "{percent} % went again");
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_at_nine_tenths_the_next_run_sends_no_more_than_the_rest() {
    let (mut daemon, client, store, request) = bed().await;
    nine_tenths(&client, &store, &request).await;
    let status = daemon.terminate().await;
    assert!(ended_well(status), "{status}");
    let arrived = store.endpoint.counters().bytes_received;
    daemon.restart();
    let percent = go_on(&daemon, &store, &request).await;
    let rest = DATA_BYTES.saturating_sub(arrived) * 100 / DATA_BYTES;
    assert!(percent <= rest + 1, "{percent} % went, {rest} % were left");
}
