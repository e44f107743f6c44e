//! Volumes made, listed, grown and removed: what is reported is what is there.

use ringback_proto::lvmd::{CreateLvRequest, Empty, GetLvListRequest};
use tonic::Code;

use crate::{
    client::{assert_refused, ok, sized_bytes, sized_gb, synchronous, with_source},
    harness::{GIB, MIB},
    store::fill,
    vg::{
        Bed, CLASSES, POOL, POOL_BYTES, PROMISED_BYTES_MAX, VG, assert_holds, content, device,
        device_numbers, field, run, vg_free_bytes, write,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reported_of_a_volume_is_what_is_there() {
    let bed = Bed::new().await;
    for class in CLASSES {
        let name = &format!("{class}-data");
        let mut request = sized_bytes(name, 10_000_001);
        request.device_class = class.to_owned();
        request.tags = vec!["zeta".to_owned(), "a/b=c".to_owned()];
        let made = ok(bed.client.clone().lv.create_lv(request).await).volume;
        let made = made.expect("the answer has it");
        assert_eq!(made.size_bytes, 12 << 20, "whole extents");
        assert_eq!(made.size_bytes.to_string(), field(name, "lv_size"));
        assert_eq!((made.dev_major, made.dev_minor), device_numbers(name));
        assert_eq!(made.path, device(name).display().to_string());
        assert_eq!(made.attr, field(name, "lv_attr"));
        assert_eq!(made.tags, ["a/b=c", "zeta"]);
        assert_eq!(bed.list(class).await, [made], "{class}");

        assert_eq!(
            bed.resize(class, name, 20_000_000).await.expect("grows"),
            20 << 20
        );
        assert_eq!(field(name, "lv_size"), (20 << 20).to_string());
        // What fits already stays as it is.
        assert_eq!(
            bed.resize(class, name, 19_999_999).await.expect("fits"),
            20 << 20
        );
        assert_eq!(bed.resize(class, name, 1).await.expect("fits"), 20 << 20);

        run(&["lvchange", "--activate", "n", &format!("{VG}/{name}")]);
        let inactive = &bed.list(class).await[0];
        assert_eq!((inactive.dev_major, inactive.dev_minor), (0, 0));
        bed.remove(class, name).await.expect("it is removed");
        assert_refused(
            bed.remove(class, name).await,
            Code::NotFound,
            "there is no volume",
        );
        bed.assert_left(&[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_class_has_its_own_volumes_and_names_are_the_groups() {
    let bed = Bed::new().await;
    bed.create("thick", "one", 8 * MIB).await;
    bed.create("thin", "two", 8 * MIB).await;
    bed.create("raw", "three", 8 * MIB).await;
    for (class, name) in [("thick", "one"), ("thin", "two"), ("raw", "three")] {
        assert_eq!(bed.names(class).await, [name]);
        for other in ["thick", "thin", "raw"] {
            let again = bed.try_create(other, name, 8 * MIB).await;
            assert_refused(again, Code::AlreadyExists, "there is already a volume");
            if other != class {
                let grown = bed.resize(other, name, 16 * MIB).await;
                assert_refused(grown, Code::NotFound, "there is no volume");
            }
        }
    }
    let pool = bed.try_create("thick", POOL, 8 * MIB).await;
    assert_refused(pool, Code::AlreadyExists, "there is already a volume pool");
    bed.assert_left(&["one", "two", "three"]);
    // A node that is told "not found" forgets the volume: the class may have been another when it was made.
    for (other, name) in [("thin", "one"), ("raw", "two"), ("thick", "three")] {
        bed.remove(other, name).await.expect("it is removed");
    }
    let pool = bed.remove("thin", POOL).await;
    assert_refused(pool, Code::NotFound, "there is no volume pool");
    bed.assert_left(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_an_operator_took_is_as_large_as_what_it_shows() {
    let bed = Bed::new().await;
    bed.create("thick", "data", 100 * MIB).await;
    let snapshot = ["--snapshot", "--name", "copy", "--size", "8m", "vm/data"];
    run(&[&["lvcreate", "--yes"], &snapshot[..]].concat());
    let listed = bed.list("thick").await;
    let [copy, data] = &listed[..] else {
        panic!("{listed:?}");
    };
    assert_eq!((&copy.name[..], &data.name[..]), ("copy", "data"));
    assert_eq!(copy.size_bytes, 100 << 20);
    assert_eq!(content("copy").len(), 100 << 20);
    let grown = bed.resize("thick", "copy", 120 * MIB).await;
    assert_refused(grown, Code::Unimplemented, "it is as large as that");
    for name in ["copy", "data"] {
        bed.remove("thick", name).await.expect("it is removed");
    }
    bed.assert_left(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_room_for_what_is_free_and_for_no_extent_more() {
    let bed = Bed::new().await;
    let extent = 4 * MIB;
    for class in CLASSES {
        let free = bed.free_bytes(class).await;
        let more = bed.try_create(class, "data", free + 1).await;
        assert_refused(more, Code::ResourceExhausted, "bytes are needed and");
        bed.create(class, "data", free - extent).await;
        assert_eq!(bed.free_bytes(class).await, extent, "{class}");
        let grown = bed.resize(class, "data", free + 1).await;
        assert_refused(grown, Code::ResourceExhausted, "bytes are needed and");
        bed.resize(class, "data", free).await.expect("it fits");
        assert_eq!(bed.free_bytes(class).await, 0, "{class}");
        bed.remove(class, "data").await.expect("it is removed");
        assert_eq!(bed.free_bytes(class).await, free, "{class}");
    }
    assert_eq!(bed.free_bytes("thick").await, vg_free_bytes());
    assert_eq!(bed.free_bytes("thin").await, PROMISED_BYTES_MAX);
    bed.assert_left(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_tells_of_the_pool_and_of_the_group_around_it() {
    let bed = Bed::with("", "").await;
    bed.create("thin", "data", 100 * MIB).await;
    write("data", 0, 64 * MIB, 7);
    let mut states = ok(bed.client.clone().vg.watch(Empty {}).await);
    let state = states.message().await.expect("a message").expect("one");
    assert_eq!(
        state.free_bytes,
        vg_free_bytes(),
        "the default class is thick"
    );
    let thin = state.items.iter().find(|item| item.device_class == "thin");
    let thin = thin.expect("an item of each class");
    assert_eq!(thin.free_bytes, vg_free_bytes());
    let pool = thin.thin_pool.as_ref().expect("a pool");
    assert_eq!(pool.size_bytes, POOL_BYTES);
    assert_eq!(pool.overprovision_bytes, PROMISED_BYTES_MAX - 100 * MIB);
    assert_eq!(
        format!("{:.2}", pool.data_percent),
        field(POOL, "data_percent")
    );
    assert_eq!(
        format!("{:.2}", pool.metadata_percent),
        field(POOL, "metadata_percent")
    );
    assert!(
        pool.data_percent > 12.0 && pool.metadata_percent > 0.0,
        "{pool:?}"
    );
    let thick = state.items.iter().find(|item| item.device_class == "thick");
    assert!(thick.expect("an item").thin_pool.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_is_not_removed() {
    let bed = Bed::new().await;
    for class in CLASSES {
        bed.create(class, "data", 32 * MIB).await;
        run(&["mkfs.ext4", "-q", "/dev/vm/data"]);
        run(&["mount", "/dev/vm/data", "/mnt"]);
        let removed = bed.remove(class, "data").await;
        assert_refused(removed, Code::FailedPrecondition, "volume data is in use");
        run(&["umount", "/mnt"]);
        let open = std::fs::File::open(device("data")).expect("opens");
        let removed = bed.remove(class, "data").await;
        assert_refused(removed, Code::FailedPrecondition, "volume data is in use");
        drop(open);
        assert_eq!(bed.names(class).await, ["data"]);
        bed.remove(class, "data").await.expect("it is removed");
        bed.assert_left(&[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stripes_raid_and_option_classes_lay_volumes_out() {
    let options = "lvcreate-option-classes:\n\
                   - { name: mirrored, options: [--type=raid1, --mirrors=1] }\n\
                   - { name: plain, options: [] }\n";
    let bed = Bed::with(
        "stripe: 2, stripe-size: 64k, lvcreate-options: [--readahead, auto]",
        options,
    )
    .await;
    let striped = bed.create("thick", "striped", 9 * MIB).await;
    assert_eq!(field("striped", "stripes"), "2");
    assert_eq!(field("striped", "stripe_size"), (64 << 10).to_string());
    // One extent on each of two disks is the least step.
    assert_eq!(striped.size_bytes, 16 << 20);
    assert_eq!(field("striped", "lv_size"), (16 << 20).to_string());
    let grown = bed
        .resize("thick", "striped", 17 * MIB)
        .await
        .expect("grows");
    assert_eq!(grown, 24 << 20);

    let with_class = |name: &str, class: &'static str| CreateLvRequest {
        data_source_or_option_class: Some(class.as_bytes().into()),
        ..sized_bytes(name, 8 * MIB)
    };
    let mut lv = bed.client.clone().lv;
    let mirrored = ok(lv.create_lv(with_class("mirrored", "mirrored")).await).volume;
    assert_eq!(field("mirrored", "segtype"), "raid1");
    assert_eq!(mirrored.expect("made").size_bytes, 8 << 20);
    ok(lv.create_lv(with_class("plain", "plain")).await);
    assert_eq!(
        field("plain", "stripes"),
        "1",
        "it replaces the class's own"
    );
    let unknown = lv.create_lv(with_class("odd", "unknown")).await;
    assert_refused(unknown, Code::Internal, "is not configured");

    // A mirror takes twice its size, which only LVM knows.
    let free = vg_free_bytes();
    let too_large = CreateLvRequest {
        size_bytes: i64::try_from(free - 4 * MIB).expect("a size"),
        ..with_class("odd", "mirrored")
    };
    let refused = lv.create_lv(too_large).await;
    assert_refused(refused, Code::ResourceExhausted, "");
    assert_eq!(vg_free_bytes(), free);
    assert_eq!(bed.names("thick").await, ["mirrored", "plain", "striped"]);
    for name in ["mirrored", "plain", "striped"] {
        bed.remove("thick", name).await.expect("it is removed");
    }
    bed.assert_left(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_with_a_cache_is_one_of_its_class_like_any_other() {
    let bed = Bed::new().await;
    bed.create("thick", "data", 32 * MIB).await;
    let pool = ["--type", "cache-pool", "-L", "12m", "-n", "fast", VG];
    run(&[&["lvcreate", "--yes"], &pool[..]].concat());
    let data = format!("{VG}/data");
    let cached = ["--type", "cache", "--cachepool", "fast", &data];
    run(&[&["lvconvert", "--yes"], &cached[..]].concat());
    assert_eq!(field("data", "segtype"), "cache");
    let listed = bed.list("thick").await;
    let [volume] = &listed[..] else {
        panic!("{listed:?}");
    };
    assert_eq!((&volume.name[..], volume.size_bytes), ("data", 32 << 20));

    fill("/dev/vm/data", 0, 30 * MIB, "cached");
    let original = content("data");
    bed.client.back_up("data", &bed.store.s3("monday")).await;
    let source = synchronous(&bed.store.s3("monday"));
    ok(bed
        .client
        .clone()
        .lv
        .create_lv(with_source("again", 1, &source))
        .await);
    assert_holds("again", &original);
    let grown = bed.resize("thick", "data", 40 * MIB).await;
    assert_eq!(grown.expect("it grows"), 40 << 20);
    for name in ["data", "again"] {
        bed.remove("thick", name).await.expect("it is removed");
    }
    bed.assert_left(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_volume_has_no_signature_of_what_had_its_extents_before() {
    let bed = Bed::new().await;
    for mkfs in ["mkfs.ext4 -q -F", "mkfs.xfs -q -f"] {
        bed.create("thick", "old", 320 * MIB).await;
        let mut command: Vec<&str> = mkfs.split(' ').collect();
        command.push("/dev/vm/old");
        run(&command);
        bed.remove("thick", "old").await.expect("it is removed");
        bed.create("thick", "new", 320 * MIB).await;
        let found = std::process::Command::new("blkid")
            .args(["-p", "/dev/vm/new"])
            .output()
            .expect("blkid starts");
        assert_eq!(found.status.code(), Some(2), "{found:?}");
        bed.remove("thick", "new").await.expect("it is removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_or_pool_that_goes_missing_is_an_internal_error_with_its_name() {
    let bed = Bed::new().await;
    bed.create("thick", "data", 8 * MIB).await;
    run(&["lvremove", "--yes", &format!("{VG}/{POOL}")]);
    let made = bed.try_create("thin", "more", 8 * MIB).await;
    assert_refused(
        made,
        Code::Internal,
        "vm/pool is not available: there is no thin pool",
    );
    let mut states = ok(bed.client.clone().vg.watch(Empty {}).await);
    let state = states.message().await.expect("a message").expect("one");
    let told: Vec<&str> = state
        .items
        .iter()
        .map(|item| &item.device_class[..])
        .collect();
    assert_eq!(told, ["thick", "raw"], "the others' room");
    assert_eq!(state.free_bytes, vg_free_bytes());
    run(&["vgrename", VG, "away"]);
    let made = bed.try_create("thick", "more", 8 * MIB).await;
    let mut vg = bed.client.clone().vg;
    let listed = vg.get_lv_list(GetLvListRequest::default()).await;
    run(&["vgrename", "away", VG]);
    assert_refused(made, Code::Internal, "volume group vm is not available");
    assert_refused(listed, Code::Internal, "volume group vm is not available");
    assert_eq!(bed.names("thick").await, ["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_of_the_seeds_dialect_are_gibibytes() {
    let bed = Bed::new().await;
    let mut request = sized_gb("data", 1);
    request.device_class = "thin".to_owned();
    let made = ok(bed.client.clone().lv.create_lv(request).await).volume;
    assert_eq!(made.expect("made").size_gb, 1);
    assert_eq!(field("data", "lv_size"), GIB.to_string());
    bed.remove("thin", "data").await.expect("it is removed");
}
