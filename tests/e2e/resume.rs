//! Backups that are cut off, and what the next run sends.

use std::fs;

use ringback_proto::lvmd::{CreateBackupRequest, StateType, data_source::S3};
use tonic::Code;

use crate::{
    client::{Client, assert_refused, backup, synchronous},
    harness::{Daemon, MIB, ended_well, wait_for},
    objects::Objects,
    store::{Store, assert_same_content, fill},
    valve::Valve,
};

const VOLUME_BYTES: u64 = 256 * MIB;
/// What describes a backup: index, tree, ref set, log, and their requests.
const ASIDE_BYTES: u64 = MIB;

/// A daemon with a volume full of data that is in no store.
async fn bed() -> (Daemon, Client) {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let volume = client.create("data", VOLUME_BYTES).await;
    fill(&volume.path, 0, VOLUME_BYTES, "data");
    (daemon, client)
}

/// Starts a backup of `data` and waits until so many bytes have passed, in the midst of whatever
/// they are.
async fn cut_after(client: &Client, store: &Store, bytes: u64) -> (Valve, CreateBackupRequest) {
    let valve = Valve::shut_after(store, bytes).await;
    let request = backup("monday", "data", &valve.through(store.s3("monday")));
    let state = client.poll(&request).await.expect("it starts");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    valve.is_shut().await;
    (valve, request)
}

/// Bytes of the packs that the store has whole.
fn whole_packs_bytes(objects: &Objects) -> u64 {
    let names = objects.names().into_iter();
    let packs = names.filter(|path| {
        let name = path.file_name().expect("has a name").to_string_lossy();
        name.starts_with("team%2Fdata%2F")
    });
    packs
        .map(|pack| fs::metadata(pack).expect("is there").len())
        .sum()
}

/// Waits until the store has dropped what came in half.
async fn is_idle(store: &Store) {
    wait_for("the store's rest", async || {
        store.endpoint.counters().is_idle().then_some(())
    })
    .await;
}

/// Bytes that the store receives in the backup that must now succeed.
async fn sent_by_the_next_run(client: &Client, store: &Store) -> u64 {
    is_idle(store).await;
    let before = store.endpoint.counters().bytes_received;
    let request = backup("monday", "data", &store.s3("monday"));
    let state = client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    store.endpoint.counters().bytes_received - before
}

async fn assert_comes_back(client: &Client, s3: &S3) {
    let again = client.restore("again", 1, &synchronous(s3)).await;
    let again = again.expect("it is restored");
    let data = client.find("data").await.expect("it is there");
    assert_same_content(&data.path, &again.path);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_90_percent_the_next_run_sends_under_20_percent_and_no_whole_pack_again() {
    let objects = Objects::new();
    let store = objects.store().await;
    let (mut daemon, client) = bed().await;
    let (valve, _) = cut_after(&client, &store, VOLUME_BYTES / 10 * 9).await;
    let received = store.endpoint.counters().bytes_received;
    // What has passed the valve may still be on its way into the store.
    assert!(received > VOLUME_BYTES / 100 * 80, "{received} bytes");
    daemon.kill();
    drop(valve);
    is_idle(&store).await;
    let whole = whole_packs_bytes(&objects);

    daemon.restart();
    let client = daemon.client().await;
    let sent = sent_by_the_next_run(&client, &store).await;
    println!("whole at the kill: {whole}, sent then: {sent}, of {VOLUME_BYTES} bytes");
    assert!(
        sent < VOLUME_BYTES / 5,
        "{sent} bytes of {VOLUME_BYTES} sent again"
    );
    assert!(
        sent + whole < VOLUME_BYTES + ASIDE_BYTES,
        "{sent} bytes sent, {whole} were there"
    );
    assert_comes_back(&client, &store.s3("monday")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_half_way_a_daemon_ends_well_and_nothing_that_went_goes_again() {
    let (store, (mut daemon, client)) = (Store::start().await, bed().await);
    let (valve, request) = cut_after(&client, &store, VOLUME_BYTES / 2).await;
    let stopped = async {
        let status = daemon.terminate().await;
        assert!(ended_well(status), "{status}");
    };
    let slow_store = async {
        // By now the daemon has been told, and the store answers again.
        wait_for("a poll that tells of the stop", async || {
            match client.poll(&request).await {
                Ok(state) => state.msg.contains("is stopping").then_some(()),
                Err(_) => Some(()),
            }
        })
        .await;
        valve.open();
    };
    tokio::join!(stopped, slow_store);
    assert!(!daemon.socket().exists());
    is_idle(&store).await;
    let first = store.endpoint.counters().bytes_received;
    daemon.restart();
    let client = daemon.client().await;
    let shown = client.show(&store.s3("monday")).await;
    assert_refused(shown, Code::NotFound, "monday");
    let second = sent_by_the_next_run(&client, &store).await;
    println!("sent before the stop: {first}, after it: {second}, of {VOLUME_BYTES} bytes");
    assert!(
        first + second < VOLUME_BYTES + 2 * ASIDE_BYTES,
        "{first} and {second} bytes sent"
    );
    assert_comes_back(&client, &store.s3("monday")).await;
}
