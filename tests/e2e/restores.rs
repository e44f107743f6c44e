//! Restores: the exact bytes, under a name that appears only when they are all there.

use std::time::Duration;

use ringback_proto::{control::JobPhase, lvmd::DataSource};
use tonic::Code;

use crate::{
    client::{Client, assert_refused, asynchronous, ok, sized_gb, synchronous, with_source},
    harness::{Daemon, GIB, MIB, ended_well, wait_for},
    store::{Store, allocated_bytes, assert_same_content, fill},
    valve::Valve,
};

/// A daemon whose volume `data` of 96 MiB has data in three places, and a store with its backup.
struct Bed {
    daemon: Daemon,
    client: Client,
    store: Store,
    original: String,
}

impl Bed {
    async fn new() -> Self {
        let (daemon, store) = (Daemon::start(), Store::start().await);
        let client = daemon.client().await;
        let volume = client.create("data", 96 * MIB).await;
        fill(&volume.path, 0, 4096, "first");
        fill(&volume.path, 20 * MIB, 16 * MIB, "middle");
        fill(&volume.path, 95 * MIB, MIB, "last");
        client.back_up("data", &store.s3("monday")).await;
        Self {
            daemon,
            client,
            store,
            original: volume.path,
        }
    }

    /// The way to the backup by a valve that shuts in the midst of its data.
    async fn shut_in_the_midst(&self) -> (Valve, DataSource) {
        let valve = Valve::to(&self.store).await;
        let source = asynchronous(&valve.through(self.store.s3("monday")));
        (valve, source)
    }

    /// Waits for the volume `again`, which must be the backup's.
    async fn assert_it_appears(&self) {
        let volume = wait_for("the restored volume", async || {
            self.client.find("again").await
        });
        assert_same_content(&self.original, &volume.await.path);
        assert_eq!(self.daemon.entries("fast", "pending"), [""; 0]);
    }

    async fn assert_it_is_not_listed(&self) {
        assert_eq!(self.client.find("again").await, None);
        assert_eq!(self.daemon.entries("fast", "pending"), ["again"]);
    }
}

fn waiting(source: &DataSource) -> DataSource {
    DataSource {
        synchronous_restore: true,
        ..source.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_restore_answers_with_the_exact_bytes_and_holes_stay_holes() {
    let bed = Bed::new().await;
    let source = synchronous(&bed.store.s3("monday"));
    let mut request = with_source("again", 1, &source);
    request.tags = vec!["team=a".to_owned()];
    let volume = ok(bed.client.clone().lv.create_lv(request).await).volume;
    let volume = volume.expect("the answer has it");
    assert_eq!((volume.size_bytes.unsigned_abs(), volume.size_gb), (GIB, 1));
    assert_eq!(volume.tags, ["team=a"]);
    assert_eq!(bed.client.find("again").await, Some(volume.clone()));
    assert_same_content(&bed.original, &volume.path);
    let (before, after) = (
        allocated_bytes(&bed.original),
        allocated_bytes(&volume.path),
    );
    // A chunk that holds any data is written whole.
    assert!(after <= before + MIB, "{before} bytes became {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_volume_backs_up_and_restores_again() {
    let bed = Bed::new().await;
    let source = synchronous(&bed.store.s3("monday"));
    bed.client
        .restore("again", 1, &source)
        .await
        .expect("it is restored");
    let message = bed
        .client
        .back_up("again", &bed.store.at("backups/other/first"))
        .await;
    assert!(
        message.starts_with("1.0 GiB backed up: 17.2 MiB (compressed to 17.0 MiB) new"),
        "{message}"
    );
    let source = synchronous(&bed.store.at("backups/other/first"));
    let third = bed
        .client
        .restore("third", 2, &source)
        .await
        .expect("it is restored");
    assert_same_content(&bed.original, &third.path);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_restore_is_listed_only_when_all_its_bytes_are_there() {
    let bed = Bed::new().await;
    let (valve, source) = bed.shut_in_the_midst().await;
    let answer = bed
        .client
        .restore("again", 1, &source)
        .await
        .expect("it answers at once");
    assert_eq!(
        (&answer.name[..], answer.size_bytes.unsigned_abs()),
        ("again", GIB)
    );
    assert_eq!((answer.dev_major, answer.dev_minor), (0, 0));
    valve.is_shut().await;
    bed.assert_it_is_not_listed().await;
    valve.open();
    bed.assert_it_appears().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_joins_a_running_restore() {
    let bed = Bed::new().await;
    let sent_before = bed.store.endpoint.counters().bytes_sent;
    let (valve, source) = bed.shut_in_the_midst().await;
    let begun = bed
        .client
        .restore("again", 1, &source)
        .await
        .expect("it answers at once");
    valve.is_shut().await;
    let joined = bed
        .client
        .restore("again", 1, &source)
        .await
        .expect("it joins");
    assert_eq!(joined, begun);
    let source = waiting(&source);
    let waiters = [
        bed.client.restore("again", 1, &source),
        bed.client.restore("again", 1, &source),
    ];
    let opened = async {
        bed.assert_it_is_not_listed().await;
        valve.open();
    };
    let (volumes, ()) = tokio::join!(futures::future::join_all(waiters), opened);
    bed.assert_it_appears().await;
    let listed = bed.client.find("again").await.expect("it is listed");
    for volume in volumes {
        assert_eq!(volume.expect("it is restored").path, listed.path);
    }
    let sent = bed.store.endpoint.counters().bytes_sent - sent_before;
    assert!(
        (17 * MIB..25 * MIB).contains(&sent),
        "{sent}: it was fetched more than once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_for_the_name_is_refused_while_the_restore_runs_and_after() {
    let bed = Bed::new().await;
    bed.client
        .back_up("data", &bed.store.at("backups/other/monday"))
        .await;
    let (valve, source) = bed.shut_in_the_midst().await;
    bed.client
        .restore("again", 1, &source)
        .await
        .expect("it answers at once");
    valve.is_shut().await;
    let other_backup = asynchronous(&valve.through(bed.store.at("backups/other/monday")));
    for request in [
        with_source("again", 2, &source),
        with_source("again", 1, &other_backup),
        sized_gb("again", 1),
    ] {
        let refused = bed.client.clone().lv.create_lv(request).await;
        assert_refused(refused, Code::AlreadyExists, "again");
    }
    valve.open();
    bed.assert_it_appears().await;
    for source in [source.clone(), waiting(&source)] {
        let refused = bed.client.restore("again", 1, &source).await;
        assert_refused(refused, Code::AlreadyExists, "again");
    }
    let refused = bed.client.restore("data", 1, &source).await;
    assert_refused(refused, Code::AlreadyExists, "data");
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_volume_under_restore_cancels_it() {
    let bed = Bed::new().await;
    let (valve, source) = bed.shut_in_the_midst().await;
    let source = waiting(&source);
    let restore = bed.client.restore("again", 1, &source);
    let removed = async {
        valve.is_shut().await;
        bed.client.remove("again").await.expect("it is removed");
        bed.daemon.assert_nothing_is_left_of("again");
    };
    let (restored, ()) = tokio::join!(restore, removed);
    assert_refused(restored, Code::Aborted, "cancelled: the volume was removed");
    assert_refused(bed.client.remove("again").await, Code::NotFound, "again");
    valve.open();
    // Nothing remembers it: the same request begins anew.
    bed.client
        .restore("again", 1, &source)
        .await
        .expect("it is restored");
    bed.assert_it_appears().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_waits_for_the_store_is_cancelled_as_well() {
    let mut bed = Bed::new().await;
    let _held = bed.store.endpoint.hold_replies();
    let requests = bed.store.requests();
    let (client, source) = (bed.client.clone(), synchronous(&bed.store.s3("monday")));
    let restore = client.restore("again", 1, &source);
    let removed = async {
        wait_for("a request", async || {
            (bed.store.requests() > requests).then_some(())
        })
        .await;
        bed.client.remove("again").await.expect("it is removed");
    };
    let (restored, ()) = tokio::join!(restore, removed);
    assert_refused(restored, Code::Aborted, "cancelled: the volume was removed");

    let requests = bed.store.requests();
    let restore = client.restore("again", 1, &source);
    let stopped = async {
        wait_for("a request", async || {
            (bed.store.requests() > requests).then_some(())
        })
        .await;
        assert!(ended_well(bed.daemon.terminate().await));
    };
    let (restored, ()) = tokio::join!(restore, stopped);
    assert_refused(restored, Code::Aborted, "the daemon is stopping");
    bed.daemon.assert_nothing_is_left_of("again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_does_not_stop_its_restore() {
    let bed = Bed::new().await;
    let (valve, source) = bed.shut_in_the_midst().await;
    let (caller, source) = (bed.daemon.client().await, waiting(&source));
    let call = tokio::spawn(async move { caller.restore("again", 1, &source).await });
    valve.is_shut().await;
    call.abort();
    assert!(call.await.expect_err("is gone").is_cancelled());
    bed.assert_it_is_not_listed().await;
    valve.open();
    bed.assert_it_appears().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_cut_off_leaves_nothing_and_can_be_asked_for_again() {
    let mut bed = Bed::new().await;
    for kill in [true, false] {
        let (valve, source) = bed.shut_in_the_midst().await;
        bed.client
            .restore("again", 1, &source)
            .await
            .expect("it answers at once");
        valve.is_shut().await;
        bed.assert_it_is_not_listed().await;
        if kill {
            bed.daemon.kill();
        } else {
            let status = bed.daemon.terminate().await;
            assert!(ended_well(status), "{status}");
            bed.daemon.assert_nothing_is_left_of("again");
        }
        bed.daemon.restart();
        bed.client = bed.daemon.client().await;
        assert_eq!(bed.client.find("again").await, None);
        bed.daemon.assert_nothing_is_left_of("again");
    }
    let source = synchronous(&bed.store.s3("monday"));
    bed.client
        .restore("again", 1, &source)
        .await
        .expect("it is restored");
    bed.assert_it_appears().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_daemon_answers_those_who_wait_for_a_restore() {
    let mut bed = Bed::new().await;
    let (valve, source) = bed.shut_in_the_midst().await;
    let (client, source) = (bed.client.clone(), waiting(&source));
    let restore = client.restore("again", 1, &source);
    let stopped = async {
        valve.is_shut().await;
        let status = tokio::time::timeout(Duration::from_secs(10), bed.daemon.terminate()).await;
        assert!(ended_well(status.expect("it ends soon")));
    };
    let (restored, ()) = tokio::join!(restore, stopped);
    assert_refused(restored, Code::Aborted, "the daemon is stopping");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_can_be_followed_to_its_end() {
    let bed = Bed::new().await;
    let (valve, source) = bed.shut_in_the_midst().await;
    bed.client
        .restore("again", 1, &source)
        .await
        .expect("it answers at once");
    valve.is_shut().await;
    let (end, ()) = tokio::join!(bed.client.end_of_restore("again"), async { valve.open() });
    assert_eq!(end.phase(), JobPhase::Done);
    assert_eq!(
        (end.done_bytes, end.total_bytes),
        (17 * MIB + (MIB >> 2), 17 * MIB + (MIB >> 2))
    );
    bed.assert_it_appears().await;
}
