//! The daemon answers while its stores do not.

use ringback_proto::lvmd::{Empty, GetFreeBytesRequest, ResizeLvRequest, StateType};

use crate::{
    client::{asynchronous, backup, ok, synchronous},
    harness::{Daemon, MIB, class, wait_for},
    store::{Store, assert_same_content, fill},
    valve::Valve,
};

const CALLS: usize = 1_000;

/// One transfer at a time, so that a job has most of its data yet to move when it is held; and
/// packs of several parts.
fn one_transfer_at_a_time() -> Daemon {
    Daemon::with(|folder| {
        class("fast", folder, 0, true) + "datapath: { parts-in-flight: 1, packs-min: 1 }\n"
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn while_every_reply_to_a_running_backup_and_restore_is_withheld_1000_get_lv_list_calls_answer()
 {
    let (daemon, store) = (one_transfer_at_a_time(), Store::start().await);
    let client = daemon.client().await;
    for name in ["first", "second"] {
        let volume = client.create(name, 64 * MIB).await;
        fill(&volume.path, MIB, 40 * MIB, name);
    }
    client.back_up("first", &store.s3("first")).await;

    let (of_backup, of_restore) = (Valve::to(&store).await, Valve::to(&store).await);
    let running = backup("second", "second", &of_backup.through(store.s3("second")));
    client.poll(&running).await.expect("it starts");
    let source = asynchronous(&of_restore.through(store.s3("first")));
    client
        .restore("again", 1, &source)
        .await
        .expect("it starts");
    of_backup.is_shut().await;
    of_restore.is_shut().await;
    let held = store.endpoint.hold_replies();
    of_backup.open();
    of_restore.open();
    wait_for("requests without a reply", async || {
        let counters = store.endpoint.counters();
        let is_waiting = |operation| counters.operations[operation].active > 0;
        (is_waiting("UploadPart") && is_waiting("GetObject")).then_some(())
    })
    .await;

    for _ in 0..CALLS {
        let names: Vec<String> = client.list().await.into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["first", "second"]);
    }
    // Nor is any other call held up by them.
    client.create("third", MIB).await;
    let grow = ResizeLvRequest {
        name: "third".to_owned(),
        size_bytes: 2 << 20,
        ..ResizeLvRequest::default()
    };
    ok(client.clone().lv.resize_lv(grow).await);
    ok(client
        .clone()
        .vg
        .get_free_bytes(GetFreeBytesRequest::default())
        .await);
    let mut states = ok(client.clone().vg.watch(Empty {}).await);
    states
        .message()
        .await
        .expect("no error")
        .expect("a message");
    client.remove("third").await.expect("it is removed");
    let state = client.poll(&running).await.expect("it is polled");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    client.restore("again", 1, &source).await.expect("it joins");
    assert_eq!(client.find("again").await, None);

    drop(held);
    let state = client.end_of(&running).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    let again = wait_for("the restored volume", async || client.find("again").await).await;
    let source = synchronous(&store.s3("second"));
    let other = client
        .restore("other", 1, &source)
        .await
        .expect("it is restored");
    let original = |name: &str| daemon.path("fast/volumes").join(name).join("image");
    assert_same_content(&original("first").to_string_lossy(), &again.path);
    assert_same_content(&original("second").to_string_lossy(), &other.path);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_jobs_than_there_are_turns_wait_for_theirs_and_all_complete() {
    let daemon = Daemon::with(|folder| {
        class("fast", folder, 0, true) + "datapath: { backups-max: 1, restores-max: 1 }\n"
    });
    let (client, store) = (daemon.client().await, Store::start().await);
    let volume = client.create("data", 64 * MIB).await;
    fill(&volume.path, MIB, 4 * MIB, "content");
    let valve = Valve::to(&store).await;
    let first = backup("first", "data", &valve.through(store.s3("first")));
    client.poll(&first).await.expect("it starts");
    valve.is_shut().await;
    let others = ["second", "third", "fourth"].map(|name| backup(name, "data", &store.s3(name)));
    for request in &others {
        let state = client.poll(request).await.expect("it starts");
        assert_eq!(state.state(), StateType::Inprogress);
    }
    valve.open();
    for request in others.iter().chain([&first]) {
        let state = client.end_of(request).await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    }
    assert_eq!(daemon.entries("fast", "temporary"), [""; 0]);
}
