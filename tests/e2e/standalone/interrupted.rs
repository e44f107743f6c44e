//! Ctrl-C: nothing is left behind, and a second one waits for nothing.

use std::{
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use nix::sys::signal::{SigHandler, Signal, signal as set_handler};
use ringback_endpoint::{Moment, Stop, Stopped};
use tokio::time::timeout;

use super::Bed;
use crate::{
    harness::{DEADLINE, MIB, signal, wait_for},
    store::{Store, assert_same_content, fill},
};

/// Starts a command whose output is read when it has ended.
pub(super) fn start(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

/// Withholds the replies to an operation's requests for packs of chunks, from so many on.
pub(super) fn stop_data(store: &Store, operation: &str, nth: u64) -> Stopped {
    store.endpoint.stop_at(Stop {
        operation: operation.to_owned(),
        path_contains: "/data/".to_owned(),
        nth,
        moment: Moment::Applied,
    })
}

/// Returns when a request is stopped.
pub(super) async fn reached(stopped: &Stopped) {
    let reached = timeout(DEADLINE, stopped.reached()).await;
    reached.expect("a request is stopped");
}

pub(super) async fn end(mut running: Child) -> Output {
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

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_backup_leaves_no_upload_behind_and_ends_with_130() {
    let bed = Bed::new().await;
    let disk = bed.disk("disk.img", 700 * MIB);
    // So large that packs, of which there are at least 64, go up in parts.
    fill(&disk, 4 * MIB, 640 * MIB, "large");
    for by in [Signal::SIGINT, Signal::SIGTERM] {
        let stopped = stop_data(&bed.store, "UploadPart", 3);
        let running = start(&mut bed.command("backup ./disk.img s3://backups/vms/monday"));
        reached(&stopped).await;
        signal(running.id(), by);
        assert_interrupted(&end(running).await, "ringback: interrupted");
        drop(stopped);
        // A completion that was on its way is aborted as well, and was perhaps done.
        let counters = bed.store.endpoint.counters();
        let ended = counters.requests("CompleteMultipartUpload")
            + counters.requests("AbortMultipartUpload");
        assert!(
            counters.requests("CreateMultipartUpload") <= ended,
            "{counters:?}"
        );
    }

    // A second signal does not wait for the aborts.
    let parts = stop_data(&bed.store, "UploadPart", 3);
    let running = start(&mut bed.command("backup ./disk.img s3://backups/vms/monday"));
    reached(&parts).await;
    let aborts = stop_data(&bed.store, "AbortMultipartUpload", 1);
    signal(running.id(), Signal::SIGINT);
    reached(&aborts).await;
    signal(running.id(), Signal::SIGINT);
    let output = end(running).await;
    assert_interrupted(&output, "ringback: interrupted");
    drop((parts, aborts));

    let listed = bed.lines("list s3://backups/vms");
    assert_eq!(listed.len(), 1, "the heading alone");
    bed.lines("backup ./disk.img s3://backups/vms/monday");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restore_leaves_no_file_behind_and_ends_with_130() {
    let bed = Bed::new().await;
    let disk = bed.disk("disk.img", 100 * MIB);
    fill(&disk, 4 * MIB, 90 * MIB, "large");
    bed.lines("backup ./disk.img s3://backups/vms/monday");
    let before = bed.files();
    // SAFETY: there is no handler of ours, and whoever runs the tests by nohup has it ignored.
    unsafe { set_handler(Signal::SIGHUP, SigHandler::SigDfl) }.expect("is its default");
    for by in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let stopped = stop_data(&bed.store, "GetObject", 1);
        let running = start(&mut bed.command("restore s3://backups/vms/monday ./again.img --json"));
        reached(&stopped).await;
        assert_eq!(bed.files().len(), before.len() + 1, "it was being filled");
        signal(running.id(), by);
        if by == Signal::SIGHUP {
            // As of the shell and of the kernel; it may have ended already.
            tokio::time::sleep(Duration::from_millis(5)).await;
            signal(running.id(), by);
        }
        let output = end(running).await;
        assert_interrupted(&output, "{\"error\":\"interrupted\",\"exit_code\":130,");
        drop(stopped);
        assert_eq!(bed.files(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_restore_left_goes_with_the_next_one_and_what_is_being_filled_stays() {
    let bed = Bed::new().await;
    let disk = bed.disk("disk.img", 100 * MIB);
    fill(&disk, 4 * MIB, 90 * MIB, "large");
    bed.lines("backup ./disk.img s3://backups/vms/monday");
    let before = bed.files().len();
    let begin = async || {
        let stopped = stop_data(&bed.store, "GetObject", 1);
        let running = start(&mut bed.command("restore s3://backups/vms/monday ./again.img"));
        reached(&stopped).await;
        (stopped, running)
    };
    let (stopped, killed) = begin().await;
    signal(killed.id(), Signal::SIGKILL);
    end(killed).await;
    drop(stopped);
    assert_eq!(bed.files().len(), before + 1, "what it left");

    let (stopped, overtaken) = begin().await;
    assert_eq!(bed.files().len(), before + 1, "its own alone");
    signal(overtaken.id(), Signal::SIGSTOP);
    drop(stopped);
    bed.lines("restore s3://backups/vms/monday ./again.img");
    assert_eq!(
        bed.files().len(),
        before + 2,
        "what is restored, and what is being filled"
    );
    signal(overtaken.id(), Signal::SIGCONT);
    let output = end(overtaken).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("again.img was made or changed by somebody else"),
        "{said}"
    );
    let (_, kept) = said
        .trim_end()
        .rsplit_once("what was restored is ")
        .expect("it is kept");
    assert_same_content(&disk, kept);
    assert_eq!(bed.files().len(), before + 2);
}
