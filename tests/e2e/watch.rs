//! Watch: now, after every change, and how it ends.

use ringback_proto::lvmd::{Empty, ResizeLvRequest, WatchResponse};
use tonic::{Code, Streaming};

use crate::{
    client::{Client, assert_refused, ok, synchronous},
    harness::{DEADLINE, Daemon, GIB, MIB, class, ended_well},
    store::{Store, fill},
};

async fn watch(client: &Client) -> Streaming<WatchResponse> {
    ok(client.clone().vg.watch(Empty {}).await)
}

async fn next(states: &mut Streaming<WatchResponse>) -> WatchResponse {
    let state = tokio::time::timeout(DEADLINE, states.message()).await;
    let state = state.expect("a message in time").expect("no error");
    state.expect("not the end")
}

#[tokio::test]
async fn the_first_message_comes_at_once_and_the_top_level_is_the_default_classs() {
    let daemon = Daemon::with(|folder| {
        class("slow", folder, 1 << 30, false) + &class("fast", folder, 0, true)
    });
    let client = daemon.client().await;
    let state = next(&mut watch(&client).await).await;
    let classes: Vec<&str> = state
        .items
        .iter()
        .map(|item| &item.device_class[..])
        .collect();
    assert_eq!(classes, ["slow", "fast"]);
    let [slow, fast] = &state.items[..] else {
        panic!("two classes");
    };
    assert_eq!(slow.free_bytes, 0, "the spare is subtracted");
    assert_eq!(state.free_bytes, fast.free_bytes);
    assert!(
        0 < fast.free_bytes && fast.free_bytes < fast.size_bytes,
        "{fast:?}"
    );
    assert!(state.items.iter().all(|item| item.thin_pool.is_none()));
}

#[tokio::test]
async fn a_message_comes_after_each_change_to_every_watcher() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let mut watchers = [watch(&client).await, watch(&daemon.client().await).await];
    for watcher in &mut watchers {
        next(watcher).await;
    }
    client.create("data", 3 * GIB).await;
    let mut with_volume = 0;
    for watcher in &mut watchers {
        with_volume = next(watcher).await.free_bytes;
    }
    let grow = ResizeLvRequest {
        name: "data".to_owned(),
        size_gb: 4,
        ..ResizeLvRequest::default()
    };
    ok(client.clone().lv.resize_lv(grow).await);
    for watcher in &mut watchers {
        next(watcher).await;
    }
    client.remove("data").await.expect("it is removed");
    for watcher in &mut watchers {
        let without_volume = next(watcher).await.free_bytes;
        assert!(
            without_volume > with_volume + 2 * GIB,
            "{without_volume} {with_volume}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_comes_when_a_restored_volume_appears() {
    let (daemon, store) = (Daemon::start(), Store::start().await);
    let client = daemon.client().await;
    let volume = client.create("data", MIB).await;
    fill(&volume.path, 0, MIB, "content");
    client.back_up("data", &store.s3("monday")).await;
    let mut states = watch(&client).await;
    next(&mut states).await;
    let source = synchronous(&store.s3("monday"));
    client
        .restore("again", 1, &source)
        .await
        .expect("it is restored");
    next(&mut states).await;
}

#[tokio::test]
async fn a_stopping_daemon_ends_a_watch_with_unavailable_and_its_socket_goes() {
    let mut daemon = Daemon::start();
    let client = daemon.client().await;
    let mut states = watch(&client).await;
    next(&mut states).await;
    // What changes nothing is not told.
    assert_refused(client.remove("absent").await, Code::NotFound, "absent");
    let status = daemon.terminate().await;
    assert!(ended_well(status), "{status}");
    assert_refused(states.message().await, Code::Unavailable, "stopping");
    assert!(!daemon.socket().exists());
}
