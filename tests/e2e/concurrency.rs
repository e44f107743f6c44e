//! Several jobs at once: who waits for whom, and what they take together.

use std::{fs, path::Path, time::Duration};

use futures::future::join_all;
use ringback_proto::lvmd::{ResizeLvRequest, StateType};
use tonic::Code;

use crate::{
    client::{Client, assert_refused, asynchronous, backup, synchronous, with_source},
    harness::{Daemon, GIB, MIB, class, wait_for},
    store::{Store, assert_same_content, fill},
    valve::Valve,
};

/// A daemon with one class and these bounds.
fn bounded(datapath: &str) -> Daemon {
    let classes =
        |folder: &Path| class("fast", folder, 0, true) + &format!("datapath: {{ {datapath} }}\n");
    Daemon::with(classes)
}

async fn volume(client: &Client, name: &str, data_mib: u64) {
    let made = client.create(name, 2 * data_mib * MIB).await;
    fill(&made.path, 0, data_mib * MIB, name);
}

fn image(daemon: &Daemon, name: &str) -> String {
    let image = daemon.path("fast/volumes").join(name).join("image");
    image.to_string_lossy().into_owned()
}

/// The most memory that a process ever had, in bytes.
fn peak_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
        << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_does_not_wait_for_backups_that_take_long() {
    let daemon = bounded("backups-max: 1, restores-max: 1");
    let (client, store) = (daemon.client().await, Store::start().await);
    volume(&client, "data", 8).await;
    client.back_up("data", &store.s3("monday")).await;
    volume(&client, "other", 8).await;
    let valve = Valve::to(&store).await;
    let long = backup("long", "other", &valve.through(store.s3("long")));
    client.poll(&long).await.expect("it starts");
    valve.is_shut().await;
    let source = synchronous(&store.s3("monday"));
    let again = client.restore("again", 1, &source).await.expect("restored");
    assert_same_content(&image(&daemon, "data"), &again.path);
    let state = client.poll(&long).await.expect("it runs");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_at_once_stay_within_the_budget_and_all_complete() {
    const JOBS: usize = 4;
    const BUDGET: u64 = 100 * MIB;
    // What the process takes beside its jobs: code, TLS and HTTP buffers, threads.
    const ASIDE: u64 = 80 * MIB;
    let daemon =
        bounded("memory-mib: 100, part-mib: 5, queue-depth: 8, backups-max: 2, restores-max: 2");
    let (client, store) = (daemon.client().await, Store::start().await);
    let names: Vec<String> = (0..JOBS).map(|n| format!("volume-{n}")).collect();
    for name in &names {
        volume(&client, name, 96).await;
    }
    let backups = names.iter().map(|name| {
        let request = backup(name, name, &store.s3(name));
        let client = &client;
        async move { client.end_of(&request).await }
    });
    for state in join_all(backups).await {
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    }
    // Restores beside backups of what has changed.
    let again = names.iter().map(|name| {
        let (source, client, daemon) = (synchronous(&store.s3(name)), &client, &daemon);
        async move {
            let restored = client.restore(&format!("{name}-again"), 1, &source).await;
            let path = restored.expect("restored").path;
            assert_same_content(&image(daemon, name), &path);
        }
    });
    join_all(again).await;
    let peak = peak_memory(daemon.id());
    assert!(peak < BUDGET + ASIDE, "{} MiB", peak / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_one_volume_to_one_repository_take_turns_and_the_second_finds_all_sent() {
    let daemon = bounded("backups-max: 4");
    let (client, store) = (daemon.client().await, Store::start().await);
    volume(&client, "data", 16).await;
    let names = ["one", "two", "three"];
    let backups = names.map(|name| {
        let request = backup(name, "data", &store.s3(name));
        let client = &client;
        async move { client.end_of(&request).await }
    });
    for state in join_all(backups).await {
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    }
    let mut new_bytes = Vec::new();
    for name in names {
        let info = client.show(&store.s3(name)).await.expect("it is there");
        new_bytes.push(info.stats.expect("statistics").new_bytes);
    }
    new_bytes.sort_unstable();
    assert_eq!(new_bytes, [0, 0, 16 * MIB]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_jobs_that_run_together_none_is_left_behind() {
    let daemon = bounded("backups-max: 2, parts-in-flight: 2");
    let (client, store) = (daemon.client().await, Store::start().await);
    for name in ["left", "right"] {
        volume(&client, name, 128).await;
    }
    let requests = ["left", "right"].map(|name| backup(name, name, &store.s3(name)));
    for request in &requests {
        client.poll(request).await.expect("it starts");
    }
    let mut shares = [0.0f64; 2];
    loop {
        let mut is_over = false;
        for (share, request) in shares.iter_mut().zip(&requests) {
            let state = client.poll(request).await.expect("it can be polled");
            match state.state() {
                StateType::Complete => (*share, is_over) = (100.0, true),
                _ => *share = percent(&state.msg).unwrap_or(*share),
            }
        }
        if is_over {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Equally many transfers each; how equal the halves come out is the machine's business.
    assert!(shares.iter().all(|&share| share > 20.0), "{shares:?}");
}

/// `42.1 % of ...`.
fn percent(message: &str) -> Option<f64> {
    message.split_once(" %")?.0.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_volume_ends_its_backup_that_waits_for_a_turn() {
    let daemon = bounded("backups-max: 1");
    let (client, store) = (daemon.client().await, Store::start().await);
    for name in ["first", "second"] {
        volume(&client, name, 8).await;
    }
    let valve = Valve::to(&store).await;
    let running = backup("running", "first", &valve.through(store.s3("running")));
    client.poll(&running).await.expect("it starts");
    valve.is_shut().await;
    let waiting = backup("waiting", "second", &store.s3("waiting"));
    wait_for("a backup that waits", async || {
        let state = client.poll(&waiting).await.expect("it starts");
        (state.msg == "waiting for other jobs to end").then_some(())
    })
    .await;
    client.remove("second").await.expect("it is removed");
    let state = client.poll(&waiting).await.expect("it is told");
    assert_eq!(state.state(), StateType::Error);
    assert!(
        state.msg.contains("the volume was removed"),
        "{}",
        state.msg
    );
    let volumes = daemon.entries("fast", "volumes");
    assert_eq!(volumes, ["first"]);
    // The snapshot of the one that runs.
    assert_eq!(daemon.entries("fast", "temporary").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_grows_while_it_is_backed_up_is_backed_up_as_it_was() {
    let daemon = bounded("backups-max: 1");
    let (client, store) = (daemon.client().await, Store::start().await);
    volume(&client, "data", 8).await;
    let valve = Valve::to(&store).await;
    let request = backup("monday", "data", &valve.through(store.s3("monday")));
    client.poll(&request).await.expect("it starts");
    valve.is_shut().await;
    let grow = ResizeLvRequest {
        name: "data".to_owned(),
        size_gb: 1,
        ..ResizeLvRequest::default()
    };
    client.clone().lv.resize_lv(grow).await.expect("it grows");
    valve.open();
    let state = client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    let info = client.show(&store.s3("monday")).await.expect("it is there");
    assert_eq!(info.size_bytes, 16 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_under_restore_is_no_volume_yet_to_any_other_call() {
    let daemon = bounded("restores-max: 1");
    let (client, store) = (daemon.client().await, Store::start().await);
    volume(&client, "data", 8).await;
    client.back_up("data", &store.s3("monday")).await;
    let valve = Valve::to(&store).await;
    let source = asynchronous(&valve.through(store.s3("monday")));
    client
        .restore("again", 1, &source)
        .await
        .expect("it starts");
    valve.is_shut().await;

    let grow = ResizeLvRequest {
        name: "again".to_owned(),
        size_gb: 2,
        ..ResizeLvRequest::default()
    };
    let grown = client.clone().lv.resize_lv(grow).await;
    assert_refused(grown, Code::NotFound, "there is no volume again");
    let of_it = client.poll(&backup("b", "again", &store.s3("b"))).await;
    assert_refused(of_it, Code::NotFound, "there is no such volume");
    let larger = with_source("again", 3, &source);
    let other = client.clone().lv.create_lv(larger).await;
    assert_refused(other, Code::AlreadyExists, "is being restored");
    valve.open();
    let again = wait_for("the volume", async || client.find("again").await).await;
    assert_eq!(again.size_bytes.unsigned_abs(), GIB);
}
