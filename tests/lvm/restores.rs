//! Restores into logical volumes: every byte, and nothing of what the disk held before.

use ringback_proto::lvmd::{DataSource, LogicalVolume};
use tonic::{Code, Status};

use crate::{
    client::{assert_refused, asynchronous, synchronous, with_source},
    harness::{MIB, wait_for},
    paths::assert_ring,
    store::fill,
    valve::Valve,
    vg::{
        Bed, CLASSES, POOL, POOL_BYTES, RAW_POOL, VG, assert_holds, content, device_numbers, field,
        run, vg_free_bytes, words, write,
    },
};

async fn restore(
    bed: &Bed,
    class: &str,
    name: &str,
    source: &DataSource,
) -> Result<LogicalVolume, Status> {
    let mut request = with_source(name, 1, source);
    request.device_class = class.to_owned();
    request.tags = vec!["mine".to_owned()];
    let answer = bed.client.clone().lv.create_lv(request).await?;
    Ok(answer.into_inner().volume.expect("the answer has it"))
}

/// Makes a volume of 96 MiB with data in odd places, backs it up as `monday` and removes it; its
/// content.
async fn backed_up(bed: &Bed, class: &str) -> Vec<u8> {
    bed.create(class, "data", 96 * MIB).await;
    let path = "/dev/vm/data";
    for at in 0..20 {
        // Odd blocks, so that chunks begin and end with zeros.
        fill(
            path,
            at * 3 * MIB + 8192 * at,
            4096 * (at + 1),
            &format!("small {at}"),
        );
    }
    fill(path, 70 * MIB, 5 * MIB, "large");
    fill(path, 96 * MIB - 4096, 4096, "last");
    run(&["sync"]);
    let original = content("data");
    bed.client
        .back_up(&format!("{VG}/data"), &bed.store.s3("monday"))
        .await;
    bed.remove(class, "data").await.expect("it is removed");
    original
}

/// Leaves `0xee` on every free extent of the group, and on every block of the pool that does not
/// zero them.
fn soil() {
    let size = format!("{}b", vg_free_bytes());
    run(&["lvcreate", "--yes", "-Wn", "-n", "dirt", "-L", &size, VG]);
    write("dirt", 0, vg_free_or(&size), 0xee);
    run(&["lvremove", "--yes", "vm/dirt"]);
    run(&[
        "lvcreate",
        "--yes",
        "-V",
        "256m",
        "--thinpool",
        RAW_POOL,
        "-n",
        "dirt",
        VG,
    ]);
    write("dirt", 0, 256 * MIB, 0xee);
    run(&["lvremove", "--yes", "vm/dirt"]);
}

fn vg_free_or(size: &str) -> u64 {
    size.trim_end_matches('b').parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_volume_has_every_byte_and_nothing_of_what_the_disk_held() {
    let bed = Bed::new().await;
    let original = backed_up(&bed, "thin").await;
    soil();
    for class in ["thick", "thin", "raw"] {
        let source = synchronous(&bed.store.s3("monday"));
        let before = bed.daemon.log().len();
        let volume = restore(&bed, class, "again", &source).await.expect(class);
        assert_ring(&bed.daemon.log()[before..], "writing the volume");
        assert_eq!(volume.size_bytes, 1 << 30);
        assert_eq!(
            (volume.dev_major, volume.dev_minor),
            device_numbers("again")
        );
        assert_eq!(volume.tags, ["mine"]);
        assert_holds("again", &original);
        bed.assert_left(&["again"]);
        if class != "thick" {
            // 6 MiB of data in blocks of 64 KiB or 1 MiB; thin stays thin.
            let percent: f64 = field("again", "data_percent").parse().expect("a number");
            assert!(percent < 3.5, "{class}: {percent} % of 1 GiB");
        }
        bed.remove(class, "again").await.expect("it is removed");
        bed.assert_left(&[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_came_by_its_size_through_rounding_comes_back_in_what_was_asked_for() {
    // 1 GiB is no whole number of extents on each of three disks.
    let made_bytes = 1032 * MIB;
    for thick in [
        "stripe: 3, lvcreate-options: [-Zn]",
        "lvcreate-options: [--stripes, '3']",
    ] {
        let bed = Bed::with(thick, "").await;
        bed.create("thin", "data", made_bytes).await;
        // Its room is needed.
        run(&["lvremove", "--yes", &format!("{VG}/{RAW_POOL}")]);
        fill("/dev/vm/data", made_bytes - MIB, MIB, "the end");
        run(&["sync"]);
        let original = content("data");
        bed.client.back_up("data", &bed.store.s3("monday")).await;
        bed.remove("thin", "data").await.expect("it is removed");
        let source = synchronous(&bed.store.s3("monday"));
        let smaller = restore(&bed, "thin", "again", &source).await;
        assert_refused(smaller, Code::OutOfRange, "the backup 1082130432");
        let volume = restore(&bed, "thick", "again", &source).await;
        let volume = volume.expect("LVM rounds it up");
        assert_eq!(volume.size_gb, 1);
        assert_eq!(volume.size_bytes.unsigned_abs(), made_bytes);
        assert_holds("again", &original);
        bed.remove("thick", "again").await.expect("it is removed");
        assert_eq!(words(&["lvs", "--noheadings", "-o", "lv_name", VG]), [POOL]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_under_restore_is_not_listed_counts_as_taken_and_keeps_its_name() {
    let mut bed = Bed::new().await;
    for class in CLASSES {
        bed.store = crate::store::Store::start().await;
        let original = backed_up(&bed, class).await;
        let free = bed.free_bytes(class).await;
        let valve = Valve::to(&bed.store).await;
        let source = asynchronous(&valve.through(bed.store.s3("monday")));
        restore(&bed, class, "again", &source)
            .await
            .expect("it answers at once");
        valve.is_shut().await;
        assert_eq!(bed.names(class).await, [""; 0]);
        assert_eq!(bed.free_bytes(class).await, free - (1 << 30), "{class}");
        for other in CLASSES {
            let taken = bed.try_create(other, "again", 8 * MIB).await;
            assert_refused(taken, Code::AlreadyExists, "again");
        }
        let grown = bed.resize(class, "again", 2 << 30).await;
        assert_refused(grown, Code::NotFound, "there is no volume again");
        valve.open();
        wait_for("the restored volume", async || {
            (bed.names(class).await == ["again"]).then_some(())
        })
        .await;
        assert_holds("again", &original);
        wait_for("its last tag to go", async || {
            field("again", "lv_tags").eq("mine").then_some(())
        })
        .await;
        bed.assert_left(&["again"]);
        bed.remove(class, "again").await.expect("it is removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_volume_under_restore_leaves_nothing() {
    let mut bed = Bed::new().await;
    // By whatever class: names are the group's.
    for (class, by) in [("thick", "thick"), ("thin", "thin"), ("thin", "raw")] {
        bed.store = crate::store::Store::start().await;
        backed_up(&bed, class).await;
        let free = bed.free_bytes(class).await;
        let valve = Valve::to(&bed.store).await;
        let source = asynchronous(&valve.through(bed.store.s3("monday")));
        restore(&bed, class, "again", &source)
            .await
            .expect("it answers at once");
        valve.is_shut().await;
        bed.remove(by, "again").await.expect("it is removed");
        bed.assert_left(&[]);
        assert_eq!(bed.free_bytes(class).await, free);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_given_up_before_it_fills_the_pool_and_nothing_is_left_of_it() {
    let bed = Bed::new().await;
    // As LVM makes pools by itself: writes to a full one wait for a minute.
    run(&["lvchange", "--errorwhenfull", "n", &format!("{VG}/{POOL}")]);
    bed.create("thick", "data", 160 * MIB).await;
    // Little of it is to be sent, and all of it to be written.
    for mebibyte in 0..160 {
        let byte = u8::try_from(mebibyte + 1).expect("no zero");
        write("data", mebibyte * MIB, MIB, byte);
    }
    bed.client.back_up("data", &bed.store.s3("monday")).await;
    bed.create("thin", "ballast", 384 * MIB).await;
    write("ballast", 0, 384 * MIB, 1);
    let source = synchronous(&bed.store.s3("monday"));
    let refused = restore(&bed, "thin", "again", &source).await;
    assert_refused(
        refused,
        Code::ResourceExhausted,
        "the restore to volume again was given up",
    );
    bed.assert_left(&["ballast", "data"]);
    assert_eq!(field(POOL, "data_percent"), "75.00");
    // The pool goes on.
    write("ballast", 0, MIB, 2);
    bed.remove("thin", "ballast").await.expect("it is removed");
    restore(&bed, "thin", "again", &source)
        .await
        .expect("now there is room");
    assert_holds("again", &content("data"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_full_already_ends_the_restore_and_nothing_is_left_of_it() {
    let bed = Bed::new().await;
    backed_up(&bed, "thick").await;
    bed.create("thin", "ballast", POOL_BYTES).await;
    write("ballast", 0, POOL_BYTES, 1);
    let source = synchronous(&bed.store.s3("monday"));
    let refused = restore(&bed, "thin", "again", &source).await;
    assert_refused(refused, Code::ResourceExhausted, "No space left on device");
    bed.assert_left(&["ballast"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_somebody_takes_meanwhile_ends_the_restore_and_is_theirs() {
    let bed = Bed::new().await;
    backed_up(&bed, "thick").await;
    let valve = Valve::to(&bed.store).await;
    let source = synchronous(&valve.through(bed.store.s3("monday")));
    let restored = restore(&bed, "thick", "again", &source);
    let taken = async {
        valve.is_shut().await;
        run(&["lvcreate", "--yes", "-Wn", "-L", "8m", "-n", "again", VG]);
        valve.open();
    };
    let (restored, ()) = tokio::join!(restored, taken);
    assert_refused(
        restored,
        Code::AlreadyExists,
        "there is already a volume again",
    );
    assert_eq!(field("again", "lv_size"), (8 << 20).to_string());
    bed.assert_left(&["again"]);
}
