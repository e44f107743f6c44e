//! Volumes that are laid out as their class or an option class says come back byte for byte.

use std::fs;

use ringback_proto::lvmd::CreateLvRequest;

use crate::{
    client::{ok, sized_bytes, synchronous},
    harness::MIB,
    store::fill,
    vg::{Bed, POOL, VG, assert_holds, content, field, run, soil, vg_free_bytes, write},
};

const STRIPED: &str = "stripe: 2, stripe-size: 64k";
/// Neither half is copied to the other at first. With so little room both may lie on one disk.
const MIRRORED: &str = "lvcreate-options: [--type=raid1, --mirrors=1, --nosync, --alloc=anywhere]";
const THIN: &str = "type: thin, lvcreate-options: [--readahead=64k]";
const OPTION_CLASSES: &str = "lvcreate-option-classes:\n\
     - { name: far, options: [--readahead=512k] }\n";

/// The daemon lays volumes out otherwise from now on.
async fn change(bed: &mut Bed, changes: [(&str, &str); 2]) {
    let path = bed.daemon.path("lvmd.yaml");
    let mut config = fs::read_to_string(&path).expect("reads");
    for (from, to) in changes {
        config = config.replacen(from, to, 1);
    }
    fs::write(&path, config).expect("writes");
    bed.restart().await;
}

/// Leaves something in each mebibyte of the group that is free.
fn soil_what_is_free() {
    let free = vg_free_bytes();
    let size = format!("{free}b");
    run(&["lvcreate", "--yes", "-Wn", "-n", "dirt", "-L", &size, VG]);
    soil("dirt", free);
    run(&["lvremove", "--yes", "vm/dirt"]);
}

/// Backs a volume of 32 MiB up that was laid out as its class, or this option class, says; what it held.
async fn backed_up(
    bed: &Bed,
    class: &str,
    option_class: Option<&'static str>,
    name: &str,
) -> Vec<u8> {
    let request = CreateLvRequest {
        device_class: class.to_owned(),
        data_source_or_option_class: option_class.map(|it| it.as_bytes().into()),
        ..sized_bytes("data", 32 * MIB)
    };
    ok(bed.client.clone().lv.create_lv(request).await);
    // What nobody has written may be one thing in one half of a mirror and another in the other.
    write("data", 0, 32 * MIB, 0);
    for at in [0, 9, 21, 31] {
        fill("/dev/vm/data", at * MIB + 4096 * at, MIB / 2, class);
    }
    run(&["sync"]);
    let original = content("data");
    bed.client.back_up("data", &bed.store.s3(name)).await;
    original
}

/// Asserts that all segments of a volume have this property.
#[track_caller]
fn assert_is(volume: &str, property: &str, expected: &str) {
    let found = field(volume, property);
    let is_so = found.split_whitespace().all(|it| it == expected);
    assert!(is_so, "{property} of {volume}: {found}");
}

/// Backs a volume up and restores it in its class; asserts that this property of both is as configured,
/// and that no byte differs.
async fn comes_back(bed: &Bed, class: &str, option_class: Option<&'static str>, told: [&str; 3]) {
    let [property, of_source, of_restored] = told;
    let original = backed_up(bed, class, option_class, property).await;
    assert_is("data", property, of_source);
    bed.remove(class, "data").await.expect("it is removed");
    let source = synchronous(&bed.store.s3(property));
    let restored = bed.restore(class, "again", 1, &source).await;
    assert_eq!(restored.expect(property).size_bytes, 1 << 30);
    assert_is("again", property, of_restored);
    // Of a mirror each half by itself.
    let halves = ["../mapper/vm-again_rimage_0", "../mapper/vm-again_rimage_1"];
    let is_mirror = of_restored == "raid1";
    for volume in if is_mirror { &halves[..] } else { &["again"] } {
        assert_holds(volume, &original);
    }
    bed.remove(class, "again").await.expect("it is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn striped_mirrored_and_thin_volumes_with_options_come_back_without_what_the_disks_held() {
    let mut bed = Bed::with(STRIPED, OPTION_CLASSES).await;
    soil_what_is_free();
    comes_back(&bed, "thick", None, ["stripes", "2", "2"]).await;

    change(&mut bed, [(STRIPED, MIRRORED), ("type: thin", THIN)]).await;
    let ahead = ["lv_read_ahead", "524288", "65536"];
    comes_back(&bed, "thin", Some("far"), ahead).await;
    // A mirror of 1 GiB takes the pool's room, and all that stripes have left.
    run(&["lvremove", "--yes", &format!("{VG}/{POOL}")]);
    comes_back(&bed, "thick", None, ["segtype", "raid1", "raid1"]).await;
}
