//! Jobs of the daemon that meet a disk or a store that does not do what it is asked: each ends as
//! the contract says, and nothing is left of it.

use std::time::Duration;

use ringback_endpoint::{Fault, FaultPlan, Outage};
use ringback_proto::{
    control::ListBackupsRequest,
    lvmd::{CreateBackupRequest, StateType, data_source::S3},
};
use tonic::Code;

use crate::{
    bed::{Mapping, lines},
    client::{assert_refused, backup, ok, synchronous},
    harness::MIB,
    objects::Objects,
    snapshots::shut_in_the_midst,
    store::{BUCKET, fill},
    tools::{output, read_at},
    valve::Valve,
    vg::{Bed, CLASSES, POOL, RAW_POOL, VG, content, device, run, write},
};

/// The disk that can be made to fail.
const WORN: &str = "worn";
const WORN_PATH: &str = "/dev/mapper/worn";
const WORN_MIB: u64 = 1016;
const EXTENT_MIB: u64 = 4;
/// LVM has what is before a disk's first extent for itself.
const EXTENTS_AT_MIB: u64 = 1;

/// A bed with a disk that can be made to fail, on which its pool is and the first extents of each
/// thick volume that no disk has room for.
struct Worn {
    // Gone in this order, when nothing is on the disk any more.
    disk: Mapping,
    bed: Bed,
}

impl Worn {
    async fn new() -> Self {
        let mut bed = Bed::new().await;
        // It has looked at its pools.
        bed.free_bytes("thin").await;
        let disks = std::env::var("RINGBACK_GUEST_DISKS").expect("the guest's");
        let disks: Vec<&str> = disks.split_whitespace().collect();
        run(&["vgremove", "--yes", VG]);
        let disk = Mapping::of(WORN, disks[1].as_ref(), WORN_MIB);
        bed.mappings.push(WORN);
        run(&["vgcreate", VG, WORN_PATH, disks[0], disks[2]]);
        // So that the worn disk has the most room: LVM begins there with what fits on none.
        for (pool, size, disk) in [(POOL, "96m", WORN_PATH), (RAW_POOL, "512m", disks[0])] {
            let pool = format!("{VG}/{pool}");
            run(&["lvcreate", "--yes", "-L", size, "-T", &pool, disk]);
        }
        Self { disk, bed }
    }

    /// Mends a disk that failed as a whole, and tells LVM, which may have done without it.
    fn bring_disk_back(&self) {
        self.disk.mend();
        output("vgck", &["--updatemetadata", VG]);
        output("vgextend", &["--restoremissing", VG, WORN_PATH]);
    }

    /// Where on the disk a volume or the data of a pool begins.
    #[track_caller]
    fn place_mib(volume: &str) -> u64 {
        let full_name = format!("{VG}/{volume}");
        let columns = ["-a", "--noheadings", "-o", "seg_pe_ranges", &full_name];
        let ranges = lines("lvs", &columns);
        let extents = ranges[0].strip_prefix(&format!("{WORN_PATH}:"));
        let (first, _) = extents
            .expect("it is there")
            .split_once('-')
            .expect("several");
        EXTENTS_AT_MIB + first.parse::<u64>().expect("a number") * EXTENT_MIB
    }
}

impl Drop for Worn {
    fn drop(&mut self) {
        output("vgremove", &["-qq", "--yes", VG]);
    }
}

/// The names of the backups in the store's repository.
async fn listed(bed: &Bed) -> Vec<String> {
    let repository = bed.store.at(&format!("s3://{BUCKET}/team"));
    let request = ListBackupsRequest {
        repository: Some(repository),
    };
    let listed = ok(bed.client.clone().own.list_backups(request).await).backups;
    listed.into_iter().map(|backup| backup.name).collect()
}

/// Asserts that a backup ends in an error that says this, and leaves nothing but its volume.
async fn assert_fails(bed: &Bed, request: &CreateBackupRequest, says: &str) {
    let state = bed.client.end_of(request).await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    assert!(state.msg.contains(says), "{}", state.msg);
    bed.assert_left(&["data"]);
}

async fn assert_completes(bed: &Bed, request: &CreateBackupRequest) {
    let state = bed.client.end_of(request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    bed.assert_left(&["data"]);
    assert_eq!(listed(bed).await, ["monday"]);
}

/// Asserts that a restore of `monday` fails, and leaves nothing.
async fn assert_restore_fails(bed: &Bed, class: &str, code: Code, says: &str) {
    let source = synchronous(&bed.store.s3("monday"));
    let refused = bed.restore(class, "again", 1, &source).await;
    assert_refused(refused, code, says);
    bed.assert_left(&[]);
}

/// Asserts that now it succeeds, under the same name.
async fn assert_restores(bed: &Bed, original: &[u8]) {
    let source = synchronous(&bed.store.s3("monday"));
    let restored = bed.restore("thin", "again", 1, &source).await;
    restored.expect("it is restored");
    let found = read_at(&device("again"), 0, original.len() as u64);
    assert!(found == original, "other bytes");
    bed.remove("thin", "again").await.expect("it is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_or_lost_something_ends_jobs_which_leave_nothing() {
    let mut bed = Bed::new().await;
    let objects = Objects::new();
    bed.store = objects.store().await;
    bed.create("thick", "data", 64 * MIB).await;
    fill("/dev/vm/data", 8 * MIB, 24 * MIB, "data");
    run(&["sync"]);
    let original = content("data");
    let wrong = S3 {
        secret_access_key: "wrong".to_owned(),
        ..bed.store.s3("monday")
    };
    assert_fails(&bed, &backup("monday", "data", &wrong), "denies access").await;
    let request = a_backup_is_refused_in_the_midst(&bed).await;
    assert_completes(&bed, &request).await;
    bed.remove("thick", "data").await.expect("it is removed");

    let whole = objects.change("data/", |object| {
        let middle = object.len() / 2;
        object[middle] ^= 1;
    });
    for class in CLASSES {
        assert_restore_fails(&bed, class, Code::DataLoss, "is damaged at byte ").await;
    }
    whole.put_back();
    assert_restores(&bed, &original).await;
}

/// A store that goes away is waited for; when it is back and denies access, the backup ends.
async fn a_backup_is_refused_in_the_midst(bed: &Bed) -> CreateBackupRequest {
    let (valve, request) = shut_in_the_midst(bed).await;
    let endpoint = &bed.store.endpoint;
    endpoint.set_outage(Some(Outage::Reset));
    valve.open();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let state = bed.client.poll(&request).await.expect("it is told");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    endpoint.set_faults(Some(FaultPlan::always(Fault::AccessDenied)));
    endpoint.set_outage(None);
    assert_fails(bed, &request, "denies access").await;
    endpoint.set_faults(None);
    assert_eq!(listed(bed).await, [""; 0]);
    // Without the valve, which goes with this.
    backup("monday", "data", &bed.store.s3("monday"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_ends_jobs_with_the_place_and_nothing_is_left_of_them() {
    let worn = Worn::new().await;
    let bed = &worn.bed;
    let in_worn = [
        "lvcreate", "--yes", "-L", "64m", "-n", "data", VG, WORN_PATH,
    ];
    run(&in_worn);
    let thick = Worn::place_mib("data");
    a_backup_meets_a_hole(&worn, thick + 31).await;
    worn.disk.mend();
    a_snapshot_stays_until_its_disk_is_back(&worn).await;
    bed.create("thin", "data", 64 * MIB).await;
    let thin = Worn::place_mib("pool_tdata");
    let request = a_backup_meets_a_hole(&worn, thin + 1).await;
    worn.disk.mend();
    assert_completes(bed, &request).await;
    let original = content("data");
    bed.remove("thin", "data").await.expect("it is removed");

    for (class, hole, says) in [
        ("thick", thick + 5, "cannot write byte 5242880 of"),
        ("thick", thick + 50, "cannot fill with zeros from byte "),
        // The pool gives blocks behind those that it gave last.
        ("thin", thin + DATA_MIB + 5, "cannot write byte "),
    ] {
        worn.disk.break_at(hole);
        assert_restore_fails(bed, class, Code::Internal, says).await;
        worn.disk.mend();
    }
    assert_restores(bed, &original).await;

    let valve = Valve::to(&bed.store).await;
    let source = synchronous(&valve.through(bed.store.s3("monday")));
    let restored = bed.restore("thick", "again", 1, &source);
    let failed = async {
        valve.is_shut().await;
        worn.disk.fail();
        valve.open();
    };
    let (restored, ()) = tokio::join!(restored, failed);
    assert_refused(restored, Code::Internal, "Input/output error");
    bed.assert_left(&[]);
    worn.bring_disk_back();
    bed.create("thick", "again", 4 * MIB).await;
    bed.assert_left(&["again"]);
}

/// A backup of `data` whose disk goes away: LVM does not remove the snapshot then. It goes with the
/// next change, the volume's removal.
async fn a_snapshot_stays_until_its_disk_is_back(worn: &Worn) {
    let bed = &worn.bed;
    fill(
        "/dev/vm/data",
        0,
        60 * MIB,
        "more than is read before the valve shuts",
    );
    run(&["sync"]);
    let (valve, request) = shut_in_the_midst(bed).await;
    worn.disk.fail();
    valve.open();
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    assert!(state.msg.contains("Input/output error"), "{}", state.msg);
    let volumes = lines("lvs", &["--noheadings", "-o", "lv_name", VG]);
    assert!(
        volumes.iter().any(|it| it.starts_with(".ringback-b")),
        "{volumes:?}"
    );
    worn.bring_disk_back();
    bed.remove("thick", "data").await.expect("it is removed");
    bed.assert_left(&[]);
}

/// What a backup of `data` is to read below.
const DATA_MIB: u64 = 27;

/// A backup of `data`, of which the mebibyte 31 is in this place, which cannot be read.
async fn a_backup_meets_a_hole(worn: &Worn, place_mib: u64) -> CreateBackupRequest {
    // What is written first is first in the pool.
    for at in 30..33 {
        write("data", at * MIB, MIB, 1);
    }
    fill("/dev/vm/data", 0, (DATA_MIB - 3) * MIB, "data");
    run(&["sync"]);
    worn.disk.break_at(place_mib);
    let request = backup("monday", "data", &worn.bed.store.s3("monday"));
    let says = "cannot read byte 32505856 of the volume: Input/output error";
    assert_fails(&worn.bed, &request, says).await;
    assert_eq!(listed(&worn.bed).await, [""; 0]);
    request
}
