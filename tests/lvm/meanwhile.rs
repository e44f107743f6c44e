//! What is told, and what can be done, while a backup's snapshot and an unfinished restore are there.

use ringback_proto::lvmd::{Empty, StateType, WatchResponse};
use tonic::{Code, Streaming};

use crate::{
    client::{assert_refused, asynchronous, ok, with_source},
    harness::{GIB, MIB, wait_for},
    snapshots::{shut_in_the_midst, snapshot},
    store::{Store, fill},
    valve::Valve,
    vg::{Bed, CLASSES, PROMISED_BYTES_MAX, assert_holds, content, vg_free_bytes},
};

/// Makes the volume `data` of 64 MiB, full.
async fn make_data(bed: &Bed, class: &str) {
    bed.create(class, "data", 64 * MIB).await;
    fill("/dev/vm/data", 0, 64 * MIB, class);
}

/// What Watch tells of the classes `thick` and `thin`.
fn told(state: &WatchResponse) -> (u64, u64) {
    let of = |class: &str| state.items.iter().find(|item| item.device_class == class);
    let thin = of("thin").expect("an item of each class");
    let pool = thin.thin_pool.as_ref().expect("a pool");
    let thick = of("thick").expect("an item of each class");
    assert_eq!(state.free_bytes, thick.free_bytes, "the default class");
    assert_eq!(thin.free_bytes, vg_free_bytes(), "what the group has");
    (thick.free_bytes, pool.overprovision_bytes)
}

/// Waits until a watcher is told this; GetFreeBytes says the same.
async fn are_told(bed: &Bed, states: &mut Streaming<WatchResponse>, free: (u64, u64)) {
    let until = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        loop {
            let state = states.message().await.expect("a message").expect("one");
            let items = state.items.iter();
            let mut free_bytes = items.map(|item| item.free_bytes);
            if free_bytes.all(|bytes| bytes == vg_free_bytes()) && told(&state) == free {
                break;
            }
        }
    });
    until.await.expect("watchers are told");
    let asked = (bed.free_bytes("thick").await, bed.free_bytes("thin").await);
    assert_eq!(asked, free);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_told_the_truth_while_a_snapshot_and_an_unfinished_restore_are_there() {
    let mut bed = Bed::new().await;
    for class in CLASSES {
        bed.store = Store::start().await;
        let mut states = ok(bed.client.clone().vg.watch(Empty {}).await);
        let empty = (vg_free_bytes(), PROMISED_BYTES_MAX);
        are_told(&bed, &mut states, empty).await;
        // Less what is in one class or in the other, and what a copy-on-write snapshot takes.
        let less = |bytes: u64, snapshot: u64| match class {
            "thick" => (empty.0 - bytes - snapshot, empty.1),
            _ => (empty.0, empty.1 - bytes),
        };
        make_data(&bed, class).await;
        bed.client.back_up("data", &bed.store.s3("sunday")).await;
        are_told(&bed, &mut states, less(64 * MIB, 0)).await;

        // Something new for the next one to read.
        fill("/dev/vm/data", 0, 64 * MIB, "other");
        let (backup_valve, monday) = shut_in_the_midst(&bed).await;
        are_told(&bed, &mut states, less(64 * MIB, 16 * MIB)).await;

        let valve = Valve::to(&bed.store).await;
        let source = asynchronous(&valve.through(bed.store.s3("sunday")));
        let mut request = with_source("again", 1, &source);
        class.clone_into(&mut request.device_class);
        ok(bed.client.clone().lv.create_lv(request).await);
        valve.is_shut().await;
        are_told(&bed, &mut states, less(64 * MIB + GIB, 16 * MIB)).await;
        assert_eq!(bed.names(class).await, ["data"]);

        backup_valve.open();
        let state = bed.client.end_of(&monday).await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
        are_told(&bed, &mut states, less(64 * MIB + GIB, 0)).await;
        valve.open();
        wait_for("the restored volume", async || {
            (bed.names(class).await == ["again", "data"]).then_some(())
        })
        .await;
        for name in ["again", "data"] {
            bed.remove(class, name).await.expect("it is removed");
        }
        are_told(&bed, &mut states, empty).await;
        bed.assert_left(&[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spare_is_reported_as_taken_and_snapshots_of_backups_take_from_it_first() {
    let bed = Bed::sparing(1, "", "").await;
    let free = vg_free_bytes() - GIB;
    assert_eq!(bed.free_bytes("thick").await, free);
    assert_eq!(
        bed.free_bytes("thin").await,
        PROMISED_BYTES_MAX,
        "another's"
    );
    make_data(&bed, "thick").await;
    let free = free - 64 * MIB;
    let (valve, request) = shut_in_the_midst(&bed).await;
    assert_eq!(
        vg_free_bytes(),
        free + GIB - 16 * MIB,
        "the snapshot is there"
    );
    assert_eq!(bed.free_bytes("thick").await, free);
    valve.open();
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    assert_eq!(bed.free_bytes("thick").await, free);

    // It is kept back from those who ask, not from those who take.
    bed.create("thick", "more", free + 512 * MIB).await;
    assert_eq!(vg_free_bytes(), 512 * MIB);
    assert_eq!(bed.free_bytes("thick").await, 0);
    let mut states = ok(bed.client.clone().vg.watch(Empty {}).await);
    let state = states.message().await.expect("a message").expect("one");
    assert_eq!(state.free_bytes, 0);
    let more = bed.try_create("thick", "most", 516 * MIB).await;
    assert_refused(more, Code::ResourceExhausted, "bytes are needed and");
    bed.assert_left(&["data", "more"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_backed_up_has_snapshots_and_one_under_restore_has_none() {
    let bed = Bed::new().await;
    make_data(&bed, "thin").await;
    let original = content("data");
    let (valve, request) = shut_in_the_midst(&bed).await;
    let made = snapshot(&bed, "thin", "moment", "ro", 0).await;
    assert_eq!(made.expect("it is made").size_bytes, 64 << 20);
    assert_eq!(bed.names("thin").await, ["data", "moment"]);
    assert_holds("moment", &original);
    valve.open();
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    assert_holds("moment", &original);
    for name in ["data", "moment"] {
        bed.remove("thin", name).await.expect("it is removed");
    }

    let valve = Valve::to(&bed.store).await;
    let source = asynchronous(&valve.through(bed.store.s3("monday")));
    let mut request = with_source("data", 1, &source);
    request.device_class = "thin".to_owned();
    ok(bed.client.clone().lv.create_lv(request).await);
    valve.is_shut().await;
    let none = snapshot(&bed, "thin", "moment", "ro", 0).await;
    assert_refused(none, Code::NotFound, "there is no volume data");
    bed.remove("thin", "data").await.expect("it is cancelled");
    bed.assert_left(&[]);
}
