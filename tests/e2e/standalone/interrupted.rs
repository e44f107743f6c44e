//! Ctrl-C: nothing is left behind, and a second one waits for nothing.

use std::{
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use ringback_endpoint::HeldReplies;

use super::Bed;
use crate::{
    harness::{DEADLINE, MIB, signal, wait_for},
    store::{Store, fill},
};

/// Starts a command whose output is read when it has ended.
pub(super) fn start(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

/// Withholds all replies from the moment on at which more than so many requests of an operation
/// have come in.
pub(super) async fn hold_when(store: &Store, operation: &str, more_than: u64) -> HeldReplies {
    wait_for(operation, async || {
        let held = store.endpoint.hold_replies();
        let seen = store.endpoint.counters().requests(operation);
        (seen > more_than).then_some(held)
    })
    .await
}

async fn end(mut running: Child) -> Output {
    wait_for("the command's end", async || {
        running.try_wait().expect("can be waited for")
    })
    .await;
    running.wait_with_output().expect("its output can be read")
}

fn assert_interrupted(output: &Output, says: &str) {
    assert_eq!(output.status.code(), Some(130));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(says), "{stderr}");
}

/// With a disk whose backup takes several uploads, of several parts each.
async fn bed() -> Bed {
    let bed = Bed::new().await;
    let disk = bed.disk("disk.img", 640 * MIB);
    fill(&disk, 4 * MIB, 630 * MIB, "large");
    bed
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_backup_leaves_no_upload_behind_and_ends_with_130() {
    let bed = bed().await;
    for (number, by) in [(0, Signal::SIGINT), (1, Signal::SIGTERM)] {
        let uploads = bed.store.endpoint.counters().requests("UploadPart");
        let mut command = bed.command("backup ./disk.img s3://backups/vms/monday");
        let running = start(&mut command);
        let held = hold_when(&bed.store, "UploadPart", uploads + 4).await;
        signal(running.id(), by);
        wait_for("an abort", async || {
            let aborts = bed
                .store
                .endpoint
                .counters()
                .requests("AbortMultipartUpload");
            (aborts > number).then_some(())
        })
        .await;
        drop(held);
        assert_interrupted(&end(running).await, "ringback: interrupted");
    }
    assert_eq!(
        bed.lines("list s3://backups/vms").len(),
        1,
        "the heading alone"
    );
    // The next one looks for uploads that were left, and aborts them.
    let aborts = || {
        bed.store
            .endpoint
            .counters()
            .requests("AbortMultipartUpload")
    };
    let before = aborts();
    bed.lines("backup ./disk.img s3://backups/vms/monday");
    assert_eq!(aborts(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restore_leaves_no_file_behind_and_ends_with_130() {
    let bed = bed().await;
    bed.lines("backup ./disk.img s3://backups/vms/monday");
    let before = bed.files();
    for by in [Signal::SIGINT, Signal::SIGTERM] {
        let gets = bed.store.endpoint.counters().requests("GetObject");
        let running = start(&mut bed.command("restore s3://backups/vms/monday ./again.img --json"));
        let held = hold_when(&bed.store, "GetObject", gets + 10).await;
        signal(running.id(), by);
        let output = end(running).await;
        assert_interrupted(&output, "{\"error\":\"interrupted\",\"exit_code\":130,");
        drop(held);
        assert_eq!(bed.files(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let bed = bed().await;
    let running = start(&mut bed.command("backup ./disk.img s3://backups/vms/monday"));
    let _held = hold_when(&bed.store, "UploadPart", 4).await;
    signal(running.id(), Signal::SIGINT);
    wait_for("an abort", async || {
        let aborts = bed
            .store
            .endpoint
            .counters()
            .requests("AbortMultipartUpload");
        (aborts > 0).then_some(())
    })
    .await;
    signal(running.id(), Signal::SIGINT);
    // The aborts, whose replies are withheld, would be waited for for half a minute.
    let ended = tokio::time::timeout(DEADLINE.min(Duration::from_secs(20)), end(running)).await;
    let output = ended.expect("it does not wait for the store");
    assert_eq!(output.status.code(), Some(130));
}
