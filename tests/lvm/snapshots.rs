//! Snapshots that somebody asks for, and those that backups read.

use std::{os::unix::fs::FileExt, time::Duration};

use ringback_proto::{
    control::{JobKind, JobPhase, WatchJobRequest},
    lvmd::{BackupState, CreateBackupRequest, CreateLvSnapshotRequest, LogicalVolume, StateType},
};
use tonic::{Code, Status};

use crate::{
    client::{assert_refused, backup, synchronous},
    harness::{MIB, wait_for},
    paths::assert_ring,
    store::fill,
    valve::Valve,
    vg::{
        Bed, CLASSES, POOL, PROMISED_BYTES_MAX, VG, assert_holds, content, device, field, run,
        vg_free_bytes, words, write,
    },
    writer::Writer,
};

/// A write to a volume that is backed up takes no longer.
const STALL_MAX: Duration = Duration::from_secs(5);

pub(crate) async fn snapshot(
    bed: &Bed,
    class: &str,
    name: &str,
    access: &str,
    bytes: u64,
) -> Result<LogicalVolume, Status> {
    let request = CreateLvSnapshotRequest {
        name: name.to_owned(),
        tags: vec!["mine".to_owned()],
        device_class: class.to_owned(),
        source_volume: "data".to_owned(),
        access_type: access.to_owned(),
        size_bytes: i64::try_from(bytes).expect("a size"),
    };
    let answer = bed.client.clone().lv.create_lv_snapshot(request).await?;
    Ok(answer.into_inner().snapshot.expect("the answer has it"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thin_volume_has_snapshots_to_read_to_write_and_larger_ones() {
    let bed = Bed::new().await;
    bed.create("thin", "data", 32 * MIB).await;
    fill("/dev/vm/data", 0, 32 * MIB, "data");
    run(&["sync"]);
    let original = content("data");
    let read_only = snapshot(&bed, "thin", "ro", "ro", 0).await.expect("made");
    assert_eq!(read_only.size_bytes, 32 << 20);
    assert_eq!(read_only.tags, ["mine"]);
    assert_ne!(read_only.dev_major, 0, "it is active");
    let writable = snapshot(&bed, "thin", "rw", "rw", 40 * MIB)
        .await
        .expect("made");
    assert_eq!(writable.size_bytes, 40 << 20);
    write("data", 0, 32 * MIB, 1);
    write("rw", 0, MIB, 2);
    assert_holds("ro", &original);
    assert!(content("rw")[..1 << 20].iter().all(|byte| *byte == 2));
    assert_eq!(content("rw")[1 << 20..32 << 20], original[1 << 20..]);
    assert_eq!(field("ro", "lv_permissions"), "read-only");
    assert_eq!(bed.names("thin").await, ["data", "ro", "rw"]);

    // All of them are promises.
    let promised = (32 + 32 + 40) * MIB;
    assert_eq!(bed.free_bytes("thin").await, PROMISED_BYTES_MAX - promised);
    bed.remove("thin", "data")
        .await
        .expect("snapshots stand alone");
    bed.assert_left(&["ro", "rw"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_cannot_be_are_refused_and_nothing_is_left_of_them() {
    let bed = Bed::new().await;
    let missing = snapshot(&bed, "thin", "ro", "ro", 0).await;
    assert_refused(missing, Code::NotFound, "there is no volume data");
    bed.create("thin", "data", 32 * MIB).await;
    let smaller = snapshot(&bed, "thin", "ro", "ro", 16 * MIB).await;
    assert_refused(smaller, Code::OutOfRange, "at least as large");
    let larger = snapshot(&bed, "thin", "ro", "ro", 1 << 40).await;
    assert_refused(larger, Code::ResourceExhausted, "bytes are needed");
    let taken = snapshot(&bed, "thin", "data", "ro", 0).await;
    assert_refused(taken, Code::AlreadyExists, "there is already a volume data");
    bed.assert_left(&["data"]);
    bed.remove("thin", "data").await.expect("it is removed");
    for is_there in [false, true] {
        let thick = snapshot(&bed, "thick", "ro", "ro", 0).await;
        assert_refused(thick, Code::Unimplemented, "use a class with type: thin");
        if !is_there {
            bed.create("thick", "data", 32 * MIB).await;
        }
    }
    bed.assert_left(&["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_lvm_does_not_activate_is_removed() {
    let wrapper = "/tmp/no-activation";
    let script = "#!/bin/bash\n\
                  if [ \"$1\" = lvcreate ] && [[ \"$*\" == *ringback-snapshot* ]]; then\n\
                  \x20   shift; exec lvm lvcreate --activate n \"$@\"\nfi\nexec lvm \"$@\"\n";
    std::fs::write(wrapper, script).expect("writes the script");
    let prefix = format!("lvm-command-prefix: [/bin/bash, {wrapper}]\n");
    let bed = Bed::with("", &prefix).await;
    bed.create("thin", "data", 32 * MIB).await;
    let refused = snapshot(&bed, "thin", "ro", "ro", 0).await;
    assert_refused(refused, Code::Internal, "LVM did not activate it");
    bed.assert_left(&["data"]);
}

/// Starts a backup of `data` that stops in the midst of its data.
pub(crate) async fn shut_in_the_midst(bed: &Bed) -> (Valve, CreateBackupRequest) {
    let valve = Valve::to(&bed.store).await;
    let request = backup("monday", "data", &valve.through(bed.store.s3("monday")));
    let state = bed.client.poll(&request).await.expect("it starts");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    valve.is_shut().await;
    (valve, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_reads_a_snapshot_that_nobody_is_told_of_and_that_goes_with_it() {
    let mut bed = Bed::new().await;
    for class in CLASSES {
        let name = "data";
        bed.create(class, name, 64 * MIB).await;
        fill("/dev/vm/data", 0, 64 * MIB, class);
        run(&["sync"]);
        let original = content(name);
        let free = bed.free_bytes(class).await;
        let before = bed.daemon.log().len();
        let writer = Writer::start(&device(name), 60 * MIB);
        let (valve, request) = shut_in_the_midst(&bed).await;
        assert_ring(&bed.daemon.log()[before..], "reading the volume");
        let all = words(&["lvs", "--noheadings", "-o", "lv_name,lv_attr", VG]);
        let ours: Vec<&String> = all.iter().filter(|it| it.contains("ringback")).collect();
        assert_eq!(ours.len(), 1, "{all:?}");
        assert_eq!(field(ours[0], "lv_permissions"), "read-only");
        assert_eq!(bed.names(class).await, [name]);
        // A copy-on-write snapshot takes a fifth of the volume, in whole extents; a thin one is no
        // promise.
        let taken = if class == "thick" { 16 * MIB } else { 0 };
        assert_eq!(bed.free_bytes(class).await, free - taken, "{class}");

        // The origin goes on at once, and never stalls.
        write(name, 0, 8 * MIB, 1);
        let writes = writer.writes();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(writer.writes() > writes, "{class}");
        valve.open();
        let state = bed.client.end_of(&request).await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
        let longest = writer.longest();
        assert!(longest < STALL_MAX, "{class}: {longest:?}");
        bed.assert_left(&[name]);
        assert_eq!(bed.free_bytes(class).await, free, "{class}");
        bed.remove(class, name).await.expect("it is removed");
        // What was read was the moment of the snapshot.
        let source = synchronous(&bed.store.s3("monday"));
        bed.client
            .restore("again", 1, &source)
            .await
            .expect("it is restored");
        assert_holds("again", &original);
        bed.remove("thick", "again").await.expect("it is removed");
        bed.store = crate::store::Store::start().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_runs_full_fails_its_backup_and_says_what_to_set() {
    let bed = Bed::with("snapshot-percent: 5", "").await;
    bed.create("thick", "data", 64 * MIB).await;
    fill("/dev/vm/data", 0, 64 * MIB, "data");
    run(&["sync"]);
    let (valve, request) = shut_in_the_midst(&bed).await;
    // 5 % of 64 MiB are one extent of 4 MiB.
    write("data", 0, 16 * MIB, 1);
    valve.open();
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    let says = "the snapshot of volume data ran full: more than its 4194304 bytes were overwritten \
                while the backup ran, so there is no backup of that moment; raise snapshot-percent \
                of the device class (100 never runs full), or back up when less is written; if less \
                was, a disk failed, and the kernel's log says so";
    assert_eq!(state.msg, says);
    bed.assert_left(&["data"]);
    assert!(bed.client.show(&bed.store.s3("monday")).await.is_err());
    // The origin has what was written.
    assert!(content("data")[..16 << 20].iter().all(|byte| *byte == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_given_up_before_its_snapshot_fills_the_pool() {
    let bed = Bed::new().await;
    fill_most_of_the_pool(&bed).await;
    let (valve, request) = shut_in_the_midst(&bed).await;
    assert_given_up_before_the_pool_is_full(&bed, &request).await;
    valve.open();
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    bed.remove("thin", "data").await.expect("it is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_that_still_asks_what_is_mapped_and_the_pool_has_its_blocks_again() {
    const ASKING: &str = "/tmp/asking";
    let wrapper = "/tmp/slow-dump";
    let script = format!(
        "#!/bin/bash\n\
         if [ \"$1\" = thin_dump ]; then >{ASKING}; exec sleep 1000; fi\n\
         exec \"$@\"\n"
    );
    std::fs::write(wrapper, script).expect("writes the script");
    let prefix = format!("lvm-command-prefix: [/bin/bash, {wrapper}, lvm]\n");
    let bed = Bed::with("", &prefix).await;
    fill_most_of_the_pool(&bed).await;
    let request = backup("monday", "data", &bed.store.s3("monday"));
    let state = bed.client.poll(&request).await.expect("it starts");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    wait_for("thin_dump", async || {
        std::path::Path::new(ASKING).exists().then_some(())
    })
    .await;
    assert_given_up_before_the_pool_is_full(&bed, &request).await;
}

/// Makes a volume `data` of 300 MiB in the pool of 512 MiB.
async fn fill_most_of_the_pool(bed: &Bed) {
    bed.create("thin", "data", 300 * MIB).await;
    fill("/dev/vm/data", 0, 300 * MIB, "data");
    run(&["sync"]);
}

/// Overwrites `data` until its backup is given up; then all of it, for which there is room. A write that
/// finds none fails.
async fn assert_given_up_before_the_pool_is_full(bed: &Bed, request: &CreateBackupRequest) {
    // 32 MiB are left, a little more than a twentieth.
    write("data", 0, 180 * MIB, 1);
    let mut state = BackupState::default();
    for at in 180..212 {
        write("data", at * MIB, MIB, 1);
        tokio::time::sleep(Duration::from_millis(500)).await;
        state = bed.client.poll(request).await.expect("it is told");
        if state.state() != StateType::Inprogress {
            break;
        }
    }
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    let says = "of thin pool pool are left: the backup of volume data was given up, since its \
                snapshot holds what is overwritten, and a pool that runs full stops all its volumes; \
                make room in the pool, or back up when less is written";
    assert!(state.msg.ends_with(says), "{}", state.msg);
    bed.assert_left(&["data"]);
    wait_for("its blocks", async || {
        (field(POOL, "data_percent") == "58.59").then_some(())
    })
    .await;
    write("data", 0, 300 * MIB, 2);
    assert!(content("data").iter().all(|byte| *byte == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_runs_full_when_all_was_read_is_not_committed_either() {
    let bed = Bed::with("snapshot-percent: 5", "").await;
    bed.create("thick", "data", 64 * MIB).await;
    // One chunk of data: all is read long before the store has it.
    fill("/dev/vm/data", 0, MIB, "data");
    run(&["sync"]);
    let held = bed.store.endpoint.hold_replies();
    let request = backup("monday", "data", &bed.store.s3("monday"));
    let state = bed.client.poll(&request).await.expect("it starts");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    drop(held);
    wait_for("the snapshot", async || {
        let all = words(&["lvs", "--noheadings", "-o", "lv_name", VG]);
        all.iter().any(|it| it.contains("ringback")).then_some(())
    })
    .await;
    let _held = bed.store.endpoint.hold_replies();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    write("data", 0, 16 * MIB, 1);
    drop(_held);
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    assert!(state.msg.contains("ran full"), "{}", state.msg);
    bed.assert_left(&["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_100_percent_all_of_a_volume_may_be_overwritten() {
    let bed = Bed::with("snapshot-percent: 100", "").await;
    bed.create("thick", "data", 64 * MIB).await;
    fill("/dev/vm/data", 0, 64 * MIB, "data");
    run(&["sync"]);
    let original = content("data");
    let (valve, request) = shut_in_the_midst(&bed).await;
    write("data", 0, 64 * MIB, 1);
    valve.open();
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    let source = synchronous(&bed.store.s3("monday"));
    bed.remove("thick", "data").await.expect("it is removed");
    bed.client
        .restore("again", 1, &source)
        .await
        .expect("it is restored");
    assert_holds("again", &original);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_without_room_for_its_snapshot_is_not_backed_up_and_is_told_so() {
    let bed = Bed::new().await;
    let free = bed.free_bytes("thick").await;
    bed.create("thick", "data", free).await;
    assert_eq!(vg_free_bytes(), 0);
    let state = bed
        .client
        .end_of(&backup("monday", "data", &bed.store.s3("monday")))
        .await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    assert!(
        state.msg.contains("and 0 are free in its volume group"),
        "{}",
        state.msg
    );
    bed.assert_left(&["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn growing_a_thick_volume_waits_for_its_backup_and_a_thin_one_does_not() {
    let mut bed = Bed::new().await;
    for class in CLASSES {
        bed.create(class, "data", 64 * MIB).await;
        fill("/dev/vm/data", 0, 64 * MIB, class);
        let (valve, request) = shut_in_the_midst(&bed).await;
        let grown = async {
            let grown = bed.resize(class, "data", 80 * MIB).await;
            assert_eq!(grown.expect("it grows"), 80 << 20);
            field("data", "lv_size")
        };
        let opened = async {
            let is_large =
                async || (field("data", "lv_size") == (80 << 20).to_string()).then_some(());
            match class {
                "thick" => tokio::time::sleep(Duration::from_secs(2)).await,
                _ => wait_for("it to grow", is_large).await,
            }
            let size = field("data", "lv_size");
            valve.open();
            size
        };
        let (after, meanwhile) = tokio::join!(grown, opened);
        assert_eq!(after, (80 << 20).to_string());
        let expected = if class == "thick" { 64 << 20 } else { 80 << 20 };
        assert_eq!(meanwhile, expected.to_string(), "{class}");
        let state = bed.client.end_of(&request).await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
        bed.remove(class, "data").await.expect("it is removed");
        bed.store = crate::store::Store::start().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn growing_a_thick_volume_waits_for_no_backup_that_has_no_snapshot_yet() {
    let bed = Bed::new().await;
    for name in ["data", "other"] {
        bed.create("thick", name, 64 * MIB).await;
        fill(&format!("/dev/vm/{name}"), 0, 64 * MIB, name);
    }
    let (valve, request) = shut_in_the_midst(&bed).await;
    let long = Valve::to(&bed.store).await;
    // One moves data at a time, in the order of these calls.
    let other = backup("other", "other", &long.through(bed.store.s3("other")));
    let again = backup("tuesday", "data", &bed.store.s3("tuesday"));
    for queued in [&other, &again] {
        bed.client.poll(queued).await.expect("it starts");
        waits(&bed, queued).await;
    }
    let opened = async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        valve.open();
    };
    let (grown, ()) = tokio::join!(bed.resize("thick", "data", 80 * MIB), opened);
    assert_eq!(grown.expect("it grows"), 80 << 20);
    long.is_shut().await;
    waits(&bed, &again).await;
    long.open();
    for request in [&request, &other, &again] {
        let state = bed.client.end_of(request).await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    }
    for name in ["data", "other"] {
        bed.remove("thick", name).await.expect("it is removed");
    }
    bed.assert_left(&[]);
}

/// Returns when a backup waits for its turn.
async fn waits(bed: &Bed, request: &CreateBackupRequest) {
    wait_for("a backup that waits", async || {
        let state = bed.client.poll(request).await.expect("it is told");
        (state.msg == "waiting for other jobs to end").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_volume_cancels_its_backup_and_takes_the_snapshot_along() {
    let bed = Bed::new().await;
    for class in CLASSES {
        bed.create(class, "data", 64 * MIB).await;
        fill("/dev/vm/data", 0, 64 * MIB, class);
        let (_valve, request) = shut_in_the_midst(&bed).await;
        bed.remove(class, "data").await.expect("it is removed");
        bed.assert_left(&[]);
        let state = bed.client.poll(&request).await.expect("it is told");
        assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    }
}

/// What a backup of `data` as `name` has read from its snapshot.
async fn bytes_read(bed: &Bed, name: &str) -> u64 {
    let request = backup(name, "data", &bed.store.s3(name));
    let state = bed.client.poll(&request).await.expect("it starts");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    let request = WatchJobRequest {
        kind: JobKind::Backup.into(),
        name: name.to_owned(),
        device_class: String::new(),
    };
    let mut states = crate::client::ok(bed.client.clone().own.watch_job(request).await);
    loop {
        let state = states.message().await.expect("followed").expect("an end");
        if state.phase() == JobPhase::Done {
            return state.volume_io_bytes;
        }
        assert_ne!(state.phase(), JobPhase::Failed, "{}", state.error);
    }
}

/// What another program may tell the pool.
fn tell_pool(message: &str) {
    run(&["dmsetup", "message", "vm-pool-tpool", "0", message]);
}

/// Whether the pool's metadata is held for somebody.
fn metadata_is_held() -> bool {
    let status = run(&["dmsetup", "status", "vm-pool-tpool"]);
    status.split(' ').nth(6) != Some("-")
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thin_volume_only_what_is_mapped_is_read() {
    const BYTES: u64 = 128 * MIB;
    let mut bed = Bed::new().await;
    bed.create("thin", "data", BYTES).await;
    fill("/dev/vm/data", 0, MIB, "first");
    fill("/dev/vm/data", 100 * MIB, 3 * MIB, "middle");
    fill("/dev/vm/data", BYTES - 4096, 4096, "last");
    run(&["sync"]);
    // In chunks of 256 KiB.
    let mapped = 4 * MIB + (256 << 10);
    assert_eq!(bytes_read(&bed, "one").await, mapped);
    assert!(!metadata_is_held());
    let mut original = vec![0; 128 << 20];
    let device = std::fs::File::open("/dev/vm/data").expect("opens");
    for (at, len) in [(0, MIB), (100 * MIB, 3 * MIB), (BYTES - 4096, 4096)] {
        let range = usize::try_from(at).expect("fits")..usize::try_from(at + len).expect("fits");
        device
            .read_exact_at(&mut original[range], at)
            .expect("reads");
    }
    drop(device);

    // Blocks that were discarded are not mapped any more; what a killed daemon held is let go of.
    run(&[
        "blkdiscard",
        "-o",
        "104857600",
        "-l",
        "1048576",
        "/dev/vm/data",
    ]);
    original[100 << 20..101 << 20].fill(0);
    tell_pool("reserve_metadata_snap");
    assert!(metadata_is_held());
    bed.restart().await;
    assert_eq!(bed.names("thin").await, ["data"]);
    assert!(!metadata_is_held());
    assert_eq!(bytes_read(&bed, "two").await, mapped - MIB);

    // The pool is not in use when the daemon starts: it is looked at later.
    tell_pool("reserve_metadata_snap");
    bed.daemon.kill();
    run(&["vgchange", "--activate", "n", "vm"]);
    bed.restart().await;
    assert_eq!(bed.names("thin").await, ["data"]);
    run(&["vgchange", "--activate", "y", "vm"]);
    assert!(metadata_is_held());
    assert_eq!(bytes_read(&bed, "later").await, mapped - MIB);
    assert!(!metadata_is_held());

    // Somebody else holds it: then all is read, and all is right.
    tell_pool("reserve_metadata_snap");
    assert_eq!(bytes_read(&bed, "three").await, BYTES);
    assert!(metadata_is_held(), "it is theirs");
    assert!(
        bed.daemon
            .log()
            .contains("a backup reads unmapped blocks, too")
    );
    tell_pool("release_metadata_snap");

    bed.remove("thin", "data").await.expect("it is removed");
    for name in ["two", "later", "three"] {
        let mut request = crate::client::with_source("again", 1, &synchronous(&bed.store.s3(name)));
        request.device_class = "thin".to_owned();
        crate::client::ok(bed.client.clone().lv.create_lv(request).await);
        assert_holds("again", &original);
        bed.remove("thin", "again").await.expect("it is removed");
    }
    bed.assert_left(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thin_volume_over_another_is_read_where_it_has_no_blocks() {
    let bed = Bed::new().await;
    bed.create("thick", "below", 64 * MIB).await;
    fill("/dev/vm/below", 0, 64 * MIB, "below");
    run(&["sync"]);
    run(&["lvchange", "--activate", "n", "vm/below"]);
    run(&["lvchange", "--permission", "r", "vm/below"]);
    let over = [
        "lvcreate",
        "--yes",
        "--snapshot",
        "--thinpool",
        "vm/pool",
        "--name",
        "data",
    ];
    run(&[&over[..], &["vm/below"]].concat());
    write("data", 32 * MIB, MIB, 1);
    let original = content("data");
    assert!(original[..1 << 20].iter().any(|byte| *byte != 0));
    assert_eq!(bytes_read(&bed, "monday").await, 64 * MIB);
    let mut request = crate::client::with_source("again", 1, &synchronous(&bed.store.s3("monday")));
    request.device_class = "thin".to_owned();
    crate::client::ok(bed.client.clone().lv.create_lv(request).await);
    assert_holds("again", &original);
}
